"""Pulses as the wire tells them: how many coincide, how long they take, and the first few of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hil.encoding import PulseTrain
from simulated_backend.twins.board_checks import Counts

__all__ = ["first", "passes", "words_coincide", "words_passes", "words_train"]

Words = NDArray[np.uint32]
"""Lines that fire, [sample line]: slot s in bit s, bit 31 where the sign is negative."""

_SLOTS = np.uint32(0x7FFFFFFF)
_CHUNK = 2**20
"""Crosspoints counted at once."""


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
    bits = torch.from_numpy((words & _SLOTS).astype(np.int32))
    sign = torch.from_numpy(np.where(words >> np.uint32(31), -1, 1).astype(np.int8))
    return PulseTrain.given(bits[None], sign[None], torch.from_numpy(slots.astype(np.int32))[None])


def words_coincide(rows: Words, cols: Words) -> tuple[Counts, Counts]:
    """Coincidences by sample [sample] and by cell [cell], whatever their sign."""
    lines = rows.shape[1] * cols.shape[1]
    by_sample, by_cell = np.zeros(len(rows), dtype=np.int64), np.zeros(lines, dtype=np.int64)
    step = max(1, _CHUNK // lines)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        both = _ones((rows[part, :, None] & cols[part, None, :] & _SLOTS).reshape(-1, lines))
        by_sample[part] = both.sum(axis=1, dtype=np.int64)
        by_cell += both.sum(axis=0, dtype=np.int64)
    return by_sample, by_cell


def words_passes(rows: Words, cols: Words) -> int:
    """How often the board drives its lines: in every slot once for each pair of signs that both fire somewhere."""
    sides = []
    for words in (rows, cols):
        slots, negative = words & _SLOTS, words >> np.uint32(31) == 1
        sides.append([np.bitwise_or.reduce(slots * part, axis=1) for part in (negative, ~negative)])
    row, col = np.array(sides[0]), np.array(sides[1])
    return int(_ones(row[:, None] & col[None]).sum(dtype=np.int64))


def _ones(words: Words) -> NDArray[np.uint8]:
    """How many bits are set."""
    x = words - ((words >> np.uint32(1)) & np.uint32(0x55555555))
    x = (x & np.uint32(0x33333333)) + ((x >> np.uint32(2)) & np.uint32(0x33333333))
    x = (x + (x >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
    out: NDArray[np.uint8] = ((x * np.uint32(0x01010101)) >> np.uint32(24)).astype(np.uint8)
    return out
