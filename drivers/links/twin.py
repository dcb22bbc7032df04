"""A twin started for a bench that asks for one: ``hil twin NAME`` as a process that ends with this one."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hil.errors import HardwareError

__all__ = ["StartedTwin", "TwinStart"]


class TwinStart(BaseModel):
    """``[boards.NAME.settings.twin]``: the twin that plays the board."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Of a twin: one of those that ``hil twin --help`` names."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Changes to its settings, checked by the twin."""


class StartedTwin:
    """A running twin; ``close`` (or the end of this process, however it comes) stops it.

    Attributes: links, addresses by name; control, address of its control socket. HardwareError where it does not start.
    """

    def __init__(self, twin: TwinStart) -> None:
        command = [sys.executable, "-m", "hil", "twin", twin.name, "--follow", "--settings", json.dumps(twin.settings)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(b"{"):
            _, said = self._process.communicate()
            words = " ".join(said.decode(errors="replace").split()) or "it said nothing"
            raise HardwareError(f"twin {twin.name}: did not start ({words}): correct settings.twin of the board")
        ready = json.loads(line)
        self.links: dict[str, str] = ready["links"]
        self.control: str = ready["control"]

    def close(self) -> None:
        """Stop it; may be called twice."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
