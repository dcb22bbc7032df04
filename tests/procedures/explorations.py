"""Explorations made from a formula."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np

from procedures.exploration import Exploration


def lattice(
    axes: Mapping[str, tuple[float, ...]], accuracy: Callable[[Mapping[str, float]], float], seeds: int = 2,
    noise: float = 0.0, digital: float | None = None, network: str = "a network",
) -> Exploration:  # fmt: skip
    """Tiki-Taka points on a lattice with ``accuracy`` of the point, noise on it, and a digital reference."""
    rng = np.random.default_rng(3)
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values()) for _ in range(seeds)]
    value = np.array([accuracy(point) for point in points]) + noise * rng.standard_normal(len(points))
    value = np.clip(value, 0.0, 1.0)
    columns = {name: np.array([point[name] for point in points]) for name in axes}
    names = ["tiki_taka"] * len(points)
    if digital is not None:
        value = np.concatenate([value, np.full(seeds, digital)])
        columns = {name: np.concatenate([column, np.full(seeds, np.nan)]) for name, column in columns.items()}
        columns["digital_lr"] = np.concatenate([np.full(len(points), np.nan), np.full(seeds, 0.01)])
        names += ["digital"] * seeds
    seed = np.arange(len(value)) % seeds
    return Exploration(network, columns, tuple(names), seed, value, value.copy(), 287, 360)
