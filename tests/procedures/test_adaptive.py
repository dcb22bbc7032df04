"""Refinement round an optimum, on surfaces whose top is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from hil.cli import main
from hil.errors import DataError
from procedures.adaptive import inside, refine
from procedures.calibrate import calibrate_exploration
from procedures.exploration import Exploration, FloatArray
from tests.procedures.explorations import lattice

COARSE = {"alpha_a": (0.01, 0.1, 1.0, 10.0), "lr_c": (0.01, 0.1, 1.0), "transfer_every": (2.0,)}
TOP = {"alpha_a": 0.4, "lr_c": 0.2}


def peak(point: Mapping[str, float]) -> float:
    return 0.95 - float(sum(0.1 * np.log10(point[name] / best) ** 2 for name, best in TOP.items()))


class Trainer:
    """Evaluates the peak and remembers what it was asked for."""

    def __init__(self, failing: bool = False) -> None:
        self.asked: list[Mapping[str, float]] = []
        self.failing = failing

    def __call__(self, points: Sequence[Mapping[str, float]], seeds: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        assert len(points) == len(seeds)
        self.asked += points
        value = np.array([np.nan if self.failing else peak(point) for point in points])
        return value, value.copy()


def test_refinement_finds_a_top_between_the_coarse_samples() -> None:
    coarse, trainer = lattice(COARSE, peak), Trainer()
    whole, window = refine(coarse, trainer, rounds=2, samples=16, seeds=2)
    found = calibrate_exploration(inside(whole, window), None)
    before = calibrate_exploration(coarse, None)
    for name, best in TOP.items():
        # Without noise what is left is the rounding off by the filter, a fraction of the finer spacing.
        assert abs(np.log10(found.point[name] / best)) < 0.2
    assert peak(found.point) >= peak(before.point)
    assert len(trainer.asked) == 2 * 16 * 2
    assert len(whole) == len(coarse) + len(trainer.asked)
    # Fixed axes are handed on, later rounds are narrower, and nothing leaves what was explored.
    assert {point["transfer_every"] for point in trainer.asked} == {2.0}
    alphas = [np.log10([point["alpha_a"] for point in part]) for part in (trainer.asked[:32], trainer.asked[32:])]
    assert np.ptp(alphas[1]) < np.ptp(alphas[0])
    assert all(0.01 <= point["alpha_a"] <= 10.0 for point in trainer.asked)


def test_the_same_seed_asks_for_the_same_points() -> None:
    first, second, other = Trainer(), Trainer(), Trainer()
    for trainer, seed in ((first, 1), (second, 1), (other, 2)):
        refine(lattice(COARSE, peak), trainer, rounds=1, samples=8, seeds=1, design_seed=seed)
    assert first.asked == second.asked != other.asked


def test_counts_stay_whole_numbers() -> None:
    axes = {**COARSE, "transfer_every": (1.0, 4.0, 16.0)}
    trainer = Trainer()
    refine(lattice(axes, peak), trainer, rounds=1, samples=8, seeds=1)
    counts = [point["transfer_every"] for point in trainer.asked]
    assert all(count == round(count) >= 1 for count in counts)
    assert len(set(counts)) > 1


@pytest.mark.parametrize(
    ("accuracy", "rounds", "failing", "says"),
    [
        (lambda p: float("nan"), 1, False, "no finished point"),
        (lambda p: 0.5, 1, False, "the map is flat"),
        (peak, 1, True, "no new point was finished"),
        (peak, 0, False, "no round to refine in"),
    ],
)
def test_what_cannot_be_refined_is_said_in_one_line(accuracy: object, rounds: int, failing: bool, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        refine(lattice(COARSE, accuracy), Trainer(failing), rounds, 8, 1)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


SMALL = (
    "calibrate.adaptive=true", "calibrate.samples=4", "calibrate.rounds=1", "calibrate.explore.limit=60",
    "calibrate.explore.hidden=[4]", "calibrate.explore.epochs=1", "calibrate.explore.seeds=1", "calibrate.explore.pairs=4",
    "calibrate.explore.alpha_a=[0.1,1]", "calibrate.explore.alpha_c=[0.1,1]", "calibrate.explore.lr_a=[0.02]",
    "calibrate.explore.lr_c=[0.1,0.5]",
)  # fmt: skip


@pytest.mark.slow
def test_a_bench_is_explored_coarsely_and_refined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [word for one in SMALL for word in ("-s", one)]
    assert main(["calibrate", "emulated", "--runs", str(tmp_path), *changes]) == 0
    assert "operating point" in capsys.readouterr().out
    folder = next(tmp_path.glob("*calibrate*"))
    whole = Exploration.load(folder)
    assert len(whole.finished()) == 8 + 4
    # Of another network nothing is refined: accuracies of two networks make no map.
    other = ["-s", f"calibrate.exploration={folder}", "-s", "calibrate.explore.epochs=2"]
    assert main(["calibrate", "emulated", "--runs", str(tmp_path / "two"), *changes, *other]) == 2
    assert "give the same options" in capsys.readouterr().err
