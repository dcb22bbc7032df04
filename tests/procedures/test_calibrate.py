"""The operating point of a known surface, its region, and what cannot be calibrated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hil.cli import main
from hil.errors import DataError
from hil.ledger import Ledger
from procedures.calibrate import CalibrateConfig, calibrate_exploration, headline
from procedures.calibrate_report import calibrate_sections
from tests.procedures.explorations import lattice

AXES = {"alpha_a": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), "lr_c": (0.01, 0.03, 0.1, 0.3, 1.0)}


def peak(point: dict[str, float]) -> float:
    return 0.95 - 0.05 * np.log10(point["alpha_a"] / 0.3) ** 2 - 0.08 * np.log10(point["lr_c"] / 0.1) ** 2


def test_the_peak_of_a_surface_is_found_and_lies_in_its_region() -> None:
    found = calibrate_exploration(lattice(AXES, peak, noise=0.005), None)
    assert 0.1 < found.point["alpha_a"] < 1.0
    assert 0.05 < found.point["lr_c"] < 0.2
    low, high = found.extents["alpha_a"]
    assert low <= 0.3 <= high
    assert 0.01 < low < high < 10.0
    assert set(found.sensitivity) == {0.5, 1.0, 2.0}
    assert len(headline(found).rows) == 2
    assert abs(found.test - 0.95) < 0.03


def test_more_noise_makes_a_wider_region() -> None:
    narrow, wide = (
        calibrate_exploration(lattice(AXES, peak, noise=s), None, CalibrateConfig(sigma=1.0)) for s in (0.0, 0.05)
    )
    assert wide.region.sum() > narrow.region.sum() >= 1


def test_what_cannot_be_calibrated_is_said_in_one_line(tmp_path: Path) -> None:
    for accuracy, says in ((lambda p: float("nan"), "no finished point"), (lambda p: 0.1, "the map is flat")):
        with pytest.raises(DataError, match=says):
            calibrate_exploration(lattice(AXES, accuracy), None)
    with Ledger.create(tmp_path, "calibrate", None) as ledger:
        assert calibrate_sections(ledger.run) == []


def test_the_command_works_from_the_newest_exploration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "emulated", "--runs", str(tmp_path)]) == 2
    assert "holds no exploration: run `hil explore BENCH` first" in capsys.readouterr().err
    (tmp_path / "x").mkdir()
    lattice(AXES, peak, noise=0.003).save(tmp_path / "x")
    assert main(["calibrate", "emulated", "--runs", str(tmp_path)]) == 0
    assert "operating point" in capsys.readouterr().out
    report = next(tmp_path.glob("*calibrate*/report.html")).read_text()
    assert "Filtered accuracy over alpha of A" in report
