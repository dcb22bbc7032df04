"""The wire of ArC ONE: arguments in ASCII, each ended by LF, and answers of raw little-endian floats.

There is no framing, no checksum, no sequence number, and a pulse is not answered. So the two ends are *in step* only as
long as every answer has the length that belongs to its request and nothing comes unasked; ``in_step`` says whether that
held so far. Out of step the board may be waiting for arguments, and whatever is sent next becomes a voltage or a width:
``reset`` therefore sends nothing but ``00``, which is zero as an argument and an MCU reset as a request, as often as the
longest request has arguments. The board drops packets that follow each other within 0.5 ms; the driver keeps ``gap_s``
between any two arguments by its own clock.

Source: the wire as the public library libarc1 (arc-instruments) speaks it; none of its code is used.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hil.errors import HardwareError

__all__ = [
    "DEVICES_AT_ONCE", "WRITE_FLOATS", "ArcOneWire", "Link", "fixed", "init_arguments", "masked_read", "multi_bias",
    "pulse_read", "read_mode",
]  # fmt: skip

DEVICES_AT_ONCE = 128
"""Devices of one masked read, at most: bounds the arguments that the board may be short of."""

WRITE_FLOATS = 3 * (32 + 32)
"""Floats in the answer to a multi-bias write."""

_MOST_ARGUMENTS = 5 + 2 * DEVICES_AT_ONCE
_SESSIONS = {"local": 0, "external": 1, "external to local": 2, "offline": 3}
_SNEAK = {"V/3": 0, "V/2": 1, "float": 256}
_FIRMWARE_S = 1.0
"""Some firmware does not answer the question for its version: no longer wait for it."""


class Link(Protocol):
    """What it needs of ``drivers.links.byte_link.ByteLink``."""

    address: str

    def write(self, data: bytes) -> None: ...
    def read(self, timeout_s: float, at_least: int = 1, at_most: int = 65536) -> bytes: ...
    def drain(self) -> bytes: ...
    def reopen(self) -> None: ...


def fixed(value: float) -> str:
    """A number as the wire carries it, ``%f``: six decimals."""
    return f"{value:.6f}"


def read_mode(read_v: float) -> str:
    """TIA4P for a positive read voltage, TIA4P_NEG for a negative one."""
    return "2" if read_v > 0 else "3"


def init_arguments(read_cycles: int, words: int, bits: int, session: str, sneak: str, read_v: float) -> list[str]:
    """``0``: start a session."""
    head = ["0", str(read_cycles), str(words), str(bits), read_mode(read_v)]
    return [*head, str(_SESSIONS[session]), str(_SNEAK[sneak]), fixed(read_v)]


def masked_read(cells: Sequence[tuple[int, int]]) -> list[str]:
    """``1`` or ``2``,2: resistances of devices [row, col], counted from 0; the answer is one float each, in this order."""
    places = [str(line + 1) for cell in cells for line in cell]
    return ["1", *places] if len(cells) == 1 else ["2", "2", "32", "32", str(len(cells)), *places]


def pulse_read(row: int, col: int, volts: float, width_s: float) -> list[str]:
    """``3``: one pulse, then a reading; the answer is the resistance."""
    return ["3", str(row + 1), str(col + 1), fixed(volts), fixed(width_s)]


def multi_bias(
    col: int, rows: Sequence[int], *, read_v: float, write_v: float = 0.0, width_s: float = 0.0, write: bool = False
) -> list[str]:
    """``50``: some words of one bitline at once, a read (three floats) or a write (64 times three floats)."""
    head = ["50", fixed(write_v), fixed(width_s), fixed(read_v), str(len(rows)), str(col + 1), "2" if write else "1"]
    return [*head, *(str(row + 1) for row in rows)]


class ArcOneWire:
    """Sends requests and takes answers; HardwareError for every fault of the link and every answer that is not one.

    gap_s: least time from one argument to the next; 0 = the board takes them as fast as they come, a request in one
    write. reset_s: how long an MCU reset takes. timeout_s: how long an answer may stay away beyond the device's own time.
    Attributes: in_step, see the text of the module; requests, how many were sent.
    """

    def __init__(
        self,
        link: Link,
        gap_s: float,
        reset_s: float,
        timeout_s: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._link, self._gap_s, self._reset_s, self._timeout_s = link, gap_s, reset_s, timeout_s
        self._now, self._sleep = now, sleep
        self._free_s = 0.0
        self.in_step = False
        self.requests = 0

    def reset(self) -> None:
        """From whatever the board is doing to a board that has just started; what it still had to say is thrown away."""
        self.in_step = False
        self._link.drain()
        self._write(["00"] * _MOST_ARGUMENTS)
        self._sleep(self._reset_s)
        self._link.drain()

    def init(self, arguments: Sequence[str]) -> None:
        """Start a session; the answer must be the line ``1``."""
        self._send(arguments)
        line = b""
        while not line.endswith(b"\n") and len(line) < 16:
            line += self._answer(1, self._timeout_s)
        if line.strip() != b"1":
            raise HardwareError(f"{self._link.address}: answered {line!r} to the start of a session, not 1: {_LOOK}")
        self.in_step = True

    def firmware(self) -> tuple[int, int] | None:
        """Major and minor version, None where the board does not tell."""
        self._send(["999"])
        data = self._link.read(min(_FIRMWARE_S, self._timeout_s), 4, 4)
        if data and len(data) < 4:
            raise HardwareError(f"{self._link.address}: {len(data)} of 4 bytes of a version came: {_LOOK}")
        self.in_step = True
        return struct.unpack("<HH", data) if data else None

    def floats(self, count: int, arguments: Sequence[str], busy_s: float = 0.0) -> NDArray[np.float64]:
        """A request with an answer of so many floats; busy_s: time that it takes the device, second."""
        self._send(arguments)
        data = self._answer(4 * count, self._timeout_s + busy_s)
        values = np.frombuffer(data, dtype="<f4").astype(np.float64)
        if bool(np.isnan(values).any()):
            raise HardwareError(f"{self._link.address}: an answer that is no number came to {arguments[0]}: {_LOOK}")
        self.in_step = True
        return values

    def post(self, arguments: Sequence[str], busy_s: float = 0.0) -> None:
        """A request without an answer; the next one waits ``busy_s``, second, longer."""
        self._send(arguments)
        self._free_s += busy_s
        self.in_step = True

    def _send(self, arguments: Sequence[str]) -> None:
        self.in_step = False
        if stray := self._link.read(0.0):
            raise HardwareError(f"{self._link.address}: {len(stray)} bytes came unasked: {_LOOK}")
        self.requests += 1
        self._write(arguments)

    def _write(self, arguments: Sequence[str]) -> None:
        packets = [f"{argument}\n".encode() for argument in arguments]
        if self._gap_s <= 0:
            self._link.write(b"".join(packets))
            return
        for packet in packets:
            if (wait_s := self._free_s - self._now()) > 0:
                self._sleep(wait_s)
            self._link.write(packet)
            self._free_s = self._now() + self._gap_s

    def _answer(self, count: int, timeout_s: float) -> bytes:
        """``count`` bytes; the time starts again with every part that comes."""
        data = b""
        while len(data) < count:
            part = self._link.read(timeout_s, count - len(data), count - len(data))
            if not part:
                raise HardwareError(f"{self._link.address}: {len(data)} of {count} bytes of an answer came: {_LOOK}")
            data += part
        return data


_LOOK = "check board, cable and power"
