# mypy: disable-error-code="untyped-decorator, no-untyped-call"
"""Encoding and coincidence update of one sample on one array, in numba: ``Tile.update`` and the kernel behind it."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hil.fast_encoding import encode_sample, fire_lines, key_at, line_hash
from simulated_backend.fused.tables import PULSE, TRAIN_IN, TRAIN_OUT, Tables
from simulated_backend.kernels.bits import normal, popcount

__all__ = ["Trains", "coincide", "trains"]

_F32 = NDArray[np.float32]
_ONE = np.float32(1.0)
_WRITE = np.uint32(0xFFFFFFFF)

Trains = tuple[_F32, _F32, NDArray[np.int8], NDArray[np.int8], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int32]]
"""Scratch of an update: probabilities, signs, bits of both sides, lines that fire."""


def trains(lines: int) -> Trains:
    """Scratch for matrices of up to ``lines`` lines a side."""
    f32, i8, u32 = (
        (lambda: np.zeros(lines, np.float32)),
        (lambda: np.zeros(lines, np.int8)),
        (lambda: np.zeros(lines, np.uint32)),
    )
    return f32(), f32(), i8(), i8(), u32(), u32(), np.zeros(lines, np.int32)


@numba.njit(cache=True, nogil=True)
def update_array(
    a: int, row_bits: NDArray[np.uint32], row_sign: NDArray[np.int8], col_bits: NDArray[np.uint32],
    col_sign: NDArray[np.int8], key0: np.uint32, key1: np.uint32, firing: NDArray[np.int32], views: Any,
) -> None:  # fmt: skip
    """The coincidences of one sample on one array."""
    # Unpacked once: inside the loop, numba would count a reference to every array for every cell.
    state, hidden, p, c2cs, writes, multiplicative, counted, count_up, count_down, g_low, g_rise = views
    d_up, s_up, d_down, s_down, lows, highs, noise_up, noise_down = p
    c2c, write, cols = c2cs[a], writes[a], len(col_bits)
    number = 0
    for c in range(cols):
        if col_bits[c] != 0:
            firing[number] = c
            number += 1
    if number == 0:
        return
    for r in range(len(row_bits)):
        bits, sign = row_bits[r], row_sign[r]
        if bits == 0:
            continue
        for j in range(number):
            c = firing[j]
            both = np.uint32(bits & col_bits[c])
            if both == 0:
                continue
            n, up = int(popcount(both)), sign * col_sign[c] > 0
            place = line_hash(key0, key1, np.uint32(r * cols + c))
            if up:
                d, s, extra = d_up[a, r, c], np.float32(-s_up[a, r, c]), noise_up[a, r, c]
            else:
                d, s, extra = d_down[a, r, c], s_down[a, r, c], noise_down[a, r, c]
            low, high, w = lows[a, r, c], highs[a, r, c], hidden[a, r, c]
            for k in range(n):
                size = np.float32(d + np.float32(s * w))
                if c2c > 0:
                    xi = np.float32(c2c * normal(place, np.uint32(k), g_low, g_rise))
                    if multiplicative:
                        size = np.float32(size * np.float32(_ONE + xi))
                    else:
                        size = np.float32(size + np.float32(xi * extra))
                w = np.float32(w + size) if up else np.float32(w - size)
                w = min(max(w, low), high)
            hidden[a, r, c] = w
            state[a, r, c] = w
            if write > 0 and high > low:
                state[a, r, c] = np.float32(w + np.float32(write * normal(place, _WRITE, g_low, g_rise)))
            if counted:
                if up:
                    count_up[a, r, c] += n
                else:
                    count_down[a, r, c] += n


@numba.njit(cache=True, nogil=True)
def coincide(a: int, m: int, t: Tables, x: _F32, d: _F32, views: Any, scratch: Trains) -> None:
    """W += rate d x^T by coincidences: ``Tile.update`` for one sample."""
    inputs, outputs = len(x), len(d)
    p_x, p_d = scratch[0][:inputs], scratch[1][:outputs]
    sign_x, sign_d = scratch[2][:inputs], scratch[3][:outputs]
    bits_x, bits_d = scratch[4][:inputs], scratch[5][:outputs]
    slots = encode_sample(
        x, d, t.gain[m, a], t.wanted[m, a], t.balance[m, 0], t.balance[m, 1], p_x, p_d, sign_x, sign_d
    )  # fmt: skip
    x0, x1 = key_at(t.base[m, TRAIN_IN, a, 0], t.base[m, TRAIN_IN, a, 1], t.counter[m, TRAIN_IN, a])
    d0, d1 = key_at(t.base[m, TRAIN_OUT, a, 0], t.base[m, TRAIN_OUT, a, 1], t.counter[m, TRAIN_OUT, a])
    key0, key1 = key_at(t.base[m, PULSE, a, 0], t.base[m, PULSE, a, 1], t.counter[m, PULSE, a])
    t.counter[m, TRAIN_IN, a] += 1
    t.counter[m, TRAIN_OUT, a] += 1
    t.counter[m, PULSE, a] += 1
    if slots == 0:
        return
    t.clock_s[m, a] += slots * t.period_s[m, a]
    fire_lines(p_d, sign_d, slots, t.kind[m, 1], d0, d1, bits_d)
    fire_lines(p_x, sign_x, slots, t.kind[m, 0], x0, x1, bits_x)
    update_array(a, bits_x, sign_x, bits_d, sign_d, key0, key1, scratch[6], views)
