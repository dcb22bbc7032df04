"""The dry run: an ArrayBackend that adds up what a procedure would do."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from hil.backend import ArrayBackend, ArrayInfo, Costs, HasClock, HasReference, HasState, HasVerify, PulseShape, Range, idle
from hil.dry_run import DryRun
from hil.encoding import PulseTrain
from hil.errors import LimitError, ShapeError
from hil.guard import guard
from hil.ledger import Ledger
from hil.limits import Limits
from hil.wear import Wear

INFO = ArrayInfo(1, 3, 4, True, "v", "board", "serial", "f", Range(-0.4, 0.4), Range(-3.0, 3.0), Range(1e-9, 1e-3))
SHAPE = PulseShape(up_v=1.0, down_v=-1.5, width_s=1e-3)
MASK = torch.zeros(1, 3, 4, dtype=torch.bool)
MASK[0, 0, 0] = MASK[0, 1, 2] = True


def train(sign):
    """A train of four slots that fires in all of them: sign [sample line]."""
    given = torch.tensor([sign], dtype=torch.int8)
    _, samples, lines = given.shape
    return PulseTrain(
        probability=given.abs().to(torch.float32),
        sign=given,
        slots=torch.full((1, samples), 4, dtype=torch.int32),
        key=torch.zeros(1, samples, 2, dtype=torch.int32),
        line=torch.arange(lines, dtype=torch.int32),
    )


def test_it_is_a_backend_with_a_clock():
    dry = DryRun(INFO)
    assert isinstance(dry, ArrayBackend)
    assert isinstance(dry, HasClock)
    assert not isinstance(dry, (HasReference, HasState, HasVerify))
    assert isinstance(DryRun(replace(INFO, reference="cell")), HasReference)


def test_nothing_asked_nothing_counted():
    summary = DryRun(INFO).summary()
    assert (summary.operations, summary.seconds, summary.pulses_per_cell_max) == ({}, 0.0, 0)
    assert math.isnan(summary.up_v_max)
    with pytest.raises(FrozenInstanceError):
        summary.seconds = 1.0


def test_it_adds_up():
    dry = DryRun(INFO, 50e-6, costs=Costs(read_s=0.01, mvm_s=0.1, gap_s=1e-3))
    with dry:
        g = dry.read(MASK, 3)
        torch.testing.assert_close(g, torch.where(MASK, 50e-6, math.nan), equal_nan=True)
        counts = torch.zeros(1, 3, 4, dtype=torch.int32)
        counts[0, 0, 0], counts[0, 1, 1] = 5, -7
        dry.pulse(counts, SHAPE)
        trace = dry.trace(torch.tensor([1, 1, -1, 1], dtype=torch.int8), MASK, replace(SHAPE, up_v=-2.0), 3)
        assert trace.shape == (1, 3, 4, 1)
        dry.update(train([[1, -1, 0]]), train([[1, 0, 0, 0]]), SHAPE)
        current = dry.mvm(torch.tensor([[[0.1, 0.25, 0.0], [0.0, 0.0, 0.0]]]), "forward")
        torch.testing.assert_close(current, torch.tensor([[[0.35 * 50e-6] * 4, [0.0] * 4]]))
        assert dry.mvm(torch.full((1, 1, 4), -0.1), "backward").shape == (1, 1, 3)
        idle(dry, 100.0)
        assert dry.safe()
        assert dry.status()["dry_run"] is True
    summary = dry.summary()
    assert summary.operations == {"read": 1, "pulse": 1, "trace": 1, "update": 1, "mvm": 2, "idle": 1}
    assert (summary.pulses_up, summary.pulses_down) == (5 + 6 + 4, 7 + 2 + 4)
    assert (summary.pulses_per_cell_max, summary.pulses_per_cell_mean) == (5 + 4 + 4, 28 / 12)
    assert summary.passes == 12 + 8 + 2 * 4
    assert summary.vectors == 3
    assert summary.reads == 2 * 3 + 2 * 1 + 2 * 4 + 12
    assert summary.seconds == pytest.approx(28 * 2e-3 + (6 + 2) * 0.01 + 3 * 0.1 + 100.0)
    assert (summary.up_v_max, summary.down_v_max, summary.width_s_max) == (2.0, 1.5, 1e-3)
    assert summary.read_v_max == 0.25
    np.testing.assert_array_equal(dry.up[0, 0], [13 - 1, 0, 0, 0])


def test_lines_at_once_and_serial_updates_take_longer():
    slow = DryRun(replace(INFO, rows_at_once=1, cols_at_once=3, parallel_update=False), costs=Costs(mvm_s=1.0))
    slow.mvm(torch.zeros(1, 2, 3), "forward")
    assert slow.summary().seconds == 2 * 3 * 2
    slow.mvm(torch.zeros(1, 1, 4), "backward")
    assert slow.summary().seconds == 2 * 3 * 2 + 2 * 3
    slow.update(train([[1, 1, 0]]), train([[1, 1, 0, 0]]), SHAPE)
    assert slow.summary().passes == 4 * 4


@pytest.mark.parametrize(("reference", "current"), [("none", 0.3 * 100e-6), ("mid", 0.3 * 20e-6), ("cell", 0.3 * 100e-6)])
def test_reference(reference, current):
    dry = DryRun(replace(INFO, reference=reference, g_mid_siemens=80e-6), 100e-6)
    volts = torch.full((1, 1, 3), 0.1)
    torch.testing.assert_close(dry.mvm(volts, "forward"), torch.full((1, 1, 4), current))
    if reference == "cell":
        dry.set_reference(torch.full((1, 3, 4), 40e-6))
        dry.set_reference(torch.full((1, 3, 4), math.nan))
        torch.testing.assert_close(dry.mvm(volts, "forward"), torch.full((1, 1, 4), 0.3 * 60e-6))


def test_inactive_arrays_are_not_read():
    dry = DryRun(replace(INFO, arrays=2))
    current = dry.mvm(torch.full((2, 3, 3), 0.1), "forward", torch.tensor([False, True]))
    assert current[0].abs().max() == 0
    assert dry.summary().vectors == 3
    assert dry.summary().reads == 3 * 12


@pytest.mark.parametrize(
    "call",
    [
        lambda dry: dry.read(MASK[0]),
        lambda dry: dry.mvm(torch.zeros(1, 1, 4), "forward"),
        lambda dry: dry.mvm(torch.zeros(1, 3), "forward"),
        lambda dry: dry.pulse(torch.zeros(1, 3, 4), SHAPE),
        lambda dry: dry.trace(torch.ones(1, dtype=torch.int8), MASK[0], SHAPE),
        lambda dry: dry.update(train([[1, 0]]), train([[1, 0, 0, 0]]), SHAPE),
        lambda dry: dry.pulse(torch.zeros(1, 3, 4, dtype=torch.int32), replace(SHAPE, width_s=(1.0, 1.0))),
    ],
)
def test_wrong_shapes(call):
    with pytest.raises(ShapeError):
        call(DryRun(INFO))


def test_guarded_it_meets_the_limits_and_the_wear_of_the_board(tmp_path):
    limits = Limits(
        up_v_max=2.0,
        down_v_max=2.0,
        width_s_max=1.0,
        half_select_v_max=1.0,
        read_v_max=0.2,
        pulses_per_cell_max=10,
        pulses_per_operation_max=10,
    )
    wear = Wear.open(tmp_path / "state")
    wear.add(INFO, up=MASK.numpy().astype(np.int64) * 4)
    dry = DryRun(INFO)
    with Ledger.create(tmp_path, "check", {}) as ledger, guard(dry, limits, ledger, "main", wear.snapshot()) as guarded:
        guarded.pulse(MASK.to(torch.int32) * 6, SHAPE)
        with pytest.raises(LimitError, match="pulses_per_cell_max"):
            guarded.pulse(MASK.to(torch.int32), SHAPE)
    assert dry.summary().pulses_up == 12
    assert wear.cells(INFO).up.max() == 4
    wear.close()


def test_a_board_that_takes_one_cell_after_the_other_says_what_a_cell_costs():
    costs = Costs(read_s=1.0, trace_read_s=0.25, cell_s=10.0, closures_per_cell=2)
    dry = DryRun(INFO, costs=costs)
    mask = torch.zeros(INFO.arrays, INFO.rows, INFO.cols, dtype=torch.bool)
    mask[0, 0, :2] = True
    dry.read(mask, averages=3)
    assert (dry.summary().seconds, dry.summary().closures) == (2 * 10 + 6 * 1.0, 4)
    dry.trace(torch.ones(4, dtype=torch.int8), mask, PulseShape(1.0, -1.0, 0.0))
    assert (dry.summary().seconds, dry.summary().closures) == (46 + 8 * 0.25, 8)
