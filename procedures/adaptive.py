"""Where to train next: rounds of new points round the filtered optimum of those that are done.

Round 1 looks one sample spacing to either side of the optimum of the coarse map, every further round half as far. What is
inside the window of the first round makes the map that is calibrated: coarse points far away would widen its filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from hil.errors import DataError
from procedures.exploration import Exploration, FloatArray
from procedures.surface import choose_sigma, field, scatter

__all__ = ["Evaluate", "Window", "inside", "refine"]

_COUNTS = ("transfer_every",)
"""Axes of whole numbers."""


class Evaluate(Protocol):
    """Trains points."""

    def __call__(self, points: Sequence[Mapping[str, float]], seeds: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """(validation, test) accuracy, [point], of points (value by axis, all axes) with a seed each; NaN = it failed."""


@dataclass(frozen=True)
class Window:
    """Part of the explored space: (lowest, highest) of every axis that varies, log10."""

    names: tuple[str, ...]
    low: FloatArray
    high: FloatArray


def refine(
    coarse: Exploration, evaluate: Evaluate, rounds: int, samples: int, seeds: int, design_seed: int = 0
) -> tuple[Exploration, Window]:
    """(all Tiki-Taka points, coarse and new, window of the first round). samples: new points a round, each of all seeds.

    New points are a scrambled Sobol sequence, log-spaced. DataError where the coarse map has no optimum to look around.
    """
    whole = coarse.chosen("tiki_taka").finished()
    data = scatter(whole)
    fixed = {name: float(np.unique(column)[0]) for name, column in whole.axes.items() if name not in data.names}
    explored = data.points.min(axis=0), data.points.max(axis=0)
    reach, first = data.spacing, None
    for number in range(rounds):
        window = _round(whole if first is None else inside(whole, first), data.names, reach, explored)
        first = window if first is None else first
        draws = qmc.Sobol(len(data.names), scramble=True, rng=np.random.default_rng((design_seed, number)))
        share = draws.random_base2(max(samples - 1, 1).bit_length())[:samples]
        columns = 10 ** (window.low + share * (window.high - window.low))
        points = [fixed | _point(data.names, row) for row in columns for _ in range(seeds)]
        ids = [int(seed) for _ in columns for seed in range(seeds)]
        whole = _joined(whole, points, ids, *evaluate(points, ids))
        reach = reach / 2
    if first is None:
        raise DataError(f"{coarse.network}: no round to refine in: ask for at least one")
    return whole, first


def inside(whole: Exploration, window: Window) -> Exploration:
    """The points of a window, its border among them."""
    chosen: NDArray[np.bool_] = np.ones(len(whole), dtype=bool)
    for name, low, high in zip(window.names, window.low, window.high, strict=True):
        value = np.log10(whole.axes[name])
        chosen &= (value >= low - 1e-9) & (value <= high + 1e-9)
    return whole.some(chosen)


def _round(
    points: Exploration, names: tuple[str, ...], reach: FloatArray, explored: tuple[FloatArray, FloatArray]
) -> Window:
    """As far as ``reach`` round the filtered optimum, within what was explored."""
    data = scatter(points, names)
    if float(np.ptp(data.value)) == 0.0:
        raise DataError(f"{points.network}: the map is flat: every point has the same accuracy; explore wider axes")
    surface = field(data, choose_sigma(data)[0])
    filtered = surface.filtered(data.value)
    if not bool(np.isfinite(filtered).any()):
        raise DataError(f"{points.network}: the map is empty: too few points to interpolate between them; explore more")
    place = np.unravel_index(int(np.nanargmax(filtered)), filtered.shape)
    top = np.array([axis[k] for axis, k in zip(surface.axes, place, strict=True)])
    return Window(names, np.maximum(top - reach, explored[0]), np.minimum(top + reach, explored[1]))


def _point(names: tuple[str, ...], row: FloatArray) -> dict[str, float]:
    return {
        name: max(float(np.rint(value)), 1.0) if name in _COUNTS else float(value)
        for name, value in zip(names, row, strict=True)
    }


def _joined(
    whole: Exploration, points: Sequence[Mapping[str, float]], seeds: Sequence[int], validation: FloatArray, test: FloatArray
) -> Exploration:
    """With the new points that were finished. DataError where none was."""
    good = np.isfinite(validation) & np.isfinite(test)
    if not bool(good.any()):
        raise DataError(f"{whole.network}: no new point was finished: every accuracy is NaN; look for what failed")
    new = replace(
        whole,
        axes={name: np.array([point[name] for point in points]) for name in whole.axes},
        algorithm=("tiki_taka",) * len(points),
        seed=np.array(seeds, dtype=np.int64),
        validation=validation,
        test=test,
    ).some(good)
    return replace(
        whole,
        axes={name: np.concatenate([column, new.axes[name]]) for name, column in whole.axes.items()},
        algorithm=whole.algorithm + new.algorithm,
        seed=np.concatenate([whole.seed, new.seed]),
        validation=np.concatenate([whole.validation, new.validation]),
        test=np.concatenate([whole.test, new.test]),
    )
