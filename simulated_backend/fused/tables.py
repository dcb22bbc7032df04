"""What compiled loops know of a network: arrays indexed by matrix, layer and array.

Matrices are numbered: C of layer l is l, A of layer l is layers + l.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ADC_GRAIN", "DAC_HALF", "DRIVE_GRAIN", "FULL_SCALE", "IN_NOISE", "IO_FIELDS", "MVM", "OUT_NOISE", "PULSE", "READ_V",
    "READ_V_MAX", "SATURATED", "TRAIN_IN", "TRAIN_OUT", "UNIT", "Tables",
]  # fmt: skip

TRAIN_IN, TRAIN_OUT, PULSE, MVM = range(4)
"""Streams of a matrix."""

(
    READ_V, DRIVE_GRAIN, READ_V_MAX, DAC_HALF, IN_NOISE, OUT_NOISE, FULL_SCALE, ADC_GRAIN, UNIT, SATURATED,
) = range(10)  # fmt: skip
"""Numbers of the periphery of a matrix; a grain or half of 0 = continuous."""
IO_FIELDS = 10

_F32 = NDArray[np.float32]
_I64 = NDArray[np.int64]
_BOOL = NDArray[np.bool_]


class Tables(NamedTuple):
    """Axes in square brackets; what changes is marked with *."""

    layers: int
    two: bool
    """Whether there are matrices A."""
    activation: int
    width: int
    """Most lines that a side of a matrix has."""
    sizes: _I64
    """[layer 2]: inputs, outputs."""
    io: _F32
    """[matrix field]."""
    per_unit: _F32
    """[matrix array]: siemens per weight times read voltage."""
    bound: _BOOL
    """[matrix]: whether saturated forward reads are repeated."""
    base: NDArray[np.uint32]
    """[matrix stream array 2]: keys."""
    counter: _I64
    """[matrix stream array] *."""
    gain: _F32
    """[matrix array]: learning rate over step."""
    wanted: _F32
    """[matrix array]: slots."""
    balance: _BOOL
    """[matrix 2]: management, slot management."""
    kind: _I64
    """[matrix 2]: kind of train on inputs, on outputs."""
    n_s: _I64
    """[layer array]."""
    n_reads: _I64
    """[layer array]."""
    gamma: _F32
    """[layer array]."""
    seen: _I64
    """[layer array] *: samples."""
    line: _I64
    """[layer array] *: next to be transferred."""
    by_inputs: _BOOL
    """[layer]."""
    read_s: NDArray[np.float64]
    """[matrix]: time of one read."""
    period_s: NDArray[np.float64]
    """[matrix array]: time of one slot."""
    clock_s: NDArray[np.float64]
    """[matrix array] *."""
    active: _BOOL
    """[array]: arrays that learn."""
