"""Cells of one matrix with what is known of each, and the few things that are done to them to test a theory of theirs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hil.backend import PulseShape
from hil.calibration import Calibration
from hil.encoding import PulseTrain, Stream, UpdateSettings, encode
from hil.errors import UsageError
from hil.place import Place, Region

__all__ = ["Floats", "Keys", "KnownCells", "one_slot", "only_region"]

Floats = NDArray[np.float64]

_GROUPS = 8
"""Parts of a single array that its standard errors come from."""


@dataclass(frozen=True, eq=False)
class KnownCells:
    """Cells of one matrix; tensors float64 [array in out], siemens; slopes are relative changes of the step per pulse."""

    region: Region
    shape: PulseShape
    averages: int
    step: Tensor
    """At the symmetry point."""
    slope_up: Tensor
    slope_down: Tensor
    g_sp: Tensor
    g_min: Tensor
    g_max: Tensor
    usable: Tensor
    """bool: cells with a usable symmetry point, the only ones that are read and count."""

    @classmethod
    def calibrated(cls, place: Place, known: Calibration) -> KnownCells:
        """From a calibration of the board. UsageError for a matrix in pieces, or without a usable cell."""
        region = only_region(place)

        def part(x: Tensor) -> Tensor:
            return x[:, region.rows, region.cols]

        usable = known.responds & ~known.no_sp & known.g_sp.isfinite() & (known.step > 0)
        usable = part(usable & (known.slope_up > 0) & (known.slope_down > 0))
        if not bool(usable.any()):
            raise UsageError(f"{place.name}: no cell has a usable symmetry point: characterize again, or take other cells")
        return cls(
            region, place.shape, place.read.averages, part(known.step).double(), part(known.slope_up).double(),
            part(known.slope_down).double(), part(known.g_sp).double(), part(known.g_min).double(),
            part(known.g_max).double(), usable,
        )  # fmt: skip

    @property
    def arrays(self) -> int:
        """Replicas."""
        return int(self.step.shape[0])

    def offset(self) -> Tensor:
        """G - G_SP as one reading shows it, float64 [array in out] siemens; NaN where not usable."""
        info, region = self.region.backend.info, self.region
        mask = torch.zeros(info.arrays, info.rows, info.cols, dtype=torch.bool)
        mask[:, region.rows, region.cols] = self.usable
        return region.backend.read(mask, self.averages)[:, region.rows, region.cols].double() - self.g_sp

    def reach(self) -> Tensor:
        """Distance from the symmetry point to the nearer bound, siemens [array in out]."""
        return torch.minimum(self.g_max - self.g_sp, self.g_sp - self.g_min).clamp(min=0)

    def send_to(self, target: Tensor) -> int:
        """Pulse every usable cell to about G_SP + target, in one go (T1); returns the most pulses of a cell.

        target: [array in out], siemens.
        """
        now = self.offset()
        up = target > now
        slope = torch.where(up, self.slope_up, self.slope_down).clamp(1e-9, 0.9)
        end = torch.where(up, 1.0, -1.0) * self.step / slope
        count = (((end - target) / (end - now)).clamp(min=1e-3).log() / torch.log1p(-slope)).round()
        count = torch.where(self.usable, count, 0.0).clamp(min=0)
        info, region = self.region.backend.info, self.region
        board = torch.zeros(info.arrays, info.rows, info.cols, dtype=torch.int32)
        board[:, region.rows, region.cols] = torch.where(up, count, -count).to(torch.int32)
        region.backend.pulse(board, self.shape)
        return int(count.max())

    def update(self, rows: PulseTrain, cols: PulseTrain) -> None:
        """Coincidences on the lines of the matrix."""
        info, region = self.region.backend.info, self.region
        region.backend.update(
            rows.placed(info.rows, region.rows.start), cols.placed(info.cols, region.cols.start), self.shape
        )

    def groups(self) -> Tensor:
        """int64 [array in out]: the parts that standard errors come from: arrays, or rows where there are few arrays."""
        arrays, inputs, _ = self.step.shape
        if arrays >= 4:
            return torch.arange(arrays)[:, None, None].expand(self.step.shape)
        parts = min(_GROUPS, inputs)
        row = torch.arange(inputs) % parts
        return (row[None, :, None] + parts * torch.arange(arrays)[:, None, None]).expand(self.step.shape)


def only_region(place: Place) -> Region:
    """The region of a matrix that lies in one piece; UsageError where it does not."""
    if len(place.regions) != 1:
        raise UsageError(f"{place.name}: lies in {len(place.regions)} pieces: take a smaller size, which fits in one")
    return place.regions[0]


class Keys:
    """Keys of both trains, each array its own."""

    def __init__(self, seed: int, arrays: int, purpose: str) -> None:
        ids = torch.arange(arrays)
        self._x, self._d = (Stream(seed, ids, "explain", f"{purpose}-{side}") for side in ("in", "out"))

    def next(self, samples: int) -> tuple[Tensor, Tensor]:
        """For so many samples."""
        return self._x.keys(samples), self._d.keys(samples)


def one_slot(x: Tensor, d: Tensor, gain: float, keys: Keys) -> tuple[PulseTrain, PulseTrain]:
    """Trains of one slot: a pulse with probability gain |x d|, where nothing is clipped; the mean is then exact."""
    arrays = x.shape[0]
    settings = UpdateSettings(slots=1, management=False, slot_management=False)
    return encode(x, d, torch.full((arrays,), gain), torch.ones(arrays), settings, *keys.next(x.shape[1]))
