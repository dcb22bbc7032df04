"""Cells against an asymmetry specification: what ``verdict`` and ``operating-point`` have in common.

alpha of a cell = a (1/siemens, from its fit) times siemens per weight times BOUND_WEIGHT: the axis of every specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hil.calibration import Calibration
from hil.errors import DataError
from procedures.specification import Range, Specification

__all__ = ["BOUND_WEIGHT", "EXCLUDED", "REASONS", "Cells", "Role", "bounds", "cells_of", "chosen_range", "depth", "judge",
           "load_specification", "needs_symmetry_points"]  # fmt: skip

BOUND_WEIGHT = 0.6
"""b_w of the asymmetry axis, weight: a constant of every map."""

REASONS = (
    "pass", "no response", "no symmetry point", "alpha too low", "alpha too high", "too few states",
    "excluded in the bench file",
)  # fmt: skip
"""By the code that ``judge`` gives a cell."""

EXCLUDED = 6
"""Code of a cell that was never to be pulsed: it counts neither way."""

Role = Literal["a", "c"]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cells:
    """What is judged, each [array row col], or flat where several arrays are taken together."""

    alpha: Floats
    """At the scale that goes with it; NaN = not measured."""
    states: Floats
    responds: Flags
    no_sp: Flags
    excluded: Flags

    @classmethod
    def together(cls, parts: list[Cells]) -> Cells:
        """All cells of several arrays, flat."""
        return cls(*(np.concatenate([getattr(p, name).ravel() for p in parts]) for name in cls.__annotations__))

    @property
    def usable(self) -> Flags:
        """Cells that have an asymmetry and a symmetry point to judge."""
        found: Flags = self.responds & ~self.no_sp & ~self.excluded & np.isfinite(self.alpha)
        return found


def cells_of(calibration: Calibration, excluded: Any, siemens_per_weight: float) -> Cells:
    """The cells of a calibration, alpha at this scale; excluded: bool [array row col]."""
    return Cells(
        calibration.asymmetry.double().numpy() * (siemens_per_weight * BOUND_WEIGHT), calibration.states.double().numpy(),
        calibration.responds.numpy(), calibration.no_sp.numpy(), np.asarray(excluded, dtype=bool),
    )  # fmt: skip


def load_specification(path: Path, network: str | None) -> Specification:
    """The specification in a file; DataError where it is of another network than the named one."""
    found = Specification.load(path)
    if network is not None and found.network != network:
        raise DataError(f"{path}: is of network {found.network!r}, not of {network!r}: give the specification of that one")
    return found


def chosen_range(specification: Specification, delta: float | None) -> Range:
    """The range for a loss, or for the smallest one that leaves a range of both asymmetries; DataError where none does."""
    if delta is not None:
        found = specification.range_of(delta)
        if found.alpha_a is None or found.alpha_c is None:
            raise DataError(f"{specification.network}: no asymmetry stays within a loss of {delta:g}: allow a larger delta")
        return found
    for one in sorted(specification.deltas, key=lambda one: one.delta):
        if one.alpha_a is not None and one.alpha_c is not None:
            return one
    raise DataError(f"{specification.network}: its specification allows no asymmetry at any loss: specify a larger delta")


def bounds(chosen: Range, role: Role) -> tuple[float, float]:
    """(low, high) of alpha for the matrix of that role; ``chosen`` comes from ``chosen_range``."""
    found = chosen.alpha_a if role == "a" else chosen.alpha_c
    assert found is not None
    return found


def judge(cells: Cells, low: float, high: float, min_states: float) -> NDArray[np.int8]:
    """Code of every cell (see REASONS), in the shape of ``cells``; of several reasons the one that stands first in REASONS
    after "pass"."""
    codes = np.zeros(cells.alpha.shape, dtype=np.int8)
    codes[cells.states < min_states] = 5
    codes[cells.alpha > high] = 4
    codes[cells.alpha < low] = 3
    codes[cells.no_sp | ~np.isfinite(cells.alpha)] = 2
    codes[~cells.responds] = 1
    codes[cells.excluded] = EXCLUDED
    return codes


def depth(cells: Cells, low: float, high: float, share: float = 0.84) -> float:
    """How far inside (low, high) alpha lies with at least ``share`` of the responding cells, decades; negative = outside.

    A cell without a symmetry point is infinitely far outside; -inf where too many are so, NaN where no cell responds.
    """
    alive = cells.responds & ~cells.excluded
    if not alive.any():
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = np.minimum(np.log10(cells.alpha / low), np.log10(high / cells.alpha))
    inside = np.sort(np.where(cells.usable & np.isfinite(inside), inside, -np.inf)[alive])
    return float(inside[int((1 - share) * (len(inside) - 1))])


def needs_symmetry_points(cells: Cells, what: str) -> None:
    """DataError unless some cell has one."""
    if not bool((cells.responds & ~cells.excluded).any()):
        raise DataError(f"{what}: no cell responds to pulses: nothing can be judged; check contacts, limits and the pulse")
    if not bool(cells.usable.any()):
        raise DataError(f"{what}: no responding cell has a symmetry point: characterize with more pulses, or another pulse")
