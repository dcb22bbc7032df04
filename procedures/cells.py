"""From the raw data of ``characterize`` to one estimate with a standard error per cell and quantity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from procedures.alternating import fit_alternating, noise
from procedures.fits import BranchFit, Floats, end_of_range, fit_branch, shrunk, step_at_symmetry_point, symmetry_point
from procedures.protocol import Plan, RawCells

__all__ = ["CellEstimates", "evaluate"]

_GROUP = 2048
"""Cells fitted at a time: their readings are in float64."""

_GRAIN = 2.0**-24
"""Relative grain of a reading in float32."""


@dataclass(frozen=True)
class CellEstimates:
    """Per responding cell, [cell]; ``values`` and ``errors`` by the names of hil.calibration.QUANTITIES (all but g_ref), and

    sp_fit (siemens), model_z, step_z, ends_z (in standard errors), forgotten (share of the range lost in the idle time).
    """

    values: dict[str, Floats]
    errors: dict[str, Floats]


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def evaluate(raw: RawCells, plan: Plan) -> CellEstimates:
    """Estimates for the cells with ``raw.moves``."""
    moves = np.flatnonzero(raw.moves)
    origin = raw.origin[moves]
    idle_var = (raw.below.read_var + raw.above.read_var) / 2
    freedom = 4 * (plan.idle_reads - 1)
    # The pulses' noise needs slopes, the slopes' errors need the pulses' noise: a first pass without it.
    zero = np.zeros(len(moves))
    up, down = _branches(raw, moves, plan, idle_var, zero)
    both = raw.below.sums + raw.above.sums
    seen = noise(both, np.maximum(up.s, 0), np.maximum(down.s, 0), idle_var, freedom)
    read_var = seen.read_var
    # Noise scales with the step, and is alike in all cells once divided by it.
    rough = step_at_symmetry_point(up, down)[0] ** 2 + 1e-300
    pair_var = np.maximum(shrunk(seen.pair_var / rough, seen.pair_var_se / rough) * rough, 0)
    up, down = _branches(raw, moves, plan, read_var, pair_var / 2)

    fit = fit_alternating(both, up, down, pair_var, read_var)
    ends = [fit_alternating(end.sums, up, down, pair_var, read_var) for end in (raw.below, raw.above)]
    w, sp_fit_se = symmetry_point(up, down)
    sp_fit = origin + w
    high, high_se = end_of_range(up, down)
    low, low_se = end_of_range(down, up)
    g_max, g_min = origin + high, origin - low
    high_se, low_se = np.hypot(high_se, _GRAIN * g_max), np.hypot(low_se, _GRAIN * g_min)
    span, slopes = g_max - g_min, up.s + down.s
    from_branches, branch_var, with_slopes = step_at_symmetry_point(up, down)
    # Single steps tell the step without a model, unless readings drown them.
    drowned = fit.step_se > np.maximum(2 * np.sqrt(branch_var), 0.02 * np.abs(fit.step))
    step, step_var = np.where(drowned, from_branches, fit.step), np.where(drowned, branch_var, fit.step_se**2)
    size = np.maximum(np.abs(step), 1e-300)
    span_var, relative = high_se**2 + low_se**2, np.sqrt(step_var) / size
    slope_part = (up.var_s + down.var_s) / np.maximum(slopes**2, 1e-300)
    a_var = slope_part + relative**2 - np.where(drowned, 2 * with_slopes / (slopes * size), 0)
    states, asymmetry = span / size, slopes / (2 * size)
    skew = (g_max - fit.sp) / span
    pulse_noise = np.sqrt(np.maximum(seen.pair_var, 0) / 2)
    read_noise = np.sqrt(read_var)
    lost = (raw.above.before - raw.above.after) - (raw.below.before - raw.below.after)
    values = {
        "g_min": g_min, "g_max": g_max, "g_sp": fit.sp, "step": step, "slope_up": up.s, "slope_down": down.s,
        "asymmetry": asymmetry, "states": states, "sp_skew": skew, "noise_to_step": pulse_noise / size,
        "read_noise": read_noise, "sp_fit": sp_fit, "model_z": (sp_fit - fit.sp) / np.hypot(sp_fit_se, fit.sp_se),
        "step_z": (from_branches - fit.step) / np.sqrt(branch_var + fit.step_se**2),
        "ends_z": (ends[0].sp - ends[1].sp) / np.hypot(ends[0].sp_se, ends[1].sp_se), "forgotten": lost / span,
    }  # fmt: skip
    # Of a noise without a sign: the error of a root, or the root of the error where the noise is lost in it.
    pulse_se = np.minimum(seen.pair_var_se / 4 / np.maximum(pulse_noise, 1e-300), np.sqrt(seen.pair_var_se / 2))
    errors = {
        "g_min": low_se, "g_max": high_se, "g_sp": fit.sp_se, "step": np.sqrt(step_var),
        "slope_up": np.sqrt(up.var_s), "slope_down": np.sqrt(down.var_s),
        "asymmetry": np.abs(asymmetry) * np.sqrt(np.maximum(a_var, 0)),
        "states": np.hypot(np.sqrt(span_var) / size, states * relative),
        "sp_skew": np.sqrt(fit.sp_se**2 + ((1 - skew) * high_se) ** 2 + (skew * low_se) ** 2) / span,
        "noise_to_step": np.hypot(pulse_se / size, pulse_noise / size * relative),
        "read_noise": seen.read_var_se / (2 * np.maximum(read_noise, 1e-300)), "sp_fit": sp_fit_se,
        "forgotten": np.sqrt(4 * read_var / plan.idle_reads) / span,
    }  # fmt: skip
    return CellEstimates(values, errors)


def _branches(
    raw: RawCells, cells: NDArray[np.int64], plan: Plan, read_var: Floats, pulse_var: Floats
) -> tuple[BranchFit, BranchFit]:
    """Fits about the origin; the down branches mirrored."""
    parts: list[tuple[BranchFit, BranchFit]] = []
    for start in range(0, max(len(cells), 1), _GROUP):
        group = slice(start, start + _GROUP)
        pick = cells[group]
        zero = raw.origin[pick][:, None, None]
        noises = read_var[group], pulse_var[group]
        rising, falling = raw.up[pick].astype(np.float64) - zero, zero - raw.down[pick].astype(np.float64)
        parts.append((fit_branch(rising, plan.every, *noises), fit_branch(falling, plan.every, *noises)))
    return _joined([up for up, _ in parts]), _joined([down for _, down in parts])


def _joined(parts: list[BranchFit]) -> BranchFit:
    return BranchFit(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in BranchFit.__annotations__})
