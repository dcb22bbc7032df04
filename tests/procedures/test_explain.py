"""The procedure, its ridge and its report."""

from __future__ import annotations

import numpy as np
import pytest

from hil.bench import open_bench
from hil.config import load_bench
from hil.errors import DataError, UsageError
from hil.ledger import Ledger
from hil.report.html import write_report
from procedures.characterize import CharacterizeConfig, characterize
from procedures.explain import ExplainConfig, MemoryPoint, explain, procedure
from procedures.exploration import Exploration
from procedures.rate_contour import find_contour
from procedures.ridge import find_ridge
from procedures.zero_shift import ZeroShiftConfig, zero_shift

QUICK = ExplainConfig(memory=(MemoryPoint(alpha=4, states=200, gain=0.9),), alpha_c=(1.0, 3.0), replicas=4, size=(6, 6))


def exploration(exponent=1.0, centre=-1.5, seeds=6, curvature=0.06, rates=9):
    """Trainings on a parabolic ridge: best log10 lr_C = centre + exponent log10 alpha_A, with binomial noise of n = 360."""
    rng = np.random.default_rng(4)
    alpha, rate, seed = (
        x.ravel() for x in np.meshgrid(np.logspace(-1, 1, 7), np.logspace(-4, 1, rates), np.arange(seeds), indexing="ij")
    )
    accuracy = 0.95 - curvature * np.square(np.log10(rate) - centre - exponent * np.log10(alpha)) / (
        1 + 0.3 * np.square(np.log10(rate) - centre - exponent * np.log10(alpha))
    )
    seen = rng.binomial(360, accuracy.clip(0, 1)) / 360
    axes = {"alpha_a": alpha, "lr_c": rate, "lr_a": np.full(len(alpha), 0.01), "transfer_every": np.ones(len(alpha))}
    return Exploration("made up", axes, ("tiki_taka",) * len(alpha), seed.astype(np.int64), seen, seen, 360, 360)


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [1.0, 0.0])
def test_the_slope_of_a_ridge_is_found(exponent):
    ridge = find_ridge(exploration(exponent))
    assert ridge.slope_se < 0.12
    # Five standard errors: a false alarm has a probability below 1e-6.
    assert abs(ridge.slope - exponent) < 5 * ridge.slope_se
    assert (len(ridge.departs()) > 0) == (exponent == 0.0)


@pytest.mark.slow
def test_a_top_outside_the_tried_rates_is_none():
    ridge = find_ridge(exploration(centre=3.0, curvature=0.02))
    assert ridge.edge.all()
    assert np.isnan(ridge.slope)


def test_an_exploration_without_rates_says_so():
    with pytest.raises(DataError, match="fewer than 3 values of lr_c"):
        find_ridge(exploration(rates=2))


def plateau(exponent):
    """Trainings whose accuracy rises with log10(lr_C) - exponent log10(alpha_A) and then stays: there is no top."""
    rng = np.random.default_rng(7)
    alpha, rate, seed = (
        x.ravel() for x in np.meshgrid(np.logspace(-1, 1, 7), np.logspace(-4, 1, 11), np.arange(3), indexing="ij")
    )
    accuracy = 0.1 + 0.85 / (1 + np.exp(-3 * (np.log10(rate) + 2 - exponent * np.log10(alpha))))
    seen = rng.binomial(360, accuracy) / 360
    axes = {"alpha_a": alpha, "lr_c": rate, "lr_a": np.full(len(alpha), 0.01), "transfer_every": np.ones(len(alpha))}
    return Exploration("made up", axes, ("tiki_taka",) * len(alpha), seed.astype(np.int64), seen, seen, 360, 360)


@pytest.mark.parametrize("exponent", [1.0, 0.0])
def test_a_contour_of_equal_accuracy_has_the_slope_of_the_effective_rate(exponent):
    contour = find_contour(plateau(exponent))
    assert not contour.outside.any()
    assert contour.slope_se < 0.05
    # Five standard errors: a false alarm has a probability below 1e-6; a slope off by a quarter would be seen.
    assert abs(contour.slope - exponent) < 5 * contour.slope_se
    # T_A = 0.6 / (alpha 0.01 0.1) samples, 600 at alpha = 1.
    assert contour.settling(0.1, 2401).tolist() == [3, 4, 5, 6]
    assert contour.settling(None, 2401).tolist() == []


def test_a_level_beyond_the_tried_rates_is_marked():
    assert (find_contour(plateau(1.0), level=0.05).outside == -1).all()
    never = find_contour(plateau(1.0), level=0.99)
    assert (never.outside == 1).all()
    assert np.isnan(never.slope)


@pytest.mark.slow
@pytest.mark.parametrize("explored", [False, True])
def test_an_emulated_bench_is_explained_and_reported(tmp_path, explored):
    given = {"exploration": str(exploration().save(tmp_path)), "mean_gradient": 0.01, "lines": 64} if explored else {}
    config = QUICK.model_copy(update=given)
    with Ledger.create(tmp_path, "explain", {}) as ledger, open_bench(load_bench("emulated"), tmp_path) as bench:
        result = explain(bench, config, ledger)
    assert (result.ridge is not None) == explored
    assert procedure.headline is not None
    assert len(procedure.headline(result).rows) == 3 + 2 * explored
    with Ledger.open(ledger.folder) as run:
        assert procedure.sections is not None
        sections = procedure.sections(run)
        expected = ["What A remembers", "What C accepts", "Ridge", *["Rate for equal accuracy"] * explored]
        assert [section.title for section in sections] == expected
        assert ("No exploration was given" in sections[2].text) == (not explored)
        assert write_report(run, sections).exists()


@pytest.mark.slow
def test_a_board_is_measured_as_it_is(tmp_path):
    changes = ["boards.main.settings.rows=12", "boards.main.settings.cols=12", "boards.main.settings.device.dw_min=0.012"]
    changes.append("nominal.states=100")
    with open_bench(load_bench("emulated", changes), tmp_path) as bench:
        characterize(bench, CharacterizeConfig(), None)
        zero_shift(bench, ZeroShiftConfig(), None)
        result = explain(bench, ExplainConfig(board_size=(8, 8), board_gain=0.5, transfers=20), None)
    ((_, _, memory),), ((_, accepted),) = result.memory, result.acceptance
    # 64 cells that differ, characterized with errors: wide, but half or twice would be seen.
    assert memory.impulse == pytest.approx(memory.predicted, rel=0.4)
    assert memory.most_pulses < 2000
    off = (accepted.measured - accepted.predicted) / accepted.error
    assert np.abs(off).max() < 6


def test_a_board_that_was_not_characterized_says_so(tmp_path):
    changes = ["boards.main.settings.rows=12", "boards.main.settings.cols=12"]
    with (
        open_bench(load_bench("emulated", changes), tmp_path) as bench,
        pytest.raises(UsageError, match="never characterized"),
    ):
        explain(bench, ExplainConfig(), None)


def test_a_wrong_exploration_is_refused_before_anything_is_measured(tmp_path):
    with open_bench(load_bench("emulated"), tmp_path) as bench, pytest.raises(DataError, match="cannot be read"):
        explain(bench, ExplainConfig(exploration=str(tmp_path / "none")), None)
