"""An operation compiled: how many pulses every cell gets from it, counted before anything is sent."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hil.encoding import PulseTrain, coincidence_counts
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
    arrays = torch.ones(rows.sign.shape[0], dtype=torch.bool) if active is None else active.cpu()
    up = torch.zeros((len(arrays), rows.sign.shape[2], cols.sign.shape[2]), dtype=torch.int64)
    down, passes = torch.zeros_like(up), 0
    for sample in range(rows.samples):
        row, col = rows.at(sample), cols.at(sample)
        counts = coincidence_counts(row, col).cpu().to(torch.int64) * arrays[:, None, None]
        up += counts.clamp(min=0)
        down -= counts.clamp(max=0)
        fires = [
            (train.fired() & (train.sign == sign)[..., None]).any(dim=2).cpu() & arrays[:, None, None]
            for train in (row, col)
            for sign in (1, -1)
        ]
        passes += sum(int((fires[r] & fires[c]).sum()) for r in (0, 1) for c in (2, 3))
    return np.stack([up.numpy(), down.numpy()]), passes
