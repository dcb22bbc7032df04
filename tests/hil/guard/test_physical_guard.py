"""What reaches a board is recorded before it is sent, settled at the next barrier, and counted as wear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hil.errors import DataError, HardwareError, LimitError, ShapeError, UsageError
from hil.guard import guard
from hil.ledger import Ledger
from hil.wear import Wear


def test_an_intent_is_on_record_before_the_driver_is_called(kit, board, guarded, ledger, wear):
    def watch(verb):
        with Ledger.open(ledger.folder) as reader:
            seen.append((verb, [(operation.number, operation.status) for operation in reader.operations()]))
        seen.append(int(wear.cells(kit.INFO).pulses.sum()))

    seen = []
    board.watch = watch
    given = kit.counts(r0c0=3, r1c2=-4)
    guarded.pulse(given, kit.SHAPE)
    assert seen == [("pulse", [(1, "pending")]), 7]
    assert board.calls[0][1] is given
    assert board.calls[0][2] is kit.SHAPE
    (operation,) = ledger.pending()
    np.testing.assert_array_equal(operation.cells[0], given.clamp(min=0).numpy())
    np.testing.assert_array_equal(operation.cells[1], (-given).clamp(min=0).numpy())
    assert (operation.board, operation.pulses, operation.shape["down_v"]) == ("main", 7, -1.5)


@pytest.mark.parametrize("barrier", ["read", "mvm", "trace", "status", "safe", "verify"])
def test_a_posted_pulse_is_done_at_the_next_barrier(kit, barrier, ledger):
    guarded = guard(kit.Rich(), kit.LIMITS, ledger)
    ledger.digital_state({"step": 1})
    guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    ledger.digital_state({"step": 2})
    assert kit.states(ledger) == [("pulse", "pending")]
    {
        "read": lambda: guarded.read(kit.MASK),
        "mvm": lambda: guarded.mvm(torch.full((1, 1, 3), 0.1), "forward"),
        "trace": lambda: guarded.trace(torch.ones(1, dtype=torch.int8), kit.MASK, kit.SHAPE),
        "status": guarded.status,
        "safe": guarded.safe,
        "verify": lambda: guarded.verify(torch.zeros(1, 3, 4), kit.MASK, kit.SHAPE, 1e-6, 1),
    }[barrier]()
    assert kit.states(ledger)[0] == ("pulse", "done")
    assert next(ledger.run.operations()).digital == {"step": 1}
    assert ledger.pending() == []


@pytest.mark.parametrize("fault", [HardwareError("no answer"), LimitError("no answer")], ids=repr)
@pytest.mark.parametrize("barrier", ["read", "safe"])
def test_a_fault_at_the_barrier_leaves_what_was_posted_uncertain(kit, barrier, fault, board, guarded, ledger):
    guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    guarded.update(kit.train([[1, 0, 0]]), kit.train([[1, 0, 0, 0]]), kit.SHAPE)
    board.fault[barrier] = fault
    with pytest.raises(type(fault), match="no answer"):
        guarded.read(kit.MASK) if barrier == "read" else guarded.safe()
    assert kit.states(ledger) == [("pulse", "uncertain"), ("update", "uncertain")]
    assert [operation.message for operation in ledger.pending()] == ["no answer", "no answer"]
    guarded.read(kit.MASK)
    assert len(ledger.pending()) == 2


def test_a_wrong_argument_at_the_barrier_says_nothing_of_what_was_posted(kit, board, guarded, ledger):
    guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    board.fault["read"] = ShapeError("mask")
    with pytest.raises(ShapeError):
        guarded.read(kit.MASK)
    assert kit.states(ledger) == [("pulse", "pending")]
    guarded.read(kit.MASK)
    assert kit.states(ledger) == [("pulse", "done")]


def test_safe_that_is_not_confirmed_settles_nothing(kit, board, guarded, ledger):
    guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    board.confirm = False
    assert guarded.safe() is False
    assert kit.states(ledger) == [("pulse", "pending")]


@pytest.mark.parametrize(
    ("fault", "outcomes"),
    [
        (HardwareError("link down"), ["uncertain", "uncertain"]),
        (KeyboardInterrupt(), ["pending", "uncertain"]),
        (RuntimeError("driver"), ["pending", "uncertain"]),
    ],
    ids=repr,
)
def test_a_fault_while_sending(kit, fault, outcomes, board, guarded, ledger, wear):
    guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    board.fault["pulse"] = fault
    with pytest.raises(type(fault)):
        guarded.pulse(kit.counts(r1c1=2), kit.SHAPE)
    assert [status for _, status in kit.states(ledger)] == outcomes
    assert wear.cells(kit.INFO).up[0, 1, 1] == 2


@pytest.mark.parametrize("fault", [ShapeError("x"), LimitError("the board's own limit")], ids=repr)
def test_what_a_driver_refuses_is_no_wear(kit, fault, board, guarded, ledger, wear):
    board.fault["update"] = fault
    with pytest.raises(type(fault)):
        guarded.update(kit.train([[1, 0, 0]]), kit.train([[1, -1, 0, 0]]), kit.SHAPE)
    assert kit.states(ledger) == [("update", "refused")]
    assert ledger.pending() == []
    assert (wear.cells(kit.INFO).pulses.sum(), wear.cells(kit.INFO).passes) == (0, 0)


def test_nothing_is_sent_where_it_cannot_be_recorded(kit, board, guarded, ledger, wear):
    ledger.stop("done")
    with pytest.raises(DataError):
        guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    assert board.calls == []
    assert wear.cells(kit.INFO).pulses.sum() == 0


def test_safe_reports_although_the_record_is_closed(kit, board, guarded, ledger):
    guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    ledger.stop("done")
    assert guarded.safe() is True


def test_trace_is_counted(kit, board, guarded, ledger, wear):
    polarity = torch.tensor([1, 1, -1, 1, 1], dtype=torch.int8)
    assert guarded.trace(polarity, kit.MASK, kit.SHAPE, 2).shape == (1, 3, 4, 2)
    assert board.calls[0][1] is polarity
    assert board.calls[0][4] == 2
    cells = wear.cells(kit.INFO)
    np.testing.assert_array_equal(cells.up, kit.MASK.numpy() * 4)
    np.testing.assert_array_equal(cells.down, kit.MASK.numpy())
    np.testing.assert_array_equal(cells.reads, kit.MASK.numpy() * 2)
    assert kit.states(ledger) == [("trace", "done")]


def test_update_is_counted_exactly(kit, board, guarded, ledger, wear):
    rows = kit.train([[1, -1, 0], [1, 0, 0]], slots=4)
    cols = kit.train([[1, -1, 0, 0], [0, 0, 1, 0]], slots=2)
    guarded.update(rows, cols, kit.SHAPE)
    up = np.array([[[2, 0, 2, 0], [0, 2, 0, 0], [0, 0, 0, 0]]])
    down = np.array([[[0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]])
    np.testing.assert_array_equal(wear.cells(kit.INFO).up, up)
    np.testing.assert_array_equal(wear.cells(kit.INFO).down, down)
    # Sample 0: all four pairs of signs in both common slots; sample 1: one pair.
    assert next(ledger.run.operations()).passes == wear.cells(kit.INFO).passes == 2 * 4 + 2
    assert torch.equal(board.calls[0][1].bits(), rows.bits())
    assert torch.equal(board.calls[0][2].bits(), cols.bits())


def test_update_leaves_inactive_arrays_out(kit, ledger):
    info = replace(kit.INFO, arrays=2)
    guarded = guard(kit.Fake(info), kit.LIMITS, ledger)

    def twice(one):
        fields = ("probability", "sign", "slots", "key")
        return replace(one, **{name: getattr(one, name).repeat_interleave(2, dim=0) for name in fields})

    guarded.update(twice(kit.train([[1, 0, 0]])), twice(kit.train([[1, 0, 0, 0]])), kit.SHAPE, torch.tensor([False, True]))
    assert guarded.wear.cells(info).up.sum(axis=(1, 2)).tolist() == [0, 4]
    assert guarded.wear.cells(info).passes == 4


def test_verify_counts_the_worst(kit, ledger):
    guarded = guard(kit.Rich(), kit.LIMITS, ledger)
    guarded.verify(torch.zeros(1, 3, 4), kit.MASK, kit.SHAPE, 1e-6, 7)
    np.testing.assert_array_equal(guarded.wear.cells(kit.INFO).either, kit.MASK.numpy() * 7)
    guarded.pulse(kit.counts(r0c0=10), kit.SHAPE)
    with pytest.raises(LimitError, match="pulses_per_cell_max"):
        guarded.verify(torch.zeros(1, 3, 4), kit.MASK, kit.SHAPE, 1e-6, 7)
    with pytest.raises(LimitError, match="pulses_per_operation_max"):
        guarded.verify(torch.zeros(1, 3, 4), kit.MASK, kit.SHAPE, 1e-6, 11)
    with pytest.raises(UsageError, match="max_pulses"):
        guarded.verify(torch.zeros(1, 3, 4), kit.MASK, kit.SHAPE, 1e-6, 0)


def test_reads_are_counted(kit, guarded, wear):
    guarded.read(kit.MASK, 3)
    guarded.mvm(torch.tensor([[[0.1, 0.0, 0.0], [0.1, 0.2, 0.0]]]), "forward")
    guarded.mvm(torch.tensor([[[0.1, 0.0, 0.0, 0.0]]]), "backward", torch.tensor([True]))
    guarded.mvm(torch.tensor([[[0.1, 0.0, 0.0, 0.0]]]), "backward", torch.tensor([False]))
    expected = kit.MASK[0].numpy() * 3 + np.array([[2], [1], [0]]) + np.array([[1, 0, 0, 0]])
    np.testing.assert_array_equal(wear.cells(kit.INFO).reads[0], expected)


def test_lifetime_counts_over_runs(kit, tmp_path, board):
    for left in (10, 10, 0):
        wear = Wear.open(tmp_path / "state")
        with Ledger.create(tmp_path / "runs", "test", {}) as ledger:
            guarded = guard(board, kit.LIMITS, ledger, "main", wear)
            if left:
                guarded.pulse(kit.counts(r0c0=left), kit.SHAPE)
            else:
                with pytest.raises(LimitError, match=r"\[0, 0\].*pulses_per_cell_max = 20"):
                    guarded.pulse(kit.counts(r0c0=-1), kit.SHAPE)
                guarded.pulse(kit.counts(r0c1=1), kit.SHAPE)
        wear.close()
