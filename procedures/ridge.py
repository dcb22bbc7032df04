"""The ridge of an exploration: the best rate of transfer for every asymmetry of A, against theory T8.

The effective learning rate of Tiki-Taka is lr_C b_A / (g_A E|g| R), R = lines * transfer_every: at a fixed optimum the best
lr_C / transfer_every is proportional to alpha_A, a log-log slope of +1, until T_A falls below the interval R between two
reads of an element, or A's noise outgrows its signal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hil.errors import DataError
from procedures.exploration import Exploration, FloatArray, IntArray
from procedures.explore_chunk import BOUND_WEIGHT

__all__ = ["Ridge", "alpha_classes", "find_ridge", "near_one", "weighted_line"]

_MOST_ALPHAS = 10
"""More values of alpha_A than that (a scattered design) are put in as many classes."""
_SMOOTH = 0.3
"""Gaussian kernel that finds the top, decades of rate."""
_WINDOW = 1.2
"""Points so close to it, in decades, make the parabola."""
_BOOTSTRAP = 200
_LEAST_ERROR = 0.03
"""Standard error of a place on the ridge is at least that, decades: a parabola is not the true shape."""
_ALPHA_C = 2.0
"""Only points with alpha_C within this factor of 1 count, where there are any: C is another story."""
_FAR = 2.0
"""Standard errors from the predicted line that count as a departure."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """Arrays [alpha], ascending. Rates are lr_C / transfer_every."""

    network: str
    alpha_a: FloatArray
    rate: FloatArray
    """Best rate by a parabola; where ``edge``, the best rate tried."""
    error: FloatArray
    """Standard error of log10 rate."""
    edge: IntArray
    """1: no top inside the tried rates."""
    accuracy: FloatArray
    """Mean validation accuracy near the top."""
    lr_a: FloatArray
    """Geometric mean of lr_A near the top; NaN where the exploration has none."""
    transfer_every: FloatArray
    noise: FloatArray
    """Random walk of A under zero-mean gradients, of its reach: sqrt(alpha_A / states); NaN where states are not known."""
    lowest: float
    """Rates tried."""
    highest: float
    slope: float
    """d log rate / d log alpha_A over the points that are no edge; NaN with fewer than 3."""
    slope_se: float
    anchor: float
    """log10(rate / alpha_A) of the predicted line of slope +1."""

    @property
    def used(self) -> IntArray:
        """Indices that the slope comes from."""
        return np.flatnonzero(self.edge == 0)

    def departs(self) -> IntArray:
        """Indices where the ridge lies off the line of slope +1 by more than its error, edges left out."""
        off = np.log10(self.rate) - np.log10(self.alpha_a) - self.anchor
        return np.flatnonzero((self.edge == 0) & (np.abs(off) > _FAR * self.error))

    def settled(self, mean_gradient: float | None, lines: int | None, training_samples: int | None) -> IntArray:
        """Indices with a top and a T_A between the interval of two reads and one training; empty where E|g| is None."""
        if mean_gradient is None:
            return np.array([], dtype=np.int64)
        time = self.memory_samples(mean_gradient)
        inside = (self.edge == 0) & np.isfinite(time)
        if lines is not None:
            inside &= time > lines * self.transfer_every
        if training_samples is not None:
            inside &= time < training_samples
        return np.flatnonzero(inside)

    def memory_samples(self, mean_gradient: float) -> FloatArray:
        """T_A = b_w / (alpha_A lr_A E|g|) at each point."""
        return np.asarray(BOUND_WEIGHT / (self.alpha_a * self.lr_a * mean_gradient))

    def slope_over(self, chosen: IntArray) -> tuple[float, float]:
        """(slope, standard error) over some of the points; NaN with fewer than 3."""
        mask = np.zeros(len(self.alpha_a), dtype=bool)
        mask[chosen] = True
        slope, error, _ = weighted_line(np.log10(self.alpha_a), np.log10(self.rate), self.error, mask)
        return slope, error


def find_ridge(exploration: Exploration, seed: int = 0) -> Ridge:
    """Top over the rate of transfer, at every alpha_A. DataError where the exploration cannot tell."""
    points = exploration.chosen("tiki_taka").finished()
    for axis in ("alpha_a", "lr_c"):
        if axis not in points.axes or len(np.unique(points.axes[axis])) < 3:
            raise DataError(f"ridge: the exploration has fewer than 3 values of {axis}: explore over both alpha_a and lr_c")
    points = near_one(points)
    every = points.axes.get("transfer_every", np.ones(len(points)))
    rate = np.log10(points.axes["lr_c"] / every)
    lr_a = np.log10(points.axes["lr_a"]) if "lr_a" in points.axes else np.full(len(points), np.nan)
    states = points.axes.get("states", np.full(len(points), np.nan))
    generator = np.random.default_rng(seed)
    rows, noise = [], []
    for alpha, which in alpha_classes(np.log10(points.axes["alpha_a"])):
        x, y = rate[which], points.validation[which]
        if len(np.unique(np.round(x, 6))) < 3:
            continue
        top, inside = _top(x, y)
        draws = [generator.integers(0, len(x), len(x)) for _ in range(_BOOTSTRAP)]
        tops = [_top(x[draw], y[draw]) for draw in draws]
        good = np.array([place for place, fine in tops if fine])
        # A top that most resamplings put at an end of the tried rates is none.
        edge = not inside or len(good) < 0.8 * _BOOTSTRAP
        close = np.abs(x - top) <= 0.5
        close = close if close.any() else np.abs(x - top) <= np.abs(x - top).min() + 1e-9
        error = max(float(good.std()) if len(good) > 1 else np.nan, _LEAST_ERROR)
        rows.append((alpha, top, error, edge, y[close].mean(), lr_a[which][close].mean(), np.median(every[which][close])))
        noise.append(float(np.sqrt(10**alpha / np.median(states[which]))))
    if not rows:
        raise DataError("ridge: no alpha_a has 3 rates of transfer or more: explore more values of lr_c")
    alpha, top, error, edge, accuracy, best_a, period = np.array(rows, dtype=np.float64).T
    slope, slope_se, anchor = weighted_line(alpha, top, error, edge == 0)
    return Ridge(
        exploration.network, 10**alpha, 10**top, error, edge.astype(np.int64), accuracy, 10**best_a, period,
        np.array(noise), float(10 ** rate.min()), float(10 ** rate.max()), slope,
        slope_se, anchor,
    )  # fmt: skip


def near_one(points: Exploration) -> Exploration:
    """The points whose alpha_C is near 1, or as near as any was explored."""
    if "alpha_c" not in points.axes:
        return points
    off = np.abs(np.log10(points.axes["alpha_c"]))
    return points.some(off <= max(np.log10(_ALPHA_C), float(off.min())))


def alpha_classes(log_alpha: FloatArray) -> list[tuple[float, IntArray]]:
    """(mean, indices) of every value, or of ten parts where there are more."""
    values = np.unique(np.round(log_alpha, 6))
    if len(values) <= _MOST_ALPHAS:
        alike = [np.flatnonzero(np.abs(log_alpha - value) < 1e-5) for value in values]
        return [(float(log_alpha[part].mean()), part) for part in alike]
    parts = np.array_split(np.argsort(log_alpha, kind="stable"), _MOST_ALPHAS)
    return [(float(log_alpha[part].mean()), part) for part in parts]


def _top(x: FloatArray, y: FloatArray) -> tuple[float, bool]:
    """(place of the top, whether it is one): smoothed, then a parabola through the points around."""
    grid = np.linspace(x.min(), x.max(), 81)
    kernel = np.exp(-0.5 * np.square((grid[:, None] - x) / _SMOOTH))
    best = float(grid[np.argmax(kernel @ y / kernel.sum(axis=1))])
    near = np.abs(x - best) <= _WINDOW
    if len(np.unique(np.round(x[near], 6))) < 3:
        return best, False
    a, b, _ = np.polyfit(x[near] - best, y[near], 2)
    if a >= 0:
        return best, False
    place = best - b / (2 * a)
    if not x.min() <= place <= x.max():
        return best, False
    return float(place), True


def weighted_line(
    x: FloatArray, y: FloatArray, error: FloatArray, used: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> tuple[float, float, float]:
    """(slope, its standard error, mean of y - x), weighted; the error grows where the points scatter more than theirs."""
    if used.sum() == 0:
        return float("nan"), float("nan"), float("nan")
    x, y, w = x[used], y[used], 1 / np.square(error[used])
    anchor = float(np.average(y - x, weights=w))
    if len(x) < 3:
        return float("nan"), float("nan"), anchor
    mean_x, mean_y = np.average(x, weights=w), np.average(y, weights=w)
    spread = float((w * np.square(x - mean_x)).sum())
    slope = float((w * (x - mean_x) * (y - mean_y)).sum() / spread)
    left = y - mean_y - slope * (x - mean_x)
    excess = float((w * np.square(left)).sum()) / (len(x) - 2)
    return slope, float(np.sqrt(max(1.0, excess) / spread)), anchor
