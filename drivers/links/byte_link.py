"""A stream of bytes to a board: a serial port, USB-CDC or a TCP port, opened exclusively."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from typing import Literal

import serial

from drivers.links.exclusive import exclusive
from drivers.links.tcp_port import TcpPort
from hil.errors import HardwareError

__all__ = ["ByteLink"]

Parity = Literal["N", "E", "O"]

_POLL_S = 1e-3
"""How often a port is looked at where the system cannot wait for it."""


class ByteLink:
    """address: a device file or COM port, or ``tcp://HOST:PORT``. Raises HardwareError for every fault of the link."""

    def __init__(self, address: str, baud: int = 115200, parity: Parity = "N") -> None:
        self.address, self._baud, self._parity = address, baud, parity
        self._lock = exclusive(address)
        try:
            self._port = self._open()
        except HardwareError:
            self._lock.release()
            raise

    def _open(self) -> serial.SerialBase | TcpPort:
        # A pseudo terminal has no parity bit; asked for one twice, it refuses.
        parity = "N" if os.path.realpath(self.address).startswith("/dev/pts/") else self._parity
        try:
            if self.address.startswith("tcp://"):
                return TcpPort(self.address)
            return serial.Serial(self.address, self._baud, parity=parity, timeout=0, write_timeout=10, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as exc:
            raise HardwareError(f"{self.address}: cannot be opened ({exc}): check cable, address and power") from exc

    def write(self, data: bytes) -> None:
        """Send all of it."""
        try:
            self._port.write(data)
        except (serial.SerialException, OSError) as exc:
            raise HardwareError(f"{self.address}: lost while writing ({exc}): check the cable") from exc

    def read(self, timeout_s: float, at_least: int = 1, at_most: int = 65536) -> bytes:
        """Up to ``at_most`` bytes as soon as ``at_least`` are there; fewer, maybe none, after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        data = b""
        try:
            while len(data) < at_least and self._wait(max(0.0, deadline - time.monotonic())):
                data += self._port.read(at_most - len(data))
            return data
        except (serial.SerialException, OSError) as exc:
            raise HardwareError(f"{self.address}: lost while reading ({exc}): check the cable") from exc

    def _wait(self, timeout_s: float) -> bool:
        """Whether there is something to read, or it is known that the link is lost, within ``timeout_s``."""
        if not self._port.is_open:
            raise serial.PortNotOpenError
        if os.name != "posix" and not isinstance(self._port, TcpPort):
            while not self._port.in_waiting and timeout_s > 0:
                time.sleep(min(_POLL_S, timeout_s))
                timeout_s -= _POLL_S
            return bool(self._port.in_waiting)
        # Changing the port's own time-out configures the port anew at every call.
        return bool(select.select([self._port.fileno()], [], [], timeout_s)[0])

    def drain(self, quiet_s: float = 0.05) -> bytes:
        """Throw away what comes until nothing has come for ``quiet_s``; returns it, for the record."""
        thrown = b""
        while data := self.read(quiet_s):
            thrown += data
        return thrown

    def reopen(self) -> None:
        """Close and open again; the lock is kept meanwhile."""
        with suppress(serial.SerialException, OSError):
            self._port.close()
        self._port = self._open()

    def close(self) -> None:
        """Let go; may be called twice."""
        with suppress(serial.SerialException, OSError):
            self._port.close()
        self._lock.release()
