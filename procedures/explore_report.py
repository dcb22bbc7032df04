"""The report's part on an exploration: maps, accuracy along each asymmetry, and what can be said with what confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau, ttest_ind_from_stats

from hil.report.figures import draw_map
from hil.report.section import Figure, Section, Table
from hil.report.style import DASHES, HALF, MARKERS, colour
from hil.run_reader import RunReader
from procedures.exploration import FILE, Exploration, FloatArray

__all__ = ["Best", "along", "best_points", "explore_sections", "statements"]

CONFIDENCE = 0.95
DELTA = 0.02
"""Loss of accuracy that counts as failing, a fraction."""


@dataclass(frozen=True)
class Best:
    """The point of an algorithm with the best mean validation accuracy over its seeds."""

    where: dict[str, float]
    validation: float
    test: float
    test_error: float
    """Standard error over the seeds; NaN for a single one."""
    seeds: int


def best_points(exploration: Exploration) -> dict[str, Best]:
    """By algorithm; without those of which nothing is finished."""
    found = {}
    for algorithm in dict.fromkeys(exploration.algorithm):
        part = exploration.chosen(algorithm).finished()
        if len(part):
            found[algorithm] = _best(part)
    return found


def _best(part: Exploration) -> Best:
    names = [name for name, column in part.axes.items() if bool(np.isfinite(column).all())]
    keys = np.stack([part.axes[name] for name in names], axis=1)
    points, index = np.unique(keys, axis=0, return_inverse=True)
    index = index.ravel()
    mean = np.bincount(index, part.validation) / np.bincount(index)
    k = int(mean.argmax())
    test = part.test[index == k]
    error = float(test.std(ddof=1) / len(test) ** 0.5) if len(test) > 1 else float("nan")
    varied = part.varied()
    where = {name: float(value) for name, value in zip(names, points[k], strict=True) if name in varied}
    return Best(where, float(mean[k]), float(test.mean()), error, len(test))


def along(exploration: Exploration, algorithm: str, axis: str) -> tuple[FloatArray, list[FloatArray]]:
    """(values of an axis, test accuracies over the seeds at the point that validation chose among the others there)."""
    part = exploration.chosen(algorithm).finished()
    values = np.unique(part.axes[axis])
    found = []
    for value in values:
        here = part.some(part.axes[axis] == value)
        others = [name for name, c in here.axes.items() if name != axis and bool(np.isfinite(c).all())]
        if not others:
            found.append(here.test)
            continue
        points, index = np.unique(np.stack([here.axes[name] for name in others], axis=1), axis=0, return_inverse=True)
        index = index.ravel()
        mean = np.bincount(index, here.validation) / np.bincount(index, minlength=len(points))
        found.append(here.test[index == int(mean.argmax())])
    return values, found


def statements(exploration: Exploration) -> list[tuple[str, str]]:
    """(question, what the trainings say, with its confidence), whichever way it came out."""
    have = {name for name, part in best_points(exploration).items() if part}
    said = []
    if "sgd" in have and "alpha_c" in exploration.chosen("sgd").varied():
        values, tests = along(exploration, "sgd", "alpha_c")
        x = np.concatenate([np.full(len(test), value) for value, test in zip(values, tests, strict=True)])
        tau, p = kendalltau(x, np.concatenate(tests), alternative="less")
        verdict = "falls" if p < 1 - CONFIDENCE else "is not shown to fall"
        said.append(
            ("Does SGD at its best learning rate fall with asymmetry?",
             f"It {verdict}: Kendall's tau {tau:.2f}, one-sided p = {p:.2g}.")
        )  # fmt: skip
    if "tiki_taka" in have and "alpha_a" in exploration.chosen("tiki_taka").varied():
        said.append(("Is Tiki-Taka's window in alpha_A two-sided?", _window(exploration)))
    if "tiki_taka" in have and "alpha_c" in exploration.chosen("tiki_taka").varied():
        said.append(("Where is the upper limit of alpha_C?", _limit(exploration)))
    return said


def _window(exploration: Exploration) -> str:
    values, tests = along(exploration, "tiki_taka", "alpha_a")
    means = [float(test.mean()) for test in tests]
    k = int(np.argmax(means))
    ends = []
    for name, end in (("low", 0), ("high", len(values) - 1)):
        if end == k:
            ends.append((name, values[end], float("nan"), False))
            continue
        # Any value might have come out best: as many comparisons were open as there are others (Bonferroni).
        p = min(1.0, (len(values) - 1) * _less(tests[end], tests[k])) if len(tests[k]) > 1 else float("nan")
        ends.append((name, values[end], p, bool(p < 1 - CONFIDENCE)))
    both = all(end[3] for end in ends)
    parts = [
        f"at the {name} end (alpha_A = {value:g}) it is {100 * (means[k] - means[0 if name == 'low' else -1]):.1f} points "
        f"below the best (alpha_A = {values[k]:g}, {100 * means[k]:.1f} %), one-sided p = {p:.2g} after Bonferroni"
        for name, value, p, _ in ends
    ]
    verdict = "Yes, within the explored range" if both else "Not shown within the explored range"
    return f"{verdict}: {'; '.join(parts)}."


def _less(low: FloatArray, high: FloatArray) -> float:
    """One-sided p of Welch's test that ``low`` is not below ``high``; NaN with a single seed."""
    if len(low) < 2 or len(high) < 2:
        return float("nan")
    if np.ptp(low) == 0 == np.ptp(high):
        return 0.0 if low[0] < high[0] else 1.0
    sides = [(float(side.mean()), float(side.std(ddof=1)), len(side)) for side in (low, high)]
    return float(ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False, alternative="less").pvalue)


def _limit(exploration: Exploration) -> str:
    values, tests = along(exploration, "tiki_taka", "alpha_c")
    reference = best_points(exploration).get("digital")
    top = max(float(test.mean()) for test in tests) if reference is None else reference.test
    name = "the best Tiki-Taka" if reference is None else "the digital reference"
    passed = [float(test.mean()) >= top - DELTA for test in tests]
    if not any(passed):
        return f"No explored alpha_C stays within {100 * DELTA:g} points of {name} ({100 * top:.1f} %)."
    last = max(k for k, good in enumerate(passed) if good)
    if last == len(values) - 1:
        return f"Not reached: alpha_C = {values[last]:g}, the largest explored, is within {100 * DELTA:g} points of {name}."
    p = _less(tests[last + 1], tests[last])
    return (
        f"Between {values[last]:g} ({100 * tests[last].mean():.1f} %) and {values[last + 1]:g} "
        f"({100 * tests[last + 1].mean():.1f} %), for a loss of {100 * DELTA:g} points against {name} ({100 * top:.1f} %); "
        f"the step between the two has one-sided p = {p:.2g}."
    )


def explore_sections(run: RunReader) -> list[Section]:
    """Of a run that has finished anything, and with it what was calibrated and specified from it."""
    if not (run.folder / FILE).exists():
        return []
    whole = Exploration.load(run.folder)
    if not len(whole.finished()):
        return []
    done = len(whole.finished())
    text = f"{whole.network}: {done} of {len(whole)} trainings are finished. " + (
        "Hyper-parameters are selected by validation accuracy; every accuracy shown is that of the test part."
    )
    text += "".join(f" No specification: {event.payload['reason']}." for event in [*run.events("unspecified")][-1:])
    figures = [_map(whole)] if _has_map(whole) else []
    figures += [_lines(whole, axis) for axis in ("alpha_a", "alpha_c") if axis in whole.varied()]
    best = tuple(
        (
            name,
            ", ".join(f"{n} {v:g}" for n, v in point.where.items()),
            f"{100 * point.test:.2f} ± {100 * point.test_error:.2f}",
        )
        for name, point in best_points(whole).items()
    )
    tables = [Table("Best point of every algorithm, by validation accuracy.", ("algorithm", "point", "test (%)"), best)]
    said = statements(whole)
    if said:
        tables.insert(
            0, Table(f"What the trainings say, at {100 * CONFIDENCE:g} % confidence.", ("question", "answer"), tuple(said))
        )
    from procedures.calibrate_report import calibrate_sections
    from procedures.specify_report import specify_sections

    own = Section("Exploration", text, tuple(figures), tuple(tables))
    return [own, *calibrate_sections(run), *specify_sections(run)]


def _has_map(whole: Exploration) -> bool:
    varied = whole.chosen("tiki_taka").finished().varied()
    return "alpha_a" in varied and "alpha_c" in varied


def _map(whole: Exploration) -> Figure:
    part = whole.chosen("tiki_taka").finished()
    rows, cols = np.unique(part.axes["alpha_a"]), np.unique(part.axes["alpha_c"])
    table = np.full((len(rows), len(cols)), np.nan)
    for i, a in enumerate(rows):
        for j, c in enumerate(cols):
            here = part.some((part.axes["alpha_a"] == a) & (part.axes["alpha_c"] == c))
            if len(here):
                table[i, j] = 100 * _best(here).test

    def draw(fig: Any) -> None:
        draw_map(fig, table, "test accuracy (%)", missing="not explored", axis_names=("alpha of C", "alpha of A"))
        axes = fig.axes[0]
        axes.set_xticks(range(len(cols)), [f"{value:.2g}" for value in cols], rotation=45)
        axes.set_yticks(range(len(rows)), [f"{value:.2g}" for value in rows])

    caption = "Tiki-Taka: test accuracy at the best hyper-parameters of every pair of asymmetries."
    return Figure("explore-map", caption, draw, (4.8, 3.9))


def _lines(whole: Exploration, axis: str) -> Figure:
    label = {"alpha_a": "alpha of A", "alpha_c": "alpha of C"}[axis]

    def draw(fig: Any) -> None:
        axes = fig.add_subplot()
        for number, algorithm in enumerate(name for name in ("tiki_taka", "sgd") if axis in whole.chosen(name).varied()):
            values, tests = along(whole, algorithm, axis)
            mean = np.array([100 * test.mean() for test in tests])
            error = np.array([100 * test.std(ddof=1) / len(test) ** 0.5 if len(test) > 1 else 0.0 for test in tests])
            axes.errorbar(
                values, mean, error, color=colour(number), marker=MARKERS[number], linestyle=DASHES[number], capsize=2,
                label={"tiki_taka": "Tiki-Taka", "sgd": "SGD"}[algorithm],
            )  # fmt: skip
        digital = best_points(whole).get("digital")
        if digital is not None:
            axes.axhline(100 * digital.test, color="0.4", linestyle=":", label="digital")
        axes.set(xscale="log", xlabel=label, ylabel="test accuracy (%)")
        axes.legend(loc="lower left")

    caption = (
        f"Best accuracy over everything else against the asymmetry {label.split()[-1]}; bars: standard error of the seeds."
    )
    return Figure(f"explore-{axis.replace('_', '-')}", caption, draw, HALF)
