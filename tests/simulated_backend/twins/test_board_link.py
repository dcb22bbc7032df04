"""The board on its link: exactly once over frames that are lost, broken or doubled, and what must not wait its turn."""

from __future__ import annotations

import json
import math
import socket
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest

from hil.wire import BadFrame, Code, Flag, Frame, Kind, Splitter
from hil.wire_session import Arm, ErrorReply, Hello, Opened
from hil.wire_verbs import Pulse, Shape
from simulated_backend.settings import EmulatorSettings
from simulated_backend.twins.board import start
from simulated_backend.twins.board_settings import BoardSettings
from simulated_backend.twins.control import Control
from simulated_backend.twins.faults import FaultPanel
from simulated_backend.twins.settings import FaultSettings, LinkSettings

ROWS, COLS = 4, 3
CELLS = ROWS * COLS
NO_LIMITS = Arm(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 10**6).pack()
ARRAY = EmulatorSettings(rows=ROWS, cols=COLS)


def pulse(cell, count=1, width_s=1e-6):
    counts = np.zeros(CELLS, dtype=np.int32)
    counts[cell] = count
    return Pulse(Shape(1.0, -1.0, width_s), counts).pack()


class BadLine:
    """Frames through the faults of a twin's link, both ways, without time."""

    def __init__(self, board, faults):
        self.board, self.panel, self.answers = board, FaultPanel(faults), []

    def send(self, unit):
        for copy in self.panel.through(unit)[0]:
            for part in filter(None, copy.split(b"\0")):
                try:
                    self.answers.append(Frame.decode(part))
                except BadFrame:
                    self.panel.count("lost")

    def waiting(self, delimiter):
        return []

    def out(self, unit):
        for copy in self.panel.through(unit)[0]:
            for part in copy.split(b"\0"):
                self.board.handle(part, self)


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 8])
def test_nothing_is_lost_or_doubled(fresh_host, window):
    """2,000 requests with pulses, a tenth of the frames dropped, broken or doubled: every cell has exactly its pulses."""
    host = fresh_host(window=window)
    host.open()
    host.arm(pulses=10)
    line = BadLine(host.board, FaultSettings(drop=0.03, corrupt=0.03, duplicate=0.04, seed=window))
    frames = [host.frame(Kind.PULSE, pulse(n % CELLS, 1 + n % 3), n + 2) for n in range(2000)]
    done = 0
    while done < len(frames):
        sent = frames[done : done + window]
        for frame in sent:
            line.out(frame.encode()[:-1])
        for answer in line.answers:
            if answer.flags == Flag.REPLY and answer.sequence == frames[min(done, 1999)].sequence and done < 2000:
                assert answer.body == struct.pack("<I", 1 + done % 3)
                done += 1
        line.answers.clear()
    wanted = np.zeros(CELLS, dtype=int)
    np.add.at(wanted, np.arange(2000) % CELLS, 1 + np.arange(2000) % 3)
    truth = host.board.truth()
    assert np.ravel(truth["pulses_up"]).tolist() == wanted.tolist()
    assert truth["executed"]["count"] == 2001
    assert min(line.panel.counts[name] for name in ("dropped", "corrupted", "duplicated")) > 50
    assert host.panel.counts["resent"] > 50


class Link:
    """A host on a TCP port."""

    def __init__(self, address):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._splitter, self._frames = Splitter(), []

    def send(self, *frames):
        self._socket.sendall(b"".join(frame.encode() for frame in frames))

    def receive(self):
        while not self._frames:
            data = self._socket.recv(65536)
            assert data
            self._frames += map(Frame.decode, self._splitter.feed(data))
        return self._frames.pop(0)

    def ask(self, frame):
        self.send(frame)
        return self.receive()

    def close(self):
        self._socket.close()


@pytest.fixture
def serve():
    """serve(settings...) -> the running twin; stopped at the end."""
    stops = []

    def make(**settings):
        stop = threading.Event()
        link = LinkSettings(link="tcp", **settings.pop("link", {}))
        running = start(BoardSettings(link=link, array=ARRAY, **settings), stop)
        stops.append((stop, running))
        return running

    yield make
    for stop, _ in stops:
        stop.set()
    for thread in threading.enumerate():
        if thread.name.startswith("twin tcp:"):
            thread.join(timeout=10)


def opened(link, session=3):
    """The nonce, after HELLO, OPEN and ARM."""
    nonce = Hello.unpack(link.ask(Frame(Kind.HELLO, b"\1")).body).nonce
    assert link.ask(Frame(Kind.OPEN, Opened(session, "test").pack(), nonce=nonce)).flags == Flag.REPLY
    assert link.ask(Frame(Kind.ARM, NO_LIMITS, nonce=nonce, session=session, sequence=1)).flags == Flag.REPLY
    return nonce


@pytest.mark.slow
def test_abort_overtakes_what_waits(serve):
    """A request of 1,000 s, another one behind it, and ABORT: the first ends early, the second, posted, is skipped."""
    running = serve(link={"time_scale": 1.0})
    link = Link(running.links["main"])
    nonce = opened(link)
    long = Frame(Kind.PULSE, pulse(0, 1000, 1.0), nonce=nonce, session=3, sequence=2)
    after = Frame(Kind.PULSE, pulse(1), Flag.POSTED, nonce=nonce, session=3, sequence=3)
    link.send(long, after, Frame(Kind.ABORT, nonce=nonce, session=3))
    first, second = (ErrorReply.unpack(link.receive().body) for _ in range(2))
    assert (first.code, second.code) == (Code.ABORTED, Code.SKIPPED)
    assert first.pulses < 100
    assert first.pulses == np.sum(running.truth()["pulses_up"])
    assert running.clock.device_s < 100
    link.close()


@pytest.mark.slow
def test_a_session_outlives_the_link(serve):
    running = serve()
    link = Link(running.links["main"])
    nonce = opened(link)
    frame = Frame(Kind.PULSE, pulse(5, 7), nonce=nonce, session=3, sequence=2)
    first = link.ask(frame)
    link.send(Frame(Kind.PULSE, pulse(5, 9), nonce=nonce, session=3, sequence=3))
    link.close()
    link = Link(running.links["main"])
    assert link.ask(frame) == first
    assert link.ask(Frame(Kind.PULSE, pulse(5, 9), nonce=nonce, session=3, sequence=3)).body == struct.pack("<I", 9)
    assert np.sum(running.truth()["pulses_up"]) == 16
    link.close()


@pytest.mark.slow
def test_as_a_program():
    """``hil twin board``: the ready line, a session, orders and truth over the control socket."""
    settings = {"array": {"rows": ROWS, "cols": COLS}, "serial": "t1", "link": {"link": "tcp"}}
    command = [sys.executable, "-m", "hil", "twin", "board", "--follow", "--settings", json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as twin:
        assert twin.stdout is not None
        ready = json.loads(twin.stdout.readline())
        link = Link(ready["links"]["main"])
        nonce = opened(link)
        with Control(ready["control"]) as control:
            control.order(reboot=3)
            link.send(Frame(Kind.PULSE, pulse(0, 5), nonce=nonce, session=3, sequence=2))
            hello = Hello.unpack(link.ask(Frame(Kind.HELLO, b"\1")).body)
            assert hello.nonce != nonce
            assert hello.serial == "t1"
            assert np.sum(control.truth()["pulses_up"]) == 3
            assert control.report()["counts"]["rebooted"] == 1
        link.close()
        twin.communicate()
    assert twin.returncode == 0
