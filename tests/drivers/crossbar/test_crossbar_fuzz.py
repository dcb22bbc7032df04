"""A hostile link and a board that talks nonsense: errors of the tree only, in bounded time, and no pulse twice."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hil.backend import PulseShape
from hil.errors import HilError, PulseOutcomeUnknown
from hil.wire import Code, Flag, Frame, Kind
from hil.wire_session import ErrorReply

SHAPE = PulseShape(1.0, -1.0, 1e-6)
MASK = torch.ones(1, 2, 3, dtype=torch.bool)
LONGEST_S = 200.0
"""Of virtual time for one call: TRIES reconnections, each with its patience, before a board is given up."""

u32 = st.integers(0, 2**32 - 1)
few = st.integers(0, 6)
nonsense = st.one_of(
    st.binary(max_size=60).map(lambda data: ("raw", data)),
    st.binary(max_size=60).map(lambda data: ("raw", data + b"\0")),
    st.tuples(st.just("reply"), st.sampled_from([*map(int, Kind), 0x77]), few, st.binary(max_size=30), st.integers(0, 7)),
    st.tuples(st.just("error"), st.sampled_from([*map(int, Code), 0, 200]), few, u32, u32),
    st.tuples(st.just("nonce"), u32, few),
)


class Liar:
    """Mixes what was drawn into the bytes of a board, one piece a read; then it is an honest board again."""

    def __init__(self, fake: Any, pieces: list[tuple[Any, ...]]) -> None:
        self._fake, self._read, self._pieces = fake, fake.read, list(pieces)
        fake.read = self.read

    def read(self, timeout_s: float) -> bytes:
        data: bytes = self._read(timeout_s)
        if not self._pieces:
            return data
        return self._bytes(*self._pieces.pop()) + data

    def _bytes(self, what: str, *drawn: Any) -> bytes:
        fake = self._fake
        if what == "raw":
            return bytes(drawn[0])
        last = Frame.decode(fake.heard[-1][:-1])
        if what == "reply":
            kind, back, body, flags = drawn
            sequence = max(0, last.sequence - back)
            return Frame(kind, body, Flag(flags), 3, fake.hello.nonce, last.session, sequence).encode()
        if what == "error":
            code, back, operation, pulses = drawn
            frame = Frame(last.kind, b"", session=last.session, sequence=max(0, last.sequence - back))
            return bytes(fake.say(frame, ErrorReply(code, operation, pulses, "lie")))
        nonce, back = drawn
        frame = Frame(last.kind, b"", session=last.session, sequence=max(0, last.sequence - back))
        return bytes(fake.say(frame, ErrorReply(Code.NONCE, 0, 0, "lie"), nonce=nonce))


def calls(board: Any) -> list[Any]:
    """A little of everything."""
    counts = torch.ones(1, 2, 3, dtype=torch.int32)
    return [
        lambda: board.pulse(counts, SHAPE),
        lambda: board.pulse(counts * 2, SHAPE),
        lambda: board.read(MASK),
        lambda: board.trace(torch.ones(3, dtype=torch.int8), MASK, SHAPE, 3),
        lambda: board.pulse(counts * 3, SHAPE),
        lambda: board.mvm(torch.full((1, 1, 2), 0.1), "forward"),
        board.status,
        board.safe,
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(pieces=st.lists(nonsense, max_size=25), window=st.sampled_from([1, 4]))
def test_a_board_that_talks_nonsense(lab: Any, pieces: list[tuple[Any, ...]], window: int) -> None:
    fake = lab.fake(window=window)
    fake.answers[Kind.TRACE] = lambda body: struct.pack("<6f", *[1e-6] * 6)
    board = lab.open(fake)
    Liar(fake, pieces)
    for call in calls(board):
        began = fake.now_s
        with suppress(HilError):
            call()
        assert fake.now_s - began < LONGEST_S
    began = fake.now_s
    for _ in range(3):
        with suppress(HilError):
            board.safe()
    assert fake.now_s - began < 3 * LONGEST_S
    board.close()


faults = st.lists(st.tuples(st.sampled_from(["lose", "mute", "flip", "twice", "cut"]), st.integers(0, 400)), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(faults=faults, window=st.sampled_from([1, 3, 8]), reboot=st.none() | st.integers(0, 25))
def test_a_link_that_loses_damages_and_doubles(
    lab: Any, faults: list[tuple[str, int]], window: int, reboot: int | None
) -> None:
    """Every pulse is executed exactly once and in order; over a reboot at most once, and the caller knows of which."""
    fake = lab.fake(window=window)
    board = lab.open(fake, link_s=1e4)
    todo = list(faults)
    hear = fake.hear
    count = 0

    def heard(frame: Frame) -> bool:
        nonlocal count
        count += 1
        if count == reboot:
            fake.reboot(0xB2)
        return bool(todo) and todo[-1][0] == "lose" and bool(todo.pop())

    def through(frame: Frame) -> None:
        before = fake.inbox
        hear(frame)
        answer = fake.inbox[len(before) :]
        if not todo or not answer:
            return
        what, where = todo.pop()
        if what == "mute":
            answer = b""
        elif what == "flip":
            at = where % len(answer)
            answer = answer[:at] + bytes([answer[at] ^ (1 << (where % 8))]) + answer[at + 1 :]
        elif what == "twice":
            answer += answer
        elif what == "cut":
            answer = answer[: where % len(answer)]
        fake.inbox = before + answer

    fake.lose, fake.hear = heard, through
    certain: list[int] = []
    posted: list[int] = []
    for n in range(1, 31):
        try:
            board.pulse(torch.full((1, 2, 3), n, dtype=torch.int32), SHAPE)
            posted.append(n)
            if n % 7 == 0:
                board.read(MASK)
                certain, posted = certain + posted, []
        except PulseOutcomeUnknown:
            assert reboot is not None
            posted = []
    try:
        board.status()
        certain += posted
    except PulseOutcomeUnknown:
        assert reboot is not None
    done = [struct.unpack_from("<i", body, 49)[0] for kind, body in fake.done if kind == Kind.PULSE]
    assert done == sorted(set(done))
    assert set(certain) <= set(done)
    if reboot is None:
        assert done == list(range(1, 31))
