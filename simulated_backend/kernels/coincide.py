# mypy: disable-error-code="untyped-decorator, no-untyped-call"
"""The coincidences of one sample on one array, in numba: the heart of the CPU kernel and of fused training."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hil.fast_encoding import line_hash
from simulated_backend.kernels.bits import normal, popcount

__all__ = ["update_array"]

_ONE = np.float32(1.0)
_WRITE = np.uint32(0xFFFFFFFF)


@numba.njit(cache=True, nogil=True)
def update_array(
    a: int, first: int, last: int, row_bits: NDArray[np.uint32], row_sign: NDArray[np.int8], col_bits: NDArray[np.uint32],
    col_sign: NDArray[np.int8], key0: np.uint32, key1: np.uint32, firing: NDArray[np.int32], views: Any,
) -> None:  # fmt: skip
    """The coincidences of one sample on rows ``first`` to ``last`` of one array; scratch: firing [col]."""
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
    for r in range(first, last):
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
