"""What training leaves in the run record, and its part of the report.

One event of kind ``trained`` per trained network. Payload: ``label``, ``algorithm``, ``points`` (hyper-parameters of the
grid), ``best`` (point with the best mean test accuracy), ``seeds``, ``seconds``, ``pulses_per_cell`` (mean by matrix),
``matrices``. Arrays: ``loss``, ``train``, ``validation``, ``test`` [epoch array]; ``test_accuracy``,
``validation_accuracy`` [point seed]; of the best point, summed over its seeds, ``confusion`` [class class] and for every
matrix ``MATRIX_KIND_counts`` [bin], ``MATRIX_KIND_edges`` [bin + 1] with KIND ``weights`` (weight units),
``conductance`` (siemens) and ``pulses`` (pulses of a cell, up and down together, where the board counts them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hil.algorithms.digital import DigitalSGD
from hil.ledger import Ledger
from hil.records import Array
from hil.report.curves import draw_curves
from hil.report.figures import draw_bars, draw_confusion, draw_counts, shared_edges
from hil.report.section import Figure, Section, Table
from hil.report.style import HALF
from hil.report.values import number, prefixed
from hil.run_reader import RunReader

if TYPE_CHECKING:
    from torch import Tensor

    from procedures.network import Network
    from procedures.train import TrainResult

__all__ = ["record_network", "train_sections"]

_CURVES = ("loss", "train", "validation", "test")
_MOST_POINTS = 20


def record_network(
    ledger: Ledger,
    algorithm: str,
    result: TrainResult,
    network: Network,
    pulses: Mapping[str, Tensor],
    label: str | None = None,
) -> None:
    """Record a trained network, with all that its figures need, and its results.

    label: what tells several networks of one run apart; their results are then called "LABEL: NAME".
    """
    label = label or algorithm
    points, seeds = (int(size) for size in result.test_accuracy.shape)
    best = slice(result.best * seeds, (result.best + 1) * seeds)
    arrays: dict[str, Array | Tensor] = {name: result.curves[name] for name in _CURVES if name in result.curves}
    arrays |= {"test_accuracy": result.test_accuracy, "validation_accuracy": result.validation_accuracy}
    arrays["confusion"] = result.confusion[best].sum(dim=0)
    matrices = _matrices(network, pulses, best)
    for matrix, kinds in matrices.items():
        for kind, values in kinds.items():
            edges = shared_edges([values])
            counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
            arrays |= {f"{matrix}_{kind}_counts": counts, f"{matrix}_{kind}_edges": edges}
    payload = {
        "label": label, "algorithm": algorithm, "points": list(result.points), "best": result.best, "seeds": seeds,
        "seconds": result.seconds, "pulses_per_cell": result.pulses_per_cell, "matrices": list(matrices),
    }  # fmt: skip
    ledger.event("trained", payload, arrays)
    _record_results(ledger, "" if label == algorithm else f"{label}: ", result, points, seeds)


def _record_results(ledger: Ledger, head: str, result: TrainResult, points: int, seeds: int) -> None:
    accuracy = result.test_accuracy[result.best].double()
    which = f", best of {points} grid points by this very number" if points > 1 else ""
    ledger.result(
        f"{head}test_accuracy", float(accuracy.mean()), "1", f"test samples decided rightly, mean over {seeds} seeds{which}"
    )
    if seeds > 1:
        ledger.result(f"{head}test_accuracy_std", float(accuracy.std()), "1", "its standard deviation over the seeds")
    for matrix, pulses in result.pulses_per_cell.items():
        ledger.result(f"{head}pulses_per_cell_{matrix}", pulses, "1", f"pulses that a cell of {matrix} has had, mean")
    ledger.result(f"{head}seconds", result.seconds, "s", "wall-clock time, measurements before training included")


def _matrices(network: Network, pulses: Mapping[str, Tensor], arrays: slice) -> dict[str, dict[str, Array]]:
    """Values of every matrix at the end, of some arrays, flat, by kind."""
    found: dict[str, dict[str, Array]] = {}
    for place, algorithm in enumerate(network.algorithms):
        if isinstance(algorithm, DigitalSGD):
            found[f"layer{place}"] = {"weights": _flat(algorithm.weight[arrays])}
    for name, tile in network.tiles.items():
        found[name] = {"weights": _flat(tile.weights()[arrays]), "conductance": _flat(tile.conductance()[arrays])}
        if bool(pulses[name].isfinite().any()):
            found[name]["pulses"] = _flat(pulses[name][arrays])
    return found


def _flat(values: Tensor) -> Array:
    flat = values.detach().cpu().numpy().astype(np.float64).ravel()
    finite: Array = flat[np.isfinite(flat)]
    return finite


@dataclass(frozen=True)
class _Trained:
    """A ``trained`` event read back."""

    label: str
    algorithm: str
    points: list[dict[str, float]]
    best: int
    seeds: int
    seconds: float
    pulses_per_cell: dict[str, float]
    matrices: list[str]
    arrays: Mapping[str, Array]

    @property
    def accuracy(self) -> Array:
        """Percent, [seed], of the best point."""
        percent: Array = 100 * self.arrays["test_accuracy"][self.best]
        return percent

    def curve(self, name: str) -> Array | None:
        """[epoch seed] of the best point; None where nothing was recorded."""
        values = self.arrays.get(name)
        if values is None or len(values) == 0:
            return None
        picked: Array = values[:, self.best * self.seeds : (self.best + 1) * self.seeds]
        return picked

    def other_means(self, name: str) -> Array:
        """[epoch point] of the points that are not the best, mean over seeds."""
        values = self.arrays[name]
        means = values.reshape(len(values), len(self.points), self.seeds).mean(axis=2)
        others: Array = np.delete(means, self.best, axis=1)
        return others


def train_sections(run: RunReader) -> list[Section]:
    """A comparison where several networks were trained, then a section per network; of a label its last event counts."""
    latest = {event.payload["label"]: event for event in run.events("trained")}
    trained = [_Trained(**event.payload, arrays=run.arrays(event.number)) for event in latest.values()]
    if not trained:
        return _unfinished(run)
    named = _class_names(run, len(trained[0].arrays["confusion"]))
    comparison = [_comparison(trained)] if len(trained) > 1 else []
    return [*comparison, *(_section(one, named) for one in trained)]


def _class_names(run: RunReader, count: int) -> list[str] | None:
    """As the options give them; None = numbered."""
    config = run.start["config"]
    options = config.get("options", {}) if isinstance(config, dict) else {}
    given = options.get("classes") or ()
    return [str(name) for name in given] if len(given) == count else None


def _unfinished(run: RunReader) -> list[Section]:
    """Curves of a training that did not come to its end."""
    steps = [run.arrays(event.number) for event in run.events("epoch")]
    if not steps:
        return []
    curves = {name: np.stack([100 * s[name] for s in steps]) for name in ("train", "test") if all(name in s for s in steps)}
    figure = Figure(
        "learning-curves", "Accuracy until the run ended; the band spans all arrays.",
        lambda fig: draw_curves(fig, curves, "accuracy (%)"), HALF,
    )  # fmt: skip
    return [Section("Training until the run ended", f"{len(steps)} epochs are recorded.", (figure,))]


def _mean_std(values: Array) -> str:
    mean = f"{values.mean():.2f}"
    return f"{mean} ± {values.std(ddof=1):.2f}" if len(values) > 1 else mean


def _best_point(one: _Trained) -> str:
    return ", ".join(f"{name} = {number(value)}" for name, value in one.points[one.best].items())


def _comparison(trained: list[_Trained]) -> Section:
    curves = {one.label: 100 * curve for one in trained if (curve := one.curve("test")) is not None}
    seeds = "the band spans all seeds" if any(one.seeds > 1 for one in trained) else "one seed each"
    height = 1.5 + 0.55 * len(trained)
    figures = (
        Figure("comparison-curves", f"Test accuracy after every epoch: mean over seeds; {seeds}.",
               lambda fig: draw_curves(fig, curves, "test accuracy (%)"), HALF),
        Figure("comparison-accuracy", "Test accuracy at the end: a dot per seed, bar at the mean, ± standard deviation.",
               lambda fig: draw_bars(fig, {one.label: one.accuracy for one in trained}, "test accuracy (%)"),
               (HALF[0], max(height, 2.4))),
    )  # fmt: skip
    rows = tuple(
        (
            one.label, _mean_std(one.accuracy), str(one.seeds), _best_point(one),
            ", ".join(f"{name} {number(round(pulses))}" for name, pulses in one.pulses_per_cell.items()) or "–",
            number(one.seconds, 3),
        )
        for one in trained
    )  # fmt: skip
    header = ("trained with", "test accuracy (%)", "seeds", "hyper-parameters", "pulses per cell (mean)", "time (s)")
    table = Table("All networks of this run; mean ± standard deviation over seeds.", header, rows)
    text = "Pulses are all that a cell has had by then, in this run's measurements and programming too."
    return Section("Comparison", text, figures, (table,))


def _section(one: _Trained, classes: list[str] | None) -> Section:
    many = len(one.points) > 1
    figures = [*_curve_figures(one), *_histogram_figures(one)]
    size = len(one.arrays["confusion"])
    side = 4.4 if size <= 12 else 4.6
    figures.insert(
        min(len(figures), 2),
        Figure(f"{one.label}-confusion", "What was taken for what in the test part, percent of the true class, all seeds.",
               lambda fig: draw_confusion(fig, one.arrays["confusion"], classes), (HALF[0], side * 0.87)),
    )  # fmt: skip
    text = f"Test accuracy {_mean_std(one.accuracy)} % "
    text += f"(mean ± standard deviation over {one.seeds} seeds)" if one.seeds > 1 else "(one seed)"
    text += f" with {_best_point(one)}."
    if many:
        text += (
            f"\n\nThis is the best of {len(one.points)} grid points by test accuracy, so it flatters: to select, train with "
            "train_on = train and go by the validation accuracy."
        )
    return Section(f"Training: {one.label}", text, tuple(figures), (_points_table(one),) if many else ())


def _curve_figures(one: _Trained) -> list[Figure]:
    named = {"training": "train", "validation": "validation", "test": "test"}
    accuracies = {name: 100 * curve for name, key in named.items() if (curve := one.curve(key)) is not None}
    loss = one.curve("loss")
    spread = " Mean over seeds; the band spans all of them." if one.seeds > 1 else ""
    figures = []
    if accuracies:
        others = 100 * one.other_means("test") if len(one.points) > 1 and "test" in accuracies else None
        rest = "" if others is None else " Grey: test accuracy of the other grid points."
        figures.append(
            Figure(f"{one.label}-accuracy", f"Accuracy by epoch; training: while it learns.{spread}{rest}",
                   lambda fig: draw_curves(fig, accuracies, "accuracy (%)", others=others), HALF)
        )  # fmt: skip
    if loss is not None:
        figures.append(
            Figure(f"{one.label}-loss", f"Cross-entropy of the training samples by epoch.{spread}",
                   lambda fig: draw_curves(fig, {"training": loss}, "mean loss (nat)", log=True), HALF)
        )  # fmt: skip
    return figures


def _histogram_figures(one: _Trained) -> list[Figure]:
    figures = []
    for kind, what, unit in (
        ("weights", "weight", "1"),
        ("conductance", "conductance", "siemens"),
        ("pulses", "pulses of a cell, up and down", "1"),
    ):
        panels = {m: (one.arrays[f"{m}_{kind}_counts"], one.arrays[f"{m}_{kind}_edges"])
                  for m in one.matrices if f"{m}_{kind}_counts" in one.arrays}  # fmt: skip
        if panels:
            rows = -(-len(panels) // 2) if len(panels) > 1 else 1
            figures.append(
                Figure(f"{one.label}-{kind}", f"Every matrix at the end: {what}; all seeds together.",
                       partial(_draw_panels, panels=panels, what=what, unit=unit), (HALF[0], 1.3 + 1.9 * rows))
            )  # fmt: skip
    return figures


def _draw_panels(fig: Any, panels: Mapping[str, tuple[Array, Array]], what: str, unit: str) -> None:
    """A small histogram per matrix on sub-figures, since each has bins of its own."""
    factor, label = prefixed(np.concatenate([edges for _, edges in panels.values()]), unit)
    cols = min(2, len(panels))
    rows = -(-len(panels) // cols)
    parts = np.ravel(fig.subfigures(rows, cols))
    for place, (name, (counts, edges)) in enumerate(panels.items()):
        draw_counts(parts[place], {name: counts}, edges * factor, "", "cells" if place % cols == 0 else "", ticks=4)
        parts[place].axes[0].set_title(name)
    fig.supxlabel(f"{what} ({label})" if label else what, fontsize=10)


def _points_table(one: _Trained) -> Table:
    test, validation = one.arrays["test_accuracy"], one.arrays["validation_accuracy"]
    order = np.argsort(-test.mean(axis=1), kind="stable")
    names = tuple(one.points[0])
    rows = tuple(
        (
            *(number(one.points[p][name]) for name in names), _mean_std(100 * test[p]),
            _mean_std(100 * validation[p]) if np.isfinite(validation[p]).all() else "–",
        )
        for p in order[:_MOST_POINTS]
    )  # fmt: skip
    shown = f"the best {_MOST_POINTS} of {len(order)}" if len(order) > _MOST_POINTS else f"all {len(order)}"
    caption = f"Grid points, best first ({shown}); accuracies in percent, mean ± standard deviation over seeds."
    return Table(caption, (*names, "test (%)", "validation (%)"), rows)
