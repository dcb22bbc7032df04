"""The report's part on two networks side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from hil.report.section import Figure, Section, Table
from hil.report.style import DASHES, HALF, MARKERS, colour
from hil.report.values import number
from hil.run_reader import RunReader
from procedures.knee import rate_law

__all__ = ["compare_sections"]


def compare_sections(run: RunReader) -> list[Section]:
    """Of the two recorded networks."""
    sides = [(event.payload, run.arrays(event.number)) for event in run.events("compared-network")]
    both = list(run.events("compared"))
    if len(sides) < 2 or not both:
        return []
    shift = both[-1].payload
    measured = "no knee was found in one of the contours, so that it cannot be measured"
    if shift["measured"] is not None and shift["error"] is not None:
        measured = f"measured {shift['measured']:+.3f} ± {number(shift['error'], 2)}"
    text = (
        "T_A = b_A / (g_A lr_A E|g|): the smaller the gradients, the longer A remembers at the same asymmetry. Where T_A is "
        "as long as the training, at alpha_1, the rate for equal accuracy bends from flat to slope +1. Predicted from E|g| "
        "of digital trainings that end at the same accuracy, averaged over cells and over the training; measured by fitting "
        "the law of a leaky integrator (lines).\n\n"
        f"Shift of the second network in decades of alpha_A: predicted {shift['predicted']:+.3f} ± "
        f"{number(shift['predicted_error'], 2)}; {measured}."
    )
    rows = tuple(
        (payload["network"], f"{number(payload['gradient'], 3)} ± {number(payload['gradient_error'], 2)}",
         f"{100 * payload['level']:.1f}", number(payload["predicted"], 3), _knee(payload))
        for payload, _ in sides
    )  # fmt: skip
    heads = ("network", "E|g|", "level (%)", "alpha_1 predicted", "alpha_1 measured")
    tables = [Table("Gradients and the asymmetry at which T_A is as long as the training.", heads, rows)]
    if shift["ranges"]:
        caption = "Ranges of their specifications (1: first network, 2: second)."
        tables.append(Table(caption, ("loss (points)", "role", "1", "2"), tuple(tuple(row) for row in shift["ranges"])))
    figure = Figure("compare", "Rate of transfer for equal accuracy; hollow: beyond the tried rates; bars below: alpha_1 "
                    "predicted from E|g|.", lambda fig: _draw(fig, sides), HALF)  # fmt: skip
    return [Section("Two networks", text, (figure,), tuple(tables))]


def _knee(payload: Any) -> str:
    if payload["knee_alpha"] is None or payload["knee_error"] is None:
        return "no knee"
    return f"{number(payload['knee_alpha'], 3)} (± {number(payload['knee_error'], 2)} decades)"


def _draw(fig: Any, sides: list[tuple[Any, Any]]) -> None:
    ax = fig.add_subplot()
    for k, (payload, arrays) in enumerate(sides):
        alpha, rate, inside = arrays["alpha_a"], arrays["rate"], arrays["outside"] == 0
        ax.plot(
            alpha[inside], rate[inside], MARKERS[k], color=colour(k), label=f"{k + 1}: {payload['network'].split(',')[0]}"
        )
        ax.plot(alpha[~inside], rate[~inside], MARKERS[k], color=colour(k), fillstyle="none")
        if payload["knee_alpha"] is not None:
            x = np.logspace(np.log10(alpha[0]), np.log10(alpha[-1]), 100)
            law = 10 ** payload["knee_level"] * rate_law(x / payload["knee_alpha"]) / 2
            ax.plot(x, law, linestyle=DASHES[k], color=colour(k))
        ax.axvline(payload["predicted"], ymax=0.08, color=colour(k), linestyle=DASHES[k])
    ax.set(xscale="log", yscale="log", xlabel="alpha of A", ylabel="lr_C / n_s")
    ax.legend(loc="upper left", fontsize="x-small")
