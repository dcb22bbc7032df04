"""Exact bytes of every verb, built here from the protocol alone."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import torch

from hil.backend import PulseShape
from hil.encoding import PulseTrain
from hil.wire import Kind
from hil.wire_verbs import Op

SHAPE = PulseShape(1.0, -1.25, 1e-6)
WIRE_SHAPE = struct.pack("<6d", 1.0, -1.25, 1e-6, math.nan, math.nan, math.nan)
NONCE, SESSION = 0xA1, 0x52
POSTED = 4


def cobs(data: bytes) -> bytes:
    """Consistent overhead byte stuffing, after Cheshire and Baker 1999."""
    out = bytearray()
    for number, block in enumerate(pieces := data.split(b"\0")):
        while len(block) >= 254 and not (len(block) == 254 and number == len(pieces) - 1):
            out += b"\xff" + block[:254]
            block = block[254:]
        out += bytes([len(block) + 1]) + block
    return bytes(out)


def wire(kind: int, body: bytes, sequence: int, flags: int = 0, session: int = SESSION, nonce: int = NONCE) -> bytes:
    inside = struct.pack("<BBBBIIII", 1, kind, flags, 0, nonce, session, sequence, len(body)) + body
    return cobs(inside + struct.pack("<I", zlib.crc32(inside))) + b"\0"


def test_a_frame_byte_for_byte(lab: Any) -> None:
    """HELLO: header, body 01, CRC-32 of both."""
    fake = lab.fake()
    lab.open(fake)
    # 01 01 00 00 | nonce 0 | session 0 | sequence 0x52 | length 1 | body 01 | CRC
    inside = bytes.fromhex("01010000 00000000 00000000 52000000 01000000 01".replace(" ", ""))
    crc = zlib.crc32(inside).to_bytes(4, "little")
    expected = b"\x03\x01\x01" + b"\x01" * 9 + b"\x02\x52" + b"\x01\x01\x02\x01\x01\x01\x06\x01" + crc + b"\0"
    assert fake.heard[0] == wire(1, b"\x01", 0x52, session=0, nonce=0)
    assert fake.heard[0] == expected


def verb(lab: Any, call: Any, **hello: Any) -> list[bytes]:
    """What a call sent on an opened, armed board whose last sequence was 1."""
    fake = lab.fake(**hello)
    board = lab.open(fake)
    fake.heard.clear()
    call(board)
    board.session.finish()
    return fake.heard


def test_opening(lab: Any) -> None:
    """HELLO, OPEN with the session that the host has drawn, ARM with the limits."""
    fake = lab.fake()
    lab.open(fake)
    arm = struct.pack("<7dI", 1.5, 1.5, 1e-4, 0.75, 0.2, math.nan, math.nan, 5000)
    opened = wire(2, struct.pack("<I", SESSION) + b"\x02me", 0x53, session=0)
    assert fake.heard == [wire(1, b"\x01", 0x52, session=0, nonce=0), opened, wire(4, arm, 1)]


def test_closing(lab: Any) -> None:
    """SAFE, then CLOSE, once."""
    fake = lab.fake()
    board = lab.open(fake)
    fake.heard.clear()
    board.close()
    board.close()
    assert fake.heard == [wire(5, b"", 2), wire(3, b"", 3)]
    began = fake.now_s
    assert board.safe()
    assert (len(fake.heard), fake.now_s) == (2, began)


def test_read(lab: Any) -> None:
    """read_v, averages, bitmap: cell i in bit i % 8."""
    mask = torch.tensor([[[True, False, True], [False, False, True]]])

    def call(board: Any) -> None:
        with_nan = board.read(mask, averages=3)
        torch.testing.assert_close(with_nan[mask], torch.tensor([1e-6, 2e-6, 3e-6]))
        assert bool(with_nan[~mask].isnan().all())

    fake = lab.fake()
    fake.answers[Kind.READ] = lambda body: struct.pack("<3f", 1e-6, 2e-6, 3e-6)
    board = lab.open(fake)
    fake.heard.clear()
    call(board)
    assert fake.heard == [wire(0x10, struct.pack("<dH", 0.2, 3) + bytes([0b100101]), 2)]


def test_mvm_codes_are_steps_of_the_dac(lab: Any) -> None:
    """127 levels over 0.4 V: one step is 0.4 / 126 V; 0.1 V is 31.5 steps, of which the even neighbour is taken."""
    sent = verb(lab, lambda board: board.mvm(torch.tensor([[[0.2, -0.1]]]), "forward"))
    body = struct.pack("<BdH", 0, 0.4 / 126, 1) + struct.pack("<2h", 63, -32)
    assert sent == [wire(0x11, body, 2)]


def test_mvm_of_one_voltage_is_exact(lab: Any) -> None:
    """Lines at 0 and +-v: code 1 is v, so that no rounding enters."""
    v = float(torch.tensor(0.15))
    fake = lab.fake(read_levels=2)
    fake.answers[Kind.MVM] = lambda body: struct.pack("<2f", 1e-6, 2e-6)
    board = lab.open(fake)
    fake.heard.clear()
    current = board.mvm(torch.tensor([[[v, 0.0, -v]]]), "backward")
    torch.testing.assert_close(current, torch.tensor([[[1e-6, 2e-6]]]))
    assert fake.heard == [wire(0x11, struct.pack("<BdH", 1, v, 1) + struct.pack("<3h", 1, 0, -1), 2)]


def test_mvm_of_a_continuous_source(lab: Any) -> None:
    """32767 steps up to the largest voltage."""
    sent = verb(lab, lambda board: board.mvm(torch.tensor([[[0.2, 0.1]]]), "forward"), read_levels=0)
    step = float(torch.tensor(0.2)) / 32767
    assert sent == [wire(0x11, struct.pack("<BdH", 0, step, 1) + struct.pack("<2h", 32767, 16384), 2)]


def test_pulse(lab: Any) -> None:
    """Shape, bitmap of the cells, their signed counts; posted."""
    counts = torch.tensor([[[0, 5, 0], [0, 0, -2]]], dtype=torch.int32)
    sent = verb(lab, lambda board: board.pulse(counts, SHAPE))
    assert sent == [wire(0x12, WIRE_SHAPE + bytes([0b100010]) + struct.pack("<2i", 5, -2), 2, POSTED)]


def test_update(lab: Any) -> None:
    """Words of the lines that fire, bit 31 where the sign is negative; a line that never fires is left out."""
    rows = PulseTrain.given(
        torch.tensor([[[0b101, 0]]], dtype=torch.int32),
        torch.tensor([[[1, -1]]], dtype=torch.int8),
        torch.tensor([[4]], dtype=torch.int32),
    )
    cols = PulseTrain.given(
        torch.tensor([[[0b1, 0b1100, 0b10]]], dtype=torch.int32),
        torch.tensor([[[-1, 1, 0]]], dtype=torch.int8),
        torch.tensor([[4]], dtype=torch.int32),
    )
    sent = verb(lab, lambda board: board.update(rows, cols, SHAPE))
    body = WIRE_SHAPE + struct.pack("<HB", 1, 4)
    body += bytes([0b01]) + struct.pack("<I", 0b101)
    body += bytes([0b011]) + struct.pack("<II", 0x80000001, 0b1100)
    assert sent == [wire(0x13, body, 2, POSTED)]


def test_an_update_that_fires_nowhere_is_sent(lab: Any) -> None:
    """The board draws its noise by samples: none may be left out."""
    slots = torch.zeros(1, 1, dtype=torch.int32)
    rows, cols = (
        PulseTrain.given(torch.zeros(1, 1, n, dtype=torch.int32), torch.zeros(1, 1, n, dtype=torch.int8), slots)
        for n in (2, 3)
    )
    sent = verb(lab, lambda board: board.update(rows, cols, SHAPE))
    assert sent == [wire(0x13, WIRE_SHAPE + b"\x01\0\0\0\0", 2, POSTED)]


def test_trace(lab: Any) -> None:
    """Shape, read_v, every, pulses, bitmaps of polarity and cells; the reply is [cell read]."""
    fake = lab.fake()
    fake.answers[Kind.TRACE] = lambda body: struct.pack("<4f", 1e-6, 2e-6, 3e-6, 4e-6)
    board = lab.open(fake)
    fake.heard.clear()
    mask = torch.tensor([[[True, False, False], [False, True, False]]])
    g = board.trace(torch.tensor([1, 1, -1, 1, -1], dtype=torch.int8), mask, SHAPE, every=2)
    body = WIRE_SHAPE + struct.pack("<dHI", 0.2, 2, 5) + bytes([0b01011]) + bytes([0b010001])
    assert fake.heard == [wire(0x14, body, 2, POSTED)]
    torch.testing.assert_close(g[mask], torch.tensor([[1e-6, 2e-6], [3e-6, 4e-6]]))
    assert bool(g[~mask].isnan().all())


def test_program(lab: Any) -> None:
    """Steps of code and number; the reply is [read cell]."""
    fake = lab.fake()
    fake.answers[Kind.PROGRAM] = lambda body: struct.pack("<6f", *(1e-6 * n for n in range(6)))
    board = lab.open(fake)
    fake.heard.clear()
    mask = torch.tensor([[[True, False, True], [False, False, False]]])
    ops = (Op(5, 3), Op(1, 10), Op(4, 50), Op(3, 2), Op(6, 0))
    g = board.run_program(ops, mask, SHAPE)
    steps = b"".join(struct.pack("<BI", *step) for step in ((5, 3), (1, 10), (4, 50), (3, 2), (6, 0)))
    body = WIRE_SHAPE + struct.pack("<dH", 0.2, 5) + bytes([0b101]) + steps
    assert fake.heard == [wire(0x15, body, 2, POSTED)]
    torch.testing.assert_close(g[mask], 1e-6 * torch.tensor([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]))


def test_reference_status_and_abort(lab: Any) -> None:
    """float32 siemens of every cell; the others have no body, and ABORT has no sequence."""
    fake = lab.fake()
    board = lab.open(fake)
    fake.heard.clear()
    g = torch.tensor([[[1e-4, math.nan, 1e-4], [1e-4, 1e-4, 2e-4]]])
    board.set_reference(g)
    status = board.status()
    board.abort()
    reference = struct.pack("<6f", *g.flatten().tolist())
    assert fake.heard == [wire(0x16, reference, 2), wire(6, b"", 3), wire(8, b"", 0)]
    assert (status["interlock"], status["temperature_c"], status["board"]["pulses"]) == ("closed", None, 6)
    assert status["operations"] == 2


def test_heartbeat(lab: Any) -> None:
    """HEARTBEAT goes out only where nothing else did for a third of the watchdog's time."""
    fake = lab.fake(watchdog_s=3e5)
    port = lab.open(fake)._port
    fake.heard.clear()
    fake.now_s += 0.9e5
    port.pulse_watchdog()
    assert fake.heard == []
    fake.now_s += 0.1e5
    port.pulse_watchdog()
    port.pulse_watchdog()
    assert fake.heard == [wire(7, b"", 0)]
