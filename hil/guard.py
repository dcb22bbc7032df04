"""The guard: the only way from a tile or procedure to a backend.

In front of a **physical** board every operation is checked, counted and recorded before the driver sees it
(``hil.physical_guard``); in front of the **emulator** a pulse shape is checked once and every verb goes straight through
(``hil.emulated_guard``). Either passes on the companion protocols that its backend has and no others.
"""

from __future__ import annotations

from hil.backend import ArrayBackend
from hil.emulated_guard import EmulatedGuard
from hil.ledger import Ledger
from hil.limits import Limits
from hil.physical_guard import UNKNOWN_IN_A_ROW, PhysicalGuard
from hil.wear import Wear

__all__ = ["UNKNOWN_IN_A_ROW", "EmulatedGuard", "Guard", "PhysicalGuard", "guard"]

Guard = PhysicalGuard | EmulatedGuard
"""Either guard: an ArrayBackend in front of another, its ``inner``."""


def guard(
    backend: ArrayBackend,
    limits: Limits | None = None,
    ledger: Ledger | None = None,
    board_name: str = "main",
    wear: Wear | None = None,
) -> Guard:
    """The guard that fits a backend.

    limits: None = none given, then a physical board refuses to pulse. ledger: where a physical board's operations are
    recorded; without one it refuses to pulse. wear: its lifetime counters; None = count from zero, in memory.
    Raises UsageError where the limits exclude a cell that the board does not have.
    """
    if backend.info.physical:
        return PhysicalGuard(backend, limits, ledger, board_name, Wear.in_memory() if wear is None else wear)
    return EmulatedGuard(backend, limits, board_name)
