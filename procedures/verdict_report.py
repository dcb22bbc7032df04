"""The report's part on a verdict: one page for whoever makes the devices. From the events ``verdict`` and ``judged``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hil.report.figures import draw_map
from hil.report.section import Figure, Section, Table
from hil.report.style import clean, colour, nothing
from hil.report.values import number, quantity
from hil.run_reader import RunReader
from procedures.judging import EXCLUDED, REASONS
from procedures.log_axis import log_ticks

__all__ = ["verdict_sections"]

_SHADES = ("#5aa469", "#7f7f7f", "#b39ddb", "#4c86c6", "#d9793b", "#c9b458", "#e6e6e6")
"""By reason."""


def verdict_sections(run: RunReader) -> list[Section]:
    """One section; nothing where the run did not come to a verdict."""
    found = [*run.events("verdict")]
    if not found:
        return []
    payload = found[-1].payload
    arrays = [(event.payload, run.arrays(event.number)) for event in run.events("judged")]
    figures = [_alpha_figure(payload, arrays), _cell_figure(payload, arrays)]
    tables = (_summary(payload), _cells(payload), _sites(arrays))
    title = f"Verdict: {'pass' if payload['passed'] else 'fail'}"
    return [Section(title, _text(payload), tuple(figures), tuple(table for table in tables if table.rows))]


def _text(payload: Mapping[str, Any]) -> str:
    roles = payload["roles"]
    said = " and ".join(f"{100 * one['yield']:.1f} % of {number(one['judged'])} cells pass as {one['role'].upper()}"
                        for one in roles)  # fmt: skip
    lost = payload["not_measured"]
    missing = f" {number(lost)} sites could not be measured and count neither way." if lost else ""
    expected = payload["expected"]
    accuracy = (
        "The median asymmetries lie outside the map of the specification, or a role is missing: no accuracy is expected."
        if expected is None or not np.isfinite(expected)
        else f"Expected accuracy at the median asymmetries: {100 * expected:.1f} ± {100 * payload['error']:.1f} % "
        f"(trained digitally {100 * payload['digital_accuracy']:.1f} %)."
    )
    return (
        f"Network: {payload['network']}. {said}; {100 * payload['min_yield']:g} % are asked for.{missing}\n\n{accuracy}\n\n"
        f"Alpha is the asymmetry a of a cell (1/siemens) times {quantity(payload['siemens_per_weight'], 'siemens')} "
        "per weight times 0.6. Another scale gives another alpha: the verdict holds for this one. A cell needs an alpha "
        f"inside the range, a symmetry point, and {payload['min_states']:g} states."
    )


def _summary(payload: Mapping[str, Any]) -> Table:
    rows = [("allowed loss of accuracy", f"{100 * payload['delta']:g} % at {100 * payload['confidence']:g} % confidence")]
    for one in payload["roles"]:
        low, middle, high = one["alpha"]
        name = one["role"].upper()
        rows.append((f"alpha of {name}, allowed", f"{number(one['low'], 3)} … {number(one['high'], 3)}"))
        rows.append(
            (f"alpha of {name}, median (central 68 %)", f"{number(middle, 3)} ({number(low, 3)} … {number(high, 3)})")
        )
        rows.append((f"yield as {name}", f"{100 * one['yield']:.1f} %: {'pass' if one['passed'] else 'fail'}"))
    lowest = payload["lowest"]
    if lowest is not None and np.isfinite(lowest):
        rows.append(("least accuracy within the central 68 % of alpha", f"{100 * lowest:.1f} %"))
    rows.append(("scale", f"{quantity(payload['siemens_per_weight'], 'siemens')} per weight"))
    rows += [(f"train with {name}", number(float(value))) for name, value in payload["hyper"].items()]
    rows.append(("specification", payload["specification"]))
    if payload["run"]:
        rows.append(("characterization", payload["run"]))
    return Table("What was asked, what was found, what to train with.", ("quantity", "value"), tuple(rows))


def _cells(payload: Mapping[str, Any]) -> Table:
    roles = payload["roles"]
    rows = tuple(
        (reason, *(number(one["counts"][code]) for one in roles))
        for code, reason in enumerate(REASONS)
        if any(one["counts"][code] for one in roles)
    )
    return Table("Cells by outcome.", ("outcome", *(f"as {one['role'].upper()}" for one in roles)), rows)


def _sites(arrays: list[tuple[Any, Any]]) -> Table:
    rows = []
    for payload, found in arrays if len(arrays) > 1 else ():
        if payload["fault"]:
            rows.append((payload["surface"], "–", "–", "not measured: " + payload["fault"]))
            continue
        shares = [_share(found.get(f"code_{role}")) for role in ("a", "c")]
        codes = np.concatenate([found[f"code_{role}"].ravel() for role in payload["roles"]])
        wrong = [REASONS[code] for code in range(1, len(REASONS)) if bool((codes == code).any())]
        rows.append((payload["surface"], *(_percent(one) for one in shares), "; ".join(wrong)))
    return Table("Yield by array, in per cent.", ("array", "as A", "as C", "why cells fail"), tuple(rows))


def _share(codes: Any) -> float:
    """Share of the judged cells that pass."""
    if codes is None:
        return float("nan")
    judged = int((codes != EXCLUDED).sum())
    return float((codes == 0).sum()) / judged if judged else float("nan")


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f}"


def _alpha_figure(payload: Mapping[str, Any], arrays: list[tuple[Any, Any]]) -> Figure:
    roles = payload["roles"]

    def draw(fig: Any) -> None:
        axes_of = fig.subplots(len(roles), 1, sharex=True, squeeze=False)[:, 0]
        for place, (axes, one) in enumerate(zip(axes_of, roles, strict=True)):
            values = clean(np.concatenate([
                found["alpha"].ravel() for said, found in arrays if one["role"] in said["roles"] and "alpha" in found
            ]))  # fmt: skip
            values = values[values > 0]
            axes.set_xscale("log")
            axes.axvspan(one["low"], one["high"], color=_SHADES[0], alpha=0.18, linewidth=0)
            if values.size == 0:
                nothing(axes)
                continue
            ends = min(values.min(), one["low"]) / 1.3, max(values.max(), one["high"]) * 1.3
            edges = np.geomspace(*ends, 61)
            axes.stairs(np.histogram(values, edges)[0], edges, fill=True, color=colour(place), alpha=0.7)
            axes.axvline(np.median(values), color="0.2", linestyle=(0, (4, 2)), linewidth=1.1)
            axes.set_ylabel(f"cells as {one['role'].upper()}")
        log_ticks(axes_of[-1].xaxis)
        axes_of[-1].set_xlabel("asymmetry α")

    caption = "Asymmetry of the cells; green: what the specification allows; dashed: median."
    return Figure("verdict-alpha", caption, draw, (4.4, 0.9 + 1.05 * len(roles)))


def _cell_figure(payload: Mapping[str, Any], arrays: list[tuple[Any, Any]]) -> Figure:
    if any(said["die"] is not None for said, _ in arrays):
        return _wafer_figure(arrays)
    shown, found = next((said, found) for said, found in arrays if said["roles"])

    def draw(fig: Any) -> None:
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        present: set[int] = set()
        panels = fig.subplots(1, len(shown["roles"]), squeeze=False)[0]
        for axes, role in zip(panels, shown["roles"], strict=True):
            codes = found[f"code_{role}"][0]
            present |= {int(code) for code in np.unique(codes)}
            axes.imshow(
                codes, cmap=ListedColormap(list(_SHADES)), vmin=-0.5, vmax=len(_SHADES) - 0.5, interpolation="nearest"
            )
            axes.grid(False)
            axes.set(xlabel="column", ylabel="row", title=f"as {role.upper()}")
        handles = [Patch(facecolor=_SHADES[code], edgecolor="0.4", label=REASONS[code]) for code in sorted(present)]
        fig.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))

    several = "" if len(arrays) == 1 else f" {shown['surface']}, the first of {len(arrays)}."
    return Figure("verdict-cells", f"Every cell: pass, or why not.{several}", draw, (4.4, 3.0))


def _wafer_figure(arrays: list[tuple[Any, Any]]) -> Figure:
    dies = np.array([said["die"] for said, _ in arrays if said["die"] is not None])
    low, high = dies.min(axis=0), dies.max(axis=0)
    shares: dict[tuple[int, int], list[float]] = {}
    for said, found in arrays:
        if said["die"] is not None and said["roles"]:
            worst = min(_share(found[f"code_{role}"]) for role in said["roles"])
            shares.setdefault((said["die"][1] - low[1], said["die"][0] - low[0]), []).append(100 * worst)
    values = np.full((high[1] - low[1] + 1, high[0] - low[0] + 1), np.nan)
    for place, found_shares in shares.items():
        values[place] = np.mean(found_shares)

    def draw(fig: Any) -> None:
        first = (int(low[0]), int(low[1]))
        draw_map(fig, values, "cells that pass (%)", missing="no die, or not measured", first=first,
                 axis_names=("die column", "die row"))  # fmt: skip

    height = min(max(3.6 * values.shape[0] / values.shape[1] + 0.7, 1.9), 5.6)
    return Figure("verdict-wafer", "Yield of every die, in the worse of its roles.", draw, (4.4, height))
