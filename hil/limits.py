"""Limits of a bench, and what they are compared with: pulse shapes, read voltages, pulses per cell.

Every comparison is with what is about to happen to the devices, after all compilation. What lies outside is refused
with LimitError; nothing is ever clipped. ``hil.guard`` puts these checks in front of a board.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from hil.backend import ArrayInfo, PulseShape, Range, check_per_array
from hil.errors import LimitError, UsageError
from hil.records import Array

__all__ = ["Limits", "check_cells", "check_read_v", "check_shape", "check_volts", "excluded_mask"]

_HALF_SELECT = {"V/2": 1 / 2, "V/3": 1 / 3, "selector": 0.0}


def _tuples(value: Any) -> Any:
    """Lists of TOML as the tuples that a frozen model holds."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Lines = Annotated[tuple[Index, ...], BeforeValidator(_tuples)]
Cells = Annotated[tuple[tuple[Index, Index], ...], BeforeValidator(_tuples)]


class Limits(BaseModel):
    """What the devices of a board bear: ``[boards.NAME.limits]`` of a bench file. Closed bounds, no tolerance."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    up_v_max: Positive
    """Largest magnitude of a potentiating pulse, volt, > 0."""
    down_v_max: Positive
    """Largest magnitude of a depressing pulse, volt, > 0."""
    width_s_max: Positive
    """Longest pulse, second, > 0."""
    half_select_v_max: Positive
    """Largest voltage on an unselected cell during a pulse, volt, > 0; a half or a third of the larger amplitude."""
    read_v_max: Positive
    """Largest magnitude on a line while reading, volt, > 0."""
    pulses_per_cell_max: Count
    """Lifetime pulses of a cell, all runs and both polarities together, >= 1."""
    pulses_per_operation_max: Count
    """Pulses of a cell in one operation (one call of a verb, all its samples), >= 1."""
    compliance_a_max: Positive | None = None
    """Largest current compliance, ampere, > 0; if given, a pulse without compliance is refused."""
    gate_v_max: Positive | None = None
    """Largest magnitude on a gate line, volt, > 0; if absent, a pulse that drives a gate is refused."""
    excluded_cells: Cells = ()
    """[row, col] of cells that may not be pulsed, each >= 0."""
    excluded_rows: Lines = ()
    """Rows whose cells may not be pulsed, each >= 0."""
    excluded_cols: Lines = ()
    """Columns whose cells may not be pulsed, each >= 0."""


def excluded_mask(limits: Limits, info: ArrayInfo, board: str) -> Array:
    """bool [row col] of cells that may not be pulsed; UsageError for a cell outside the board."""
    mask = np.zeros((info.rows, info.cols), dtype=bool)
    try:
        for row, col in limits.excluded_cells:
            mask[row, col] = True
        mask[list(limits.excluded_rows), :] = True
        mask[:, list(limits.excluded_cols)] = True
    except IndexError as exc:
        size = f"{info.rows} rows, {info.cols} cols, counted from 0"
        raise UsageError(f"boards.{board}.limits: an excluded cell is outside the board ({size}): correct it") from exc
    return mask


def check_shape(shape: PulseShape, info: ArrayInfo, limits: Limits | None, board: str) -> None:
    """Raise unless a pulse is inside the board's ranges and, if given, the limits.

    ShapeError for a per-array field of the wrong length, LimitError for everything else.
    """
    check_per_array(shape, info)
    abilities: dict[str, tuple[str, Range | None]] = {
        "up_v": ("up_v_max", info.pulse_v),
        "down_v": ("down_v_max", info.pulse_v),
        "width_s": ("width_s_max", info.width_s),
        "gate_up_v": ("gate_v_max", None),
        "gate_down_v": ("gate_v_max", None),
        "compliance_a": ("compliance_a_max", None),
    }
    for field, (name, able) in abilities.items():
        bound: float | None = None if limits is None else getattr(limits, name)
        for value in _values(getattr(shape, field)):
            if not math.isfinite(value) or (field in ("width_s", "compliance_a") and value <= 0):
                raise LimitError(f"boards.{board}: {field} = {value:g} is no pulse: give a finite value, a width above 0")
            if able is not None and not able.holds(value):
                span = f"{able.low:g} to {able.high:g}"
                what = f"{field} = {value:g} is outside what {info.model} does ({span})"
                raise LimitError(f"boards.{board}: {what}: change the pulse")
            if limits is not None and bound is None and name == "gate_v_max":
                raise LimitError(f"boards.{board}: {field} = {value:g} V without limits.gate_v_max: add that limit")
            if bound is not None and not abs(value) <= bound:
                raise LimitError(f"boards.{board}: {field} = {value:g} exceeds limits.{name} = {bound:g}: change the pulse")
    if limits is None:
        return
    if limits.compliance_a_max is not None and shape.compliance_a is None:
        raise LimitError(f"boards.{board}: a pulse without compliance_a under limits.compliance_a_max: give the pulse one")
    highest = max(abs(value) for value in (*_values(shape.up_v), *_values(shape.down_v)))
    half = highest * _HALF_SELECT[info.select_scheme]
    if not half <= limits.half_select_v_max:
        what = f"{half:g} V on unselected cells ({info.select_scheme} of {highest:g} V)"
        name = f"limits.half_select_v_max = {limits.half_select_v_max:g}"
        raise LimitError(f"boards.{board}: {what} exceeds {name}: lower the amplitude")


def check_read_v(read_v: float, info: ArrayInfo, limits: Limits | None, board: str) -> None:
    """Raise LimitError unless a line may be driven with ``read_v``, volt, while reading."""
    if not math.isfinite(read_v) or not info.read_v.holds(read_v):
        span = f"{info.read_v.low:g} to {info.read_v.high:g} V"
        raise LimitError(f"boards.{board}: reads at {read_v:g} V, {info.model} does {span}: change the read voltage")
    if limits is not None and not abs(read_v) <= limits.read_v_max:
        bound = f"limits.read_v_max = {limits.read_v_max:g} V"
        raise LimitError(f"boards.{board}: reads at {read_v:g} V, above {bound}: lower the read voltage")


def check_volts(volts: Tensor, info: ArrayInfo, limits: Limits | None, board: str) -> None:
    """Raise LimitError unless every voltage of an ``mvm`` may be driven; a line at 0 V is not driven."""
    bounds = [info.read_v.low, info.read_v.high]
    if limits is not None:
        bounds += [-limits.read_v_max, limits.read_v_max]
    low, high = _rounded(max(bounds[0::2]), volts.dtype), _rounded(min(bounds[1::2]), volts.dtype)
    # The usual case costs two numbers; what lies outside, or is none, is looked at closely.
    if volts.numel() == 0 or (low <= 0 <= high and float(volts.min()) >= low and float(volts.max()) <= high):
        return
    driven = volts[volts != 0]
    if driven.numel() == 0:
        return
    # The lowest and the highest decide for all; a NaN makes both NaN.
    for extreme in (float(driven.min()), float(driven.max())):
        rounded = (bound for bound in bounds if extreme == _rounded(bound, volts.dtype))
        check_read_v(next(rounded, extreme), info, limits, board)


@cache
def _rounded(bound: float, dtype: torch.dtype) -> float:
    """A bound as a tensor holds it: 0.2 as float32 is above 0.2, and a voltage that is this is at the bound, not above."""
    return float(torch.tensor(bound, dtype=dtype))


def check_cells(pulses: Array, worn: Array, excluded: Array, limits: Limits, board: str) -> None:
    """Raise LimitError unless every cell may get its pulses.

    pulses, worn: int64 [array row col], of this operation and before it; excluded: bool [row col].
    """
    hit = pulses > 0
    # The usual case costs two numbers; what may be refused is looked at closely.
    most = int(pulses.max(initial=0))
    lives = int((worn + pulses).max(initial=0)) <= limits.pulses_per_cell_max
    if lives and most <= limits.pulses_per_operation_max and not (hit & excluded).any():
        return
    refused = {
        "is excluded in the bench file: leave it out": hit & excluded,
        f"would get more pulses at once than limits.pulses_per_operation_max = {limits.pulses_per_operation_max}: "
        "cut the operation": pulses > limits.pulses_per_operation_max,
        f"would have had more pulses than limits.pulses_per_cell_max = {limits.pulses_per_cell_max}: exclude it": hit
        & (worn + pulses > limits.pulses_per_cell_max),
    }
    for reason, cells in refused.items():
        if cells.any():
            array, row, col = np.argwhere(cells)[0].tolist()
            place = f"[{row}, {col}]" if len(pulses) == 1 else f"[{row}, {col}] of array {array}"
            others = "" if cells.sum() == 1 else f" ({int(cells.sum()) - 1} more like it)"
            raise LimitError(f"boards.{board}: cell {place} {reason}{others}")


def _values(value: float | tuple[float, ...] | None) -> tuple[float, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)
