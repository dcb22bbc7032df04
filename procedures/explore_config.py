"""Options of an exploration: its axes, its design, what is trained."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hil.spiking import SpikingConfig
from procedures.train_config import Widths

__all__ = ["AXES", "AlgorithmKey", "ExploreConfig"]

AlgorithmKey = Literal["tiki_taka", "sgd", "digital"]

AXES: dict[AlgorithmKey, tuple[str, ...]] = {
    "tiki_taka": ("alpha_a", "alpha_c", "lr_a", "lr_c", "transfer_every", "gamma", "states", "c2c", "sp"),
    "sgd": ("alpha_c", "lr", "states", "c2c", "sp"),
    "digital": ("digital_lr",),
}
"""What a point of each algorithm is made of."""


def _above_zero(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not 0 < value < math.inf:
            raise ValueError(f"{value:g} is not above 0: give finite numbers above 0")
    return _some(values)


def _not_negative(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not 0 <= value < math.inf:
            raise ValueError(f"{value:g} is below 0: give finite numbers of at least 0")
    return _some(values)


def _counts(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not (1 <= value < math.inf and value == int(value)):
            raise ValueError(f"{value:g} is no count: give whole numbers of at least 1")
    return _some(values)


def _some(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values:
        raise ValueError("is an empty list: give at least one value")
    return values


Positive = Annotated[tuple[float, ...], AfterValidator(_above_zero)]
ZeroOrMore = Annotated[tuple[float, ...], AfterValidator(_not_negative)]
Counts = Annotated[tuple[float, ...], AfterValidator(_counts)]
Finite = Annotated[tuple[float, ...], AfterValidator(_some)]


class ExploreConfig(BaseModel):
    """``-s explore.KEY=VALUE``. A list is an axis; of a Sobol design its smallest and largest value are the ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithms: tuple[AlgorithmKey, ...] = Field(default=("tiki_taka", "sgd", "digital"), min_length=1)
    alpha_a: Positive | None = None
    """Asymmetry of A, dimensionless (docs/explore.md); None = 0.03 to 10 on the emulator, the devices' own on a board."""
    alpha_c: Positive | None = None
    lr_a: Positive = (0.005, 0.02)
    lr_c: Positive = (0.1, 0.3)
    transfer_every: Counts = (1.0,)
    """Samples between transfers."""
    gamma: ZeroOrMore = (0.0,)
    states: Positive = (2000.0,)
    """1.2 weight / step at the symmetry point, of A and C."""
    c2c: ZeroOrMore = (0.3,)
    """Cycle-to-cycle noise of a step, relative to it."""
    sp: Finite = (0.0,)
    """Mean symmetry point, weight; it is found by ``zero-shift``."""
    lr: Positive = (0.002, 0.005, 0.01, 0.02, 0.05)
    """SGD."""
    digital_lr: Positive = (0.003, 0.01, 0.03, 0.1)
    design: Literal["grid", "sobol", "list"] = "grid"
    samples: int = Field(default=64, ge=1)
    """Points of a Sobol design, for each algorithm but the digital one."""
    design_seed: int = Field(default=0, ge=0)
    points: tuple[dict[str, Any], ...] = ()
    """Of a list: {"algorithm": "tiki_taka", "alpha_a": 1.0, ...}; what is left out takes the first value of its axis."""
    seeds: int = Field(default=2, ge=1)
    first_seed: int = Field(default=0, ge=0)
    dataset: str = "digits"
    classes: tuple[int | str, ...] | None = None
    pool: int = Field(default=1, ge=1)
    limit: int | None = Field(default=None, ge=1)
    hidden: Widths = (32,)
    activation: Literal["tanh", "sigmoid", "relu"] = "tanh"
    spiking: SpikingConfig | None = None
    """Leaky integrate-and-fire neurons in place of the activation (docs/spiking.md, extra ``spiking``); None = none."""
    epochs: int = Field(default=5, ge=1)
    batch: int = Field(default=1, ge=1)
    chunk: int = Field(default=192, ge=1)
    """Trainings at a time: what a killed exploration loses at most, and what has to fit into memory."""
    references: Literal["zero-shift", "nominal"] = "zero-shift"
    """``zero-shift``: found on every replica by alternating pulses, read only now and then; ``nominal``: mid-range."""
    pairs: int = Field(default=200, ge=1)
    """Alternating pairs between two reads of the zero shift."""
    reads: int = Field(default=6, ge=2)
    """Reads of the zero shift; the first half is its run-in."""
    min_alpha: float = Field(default=0.02, ge=0)
    """A matrix less asymmetric than this has no usable symmetry point: reference = mid-range."""
    cluster: str = ""
    """Address of a Dask scheduler that spreads the chunks over its workers; empty = here (extra ``cluster``)."""
    specify: bool = True
    """Go on to the operating point and the specification, where both alphas vary and there is a digital reference."""

    @model_validator(mode="after")
    def _consistent(self) -> ExploreConfig:
        if len(set(self.algorithms)) < len(self.algorithms):
            raise ValueError(f"algorithms: {', '.join(self.algorithms)}: name each once")
        if (self.design == "list") != bool(self.points):
            raise ValueError("points: go with design = list, which needs some: give both or neither")
        return self
