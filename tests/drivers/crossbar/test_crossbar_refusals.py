"""What is refused before a byte is sent, and how long operations are cut."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from drivers.crossbar_serial import CrossbarSettings, plugin
from hil.backend import ArrayBackend, PulseShape, Range
from hil.encoding import PulseTrain
from hil.errors import HardwareError, HilError, LimitError, ShapeError, UsageError
from hil.plugins import find
from hil.wire import Kind
from hil.wire_verbs import Mvm, Op, Pulse, Read, Trace, Update

SHAPE = PulseShape(1.0, -1.0, 1e-6)
MASK = torch.ones(1, 2, 3, dtype=torch.bool)
ONE = torch.ones(1, 2, 3, dtype=torch.int32)


def train(lines: int, samples: int = 1) -> PulseTrain:
    """Fires in every slot."""
    ones = torch.ones(1, samples, lines, dtype=torch.int32)
    return PulseTrain.given(ones, ones.to(torch.int8), torch.ones(1, samples, dtype=torch.int32))


def volts(*values: float) -> torch.Tensor:
    return torch.tensor([[values]])


REFUSED: dict[str, tuple[Callable[[Any], Any], type[HilError]]] = {
    "mask of another size": (lambda b: b.read(torch.ones(1, 3, 2, dtype=torch.bool)), ShapeError),
    "mask of numbers": (lambda b: b.read(MASK.float()), ShapeError),
    "no averages": (lambda b: b.read(MASK, averages=0), UsageError),
    "too many averages": (lambda b: b.read(MASK, averages=65536), UsageError),
    "volts of another size": (lambda b: b.mvm(volts(0.1, 0.1, 0.1), "forward"), ShapeError),
    "volts in double": (lambda b: b.mvm(volts(0.1, 0.1).double(), "forward"), ShapeError),
    "volts beyond the board": (lambda b: b.mvm(volts(0.1, 0.201), "forward"), LimitError),
    "volts that are none": (lambda b: b.mvm(volts(0.1, math.nan), "forward"), LimitError),
    "active of two arrays": (lambda b: b.mvm(volts(0.1, 0.1), "forward", torch.ones(2, dtype=torch.bool)), ShapeError),
    "counts of another type": (lambda b: b.pulse(ONE.long(), SHAPE), ShapeError),
    "counts too low": (lambda b: b.pulse(ONE * -(2**31), SHAPE), UsageError),
    "pulse beyond the board": (lambda b: b.pulse(ONE, PulseShape(2.5, -1.0, 1e-6)), LimitError),
    "pulse beyond the limits": (lambda b: b.pulse(ONE, PulseShape(1.0, -1.6, 1e-6)), LimitError),
    "width beyond the board": (lambda b: b.pulse(ONE, PulseShape(1.0, -1.0, 1e-9)), LimitError),
    "amplitude between two steps": (lambda b: b.pulse(ONE, PulseShape(1.0005, -1.0, 1e-6)), LimitError),
    "width between two steps": (lambda b: b.pulse(ONE, PulseShape(1.0, -1.0, 1.005e-6)), LimitError),
    "gate without gate lines": (lambda b: b.pulse(ONE, PulseShape(1.0, -1.0, 1e-6, gate_up_v=1.0)), LimitError),
    "shape of two arrays": (lambda b: b.pulse(ONE, PulseShape((1.0, 1.0), -1.0, 1e-6)), ShapeError),
    "trains of other lines": (lambda b: b.update(train(3), train(2), SHAPE), ShapeError),
    "polarity 2": (lambda b: b.trace(torch.full((3,), 2, dtype=torch.int8), MASK, SHAPE), ShapeError),
    "every 0": (lambda b: b.trace(torch.ones(3, dtype=torch.int8), MASK, SHAPE, every=0), UsageError),
    "reference of another size": (lambda b: b.set_reference(torch.ones(1, 3, 2)), ShapeError),
    "program without END": (lambda b: b.run_program((Op(5, 2), Op(3, 1)), MASK, SHAPE), UsageError),
    "program with a stray END": (lambda b: b.run_program((Op(6, 0),), MASK, SHAPE), UsageError),
    "program of an unknown step": (lambda b: b.run_program((Op(9, 1),), MASK, SHAPE), UsageError),
    "program that pulses 0 times": (lambda b: b.run_program((Op(1, 0),), MASK, SHAPE), UsageError),
    "program with too long a reply": (lambda b: b.run_program((Op(5, 10**6), Op(3, 1), Op(6, 0)), MASK, SHAPE), UsageError),
    "program read too high": (lambda b: b.run_program((Op(3, 1),), MASK, SHAPE, read_v=0.3), LimitError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_a_byte_is_sent(lab: Any, name: str) -> None:
    call, kind = REFUSED[name]
    fake = lab.fake()
    board = lab.open(fake)
    fake.heard.clear()
    with pytest.raises(kind) as raised:
        call(board)
    assert fake.heard == []
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("hello", "value"),
    [
        ({"read_levels": 2}, volts(0.1, 0.2)),
        ({"read_bipolar": 0}, volts(0.1, -0.1)),
        ({"rows_at_once": 1}, volts(0.1, 0.1)),
        ({"read_v": (0.0, 0.2, 0.0)}, volts(-0.1, 0.1)),
    ],
)
def test_products_that_the_board_cannot_drive(lab: Any, hello: dict[str, Any], value: torch.Tensor) -> None:
    fake = lab.fake(**hello)
    board = lab.open(fake)
    fake.heard.clear()
    with pytest.raises(LimitError):
        board.mvm(value, "forward")
    assert fake.heard == []


@pytest.mark.parametrize(
    "hello",
    [
        {"rows": 0},
        {"window": 0},
        {"watchdog_s": 0.0},
        {"watchdog_s": math.nan},
        {"select_scheme": 3},
        {"reference": 3},
        {"max_body": 63},
    ],
)
def test_boards_that_contradict_themselves(lab: Any, hello: dict[str, Any]) -> None:
    with pytest.raises(HardwareError):
        lab.open(lab.fake(**hello))


def test_a_read_voltage_that_the_board_or_the_limits_do_not_allow(lab: Any) -> None:
    fake = lab.fake(read_v=(-0.5, 0.5, 0.0))
    with pytest.raises(LimitError):
        lab.open(fake, read_v=0.21)
    with pytest.raises(LimitError):
        lab.open(lab.fake(), limits=None, read_v=0.21)
    assert Kind.READ not in fake.kinds()


def test_what_the_board_says_of_itself(lab: Any) -> None:
    info = lab.open(lab.fake(select_scheme=1)).info
    assert (info.arrays, info.rows, info.cols, info.physical, info.exactly_once) == (1, 2, 3, True, True)
    assert (info.vendor, info.model, info.serial, info.firmware) == ("lab", "bread board", "7", "1")
    assert (info.read_v, info.pulse_v, info.width_s) == (
        Range(-0.2, 0.2, 0.4 / 126),
        Range(-2, 2, 0.001),
        Range(1e-8, 1e-3, 1e-8),
    )
    assert (info.read_levels, info.adc_bits, info.full_scale_a, info.g_mid_siemens) == (127, 9, 1e-4, 1e-4)
    assert (info.select_scheme, info.reference) == ("V/3", "cell")


def test_inactive_arrays_are_left_alone(lab: Any) -> None:
    """No byte; but what was posted before is waited for."""
    fake = lab.fake()
    board = lab.open(fake)
    off = torch.zeros(1, dtype=torch.bool)
    board.pulse(ONE, SHAPE)
    fake.heard.clear()
    board.update(train(2), train(3), SHAPE, off)
    assert not board.mvm(volts(0.1, 0.1), "forward", off).any()
    assert fake.heard == []
    assert not board.session._flight


def test_nothing_to_do_is_nothing_sent(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    fake.heard.clear()
    board.pulse(ONE * 0, SHAPE)
    assert board.trace(torch.ones(4, dtype=torch.int8), ~MASK, SHAPE, 2).shape == (1, 2, 3, 2)
    assert board.trace(torch.ones(0, dtype=torch.int8), MASK, SHAPE).shape == (1, 2, 3, 0)
    assert board.mvm(torch.zeros(1, 0, 2), "forward").shape == (1, 0, 3)
    assert fake.heard == []


SIDE = 16
SMALL = {"rows": SIDE, "cols": SIDE, "max_body": 512}
"""128 floats a reply: half of the cells."""


def bodies(fake: Any, kind: Kind) -> list[bytes]:
    found = [body for what, body in fake.done if what == kind]
    assert max(map(len, found)) <= 512
    return found


def test_reads_are_cut_by_cells(lab: Any) -> None:
    fake = lab.fake(**SMALL)
    board = lab.open(fake)

    def read(body: bytes) -> bytes:
        mask = Read.unpack(body, SIDE * SIDE).mask
        return struct.pack(f"<{int(mask.sum())}f", *(1e-6 * cell for cell in mask.nonzero()[0]))

    fake.answers[Kind.READ] = read
    g = board.read(torch.ones(1, SIDE, SIDE, dtype=torch.bool))
    torch.testing.assert_close(g.flatten(), 1e-6 * torch.arange(256, dtype=torch.float32))
    assert len(bodies(fake, Kind.READ)) == 2


def test_products_are_cut_by_samples(lab: Any) -> None:
    """8 samples of 16 currents in a reply."""
    fake = lab.fake(**SMALL)
    board = lab.open(fake)

    def mvm(body: bytes) -> bytes:
        codes = Mvm.unpack(body, SIDE, SIDE).codes
        return struct.pack(f"<{codes.size}f", *codes.flatten().tolist())

    fake.answers[Kind.MVM] = mvm
    wanted = (torch.arange(20 * SIDE, dtype=torch.float32).view(1, 20, SIDE) % 63) * (0.4 / 126)
    torch.testing.assert_close(board.mvm(wanted, "forward"), (wanted / (0.4 / 126)).round())
    assert len(bodies(fake, Kind.MVM)) == 3


def test_pulses_are_cut_by_cells(lab: Any) -> None:
    fake = lab.fake(**SMALL)
    board = lab.open(fake)
    counts = torch.arange(-100, 156, dtype=torch.int32).view(1, SIDE, SIDE)
    board.pulse(counts, SHAPE)
    board.status()
    got = sum(Pulse.unpack(body, 256).counts for body in bodies(fake, Kind.PULSE))
    assert torch.equal(torch.from_numpy(got).view(1, SIDE, SIDE), counts)


def test_updates_are_cut_by_samples(lab: Any) -> None:
    fake = lab.fake(**SMALL)
    board = lab.open(fake)
    generator = torch.Generator().manual_seed(5)
    bits = torch.randint(0, 4, (2, 1, 30, SIDE), generator=generator, dtype=torch.int32)
    slots = torch.full((1, 30), 2, dtype=torch.int32)
    rows, cols = (PulseTrain.given(one, torch.ones(one.shape, dtype=torch.int8), slots) for one in bits)
    board.update(rows, cols, SHAPE)
    board.status()
    parts = [Update.unpack(body, SIDE, SIDE) for body in bodies(fake, Kind.UPDATE)]
    got = torch.cat([torch.from_numpy(part.rows.view("int32")) for part in parts])
    assert torch.equal(got, bits[0, 0])
    assert sum(len(part.slots) for part in parts) == 30
    assert 1 < len(parts) < 15


@pytest.mark.parametrize(
    ("pulses", "every", "cells"), [(700, 3, 5), (700, 1, 40), (100, 7, 200), (9000, 4000, 2), (70000, 66000, 1)]
)
def test_traces_are_cut_where_they_are_read(lab: Any, pulses: int, every: int, cells: int) -> None:
    """Every part is short enough, all pulses come in order, and every read comes after the pulse after which it should."""
    fake = lab.fake(**SMALL)
    board = lab.open(fake, link_s=1000.0)
    done: dict[tuple[int, ...], list[int]] = {}

    def trace(body: bytes) -> bytes:
        part = Trace.unpack(body, 256)
        chosen = tuple(part.mask.nonzero()[0].tolist())
        before = done.setdefault(chosen, [])
        start = len(before)
        before += [1 if up else -1 for up in part.up]
        at = [start + (number + 1) * part.every for number in range(len(part.up) // part.every)]
        return struct.pack(f"<{len(at) * len(chosen)}f", *(cell * 1e5 + read for cell in chosen for read in at))

    fake.answers[Kind.TRACE] = trace
    mask = (torch.arange(256) < cells).view(1, SIDE, SIDE)
    polarity = torch.where(torch.arange(pulses) % 3 == 0, -1, 1).to(torch.int8)
    g = board.trace(polarity, mask, SHAPE, every)
    assert all(part == polarity.tolist() for part in done.values())
    assert sorted(cell for part in done for cell in part) == list(range(cells))
    at = (torch.arange(pulses // every) + 1) * every
    expected = torch.arange(cells)[:, None] * 1e5 + at
    torch.testing.assert_close(g[mask], expected.float())
    bodies(fake, Kind.TRACE)


def test_a_reply_of_another_length(lab: Any) -> None:
    fake = lab.fake()
    fake.answers[Kind.READ] = lambda body: b"\0" * 8
    with pytest.raises(HardwareError, match="firmware"):
        lab.open(fake).read(MASK)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"link": "a", "twin": {"name": "board"}},
        {"link": "a", "baud": 0},
        {"link": "a", "patience_s": math.inf},
        {"link": "a", "x": 1},
    ],
)
def test_settings_that_are_none(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CrossbarSettings.model_validate(settings)


def test_the_plugin(lab: Any) -> None:
    assert find("hil.backends", "crossbar-serial") is plugin
    assert plugin.elastic(CrossbarSettings(link="a")) is False
    assert isinstance(lab.open(lab.fake()), ArrayBackend)
