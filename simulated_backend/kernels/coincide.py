# mypy: disable-error-code="untyped-decorator, no-untyped-call"
"""The coincidences of one sample on one array, in numba: the heart of the CPU kernel and of fused training.

The cells that are hit are collected first, without a branch that depends on the data, then fetched, then pulsed in lockstep
(pulse k of all of them), so that the fetches overlap and the pulses fill the vector units. Cells do not see each other and
every cell's pulses keep their order and their numbers: the result is the reference's to the bit.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hil.fast_encoding import line_hash
from simulated_backend.kernels.bits import GAUSS_LOW, GAUSS_RISE, normal, popcount

__all__ = ["Hits", "hits", "update_array"]

_ONE = np.float32(1.0)
_WRITE = np.uint32(0xFFFFFFFF)
_BLOCK = 256
"""Cells pulsed together: enough to hide the misses of their fetches, few enough to stay in the first cache."""

_F32 = NDArray[np.float32]
_I32 = NDArray[np.int32]
_U32 = NDArray[np.uint32]

Hits = tuple[NDArray[np.int32], NDArray[np.uint32], NDArray[np.float32]]
"""Scratch: integers, words and numbers of the firing columns and of the cells hit, each [field, cell]."""


@numba.njit(cache=True, nogil=True)
def hits(cols: int) -> Hits:
    """Scratch for arrays of up to ``cols`` columns."""
    size = max(cols, _BLOCK)
    return np.zeros((4, size), np.int32), np.zeros((3, size), np.uint32), np.zeros((6, size), np.float32)


@numba.njit(cache=True, nogil=True)
def _collect(
    bits: np.uint32, start: int, number: int, ups: int, sign: int, firing: _I32, firing_bits: _U32, cell: _I32, down: _I32,
    both: _U32, found: int,
) -> int:  # fmt: skip
    """Append the cells of one row that are hit; columns before ``ups`` fire upwards. Returns how many there are."""
    first, second = (0, 1) if sign > 0 else (1, 0)
    for j in range(number):
        common = np.uint32(bits & firing_bits[j])
        cell[found] = start + firing[j]
        down[found] = first if j < ups else second
        both[found] = common
        found += common != 0
    return found


@numba.njit(cache=True, nogil=True)
def _pulse(
    number: int, most: int, n: _I32, place: _U32, w: _F32, d: _F32, s: _F32, low: _F32, high: _F32, extra: _F32,
    c2c: np.float32, multiplicative: bool,
) -> None:  # fmt: skip
    """Pulse k of every cell, for k from 0 to ``most``; d and s give the signed move d + s w."""
    # The table is a constant of the module, not an argument: only then does LLVM know that no store changes it.
    for k in range(most):
        count = np.uint32(k)
        if c2c <= 0:
            for i in range(number):
                old = w[i]
                new = np.float32(old + np.float32(d[i] + np.float32(s[i] * old)))
                new = min(max(new, low[i]), high[i])
                w[i] = new if n[i] > k else old
        elif multiplicative:
            for i in range(number):
                old = w[i]
                xi = np.float32(c2c * normal(place[i], count, GAUSS_LOW, GAUSS_RISE))
                size = np.float32(np.float32(d[i] + np.float32(s[i] * old)) * np.float32(_ONE + xi))
                new = min(max(np.float32(old + size), low[i]), high[i])
                w[i] = new if n[i] > k else old
        else:
            for i in range(number):
                old = w[i]
                xi = np.float32(c2c * normal(place[i], count, GAUSS_LOW, GAUSS_RISE))
                size = np.float32(np.float32(d[i] + np.float32(s[i] * old)) + np.float32(xi * extra[i]))
                new = min(max(np.float32(old + size), low[i]), high[i])
                w[i] = new if n[i] > k else old


@numba.njit(cache=True, nogil=True)
def _flush(
    a: int, number: int, key0: np.uint32, key1: np.uint32, words: _I32, unsigned: _U32, numbers: _F32, views: Any
) -> None:
    """Pulse the ``number`` cells collected."""
    state, hidden, record, c2cs, writes, multiplicative, scattered, counted, count_up, count_down, g_low, g_rise = views
    cell, down, n = words[1], words[2], words[3]
    both, place = unsigned[1], unsigned[2]
    w, d, s, low, high, extra = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    kept, params = hidden[a].reshape(-1), record[a].reshape(-1)
    fields = record.shape[3]
    most = 0
    for i in range(number):
        n[i] = np.int32(popcount(both[i]))
        most = max(most, n[i])
        place[i] = line_hash(key0, key1, np.uint32(cell[i]))
    for i in range(number):
        at, side = np.intp(cell[i]) * fields, 2 * np.intp(down[i])
        w[i] = kept[cell[i]]
        low[i], high[i] = params[at], params[at + 1]
        size = params[at + 2 + side]
        d[i] = -size if down[i] else size
        s[i] = -params[at + 3 + side]
    if not multiplicative:
        for i in range(number):
            size = params[np.intp(cell[i]) * fields + 6 + down[i]]
            extra[i] = -size if down[i] else size
    _pulse(number, most, n, place, w, d, s, low, high, extra, c2cs[a], multiplicative)
    for i in range(number):
        kept[cell[i]] = w[i]
    if scattered:
        seen, write = state[a].reshape(-1), writes[a]
        for i in range(number):
            shown = w[i]
            if write > 0 and high[i] > low[i]:
                shown = np.float32(shown + np.float32(write * normal(place[i], _WRITE, g_low, g_rise)))
            seen[cell[i]] = shown
    if counted:
        raised, lowered = count_up[a].reshape(-1), count_down[a].reshape(-1)
        for i in range(number):
            if down[i]:
                lowered[cell[i]] += n[i]
            else:
                raised[cell[i]] += n[i]


@numba.njit(cache=True, nogil=True)
def update_array(
    a: int, first: int, last: int, row_bits: _U32, row_sign: NDArray[np.int8], col_bits: _U32, col_sign: NDArray[np.int8],
    key0: np.uint32, key1: np.uint32, scratch: Hits, views: Any,
) -> None:  # fmt: skip
    """The coincidences of one sample on rows ``first`` to ``last`` of one array."""
    words, unsigned, numbers = scratch
    cols, size = len(col_bits), words.shape[1]
    firing, firing_bits = words[0], unsigned[0]
    number = 0
    for c in range(cols):
        firing[number], firing_bits[number] = c, col_bits[c]
        number += col_bits[c] != 0 and col_sign[c] > 0
    ups = number
    for c in range(cols):
        if col_bits[c] != 0 and col_sign[c] < 0:
            firing[number], firing_bits[number] = c, col_bits[c]
            number += 1
    if number == 0:
        return
    found = 0
    for r in range(first, last):
        if row_bits[r] == 0:
            continue
        if found + number > size:
            _flush(a, found, key0, key1, words, unsigned, numbers, views)
            found = 0
        found = _collect(
            row_bits[r], r * cols, number, ups, row_sign[r], firing, firing_bits, words[1], words[2], unsigned[1], found
        )
    if found > 0:
        _flush(a, found, key0, key1, words, unsigned, numbers, views)
