"""``hil verdict``: may these devices be trained on? A characterization against the asymmetry specification of a network.

Every cell is judged in each role that its board plays: alpha inside the specification's range of that matrix, a symmetry
point, enough states. alpha = a (1/siemens) times siemens per weight times b_w = 0.6, so that a verdict holds for the
scale that it is printed with. Accuracy is read off the specification's map at the median asymmetries. No pulse is sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hil.errors import UsageError
from hil.ledger import Ledger
from hil.procedure import Procedure
from hil.report.section import Table
from hil.station import Station
from procedures.characterized import Measured, from_bench, from_run
from procedures.judging import (
    EXCLUDED,
    REASONS,
    Cells,
    Role,
    bounds,
    chosen_range,
    judge,
    load_specification,
    needs_symmetry_points,
)
from procedures.specification import Specification
from procedures.verdict_report import verdict_sections

__all__ = ["RoleVerdict", "VerdictConfig", "VerdictResult", "headline", "procedure", "verdict"]

Count = Annotated[int, Field(ge=1)]


class VerdictConfig(BaseModel):
    """``-s verdict.KEY=VALUE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    specification: Path
    """TOML or JSON file that `hil specify` wrote."""
    run: Path | None = None
    """Folder of a run of characterize or wafer; None = the bench's stored calibrations."""
    network: str | None = None
    """Name of the network that the devices are for; a specification of another one is refused. None = any."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Allowed loss of accuracy, one that the specification names; None = the smallest that leaves a range."""
    min_states: float = Field(default=20.0, ge=0)
    """A cell with fewer states fails. Ours: the specification says nothing of states."""
    min_yield: float = Field(default=0.9, gt=0, le=1)
    """Share of passing cells from which a role passes."""
    siemens_per_weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Scale to judge at; None = that of the characterization."""
    size: tuple[Count, Count] | None = None
    """Rows and cols of the characterized matrix of an elastic bench."""
    widths: tuple[Count, ...] | None = Field(default=None, min_length=2)
    """Layer widths of the characterized network of an elastic bench."""


@dataclass(frozen=True)
class RoleVerdict:
    """All cells in one role."""

    role: Role
    low: float
    high: float
    """The specification's range of alpha."""
    alpha: tuple[float, float, float]
    """16 %, median and 84 % over the cells with a symmetry point."""
    counts: tuple[int, ...]
    """Cells by reason, as in REASONS."""
    passed: bool

    @property
    def judged(self) -> int:
        """Cells that are not excluded."""
        return sum(self.counts) - self.counts[EXCLUDED]

    @property
    def cell_yield(self) -> float:
        """Share of them that pass."""
        return self.counts[0] / self.judged


@dataclass(frozen=True)
class VerdictResult:
    """The verdict; ``expected`` and ``error`` are NaN where the median asymmetries lie outside the specification's map."""

    network: str
    passed: bool
    roles: tuple[RoleVerdict, ...]
    expected: float
    error: float
    lowest: float
    """The least accuracy that the map has at the 16 % and 84 % ends of the asymmetries; NaN outside it."""
    hyper: dict[str, float]
    siemens_per_weight: float
    not_measured: int
    """Sites of a wafer."""


def verdict(station: Station, config: VerdictConfig, ledger: Ledger) -> VerdictResult:
    """Judge a characterization. DataError and UsageError where it or the specification cannot be used."""
    specification = load_specification(config.specification, config.network)
    chosen = chosen_range(specification, config.delta)
    arrays = _characterized(station, config)
    parts = [array for array in arrays if array.cells is not None]
    what = str(config.run) if config.run is not None else ", ".join(array.name for array in parts)
    needs_symmetry_points(Cells.together([array.cells for array in parts if array.cells is not None]), what)
    found = []
    for role in ("a", "c"):
        mine = [array.cells for array in parts if role in array.roles and array.cells is not None]
        if mine:
            found.append(_role(role, Cells.together(mine), bounds(chosen, role), config))
    expected, error, lowest, hyper = _accuracy(specification, tuple(found))
    result = VerdictResult(
        specification.network, all(one.passed for one in found), tuple(found), expected, error, lowest, hyper,
        parts[0].siemens_per_weight, len(arrays) - len(parts),
    )  # fmt: skip
    for array in arrays:
        _record_array(ledger, array, {role: bounds(chosen, role) for role in array.roles}, config.min_states)
    _record(ledger, result, specification, chosen.delta, chosen.confidence, config)
    return result


def _characterized(station: Station, config: VerdictConfig) -> list[Measured]:
    if config.run is not None:
        return from_run(config.run, config.siemens_per_weight)
    sites = station.sites()
    if len(sites) > 1:
        raise UsageError(f"verdict.run: the station has {len(sites)} sites: run `hil wafer` and give the folder of its run")
    with station.contact(sites[0]) as bench:
        return from_bench(bench, config.widths, config.size, config.siemens_per_weight)


def _role(role: Role, cells: Cells, ends: tuple[float, float], config: VerdictConfig) -> RoleVerdict:
    codes = judge(cells, *ends, config.min_states)
    counts = tuple(int((codes == code).sum()) for code in range(len(REASONS)))
    needs_symmetry_points(cells, f"the matrix of role {role}")
    low, middle, high = (float(one) for one in np.percentile(cells.alpha[cells.usable], [16, 50, 84]))
    share = counts[0] / (sum(counts) - counts[EXCLUDED])
    return RoleVerdict(role, *ends, (low, middle, high), counts, share >= config.min_yield)


def _accuracy(specification: Specification, roles: tuple[RoleVerdict, ...]) -> tuple[float, float, float, dict[str, float]]:
    """(at the medians, its standard error, the least at the ends, hyper-parameters); nothing where a role is missing."""
    by_role = {one.role: one for one in roles}
    if len(by_role) < 2:
        return math.nan, math.nan, math.nan, {}
    a, c = by_role["a"].alpha, by_role["c"].alpha
    expected, error = specification.accuracy_at(a[1], c[1])
    lowest = min(specification.accuracy_at(x, y)[0] for x in (a[0], a[2]) for y in (c[0], c[2]))
    return expected, error, lowest, specification.hyper_at(a[1], c[1]) if specification.points else {}


def _record_array(ledger: Ledger, array: Measured, ends: dict[Role, tuple[float, float]], min_states: float) -> None:
    payload = {"surface": array.name, "roles": list(array.roles), "die": array.die, "fault": array.fault}
    if array.cells is None:
        ledger.event("judged", payload)
        return
    cells = array.cells
    codes = {f"code_{role}": judge(cells, *both, min_states) for role, both in ends.items()}
    ledger.event("judged", payload, {"alpha": np.where(cells.usable, cells.alpha, np.nan), **codes})


def _record(
    ledger: Ledger, result: VerdictResult, specification: Specification, delta: float, confidence: float,
    config: VerdictConfig,
) -> None:  # fmt: skip
    payload: dict[str, Any] = {
        "specification": str(config.specification), "network": result.network, "delta": delta, "confidence": confidence,
        "digital_accuracy": specification.digital_accuracy, "passed": result.passed, "expected": result.expected,
        "error": result.error, "lowest": result.lowest, "hyper": result.hyper,
        "siemens_per_weight": result.siemens_per_weight, "min_states": config.min_states, "min_yield": config.min_yield,
        "not_measured": result.not_measured, "run": "" if config.run is None else str(config.run),
        "roles": [
            {"role": one.role, "low": one.low, "high": one.high, "alpha": list(one.alpha), "counts": list(one.counts),
             "passed": one.passed, "judged": one.judged, "yield": one.cell_yield}
            for one in result.roles
        ],
    }  # fmt: skip
    ledger.event("verdict", payload)
    for one in result.roles:
        ledger.result(
            f"{one.role.upper()}: yield", one.cell_yield, "1", "share of the cells that pass", low=config.min_yield
        )
        ledger.result(f"{one.role.upper()}: alpha", one.alpha[1], "1", "median over the cells with a symmetry point")
    ledger.result("expected accuracy", result.expected, "1", "of the specification's map at the median asymmetries")
    ledger.result("scale", result.siemens_per_weight, "siemens", "conductance of one weight, which alpha goes with")


def headline(result: VerdictResult) -> Table:
    """A row per role."""
    rows = []
    for one in result.roles:
        wrong = "; ".join(f"{n} {REASONS[code]}" for code, n in enumerate(one.counts) if n and code)
        rows.append(
            (one.role.upper(), "pass" if one.passed else "fail", f"{100 * one.cell_yield:.1f}", f"{one.alpha[1]:.3g}",
             f"{one.low:.3g} ... {one.high:.3g}", wrong)
        )  # fmt: skip
    accuracy = (
        "outside the map" if math.isnan(result.expected) else f"{100 * result.expected:.1f} +- {100 * result.error:.1f} %"
    )
    caption = f"{result.network}: {'PASS' if result.passed else 'FAIL'}; expected accuracy {accuracy}"
    return Table(caption, ("role", "verdict", "yield (%)", "alpha", "allowed", "cells that fail"), tuple(rows))


procedure = Procedure(
    "verdict", VerdictConfig, verdict, "judge characterized devices by a specification", verdict_sections, on="station",
    headline=headline,
)  # fmt: skip
"""The entry point."""
