"""``hil wafer``: characterize one site after another; what cannot be measured is named, the rest goes on.

Works with any station (``[station]`` of the bench file); without one the wafer is a single site. A resumed run leaves out
the sites that were measured, goes to the others again, and reads cells again whose last pulses nobody knows the outcome
of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from hil.calibration import Calibration
from hil.errors import HardwareError, PulseOutcomeUnknown, UsageError
from hil.ledger import Ledger
from hil.procedure import Procedure
from hil.progress import progress
from hil.report.section import Table
from hil.station import Site, Station
from procedures.characterize import CharacterizeConfig, SurfaceResult, characterize
from procedures.wafer_report import wafer_sections

__all__ = ["SiteResult", "WaferConfig", "WaferResult", "headline", "procedure", "wafer"]

_MAPPED = ("alpha", "states", "step", "sp_skew", "g_min", "g_max", "noise_to_step")
"""Quantities whose medians over a site's cells make the wafer maps."""

Die = Annotated[tuple[int, int], Field(description="column and row of the map")]


class WaferConfig(BaseModel):
    """Options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dies: tuple[Die, ...] | None = None
    """Dies to visit, [col, row] each; None = all of the map."""
    faults_in_a_row: int = Field(default=5, ge=1)
    """Sites without contact, one after another, after which the run stops: then it is the probes, not the dies."""
    characterize: CharacterizeConfig = CharacterizeConfig()


@dataclass(frozen=True)
class SiteResult:
    """What was found at a site."""

    site: Site
    fault: str = ""
    """Why it was not measured; empty where it was."""
    cells: int = 0
    responding: int = 0
    silent: tuple[str, ...] = ()
    """Cells that do not respond, with what is seen of why."""
    medians: tuple[tuple[str, float], ...] = ()
    """(quantity, median over the responding cells)."""


@dataclass(frozen=True)
class WaferResult:
    """One entry per site visited in this run, and those that an interrupted run had done before."""

    sites: tuple[SiteResult, ...]


def wafer(station: Station, config: WaferConfig, ledger: Ledger) -> WaferResult:
    """Characterize every site of a station. Raises HardwareError where too many sites in a row have no contact."""
    chosen = _chosen(station.sites(), config)
    seen = [_restored(event.payload) for event in ledger.run.events("site")]
    before = {found.site.name: found for found in seen if not found.fault}
    results = [before[site.name] for site in chosen if site.name in before]
    left = [site for site in chosen if site.name not in before]
    in_a_row = 0
    with progress("sites", len(left)) as advance:
        for site in left:
            try:
                found = _measure(station, site, config, ledger)
                in_a_row = 0
            except HardwareError as exc:
                found = SiteResult(site, fault=str(exc))
                in_a_row += 1
            results.append(found)
            ledger.event("site", _payload(found))
            if in_a_row >= config.faults_in_a_row:
                raise HardwareError(f"{in_a_row} sites in a row without a measurement, the last: {found.fault}")
            advance(1, site.name)
    ledger.event("station", station.status())
    measured = [found for found in results if not found.fault]
    cells, responding = sum(found.cells for found in measured), sum(found.responding for found in measured)
    ledger.result("sites measured", len(measured), "1", f"of {len(chosen)} sites")
    ledger.result("cells responding", responding, "1", f"of {cells} cells on the measured sites")
    results.sort(key=lambda found: chosen.index(found.site))
    return WaferResult(tuple(results))


def _chosen(sites: list[Site], config: WaferConfig) -> list[Site]:
    if config.dies is None:
        return sites
    unknown = set(config.dies) - {site.die for site in sites}
    if unknown:
        raise UsageError(f"wafer.dies: {sorted(unknown)[0]} is not on the map: leave it out")
    return [site for site in sites if site.die in config.dies]


def _measure(station: Station, site: Site, config: WaferConfig, ledger: Ledger) -> SiteResult:
    with station.contact(site) as bench:
        bench.account_for_pending()
        try:
            result = characterize(bench, config.characterize, ledger)
        except PulseOutcomeUnknown:
            # While the probes are there: nobody comes back to this site but a resumed run.
            bench.account_for_pending()
            raise
    surfaces = result.surfaces
    silent = [f"row {cell.row}, col {cell.col}: {cell.reason}" for one in surfaces for cell in one.silent]
    return SiteResult(
        site,
        cells=sum(one.calibration.responds.numel() for one in surfaces),
        responding=sum(int(one.calibration.responds.sum()) for one in surfaces),
        silent=tuple(silent),
        medians=tuple((name, _median(surfaces, name)) for name in _MAPPED),
    )


def _median(surfaces: tuple[SurfaceResult, ...], name: str) -> float:
    def values(calibration: Calibration) -> torch.Tensor:
        field: torch.Tensor = getattr(calibration, name)
        return field[calibration.responds].double()

    together = torch.cat([values(one.calibration) for one in surfaces])
    together = together[together.isfinite()]
    return float(together.quantile(0.5)) if len(together) else float("nan")


def _payload(found: SiteResult) -> dict[str, Any]:
    return {
        "site": found.site.name,
        "die": list(found.site.die),
        "index": found.site.index,
        "fault": found.fault,
        "cells": found.cells,
        "responding": found.responding,
        "silent": list(found.silent),
        "medians": dict(found.medians),
    }


def _restored(payload: dict[str, Any]) -> SiteResult:
    col, row = payload["die"]
    medians = tuple((name, float("nan") if value is None else value) for name, value in payload["medians"].items())
    site = Site((col, row), payload["index"])
    return SiteResult(site, payload["fault"], payload["cells"], payload["responding"], tuple(payload["silent"]), medians)


def headline(result: WaferResult) -> Table:
    """A row per site."""
    rows = []
    for found in result.sites:
        medians = dict(found.medians)
        seen = found.fault or "; ".join(found.silent)
        numbers = [f"{medians[name]:.4g}" if name in medians else "" for name in ("alpha", "states")]
        rows.append((found.site.name, f"{found.responding} of {found.cells}", *numbers, seen))
    return Table("sites", ("site", "cells", "alpha", "states", "what is wrong"), tuple(rows))


procedure = Procedure(
    "wafer", WaferConfig, wafer, "characterize every site of a wafer", wafer_sections, on="station", headline=headline
)
"""The entry point."""
