"""The report's part on a specification: map, ranges, ridge, and how to train at each asymmetry."""

from __future__ import annotations

from typing import Any

import numpy as np

from hil.report.section import Figure, Section, Table
from hil.report.style import DASHES, HALF, MARKERS, colour
from hil.run_reader import RunReader
from procedures.calibrate_report import LABELS, contours
from procedures.ends import shown_ends
from procedures.specification import Specification

__all__ = ["FILE", "specify_sections"]

FILE = "specification.toml"
"""Its name in the folder of a run."""


def specify_sections(run: RunReader) -> list[Section]:
    """Of the specification in the folder of the run."""
    path = run.folder / FILE
    if not path.exists():
        return []
    found = Specification.load(path)
    text = (
        f"{found.network}. The digital reference has a test accuracy of {100 * found.digital_accuracy:.2f} ± "
        f"{100 * found.digital_error:.2f} %. A pair of asymmetries passes where the filtered test accuracy, at its best "
        f"hyper-parameters, is within the loss at {100 * found.deltas[0].confidence:g} % confidence. An end that is an end "
        f"of the explored range is no limit that was found. The file {FILE} holds all of it."
    )
    return [Section("Asymmetry specification", text, (_map(found), *_ridge(found)), (_ranges(found), _points(found)))]


def _ranges(found: Specification) -> Table:
    rows = tuple(
        (f"{100 * one.delta:g}", shown_ends(one.alpha_a, found.alpha_a), shown_ends(one.alpha_c, found.alpha_c))
        for one in found.deltas
    )
    return Table("Ranges of asymmetry by allowed loss.", ("loss (points)", "alpha of A", "alpha of C"), rows)


def _points(found: Specification) -> Table:
    names = list(found.points[0].hyper) if found.points else []
    rows = tuple(
        (f"{p.alpha_a:.3g}", f"{p.alpha_c:.3g}", *(f"{p.hyper[name]:.3g}" for name in names),
         f"{100 * p.accuracy:.1f} ± {100 * p.error:.1f}")
        for p in found.points
    )  # fmt: skip
    heads = ("alpha of A", "alpha of C", *(LABELS.get(name, name) for name in names), "test (%)")
    return Table("How to train at each explored pair of asymmetries.", heads, rows)


def _map(found: Specification) -> Figure:
    def draw(fig: Any) -> None:
        values = 100 * np.array(found.accuracy)
        levels = [100 * (found.digital_accuracy - one.delta) for one in found.deltas]
        levels = [level for level in levels if np.nanmin(values) < level < np.nanmax(values)]
        axes = np.array(found.alpha_a), np.array(found.alpha_c)
        contours(fig, axes, values, ("alpha of A", "alpha of C"), "test accuracy (%)", levels=levels)

    losses = ", ".join(f"{100 * one.delta:g}" for one in found.deltas)
    caption = f"Best test accuracy over the hyper-parameters; lines: {losses} points below the digital reference."
    return Figure("specify-map", caption, draw, HALF)


def _ridge(found: Specification) -> list[Figure]:
    """Chosen hyper-parameters against alpha_A, at the alpha of C with the best accuracy."""
    names = [name for name in ("lr_a", "lr_c") if found.points and len({p.hyper.get(name) for p in found.points}) > 1]
    if not names:
        return []
    best = max(found.points, key=lambda p: p.accuracy).alpha_c
    row = sorted((p for p in found.points if p.alpha_c == best), key=lambda p: p.alpha_a)

    def draw(fig: Any) -> None:
        ax = fig.add_subplot()
        for number, name in enumerate(names):
            ax.plot(
                [p.alpha_a for p in row], [p.hyper[name] for p in row], color=colour(number), marker=MARKERS[number],
                linestyle=DASHES[number], label=LABELS[name],
            )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="alpha of A", ylabel="chosen rate")
        ax.legend(loc="best")

    return [Figure("specify-ridge", f"Rates to use along alpha of A, at alpha of C = {best:.3g}.", draw, HALF)]
