"""Write-verify: how near it gets, at what cost, and what it says of cells that it cannot write."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.errors import ShapeError
from hil.programming import ProgramLimits, program_conductance, program_weights
from simulated_backend.settings import PeripherySettings

STEP = 0.0006
"""Weight: 2,000 states in +-0.6. Devices are soft bounds with spreads of 0.3 and cycle noise of 0.3."""
STEP_SIEMENS = STEP * 50e-6


def matrix(desk, size=32, *, noise=0.0, calibrated=True, ids=None, **device):
    """A tile of devices with every spread, read with ``noise`` in steps; known perfectly, or by nominal values."""
    nominal = desk.nominal.model_copy(update={"states": 2000})
    periphery = PeripherySettings(read_noise_siemens=noise * STEP_SIEMENS)
    tile = desk.tile(
        size, size, ids=ids, periphery=periphery, clean=False, dw_min=STEP, nominal=nominal, seed=3, **device
    )  # fmt: skip
    truth = desk.true_devices(tile)
    if calibrated:
        tile.known = truth
    return tile, truth


def targets(truth, low=0.2, high=0.8, seed=1):
    """Uniform between fractions ``low`` and ``high`` of each cell's true range."""
    u = torch.rand(truth.g_min.shape, generator=torch.Generator().manual_seed(seed))
    return (truth.g_min + (low + (high - low) * u) * (truth.g_max - truth.g_min)).float()


def off_middle(truth):
    """88 or 112 uS of a nominal 70 to 130: far from where every cell starts, inside most ranges."""
    sign = torch.where(torch.arange(truth.g_min.numel()).view(truth.g_min.shape) % 2 == 0, 1.0, -1.0)
    return 100e-6 + sign * 12e-6


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_calibrated_cells_get_there_to_a_step_and_the_read_noise(desk, noise):
    """Every cell of 1,024, within 2 n_states pulses: middle 60 % of the range, where soft bounds need at most 0.8."""
    tile, truth = matrix(desk, noise=noise)
    target = targets(truth)
    done = program_conductance(tile, target)
    assert bool(done.success.all())
    assert not bool((done.unreachable | done.stuck).any())
    hidden = (desk.siemens(tile) - target).double()
    # Cells whose step is far below the mean are limited by the noise of a reading, which is theirs alone.
    one = truth.step_siemens + noise * STEP_SIEMENS
    assert float((hidden / one).square().mean().sqrt()) < 1.0
    assert float((done.error_siemens / one).square().mean().sqrt()) < 1.0
    states = (truth.g_max - truth.g_min) / truth.step_siemens
    assert bool((done.pulses <= 2 * states + 1).all())
    assert float((done.pulses / states).mean()) < 0.5


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_cells_known_by_nominal_values_alone_get_there_too(desk, noise):
    """Steps that are 0.4 to 2.5 of what is assumed and shrink towards the bounds: the gain is learned.

    A cell may fail where its own range is far from nominal; 19 of 20 must not.
    """
    tile, truth = matrix(desk, noise=noise, calibrated=False)
    target = targets(truth)
    done = program_conductance(tile, target)
    usable = ~(done.unreachable | done.stuck)
    assert float(done.success[usable].float().mean()) > 0.97
    assert float(usable.float().mean()) > 0.95
    error = ((desk.siemens(tile) - target) / STEP_SIEMENS)[done.success]
    assert float(error.square().mean().sqrt()) < 1 + noise
    assert int(done.pulses.max()) <= 4000


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_programming_ends_when_nothing_is_left_to_gain(desk, noise, calibrated):
    """Neither read noise nor a bound that is approached for ever keeps it busy up to the last round."""
    tile, truth = matrix(desk, noise=noise, calibrated=calibrated)
    assert program_conductance(tile, targets(truth, -0.1, 1.1)).rounds < ProgramLimits().max_rounds


def test_unreachable_cells_are_reported_and_come_near_their_bound(desk):
    tile, truth = matrix(desk)
    target = targets(truth)
    beyond = torch.zeros_like(truth.responds)
    beyond[:, ::4] = True
    span = (truth.g_max - truth.g_min).float()
    target = torch.where(beyond, truth.g_max.float() + 0.1 * span, target)
    beyond[:, 1::4] = True
    target[:, 1::4] = (truth.g_min - 0.1 * (truth.g_max - truth.g_min)).float()[:, 1::4]
    done = program_conductance(tile, target)
    assert torch.equal(done.unreachable, beyond)
    assert not bool(done.stuck.any())
    assert torch.equal(done.success, ~beyond)
    # 0.1 of the range that nobody can go, and the 0.02 that is not worth it.
    away = (done.error_siemens.abs() / span)[beyond]
    assert float(away.min()) > 0.1
    # Twice n_states pulses are not enough for the few whose two slopes differ much.
    assert float(away.median()) < 0.1201
    assert float(away.max()) < 0.3


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("calibrated", [True, False])
def test_dead_cells_are_reported_and_no_others(desk, noise, calibrated):
    tile, truth = matrix(desk, noise=noise, calibrated=calibrated, dead=0.05)
    dead = ~truth.responds
    assert 30 < int(dead.sum()) < 75
    done = program_conductance(tile, off_middle(truth))
    assert not bool(done.success[dead].any())
    assert torch.equal(done.stuck, dead)
    # Where a cell's own range ends before the target it is unreachable, not stuck; or its pulses ran out on the way.
    target = off_middle(truth)
    beyond = ~dead & ((target > truth.g_max + truth.step_siemens) | (target < truth.g_min - truth.step_siemens))
    assert bool(beyond.any())
    assert bool((done.unreachable | (done.pulses >= 4000))[beyond].all())
    assert not bool(done.success[beyond].any())
    if calibrated:
        assert int(done.pulses[dead].sum()) == 0
    else:
        assert int(done.pulses[dead].max()) < 1000


def test_stuck_cells_that_a_calibration_took_for_alive_are_found_out(desk):
    tile, truth = matrix(desk, stuck=0.05)
    broken = ~truth.responds
    tile.known = replace(truth, responds=torch.ones_like(broken))
    target = targets(truth, 0.2, 0.8)
    far = (target - desk.siemens(tile)).abs() > 30 * STEP_SIEMENS
    done = program_conductance(tile, target)
    assert bool(done.stuck[broken & far].all())
    assert not bool((done.stuck & ~broken).any())


def test_a_mask_leaves_the_other_cells_alone(desk):
    tile, truth = matrix(desk, size=8)
    mask = torch.zeros_like(truth.responds)
    mask[:, 2, 3] = mask[:, 7] = True
    before = desk.siemens(tile)
    done = program_conductance(tile, targets(truth), mask=mask)
    assert torch.equal(desk.siemens(tile)[~mask], before[~mask])
    assert torch.equal(done.success, mask)
    assert int(done.pulses[~mask].sum()) == 0
    assert float(done.error_siemens[~mask].abs().max()) == 0.0


def test_weights_are_programmed_above_the_reference(desk, draw):
    tile, truth = matrix(desk, size=8)
    tile.known = replace(truth, siemens_per_weight=torch.tensor([100e-6], dtype=torch.float64))
    tile = type(tile)(tile.place, tile.known, 0, torch.zeros(1, dtype=torch.int64))
    tile.set_reference(tile.reference + 2e-6)
    weight = 0.05 * torch.tanh(draw((1, 8, 8), 1))
    done = program_weights(tile, weight)
    assert bool(done.success.all())
    worst = float((0.6 * truth.step_siemens / 100e-6).max())
    torch.testing.assert_close(tile.weights(), weight, rtol=0, atol=1.01 * worst)


def test_an_array_is_programmed_alike_alone_and_in_a_population(desk):
    ids = torch.tensor([4, 9, 2])
    tile, truth = matrix(desk, size=8, noise=0.5, ids=ids)
    target = targets(truth)
    done = program_conductance(tile, target)
    together = desk.inside(tile)
    reads = together["counter_read"].tolist()
    assert len(set(reads)) > 1
    for k in range(3):
        alone, _ = matrix(desk, size=8, noise=0.5, ids=ids[k : k + 1])
        one = program_conductance(alone, target[k : k + 1])
        # Conductances and counters: an array that is ready is not even read while others go on.
        for name, value in desk.inside(alone).items():
            assert torch.equal(value[0], together[name][k]), name
        for name in ("success", "unreachable", "stuck", "error_siemens", "pulses"):
            assert torch.equal(getattr(one, name)[0], getattr(done, name)[k]), name
        assert one.rounds == reads[k]


@pytest.mark.slow
@settings(max_examples=15)
@given(
    max_states=st.floats(0.01, 3.0), rounds=st.integers(1, 40), noise=st.sampled_from([0.0, 0.5, 5.0]),
    calibrated=st.booleans(), low=st.floats(-0.5, 0.5), seed=st.integers(0, 9),
)  # fmt: skip
def test_never_more_than_the_budget(desk, max_states, rounds, noise, calibrated, low, seed):
    tile, truth = matrix(desk, size=4, noise=noise, calibrated=calibrated, dead=0.1)
    done = program_conductance(tile, targets(truth, low, 1.2, seed), ProgramLimits(0.6, max_states, rounds))
    known = tile.known
    states = (known.g_max - known.g_min) / known.step_siemens
    assert bool((done.pulses <= (max_states * states).clamp(min=4) + 1).all())
    assert done.rounds <= max(rounds, 2)
    counted = tile.place.regions[0].backend.status()
    assert torch.equal(counted["pulses_up"] + counted["pulses_down"], done.pulses)


def test_a_target_of_the_wrong_shape_is_refused_in_one_line(desk):
    tile, _ = matrix(desk, size=4)
    with pytest.raises(ShapeError, match=r"program m: target \[1, 4, 3\] needs \[1, 4, 4\] \[array in out\]"):
        program_conductance(tile, torch.full((1, 4, 3), 1e-4))
