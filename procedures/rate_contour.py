"""How fast Tiki-Taka learns at every asymmetry of A: the transfer rate that just reaches an accuracy, against theory T8.

The effective learning rate is lr_C b_A / (g_A E|g| R), R = lines * transfer_every. In trainings of one length equal
effective rates come equally far, so that a contour of equal accuracy on the rising side of the map runs along
lr_C / transfer_every ~ alpha_A, a log-log slope of +1. It is there also where the top itself is none: requested transfers
are clipped at the slots of one update, so that from some rate on a higher one changes nothing. Where T_A is longer than the
training, A never settles and holds all gradients, whatever its asymmetry: the contour turns flat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hil.errors import DataError
from procedures.exploration import Exploration, FloatArray, IntArray
from procedures.explore_chunk import BOUND_WEIGHT
from procedures.ridge import alpha_classes, near_one, weighted_line

__all__ = ["RateContour", "find_contour"]

_LEVEL = 0.8
"""Of the best mean accuracy, where no level is given: steep, and above chance."""
_BOOTSTRAP = 200
_LEAST_ERROR = 0.03
"""Standard error of a crossing is at least that, decades: the accuracy between two rates is interpolated."""


@dataclass(frozen=True, eq=False)
class RateContour:
    """Arrays [alpha], ascending. Rates are lr_C / transfer_every."""

    level: float
    """Mean validation accuracy 0..1 that is reached."""
    alpha_a: FloatArray
    rate: FloatArray
    """Lowest rate that reaches it; where ``outside``, the nearest end of the tried rates."""
    error: FloatArray
    """Standard error of log10 rate."""
    outside: IntArray
    """0: crossed between two tried rates; -1: reached by the lowest rate already; 1: never reached."""
    lr_a: FloatArray
    """Geometric mean of lr_A; NaN where the exploration has none."""
    slope: float
    """d log rate / d log alpha_A over the crossings; NaN with fewer than 3."""
    slope_se: float
    anchor: float
    """log10(rate / alpha_A) of the predicted line of slope +1."""

    def settling(self, mean_gradient: float | None, training_samples: int | None) -> IntArray:
        """Indices crossed where T_A is below a quarter of the training; empty where E|g| or its length is not known."""
        if mean_gradient is None or training_samples is None:
            return np.array([], dtype=np.int64)
        time = BOUND_WEIGHT / (self.alpha_a * self.lr_a * mean_gradient)
        return np.flatnonzero((self.outside == 0) & (time < training_samples / 4))

    def slope_over(self, chosen: IntArray) -> tuple[float, float]:
        """(slope, standard error) over some of the points; NaN with fewer than 3."""
        mask = np.zeros(len(self.alpha_a), dtype=bool)
        mask[chosen] = True
        slope, error, _ = weighted_line(np.log10(self.alpha_a), np.log10(self.rate), self.error, mask)
        return slope, error


def find_contour(exploration: Exploration, level: float | None = None, seed: int = 0) -> RateContour:
    """Rate that reaches ``level`` at every alpha_A. DataError where no alpha_A has two rates."""
    points = near_one(exploration.chosen("tiki_taka").finished())
    every = points.axes.get("transfer_every", np.ones(len(points)))
    rate: FloatArray = np.log10(points.axes["lr_c"] / every).round(6)
    lr_a = np.log10(points.axes["lr_a"]) if "lr_a" in points.axes else np.full(len(points), np.nan)
    classes = [
        (alpha, which) for alpha, which in alpha_classes(np.log10(points.axes["alpha_a"])) if len(np.unique(rate[which])) > 1
    ]
    if not classes:
        raise DataError("contour: no alpha_a has two rates of transfer or more: explore more values of lr_c")
    if level is None:
        level = _LEVEL * max(float(_mean(rate[which], points.validation[which])[1].max()) for _, which in classes)
    generator = np.random.default_rng(seed)
    rows = []
    for alpha, which in classes:
        x, y = rate[which], points.validation[which]
        place, outside = _crossing(*_mean(x, y), level)
        drawn = [_crossing(*_mean(x, _resampled(x, y, generator)), level) for _ in range(_BOOTSTRAP)]
        inside = np.array([at for at, out in drawn if out == 0])
        error = max(float(inside.std()) if len(inside) > 1 else 0.0, _LEAST_ERROR)
        rows.append((alpha, place, error, outside, lr_a[which].mean()))
    alpha, place, error, outside, mean_a = np.array(rows, dtype=np.float64).T
    slope, slope_se, anchor = weighted_line(alpha, place, error, outside == 0)
    codes = outside.astype(np.int64)
    return RateContour(level, 10**alpha, 10**place, error, codes, 10**mean_a, slope, slope_se, anchor)


def _mean(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(tried rates, ascending; mean accuracy at each)."""
    tried, place = np.unique(x, return_inverse=True)
    return tried, np.bincount(place, y) / np.bincount(place)


def _resampled(x: FloatArray, y: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Accuracies drawn again among the trainings of the same rate."""
    out = np.empty_like(y)
    for value in np.unique(x):
        same = np.flatnonzero(x == value)
        out[same] = y[generator.choice(same, len(same))]
    return out


def _crossing(x: FloatArray, y: FloatArray, level: float) -> tuple[float, int]:
    """Where y first reaches the level, by straight lines between the points; the end and -1 or 1 where it does not cross."""
    reached = np.flatnonzero(y >= level)
    if len(reached) == 0:
        return float(x[-1]), 1
    first = int(reached[0])
    if first == 0:
        return float(x[0]), -1
    low, high = y[first - 1], y[first]
    return float(x[first - 1] + (x[first] - x[first - 1]) * (level - low) / (high - low)), 0
