"""What the twin board refuses: pulses and reads beyond what it can do, or beyond the limits it was armed with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hil.backend import PulseShape
from hil.wire import Code
from hil.wire_session import Arm
from hil.wire_verbs import Mvm, Shape
from simulated_backend.twins.board_settings import BoardSettings

__all__ = ["Counts", "Refused", "check_arm", "check_counts", "check_read_v", "check_shape", "check_volts"]

Counts = NDArray[np.int64]
"""Pulses of every cell, [cell]."""

_SLACK = 1 + 1e-6
"""Limits are closed bounds; what is compared may have been rounded to float32, or be a code times a step."""


class Refused(Exception):
    """A request that is answered with an error; see ``hil.wire_session.ErrorReply``."""

    def __init__(self, code: Code, message: str, operation: int = 0, pulses: int = 0) -> None:
        super().__init__(message)
        self.code, self.message, self.operation, self.pulses = code, message, operation, pulses


def check_arm(arm: Arm) -> None:
    """Refused unless every limit is NaN or a number of at least 0."""
    for name, value in vars(arm).items():
        if not (math.isnan(value) or 0 <= value < math.inf):
            raise Refused(Code.MALFORMED, f"{name} = {value:g} is no limit")


def check_shape(shape: Shape, arm: Arm, settings: BoardSettings) -> PulseShape:
    """The pulse, if the board can make it and may."""
    for name in ("up_v", "down_v", "width_s"):
        value = getattr(shape, name)
        if not math.isfinite(value):
            raise Refused(Code.MALFORMED, f"{name} = {value:g} is no pulse")
        if fault := (settings.width_s if name == "width_s" else settings.pulse_v).fault(value):
            raise Refused(Code.UNABLE, f"{name} = {value:g} is {fault}")
    for name in ("gate_up_v", "gate_down_v", "compliance_a"):
        if not math.isnan(getattr(shape, name)):
            raise Refused(Code.UNABLE, f"{name} is given, and the board has no such circuit")
    if not math.isnan(arm.compliance_a_max):
        raise Refused(Code.LIMIT, "a pulse without compliance_a under compliance_a_max")
    _below("up_v", abs(shape.up_v), arm.up_v_max)
    _below("down_v", abs(shape.down_v), arm.down_v_max)
    _below("width_s", shape.width_s, arm.width_s_max)
    _below("half-select voltage", max(abs(shape.up_v), abs(shape.down_v)) / 2, arm.half_select_v_max)
    return PulseShape(shape.up_v, shape.down_v, shape.width_s)


def check_counts(pulses: Counts, arm: Arm, operation: int | None = None) -> None:
    """Refused where a cell would get more pulses from one request than the limits allow, or all more than a u32 counts.

    operation: what the error names; None = the index of the cell.
    """
    most = int(pulses.argmax()) if len(pulses) else 0
    if len(pulses) and pulses[most] > arm.pulses_per_operation_max:
        what = f"{pulses[most]} pulses of cell {most} exceed pulses_per_operation_max = {arm.pulses_per_operation_max}"
        raise Refused(Code.LIMIT, what, most if operation is None else operation)
    if int(pulses.sum()) >= 2**32:
        raise Refused(Code.UNABLE, f"{int(pulses.sum())} pulses in one request", operation or 0)


def check_read_v(read_v: float, arm: Arm | None, able: float, operation: int = 0) -> None:
    """Refused unless lines may be driven with ``read_v``, volt; able: the board's largest read voltage."""
    if not math.isfinite(read_v):
        raise Refused(Code.MALFORMED, f"read_v = {read_v:g} is no voltage", operation)
    if abs(read_v) > able * _SLACK:
        raise Refused(Code.UNABLE, f"a line at {read_v:g} V is outside +-{able:g}", operation)
    if arm is not None:
        _below("a line while reading", abs(read_v), arm.read_v_max, operation)


def check_volts(request: Mvm, arm: Arm | None, able: float, levels: int) -> None:
    """Refused unless every sample of an MVM may be driven, and can be where there is one common voltage (2 levels)."""
    if not math.isfinite(request.volt_per_code):
        raise Refused(Code.MALFORMED, f"volt_per_code = {request.volt_per_code:g} is no voltage")
    if request.codes.size == 0:
        return
    size = np.abs(request.codes.astype(np.int64))
    largest = int(size.argmax())
    check_read_v(float(size.flat[largest]) * request.volt_per_code, arm, able, largest // request.codes.shape[1])
    if levels == 2:
        top = size.max(axis=1, keepdims=True)
        mixed = ((size != 0) & (size != top)).any(axis=1)
        if mixed.any():
            raise Refused(Code.UNABLE, "a sample has several voltages, and the board one", int(mixed.argmax()))


def _below(what: str, value: float, bound: float, operation: int = 0) -> None:
    """Refused where ``value`` exceeds an armed limit; NaN is none."""
    if value > bound * _SLACK:
        raise Refused(Code.LIMIT, f"{what} = {value:g} exceeds the limit {bound:g}", operation)
