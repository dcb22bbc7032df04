"""Device time: what the instrument would have needed, waited for only as far as asked."""

from __future__ import annotations

import time

from simulated_backend.twins.busy import Busy

__all__ = ["SPIN_S", "DeviceClock", "wait_until"]

SPIN_S = 150e-6
"""A sleep overshoots by about this much, so the rest is spun."""


def wait_until(deadline_s: float) -> None:
    """Return at ``deadline_s`` of ``time.monotonic``, a few microseconds late at most on an idle machine."""
    while (left := deadline_s - time.monotonic()) > 0:
        if left > SPIN_S:
            time.sleep(left - SPIN_S)


class DeviceClock:
    """Adds up device time. time_scale: real seconds for a device second (0 = never wait)."""

    def __init__(self, time_scale: float) -> None:
        self.time_scale = time_scale
        self.device_s = 0.0
        """All device time so far, second."""
        self.late_s = 0.0
        """Real time that the emulation took beyond the device time that it stands for; only with time_scale > 0."""
        self.busy = Busy()
        """When the device, or a wire to it, was at work; only with time_scale > 0, or a wire that takes time."""
        self._began_s = time.monotonic()
        self._owed_s = 0.0

    def begin(self) -> None:
        """An operation starts now: what is computed from here on hides in its device time."""
        self._began_s = time.monotonic()
        self._owed_s = 0.0

    def spend(self, seconds: float) -> None:
        """The operation takes the device so long, second >= 0."""
        self.device_s += seconds
        self._owed_s += seconds * self.time_scale

    @property
    def due_s(self) -> float:
        """When the device time of the operation has passed, by ``time.monotonic``."""
        return self._began_s + self._owed_s

    def settle(self) -> None:
        """Wait until the device time of the operation has passed; called before every reply."""
        if self.time_scale <= 0:
            return
        deadline = self.due_s
        self.late_s += max(0.0, time.monotonic() - deadline)
        self.busy.add(self._began_s, deadline)
        wait_until(deadline)
        self.begin()
