"""The 4225-PMU's driver byte for byte, its refusals, its lost answers; and end to end against the twin's port."""

from __future__ import annotations

import math

import pytest

from drivers.keithley_707 import Keithley707
from drivers.keithley_4200 import Keithley4200, PmuSettings, PulseTops
from drivers.sentio import Sentio
from hil.errors import HardwareError, LimitError, PulseOutcomeUnknown, UsageError

TOPS = PulseTops(1.2, -1.4, 1e-6)


class Kxci:
    """Answers as KXCI does. Attributes: points of the next test; polls, answers of the test status; silent, refused."""

    def __init__(self) -> None:
        self.points = 0
        self.polls: list[str] = []
        self.silent: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self.last_error = "No error. (0)"

    def __call__(self, unit: str) -> str | None:
        word = unit.split(" ")[0]
        if self.silent.get(word, 0) > 0:
            self.silent[word] -= 1
            return None
        if word in self.refused:
            return self.refused[word]
        if word == "*IDN?":
            return "KEITHLEY INSTRUMENTS,KI4200A-SCS,1234567,V1.13"
        if word == ":ERROR:LAST:GET":
            return self.last_error
        if word == ":PMU:TEST:STATUS?":
            return self.polls.pop(0) if self.polls else "0"
        if word == ":PMU:DATA:COUNT?":
            return str(self.points)
        if word == ":PMU:DATA:GET":
            _, start, count = (int(part) for part in unit.split(" ", 1)[1].split(","))
            return "".join(f"2.000E-01, {k * 1e-9:.6E}, 1.0E-05, 0;" for k in range(start, start + count))
        return "ACK"


@pytest.fixture
def kxci() -> Kxci:
    return Kxci()


@pytest.fixture
def pmu(instruments, kxci):
    """(driver, fake) with the low channel, as shipped; short timeouts, no pauses."""
    fake = instruments(b"\0", kxci)
    driver = Keithley4200(fake.address, PmuSettings(timeout_s=0.3), sleep=lambda _: None)
    yield driver, fake
    driver.close()


def test_standard_train(pmu, kxci):
    driver, fake = pmu
    kxci.polls = ["1", "1", "0"]
    driver.pulses(1.2, 1e-6, 100)
    assert fake.since("*IDN?") == [
        ":ERROR:LAST:CLEAR", ":PMU:INIT 0",
        ":PMU:RPM:CONFIGURE PMU1-1, 0", ":PMU:SOURCE:RANGE 1, 10", ":PMU:MEASURE:RANGE 1, 2, 0.0001",
        ":PMU:RPM:CONFIGURE PMU1-2, 0", ":PMU:SOURCE:RANGE 2, 10", ":PMU:MEASURE:RANGE 2, 2, 0.0001",
        ":PMU:PULSE:TRAIN 1, 0, 1.2", ":PMU:PULSE:TIMES 1, 2.1e-06, 1e-06, 1e-07, 1e-07",
        ":PMU:PULSE:TRAIN 2, 0, 0", ":PMU:PULSE:TIMES 2, 2.1e-06, 1e-06, 1e-07, 1e-07",
        ":PMU:MEASURE:MODE 0", ":PMU:PULSE:BURST:COUNT 100",
        ":PMU:OUTPUT:STATE 1, 1", ":PMU:OUTPUT:STATE 2, 1", ":ERROR:LAST:GET", ":PMU:EXECUTE",
        ":PMU:TEST:STATUS?", ":PMU:TEST:STATUS?", ":PMU:TEST:STATUS?",
        ":PMU:OUTPUT:STATE 1, 0", ":PMU:OUTPUT:STATE 2, 0",
    ]  # fmt: skip
    assert driver.pulses_sent == 100


def test_pulse_and_read_train(instruments, kxci):
    fake = instruments(b"\0", kxci)
    kxci.points = 50
    with Keithley4200(fake.address, PmuSettings(low_channel=None, current_range_a=1e-5, load_ohm=1e4)) as driver:
        seen = driver.trace([1] * 60 + [-1] * 40, TOPS, 0.2, every=2)
        assert fake.since("*IDN?") == [
            ":ERROR:LAST:CLEAR", ":PMU:INIT 1", ":PMU:RPM:CONFIGURE PMU1-1, 0", ":PMU:SOURCE:RANGE 1, 10",
            ":PMU:MEASURE:RANGE 1, 2, 1e-05",
            ":PMU:LOAD 1, 10000",
            ":PMU:SARB:SEQ:TIME 1, 1, 1e-07, 9e-07, 1e-07, 1e-06, 1e-07, 9e-07, 1e-07, 1e-06, 1e-07, 1.99e-05, 1e-07, 1e-06",
            ":PMU:SARB:SEQ:STARTV 1, 1, 0, 1.2, 1.2, 0, 0, 1.2, 1.2, 0, 0, 0.2, 0.2, 0",
            ":PMU:SARB:SEQ:STOPV 1, 1, 1.2, 1.2, 0, 0, 1.2, 1.2, 0, 0, 0.2, 0.2, 0, 0",
            ":PMU:SARB:SEQ:MEAS:TYPE 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0",
            ":PMU:SARB:SEQ:MEAS:START 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6.8e-06, 0, 0",
            ":PMU:SARB:SEQ:MEAS:STOP 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1.99e-05, 0, 0",
            ":PMU:SARB:SEQ:TIME 1, 2, 1e-07, 9e-07, 1e-07, 1e-06, 1e-07, 9e-07, 1e-07, 1e-06, 1e-07, 1.99e-05, 1e-07, 1e-06",
            ":PMU:SARB:SEQ:STARTV 1, 2, 0, -1.4, -1.4, 0, 0, -1.4, -1.4, 0, 0, 0.2, 0.2, 0",
            ":PMU:SARB:SEQ:STOPV 1, 2, -1.4, -1.4, 0, 0, -1.4, -1.4, 0, 0, 0.2, 0.2, 0, 0",
            ":PMU:SARB:SEQ:MEAS:TYPE 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0",
            ":PMU:SARB:SEQ:MEAS:START 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6.8e-06, 0, 0",
            ":PMU:SARB:SEQ:MEAS:STOP 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1.99e-05, 0, 0",
            ":PMU:SARB:WFM:SEQ:LIST 1, 1, 30, 2, 20",
            ":PMU:OUTPUT:STATE 1, 1", ":ERROR:LAST:GET", ":PMU:EXECUTE", ":PMU:TEST:STATUS?",
            ":PMU:DATA:COUNT? 1", ":PMU:DATA:GET 1, 0, 50", ":PMU:OUTPUT:STATE 1, 0",
        ]  # fmt: skip
    assert seen.volt == (0.2,) * 50
    assert seen.ampere == tuple(float(f"{k * 1e-9:.6E}") for k in range(50))
    assert not any(seen.over)


def test_low_channel_stays_at_zero(pmu, kxci):
    driver, fake = pmu
    kxci.points = 1
    driver.read(0.2)
    low = [unit for unit in fake.sent if unit.startswith(":PMU:SARB:SEQ:") and unit.split(" ")[1] == "2,"]
    assert low == [
        ":PMU:SARB:SEQ:TIME 2, 1, 1e-07, 1.99e-05, 1e-07, 1e-06", ":PMU:SARB:SEQ:STARTV 2, 1, 0, 0, 0, 0",
        ":PMU:SARB:SEQ:STOPV 2, 1, 0, 0, 0, 0", ":PMU:SARB:SEQ:MEAS:TYPE 2, 1, 0, 0, 0, 0",
        ":PMU:SARB:SEQ:MEAS:START 2, 1, 0, 0, 0, 0", ":PMU:SARB:SEQ:MEAS:STOP 2, 1, 0, 0, 0, 0",
    ]  # fmt: skip


def test_data_come_in_pages_of_2048(pmu, kxci):
    driver, fake = pmu
    kxci.points = 5000
    seen = driver.read(0.2, 5000)
    pages = [unit for unit in fake.sent if unit.startswith(":PMU:DATA:GET")]
    assert pages == [":PMU:DATA:GET 1, 0, 2048", ":PMU:DATA:GET 1, 2048, 2048", ":PMU:DATA:GET 1, 4096, 904"]
    assert len(seen.ampere) == 5000
    assert seen.ampere[4999] == pytest.approx(4999e-9)


def test_more_than_a_burst_is_one_looped_program(pmu, kxci):
    driver, fake = pmu
    driver.pulses(1.2, 1e-6, 25_000)
    assert ":PMU:SARB:WFM:SEQ:LIST 1, 1, 25000" in fake.sent
    assert fake.sent.count(":PMU:EXECUTE") == 1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda d: d.pulses(10.5, 1e-6, 1), "above the range of 10 V"),
        (lambda d: d.pulses(1.2, 1.23456e-6, 1), "no multiple of 10 ns"),
        (lambda d: d.pulses(1.2, 60e-9, 1), "segments last|top"),
        (lambda d: d.trace([1], PulseTops(1.2, -11, 1e-6), 0.2), "above the range"),
        (lambda d: d.read(0.2, current_range_a=1e-7), "before the current has settled"),
        (lambda d: d.read(0.2, current_range_a=2e-5), "does not exist at 10 V"),
    ],
)
def test_refused_before_a_byte_is_sent(pmu, call, match):
    driver, fake = pmu
    with pytest.raises(LimitError, match=match):
        call(driver)
    assert fake.sent == ["*IDN?"]


def test_no_pulses_no_train(pmu):
    driver, fake = pmu
    with pytest.raises(UsageError):
        driver.pulses(1.2, 1e-6, 0)
    with pytest.raises(UsageError):
        driver.read(0.2, 0)
    assert fake.sent == ["*IDN?"]


def test_both_ends_on_one_channel():
    with pytest.raises(UsageError, match="both 1"):
        Keithley4200("tcp://127.0.0.1:1", PmuSettings(low_channel=1))


def test_refused_command_switches_off(pmu, kxci):
    driver, fake = pmu
    kxci.refused[":PMU:PULSE:TIMES"] = "ERROR: Pulse times are out of range. (-831)"
    with pytest.raises(HardwareError, match=r"':PMU:PULSE:TIMES 1.*was refused .*-831"):
        driver.pulses(1.2, 1e-6, 1)
    assert ":PMU:EXECUTE" not in fake.sent
    assert fake.sent[-3:] == [":PMU:OUTPUT:STATE 1, 0", ":PMU:OUTPUT:STATE 2, 0", ":PMU:TEST:STATUS?"]


def test_error_that_is_only_remembered_stops_the_execute(pmu, kxci):
    driver, fake = pmu
    kxci.last_error = "Measurement window without measurement. (-823)"
    with pytest.raises(HardwareError, match="-823"):
        driver.pulses(1.2, 1e-6, 1)
    assert ":PMU:EXECUTE" not in fake.sent
    assert fake.sent.count(":ERROR:LAST:CLEAR") == 1, "what others left behind"
    kxci.last_error = "No error. (0)"
    driver.pulses(1.2, 1e-6, 1)
    driver.pulses(1.2, 1e-6, 1)
    assert fake.sent.count(":ERROR:LAST:CLEAR") == 2, "what that test left behind"


@pytest.mark.slow
def test_lost_answer_to_execute(pmu, kxci):
    driver, fake = pmu
    kxci.silent[":PMU:EXECUTE"] = 1
    with pytest.raises(PulseOutcomeUnknown, match="100 pulses may be applied or not"):
        driver.pulses(1.2, 1e-6, 100)
    assert fake.sent.count(":PMU:EXECUTE") == 1, "never sent again"
    assert fake.since(":PMU:EXECUTE") == [
        "*IDN?", ":PMU:ABORT", ":PMU:OUTPUT:STATE 1, 0", ":PMU:OUTPUT:STATE 2, 0", ":PMU:TEST:STATUS?",
    ]  # fmt: skip
    assert fake.connections == 2
    driver.pulses(1.2, 1e-6, 1)


@pytest.mark.parametrize("said", ["ACJ", "", "AC", "0"])
def test_an_answer_to_execute_that_says_nothing(pmu, kxci, said):
    """Only an error says that nothing was played."""
    driver, fake = pmu
    kxci.refused[":PMU:EXECUTE"] = said
    with pytest.raises(PulseOutcomeUnknown, match="is no answer to :PMU:EXECUTE: 100 pulses may be applied"):
        driver.pulses(1.2, 1e-6, 100)
    assert fake.sent.count(":PMU:EXECUTE") == 1
    kxci.refused[":PMU:EXECUTE"] = "ERROR: Interlock is open. (-841)"
    with pytest.raises(HardwareError, match="was refused") as caught:
        driver.pulses(1.2, 1e-6, 100)
    assert not isinstance(caught.value, PulseOutcomeUnknown)


def test_what_forbids_an_execute(pmu):
    driver, fake = pmu

    def forbidden():
        raise HardwareError("the crosspoints are others")

    driver.before_execute = forbidden
    with pytest.raises(HardwareError, match="the crosspoints are others"):
        driver.pulses(1.2, 1e-6, 1)
    assert ":PMU:OUTPUT:STATE 1, 1" not in fake.sent
    assert fake.sent[-3:] == [":PMU:OUTPUT:STATE 1, 0", ":PMU:OUTPUT:STATE 2, 0", ":PMU:TEST:STATUS?"]


@pytest.mark.slow
@pytest.mark.parametrize("word", [":PMU:TEST:STATUS?", ":PMU:DATA:COUNT?", ":PMU:DATA:GET"])
def test_lost_answer_to_a_question_is_asked_again(pmu, kxci, word):
    driver, fake = pmu
    kxci.points, kxci.silent[word] = 2, 1
    assert len(driver.read(0.2, 2).ampere) == 2
    assert fake.sent.count(":PMU:EXECUTE") == 1


@pytest.mark.slow
def test_readings_lost_for_good(pmu, kxci):
    """After pulses nobody knows their effect; a reading alone can simply be taken again."""
    driver, _ = pmu
    kxci.points, kxci.silent[":PMU:DATA:GET"] = 2, 2
    with pytest.raises(PulseOutcomeUnknown, match="2 pulses were applied"):
        driver.trace([1, -1], TOPS, 0.2)
    kxci.silent[":PMU:DATA:GET"] = 2
    with pytest.raises(HardwareError) as caught:
        driver.read(0.2, 2)
    assert not isinstance(caught.value, PulseOutcomeUnknown)


def test_a_test_that_does_not_end(instruments, kxci):
    fake = instruments(b"\0", kxci)
    now_s = iter(range(0, 1000, 4))
    kxci.polls = ["1"] * 100
    with Keithley4200(fake.address, clock=lambda: next(now_s), sleep=lambda _: None) as driver:
        with pytest.raises(PulseOutcomeUnknown, match="does not end"):
            driver.pulses(1.2, 1e-6, 1)
        assert ":PMU:ABORT" in fake.sent


def test_fewer_points_than_asked_for(pmu, kxci):
    driver, _ = pmu
    kxci.points = 3
    with pytest.raises(HardwareError, match="3 points where 4"):
        driver.read(0.2, 4)


def test_outputs_off_is_only_confirmed_by_the_instrument(pmu, kxci):
    driver, _ = pmu
    assert driver.outputs_off()
    kxci.refused[":PMU:OUTPUT:STATE"] = "ERROR: (-1)"
    assert not driver.outputs_off()
    with pytest.raises(HardwareError):
        driver.pulses(1.2, 1e-6, 1)
    kxci.refused.clear()


def test_not_a_4200(instruments):
    fake = instruments(b"\0", lambda _: "KEITHLEY INSTRUMENTS INC.,MODEL 2400,1,C30")
    with pytest.raises(HardwareError, match="no 4200A-SCS"):
        Keithley4200(fake.address, sleep=lambda _: None)


@pytest.mark.slow
def test_against_the_twin(rack):
    """Pulses arrive counted, and readings agree with the true conductance within the noise of the range."""
    twin = rack(seed=3, wafer={"columns": 2, "rows": 3})
    with (
        Sentio(twin.links["prober"]) as prober, Keithley707(twin.links["matrix"]) as matrix,
        Keithley4200(twin.links["pmu"]) as pmu,
    ):  # fmt: skip
        prober.separate()
        prober.step(1, 2)
        prober.contact()
        matrix.connect_cell(1, 3, "A", "B")
        pmu.pulses(1.0, 1e-6, 250)
        seen = pmu.trace([1] * 60 + [-1] * 30, PulseTops(1.0, -1.0, 1e-6), 0.2, every=3)
        settled = pmu.read(0.2, 400)
        pmu.pulses(-1.0, 1e-6, 20_000)
        assert pmu.executes == 4
        bottom = pmu.read(0.2)
    cell = twin.truth()["dies"]["1,2,0"]
    assert (cell["pulses_up"][1][3], cell["pulses_down"][1][3]) == (310, 20_030)
    assert sum(map(sum, cell["pulses_up"])) == 310, "no other cell was pulsed"
    assert len(seen.ampere) == 30
    assert not any(seen.over)
    # 47 nA rms over 0.95 us, averaged over the window of 18.95 us; 6 standard deviations: false alarm 2e-9.
    sigma = 47e-9 * math.sqrt(0.95 / 18.95) / 0.2
    assert bottom.ampere[0] / 0.2 == pytest.approx(cell["g_siemens"][1][3], abs=6 * sigma)
    # The last of 400 readings of one state: their spread is the noise; resolves a wrong noise of 30 percent.
    spread = math.sqrt(sum((a - sum(settled.ampere) / 400) ** 2 for a in settled.ampere) / 399) / 0.2
    assert spread == pytest.approx(sigma, rel=6 / math.sqrt(800))
    assert "rejected" not in twin.report()["counts"]
