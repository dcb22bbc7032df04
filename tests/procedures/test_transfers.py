"""What C accepts, against the exact law of the linear step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hil.bench import open_bench
from hil.config import load_bench
from procedures.explain import ExplainConfig, made_bench, made_cells
from procedures.transfers import measure_transfers

CONFIG = ExplainConfig(replicas=8)


def transfers(folder, alpha, slope_factor=1.0):
    with open_bench(load_bench("emulated"), folder) as bench, made_bench(bench, CONFIG, alpha, 200) as made:
        cells = made_cells(made, alpha, 200, "c", (32, 32))
        cells = replace(cells, slope_up=cells.slope_up * slope_factor, slope_down=cells.slope_down * slope_factor)
        return measure_transfers(cells, 9, 4, 10, 5)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0, 3.0])
def test_the_share_accepted_is_one_minus_u(tmp_path, alpha):
    found = transfers(tmp_path, alpha)
    # Errors of at most 1 % of the law: a false alarm has a probability below 1e-6; 10 % off would be found.
    assert (found.error < 0.01 * found.predicted).all()
    np.testing.assert_allclose(found.measured, found.predicted, rtol=0.05)
    np.testing.assert_allclose(found.predicted, 1 - found.u, atol=1e-9)
    assert 0.7 * min(alpha, 1.0) < np.abs(found.u).max() < 1.0


@pytest.mark.slow
def test_what_is_clipped_is_counted_apart(tmp_path):
    hard, soft = transfers(tmp_path, 0.1), transfers(tmp_path, 3.0)
    # Steps of the symmetric device run into its bounds; soft bounds are approached, never met.
    assert hard.clipped_range > 1000
    assert soft.clipped_range == 0
    total = 8 * 32 * 32 * 9 * 4
    assert soft.counted + soft.clipped_request == total
    # A tenth asks for more than one pulse; six standard errors.
    assert abs(soft.clipped_request - total / 10) < 6 * (total * 0.09) ** 0.5
    # One pulse of 1.55 asked in the mean.
    assert soft.clipped_request_share == pytest.approx(1 / 1.55, rel=0.03)


@pytest.mark.slow
def test_a_wrong_slope_is_seen(tmp_path):
    found = transfers(tmp_path, 1.0, slope_factor=0.8)
    assert (np.abs(found.measured - found.predicted) > 6 * found.error).any()
