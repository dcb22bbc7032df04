"""The device's end of a link: a pty or a TCP port, with its speed and its faults."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import tty
from collections import deque
from typing import Protocol

from simulated_backend.twins.clock import SPIN_S, DeviceClock
from simulated_backend.twins.faults import FaultPanel
from simulated_backend.twins.settings import LinkSettings

__all__ = ["Device", "Port", "serve_link"]

_CHUNK = 65536
_TICK_S = 0.01
"""How often the device is looked after while nothing happens, second."""


class Device(Protocol):
    """What sits behind a link. Called from the link's one thread."""

    delimiter: bytes
    """Ends every unit that the host sends."""

    def handle(self, unit: bytes, port: Port) -> None:
        """One unit without its delimiter; answers go out by ``port.send``."""
        ...

    def tick(self) -> None:
        """Called about every 10 ms and after every unit: watchdogs."""
        ...

    def connected(self, is_connected: bool) -> None:
        """The host has opened (or let go of) the link."""
        ...


class Port:
    """Bytes in and out of a twin, with speed and faults; counts the time that the wire was busy.

    Both directions of the wire are busy on their own, while the device is at work too: a reply is on its way while the
    next request is executed, and a request that comes meanwhile has arrived when its turn comes.
    """

    def __init__(self, settings: LinkSettings, panel: FaultPanel, clock: DeviceClock) -> None:
        self.panel, self.clock = panel, clock
        self._byte_s = 10.0 / settings.bit_per_s if settings.bit_per_s > 0 else 0.0
        self._in_free_s = self._out_free_s = 0.0
        self.wire_s = 0.0
        """Time that bytes needed on the wire, both directions, second."""
        self._link: _Pty | _Tcp = _Pty() if settings.link == "pty" else _Tcp(settings.port)
        self._known_connected = False
        self._delimiter = b""
        self._rest = b""
        self._units: deque[tuple[float, bytes]] = deque()
        """When a unit has arrived as a whole, and the unit."""
        self._sent: deque[tuple[float, bytes]] = deque()
        """When the host gets it, and what."""

    @property
    def address(self) -> str:
        """Where the host finds it: a device file, or ``tcp://127.0.0.1:PORT``."""
        return self._link.address

    def send(self, unit: bytes) -> None:
        """To the host, as one unit, once the device's time is over; it gets there when the wire has had its time."""
        if self._byte_s > 0:
            self._sort(self._link.read(0.0), self._delimiter)
            if self.clock.time_scale > 0:
                self._pass_time(self.clock.due_s)
        self.clock.settle()
        copies, late_s = self.panel.through(unit)
        if late_s:
            time.sleep(late_s)
        for copy in copies:
            self._sent.append((self._out_by(len(copy)), copy))
        self._deliver()

    def run(self, device: Device, stop: threading.Event) -> None:
        """Serve until ``stop``."""
        self._delimiter = device.delimiter
        while not stop.is_set():
            self._obey(device)
            if self._sent:
                self._pass_time(self._sent[0][0], or_unit=True)
            data = self._link.read(0.0 if self._sent or self._units else _TICK_S)
            if self._link.is_connected != self._known_connected:
                self._known_connected = self._link.is_connected
                self._rest = b""
                device.connected(self._known_connected)
            self._sort(data, device.delimiter)
            while self._units:
                arrived_s, unit = self._units[0]
                self._pass_time(arrived_s)
                self._units.popleft()
                self._receive(unit, device)
            device.tick()

    def waiting(self, delimiter: bytes) -> list[bytes]:
        """Units that arrived while the device was at work, as the host sent them; they are handled in their turn.

        For what a device must see at once: that the host is alive, or wants it to stop.
        """
        self._sort(self._link.read(0.0), delimiter)
        self._deliver()
        return [unit for _, unit in self._units]

    def _sort(self, data: bytes, delimiter: bytes) -> None:
        if data:
            *units, self._rest = (self._rest + data).split(delimiter)
            for unit in units:
                lasts_s = (len(unit) + len(delimiter)) * self._byte_s
                if self._byte_s > 0:
                    self._in_free_s = max(self._in_free_s, time.monotonic()) + lasts_s
                    self.clock.busy.add(self._in_free_s - lasts_s, self._in_free_s)
                self._units.append((self._in_free_s, unit))

    def _out_by(self, count: int) -> float:
        """When so many bytes more are with the host."""
        if self._byte_s > 0:
            self.wire_s += count * self._byte_s
            self._out_free_s = max(self._out_free_s, time.monotonic()) + count * self._byte_s
            self.clock.busy.add(self._out_free_s - count * self._byte_s, self._out_free_s)
        return self._out_free_s

    def _deliver(self) -> None:
        """What has got to the host by now."""
        while self._sent and self._sent[0][0] <= time.monotonic():
            self._link.write(self._sent.popleft()[1])

    def _pass_time(self, until_s: float, or_unit: bool = False) -> None:
        """Let time pass, and the wire do its work meanwhile; or_unit: no longer than until a unit comes."""
        while True:
            self._deliver()
            next_s = min(until_s, self._sent[0][0]) if self._sent else until_s
            left_s = next_s - time.monotonic()
            if (left_s <= 0 and next_s == until_s) or (or_unit and self._units):
                return
            if left_s <= SPIN_S:
                continue
            if self._link.is_connected == self._known_connected:
                self._sort(self._link.read(left_s - SPIN_S), self._delimiter)
            else:
                # What comes next is another host's.
                time.sleep(left_s - SPIN_S)

    def close(self) -> None:
        """Let go of the link."""
        self._link.close()

    def _receive(self, unit: bytes, device: Device) -> None:
        self.wire_s += (len(unit) + len(device.delimiter)) * self._byte_s
        self.panel.count("units")
        copies, late_s = self.panel.through(unit)
        if late_s:
            time.sleep(late_s)
        for copy in copies:
            # A flipped bit may turn a byte into the delimiter, or the other way round: then units split.
            for part in copy.split(device.delimiter):
                self.clock.begin()
                device.handle(part, self)
                device.tick()

    def _obey(self, device: Device) -> None:
        """Orders about the link itself: seconds to be frozen or unplugged for."""
        if (seconds := self.panel.take("freeze")) is not None:
            self.panel.count("frozen")
            time.sleep(seconds)
        if (seconds := self.panel.take("unplug")) is not None:
            self.panel.count("unplugged")
            device.connected(False)
            self._sent.clear()
            self._link.unplug()
            time.sleep(seconds)
            self._link.plug()


class _Pty:
    """A pseudo terminal whose device file is reached by a link of a fixed name, so that it can be unplugged."""

    def __init__(self) -> None:
        folder = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
        self.address = f"{folder}/hil-twin-{os.getpid()}-{id(self):x}"
        self._master = self._slave = -1
        self.plug()

    @property
    def is_connected(self) -> bool:
        """A pty does not tell who has it open: always."""
        return self._master >= 0

    def plug(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.address)
        os.symlink(os.ttyname(self._slave), self.address)

    def unplug(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.address)
        os.close(self._master)
        os.close(self._slave)
        self._master = self._slave = -1

    def read(self, timeout_s: float) -> bytes:
        if not select.select([self._master], [], [], timeout_s)[0]:
            return b""
        try:
            return os.read(self._master, _CHUNK)
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        while data:
            # Nobody reads: a real UART would lose the bytes too.
            if not select.select([], [self._master], [], 1.0)[1]:
                return
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                continue

    def close(self) -> None:
        if self._master >= 0:
            self.unplug()


class _Tcp:
    """A TCP port that serves one host at a time; a second one is turned away at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._peer: socket.socket | None = None
        self._listener = self._listen()
        self._port = self._listener.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"

    @property
    def is_connected(self) -> bool:
        return self._peer is not None

    def _listen(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", self._port))
        listener.setblocking(False)
        return listener

    def plug(self) -> None:
        self._listener = self._listen()

    def unplug(self) -> None:
        self._listener.close()
        self._drop()

    def read(self, timeout_s: float) -> bytes:
        watched = [self._listener] if self._peer is None else [self._listener, self._peer]
        ready = select.select(watched, [], [], timeout_s)[0]
        # All that the old host said, and its end, first: one that comes right after it must not be turned away.
        if self._peer is not None and self._peer in ready:
            try:
                data = self._peer.recv(_CHUNK)
            except OSError:
                data = b""
            if not data:
                self._drop()
            return data
        if self._listener in ready:
            self._accept()
        return b""

    def _accept(self) -> None:
        peer, _ = self._listener.accept()
        if self._peer is not None:
            peer.close()
            return
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer = peer

    def write(self, data: bytes) -> None:
        if self._peer is not None:
            try:
                self._peer.sendall(data)
            except OSError:
                self._drop()

    def _drop(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def close(self) -> None:
        self.unplug()


def serve_link(settings: LinkSettings, panel: FaultPanel, clock: DeviceClock, device: Device, stop: threading.Event) -> Port:
    """A port for ``device``, served by a thread of its own until ``stop`` is set."""
    port = Port(settings, panel, clock)

    def work() -> None:
        try:
            port.run(device, stop)
        finally:
            port.close()
            stop.set()

    threading.Thread(target=work, name=f"twin {port.address}").start()
    return port
