# mypy: disable-error-code="untyped-decorator"
"""Reads of one array with their periphery, in numba: ``hil.tile`` and ``EmulatedArray.mvm`` operation for operation."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hil.fast_encoding import key_at, line_hash
from hil.matvec import backward_sample, forward_sample
from hil.tile import MAX_HALVINGS
from simulated_backend.fused.tables import (
    ADC_GRAIN,
    DAC_HALF,
    DRIVE_GRAIN,
    FULL_SCALE,
    IN_NOISE,
    MVM,
    OUT_NOISE,
    READ_V,
    READ_V_MAX,
    SATURATED,
    UNIT,
    Tables,
)
from simulated_backend.kernels.bits import normal

__all__ = ["managed_read", "read_line"]

_F32 = NDArray[np.float32]
_ONE = np.float32(1.0)


@numba.njit(inline="always")
def _converted(x: np.float32, io: _F32) -> np.float32:
    """An input of at most 1 as the DAC makes it, in units of the largest read voltage."""
    v = np.float32(x * io[READ_V])
    if io[DRIVE_GRAIN] > 0:
        v = np.float32(np.rint(np.float32(v / io[DRIVE_GRAIN])) * io[DRIVE_GRAIN])
    v = np.float32(v / io[READ_V_MAX])
    if io[DAC_HALF] > 0:
        v = np.float32(np.rint(np.float32(v * io[DAC_HALF])) / io[DAC_HALF])
    return v


@numba.njit(cache=True, nogil=True)
def _drive(v: _F32, scale: np.float32, io: _F32, key0: np.uint32, key1: np.uint32, x: _F32, low: _F32, rise: _F32) -> None:
    """x = inputs v / scale behind DAC and input noise."""
    for i in range(len(x)):
        x[i] = _converted(np.float32(v[i] / scale), io)
    if io[IN_NOISE] > 0:
        for i in range(len(x)):
            if x[i] != 0:
                xi = normal(line_hash(key0, key1, np.uint32(i)), np.uint32(1), low, rise)
                x[i] = np.float32(x[i] + np.float32(io[IN_NOISE] * xi))


@numba.njit(cache=True, nogil=True)
def _sense(y: _F32, io: _F32, per_unit: np.float32, key0: np.uint32, key1: np.uint32, low: _F32, rise: _F32) -> bool:
    """Sums of products, in place, behind noise and ADC and in weight; whether a line saturated."""
    full, out_noise, grain = io[FULL_SCALE], io[OUT_NOISE], io[ADC_GRAIN]
    unit, limit = io[UNIT], io[SATURATED]
    saturated = False
    for i in range(len(y)):
        value = y[i]
        if out_noise > 0:
            xi = normal(line_hash(key0, key1, np.uint32(i)), np.uint32(0), low, rise)
            value = np.float32(value + np.float32(out_noise * xi))
        if full < np.inf:
            value = min(max(value, -full), full)
            if grain > 0:
                value = np.float32(np.rint(np.float32(value / grain)) * grain)
        current = np.float32(value * unit)
        saturated |= abs(current) >= limit
        y[i] = np.float32(current / per_unit)
    return saturated


@numba.njit(cache=True, nogil=True)
def _read(
    v: _F32, scale: np.float32, state: _F32, forward: bool, io: _F32, per_unit: np.float32, key0: np.uint32,
    key1: np.uint32, y: _F32, x: _F32, busy: NDArray[np.int32], low: _F32, rise: _F32,
) -> bool:  # fmt: skip
    """y = state applied to v / scale in one analog read; whether a line saturated."""
    _drive(v, scale, io, key0, key1, x, low, rise)
    if forward:
        for i in range(len(y)):
            y[i] = 0
        forward_sample(x, state, y, busy)
    else:
        backward_sample(x, state, y)
    saturated: bool = _sense(y, io, per_unit, key0, key1, low, rise)
    return saturated


@numba.njit(cache=True, nogil=True)
def managed_read(
    a: int, m: int, t: Tables, state: _F32, forward: bool, v: _F32, y: _F32, x: _F32, scale: _F32,
    full: NDArray[np.bool_], busy: NDArray[np.int32], low: _F32, rise: _F32,
) -> None:  # fmt: skip
    """y [sample sensed] = state applied to v [sample driven], scaled to the DAC and managed as ``Tile.forward`` does."""
    samples, io, per_unit = len(v), t.io[m], t.per_unit[m, a]
    noisy = io[IN_NOISE] > 0 or io[OUT_NOISE] > 0
    base0, base1 = t.base[m, MVM, a, 0], t.base[m, MVM, a, 1]
    again = False
    for s in range(samples):
        top = np.float32(0)
        for i in range(v.shape[1]):
            top = max(top, abs(v[s, i]))
        scale[s] = top if top > 0 else _ONE
        key0, key1 = key_at(base0, base1, t.counter[m, MVM, a] + s)
        full[s] = _read(v[s], scale[s], state, forward, io, per_unit, key0, key1, y[s], x, busy, low, rise)
        again |= full[s]
    t.counter[m, MVM, a] += samples if noisy else 0
    t.clock_s[m, a] += samples * t.read_s[m]
    if forward and t.bound[m]:
        for _ in range(MAX_HALVINGS):
            if not again:
                break
            again = False
            for s in range(samples):
                if not full[s]:
                    continue
                scale[s] = np.float32(scale[s] * np.float32(2.0))
                key0, key1 = key_at(base0, base1, t.counter[m, MVM, a] + s)
                full[s] = _read(v[s], scale[s], state, forward, io, per_unit, key0, key1, y[s], x, busy, low, rise)
                again |= full[s]
            t.counter[m, MVM, a] += samples if noisy else 0
            t.clock_s[m, a] += samples * t.read_s[m]
    for s in range(samples):
        for i in range(y.shape[1]):
            y[s, i] = np.float32(y[s, i] * scale[s])


@numba.njit(cache=True, nogil=True)
def read_line(
    a: int, m: int, t: Tables, state: _F32, inputs: bool, line: int, y: _F32, low: _F32, rise: _F32
) -> None:  # fmt: skip
    """y [sensed] = one line of inputs, or of outputs, as a one-hot read shows it (``Tile.read_line``)."""
    io = t.io[m]
    key0, key1 = key_at(t.base[m, MVM, a, 0], t.base[m, MVM, a, 1], t.counter[m, MVM, a])
    x = _converted(_ONE, io)
    if io[IN_NOISE] > 0:
        xi = normal(line_hash(key0, key1, np.uint32(line)), np.uint32(1), low, rise)
        x = np.float32(x + np.float32(io[IN_NOISE] * xi))
    for i in range(len(y)):
        y[i] = np.float32(x * (state[line, i] if inputs else state[i, line]))
    _sense(y, io, t.per_unit[m, a], key0, key1, low, rise)
    t.counter[m, MVM, a] += 1 if io[IN_NOISE] > 0 or io[OUT_NOISE] > 0 else 0
    t.clock_s[m, a] += t.read_s[m]
