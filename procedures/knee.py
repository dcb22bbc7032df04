"""The knee of a contour of equal accuracy: the asymmetry at which A begins to forget within one training.

From theory T6 and T8, for a constant mean gradient: A follows lr_A E[g] T (1 - exp(-t / T)), and what C gets from it in a
training of N samples is proportional to lr_C T (N - T (1 - exp(-N / T))), T = b_A / (g_A lr_A E|g|). Equal accuracy asks for
an equal product, so that

    lr_C ~ h(u),  h(u) = u / (1 - (1 - exp(-u)) / u),  u = N / T = alpha_A / alpha_1,  alpha_1 = b_w / (lr_A E|g| N)

flat (h = 2) where T_A outlasts the training, of slope 1 where it is short. alpha_1 is inversely proportional to E|g|.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from procedures.exploration import FloatArray
from procedures.explore_chunk import BOUND_WEIGHT
from procedures.rate_contour import RateContour

__all__ = ["Knee", "find_knee", "predicted_knee", "rate_law"]

_REACH = 3.0
"""Decades beyond the crossed asymmetries in which a knee is looked for."""


@dataclass(frozen=True)
class Knee:
    """Fitted to a contour. NaN with fewer than 4 crossings."""

    alpha: float
    """alpha_1: where T_A is as long as the training."""
    error: float
    """Standard error of log10 alpha_1; infinite where the crossings show no knee, or an end of the search was reached."""
    level: float
    """log10 of the rate on the flat side."""
    chi_square: float
    """Per degree of freedom, with the errors of the contour."""


def rate_law(u: FloatArray) -> FloatArray:
    """h(u) of the module, u > 0; its limit 2 + 2 u / 3 below 1e-4, where the difference loses its digits."""
    safe = np.maximum(u, 1e-4)
    return np.where(u < 1e-4, 2 + 2 * u / 3, safe / (1 - (1 - np.exp(-safe)) / safe))


def predicted_knee(lr_a: float, mean_gradient: float, samples: int) -> float:
    """alpha_1 from E|g| (weight per unit of learning rate) and the samples of one training."""
    return BOUND_WEIGHT / (lr_a * mean_gradient * samples)


def find_knee(contour: RateContour) -> Knee:
    """Weighted least squares over the asymmetries that cross the level."""
    inside = contour.outside == 0
    x, y, error = (np.asarray(v)[inside] for v in (np.log10(contour.alpha_a), np.log10(contour.rate), contour.error))
    if len(x) < 4:
        return Knee(float("nan"), float("nan"), float("nan"), float("nan"))

    def misfit(p: FloatArray) -> FloatArray:
        return np.asarray((p[0] + np.log10(rate_law(10 ** (x - p[1])) / 2) - y) / error)

    low, high = x[0] - _REACH, x[-1] + _REACH
    # Convex near its minimum only: begun at every decade, the best is taken.
    fits = [
        least_squares(misfit, [y.min(), begin], bounds=([-np.inf, low], [np.inf, high]))
        for begin in np.arange(low + 0.5, high)
    ]
    best = min(fits, key=lambda fit: float(fit.cost))
    free = max(len(x) - 2, 1)
    chi_square = 2 * float(best.cost) / free
    normal = best.jac.T @ best.jac
    at_end = min(best.x[1] - low, high - best.x[1]) < 0.1
    if at_end or np.linalg.cond(normal) > 1e12:
        spread = float("inf")
    else:
        # Where the law itself does not fit within the errors they are widened by as much.
        spread = float(np.linalg.inv(normal)[1, 1] ** 0.5 * max(chi_square, 1.0) ** 0.5)
    return Knee(float(10 ** best.x[1]), spread, float(best.x[0]), chi_square)
