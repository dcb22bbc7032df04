"""The probe-station twin is strict: what the instruments would reject it rejects and counts; and its world is physical."""

from __future__ import annotations

import math
import socket
import statistics
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hil.backend import PulseShape
from simulated_backend.array import EmulatedArray
from simulated_backend.twins.keithley_4200 import RANGES
from simulated_backend.twins.probe_station import ProbeStationSettings, start
from simulated_backend.twins.running import RunningTwin
from simulated_backend.twins.wafer import WaferSettings, die_name, die_settings

EVERY = torch.ones(1, 4, 4, dtype=torch.bool)


class Bench:
    """A twin and raw sockets to its ports. Attributes: twin; one method per port that asks a line or command."""

    def __init__(self, twin: RunningTwin) -> None:
        self.twin = twin
        self._sockets: dict[str, socket.socket] = {}

    def _line(self, port: str) -> bytes:
        end = b"\0" if port == "pmu" else b"\n"
        line = b""
        while not line.endswith(end):
            data = self._sockets[port].recv(1)
            assert data, f"{port} closed the link"
            line += data
        return line[:-1]

    def _ask(self, port: str, text: str, answers: bool = True) -> str:
        if port not in self._sockets:
            host, _, number = self.twin.links[port].removeprefix("tcp://").rpartition(":")
            self._sockets[port] = socket.create_connection((host, int(number)), timeout=10)
            self._sockets[port].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[port].sendall(text.encode() + (b"\0" if port == "pmu" else b"\n"))
        return self._line(port).decode() if answers else ""

    def pmu(self, *commands: str) -> str:
        """Ask them all; the last answer."""
        return [self._ask("pmu", command) for command in commands][-1]

    def smu(self, *lines: str) -> str:
        """Run lines, then read the last of them, which prints."""
        for line in lines[:-1]:
            self._ask("smu", line, answers=False)
        return self._ask("smu", lines[-1])

    def matrix(self, *lines: str) -> str:
        for line in lines[:-1]:
            self._ask("matrix", line, answers=False)
        return self._ask("matrix", lines[-1])

    def prober(self, *commands: str) -> str:
        return [self._ask("prober", command) for command in commands][-1]

    def close_cell(self, row: int, col: int, drive: str = "A", low: str = "B") -> None:
        names = f"1{drive}{row + 1:02d},1{low}{col + 5:02d}"
        assert self.matrix(f'channel.exclusiveclose("{names}")', "print(errorqueue.count)") == "0.00000000e+00"

    def count(self, name: str) -> int:
        return self.twin.panel.counts.get(name, 0)

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Starts twins: ``bench(seed=1, wafer={...})``."""
    stop = threading.Event()
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(start(ProbeStationSettings.model_validate(settings), stop)))
        return made[-1]

    yield make
    for one in made:
        one.close()
    stop.set()


def sarb(volts: list[tuple[float, float, bool]], channel: int = 1) -> list[str]:
    """Commands that define sequence 1 of trapezoids (top voltage, top time, measured), and the list that plays it once."""
    start, stop, time, kind, last = [], [], [], [], []
    for volt, top_s, measured in volts:
        start += [0, volt, volt, 0]
        stop += [volt, volt, 0, 0]
        time += [1e-7, top_s, 1e-7, 1e-6]
        kind += [0, int(measured), 0, 0]
        last += [0, top_s if measured else 0, 0, 0]
    arrays = {
        "TIME": time, "STARTV": start, "STOPV": stop, "MEAS:TYPE": kind, "MEAS:START": [0] * len(last), "MEAS:STOP": last,
    }  # fmt: skip
    commands = [f":PMU:SARB:SEQ:{word} {channel}, 1, {', '.join(map(str, values))}" for word, values in arrays.items()]
    return [*commands, f":PMU:SARB:WFM:SEQ:LIST {channel}, 1, 1"]


def ready(channel: int = 1, range_a: float = 1e-4, mode: int = 1) -> list[str]:
    return [
        f":PMU:INIT {mode}", f":PMU:RPM:CONFIGURE PMU1-{channel}, 0", f":PMU:SOURCE:RANGE {channel}, 10",
        f":PMU:MEASURE:RANGE {channel}, 2, {range_a}",
    ]  # fmt: skip


def standard(volt: float, width: str, count: int) -> list[str]:
    """Commands of a standard train on channel 1."""
    times = f":PMU:PULSE:TIMES 1, 1e-5, {width}, 1e-7, 1e-7"
    return [*ready(mode=0), f":PMU:PULSE:TRAIN 1, 0, {volt}", times, f":PMU:PULSE:BURST:COUNT {count}"]


def finish(bench: Bench) -> None:
    while bench.pmu(":PMU:TEST:STATUS?") != "0":
        pass
    bench.pmu(":PMU:OUTPUT:STATE 1, 0", ":PMU:OUTPUT:STATE 2, 0")


GO = [":PMU:OUTPUT:STATE 1, 1", ":PMU:EXECUTE"]


@pytest.mark.parametrize(
    "command",
    [
        ":PMU:INIT 2", ":PMU:RPM:CONFIGURE PMU2-1, 0", ":PMU:RPM:CONFIGURE PMU1-3, 0", ":PMU:RPM:CONFIGURE PMU1-1, 2",
        ":PMU:SOURCE:RANGE 1, 20", ":PMU:MEASURE:RANGE 1, 0", ":PMU:MEASURE:RANGE 1, 2, 2e-5", ":PMU:LOAD 1, 0.5",
        ":PMU:PULSE:TRAIN 1, 0, 11", ":PMU:PULSE:TIMES 1, 50e-9, 40e-9, 20e-9, 20e-9",
        ":PMU:PULSE:TIMES 1, 1e-5, 30e-9, 20e-9, 20e-9", ":PMU:PULSE:TIMES 1, 1e-5, 1e-6, 2e-6, 1e-7",
        ":PMU:PULSE:BURST:COUNT 0", ":PMU:PULSE:BURST:COUNT 10001", ":PMU:SARB:SEQ:TIME 1, 513, 1e-6, 1e-6, 1e-6",
        ":PMU:SARB:SEQ:TIME 1, 1, " + ", ".join(["1e-6"] * 129), ":PMU:SARB:SEQ:TIME 1, 1, x",
        ":PMU:SARB:WFM:SEQ:LIST 1, 1, 1", ":PMU:OUTPUT:STATE 3, 1", ":PMU:OUTPUT:STATE 1, 2", ":PMU:DATA:GET 1, 0, 2049",
        ":PMU:EXECUTE", ":PMU:NONSENSE", "PG",
    ],
)  # fmt: skip
def test_pmu_rejects(bench, command):
    it = bench()
    it.pmu(*ready())
    assert it.pmu(command).startswith("ERROR")
    assert it.count("rejected") == 1
    assert "(0)" not in it.pmu(":ERROR:LAST:GET")
    it.pmu(":ERROR:LAST:CLEAR")
    assert it.pmu(":ERROR:LAST:GET") == "No error. (0)"


def test_pmu_rejects_programs(bench):
    it = bench()
    good = sarb([(1.0, 9e-7, False), (0.2, 2e-5, True)])

    def changed(word: str, values: str) -> list[str]:
        return [
            f":PMU:SARB:SEQ:{word} 1, 1, {values}" if command.startswith(f":PMU:SARB:SEQ:{word} ") else command
            for command in good
        ]

    bad = {
        "-850": changed("TIME", "1e-7, 9e-7, 1e-7, 1e-6"),
        "-851": changed("STARTV", "0, 11, 1, 0, 0, 0.2, 0.2, 0"),
        "-852": changed("TIME", "1.5e-8, 9e-7, 1e-7, 1e-6, 1e-7, 2e-5, 1e-7, 1e-6"),
        "-853": changed("STARTV", "0, 0.9, 1, 0, 0, 0.2, 0.2, 0"),
        "-823": changed("MEAS:STOP", "0, 9e-7, 0, 0, 0, 2e-5, 0, 0"),
        "-855": changed("MEAS:STOP", "0, 0, 0, 0, 0, 3e-5, 0, 0"),
    }
    for code, commands in bad.items():
        assert code in it.pmu(*ready(), *commands, *GO), code
    assert "-842" in it.pmu(":PMU:INIT 1", *good, *GO)
    assert "-845" in it.pmu(*ready(), *GO)
    other = sarb([(0.0, 9e-7, False), (0.0, 2.1e-5, False)], channel=2)
    assert "-844" in it.pmu(*ready(), *ready(2)[1:], *good, *other, ":PMU:OUTPUT:STATE 2, 1", *GO)
    assert it.count("rejected") == len(bad) + 3
    assert it.count("executes") == 0
    assert it.pmu(*ready(), *good, *GO) == "ACK"
    finish(it)


def test_status_and_outputs_of_a_test(bench):
    it = bench()
    it.pmu(*ready(), *sarb([(1.0, 9e-7, False)]), *GO)
    assert it.pmu(":PMU:TEST:STATUS?") == "1"
    assert it.pmu(":PMU:TEST:STATUS?") == "0"
    assert it.prober("move_chuck_contact") == "40,0,outputs on", "there is no automatic off"
    it.pmu(":PMU:OUTPUT:STATE 1, 0")
    assert it.prober("move_chuck_contact") == "0,0,12000.0"
    it.pmu(*GO)
    it.pmu(":PMU:TEST:STATUS?", ":PMU:TEST:STATUS?", ":PMU:INIT 0")
    assert it.count("left_on") == 1


def test_pulse_into_an_open_matrix_does_nothing_and_is_counted(bench):
    it = bench()
    pulse = standard(1, "1e-6", 7)
    it.prober("move_chuck_contact")
    assert it.pmu(*pulse, *GO) == "ACK"
    finish(it)
    assert (it.count("pulses"), it.count("pulses_into_nothing")) == (0, 7)
    it.close_cell(0, 0, low="D")
    assert it.pmu(*pulse, *GO) == "ACK"
    finish(it)
    assert (it.count("pulses"), it.count("pulses_into_nothing")) == (7, 7)
    it.close_cell(0, 0, low="B")
    assert it.pmu(*pulse, *GO) == "ACK", "the other end is a channel that is off"
    finish(it)
    it.prober("move_chuck_separation")
    it.close_cell(0, 0, low="D")
    assert it.pmu(*pulse, *GO) == "ACK", "the probes are up"
    finish(it)
    assert (it.count("pulses"), it.count("pulses_into_nothing")) == (7, 21)


def test_devices_are_the_emulators(bench):
    """The same devices, pulses and noise as an EmulatedArray that is driven directly, in the same order of calls."""
    it = bench(seed=9, name="w")
    it.prober("map:step_die 3, 2, 0", "move_chuck_contact")
    it.close_cell(1, 2, low="D")
    program = sarb([(1.0, 9e-7, False)] * 3)
    program[-1] = ":PMU:SARB:WFM:SEQ:LIST 1, 1, 5"
    it.pmu(*ready(), *program, *GO)
    finish(it)
    it.pmu(*standard(-1.1, "2e-6", 4), *GO)
    finish(it)
    settings = it.twin.truth()["dies"]["3,2,0"]
    wafer = WaferSettings()
    twin = EmulatedArray(die_settings(wafer, (3, 2)), 4, 4, seed=9, name=die_name("w", (3, 2), 0))
    one = torch.zeros(1, 4, 4, dtype=torch.int32)
    one[0, 1, 2] = 1
    for _ in range(15):
        twin.pulse(one, PulseShape(1.0, -1.0, 1e-6))
    twin.pulse(one * -4, PulseShape(1.0, -1.1, 2e-6))
    assert settings["g_siemens"] == twin.read(EVERY)[0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("range_a", "top_s"), [(1e-4, 2e-5), (1e-4, 2e-6), (1e-3, 2e-6), (1e-5, 1e-4)])
def test_noise_of_a_range(bench, range_a, top_s):
    """Standard deviation = the table's at its settled time, falling with the root of the window.

    400 readings: 6 standard deviations of a sample deviation are 21 percent; false alarm 2e-9, resolves 25 percent.
    """
    it = bench(seed=5)
    it.prober("move_chuck_contact")
    it.close_cell(0, 0, low="D")
    program = sarb([(0.02, top_s, True)])
    settled_s, noise_a = RANGES[range_a]
    program[4] = f":PMU:SARB:SEQ:MEAS:START 1, 1, 0, {settled_s}, 0, 0"
    program[-1] = ":PMU:SARB:WFM:SEQ:LIST 1, 1, 400"
    it.pmu(*ready(range_a=range_a), *program, *GO)
    points = [[float(x) for x in point.split(",")] for point in it.pmu(":PMU:DATA:GET 1, 0, 2048").split(";")]
    finish(it)
    assert len(points) == int(it.pmu(":PMU:DATA:COUNT? 1")) == 400
    assert {point[0] for point in points} == {0.02}
    assert all(b[2] > a[2] for a, b in pairwise(points))
    expected = noise_a * math.sqrt(settled_s / (top_s - settled_s))
    assert statistics.stdev(point[1] for point in points) == pytest.approx(expected, rel=6 / math.sqrt(2 * 399))
    mean = statistics.fmean(point[1] for point in points)
    assert mean == pytest.approx(0.02 * 100e-6, abs=6 * expected / 20 + 0.002 * 0.02 * 100e-6)
    assert it.count("unsettled_readings") == 0


def test_reading_before_the_current_has_settled(bench):
    """On the 10 uA range the current has settled to 0.1 percent after 6.8 us: a window of 1 us from the edge sees less."""
    it = bench(wafer={"gradient": {"range": (0, 0)}})
    it.prober("move_chuck_contact")
    it.close_cell(0, 0, low="D")
    program = sarb([(0.05, 1e-6, True)])
    program[-1] = ":PMU:SARB:WFM:SEQ:LIST 1, 1, 400"
    it.pmu(*ready(range_a=1e-5), *program, *GO)
    seen = statistics.fmean(float(point.split(",")[1]) for point in it.pmu(":PMU:DATA:GET 1").split(";"))
    finish(it)
    tau = 6.8e-6 / math.log(1000)
    expected = 0.05 * 100e-6 * (1 - tau / 1e-6 * (1 - math.exp(-1e-6 / tau)))
    assert expected < 0.5 * 0.05 * 100e-6
    noise = RANGES[1e-5][1] * math.sqrt(6.8) / 20
    assert seen == pytest.approx(expected, abs=6 * noise)
    assert it.count("unsettled_readings") == 400


def test_range_is_exceeded(bench):
    it = bench(wafer={"shorted": [{"die": (0, 0), "cells": [(0, 0)]}]})
    it.prober("move_chuck_contact")
    it.close_cell(0, 0, low="D")
    it.pmu(*ready(range_a=1e-5), *sarb([(0.2, 1e-4, True)]), *GO)
    volt, ampere, _, status = (float(x) for x in it.pmu(":PMU:DATA:GET 1").split(","))
    finish(it)
    assert (volt, ampere, status) == (0.2, 1e-5, 1)


def test_prober_refuses_and_counts(bench):
    it = bench()
    assert it.prober("move_chuck_contact") == "0,0,12000.0"
    assert it.prober("map:step_die 1, 1, 0") == "42,0,in contact"
    it.smu("smua.source.output = 1", "print(errorqueue.count)")
    assert it.prober("move_chuck_separation") == "40,0,outputs on"
    it.smu("smua.source.output = 0", "print(errorqueue.count)")
    assert it.prober("move_chuck_separation") == "0,0,11700.0"
    assert it.prober("map:step_die 9, 9, 0") == "30,0,bad parameter"
    assert it.prober("map:step_die 1, 1, 1") == "30,0,bad parameter"
    assert it.prober("map:path:get_die 20") == "30,0,bad parameter"
    assert it.prober("nonsense") == "20,0,unknown command"
    last = it.prober("map:step_die 4, 3, 0").split(",")
    assert (int(last[0]) & 1023, (int(last[0]) >> 10) & 1) == (0, 1), "end of the route"
    assert it.prober("map:step_next_die") == "50,0,end of route"
    assert it.count("rejected") == 7
    assert it.count("touchdowns") == 1
    assert it.twin.clock.device_s > 1.5 + 2 * 0.5


def test_matrix_counts_hot_switching_and_shorts(bench):
    it = bench()
    it.close_cell(0, 0, "C", "D")
    it.smu("smua.source.levelv = 0.1", "smua.source.output = smua.OUTPUT_ON", "print(errorqueue.count)")
    it.close_cell(0, 1, "C", "D")
    assert it.count("hot_switched") == 1
    it.smu("smua.source.levelv = 0", "print(errorqueue.count)")
    it.close_cell(0, 2, "C", "D")
    assert it.count("hot_switched") == 1, "at 0 V it is none"
    assert it.matrix('channel.close("1A01")', 'print(channel.getclose("allslots"))') == "1A01;1C01;1D07"
    assert it.count("shorted_terminals") == 1
    for bad in (
        'channel.close("1A13")',
        'channel.close("2A01")',
        'channel.close("")',
        "channel.connectrule = 7",
        "channel.x = 1",
    ):
        assert it.matrix(bad, "print(errorqueue.count)") == "1.00000000e+00", bad
        it.matrix("errorqueue.clear()", "print(errorqueue.count)")
    assert it.matrix('channel.open("allslots")', 'print(channel.getclose("allslots"))') == "nil"
    assert it.matrix('print(channel.getcount("1C01,1D05,1D06"))') == "1,1,1"
    assert it.count("closures") == 5


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("smua.source.levelv = 0.3", 1102), ("smua.source.limiti = 5", 1102), ("smua.measure.nplc = 26", 1102),
        ("smua.measure.nplc = 0", 1103), ("smua.measure.filter.count = 101", 1102), ("smua.source.rangev = 300", 1102),
        ("smua.source.compliance = 1", -286), ("smua.source.nothing = 1", -286), ("smua.nothing()", -286), ("x = = 2", -285),
        ("smua.source.levelv 0", -285), ("print(1", -285), ("printbuffer(1, 5, smua.nvbuffer1.readings)", 1115),
    ],
)  # fmt: skip
def test_smu_error_queue(bench, line, code):
    it = bench()
    it.smu("smua.source.autorangev = 0", "print(errorqueue.count)")
    assert it.smu(line, "print(errorqueue.count)") == "1.00000000e+00"
    assert float(it.smu("print(errorqueue.next())").split("\t")[0]) == code
    assert it.smu("print(errorqueue.count)") == "0.00000000e+00"
    assert it.count("rejected") == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("smua.source.rangev = 0.2", "source range"), ("smua.measure.nplc = 0.05", "does not fit"),
        ("smua.source.autorangev = smua.AUTORANGE_ON", "autorange"),
    ],
)  # fmt: skip
def test_smu_pulse_is_refused(bench, change, word):
    it = bench()
    setup = [
        "smua.source.autorangev = 0", "smua.measure.autorangei = 0", "smua.source.rangev = 2", "smua.measure.nplc = 0.01",
        "smua.source.output = 1",
    ]  # fmt: skip
    ask = "good, text = ConfigPulseVMeasureI(smua, 0, 1, 0.001, 0.0005, 0.005, 3, smua.nvbuffer1, 1)"
    assert it.smu(*setup, ask, "print(good, text)") == "true\tPulse configured"
    good, _, text = it.smu(change, ask, "print(good, text)").partition("\t")
    assert good == "false"
    assert word in text


def test_dc_level_above_the_threshold_writes(bench):
    it = bench()
    it.prober("move_chuck_contact")
    it.close_cell(0, 0, "C", "D")
    lines = ["smua.source.autorangev = 0", "smua.source.rangev = 2", "smua.source.output = 1"]
    it.smu(*lines, "smua.source.levelv = 0.3", "delay(0.1)", "smua.source.levelv = 0", "print(errorqueue.count)")
    assert it.count("pulses") == 0
    it.smu("smua.source.levelv = 1", "delay(0.1)", "smua.source.levelv = 0", "print(errorqueue.count)")
    assert it.twin.truth()["dies"]["0,0,0"]["pulses_up"][0][0] == 1


def test_interlock(bench):
    it = bench()
    it.smu("smua.source.output = 1", "print(errorqueue.count)")
    it.twin.panel.order("open_interlock", 1.0)
    assert it.smu("print(smua.source.output)") == "0.00000000e+00"
    assert it.smu("smua.source.output = 1", "print(errorqueue.next())").startswith(
        "8.02000000e+02\tOUTPUT blocked by interlock"
    )
    assert it.prober("get_door_status") == "0,0,open"
    assert it.prober("move_chuck_contact") == "41,0,door open"
    assert it.prober("move_chuck_separation") == "0,0,11700.0", "away from the wafer is always safe"
    assert "-841" in it.pmu(*ready(), *sarb([(1.0, 9e-7, False)]), *GO)
    it.twin.panel.order("open_interlock", 0.0)
    assert it.prober("move_chuck_contact") == "0,0,12000.0"
    assert it.count("dropped_by_interlock") == 1


def test_wafer_gradient():
    wafer = WaferSettings()
    middle = WaferSettings(dies=((0, 0),))
    assert die_settings(middle, (0, 0)).device == wafer.array.device, "a wafer of one die has no gradient"
    left, right = die_settings(wafer, (0, 0)).device, die_settings(wafer, (4, 3)).device
    assert right.dw_min == pytest.approx(0.005 * 1.3)
    assert left.dw_min == pytest.approx(0.005 * 0.7)
    assert right.up_down == pytest.approx(0.05)
    assert right.w_max == pytest.approx(0.6 * 1.2)
    assert right.w_min == pytest.approx(-0.6 * 1.2)


def test_truth_names_the_defects(bench):
    it = bench(wafer={"columns": 2, "rows": 1, "shorted": [{"die": (0, 0), "cells": [(1, 2)]}], "no_contact": [(1, 0)]})
    dies = it.twin.truth()["dies"]
    assert dies["0,0,0"]["shorted"] == [[1, 2]]
    assert dies["0,0,0"]["g_siemens"][1][2] > 10 * dies["0,0,0"]["g_siemens"][0][0]
    assert not dies["1,0,0"]["contact"]
    it.prober("map:step_die 1, 0, 0", "move_chuck_contact")
    it.close_cell(0, 0, low="D")
    it.pmu(*ready(), *sarb([(1.0, 9e-7, False), (0.2, 2e-5, True)]), *GO)
    finish(it)
    assert abs(float(it.pmu(":PMU:DATA:GET 1").split(",")[1])) < 6 * 47e-9, "no contact: noise only"
    assert it.count("pulses_into_nothing") == 1


@pytest.mark.parametrize(
    ("wafer", "match"),
    [
        ({"dies": ((0, 0), (0, 0))}, "names a die twice"), ({"no_contact": ((9, 9),)}, "not on the map"),
        ({"shorted": ({"die": (0, 0), "cells": ((4, 0),)},)}, "outside 4 x 4"), ({"array": {}}, "has a size"),
        ({"array": {"rows": 5, "cols": 4}}, "name a column for every line"),
    ],
)  # fmt: skip
def test_settings(wafer, match):
    with pytest.raises(ValidationError, match=match):
        ProbeStationSettings.model_validate({"wafer": wafer})


def test_one_cell_is_a_crossbar_too(bench):
    it = bench(
        wafer={"columns": 1, "rows": 1, "array": {"rows": 1, "cols": 1}}, wiring={"row_columns": (3,), "col_columns": (4,)}
    )
    it.prober("move_chuck_contact")
    assert it.matrix('channel.exclusiveclose("1A03,1D04")', "print(errorqueue.count)") == "0.00000000e+00"
    it.pmu(*ready(), *sarb([(1.0, 9e-7, False)]), *GO)
    finish(it)
    assert it.count("pulses") == 1
