"""Whatever comes over the wire: the board answers or is silent, and pulses only for a good frame in its turn."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hil.wire import Flag, Frame, Kind
from hil.wire_session import Arm, ErrorReply, Opened
from hil.wire_verbs import Mvm, Op, Program, Pulse, Read, Shape, Step, Trace, Update

ROWS, COLS = 4, 3
CELLS = ROWS * COLS
ALL = np.ones(CELLS, dtype=bool)
SHAPE = Shape(1.0, -1.0, 1e-6)
GOOD = {
    Kind.ARM: Arm(1.2, 1.2, 1e-5, 0.6, 0.2, 1e-3, 1.0, 100).pack(),
    Kind.SAFE: b"",
    Kind.STATUS: b"",
    Kind.CLOSE: b"",
    Kind.READ: Read(0.1, 1, ALL).pack(),
    Kind.MVM: Mvm(False, 0.001, np.arange(2 * ROWS, dtype=np.int16).reshape(2, ROWS)).pack(),
    Kind.PULSE: Pulse(SHAPE, np.arange(CELLS, dtype=np.int32) - 3).pack(),
    Kind.UPDATE: Update(
        SHAPE,
        np.array([5, 0], dtype=np.uint8),
        np.array([[7, 0, 0x80000011, 1], [0] * 4], dtype=np.uint32),
        np.array([[3, 1, 0], [0] * 3], dtype=np.uint32),
    ).pack(),
    Kind.TRACE: Trace(SHAPE, 0.1, 2, np.array([1, 0, 1, 1], dtype=bool), ALL).pack(),
    Kind.PROGRAM: Program(
        SHAPE, 0.1, ALL, (Op(Step.LOOP, 2), Op(Step.PULSE_UP, 2), Op(Step.READ, 1), Op(Step.END, 0))
    ).pack(),
    Kind.REFERENCE: np.full(CELLS, 1e-4, dtype="<f4").tobytes(),
}
SAFE_KINDS = (Kind.HELLO, Kind.OPEN, Kind.CLOSE, Kind.ARM, Kind.SAFE, Kind.STATUS, Kind.READ, Kind.MVM, Kind.REFERENCE)


@functools.cache
def armed_host(fresh_host):
    """One board for all examples: what a bad frame leaves behind shows in the next."""
    host = fresh_host()
    host.open()
    host.arm(pulses=100)
    return host


def ready(host):
    """Open and armed again, and what the cells are like."""
    if host.board.truth()["armed"] and host.ask(host.frame(Kind.STATUS, b"", host.sequence + 1)).flags == Flag.REPLY:
        host.sequence += 1
        return host.board.truth()
    host.now_s += 10
    host.open(host.session + 1)
    host.arm(pulses=100)
    return host.board.truth()


def same_cells(before, after):
    return all(before[name] == after[name] for name in ("conductances", "pulses_up", "pulses_down"))


@pytest.mark.slow
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes(data, fresh_host):
    """A CRC lets one in 4e9 through; none of these is a request of the session anyway."""
    host = armed_host(fresh_host)
    before = ready(host)
    for unit in data.split(b"\0"):
        assert host.bytes_in(unit) == []
    assert same_cells(before, host.board.truth())


@given(kind=st.sampled_from(sorted(GOOD)), at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere(kind, at, bit, fresh_host):
    """The CRC-32 finds every single flipped bit, whatever COBS makes of it: nothing is executed, nothing is answered."""
    host = armed_host(fresh_host)
    before = ready(host)
    unit = bytearray(host.frame(kind, GOOD[kind], host.sequence + 1).encode()[:-1])
    unit[at % len(unit)] ^= 1 << bit
    for part in bytes(unit).split(b"\0"):
        assert host.bytes_in(part) == []
    after = host.board.truth()
    assert same_cells(before, after)
    assert before["executed"] == after["executed"]


@given(
    kind=st.sampled_from(sorted(GOOD)), start=st.integers(0, 10**6), length=st.integers(0, 30), put=st.binary(max_size=30)
)
def test_pieces_cut_out_of_a_frame(kind, start, length, put, fresh_host):
    host = armed_host(fresh_host)
    before = ready(host)
    unit = host.frame(kind, GOOD[kind], host.sequence + 1).encode()[:-1]
    start %= len(unit)
    broken = unit[:start] + put + unit[start + length :]
    if broken == unit:
        return
    for part in broken.split(b"\0"):
        host.bytes_in(part)
    assert same_cells(before, host.board.truth())


@given(
    kind=st.integers(0, 255),
    body=st.binary(max_size=120),
    flags=st.integers(0, 255),
    nonce=st.sampled_from([0, 1, -1]),
    session=st.sampled_from([0, 1, -1]),
    sequence=st.sampled_from([0, 1, 2, 2**32 - 1]),
    version=st.sampled_from([0, 1, 2, 255]),
)
def test_any_header_and_body(kind, body, flags, nonce, session, sequence, version, fresh_host):
    """Well-formed frames of any content: one answer or none, and no pulse but what its own counters tell."""
    host = armed_host(fresh_host)
    before = ready(host)
    numbers = {0: 0, 1: 12345}
    frame = Frame(
        kind, body, Flag(flags & 7), 0, numbers.get(nonce, host.board.nonce), numbers.get(session, host.session),
        host.sequence + sequence if sequence < 9 else sequence, version,
    )  # fmt: skip
    answers = host.bytes_in(frame.encode()[:-1])
    assert len(answers) <= 1
    after = host.board.truth()
    if answers and answers[0].flags & Flag.ERROR:
        told = ErrorReply.unpack(answers[0].body).pulses
        assert np.sum(after["pulses_up"]) + np.sum(after["pulses_down"]) == told + np.sum(before["pulses_up"]) + np.sum(
            before["pulses_down"]
        )
    if after["executed"] != before["executed"]:
        assert (frame.version, frame.nonce, frame.session) == (1, host.board.nonce, host.session)
        assert frame.sequence == host.sequence + 1
        host.sequence += 1


@given(
    kind=st.sampled_from(sorted(GOOD)),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 3),
    more=st.binary(max_size=3),
)
def test_edited_bodies_in_good_frames(kind, edits, cut, more, fresh_host):
    """What a host with a bug sends: the reply tells exactly the pulses that the cells have had, armed limits included."""
    host = armed_host(fresh_host)
    before = ready(host)
    body = bytearray(GOOD[kind])
    for at, value in edits:
        if body:
            body[at % len(body)] = value
    data = bytes(body[: len(body) - cut]) + more
    answer = host.request(kind, data)
    after = host.board.truth()
    pulsed = sum(int(np.sum(after[name]) - np.sum(before[name])) for name in ("pulses_up", "pulses_down"))
    each = sum(np.array(after[name]) - np.array(before[name]) for name in ("pulses_up", "pulses_down"))
    assert np.max(each) <= 100
    if answer.flags & Flag.ERROR:
        assert pulsed == ErrorReply.unpack(answer.body).pulses
    elif kind in (Kind.PULSE, Kind.UPDATE):
        assert pulsed == int.from_bytes(answer.body, "little")
    elif kind not in (Kind.TRACE, Kind.PROGRAM):
        assert pulsed == 0


@given(body=st.binary(max_size=300), kind=st.sampled_from([Kind.HELLO, Kind.OPEN]))
def test_hello_and_open_with_any_body(body, kind, fresh_host):
    host = armed_host(fresh_host)
    before = ready(host)
    answer = host.ask(Frame(kind, body, nonce=host.board.nonce))
    if not answer.flags & Flag.ERROR and kind == Kind.OPEN:
        host.session = Opened.unpack(body).session
        host.sequence = 0
    assert same_cells(before, host.board.truth())
