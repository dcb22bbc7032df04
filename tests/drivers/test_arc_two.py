"""The ArC TWO driver call by call: what it asks of its vendor's library, in which order, and what it refuses before."""

from __future__ import annotations

from contextlib import ExitStack
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from drivers.arc_two import ArcTwo
from drivers.arc_two_instrument import BLOCK, Instrument
from drivers.arc_two_settings import ArcTwoSettings
from hil.backend import ArrayBackend, PulseShape
from hil.encoding import PulseTrain
from hil.errors import HardwareError, LimitError, PulseOutcomeUnknown, ShapeError, UsageError

STEP_V = 20 / 2**16
READ_V = 655 * STEP_V
"""0.2 V as the DAC makes it."""
SHAPE = PulseShape(2.0, -1.5, 1e-6)
G = np.array([[10e-6, 20e-6], [30e-6, 40e-6]])
WORDS, BITS = [16, 48], [0, 33]
WIDTHS = [1000, None, 1000, None, None, None, None, None]
REST = list(range(64))
ONES = PulseTrain.given(
    torch.ones(1, 1, 2, dtype=torch.int32), torch.ones(1, 1, 2, dtype=torch.int8), torch.ones(1, 1, dtype=torch.int32)
)


class VendorError(Exception):
    """The library's catch-all."""


Modes = Enum("Modes", ["Internal", "Header", "HardGnd", "SoftGnd", "STD", "EXT", "All", "Current"])


class Recorder:
    """A board that answers reads by Ohm's law with G, and records every call but ``busy`` and ``pick_one``."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fail_at = ""
        self.stuck = False
        self.blind: int | None = None
        self.results: list[np.ndarray] = []
        self._volts: dict[int, float] = {}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> None:
            self.calls.append((name, *arguments))
            if name == self.fail_at:
                raise VendorError("FPGA Error:\nwrite failed")
            if name == "config_channels":
                self._volts = dict(arguments[0])
            if name == "read_slice_open_deferred":
                self.results.append(self._currents(arguments[0]))

        return call

    def _currents(self, sensed: list[int]) -> np.ndarray:
        out = np.full(64, np.nan, dtype=np.float32)
        rows, cols = (np.array([self._volts.get(channel, 0.0) for channel in side]) for side in (WORDS, BITS))
        for channel, current in [*zip(BITS, rows @ G, strict=True), *zip(WORDS, G @ cols, strict=True)]:
            if channel in sensed and channel != self.blind:
                out[channel] = current
        return out

    def busy(self) -> bool:
        return self.stuck

    def pick_one(self, mode: Modes, kind: Modes) -> np.ndarray | None:
        assert (mode, kind) == (Modes.All, Modes.Current)
        return self.results.pop(0) if self.results else None

    def take(self) -> list[tuple[Any, ...]]:
        """The calls since the last time."""
        calls, self.calls = self.calls, []
        return calls


def settings(**changes: Any) -> ArcTwoSettings:
    return ArcTwoSettings.model_validate(
        {"id": 7, "firmware": "fw.bin", "serial": "chip", "channels": {"words": WORDS, "bits": BITS}} | changes
    )


class Rig:
    """A driver on a recorder. It can be opened once a test: the lock is by port."""

    def __init__(self) -> None:
        self.vendor = Recorder()
        self.now_s = 0.0
        self._stack = ExitStack()

    def open(self, **changes: Any) -> ArcTwo:
        chosen = settings(**changes)
        library = SimpleNamespace(
            Instrument=lambda port, firmware: self.vendor, ArC2Error=VendorError, find_ids=lambda: [], ControlMode=Modes,
            OutputRange=Modes, IdleMode=Modes, DataMode=Modes, ReadType=Modes,
        )  # fmt: skip

        def sleep(seconds: float) -> None:
            self.now_s += seconds

        clock = lambda: self.now_s  # noqa: E731
        # A port of its own, so that tests may run side by side.
        made = Instrument(library, id(self), "fw.bin", name="boards.main", timeout_s=1.0, clock=clock, sleep=sleep)
        made.prepare([*WORDS, *BITS], chosen.control, chosen.output_range)
        self._stack.callback(made.close)
        return ArcTwo(chosen, made, "fw.bin", ExitStack())

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.close()


@pytest.fixture
def board(rig):
    made = rig.open()
    rig.vendor.take()
    return made


def others(*busy: int) -> list[int]:
    return [channel for channel in REST if channel not in busy]


def mask(*cells: tuple[int, int]) -> torch.Tensor:
    out = torch.zeros(1, 2, 2, dtype=torch.bool)
    for row, col in cells:
        out[0, row, col] = True
    return out


def test_opening_sets_routing_and_range_and_grounds(rig):
    rig.open(output_range="EXT", control="Header")
    assert rig.vendor.take() == [
        ("set_control_mode", Modes.Header), ("set_channel_range", [16, 48, 0, 33], Modes.EXT), ("ground_all",), ("execute",),
    ]  # fmt: skip


def test_a_read_biases_row_after_row_and_flushes_once(rig, board):
    assert isinstance(board, ArrayBackend)
    g = board.read(mask((0, 0), (1, 0), (1, 1)), averages=2)
    first = [("connect_to_gnd", []), ("config_channels", [(16, READ_V)], 0.0), ("read_slice_open_deferred", [0], False)]
    second = [("connect_to_gnd", []), ("config_channels", [(48, READ_V)], 0.0), ("read_slice_open_deferred", [0, 33], False)]
    assert rig.vendor.take() == [*first, *first, *second, *second, ("ground_all",), ("execute",)]
    want = torch.tensor([[[G[0, 0], torch.nan], [G[1, 0], G[1, 1]]]], dtype=torch.float32)
    torch.testing.assert_close(g, want, equal_nan=True, rtol=1e-6, atol=0.0)


def test_reading_nothing_sends_nothing(rig, board):
    assert board.read(mask()).isnan().all()
    assert rig.vendor.take() == []


def test_settling_time_is_a_delay_of_the_board(rig):
    board = rig.open(settle_s=1e-6)
    rig.vendor.take()
    board.read(mask((0, 0)))
    assert [call[0] for call in rig.vendor.calls] == [
        "connect_to_gnd", "config_channels", "delay", "read_slice_open_deferred", "ground_all", "execute",
    ]  # fmt: skip
    assert rig.vendor.calls[2] == ("delay", 1000)


def test_products_drive_each_line_with_its_own_voltage(rig, board):
    volts = torch.tensor([[[0.1, -0.2], [0.0, 0.0], [0.0, 0.1]]])
    steps = (volts[0].double() / STEP_V).round() * STEP_V
    current = board.mvm(volts, "forward")
    v, sense = steps.tolist(), ("read_slice_open_deferred", [0, 33], False)
    assert rig.vendor.take() == [
        ("connect_to_gnd", []), ("config_channels", [(16, v[0][0]), (48, v[0][1])], 0.0), sense,
        ("connect_to_gnd", []), ("config_channels", [(48, v[2][1])], 0.0), sense, ("ground_all",), ("execute",),
    ]  # fmt: skip
    torch.testing.assert_close(current[0].double(), steps @ torch.from_numpy(G), rtol=1e-6, atol=0.0)
    back = board.mvm(volts[:, :1], "backward")
    assert rig.vendor.take()[1:3] == [
        ("config_channels", [(0, v[0][0]), (33, v[0][1])], 0.0), ("read_slice_open_deferred", [16, 48], False),
    ]  # fmt: skip
    torch.testing.assert_close(back[0, 0].double(), torch.from_numpy(G) @ steps[0], rtol=1e-6, atol=0.0)


def test_the_sign_can_be_turned(rig):
    board = rig.open(sensed_sign=-1)
    assert (board.read(mask((0, 1)))[0, 0, 1] + G[0, 1]).abs() < 1e-9
    assert board.mvm(torch.tensor([[[0.1, 0.1]]]), "forward").max() < 0


def test_the_read_dac_is_that_of_the_documentation(board, rig):
    assert (board.info.read_v.low, board.info.read_v.high, board.info.read_levels) == (-10.0, 10 - STEP_V, 2**16)
    # hil.driving rounds voltages to this grid.
    assert (board.info.read_v.high - board.info.read_v.low) / (board.info.read_levels - 1) == STEP_V


def test_pulses_are_split_row_by_row_and_flushed_once(rig, board):
    board.pulse(torch.tensor([[[2, -1], [0, 0]]], dtype=torch.int32), SHAPE)
    up = [
        ("connect_to_gnd", others(16, 0)),
        ("pulse_slice_fast_open", [(16, 1.0, 0.0), (0, -1.0, 0.0)], WIDTHS, True),
        ("delay", 1000),
    ]
    down = [
        ("connect_to_gnd", others(16, 33)),
        ("pulse_slice_fast_open", [(16, -0.75, 0.0), (33, 0.75, 0.0)],
         [None, None, 1000, None, 1000, None, None, None], True),
        ("delay", 1000),
    ]  # fmt: skip
    assert rig.vendor.take() == [*up, *up, *down, ("ground_all",), ("execute",)]
    assert board.status()["passes"] == 3


@pytest.mark.parametrize(
    ("width_s", "nanos", "wait"), [(40e-9, 40, 320), (330e-9, 330, 340), (0.5, 500_000_000, 500_000_000)]
)
def test_widths_are_waited_out_in_delays_of_20_ns(rig, board, width_s, nanos, wait):
    board.pulse(torch.tensor([[[1, 0], [0, 0]]], dtype=torch.int32), PulseShape(1.0, -1.0, width_s))
    _, pulse, delay, *_ = rig.vendor.take()
    assert pulse[2][0] == nanos
    assert delay == ("delay", wait)


def test_an_update_takes_up_to_four_passes_a_slot_and_one_flush(rig, board):
    bits = torch.tensor([[[0b11, 0b01]]], dtype=torch.int32)
    signs = torch.tensor([[[1, -1]]], dtype=torch.int8)
    train = PulseTrain.given(bits, signs, torch.full((1, 1), 2, dtype=torch.int32))
    board.update(train, train, SHAPE)
    calls = rig.vendor.take()
    pulses = [call[1] for call in calls if call[0] == "pulse_slice_fast_open"]
    assert pulses == [
        [(16, 1.0, 0.0), (0, -1.0, 0.0)],
        [(48, 1.0, 0.0), (33, -1.0, 0.0)],
        [(16, -0.75, 0.0), (33, 0.75, 0.0)],
        [(48, -0.75, 0.0), (0, 0.75, 0.0)],
        [(16, 1.0, 0.0), (0, -1.0, 0.0)],
    ]
    assert [call[0] for call in calls][-2:] == ["ground_all", "execute"]
    assert sum(call[0] == "execute" for call in calls) == 1
    assert board.status()["passes"] == 5


def test_a_trace_interleaves_pulses_and_reads_in_one_flush(rig, board):
    out = board.trace(torch.tensor([1, 1, -1, 1, 1], dtype=torch.int8), mask((0, 0), (1, 1)), SHAPE, every=2)
    seen = ("pulse_slice_fast_open", "config_channels", "ground_all", "execute")
    names = [call[0] for call in rig.vendor.take() if call[0] in seen]
    pulse, read = ["pulse_slice_fast_open"] * 2, ["config_channels"] * 2
    # No channel is tied to ground while it is biased: after reads everything goes to 0 V first.
    zero = ["ground_all"]
    assert names == [*pulse, *pulse, *read, *zero, *pulse, *pulse, *read, *zero, *pulse, *zero, "execute"]
    assert out.shape == (1, 2, 2, 2)
    torch.testing.assert_close(out[0, 1, 1], torch.full((2,), 40e-6), rtol=1e-6, atol=0.0)
    assert out[0, 0, 1].isnan().all()
    assert board.trace(torch.tensor([1], dtype=torch.int8), mask((0, 0)), SHAPE, every=2).shape == (1, 2, 2, 0)


@pytest.mark.slow
def test_long_verbs_are_cut_into_blocks(rig, board):
    board.pulse(torch.tensor([[[2 * BLOCK + 1, 0], [0, 0]]], dtype=torch.int32), SHAPE)
    assert rig.vendor.calls.count(("execute",)) == 3


def test_inactive_boards_are_left_alone(rig, board):
    none = torch.zeros(1, dtype=torch.bool)
    board.update(ONES, ONES, SHAPE, none)
    assert (board.mvm(torch.full((1, 1, 2), 0.1), "forward", none) == 0).all()
    assert rig.vendor.take() == []


def test_safe_grounds_and_ties_to_ground(rig, board):
    assert board.safe()
    assert rig.vendor.take() == [("ground_all",), ("execute",), ("finalise_operation", Modes.HardGnd, None)]


def test_safe_tries_both_steps_and_raises_nothing(rig, board):
    rig.vendor.fail_at = "ground_all"
    assert not board.safe()
    assert rig.vendor.take()[-1] == ("finalise_operation", Modes.HardGnd, None)
    rig.vendor.fail_at, rig.vendor.stuck = "", True
    assert not board.safe()
    assert rig.now_s < 5


def test_closing_makes_safe_once(rig):
    board = rig.open(idle="SoftGnd")
    rig.vendor.take()
    with board:
        pass
    board.close()
    assert rig.vendor.take()[-1] == ("finalise_operation", Modes.SoftGnd, None)
    assert rig.vendor.take() == []


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (PulseShape(1.0, -1.0, 1.005e-6), "no multiple of 10 ns"),
        (PulseShape(1.0, -1.0, 30e-9), "width_s = 3e-08 is outside"),
        (PulseShape(1.0, -1.0, 0.6), "width_s = 0.6 is outside"),
        (PulseShape(10.1, -1.0, 1e-6), "up_v = 10.1 is outside"),
        (PulseShape(1.0, -10.1, 1e-6), "down_v = -10.1 is outside"),
        (PulseShape(float("nan"), -1.0, 1e-6), "up_v = nan"),
        (PulseShape(1.0, -1.0, 1e-6, gate_up_v=1.0), "gate_up_v"),
        (PulseShape(1.0, -1.0, 1e-6, compliance_a=1e-3), "compliance_a"),
    ],
)
def test_impossible_pulses_are_refused_before_a_call(rig, board, shape, words):
    one = torch.ones(1, 2, 2, dtype=torch.int32)
    for call in (
        lambda: board.pulse(one, shape),
        lambda: board.update(ONES, ONES, shape),
        lambda: board.trace(torch.tensor([1], dtype=torch.int8), one.bool(), shape),
    ):
        with pytest.raises(LimitError, match=words):
            call()
    assert rig.vendor.take() == []


def test_wrong_arguments_are_refused_before_a_call(rig, board):
    for volts, error in (
        (torch.full((1, 1, 2), 10.0), LimitError),
        (torch.full((1, 1, 2), float("nan")), LimitError),
        (torch.zeros(1, 1, 3), ShapeError),
        (torch.zeros(1, 1, 2, dtype=torch.float64), ShapeError),
    ):
        with pytest.raises(error):
            board.mvm(volts, "forward")
    with pytest.raises(ShapeError, match="active"):
        board.update(ONES, ONES, SHAPE, torch.ones(2, dtype=torch.bool))
    with pytest.raises(ShapeError):
        board.read(torch.ones(1, 3, 2, dtype=torch.bool))
    with pytest.raises(UsageError, match="averages = 0"):
        board.read(mask((0, 0)), averages=0)
    with pytest.raises(ShapeError):
        board.pulse(torch.ones(1, 2, 2), SHAPE)
    assert rig.vendor.take() == []


def test_a_channel_without_a_reading_is_named(rig, board):
    rig.vendor.blind = 33
    with pytest.raises(HardwareError, match=r"boards\.main: channel 33 gave no reading"):
        board.read(mask((0, 0), (0, 1)))
    rig.vendor.blind = None
    torch.testing.assert_close(board.read(mask((0, 1)))[0, 0, 1], torch.tensor(20e-6), rtol=1e-6, atol=0.0)


def test_results_of_a_failed_verb_are_not_taken_for_those_of_the_next(rig, board):
    rig.vendor.fail_at = "execute"
    with pytest.raises(HardwareError) as caught:
        board.read(mask((0, 0), (1, 0)))
    assert "\n" not in str(caught.value)
    rig.vendor.fail_at = ""
    torch.testing.assert_close(board.read(mask((1, 1)))[0, 1, 1], torch.tensor(40e-6), rtol=1e-6, atol=0.0)


def test_a_missing_reading_is_a_fault(rig, board, monkeypatch):
    monkeypatch.setattr(rig.vendor, "pick_one", lambda mode, kind: None)
    with pytest.raises(HardwareError, match="a reading is missing"):
        board.read(mask((0, 0)))


@pytest.mark.parametrize("where", ["connect_to_gnd", "pulse_slice_fast_open", "delay", "execute"])
def test_a_fault_while_pulsing_leaves_the_outcome_open(rig, board, where):
    rig.vendor.fail_at = where
    with pytest.raises(PulseOutcomeUnknown, match="may have been applied") as caught:
        board.pulse(torch.ones(1, 2, 2, dtype=torch.int32), SHAPE)
    assert isinstance(caught.value.__cause__, HardwareError)


def test_a_board_that_stays_busy_is_not_waited_for_endlessly(rig, board):
    rig.vendor.stuck = True
    with pytest.raises(HardwareError, match="still busy"):
        board.read(mask((0, 0)))
    assert 1.0 < rig.now_s < 1.5
    assert not board.status()["idle"]


def test_status_counts(rig, board):
    board.read(mask((0, 0)))
    board.pulse(torch.ones(1, 2, 2, dtype=torch.int32), SHAPE)
    status = board.status()
    assert (status["idle"], status["operations"], status["passes"], status["flushes"]) == (True, 2, 2, 1 + 2)
    assert status["cpu_s"] >= 0


def test_the_extended_range_has_twice_the_step(rig):
    board = rig.open(output_range="EXT")
    assert board.info.read_v.grain == 2 * STEP_V
    assert board.info.pulse_v.high == 13.5
    assert 13.5 - 2 * STEP_V < board.info.read_v.high <= 13.5
