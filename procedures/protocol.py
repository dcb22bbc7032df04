"""The pulses and reads of ``characterize``, on some cells of a board: raw data in, no judgement.

Branches are read a fixed number of times, alternating pulses are summed as they come: memory does not grow with pulses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hil.backend import ArrayBackend, ArrayInfo, PulseShape, idle, trace_segments
from procedures.alternating import AlternatingSums
from procedures.fits import Floats

__all__ = ["EndData", "Plan", "RawCells", "alternate", "run_protocol"]


@dataclass(frozen=True)
class Plan:
    """How many pulses and reads; see CharacterizeConfig."""

    cycles: int
    reads: int
    every: int
    settle_pairs: int
    """Alternating pairs before those that count."""
    pairs: int
    idle_reads: int
    idle_s: float
    min_response_siemens: float
    samples: int = 0
    """Cells whose alternating traces are kept."""

    @property
    def pulses(self) -> int:
        """Per cell that responds."""
        return (2 * self.cycles + 1) * self.reads * self.every + 2 * self.inward + 4 * (self.settle_pairs + self.pairs)

    @property
    def inward(self) -> int:
        """Pulses away from an end before alternating pulses start there, so that a hard bound cuts none of them."""
        return max(1, self.reads * self.every // 20)


@dataclass(frozen=True)
class EndData:
    """From one end of the range. Arrays [cell], siemens."""

    before: Floats
    """Mean of the readings before the idle time."""
    after: Floats
    read_var: Floats
    """Variance of single readings, over both."""
    sums: AlternatingSums
    sample_g: NDArray[np.float32]
    """Readings of the first few cells while they settle, [sample read]."""
    sample_pulse: NDArray[np.int64]
    """Pulses before each of them, [read]."""


@dataclass(frozen=True)
class RawCells:
    """Raw data of the masked cells, in the order of ``mask.nonzero()``.

    up, down: float32 [cell cycle read], siemens, the first read of a branch being the last of the one before.
    """

    up: NDArray[np.float32]
    down: NDArray[np.float32]
    moves: NDArray[np.bool_]
    """Whether the cell's range reached the plan's smallest response, [cell]."""
    origin: Floats
    """Middle of the range seen, siemens, [cell]; of every masked cell."""
    below: EndData
    """Of the cells that move only."""
    above: EndData


def run_protocol(backend: ArrayBackend, mask: Tensor, shape: PulseShape, plan: Plan) -> RawCells:
    """Pulse and read the masked cells (bool [array row col]); those that do not move are left alone after the cycles."""
    branches = (2, plan.cycles, int(mask.sum()), plan.reads + 1)
    reads = np.empty(branches, dtype=np.float32)
    last = _read(backend, mask)
    for cycle in range(plan.cycles):
        for side, sign in enumerate((1, -1)):
            reads[side, cycle, :, 0] = last
            done = 1
            for piece in _branch(backend, mask, shape, plan, sign):
                reads[side, cycle, :, done : done + piece.shape[1]] = piece
                done += piece.shape[1]
            last = reads[side, cycle, :, -1]
    top, bottom = (reads[side, :, :, -1].astype(np.float64).mean(axis=0) for side in (0, 1))
    with np.errstate(invalid="ignore"):
        moves = top - bottom >= plan.min_response_siemens
    origin = (top + bottom) / 2
    alive = mask.clone()
    alive[mask] = torch.from_numpy(moves)
    below = _from_end(backend, alive, shape, plan, 1)
    for _ in _branch(backend, alive, shape, plan, 1):
        pass
    above = _from_end(backend, alive, shape, plan, -1)
    up, down = (np.ascontiguousarray(reads[side].transpose(1, 0, 2)) for side in (0, 1))
    return RawCells(up, down, moves, origin, below, above)


def alternate(backend: ArrayBackend, mask: Tensor, shape: PulseShape, pairs: int) -> Iterator[NDArray[np.float32]]:
    """Readings [cell read] of the masked cells after each of so many alternating pulses, up first, in pieces of whole
    pairs."""
    for piece in _pair_pieces(backend.info, pairs):
        count = piece.stop - piece.start
        signs = torch.tensor([1, -1], dtype=torch.int8).repeat(count)
        yield backend.trace(signs, mask, shape)[mask].numpy()


def _pair_pieces(info: ArrayInfo, pairs: int) -> list[slice]:
    """As trace_segments, in pairs of two reads each."""
    return trace_segments(replace(info, arrays=2 * info.arrays), pairs)


def _branch(backend: ArrayBackend, mask: Tensor, shape: PulseShape, plan: Plan, sign: int) -> Iterator[NDArray[np.float32]]:
    """Readings [cell read] along one branch, in pieces."""
    for piece in trace_segments(backend.info, plan.reads * plan.every, plan.every):
        signs = torch.full((piece.stop - piece.start,), sign, dtype=torch.int8)
        yield backend.trace(signs, mask, shape, plan.every)[mask].numpy()


def _from_end(backend: ArrayBackend, mask: Tensor, shape: PulseShape, plan: Plan, inward: int) -> EndData:
    before = np.stack([_read(backend, mask) for _ in range(plan.idle_reads)]).astype(np.float64)
    idle(backend, plan.idle_s)
    after = np.stack([_read(backend, mask) for _ in range(plan.idle_reads)]).astype(np.float64)
    backend.pulse(mask.to(torch.int32) * (inward * plan.inward), shape)
    kept, pulses = [], []
    thin = max(1, (plan.settle_pairs + plan.pairs) // 200)
    done, sums = 0, None
    for pairs in (plan.settle_pairs, plan.pairs):
        sums = AlternatingSums(_read(backend, mask, plan.idle_reads).astype(np.float64), plan.idle_reads)
        for piece in alternate(backend, mask, shape, pairs):
            sums.add(piece)
            kept.append(piece[: plan.samples, 1 :: 2 * thin])
            pulses.append(done + 2 + np.arange(kept[-1].shape[1]) * 2 * thin)
            done += piece.shape[1]
        sums.finish(_read(backend, mask, plan.idle_reads).astype(np.float64))
    assert sums is not None
    variance = (before.var(axis=0, ddof=1) + after.var(axis=0, ddof=1)) / 2
    return EndData(
        before.mean(axis=0), after.mean(axis=0), variance, sums, np.concatenate(kept, axis=1), np.concatenate(pulses)
    )


def _read(backend: ArrayBackend, mask: Tensor, averages: int = 1) -> NDArray[np.float32]:
    result: NDArray[np.float32] = backend.read(mask, averages)[mask].numpy()
    return result
