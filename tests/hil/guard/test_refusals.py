"""Nothing reaches a board that its limits, its record or its size does not allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hil.errors import LimitError, ShapeError, UsageError
from hil.guard import guard


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda g, kit: g.pulse(kit.counts(r0c0=1), kit.HIGH), "up_v_max"),
        (lambda g, kit: g.pulse(kit.counts(), kit.HIGH), "up_v_max"),
        (lambda g, kit: g.pulse(kit.counts(r0c0=11), kit.SHAPE), "pulses_per_operation_max"),
        (lambda g, kit: g.pulse(kit.counts(r0c0=-(2**31)), kit.SHAPE), "pulses_per_operation_max"),
        (lambda g, kit: g.pulse(kit.counts(r2c3=-1), kit.SHAPE), "excluded"),
        (lambda g, kit: g.trace(torch.ones(2, dtype=torch.int8), ~kit.MASK, kit.SHAPE), "excluded"),
        (lambda g, kit: g.trace(torch.ones(11, dtype=torch.int8), kit.MASK, kit.SHAPE), "pulses_per_operation_max"),
        (lambda g, kit: g.update(kit.train([[0, 0, 1]]), kit.train([[0, 0, 0, 1]]), kit.SHAPE), "excluded"),
        (
            lambda g, kit: g.update(kit.train([[1, 0, 0]] * 3), kit.train([[1, 0, 0, 0]] * 3), kit.SHAPE),
            "pulses_per_operation_max",
        ),
        (lambda g, kit: g.mvm(torch.full((1, 1, 3), 0.21), "forward"), "read_v_max"),
        (lambda g, kit: g.mvm(torch.full((1, 1, 3), -0.21), "forward"), "read_v_max"),
    ],
)
def test_what_is_outside_is_refused(kit, call, text, board, guarded, ledger, wear):
    with pytest.raises(LimitError, match=text):
        call(guarded, kit)
    assert board.calls == []
    assert kit.states(ledger) == []
    assert wear.cells(kit.INFO).pulses.sum() == 0


def test_a_refusal_is_recorded(kit, guarded, ledger):
    with pytest.raises(LimitError) as caught:
        guarded.pulse(kit.counts(r0c0=1), kit.HIGH)
    (event,) = ledger.run.events("refused")
    assert event.payload["message"] == str(caught.value)
    assert (event.payload["board"], event.payload["verb"], event.payload["shape"]["up_v"]) == ("main", "pulse", 2.5)


def test_an_excluded_row_may_fire_where_nothing_coincides(kit, board, guarded):
    guarded.update(kit.train([[0, 0, 1]]), kit.train([[1, 0, 0, 0]]), kit.SHAPE)
    guarded.update(kit.train([[0, 0, 1]]), kit.train([[0, 0, 0, 0]]), kit.SHAPE)
    assert len(board.calls) == 2


def test_no_limits_no_pulse(kit, board, ledger):
    guarded = guard(board, None, ledger, "left")
    for call in (
        lambda: guarded.pulse(kit.counts(r0c0=1), kit.SHAPE),
        lambda: guarded.trace(torch.ones(1, dtype=torch.int8), kit.MASK, kit.SHAPE),
        lambda: guarded.update(kit.train([[1, 0, 0]]), kit.train([[1, 0, 0, 0]]), kit.SHAPE),
    ):
        with pytest.raises(LimitError, match=r"^boards.left has no \[limits\] section: "):
            call()
    assert board.calls == []
    guarded.read(kit.MASK)
    with pytest.raises(LimitError, match="fake does"):
        guarded.mvm(torch.full((1, 1, 3), 0.5), "forward")


def test_no_record_no_pulse(kit, board):
    guarded = guard(board, kit.LIMITS)
    with pytest.raises(UsageError, match="no run record"):
        guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    with pytest.raises(LimitError):
        guarded.pulse(kit.counts(r0c0=1), kit.HIGH)
    assert board.calls == []
    guarded.read(kit.MASK)


@pytest.mark.parametrize(
    "call",
    [
        lambda g, kit: g.pulse(kit.counts().to(torch.int64), kit.SHAPE),
        lambda g, kit: g.pulse(kit.counts()[0], kit.SHAPE),
        lambda g, kit: g.trace(torch.tensor([1, 0], dtype=torch.int8), kit.MASK, kit.SHAPE),
        lambda g, kit: g.trace(torch.ones(2), kit.MASK, kit.SHAPE),
        lambda g, kit: g.trace(torch.ones(2, dtype=torch.int8), kit.MASK[0], kit.SHAPE),
        lambda g, kit: g.update(kit.train([[1, 0]]), kit.train([[1, 0, 0, 0]]), kit.SHAPE),
        lambda g, kit: g.update(kit.train([[1, 0, 0]] * 2), kit.train([[1, 0, 0, 0]]), kit.SHAPE),
        lambda g, kit: g.pulse(kit.counts(), replace(kit.SHAPE, up_v=(1.0, 1.0))),
    ],
)
def test_wrong_shapes(kit, call, board, guarded):
    with pytest.raises(ShapeError):
        call(guarded, kit)
    assert board.calls == []


def test_every_below_one(kit, guarded):
    with pytest.raises(UsageError, match="every = 0"):
        guarded.trace(torch.ones(2, dtype=torch.int8), kit.MASK, kit.SHAPE, 0)
