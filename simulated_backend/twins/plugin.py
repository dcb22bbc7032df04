"""What a package offers under the entry-point group ``hil.twins``: a program that plays an instrument."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from simulated_backend.twins.control import serve_control
from simulated_backend.twins.running import RunningTwin

__all__ = ["Twin"]


@dataclass(frozen=True)
class Twin:
    """An entry point of ``hil.twins``."""

    name: str
    help: str
    """One line: what it plays."""
    settings: type[BaseModel]
    """Its strict model; ``hil twin NAME -s key=value`` changes it."""
    start: Callable[[Any, threading.Event], RunningTwin]
    """Open the links and serve them until the event is set; takes the settings."""

    def run(self, settings: Any, follow: bool = False) -> dict[str, Any]:
        """Serve until SIGINT, SIGTERM, the control socket or (``follow``) the end of stdin stops it.

        The first line on stdout is JSON: twin, pid, links by name, control. Returns the last report.
        """
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        twin = self.start(settings, stop)
        control = serve_control(twin, stop)
        print(json.dumps({"twin": self.name, "pid": os.getpid(), "links": twin.links, "control": control}), flush=True)
        if follow:
            threading.Thread(target=_until_stdin_ends, args=(stop,), daemon=True, name="twin follows").start()
        while not stop.wait(0.2):
            pass
        return twin.report()


def _until_stdin_ends(stop: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    stop.set()
