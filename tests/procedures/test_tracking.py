"""The filter against the closed form, and its errors against the scatter of what it finds."""

from __future__ import annotations

import numpy as np
import pytest

from procedures.alternating import AlternatingSums
from procedures.tracking import Tracker

S_UP, S_DOWN, SP = 0.012, 0.02, 7.0


def pulses(pairs, start, cells, cycle, read, seed):
    """In steps: first reading [cell], readings [cell read]."""
    random = np.random.default_rng(seed)
    x = np.full(cells, start)
    first = x + read * random.standard_normal(cells)
    y = np.empty((cells, 2 * pairs))
    for number in range(2 * pairs):
        sign, s = (1, S_UP) if number % 2 == 0 else (-1, S_DOWN)
        x = x + sign * (1 - sign * s * (x - SP)) * (1 + cycle * random.standard_normal(cells))
        y[:, number] = x + read * random.standard_normal(cells)
    return first, y


def tracker(first, cycle, read, step_sd=1.0, slopes=(S_UP, S_DOWN), slope_errors=(0.0, 0.0)):
    one = np.ones_like(first)
    noise = max(cycle, 1e-3) ** 2 * one, max(read, 1e-6) ** 2 * one
    return Tracker.start(
        first, noise[1], 1e4 * one, step_sd**2 * one, (slopes[0] * one, slopes[1] * one),
        (slope_errors[0] * one, slope_errors[1] * one), *noise,
    )  # fmt: skip


def test_found_at_once_without_noise():
    first, y = pulses(20, -30.0, 3, 0.0, 0.0, 0)
    found = tracker(first, 0.0, 0.0)
    found.add(y)
    np.testing.assert_allclose(found.estimate()[0], SP, rtol=1e-6)


def test_is_the_closed_form_where_nothing_is_known_of_the_step():
    """Constant noise, no read noise, flat priors: least squares is the telescoped sum, T4 with its transient."""
    random = np.random.default_rng(2)
    first, x, y = np.zeros(5), np.zeros(5), np.empty((5, 400))
    for number in range(400):
        sign, s = (1, S_UP) if number % 2 == 0 else (-1, S_DOWN)
        x = x + sign * (1 - sign * s * (x - SP)) + 0.01 * random.standard_normal(5)
        y[:, number] = x
    found = tracker(first, 0.01, 0.0, step_sd=100.0)
    found.add(y)
    sums = AlternatingSums(first)
    sums.add(y)
    closed = (S_UP * sums.mean("x") + S_DOWN * sums.mean("x1") + sums.last / 200) / (S_UP + S_DOWN)
    # The filter lets the noise grow with the step, which differs by the distance travelled, about a tenth.
    np.testing.assert_allclose(found.estimate()[0], closed, atol=0.2 * float(found.estimate()[1].mean()))


def test_calls_may_be_split():
    first, y = pulses(30, 0.0, 4, 0.3, 0.1, 1)
    one, other = (tracker(first, 0.3, 0.1) for _ in range(2))
    one.add(y)
    other.add(y[:, :2])
    other.keep(np.array([True, False, True, True]))
    assert other.count.tolist() == [2, 2, 2]
    other.add(y[[0, 2, 3], 2:])
    for a, b in zip(one.estimate(), other.estimate(), strict=True):
        np.testing.assert_allclose(a[[0, 2, 3]], b, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("cycle", "read", "start"), [(0.3, 0.0, 7.0), (0.3, 0.0, 40.0), (0.3, 3.0, -30.0), (0.0, 1.0, 0.0)])
def test_errors_cover(cycle, read, start):
    """2,000 cells. |mean z| sqrt(2000) < 4.9: false alarm 1e-6, catches a bias of 0.11 standard errors. Coverage of 95 %
    bars in 92.5 % to 97.5 %: five binomial sigma, catches errors off by 13 %."""
    cells = 2000
    first, y = pulses(400, start, cells, cycle, read, 5)
    found = tracker(first, cycle, read)
    for piece in np.split(y, 4, axis=1):
        found.add(piece)
    w, error = found.estimate()
    z = (w - SP) / error
    assert abs(z.mean()) * np.sqrt(cells) < 4.9
    assert 0.925 < (np.abs(z) < 1.96).mean() < 0.975


@pytest.mark.slow
def test_errors_of_the_slopes_are_passed_on():
    """Far from the symmetry point, and over fewer pulses than it takes to get there, the slopes' errors dominate."""
    cells, spread = 2000, 0.1
    first, y = pulses(50, 60.0, cells, 0.05, 0.0, 6)
    random = np.random.default_rng(8)
    up, down = (s * (1 + spread * random.standard_normal(cells)) for s in (S_UP, S_DOWN))
    errors = (S_UP * spread, S_DOWN * spread)
    blind, aware = (tracker(first, 0.05, 0.0, slopes=(up, down), slope_errors=e) for e in ((0, 0), errors))
    blind.add(y)
    aware.add(y)
    z = (aware.estimate()[0] - SP) / aware.estimate()[1]
    assert 0.91 < (np.abs(z) < 1.96).mean() < 0.98
    assert (np.abs(blind.estimate()[0] - SP) < 1.96 * blind.estimate()[1]).mean() < 0.8
