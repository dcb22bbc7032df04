"""How the checks decide: bounds that a sound board crosses with a probability of at most ALARM per check.

Normal and t bounds are used on means, whose distribution does not hang on that of a single reading.
"""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

__all__ = ["ALARM", "mean_bound", "normal_bound", "pooled_variance", "slope", "spread_ratio"]

ALARM = 1e-6
"""False alarms of one check on a sound board, probability."""


def normal_bound(comparisons: int = 1) -> float:
    """Standard deviations that none of so many normal numbers exceeds, but with probability ALARM."""
    return float(stats.norm.isf(ALARM / 2 / comparisons))


def mean_bound(values: Tensor) -> float:
    """How far the mean of ``values`` may lie from the mean of what they were drawn from (Student's t, two-sided)."""
    n = values.numel()
    spread = float(values.double().std())
    return float(stats.t.isf(ALARM / 2, n - 1)) * spread / math.sqrt(n)


def spread_ratio(freedom: int, freedom_below: float = math.inf) -> float:
    """Ratio of two measured variances of one true variance that is not exceeded, but with probability ALARM.

    freedom: of the upper variance; freedom_below: of the lower one, infinite where it is known.
    """
    if math.isinf(freedom_below):
        return float(stats.chi2.isf(ALARM, freedom)) / freedom
    return float(stats.f.isf(ALARM, freedom, freedom_below))


def pooled_variance(values: Tensor) -> tuple[float, int]:
    """Variance along the first axis, pooled over the others, and its degrees of freedom."""
    n = values.shape[0]
    deviation = (values - values.mean(dim=0)).double()
    freedom = (n - 1) * (values.numel() // n)
    return float(torch.sum(deviation**2)) / freedom, freedom


def slope(y: Tensor, x: Tensor) -> tuple[float, float]:
    """(slope of y over x through the origin, how far it may lie from the true one); y, x: a value for each cell.

    What differs from cell to cell in both alike, as the size of steps does, is no error.
    """
    power = float((x**2).sum())
    found = float((y * x).sum()) / power
    return found, mean_bound(x * (y - found * x) / power * x.numel())
