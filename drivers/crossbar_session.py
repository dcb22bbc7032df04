"""The host's end of a session of the open crossbar protocol: posted requests, each executed exactly once, and recovery.

What the board certainly did not do (watchdog, skipped) is sent as a new request, after ARM. After a reboot, or where the
session is lost, nobody knows what became of unanswered pulses: PulseOutcomeUnknown, and they are never sent again; reads
are. Every wait is bounded.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import replace

from drivers.crossbar_contact import Contact, Patience, Rebooted
from drivers.crossbar_flight import Flight
from drivers.crossbar_port import CrossbarPort
from drivers.crossbar_request import NOT_DONE, Request, fault
from hil.errors import HardwareError, HilError, PulseOutcomeUnknown
from hil.wire import Code, Flag, Kind
from hil.wire_session import Arm, Hello

__all__ = ["TRIES", "Session"]

TRIES = 5
"""Times that a request is sent as a new one, and reconnections without an answer in between."""


class Session:
    """A session on a board, and its recovery.

    ``post`` hands a request over, ``finish`` waits for all and raises what went wrong first; once something has, what is
    posted is dropped until ``finish`` has said so. arm: the limits to arm with, None = never; byte_s: time of a byte on
    the wire. Attributes: hello, of the present boot; restore, what every new session begins with; reboots, trips:
    counters. Opening raises HardwareError where there is no board, or another host has it.
    """

    def __init__(self, port: CrossbarPort, host: str, patience: Patience, arm: Arm | None, byte_s: float = 0.0) -> None:
        self.restore: list[Request] = []
        self.reboots = self.trips = 0
        self._port, self._patience, self._arm, self._byte_s = port, patience, arm, byte_s
        self._contact = Contact(port, host, patience)
        self._backlog: deque[Request] = deque()
        self._redo: list[Request] = []
        self._armed = self._skipping = self._gone = False
        self._failure: HilError | None = None
        self._stuck = 0
        self.hello = self._contact.hello(patience.link_s)
        self._flight: Flight | None = self._open(self.hello)

    def post(self, request: Request) -> None:
        """Send as soon as the board has room; waits for that. HardwareError where there is no session to be had."""
        if self._failure is not None:
            return
        try:
            self._ready()
            self._backlog.extend(self._armed_for([request]))
            self._pump()
            while self._backlog:
                self._turn()
        except HilError:
            raise
        except BaseException:
            self._abandon()
            raise

    def finish(self) -> None:
        """Wait for every answer; raises the first failure since the last time."""
        try:
            while self._flight or self._backlog or self._redo:
                self._turn()
        except HilError:
            raise
        except BaseException:
            self._abandon()
            raise
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def answers(self, requests: list[Request]) -> list[bytes]:
        """Replies to posted requests, once all up to them are answered; raises the first failure since the last time."""
        try:
            while self._failure is None and not all(request.settled for request in requests):
                if not (self._flight or self._backlog or self._redo):
                    verb = requests[0].kind.name.lower()
                    raise HardwareError(f"{self._port.address}: {verb} was dropped behind a failure: ask for it again")
                self._turn()
        except HilError:
            raise
        except BaseException:
            self._abandon()
            raise
        if self._failure is not None:
            self.finish()
        return [request.reply or b"" for request in requests]

    def many(self, requests: list[Request]) -> list[bytes]:
        """Replies to requests, and everything posted before them done."""
        for request in requests:
            self.post(request)
        self.finish()
        return [request.reply or b"" for request in requests]

    def call(self, request: Request) -> bytes:
        """The reply to one request, and everything posted before it done."""
        return self.many([request])[0]

    def arm(self) -> None:
        """Arm the board with the limits, if there are any; LimitError or HardwareError where it does not take them."""
        if self._arm is not None and not self._armed:
            self.call(self._arming(self._arm))

    def abort(self) -> None:
        """Have the board stop the request under way at its next pulse or read; its own answer tells how far it came."""
        if self._flight is not None:
            self._port.write(self._flight.bare(Kind.ABORT))

    def close(self) -> None:
        """Ground, disarm and end the session, if the board can still be reached."""
        with suppress(HilError):
            if self._flight is not None:
                self.call(Request(Kind.CLOSE))
        self._end()

    def _abandon(self) -> None:
        """The caller was interrupted and will not come back for its requests; a long one is stopped."""
        self._backlog.clear()
        left = [] if self._flight is None else [request for request in self._flight.requests if not request.posted]
        for request in left:
            request.abandoned = True
        if any(request.pulses for request in left):
            with suppress(HardwareError):
                self.abort()

    def _ready(self) -> None:
        """See to it that there is a session; a board that was given up gets a short time only."""
        if self._flight is not None and self._flight.spent:
            self._backlog.append(Request(Kind.CLOSE))
            self.finish()
            self._end()
        if self._flight is None:
            link_s, reply_s = self._patience.link_s, self._patience.reply_s
            self._begin(self._contact.hello(min(link_s, 4 * reply_s) if self._gone else link_s))

    def _begin(self, hello: Hello) -> None:
        """A new session with the board of before, whose state is put back."""
        old = self.hello
        if (hello.vendor, hello.model, hello.serial, hello.rows, hello.cols) != (
            old.vendor, old.model, old.serial, old.rows, old.cols
        ):  # fmt: skip
            raise HardwareError(
                f"{self._port.address}: {hello.serial} answers instead of {old.serial}: plug the right board in"
            )
        self._flight = self._open(hello)
        self._backlog.extendleft(replace(request) for request in reversed(self.restore))

    def _open(self, hello: Hello) -> Flight:
        self._end()
        for _ in range(TRIES):
            try:
                session, room = self._contact.open(hello)
                break
            except Rebooted:
                hello = self._contact.hello(self._patience.link_s)
        else:
            raise HardwareError(f"{self._port.address}: the board reboots again and again: check its power")
        self.reboots += hello.nonce != self.hello.nonce
        self.hello = hello
        self._armed = self._skipping = self._gone = False
        flight = Flight(self._port, self._patience, hello, session, room, self._byte_s)
        self._port.beat_s, self._port.beat = hello.watchdog_s / 3, flight.bare(Kind.HEARTBEAT)
        return flight

    def _end(self) -> None:
        self._flight = self._port.beat = None

    def _arming(self, arm: Arm) -> Request:
        self._armed = True
        return Request(Kind.ARM, arm.pack())

    def _armed_for(self, requests: list[Request]) -> list[Request]:
        """The requests, with ARM in front where they need it."""
        if self._armed or self._arm is None or not any(request.pulses for request in requests):
            return requests
        return [self._arming(self._arm), *requests]

    def _pump(self) -> None:
        """Send what waits, as far as the board has room."""
        flight = self._flight
        while self._backlog and flight is not None and flight.free and not (self._redo or self._contact.broken):
            request = self._backlog.popleft()
            flags = Flag.POSTED if request.pulses and not self._skipping else Flag.NONE
            self._skipping = False
            try:
                flight.send(request, flags)
            except HardwareError:
                self._contact.broken = True

    def _turn(self) -> None:
        """One step on: take what came, or do something about what did not."""
        flight = self._flight
        if flight is None or self._contact.broken or flight.lost:
            self._reconnect()
        elif flight:
            try:
                flight.listen()
            except HardwareError:
                self._contact.broken = True
            self._settle(flight)
        self._repeat()
        self._pump()

    def _settle(self, flight: Flight) -> None:
        try:
            while (request := flight.settled()) is not None:
                self._stuck = 0
                self._resolve(request)
        except BaseException:
            # An answer was in hand, and it is not known which.
            self._fail(PulseOutcomeUnknown(f"{self._port.address}: interrupted while taking an answer: re-read the cells"))
            raise

    def _resolve(self, request: Request) -> None:
        """What an answer means for the caller; called in the order of the requests."""
        error = request.error
        code = None if error is None else error.code
        if code == Code.WATCHDOG:
            self.trips += self._armed
        if code == Code.WATCHDOG or (request.kind == Kind.SAFE and error is None) or (request.kind == Kind.ARM and error):
            self._armed = False
        request.settled = True
        if request.abandoned:
            self._skipping = self._skipping or error is not None
        elif self._failure is None and code in NOT_DONE:
            request.settled = False
            self._redo.append(request)
        elif self._failure is None and self._redo and not request.pulses:
            # It came too early: what was to be done before it has yet to be.
            request.settled = False
            self._redo.append(request)
        elif error is not None and code != Code.SKIPPED:
            self._fail(fault(request, error, self._port.address))

    def _repeat(self) -> None:
        """Once nothing is in flight, send what was certainly not done as new requests, in order."""
        if not self._redo or self._flight:
            return
        again, self._redo = [request.fresh() for request in self._redo], []
        if max(request.tries for request in again) > TRIES:
            self._fail(HardwareError(f"{self._port.address}: its watchdog trips again and again: check link and watchdog_s"))
            return
        self._skipping = True
        self._backlog.extendleft(reversed(self._armed_for(again)))

    def _fail(self, failure: HilError) -> None:
        """Nothing more is sent until the caller knows; the first failure is the one that it is told."""
        self._failure = self._failure or failure
        self._skipping = True
        self._backlog.clear()
        self._redo.clear()

    def _reconnect(self) -> None:
        self._stuck += 1
        flight = self._flight
        try:
            if self._stuck > TRIES:
                raise HardwareError(f"{self._port.address}: it answers HELLO and nothing else: look at the board")
            hello = self._contact.hello(self._patience.link_s)
            if flight is not None and not flight.lost and hello.nonce == self.hello.nonce:
                try:
                    flight.resume()
                except HardwareError:
                    self._contact.broken = True
                return
            self._begin_again(hello)
        except HardwareError as exc:
            self._give_up(exc)

    def _begin_again(self, hello: Hello) -> None:
        """The session is gone, and with it what is known of unanswered requests."""
        left = self._unanswered()
        self._end()
        unknown = self._unknown(left, "the session was lost" if hello.nonce == self.hello.nonce else "the board rebooted")
        if unknown is not None:
            self._fail(unknown)
        else:
            again = [request.fresh() for request in (*self._redo, *left)]
            self._redo = []
            self._backlog.extendleft(reversed(again))
            if any(request.tries > TRIES for request in again):
                raise HardwareError(f"{self._port.address}: the board reboots again and again: check its power")
        waiting = len(self._backlog)
        self._begin(hello)
        if any(request.pulses for request in self._backlog) and self._arm is not None:
            self._backlog.insert(len(self._backlog) - waiting, self._arming(self._arm))

    def _give_up(self, exc: HardwareError) -> None:
        """The board cannot be had: nothing is in flight any more, and there is no session."""
        left = self._unanswered()
        self._end()
        if left or self._backlog or self._redo:
            self._fail(self._unknown(left, f"the board was lost ({exc})") or exc)
        self._gone = self._contact.broken = True
        self._stuck = 0

    def _unanswered(self) -> list[Request]:
        """Requests in flight without an answer whose callers wait for one; the others are settled, out of order or not."""
        requests = () if self._flight is None else self._flight.requests
        for request in requests:
            if request.done:
                self._resolve(request)
        return [request for request in requests if not request.done and not request.abandoned]

    def _unknown(self, left: list[Request], why: str) -> PulseOutcomeUnknown | None:
        """The failure that unanswered pulses are; None where there are none."""
        lost = [request.kind.name.lower() for request in left if request.pulses]
        if not lost:
            return None
        what = f"{why} with {len(lost)} unanswered ({', '.join(lost)})"
        return PulseOutcomeUnknown(f"{self._port.address}: {what}: re-read those cells, nothing is sent again")
