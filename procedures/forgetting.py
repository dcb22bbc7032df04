"""How long A remembers a gradient: measured through ``update`` and ``read`` on any bench, against T_A.

Between two reads random gradients g = x d are sent in coincidences of one slot, so that a cell is pulsed with probability
gain |x d|, never clipped, and E[dA] = gain g step exactly. With m = gain E|x| E|d| pulses per cell and sample and s the
relative change of the step per pulse (mean of up and down), theory T6 says that a gradient weighs exp(-j / T_A) after j
samples, with

    T_A = b_A / (g_A lr_A E|g|) = 1 / (m s)        (m s < LARGEST_SHARE: else time is not continuous)

Impulse: half of the cells start high, half low; the share of that difference which is left. Regression: the weights of
the gradients sent in each block between two reads, by least squares on what is read. Both are fitted with an exponential.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from hil.errors import UsageError
from procedures.known_cells import Floats, Keys, KnownCells, one_slot

__all__ = ["LARGEST_SHARE", "MEAN_SIZE", "Forgetting", "Timing", "decay_time", "measure_forgetting"]

LARGEST_SHARE = 0.05
"""Largest m s for which T6 is asserted."""
_PER_CALL = 1024
"""Samples of one update call."""
_SIZES = (0.5, 1.0)
"""Magnitudes of x and d, equally likely."""
MEAN_SIZE = sum(_SIZES) / len(_SIZES)
"""E|x| and E|d|."""
_START = 0.5
"""Where the impulse puts a cell, of what it can reach."""


@dataclass(frozen=True)
class Timing:
    """How a memory is measured: ``per_time`` reads in one predicted T_A, so many reads, so many lags in the regression.

    The impulse is followed for ``followed`` predicted T_A.
    """

    per_time: int = 8
    reads: int = 48
    lags: int = 20
    followed: float = 2.5


@dataclass(frozen=True, eq=False)
class Forgetting:
    """One point: what was predicted and measured. Times in samples."""

    gain: float
    pulses_per_sample: float
    share: float
    """m s, mean over cells: below LARGEST_SHARE in the regime of T6."""
    predicted: float
    """T_A = 1 / (m s), s the mean over cells."""
    impulse: float
    impulse_se: float
    """From the scatter of parts of the cells (KnownCells.groups); so is ``regression_se``."""
    regression: float
    regression_se: float
    block: int
    """Samples between two reads."""
    at: Floats
    """[read]: samples since the impulse."""
    left: Floats
    """[read]: share of the impulse left."""
    lag: Floats
    """[lag]: age of the middle of each block, samples."""
    weight: Floats
    """[lag]: its weight in the read value, of a fresh gradient's."""
    most_pulses: int
    """Of a cell, expected, the impulse included."""


def measure_forgetting(cells: KnownCells, gain: float, seed: int, timing: Timing | None = None) -> Forgetting:
    """Send random gradients at ``gain`` (lr_A / step: pulses for |x d| = 1, at most 1) and see how A forgets.

    UsageError where m s leaves the regime of T6 or gain is no probability, before the first pulse.
    """
    timing = timing or Timing()
    m = gain * MEAN_SIZE**2
    share = m * float(((cells.slope_up + cells.slope_down)[cells.usable] / 2).mean())
    if not 0 < gain <= 1 or share > LARGEST_SHARE:
        raise UsageError(
            f"memory: at gain {gain:g} A forgets {share:.3g} of itself in a sample: keep that below {LARGEST_SHARE} by a "
            "smaller gain, which is at most 1"
        )
    block = max(1, round(1 / (share * timing.per_time)))
    generator = torch.Generator().manual_seed(seed)
    sign = torch.where(torch.rand(cells.step.shape, generator=generator) < 0.5, -1.0, 1.0).double()
    start_pulses = cells.send_to(_START * sign * cells.reach())
    keys = Keys(seed, cells.arrays, "memory")
    scale = torch.where(cells.usable, 1 / cells.step, 0.0)
    seen, sent = [cells.offset().nan_to_num() * scale], []
    for _ in range(timing.reads):
        sent.append(_send(cells, gain, block, generator, keys))
        seen.append(cells.offset().nan_to_num() * scale)
    group = cells.groups()[cells.usable].numpy()
    parts = [np.flatnonzero(group == part) for part in np.unique(group)]
    signs, level = sign[cells.usable].numpy(), np.stack([y[cells.usable].numpy() for y in seen])
    towards = np.stack([(signs * level)[:, part].sum(axis=1) for part in parts])
    first = min(round(timing.followed * timing.per_time), timing.reads)
    xx, xy = _moments(level[1:], np.stack([one[cells.usable].numpy() for one in sent]), parts, timing.lags)
    at: Floats = np.asarray(block * np.arange(1, first + 1), dtype=np.float64)
    lag: Floats = np.asarray(block * (np.arange(timing.lags) + 0.5), dtype=np.float64)

    def impulse_time(keep: Any) -> float:
        curve: Floats = np.asarray(towards[keep].sum(axis=0), dtype=np.float64)
        return decay_time(at, curve[1 : first + 1] / curve[0], 1 / share, amplitude=1.0)

    def regression_time(keep: Any) -> float:
        weights = np.asarray(np.linalg.solve(xx[keep].sum(axis=0), xy[keep].sum(axis=0)), dtype=np.float64)
        return decay_time(lag, weights, 1 / share)

    impulse, impulse_se = _jackknife(impulse_time, len(parts))
    regression, regression_se = _jackknife(regression_time, len(parts))
    left: Floats = np.asarray(towards.sum(axis=0)[: first + 1], dtype=np.float64)
    weight: Floats = np.asarray(np.linalg.solve(xx.sum(axis=0), xy.sum(axis=0)) / gain, dtype=np.float64)
    return Forgetting(
        gain, m, share, 1 / share, impulse, impulse_se, regression, regression_se, block, at, left[1:] / left[0],
        lag, weight, start_pulses + round(m * block * timing.reads),
    )  # fmt: skip


def _send(cells: KnownCells, gain: float, samples: int, generator: torch.Generator, keys: Keys) -> Tensor:
    """Send so many random gradients; returns their sum, float64 [array in out]."""
    arrays, inputs, outputs = cells.step.shape
    total = torch.zeros(arrays, inputs, outputs, dtype=torch.float64)
    for begin in range(0, samples, _PER_CALL):
        count = min(_PER_CALL, samples - begin)
        x, d = (_draw((arrays, count, lines), generator) for lines in (inputs, outputs))
        cells.update(*one_slot(x, d, gain, keys))
        total += torch.bmm(x.transpose(1, 2), d).double()
    return total


def _draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    pick = torch.randint(0, 2 * len(_SIZES), shape, generator=generator)
    return torch.tensor([*_SIZES, *(-size for size in _SIZES)])[pick]


def _moments(level: Floats, sent: Floats, parts: list[NDArray[Any]], lags: int) -> tuple[Floats, Floats]:
    """Normal equations of what is read on the last ``lags`` blocks of gradients, [part lag lag] and [part lag].

    level, sent: [block cell]; a read follows its block.
    """
    xx: Floats = np.zeros((len(parts), lags, lags))
    xy: Floats = np.zeros((len(parts), lags))
    for last in range(lags - 1, len(sent)):
        past = sent[last - lags + 1 : last + 1][::-1]
        for number, part in enumerate(parts):
            mine = past[:, part]
            xx[number] += mine @ mine.T
            xy[number] += mine @ level[last, part]
    return xx, xy


def decay_time(t: Floats, y: Floats, near: float, amplitude: float | None = None) -> float:
    """T of the exponential amplitude exp(-t / T) closest to y, between near / 20 and near * 20; amplitude None = any."""

    def miss(log_time: float) -> float:
        shape = np.exp(-t / np.exp(log_time))
        size = float(shape @ y / (shape @ shape)) if amplitude is None else amplitude
        return float(np.square(y - size * shape).sum())

    # A coarse look first: far from the answer the misfit is flat.
    grid = np.log(near) + np.linspace(-3.0, 3.0, 61)
    best = float(grid[np.argmin([miss(x) for x in grid])])
    found = minimize_scalar(miss, bounds=(best - 0.1, best + 0.1), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def _jackknife(estimate: Any, parts: int) -> tuple[float, float]:
    """Estimate over all parts, and its delete-one standard error; NaN of a single part."""
    value = float(estimate(np.ones(parts, dtype=bool)))
    if parts < 2:
        return value, float("nan")
    without = np.array([estimate(np.arange(parts) != part) for part in range(parts)])
    return value, float(np.sqrt((parts - 1) / parts * np.square(without - without.mean()).sum()))
