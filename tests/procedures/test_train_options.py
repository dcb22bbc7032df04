"""Options of a training and of the demo: what means nothing is refused in one line, before a run is begun."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from hil.cli import main
from procedures.train import TrainConfig, population

REFUSED = [
    ("hidden", "[0]"), ("hidden", "[-3]"), ("hidden", "[8,0]"),
    ("lr_c", "[]"), ("lr", "[]"), ("gamma", "[]"), ("n_s", "[]"),
    *((name, value) for name in ("lr", "lr_a") for value in ("0", "-0.1", "nan", "inf", "[0.1,-inf]", "[0.1,0]")),
    *((name, value) for name in ("lr_c", "gamma") for value in ("-0.1", "nan", "inf", "[0.1,-0.1]", "[nan,0.1]")),
    *((name, value) for name in ("n_s", "n_reads") for value in ("0", "-1", "1.5", "nan", "inf", "[1,0]")),
    ("lr_c", "0"), ("lr_c", "[0,0.1]"),
    ("init_scale", "inf"), ("init_scale", "nan"), ("decay", "nan"), ("checkpoint_s", "nan"),
]  # fmt: skip


def complaint(capsys: pytest.CaptureFixture[str], folder: Path, verb: str, change: str) -> str:
    """The one line that the command says; it ends with code 2 and begins no run."""
    assert main([verb, "emulated", "--runs", str(folder), "-s", change]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert line.startswith("error: ")
    assert list(folder.glob("*/run.sqlite")) == []
    return line


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_means_nothing_is_refused(name: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, tmp_path, "train", f"train.{name}={value}")
    # The key is named, and what is wrong once: no line for each kind of value that the key may have.
    assert f"{name}:" in line or f"{name}.{0 if value != '[8,0]' else 1}:" in line
    assert "more)" not in line


@pytest.mark.parametrize("change", ["lr_sgd=nan", "lr_sgd=0", "lr_a=-1", "lr_c=inf", "n_s=0", "n_s=1.5", "hidden=[0]"])
def test_the_demo_refuses_likewise(change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert change.split("=")[0] in complaint(capsys, tmp_path, "demo", f"demo.{change}")


def test_zeros_that_mean_something() -> None:
    """gamma = 0 hides A; a transfer rate of 0 leaves C alone, which needs A to be seen."""
    assert TrainConfig(gamma=0.0, hidden=()).gamma == 0
    points, rates, _ = population(TrainConfig(lr_c=(0.0, 0.1), gamma=(0.5, 1.0)))
    assert len(points) == 4
    assert rates["lr_c"].tolist() == [0.0, 0.0, 0.1, 0.1]
    with pytest.raises(ValidationError, match="lr_c"):
        TrainConfig(lr_c=(0.0, 0.1), gamma=(0.5, 0.0))
    # Another algorithm has neither.
    assert TrainConfig(algorithm="sgd", lr_c=0.0).lr_c == 0
