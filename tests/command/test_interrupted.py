"""A run that is killed goes on bit-identically; one that is interrupted leaves the array safe and a readable record."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from hil.errors import DataError
from hil.ledger import Ledger
from hil.run_reader import RunReader

# Long enough (seconds) that a signal after the second checkpoint finds the run under way on any machine.
EPOCHS, LIMIT = 40, 1100
OPTIONS = {
    "reference_a": "mid", "reference_c": "mid", "epochs": str(EPOCHS), "limit": str(LIMIT), "checkpoint_s": "0.05",
    "hidden": "[8]", "n_s": "[1,3]", "seeds": "2",
}  # fmt: skip
pytestmark = pytest.mark.slow


def start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    options = [part for key, value in OPTIONS.items() for part in ("-s", f"train.{key}={value}")]
    command = [sys.executable, "-m", "hil", "train", "emulated", *options, "--runs", str(folder), *more]
    folder.mkdir(exist_ok=True)
    with (folder / "output.txt").open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def only_run(folder: Path) -> Path:
    (run,) = (path.parent for path in folder.glob("*/run.sqlite"))
    return run


def wait_for_checkpoints(process: subprocess.Popen[bytes], folder: Path, count: int) -> None:
    """Until so many checkpoints are recorded, or the process ends."""
    while process.poll() is None:
        for path in folder.glob("*/run.sqlite"):
            # The first looks may come before the record is there.
            with suppress(DataError), Ledger.open(path.parent) as run:
                if sum(1 for _ in run.events("checkpoint")) >= count:
                    return
    raise AssertionError((folder / "output.txt").read_text())


def final_state(run: RunReader) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint, by path."""
    saved = run.last_checkpoint()
    assert saved is not None
    found: dict[str, torch.Tensor] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            found[prefix] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}/{key}", inner)
        elif isinstance(value, (list, tuple)):
            for number, inner in enumerate(value):
                walk(f"{prefix}/{number}", inner)

    walk("", saved.state)
    return found


def test_sigkill_and_resume_is_bit_identical(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    assert whole.wait(timeout=120) == 0, (tmp_path / "whole" / "output.txt").read_text()
    killed = start(tmp_path / "killed")
    wait_for_checkpoints(killed, tmp_path / "killed", 2)
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=60)
    folder = only_run(tmp_path / "killed")
    with Ledger.open(folder) as run:
        assert run.status == "killed"
        first = run.last_checkpoint()
        assert first is not None
    resumed = start(tmp_path / "killed", "--resume", str(folder))
    assert resumed.wait(timeout=120) == 0, (tmp_path / "killed" / "output.txt").read_text()
    with Ledger.open(folder) as after, Ledger.open(only_run(tmp_path / "whole")) as straight:
        assert after.status == "done"
        mine, theirs = final_state(after), final_state(straight)
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=0, atol=0, equal_nan=True, msg=name)
        assert first.step < EPOCHS * LIMIT, "the run was killed after its end"


def test_sigint_exits_130_with_the_array_safe(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for_checkpoints(process, tmp_path, 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    said = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in said
    assert "error: interrupted" in said
    with Ledger.open(only_run(tmp_path)) as run:
        assert run.status == "interrupted"
        stop = run.stop()
        assert stop is not None
        assert stop.safe is True
        assert run.results() == {}
