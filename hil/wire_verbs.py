"""Messages that read and pulse cells over the open crossbar protocol."""

from __future__ import annotations

import enum
import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hil.wire import BadFrame
from hil.wire_body import Bits, Flat, Reader, pack_bits
from hil.wire_words import check_words, pack_words, read_words

__all__ = ["Mvm", "Op", "Program", "Pulse", "Read", "Shape", "Step", "Trace", "Update"]


@dataclass(frozen=True)
class Shape(Flat):
    """A pulse: volt, second, ampere; NaN where a gate or the compliance is not set."""

    up_v: float
    down_v: float
    width_s: float
    gate_up_v: float = math.nan
    gate_down_v: float = math.nan
    compliance_a: float = math.nan

    _layout = struct.Struct("<6d")


@dataclass(frozen=True)
class Read:
    """Request READ: single cells against ground; reply: float32 siemens of the masked cells, row-major."""

    read_v: float
    averages: int
    mask: Bits
    """[cell]"""

    def pack(self) -> bytes:
        return struct.pack("<dH", self.read_v, self.averages) + pack_bits(self.mask)

    @classmethod
    def unpack(cls, body: bytes, cells: int) -> Read:
        reader = Reader(body)
        read_v, averages = reader.unpack(struct.Struct("<dH"))
        mask = reader.bits(cells)
        reader.end()
        if averages < 1:
            raise BadFrame("a read without readings")
        return cls(read_v, averages, mask)


@dataclass(frozen=True)
class Mvm:
    """Request MVM; reply: float32 ampere [sample sensed line]."""

    backward: bool
    volt_per_code: float
    codes: NDArray[np.int16]
    """[sample line]: voltage of a line / volt_per_code; 0 = not driven."""

    def pack(self) -> bytes:
        head = struct.pack("<BdH", self.backward, self.volt_per_code, len(self.codes))
        return head + bytes(np.ascontiguousarray(self.codes, dtype="<i2").tobytes())

    @classmethod
    def unpack(cls, body: bytes, rows: int, cols: int) -> Mvm:
        reader = Reader(body)
        backward, volt_per_code, samples = reader.unpack(struct.Struct("<BdH"))
        lines = cols if backward else rows
        codes = reader.array("<i2", samples * lines).astype(np.int16).reshape(samples, lines)
        reader.end()
        if backward > 1:
            raise BadFrame(f"direction {backward} is neither 0 nor 1")
        return cls(bool(backward), volt_per_code, codes)


@dataclass(frozen=True)
class Pulse:
    """Request PULSE; reply: u32, pulses of cells applied."""

    shape: Shape
    counts: NDArray[np.int32]
    """[cell], up where positive."""

    def pack(self) -> bytes:
        hit = self.counts != 0
        return self.shape.pack() + pack_bits(hit) + bytes(self.counts[hit].astype("<i4").tobytes())

    @classmethod
    def unpack(cls, body: bytes, cells: int) -> Pulse:
        reader = Reader(body)
        shape = Shape.read(reader)
        hit = reader.bits(cells)
        counts = np.zeros(cells, dtype=np.int32)
        counts[hit] = reader.array("<i4", int(hit.sum()))
        reader.end()
        if (counts[hit] == 0).any() or (counts == np.iinfo(np.int32).min).any():
            raise BadFrame("a cell of the bitmap has no number of pulses")
        return cls(shape, counts)


@dataclass(frozen=True)
class Update:
    """Request UPDATE: coincidence trains, sample after sample; reply: u32, pulses of cells applied.

    A line that fires is one word: slot s in bit s (0 to 30), bit 31 set where its sign is negative.
    """

    shape: Shape
    slots: NDArray[np.uint8]
    """[sample], 0 to 31."""
    rows: NDArray[np.uint32]
    """[sample row]"""
    cols: NDArray[np.uint32]
    """[sample col]"""

    def pack(self) -> bytes:
        head = self.shape.pack() + struct.pack("<H", len(self.slots)) + self.slots.tobytes()
        return head + pack_words(self.rows) + pack_words(self.cols)

    @classmethod
    def unpack(cls, body: bytes, rows: int, cols: int) -> Update:
        reader = Reader(body)
        shape = Shape.read(reader)
        (samples,) = reader.unpack(struct.Struct("<H"))
        slots = reader.array("u1", samples)
        row_words, col_words = read_words(reader, samples, rows), read_words(reader, samples, cols)
        reader.end()
        check_words(row_words, col_words, slots)
        return cls(shape, slots, row_words, col_words)


@dataclass(frozen=True)
class Trace:
    """Request TRACE: one pulse after another on every masked cell, a read after every ``every``-th.

    Reply: float32 siemens [cell read], masked cells in row-major order.
    """

    shape: Shape
    read_v: float
    every: int
    up: Bits
    """[pulse]: potentiating or not."""
    mask: Bits
    """[cell]"""

    def pack(self) -> bytes:
        head = struct.pack("<dHI", self.read_v, self.every, len(self.up))
        return self.shape.pack() + head + pack_bits(self.up) + pack_bits(self.mask)

    @classmethod
    def unpack(cls, body: bytes, cells: int) -> Trace:
        reader = Reader(body)
        shape = Shape.read(reader)
        read_v, every, pulses = reader.unpack(struct.Struct("<dHI"))
        up, mask = reader.bits(pulses), reader.bits(cells)
        reader.end()
        if every < 1:
            raise BadFrame("a trace with a read after every 0 pulses")
        return cls(shape, read_v, every, up, mask)


class Step(enum.IntEnum):
    """Codes of a program's steps, and what their number says."""

    PULSE_UP = 1
    """How many, at least 1."""
    PULSE_DOWN = 2
    READ = 3
    """Readings averaged, 1 to 65535."""
    WAIT = 4
    """Microseconds."""
    LOOP = 5
    """How often the steps up to the END that belongs to it are done, at least 1."""
    END = 6
    """0."""


@dataclass(frozen=True)
class Op:
    """A step of a program: a code of ``Step`` and one number, u32."""

    code: int
    number: int


@dataclass(frozen=True)
class Program:
    """Request PROGRAM: steps on the masked cells. Reply: float32 siemens [read cell], in the order of the reads."""

    shape: Shape
    read_v: float
    mask: Bits
    ops: tuple[Op, ...]

    def pack(self) -> bytes:
        steps = b"".join(struct.pack("<BI", op.code, op.number) for op in self.ops)
        head = struct.pack("<dH", self.read_v, len(self.ops))
        return self.shape.pack() + head + pack_bits(self.mask) + steps

    @classmethod
    def unpack(cls, body: bytes, cells: int) -> Program:
        reader = Reader(body)
        shape = Shape.read(reader)
        read_v, count = reader.unpack(struct.Struct("<dH"))
        mask = reader.bits(cells)
        ops = tuple(Op(*reader.unpack(struct.Struct("<BI"))) for _ in range(count))
        reader.end()
        return cls(shape, read_v, mask, ops)
