"""``instruments``: fakes that record every unit sent to them; ``rack``: the four ports of the probe-station twin."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
            with peer:
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
