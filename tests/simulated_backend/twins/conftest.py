"""``host``: a host of the open crossbar protocol that speaks to a twin board without a link, under a clock of the test."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

from hil.wire import Code, Flag, Frame, Kind
from hil.wire_session import Arm, ErrorReply, Hello, Opened, Status
from hil.wire_verbs import Pulse, Shape
from simulated_backend.devices import DeviceSettings
from simulated_backend.settings import EmulatorSettings
from simulated_backend.twins.board import warm
from simulated_backend.twins.board_device import Board
from simulated_backend.twins.board_settings import BoardSettings
from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel
from simulated_backend.twins.settings import FaultSettings

ROWS, COLS = 4, 3
CELLS = ROWS * COLS
SESSION = 0x5E55


class Host:
    """The host's end, and the link: what is sent is handled at once, ``coming`` is what arrives during a request.

    Attributes: board; panel and clock of the twin; now_s, the real time that the board sees; answers, every frame of the
    board so far.
    """

    shape = Shape(1.0, -1.0, 1e-6)

    def __init__(self, time_scale: float = 0.0, **settings: Any) -> None:
        array = settings.pop("array", EmulatorSettings(rows=ROWS, cols=COLS, device=DeviceSettings(dw_min=0.01)))
        self.settings = BoardSettings(array=array, **settings)
        self.panel, self.clock = FaultPanel(FaultSettings()), DeviceClock(time_scale)
        self.now_s = 100.0
        boots = count(1)
        self.board = Board(self.settings, self.clock, self.panel, lambda: self.now_s, lambda: 0xB0000000 + next(boots))
        self.answers: list[Frame] = []
        self.coming: Callable[[], list[Frame]] = list
        self.session, self.sequence = SESSION, 0

    def send(self, unit: bytes) -> None:
        """The board's way to the host."""
        assert unit.endswith(b"\0")
        assert b"\0" not in unit[:-1]
        self.answers.append(Frame.decode(unit[:-1]))

    def waiting(self, delimiter: bytes) -> list[bytes]:
        """What the board finds when it looks while it is at work."""
        return [frame.encode()[:-1] for frame in self.coming()]

    def bytes_in(self, unit: bytes) -> list[Frame]:
        """A unit without its delimiter; the answers to it."""
        before = len(self.answers)
        self.clock.begin()
        self.board.handle(unit, self)
        self.board.tick()
        return self.answers[before:]

    def ask(self, frame: Frame) -> Frame:
        """The one answer to a frame."""
        (answer,) = self.bytes_in(frame.encode()[:-1])
        assert answer.flags & Flag.REPLY
        assert (answer.kind, answer.session, answer.sequence) == (frame.kind, frame.session, frame.sequence)
        return answer

    def frame(self, kind: int, body: bytes = b"", sequence: int = 0, flags: Flag = Flag.NONE) -> Frame:
        """A frame of the session."""
        return Frame(kind, body, flags, 0, self.board.nonce, self.session, sequence)

    def request(self, kind: int, body: bytes = b"", flags: Flag = Flag.NONE) -> Frame:
        """The answer to the next request of the session."""
        self.sequence += 1
        return self.ask(self.frame(kind, body, self.sequence, flags))

    def done(self, kind: int, body: bytes = b"", flags: Flag = Flag.NONE) -> bytes:
        """Body of the reply to the next request, which succeeds."""
        answer = self.request(kind, body, flags)
        assert not answer.flags & Flag.ERROR, ErrorReply.unpack(answer.body)
        return answer.body

    def refused(self, kind: int, body: bytes = b"", flags: Flag = Flag.NONE) -> ErrorReply:
        """The error that the next request is answered with."""
        return self.error(self.request(kind, body, flags))

    def error(self, answer: Frame) -> ErrorReply:
        """What an answer says that is an error, in one short line."""
        assert answer.flags & Flag.ERROR
        said = ErrorReply.unpack(answer.body)
        assert said.message.isprintable()
        assert said.message
        return said

    def code(self, kind: int, body: bytes = b"", flags: Flag = Flag.NONE) -> Code:
        """Its code."""
        return Code(self.refused(kind, body, flags).code)

    def hello(self) -> Hello:
        """What the board says of itself."""
        return Hello.unpack(self.ask(Frame(Kind.HELLO, b"\1", sequence=77)).body)

    def open(self, session: int = SESSION, name: str = "test") -> Frame:
        """The answer to OPEN; the session is the host's from then on."""
        self.session, self.sequence = session, 0
        return self.ask(Frame(Kind.OPEN, Opened(session, name).pack(), nonce=self.board.nonce, sequence=5))

    def arm(self, pulses: int = 1000, **limits: float) -> None:
        """ARM with no limits but those given."""
        named = dict.fromkeys(("up_v_max", "down_v_max", "width_s_max", "half_select_v_max", "read_v_max"), math.nan)
        named |= {"compliance_a_max": math.nan, "gate_v_max": math.nan} | limits
        self.done(Kind.ARM, Arm(**named, pulses_per_operation_max=pulses).pack())

    def status(self) -> Status:
        """STATUS."""
        return Status.unpack(self.done(Kind.STATUS))

    def pulse_body(self, counts: list[int] | None = None) -> bytes:
        """PULSE: up where positive, cells from the first on; default one pulse on the first cell."""
        cells = np.zeros(CELLS, dtype=np.int32)
        cells[: len(counts or [1])] = counts or [1]
        return Pulse(self.shape, cells).pack()

    def pulse(self, counts: list[int] | None = None) -> int:
        """Pulses that the board says it has applied."""
        (applied,) = struct.unpack("<I", self.done(Kind.PULSE, self.pulse_body(counts)))
        return int(applied)

    @property
    def pulses(self) -> int:
        """Pulses that the cells have had, by their own counters."""
        truth = self.board.truth()
        return int(np.sum(truth["pulses_up"]) + np.sum(truth["pulses_down"]))


@pytest.fixture(scope="session")
def fresh_host() -> type[Host]:
    """Makes hosts, of boards with the settings given, without a session; the kernels are compiled by now."""
    warm(BoardSettings())
    return Host


@pytest.fixture
def host(fresh_host: type[Host]) -> Host:
    """A host with an open and armed session on a board of 4 x 3 cells."""
    made = fresh_host()
    made.open()
    made.arm()
    return made
