"""The twin of an ArC TWO: serves the calls of ``simulated_backend.twins.pyarc2_stand_in`` over TCP.

The instrument's real wire is its vendor's own (USB 3, closed at the lower end), so the twin stands in one layer higher:
the stand-in offers the library's names and sends one JSON line per call that the library would have sent over the wire,
``{"call": name, "queue": [[instruction, argument, ...], ...], "args": [...]}``; the answer is ``{"ok": value}`` or
``{"error": words}``. Calls: ``open``, ``execute``, ``busy``, ``pick_one``, ``read_one``, and ``rejected``, by which the
stand-in tells what it has turned down. All calls and instructions are counted by name, under ``calls`` of the truth.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import numpy as np

from simulated_backend.twins.arc_two_box import ArcTwoBox, Refused
from simulated_backend.twins.arc_two_settings import ArcTwoTwinSettings
from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel
from simulated_backend.twins.plugin import Twin
from simulated_backend.twins.running import RunningTwin
from simulated_backend.twins.wire import Port, serve_link

__all__ = ["ArcTwoTwin", "start", "twin"]

_ORDERS = {
    "blind": "channel whose readings come to nothing from now on",
    "hang": "any number: busy for ever from now on",
    "lose": "any number: the next flush is done, then the library reports a fault",
    "refuse": "any number: the next flush fails before anything is done; what was queued is gone",
}


class ArcTwoTwin:
    """The instrument's end of the stand-in's link."""

    delimiter = b"\n"

    def __init__(self, settings: ArcTwoTwinSettings, panel: FaultPanel, clock: DeviceClock) -> None:
        self.box = ArcTwoBox(settings, panel, clock)
        self._panel = panel
        self._calls: Counter[str] = Counter()
        self._words, self._bits = list(settings.words), list(settings.bits)

    def handle(self, unit: bytes, port: Port) -> None:
        """One call."""
        try:
            asked = json.loads(unit)
            answer = {"ok": self._answer(asked["call"], asked.get("queue", []), asked.get("args", []))}
        except Refused as exc:
            self._panel.count("rejected")
            answer = {"error": str(exc)}
        except (ValueError, KeyError, TypeError) as exc:
            self._panel.count("rejected")
            answer = {"error": f"not understood: {' '.join(str(exc).split())}"}
        port.send(json.dumps(answer).encode() + self.delimiter)

    def tick(self) -> None:
        """It has no watchdog."""

    def connected(self, is_connected: bool) -> None:
        """Readings that nobody has fetched go with the library that asked for them."""
        self.box.results.clear()

    def truth(self) -> dict[str, Any]:
        """What only the twin knows."""
        return {"calls": dict(self._calls), **self.box.truth()}

    def _answer(self, call: str, queue: list[list[Any]], arguments: list[Any]) -> Any:
        self._calls.update(name for name, *_ in queue)
        if call == "rejected":
            self._panel.count("rejected")
            self._panel.count(f"rejected {arguments[0]}")
            return None
        self._calls[call] += 1
        if call in ("execute", "read_one"):
            return self._flush(queue, arguments)
        if call == "busy":
            return self._panel.pending("hang") is not None
        if call == "pick_one":
            return self._pick(*arguments)
        if call == "open":
            return None
        raise Refused(f"call {call!r} is unknown")

    def _flush(self, queue: list[list[Any]], arguments: list[Any]) -> float | None:
        if (blind := self._panel.take("blind")) is not None:
            self.box.blind.add(int(blind))
        if self._panel.take("refuse") is not None:
            raise Refused("FPGA Error: the write failed")
        self.box.run(queue)
        found = None
        if arguments:
            low, high, read_v = arguments
            self.box.run([["config_channels", [(low, -read_v)], 0.0]])
            found = float(self.box.currents([high])[high])
            self.box.run([["ground_all"]])
        if self._panel.take("lose") is not None:
            raise Refused("FPGA Error: the link went down")
        return found

    def _pick(self, mode: str, kind: str) -> list[float] | None:
        if not self.box.results:
            return None
        found = self.box.results.pop(0)
        if kind != "Current":
            found = np.full(64, np.nan)
        channels = {"All": list(range(64)), "Words": sorted(self._words), "Bits": sorted(self._bits)}[mode]
        return [float(found[channel]) for channel in channels]


def start(settings: ArcTwoTwinSettings, stop: threading.Event) -> RunningTwin:
    """Serve the calls of one library at a time until ``stop``."""
    panel, clock = FaultPanel(settings.link.faults), DeviceClock(settings.link.time_scale)
    device = ArcTwoTwin(settings, panel, clock)
    port = serve_link(settings.link, panel, clock, device, stop)
    return RunningTwin({"main": port}, panel, clock, _ORDERS, device.truth)


twin = Twin("arc-two", "an ArC TWO with a crossbar, behind a stand-in of pyarc2", ArcTwoTwinSettings, start)
"""The entry point."""
