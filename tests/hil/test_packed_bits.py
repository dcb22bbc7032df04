"""The bits of a train as drawn for a board or kernel, against the definition slot by slot."""

from __future__ import annotations

import pytest
import torch

from hil.encoding import MAX_SLOTS, PulseTrain, Stream


@pytest.mark.parametrize("seed", range(5))
def test_packed_bits_are_the_slots_that_fire(seed: int) -> None:
    """Also of a train that is cut and placed, whose tensors are not contiguous."""
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(2, 3, 9, generator=g).where(torch.rand(2, 3, 9, generator=g) < 0.8, 0.0)
    sign = torch.randint(-1, 2, (2, 3, 9), generator=g).to(torch.int8)
    slots = torch.randint(0, MAX_SLOTS + 1, (2, 3), generator=g).to(torch.int32)
    key = Stream(seed, torch.arange(2), "m", "x").keys(3)
    whole = PulseTrain(p, sign, slots, key, torch.arange(9, dtype=torch.int32))
    for train in (whole, whole.at(1, 3).lines(slice(2, 8)), whole.lines(slice(1, 9, 2)).placed(12, 5)):
        defined = (train.fired().to(torch.int32) << torch.arange(MAX_SLOTS)).sum(dim=-1, dtype=torch.int32)
        assert torch.equal(train.bits(), defined)


def test_given_bits_count_within_their_slots_on_lines_with_a_sign() -> None:
    g = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**31), 2**31 - 1, (2, 3, 7), generator=g).to(torch.int32)
    sign = torch.randint(-1, 2, (2, 3, 7), generator=g).to(torch.int8)
    slots = torch.tensor([[0, 1, 5], [17, 30, 31]], dtype=torch.int32)
    train = PulseTrain.given(bits, sign, slots)
    defined = (train.fired().to(torch.int32) << torch.arange(MAX_SLOTS)).sum(dim=-1, dtype=torch.int32)
    assert torch.equal(train.bits(), defined)
