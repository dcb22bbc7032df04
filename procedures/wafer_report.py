"""The report's part on a wafer: maps over dies, a table of sites, and what is wrong with which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hil.report.figures import draw_map
from hil.report.section import Figure, Section, Table
from hil.report.values import number, prefixed
from hil.run_reader import RunReader

__all__ = ["wafer_sections"]

_MAPS: Mapping[str, tuple[str, str, str]] = {
    "alpha": ("asymmetry α", "1", "Asymmetry α, median over the cells of a die."),
    "states": ("number of states", "1", "Number of states, median over the cells of a die."),
    "step": ("step at the SP", "siemens", "Step at the symmetry point, median over the cells of a die."),
    "sp_skew": ("symmetry-point skew", "1", "Skew of the symmetry point, median over a die; 0.5 is mid-range."),
}
"""quantity -> (label, unit, caption)."""


def wafer_sections(run: RunReader) -> list[Section]:
    """One section on the whole wafer; of a site that was visited twice the last visit counts."""
    sites = list({event.payload["site"]: event.payload for event in run.events("site")}.values())
    if not sites:
        return []
    measured = [site for site in sites if not site["fault"]]
    cells, responding = sum(site["cells"] for site in measured), sum(site["responding"] for site in measured)
    text = (
        f"{number(len(measured))} of {number(len(sites))} sites were measured; {number(responding)} of their "
        f"{number(cells)} cells respond to pulses. Maps show a die at its column and row of the prober's map."
    )
    size = _map_size(_wafer(sites, "responding"))
    figures = [_yield_figure(sites, size), *(_map_figure(measured, sites, name, size) for name in _MAPS)]
    tables = [_site_table(sites)]
    wrong = [
        (site["site"], what)
        for site in sites
        for what in ([f"not measured: {_fault(site)}"] if site["fault"] else site["silent"])
    ]
    if wrong:
        tables.insert(
            0, Table(f"What is wrong on which site: {len(wrong)} entries.", ("site", "what is seen"), tuple(wrong))
        )
    return [Section("Wafer", text, tuple(figures), tuple(tables))]


def _fault(site: Any) -> str:
    """Without the site's name, which stands beside it."""
    return str(site["fault"]).removeprefix(f"{site['site']}: ")


def _wafer(sites: list[Any], name: str, all_sites: list[Any] | None = None) -> Any:
    """float64 [die row, die col], rows from the lowest of the map on, mean over the sites of a die; NaN where there is no
    die or no value."""
    dies = np.array([site["die"] for site in (all_sites or sites)])
    low, high = dies.min(axis=0), dies.max(axis=0)
    total = np.zeros((high[1] - low[1] + 1, high[0] - low[0] + 1))
    count = np.zeros_like(total)
    for site in sites:
        value = site[name] if name in site else site["medians"].get(name)
        if value is not None and np.isfinite(value):
            place = site["die"][1] - low[1], site["die"][0] - low[0]
            total[place] += value
            count[place] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _map_size(values: Any) -> tuple[float, float]:
    rows, cols = values.shape
    return 4.4, min(max(3.6 * rows / cols + 0.7, 1.9), 5.6)


def _draw(fig: Any, values: Any, sites: list[Any], label: str) -> None:
    first = min(site["die"][0] for site in sites), min(site["die"][1] for site in sites)
    draw_map(fig, values, label, missing="no die, or not measured", axis_names=("die column", "die row"), first=first)


def _yield_figure(sites: list[Any], size: tuple[float, float]) -> Figure:
    shown = [{**site, "yield": 100 * site["responding"] / site["cells"]} for site in sites if site["cells"]]

    def draw(fig: Any) -> None:
        _draw(fig, _wafer(shown, "yield", sites), sites, "cells that respond (%)")

    return Figure("wafer-yield", "Share of a die's cells that respond to pulses.", draw, size)


def _map_figure(measured: list[Any], sites: list[Any], name: str, size: tuple[float, float]) -> Figure:
    label, unit, caption = _MAPS[name]

    def draw(fig: Any) -> None:
        values = _wafer(measured, name, sites)
        factor, shown = prefixed(values[np.isfinite(values)], unit) if unit != "1" else (1.0, "")
        _draw(fig, factor * values, sites, f"{label} ({shown})" if shown else label)

    return Figure(f"wafer-{name}", caption, draw, size)


def _site_table(sites: list[Any]) -> Table:
    factors = {}
    for name, (_, unit, _) in _MAPS.items():
        found = [site["medians"].get(name) for site in sites]
        factors[name] = prefixed(np.array([one for one in found if one is not None]), unit)

    def value(site: Any, name: str) -> str:
        found = site["medians"].get(name)
        return "–" if found is None else f"{factors[name][0] * found:.4g}"

    rows = tuple(
        (site["site"], "not measured" if site["fault"] else f"{site['responding']} of {site['cells']}",
         *(value(site, name) for name in _MAPS))
        for site in sites
    )  # fmt: skip
    heads = [f"{label} ({factors[name][1]})" if factors[name][1] else label for name, (label, _, _) in _MAPS.items()]
    return Table("Sites: responding cells, and medians over them.", ("site", "cells", *heads), rows)
