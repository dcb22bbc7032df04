"""Requests in flight in one session of the open crossbar protocol: go-back-N.

Answers come in the order of the requests. What is not answered in time is sent again, the same bytes with the same
sequence, so that the board recognises it; a gap, or an answer that overtakes another, brings that forward.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import islice

from drivers.crossbar_contact import Patience
from drivers.crossbar_port import CrossbarPort
from drivers.crossbar_request import Request
from hil.errors import HardwareError
from hil.wire import BadFrame, Code, Flag, Frame, Kind
from hil.wire_session import ErrorReply, Hello

__all__ = ["Flight"]

_BYTES = 32768
"""More than one request in flight only up to this many bytes, replies included: two full pipes would wait for each other."""
_LAST = 2**32 - 2**10
"""Of the sequence, but for what is in flight."""
_SLOWEST = 8.0
"""Largest factor by which time-outs in a row lengthen the next one."""


class Flight:
    """The window of a session. room: requests that it may begin with; byte_s: time of a byte on the wire, second.

    Attributes: lost, whether the board said that it has rebooted or knows no such session.
    """

    def __init__(self, port: CrossbarPort, patience: Patience, hello: Hello, session: int, room: int, byte_s: float) -> None:
        self.lost = False
        self._port, self._patience, self._byte_s = port, patience, byte_s
        self._nonce, self._window, self._session = hello.nonce, hello.window, session
        self._out: deque[Request] = deque()
        self._next, self._limit = 1, room
        self._bytes = 0
        self._due_s = self._since_s = 0.0
        self._backoff = 1.0

    def __bool__(self) -> bool:
        return bool(self._out)

    @property
    def requests(self) -> tuple[Request, ...]:
        """What was sent and is not settled, oldest first."""
        return tuple(self._out)

    @property
    def free(self) -> bool:
        """Whether one more may be sent; with nothing in flight it always may."""
        if not self._out:
            return True
        return len(self._out) < self._window and self._bytes <= _BYTES and self._out[-1].sequence < self._limit

    @property
    def spent(self) -> bool:
        """Whether its sequence comes to an end: a new session is due."""
        return self._next > _LAST

    def bare(self, kind: Kind) -> bytes:
        """The bytes of a request without sequence and body."""
        return Frame(kind, nonce=self._nonce, session=self._session).encode()

    def send(self, request: Request, flags: Flag) -> None:
        """Send a request for the first time; in flight it is also where HardwareError says that the link is lost."""
        # Nothing is counted beside the queue itself: a signal between two lines must not leave a gap in the sequence.
        request.sequence = self._out[-1].sequence + 1 if self._out else self._next
        frame = Frame(request.kind, request.body, flags, 0, self._nonce, self._session, request.sequence)
        request.frame = frame.encode()
        self._out.append(request)
        self._bytes += len(request.frame) + request.answer_bytes
        if len(self._out) == 1:
            self._start()
        self._port.write(request.frame)

    def listen(self) -> None:
        """Take what comes until something is answered, or the time of the oldest request is over: then resend.

        HardwareError where the link is lost, or the board has answered nothing for too long.
        """
        frames = self._port.frames(max(0.0, self._due_s - self._patience.clock()))
        answered = [self._take(frame) for frame in frames]
        if not any(answered) and self._patience.clock() >= self._due_s:
            self._overdue()

    def settled(self) -> Request | None:
        """The oldest request, if it is answered; it is in flight no more."""
        if not self._out or not self._out[0].done:
            return None
        request = self._out[0]
        self._next = request.sequence + 1
        self._out.popleft()
        self._bytes -= len(request.frame) + request.answer_bytes
        self._backoff = 1.0
        if self._out:
            self._start()
        return request

    def resume(self) -> None:
        """The link was lost and is back: send everything again that is not answered."""
        if self._out:
            self._start()
            self._resend(len(self._out))

    def _start(self) -> None:
        """From now on the oldest request is waited for."""
        self._since_s = self._patience.clock()
        self._wait()

    def _wait(self) -> None:
        oldest = self._out[0]
        self._due_s = self._patience.clock() + self._backoff * (self._patience.reply_s + self._lasts(oldest))

    def _lasts(self, request: Request) -> float:
        return request.lasts_s + (len(request.frame) + request.answer_bytes) * self._byte_s

    def _take(self, frame: Frame) -> bool:
        """Whether the frame answers one of the requests in flight; anything else is stale and means nothing."""
        if not self._out or not frame.flags & Flag.REPLY or frame.session != self._session:
            return False
        place = frame.sequence - self._out[0].sequence
        if not 0 <= place < len(self._out):
            return False
        request, error = self._out[place], None
        if request.done or frame.kind != request.kind:
            return False
        if frame.flags & Flag.ERROR:
            try:
                error = ErrorReply.unpack(frame.body)
            except BadFrame:
                return False
        if frame.nonce != self._nonce:
            self.lost = self.lost or (error is not None and error.code == Code.NONCE)
            return False
        if error is not None and error.code == Code.SESSION:
            if request.kind != Kind.CLOSE:
                self.lost = True
                return False
            # A CLOSE that was sent again: it was done.
            error, frame = None, replace(frame, body=b"")
        if error is not None and error.code == Code.GAP:
            if self._out[0].sequence <= error.operation <= self._out[-1].sequence:
                self._go_back(len(self._out))
            return False
        if error is None:
            request.reply = frame.body
        else:
            request.error = error
        self._limit = frame.sequence + frame.credits
        if not self._out[0].done:
            self._go_back(place)
        return True

    def _go_back(self, first: int) -> None:
        """The oldest request, or its answer, was lost: send the ``first`` ones again, but once; then its time decides."""
        if not self._out[0].hinted:
            self._out[0].hinted = True
            self._wait()
            self._resend(first)

    def _overdue(self) -> None:
        oldest = self._out[0]
        waited_s = self._patience.clock() - self._since_s
        if waited_s > self._patience.link_s + 2 * self._lasts(oldest):
            verb = oldest.kind.name.lower()
            raise HardwareError(f"{self._port.address}: no answer to {verb} for {waited_s:.1f} s: look at the board")
        oldest.hinted = False
        self._backoff = min(_SLOWEST, 2 * self._backoff)
        self._wait()
        self._resend(len(self._out))

    def _resend(self, first: int) -> None:
        """Send again what is not answered of the ``first`` requests in flight."""
        left = [request.frame for request in islice(self._out, first) if not request.done]
        self._port.resent += len(left)
        self._port.write(b"".join(left))
