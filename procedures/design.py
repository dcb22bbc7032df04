"""The points of an exploration: a grid, a Sobol sequence, or a list."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy.stats import qmc

from hil.errors import UsageError
from procedures.exploration import Exploration, FloatArray
from procedures.explore_config import AXES, AlgorithmKey, ExploreConfig

__all__ = ["ALPHAS", "design"]

ALPHAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Asymmetries of A and C where none are given."""


def design(config: ExploreConfig, network: str, sizes: tuple[int, int], own_devices: bool = False) -> Exploration:
    """Every training that is asked for, none of it done; algorithm after algorithm, seeds innermost.

    sizes: images of the validation and of the test part. own_devices: they are on a board and have the asymmetry that
    they have: alpha, states, noise and symmetry point are no axes (NaN). UsageError for a point that cannot be.
    """
    values = _values(config, own_devices)
    rows: list[tuple[AlgorithmKey, dict[str, float]]] = []
    if config.design == "list":
        rows = [_listed(number, point, values) for number, point in enumerate(config.points)]
    else:
        for algorithm in config.algorithms:
            axes = {name: values[name] for name in AXES[algorithm]}
            rows += [(algorithm, point) for point in _points(config, axes, algorithm)]
    names = list(dict.fromkeys(itertools.chain(*AXES.values())))
    every = [(algorithm, point, seed) for algorithm, point in rows for seed in range(config.seeds)]
    nothing = np.full(len(every), np.nan)
    axes_of = {name: np.array([point.get(name, np.nan) for _, point, _ in every]) for name in names}
    return Exploration(
        network,
        {name: column for name, column in axes_of.items() if bool(np.isfinite(column).any())},
        tuple(algorithm for algorithm, _, _ in every),
        np.array([config.first_seed + seed for _, _, seed in every], dtype=np.int64),
        nothing,
        nothing.copy(),
        *sizes,
    )


_DEVICES = ("alpha_a", "alpha_c", "states", "c2c", "sp")


def _values(config: ExploreConfig, own_devices: bool) -> dict[str, tuple[float, ...]]:
    """Values by axis; on a board those of its devices are NaN."""
    values = {name: getattr(config, name) for name in dict.fromkeys(itertools.chain(*AXES.values()))}
    if own_devices:
        for name in _DEVICES:
            if name in config.model_fields_set:
                raise UsageError(
                    f"explore.{name}: the devices of a board have the {name} that they have: leave it out on this bench"
                )
        return values | dict.fromkeys(_DEVICES, (float("nan"),))
    return {name: ALPHAS if value is None else value for name, value in values.items()}


def _points(config: ExploreConfig, axes: dict[str, tuple[float, ...]], algorithm: AlgorithmKey) -> list[dict[str, float]]:
    if config.design == "grid" or algorithm == "digital":
        return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    spread = [name for name, given in axes.items() if min(given) < max(given)]
    fixed = {name: given[0] for name, given in axes.items() if name not in spread}
    if not spread:
        return [fixed]
    # A Sobol sequence is balanced at powers of two; a part of the next one is still evenly spread.
    draws = qmc.Sobol(len(spread), scramble=True, seed=config.design_seed).random_base2((config.samples - 1).bit_length())
    columns = {name: _between(axes[name], draws[: config.samples, k], name) for k, name in enumerate(spread)}
    return [
        fixed | {name: float(columns[name][number]) for name in spread} for number in range(len(draws[: config.samples]))
    ]


def _between(ends: tuple[float, ...], draw: FloatArray, name: str) -> FloatArray:
    """Log-spaced where the axis is above 0 everywhere; whole numbers for counts."""
    low, high = min(ends), max(ends)
    value = low * (high / low) ** draw if low > 0 and name != "sp" else low + (high - low) * draw
    return np.rint(value) if name == "transfer_every" else np.asarray(value)


def _listed(
    number: int, given: dict[str, Any], values: dict[str, tuple[float, ...]]
) -> tuple[AlgorithmKey, dict[str, float]]:
    where, point = f"explore.points.{number}", dict(given)
    algorithm = point.pop("algorithm", "tiki_taka")
    if algorithm not in AXES:
        raise UsageError(f"{where}.algorithm: {algorithm!r} is unknown: one of {', '.join(AXES)}")
    axes = AXES[algorithm]
    for name, value in point.items():
        if name not in axes:
            raise UsageError(f"{where}.{name}: is no axis of {algorithm}: one of {', '.join(axes)}")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not np.isfinite(value):
            raise UsageError(f"{where}.{name}: {value!r} is no number: give a finite one")
        if name not in ("sp", "gamma", "c2c") and value <= 0:
            raise UsageError(f"{where}.{name}: {value:g} is not above 0: give a number above 0")
    return algorithm, {name: float(point.get(name, values[name][0])) for name in axes}
