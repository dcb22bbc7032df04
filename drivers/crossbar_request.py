"""A request of the open crossbar protocol as the host sees it, and what a board's refusals mean to the caller."""

from __future__ import annotations

from dataclasses import dataclass

from hil.errors import HardwareError, HilError, LimitError, PulseOutcomeUnknown
from hil.wire import Code, Kind
from hil.wire_session import ErrorReply

__all__ = ["NOT_DONE", "Request", "fault"]

NOT_DONE = (Code.WATCHDOG, Code.SKIPPED)
"""Refusals that may be asked again, as new requests: nothing was done, and nothing is wrong with the request."""

_REFUSED = {
    Code.LIMIT: "change the pulse, or limits of the bench file",
    Code.UNABLE: "stay inside what the board can do",
    Code.DISARMED: "add [boards.*.limits] to the bench file",
}
_FAULTS = {
    Code.INTERLOCK: "close the interlock and read the cells again",
    Code.ABORTED: "read the cells again",
    Code.HARDWARE: "look at the board",
}


@dataclass(slots=True)
class Request:
    """What is asked of a board. The session fills in the fields below ``posted``."""

    kind: Kind
    body: bytes = b""
    pulses: bool = False
    """Whether executing it twice would do harm."""
    posted: bool = False
    """Whether its caller went on without waiting for it."""
    first: int = 0
    """Number of its first operation in the call that it is a part of."""
    lasts_s: float = 0.0
    """About how long the board needs for it, second."""
    answer_bytes: int = 0
    """Length of the body of its reply."""
    sequence: int = 0
    frame: bytes = b""
    reply: bytes | None = None
    error: ErrorReply | None = None
    tries: int = 0
    """How often it was sent as a new request."""
    settled: bool = False
    """Whether it and all before it were answered, and nothing of it is to be done again."""
    hinted: bool = False
    """Whether it was sent again because of a gap, since the last time-out."""
    abandoned: bool = False
    """Whether its caller has left: its outcome is nobody's business any more, and it is not sent as a new request."""

    @property
    def done(self) -> bool:
        """Whether it was answered."""
        return self.reply is not None or self.error is not None

    def fresh(self) -> Request:
        """The same, to be sent as a new request."""
        self.reply, self.error, self.frame, self.hinted, self.settled = None, None, b"", False, False
        self.tries += 1
        return self


def fault(request: Request, error: ErrorReply, address: str) -> HilError:
    """The exception for a refusal that ends the call."""
    said = " ".join(error.message.split()) or "no reason given"
    verb = request.kind.name.lower()
    try:
        code = Code(error.code)
    except ValueError:
        return HardwareError(f"{address}: {verb} refused with unknown code {error.code} ({said}): update this driver")
    if code in _REFUSED:
        return LimitError(f"{address}: {verb} refused by the board, {code.name} ({said}): {_REFUSED[code]}")
    if code in _FAULTS:
        where = f"operation {request.first + error.operation}, {error.pulses} pulses applied"
        return HardwareError(f"{address}: {verb} failed at {where}, {code.name} ({said}): {_FAULTS[code]}")
    if code is Code.GONE and request.pulses:
        what = f"{verb} was done, and the board no longer knows how it ended"
        return PulseOutcomeUnknown(f"{address}: {what}: re-read those cells, it is not sent again")
    return HardwareError(f"{address}: {verb} refused by the board, {code.name} ({said}): firmware and driver do not agree")
