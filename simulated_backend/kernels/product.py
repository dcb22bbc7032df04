# mypy: disable-error-code="untyped-decorator"
"""A matrix-vector product with its periphery in numba: ``EmulatedArray.mvm`` operation for operation, in one walk."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hil.fast_encoding import line_hash
from hil.matvec import backward_sample, forward_sample
from simulated_backend.kernels.bits import normal

__all__ = ["ADC_GRAIN", "DAC_HALF", "FULL_SCALE", "IN_NOISE", "NUMBERS", "OUT_NOISE", "READ_V_MAX", "UNIT", "product"]

READ_V_MAX, DAC_HALF, IN_NOISE, OUT_NOISE, FULL_SCALE, ADC_GRAIN, UNIT = range(7)
"""Numbers of the periphery; a grain or half of 0 = continuous."""
NUMBERS = 7

_F32 = NDArray[np.float32]


@numba.njit(cache=True, nogil=True)
def _drive(volts: _F32, io: _F32, key0: np.uint32, key1: np.uint32, x: _F32, low: _F32, rise: _F32) -> None:
    """x = voltages of lines behind DAC and input noise, in units of the largest read voltage."""
    half = io[DAC_HALF]
    for i in range(len(x)):
        v = np.float32(volts[i] / io[READ_V_MAX])
        if half > 0:
            v = np.float32(np.rint(np.float32(v * half)) / half)
        if io[IN_NOISE] > 0 and v != 0:
            xi = normal(line_hash(key0, key1, np.uint32(i)), np.uint32(1), low, rise)
            v = np.float32(v + np.float32(io[IN_NOISE] * xi))
        x[i] = v


@numba.njit(cache=True, nogil=True)
def _sense(y: _F32, io: _F32, key0: np.uint32, key1: np.uint32, low: _F32, rise: _F32) -> None:
    """Sums of products, in place, behind noise and ADC, in ampere."""
    full, out_noise, grain = io[FULL_SCALE], io[OUT_NOISE], io[ADC_GRAIN]
    for i in range(len(y)):
        value = y[i]
        if out_noise > 0:
            xi = normal(line_hash(key0, key1, np.uint32(i)), np.uint32(0), low, rise)
            value = np.float32(value + np.float32(out_noise * xi))
        if full < np.inf:
            value = min(max(value, -full), full)
            if grain > 0:
                value = np.float32(np.rint(np.float32(value / grain)) * grain)
        y[i] = np.float32(value * io[UNIT])


@numba.njit(cache=True, nogil=True)
def product(
    volts: _F32, state: _F32, forward: bool, io: _F32, keys: NDArray[np.uint32], active: NDArray[np.bool_], out: _F32,
    low: _F32, rise: _F32,
) -> None:  # fmt: skip
    """out [array sample sensed] += currents for volts [array sample line]; ``out`` is 0 before, and stays so where inactive.

    io: [NUMBERS]; keys: [array sample 2].
    """
    arrays, samples, lines = volts.shape
    x, busy = np.empty(lines, dtype=np.float32), np.empty(lines, dtype=np.int32)
    for a in range(arrays):
        if not active[a]:
            continue
        for s in range(samples):
            key0, key1 = keys[a, s, 0], keys[a, s, 1]
            _drive(volts[a, s], io, key0, key1, x, low, rise)
            if forward:
                forward_sample(x, state[a], out[a, s], busy)
            else:
                backward_sample(x, state[a], out[a, s])
            _sense(out[a, s], io, key0, key1, low, rise)
