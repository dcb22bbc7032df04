"""``hil explore``: the joint space of asymmetries and hyper-parameters, trained as populations.

Tiki-Taka, plain SGD and the digital reference side by side; what is selected on is the validation accuracy, what is
reported the test accuracy. References come from an aggregated zero shift on every replica, other calibration values are
nominal. Every chunk is in the record as soon as it is done: a run that was killed goes on behind its last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hil.bench import Bench
from hil.datasets import Dataset, load
from hil.errors import DataError, UsageError
from hil.ledger import Ledger
from hil.procedure import Procedure
from hil.progress import progress
from hil.report.section import Table
from procedures.design import design
from procedures.exploration import Exploration
from procedures.explore_chunk import has_boards, train_chunk
from procedures.explore_cluster import spread
from procedures.explore_config import ExploreConfig
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
    neurons = config.activation if config.spiking is None else config.spiking.name
    # A folder by its own name: where it lies on this machine says nothing of the network.
    return f"{Path(config.dataset).name}{limited} {widths} {neurons}, batch {config.batch}, {config.epochs} epochs"


def explore(bench: Bench, config: ExploreConfig, ledger: Ledger) -> ExploreResult:
    """Train every point of the design that the record does not have yet.

    On the bench, or chunk by chunk on a cluster. UsageError for an axis that a board does not have, for a board on a
    cluster, or a data set without a validation part.
    """
    data = load(config.dataset, classes=config.classes, pool=config.pool, limit=config.limit)
    sizes = len(data.validation_y), len(data.test_y)
    if not all(sizes):
        raise UsageError(f"{config.dataset}: has no validation part to select on: give another data set, or a higher limit")
    boards = has_boards(bench)
    if config.cluster and boards:
        raise UsageError(f"explore.cluster: {bench.name} is a board, which is in one place: leave it out")
    whole = design(config, network_name(config, data), sizes, boards)
    whole, done = _so_far(whole, ledger)
    chunks = _chunks(whole, done, 1 if boards else config.chunk)
    pace = _Pace(whole)
    with progress(f"explore {len(whole)} trainings", len(whole) * config.epochs) as advance:
        advance(int(done.sum()) * config.epochs, "")
        if config.cluster:
            results = _elsewhere(bench, config, whole, data, chunks, advance)
        else:
            results = _here(bench, config, whole, data, chunks, advance)
        for which, validation, test in results:
            whole.validation[which], whole.test[which] = validation, test
            algorithm, left_s = whole.algorithm[which[0]], pace.left_s(which)
            best = float(np.nanmax(whole.chosen(algorithm).test))
            arrays = {"point": which, "validation": validation, "test": test}
            ledger.event("explored", {"algorithm": algorithm, "points": len(which), "left_s": round(left_s, 1)}, arrays)
            whole.save(ledger.folder)
            advance(0, f"about {_duration(left_s)} left by the chunks so far; {algorithm}: best {100 * best:.1f} %")
    file = whole.save(ledger.folder)
    _record(ledger, whole)
    if config.specify and {"tiki_taka", "digital"} <= set(whole.algorithm) and {"alpha_a", "alpha_c"} <= set(whole.varied()):
        _specify(whole, ledger)
    return ExploreResult(whole, str(file))


def _specify(whole: Exploration, ledger: Ledger) -> None:
    """On to the operating point and the specification. Where there is none the record says why: the trainings are done."""
    # Imported here: these procedures read what this one makes.
    from procedures.calibrate import calibrate_exploration
    from procedures.specify import specify_exploration

    try:
        calibrate_exploration(whole, ledger)
        specify_exploration(whole, ledger)
    except DataError as exc:
        ledger.event("unspecified", {"reason": str(exc)})


Advance = Callable[[int, str], None]
Results = Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]]
"""(points, validation, test) of a chunk."""


def _here(
    bench: Bench, config: ExploreConfig, whole: Exploration, data: Dataset, chunks: list[Any], advance: Advance
) -> Results:
    for which in chunks:
        validation, test = train_chunk(bench, config, whole.some(which), data, advance)
        yield which, validation.numpy(), test.numpy()


def _elsewhere(
    bench: Bench, config: ExploreConfig, whole: Exploration, data: Dataset, chunks: list[Any], advance: Advance
) -> Results:
    """On the workers of a cluster; nobody hears of the epochs there."""
    for which, validation, test in spread(config.cluster, bench.config, config, data, whole, chunks):
        advance(len(which) * config.epochs, "")
        yield which, validation, test


class _Pace:
    """How long the rest takes, from the whole chunks of this run: set-up, zero shift and tests are in there."""

    def __init__(self, whole: Exploration) -> None:
        self.algorithm = whole.algorithm
        self.left = np.isnan(whole.validation)
        self.began = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.points: dict[str, int] = {}

    def left_s(self, which: np.ndarray[Any, Any]) -> float:
        """Second, once these points are done: algorithm by algorithm, what its points took so far."""
        now, name = time.monotonic(), self.algorithm[which[0]]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.began
        self.points[name] = self.points.get(name, 0) + len(which)
        self.began, self.left[which] = now, False
        rest = [self.algorithm[k] for k in np.flatnonzero(self.left)]
        # Of an algorithm not seen yet the dearest so far is supposed, so that an estimate is rather too long.
        each = {seen: self.seconds[seen] / self.points[seen] for seen in self.seconds}
        return sum(each.get(one, max(each.values())) for one in rest)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


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
        ledger.result(f"accuracy, {algorithm}", point.test, "1", description)


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
