"""Messages that open, arm and watch a board over the open crossbar protocol."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, fields

from hil.wire_body import Flat, Reader, text

__all__ = ["Arm", "Capability", "ErrorReply", "Hello", "Opened", "Status"]


class Capability(enum.IntFlag):
    """What a board may have beside the plain verbs: bits of ``Hello.capabilities``."""

    NONE = 0
    REFERENCE = 1
    """Subtracts an analog reference per cell, set by REFERENCE."""
    INTERLOCK = 2
    TEMPERATURE = 4
    COUNTERS = 8
    """Counts pulses per cell."""
    GATE = 16
    """Has gate lines: a pulse may give gate_up_v and gate_down_v."""
    COMPLIANCE = 32
    """Limits the current of a pulse: a pulse may give compliance_a."""


@dataclass(frozen=True)
class Hello:
    """Reply to HELLO: what the board is. Ranges are low, high, grain."""

    nonce: int
    rows: int
    cols: int
    capabilities: int
    """Bits of ``Capability``."""
    max_body: int
    """Largest body, either way, byte."""
    window: int
    """Requests in flight at once; at least as many replies are kept."""
    watchdog_s: float
    read_levels: int
    read_bipolar: int
    adc_bits: int
    rows_at_once: int
    cols_at_once: int
    select_scheme: int
    """0 V/2, 1 V/3, 2 selector."""
    reference: int
    """0 none, 1 mid, 2 cell."""
    full_scale_a: float
    g_mid_siemens: float
    read_v: tuple[float, float, float]
    pulse_v: tuple[float, float, float]
    width_s: tuple[float, float, float]
    vendor: str
    model: str
    serial: str
    firmware: str

    def pack(self) -> bytes:
        head = _HELLO.pack(
            self.nonce, self.rows, self.cols, self.capabilities, self.max_body, self.window, self.watchdog_s,
            self.read_levels, self.read_bipolar, self.adc_bits, self.rows_at_once, self.cols_at_once, self.select_scheme,
            self.reference, self.full_scale_a, self.g_mid_siemens, *self.read_v, *self.pulse_v, *self.width_s,
        )  # fmt: skip
        return head + b"".join(map(text, (self.vendor, self.model, self.serial, self.firmware)))

    @classmethod
    def unpack(cls, body: bytes) -> Hello:
        reader = Reader(body)
        n = reader.unpack(_HELLO)
        texts = [reader.text() for _ in range(4)]
        reader.end()
        values = (*n[:16], n[16:19], n[19:22], n[22:25], *texts)
        return cls(**dict(zip((field.name for field in fields(cls)), values, strict=True)))


_HELLO = struct.Struct("<IHHIIHfIBBHHBBdd9d")


@dataclass(frozen=True)
class Opened:
    """Request OPEN: the session that the host has chosen (so that a resent OPEN is the same one), and who asks."""

    session: int
    host: str

    def pack(self) -> bytes:
        return struct.pack("<I", self.session) + text(self.host)

    @classmethod
    def unpack(cls, body: bytes) -> Opened:
        reader = Reader(body)
        (session,) = reader.unpack(struct.Struct("<I"))
        host = reader.text()
        reader.end()
        return cls(session, host)


@dataclass(frozen=True)
class Arm(Flat):
    """Request ARM: limits that the board enforces itself; NaN = no limit of that kind was given."""

    up_v_max: float
    down_v_max: float
    width_s_max: float
    half_select_v_max: float
    read_v_max: float
    compliance_a_max: float
    gate_v_max: float
    pulses_per_operation_max: int
    """Pulses of a cell in one request."""

    _layout = struct.Struct("<7dI")


@dataclass(frozen=True)
class Status(Flat):
    """Reply to STATUS."""

    device_s: float
    """Time that the array was driven or read since boot, second."""
    temperature_c: float
    """NaN where it is not measured."""
    pulses: int
    """Pulses of cells applied since boot."""
    operations: int
    """Requests executed since boot."""
    bad_frames: int
    resent: int
    """Requests that were recognised as resent and not executed again."""
    trips: int
    """Times that the watchdog has grounded the array."""
    interlock_open: int
    armed: int

    _layout = struct.Struct("<dfQIIIIBB")


@dataclass(frozen=True)
class ErrorReply:
    """Body of a reply with the ERROR flag."""

    code: int
    operation: int
    """Index of the failing operation in the request (sample, pulse, program step); of a GAP the sequence expected."""
    pulses: int
    """Pulses of cells that were applied before it failed."""
    message: str

    def pack(self) -> bytes:
        return struct.pack("<BII", self.code, self.operation, self.pulses) + text(self.message)

    @classmethod
    def unpack(cls, body: bytes) -> ErrorReply:
        reader = Reader(body)
        code, operation, pulses = reader.unpack(struct.Struct("<BII"))
        message = reader.text()
        reader.end()
        return cls(code, operation, pulses, message)
