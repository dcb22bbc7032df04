"""The specification as a file, and what is read off it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hil.errors import DataError
from procedures.specification import Range, Specification, SpecPoint


@pytest.fixture
def some() -> Specification:
    return Specification(
        network="digits 64-32-10",
        digital_accuracy=0.97,
        digital_error=0.004,
        deltas=(
            Range(delta=0.01, confidence=0.95),
            Range(delta=0.02, confidence=0.95, alpha_a=(0.1, 3.0), alpha_c=(0.01, 1.0)),
        ),
        alpha_a=(0.1, 1.0, 10.0),
        alpha_c=(0.1, 10.0),
        accuracy=((0.9, 0.8), (0.96, 0.86), (0.94, math.nan)),
        error=((0.01, 0.02), (0.01, 0.02), (0.01, 0.02)),
        points=(
            SpecPoint(alpha_a=0.1, alpha_c=0.1, accuracy=0.9, error=0.01, hyper={"lr_a": 0.01}),
            SpecPoint(alpha_a=10.0, alpha_c=0.1, accuracy=0.94, error=0.01, hyper={"lr_a": 0.03}),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["specification.toml", "specification.json"])
def test_a_file_gives_back_what_was_saved(some: Specification, tmp_path: Path, name: str) -> None:
    again = Specification.load(some.save(tmp_path / name))
    # NaN differs from itself: by their text.
    assert repr(again) == repr(some)


def test_accuracy_is_interpolated_in_log_axes_and_unknown_outside(some: Specification) -> None:
    accuracy, error = some.accuracy_at(10**-0.5, 1.0)
    assert accuracy == pytest.approx((0.9 + 0.8 + 0.96 + 0.86) / 4, abs=1e-12)
    assert error == pytest.approx(0.015, abs=1e-12)
    for outside in ((0.05, 1.0), (1.0, 20.0), (10.0, 10.0), (-1.0, 1.0), (math.nan, 1.0)):
        assert math.isnan(some.accuracy_at(*outside)[0])


def test_hyper_parameters_are_those_of_the_nearest_point_in_log_axes(some: Specification) -> None:
    assert some.hyper_at(0.9, 0.1) == {"lr_a": 0.01}
    assert some.hyper_at(1.1, 0.1) == {"lr_a": 0.03}
    with pytest.raises(DataError, match="names no hyper-parameters"):
        some.model_copy(update={"points": ()}).hyper_at(1.0, 1.0)


def test_a_range_is_found_by_its_loss(some: Specification) -> None:
    assert some.range_of(0.02).alpha_a == (0.1, 3.0)
    assert some.range_of(0.01).alpha_a is None
    with pytest.raises(DataError, match=r"no range for a loss of 0\.03: one of 0\.01, 0\.02"):
        some.range_of(0.03)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("format = 1", "format = 2", "format"),
        ("alpha_c = [0.1, 10.0]", "alpha_c = [10.0, 0.1]", "alpha_c does not ascend"),
        ("alpha_c = [0.1, 10.0]", "alpha_c = [0.1]", "accuracy is not 3 x 1"),
        ("digital_accuracy = 0.97", "digital_accuracy = 97.0", "digital_accuracy"),
        (
            "accuracy = [[0.9, 0.8], [0.96, 0.86], [0.94, nan]]",
            "accuracy = [[nan, nan], [nan, nan], [nan, nan]]",
            "the map is empty",
        ),
        ("network =", "net =", "network"),
        ("[[deltas]]", "[[deltas", "cannot be read"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(some: Specification, tmp_path: Path, old: str, new: str, says: str) -> None:
    path = some.save(tmp_path / "specification.toml")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=says) as caught:
        Specification.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["specification.toml", "specification.json"])
def test_a_specification_without_points_can_be_read_back(some: Specification, tmp_path: Path, name: str) -> None:
    bare = some.model_copy(update={"points": ()})
    assert repr(Specification.load(bare.save(tmp_path / name))) == repr(bare)
