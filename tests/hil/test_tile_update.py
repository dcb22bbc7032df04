"""A tile's update: outer products as pulses, and the rates that it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hil.encoding import UpdateSettings
from hil.errors import ShapeError, UsageError
from hil.known import from_nominal


def test_it_adds_the_outer_product_in_expectation(desk, draw):
    """Constant steps make the mean exact (theory T6c): 2,000 replicas, each figure within its own standard error."""
    ids = torch.arange(2000)
    tile = desk.tile(5, 3, ids=ids, model="constant", seed=5)
    x, d, rate = draw((1, 2, 5), 1), draw((1, 2, 3), 2), 0.002
    tile.update(x.expand(2000, -1, -1), d.expand(2000, -1, -1), torch.full((2000,), rate), UpdateSettings())
    wanted = rate * torch.einsum("so,si->oi", d[0], x[0]).double()
    # Var[count] = BL p (1 - p) <= E[count]; a pulse is 0.001 of weight.
    counts = rate * torch.einsum("so,si->oi", d[0].abs(), x[0].abs()).double() / 0.001
    desk.mean_is(tile.weights() - 0.0, wanted, 0.001 * counts.clamp(min=1e-3).sqrt(), resolves=1e-3)


def test_it_counts_pulses_in_steps_of_what_is_known_of_the_devices(desk):
    """Devices known to take steps twice as large get half the pulses. Deterministic trains make it exact."""
    known = from_nominal(desk.nominal, 1, 1, 1)
    x = torch.ones(1, 1, 1)
    counts = []
    for factor in (1.0, 2.0):
        tile = desk.tile(1, 1, known=replace(known, step_weight=known.step_weight * factor))
        tile.update(x, x, torch.full((1,), 0.02), UpdateSettings(kind="deterministic"))
        counts.append(int(desk.pulses(tile)))
    assert counts == [20, 10]


def test_it_leaves_inactive_arrays_and_their_counters_alone(desk, draw):
    tile = desk.tile(4, 3, ids=torch.arange(3), clean=False)
    x, d, rate = draw((3, 2, 4), 1), draw((3, 2, 3), 2), torch.full((3,), 0.02)
    tile.update(x, d, rate, UpdateSettings())
    before, trains = desk.inside(tile), tile.state_dict()
    tile.update(x, d, rate, UpdateSettings(), torch.tensor([True, False, True]))
    after = desk.inside(tile)
    for name in before:
        assert torch.equal(after[name][1], before[name][1]), name
    assert tile.state_dict()["in"].tolist() == [4, 2, 4]
    assert trains["in"].tolist() == [2, 2, 2]
    assert not torch.equal(after["state"][0], before["state"][0])


def test_it_goes_on_where_a_saved_state_left_off(desk, draw):
    x, d, rate = draw((1, 3, 4), 1), draw((1, 3, 3), 2), torch.full((1,), 0.02)
    through, resumed = desk.tile(4, 3, clean=False), desk.tile(4, 3, clean=False)
    for tile in (through, resumed):
        tile.update(x, d, rate, UpdateSettings())
    fresh = desk.tile(4, 3, clean=False)
    fresh.load_state_dict(resumed.state_dict())
    fresh.place.regions[0].backend.load_state_dict(desk.inside(resumed))
    for tile in (through, fresh):
        tile.update(x, d, rate, UpdateSettings())
    assert torch.equal(desk.siemens(fresh), desk.siemens(through))


@pytest.mark.parametrize("bad", [-0.02, -1e-30, float("nan"), float("inf"), -float("inf")])
def test_a_rate_that_is_none_is_refused_before_anything_happens(desk, draw, bad):
    tile = desk.tile(4, 3, ids=torch.arange(3), name="layer0.c")
    before, trains = desk.inside(tile), tile.state_dict()
    x, d = draw((3, 2, 4), 1), draw((3, 2, 3), 2)
    for active in (None, torch.tensor([True, False, True])):
        with pytest.raises(UsageError, match=r"^layer0\.c update: rate (-|nan|inf).* at least 0$"):
            tile.update(x, d, torch.tensor([0.02, bad, 0.0]), UpdateSettings(), active)
    assert all(torch.equal(value, before[name]) for name, value in desk.inside(tile).items())
    assert all(torch.equal(value, trains[name]) for name, value in tile.state_dict().items())


@pytest.mark.parametrize("rate", [torch.tensor(0.02), torch.full((2,), 0.02), torch.full((3, 1), 0.02)], ids=str)
def test_rates_are_one_for_each_array(desk, draw, rate):
    tile = desk.tile(4, 3, ids=torch.arange(3), name="layer0.c")
    with pytest.raises(ShapeError, match=r"layer0\.c update: rate \[.*\] needs \[3\]"):
        tile.update(draw((3, 2, 4), 1), draw((3, 2, 3), 2), rate, UpdateSettings())


def test_a_rate_of_zero_sends_no_pulse(desk, draw):
    tile = desk.tile(4, 3, ids=torch.arange(2))
    tile.update(draw((2, 5, 4), 1), draw((2, 5, 3), 2), torch.tensor([0.0, 0.02]), UpdateSettings())
    assert int(desk.pulses(tile)[0].abs().sum()) == 0
    assert int(desk.pulses(tile)[1].abs().sum()) > 0
