"""What every board must show: pulses that move cells, a symmetry point, products and updates that are what they say.

Every check has at most 1e-6 false alarms on a sound board (``hil.testing.sampling``), and notes the smallest error that
it would have caught with the noise it met. Devices differ: bounds are set by what the cells of the block themselves did.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from hil.encoding import Stream, coincidence_counts, uniform, word
from hil.known import from_nominal
from hil.place import Place, Region
from hil.programming import ProgramLimits, program_conductance
from hil.testing.block import Block
from hil.testing.sampling import mean_bound, normal_bound, pooled_variance, slope
from hil.testing.stimuli import adc_grain, all_ones, input_patterns, random_train, read_v, up_down
from hil.tile import Tile

__all__ = [
    "test_a_product_is_linear",
    "test_a_product_matches_the_conductances_read_back",
    "test_a_trace_is_pulses_and_reads",
    "test_alternating_pulses_find_the_symmetry_point",
    "test_inactive_lines_and_arrays_are_left_alone",
    "test_programming_reaches_its_targets",
    "test_pulses_move_the_cells_they_are_meant_for",
    "test_up_and_down_pulses_are_monotone",
    "test_update_gives_every_cell_its_coincidences",
    "test_update_moves_cells_like_pulses",
]

Direction = Literal["forward", "backward"]
REPEATS = 8
"""Of every product."""


def test_up_and_down_pulses_are_monotone(block: Block) -> None:
    """N up and N down pulses: the mean of the block rises through every quarter of the former, falls through the latter.

    Catches a wrong polarity, pulses that do not arrive, and movements of less than a tenth of the nominal one.
    """
    n = 4 * math.ceil(block.moving / 4)
    block.need(2 * n + block.states / 2)
    block.centre()
    start = block.read()
    traced = block.trace(up_down(n), every=n // 4)
    points = torch.cat([start[..., None], traced], dim=-1).flatten(0, 1)
    moves = points.diff(dim=1)
    least = 0.1 * block.step_siemens * n / 4
    for quarter, move in enumerate(moves.unbind(dim=1)):
        rise = float(move.mean()) if quarter < 4 else -float(move.mean())
        assert rise > least, f"quarter {quarter} of up then down: moved by {rise:.3g} S, the nominal {n / 4:g} steps: no"
    for half, sign in ((slice(0, 4), 1), (slice(4, 8), -1)):
        right = sign * moves[:, half].sum(dim=1) > 2 * block.noise_siemens
        assert float(right.float().mean()) >= 0.75, f"{int((~right).sum())} of {len(right)} cells do not follow their pulses"
    block.notes.append(f"a movement below {least * 4 / (n * block.step_siemens):.0%} of the nominal one")


def test_pulses_move_the_cells_they_are_meant_for(block: Block) -> None:
    """Up on the cells above the diagonal: those rise, and no other cell of the block moves a fifth as far as they do.

    Then down on those below. Catches swapped rows and columns, a mask that is not kept, and gross half-select disturb.
    """
    n = block.moving
    block.need(n + block.states / 2)
    block.centre()
    for cells, sign in ((block.above, 1), (block.below, -1)):
        before = block.read()
        block.pulse(sign * n * cells.long())
        move = sign * (block.read() - before)
        meant = float(move[cells].mean())
        assert meant > 0.1 * n * block.step_siemens
        others = move[~cells].abs()
        slack = normal_bound(others.numel()) * block.noise_siemens
        assert float(others.max()) <= 0.2 * meant + slack, "cells moved that got no pulse"


def test_a_trace_is_pulses_and_reads(block: Block) -> None:
    """N up and N down as one trace, and pulse by pulse with a read after each: alike in mean and in the spread of steps.

    Cells are compared each with itself. Catches a third of the pulses missing (noted) and steps that scatter twice as much.
    """
    n = min(24, max(10, block.states // 4))
    block.need(6 * n + block.states / 2)
    block.centre()
    block.trace(up_down(n), every=2 * n)
    start, traced = block.read(), block.trace(up_down(n))
    again, single = block.read(), []
    one = torch.ones(block.size, dtype=torch.int32)
    for sign in up_down(n).tolist():
        block.pulse(sign * one)
        single.append(block.read(averages=1))
    composed = torch.stack(single, dim=-1)
    # There and back together.
    first, second = (2 * y[..., n - 1] - y[..., -1] - from_ for y, from_ in ((traced, start), (composed, again)))
    ratio, random = slope(first, second)
    bound = random + 0.1
    block.notes.append(f"a trace that moves cells by {bound:.0%} more or less")
    assert abs(ratio - 1) <= bound, f"a trace moves cells {ratio:.2f} times as far as its pulses do"
    scatter = [_step_variance(y[..., :n]) + _step_variance(y[..., n:]) for y in (traced, composed)]
    more = scatter[0] - scatter[1]
    allowed = mean_bound(more) + 0.5 * float(scatter[1].mean().abs()) + (0.1 * block.step_siemens) ** 2
    assert float(more.mean().abs()) <= allowed, "steps of a trace scatter otherwise"


def _step_variance(y: Tensor) -> Tensor:
    """Variance of single steps, [row col], without that of the readings y [row col read], which may differ from verb to
    verb: a reading enters two neighbouring steps with opposite signs, so that their covariance takes it out."""
    steps = y.diff(dim=-1)
    away = steps - steps.mean(dim=-1, keepdim=True)
    return away.square().mean(dim=-1) + 2 * (away[..., 1:] * away[..., :-1]).mean(dim=-1)


def test_alternating_pulses_find_the_symmetry_point(block: Block) -> None:
    """From above and from below, alternating pulses move cells towards each other, and to the same symmetry point.

    Each run is cut in three parts of equal length; while cells decay to their symmetry points the means are a geometric
    row, whose limit is taken, with one ratio for the block. Also says the sign of the slopes: up steps shrink as G rises,
    or down steps grow.
    Catches limits apart by 3 % of the range and their error (noted), and cells that do not converge.
    """
    quarter = max(block.states // 4, 10)
    pairs = 12 * math.ceil(max(3 * block.states / 8, 60) / 12)
    block.need(3 * quarter + 4 * pairs + block.states / 2)
    block.centre()
    runs, ends = [], []
    for up in (quarter, -2 * quarter):
        block.pulse(torch.full(block.size, up))
        start = block.read()
        every = pairs // 6
        sign = 1 if up > 0 else -1
        traced = block.trace(torch.tensor([sign, -sign] * pairs, dtype=torch.int8), every)
        runs.append([part.mean(dim=-1) for part in traced.tensor_split(3, dim=-1)])
        ends.append((start, block.read()))
    gap = [ends[0][k] - ends[1][k] for k in (0, 1)]
    wide, left = float(gap[0].mean()), float(gap[1].mean())
    assert wide > 0.1 * block.range_siemens, "the starting points above and below are not apart"
    assert left < 0.7 * wide, f"alternating pulses leave {left / wide:.0%} of the distance from above to below"
    first = [run[1] - run[0] for run in runs]
    second = [run[2] - run[1] for run in runs]
    fell = [float((a * b).sum()) for a, b in (*zip(first, second, strict=True), *zip(first, first, strict=True))]
    decay = min(max((fell[0] + fell[1]) / (fell[2] + fell[3]), 0.0), 0.9)
    limits = [run[2] + step * decay / (1 - decay) for run, step in zip(runs, second, strict=True)]
    apart = limits[0] - limits[1]
    bound = mean_bound(apart) + 0.03 * block.range_siemens
    assert float(apart.mean().abs()) <= bound, "another symmetry point from above than from below"
    block.notes.append(f"symmetry points apart by {bound / block.range_siemens:.0%} of the range")


def _products(block: Block, patterns: Tensor, direction: Direction) -> tuple[Tensor, float]:
    """(mean current, float64 [sample sensed] of the block's lines, standard deviation of one product)."""
    info = block.info
    driven, sensed = (block.rows, block.cols) if direction == "forward" else (block.cols, block.rows)
    volts = torch.zeros(1, len(patterns), info.rows if direction == "forward" else info.cols)
    volts[0, :, driven] = patterns * read_v(block)
    # A call each: a board that composes products from reads of cells takes those once for all samples of a call.
    found = torch.cat([block.backend.mvm(volts, direction) for _ in range(REPEATS)])
    assert found.dtype == torch.float32
    assert found.shape == (REPEATS, len(patterns), info.cols if direction == "forward" else info.rows)
    current = found[:, :, sensed].double()
    assert float(current.abs().max()) < info.full_scale_a, "a product saturates: lower read.read_v or use fewer lines"
    variance, _ = pooled_variance(current)
    return current.mean(dim=0), math.sqrt(variance)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_product_matches_the_conductances_read_back(block: Block, direction: Direction) -> None:
    """Products of the block against G as ``read`` gives it, less the zero that the board subtracts.

    Every current lies within noise, half a step of the ADC, the noise of the reads and the relative error that the board
    states; and so does the slope of all of them over what was expected (its bound is noted; it must be below half).
    """
    n = block.moving
    block.need(2 * n + block.states / 2)
    block.centre()
    block.pulse(n * block.above.long() - n * block.below.long())
    zero = block.set_zero()
    readings = block.reads(REPEATS)
    g = readings.mean(dim=0) - zero
    side = block.size[0] if direction == "forward" else block.size[1]
    patterns = input_patterns(block, side)
    current, noise = _products(block, patterns, direction)
    volts = patterns.double() * read_v(block)
    expected = volts @ (g if direction == "forward" else g.T)
    bound = _bound(block, volts, g if direction == "forward" else g.T, noise, expected.numel())
    excess = (current - expected).abs() - bound
    sample, line = divmod(int(excess.argmax()), expected.shape[1])
    assert float(excess.max()) <= 0, (
        f"{direction}: inputs {patterns[sample].tolist()} give {current[sample, line]:.4g} A on line {line}, "
        f"G as read gives {expected[sample, line]:.4g} A, allowed are {bound[sample, line]:.2g} A"
    )
    power = float((expected**2).sum())
    gain = float((current * expected).sum()) / power
    # As if the noise were the same for all samples, as it is where they share their reads.
    shared = float(expected.abs().sum(dim=0).square().sum().sqrt())
    random = normal_bound() * (noise * shared / math.sqrt(REPEATS) / power + _read_share(block, volts, expected))
    allowed = random + float((_fixed(block, volts, g if direction == "forward" else g.T) * expected.abs()).sum()) / power
    block.notes.append(f"a gain off by {allowed:.1%}")
    assert allowed < 0.5, "too much noise, or too coarse an ADC, to tell even the sign: raise read.read_v"
    assert abs(gain - 1) <= allowed


def _fixed(block: Block, volts: Tensor, g: Tensor) -> Tensor:
    """What does not average out: half a step of the ADC, the stated relative error, rounding; ampere [sample sensed]."""
    through = volts.abs() @ (g.abs() + block.info.g_mid_siemens)
    return adc_grain(block) / 2 + (block.stated.mvm_relative_error + 1e-5) * through


def _bound(block: Block, volts: Tensor, g: Tensor, noise: float, comparisons: int) -> Tensor:
    """Error that a current may have, ampere [sample sensed]."""
    read = block.noise_siemens * volts.square().sum(dim=1, keepdim=True).sqrt()
    random = torch.sqrt(read**2 + noise**2) / math.sqrt(REPEATS)
    return normal_bound(comparisons) * random + _fixed(block, volts, g)


def _read_share(block: Block, volts: Tensor, expected: Tensor) -> float:
    """Standard error of the slope that the noise of the reads makes."""
    weight = volts.T @ expected / (expected**2).sum()
    return float(block.noise_siemens / math.sqrt(REPEATS) * weight.square().sum().sqrt())


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_product_is_linear(block: Block, direction: Direction) -> None:
    """No input gives no current; the products of single lines add up to that of all; a negative input gives the negative.

    Without any read, so that it holds where reads and products differ. The bound is noted.
    """
    block.set_zero()
    side = block.size[0] if direction == "forward" else block.size[1]
    one = torch.eye(side)
    patterns = torch.cat([torch.zeros(1, side), torch.ones(1, side), one, *([-one] if block.info.read_bipolar else [])])
    current, noise = _products(block, patterns, direction)
    unit = normal_bound(current.numel()) * noise / math.sqrt(REPEATS)
    half = adc_grain(block) / 2 + 1e-5 * float(current.abs().max())
    assert float(current[0].abs().max()) <= unit + half, "a current without an input"
    singles = current[2 : 2 + side]
    bound = unit * math.sqrt(side + 1) + half * (side + 1)
    assert float((singles.sum(dim=0) - current[1]).abs().max()) <= bound, "single lines do not add up to all of them"
    if block.info.read_bipolar:
        assert float((singles + current[2 + side :]).abs().max()) <= unit * math.sqrt(2) + 2 * half
    block.notes.append(f"a sum of lines off by {bound:.2g} A")


def test_update_moves_cells_like_pulses(block: Block) -> None:
    """A train that fires in every slot is so many pulses, up where the signs of row and column are equal, down elsewhere.

    Pulses and updates alternate about the same states, cells are compared each with itself; the bound is noted.
    """
    slots = min(31, block.moving)
    rounds = math.ceil(block.moving / 31)
    block.need(10 * slots * rounds + block.states / 2)
    block.centre()
    signs = [1.0 - 2.0 * (torch.arange(side) % 2) for side in block.size]
    moves: dict[str, Tensor] = {}
    for how in ("warm up", "pulse", "update", "update again", "pulse again"):
        for turn in (1, -1):
            rows, cols, counts = all_ones(block, slots, turn * signs[0], signs[1])
            before = block.read()
            for _ in range(rounds):
                if how.startswith("update"):
                    block.update(rows, cols, counts)
                else:
                    block.pulse(counts)
            moves[how] = moves.get(how, 0) + (block.read() - before) * counts.sign()
    pulsed = moves["pulse"] + moves["pulse again"]
    updated = moves["update"] + moves["update again"]
    size = float(pulsed.mean())
    assert size > 0.4 * slots * rounds * block.step_siemens
    clear = 5 * block.noise_siemens
    assert bool((updated > -clear).all()), "an update moved a cell the wrong way"
    ratio, random = slope(updated, pulsed)
    bound = random + 0.1
    block.notes.append(f"updates that are {bound:.0%} stronger or weaker than pulses")
    if bound >= 1:
        pytest.skip(f"single steps too noisy: {bound:.0%} of a movement, updates off by less are not seen")
    assert abs(ratio - 1) <= bound


def test_update_gives_every_cell_its_coincidences(block: Block) -> None:
    """Stochastic trains of both signs move every cell as so many pulses as they coincide in, counted on the host, do.

    There and back, by updates and by pulses about the same states; the bound of the slope of one over the other is noted.
    Where somebody counts pulses, the counts are exact as well.
    """
    slots, samples = min(31, block.moving), max(2, math.ceil(block.moving / 15))
    block.need(6 * slots * samples + block.states / 2)
    block.centre()
    rows, cols = (
        random_train(block, samples, slots, side, name) for side, name in zip(block.size, ("rows", "cols"), strict=True)
    )
    counts = torch.stack([coincidence_counts(rows.at(k), cols.at(k))[0] for k in range(samples)]).long().sum(dim=0)
    moves: dict[str, Tensor] = {}
    for how in ("warm up", "update", "pulse"):
        for turn in (1, -1):
            before, counted = block.read(), block.counted()
            if how == "update":
                block.update(replace(rows, sign=turn * rows.sign), cols, counts)
                pair = torch.stack([(turn * counts).clamp(min=0), (-turn * counts).clamp(min=0)])
                for (who, old), (_, new) in zip(counted, block.counted(), strict=True):
                    assert torch.equal(new - old, pair), f"{who}: counts other pulses than the trains coincide"
            else:
                block.pulse(turn * counts)
            moves[how] = moves.get(how, 0) + turn * (block.read() - before)
    updated, pulsed = moves["update"], moves["pulse"]
    ratio, random = slope(updated, pulsed)
    bound = random + 0.1
    block.notes.append(f"coincidences off by {bound:.0%}")
    if bound >= 1:
        pytest.skip(f"single steps too noisy: {bound:.0%} of a movement, counts off by less are not seen")
    assert abs(ratio - 1) <= bound


def test_inactive_lines_and_arrays_are_left_alone(block: Block) -> None:
    """A train on one row and one column pulses one cell; one without signs, or with active false, none; nor is an
    inactive array read: its product is 0."""
    slots, rounds = min(31, block.moving), math.ceil(block.moving / 31)
    block.need(2 * slots * rounds + block.states / 2)
    block.centre()
    row, col = torch.zeros(block.size[0]), torch.zeros(block.size[1])
    row[0], col[-1] = 1, 1
    trains = all_ones(block, slots, row, col)
    before, counted = block.read(), block.counted()
    for _ in range(rounds):
        block.update(*trains)
    move = block.read() - before
    hit = trains[2] != 0
    assert float(move[hit]) > 0.1 * slots * rounds * block.step_siemens
    slack = normal_bound(move.numel()) * block.noise_siemens
    assert float(move[~hit].abs().max()) <= 0.2 * float(move[hit]) + slack, "a cell moved whose lines did not both fire"
    for (_, old), (_, new) in zip(counted, block.counted(), strict=True):
        assert int((new - old)[:, ~hit].abs().sum()) == 0
    none = torch.zeros(block.info.arrays, dtype=torch.bool)
    before, counted = block.read(), block.counted()
    block.update(*trains, active=none)
    block.update(*all_ones(block, slots, 0 * row, col))
    moved = float((block.read() - before).abs().max())
    assert moved <= slack + 0.2 * slots * block.step_siemens
    for (who, old), (_, new) in zip(counted, block.counted(), strict=True):
        assert torch.equal(old, new), f"{who}: counts pulses of an inactive array"
    volts = torch.full((1, 1, block.info.rows), 0.0)
    volts[..., block.rows] = read_v(block)
    assert float(block.backend.mvm(volts, "forward", none).abs().max()) == 0


def test_programming_reaches_its_targets(block: Block) -> None:
    """Write-verify to targets in the middle 60 % of the nominal range, as far as the pulses allowed reach.

    What is reported as reached is read there, afterwards and apart; at least three quarters of the cells get there.
    """
    reach = min(block.budget / 2, block.per_operation, block.states)
    block.need(min(block.states / 4, 40))
    g = block.read()
    low, high = (block.nominal.g_min_siemens + share * block.range_siemens for share in (0.2, 0.8))
    key = Stream(block.bench.config.seed, block.bench.ids, "conformance", "targets").keys(1)
    share = uniform(word(key, torch.arange(g.numel(), dtype=torch.int32), 0)).view(g.shape)
    span = 0.5 * reach * block.step_siemens
    nearest, farthest = (g - span).clamp(low, high), (g + span).clamp(low, high)
    target = (nearest + share * (farthest - nearest)).float()
    height, width = block.size
    region = Region(block.backend, block.rows, block.cols, slice(0, height), slice(0, width))
    config = block.bench.config
    place = Place("conformance", block.role, height, width, (region,), block.shape, config.read, block.nominal)
    tile = Tile(place, from_nominal(block.nominal, 1, height, width), config.seed, block.bench.ids)
    limits = ProgramLimits(max_states=reach / block.states)
    done = program_conductance(tile, target[None], limits)
    assert int(done.pulses.max()) <= reach
    tolerance = limits.tolerance_steps * block.step_siemens
    error = (block.read() - target).abs()[done.success[0]]
    assert float(done.success.float().mean()) >= 0.75, f"{int((~done.success).sum())} of {g.numel()} cells not reached"
    # Programming takes the noise of a reading as tolerance where that is more, and lets a cell stray by four more.
    assert float(error.max()) <= max(tolerance, block.noise_siemens) + (4 + normal_bound(g.numel())) * block.noise_siemens
