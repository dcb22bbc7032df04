"""The report's part on devices: what ``characterize`` and ``zero-shift`` recorded, as figures and tables.

Read from the events ``characterized`` and ``zero-shift``, one per surface; of a surface the last one counts. Where the
surface holds several arrays, histograms are over all of them and maps show the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hil.calibration import QUANTITIES
from hil.records import Array, Event
from hil.report.curves import draw_convergence, draw_traces
from hil.report.figures import draw_histogram, draw_histograms, draw_map
from hil.report.section import Figure, Section, Table
from hil.report.style import HALF
from hil.report.values import number, prefixed, quantity
from hil.run_reader import RunReader

__all__ = ["characterize_sections", "zero_shift_sections"]

_MOST_CELLS = 40
"""Cells that are listed by name at most."""

_REASONS = ("measured", "no response", "alpha too small", "not converged", "symmetry point outside the range")
"""By the code in the map ``reason`` of a zero-shift event."""


def characterize_sections(run: RunReader) -> list[Section]:
    """A section per surface."""
    return [_characterized(event.payload, run.arrays(event.number)) for event in _latest(run, "characterized")]


def zero_shift_sections(run: RunReader) -> list[Section]:
    """A section per surface."""
    return [_zero_shifted(event.payload, run.arrays(event.number)) for event in _latest(run, "zero-shift")]


def _latest(run: RunReader, kind: str) -> list[Event]:
    return list({event.payload["surface"]: event for event in run.events(kind)}.values())


def _cell_names(cells: Array) -> list[str]:
    return [f"row {row}, col {col}" if array == 0 else f"array {array}, row {row}, col {col}" for array, row, col in cells]


def _characterized(payload: Mapping[str, Any], arrays: Mapping[str, Array]) -> Section:
    name = payload["surface"]
    responds = arrays["responds"]
    silent = payload["silent"]
    several = f" Histograms hold {len(responds)} arrays; maps show the first." if len(responds) > 1 else ""
    text = (
        f"{number(int(responds.sum()))} of {number(responds.size)} cells respond to pulses, "
        f"{number(int(arrays['no_sp'].sum()))} of these "
        f"without a usable symmetry point. Each got up to {number(payload['pulses'])} pulses.{several}"
    )
    figures = [*_trace_figures(name, arrays), *_device_histograms(name, arrays), *_device_maps(name, arrays)]
    tables = [_quantities(arrays)]
    if silent:
        rows = tuple(
            (number(cell["array"]), number(cell["row"]), number(cell["col"]), str(cell["reason"]))
            for cell in silent[:_MOST_CELLS]
        )
        tables.append(Table(_of("Cells that do not respond", len(silent)), ("array", "row", "col", "what is seen"), rows))
    return Section(f"Devices of {name}", text, tuple(figures), tuple(tables))


def _of(what: str, count: int) -> str:
    return f"{what}: {count}" + (f", the first {_MOST_CELLS} of them" if count > _MOST_CELLS else "")


def _trace_figures(name: str, arrays: Mapping[str, Array]) -> list[Figure]:
    if len(arrays.get("sample_cell", ())) == 0:
        return []
    factor, unit = prefixed(arrays["trace_g"], "siemens")
    titles = _cell_names(arrays["sample_cell"])

    def traces(fig: Any) -> None:
        draw_traces(
            fig,
            arrays["trace_pulse"],
            factor * arrays["trace_g"],
            factor * arrays["trace_fit"],
            titles,
            f"conductance ({unit})",
        )

    def settling(fig: Any) -> None:
        groups = {f"from {end}": (arrays["settle_pulse"], 100 * arrays[f"settle_{end}"]) for end in ("below", "above")}
        draw_convergence(
            fig, groups, "distance from the symmetry point\n(% of the range)", target=0.0, note="symmetry point"
        )

    height = 1.0 + 1.25 * -(-len(titles) // 2)
    return [
        Figure(f"{name}-traces", "Cycles of up and down pulses on a few cells: readings and the linear-step fit.",
               traces, (HALF[0], max(height, 2.6))),
        Figure(f"{name}-alternating", "The same cells under alternating pulses, from either end of their range: both ways "
               "must end at the same point, the symmetry point.", settling, HALF),
    ]  # fmt: skip


def _device_histograms(name: str, arrays: Mapping[str, Array]) -> list[Figure]:
    alive = arrays["responds"]
    step = prefixed(arrays["step"][alive], "siemens")
    panels = {
        "asymmetry α": arrays["alpha"][alive],
        "number of states": arrays["states"][alive],
        "symmetry-point skew": arrays["sp_skew"][alive],
        "noise of a step / step": arrays["noise_to_step"][alive],
        f"step at the SP ({step[1]})": step[0] * arrays["step"][alive],
        "lost while idle (% of range)": 100 * arrays["forgotten"][alive],
    }
    return [
        Figure(f"{name}-histograms", "Responding cells by what was measured; dashed: median. Skew 0.5 is a symmetry point "
               "in mid-range. Values far outside are counted at the edge.",
               lambda fig: draw_histograms(fig, panels), (HALF[0], 5.4)),
        Figure(f"{name}-model-test", "Two ways to the symmetry point compared, in standard errors: about normal with a "
               "standard deviation of 1 where the linear-step device describes the cells.",
               lambda fig: draw_histogram(fig, {"branches – alternating": arrays["model_z"][alive],
                                                "from below – from above": arrays["ends_z"][alive]},
                                          "difference of symmetry points (standard errors)", mark=0.0), HALF),
    ]  # fmt: skip


def _device_maps(name: str, arrays: Mapping[str, Array]) -> list[Figure]:
    factor, unit = prefixed(arrays["g_sp"], "siemens")
    return [
        Figure(f"{name}-map-sp", "Symmetry point of every cell.",
               lambda fig: draw_map(fig, factor * arrays["g_sp"][0], f"symmetry point ({unit})"), _map_size(arrays["g_sp"])),
        Figure(f"{name}-map-alpha", "Asymmetry α of every cell: 0 = symmetric, 1 = soft bounds at the weight's bounds.",
               lambda fig: draw_map(fig, arrays["alpha"][0], "asymmetry α"), _map_size(arrays["g_sp"])),
    ]  # fmt: skip


def _map_size(values: Array) -> tuple[float, float]:
    """So that cells are about square where the matrix is not too long; inches."""
    rows, cols = values.shape[1:]
    ratio = rows / cols if 0.4 <= cols / rows <= 3.5 else 0.75
    return HALF[0], min(max(3.1 * ratio + 0.7, 1.9), 5.6)


def _quantities(arrays: Mapping[str, Array]) -> Table:
    """Median and spread over cells of every quantity, with its definition."""
    alive = arrays["responds"]
    definitions = {
        **QUANTITIES,
        "alpha": ("1", "asymmetry in 1/weight times the bound b_w: 0 symmetric, 1 soft bounds at ±b_w"),
    }
    rows = []
    for name, (unit, definition) in definitions.items():
        values = arrays[name][alive].astype(np.float64)
        values = values[np.isfinite(values)]
        if values.size:
            low, middle, high = np.percentile(values, [16, 50, 84])
            found = (quantity(float(middle), unit), f"{quantity(float(low), unit, 3)} … {quantity(float(high), unit, 3)}")
        else:
            found = ("–", "–")
        rows.append((name, *found, definition))
    return Table("Responding cells.", ("quantity", "median", "central 68 %", "definition"), tuple(rows))


def _zero_shifted(payload: Mapping[str, Any], arrays: Mapping[str, Array]) -> Section:
    name = payload["surface"]
    reason, pulses = arrays["reason"], arrays["pulses"]
    good = reason == 0
    used = pulses[pulses > 0]
    spent = f", {number(float(np.median(used)))} pulses on a cell (median)" if used.size else ""
    several = f" Histograms hold {len(reason)} arrays; maps show the first." if len(reason) > 1 else ""
    text = f"The symmetry points of {number(int(good.sum()))} of {number(reason.size)} cells were measured{spent}.{several}"
    factor, unit = prefixed(arrays["g_sp"], "siemens")
    small, small_unit = prefixed(arrays["g_sp_se"][good], "siemens")
    map_size = _map_size(arrays["g_sp"])
    figures = [
        *_tracking_figure(name, arrays),
        Figure(f"{name}-zero-shift-map", "Symmetry point of every cell, the reference of its weight 0.",
               lambda fig: draw_map(fig, factor * arrays["g_sp"][0], f"symmetry point ({unit})", missing="none usable"),
               map_size),
        Figure(f"{name}-zero-shift-sp", "Symmetry points; dashed: median.",
               lambda fig: draw_histogram(fig, {"": factor * arrays["g_sp"][good]}, f"symmetry point ({unit})",
                                          mark=_median(factor * arrays["g_sp"][good])), HALF),
        Figure(f"{name}-zero-shift-errors", "Standard errors of the symmetry points; dashed: median.",
               lambda fig: draw_histogram(fig, {"": small * arrays["g_sp_se"][good]}, f"standard error ({small_unit})",
                                          mark=_median(small * arrays["g_sp_se"][good])), HALF),
        Figure(f"{name}-zero-shift-pulses", "Pulses that cells got, those to mid-range included.",
               lambda fig: draw_histogram(fig, {"": used}, "pulses per cell"), HALF),
    ]  # fmt: skip
    outcome = tuple((text, number(int((reason == code).sum()))) for code, text in enumerate(_REASONS))
    if bool((reason == -1).any()):
        outcome = (*outcome, ("excluded in the bench file", number(int((reason == -1).sum()))))
    tables = [Table("Cells by outcome; those not measured get mid-range as their reference.", ("outcome", "cells"), outcome)]
    flagged = np.argwhere(reason > 1)
    if len(flagged):
        rows = tuple((*(number(int(i)) for i in cell), _REASONS[reason[tuple(cell)]]) for cell in flagged[:_MOST_CELLS])
        tables.append(Table(_of("Flagged cells", len(flagged)), ("array", "row", "col", "why"), rows))
    return Section(f"Symmetry points of {name}", text, tuple(figures), tuple(tables))


def _median(values: Array) -> float | None:
    return float(np.median(values)) if values.size else None


def _tracking_figure(name: str, arrays: Mapping[str, Array]) -> list[Figure]:
    """Readings and estimates of a few cells as pulses go on, about the final estimate."""
    if len(arrays.get("track_cell", ())) == 0:
        return []

    def draw(fig: Any) -> None:
        span = np.stack([(arrays["g_max"] - arrays["g_min"])[tuple(cell)] for cell in arrays["track_cell"]])
        final = np.stack([arrays["g_sp"][tuple(cell)] for cell in arrays["track_cell"]])
        away = 100 * (arrays["track_g"] - final[:, None]) / span[:, None]
        estimate = 100 * (arrays["track_sp"] - final[:, None]) / span[:, None]
        groups = {"reading": (arrays["track_pulse"], away), "estimate": (arrays["track_pulse"], estimate)}
        draw_convergence(
            fig, groups, "distance from the final estimate\n(% of the range)", target=0.0, note="final estimate"
        )

    caption = "A few cells from mid-range on: the conductance drifts to the symmetry point, the estimate is there first."
    return [Figure(f"{name}-zero-shift-tracks", caption, draw, HALF)]
