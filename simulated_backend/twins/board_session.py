"""A host's session with the twin board: its limits, whether it may pulse, and the replies kept for it."""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field

from hil.wire import Code
from hil.wire_session import Arm

__all__ = ["Arming", "Session"]


class Arming(enum.Enum):
    """Whether the board may pulse; the value is what a pulse is refused with."""

    ARMED = None
    DISARMED = Code.DISARMED
    TRIPPED = Code.WATCHDOG


@dataclass
class Session:
    """A host's session."""

    number: int
    host: str
    heard_s: float
    """When its last frame came."""
    last: int = 0
    """Sequence of the request executed last."""
    replies: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    """Kept replies, whole frames by sequence."""
    failed: bool = False
    """Whether POSTED requests are skipped."""
    arm: Arm | None = None
    arming: Arming = Arming.DISARMED

    def keep(self, sequence: int, reply: bytes, most: int) -> None:
        """The request was executed; its reply is kept, with at most ``most`` of them in all."""
        self.last = sequence
        self.replies[sequence] = reply
        if len(self.replies) > most:
            self.replies.popitem(last=False)
