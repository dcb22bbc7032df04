"""Cells as the bench file supposes them: what a dry run answers with, so that a procedure goes its usual way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["SupposedCells"]


@dataclass(frozen=True)
class SupposedCells:
    """Noise-free soft bounds, all cells alike: an up pulse goes 2 / states of the way to g_max, a down pulse to g_min.

    The step at mid-range, the symmetry point, is then (g_max - g_min) / states (theory section 1.1).
    """

    g_min_siemens: float
    g_max_siemens: float
    states: float

    def pulsed(self, g: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """Conductances after so many up and then so many down pulses; all [array row col]."""
        kept = 1 - 2 / self.states
        risen = self.g_max_siemens + (g - self.g_max_siemens) * kept ** up.to(g.dtype)
        return self.g_min_siemens + (risen - self.g_min_siemens) * kept ** down.to(g.dtype)

    def traced(self, g: Tensor, polarity: Tensor, every: int) -> tuple[Tensor, Tensor]:
        """(conductance at the end [array row col], at every read [array row col read]) of one pulse after another."""
        kept = 1 - 2 / self.states
        ends = np.where(polarity.numpy() > 0, self.g_max_siemens, self.g_min_siemens)
        # Any run of pulses is a straight line in the first conductance: scale and offset serve all cells.
        scale = kept ** np.arange(1, len(ends) + 1)
        offset = np.empty(len(ends))
        value = 0.0
        for number, end in enumerate(ends):
            value = end + (value - end) * kept
            offset[number] = value
        if not len(ends):
            return g, g[..., None][..., :0]
        at = slice(every - 1, None, every)
        reads = g[..., None] * torch.from_numpy(scale[at]).to(g.dtype) + torch.from_numpy(offset[at]).to(g.dtype)
        return g * float(scale[-1]) + float(offset[-1]), reads
