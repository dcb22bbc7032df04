"""Accuracy as a surface over log axes: interpolation onto a regular grid, Gaussian filtering, its width, its argmax.

A declared reconstruction of the calibration of Lee et al. 2022 (abstract): results of trainings are interpolated onto a
regular grid in log10 of the axes (linear, so that nothing overshoots; nothing outside the hull of the points), filtered
with a Gaussian that ignores missing points (normalised convolution), and the operating point is the argmax of the filtered
map. All of it is linear in the accuracies, which makes the bootstrap of the argmax cheap and exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator, interp1d
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.spatial import Delaunay, QhullError

from hil.errors import DataError
from procedures.exploration import Exploration, FloatArray

__all__ = ["SIGMAS", "Field", "Scatter", "choose_sigma", "field", "leave_one_out", "scatter"]

SIGMAS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
"""Widths of the filter that are tried, in spacings of the samples along each axis."""
_REFINE = 4
"""Cells of the grid to a spacing of the samples."""
_CELLS = 400_000
"""Largest grid; above, it is refined less."""


@dataclass(frozen=True, eq=False)
class Scatter:
    """Points in log10 of the axes, each the mean over its seeds."""

    names: tuple[str, ...]
    points: FloatArray
    """[point axis], log10."""
    value: FloatArray
    """[point]: mean validation accuracy."""
    error: FloatArray
    """[point]: its standard error, from the spread of the seeds and no less than the binomial one."""
    test: FloatArray
    """[point]: mean test accuracy."""
    test_error: FloatArray

    @property
    def spacing(self) -> FloatArray:
        """Median distance of neighbouring values along each axis, decades; scattered: edge of a point's share."""
        found = []
        for column in self.points.T:
            steps = np.diff(np.unique(np.round(column, 9)))
            scattered = len(steps) + 1 > len(self.points) / 2
            share = np.ptp(column) / max(len(self.points) ** (1 / self.points.shape[1]) - 1, 1.0)
            found.append(share if scattered else float(np.median(steps)))
        return np.array(found)


def scatter(exploration: Exploration, names: Sequence[str] | None = None) -> Scatter:
    """Finished points, seeds taken together. names: the axes, default: those that vary. DataError where there is nothing."""
    done = exploration.finished()
    if not len(done):
        raise DataError(f"{exploration.network}: no finished point: let the exploration run, or resume it")
    axes = tuple(done.varied() if names is None else names)
    if not axes:
        raise DataError(f"{exploration.network}: all points are one and the same: explore more than one value of something")
    columns = np.stack([done.axes[name] for name in axes], axis=1)
    if not bool((columns > 0).all()):
        bad = next(name for name, column in zip(axes, columns.T, strict=True) if not bool((column > 0).all()))
        raise DataError(f"{exploration.network}: {bad} is not above 0 everywhere: a log axis needs that")
    keys = np.round(np.log10(columns), 9).astype(np.float64)
    points, index = np.unique(keys, axis=0, return_inverse=True)
    index = index.ravel()
    value, error = _means(done.validation, index, len(points), done.validation_size)
    test, test_error = _means(done.test, index, len(points), done.test_size)
    return Scatter(axes, points, value, error, test, test_error)


def _means(accuracy: FloatArray, index: NDArray[np.intp], groups: int, images: int) -> tuple[FloatArray, FloatArray]:
    """(mean, standard error) of every group; seed variances are drawn towards their median, few seeds say little."""
    count = np.bincount(index, minlength=groups)
    mean: FloatArray = np.bincount(index, accuracy, groups) / count
    square = np.bincount(index, (accuracy - mean[index]) ** 2, groups)
    free = count - 1
    variance = square / np.maximum(free, 1)
    usual = float(np.median(variance[free > 0])) if bool((free > 0).any()) else 0.0
    shrunk = (_PRIOR * usual + free * variance) / (_PRIOR + free)
    # An accuracy of exactly 0 or 1 is no certainty: half an image more on either side.
    share = (mean * images + 0.5) / (images + 1)
    error: FloatArray = np.sqrt(np.maximum(shrunk, share * (1 - share) / images) / count)
    return mean, error


_PRIOR = 3.0
"""Degrees of freedom of the usual seed variance."""


@dataclass(frozen=True, eq=False)
class Field:
    """A regular grid over the points and the linear map from their accuracies to its filtered values."""

    names: tuple[str, ...]
    axes: tuple[FloatArray, ...]
    """Values of each axis, log10."""
    cells: tuple[float, ...]
    """Width of the filter by axis, in cells of the grid."""
    lattice: tuple[FloatArray, ...] | None
    """Sampled values by axis where the points are a lattice, some perhaps missing; None = scattered."""
    points: FloatArray

    def raw(self, values: FloatArray) -> FloatArray:
        """values [point] interpolated onto the grid; NaN where there is nothing to interpolate between."""
        mesh = np.stack(np.meshgrid(*self.axes, indexing="ij"), axis=-1)
        if self.lattice is None:
            if len(self.axes) == 1:
                order = np.argsort(self.points[:, 0])
                line = interp1d(self.points[order, 0], values[order], bounds_error=False)
                return np.asarray(line(self.axes[0]), dtype=np.float64)
            corners, weights, inside = self._corners
            told = np.where(inside, (values[corners] * weights).sum(axis=1), np.nan)
            return np.asarray(told.reshape(mesh.shape[:-1]), dtype=np.float64)
        table = np.full([len(axis) for axis in self.lattice], np.nan)
        place = [np.searchsorted(axis, column) for axis, column in zip(self.lattice, self.points.T, strict=True)]
        table[tuple(place)] = values
        return np.asarray(RegularGridInterpolator(self.lattice, table, bounds_error=False)(mesh), dtype=np.float64)

    @cached_property
    def _corners(self) -> tuple[NDArray[np.intp], FloatArray, NDArray[np.bool_]]:
        """Of every cell: the points [cell corner] of the simplex around it, their barycentric weights, whether there is one.

        Found once: a bootstrap asks for hundreds of maps of the same points.
        """
        mesh = np.stack(np.meshgrid(*self.axes, indexing="ij"), axis=-1).reshape(-1, len(self.axes))
        try:
            hull = Delaunay(self.points)
        except QhullError as exc:
            told = f"{len(self.points)} scattered points span no map of {', '.join(self.names)}: explore more of them"
            raise DataError(told) from exc
        simplex = hull.find_simplex(mesh)
        inside = simplex >= 0
        affine = hull.transform[np.where(inside, simplex, 0)]
        share = np.einsum("pij,pj->pi", affine[:, :-1], mesh - affine[:, -1])
        weights = np.concatenate([share, 1 - share.sum(axis=1, keepdims=True)], axis=1)
        # A flat simplex has no weights; its cells are as if nothing was there.
        inside &= np.isfinite(weights).all(axis=1)
        return hull.simplices[np.where(inside, simplex, 0)], np.where(inside[:, None], weights, 0.0), inside

    @cached_property
    def _by_axis(self) -> list[FloatArray]:
        """[cell sample] of every axis of a lattice: interpolation, filter and its normalisation."""
        found = []
        for axis, samples, sigma in zip(self.axes, self.lattice or (), self.cells, strict=True):
            between = np.stack([np.interp(axis, samples, unit) for unit in np.eye(len(samples))], axis=1)
            matrix = gaussian_filter1d(between, sigma, axis=0, mode="constant", truncate=3.0)
            found.append(matrix / matrix.sum(axis=1, keepdims=True))
        return found

    def filtered(self, values: FloatArray) -> FloatArray:
        """values [point] -> the filtered map [axis 0, axis 1, ...]; NaN where nothing was sampled near by."""
        if self.lattice is not None and len(self.points) == np.prod([len(axis) for axis in self.lattice]):
            # Nothing is missing: interpolation and filter are products of one matrix an axis.
            order = np.lexsort(self.points.T[::-1])
            found: FloatArray = values[order].reshape([len(axis) for axis in self.lattice])
            for number, matrix in enumerate(self._by_axis):
                found = np.moveaxis(np.tensordot(matrix, found, axes=(1, number)), 0, number)
            return found
        raw = self.raw(values)
        there = np.isfinite(raw)
        sigma = list(self.cells)
        weight = gaussian_filter(there.astype(np.float64), sigma, mode="constant", truncate=3.0)
        total = gaussian_filter(np.where(there, raw, 0.0), sigma, mode="constant", truncate=3.0)
        return np.where(there, total / np.where(weight > 0, weight, 1.0), np.nan)

    def where(self, place: Sequence[int]) -> dict[str, float]:
        """Values of the axes, linear, of a cell of the grid."""
        return {name: float(10 ** axis[k]) for name, axis, k in zip(self.names, self.axes, place, strict=True)}

    def at(self, grid: FloatArray, point: Mapping[str, float]) -> float:
        """A map of this field at a point (linear values), linear in log axes; NaN outside."""
        column = np.array([[np.log10(point[name]) for name in self.names]])
        return float(RegularGridInterpolator(self.axes, grid, bounds_error=False)(column)[0])


def field(data: Scatter, sigma: float) -> Field:
    """The grid of a scatter and a filter ``sigma`` spacings wide. DataError for fewer than two values of an axis."""
    lattice = tuple(np.unique(column) for column in data.points.T)
    for name, axis in zip(data.names, lattice, strict=True):
        if len(axis) < 2:
            raise DataError(f"{name}: has a single value: a map needs two at least; leave the axis out")
    full = int(np.prod([len(axis) for axis in lattice]))
    is_lattice = len(data.points) >= full / 2
    refine = _REFINE
    while refine > 1 and np.prod([refine * (np.ptp(axis) / step) + 1 for axis, step in _spans(data, lattice)]) > _CELLS:
        refine -= 1
    axes = tuple(
        np.linspace(axis[0], axis[-1], max(2, round(refine * float(np.ptp(axis)) / float(step)) + 1))
        for axis, step in _spans(data, lattice)
    )
    widths = tuple(float(sigma * step / (axis[1] - axis[0])) for axis, step in zip(axes, data.spacing, strict=True))
    return Field(data.names, axes, widths, lattice if is_lattice else None, data.points)


def _spans(data: Scatter, lattice: tuple[FloatArray, ...]) -> list[tuple[FloatArray, float]]:
    return list(zip(lattice, data.spacing.tolist(), strict=True))


def leave_one_out(data: Scatter, sigma: float) -> float:
    """Root mean square error of every point as the filter tells it from all others."""
    scaled = data.points / (sigma * data.spacing)
    square = ((scaled[:, None, :] - scaled[None, :, :]) ** 2).sum(axis=2)
    kernel = np.exp(-0.5 * square)
    np.fill_diagonal(kernel, 0.0)
    weight = kernel.sum(axis=1)
    seen = weight > 1e-12
    if not bool(seen.any()):
        return float("inf")
    told = (kernel @ data.value)[seen] / weight[seen]
    return float(np.sqrt(np.mean((told - data.value[seen]) ** 2)))


def choose_sigma(data: Scatter) -> tuple[float, dict[float, float]]:
    """(the width with the smallest leave-one-out error, that error by width)."""
    errors = {sigma: leave_one_out(data, sigma) for sigma in SIGMAS}
    return min(errors, key=lambda sigma: errors[sigma]), errors
