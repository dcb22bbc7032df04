"""An operation compiled: how many pulses every cell gets from it, counted before anything is sent."""

from __future__ import annotations

import numba
import numpy as np
from torch import Tensor

from hil.encoding import PulseTrain
from hil.records import Array

__all__ = ["compile_pulses", "compile_trace", "compile_update"]


def compile_pulses(counts: Tensor) -> Array:
    """Pulses per cell of ``pulse``, int64 [2 array row col]: up, down. counts: int32 [array row col]."""
    signed = counts.cpu().numpy().astype(np.int64)
    return np.stack([signed.clip(min=0), (-signed).clip(min=0)])


def compile_trace(polarity: Tensor, mask: Tensor) -> Array:
    """Pulses per cell of ``trace``, int64 [2 array row col]: up, down."""
    cells = mask.cpu().numpy().astype(np.int64)
    return np.stack([cells * int((polarity > 0).sum()), cells * int((polarity < 0).sum())])


def compile_update(rows: PulseTrain, cols: PulseTrain, active: Tensor | None = None) -> tuple[Array, int]:
    """Pulses per cell of ``update``, int64 [2 array row col] (up, down), and its passes.

    In a slot a board drives up to four passes, one for each pair of signs that both fire somewhere.
    """
    chosen = np.ones(rows.sign.shape[0], dtype=np.bool_) if active is None else active.cpu().numpy()
    sides = (*_words(rows), *_words(cols))
    cells = np.zeros((2, len(chosen), rows.sign.shape[2], cols.sign.shape[2]), dtype=np.int64)
    return cells, int(_count(*sides, chosen, cells))


def _words(train: PulseTrain) -> tuple[Array, Array]:
    """Packed slots, uint32, and signs, int8: [array sample line] each."""
    return train.bits().cpu().contiguous().numpy().view(np.uint32), train.sign.cpu().contiguous().numpy()


@numba.njit(inline="always")
def _ones(x: np.uint32) -> int:
    """How many bits are set."""
    number = 0
    while x:
        x &= x - np.uint32(1)
        number += 1
    return number


@numba.njit(cache=True, nogil=True)
def _count(row_bits: Array, row_sign: Array, col_bits: Array, col_sign: Array, chosen: Array, cells: Array) -> int:
    """Adds the pulses of the chosen arrays to ``cells`` and gives their passes; a line whose sign is 0 is silent."""
    arrays, samples, rows = row_bits.shape
    cols = col_bits.shape[2]
    passes = 0
    for a in range(arrays):
        if not chosen[a]:
            continue
        for s in range(samples):
            row_some = np.zeros(2, dtype=np.uint32)
            col_some = np.zeros(2, dtype=np.uint32)
            for c in range(cols):
                if col_sign[a, s, c] != 0:
                    col_some[int(col_sign[a, s, c] < 0)] |= col_bits[a, s, c]
            for r in range(rows):
                if row_sign[a, s, r] == 0 or row_bits[a, s, r] == 0:
                    continue
                row_some[int(row_sign[a, s, r] < 0)] |= row_bits[a, s, r]
                for c in range(cols):
                    if col_sign[a, s, c] != 0:
                        both = np.uint32(row_bits[a, s, r] & col_bits[a, s, c])
                        falls = int((row_sign[a, s, r] < 0) != (col_sign[a, s, c] < 0))
                        cells[falls, a, r, c] += _ones(both)
            for one in row_some:
                for other in col_some:
                    passes += _ones(np.uint32(one & other))
    return passes
