"""The fault panel: what goes wrong on a twin's wire and in its device, set in its settings or while it runs."""

from __future__ import annotations

import random
import threading
from typing import Any

from simulated_backend.twins.settings import FaultSettings

__all__ = ["FaultPanel"]


class FaultPanel:
    """Rates of link faults, one-time orders for the device, and the counters of what happened. Thread-safe.

    Orders are words with a number, taken once by whoever obeys: ``unplug`` and ``freeze`` (seconds) by the link; a
    device documents its own (``reboot`` after so many pulses, ``open_interlock``, ...).
    """

    def __init__(self, settings: FaultSettings) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(settings.seed)
        self._rates = settings
        self._orders: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        """What happened, by name: link faults done, units received, and whatever the device counts."""

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self.counts[name] = self.counts.get(name, 0) + by

    def set_rates(self, changes: dict[str, Any]) -> None:
        """Change rates; ValueError for a name or value that ``FaultSettings`` does not take."""
        changed = FaultSettings.model_validate({**self._rates.model_dump(), **changes})
        with self._lock:
            if changed.seed != self._rates.seed:
                self._random = random.Random(changed.seed)
            self._rates = changed

    def order(self, name: str, value: float) -> None:
        """Ask for something to happen once."""
        with self._lock:
            self._orders[name] = value

    def take(self, name: str) -> float | None:
        """The value of an order, which is then gone; None where there is none."""
        if not self._orders:
            return None
        with self._lock:
            return self._orders.pop(name, None)

    def pending(self, name: str) -> float | None:
        """The value of an order, which stays."""
        return self._orders.get(name)

    def through(self, unit: bytes) -> tuple[list[bytes], float]:
        """What arrives of one unit (none, one or two copies, maybe with a flipped bit), and how much later, second."""
        rates = self._rates
        if not (rates.drop or rates.corrupt or rates.duplicate or rates.delay):
            return [unit], 0.0
        with self._lock:
            draw = [self._random.random() for _ in range(4)]
            where, bit = self._random.randrange(max(1, len(unit))), self._random.randrange(8)
        if draw[0] < rates.drop:
            self.count("dropped")
            return [], 0.0
        if draw[1] < rates.corrupt and unit:
            self.count("corrupted")
            unit = unit[:where] + bytes([unit[where] ^ (1 << bit)]) + unit[where + 1 :]
        copies = [unit]
        if draw[2] < rates.duplicate:
            self.count("duplicated")
            copies = [unit, unit]
        if draw[3] < rates.delay:
            self.count("delayed")
            return copies, rates.delay_s
        return copies, 0.0
