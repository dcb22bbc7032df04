"""The source-measure unit's driver byte for byte, its refusals, its lost answers; and end to end against the twin's port."""

from __future__ import annotations

import math

import pytest

from drivers.keithley_707 import Keithley707
from drivers.keithley_2600 import Keithley2600, SmuSettings
from drivers.sentio import Sentio
from hil.errors import HardwareError, LimitError, PulseOutcomeUnknown, UsageError

CLEAR = ["errorqueue.clear()", "print(smua.source.output, smua.source.levelv, errorqueue.count)"]
SETUP = [
    "smua.reset()", "format.asciiprecision = 8", "smua.source.func = smua.OUTPUT_DCVOLTS",
    "smua.source.offmode = smua.OUTPUT_HIGH_Z", "smua.source.autorangev = smua.AUTORANGE_OFF", "smua.source.rangev = 2",
    "smua.source.limiti = 0.001", "smua.source.levelv = 0", "smua.measure.autorangei = smua.AUTORANGE_OFF",
    "print(errorqueue.count)",
]  # fmt: skip
FILTER = [
    "smua.measure.rangei = 0.0001", "smua.measure.nplc = 1", "smua.measure.filter.type = smua.FILTER_REPEAT_AVG",
    "smua.measure.filter.count = 4", "smua.measure.filter.enable = smua.FILTER_ON",
]  # fmt: skip
OFF = [
    "smua.abort()", "smua.source.levelv = 0", "smua.source.output = smua.OUTPUT_OFF",
    "print(smua.source.output, smua.source.levelv, errorqueue.count)",
]  # fmt: skip


class Smu:
    """Answers as a 2600B does. Attributes: reading, (value, limited) as printed; on, level; errors; silent."""

    def __init__(self) -> None:
        self.reading = ("2.00000000e-05", "false")
        self.on = "0.00000e+00"
        self.level = "0.00000e+00"
        self.errors: list[str] = []
        self.silent = ""
        self.started = "true\tPulse test done\t3.00000e+00\tfalse"

    def __call__(self, unit: str) -> str | None:
        if unit == "*IDN?":
            return "Keithley Instruments Inc., Model 2636B, 4020001, 3.2.2"
        if unit.startswith("printbuffer"):
            return "1.0e-04, 1.1e-04, 1.2e-04"
        if not unit.startswith("print("):
            return None
        wanted = unit[6:-1]
        if self.silent and self.silent in wanted:
            self.silent = ""
            return None
        if wanted == "errorqueue.next()":
            return self.errors.pop(0)
        values = {
            "reading, limited": "\t".join(self.reading),
            "smua.source.output, smua.source.levelv": f"{self.on}\t{self.level}",
            "good, text, smua.nvbuffer1.n, smua.source.compliance": self.started, "good, text": "true\tPulse configured",
            "smua.source.levelv": self.level, "": "",
        }  # fmt: skip
        said = values[wanted.removesuffix("errorqueue.count").removesuffix(", ")]
        return f"{said}\t{len(self.errors):.5e}".lstrip("\t")


@pytest.fixture
def lua() -> Smu:
    return Smu()


@pytest.fixture
def smu(instruments, lua):
    fake = instruments(b"\n", lua)
    driver = Keithley2600(fake.address, SmuSettings(timeout_s=0.3))
    yield driver, fake
    driver.close()


def test_reading(smu):
    driver, fake = smu
    seen = driver.read(0.2, averages=4)
    assert (seen.ampere, seen.compliance) == (2e-5, False)
    assert fake.since("*IDN?") == [
        *CLEAR, *SETUP, *FILTER, "smua.source.output = smua.OUTPUT_ON", "smua.source.levelv = 0.2", "delay(0.001)",
        "reading, limited = smua.measure.i(), smua.source.compliance", "smua.source.levelv = 0",
        "print(reading, limited, errorqueue.count)",
    ]  # fmt: skip
    before = driver.exchanges
    driver.read(0.2, averages=4)
    assert driver.exchanges == before + 1, "one exchange a reading"


def test_levels_above_a_step_are_ramped(smu, lua):
    driver, fake = smu
    driver.read(1.2)
    assert [unit for unit in fake.sent if "levelv = " in unit][1:] == [
        "smua.source.levelv = 0.4", "smua.source.levelv = 0.8", "smua.source.levelv = 1.2",
        "smua.source.levelv = 0.8", "smua.source.levelv = 0.4", "smua.source.levelv = 0",
    ]  # fmt: skip
    lua.level = "1.20000e+00"
    driver.ramp(0.2)
    assert fake.sent[-4:] == [
        "smua.source.levelv = 0.7", "delay(0.001)", "smua.source.levelv = 0.2", "print(errorqueue.count)",
    ]  # fmt: skip


def test_a_level_left_on_is_ramped_down_before_the_reset(smu, lua):
    driver, fake = smu
    lua.on, lua.level = "1.00000e+00", "-1.00000e+00"
    driver.read(0.2)
    sent = fake.since("*IDN?")
    assert sent[2:6] == ["smua.source.levelv = -0.5", "delay(0.001)", "smua.source.levelv = 0", "print(errorqueue.count)"]
    assert sent[6] == "smua.reset()"


def test_overflow_and_compliance(smu, lua):
    driver, _ = smu
    lua.reading = ("9.91000000e+37", "true")
    seen = driver.read(0.2)
    assert math.isnan(seen.ampere)
    assert seen.compliance


def test_pulses(smu):
    driver, fake = smu
    seen = driver.pulses(1.2, 1e-3, 3)
    assert seen.ampere == (1.0e-4, 1.1e-4, 1.2e-4)
    assert fake.since("*IDN?") == [
        *CLEAR, *SETUP, "smua.source.levelv = 0", "smua.nvbuffer1.clear()", "smua.nvbuffer1.appendmode = 1",
        "smua.measure.nplc = 0.01", "smua.measure.rangei = 0.001", "smua.measure.filter.enable = smua.FILTER_OFF",
        "smua.source.output = smua.OUTPUT_ON",
        "good, text = ConfigPulseVMeasureI(smua, 0, 1.2, 0.001, 0.001, 0.009, 3, smua.nvbuffer1, 1)",
        "print(good, text, errorqueue.count)",
        "good, text = InitiatePulseTest(1)",
        "print(good, text, smua.nvbuffer1.n, smua.source.compliance, errorqueue.count)",
        "printbuffer(1, 3, smua.nvbuffer1.readings)", *OFF,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda d: d.read(2.1), "above range_v = 2 V"),
        (lambda d: d.read(math.nan), "above range_v"),
        (lambda d: d.read(0.2, 101), "1 to 100"),
        (lambda d: d.ramp(-3), "above range_v"),
        (lambda d: d.pulses(1.2, 250e-6, 1), "needs at least 0.00026 s"),
        (lambda d: d.pulses(1.2, 1e-3, 1, period_s=1e-3), "longer period"),
        (lambda d: d.pulses(1.2, 1e-3, 0), "1 to 60000"),
    ],
)
def test_refused_before_a_byte_is_sent(smu, call, match):
    driver, fake = smu
    with pytest.raises(LimitError, match=match):
        call(driver)
    assert fake.sent == ["*IDN?"]


def test_range_far_above_the_limit():
    with pytest.raises(UsageError, match="range_a is far above limit_a"):
        Keithley2600("tcp://127.0.0.1:1", SmuSettings(limit_a=1e-6, range_a=1e-3))


def test_error_queue(smu, lua):
    driver, fake = smu
    lua.errors = [
        "-2.86000e+02\tTSP Runtime error\t2.00000e+01\t1.00000e+00",
        "8.02000e+02\tOUTPUT blocked by interlock\t2\t1",
    ]
    with pytest.raises(HardwareError, match=r"error -286 TSP Runtime error; error 802 OUTPUT blocked by interlock"):
        driver.read(0.2)
    assert "errorqueue.clear()" in fake.sent


@pytest.mark.slow
def test_lost_answer_of_the_pulses(smu, lua):
    driver, fake = smu
    lua.silent = "smua.nvbuffer1.n"
    with pytest.raises(PulseOutcomeUnknown, match="3 pulses started and not reported back"):
        driver.pulses(1.2, 1e-3, 3)
    assert fake.sent.count("good, text = InitiatePulseTest(1)") == 1, "never sent again"
    assert fake.sent[-len(OFF) :] == OFF
    driver.read(0.2)
    assert fake.sent.count("smua.reset()") == 2, "set up again after a new connection"


def test_pulses_that_were_not_all_done(smu, lua):
    driver, fake = smu
    lua.started = "true\tPulse test aborted\t2.00000e+00\tfalse"
    with pytest.raises(PulseOutcomeUnknown, match=r"2\.0+e\+00 of 3 pulses"):
        driver.pulses(1.2, 1e-3, 3)
    assert fake.sent[-len(OFF) :] == OFF


@pytest.mark.slow
def test_outputs_off(smu, lua):
    driver, fake = smu
    assert driver.outputs_off()
    assert fake.since("*IDN?") == [CLEAR[1], *OFF], "nobody knows yet what is on"
    assert driver.outputs_off()
    assert fake.sent[-4:] == OFF
    assert fake.sent[-5] == OFF[-1]
    lua.on = "1.00000e+00"
    assert not driver.outputs_off()
    lua.on, lua.silent = "0.00000e+00", "smua.source.output"
    assert driver.abort(), "a lost answer is asked for again"
    assert "abort" in fake.sent


def test_a_level_is_ramped_down_before_the_output_is_switched_off(smu, lua):
    """One that somebody else left on, and one of this driver's own."""
    driver, fake = smu
    lua.on, lua.level = "1.00000e+00", "-9.00000e-01"
    assert not driver.outputs_off(), "the instrument goes on saying that it is on"
    down = ["smua.source.levelv = -0.45", "delay(0.001)", "smua.source.levelv = 0"]
    assert fake.since("*IDN?") == [CLEAR[1], OFF[0], *down, *OFF[1:]]
    lua.on, lua.level = "0.00000e+00", "0.00000e+00"
    driver.ramp(0.8)
    assert driver.outputs_off()
    down = ["smua.source.levelv = 0.4", "delay(0.001)", "smua.source.levelv = 0"]
    assert fake.sent[-7:] == [OFF[0], *down, *OFF[1:]]


@pytest.mark.slow
def test_not_a_2600(instruments):
    fake = instruments(b"\n", lambda _: "KEITHLEY INSTRUMENTS INC.,MODEL 707B,1,01.40a")
    with pytest.raises(HardwareError, match="no 260/261/263/265"):
        Keithley2600(fake.address)


@pytest.mark.slow
def test_against_the_twin(rack):
    twin = rack(seed=4, wafer={"columns": 1, "rows": 1, "shorted": [{"die": (0, 0), "cells": [(0, 0)]}]})
    with (
        Sentio(twin.links["prober"]) as prober, Keithley707(twin.links["matrix"]) as matrix,
        Keithley2600(twin.links["smu"], SmuSettings(limit_a=2e-4)) as smu,
    ):  # fmt: skip
        matrix.connect_cell(2, 1, "C", "D")
        nothing = smu.read(0.2)
        assert smu.outputs_off()
        assert prober.separate()
        prober.contact()
        seen = smu.read(0.2, averages=100)
        ramped = smu.read(-0.2)
        pulsed = smu.pulses(1.0, 1e-3, 4)
        after = smu.read(0.2, averages=100)
        matrix.connect_cell(0, 0, "C", "D")
        shorted = smu.read(0.2)
        assert smu.outputs_off()
    cell = twin.truth()["dies"]["0,0,0"]
    # 20e-6 of the 100 uA range, 100 cycles: 0.2 nA; 6 standard deviations, 5 readings: false alarm 1e-8.
    sigma = 20e-6 * 1e-4
    assert nothing.ampere == pytest.approx(0, abs=6 * sigma)
    assert seen.ampere == pytest.approx(0.2 * 100e-6, abs=6 * sigma / 10)
    assert ramped.ampere == pytest.approx(-0.2 * 100e-6, abs=6 * sigma)
    assert after.ampere == pytest.approx(0.2 * cell["g_siemens"][2][1], abs=6 * sigma / 10)
    assert (cell["pulses_up"][2][1], cell["pulses_down"][2][1]) == (4, 0)
    assert len(pulsed.ampere) == 4
    assert shorted.compliance, "a shorted cell draws more than the limit"
    counts = twin.report()["counts"]
    assert "rejected" not in counts
    assert "hot_switched" not in counts
