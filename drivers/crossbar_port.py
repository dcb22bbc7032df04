"""Frames of the open crossbar protocol over a stream of bytes, and the heartbeat that keeps a board's watchdog quiet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from hil.errors import HardwareError
from hil.wire import BadFrame, Frame, Splitter

__all__ = ["CrossbarPort", "Line"]


class Line(Protocol):
    """A stream of bytes: ``drivers.links.byte_link.ByteLink``. HardwareError for every fault of it."""

    address: str

    def write(self, data: bytes) -> None: ...

    def read(self, timeout_s: float) -> bytes: ...

    def reopen(self) -> None: ...

    def close(self) -> None: ...


class CrossbarPort:
    """Both threads, that of the caller and the heartbeat's, write here; only the caller's reads.

    Attributes: beat, the frame to send when nothing else was sent for ``beat_s``, None = none; bytes_out, bytes_in,
    bad_frames (pieces that were no frame), heartbeats, resent (requests sent again): counters.
    """

    def __init__(self, line: Line, clock: Callable[[], float] = time.monotonic) -> None:
        self.address = line.address
        self.beat: bytes | None = None
        self.beat_s = 1.0
        self.bytes_out = self.bytes_in = self.bad_frames = self.heartbeats = self.resent = 0
        self._line, self._clock = line, clock
        self._splitter = Splitter()
        self._lock = threading.Lock()
        self._sent_s = clock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self, data: bytes) -> None:
        """Send all of it; HardwareError where the link is lost."""
        with self._lock:
            self._write(data)

    def _write(self, data: bytes) -> None:
        self._line.write(data)
        self._sent_s = self._clock()
        self.bytes_out += len(data)

    def frames(self, timeout_s: float) -> list[Frame]:
        """What came: frames that hold every check, maybe none; waits ``timeout_s`` at most for the first byte."""
        data = self._line.read(timeout_s)
        self.bytes_in += len(data)
        found = []
        for unit in self._splitter.feed(data):
            try:
                found.append(Frame.decode(unit))
            except BadFrame:
                self.bad_frames += 1
        return found

    def reopen(self) -> None:
        """Open the link anew; HardwareError while it is not there."""
        with self._lock:
            self._splitter.reset()
            self._line.reopen()

    def start(self) -> None:
        """Start the heartbeat."""
        self._thread = threading.Thread(target=self._beat_on, daemon=True, name=f"heartbeat {self.address}")
        self._thread.start()

    def _beat_on(self) -> None:
        while not self._stop.wait(max(self.beat_s - (self._clock() - self._sent_s), self.beat_s / 10)):
            self.pulse_watchdog()

    def pulse_watchdog(self) -> None:
        """Send ``beat`` if it is time; a lost link is left to the next request, which can do something about it."""
        with self._lock, suppress(HardwareError):
            if self.beat is not None and self._clock() - self._sent_s >= self.beat_s:
                self._write(self.beat)
                self.heartbeats += 1

    def close(self) -> None:
        """Stop the heartbeat and let go of the link; may be called twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._line.close()
