"""One look for every figure: sizes that survive a phone and a printer, colours that survive colour-blindness and grey.

Needs nothing but data, so that it can be imported without matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = [
    "COLOURS",
    "DASHES",
    "GREY",
    "HALF",
    "MARKERS",
    "MISSING",
    "RC",
    "WIDE",
    "clean",
    "colour",
    "few_ticks",
    "nothing",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
"""Okabe and Ito's palette, the pairs that differ most in lightness first; its yellow, unreadable on white, left out."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), "-", (0, (5, 1.5)), (0, (1, 1)), "-")

GREY = "0.55"
"""Lines in the background."""

MISSING = "0.78"
"""Cells without a value."""

HALF, WIDE = (4.6, 3.3), (7.0, 3.6)
"""Sizes in inches: two figures side by side, or one across the page. Drawn small so that type stays large."""

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 10.0, "axes.titlesize": 10.0, "axes.labelsize": 10.0,
    "xtick.labelsize": 9.0, "ytick.labelsize": 9.0, "legend.fontsize": 9.0, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.edgecolor": "0.25",
    "axes.grid": True, "grid.color": "0.9", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.6, "lines.markersize": 4.0, "figure.facecolor": "white", "savefig.facecolor": "white",
    "svg.fonttype": "path", "svg.hashsalt": "report",
}  # fmt: skip
"""matplotlib's settings while a report is drawn."""


def colour(number: int) -> str:
    """Colour of the n-th group."""
    return COLOURS[number % len(COLOURS)]


def clean(values: Any) -> Any:
    """The finite values, flat, as float64."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def nothing(axes: Axes, text: str = "no finite values") -> None:
    """Say that there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")


def plain_numbers(axis: Axis) -> None:
    """Labels without powers of ten for what people read; tens of thousands as "20k"."""
    from matplotlib.ticker import FuncFormatter

    def text(value: float, _: int | None = None) -> str:
        largest = max(abs(end) for end in axis.get_view_interval())
        size, letter = next(((size, letter) for size, letter in ((1e6, "M"), (1e3, "k")) if largest >= 10 * size), (1.0, ""))
        shown = f"{value / size:g}"
        return (shown if shown in ("0", "-0") else shown + letter).replace("-", "\N{MINUS SIGN}")

    axis.set_major_formatter(FuncFormatter(text))


def few_ticks(axes: Axes, across: int = 5, up: int = 5) -> None:
    """Round numbers, so few that they do not touch."""
    from matplotlib.ticker import MaxNLocator

    for axis, most in ((axes.xaxis, across), (axes.yaxis, up)):
        axis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 5, 10], min_n_ticks=2))
        plain_numbers(axis)
