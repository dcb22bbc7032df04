"""The device time of the twin board, and what may stop it in the middle of a request."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hil.wire import Code
from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel

__all__ = ["ORDERS", "Pace", "Rebooted", "Stop"]

ORDERS = {
    "close_interlock": "any number: pulses and reads are possible again",
    "open_interlock": "pulses of cells still applied before the interlock opens; 0 = now",
    "reboot": "pulses of cells still applied before the board reboots; the request under way is not answered; 0 = now",
}
_SLICE_S = 0.02
"""How often a long request looks whether it is to stop, real second."""


class Rebooted(Exception):
    """The board starts anew: nobody answers the request under way."""


@dataclass(frozen=True)
class Stop:
    """Why a request ended early; code None: a reboot."""

    code: Code | None
    message: str


_STOPS = {
    "open_interlock": Stop(Code.INTERLOCK, "the interlock was opened"),
    "reboot": Stop(None, "the board rebooted"),
}


class Pace:
    """Lets the device time of a request pass, and says how many of its pulses came before something stopped it.

    interrupted: says why the host (or its silence) stops the board, None while it does not.
    """

    def __init__(self, clock: DeviceClock, panel: FaultPanel, interrupted: Callable[[], Stop | None]) -> None:
        self._clock, self._panel, self._interrupted = clock, panel, interrupted
        self._after: dict[str, int] = {}
        self.interlock_open = False

    def idle(self) -> None:
        """Between two requests: obey what is due; raises Rebooted."""
        self._take_orders(0)
        if (due := self._due(0, 0)) is not None:
            self._stopped(*due)
            if due[1].code is None:
                raise Rebooted

    def spend(self, seconds: float, pulses: int) -> tuple[int, Stop | None]:
        """Pulses of ``pulses`` that came in ``seconds`` of device time, and what stopped it, if anything did.

        Only what takes long is waited for here, so that a stop can come; the rest is waited for with the reply, behind
        what the emulation has to compute meanwhile.
        """
        self._take_orders(0)
        left, scale = seconds, self._clock.time_scale
        while left * scale > 2 * _SLICE_S:
            part = _SLICE_S / scale
            self._clock.spend(part)
            self._clock.settle()
            left -= part
            done = math.floor(pulses * (1 - left / seconds))
            self._take_orders(done)
            if (due := self._due(done, done)) is not None:
                return self._stopped(*due)
            if (stop := self._interrupted()) is not None:
                return self._stopped(done, stop)
        # An interlock that opens behind the last pulse stops the next request; a reboot there loses this reply.
        done, last = self._due(pulses, pulses - 1) or (pulses, None)
        self._clock.spend(left * done / pulses if pulses else left)
        return self._stopped(done, last)

    def _take_orders(self, done: int) -> None:
        for name in _STOPS:
            if (value := self._panel.take(name)) is not None:
                self._after[name] = done + max(0, int(value))
        if self._panel.take("close_interlock") is not None:
            self._after.pop("open_interlock", None)
            self.interlock_open = False

    def _due(self, reboot_by: int, interlock_by: int) -> tuple[int, Stop] | None:
        """The first order that is due by these numbers of pulses, and its number."""
        by = {"reboot": reboot_by, "open_interlock": interlock_by}
        due = [(after, name) for name, after in self._after.items() if after <= by[name]]
        if not due:
            return None
        after, name = min(due)
        return after, _STOPS[name]

    def _stopped(self, done: int, stop: Stop | None) -> tuple[int, Stop | None]:
        """The same, after what it means for the board and for orders to come."""
        self._after = {name: max(0, after - done) for name, after in self._after.items() if _STOPS[name] is not stop}
        if stop is _STOPS["open_interlock"]:
            self.interlock_open = True
        return done, stop
