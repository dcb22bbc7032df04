from __future__ import annotations

import pytest
import torch

from hil.errors import UsageError
from procedures.characterize import CharacterizeConfig, characterize
from procedures.zero_shift import ZeroShiftConfig, zero_shift

QUICK = CharacterizeConfig(branch_reads=40, alternating_pulses=400, cycles=3)


def test_refuses_without_a_calibration_before_the_first_pulse(make_bench):
    bench = make_bench(2, 2)
    with pytest.raises(UsageError, match="hil characterize stub"):
        zero_shift(bench, ZeroShiftConfig(), None)
    assert int(bench.array.status()["pulses_up"].max()) == 0


@pytest.mark.slow
def test_exact_without_noise(make_bench):
    bench = make_bench(4, 4, c2c=0.0)
    characterize(bench, QUICK, None)
    found = zero_shift(bench, ZeroShiftConfig(max_pulses=200, tolerance=1e-6), None).surfaces[0].calibration
    truth = bench.truth()
    assert float(((found.g_sp - truth["g_sp"]) / (truth["g_max"] - truth["g_min"])).abs().max()) < 1e-3


@pytest.mark.slow
def test_record_file_and_counted_pulses(make_bench, notes):
    bench = make_bench(6, 6, dead=0.2)
    before = characterize(bench, QUICK, None).surfaces[0].calibration
    counted = sum(bench.array.status()[side] for side in ("pulses_up", "pulses_down")).clone()
    (surface,) = zero_shift(bench, ZeroShiftConfig(max_pulses=400, tolerance=0.01), notes).surfaces
    counted = sum(bench.array.status()[side] for side in ("pulses_up", "pulses_down")) - counted
    torch.testing.assert_close(surface.pulses, counted.long(), rtol=0, atol=0)
    assert int(surface.pulses.max()) <= 400
    assert not surface.pulses[~before.responds].any()
    assert bool((surface.reason[~before.responds] == 1).all())
    kept = bench.calibrations.find(bench.array.info.serial, bench.shape)
    measured = surface.reason == 0
    torch.testing.assert_close(kept.g_ref[measured], kept.g_sp[measured], rtol=0, atol=0)
    torch.testing.assert_close(kept.slope_up, before.slope_up, rtol=0, atol=0, equal_nan=True)
    assert kept.procedure == "characterize + zero-shift"
    assert kept.pulses == before.pulses + int(surface.pulses.max())
    ((kind, payload, arrays),) = notes.events
    assert (kind, payload["surface"]) == ("zero-shift", "board main")
    assert {"g_sp", "g_sp_se", "pulses", "reason"} <= arrays.keys()
    assert {name for name, *_ in notes.results} == {f"board main: {row[0]}" for row in surface.rows}


@pytest.mark.slow
def test_a_cell_stops_once_it_is_good_enough(make_bench):
    bench = make_bench(8, 8)
    characterize(bench, QUICK, None)
    (surface,) = zero_shift(bench, ZeroShiftConfig(tolerance=0.02, segment_pairs=10), None).surfaces
    c = surface.calibration
    assert bool((c.g_sp_se < 0.02 * (c.g_max - c.g_min)).all())
    assert int(surface.pulses.max()) < 4000
    assert len(surface.pulses.unique()) > 3


@pytest.mark.slow
def test_cells_without_a_usable_symmetry_point_get_mid_range(make_bench):
    """Constant steps are left alone; a cell that did not converge, or lies outside its range, is flagged as well."""
    bench = make_bench(4, 4, c2c=0.05)
    before = characterize(bench, QUICK, None).surfaces[0].calibration
    asymmetry, g_max = before.asymmetry.clone(), before.g_max.clone()
    asymmetry[0, 0, 0] = 0.01 / (before.siemens_per_weight * before.bound_weight)
    g_max[0, 1, 1] = before.g_sp[0, 1, 1] - 0.2 * (before.g_sp - before.g_min)[0, 1, 1]
    bench.calibrations.save(type(before)(**{**vars(before), "asymmetry": asymmetry, "g_max": g_max}))
    (surface,) = zero_shift(bench, ZeroShiftConfig(), None).surfaces
    assert (int(surface.reason[0, 0, 0]), int(surface.pulses[0, 0, 0])) == (2, 0)
    assert int(surface.reason[0, 1, 1]) == 4
    c = surface.calibration
    assert bool(c.no_sp[0, 0, 0] & c.no_sp[0, 1, 1])
    assert int(c.no_sp.sum()) == 2
    torch.testing.assert_close(c.g_ref[c.no_sp], c.mid[c.no_sp])
    (strict,) = zero_shift(bench, ZeroShiftConfig(max_pulses=64, largest_error=1e-6), None).surfaces
    assert set(strict.reason.unique().tolist()) == {2, 3}


@pytest.mark.parametrize("options", [{"max_pulses": 3}, {"tolerance": 0}, {"unknown": 1}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ZeroShiftConfig(**options)


def score(bench, surface):
    """|error| in ranges, and error in standard errors, [cell] of the cells measured, with their true states."""
    truth, c = bench.truth(), surface.calibration
    good = surface.reason == 0
    error = (c.g_sp.double() - truth["g_sp"])[good]
    return error.abs() / (truth["g_max"] - truth["g_min"])[good], error / c.g_sp_se.double()[good], truth["states"][good]


@pytest.mark.slow
@pytest.mark.parametrize(
    "device", [{}, {"read_noise": 2e-7}, {"read_noise": 1.2e-6}, {"symmetry": "up_down", "up_down": 0.5}, {"c2c": 1.0}]
)
def test_errors_cover_the_truth(make_bench, device):
    """1,024 cells of 200 states. |mean z| 32 < 4.9: false alarm 1e-6, catches a bias of 0.15 standard errors. Bars of 95 %
    cover 91.6 % to 98.4 %: five binomial sigma, catches errors off by 15 %."""
    bench = make_bench(32, 32, states=200.0, **device)
    characterize(bench, CharacterizeConfig(), None)
    (surface,) = zero_shift(bench, ZeroShiftConfig(max_pulses=1000), None).surfaces
    relative, z, _ = score(bench, surface)
    assert len(z) > 0.98 * 1024
    assert abs(float(z.clamp(-8, 8).mean())) * 32 < 4.9
    assert 0.916 < float((z.abs() < 1.96).double().mean()) < 0.984
    assert float(relative.median()) < 0.02


@pytest.mark.slow
def test_ten_thousand_cells_of_two_thousand_states(make_bench):
    """The claim: median error below 0.5 % of a cell's range with at most 4,000 pulses a cell, those to mid-range included;
    95 % bars cover the truth in 93 % to 97 % of the cells (9 binomial sigma), in the slowest quarter in at least 90 %."""
    bench = make_bench(32, 32, arrays=10, states=2000.0, seed=1)
    characterize(bench, CharacterizeConfig(), None)
    (surface,) = zero_shift(bench, ZeroShiftConfig(), None).surfaces
    relative, z, states = score(bench, surface)
    covered = z.abs() < 1.96
    slow = states >= states.quantile(0.75)
    print(
        f"cells {z.numel()} of {surface.reason.numel()}, median error {100 * relative.median():.3f} % of the range, covered "
        f"{100 * covered.double().mean():.2f} %, slowest quarter {100 * covered[slow].double().mean():.2f} %, pulses "
        f"{surface.pulses.double().mean():.0f} mean, {int(surface.pulses.max())} most"
    )
    assert z.numel() > 0.995 * surface.reason.numel()
    assert float(relative.median()) < 0.005
    assert int(surface.pulses.max()) <= 4000
    assert 0.93 < float(covered.double().mean()) < 0.97
    assert float(covered[slow].double().mean()) >= 0.90
