"""How good the calibration is: coverage of its region on a known surface, and regret against other ways to choose.

    python benchmarks/calibration.py [--repetitions 200] [--exploration FILE] [--trainings 32,64,128] [--short]

Coverage: a concave surface of stated curvature over two log axes with binomial noise of 360 images; how often the bootstrap
region holds the argmax of the smoothed noise-free surface, and of the unsmoothed one. Regret: what the chosen point of a
stored dense exploration (or of the same surface) loses against the best one, by the accuracies of held-out seeds, at an
equal number of trainings: argmax of the filtered map, raw argmax of the same points, random search with single trainings,
and Optuna's TPE where it is installed. Every line has 95 % intervals of the paired difference against the filtered map.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import emit

from procedures.calibrate import locate
from procedures.exploration import Exploration, FloatArray
from procedures.surface import Scatter, choose_sigma, field

IMAGES = 360
CURVATURE = (0.06, 0.09)
"""Loss of accuracy at one decade from the optimum, by axis."""
TOP = 0.96
SIDE = 9


def surface(points: FloatArray, centre: FloatArray) -> FloatArray:
    """Accuracy at log10 points [point 2]: TOP at the centre, a paraboloid that never falls below chance."""
    return np.maximum(TOP - ((points - centre) ** 2 * CURVATURE).sum(axis=1), 0.1)


def coverage(repetitions: int, seed: int) -> dict[str, Any]:
    """Share of repetitions whose region holds the true optima."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1.5, 1.5, SIDE)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    smoothed, unsmoothed, sizes = 0, 0, []
    for number in range(repetitions):
        centre = rng.uniform(-0.6, 0.6, 2)
        truth = surface(points, centre)
        value = rng.binomial(IMAGES, truth) / IMAGES
        share = (value * IMAGES + 0.5) / (IMAGES + 1)
        error = np.sqrt(share * (1 - share) / IMAGES)
        data = Scatter(("x", "y"), points, value, error, value, error)
        grid = field(data, choose_sigma(data)[0])
        _, _, region = locate(data, grid, 0.95, 200, number)
        without = grid.filtered(truth)
        smoothed += bool(region[np.unravel_index(int(without.argmax()), without.shape)])
        near = tuple(int(np.abs(a - c).argmin()) for a, c in zip(grid.axes, centre, strict=True))
        unsmoothed += bool(region[near])
        sizes.append(float(region.mean()))
    return {
        "repetitions": repetitions, "curvature_per_decade2": CURVATURE, "images": IMAGES,
        "coverage_smoothed": round(smoothed / repetitions, 4), "coverage_unsmoothed": round(unsmoothed / repetitions, 4),
        "region_share_of_the_map": round(float(np.median(sizes)), 4),
    }  # fmt: skip


@dataclass(frozen=True)
class Dense:
    """A dense exploration of which every point was trained on one seed; the others tell what it is worth."""

    points: FloatArray
    """[point axis], log10."""
    validation: FloatArray
    """[point], of the seed that is trained on."""
    held_out: FloatArray
    """[point]: mean accuracy of the seeds that nobody trains on."""


def dense(exploration: Exploration, rng: np.random.Generator) -> Dense:
    """Test accuracies of held-out seeds; which seed is trained on is drawn for every point."""
    part = exploration.chosen("tiki_taka").finished()
    names = part.varied()
    keys = np.round(np.log10(np.stack([part.axes[name] for name in names], axis=1)), 9)
    points, index = np.unique(keys, axis=0, return_inverse=True)
    seeds = np.unique(part.seed)
    validation, test = (np.full((len(points), len(seeds)), np.nan) for _ in range(2))
    place = index.ravel(), np.searchsorted(seeds, part.seed)
    validation[place], test[place] = part.validation, part.test
    pick = rng.integers(len(seeds), size=len(points))
    each = np.arange(len(points))
    own = validation[each, pick]
    test[each, pick] = np.nan
    return Dense(points, own, np.nanmean(test, axis=1))


def synthetic(rng: np.random.Generator) -> Dense:
    axis = np.linspace(-1.5, 1.5, 2 * SIDE)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    truth = surface(points, rng.uniform(-0.6, 0.6, 2))
    return Dense(points, rng.binomial(IMAGES, truth) / IMAGES, truth)


def by_map(found: Dense, budget: int, rng: np.random.Generator) -> tuple[int, int]:
    """(argmax of the filtered map, raw argmax) of ``budget`` single trainings: half spread, half near the first optimum."""
    first = rng.choice(len(found.points), budget // 2, replace=False)
    best = _filtered(found, first, rng)
    distance = np.abs((found.points - found.points[best]) / np.ptp(found.points, axis=0)).max(axis=1)
    rest = np.setdiff1d(np.arange(len(found.points)), first)
    near = rest[np.argsort(distance[rest] + 0.15 * rng.random(len(rest)))][: budget - len(first)]
    chosen = np.concatenate([first, near])
    values = found.validation[chosen]
    return _filtered(found, chosen, rng), int(chosen[values.argmax()])


def _filtered(found: Dense, chosen: Any, rng: np.random.Generator) -> int:
    """Argmax over all points of the kernel-smoothed accuracies of the chosen ones: the filter where points are few."""
    value = found.validation[chosen]
    data = Scatter((), found.points[chosen], value, value, value, value)
    sigma = choose_sigma(data)[0]
    scaled = found.points / (sigma * data.spacing)
    square = ((scaled[:, None, :] - scaled[chosen][None]) ** 2).sum(axis=2)
    kernel = np.exp(-0.5 * square)
    weight = kernel.sum(axis=1)
    smooth = np.where(weight > 0.5, kernel @ value / np.maximum(weight, 1e-12), -np.inf)
    return int(smooth.argmax())


def by_chance(found: Dense, budget: int, rng: np.random.Generator) -> int:
    chosen = rng.choice(len(found.points), budget, replace=False)
    return int(chosen[found.validation[chosen].argmax()])


def by_tpe(found: Dense, budget: int, rng: np.random.Generator) -> int | None:
    """Optuna's TPE on the lattice; None where it is not installed."""
    try:
        import optuna
    except ImportError:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    axes = [np.unique(column) for column in found.points.T]
    place = {tuple(point): k for k, point in enumerate(found.points)}

    def objective(trial: Any) -> float:
        point = tuple(axis[trial.suggest_int(f"x{k}", 0, len(axis) - 1)] for k, axis in enumerate(axes))
        trial.set_user_attr("place", place[point])
        return float(found.validation[place[point]])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=int(rng.integers(2**31))))
    study.optimize(objective, n_trials=budget)
    return int(study.best_trial.user_attrs["place"])


def regret(draw: Callable[[np.random.Generator], Dense], repetitions: int, budget: int, seed: int) -> list[dict[str, Any]]:
    """Loss against the best held-out accuracy, by method, and its paired difference to the filtered map."""
    losses: dict[str, list[float]] = {}
    for number in range(repetitions):
        found = draw(np.random.default_rng((seed, number)))
        rng = np.random.default_rng((seed, number, 2))
        filtered, raw = by_map(found, budget, rng)
        picks = {"filtered map": filtered, "raw argmax": raw, "random search": by_chance(found, budget, rng)}
        tpe = by_tpe(found, budget, rng)
        picks |= {} if tpe is None else {"optuna TPE": tpe}
        truth = found.held_out
        top = float(np.nanmax(truth))
        for name, place in picks.items():
            losses.setdefault(name, []).append(100 * (top - float(truth[place])))
    own = np.array(losses["filtered map"])
    rows = []
    for name, values in losses.items():
        gap = np.array(values) - own
        half = 1.96 * gap.std(ddof=1) / len(gap) ** 0.5
        ends = [round(float(gap.mean() - half), 3), round(float(gap.mean() + half), 3)]
        row = {"method": name, "regret_points": round(float(np.mean(values)), 3)}
        rows.append(row | {"worse_than_filtered_by": round(float(gap.mean()), 3), "interval95": ends})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--exploration", help="folder or exploration.json of a dense exploration")
    parser.add_argument("--trainings", default="32,64,128")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    repetitions = 20 if args.short else args.repetitions
    emit("calibration coverage", **coverage(repetitions, args.seed))
    draw: Callable[[np.random.Generator], Dense] = synthetic
    name = "synthetic surface"
    if args.exploration:
        stored = Exploration.load(Path(args.exploration))
        name = stored.network

        def draw(rng: np.random.Generator) -> Dense:
            return dense(stored, rng)

    for trainings in map(int, args.trainings.split(",")):
        rows = regret(draw, max(repetitions // 2, 10), trainings, args.seed)
        emit("calibration regret", surface=name, trainings=trainings, repetitions=max(repetitions // 2, 10), methods=rows)
    if not any(row["method"] == "optuna TPE" for row in rows):
        print("calibration: Optuna is not installed, so TPE is not in the table", file=sys.stderr)


if __name__ == "__main__":
    main()
