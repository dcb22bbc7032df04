"""The twin of an ArC TWO and the stand-in of its library: the library's names, its strictness, its physics."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from enum import Enum
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from simulated_backend.devices import DeviceSettings
from simulated_backend.settings import EmulatorSettings
from simulated_backend.twins import pyarc2_stand_in as stand_in
from simulated_backend.twins.arc_two import start
from simulated_backend.twins.arc_two_checks import Wrong, volts
from simulated_backend.twins.arc_two_settings import ArcTwoTwinSettings
from simulated_backend.twins.pyarc2_stand_in import ArC2Error, DataMode, IdleMode, Instrument, OutputRange, ReadType
from simulated_backend.twins.running import RunningTwin

ADC_A = 10.24 / 2**17 / 110e3
"""Step of the middle current range."""
STEP_V = 20 / 2**16
UP = [(16, 0.625, 0.0), (0, -0.625, 0.0)]
WIDTHS = [1000, None, 1000, None, None, None, None, None]


@pytest.fixture
def twin() -> Iterator[RunningTwin]:
    """4 rows on 16-19, 3 columns on 0-2, cells stuck anywhere in the range, no noise; served in this process."""
    stop = threading.Event()
    array = EmulatorSettings(rows=4, cols=3, device=DeviceSettings(stuck=1.0))
    settings = ArcTwoTwinSettings(array=array, current_noise_a=0.0)
    yield start(settings, stop)
    stop.set()


@pytest.fixture
def board(twin: RunningTwin) -> Instrument:
    return Instrument(port(twin), "fw.bin")


def port(twin: RunningTwin) -> int:
    return int(twin.links["main"].rpartition(":")[2])


def picked(board: Instrument) -> np.ndarray:
    out = board.pick_one(DataMode.All, ReadType.Current)
    assert out is not None
    return out


METHODS = [name for name, _ in inspect.getmembers(Instrument, inspect.isfunction) if not name.startswith("_")]


def parameters(method: Any) -> list[tuple[str, Any]]:
    return [(one.name, one.default) for one in list(inspect.signature(method).parameters.values())[1:]]


@pytest.mark.parametrize("name", ["__init__", *METHODS])
def test_methods_are_called_as_the_librarys(name):
    library = pytest.importorskip("pyarc2")
    assert parameters(getattr(Instrument, name)) == parameters(getattr(library.Instrument, name))


def test_names_are_the_librarys():
    library = pytest.importorskip("pyarc2")
    for name in stand_in.__all__:
        own, real = getattr(stand_in, name), getattr(library, name)
        if isinstance(own, type) and issubclass(own, Enum):
            assert {one.name for one in own} == {one for one in dir(real) if not one.startswith("_")}
    assert issubclass(library.ArC2Error, Exception)
    assert inspect.signature(stand_in.find_ids).parameters == inspect.signature(library.find_ids).parameters
    assert stand_in.find_ids() == []


def test_no_board_is_an_error_of_the_library():
    with pytest.raises(ArC2Error, match="Invalid ArC2 device id: 1"):
        Instrument(1, "fw.bin")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda b: b.connect_to_gnd(3), TypeError),
        (lambda b: b.connect_to_gnd("3"), TypeError),
        (lambda b: b.connect_to_gnd([[1]]), TypeError),
        (lambda b: b.connect_to_gnd([64]), ArC2Error),
        (lambda b: b.config_channels([(64, 0.1)]), ArC2Error),
        (lambda b: b.config_channels([(0, "0.1")]), TypeError),
        (lambda b: b.config_channels([(0, 10.5)]), ArC2Error),
        (lambda b: b.config_channels([(0, float("nan"))]), ArC2Error),
        (lambda b: b.config_channels([(0, 0.1)], 11.0), ArC2Error),
        (lambda b: b.delay(300), ArC2Error),
        (lambda b: b.delay(330), ArC2Error),
        (lambda b: b.delay(1e3), TypeError),
        (lambda b: b.read_slice_open_deferred([0], 1), TypeError),
        (lambda b: b.pulse_slice_fast_open(UP, WIDTHS[:7], True), ValueError),
        (lambda b: b.pulse_slice_fast_open(UP, [1005, *WIDTHS[1:]], True), ArC2Error),
        (lambda b: b.pulse_slice_fast_open(UP, [30, *WIDTHS[1:]], True), ArC2Error),
        (lambda b: b.pulse_slice_fast_open(UP, [600_000_000, *WIDTHS[1:]], True), ArC2Error),
        (lambda b: b.pulse_slice_fast_open(UP, [None, *WIDTHS[1:]], True), ArC2Error),
        (lambda b: b.pulse_slice_fast_open([*UP, (17, -0.6, 0.0)], WIDTHS, True), ArC2Error),
        (lambda b: b.pulse_slice_fast_open(tuple(UP), WIDTHS, True), TypeError),
        (lambda b: b.set_channel_range([0], "STD"), TypeError),
        (lambda b: b.pick_one("All", ReadType.Current), TypeError),
        (lambda b: b.read_one(0, 64, 0.2), ArC2Error),
    ],
)
def test_wrong_arguments_are_turned_down_and_counted(twin, board, call, error):
    with pytest.raises(error):
        call(board)
    board.execute()
    assert twin.panel.counts["rejected"] == 1
    assert set(twin.truth()["calls"]) == {"open", "execute"}


def test_the_extended_range_takes_more():
    assert volts(13.5, 13.5) == 13.5
    with pytest.raises(Wrong):
        volts(13.6, 13.5)


def test_range_is_told_by_channel(board):
    board.set_channel_range([3], OutputRange.EXT).config_channels([(3, 12.0)])
    with pytest.raises(ArC2Error):
        board.config_channels([(4, 12.0)])


def test_nothing_happens_before_execute(twin, board):
    board.connect_to_gnd([one for one in range(64) if one not in (16, 0)])
    board.pulse_slice_fast_open(UP, WIDTHS, True)
    assert "pulses" not in twin.panel.counts
    board.execute()
    assert twin.panel.counts["pulses"] == 1
    truth = twin.truth()
    assert np.array(truth["pulses_up"]).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert truth["calls"]["pulse_slice_fast_open"] == 1
    assert "floating_lines" not in twin.panel.counts


def test_only_crossings_of_pulsed_lines_are_pulsed(twin, board):
    chans = [(16, -0.5, 0.0), (18, -0.5, 0.0), (1, 0.5, 0.0), (2, 0.5, 0.0)]
    board.connect_to_gnd([one for one in range(64) if one not in (16, 18, 1, 2)])
    board.pulse_slice_fast_open(chans, WIDTHS, True).execute()
    truth = twin.truth()
    assert truth["pulses_down"] == [[0, 1, 1], [0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert np.sum(truth["pulses_up"]) == 0


def test_lines_left_floating_are_counted(twin, board):
    board.pulse_slice_fast_open(UP, WIDTHS, True).execute()
    assert twin.panel.counts["floating_lines"] == 5


def test_current_into_the_sensed_channels(twin, board):
    g = np.array(twin.truth()["g_siemens"])
    applied = [0.3125, -0.15625, 0.0, 0.078125]
    board.config_channels([(16 + row, v) for row, v in enumerate(applied)], 0.0)
    board.read_slice_open_deferred([0, 1, 2], False)
    board.config_channels([(0, 0.3125)], 0.0).read_slice_open_deferred([17], True)
    board.execute()
    forward, backward = picked(board), picked(board)
    assert board.pick_one(DataMode.All, ReadType.Current) is None
    # These voltages are steps of the DAC; half a step of the ADC, and float32, are left.
    np.testing.assert_allclose(forward[:3], applied @ g, rtol=1e-6, atol=0.51 * ADC_A)
    np.testing.assert_allclose(backward[17], 0.3125 * g[1, 0], rtol=1e-6, atol=0.51 * ADC_A)
    assert np.isnan(np.delete(forward, [0, 1, 2])).all()


def test_read_one_biases_the_low_channel_negatively(twin, board):
    # The current flows out of the sensed channel, into the one at -vread.
    g = np.array(twin.truth()["g_siemens"])
    read_v = round(0.2 / STEP_V) * STEP_V
    assert board.read_one(0, 18, 0.2) == pytest.approx(-read_v * g[2, 0], abs=0.51 * ADC_A)
    assert board.read_one(18, 0, 0.2) == pytest.approx(-read_v * g[2, 0], abs=0.51 * ADC_A)
    assert twin.truth()["volts"] == [0.0] * 64


def test_small_currents_take_the_sensitive_range(twin, board):
    g = np.array(twin.truth()["g_siemens"])
    board.config_channels([(16, STEP_V)], 0.0).read_slice_open_deferred([0], False).execute()
    assert picked(board)[0] == pytest.approx(STEP_V * g[0, 0], rel=1e-6, abs=0.51 * 10.24 / 2**17 / 15e6)


def test_channels_must_be_configured_before_they_are_read(twin, board):
    board.finalise_operation(IdleMode.HardGnd)
    assert all(twin.truth()["grounded"])
    board.read_slice_open_deferred([0], False)
    with pytest.raises(ArC2Error, match="configure it first"):
        board.execute()
    assert twin.panel.counts["rejected"] == 1


def test_no_voltage_into_ground(board):
    board.connect_to_gnd([5]).config_channels([(5, 0.1)])
    with pytest.raises(ArC2Error, match="channel 5 is driven with"):
        board.execute()
    board.connect_to_gnd([16]).pulse_slice_fast_open(UP, WIDTHS, True)
    with pytest.raises(ArC2Error, match="channel 16 is pulsed while tied to ground"):
        board.execute()


def test_idle_modes(twin, board):
    for mode, state, grounded in ((IdleMode.HardGnd, "open", True), (IdleMode.SoftGnd, "biased", False)):
        board.config_channels([(1, 0.1)], 0.0).execute().finalise_operation(mode)
        truth = twin.truth()
        assert (set(truth["state"]), set(truth["grounded"]), set(truth["volts"])) == ({state}, {grounded}, {0.0})
        board.connect_to_gnd([]).ground_all().execute()


def test_device_time_is_that_of_the_documentation(twin, board):
    began_s = twin.clock.device_s
    board.config_channels([(16, 0.2)], 0.0).read_slice_open_deferred([0], False).delay(1000).execute()
    assert twin.clock.device_s - began_s == pytest.approx(2.5e-3 + 30e-6 + 1.5e-3 + 1e-6)


def test_orders(twin, board):
    twin.panel.order("refuse", 1)
    with pytest.raises(ArC2Error, match="FPGA Error"):
        board.execute()
    twin.panel.order("blind", 2)
    board.config_channels([(16, 0.2)], 0.0).read_slice_open_deferred([1, 2], False).execute()
    assert np.flatnonzero(~np.isnan(picked(board))).tolist() == [1]
    twin.panel.order("hang", 1)
    assert board.busy()


@pytest.mark.parametrize(
    "changes", [{"link": {"link": "pty"}}, {"words": (1, 1)}, {"bits": (0, 1)}, {"words": (64,)}, {"speed": 1}]
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValidationError):
        ArcTwoTwinSettings.model_validate(changes)
