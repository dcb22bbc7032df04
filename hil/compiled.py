"""An operation compiled: how many pulses every cell gets from it, counted before anything is sent."""

from __future__ import annotations

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
    chosen = np.ones(rows.sign.shape[0], dtype=bool) if active is None else active.cpu().numpy()
    (row_bits, row_up, row_down), (col_bits, col_up, col_down) = _firing(rows, chosen), _firing(cols, chosen)
    up = np.zeros((len(chosen), row_bits.shape[2], col_bits.shape[2]), dtype=np.int64)
    down = np.zeros_like(up)
    for sample in range(rows.samples):
        both = np.bitwise_count(row_bits[:, sample, :, None] & col_bits[:, sample, None, :])
        raises = (row_up[:, sample, :, None] & col_up[:, sample, None, :]) | (
            row_down[:, sample, :, None] & col_down[:, sample, None, :]
        )
        up += np.where(raises, both, 0)
        down += np.where(raises, 0, both)
    passes = 0
    for row_side in (row_up, row_down):
        for col_side in (col_up, col_down):
            some_row, some_col = (
                np.bitwise_or.reduce(np.where(side, bits, np.uint32(0)), axis=2)
                for side, bits in ((row_side, row_bits), (col_side, col_bits))
            )
            passes += int(np.bitwise_count(some_row & some_col).sum())
    return np.stack([up, down]), passes


def _firing(train: PulseTrain, chosen: Array) -> tuple[Array, Array, Array]:
    """Packed slots, uint32 [array sample line], none on the arrays that are not chosen; where the sign is +, where -."""
    bits, sign = train.bits().cpu().numpy().view(np.uint32), train.sign.cpu().numpy()
    return np.where(chosen[:, None, None] & (sign != 0), bits, np.uint32(0)), sign > 0, sign < 0
