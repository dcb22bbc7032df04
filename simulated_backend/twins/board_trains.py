# mypy: disable-error-code="untyped-decorator"
"""Pulses as the wire tells them: how many coincide, how long they take, and the first few of them."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from hil.encoding import PulseTrain
from simulated_backend.kernels.bits import popcount
from simulated_backend.twins.board_checks import Counts

__all__ = ["first", "passes", "words_coincide", "words_passes", "words_train"]

Words = NDArray[np.uint32]
"""Lines that fire, [sample line]: slot s in bit s, bit 31 where the sign is negative."""

_SLOTS = np.uint32(0x7FFFFFFF)


def first(counts: NDArray[np.int32], pulses: int) -> NDArray[np.int32]:
    """The first ``pulses`` pulses of ``counts`` [cell], cell after cell."""
    size = np.abs(counts.astype(np.int64))
    kept = np.clip(pulses - (size.cumsum() - size), 0, size)
    out: NDArray[np.int32] = (np.sign(counts) * kept).astype(np.int32)
    return out


def passes(counts: NDArray[np.int32]) -> int:
    """How often the rows are driven for ``counts`` [row col]: row after row, up and down apart, a row's cells at once."""
    up, down = counts.max(axis=1, initial=0), counts.min(axis=1, initial=0)
    return int(up.sum(dtype=np.int64) - down.sum(dtype=np.int64))


def words_train(words: Words, slots: NDArray[np.uint8]) -> PulseTrain:
    """The train of one array that fires as ``words`` [sample line] say."""
    arrays = (words & _SLOTS).view(np.int32), 1 - 2 * (words >> np.uint32(31)).astype(np.int8), slots.astype(np.int32)
    bits, sign, number = (torch.from_numpy(array)[None] for array in arrays)
    # Of a body that was taken apart, so that nothing is left to be masked.
    return replace(PulseTrain.given(bits, sign, number), exact=True)


def words_coincide(rows: Words, cols: Words) -> tuple[Counts, Counts]:
    """Coincidences by sample [sample] and by cell [cell], whatever their sign."""
    by_sample = np.zeros(len(rows), dtype=np.int64)
    by_cell = np.zeros((rows.shape[1], cols.shape[1]), dtype=np.int64)
    _coincide(rows, cols, by_sample, by_cell)
    return by_sample, by_cell.reshape(-1)


def words_passes(rows: Words, cols: Words) -> int:
    """How often the board drives its lines: in every slot once for each pair of signs that both fire somewhere."""
    return int(_passes(rows, cols))


@numba.njit(cache=True, nogil=True)
def _coincide(rows: Words, cols: Words, by_sample: Counts, by_cell: Counts) -> None:
    for s in range(rows.shape[0]):
        for r in range(rows.shape[1]):
            word = rows[s, r] & _SLOTS
            if word:
                for c in range(cols.shape[1]):
                    both = np.int64(popcount(np.uint32(word & cols[s, c])))
                    by_sample[s] += both
                    by_cell[r, c] += both


@numba.njit(cache=True, nogil=True)
def _passes(rows: Words, cols: Words) -> np.int64:
    number = np.int64(0)
    some = np.zeros((2, 2), dtype=np.uint32)
    for s in range(rows.shape[0]):
        some[:] = 0
        for r in range(rows.shape[1]):
            some[0, rows[s, r] >> np.uint32(31)] |= rows[s, r] & _SLOTS
        for c in range(cols.shape[1]):
            some[1, cols[s, c] >> np.uint32(31)] |= cols[s, c] & _SLOTS
        for one in some[0]:
            for other in some[1]:
                number += np.int64(popcount(np.uint32(one & other)))
    return number
