"""What every board must do by contract: say what it is, refuse what it must, count what it is given, be grounded.

Checks go through the guard, the only public way to a board. They take the fixtures of ``hil.testing.plugin``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from hil.backend import PulseShape
from hil.bench import Bench
from hil.config import BenchConfig
from hil.encoding import PulseTrain
from hil.errors import HardwareError, HilError, LimitError, ShapeError
from hil.ledger import Ledger
from hil.testing.block import Block, block_on
from hil.testing.opened import OpenedBench
from hil.testing.sampling import normal_bound, pooled_variance, spread_ratio
from hil.testing.stimuli import adc_grain, all_ones
from hil.testing.targets import has_twin

__all__ = [
    "test_a_board_is_opened_once",
    "test_closing_twice_and_opening_again",
    "test_excluded_cells_are_refused",
    "test_info_is_coherent",
    "test_noise_is_as_stated",
    "test_posted_work_is_settled_at_a_barrier",
    "test_pulses_are_counted_one_by_one",
    "test_pulses_outside_the_limits_are_refused",
    "test_read_masks",
    "test_readings_repeat",
    "test_safe_is_confirmed_and_the_board_answers_after_it",
    "test_status_is_a_dictionary",
    "test_wrong_shapes_are_refused",
]


def test_info_is_coherent(block: Block) -> None:
    """Sizes, ranges and levels fit together, and the bench file's pulses and reads fit them."""
    info = block.info
    assert info.arrays >= 1
    assert info.rows >= 1
    assert info.cols >= 1
    assert info.serial.strip(), "a board without serial: calibrations and wear counters are keyed by it"
    assert info.model.strip()
    for name in ("read_v", "pulse_v", "width_s"):
        span = getattr(info, name)
        assert math.isfinite(span.low), name
        assert math.isfinite(span.high), name
        assert span.low <= span.high, name
        assert 0 <= span.grain <= max(span.high - span.low, span.high), name
    assert info.width_s.low > 0
    assert info.read_levels == 0 or info.read_levels >= 2
    assert info.adc_bits >= 0
    assert info.full_scale_a > 0
    assert 0 <= info.rows_at_once <= info.rows
    assert 0 <= info.cols_at_once <= info.cols
    assert info.reference != "mid" or info.g_mid_siemens > 0
    assert info.read_v.holds(block.bench.config.read.read_v)
    assert not info.read_bipolar or info.read_v.low < 0


def test_status_is_a_dictionary(block: Block) -> None:
    """``status`` is a dictionary by name, and what it states of errors is usable."""
    status = block.backend.status()
    assert isinstance(status, dict)
    assert all(isinstance(name, str) for name in status)
    assert 0 <= block.stated.mvm_relative_error < 0.5


def _wrong_calls(block: Block) -> dict[str, Callable[[], object]]:
    """Calls of every verb with a tensor that fits no verb of this board."""
    info, verbs, shape = block.info, block.backend, block.shape
    size = (info.arrays, info.rows, info.cols)
    wide, flat = (info.arrays, info.rows, info.cols + 1), (info.rows, info.cols)
    mask = torch.zeros(size, dtype=torch.bool)
    rows, cols = _silent(info.arrays, info.rows), _silent(info.arrays, info.cols)
    up = torch.ones(2, dtype=torch.int8)
    actives = torch.ones(info.arrays + 1, dtype=torch.bool)
    return {
        "read: a column too many": lambda: verbs.read(torch.zeros(wide, dtype=torch.bool)),
        "read: no array axis": lambda: verbs.read(torch.zeros(flat, dtype=torch.bool)),
        "read: int32 mask": lambda: verbs.read(torch.zeros(size, dtype=torch.int32)),
        "pulse: a column too many": lambda: verbs.pulse(torch.zeros(wide, dtype=torch.int32), shape),
        "pulse: float32 counts": lambda: verbs.pulse(torch.zeros(size), shape),
        "trace: no array axis": lambda: verbs.trace(up, mask[0], shape),
        "trace: a polarity of 2": lambda: verbs.trace(up * 2, mask, shape),
        "trace: float32 polarity": lambda: verbs.trace(up.float(), mask, shape),
        "mvm forward: a row too many": lambda: verbs.mvm(torch.zeros(info.arrays, 1, info.rows + 1), "forward"),
        "mvm backward: a column too many": lambda: verbs.mvm(torch.zeros(info.arrays, 1, info.cols + 1), "backward"),
        "mvm: no sample axis": lambda: verbs.mvm(torch.zeros(info.arrays, info.rows), "forward"),
        "mvm: float64 volts": lambda: verbs.mvm(torch.zeros(info.arrays, 1, info.rows).double(), "forward"),
        "update: a row too many": lambda: verbs.update(_silent(info.arrays, info.rows + 1), cols, shape),
        "update: a column too many": lambda: verbs.update(rows, _silent(info.arrays, info.cols + 1), shape),
        "update: an array too many in active": lambda: verbs.update(rows, cols, shape, actives),
        "mvm: an array too many in active": lambda: verbs.mvm(torch.zeros(info.arrays, 1, info.rows), "forward", actives),
    }


def _outcome(call: Callable[[], object], wanted: type[HilError]) -> str:
    """ "" where the call raises what is wanted, in one line; else what happened."""
    try:
        call()
    except wanted as error:
        return "more than one line" if "\n" in str(error) else ""
    except Exception as error:
        return f"{type(error).__name__} ({error})"
    return "accepted"


def _silent(arrays: int, lines: int) -> PulseTrain:
    zero = torch.zeros(arrays, 1, lines, dtype=torch.int32)
    return PulseTrain.given(zero, zero.to(torch.int8), torch.ones(arrays, 1, dtype=torch.int32))


def test_wrong_shapes_are_refused(block: Block) -> None:
    """Every verb raises ShapeError, in one line, for a tensor of another shape or type; no cell moves."""
    before, counted = block.read(), block.counted()
    outcomes = {name: _outcome(call, ShapeError) for name, call in _wrong_calls(block).items()}
    assert not any(outcomes.values()), f"no ShapeError: {', '.join(f'{n}: {o}' for n, o in outcomes.items() if o)}"
    _nothing_happened(block, before, counted)


def _wrong_pulses(block: Block) -> dict[str, PulseShape]:
    """Pulses just outside what the board does, and just outside the limits of the bench file."""
    info, limits, good = block.info, block.limits, block.shape
    found = {
        "up_v above the board's range": replace(good, up_v=info.pulse_v.high + 0.01 * abs(info.pulse_v.high)),
        "down_v below the board's range": replace(good, down_v=info.pulse_v.low - 0.01 * abs(info.pulse_v.low)),
        "width_s above the board's range": replace(good, width_s=info.width_s.high * 1.01),
        "width_s = 0": replace(good, width_s=0.0),
        "up_v = nan": replace(good, up_v=math.nan),
    }
    # A range forgives rounding by 1e-9 of its larger end, which may be all of the smaller one.
    if info.width_s.low > 1e-6 * info.width_s.high:
        found["width_s below the board's range"] = replace(good, width_s=info.width_s.low * 0.99)
    if limits is not None:
        found |= {
            "up_v above the limits": replace(good, up_v=math.copysign(limits.up_v_max * 1.01, _first(good.up_v))),
            "down_v above the limits": replace(good, down_v=math.copysign(limits.down_v_max * 1.01, _first(good.down_v))),
            "width_s above the limits": replace(good, width_s=limits.width_s_max * 1.01),
        }
    return found


def _first(value: float | tuple[float, ...]) -> float:
    return value[0] if isinstance(value, tuple) else value


def test_pulses_outside_the_limits_are_refused(block: Block) -> None:
    """1 % outside raises LimitError in one line, whichever verb pulses; no cell moves and nothing is counted."""
    one = block.mask.to(torch.int32)
    rows, cols, _ = all_ones(block, 1, torch.ones(block.size[0]), torch.ones(block.size[1]))
    rows, cols = (rows.placed(block.info.rows, block.rows.start), cols.placed(block.info.cols, block.cols.start))
    up = torch.ones(1, dtype=torch.int8)
    before, counted = block.read(), block.counted()
    verbs: dict[str, Callable[[PulseShape], object]] = {
        "pulse": lambda wrong: block.backend.pulse(one, wrong),
        "trace": lambda wrong: block.backend.trace(up, block.mask, wrong),
        "update": lambda wrong: block.backend.update(rows, cols, wrong),
    }
    outcomes = {
        f"{verb} with {name}": _outcome(partial(call, shape), LimitError)
        for name, shape in _wrong_pulses(block).items()
        for verb, call in verbs.items()
    }
    assert not any(outcomes.values()), f"no LimitError: {', '.join(f'{n}: {o}' for n, o in outcomes.items() if o)}"
    if block.info.physical:
        beyond = torch.zeros(block.info.arrays, 1, block.info.rows)
        beyond[..., block.rows.start] = block.info.read_v.high * 1.01
        with pytest.raises(LimitError):
            block.backend.mvm(beyond, "forward")
    _nothing_happened(block, before, counted)


def test_excluded_cells_are_refused(block: Block) -> None:
    """A pulse on a cell that the limits of a physical board exclude raises LimitError and is not counted."""
    if bool(block.usable.all()) or not block.info.physical:
        pytest.skip("the bench file excludes no cell of a physical board")
    counted = block.counted()
    counts = torch.zeros(1, block.info.rows, block.info.cols, dtype=torch.int32)
    counts[0, block.rows.start, block.cols.start] = 1
    row, col = (~block.usable).nonzero()[0].tolist()
    counts[0, row, col] = 1
    with pytest.raises(LimitError):
        block.backend.pulse(counts, block.shape)
    _same_counts(counted, block.counted())


def test_read_masks(block: Block) -> None:
    """NaN outside the mask and nowhere else, float32, conductances above or near zero; for a read and for a trace."""
    assert block.backend.read(block.mask).dtype == torch.float32
    for cells in (block.above, block.below, torch.zeros(block.size, dtype=torch.bool)):
        mask = block.on_board(cells)
        g = block.backend.read(mask)
        assert g.shape == mask.shape
        assert torch.equal(~g.isnan(), mask)
    assert bool((block.read() > -10 * block.noise_siemens).all())
    up_down = torch.tensor([1, -1], dtype=torch.int8)
    traced = block.trace(up_down, cells=block.above)
    assert traced.shape == (*block.size, 2)
    assert torch.equal(~traced.isnan(), block.above[..., None].expand(-1, -1, 2))
    assert block.trace(up_down, every=2).shape == (*block.size, 1)


def test_readings_repeat(block: Block) -> None:
    """Two groups of readings agree within their noise and 2 % of the range, and averages are no noisier than one reading.

    False alarms at most 1e-6; catches a cell that is read elsewhere, or with a bias of 2 % of the range, or an average
    that has more than some 1.6 times the noise of a single reading.
    """
    one, again, averaged = block.reads(16), block.reads(16), block.reads(16, averages=16)
    floor = 1e-7 * block.nominal.g_max_siemens
    bound = normal_bound(2 * one[0].numel()) * block.noise_siemens * math.sqrt(2 / 8) + 0.02 * block.range_siemens
    for other in (again, averaged):
        assert float((one.mean(dim=0) - other.mean(dim=0)).abs().max()) <= bound
    variance, freedom = pooled_variance(torch.cat([one - one.mean(dim=0), again - again.mean(dim=0)]))
    less, freedom_less = pooled_variance(averaged)
    assert less <= variance * spread_ratio(freedom_less, freedom) + floor**2
    block.notes.append(f"a reading off by {bound:.2g} S")


def test_noise_is_as_stated(block: Block) -> None:
    """Read and product noise are not above what the board states of them in ``status()``.

    False alarms at most 1e-6; catches noise of 1.3 times what is stated. The ADC's rounding is added to what is stated.
    """
    stated = block.stated
    if stated.read_noise_siemens is None and stated.mvm_noise_a is None:
        pytest.skip("the board states neither read_noise_siemens nor mvm_noise_a in its status()")
    excess = {}
    if stated.read_noise_siemens is not None:
        variance, freedom = pooled_variance(block.reads(32))
        allowed = stated.read_noise_siemens**2 * spread_ratio(freedom) + (1e-7 * block.nominal.g_max_siemens) ** 2
        excess["read"] = math.sqrt(variance / allowed)
    if stated.mvm_noise_a is not None:
        volts = torch.zeros(1, 64, block.info.rows)
        current = block.backend.mvm(volts, "forward")[0, :, block.cols]
        variance, freedom = pooled_variance(current)
        grain = adc_grain(block)
        excess["mvm"] = math.sqrt(variance / (stated.mvm_noise_a**2 * spread_ratio(freedom) + grain**2 / 4 + 1e-30))
    assert max(excess.values()) <= 1, f"noise over what may be measured of the stated one: {excess}"


def test_pulses_are_counted_one_by_one(block: Block) -> None:
    """Whoever counts (the guard on a physical board; the board, where its status says so) counts what was asked, by
    cell and polarity, over ``pulse``, ``trace`` and ``update``; a single lost or doubled pulse is caught."""
    block.need(110)
    counted = block.counted()
    if not counted:
        pytest.skip("an emulated board whose status() has no pulses_up and pulses_down: nobody counts")
    rows, cols = block.size
    up = torch.arange(rows * cols).view(rows, cols) % 5 + 6
    polarity = torch.tensor([1] * 15 + [-1] * 15 + [1, -1, 1, -1], dtype=torch.int8)
    block.pulse(up)
    block.pulse(-up)
    block.pulse(torch.where(block.above, 3, 0) - torch.where(block.below, 2, 0))
    block.trace(polarity, every=7, cells=block.below)
    row_sign, col_sign = torch.ones(rows), torch.ones(cols)
    row_sign[0], col_sign[-1] = -1, -1
    trains = all_ones(block, 31, row_sign, col_sign)
    block.update(*trains)
    expected = torch.stack([up + 3 * block.above, up + 2 * block.below])
    expected[0] += 17 * block.below + trains[2].clamp(min=0)
    expected[1] += 17 * block.below - trains[2].clamp(max=0)
    for (who, before), (_, after) in zip(counted, block.counted(), strict=True):
        wrong = ((after - before) != expected).any(dim=0)
        assert not bool(wrong.any()), f"{who}: {int(wrong.sum())} cells counted otherwise than asked"


def test_posted_work_is_settled_at_a_barrier(block: Block, ledger: Ledger) -> None:
    """After ``status`` no operation of the board is pending in the run record, and what was sent is recorded as done."""
    if not block.info.physical:
        pytest.skip("the operations of an emulated board are not recorded")
    block.need(2)
    block.pulse(torch.ones(block.size, dtype=torch.int32))
    block.pulse(-torch.ones(block.size, dtype=torch.int32))
    block.backend.status()
    label = block.bench.label(block.board)
    assert [one.number for one in ledger.pending() if one.board == label] == []
    last = [one for one in ledger.run.operations() if one.board == label][-2:]
    assert [(one.verb, one.status) for one in last] == [("pulse", "done")] * 2


def test_safe_is_confirmed_and_the_board_answers_after_it(block: Block) -> None:
    """``safe`` confirms, twice in a row, moves no cell, and is no end: the board reads and says its status afterwards."""
    before, counted = block.read(), block.counted()
    assert block.backend.safe() is True
    assert block.backend.safe() is True
    assert isinstance(block.backend.status(), dict)
    _nothing_happened(block, before, counted)


def test_closing_twice_and_opening_again(hil_opened: OpenedBench, board: str) -> None:
    """Closing again does nothing; opened again the board is the same one, by its serial and size, and can be made safe."""
    first = block_on(hil_opened.bench, board, 0)
    hil_opened.let_go()
    first.backend.close()
    first.backend.close()
    again = block_on(hil_opened.bench, board, 0)
    assert again.backend is not first.backend
    old, new = first.info, again.info
    assert (new.serial, new.model, new.rows, new.cols) == (old.serial, old.model, old.rows, old.cols)
    assert again.backend.safe() is True


def test_a_board_is_opened_once(
    bench: Bench, board: str, reopen: Callable[[BenchConfig | None], Bench], block: Block
) -> None:
    """A second harness gets HardwareError in one line, and the first goes on undisturbed."""
    if not block.info.physical:
        pytest.skip("an emulated board is no thing that two could hold")
    config = bench.config
    again = config.boards[board]
    if has_twin(again) or has_twin(config.station):
        # Opened again as it stands it would start a twin of its own.
        said = bench.backends[board].status()
        links = {name: said[name] for name in ("link", "links") if name in said}
        if not links:
            pytest.skip('the board is a twin, and its status() has no "link" or "links" to open it by')
        settings = {name: value for name, value in again.settings.items() if name != "twin"}
        again = again.model_copy(update={"settings": {**settings, **links}})
    second = config.model_copy(update={"station": None, "boards": {**config.boards, board: again}})
    with pytest.raises(HardwareError) as refused:
        reopen(second)
    assert "\n" not in str(refused.value)
    assert not block.read().isnan().any()


def _nothing_happened(block: Block, before: Tensor, counted: list[tuple[str, Tensor]]) -> None:
    """No cell moved by more than noise and 1 % of the range, and no counter changed."""
    _same_counts(counted, block.counted())
    bound = normal_bound(before.numel()) * block.noise_siemens + 0.01 * block.range_siemens
    assert float((block.read() - before).abs().max()) <= bound


def _same_counts(before: list[tuple[str, Tensor]], after: list[tuple[str, Tensor]]) -> None:
    for (who, old), (_, new) in zip(before, after, strict=True):
        assert torch.equal(old, new), f"{who}: counted pulses that were refused"
