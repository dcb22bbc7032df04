"""Finding a board of the open crossbar protocol and getting a session: HELLO and OPEN, the requests without sequence."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from drivers.crossbar_port import CrossbarPort
from hil.errors import HardwareError
from hil.wire import DELIMITER, VERSION, BadFrame, Code, Flag, Frame, Kind
from hil.wire_session import ErrorReply, Hello, Opened

__all__ = ["Contact", "Patience", "Rebooted"]

_PAUSE_S = 0.05
"""Between two attempts to open a link that is gone."""


@dataclass(frozen=True)
class Patience:
    """How long the host waits, second; and by what clock."""

    reply_s: float = 0.5
    """For a reply, beside the time that the request takes; then the request is sent again."""
    link_s: float = 10.0
    """For a board that was unplugged or says nothing; then the call fails."""
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    draw: Callable[[], int] = lambda: secrets.randbits(32)
    """Random u32: session numbers."""


class Rebooted(Exception):
    """The board has another nonce than it had a moment ago."""


class Contact:
    """Asks until it is answered. host: who a second host is told to have the board.

    Attributes: broken, whether the link has to be opened anew before the next byte.
    """

    def __init__(self, port: CrossbarPort, host: str, patience: Patience) -> None:
        self.broken = False
        self._port, self._host, self._patience = port, host, patience
        self._token = patience.draw()

    def hello(self, within_s: float) -> Hello:
        """What the board says of itself; HardwareError where it says nothing for so long, or speaks another version."""
        reply = self._ask(Kind.HELLO, bytes([VERSION]), 0, within_s)
        address = self._port.address
        if reply.flags & Flag.ERROR or reply.version != VERSION:
            raise HardwareError(f"{address}: it does not speak version {VERSION} of the protocol: update its firmware")
        try:
            hello = Hello.unpack(reply.body)
        except BadFrame as exc:
            raise HardwareError(f"{address}: the board's HELLO is not understood ({exc}): update its firmware") from exc
        if min(hello.rows, hello.cols, hello.window) < 1 or not 0 < hello.watchdog_s < 1e6:
            raise HardwareError(f"{address}: a board without rows, cols, window or watchdog: correct its firmware")
        return hello

    def open(self, hello: Hello) -> tuple[int, int]:
        """A new session and how many requests it may begin with; waits for the watchdog of a host that is gone.

        HardwareError where another host has the board and is alive; Rebooted where the nonce no longer fits.
        """
        clock, address = self._patience.clock, self._port.address
        session = self._patience.draw() or 1
        deadline = clock() + 1.2 * hello.watchdog_s + self._patience.reply_s
        while True:
            body = Opened(session, self._host).pack()
            reply = self._ask(Kind.OPEN, body, hello.nonce, self._patience.link_s)
            if not reply.flags & Flag.ERROR:
                return session, reply.credits
            try:
                error = ErrorReply.unpack(reply.body)
            except BadFrame as exc:
                raise HardwareError(f"{address}: an error that is not understood ({exc}): update its firmware") from exc
            said = " ".join(error.message.split())
            if error.code == Code.NONCE:
                raise Rebooted
            if error.code == Code.SESSION and clock() < deadline:
                session = self._patience.draw() or 1
                continue
            if error.code != Code.BUSY:
                raise HardwareError(f"{address}: the board opens no session (code {error.code}, {said}): look at the board")
            if clock() >= deadline:
                raise HardwareError(f"{address}: another host has this board ({said}): wait for it or stop it")
            self._patience.pause(hello.watchdog_s / 5)

    def _ask(self, kind: Kind, body: bytes, nonce: int, within_s: float) -> Frame:
        """The reply to a request without session, which is sent again until it comes."""
        clock, fault = self._patience.clock, None
        deadline = clock() + within_s
        self._token = (self._token + 1) % 2**32
        # The delimiter in front ends whatever the board has got of a frame that was cut off.
        data = DELIMITER + Frame(kind, body, nonce=nonce, sequence=self._token).encode()
        while True:
            try:
                if self.broken:
                    self._port.reopen()
                    self.broken = False
                self._port.write(data)
                again = clock() + self._patience.reply_s
                while (left := again - clock()) > 0:
                    for frame in self._port.frames(left):
                        if frame.kind == kind and frame.flags & Flag.REPLY and frame.sequence == self._token:
                            return frame
            except HardwareError as exc:
                self.broken, fault = True, exc
                self._patience.pause(_PAUSE_S)
            if clock() >= deadline:
                why = f" ({fault})" if fault is not None else ""
                what = f"{self._port.address}: no answer to {kind.name} for {within_s:g} s{why}"
                raise HardwareError(f"{what}: check power, cable, address and baud rate") from fault
