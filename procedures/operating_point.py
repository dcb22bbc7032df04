"""``hil operating-point``: which pulse should A get, and which C? Measured, and chosen by a specification.

Every shape of a grid is characterized (``procedures.characterize``; the calibrations are kept, so that the chosen shapes
need no second measurement). Depth of a shape in a role = decades between alpha and the nearer end of the specification's
range, with at least 84 % of the responding cells; the deepest shape wins. Over several dies the cells are taken together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hil.backend import PulseShape
from hil.bench import Bench
from hil.calibration import Calibration, CalibrationStore
from hil.errors import DataError, UsageError
from hil.ledger import Ledger
from hil.place import Surface
from hil.procedure import Procedure
from hil.progress import progress
from hil.report.section import Table
from hil.station import Site, Station
from hil.wear import Wear
from procedures.characterize import CharacterizeConfig, characterize, plan_of
from procedures.characterized import roles_of
from procedures.judging import Cells, Role, bounds, cells_of, chosen_range, depth, judge, load_specification
from procedures.operating_point_report import operating_point_sections, roles_as_toml
from procedures.pulse_grid import pulse_grid, refuse_beyond
from procedures.specification import Specification

__all__ = ["OperatingPointConfig", "OperatingPointResult", "ShapeResult", "headline", "operating_point", "procedure"]

Count = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class OperatingPointConfig(BaseModel):
    """``-s operating_point.KEY=VALUE``. Voltages are signed as in a bench file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    specification: Path
    """TOML or JSON file that `hil specify` wrote."""
    network: str | None = None
    """Name of the network; a specification of another one is refused. None = any."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Allowed loss of accuracy, one that the specification names; None = the smallest that leaves a range."""
    up_v: tuple[Finite, ...] | None = Field(default=None, min_length=1)
    """Potentiating amplitudes, volt, > 0; None = 0.9, 1 and 1.1 times the bench's own, where its limits allow them."""
    down_v: tuple[Finite, ...] | None = Field(default=None, min_length=1)
    """Depressing amplitudes, volt, < 0; likewise."""
    width_s: tuple[Finite, ...] | None = Field(default=None, min_length=1)
    """Widths, second; None = the bench's own."""
    pulses_per_cell: int | None = Field(default=None, ge=1)
    """Endurance budget: pulses of a cell over all shapes together; None = what the limits leave."""
    min_states: float = Field(default=20.0, ge=0)
    """A shape whose median cell has fewer states is not chosen."""
    max_skew: float = Field(default=0.25, gt=0, le=1)
    """A shape whose median symmetry point is further from mid-range, in ranges, is not chosen: a specification is made with
    symmetry points near mid-range and says nothing of others."""
    dies: tuple[tuple[int, int], ...] | None = Field(default=None, min_length=1)
    """Dies of a station to measure on, [col, row] each; None = the first site."""
    size: tuple[Count, Count] | None = None
    """Rows and cols of the matrix to make on an elastic bench."""
    characterize: CharacterizeConfig = CharacterizeConfig(samples=0)
    """How each shape is characterized; its size and widths are not used."""


@dataclass(frozen=True)
class ShapeResult:
    """One shape in one role: medians over the cells of all sites that respond."""

    role: Role
    shape: PulseShape
    alpha: tuple[float, float, float]
    """16 %, median, 84 %; NaN where no cell has a symmetry point."""
    states: float
    sp_skew: float
    noise_to_step: float
    responding: float
    """Share of the cells that are not excluded."""
    cell_yield: float
    """Share of the cells that a verdict would pass."""
    depth: float
    """Decades inside the range; -inf = hardly a cell has a symmetry point, NaN = none responds."""


@dataclass(frozen=True)
class OperatingPointResult:
    """All shapes, and the chosen ones by role."""

    shapes: tuple[ShapeResult, ...]
    chosen: dict[Role, ShapeResult]
    expected: float
    """Accuracy that the specification's map has at the chosen medians; NaN outside it."""
    error: float
    path: Path
    """TOML with the chosen shapes, for a bench file."""


@dataclass(frozen=True, eq=False)
class _Measured:
    """One shape on one board of one site."""

    roles: tuple[Role, ...]
    shape: PulseShape
    cells: Cells
    sp_skew: Any
    noise_to_step: Any


@dataclass(frozen=True)
class _UnderOneShape:
    """What ``characterize`` wants of a bench: one surface."""

    name: str
    surface: Surface
    calibrations: CalibrationStore

    def surfaces(self, widths: Any = None, size: Any = None) -> list[Surface]:
        return [self.surface]


def operating_point(station: Station, config: OperatingPointConfig, ledger: Ledger) -> OperatingPointResult:
    """Measure every shape on every chosen site and choose. LimitError, before the first pulse, for what is forbidden or
    exceeds the budget; DataError where no shape can be chosen."""
    specification = load_specification(config.specification, config.network)
    chosen_by = chosen_range(specification, config.delta)
    found: list[_Measured] = []
    boards: dict[Role, str] = {}
    for site in _sites(station, config):
        with station.contact(site) as bench:
            bench.account_for_pending()
            boards = {role: (bench.config.roles.get(role) or bench.config.roles["c"]).board for role in _ROLES}
            found += _site(bench, config, ledger)
    results = []
    for role in _ROLES:
        ends = bounds(chosen_by, role)
        mine: dict[PulseShape, list[_Measured]] = {}
        for one in found:
            if role in one.roles:
                mine.setdefault(one.shape, []).append(one)
        results += [_summed(role, shape, parts, ends, config.min_states) for shape, parts in mine.items()]
    chosen = {role: _deepest(role, results, config) for role in _ROLES}
    expected, error = specification.accuracy_at(chosen["a"].alpha[1], chosen["c"].alpha[1])
    lines = roles_as_toml({role: (boards[role], one.shape) for role, one in chosen.items()})
    path = ledger.folder / "operating-point.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = OperatingPointResult(tuple(results), chosen, expected, error, path)
    _record(ledger, result, specification, config, {role: bounds(chosen_by, role) for role in _ROLES}, lines)
    return result


_ROLES: tuple[Role, ...] = ("a", "c")


def _sites(station: Station, config: OperatingPointConfig) -> list[Site]:
    sites = station.sites()
    if config.dies is None:
        return sites[:1]
    unknown = set(config.dies) - {site.die for site in sites}
    if unknown:
        raise UsageError(f"operating_point.dies: {sorted(unknown)[0]} is not on the map: leave it out")
    return [site for site in sites if site.die in config.dies]


def _site(bench: Bench, config: OperatingPointConfig, ledger: Ledger) -> Iterator[_Measured]:
    """All boards of a site under all shapes; the plan of every board is checked before the first pulse of any."""
    work = []
    for surface, roles in _surfaces(bench, config):
        board = (bench.config.roles.get(roles[0]) or bench.config.roles["c"]).board
        limits = bench.config.boards[board].limits
        shapes = pulse_grid(surface, limits, board, config.up_v, config.down_v, config.width_s)
        wear = Wear.open(bench.state) if surface.backend.info.physical else None
        try:
            need = len(shapes) * plan_of(surface, config.characterize).pulses
            refuse_beyond(surface, limits, wear, need, config.pulses_per_cell)
        finally:
            if wear is not None:
                wear.close()
        work += [(replace(surface, shape=shape), roles) for shape in shapes]
    with progress("pulse shapes", len(work)) as advance:
        for surface, roles in work:
            calibration = _characterized(bench, surface, config, ledger)
            scale = surface.nominal.siemens_per_weight
            cells = cells_of(calibration, (~surface.mask).numpy(), scale)
            skew, noise = calibration.sp_skew.double().numpy(), calibration.noise_to_step.double().numpy()
            advance(1, _spelled(surface.shape))
            yield _Measured(roles, surface.shape, cells, skew, noise)


def _surfaces(bench: Bench, config: OperatingPointConfig) -> list[tuple[Surface, tuple[Role, ...]]]:
    """Every board once, with all roles that it plays."""
    found: dict[str, tuple[Surface, tuple[Role, ...]]] = {}
    for surface in bench.surfaces(size=config.size):
        serial = surface.backend.info.serial
        roles = roles_of(surface.role, "a" not in bench.config.roles)
        first, before = found.get(serial, (surface, ()))
        found[serial] = first, (*before, *roles)
    return list(found.values())


def _characterized(bench: Bench, surface: Surface, config: OperatingPointConfig, ledger: Ledger) -> Calibration:
    """Characterize under one shape, or take what this run, before it was interrupted, kept of it."""
    serial, store = surface.backend.info.serial, bench.calibrations
    known = store.find(serial, surface.shape)
    if known is not None and ledger.id and known.run_id == ledger.id:
        return known
    result = characterize(_UnderOneShape(bench.name, surface, store), config.characterize, None)
    calibration = replace(result.surfaces[0].calibration, run_id=ledger.id)
    store.save(calibration)
    return calibration


def _summed(
    role: Role, shape: PulseShape, parts: list[_Measured], ends: tuple[float, float], min_states: float
) -> ShapeResult:
    cells = Cells.together([part.cells for part in parts])
    alive = cells.responds & ~cells.excluded
    skew, noise = (np.concatenate([getattr(part, name).ravel() for part in parts]) for name in ("sp_skew", "noise_to_step"))
    alpha = cells.alpha[cells.usable]
    spread = np.percentile(alpha, [16, 50, 84]).tolist() if alpha.size else [math.nan] * 3
    judged = max(int((~cells.excluded).sum()), 1)
    passing = int((judge(cells, *ends, min_states) == 0).sum())
    return ShapeResult(
        role, shape, (spread[0], spread[1], spread[2]), _median(cells.states[alive]), _median(skew[alive]),
        _median(noise[alive]), float(alive.sum()) / judged, passing / judged, depth(cells, *ends),
    )  # fmt: skip


def _median(values: Any) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def _deepest(role: Role, results: list[ShapeResult], config: OperatingPointConfig) -> ShapeResult:
    mine = [one for one in results if one.role == role]
    usable = [one for one in mine if math.isfinite(one.depth)]
    if not usable:
        raise DataError(
            f"operating-point: under none of {len(mine)} pulse shapes have enough cells a symmetry point for "
            f"{role.upper()}: try other amplitudes, or characterize with more pulses"
        )
    fine = [one for one in usable if one.states >= config.min_states]
    if not fine:
        raise DataError(
            f"operating-point: no pulse shape gives {role.upper()} {config.min_states:g} states, the finest "
            f"{max(one.states for one in usable):.3g}: try weaker pulses, or lower operating_point.min_states"
        )
    centred = [one for one in fine if abs(one.sp_skew - 0.5) <= config.max_skew]
    if not centred:
        raise DataError(
            f"operating-point: no pulse shape leaves {role.upper()}'s symmetry point within {config.max_skew:g} of "
            "mid-range: give equally strong up and down pulses, or raise operating_point.max_skew"
        )
    return max(centred, key=lambda one: one.depth)


def _spelled(shape: PulseShape) -> str:
    return f"{shape.up_v:g} V, {shape.down_v:g} V, {shape.width_s:g} s"


def _record(
    ledger: Ledger, result: OperatingPointResult, specification: Specification, config: OperatingPointConfig,
    ends: dict[Role, tuple[float, float]], lines: list[str],
) -> None:  # fmt: skip
    def row(one: ShapeResult) -> dict[str, Any]:
        return {
            "role": one.role, "up_v": one.shape.up_v, "down_v": one.shape.down_v, "width_s": one.shape.width_s,
            "alpha": list(one.alpha), "states": one.states, "sp_skew": one.sp_skew, "noise_to_step": one.noise_to_step,
            "responding": one.responding, "yield": one.cell_yield,
            # Not finite where it says that there is nothing to choose: JSON has no word for it.
            "depth": one.depth if math.isfinite(one.depth) else None, "chosen": one is result.chosen[one.role],
        }  # fmt: skip

    ledger.event(
        "operating-point",
        {
            "specification": str(config.specification), "network": specification.network, "expected": result.expected,
            "error": result.error, "digital_accuracy": specification.digital_accuracy, "toml": lines,
            "ranges": {role: list(both) for role, both in ends.items()}, "shapes": [row(one) for one in result.shapes],
        },
    )  # fmt: skip
    for role, one in result.chosen.items():
        name = role.upper()
        ledger.result(f"{name}: up_v", one.shape.up_v, "v", "chosen potentiating pulse")
        ledger.result(f"{name}: down_v", one.shape.down_v, "v", "chosen depressing pulse")
        ledger.result(f"{name}: width_s", one.shape.width_s, "s", "chosen width")
        ledger.result(f"{name}: alpha", one.alpha[1], "1", "median over the cells with a symmetry point")
        ledger.result(f"{name}: depth", one.depth, "1", "decades inside the range that 84 % of the cells reach", low=0.0)
    ledger.result("expected accuracy", result.expected, "1", "of the specification's map at the chosen medians")


def headline(result: OperatingPointResult) -> Table:
    """A row per role and shape, the chosen ones marked."""
    rows = tuple(
        ("*" if one is result.chosen[one.role] else "", one.role.upper(), _spelled(one.shape), f"{one.alpha[1]:.3g}",
         f"{one.states:.4g}", f"{one.sp_skew:.3g}", f"{one.noise_to_step:.3g}", f"{one.depth:+.3f}")
        for one in result.shapes
    )  # fmt: skip
    head = ("chosen", "for", "pulse", "alpha", "states", "SP skew", "noise/step", "depth (decades)")
    return Table(f"pulse shapes; the choice for a bench file: {result.path}", head, rows)


procedure = Procedure(
    "operating-point", OperatingPointConfig, operating_point, "choose pulse shapes for A and C by a specification",
    operating_point_sections, on="station", headline=headline,
)  # fmt: skip
"""The entry point."""
