"""Pulse trains: one drawn once and for all is the one that it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hil.encoding import PulseTrain
from hil.errors import UsageError


@pytest.mark.parametrize("kind", ["stochastic", "spread", "first"])
def test_a_drawn_train_is_the_same_train(kind: Any) -> None:
    train = PulseTrain(
        torch.rand(2, 3, 40, generator=torch.Generator().manual_seed(1)), torch.randint(-1, 2, (2, 3, 40)).to(torch.int8),
        torch.tensor([[31, 7, 0], [1, 12, 31]], dtype=torch.int32),
        torch.arange(12, dtype=torch.int32).view(2, 3, 2), torch.arange(40, dtype=torch.int32), kind,
    )  # fmt: skip
    drawn = train.drawn()
    assert torch.equal(drawn.bits(), train.bits())
    assert torch.equal(drawn.fired(), train.fired())
    assert torch.equal(drawn.lines(slice(3, 9)).placed(20, 5).bits(), train.lines(slice(3, 9)).placed(20, 5).bits())
    assert drawn.drawn() is drawn


@pytest.mark.parametrize("start", [-1, 3])
def test_a_train_is_placed_on_lines_that_are_there(start: int) -> None:
    train = PulseTrain.given(
        torch.ones(1, 1, 2, dtype=torch.int32), torch.ones(1, 1, 2, dtype=torch.int8), torch.ones(1, 1, dtype=torch.int32)
    )
    assert train.placed(4, 1).bits().tolist() == [[[0, 1, 1, 0]]]
    with pytest.raises(UsageError, match="are not on an array with 4"):
        train.placed(4, start)
