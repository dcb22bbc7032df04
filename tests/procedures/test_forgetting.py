"""What A remembers, against T6: measured on devices of which the time constant is known.

Where a measurement is compared with T_A, its standard error is below 5 % / 4.9 (7 % / 4.9 for the regression at the longest
memory): a false alarm has a probability of 1e-6, and an error of 14 % would be found with a probability above 0.999999.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hil.bench import open_bench
from hil.config import load_bench
from hil.errors import UsageError
from procedures.explain import ExplainConfig, made_bench, made_cells
from procedures.forgetting import Timing, decay_time, measure_forgetting

CONFIG = ExplainConfig(replicas=8)


def forgetting(folder, alpha, states, gain, size=(32, 32), timing=None, slope_factor=1.0):
    with (
        open_bench(load_bench("emulated", ["boards.main.settings.device.c2c=0.0"]), folder) as bench,
        made_bench(bench, CONFIG, alpha, states) as made,
    ):
        cells = made_cells(made, alpha, states, "a", size)
        cells = replace(cells, slope_up=cells.slope_up * slope_factor, slope_down=cells.slope_down * slope_factor)
        return measure_forgetting(cells, gain, 11, timing)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "states", "gain"), [(4.0, 200, 0.9), (1.0, 200, 0.9), (0.2, 1000, 0.9)])
def test_memory_is_as_predicted_over_two_decades_of_alpha_times_lr(tmp_path, alpha, states, gain):
    size, tolerance = ((24, 24), 0.07) if alpha == 0.2 else ((48, 48), 0.05)
    found = forgetting(tmp_path, alpha, states, gain, size)
    # m s = alpha lr_A E|g| / b_w: 0.0203 at the first point, a hundredth of it at the last.
    assert found.predicted == pytest.approx(0.6 / (alpha * gain * 1.2 / states * 0.75**2))
    assert found.impulse_se < 0.05 / 4.9 * found.predicted
    assert found.impulse == pytest.approx(found.predicted, rel=0.05)
    assert found.regression_se < tolerance / 4.9 * found.predicted
    assert found.regression == pytest.approx(found.predicted, rel=tolerance)


@pytest.mark.slow
def test_a_gradient_weighs_its_learning_rate_when_fresh_and_fades(tmp_path):
    found = forgetting(tmp_path, 4.0, 200, 0.9)
    # 8 replicas: the error of a weight is 0.02; 0.12 is six of them for each of 20 weights.
    np.testing.assert_allclose(found.weight, np.exp(-found.lag / found.predicted), atol=0.12)


@pytest.mark.slow
def test_a_wrong_slope_is_seen(tmp_path):
    found = forgetting(tmp_path, 4.0, 200, 0.9, slope_factor=0.5)
    assert found.predicted / found.impulse == pytest.approx(2, rel=0.1)


def test_outside_the_regime_nothing_is_pulsed(tmp_path):
    with pytest.raises(UsageError, match=r"below 0\.05"):
        forgetting(tmp_path, 30.0, 50, 1.0, size=(2, 2))


def test_few_cells_and_reads_give_finite_numbers(tmp_path):
    found = forgetting(tmp_path, 4.0, 200, 0.9, size=(4, 4), timing=Timing(reads=24, lags=6))
    assert np.isfinite([found.impulse, found.impulse_se, found.regression, found.regression_se]).all()


@pytest.mark.parametrize("amplitude", [None, 1.0])
def test_the_time_of_an_exponential_is_found(amplitude):
    t = np.arange(1.0, 30.0)
    assert decay_time(t, np.exp(-t / 7.0), 20.0, amplitude) == pytest.approx(7.0, rel=1e-4)
