"""The least squares of branches against curves made by the formula itself, without noise, and with noise of known size."""

from __future__ import annotations

import numpy as np
import pytest

from procedures.fits import end_of_range, fit_branch, shrunk, step_at_symmetry_point, symmetry_point

EVERY, READS, CYCLES = 5, 40, 3


def branches(d_up, s_up, d_down, s_down, high=np.inf, low=-np.inf, noise=0.0, read=0.0, cells=1, seed=0):
    """Readings [cell cycle read] of up and of down branches, pulse by pulse, from 0."""
    random = np.random.default_rng(seed)
    w = np.zeros(cells)
    out = {1: np.empty((cells, CYCLES, READS + 1)), -1: np.empty((cells, CYCLES, READS + 1))}
    last = w + read * random.standard_normal(cells)
    for cycle in range(CYCLES):
        for sign in (1, -1):
            out[sign][:, cycle, 0] = last
            for number in range(1, READS + 1):
                for _ in range(EVERY):
                    step = d_up - s_up * w if sign > 0 else d_down + s_down * w
                    w = np.clip(w + sign * step * (1 + noise * random.standard_normal(cells)), low, high)
                last = w + read * random.standard_normal(cells)
                out[sign][:, cycle, number] = last
    return out[1], -out[-1]


def fits(*args, noise=0.0, read=0.0, cells=1, **kwargs):
    rising, falling = branches(*args, noise=noise, read=read, cells=cells, **kwargs)
    variances = np.full(cells, read**2), np.full(cells, (noise * 0.01) ** 2)
    return fit_branch(rising, EVERY, *variances), fit_branch(falling, EVERY, *variances)


def test_soft_bounds_without_noise():
    up, down = fits(0.01, 0.012, 0.008, 0.02)
    np.testing.assert_allclose([up.d[0], up.s[0], up.end[0]], [0.01, 0.012, 0.01 / 0.012], rtol=1e-9)
    np.testing.assert_allclose([down.d[0], down.s[0], down.end[0]], [0.008, 0.02, 0.008 / 0.02], rtol=1e-9)
    np.testing.assert_allclose(symmetry_point(up, down)[0], 0.002 / 0.032, rtol=1e-9)
    np.testing.assert_allclose(step_at_symmetry_point(up, down)[0], (0.01 * 0.02 + 0.008 * 0.012) / 0.032, rtol=1e-9)
    np.testing.assert_allclose(end_of_range(up, down)[0], 0.01 / 0.012, rtol=1e-9)


def test_hard_bounds_are_left_out():
    up, down = fits(0.01, 0.002, 0.01, 0.004, high=0.6, low=-0.5)
    assert up.clipped.all()
    assert down.clipped.all()
    np.testing.assert_allclose([up.d[0], up.s[0], down.d[0], down.s[0]], [0.01, 0.002, 0.01, 0.004], rtol=1e-7)
    np.testing.assert_allclose([end_of_range(up, down)[0][0], end_of_range(down, up)[0][0]], [0.6, 0.5], rtol=1e-12)


def test_constant_steps_have_no_slope():
    up, down = fits(0.01, 0.0, 0.01, 0.0, high=0.6, low=-0.5)
    np.testing.assert_allclose([up.d[0], up.s[0], down.s[0]], [0.01, 0.0, 0.0], rtol=1e-9, atol=1e-12)


def test_range_that_was_not_covered_has_a_large_error():
    up, down = fits(1e-4, 1e-4, 1e-4, 1e-4)
    end, error = end_of_range(up, down)
    np.testing.assert_allclose(end, up.reached)
    np.testing.assert_allclose(error, 1 - up.reached, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "read"), [(0.3, 0.0), (0.3, 0.003), (0.02, 0.02)])
def test_estimates_are_unbiased_and_their_errors_right(noise, read):
    """1,000 cells. |mean z| sqrt(1000) > 4.9: false alarm 1e-6, catches a bias of 0.16 standard errors, here less than
    0.3 % of a slope. Coverage of 95 % bars in 90 % to 98.5 %: five binomial sigma and more, catches errors off by 20 %."""
    cells = 1000
    up, down = fits(0.01, 0.012, 0.008, 0.02, noise=noise, read=read, cells=cells, seed=7)
    sp, sp_se = symmetry_point(up, down)
    step, step_var, _ = step_at_symmetry_point(up, down)
    for z in (
        (up.s - 0.012) / np.sqrt(up.var_s), (down.s - 0.02) / np.sqrt(down.var_s), (sp - 0.0625) / sp_se,
        (step - 0.00925) / np.sqrt(step_var), (up.end - 0.01 / 0.012) / up.end_se,
    ):  # fmt: skip
        assert abs(z.mean()) * np.sqrt(cells) < 4.9
        assert (np.abs(z) < 1.96).mean() > 0.90
        assert (np.abs(z) < 1.96).mean() < 0.985


def test_noisy_values_are_drawn_to_the_median():
    random = np.random.default_rng(1)
    alike = 1 + 0.1 * random.standard_normal(2000)
    assert shrunk(alike, np.full(2000, 0.1)).std() < 0.03
    apart = 1 + random.standard_normal(2000)
    np.testing.assert_allclose(shrunk(apart, np.full(2000, 0.01)), apart, atol=1e-3)
    np.testing.assert_array_equal(shrunk(alike[:2], np.full(2, 0.1)), alike[:2])
