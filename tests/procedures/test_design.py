"""Designs: what points there are, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from hil.errors import UsageError
from procedures.design import design
from procedures.explore_config import ExploreConfig


def test_a_grid_has_every_combination_with_its_seeds_innermost() -> None:
    config = ExploreConfig(alpha_a=(0.1, 1.0), alpha_c=(0.1, 1.0, 3.0), lr_a=(0.01,), lr_c=(0.1, 0.3), seeds=3, first_seed=5)
    found = design(config, "a network", (100, 200))
    assert len(found.chosen("tiki_taka")) == 2 * 3 * 2 * 3
    assert len(found.chosen("sgd")) == 3 * len(config.lr) * 3
    assert len(found.chosen("digital")) == len(config.digital_lr) * 3
    assert found.seed[:4].tolist() == [5, 6, 7, 5]
    assert not len(found.finished())
    assert np.isnan(found.chosen("sgd").axes["alpha_a"]).all()
    rows = {
        tuple(row) for row in np.stack([*found.chosen("tiki_taka").axes.values(), found.chosen("tiki_taka").seed]).T.tolist()
    }
    assert len(rows) == 36 or len({str(row) for row in rows}) == 36


def test_a_sobol_design_fills_its_axes_evenly_in_log_and_is_the_same_again() -> None:
    config = ExploreConfig(
        algorithms=("tiki_taka",), design="sobol", samples=64, alpha_a=(0.01, 30.0), lr_c=(0.03, 1.0), alpha_c=(1.0,),
        lr_a=(0.01,), transfer_every=(1.0, 8.0), seeds=1,
    )  # fmt: skip
    found, again = (design(config, "a network", (1, 1)) for _ in range(2))
    alpha = np.log10(found.axes["alpha_a"])
    counts, _ = np.histogram(alpha, 8, (np.log10(0.01), np.log10(30)))
    # A scrambled Sobol sequence puts exactly 64 / 8 points into each eighth of an axis.
    assert counts.tolist() == [8] * 8
    assert set(found.axes["transfer_every"]) <= set(range(1, 9))
    assert all(np.array_equal(found.axes[name], again.axes[name]) for name in found.axes)


def test_a_list_takes_what_it_leaves_out_from_the_axes() -> None:
    config = ExploreConfig(design="list", points=({"alpha_a": 2.0}, {"algorithm": "sgd", "lr": 0.5}), seeds=1)
    found = design(config, "a network", (1, 1))
    assert found.algorithm == ("tiki_taka", "sgd")
    assert found.axes["alpha_a"][0] == 2.0
    assert found.axes["lr_a"][0] == config.lr_a[0]
    assert found.axes["lr"][1] == 0.5


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ({"algorithm": "adam"}, "'adam' is unknown"),
        ({"algorithm": "sgd", "lr_a": 1.0}, "lr_a: is no axis of sgd"),
        ({"alpha_a": "much"}, "'much' is no number"),
        ({"alpha_a": -1.0}, "is not above 0"),
    ],
)
def test_a_point_that_cannot_be_is_refused(point: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        design(ExploreConfig(design="list", points=(point,)), "a network", (1, 1))


def test_the_devices_of_a_board_have_no_axis_of_asymmetry() -> None:
    found = design(ExploreConfig(lr_a=(0.01, 0.02)), "a network", (1, 1), own_devices=True)
    assert "alpha_a" not in found.axes
    assert "states" not in found.axes
    assert found.chosen("tiki_taka").varied() == ("lr_a", "lr_c")
    with pytest.raises(UsageError, match=r"explore\.alpha_a: the devices of a board have the alpha_a that they have"):
        design(ExploreConfig(alpha_a=(1.0,)), "a network", (1, 1), own_devices=True)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha_a": ()}, {"alpha_a": (0.0,)}, {"lr_c": (float("nan"),)}, {"transfer_every": (1.5,)}, {"gamma": (-1.0,)},
        {"algorithms": ("sgd", "sgd")}, {"algorithms": ()}, {"design": "list"}, {"points": ({},)}, {"unknown": 1},
    ],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ExploreConfig(**options)  # type: ignore[arg-type]
