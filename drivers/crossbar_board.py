"""What a board of the open crossbar protocol says of itself, in the words of the backend; and what it cannot do."""

from __future__ import annotations

import math
from typing import Literal

from hil.backend import ArrayInfo, PulseShape, Range
from hil.errors import HardwareError, LimitError
from hil.limits import Limits
from hil.wire_session import Arm, Capability, Hello
from hil.wire_verbs import Shape

__all__ = ["arm_with", "check_grain", "describe", "has_reference", "wire_shape"]

_SELECT: tuple[Literal["V/2", "V/3", "selector"], ...] = ("V/2", "V/3", "selector")
_REFERENCE: tuple[Literal["none", "mid", "cell"], ...] = ("none", "mid", "cell")


def describe(hello: Hello, address: str) -> ArrayInfo:
    """The board's identity and abilities; HardwareError where its HELLO contradicts itself."""
    if hello.select_scheme >= len(_SELECT) or hello.reference >= len(_REFERENCE):
        raise HardwareError(f"{address}: HELLO names an unknown select scheme or reference: update this driver")
    bits = (hello.rows * hello.cols + 7) // 8
    lines = hello.rows + hello.cols
    # One update sample, one product sample, a trace of one cell with one pulse, one read cell.
    least = max(51 + (lines + 14) // 8 + 4 * lines, 11 + 4 * max(hello.rows, hello.cols), 63 + bits)
    if hello.max_body < least:
        raise HardwareError(
            f"{address}: max_body {hello.max_body} is below the {least} that its array needs: correct its firmware"
        )
    return ArrayInfo(
        arrays=1, rows=hello.rows, cols=hello.cols, physical=True, vendor=hello.vendor, model=hello.model,
        serial=hello.serial, firmware=hello.firmware, read_v=Range(*hello.read_v), pulse_v=Range(*hello.pulse_v),
        width_s=Range(*hello.width_s), read_levels=hello.read_levels, read_bipolar=bool(hello.read_bipolar),
        adc_bits=hello.adc_bits, full_scale_a=hello.full_scale_a, rows_at_once=hello.rows_at_once,
        cols_at_once=hello.cols_at_once, select_scheme=_SELECT[hello.select_scheme], exactly_once=True,
        reference=_REFERENCE[hello.reference], g_mid_siemens=hello.g_mid_siemens,
    )  # fmt: skip


def has_reference(hello: Hello) -> bool:
    """Whether REFERENCE can be asked of it."""
    return bool(hello.capabilities & Capability.REFERENCE) and _REFERENCE[hello.reference] == "cell"


def arm_with(limits: Limits) -> Arm:
    """The limits that the board is to enforce itself."""
    none = math.nan
    return Arm(
        limits.up_v_max, limits.down_v_max, limits.width_s_max, limits.half_select_v_max, limits.read_v_max,
        none if limits.compliance_a_max is None else limits.compliance_a_max,
        none if limits.gate_v_max is None else limits.gate_v_max,
        min(limits.pulses_per_operation_max, 2**32 - 1),
    )  # fmt: skip


def wire_shape(shape: PulseShape, hello: Hello, board: str) -> Shape:
    """A pulse as it goes over the wire; LimitError for one that the board has no circuit or no step for.

    Ranges and limits have been checked by ``hil.limits.check_shape``.
    """
    up_v, down_v, width_s, gate_up_v, gate_down_v, compliance_a = map(
        _only,
        (shape.up_v, shape.down_v, shape.width_s, shape.gate_up_v, shape.gate_down_v, shape.compliance_a),
    )
    for name, value, needs in (
        ("gate_up_v", gate_up_v, Capability.GATE),
        ("gate_down_v", gate_down_v, Capability.GATE),
        ("compliance_a", compliance_a, Capability.COMPLIANCE),
    ):
        if not math.isnan(value) and not hello.capabilities & needs:
            raise LimitError(f"boards.{board}: {name} = {value:g}, and {hello.model} has no such circuit: leave it out")
    for name, value, grain in (
        ("up_v", up_v, hello.pulse_v[2]),
        ("down_v", down_v, hello.pulse_v[2]),
        ("width_s", width_s, hello.width_s[2]),
    ):
        check_grain(name, value, grain, board)
    return Shape(up_v, down_v, width_s, gate_up_v, gate_down_v, compliance_a)


def check_grain(name: str, value: float, grain: float, board: str) -> None:
    """Raise LimitError unless ``value`` is a multiple of ``grain`` (0 = continuous) within rounding."""
    steps = value / grain if grain > 0 else 0.0
    if abs(steps - round(steps)) > 1e-6 * max(1.0, abs(steps)):
        raise LimitError(f"boards.{board}: {name} = {value:g} is no multiple of the board's step {grain:g}: round it")


def _only(value: float | tuple[float, ...] | None) -> float:
    """The value for the one array; NaN where there is none."""
    if value is None:
        return math.nan
    return float(value[0] if isinstance(value, tuple) else value)
