"""Interpolation and filtering: what is exact about them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hil.errors import DataError
from procedures.surface import Scatter, choose_sigma, field, leave_one_out, scatter
from tests.procedures.explorations import lattice

AXES = {"alpha_a": (0.01, 0.1, 1.0, 10.0, 100.0), "lr_c": (0.01, 0.1, 1.0, 10.0, 100.0)}


def plane(point: dict[str, float]) -> float:
    return 0.5 + 0.05 * np.log10(point["alpha_a"]) - 0.02 * np.log10(point["lr_c"])


def made(points: np.ndarray, value: np.ndarray) -> Scatter:
    small = np.full(len(value), 0.01)
    return Scatter(("x", "y"), points, value, small, value, small)


def test_seeds_are_averaged_and_their_error_is_at_least_the_binomial_one() -> None:
    data = scatter(lattice(AXES, plane, seeds=4))
    assert data.points.shape == (25, 2)
    assert np.allclose(data.value, 0.5 + data.points @ [0.05, -0.02], atol=1e-12)
    assert np.allclose(data.error, np.sqrt(data.value * (1 - data.value) / 287 / 4), rtol=0.01)


def test_the_spread_of_seeds_is_in_the_error() -> None:
    data = scatter(lattice(AXES, plane, seeds=12, noise=0.1))
    # Pooled over 25 points with 11 degrees of freedom each: chi-square with 275, six sigmas are 26 % of the error.
    assert np.sqrt(np.mean(data.error**2)) == pytest.approx(0.1 / 12**0.5, rel=0.3)


def test_interpolation_is_exact_for_a_plane_in_log_axes() -> None:
    data = scatter(lattice(AXES, plane))
    surface = field(data, 1.0)
    mesh = np.meshgrid(*surface.axes, indexing="ij")
    assert np.allclose(surface.raw(data.value), 0.5 + 0.05 * mesh[0] - 0.02 * mesh[1], atol=1e-12)


def test_scattered_points_are_interpolated_inside_their_hull_only() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (40, 2))
    surface = field(made(points, points @ [0.1, 0.2]), 1.0)
    raw = surface.raw(points @ [0.1, 0.2])
    mesh = np.meshgrid(*surface.axes, indexing="ij")
    inside = np.isfinite(raw)
    assert 0.5 < inside.mean() < 1
    assert np.allclose(raw[inside], (0.1 * mesh[0] + 0.2 * mesh[1])[inside], atol=1e-9)


def test_the_filter_leaves_a_constant_alone_also_beside_missing_points_and_borders() -> None:
    data = scatter(lattice(AXES, lambda p: 0.75))
    keep = np.ones(25, dtype=bool)
    keep[[6, 12, 24]] = False
    less = made(data.points[keep], data.value[keep])
    filtered = field(less, 1.0).filtered(less.value)
    assert np.isnan(filtered).any()
    assert np.allclose(filtered[np.isfinite(filtered)], 0.75, atol=1e-12)


def test_the_filter_is_linear() -> None:
    data = scatter(lattice(AXES, plane))
    surface, rng = field(data, 0.7), np.random.default_rng(1)
    one, other = rng.random(25), rng.random(25)
    assert np.allclose(surface.filtered(2 * one - other), 2 * surface.filtered(one) - surface.filtered(other), atol=1e-12)


def test_an_impulse_is_spread_as_a_gaussian_of_the_width_asked_for() -> None:
    data = scatter(lattice(AXES, lambda p: 0.0))
    impulse = np.zeros(25)
    impulse[12] = 1.0
    surface = field(data, 1.0)
    filtered = surface.filtered(impulse)
    middle = tuple(int(np.argmin(np.abs(axis))) for axis in surface.axes)
    assert np.unravel_index(int(filtered.argmax()), filtered.shape) == middle
    # Linear interpolation makes a triangle of variance 1/6 of the impulse: with the filter's 1 it adds up to 7/6.
    along = filtered[:, middle[1]]
    x = surface.axes[0]
    variance = float((along * x**2).sum() / along.sum())
    # Cut at two spacings by the borders, and the weights there are fewer: 10 % either way.
    assert variance == pytest.approx(7 / 6, rel=0.25)


def test_a_rough_surface_gets_a_narrow_filter_and_a_noisy_flat_one_a_wide_one() -> None:
    rng = np.random.default_rng(2)
    points = scatter(lattice(AXES, lambda p: 0.0)).points
    noise = made(points, rng.standard_normal(25))
    wave = made(points, np.cos(points[:, 0] * np.pi / 2) + 0.001 * rng.standard_normal(25))
    assert choose_sigma(noise)[0] > choose_sigma(wave)[0]
    assert leave_one_out(noise, 2.0) < leave_one_out(noise, 0.35)


@pytest.mark.parametrize("sides", [(5, 4), (3, 4, 5), (4, 3, 3, 4)])
def test_a_complete_lattice_is_filtered_axis_by_axis_as_by_convolution(sides: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    axes = [np.sort(rng.uniform(-2, 2, side)) for side in sides]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(sides))
    points = points[rng.permutation(len(points))]
    value = rng.random(len(points))
    surface = field(Scatter(("a", "b", "c", "d")[: len(sides)], points, value, value, value, value), 0.8)
    raw = surface.raw(value)
    total, weight = (gaussian_filter(x, surface.cells, mode="constant", truncate=3.0) for x in (raw, np.ones_like(raw)))
    assert np.isfinite(raw).all()
    np.testing.assert_allclose(surface.filtered(value), total / weight, atol=1e-12)


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_scattered_points_of_a_plane_come_out_as_it(axes: int) -> None:
    rng = np.random.default_rng(5)
    points = rng.uniform(-2, 2, (60, axes))
    slopes = np.arange(1.0, axes + 1)
    value = points @ slopes
    surface = field(Scatter(("a", "b", "c", "d")[:axes], points, value, value, value, value), 1.0)
    raw, mesh = surface.raw(value), np.stack(np.meshgrid(*surface.axes, indexing="ij"), axis=-1)
    known = np.isfinite(raw)
    assert known.any()
    assert not known.all()
    np.testing.assert_allclose(raw[known], (mesh @ slopes)[known], atol=1e-9)
    assert np.isnan(surface.filtered(value)[~known]).all()


def test_scattered_points_on_a_line_span_no_map() -> None:
    points = np.repeat(np.linspace(0, 1, 9)[:, None], 2, axis=1)
    data = made(points, np.linspace(0.1, 0.9, 9))
    with pytest.raises(DataError, match="9 scattered points span no map of x, y: explore more") as caught:
        field(data, 1.0).filtered(data.value)
    assert "\n" not in str(caught.value)


def test_nothing_finished_and_axes_that_cannot_be_drawn_are_said() -> None:
    with pytest.raises(DataError, match="no finished point"):
        scatter(lattice(AXES, lambda p: float("nan")))
    with pytest.raises(DataError, match="one and the same"):
        scatter(lattice({"alpha_a": (1.0,)}, lambda p: 0.5))
    with pytest.raises(DataError, match="gamma is not above 0"):
        scatter(lattice({"gamma": (0.0, 0.1)}, lambda p: 0.5))
    data = scatter(lattice(AXES, plane), ["alpha_a"])
    assert data.points.shape == (5, 1)
