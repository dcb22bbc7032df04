"""The ArC ONE twin obeys the board's requests to the letter, and refuses, counts and ignores all others."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hil.backend import PulseShape
from simulated_backend.array import EmulatedArray
from simulated_backend.settings import EmulatorSettings, PeripherySettings
from simulated_backend.twins.arc_one import ArcOneDevice, twin
from simulated_backend.twins.arc_one_settings import ArcOneTwinSettings
from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel

ROWS, COLS = 4, 3
ARRAY = EmulatorSettings(rows=ROWS, cols=COLS, periphery=PeripherySettings.ideal("none"))
INIT = ["0", "50", "4", "3", "2", "0", "1", "0.200000"]


class Wire:
    """A device, its clock and what it answered."""

    def __init__(self, **settings: Any) -> None:
        made = ArcOneTwinSettings(**({"array": ARRAY, "seed": 3, "name": "main"} | settings))
        self.panel, self.clock = FaultPanel(made.faults), DeviceClock(made.time_scale)
        self.now_s = 100.0
        self.answers: list[bytes] = []
        self.device = ArcOneDevice(made, self.panel, self.clock, now=lambda: self.now_s)

    def send(self, data: bytes) -> None:
        self.answers.append(data)

    def say(self, *arguments: str, every_s: float = 0.0) -> bytes:
        """The arguments, one after the other; what was answered to them."""
        before = len(self.answers)
        for argument in arguments:
            self.now_s += every_s
            self.device.handle(argument.encode(), self)  # type: ignore[arg-type]
            self.device.tick()
        return b"".join(self.answers[before:])

    def refused(self) -> dict[str, int]:
        return {name.removeprefix("rejected: "): n for name, n in self.panel.counts.items() if name.startswith("rejected")}

    def pulses(self) -> tuple[Any, Any]:
        truth = self.device.truth()
        return truth["pulses_up"], truth["pulses_down"]


def floats(data: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(data) // 4}f", data))


@pytest.fixture
def wire() -> Wire:
    """A board with a session."""
    made = Wire()
    assert made.say(*INIT) == b"1\n"
    return made


def cells(*places: tuple[int, int]) -> list[list[int]]:
    counts = torch.zeros(ROWS, COLS, dtype=torch.int64)
    for row, col in places:
        counts[row, col] += 1
    return counts.tolist()


def test_it_has_the_devices_that_its_name_and_seed_say(wire: Wire) -> None:
    same = EmulatedArray(ARRAY, ROWS, COLS, seed=3, name="main").read(torch.ones(1, ROWS, COLS, dtype=torch.bool))[0]
    truth = torch.tensor(wire.device.truth()["conductances"])
    torch.testing.assert_close(truth, same, rtol=1e-6, atol=0.0)


def test_readings_are_resistances(wire: Wire) -> None:
    g = wire.device.truth()["conductances"]
    assert floats(wire.say("1", "4", "2")) == pytest.approx([1 / g[3][1]], rel=1e-6)
    everything = [1 / value for row in g for value in row]
    assert floats(wire.say("2", "1", "4", "3")) == pytest.approx(everything, rel=1e-6)
    some = [1 / g[1][2], 1 / g[0][0]]
    assert floats(wire.say("2", "2", "32", "32", "2", "2", "3", "1", "1")) == pytest.approx(some, rel=1e-6)
    assert wire.refused() == {}


def test_the_version_is_two_words_and_old_firmware_says_none() -> None:
    assert Wire(firmware=(4, 7)).say("999") == struct.pack("<HH", 4, 7)
    assert Wire(firmware=None).say("999") == b""


def test_pulses_go_to_the_selected_device_and_are_not_answered(wire: Wire) -> None:
    assert wire.say("02", "2", "3", "04", "1.000000", "0.000001", "04", "1.000000", "0.000001") == b""
    assert wire.say("02", "1", "1", "04", "-1.000000", "0.000001") == b""
    assert wire.pulses() == (cells((1, 2), (1, 2)), cells((0, 0)))
    assert wire.panel.counts["pulses"] == 3


def test_a_pulse_moves_the_device_as_the_emulator_does(wire: Wire) -> None:
    same = EmulatedArray(ARRAY, ROWS, COLS, seed=3, name="main")
    counts = torch.zeros(1, ROWS, COLS, dtype=torch.int32)
    counts[0, 1, 2] = 1
    same.pulse(counts, PulseShape(1.0, -1.0, 1e-6))
    after = float(same.read(counts > 0)[0, 1, 2])
    assert floats(wire.say("3", "2", "3", "1.000000", "0.000001")) == pytest.approx([1 / after], rel=1e-6)


def test_a_multi_bias_write_pulses_its_words_on_one_bitline(wire: Wire) -> None:
    answer = floats(wire.say("50", "-1.000000", "0.000010", "0.200000", "2", "3", "2", "1", "4"))
    assert wire.pulses() == (cells(), cells((0, 2), (3, 2)))
    assert len(answer) == 3 * (32 + 32)
    assert answer[1:12:3] == [-1.0, -0.5, -0.5, -1.0]


def test_a_multi_bias_read_is_the_sum_of_its_words(wire: Wire) -> None:
    g = wire.device.truth()["conductances"]
    ohm, volts, _ = floats(wire.say("50", "0.000000", "0.000000", "0.200000", "3", "2", "1", "1", "2", "4"))
    assert volts / ohm == pytest.approx(0.2 * (g[0][1] + g[1][1] + g[3][1]), rel=1e-5)
    wire.say("01", "3", "-0.100000")
    ohm, volts, _ = floats(wire.say("50", "0.000000", "0.000000", "-0.100000", "1", "2", "1", "1"))
    assert volts / ohm == pytest.approx(-0.1 * g[0][1], rel=1e-5)


REFUSED = {
    "word 0": (["1", "0", "1"], "out of range"),
    "a word too many": (["1", "5", "1"], "out of range"),
    "a bit too many": (["02", "1", "4"], "out of range"),
    "no number": (["1", "one", "1"], "malformed"),
    "signed": (["1", "+1", "1"], "malformed"),
    "five decimals": (["3", "1", "1", "1.00000", "0.000001"], "malformed"),
    "exponent": (["3", "1", "1", "1.000000", "1e-6"], "malformed"),
    "13 V": (["3", "1", "1", "13.000000", "0.000001"], "out of range"),
    "no width": (["3", "1", "1", "1.000000", "0.000000"], "out of range"),
    "two seconds": (["3", "1", "1", "1.000000", "2.000000"], "out of range"),
    "nothing selected": (["04", "1.000000", "0.000001"], "nothing selected"),
    "negative in TIA4P": (["01", "2", "-0.200000"], "wrong read mode"),
    "positive in TIA4P_NEG": (["01", "3", "0.200000"], "wrong read mode"),
    "multi-bias read of the other sign": (
        ["50", "0.000000", "0.000000", "-0.200000", "1", "1", "1", "1"],
        "wrong read mode",
    ),
    "the same word twice": (["50", "1.000000", "0.000001", "0.200000", "2", "1", "2", "1", "1"], "out of range"),
    "no words": (["50", "1.000000", "0.000001", "0.200000", "0", "1", "2"], "out of range"),
    "neither read nor write": (["50", "1.000000", "0.000001", "0.200000", "1", "1", "3", "1"], "out of range"),
    "too many devices": (["2", "2", "32", "32", "1025"], "out of range"),
    "sneak 2": (["0", "50", "4", "3", "2", "0", "2", "0.200000"], "out of range"),
    "a fifth read mode": (["0", "50", "4", "3", "4", "0", "1", "0.200000"], "out of range"),
    "curve tracer": (["201"], "unknown request"),
    "an empty line": ([""], "unknown request"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_board_would_not_do_is_ignored_and_counted(wire: Wire, name: str) -> None:
    arguments, reason = REFUSED[name]
    assert wire.say(*arguments) == b""
    assert wire.refused() == {reason: 1}
    assert wire.pulses() == (cells(), cells())
    # And it is ready for the next request.
    assert len(wire.say("1", "1", "1")) == 4


def test_nothing_but_a_reset_a_version_and_a_start_before_a_session() -> None:
    wire = Wire()
    for arguments in (["1", "1", "1"], ["2", "1", "4", "3"], ["02", "1", "1"], ["3", "1", "1", "1.000000", "0.000001"]):
        assert wire.say(*arguments) == b""
    assert wire.refused() == {"not initialised": 4}
    assert len(wire.say("999")) == 4
    assert wire.say(*INIT) == b"1\n"
    wire.say("00")
    assert wire.say("1", "1", "1") == b""


def test_a_missing_argument_is_taken_from_the_next_request(wire: Wire) -> None:
    """What a driver has to fear: the width is lost, the next request's name becomes one."""
    assert wire.say("02", "1", "1", "04", "1.000000") == b""
    assert wire.say("1", "1", "1") == b""
    assert wire.pulses() == (cells(), cells())
    assert wire.refused() == {"malformed": 1}


def test_zeros_bring_a_board_that_waits_for_arguments_back(wire: Wire) -> None:
    for short in (
        ["04", "1.000000"],
        ["3", "1"],
        ["50", "1.000000", "0.000001", "0.200000", "4", "1", "2", "1"],
        ["2", "2"],
    ):
        wire.say("02", "1", "1", *short)
        wire.say(*["00"] * 40)
        assert wire.say(*INIT) == b"1\n"
        assert len(wire.say("1", "1", "1")) == 4
    assert wire.pulses() == (cells(), cells())


def test_arguments_within_half_a_millisecond_are_dropped() -> None:
    wire = Wire(enforce_gap=True, late_s=0.0)
    assert wire.say(*INIT, every_s=0.5001e-3) == b"1\n"
    assert wire.refused() == {}
    # The second of three comes too early: the third is taken for the second, and the request stays short of one.
    wire.say("02", every_s=1e-3)
    wire.say("1", every_s=0.4e-3)
    wire.say("1", every_s=1e-3)
    assert wire.refused() == {"too early": 1}
    assert wire.say("1", every_s=1e-3) == b""
    assert wire.say("04", "1.000000", "0.000001", every_s=1e-3) == b""
    assert wire.pulses() == (cells((0, 0)), cells())


def test_no_gap_is_asked_for_where_no_time_passes() -> None:
    wire = Wire()
    assert wire.say(*INIT) == b"1\n"
    assert wire.refused() == {}


def test_bytes_that_come_during_a_reset_are_lost() -> None:
    wire = Wire(time_scale=1.0, late_s=1.0)
    wire.say("00", every_s=1e-3)
    assert wire.say("999", every_s=1.9) == b""
    assert wire.panel.counts["lost in reset"] == 1
    assert wire.clock.device_s == 2.0
    assert len(wire.say("999", every_s=0.2)) == 4


def test_device_time_is_that_of_pulses_readings_and_resets(wire: Wire) -> None:
    wire.say("00", "00", "00", *INIT)
    wire.say("02", "1", "1", "04", "1.000000", "0.250000", "1", "1", "1", "2", "1", "4", "3")
    assert wire.clock.device_s == pytest.approx(2.0 + 0.25 + 13e-3)


@pytest.mark.parametrize("after", [0, 2])
def test_a_reboot_ends_the_session_and_the_answer(wire: Wire, after: int) -> None:
    wire.panel.order("reboot", after)
    wire.device.tick()
    pulse = ["3", "1", "1", "1.000000", "0.000001"]
    assert len(wire.say(*pulse)) == (4 if after else 0)
    assert wire.say(*pulse) == b""
    assert wire.say("1", "1", "1") == b""
    assert wire.panel.counts["reboots"] == 1
    assert wire.pulses() == (cells(*[(0, 0)] * after), cells())


def test_settings_that_no_board_has_are_refused() -> None:
    good = ARRAY.model_dump()
    for wrong in (
        {"rows": None, "cols": None},
        {"rows": 33},
        {"periphery": {**good["periphery"], "reference": "cell"}},
        {"periphery": {**good["periphery"], "dac_bits": 7}},
    ):
        with pytest.raises(ValidationError):
            twin.settings.model_validate({"array": {**good, **wrong}})
