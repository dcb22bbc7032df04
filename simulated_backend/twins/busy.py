"""Time in which at least one of several things was at work: intervals that overlap count once."""

from __future__ import annotations

import threading

__all__ = ["Busy"]

_MANY = 4096
_SETTLED_S = 5.0
"""Nobody tells of an interval this long after it ended."""


class Busy:
    """Adds up intervals of ``time.monotonic``, told in any order, within seconds of their end; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: list[tuple[float, float]] = []
        self._over_s = 0.0
        self._many = _MANY

    def add(self, begin_s: float, end_s: float) -> None:
        """Something was, or will be, at work from ``begin_s`` to ``end_s``."""
        if end_s > begin_s:
            with self._lock:
                self._told.append((begin_s, end_s))
                if len(self._told) > self._many:
                    self._fold()

    def seconds(self) -> float:
        """Total length of what was told, overlaps once."""
        with self._lock:
            return self._over_s + sum(end - begin for begin, end in self._merged())

    def _merged(self) -> list[tuple[float, float]]:
        merged: list[tuple[float, float]] = []
        for begin, end in sorted(self._told):
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        return merged

    def _fold(self) -> None:
        """What is long past needs no list."""
        merged = self._merged()
        settled = merged[-1][1] - _SETTLED_S
        self._over_s += sum(end - begin for begin, end in merged if end < settled)
        self._told = [(begin, end) for begin, end in merged if end >= settled]
        # Where much is recent, folding again at once would change nothing.
        self._many = len(self._told) + _MANY
