"""What the twin board counts: for its STATUS since it booted, and for whoever wants to prove what it did."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from hil.wire import Frame, Kind
from simulated_backend.twins.faults import FaultPanel

__all__ = ["Tally"]


class Tally:
    """Counters of a board, on the fault panel too.

    since_boot: those of ``hil.wire_session.Status``, by its names.
    """

    def __init__(self, panel: FaultPanel) -> None:
        self._panel = panel
        self._sessions: dict[str, int] = {}
        self._hash = hashlib.blake2b(digest_size=16)
        self.boot()

    def boot(self) -> None:
        """The board starts anew; what it did stays in ``executed``."""
        self.since_boot = {"operations": 0, "bad_frames": 0, "resent": 0, "trips": 0}

    def bad_frame(self) -> None:
        """Bytes that are no frame."""
        self._count("bad_frames", "rejected.frame")

    def resent(self) -> None:
        """A request that was executed before."""
        self._count("resent", "resent")

    def trip(self) -> None:
        """The watchdog has grounded the array."""
        self._count("trips", "trips")

    def execute(self, frame: Frame) -> None:
        """A request in its turn, before it is executed: what a reboot cuts short was executed too."""
        name = Kind(frame.kind).name if frame.kind in _KINDS else "unknown"
        self._count("operations", f"executed.{name}")
        key = f"{frame.session:08x}"
        self._sessions[key] = self._sessions.get(key, 0) + 1
        self._hash.update(struct.pack("<II", frame.session, frame.sequence))

    def executed(self) -> dict[str, Any]:
        """How many requests were executed, by session too, and a hash over (session, sequence) of each in turn."""
        return {"count": sum(self._sessions.values()), "hash": self._hash.hexdigest(), "sessions": dict(self._sessions)}

    def _count(self, name: str, on_panel: str) -> None:
        self.since_boot[name] += 1
        self._panel.count(on_panel)


_KINDS = frozenset(int(kind) for kind in Kind)
