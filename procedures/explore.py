"""``hil explore``: the joint space of asymmetries and hyper-parameters, trained as populations.

Tiki-Taka, plain SGD and the digital reference side by side; what is selected on is the validation accuracy, what is
reported the test accuracy. References come from an aggregated zero shift on every replica, other calibration values are
nominal. Every chunk is in the record as soon as it is done: a run that was killed goes on behind its last one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hil.bench import Bench
from hil.datasets import Dataset, load
from hil.errors import UsageError
from hil.ledger import Ledger
from hil.procedure import Procedure
from hil.progress import progress
from hil.report.section import Table
from procedures.design import design
from procedures.exploration import Exploration
from procedures.explore_chunk import train_chunk
from procedures.explore_config import AXES, ExploreConfig
from procedures.explore_report import best_points, explore_sections

__all__ = ["ExploreResult", "explore", "headline", "network_name", "procedure"]


@dataclass(frozen=True)
class ExploreResult:
    """What was explored; ``exploration.json`` in the folder of the run holds the same."""

    exploration: Exploration
    file: str


def network_name(config: ExploreConfig, data: Dataset) -> str:
    """What a specification of this exploration holds for."""
    widths = "-".join(map(str, (data.train_x.shape[1], *config.hidden, len(data.classes))))
    limited = "" if config.limit is None else f" limited to {config.limit}"
    return f"{config.dataset}{limited} {widths} {config.activation}, batch {config.batch}, {config.epochs} epochs"


def explore(bench: Bench, config: ExploreConfig, ledger: Ledger) -> ExploreResult:
    """Train every point of the design that the record does not have yet.

    UsageError for an axis that real devices do not have, or a data set without a validation part.
    """
    data = load(config.dataset, classes=config.classes, pool=config.pool, limit=config.limit)
    sizes = len(data.validation_y), len(data.test_y)
    if not all(sizes):
        raise UsageError(f"{config.dataset}: has no validation part to select on: give another data set, or a higher limit")
    whole = design(config, network_name(config, data), sizes, bench.physical)
    whole, done = _so_far(whole, ledger)
    with progress(f"explore {len(whole)} trainings", len(whole) * config.epochs) as advance:
        advance(int(done.sum()) * config.epochs, "")
        for which in _chunks(whole, done, 1 if bench.physical else config.chunk):
            points = whole.some(which)
            validation, test = train_chunk(bench, config, points, data, advance)
            whole.validation[which], whole.test[which] = validation.numpy(), test.numpy()
            arrays = {"point": which, "validation": whole.validation[which], "test": whole.test[which]}
            ledger.event("explored", {"algorithm": points.algorithm[0], "points": len(which)}, arrays)
            whole.save(ledger.folder)
            advance(0, f"{points.algorithm[0]}: best {100 * np.nanmax(whole.chosen(points.algorithm[0]).test):.1f} %")
    file = whole.save(ledger.folder)
    _record(ledger, whole)
    if config.specify and set(AXES) <= set(whole.algorithm):
        # Imported here: these procedures read what this one makes.
        from procedures.calibrate import calibrate_exploration
        from procedures.specify import specify_exploration

        calibrate_exploration(whole, ledger)
        specify_exploration(whole, ledger)
    return ExploreResult(whole, str(file))


def _so_far(whole: Exploration, ledger: Ledger) -> tuple[Exploration, np.ndarray[Any, Any]]:
    """The exploration with what the record has of it, and which points those are, bool [point]."""
    validation, test, done = whole.validation.copy(), whole.test.copy(), np.zeros(len(whole), dtype=bool)
    for event in ledger.run.events("explored"):
        arrays = ledger.run.arrays(event.number)
        place = arrays["point"]
        validation[place], test[place], done[place] = arrays["validation"], arrays["test"], True
    return replace(whole, validation=validation, test=test), done


def _chunks(whole: Exploration, done: np.ndarray[Any, Any], size: int) -> list[np.ndarray[Any, Any]]:
    """Indices of what is left, of one algorithm each, ``size`` at most."""
    parts = []
    for algorithm in dict.fromkeys(whole.algorithm):
        left = np.flatnonzero(~done & np.array([name == algorithm for name in whole.algorithm]))
        parts += [left[start : start + size] for start in range(0, len(left), size)]
    return parts


def _record(ledger: Ledger, whole: Exploration) -> None:
    for algorithm, point in best_points(whole).items():
        where = ", ".join(f"{name} {value:g}" for name, value in point.where.items())
        description = f"test accuracy at the best validation accuracy ({where}), {point.seeds} seed(s)"
        ledger.result(f"{algorithm}: accuracy", point.test, "1", description)


def headline(result: ExploreResult) -> Table:
    """The best point of every algorithm."""
    rows = tuple(
        (algorithm, ", ".join(f"{n} {v:g}" for n, v in point.where.items()), f"{100 * point.validation:.2f}",
         f"{100 * point.test:.2f} ± {100 * point.test_error:.2f}")
        for algorithm, point in best_points(result.exploration).items()
    )  # fmt: skip
    heads = ("algorithm", "best point by validation accuracy", "validation (%)", "test (%)")
    return Table(f"{result.exploration.network}: {len(result.exploration)} trainings", heads, rows)


procedure = Procedure(
    "explore", ExploreConfig, explore, "train a whole map of asymmetries and hyper-parameters", explore_sections,
    headline=headline,
)  # fmt: skip
"""The entry point."""
