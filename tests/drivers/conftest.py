"""``instruments``: fakes that record every unit sent to them; ``rack``: the four ports of the probe-station twin;
``station``: a bench file of the twin's station, with everything that is said to it on record."""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from hil.config import BenchConfig, load_bench
from simulated_backend.twins.probe_station import ProbeStationSettings, start
from simulated_backend.twins.running import RunningTwin

Answer = Callable[[str], str | None]


class FakeInstrument:
    """A TCP instrument that answers by a function of the unit (None = it stays silent).

    Attributes: sent, every unit without its terminator; connections, how often somebody connected; late, what is sent as
    soon as somebody connects again: an answer that came too late.
    """

    def __init__(self, terminator: bytes, answer: Answer) -> None:
        self._terminator, self.answer = terminator, answer
        self.sent: list[str] = []
        self.connections = 0
        self.late = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stop = threading.Event()
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            if not select.select([self._listener], [], [], 0.02)[0]:
                continue
            peer, _ = self._listener.accept()
            self.connections += 1
            # The host may go away before it has read everything.
            with suppress(OSError), peer:
                if self.late:
                    peer.sendall(self.late)
                    self.late = b""
                self._attend(peer)

    def _attend(self, peer: socket.socket) -> None:
        buffer = b""
        while not self._stop.is_set():
            if not select.select([peer], [], [], 0.02)[0]:
                continue
            data = peer.recv(65536)
            if not data:
                return
            *units, buffer = (buffer + data).split(self._terminator)
            for unit in units:
                self.sent.append(unit.decode())
                said = self.answer(unit.decode())
                if said is not None:
                    peer.sendall(said.encode() + self._terminator)

    def since(self, mark: str) -> list[str]:
        """What was sent after the last ``mark``."""
        return self.sent[len(self.sent) - self.sent[::-1].index(mark) :]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def instruments() -> Iterator[Callable[[bytes, Answer], FakeInstrument]]:
    """Makes fakes: ``instruments(terminator, answer)``; all are closed at the end."""
    made: list[FakeInstrument] = []

    def make(terminator: bytes, answer: Answer) -> FakeInstrument:
        made.append(FakeInstrument(terminator, answer))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def rack() -> Iterator[Callable[..., RunningTwin]]:
    """Starts twins of the rack: ``rack(wafer={...}, seed=1)``; they stop at the end."""
    stop = threading.Event()

    def make(**settings: Any) -> RunningTwin:
        return start(ProbeStationSettings.model_validate(settings), stop)

    yield make
    stop.set()


class Tap:
    """Between the driver and the twin's ports: passes everything on, and remembers what the driver says.

    Attributes: links, the addresses to give the driver; said, (link, unit) in the order of all links together.
    """

    def __init__(self, links: dict[str, str]) -> None:
        self.said: list[tuple[str, str]] = []
        self._stop = threading.Event()
        self._hooks: list[tuple[str, str, list[int], Callable[[], None]]] = []
        self._lost: dict[str, int] = {}
        self.links: dict[str, str] = {}
        self._threads = []
        for name, address in links.items():
            listener = socket.create_server(("127.0.0.1", 0))
            self.links[name] = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
            self._threads.append(threading.Thread(target=self._serve, args=(name, listener, address)))
            self._threads[-1].start()

    def before(self, link: str, start: str, do: Callable[[], None], nth: int = 1) -> None:
        """``do()`` before the nth unit from now on that begins with ``start`` is passed on."""
        self._hooks.append((link, start, [nth], do))

    def lose(self, link: str, start: str, nth: int = 1, times: int = 1) -> None:
        """The twin's answers to ``times`` such units, from the nth on, do not arrive: the link breaks."""
        for k in range(times):
            self.before(link, start, lambda: self._lost.__setitem__(link, self._lost.get(link, 0) + 1), nth + k)

    def on(self, link: str) -> list[str]:
        """What was said to one instrument."""
        return [unit for name, unit in self.said if name == link]

    def executes(self) -> int:
        return self.on("pmu").count(":PMU:EXECUTE")

    def check_order(self) -> None:
        """Assert what must hold at every unit: relays switch, and the chuck moves, while all sources are at 0 V; every
        execute and every level comes right after a look at the closed crosspoints, with the door asked for since the execute
        before; the chuck moves with outputs off and the matrix open, and steps while it is separated."""
        on: set[str] = set()
        level_v, smu_on, opened, looked, asked, height = 0.0, False, False, -1, -1, ""
        executed = -1
        for at, (link, unit) in enumerate(self.said):
            here = f"unit {at}: {link} {unit}"
            if found := re.match(r":PMU:OUTPUT:STATE (\d), ([01])", unit):
                on = on | {found[1]} if found[2] == "1" else on - {found[1]}
            elif unit == ":PMU:ABORT":
                on = set()
            elif unit == ":PMU:EXECUTE":
                between = [f"{name} {text}" for name, text in self.said[looked + 1 : at]]
                assert looked >= 0, here
                assert all(re.match("pmu :(PMU:OUTPUT:STATE|ERROR:LAST:GET)", text) for text in between), (here, between)
                assert asked > executed, here
                executed = at
            elif link == "matrix" and re.match(r"channel\.(exclusiveclose|close|open)", unit):
                assert not on, here
                assert level_v == 0, here
                opened, looked = "open" in unit, -1
            elif link == "matrix" and unit.startswith("print(channel.getclose"):
                looked = at
            elif found := re.match(r"smua\.source\.levelv = (.*)", unit):
                level_v = float(found[1])
                assert level_v == 0 or looked >= 0, here
            elif found := re.match(r"smua\.source\.output = smua\.OUTPUT_(ON|OFF)", unit):
                smu_on = found[1] == "ON"
            elif unit == "get_door_status":
                asked = at
            elif link == "prober" and unit.startswith(("move_chuck", "map:step")):
                assert not on, here
                assert not smu_on, here
                assert opened, here
                assert looked >= 0, here
                assert not unit.startswith("map:step") or height == "move_chuck_separation", here
                height = unit if unit.startswith("move_chuck") else height

    def _serve(self, name: str, listener: socket.socket, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        end = b"\0" if name == "pmu" else b"\n"
        with listener:
            while not self._stop.is_set():
                if select.select([listener], [], [], 0.02)[0]:
                    driver, _ = listener.accept()
                    with suppress(OSError), driver, socket.create_connection((host, int(port))) as twin:
                        for one in (driver, twin):
                            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        self._pass_on(name, driver, twin, end)

    def _pass_on(self, name: str, driver: socket.socket, twin: socket.socket, end: bytes) -> None:
        rests = {driver: b"", twin: b""}
        while not self._stop.is_set():
            for one in select.select([driver, twin], [], [], 0.02)[0]:
                data = one.recv(65536)
                if not data:
                    return
                *units, rests[one] = (rests[one] + data).split(end)
                for unit in units:
                    if one is driver:
                        self._hear(name, unit.decode())
                        twin.sendall(unit + end)
                    elif self._lost.get(name, 0):
                        self._lost[name] -= 1
                        # Closed at once and not in good order: nobody has to wait for an answer that does not come.
                        driver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    else:
                        driver.sendall(unit + end)

    def _hear(self, name: str, unit: str) -> None:
        for hook in list(self._hooks):
            link, start, left, do = hook
            if link == name and unit.startswith(start):
                left[0] -= 1
                if left[0] == 0:
                    self._hooks.remove(hook)
                    do()
        self.said.append((name, unit))

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@dataclass
class TappedStation:
    """A station on the twin. Attributes: twin; tap; config, of a bench file that reaches the twin through the tap."""

    twin: RunningTwin
    tap: Tap
    config: BenchConfig

    def count(self, name: str) -> int:
        """One of the twin's counters."""
        return self.twin.panel.counts.get(name, 0)

    def applied(self, site: str = "0,0,0") -> dict[tuple[int, int], tuple[int, int]]:
        """(up, down) pulses of every cell of a site that was pulsed, as the twin counts them."""
        cells = self.twin.truth()["dies"][site]
        pairs = zip(cells["pulses_up"], cells["pulses_down"], strict=True)
        every = {(r, c): (u, d) for r, (up, down) in enumerate(pairs) for c, (u, d) in enumerate(zip(up, down, strict=True))}
        return {cell: pulses for cell, pulses in every.items() if pulses != (0, 0)}


@pytest.fixture
def station(rack: Callable[..., RunningTwin]) -> Iterator[Callable[..., TappedStation]]:
    """Starts twins with a tap: ``station(wafer={...}, changes=["boards.main..."])``; all are closed at the end."""
    made: list[Tap] = []

    def make(changes: list[str] | None = None, **settings: Any) -> TappedStation:
        # The names of the shipped bench: the devices are the same.
        twin = rack(**{"name": "main", "wafer": {"columns": 2, "rows": 1}, **settings})
        tap = Tap(twin.links)
        made.append(tap)
        # No answer is ever late, however slow the computer is.
        patient = [f"station.settings.{name}.timeout_s=60" for name in ("pmu", "smu", "matrix", "prober")]
        config = load_bench("twin-probe-station", patient + (changes or []))
        assert config.station is not None
        settings = {key: value for key, value in config.station.settings.items() if key != "twin"}
        reached = config.station.model_copy(update={"settings": {**settings, "links": tap.links}})
        return TappedStation(twin, tap, config.model_copy(update={"station": reached}))

    yield make
    for tap in made:
        tap.close()
