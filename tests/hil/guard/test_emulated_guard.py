"""The emulator is reached directly: a pulse shape is checked once, nothing is recorded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hil.errors import LimitError
from hil.guard import guard


def test_the_emulator_is_reached_directly(kit, ledger):
    board = kit.Rich(replace(kit.INFO, physical=False))
    guarded = guard(board, None, ledger)
    volts, given = torch.full((1, 1, 3), 9.0), kit.counts(r0c0=999)
    rows, cols = kit.train([[1, 0, 0]]), kit.train([[1, 0, 0, 0]])
    polarity = torch.ones(2, dtype=torch.int8)
    with guarded:
        guarded.mvm(volts, "forward", None)
        guarded.pulse(given, kit.SHAPE)
        guarded.update(rows, cols, kit.SHAPE)
        guarded.trace(polarity, kit.MASK, kit.SHAPE, 2)
        guarded.read(kit.MASK, 2)
        assert guarded.status() == {"ok": True}
        assert guarded.safe()
        guarded.close()
    verbs = ["mvm", "pulse", "update", "trace", "read", "status", "safe", "close"]
    assert [call[0] for call in board.calls] == ["enter", *verbs, "exit"]
    assert board.calls[1][1] is volts
    assert board.calls[2][1:] == (given, kit.SHAPE)
    assert board.calls[3][1:] == (rows, cols, kit.SHAPE, None)
    assert list(ledger.run.operations()) == []
    assert list(ledger.run.events()) == []


def test_the_emulator_checks_a_shape_once(kit, monkeypatch):
    seen = []
    monkeypatch.setattr("hil.emulated_guard.check_shape", lambda shape, *rest: seen.append(shape))
    guarded = guard(kit.Fake(replace(kit.INFO, physical=False)))
    alike = replace(kit.SHAPE)
    for shape in (kit.SHAPE, alike, kit.SHAPE, kit.HIGH, alike, kit.HIGH):
        guarded.update(kit.train([[1, 0, 0]]), kit.train([[1, 0, 0, 0]]), shape)
        guarded.pulse(kit.counts(), shape)
    assert seen == [kit.SHAPE, kit.HIGH]


def test_the_emulator_remembers_a_bounded_number_of_shapes(kit):
    guarded = guard(kit.Fake(replace(kit.INFO, physical=False)))
    for number in range(3000):
        guarded.pulse(kit.counts(), replace(kit.SHAPE, up_v=1.0 + number * 1e-4))
    assert len(guarded._by_identity) <= 1024
    assert len(guarded._by_value) <= 1024


def test_the_emulator_keeps_limits_that_it_is_given(kit):
    board = kit.Fake(replace(kit.INFO, physical=False))
    guarded = guard(board, kit.LIMITS)
    for call in (
        lambda: guarded.pulse(kit.counts(), kit.HIGH),
        lambda: guarded.trace(torch.ones(1, dtype=torch.int8), kit.MASK, kit.HIGH),
        lambda: guarded.update(kit.train([[1, 0, 0]]), kit.train([[1, 0, 0, 0]]), kit.HIGH),
        lambda: guard(board).pulse(kit.counts(), replace(kit.SHAPE, up_v=3.5)),
    ):
        for _ in range(2):
            with pytest.raises(LimitError):
                call()
    assert board.calls == []
