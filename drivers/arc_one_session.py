"""A session with an ArC ONE: what is done when an answer is lost, and how posted pulses are proven to have arrived."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from drivers.arc_one_settings import ArcOneSettings
from drivers.arc_one_wire import ArcOneWire, Link, fixed, init_arguments, masked_read, pulse_read, read_mode
from hil.errors import HardwareError, PulseOutcomeUnknown

__all__ = ["ArcOneSession"]

_TRY_AGAIN_S = 0.1


class ArcOneSession:
    """Reads and pulses of a board that may lose its way; opens the session at once, HardwareError where nothing answers.

    Cells are (row, col), counted from 0. Attributes: firmware; requests, recoveries: how many there were.
    """

    def __init__(
        self,
        settings: ArcOneSettings,
        link: Link,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings, self._link, self._now, self._sleep = settings, link, now, sleep
        self._wire = ArcOneWire(link, settings.gap_s, settings.reset_s, settings.timeout_s, now, sleep)
        self._read_v = ""
        self._posted, self._last = 0, (0, 0)
        self.recoveries = 0
        self._start()
        self.firmware = self._wire.firmware()

    @property
    def requests(self) -> int:
        """Requests sent."""
        return self._wire.requests

    def settle(self) -> None:
        """The barrier: pulses posted so far met a board in step, or PulseOutcomeUnknown."""
        if self._posted:
            try:
                if not self._wire.in_step:
                    raise HardwareError(f"{self._link.address}: a request was broken off")
                self._wire.floats(1, masked_read([self._last]))
            except HardwareError as exc:
                self._lose(exc)
            self._posted = 0
        elif not self._wire.in_step:
            self._recover()

    def reading(self, count: int, arguments: Sequence[str], read_v: float) -> NDArray[np.float64]:
        """So many floats in answer to a request that only reads at ``read_v``, volt; asked for once more if it is lost."""
        self.settle()
        try:
            return self._ask(count, arguments, read_v)
        except HardwareError:
            self._recover()
            return self._ask(count, arguments, read_v)

    def answered(self, count: int, arguments: Sequence[str], width_s: float, pulses: int) -> NDArray[np.float64]:
        """So many floats in answer to a request that pulses so many cells; PulseOutcomeUnknown if it is lost."""
        self.settle()
        try:
            return self._ask(count, arguments, self._settings.read_v, width_s)
        except HardwareError as exc:
            self._lose(exc, pulses)

    def pulse_cell(self, cell: tuple[int, int], count: int, volts: float, width_s: float) -> None:
        """Lone pulses: posted, or each with the reading that ``acknowledge`` asks for."""
        if self._settings.acknowledge:
            for _ in range(count):
                self.answered(1, pulse_read(*cell, volts, width_s), width_s, 1)
            return
        if not self._wire.in_step:
            self.settle()
        self._last = cell
        try:
            self._wire.post(["02", str(cell[0] + 1), str(cell[1] + 1)])
            for _ in range(count):
                self._posted += 1
                self._wire.post(["04", fixed(volts), fixed(width_s)], busy_s=width_s)
        except HardwareError as exc:
            self._lose(exc)

    def rest(self) -> bool:
        """Reset the board and start a session, whether it was in step or not; returns whether it answered.

        PulseOutcomeUnknown, after that, where pulses were posted to a board that proved not to be in step.
        """
        if self._posted:
            try:
                self.settle()
            except PulseOutcomeUnknown:
                # The board was reset on the way, if it could be; only one that could not is tried again.
                if not self._wire.in_step:
                    self._recovered()
                raise
        try:
            self._start()
            self._identify()
        except HardwareError:
            return self._recovered()
        return True

    def _start(self) -> None:
        s = self._settings
        self._read_v = ""
        self._wire.reset()
        self._wire.init(init_arguments(s.read_cycles, s.words, s.bits, s.session, s.sneak, s.read_v))
        self._set_read_v(s.read_v)

    def _identify(self) -> None:
        """HardwareError where another board answers; one whose version is not known is not asked again."""
        firmware = None if self.firmware is None else self._wire.firmware()
        if firmware != self.firmware:
            self._wire.in_step = False
            raise HardwareError(f"{self._link.address}: firmware {firmware}, was {self.firmware}: connect the same board")

    def _set_read_v(self, read_v: float) -> None:
        """Voltage of the readings that follow, and with its sign their mode."""
        if fixed(read_v) != self._read_v:
            self._wire.post(["01", read_mode(read_v), fixed(read_v)])
            self._read_v = fixed(read_v)

    def _ask(self, count: int, arguments: Sequence[str], read_v: float, busy_s: float = 0.0) -> NDArray[np.float64]:
        self._set_read_v(read_v)
        return self._wire.floats(count, arguments, busy_s)

    def _recover(self) -> None:
        """Open the port anew and bring the board in step; HardwareError where that takes longer than ``reopen_s``."""
        self.recoveries += 1
        self._wire.in_step = False
        until_s = self._now() + self._settings.reopen_s
        while True:
            try:
                self._link.reopen()
                self._start()
                self._identify()
                return
            except HardwareError:
                if self._now() >= until_s:
                    raise
            self._sleep(_TRY_AGAIN_S)

    def _recovered(self) -> bool:
        try:
            self._recover()
        except HardwareError:
            return False
        return True

    def _lose(self, why: HardwareError, more: int = 0) -> NoReturn:
        """Bring the board in step if that can be done; nobody knows of what was posted, and of ``more`` pulses."""
        count, self._posted = self._posted + more, 0
        self._recovered()
        told = str(why).split(": check", maxsplit=1)[0]
        raise PulseOutcomeUnknown(
            f"{told}: {count} pulses may or may not have been applied: read their cells again"
        ) from why
