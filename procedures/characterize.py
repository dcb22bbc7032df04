"""``hil characterize``: what every cell of a board does under pulses, by pulses and reads only.

Protocol, per surface (theory section 7): cycles of N up and N down pulses; from either end of the range, readings
without pulses, idle time, readings again, alternating pulses. Then, per cell, a least-squares fit of the linear-step
device (``procedures.fits``), the symmetry point and step from the alternating pulses (``procedures.alternating``), and
the difference of the two symmetry points in standard errors: the model test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hil.calibration import QUANTITIES, Calibration
from hil.errors import UsageError
from hil.place import Surface
from hil.procedure import Procedure
from procedures.cells import CellEstimates, evaluate
from procedures.device_report import characterize_sections
from procedures.protocol import EndData, Plan, RawCells, run_protocol

__all__ = [
    "CharacterizeConfig",
    "CharacterizeResult",
    "SilentCell",
    "SurfaceResult",
    "characterize",
    "plan_of",
    "procedure",
]


_LEAST = 100
"""Pulses of a branch, however few states; four times as many alternating ones."""

_BRANCH_BYTES = 2**28
"""Readings of all branches of the cells measured together."""


class CharacterizeConfig(BaseModel):
    """Options. None = sized from the bench file's nominal number of states n."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Rows and cols of the matrix to make on an elastic bench."""
    widths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=2)
    """Layer widths of the network whose matrices to characterize on an elastic bench."""
    cycles: int = Field(default=5, ge=2, le=1000)
    """Cycles of N up, N down."""
    branch_pulses: int | None = Field(default=None, ge=8)
    """N; None = 2 n. A cell whose range is not covered gets larger errors, not wrong values."""
    branch_reads: int = Field(default=100, ge=8)
    """Readings along a branch; N is rounded up to a multiple of them."""
    alternating_pulses: int | None = Field(default=None, ge=16)
    """From either end; None = 5 n. The first half lets the cell settle."""
    idle_reads: int = Field(default=20, ge=3)
    """Readings without pulses before and after the idle time, at either end."""
    idle_s: float = Field(default=1.0, ge=0)
    """Idle time, seconds."""
    min_response: float = Field(default=0.02, gt=0, lt=1)
    """A cell that moves less than this fraction of the nominal range does not respond."""
    min_alpha: float = Field(default=0.02, ge=0)
    """A cell less asymmetric than this has no usable symmetry point: it settles too slowly."""
    samples: int = Field(default=6, ge=0, le=64)
    """Cells whose traces are kept for figures."""


@dataclass(frozen=True)
class SilentCell:
    """A cell without a response to pulses."""

    array: int
    row: int
    col: int
    reason: str


@dataclass(frozen=True, eq=False)
class SurfaceResult:
    """What was found on one surface. ``plots`` holds numpy arrays, by name:

    sample_cell [sample 3] (array, row, col); trace_pulse [read], trace_g, trace_fit [sample read]: the cycles, measured and
    by the fit (T1); settle_pulse [read], settle_below, settle_above [sample read]: alternating pulses from either end,
    (G - G_sp) / (G_max - G_min). Maps are the fields of the calibration and of this result.
    """

    name: str
    role: str
    calibration: Calibration
    path: Path
    sp_fit: Tensor
    """Symmetry point predicted from the branches (T3), siemens [array row col]."""
    sp_fit_se: Tensor
    model_z: Tensor
    """(sp_fit - g_sp) / their standard error, [array row col]; about N(0, 1) where the linear-step device holds."""
    step_z: Tensor
    """(step by the branches - step at the symmetry point) / their standard error, [array row col]; sees curvature."""
    ends_z: Tensor
    """(SP approached from below - from above) / their standard error, [array row col]; about N(0, 1)."""
    forgotten: Tensor
    """Share of the range lost in the idle time, [array row col]."""
    forgotten_se: Tensor
    silent: tuple[SilentCell, ...]
    rows: tuple[tuple[str, float, str, str], ...]
    """(name, value, unit, definition)."""
    plots: dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class CharacterizeResult:
    """One entry per surface."""

    surfaces: tuple[SurfaceResult, ...]


def characterize(bench: Any, config: CharacterizeConfig, ledger: Any) -> CharacterizeResult:
    """Characterize every surface of a bench and keep the calibrations in ``bench.calibrations``.

    bench: a hil.bench.Bench; ledger: a hil.ledger.Ledger, or None. Errors of the boards pass through.
    """
    results = []
    for surface in bench.surfaces(widths=config.widths, size=config.size):
        result = _measure(surface, config, str(getattr(ledger, "id", "")))
        result = replace(result, path=bench.calibrations.save(result.calibration))
        if ledger is not None:
            _record(ledger, result)
        results.append(result)
    return CharacterizeResult(tuple(results))


def plan_of(surface: Surface, config: CharacterizeConfig) -> Plan:
    """Pulses and reads of every cell of a surface, after its nominal states where the options do not say."""
    nominal = surface.nominal
    states = max(nominal.states) if isinstance(nominal.states, tuple) else nominal.states
    branch = config.branch_pulses or max(_LEAST, round(2 * states))
    reads = min(config.branch_reads, branch)
    pairs = (config.alternating_pulses or max(4 * _LEAST, round(5 * states))) // 2
    span = nominal.g_max_siemens - nominal.g_min_siemens
    return Plan(
        config.cycles, reads, -(-branch // reads), pairs // 2, pairs - pairs // 2, config.idle_reads, config.idle_s,
        config.min_response * span, config.samples,
    )  # fmt: skip


def _measure(surface: Surface, config: CharacterizeConfig, run_id: str) -> SurfaceResult:
    """Run the protocol on the usable cells, some rows at a time, and put them back on the map."""
    info, plan = surface.backend.info, plan_of(surface, config)
    cells: dict[str, Tensor] = {}
    moves = torch.zeros(info.arrays, info.rows, info.cols, dtype=torch.bool)
    plots: dict[str, np.ndarray[Any, Any]] = {}
    for mask in _blocks(surface, plan):
        raw = run_protocol(surface.backend, mask, surface.shape, plan)
        found = evaluate(raw, plan)
        moves[mask] = torch.from_numpy(raw.moves)
        alive = mask & moves
        _scatter(cells, alive, found)
        rest = cells.setdefault("rest", torch.full(mask.shape, torch.nan))
        rest[mask] = torch.from_numpy(raw.origin.astype(np.float32))
        if not plots and plan.samples and bool(alive.any()):
            plots = _plots(raw, found, plan, alive)
    calibration = _calibration(surface, config, cells, moves, plan.pulses, run_id)
    silent = tuple(_silent(cells["rest"], moves, surface))
    rows = (*calibration.summary(), *_extra_rows(cells, moves))
    return SurfaceResult(
        surface.name, surface.role, calibration, Path(), cells["sp_fit"], cells["sp_fit_se"], cells["model_z"],
        cells["step_z"], cells["ends_z"], cells["forgotten"], cells["forgotten_se"], silent, rows, plots,
    )  # fmt: skip


def _blocks(surface: Surface, plan: Plan) -> Iterator[Tensor]:
    """Masks [array row col] of the usable cells of so many rows that the readings of all branches fit _BRANCH_BYTES."""
    info, usable = surface.backend.info, surface.mask
    if not bool(usable.any()):
        raise UsageError(f"{surface.name}: its limits exclude every cell: nothing is left to characterize")
    per_row = 8 * plan.cycles * (plan.reads + 1) * info.arrays * info.cols
    step = max(1, _BRANCH_BYTES // per_row)
    for first in range(0, info.rows, step):
        mask = torch.zeros_like(usable)
        mask[:, first : first + step] = usable[:, first : first + step]
        if bool(mask.any()):
            yield mask


def _scatter(cells: dict[str, Tensor], where: Tensor, found: CellEstimates) -> None:
    named = found.values | {f"{name}_se": value for name, value in found.errors.items()}
    for name, value in named.items():
        target = cells.setdefault(name, torch.full(where.shape, torch.nan))
        target[where] = torch.from_numpy(value.astype(np.float32))


def _calibration(
    surface: Surface, config: CharacterizeConfig, cells: dict[str, Tensor], moves: Tensor, pulses: int, run_id: str
) -> Calibration:
    scale = surface.nominal.siemens_per_weight
    names = [name for name in QUANTITIES if name != "g_ref"]
    fields = {name: cells[name].clone() for name in (*names, *(f"{name}_se" for name in names))}
    for name in ("g_min", "g_max"):
        fields[name] = torch.where(moves, fields[name], cells["rest"])
    sp, slack = fields["g_sp"], 2 * fields["g_sp_se"]
    low, high = fields["g_min"] - 2 * fields["g_min_se"], fields["g_max"] + 2 * fields["g_max_se"]
    usable = (sp + slack >= low) & (sp - slack <= high)
    usable &= fields["asymmetry"] * scale * surface.nominal.bound_weight >= config.min_alpha
    for name in ("g_sp", "g_sp_se", "sp_skew", "sp_skew_se"):
        fields[name] = torch.where(usable, fields[name], torch.nan)
    mid = (fields["g_min"] + fields["g_max"]) / 2
    return Calibration(
        serial=surface.backend.info.serial, shape=surface.shape, **fields, g_ref=torch.where(usable, sp, mid),
        responds=moves, no_sp=moves & ~usable, siemens_per_weight=scale, bound_weight=surface.nominal.bound_weight,
        procedure="characterize", run_id=run_id, date=datetime.now(UTC).isoformat(timespec="seconds"), pulses=pulses,
    )  # fmt: skip


def _silent(rest: Tensor, moves: Tensor, surface: Surface) -> Iterator[SilentCell]:
    """Cells that do not respond, with what can be seen of why."""
    low, high = surface.nominal.g_min_siemens, surface.nominal.g_max_siemens
    usable = surface.mask
    for array, row, col in (~moves).nonzero().tolist():
        g = float(rest[array, row, col])
        if not usable[array, row, col]:
            reason = "excluded in the bench file: neither pulsed nor read"
        elif not np.isfinite(g):
            reason = "no reading"
        elif g > 3 * high:
            reason = f"shorted: {g:.3g} S, nominal maximum {high:.3g} S"
        elif g < 0.1 * low:
            reason = f"open: {g:.3g} S, nominal minimum {low:.3g} S"
        else:
            reason = f"dead or stuck: stays at {g:.3g} S under pulses"
        yield SilentCell(array, row, col, reason)


def _extra_rows(cells: dict[str, Tensor], moves: Tensor) -> list[tuple[str, float, str, str]]:
    z, step_z, ends, lost = (cells[name][moves].double() for name in ("model_z", "step_z", "ends_z", "forgotten"))
    rejected = float(((z.abs() > 5) | (step_z.abs() > 5)).double().mean())
    lost_middle = float(lost.nanmedian()) if len(lost) else float("nan")
    return [
        ("model_z_rms", _rms(z), "1", "root mean square of (SP fitted to branches, T3, - SP measured, T4) / their error"),
        ("step_z_rms", _rms(step_z), "1", "root mean square of (step by branches - step at the SP) / their error"),
        ("model_rejected", rejected, "1", "share of cells with |model_z| or |step_z| > 5: no linear-step device"),
        ("ends_z_rms", _rms(ends), "1", "root mean square of (SP approached from below - from above) / their error"),
        ("forgotten", lost_middle, "1", "median share of the range lost while idle"),
    ]


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _plots(raw: RawCells, found: CellEstimates, plan: Plan, alive: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Traces of the first few responding cells, with the fit's prediction from each branch's first reading."""
    pick = np.flatnonzero(raw.moves)[: plan.samples]
    count = len(pick)
    value = {name: v[:count, None, None] for name, v in found.values.items()}
    steps = np.arange(plan.reads + 1) * plan.every
    fits, sp = [], value["g_sp"]
    for y, sign, slope in ((raw.up[pick], 1, value["slope_up"]), (raw.down[pick], -1, value["slope_down"])):
        kept = (1 - slope) ** steps
        moved = np.where(np.abs(slope) > 1e-9, (1 - kept) / np.where(np.abs(slope) > 1e-9, slope, 1), steps)
        fit = sp + (y[:, :, :1] - sp) * kept + sign * value["step"] * moved
        fits.append(np.clip(fit, value["g_min"], value["g_max"]))
    both = np.stack([raw.up[pick], raw.down[pick]], axis=2).reshape(count, -1)
    span = (value["g_max"] - value["g_min"])[:, 0]

    def settling(end: EndData) -> np.ndarray[Any, Any]:
        return (end.sample_g - value["g_sp"][:, 0]) / span

    branches = np.arange(2 * plan.cycles)[:, None] * plan.reads * plan.every
    return {
        "sample_cell": alive.nonzero()[:count].numpy(), "trace_pulse": (branches + steps).reshape(-1), "trace_g": both,
        "trace_fit": np.stack(fits, axis=2).reshape(count, -1), "settle_pulse": raw.below.sample_pulse,
        "settle_below": settling(raw.below), "settle_above": settling(raw.above),
    }  # fmt: skip


def _record(ledger: Any, result: SurfaceResult) -> None:
    named = {name: getattr(result.calibration, name) for name in (*QUANTITIES, "alpha", "responds", "no_sp")}
    named |= {name: getattr(result, name) for name in ("sp_fit", "model_z", "step_z", "ends_z", "forgotten")}
    payload = {
        "surface": result.name, "role": result.role, "serial": result.calibration.serial, "file": str(result.path),
        "pulses": result.calibration.pulses, "silent": [vars(cell) for cell in result.silent],
        "rows": [list(row) for row in result.rows],
    }  # fmt: skip
    ledger.event("characterized", payload, {**named, **result.plots})
    for name, value, unit, definition in result.rows:
        ledger.result(f"{result.name}: {name}", value, unit, definition)


procedure = Procedure(
    "characterize", CharacterizeConfig, characterize, "measure what every cell does under pulses", characterize_sections
)
"""The entry point."""
