"""``arc``: an ArC ONE driver on a link that records what is sent and answers from a script, in virtual time."""

from __future__ import annotations

import math
import struct
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drivers.arc_one import ArcOne
from drivers.arc_one_settings import ArcOneSettings
from hil.backend import PulseShape
from hil.encoding import PulseTrain
from hil.errors import HardwareError

SHAPE = PulseShape(1.5, -1.25, 1e-6)
RESET = ["00"] * 261
"""As many as the longest request has arguments: whatever the board still waits for is zero."""
INIT = ["0", "50", "4", "3", "2", "0", "1", "0.200000", "01", "2", "0.200000"]
"""Four words, three bits, TIA4P, local, V/2, 0.2 V; then the read mode."""
START = [*RESET, *INIT, "999"]
VERSION = struct.pack("<HH", 3, 1)
UP, DOWN = ["04", "1.500000", "0.000001"], ["04", "-1.250000", "0.000001"]
LOST = b""


class Script:
    """A link that records what is sent and answers, one entry of ``answers`` after the other; LOST for none."""

    address = "/dev/arc"

    def __init__(self, *answers: bytes) -> None:
        self.answers = [b"1\n", VERSION, *answers]
        self.writes: list[bytes] = []
        self.times_s: list[float] = []
        self.waited_s: list[float] = []
        self.stray = b""
        self.reopened = 0
        self.now_s = 50.0
        self.broken, self.back_at_s = False, math.inf
        self._answer = b""

    def write(self, data: bytes) -> None:
        if self.broken:
            raise HardwareError("/dev/arc: lost while writing: check the cable")
        self.writes.append(data)
        self.times_s.append(self.now_s)

    def read(self, timeout_s: float, at_least: int = 1, at_most: int = 65536) -> bytes:
        if self.broken:
            raise HardwareError("/dev/arc: lost while reading: check the cable")
        if timeout_s == 0.0:
            stray, self.stray = self.stray, b""
            return stray
        if not self._answer:
            self.waited_s.append(timeout_s)
            self._answer = self.answers.pop(0) if self.answers else LOST
        part, self._answer = self._answer[:at_most], self._answer[at_most:]
        return part

    def drain(self) -> bytes:
        return self.read(0.0)

    def reopen(self) -> None:
        if self.broken:
            raise HardwareError("/dev/arc: cannot be opened: check the cable")
        self.reopened += 1

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.broken = self.broken and self.now_s < self.back_at_s

    def said(self) -> list[str]:
        """Arguments sent since the last time, without a start of the session."""
        arguments = b"".join(self.writes).decode().split("\n")[:-1]
        self.writes.clear()
        self.times_s.clear()
        if arguments[: len(START)] == START:
            del arguments[: len(START)]
        return arguments


def settings(**changes: Any) -> ArcOneSettings:
    return ArcOneSettings(
        **{"link": "/dev/arc", "serial": "chip", "words": 4, "bits": 3, "gap_s": 0.0, "reopen_s": 0.0} | changes
    )


def board(*answers: bytes, **changes: Any) -> tuple[ArcOne, Script]:
    """A board in session that will answer so."""
    link = Script(*answers)
    made = ArcOne(settings(**changes), link, now=lambda: link.now_s, sleep=link.sleep)
    link.said()
    return made, link


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


WRITTEN = floats(*[1.0] * 192)


def mask(*cells: tuple[int, int]) -> torch.Tensor:
    out = torch.zeros(1, 4, 3, dtype=torch.bool)
    for row, col in cells:
        out[0, row, col] = True
    return out


def counts(**cells: int) -> torch.Tensor:
    """r0c2=3: three pulses on row 0, col 2."""
    out = torch.zeros(1, 4, 3, dtype=torch.int32)
    for name, count in cells.items():
        out[0, int(name[1]), int(name[3])] = count
    return out


def volts(*lines: list[float]) -> torch.Tensor:
    return torch.tensor([lines], dtype=torch.float32)


def trains(rows: list[int], cols: list[int], slots: int = 1) -> tuple[PulseTrain, PulseTrain]:
    """Lines that fire in all slots, with these signs."""
    count = torch.full((1, 1), slots, dtype=torch.int32)
    found = []
    for line in (rows, cols):
        sign = torch.tensor([[line]], dtype=torch.int8)
        found.append(PulseTrain.given((sign != 0).to(torch.int32) * ((1 << slots) - 1), sign, count))
    return found[0], found[1]


@pytest.fixture
def arc() -> SimpleNamespace:
    """What the tests of the driver share: ``board(*answers, **settings)`` and what one says and hears."""
    return SimpleNamespace(
        Script=Script, settings=settings, board=board, floats=floats, mask=mask, counts=counts, volts=volts, trains=trains,
        SHAPE=SHAPE, RESET=RESET, INIT=INIT, START=START, VERSION=VERSION, UP=UP, DOWN=DOWN, LOST=LOST, WRITTEN=WRITTEN,
    )  # fmt: skip
