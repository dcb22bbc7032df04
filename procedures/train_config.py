"""Options of a training: what is trained on what, and the hyper-parameters that may span a grid."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from hil.known import ReferenceChoice
from hil.spiking import SpikingConfig

__all__ = ["Count", "Grid", "Rate", "TrainConfig", "Widths"]

Grid = float | tuple[float, ...]
"""A number, or a list that spans an axis of the grid."""

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""One learning rate."""

Count = Annotated[int, Field(ge=1)]

Widths = tuple[Count, ...]
"""Lines of the hidden layers; empty = one layer."""


def _values(grid: Grid) -> tuple[float, ...]:
    values = grid if isinstance(grid, tuple) else (grid,)
    if not values:
        raise ValueError("is an empty list: give a number, or a list of at least one")
    return values


def _positive(grid: Grid) -> Grid:
    for value in _values(grid):
        if not 0 < value < math.inf:
            raise ValueError(f"{value:g} is no learning rate: give finite numbers above 0")
    return grid


def _not_negative(grid: Grid) -> Grid:
    for value in _values(grid):
        if not 0 <= value < math.inf:
            raise ValueError(f"{value:g} is out of range: give finite numbers of at least 0")
    return grid


def _counts(grid: Grid) -> Grid:
    for value in _values(grid):
        if not (1 <= value < math.inf and value == int(value)):
            raise ValueError(f"{value:g} is no count: give whole numbers of at least 1")
    return grid


Rates = Annotated[Grid, AfterValidator(_positive)]
ZeroOrMore = Annotated[Grid, AfterValidator(_not_negative)]
Counts = Annotated[Grid, AfterValidator(_counts)]


class TrainConfig(BaseModel):
    """``-s train.KEY=VALUE``. Fields of type number-or-list span the grid; all of them are finite, no list is empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: Literal["sgd", "tiki-taka", "digital"] = "tiki-taka"
    dataset: str = "digits"
    """``digits``, a folder of IDX files, or ``openml:NAME``."""
    classes: tuple[int | str, ...] | None = None
    pool: int = Field(default=1, ge=1)
    limit: int | None = Field(default=None, ge=1)
    """At most so many samples of each part."""
    train_on: Literal["all", "train"] = "all"
    """``train`` keeps the validation part out: wherever something is selected."""
    hidden: Widths = (32,)
    """Lines of each hidden layer, at least 1; ``[]`` = a single layer."""
    activation: Literal["tanh", "sigmoid", "relu"] = "tanh"
    spiking: SpikingConfig | None = None
    """Leaky integrate-and-fire neurons in place of the activation (docs/spiking.md, extra ``spiking``); None = none."""
    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=1, ge=1)
    seeds: int = Field(default=1, ge=1)
    """Devices, initial weights and data order of replica k follow from (bench seed, k)."""
    first_seed: int = Field(default=0, ge=0)
    lr: Rates = 0.01
    """SGD: learning rate, above 0."""
    lr_a: Rates = 0.01
    """Tiki-Taka: rate of the auxiliary matrix, absolute, above 0: without gradients in A there is nothing to transfer."""
    n_s: Counts = 1.0
    """Tiki-Taka: samples between transfers, whole, at least 1."""
    gamma: ZeroOrMore = 0.0
    """Tiki-Taka: share of A in the weights W = gamma A + C, at least 0; 0 hides A, below 0 W would climb the gradient."""
    lr_c: ZeroOrMore = 0.1
    """Tiki-Taka: rate of the transfer, absolute, at least 0. 0 leaves C as it was programmed, so that A alone learns:
    that needs gamma above 0 in the whole grid, or some of its points would learn nothing that can be seen."""
    n_reads: Counts = 1.0
    """Tiki-Taka: lines per transfer, whole, at least 1."""
    transfer: Literal["inputs", "outputs"] = "inputs"
    slots: int = Field(default=31, ge=1, le=31)
    pulses: Literal["stochastic", "deterministic"] = "stochastic"
    management: bool = True
    slot_management: bool = True
    transfer_slots: int = Field(default=31, ge=1, le=31)
    decay_every: int | None = Field(default=None, ge=1)
    """Epochs after which rates are multiplied by ``decay``."""
    decay: float = Field(default=0.5, gt=0, le=1)
    reference_a: ReferenceChoice = "sp"
    """Weight 0 of A: symmetry points as measured, the middle of each measured range, or the nominal middle for all."""
    reference_c: ReferenceChoice = "sp"
    prepare: Literal["stored", "measure"] = "stored"
    """``measure`` runs characterize and zero-shift on the matrices first."""
    init_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    patience: int | None = Field(default=None, ge=1)
    """Stop an array after so many epochs without a better validation accuracy."""
    checkpoint_s: float = Field(default=30.0, gt=0)
    """Seconds between checkpoints (emulator)."""

    @field_validator("lr_c")
    @classmethod
    def _something_learns(cls, lr_c: Grid, info: ValidationInfo) -> Grid:
        gamma = info.data.get("gamma") if info.data.get("algorithm") == "tiki-taka" else None
        if gamma is not None and min(_values(lr_c)) == 0 == min(_values(gamma)):
            raise ValueError("0 where gamma is 0 trains nothing that can be seen: give rates above 0, or gamma above 0")
        return lr_c
