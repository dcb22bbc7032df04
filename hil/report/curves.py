"""Figures of things that go on: learning curves, pulse traces with their fit, convergence.

Every function draws on an empty matplotlib Figure and touches nothing else; arrays are numpy or torch, NaN = no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hil.report.style import COLOURS, DASHES, GREY, MARKERS, clean, colour, few_ticks, nothing, plain_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_convergence", "draw_curves", "draw_traces"]

_FEW = 25
"""Curves of up to so many points show them."""


def draw_curves(
    fig: Figure, groups: Mapping[str, Any], ylabel: str, xlabel: str = "epoch", x: Any = None, others: Any = None,
    log: bool = False,
) -> None:  # fmt: skip
    """A line per group at the mean over seeds, values [point] or [point seed]; its band spans all seeds.

    x: of the points; None = 1, 2, ... others: curves [point curve] drawn grey behind, such as the rest of a grid.
    log: logarithmic where all values are positive and span more than a factor of 5.
    """
    from matplotlib.ticker import MaxNLocator

    axes = fig.add_subplot()
    drawn = 0
    if others is not None and np.size(others):
        rest = _two(others)
        axes.plot(_places(x, len(rest)), rest, color=GREY, linewidth=0.6, alpha=0.5, zorder=1)
    for place, (name, values) in enumerate(groups.items()):
        curve = _two(values)
        at, seen = _places(x, len(curve)), np.isfinite(curve).any(axis=1)
        if not seen.any():
            continue
        at, curve = at[seen], curve[seen]
        axes.plot(
            at, np.nanmean(curve, axis=1), color=colour(place), linestyle=DASHES[place % len(DASHES)], label=name,
            marker=MARKERS[place % len(MARKERS)] if len(at) <= _FEW else "", zorder=3,
        )  # fmt: skip
        if curve.shape[1] > 1:
            axes.fill_between(
                at, np.nanmin(curve, axis=1), np.nanmax(curve, axis=1), color=colour(place), alpha=0.18, linewidth=0
            )
        drawn += 1
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if not drawn:
        nothing(axes)
        return
    few_ticks(axes, 8, 7)
    if x is None:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if log:
        _logarithmic(axes, [_two(values) for values in groups.values()])
    if len(groups) > 1 or others is not None:
        axes.legend(loc="best")


def draw_traces(
    fig: Figure, x: Any, traces: Any, fit: Any = None, titles: Sequence[str] = (), ylabel: str = "", xlabel: str = "pulses",
    cols: int = 2,
) -> None:  # fmt: skip
    """A panel per trace, all on the same axes: readings as dots, traces [trace read], the fit [trace read] as a line."""
    traces = _rows(traces)
    fitted = None if fit is None else _rows(fit)
    at = np.asarray(x, dtype=np.float64)
    if len(traces) == 0 or clean(traces).size == 0:
        nothing(fig.add_subplot())
        return
    cols = min(cols, len(traces))
    rows = -(-len(traces) // cols)
    first: Axes | None = None
    for place, trace in enumerate(traces):
        axes = fig.add_subplot(rows, cols, place + 1, sharex=first, sharey=first)
        first = first or axes
        axes.plot(at, trace, ".", color=COLOURS[0], markersize=2.6, label="reading", rasterized=trace.size > 2000)
        if fitted is not None:
            axes.plot(at, fitted[place], color=COLOURS[1], linewidth=0.8, label="fit")
        if place < len(titles):
            axes.set_title(titles[place], fontsize=9)
        last = place + cols >= len(traces)
        axes.tick_params(labelbottom=last, labelleft=place % cols == 0)
        few_ticks(axes, 3 if cols > 1 else 6)
    fig.supxlabel(xlabel, fontsize=10)
    fig.supylabel(ylabel, fontsize=10)
    if fitted is not None and first is not None:
        handles, labels = first.get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper center", ncols=2, markerscale=4)


def draw_convergence(
    fig: Figure, groups: Mapping[str, tuple[Any, Any]], ylabel: str, xlabel: str = "alternating pulses",
    target: float | None = None, note: str = "estimate",
) -> None:  # fmt: skip
    """Thin lines that should meet: (x [read], curves [cell read]) by group. target: where they should meet, dashed."""
    axes = fig.add_subplot()
    drawn = 0
    for place, (name, (x, curves)) in enumerate(groups.items()):
        for number, curve in enumerate(_rows(curves)):
            if np.isfinite(curve).any():
                axes.plot(x, curve, color=colour(place), linewidth=0.9, alpha=0.75, label=None if number else name,
                          marker="." if len(curve) < _FEW else "")  # fmt: skip
                drawn += 1
    axes.set(xlabel=xlabel, ylabel=ylabel)
    few_ticks(axes)
    if not drawn:
        nothing(axes)
        return
    if target is not None:
        axes.axhline(target, color="0.15", linestyle=(0, (5, 2)), linewidth=1.2, label=note, zorder=4)
    if len(groups) > 1 or target is not None:
        axes.legend(loc="best")


def _two(values: Any) -> Any:
    """[point seed], float64."""
    values = np.asarray(values, dtype=np.float64)
    return values[:, None] if values.ndim == 1 else values.reshape(len(values), -1)


def _rows(values: Any) -> Any:
    """[trace read], float64."""
    return np.atleast_2d(np.asarray(values, dtype=np.float64))


def _places(x: Any, count: int) -> Any:
    return np.arange(1, count + 1) if x is None else np.asarray(x, dtype=np.float64)


def _logarithmic(axes: Axes, curves: Sequence[Any]) -> None:
    """A logarithmic y axis where values are positive and span so much that it shows; else it stays as it is."""
    from matplotlib.ticker import LogLocator, NullFormatter

    values = clean(np.concatenate([curve.ravel() for curve in curves]))
    if values.min() <= 0 or values.max() < 5 * values.min():
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if values.max() < 100 * values.min() else (1.0,)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    plain_numbers(axes.yaxis)
