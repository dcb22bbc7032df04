"""The specification of a known surface, and what cannot be specified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hil.cli import main
from hil.errors import DataError
from procedures.specification import Specification
from procedures.specify import SpecifyConfig, headline, specify_exploration
from tests.procedures.explorations import lattice

ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)
AXES = {"alpha_a": ALPHAS, "alpha_c": ALPHAS, "lr_c": (0.01, 0.1, 1.0)}


def surface(point: dict[str, float]) -> float:
    """20 points less a decade of alpha_C above 1, and of alpha_A beyond a decade around 1; best with lr_c = alpha_a / 10."""
    a, c, lr = (np.log10(point[name]) for name in ("alpha_a", "alpha_c", "lr_c"))
    return 0.97 - 0.2 * max(0.0, c) - 0.2 * max(0.0, abs(a) - 1) - 0.02 * (lr - np.clip(a - 1, -2, 0)) ** 2


def test_the_range_of_a_known_surface_comes_out() -> None:
    found = specify_exploration(lattice(AXES, surface, digital=0.97, seeds=8), None, SpecifyConfig(sigma=0.35)).specification
    wide, narrow = found.range_of(0.05), found.range_of(0.02)
    assert wide.alpha_a is not None
    assert wide.alpha_c is not None
    # The edges lie at 0.1 and 10, and at 1; five points below them a quarter of a decade further, and the filter rounds off.
    assert 0.03 < wide.alpha_a[0] <= 0.2
    assert 5 <= wide.alpha_a[1] < 30
    assert wide.alpha_c[0] == pytest.approx(0.01)
    assert 0.5 < wide.alpha_c[1] < 3
    assert narrow.alpha_a is None or wide.alpha_a[0] <= narrow.alpha_a[0] <= narrow.alpha_a[1] <= wide.alpha_a[1]
    at = {p.alpha_a: p.hyper["lr_c"] for p in found.points if p.alpha_c == pytest.approx(0.1)}
    assert at[0.1] < at[1.0] < at[10.0]
    assert len(headline(specify_exploration(lattice(AXES, surface, digital=0.97), None)).rows) == 4


def test_nothing_passes_where_everything_is_far_below_the_reference() -> None:
    found = specify_exploration(lattice(AXES, lambda p: surface(p) - 0.3, digital=0.97), None).specification
    assert all(one.alpha_a is None and one.alpha_c is None for one in found.deltas)


@pytest.mark.parametrize(
    ("axes", "accuracy", "digital", "says"),
    [
        (AXES, lambda p: float("nan"), 0.97, "no Tiki-Taka point is finished"),
        (AXES, lambda p: 0.5, 0.97, "the map is flat"),
        (AXES, surface, None, "no digital reference is finished"),
        ({"alpha_a": ALPHAS, "lr_c": (0.1, 1.0)}, lambda p: 0.5, 0.97, "alpha_c was not explored"),
    ],
)
def test_what_cannot_be_specified_is_said_in_one_line(axes: object, accuracy: object, digital: float, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        specify_exploration(lattice(axes, accuracy, digital=digital), None)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_command_writes_a_file_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").mkdir()
    lattice(AXES, surface, digital=0.97).save(tmp_path / "x")
    assert main(["specify", "emulated", "--runs", str(tmp_path)]) == 0
    folder = next(tmp_path.glob("*specify*"))
    assert Specification.load(folder / "specification.toml").network == "a network"
    assert "Ranges of asymmetry by allowed loss" in (folder / "report.html").read_text()
