"""A twin that is being served: its links, clock, faults, and what only it knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel
from simulated_backend.twins.wire import Port

__all__ = ["RunningTwin"]


@dataclass(frozen=True)
class RunningTwin:
    """A twin that is being served."""

    ports: Mapping[str, Port]
    """By link name; ``main`` where there is one."""
    panel: FaultPanel
    clock: DeviceClock
    orders: Mapping[str, str] = field(default_factory=dict)
    """Orders that this device obeys beside the link's own, with what they do."""
    truth: Callable[[], dict[str, Any]] = dict
    """What only the twin knows: true device parameters and states, as plain numbers and lists."""

    @property
    def links(self) -> dict[str, str]:
        """Addresses by link name."""
        return {name: port.address for name, port in self.ports.items()}

    def report(self) -> dict[str, Any]:
        """Counters and times so far."""
        return {
            "counts": dict(self.panel.counts),
            "device_s": self.clock.device_s,
            "late_s": self.clock.late_s,
            "wire_s": sum(port.wire_s for port in self.ports.values()),
            "busy_s": self.clock.busy.seconds(),
        }
