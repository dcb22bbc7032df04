"""The knee of a contour of equal accuracy: its law, and that a fit finds it."""

from __future__ import annotations

import numpy as np
import pytest

from procedures.knee import find_knee, predicted_knee, rate_law
from procedures.rate_contour import RateContour


def contour(alpha: np.ndarray, rate: np.ndarray, error: float, outside: np.ndarray | None = None) -> RateContour:
    codes = np.zeros(len(alpha), dtype=np.int64) if outside is None else outside
    nothing = float("nan")
    return RateContour(
        0.8, alpha, rate, np.full(len(alpha), error), codes, np.full(len(alpha), 0.01), nothing, nothing, nothing
    )


def test_the_law_is_what_an_integrator_with_leak_gives() -> None:
    """lr_C in inverse proportion to the sum over the training of A[t] = A[t-1] (1 - 1/T) + 1, for a long training."""
    n = 20_000
    for u in (0.01, 0.3, 1.0, 4.0, 50.0):
        leak = u / n
        held = (1 - (1 - leak) ** np.arange(1, n + 1)) / leak
        wanted = n**2 / held.sum()
        assert rate_law(np.array([u]))[0] == pytest.approx(wanted, rel=4 * max(leak, 1 / n))
    assert rate_law(np.array([1e-9]))[0] == pytest.approx(2)
    assert rate_law(np.array([1e4]))[0] == pytest.approx(1e4, rel=2e-4)


def test_the_predicted_knee_is_where_memory_is_as_long_as_the_training() -> None:
    """T_A = b_w / (alpha lr_A E|g|) samples."""
    alpha = predicted_knee(0.01, 0.004, 5750)
    assert 0.6 / (alpha * 0.01 * 0.004) == pytest.approx(5750)


@pytest.mark.parametrize("knee", [0.05, 0.7, 4.0])
def test_a_knee_is_found(knee: float) -> None:
    """Errors of 0.05 decades: |z| < 6 has a false alarm of 2e-9, and catches a shift of about 0.3 decades."""
    alpha = np.logspace(-2, 1.5, 15)
    rng = np.random.default_rng(4)
    rate = 0.003 * rate_law(alpha / knee) / 2 * 10 ** (0.05 * rng.standard_normal(len(alpha)))
    found = find_knee(contour(alpha, rate, 0.05))
    assert found.error < 0.1
    assert abs(np.log10(found.alpha / knee)) < 6 * found.error
    assert found.chi_square < 4


def test_points_that_do_not_cross_are_left_out() -> None:
    alpha = np.logspace(-2, 1.5, 15)
    rate = 0.003 * rate_law(alpha / 0.7) / 2
    outside = np.where(alpha > 10, 1, 0)
    rate[outside == 1] = 1e-9
    assert find_knee(contour(alpha, rate, 0.05, outside)).alpha == pytest.approx(0.7, rel=1e-3)


def test_a_contour_without_a_knee_gives_no_certain_one() -> None:
    alpha = np.logspace(-2, 1.5, 15)
    assert find_knee(contour(alpha, 0.01 * alpha, 0.05)).error == np.inf
    assert find_knee(contour(alpha, np.full(15, 0.01), 0.05)).error > 0.5
    assert np.isnan(find_knee(contour(alpha[:3], alpha[:3], 0.05)).alpha)
