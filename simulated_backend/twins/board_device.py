"""The twin board on its link: who may speak, in which order, exactly once, and what happens when the host is silent."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from hil.wire import DELIMITER, VERSION, BadFrame, Code, Flag, Frame, Kind
from hil.wire_session import Arm, ErrorReply, Opened, Status
from simulated_backend.twins.board_checks import Refused, check_arm
from simulated_backend.twins.board_pace import Pace, Rebooted, Stop
from simulated_backend.twins.board_session import Arming, Session
from simulated_backend.twins.board_settings import BoardSettings
from simulated_backend.twins.board_tally import Tally
from simulated_backend.twins.board_verbs import Access, Crossbar
from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel

__all__ = ["Board", "Line", "new_nonce"]


class Line(Protocol):
    """What the board needs of its link; see ``simulated_backend.twins.wire.Port``."""

    def send(self, unit: bytes) -> None:
        """To the host."""
        ...

    def waiting(self, delimiter: bytes) -> list[bytes]:
        """Units that have arrived and are not handled yet."""
        ...


def new_nonce() -> int:
    """What tells this boot from every other one: random, never 0."""
    return secrets.randbelow(2**32 - 1) + 1


class Board:
    """The device behind the link. now_s: real time of the watchdog; nonce: makes one for every boot."""

    delimiter = DELIMITER

    def __init__(
        self,
        settings: BoardSettings,
        clock: DeviceClock,
        panel: FaultPanel,
        now_s: Callable[[], float] = time.monotonic,
        nonce: Callable[[], int] = new_nonce,
    ) -> None:
        self._settings, self._clock, self._panel, self._now_s, self._make_nonce = settings, clock, panel, now_s, nonce
        self._pace = Pace(clock, panel, self._interrupted)
        self.crossbar = Crossbar(settings, self._pace, panel)
        self._lock = threading.RLock()
        self._line: Line | None = None
        self._tally = Tally(panel)
        self._orders: dict[int, Callable[[bytes, Session], bytes]] = {
            Kind.CLOSE: self._close,
            Kind.ARM: self._arm,
            Kind.SAFE: self._safe,
            Kind.STATUS: self._status,
        }
        self._boot()

    def _boot(self) -> None:
        self.nonce = self._make_nonce()
        self._session: Session | None = None
        self._ended: set[int] = set()
        self._booted = (self._clock.device_s, self.crossbar.applied)
        self._tally.boot()

    def _reboot(self) -> None:
        self._panel.count("rebooted")
        self.crossbar.forget_references()
        self._boot()

    def connected(self, is_connected: bool) -> None:
        """A session outlives the link: what is sent again after it has come back is still recognised."""

    def tick(self) -> None:
        """Orders, and the watchdog."""
        with self._lock:
            try:
                self._pace.idle()
            except Rebooted:
                self._reboot()
            self._watch()

    def handle(self, unit: bytes, port: Line) -> None:
        """One frame of the host."""
        if not unit:
            return
        with self._lock:
            self._line = port
            self.tick()
            answer = self._hear(unit)
        if answer is not None:
            port.send(answer)

    def truth(self) -> dict[str, Any]:
        """Conductances and pulses of every cell [row][col], and the requests that were executed."""
        with self._lock:
            state, s = self.crossbar.array.state_dict(), self._settings.array
            weight = state["state"][0].double() + state["reference"][0].double()
            out: dict[str, Any] = {
                "conductances": (s.g_mid_siemens + weight * s.siemens_per_weight).tolist(),
                "executed": self._tally.executed(),
                "armed": self._session is not None and self._session.arming is Arming.ARMED,
                "interlock_open": self._pace.interlock_open,
                "nonce": self.nonce,
            }
            out |= {name: state[name][0].tolist() for name in ("pulses_up", "pulses_down") if name in state}
            return out

    def _hear(self, unit: bytes) -> bytes | None:
        """The answer to a unit, as bytes."""
        try:
            frame = Frame.decode(unit)
        except BadFrame:
            self._tally.bad_frame()
            return None
        if frame.flags & Flag.REPLY:
            self._panel.count("rejected.reply")
            return None
        try:
            return self._answer(frame)
        except Refused as no:
            return self._error(frame, no)
        except Rebooted:
            self._reboot()
            return None

    def _answer(self, frame: Frame) -> bytes | None:
        """Raises Refused for what is answered with an error that is not kept, and Rebooted."""
        silent = frame.kind in (Kind.HEARTBEAT, Kind.ABORT)
        if frame.version != VERSION:
            raise Refused(Code.VERSION, f"version {frame.version} of the protocol, and the board speaks {VERSION}")
        if frame.kind == Kind.HELLO:
            return self._hello(frame)
        if frame.nonce != self.nonce:
            if silent:
                return None
            raise Refused(Code.NONCE, "the board has rebooted since: say HELLO")
        if frame.kind == Kind.OPEN:
            return self._open(frame)
        session = self._session
        if session is None or frame.session != session.number:
            if silent:
                return None
            raise Refused(Code.SESSION, "no such session: OPEN one")
        session.heard_s = self._now_s()
        return None if silent else self._in_sequence(frame, session)

    def _hello(self, frame: Frame) -> bytes:
        if len(frame.body) != 1:
            raise Refused(Code.MALFORMED, f"a HELLO with {len(frame.body)} bytes")
        if frame.body[0] < VERSION:
            raise Refused(Code.VERSION, f"the host speaks {frame.body[0]} at most, and the board {VERSION}")
        return self._reply(frame, self._settings.hello(self.crossbar.array, self.nonce).pack())

    def _open(self, frame: Frame) -> bytes:
        try:
            wanted = Opened.unpack(frame.body)
        except BadFrame as exc:
            raise Refused(Code.MALFORMED, str(exc)) from exc
        if wanted.session == 0:
            raise Refused(Code.MALFORMED, "session 0 is none")
        there = self._session
        if there is not None and there.number == wanted.session:
            there.heard_s = self._now_s()
            return self._reply(frame, b"")
        if wanted.session in self._ended:
            # An OPEN that took long to come must not let the requests behind it be executed again.
            raise Refused(Code.SESSION, "that session has ended: choose another number")
        if there is not None:
            if self._now_s() - there.heard_s < self._settings.watchdog_s:
                raise Refused(Code.BUSY, f"the board is {there.host}'s")
            self._ended.add(there.number)
        self._session = Session(wanted.session, wanted.host, self._now_s())
        return self._reply(frame, b"")

    def _in_sequence(self, frame: Frame, session: Session) -> bytes:
        """Execute a request, or answer again what was executed before."""
        if frame.sequence <= session.last:
            kept = session.replies.get(frame.sequence)
            if kept is None:
                raise Refused(Code.GONE, f"request {frame.sequence} was answered long ago")
            self._tally.resent()
            return kept
        if frame.sequence > session.last + 1:
            raise Refused(Code.GAP, f"request {session.last + 1} has not arrived", session.last + 1)
        self._tally.execute(frame)
        try:
            answer = self._reply(frame, self._execute(frame, session))
        except Refused as no:
            session.failed = True
            answer = self._error(frame, no)
        session.keep(frame.sequence, answer, 2 * self._settings.window)
        return answer

    def _execute(self, frame: Frame, session: Session) -> bytes:
        """Body of the reply."""
        if frame.flags & Flag.POSTED and session.failed:
            raise Refused(Code.SKIPPED, "a request before it failed")
        session.failed = False
        if len(frame.body) > self._settings.max_body:
            raise Refused(Code.MALFORMED, f"a body of {len(frame.body)} bytes, and max_body is {self._settings.max_body}")
        try:
            if frame.kind in self._orders:
                return self._orders[frame.kind](frame.body, session)
            if frame.kind in self.crossbar.verbs:
                access = Access(session.arm, session.arming.value)
                return self.crossbar.verbs[Kind(frame.kind)](frame.body, access)
        except BadFrame as exc:
            raise Refused(Code.MALFORMED, str(exc)) from exc
        raise Refused(Code.MALFORMED, f"kind {frame.kind} is unknown")

    def _close(self, body: bytes, session: Session) -> bytes:
        _empty(body)
        self._session = None
        self._ended.add(session.number)
        return b""

    def _arm(self, body: bytes, session: Session) -> bytes:
        arm = Arm.unpack(body)
        check_arm(arm)
        session.arm, session.arming = arm, Arming.ARMED
        return b""

    def _safe(self, body: bytes, session: Session) -> bytes:
        _empty(body)
        session.arming = Arming.DISARMED
        return b"\1"

    def _status(self, body: bytes, session: Session) -> bytes:
        _empty(body)
        device_s, pulses = self._booted
        return Status(
            device_s=self._clock.device_s - device_s,
            temperature_c=math.nan if self._settings.temperature_c is None else self._settings.temperature_c,
            pulses=self.crossbar.applied - pulses,
            interlock_open=int(self._pace.interlock_open),
            armed=int(session.arming is Arming.ARMED),
            **self._tally.since_boot,
        ).pack()

    def _interrupted(self) -> Stop | None:
        """What of the host's frames concerns the request under way: that it lives, and that it wants a stop."""
        session = self._session
        if self._line is None or session is None:
            return None
        stop = None
        for unit in self._line.waiting(DELIMITER):
            try:
                frame = Frame.decode(unit)
            except BadFrame:
                continue
            if not frame.flags & Flag.REPLY and (frame.nonce, frame.session) == (self.nonce, session.number):
                session.heard_s = self._now_s()
                if frame.kind == Kind.ABORT:
                    stop = Stop(Code.ABORTED, "stopped by ABORT")
        if self._trip(session):
            stop = Stop(Code.ABORTED, "the host was silent too long: array grounded")
        return stop

    def _watch(self) -> None:
        session = self._session
        if session is not None and session.arming is Arming.ARMED and self._silent(session):
            # What came while the board was at work has not been handled yet.
            self._interrupted()

    def _silent(self, session: Session) -> bool:
        return self._now_s() - session.heard_s > self._settings.watchdog_s

    def _trip(self, session: Session) -> bool:
        if session.arming is not Arming.ARMED or not self._silent(session):
            return False
        session.arming = Arming.TRIPPED
        self._tally.trip()
        return True

    def _reply(self, frame: Frame, body: bytes, flags: Flag = Flag.REPLY) -> bytes:
        room = self._settings.window
        return Frame(frame.kind, body, flags, room, self.nonce, frame.session, frame.sequence).encode()

    def _error(self, frame: Frame, no: Refused) -> bytes:
        self._panel.count(f"rejected.{no.code.name}")
        body = ErrorReply(int(no.code), no.operation, no.pulses, no.message).pack()
        return self._reply(frame, body, Flag.REPLY | Flag.ERROR)


def _empty(body: bytes) -> None:
    if body:
        raise BadFrame(f"body of {len(body)} bytes instead of none")
