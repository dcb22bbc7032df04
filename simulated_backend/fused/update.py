# mypy: disable-error-code="untyped-decorator, no-untyped-call"
"""Encoding and coincidence update of one sample on one array, in numba: ``Tile.update`` and the kernel behind it."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hil.fast_encoding import encode_sample, fire_lines, key_at
from simulated_backend.fused.tables import PULSE, TRAIN_IN, TRAIN_OUT, Tables
from simulated_backend.kernels.coincide import Hits, hits, update_array

__all__ = ["Trains", "coincide", "trains"]

_F32 = NDArray[np.float32]

Trains = tuple[_F32, _F32, NDArray[np.int8], NDArray[np.int8], NDArray[np.uint32], NDArray[np.uint32], Hits]
"""Scratch of an update: probabilities, signs, bits of both sides, cells hit."""


def trains(lines: int) -> Trains:
    """Scratch for matrices of up to ``lines`` lines a side."""
    f32, i8, u32 = (
        (lambda: np.zeros(lines, np.float32)),
        (lambda: np.zeros(lines, np.int8)),
        (lambda: np.zeros(lines, np.uint32)),
    )
    return f32(), f32(), i8(), i8(), u32(), u32(), hits(lines)


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
    update_array(a, 0, inputs, bits_x, sign_x, bits_d, sign_d, key0, key1, scratch[6], views)
