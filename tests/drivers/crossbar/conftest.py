"""``lab``: makes drivers on a scripted board that lives in virtual time, written from the protocol's semantics."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from drivers.crossbar_backend import CrossbarBoard
from drivers.crossbar_contact import Patience
from hil.errors import HardwareError
from hil.limits import Limits
from hil.wire import BadFrame, Code, Flag, Frame, Kind, Splitter
from hil.wire_session import ErrorReply, Hello

HELLO = Hello(
    nonce=0xA1, rows=2, cols=3, capabilities=1, max_body=4096, window=4, watchdog_s=1e5, read_levels=127, read_bipolar=1,
    adc_bits=9, rows_at_once=0, cols_at_once=0, select_scheme=0, reference=2, full_scale_a=1e-4, g_mid_siemens=1e-4,
    read_v=(-0.2, 0.2, 0.4 / 126), pulse_v=(-2.0, 2.0, 0.001), width_s=(1e-8, 1e-3, 1e-8), vendor="lab", model="bread board",
    serial="7", firmware="1",
)  # fmt: skip
LIMITS = Limits(
    up_v_max=1.5, down_v_max=1.5, width_s_max=1e-4, half_select_v_max=0.75, read_v_max=0.2, pulses_per_cell_max=10**6,
    pulses_per_operation_max=5000,
)  # fmt: skip
PULSING = (Kind.PULSE, Kind.UPDATE, Kind.TRACE, Kind.PROGRAM)

Answer = bytes | ErrorReply


@dataclass
class FakeBoard:
    """The board's end. Replies are there as soon as the host has written; reading costs virtual time only.

    heard: every frame of the host as bytes, whatever became of it; done: (kind, body) of what was executed, in order.
    lose, mute: take a frame of the host and say whether it, or the reply to it, gets lost.
    """

    hello: Hello = HELLO
    address: str = "fake"
    now_s: float = 0.0
    heard: list[bytes] = field(default_factory=list)
    done: list[tuple[Kind, bytes]] = field(default_factory=list)
    answers: dict[Kind, Callable[[bytes], Answer]] = field(default_factory=dict)
    lose: Callable[[Frame], bool] = lambda frame: False
    mute: Callable[[Frame], bool] = lambda frame: False
    busy_until_s: float = -math.inf
    holder: str = "somebody else"
    credits: int = 200
    plugged: bool = True
    back_s: float = math.inf
    """When it is plugged in again."""
    opened: int = 0
    session: int = 0
    tripped: bool = False
    armed: bool = False
    failed: bool = False
    most_in_flight: int = 0
    inbox: bytes = b""
    last: int = 0
    replies: dict[int, bytes] = field(default_factory=dict)
    splitter: Splitter = field(default_factory=Splitter)

    def write(self, data: bytes) -> None:
        self._there()
        for unit in self.splitter.feed(data):
            self.heard.append(unit + b"\0")
            try:
                frame = Frame.decode(unit)
            except BadFrame:
                continue
            if not self.lose(frame):
                self.hear(frame)

    def read(self, timeout_s: float) -> bytes:
        self._there()
        data, self.inbox = self.inbox, b""
        if not data:
            self.now_s += timeout_s
        return data

    def reopen(self) -> None:
        self.inbox = b""
        self.splitter.reset()
        if not self.plugged and self.now_s >= self.back_s:
            self.plugged = True
        self._there()
        self.opened += 1

    def close(self) -> None:
        pass

    def pause(self, seconds: float) -> None:
        self.now_s += seconds

    def reboot(self, nonce: int) -> None:
        self.hello = replace(self.hello, nonce=nonce)
        self.session, self.armed, self.tripped, self.failed = 0, False, False, False
        self.splitter.reset()

    def trip(self) -> None:
        """The watchdog grounds the array."""
        self.armed, self.tripped = False, True

    def unplug(self, for_s: float) -> None:
        self.plugged, self.back_s = False, self.now_s + for_s

    def _there(self) -> None:
        if not self.plugged:
            raise HardwareError(f"{self.address}: gone")

    def kinds(self) -> list[Kind]:
        """What was executed."""
        return [kind for kind, _ in self.done]

    def frames(self, kind: Kind) -> list[Frame]:
        """What was heard of a kind."""
        found = [Frame.decode(unit[:-1]) for unit in self.heard]
        return [frame for frame in found if frame.kind == kind]

    def say(self, frame: Frame, body: Answer, **changes: Any) -> bytes:
        """A reply, as bytes."""
        flags = Flag.REPLY | Flag.ERROR if isinstance(body, ErrorReply) else Flag.REPLY
        raw = body.pack() if isinstance(body, ErrorReply) else body
        reply = Frame(frame.kind, raw, flags, self.credits, self.hello.nonce, frame.session, frame.sequence)
        return replace(reply, **changes).encode()

    def hear(self, frame: Frame) -> None:
        answer = self._answer(frame)
        if answer is not None and not self.mute(frame):
            self.inbox += answer

    def _answer(self, frame: Frame) -> bytes | None:
        if frame.kind == Kind.HELLO:
            return self.say(frame, self.hello.pack())
        if frame.kind in (Kind.HEARTBEAT, Kind.ABORT):
            return None
        if frame.nonce != self.hello.nonce:
            return self.say(frame, ErrorReply(Code.NONCE, 0, 0, "rebooted"))
        if frame.kind == Kind.OPEN:
            if self.now_s < self.busy_until_s:
                return self.say(frame, ErrorReply(Code.BUSY, 0, 0, f"held by {self.holder}"))
            (session,) = struct.unpack_from("<I", frame.body)
            if session != self.session:
                self.session, self.last, self.replies = session, 0, {}
                self.armed = self.tripped = self.failed = False
            return self.say(frame, b"")
        if frame.session != self.session:
            return self.say(frame, ErrorReply(Code.SESSION, 0, 0, "no such session"))
        if frame.sequence <= self.last:
            return self.replies[frame.sequence]
        if frame.sequence > self.last + 1:
            return self.say(frame, ErrorReply(Code.GAP, self.last + 1, 0, "gap"))
        self.last = frame.sequence
        self.replies[self.last] = self.say(frame, self._execute(frame))
        return self.replies[self.last]

    def _execute(self, frame: Frame) -> Answer:
        kind = Kind(frame.kind)
        if frame.flags & Flag.POSTED and self.failed:
            return ErrorReply(Code.SKIPPED, 0, 0, "skipped")
        body: Answer
        if kind in PULSING and self.tripped:
            body = ErrorReply(Code.WATCHDOG, 0, 0, "silent")
        elif kind in PULSING and not self.armed:
            body = ErrorReply(Code.DISARMED, 0, 0, "not armed")
        else:
            body = self.answers.get(kind, lambda _: DEFAULTS.get(kind, b""))(frame.body)
            if not isinstance(body, ErrorReply):
                self.done.append((kind, frame.body))
        self.failed = isinstance(body, ErrorReply)
        if kind == Kind.ARM:
            self.armed, self.tripped = not self.failed, False
        if kind in (Kind.SAFE, Kind.CLOSE):
            self.armed = False
        return body


DEFAULTS = {
    Kind.READ: struct.pack("<6f", *(1e-6 * n for n in range(6))),
    Kind.MVM: struct.pack("<3f", 1e-6, 2e-6, 3e-6),
    Kind.PULSE: struct.pack("<I", 6),
    Kind.UPDATE: struct.pack("<I", 1),
    Kind.SAFE: b"\x01",
    Kind.STATUS: struct.pack("<dfQIIIIBB", 1.5, math.nan, 6, 7, 0, 0, 0, 0, 1),
}


@dataclass
class Lab:
    """Makes drivers on fake boards, and closes them at the end."""

    limits: Limits = LIMITS
    made: list[CrossbarBoard] = field(default_factory=list)

    def fake(self, **hello: Any) -> FakeBoard:
        return FakeBoard(hello=replace(HELLO, **hello))

    def patience(self, fake: FakeBoard, link_s: float = 10.0) -> Patience:
        draws = itertools.count(0x51)
        return Patience(0.5, link_s, lambda: fake.now_s, fake.pause, lambda: next(draws))

    def open(
        self, fake: FakeBoard, limits: Limits | None = LIMITS, read_v: float = 0.2, link_s: float = 10.0
    ) -> CrossbarBoard:
        """Session 0x52: 0x51 was the first token."""
        board = CrossbarBoard(fake, "main", read_v, "me", limits, self.patience(fake, link_s))
        self.made.append(board)
        return board


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    for board in made.made:
        board.close()
