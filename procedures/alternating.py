"""What alternating up and down pulses tell, from sums that need no trace kept (theory T4).

With x before an up pulse, x' after it, x'' after the down pulse, F = the step at the symmetry point w*,

    x'  = x  + F - s+ (x  - w*) + noise        x'' = x' - F - s- (x' - w*) + noise'

the sum over P pairs telescopes, F drops out, and whatever is left of the transient is part of the sum, so that

    w* = (s+ sum x + s- sum x' + x_last - x_first) / (P (s+ + s-))

which is T4's w* = (s+ w_d + s- w_u) / (s+ + s-) once settled. Its error is the pulses' noise, sqrt(P (Q+ + Q-)), over
P (s+ + s-), plus the slopes' errors times how far the mean lies from w*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from procedures.fits import BranchFit, Floats

__all__ = ["BLOCKS", "AlternatingFit", "AlternatingSums", "PulseNoise", "fit_alternating", "noise"]

BLOCKS = (32, 256)
"""Pairs averaged before differences are taken, to tell pulse noise from read noise where the latter dominates."""

_GROUP = 1024
"""Cells whose readings are in float64 at a time."""

_ROWS = ("x", "x1", "u", "d", "uu", "dd", "ud", "xx")


@dataclass
class _Spread:
    """Differences of neighbouring block means, [cell] each."""

    total: Floats
    square: Floats
    count: int = 0

    def plus(self, other: _Spread) -> _Spread:
        return _Spread(self.total + other.total, self.square + other.square, self.count + other.count)

    def variance(self) -> Floats:
        """About their mean, since a cell may still be drifting."""
        spread = self.square / self.count - (self.total / self.count) ** 2
        result: Floats = np.maximum(spread, 0) * self.count / (self.count - 1)
        return result


class AlternatingSums:
    """Sums over pairs, per cell. They are kept relative to an origin near the readings, so that nothing cancels."""

    def __init__(self, first: Floats, averages: int = 1) -> None:
        """first: the mean of ``averages`` readings [cell] before the first pair, siemens; the sums' origin is there."""
        self.origin = first.astype(np.float64)
        self.last = np.zeros_like(self.origin)
        self.pairs = 0
        self.end_readings = 2 / averages
        """Variance of what the readings at both ends add to the sum of all steps, in variances of one reading."""
        self.sums = {name: np.zeros_like(self.origin) for name in _ROWS}
        self.blocks = {size: _Spread(np.zeros_like(self.origin), np.zeros_like(self.origin)) for size in BLOCKS}

    def add(self, y: NDArray[np.floating[Any]]) -> None:
        """y: [cell read], a reading after every pulse of whole pairs, up first; siemens."""
        for start in range(0, len(y), _GROUP):
            group = slice(start, start + _GROUP)
            self._add(y[group].astype(np.float64) - self.origin[group, None], group)
        self.pairs += y.shape[1] // 2
        for size, spread in self.blocks.items():
            spread.count += max(0, y.shape[1] // (2 * size) - 1)

    def _add(self, y: Floats, group: slice) -> None:
        before = np.concatenate([self.last[group, None], y[:, 1:-1:2]], axis=1)
        between, after = y[:, 0::2], y[:, 1::2]
        up, down = between - before, after - between
        values = (before, between, up, down, up * up, down * down, up * down, before * before)
        for name, value in zip(_ROWS, values, strict=True):
            self.sums[name][group] += value.sum(axis=1)
        for size, spread in self.blocks.items():
            whole = y.shape[1] // (2 * size)
            if whole < 2:
                continue
            steps = np.diff(y[:, : 2 * size * whole].reshape(len(y), whole, -1).mean(axis=2), axis=1)
            spread.total[group] += steps.sum(axis=1)
            spread.square[group] += (steps**2).sum(axis=1)
        self.last[group] = y[:, -1]

    def finish(self, last: Floats) -> None:
        """The mean of as many readings [cell] after the last pair, siemens, in place of the last single one."""
        self.last = last - self.origin

    def about(self, origin: Floats) -> AlternatingSums:
        """The same sums with another origin."""
        moved = AlternatingSums(origin)
        by = self.origin - origin
        moved.pairs, moved.blocks = self.pairs, self.blocks
        moved.last, moved.end_readings = self.last, self.end_readings
        moved.sums = dict(self.sums)
        moved.sums["xx"] = self.sums["xx"] + 2 * by * self.sums["x"] + self.pairs * by**2
        moved.sums["x"], moved.sums["x1"] = (self.sums[name] + self.pairs * by for name in ("x", "x1"))
        return moved

    def __add__(self, other: AlternatingSums) -> AlternatingSums:
        """Sums over both runs; ``last`` is what the two runs moved together."""
        other = other.about(self.origin)
        both = AlternatingSums(self.origin)
        both.last = self.last + other.last
        both.pairs, both.end_readings = self.pairs + other.pairs, self.end_readings + other.end_readings
        both.sums = {name: self.sums[name] + other.sums[name] for name in _ROWS}
        both.blocks = {size: self.blocks[size].plus(other.blocks[size]) for size in BLOCKS}
        return both

    def mean(self, name: str) -> Floats:
        """Mean over pairs."""
        result: Floats = self.sums[name] / self.pairs
        return result


@dataclass(frozen=True)
class AlternatingFit:
    """Per cell: symmetry point, step there, each with its standard error. Arrays [cell]."""

    sp: Floats
    """Siemens."""
    sp_se: Floats
    step: Floats
    step_se: Floats


@dataclass(frozen=True)
class PulseNoise:
    """Per cell, [cell], siemens squared."""

    pair_var: Floats
    """Q+ + Q-: what a pair of pulses adds to the variance of G; unbiased, and may come out negative."""
    pair_var_se: Floats
    read_var: Floats
    """Variance of a single reading."""
    read_var_se: Floats


def noise(sums: AlternatingSums, s_up: Floats, s_down: Floats, idle_var: Floats, idle_freedom: int) -> PulseNoise:
    """Tell the noise of pulses from that of readings. idle_var: variance of readings without pulses, [cell].

    A reading enters two neighbouring steps with opposite signs, so their covariance gives its variance, to be averaged
    with ``idle_var`` (of idle_freedom degrees of freedom); as far as the two disagree over the cells, a board reads
    single cells and trains in different ways, and the covariance counts. Where readings dominate single steps,
    differences of block means give the pulses' noise.
    """
    p = sums.pairs
    var_u = np.maximum(sums.mean("uu") - sums.mean("u") ** 2, 0)
    var_d = np.maximum(sums.mean("dd") - sums.mean("d") ** 2, 0)
    cov = sums.mean("ud") - sums.mean("u") * sums.mean("d")
    about = np.maximum(idle_var, -cov)
    var_x = np.maximum(sums.mean("xx") - sums.mean("x") ** 2 - about, 0)
    q_up = np.maximum(var_u - 2 * about, 0)
    echo = s_up * s_down * (1 - s_up) * var_x - s_down * q_up
    own = np.maximum(echo - cov, 0)
    error_own = (var_u * var_d + cov**2) / p
    error_idle = 2 * np.maximum(idle_var, own) ** 2 / max(idle_freedom, 1)
    if len(own):
        error_idle = error_idle + max(float(np.mean((own - idle_var) ** 2 - error_own - error_idle)), 0.0)
    trust = np.where(idle_var > 0, error_own / np.maximum(error_own + error_idle, 1e-300), 1.0)
    read_var = trust * idle_var + (1 - trust) * own
    error_read = np.where(idle_var > 0, error_own * error_idle / np.maximum(error_own + error_idle, 1e-300), 0.0)

    # Multiplying s^2 var_x: what the cell's wandering about its symmetry point adds to the spread of its steps.
    near = var_u + var_d - 4 * read_var - (s_up**2 + s_down**2) * var_x
    error_near = 2 * (var_u**2 + var_d**2) / p + 16 * error_read
    rho = np.clip((1 - s_up) * (1 - s_down), 0, 1 - 1e-6)
    best, error = near, error_near
    for size, spread in sums.blocks.items():
        if spread.count < 8:
            continue
        gain, variance = _block_gain(rho, size), spread.variance()
        far = (variance - read_var / size) / gain
        # 3: neighbouring differences share a block, and are correlated.
        error_far = (3 * variance**2 / spread.count + error_read / size**2) / gain**2
        better = error_far < error
        best, error = np.where(better, far, best), np.where(better, error_far, error)
    return PulseNoise(best, np.sqrt(error), read_var, np.sqrt(error_read))


def _block_gain(rho: Floats, size: int) -> Floats:
    """Variance of the difference of two neighbouring means over ``size`` pairs, for unit noise per pair; rho: what is left
    of a deviation after a pair."""
    k = 1 - rho
    kept = -np.expm1(size * np.log(np.maximum(rho, 1e-300)))
    mean = (size + 2 * rho * (size * k - kept) / k**2) / size**2
    neighbour = rho * (kept / k) ** 2 / size**2
    result: Floats = 2 * (mean - neighbour) / (1 - rho**2)
    return result


def fit_alternating(
    sums: AlternatingSums, up: BranchFit, down: BranchFit, pair_var: Floats, read_var: Floats
) -> AlternatingFit:
    """Symmetry point and step from the sums, with slopes (and their errors) from the branches."""
    p, total = sums.pairs, up.s + down.s
    total = np.where(np.abs(total) < 1e-12, 1e-12, total)
    sp = (up.s * sums.mean("x") + down.s * sums.mean("x1") + sums.last / p) / total
    off_x, off_x1 = sums.mean("x") - sp, sums.mean("x1") - sp
    by_slopes = off_x**2 * up.var_s + off_x1**2 * down.var_s
    variance = pair_var / p + read_var * (sums.end_readings / p**2 + (up.s**2 + down.s**2) / p) + by_slopes
    step = (sums.mean("u") + up.s * off_x - sums.mean("d") - down.s * off_x1) / 2
    # A cell's two noises enter F* as (s- up - s+ down) / (s+ + s-).
    shares = (up.s**2 + down.s**2) / total**2
    step_var = shares * pair_var / (2 * p) + 2 * read_var / p + by_slopes / 4
    return AlternatingFit(sums.origin + sp, np.sqrt(variance) / np.abs(total), step, np.sqrt(step_var))
