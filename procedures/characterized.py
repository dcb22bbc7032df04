"""Characterizations to be judged: a bench's stored calibrations, or what a run of ``characterize`` or ``wafer`` recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hil.bench import Bench
from hil.config import BenchConfig, validated
from hil.errors import DataError, UsageError
from hil.ledger import Ledger
from procedures.judging import BOUND_WEIGHT, Cells, Role, cells_of

__all__ = ["Measured", "from_bench", "from_run", "roles_of"]


@dataclass(frozen=True, eq=False)
class Measured:
    """One array. Cells are None where a site could not be measured."""

    name: str
    roles: tuple[Role, ...]
    siemens_per_weight: float
    cells: Cells | None
    die: tuple[int, int] | None = None
    """Column and row of the prober's map; None without a station."""
    fault: str = ""
    """Why it was not measured."""


def roles_of(text: str, both: bool) -> tuple[Role, ...]:
    """Roles of a surface, "a", "c" or "a+c"; both: A has no place of its own and lives where C does."""
    found: list[Role] = ["a"] if "a" in text.split("+") or both else []
    return tuple([*found, "c"] if "c" in text.split("+") else found)


def from_bench(
    bench: Bench, widths: tuple[int, ...] | None, size: tuple[int, int] | None, scale: float | None
) -> list[Measured]:
    """Stored calibrations of every surface; UsageError where one was never characterized."""
    found = []
    for surface in bench.surfaces(widths=widths, size=size):
        known = bench.calibrations.find(surface.backend.info.serial, surface.shape)
        if known is None:
            raise UsageError(f"{surface.name}: was never characterized under its pulse: run `hil characterize` on it first")
        per_weight = scale or known.siemens_per_weight
        roles = roles_of(surface.role, "a" not in bench.config.roles)
        found.append(Measured(surface.name, roles, per_weight, cells_of(known, (~surface.mask).numpy(), per_weight)))
    return found


def from_run(folder: Path, scale: float | None) -> list[Measured]:
    """What a run recorded, of a wafer every site, in the order of the record; DataError where it characterized nothing."""
    with Ledger.open(folder) as run:
        sites = {event.payload["site"]: event.payload for event in run.events("site")}
        latest = {event.payload["surface"]: event for event in run.events("characterized")}
        if not latest:
            raise DataError(f"{folder}: characterized nothing: give a run of `hil characterize` or `hil wafer`")
        config = run.start["config"]
        if not isinstance(config, dict) or "bench" not in config:
            raise DataError(f"{folder}: does not say on which bench it ran: give a run of `hil characterize` or `hil wafer`")
        bench = validated(BenchConfig, config["bench"], str(folder))
        per_weight = scale or bench.nominal.siemens_per_weight
        found = []
        for name, event in latest.items():
            site = sites.get(name.partition("@")[2])
            if site is not None and site["fault"]:
                continue
            roles = roles_of(event.payload["role"], "a" not in bench.roles)
            cells = _recorded(run.arrays(event.number), event.payload["silent"], per_weight)
            found.append(Measured(name, roles, per_weight, cells, None if site is None else tuple(site["die"])))
    return found + [
        Measured(name, (), per_weight, None, tuple(site["die"]), site["fault"])
        for name, site in sites.items()
        if site["fault"]
    ]


def _recorded(arrays: Any, silent: Any, per_weight: float) -> Cells:
    responds = arrays["responds"].astype(bool)
    excluded = np.zeros(responds.shape, dtype=bool)
    for cell in silent:
        excluded[cell["array"], cell["row"], cell["col"]] = cell["reason"].startswith("excluded")
    alpha = arrays["asymmetry"].astype(np.float64) * (per_weight * BOUND_WEIGHT)
    return Cells(alpha, arrays["states"].astype(np.float64), responds, arrays["no_sp"].astype(bool), excluded)
