"""The report's part on the two mechanisms: what A remembers, what C accepts, and the ridge of an exploration."""

from __future__ import annotations

from typing import Any

import numpy as np

from hil.report.section import Figure, Section, Table
from hil.report.style import COLOURS, DASHES, GREY, HALF, MARKERS, WIDE, colour
from hil.report.values import number
from hil.run_reader import RunReader
from procedures.explore_chunk import BOUND_WEIGHT
from procedures.rate_contour_report import contour_section

__all__ = ["explain_sections"]

_LOUD = 0.05
"""From that on the random walk of A, as a part of its reach, is mentioned beside the ridge."""


def explain_sections(run: RunReader) -> list[Section]:
    """Memory, acceptance, and the ridge where an exploration was given."""
    memory = [(event.payload, run.arrays(event.number)) for event in run.events("explained-memory")]
    asked = [(event.payload, run.arrays(event.number)) for event in run.events("explained-acceptance")]
    ridge = [(event.payload, run.arrays(event.number)) for event in run.events("explained-ridge")]
    found = [_memory(memory)] if memory else []
    found += [_acceptance(asked)] if asked else []
    if memory or asked:
        found.append(_ridge(*ridge[-1]) if ridge else _no_ridge())
    contour = [(event.payload, run.arrays(event.number)) for event in run.events("explained-contour")]
    found += [contour_section(*contour[-1])] if contour else []
    return found


def _pm(value: Any, error: Any) -> str:
    return number(value) if error is None else f"{number(float(value))} ± {number(float(error), 2)}"


def _off(value: float, law: float) -> str:
    return f"{100 * (value / law - 1):+.1f} %".replace("-", "\N{MINUS SIGN}")


def _memory(points: list[Any]) -> Section:
    rows = tuple(
        (
            str(p["name"]), "–" if p["product"] is None else number(p["product"], 3), number(p["share"], 3),
            number(p["predicted"]),
            _pm(p["impulse"], p["impulse_se"]), _off(p["impulse"], p["predicted"]),
            _pm(p["regression"], p["regression_se"]), _off(p["regression"], p["predicted"]), number(p["most_pulses"]),
        )
        for p, _ in points
    )  # fmt: skip
    table = Table(
        "Memory of A in samples, predicted and measured with its standard error; m s is the share forgotten in a sample.",
        ("devices", "α_A lr_A", "m s", "T_A predicted", "impulse", "off", "regression", "off", "pulses of a cell"), rows,
    )  # fmt: skip
    text = (
        "A is an integrator that leaks with every pulse: a gradient counts exp(−j / T_A) after j samples, with "
        "T_A = b_A / (g_A lr_A E|g|). Impulse: half of the cells start above their symmetry point, half below, and random "
        "gradients follow; the share of the difference that is left is fitted with an exponential. Regression: the weight "
        "of the gradients of each past block in what is read from A, by least squares."
    )
    figures = [Figure("memory-kernels", "How past gradients fade. Dots: share of an impulse that is left (left), weight of "
                      "a past gradient in the read value, of a fresh one's (right); grey line: exp(−t / T_A) with the "
                      "predicted T_A.", lambda fig: _draw_kernels(fig, points), WIDE)]  # fmt: skip
    if len(points) > 1:
        figures.insert(0, Figure("memory-time", "Memory of A, measured against predicted, with standard errors; the band is "
                                 "5 % either way.", lambda fig: _draw_times(fig, points), HALF))  # fmt: skip
    return Section("What A remembers", text, tuple(figures), (table,))


def _draw_times(fig: Any, points: list[Any]) -> None:
    axes = fig.add_subplot()
    law = np.array([p["predicted"] for p, _ in points])
    axes.axhspan(0.95, 1.05, color="0.92", zorder=0)
    axes.axhline(1.0, color=GREY, linewidth=1.0)
    for place, (kind, shift) in enumerate((("impulse", 0.97), ("regression", 1.03))):
        value = np.array([p[kind] for p, _ in points]) / law
        error = np.array([np.nan if p[f"{kind}_se"] is None else p[f"{kind}_se"] for p, _ in points]) / law
        axes.errorbar(shift * law, value, error, fmt=MARKERS[place], color=colour(place), label=kind, capsize=2)
    axes.set_xscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.93), max(high, 1.07))
    axes.set(xlabel="predicted T_A (samples)", ylabel="measured / predicted")
    axes.legend(loc="best", ncols=2)


def _draw_kernels(fig: Any, points: list[Any]) -> None:
    for panel, (x, y, title) in enumerate((("at", "left", "impulse left"), ("lag", "weight", "weight of a gradient"))):
        axes = fig.add_subplot(1, 2, panel + 1)
        line = np.linspace(0, 3, 100)
        for place, (p, arrays) in enumerate(points):
            axes.plot(
                arrays[x] / p["predicted"], arrays[y], MARKERS[place % len(MARKERS)], color=colour(place), markersize=3,
                label=p["name"],
            )  # fmt: skip
        axes.plot(line, np.exp(-line), color=GREY, linewidth=1.2, zorder=1)
        axes.set(xlabel="age / predicted T_A", ylabel=title)
    handles, labels = axes.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=8)


def _acceptance(devices: list[Any]) -> Section:
    rows = tuple(
        (str(p["name"]), number(float(u), 3), number(float(law)), _pm(got, error), _off(got, law), number(int(count)))
        for p, arrays in devices
        for u, law, got, error, count in zip(
            arrays["u"], arrays["predicted"], arrays["measured"], arrays["error"], arrays["transfers"], strict=True
        )
    )
    clipped = tuple(
        (str(p["name"]), number(p["counted"]), number(p["clipped_request"]),
         "–" if p["clipped_request_share"] is None else number(p["clipped_request_share"], 3), number(p["clipped_range"]),
         number(p["most_pulses"]))
        for p, _ in devices
    )  # fmt: skip
    text = (
        "C accepts exactly 1 − u of a requested transfer v, with u = sign(v) (C − SP) s / F: less away from its symmetry "
        "point (u > 0), more toward it (u < 0), nothing at u = 1. Asymmetry decides which u a weight meets: "
        "|C − SP| of a given size is a u in proportion to alpha_C. Requests of more than one pulse, whose probability is "
        "clipped at 1, and transfers that may leave the range do not follow the law and are counted apart."
    )
    figure = Figure("acceptance", "Share of a requested transfer that C accepts, by where C is; line: the exact law 1 − u. "
                    "Below: measured over predicted, with standard errors; the band is 5 % either way.",
                    lambda fig: _draw_acceptance(fig, devices), (7.0, 4.6))  # fmt: skip
    tables = (
        Table("Share accepted, predicted and measured with its standard error, by u.",
              ("devices", "u", "predicted", "measured", "off", "transfers"), rows),
        Table("Transfers that count, and those counted apart: more than one pulse asked, with what these accepted of what "
              "the law would give; and near the bound that they move to.",
              ("devices", "counted", "request clipped", "accepted / law", "range", "pulses of a cell"), clipped),
    )  # fmt: skip
    return Section("What C accepts", text, (figure,), tables)


def _draw_acceptance(fig: Any, devices: list[Any]) -> None:
    grid = fig.add_gridspec(2, 1, height_ratios=(2, 1))
    top = fig.add_subplot(grid[0])
    below = fig.add_subplot(grid[1], sharex=top)
    top.plot([-1, 1], [2, 0], color=GREY, linewidth=1.2, zorder=1, label="1 − u")
    below.axhspan(0.95, 1.05, color="0.92", zorder=0)
    below.axhline(1.0, color=GREY, linewidth=1.0)
    for place, (p, arrays) in enumerate(devices):
        style = {"fmt": MARKERS[place % len(MARKERS)], "color": colour(place), "markersize": 4, "capsize": 2}
        top.errorbar(arrays["u"], arrays["measured"], arrays["error"], label=p["name"], **style)
        ratio = arrays["measured"] / arrays["predicted"], arrays["error"] / arrays["predicted"]
        below.errorbar(arrays["u"], *ratio, **style)
    low, high = below.get_ylim()
    below.set_ylim(min(low, 0.93), max(high, 1.07))
    top.tick_params(labelbottom=False)
    top.set(ylabel="share accepted")
    below.set(xlabel="u = sign(v) (C − SP) s / F", ylabel="meas. / pred.")
    top.legend(loc="upper right", ncols=2)


def _no_ridge() -> Section:
    return Section("Ridge", "No exploration was given, so the ridge of the best transfer rate against alpha_A is left out: "
                   "run `hil explore` and name its folder with -s explain.exploration=FOLDER.")  # fmt: skip


def _ridge(payload: Any, arrays: Any) -> Section:
    alpha, rate = arrays["alpha_a"], arrays["rate"]
    line = alpha * 10 ** (payload["anchor"] or 0.0)
    reasons = _reasons(payload, arrays)
    rows = tuple(
        (number(float(alpha[k]), 3), number(float(line[k]), 3), number(float(rate[k]), 3),
         "–" if arrays["edge"][k] else number(float(arrays["error"][k]), 2), number(float(arrays["accuracy"][k]), 3),
         reasons[k])
        for k in range(len(alpha))
    )  # fmt: skip
    used = int((arrays["edge"] == 0).sum())
    if payload["slope"] is None:
        said = f"Only {used} of {len(alpha)} asymmetries have a top inside the tried rates: no slope can be given."
    else:
        said = (
            f"Log-log slope {number(payload['slope'], 3)} ± {number(payload['slope_se'], 2)} (standard error) over {used} "
            f"of {len(alpha)} asymmetries, predicted +1."
        )
    text = (
        f"From an exploration of {payload['network']}. The effective learning rate of Tiki-Taka is lr_C (b_A / g_A) / "
        "(E|g| N n_s): at a fixed optimum the best lr_C / n_s is proportional to alpha_A, until T_A falls below the "
        f"interval between two reads of an element, or A's noise (a random walk of sqrt(α_A / states) of its reach) "
        f"outgrows its signal. {said} {_span(payload, alpha)} {_why(payload)}"
    )
    figure = Figure("ridge", "Best rate of transfer against the asymmetry of A, with standard errors; dashed: the predicted "
                    "slope of +1; hollow: no top inside the tried rates.", lambda fig: _draw_ridge(fig, payload, arrays),
                    HALF)  # fmt: skip
    table = Table("Best lr_C / n_s at every asymmetry of A, the line of slope +1 beside it; standard error in decades.",
                  ("α_A", "slope +1", "measured", "error", "accuracy", "remark"), rows)  # fmt: skip
    return Section("Ridge", text, (figure,), (table,))


def _span(payload: Any, alpha: Any) -> str:
    """What the design of the exploration allows to see."""
    rates, asymmetries = np.log10(payload["highest"] / payload["lowest"]), np.log10(alpha.max() / alpha.min())
    if rates >= asymmetries:
        return ""
    return (
        f"The tried rates span {number(float(rates), 2)} decades, the asymmetries {number(float(asymmetries), 2)}: a slope "
        "of +1 over all of them would leave the tried rates."
    )


def _why(payload: Any) -> str:
    known = "It holds where T_A is longer than that interval and shorter than the training: else A never settles."
    if payload["mean_gradient"] is None:
        return f"{known} With explain.mean_gradient (E|g|), lines and training_samples the table says where."
    told = f"{known} T_A in the table follows from the given E|g| and the mean lr_A near the top."
    count = len(payload["settled"])
    if payload["inner"] is None:
        return f"{told} {count} asymmetries lie between both limits: too few for a slope of their own."
    inner = f"{number(payload['inner'], 3)} ± {number(payload['inner_se'], 2)}"
    return f"{told} Over the {count} asymmetries between both limits the slope is {inner}."


def _reasons(payload: Any, arrays: Any) -> list[str]:
    departs, said = set(payload["departs"]), []
    for k, alpha in enumerate(arrays["alpha_a"]):
        words = []
        if arrays["edge"][k]:
            words.append("no top inside the tried rates")
        elif k in departs:
            words.append("off the line")
        else:
            words.append("on the line")
        lr_a = arrays["lr_a"][k]
        if payload["mean_gradient"] is not None and np.isfinite(lr_a):
            time = float(BOUND_WEIGHT / (alpha * lr_a * payload["mean_gradient"]))
            words.append(f"T_A {number(time, 2)} samples")
            if payload["lines"] is not None and time < payload["lines"] * arrays["transfer_every"][k]:
                words.append("A forgets between reads")
            if payload["training_samples"] is not None and time > payload["training_samples"]:
                words.append("A never settles")
        if np.isfinite(arrays["noise"][k]) and arrays["noise"][k] > _LOUD:
            words.append(f"noise of A {number(float(arrays['noise'][k]), 2)} of its reach")
        said.append("; ".join(words))
    return said


def _draw_ridge(fig: Any, payload: Any, arrays: Any) -> None:
    axes = fig.add_subplot()
    alpha, rate, error = arrays["alpha_a"], arrays["rate"], arrays["error"]
    inside = arrays["edge"] == 0
    axes.set(xscale="log", yscale="log", xlabel="asymmetry α of A", ylabel="best lr_C / n_s")
    spread = np.stack([rate * (1 - 10**-error), rate * (10**error - 1)])
    axes.errorbar(alpha[inside], rate[inside], spread[:, inside], fmt="o", color=COLOURS[0], capsize=2, label="measured")
    if not inside.all():
        axes.plot(alpha[~inside], rate[~inside], "o", markerfacecolor="white", color=COLOURS[0], label="edge of the tried")
    if payload["anchor"] is not None:
        axes.plot(alpha, alpha * 10 ** payload["anchor"], color=COLOURS[1], linestyle=DASHES[1], label="slope +1")
    axes.legend(loc="best")
