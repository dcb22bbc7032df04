"""An instrument on a raw socket through VISA (pyvisa-py): exclusive, one question at a time, clean after a lost answer.

A raw socket has no sequence numbers: an answer that comes too late would be taken for the answer to the next question.
So after every fault the link is drained and closed; the next question opens it again and greets the instrument first.
Nothing is ever sent twice by the link itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pyvisa
from pyvisa.resources import MessageBasedResource

from drivers.links.exclusive import exclusive
from hil.errors import HardwareError, UsageError

__all__ = ["VisaLink", "resource_name"]

_ATTEMPTS = 3
_PAUSE_S = 0.1
"""Before another attempt to connect; many instruments serve one socket, and let go of a lost one a little late."""
_QUIET_S = 0.02
_DRAINED_UNITS = 1000

Ask = Callable[[str], str]


def resource_name(address: str) -> str:
    """The VISA name of ``tcp://HOST:PORT``; a VISA name stays what it is. UsageError for anything else."""
    if address.startswith("tcp://"):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        if host and port.isdigit():
            return f"TCPIP::{host}::{port}::SOCKET"
    if address.upper().startswith("TCPIP") and address.upper().endswith("::SOCKET"):
        return address
    raise UsageError(f"{address!r}: no address of a raw socket: give tcp://HOST:PORT or TCPIP::HOST::PORT::SOCKET")


class _Manager:
    """The one ResourceManager of the process: pyvisa shares it, so the last link that uses it closes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._manager: pyvisa.ResourceManager | None = None

    def acquire(self) -> pyvisa.ResourceManager:
        with self._lock:
            if self._manager is None:
                self._manager = pyvisa.ResourceManager("@py")
            self._users += 1
            return self._manager

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._manager is not None:
                self._manager.close()
                self._manager = None


_MANAGER = _Manager()


class VisaLink:
    """One instrument. Connects at once; HardwareError for every fault of the link, UsageError for a bad address.

    address: ``tcp://HOST:PORT`` or a VISA name; terminator: ends every unit in both directions, one byte;
    greet: called with a function that asks, after every (re)connection: raises HardwareError where another instrument
    answers; timeout_s: for an answer.
    """

    def __init__(
        self,
        address: str,
        terminator: bytes,
        greet: Callable[[Ask], None],
        *,
        timeout_s: float = 5.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address, self._terminator, self._greet = address, terminator, greet
        self._timeout_s, self._sleep = timeout_s, sleep
        self.exchanges = 0
        """Units sent so far."""
        self._resource: MessageBasedResource | None = None
        name = resource_name(address)
        self._lock = exclusive(name)
        self._name = name
        self._manager: pyvisa.ResourceManager | None = _MANAGER.acquire()
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def ready(self) -> None:
        """Connect again where the link was lost; nothing else is sent than the greeting."""
        self._opened()

    def query(self, text: str, timeout_s: float | None = None) -> str:
        """Send ``text`` and return the answer without its terminator; within ``timeout_s`` or HardwareError."""
        self._opened()
        return self._exchange(text, self._timeout_s if timeout_s is None else timeout_s)

    def write(self, text: str) -> None:
        """Send something that has no answer."""
        resource = self._opened()
        try:
            self.exchanges += 1
            resource.write_raw(text.encode("ascii") + self._terminator)
        except (pyvisa.Error, OSError) as exc:
            self._drop()
            raise HardwareError(f"{self.address}: lost while sending {_short(text)} ({exc}): check cable and power") from exc

    def close(self) -> None:
        """Let go; may be called twice."""
        if self._manager is not None:
            self._drop()
            self._manager = None
            _MANAGER.release()
            self._lock.release()

    def _opened(self) -> MessageBasedResource:
        if self._resource is None:
            self._connect()
        assert self._resource is not None
        return self._resource

    def _connect(self) -> None:
        if self._manager is None:
            raise HardwareError(f"{self.address}: the link is closed: open the instrument again")
        for attempt in range(_ATTEMPTS):
            try:
                self._open()
                self._drain()
                self._greet(lambda text: self._exchange(text, min(2.0, self._timeout_s)))
                return
            except HardwareError:
                self._drop()
                if attempt + 1 == _ATTEMPTS:
                    raise
                self._sleep(_PAUSE_S)

    def _open(self) -> None:
        assert self._manager is not None
        try:
            resource = self._manager.open_resource(self._name, open_timeout=int(1000 * self._timeout_s))
        except Exception as exc:  # pyvisa-py raises a bare Exception where a socket cannot be connected
            raise HardwareError(f"{self.address}: cannot be opened ({exc}): check address, network and power") from exc
        assert isinstance(resource, MessageBasedResource)
        resource.read_termination = self._terminator.decode("ascii")
        self._resource = resource

    def _exchange(self, text: str, timeout_s: float) -> str:
        resource = self._resource
        assert resource is not None
        try:
            self.exchanges += 1
            resource.timeout = 1000 * timeout_s
            resource.write_raw(text.encode("ascii") + self._terminator)
            answer = resource.read_raw()
            if not answer.endswith(self._terminator):
                # pyvisa-py takes what has come when the other end falls silent or goes away for a whole answer.
                raise OSError(f"cut short after {len(answer)} bytes")
        except (pyvisa.Error, OSError) as exc:
            self._drain()
            self._drop()
            said = " ".join(str(exc).split())
            raise HardwareError(
                f"{self.address}: no answer to {_short(text)} within {timeout_s:g} s ({said}): check instrument and link"
            ) from exc
        except BaseException:
            # Interrupted between question and answer: the answer must not meet the next question.
            self._drop()
            raise
        return answer.removesuffix(self._terminator).decode("ascii", "replace")

    def _drain(self) -> None:
        """Throw away what comes, until it is quiet; bounded."""
        if self._resource is not None:
            with suppress(pyvisa.Error, OSError):
                self._resource.timeout = 1000 * _QUIET_S
                for _ in range(_DRAINED_UNITS):
                    self._resource.read_raw()

    def _drop(self) -> None:
        if self._resource is not None:
            with suppress(pyvisa.Error, OSError):
                self._resource.close()
            self._resource = None


def _short(text: str) -> str:
    """A command for a message of one line."""
    words = " ".join(text.split())
    return repr(words if len(words) <= 60 else words[:57] + "...")
