"""Explorations as files, and their points."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hil.errors import DataError
from procedures.exploration import Exploration, find_exploration
from tests.procedures.explorations import lattice

AXES = {"alpha_a": (0.1, 1.0, 10.0), "lr_c": (0.1, 0.3)}


@pytest.fixture
def some() -> Exploration:
    found = lattice(AXES, lambda p: 0.9 - 0.01 * p["lr_c"], digital=0.95)
    return replace(found, validation=np.where(np.arange(len(found)) == 2, np.nan, found.validation))


def test_a_file_gives_back_what_was_saved_with_the_points_that_are_not_done(some: Exploration, tmp_path: Path) -> None:
    some.save(tmp_path)
    again = Exploration.load(tmp_path)
    assert again.network == some.network
    assert again.algorithm == some.algorithm
    assert np.array_equal(again.seed, some.seed)
    assert (again.validation_size, again.test_size) == (287, 360)
    for name, column in some.axes.items():
        assert np.array_equal(again.axes[name], column, equal_nan=True)
    assert np.array_equal(again.validation, some.validation, equal_nan=True)
    assert np.array_equal(again.test, some.test)


def test_points_are_chosen_by_algorithm_and_by_being_finished(some: Exploration) -> None:
    assert len(some.chosen("tiki_taka")) == 12
    assert len(some.chosen("digital")) == 2
    assert len(some.chosen("sgd")) == 0
    assert len(some.finished()) == len(some) - 1
    assert some.varied() == ("alpha_a", "lr_c")


def test_the_newest_exploration_is_found_unless_one_is_named(some: Exploration, tmp_path: Path) -> None:
    for name in ("1-explore", "2-explore"):
        (tmp_path / name).mkdir()
        replace(some, network=name).save(tmp_path / name)
    assert find_exploration("", tmp_path).network == "2-explore"
    assert find_exploration("1-explore", tmp_path).network == "1-explore"
    assert find_exploration(str(tmp_path / "1-explore" / "exploration.json"), tmp_path).network == "1-explore"
    with pytest.raises(DataError, match="run `hil explore BENCH` first"):
        find_exploration("", tmp_path / "1-explore")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 7}, "format 7"),
        ({"axes": None}, "is no exploration"),
        ({"validation": [0.5]}, "validation has 1 values for 14 points"),
        ({"algorithm": ["adam"] * 14}, "'adam' is unknown"),
        ({"test": [97.0] * 14}, "give fractions"),
        ({"test_size": 0}, "no image"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(some: Exploration, tmp_path: Path, change: dict[str, object], says: str) -> None:
    path = some.save(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=says) as caught:
        Exploration.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the folder of a run of explore"):
        Exploration.load(tmp_path / "nothing")
