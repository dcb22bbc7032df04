"""docs/wire-protocol.md says what the codec does: its tables, numbers and worked examples are compared with it."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from hil import wire, wire_session
from hil.wire import Code, Flag, Frame, Kind
from hil.wire_session import Arm, Capability, ErrorReply, Hello, Opened, Status
from hil.wire_verbs import Pulse, Shape, Step

PAGE = (Path(__file__).parents[3] / "docs" / "wire-protocol.md").read_text(encoding="utf-8")
TYPES = {"B": ("u8", 1), "H": ("u16", 2), "I": ("u32", 4), "Q": ("u64", 8), "f": ("f32", 4), "d": ("f64", 8)}
NONCE, SESSION = 0x1A2B3C4D, 0x00005E55
HELLO = Hello(
    nonce=NONCE, rows=2, cols=3, capabilities=3, max_body=2048, window=4, watchdog_s=2.0, read_levels=127, read_bipolar=1,
    adc_bits=9, rows_at_once=0, cols_at_once=0, select_scheme=0, reference=2, full_scale_a=1.2e-4, g_mid_siemens=1e-4,
    read_v=(-0.2, 0.2, 0.4 / 126), pulse_v=(-5.0, 5.0, 0.001), width_s=(1e-8, 1.0, 1e-8), vendor="lab", model="xp-2x3",
    serial="7", firmware="0.1",
)  # fmt: skip
COUNTS = np.array([0, 2, 0, 0, 0, -1], dtype=np.int32)
EXAMPLES = {
    "HELLO, sequence 1: the host speaks version 1 at most": Frame(Kind.HELLO, b"\1", sequence=1),
    "Reply to HELLO from a board of 2 x 3 cells": Frame(Kind.HELLO, HELLO.pack(), Flag.REPLY, 4, NONCE, 0, 1),
    "OPEN, sequence 2: session 0x5E55 for the host \"lab\"": Frame(
        Kind.OPEN, Opened(SESSION, "lab").pack(), nonce=NONCE, sequence=2
    ),
    "PULSE, posted, sequence 2 of the session: two up pulses on cell [0, 1], a down pulse on cell [1, 2]": Frame(
        Kind.PULSE, Pulse(Shape(1.0, -1.0, 1e-6), COUNTS).pack(), Flag.POSTED, 0, NONCE, SESSION, 2
    ),
    "Reply to PULSE: 3 pulses of cells applied": Frame(Kind.PULSE, b"\3\0\0\0", Flag.REPLY, 4, NONCE, SESSION, 2),
    "Reply to PULSE where the board was not armed": Frame(
        Kind.PULSE, ErrorReply(Code.DISARMED, 0, 0, "ARM first").pack(), Flag.REPLY | Flag.ERROR, 4, NONCE, SESSION, 2
    ),
}  # fmt: skip


def lines(name, data):
    """Bytes in hex, 16 a line."""
    rows = [data[start : start + 16].hex(" ") for start in range(0, len(data), 16)] or ["(none)"]
    return [f"{name if not number else '':8}{row}" for number, row in enumerate(rows)]


def example(frame):
    """A frame from its parts to its bytes on the wire."""
    encoded = frame.encode()
    head = struct.pack("<BBBBIIII", 1, frame.kind, frame.flags, frame.credits, frame.nonce, frame.session, frame.sequence,
                       len(frame.body))  # fmt: skip
    crc = struct.pack("<I", zlib.crc32(head + frame.body))
    parts = (("header", head), ("body", frame.body), ("crc", crc), ("wire", encoded))
    return "\n".join(line for name, data in parts for line in lines(name, data))


@pytest.mark.parametrize("title", EXAMPLES)
def test_worked_example(title):
    """The frame in the page is the one that the codec makes, and reads."""
    block = f"{title}:\n\n```\n{example(EXAMPLES[title])}\n```\n"
    assert block in PAGE, block
    on_wire = bytes.fromhex(re.sub(r"\s+", " ", block.partition("wire")[2].partition("`")[0]))
    assert Frame.decode(on_wire[:-1]) == EXAMPLES[title]


def rows_of(layout, names):
    """Rows of a table: offset, type, name."""
    kinds = "".join(kind * int(count or 1) for count, kind in re.findall(r"(\d*)([A-Za-z])", layout.lstrip("<")))
    offset = 0
    for kind, name in zip(kinds, names, strict=True):
        word, size = TYPES[kind]
        yield f"| {offset} | {word} | {name} |"
        offset += size


def names_of(message):
    return [field.name for field in fields(message)]


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (wire._HEADER.format, ["version", "kind", "flags", "credits", "nonce", "session", "sequence", "length"]),
        (Shape._layout.format, names_of(Shape)),
        (Arm._layout.format, names_of(Arm)),
        (Status._layout.format, names_of(Status)),
        (
            wire_session._HELLO.format,
            names_of(Hello)[:16] + [f"{n}.{p}" for n in ("read_v", "pulse_v", "width_s") for p in ("low", "high", "grain")],
        ),
    ],
    ids=["header", "shape", "arm", "status", "hello"],
)
def test_byte_table(layout, names):
    """Its rows stand in the page, one after another."""
    wanted = list(rows_of(layout, names))
    start = PAGE.index(f"\n{wanted[0]}") + 1
    found = [line[: len(row)] for line, row in zip(PAGE[start:].splitlines(), wanted, strict=False)]
    assert found == wanted, "\n".join(wanted)


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_kind(kind):
    assert f"| 0x{kind:02X} | {kind.name} |" in PAGE


@pytest.mark.parametrize("number", [*Code, *Step, *Flag, *Capability], ids=str)
def test_number(number):
    assert f"| {int(number)} | {number.name} |" in PAGE


def test_crc_is_the_common_one():
    """The check value that catalogues of CRCs give for CRC-32/ISO-HDLC."""
    assert zlib.crc32(b"123456789") == 0xCBF43926
    assert "CBF43926" in PAGE
