"""Figures of distributions and matrices: histograms, array maps, confusion, bars. Curves are in ``hil.report.curves``.

Every function draws on an empty matplotlib Figure and touches nothing else; arrays are numpy or torch, NaN = no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hil.report.style import DASHES, MISSING, clean, colour, few_ticks, nothing, plain_numbers
from hil.report.values import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_bars", "draw_confusion", "draw_counts", "draw_histogram", "draw_histograms", "draw_map", "shared_edges"]

_TEXT_CLASSES = 12
"""Confusion matrices up to this size show their counts."""


def shared_edges(groups: Sequence[Any], bins: int = 40) -> Any:
    """Edges of equal bins, float64 [bin + 1], over the finite values of all groups.

    A few outliers do not squeeze the rest: beyond three times the central 98 % on either side, values go to the end bins.
    """
    together = np.concatenate([clean(group) for group in groups]) if len(groups) else np.empty(0)
    if together.size == 0:
        return np.linspace(0.0, 1.0, bins + 1)
    near, far = np.percentile(together, [1, 99])
    reach = far - near
    low, high = max(together.min(), near - reach), min(together.max(), far + reach)
    # Whole numbers get bins of the same whole width, else a comb appears that is not in the data.
    if np.array_equal(together, np.round(together)) and max(abs(low), abs(high)) < 2**52:
        width = max(1, int(-(-(high - low + 1) // bins)))
        return np.arange(np.floor(low), np.ceil(high) + 1 + width, width) - 0.5
    if not high > low:
        half = 0.05 * abs(low) or 0.5
        low, high = low - half, high + half
    return np.linspace(low, high, bins + 1)


def draw_histogram(
    fig: Figure, groups: Mapping[str, Any], xlabel: str, bins: int = 40, ylabel: str = "cells", mark: float | None = None
) -> None:
    """Histograms of named groups over the same bins; values beyond the axis are counted in the end bins.

    mark: a value to point out, as a dashed line.
    """
    edges = shared_edges(list(groups.values()), bins)
    counts = {name: _binned(values, edges) for name, values in groups.items()}
    draw_counts(fig, counts, edges, xlabel, ylabel, mark)


def draw_counts(
    fig: Figure, counts: Mapping[str, Any], edges: Any, xlabel: str, ylabel: str = "cells", mark: float | None = None,
    ticks: int = 6,
) -> None:  # fmt: skip
    """Histograms that have been counted already: counts [bin] by name, edges [bin + 1] in the units of ``xlabel``.

    ticks: at most about so many on the x axis.
    """
    _counts(fig.add_subplot(), counts, edges, xlabel, ylabel, mark, ticks)


def draw_histograms(fig: Figure, panels: Mapping[str, Any], cols: int = 2, ylabel: str = "cells", bins: int = 30) -> None:
    """One small histogram per quantity, its median marked; ``panels``: values by x label."""
    rows = max(1, -(-len(panels) // cols))
    for place, (xlabel, values) in enumerate(panels.items()):
        axes = fig.add_subplot(rows, cols, place + 1)
        edges = shared_edges([values], bins)
        finite = clean(values)
        middle = float(np.median(finite)) if finite.size else None
        _counts(axes, {"": _binned(values, edges)}, edges, xlabel, ylabel if place % cols == 0 else "", middle, 4)
        if middle is not None:
            axes.set_title(f"median {number(middle, 3)}", fontsize=9, color="0.3")


def draw_map(
    fig: Figure, values: Any, label: str, signed: bool = False, missing: str = "no value",
    axis_names: tuple[str, str] = ("column", "row"), first: tuple[int, int] = (0, 0),
) -> None:  # fmt: skip
    """An array seen from above, values [row col]; cells without a value are grey, which is said below the map.

    axis_names: of columns and of rows; first: number of the first column and of the first row. signed: zero in the middle
    of a two-sided colour scale. The scale spans the bulk, 98 % at most; arrows say that values lie beyond.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    low, high, extend = _colour_range(clean(values), signed)
    shades = colormaps["PuOr_r" if signed else "viridis"].with_extremes(bad=MISSING)
    axes = fig.add_subplot()
    # A very long matrix on its side would be a hair: its cells then need not be square.
    (rows, cols), (left, top) = values.shape, first
    aspect: Literal["equal", "auto"] = "equal" if 0.4 <= cols / rows <= 3.5 else "auto"
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=shades, vmin=low, vmax=high, interpolation="nearest", aspect=aspect,
        extent=(left - 0.5, left + cols - 0.5, top + rows - 0.5, top - 0.5),
    )  # fmt: skip
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        plain_numbers(axis)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    absent = int((~np.isfinite(values)).sum())
    if absent:
        axes.set_xlabel(f"{axis_names[0]}\ngrey: {missing} ({absent} of {values.size})")
    bar = fig.colorbar(image, ax=axes, label=label, extend=extend, fraction=0.05, pad=0.03)
    plain_numbers(bar.ax.yaxis)


def draw_confusion(fig: Figure, counts: Any, classes: Sequence[str] | None = None) -> None:
    """True class (rows) by decision (columns), counts [class class]; shade and text: percent of the true class."""
    from matplotlib import colormaps

    counts = np.asarray(counts, dtype=np.float64)
    size = len(counts)
    names = [str(k) for k in range(size)] if classes is None else [str(name) for name in classes]
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(100 * counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    axes = fig.add_subplot()
    shades = colormaps["Blues"].with_extremes(bad=MISSING)
    # Mistakes are the news: a square-root scale shows the few per cent beside the diagonal.
    image = axes.imshow(np.ma.masked_invalid(share), cmap=shades, norm=_square_root(100.0), interpolation="nearest")
    axes.grid(False)
    step = 1 if size <= 20 else -(-size // 10)
    ticks = list(range(0, size, step))
    long = max((len(name) for name in names), default=0) > 3
    axes.set_xticks(ticks, [names[k] for k in ticks], rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(ticks, [names[k] for k in ticks])
    axes.set(xlabel="decision", ylabel="true class")
    if size <= _TEXT_CLASSES:
        for row, col in zip(*np.nonzero(counts), strict=True):
            value = share[row, col]
            text = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
            axes.text(col, row, text, ha="center", va="center", fontsize=7.5, color="white" if value > 35 else "0.1")
    bar = fig.colorbar(image, ax=axes, label="% of the true class", fraction=0.05, pad=0.03)
    bar.set_ticks([0, 1, 5, 20, 50, 100], labels=["0", "1", "5", "20", "50", "100"])


def draw_bars(fig: Figure, groups: Mapping[str, Any], ylabel: str, zero: bool = True) -> None:
    """A bar per group at the mean of its points [point], which are shown too, with mean and standard deviation as text.

    Drawn on their sides, so that long names stay readable. zero: bars from 0; else from a little below the least point.
    """
    from matplotlib.ticker import MaxNLocator

    axes = fig.add_subplot()
    finite = {name: clean(values) for name, values in groups.items()}
    everything = np.concatenate([*finite.values(), np.empty(0)])
    if everything.size == 0:
        nothing(axes)
        return
    least, most = float(everything.min()), float(everything.max())
    low = min(0.0, least) if zero else least - 0.25 * max(most - least, 1e-3 * abs(most), 1e-12)
    for place, (_, values) in enumerate(finite.items()):
        if values.size == 0:
            continue
        mean, spread = float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else None
        axes.barh(place, mean - low, left=low, height=0.62, color=colour(place), alpha=0.35, edgecolor=colour(place))
        axes.plot(values, place + _jitter(values.size), "o", color=colour(place), markersize=4, markeredgecolor="white",
                  markeredgewidth=0.5, zorder=3)  # fmt: skip
        text = _with_spread(mean, spread)
        axes.annotate(
            text, (max(mean, float(values.max())), place), (6, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(range(len(finite)), list(finite))
    axes.set_ylim(len(finite) - 0.4, -0.6)
    top = max(most, 0.0) if zero else most
    ticks = MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low, top if top > low else low + 1)
    axes.set_xticks([tick for tick in ticks if low <= tick])
    plain_numbers(axes.xaxis)
    # Room at the right for the text.
    axes.set_xlim(low, max(ticks[-1], low + 1.38 * (top - low or 1.0)))
    axes.set_xlabel(ylabel)
    axes.grid(False, axis="y")


def _with_spread(mean: float, spread: float | None) -> str:
    """As many decimals as two digits of the spread have."""
    if not spread:
        return number(mean)
    decimals = max(0, 1 - floor(log10(spread)))
    return f"{mean:.{decimals}f} ± {spread:.{decimals}f}" if decimals <= 6 else f"{number(mean)} ± {number(spread, 2)}"


def _jitter(count: int) -> Any:
    """Offsets that keep equal points apart: the same every time."""
    return np.zeros(count) if count == 1 else 0.18 * ((np.arange(count) * 0.618034) % 1 * 2 - 1)


def _binned(values: Any, edges: Any) -> Any:
    return np.histogram(np.clip(clean(values), edges[0], edges[-1]), edges)[0]


def _counts(
    axes: Axes, counts: Mapping[str, Any], edges: Any, xlabel: str, ylabel: str, mark: float | None, ticks: int = 6
) -> None:
    edges = np.asarray(edges, dtype=np.float64)
    total = sum(float(np.sum(values)) for values in counts.values())
    for place, (name, values) in enumerate(counts.items()):
        axes.stairs(values, edges, fill=True, color=colour(place), alpha=0.3 if len(counts) == 1 else 0.15)
        axes.stairs(
            values, edges, color=colour(place), linestyle=DASHES[place % len(DASHES)], label=name or None, linewidth=1.3
        )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    few_ticks(axes, ticks, 5)
    axes.set_ylim(bottom=0)
    if total == 0:
        nothing(axes)
        axes.set_ylim(0, 1)
        return
    if mark is not None:
        axes.axvline(mark, color="0.2", linestyle=(0, (4, 2)), linewidth=1.1)
    if len(counts) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(len(counts), 3))


def _colour_range(values: Any, signed: bool) -> tuple[float, float, str]:
    """Ends of the colour scale over the bulk, and at which of them values lie beyond."""
    if values.size == 0:
        return (-1.0, 1.0, "neither") if signed else (0.0, 1.0, "neither")
    first, near, middle, far, last = (float(end) for end in np.percentile(values, [1, 16, 50, 84, 99]))
    # Of a long tail only as much as leaves the bulk distinguishable.
    low = max(first, middle - 5 * (middle - near)) if near < middle else first
    high = min(last, middle + 5 * (far - middle)) if far > middle else last
    if signed:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    if not high > low:
        spare = 0.05 * abs(low) or 0.5
        low, high = low - spare, high + spare
    slack = 0.05 * (high - low)
    under, over = float(values.min()) < low - slack, float(values.max()) > high + slack
    if not under:
        low = min(low, float(values.min()))
    if not over:
        high = max(high, float(values.max()))
    if signed:
        high = max(-low, high)
        low = -high
    return low, high, "both" if under and over else "min" if under else "max" if over else "neither"


def _square_root(high: float) -> Any:
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, 0.0, high)
