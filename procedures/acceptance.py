"""How much of a transfer C accepts: the fraction of the requested change that its cells make, against the exact law.

A pulse on a cell at distance u from its symmetry point changes it by F (1 - sign u s / F), F the step and s the slope at the
symmetry point, so that of a request of weight v in small steps

    accepted / requested = 1 - sign(v) (C - C_SP) alpha_C / b_w          (docs/maths.md)

is made: less and less away from the symmetry point, up to twice towards it. Many requests in a row follow T1. Cells that
meet a hard bound are counted apart: what they refuse is no matter of asymmetry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from hil.bench import open_bench
from hil.config import BenchConfig
from procedures.explore_chunk import BOUND_WEIGHT, asymmetric_bench
from procedures.memory import one_slot, opened_tile, uniform_points

__all__ = ["Accepted", "acceptance"]

_SIZE = 32
_PROBABILITY = 0.5
"""Of a pulse per cell and request."""


@dataclass(frozen=True)
class Accepted:
    """One asymmetry, one distance, one direction of the request."""

    alpha: float
    distance: float
    """Mean C - C_SP over the reach of the cells, +-1 at their bounds, before the requests."""
    up: bool
    predicted: float
    """Accepted over requested, for cells that met no bound."""
    measured: float
    error: float
    """Standard error over the replicas."""
    clipped: float
    """Fraction of the cells that met a hard bound; they are left out of the other numbers."""


def acceptance(
    config: BenchConfig, alpha: float, distances: tuple[float, ...], states: float, c2c: float, requests: int, replicas: int
) -> list[Accepted]:
    """Requests of half a step each, up and down, at distances (fractions of the reach, -1 to 1) from the symmetry point."""
    step, reach = 2 * BOUND_WEIGHT / states, BOUND_WEIGHT / max(alpha, 1.0)
    slope = step * alpha / BOUND_WEIGHT
    found = []
    for up in (True, False):
        count = len(distances) * replicas
        ids = torch.arange(count)
        points = uniform_points(np.full(count, alpha), states, c2c, ids.numpy().astype(np.float64))
        with (
            TemporaryDirectory(prefix="explain-") as folder,
            open_bench(asymmetric_bench(config, points, alike=True), Path(folder)) as bench,
        ):
            tile = opened_tile(bench, ids, "c", _SIZE)
            target = torch.tensor(distances, dtype=torch.float64).repeat_interleave(replicas) * reach
            pulses = torch.log1p(-(target.abs() * alpha / BOUND_WEIGHT).clamp(max=0.999)) / np.log1p(-slope)
            counts = (pulses.round() * target.sign()).to(torch.int32)
            tile.pulse(counts[:, None, None].expand(count, _SIZE, _SIZE).contiguous())
            before = tile.weights().double().numpy()
            ones = torch.ones(count, requests, _SIZE)
            rate = torch.full((count,), _PROBABILITY * step)
            tile.update(ones, ones if up else -ones, rate, one_slot())
            after = tile.weights().double().numpy()
        sign = 1.0 if up else -1.0
        clip = sign * after >= reach * (1 - 1e-6)
        requested = requests * _PROBABILITY * step
        # T1 in the mean: every request closes the share p s of the distance to where steps of this direction end.
        end = sign * BOUND_WEIGHT / alpha
        law = (end - before) * (1 - (1 - _PROBABILITY * slope) ** requests) / (sign * requested)
        made = (after - before) / (sign * requested)
        for number, _ in enumerate(distances):
            part = slice(number * replicas, (number + 1) * replicas)
            free = ~clip[part]
            each = [float(made[part][k][free[k]].mean()) if free[k].any() else np.nan for k in range(replicas)]
            told = float(law[part][free].mean()) if free.any() else float("nan")
            error = float(np.nanstd(each, ddof=1) / replicas**0.5) if np.isfinite(each).sum() > 1 else float("nan")
            middle = float(before[part].mean() / reach)
            measured = float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")
            found.append(Accepted(alpha, middle, up, told, measured, error, float(clip[part].mean())))
    return found
