"""``hil zero-shift``: every cell's symmetry point, by alternating pulses through ``trace`` only.

Needs the calibration of ``characterize``: from its slopes the pulses to mid-range are planned, and the transient is
filtered out instead of being waited for (``procedures.tracking``). A cell stops getting pulses once its own error is small
enough. The results go into the calibration: symmetry points, references, their errors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hil.calibration import Calibration
from hil.errors import UsageError
from hil.place import Surface
from hil.procedure import Procedure
from procedures.device_report import zero_shift_sections
from procedures.fits import Floats, shrunk
from procedures.protocol import alternate
from procedures.tracking import Tracker

__all__ = ["ZeroShiftConfig", "ZeroShiftResult", "ZeroShiftSurface", "procedure", "zero_shift"]


class ZeroShiftConfig(BaseModel):
    """Options; errors are standard errors, in fractions of a cell's range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Rows and cols of the matrix to make on an elastic bench."""
    widths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=2)
    """Layer widths of the network whose matrices to measure on an elastic bench."""
    max_pulses: int = Field(default=4000, ge=64)
    """Per cell, those to mid-range included."""
    segment_pairs: int = Field(default=100, ge=4)
    """Alternating pairs between two looks at the errors."""
    tolerance: float = Field(default=0.002, gt=0, lt=1)
    """A cell whose error is below this gets no more pulses."""
    largest_error: float = Field(default=0.05, gt=0, lt=1)
    """A cell whose error is still above this at the end has not converged: no usable symmetry point."""
    min_alpha: float = Field(default=0.02, ge=0)
    """A cell less asymmetric than this has no usable symmetry point; it gets no pulses."""
    first_reads: int = Field(default=8, ge=1)
    """Readings averaged at the start."""


@dataclass(frozen=True, eq=False)
class ZeroShiftSurface:
    """One surface. Tensors are [array row col]."""

    name: str
    calibration: Calibration
    """With g_sp, g_ref, their errors and no_sp as found here."""
    path: Path
    pulses: Tensor
    """int64: pulses each cell got."""
    reason: Tensor
    """int8: 0 measured, 1 no response, 2 alpha too small, 3 not converged, 4 symmetry point outside the range; -1 excluded
    in the bench file."""
    change: Tensor
    """g_sp - g_sp as characterized, in fractions of the range."""
    rows: tuple[tuple[str, float, str, str], ...]
    """(name, value, unit, definition)."""
    tracks: dict[str, np.ndarray[Any, Any]]
    """A few cells: track_cell [sample 3] (array, row, col); track_pulse [segment], alternating pulses by then; in siemens
    track_g (a reading), track_sp (the estimate by then), track_se [sample segment], NaN once a cell gets no more pulses."""


@dataclass(frozen=True)
class ZeroShiftResult:
    """One entry per surface."""

    surfaces: tuple[ZeroShiftSurface, ...]


def zero_shift(bench: Any, config: ZeroShiftConfig, ledger: Any) -> ZeroShiftResult:
    """Measure the symmetry points of every surface and keep them in ``bench.calibrations``.

    bench: a hil.bench.Bench; ledger: a hil.ledger.Ledger, or None. UsageError, before the first pulse, where a surface was
    not characterized.
    """
    work = []
    for surface in bench.surfaces(widths=config.widths, size=config.size):
        known = bench.calibrations.find(surface.backend.info.serial, surface.shape)
        if known is None:
            raise UsageError(f"{surface.name}: was never characterized: run `hil characterize {bench.name}` first")
        work.append((surface, known))
    results = []
    for surface, known in work:
        result = _measure(surface, known, config, str(getattr(ledger, "id", "")))
        result = replace(result, path=bench.calibrations.save(result.calibration))
        if ledger is not None:
            _record(ledger, result)
        results.append(result)
    return ZeroShiftResult(tuple(results))


def _measure(surface: Surface, known: Calibration, config: ZeroShiftConfig, run_id: str) -> ZeroShiftSurface:
    alpha_ok = known.alpha.nan_to_num(0.0) >= config.min_alpha
    # A cell may have been excluded since it was characterized.
    usable = surface.mask
    mask = usable & known.responds & alpha_ok & (known.step > 0) & (known.slope_up + known.slope_down > 0)
    pulses = torch.zeros(mask.shape, dtype=torch.int64)
    sp, se = (torch.full(mask.shape, torch.nan, dtype=torch.float64) for _ in range(2))
    tracks: dict[str, np.ndarray[Any, Any]] = {}
    if bool(mask.any()):
        pulses[mask] = _to_middle(surface, known, mask, config.max_pulses // 2)
        tracks = _track(surface, known, mask, config, pulses, sp, se)
    span = (known.g_max - known.g_min).double()
    reason = torch.zeros(mask.shape, dtype=torch.int8)
    slack_low, slack_high = (2 * (se**2 + error.double() ** 2).sqrt() for error in (known.g_min_se, known.g_max_se))
    reason[(sp < known.g_min - slack_low) | (sp > known.g_max + slack_high)] = 4
    reason[~(se <= config.largest_error * span)] = 3
    reason[~mask] = 2
    reason[~known.responds] = 1
    reason[~usable] = -1
    good = reason == 0
    found = torch.where(good, sp, torch.nan).float()
    found_se = torch.where(good, se, torch.nan).float()
    skew = (known.g_max - found) / span.float()
    ends = found_se**2 + ((1 - skew) * known.g_max_se) ** 2 + (skew * known.g_min_se) ** 2
    calibration = replace(
        known, g_sp=found, g_sp_se=found_se, g_ref=torch.where(good, found, known.mid), no_sp=known.responds & ~good,
        sp_skew=skew, sp_skew_se=ends.sqrt() / span.float(), procedure=f"{known.procedure.split(' + ')[0]} + zero-shift",
        run_id=run_id or known.run_id, date=datetime.now(UTC).isoformat(timespec="seconds"),
        pulses=known.pulses + int(pulses.max()),
    )  # fmt: skip
    change = ((found - known.g_sp) / span.float()).float()
    rows = tuple(_rows(found_se / span, pulses, reason, change))
    return ZeroShiftSurface(surface.name, calibration, Path(), pulses, reason, change, rows, tracks)


def _to_middle(surface: Surface, known: Calibration, mask: Tensor, most: int) -> Tensor:
    """Pulse every cell to about its mid-range, in one go (T1); returns the pulses each masked cell got."""
    g = surface.backend.read(mask)[mask].double().numpy()
    middle, sp, step = (_cells(x, mask) for x in (known.mid, known.g_ref, known.step))
    up = g < middle
    s = np.where(up, _cells(known.slope_up, mask), _cells(known.slope_down, mask))
    toward = np.where(up, 1.0, -1.0)
    # The drift vanishes at x: G - sp = toward * step / s. From g to the middle: ln of the ratio of distances to it.
    s = np.where(np.abs(s) < 1e-9, 1e-9, s)
    target = sp + toward * step / s
    ratio = (target - middle) / (target - g)
    with np.errstate(invalid="ignore", divide="ignore"):
        needed = np.log(ratio) / np.log1p(-np.clip(s, -0.5, 0.999))
    count = np.rint(np.clip(np.nan_to_num(needed, nan=most, posinf=most, neginf=0), 0, most)).astype(np.int32)
    counts = torch.zeros(mask.shape, dtype=torch.int32)
    counts[mask] = torch.from_numpy(np.where(up, count, -count).astype(np.int32))
    surface.backend.pulse(counts, surface.shape)
    return torch.from_numpy(count.astype(np.int64))


def _track(
    surface: Surface, known: Calibration, mask: Tensor, config: ZeroShiftConfig, pulses: Tensor, sp: Tensor, se: Tensor
) -> dict[str, np.ndarray[Any, Any]]:
    """Alternating pulses, segment after segment, until every cell is good enough or out of pulses; fills pulses, sp, se.

    Returns the ``tracks`` of ZeroShiftSurface.
    """
    unit, zero = _cells(known.step, mask), _cells(known.mid, mask)
    span = _cells(known.g_max - known.g_min, mask) / unit
    tracker = _tracker(surface, known, mask, config.first_reads, unit, zero, span)
    mask = mask.clone()
    spent = pulses[mask].numpy()
    shown, counted = mask.nonzero()[:_SHOWN], [0]
    now = torch.full((3, *mask.shape), torch.nan, dtype=torch.float64)
    looks: list[Tensor] = []
    while len(unit):
        pairs = min(config.segment_pairs, int(config.max_pulses - spent.max()) // 2)
        for piece in alternate(surface.backend, mask, surface.shape, pairs):
            tracker.add((piece.astype(np.float64) - zero[:, None]) / unit[:, None])
        spent = spent + 2 * pairs
        w, error = tracker.estimate()
        sp[mask], se[mask] = torch.from_numpy(zero + w * unit), torch.from_numpy(error * unit)
        pulses[mask] = torch.from_numpy(spent)
        now[:, ~mask] = torch.nan
        now[0, mask], now[1, mask], now[2, mask] = torch.from_numpy(piece[:, -1]).double(), sp[mask], se[mask]
        looks.append(now[:, shown[:, 0], shown[:, 1], shown[:, 2]].clone())
        counted.append(counted[-1] + 2 * pairs)
        on = (error > config.tolerance * span) & (spent + 2 * _LEAST_PAIRS <= config.max_pulses)
        mask[mask.clone()] = torch.from_numpy(on)
        tracker.keep(on)
        unit, zero, span, spent = unit[on], zero[on], span[on], spent[on]
    track = torch.stack(looks, dim=2).numpy()
    named = {"track_g": track[0], "track_sp": track[1], "track_se": track[2]}
    return {"track_cell": shown.numpy(), "track_pulse": np.array(counted[1:]), **named}


def _tracker(
    surface: Surface, known: Calibration, mask: Tensor, reads: int, unit: Floats, zero: Floats, span: Floats
) -> Tracker:
    first = (surface.backend.read(mask, reads)[mask].double().numpy() - zero) / unit
    noise, noise_se = (_cells(x, mask) for x in (known.noise_to_step, known.noise_to_step_se))
    # Below a thousandth of a step, and the grain of a float32 reading, nothing is resolved.
    pulse_var = np.maximum(shrunk(noise**2, 2 * np.maximum(noise, noise_se) * noise_se), 1e-6)
    read_var = (_cells(known.read_noise, mask) / unit) ** 2 + (_GRAIN * zero / unit) ** 2
    return Tracker.start(
        first, read_var / reads, np.maximum(span, 1) * _FLAT, (_cells(known.step_se, mask) / unit) ** 2,
        (_cells(known.slope_up, mask), _cells(known.slope_down, mask)),
        (_cells(known.slope_up_se, mask), _cells(known.slope_down_se, mask)), pulse_var, read_var,
    )  # fmt: skip


_SHOWN = 6
"""Cells whose way is kept for a figure."""
_LEAST_PAIRS = 10
"""A cell with fewer pairs left is done: cells had different numbers of pulses to mid-range."""
_FLAT = 10.0
"""Standard deviation of the prior of a symmetry point, in ranges: no information."""
_GRAIN = 2.0**-25
"""Relative standard deviation of rounding to float32."""


def _cells(x: Tensor, mask: Tensor) -> Floats:
    values: Floats = x[mask].double().numpy()
    return values


def _rows(error: Tensor, pulses: Tensor, reason: Tensor, change: Tensor) -> list[tuple[str, float, str, str]]:
    good = reason == 0
    used = pulses[pulses > 0].double()

    def middle(x: Tensor) -> float:
        return float(x.median()) if len(x) else float("nan")

    labels = ("measured", "not_responding", "alpha_too_small", "not_converged", "outside_range")
    return [
        *((name, float((reason == code).sum()), "1", "cells by outcome") for code, name in enumerate(labels)),
        ("excluded", float((reason == -1).sum()), "1", "cells that the bench file excludes, left alone"),
        ("sp_error", middle(error[good]), "1", "median standard error of G_sp / (G_max - G_min)"),
        ("sp_change", middle(change[good].abs()), "1", "median |G_sp - G_sp as characterized| / (G_max - G_min)"),
        ("pulses_median", middle(used), "1", "pulses of a cell, those to mid-range included"),
        ("pulses_max", float(used.max()) if len(used) else 0.0, "1", "most pulses of a cell"),
    ]


def _record(ledger: Any, result: ZeroShiftSurface) -> None:
    c = result.calibration
    rows = [list(row) for row in result.rows]
    payload = {"surface": result.name, "serial": c.serial, "file": str(result.path), "rows": rows}
    arrays = {"g_sp": c.g_sp, "g_sp_se": c.g_sp_se, "g_ref": c.g_ref, "g_min": c.g_min, "g_max": c.g_max, "no_sp": c.no_sp}
    arrays |= {"pulses": result.pulses, "reason": result.reason, "change": result.change}
    ledger.event("zero-shift", payload, {**arrays, **result.tracks})
    for name, value, unit, definition in result.rows:
        ledger.result(f"{result.name}: {name}", value, unit, definition)


procedure = Procedure(
    "zero-shift",
    ZeroShiftConfig,
    zero_shift,
    "measure every cell's symmetry point by alternating pulses",
    zero_shift_sections,
)
"""The entry point."""
