"""The guard that fits a backend: which one, what it passes on, what it does when it is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hil.backend import ArrayBackend, HasClock, HasReference, HasState, HasVerify
from hil.errors import HardwareError, LimitError, UsageError
from hil.guard import EmulatedGuard, Guard, PhysicalGuard, guard


def test_the_factory_chooses(kit, board):
    assert type(guard(board)) is PhysicalGuard
    assert type(guard(kit.Fake(replace(kit.INFO, physical=False)))) is EmulatedGuard
    assert isinstance(guard(board), Guard)
    assert guard(board).inner is board
    assert guard(board).info is kit.INFO


@pytest.mark.parametrize("physical", [True, False])
def test_isinstance_tells_the_truth(kit, physical):
    companions = (HasReference, HasVerify, HasClock, HasState)
    info = replace(kit.INFO, physical=physical)
    plain, rich = guard(kit.Fake(info)), guard(kit.Rich(info))
    assert isinstance(plain, ArrayBackend)
    assert isinstance(rich, ArrayBackend)
    assert [isinstance(plain, one) for one in companions] == [False] * 4
    assert [isinstance(rich, one) for one in companions] == [True] * 4


@pytest.mark.parametrize("physical", [True, False])
def test_companions_are_passed_on(kit, physical, ledger):
    board = kit.Rich(replace(kit.INFO, physical=physical))
    guarded = guard(board, kit.LIMITS, ledger)
    g = torch.full((1, 3, 4), 1e-4)
    guarded.set_reference(g)
    guarded.idle(3.0)
    guarded.load_state_dict(guarded.state_dict())
    torch.testing.assert_close(guarded.verify(g, kit.MASK, kit.SHAPE, 1e-6, 5), kit.MASK)
    assert [call[0] for call in board.calls] == ["set_reference", "idle", "load_state_dict", "verify"]
    with pytest.raises(LimitError, match="up_v_max"):
        guarded.verify(g, kit.MASK, kit.HIGH, 1e-6, 5)
    events = list(ledger.run.events("reference"))
    assert len(events) == int(physical)
    if physical:
        np.testing.assert_array_equal(ledger.run.arrays(events[0].number)["g_siemens"], g.numpy())


def test_limits_must_fit_the_board(kit, board):
    with pytest.raises(UsageError, match="outside the board"):
        guard(board, kit.LIMITS.model_copy(update={"excluded_rows": (3,)}))


def test_leaving_grounds_whatever_happened(board, guarded):
    def leave():
        with guarded as entered:
            assert entered is guarded
            raise RuntimeError

    with pytest.raises(RuntimeError):
        leave()
    assert [call[0] for call in board.calls] == ["enter", "safe", "exit"]
    guarded.close()
    board.fault["safe"] = HardwareError("gone")
    with pytest.raises(HardwareError, match="gone"):
        guarded.close()
    assert [call[0] for call in board.calls[3:]] == ["safe", "close", "close"]
