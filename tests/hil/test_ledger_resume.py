"""Checkpoints, and a record that is taken up again after its process ended, however that was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hil.errors import DataError
from hil.ledger import Ledger

ROOT = Path(__file__).parents[2]

WRITER = """
import sys
import numpy as np, torch
from hil.backend import PulseShape
from hil.ledger import Ledger
ledger = Ledger.create(sys.argv[1], "train", {})
shape = PulseShape(1.0, -1.0, 1e-6)
step = 0
while True:
    step += 1
    ledger.event("step", step, arrays={"g": np.full(3, step)})
    ledger.checkpoint({"step": step, "w": torch.full((1000,), float(step))}, step)
    ledger.digital_state(step)
    number = ledger.intend("main", "pulse", shape, np.full((2, 1, 1, 1), step), step)
    ledger.settle([number], "done")
    print(step, ledger.folder, flush=True)
"""


def child(code: str, *args: object) -> subprocess.Popen[str]:
    """A process that runs ``code`` with sys.argv[1:] = args."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


@pytest.mark.slow
def test_checkpoints_keep_two(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger:
        assert ledger.last_checkpoint() is None
        for step in range(4):
            (ledger.folder / "checkpoint-000000000-dead.tmp").write_bytes(b"left by a killed process")
            state = {"w": torch.full((3,), float(step)), "n": step, "deep": {"l": [1, 2]}}
            ledger.checkpoint(state, step, note={"row": step})
        names = sorted(path.name.rsplit("-", 1)[0] for path in ledger.folder.glob("checkpoint-*"))
        assert names == ["checkpoint-000000002", "checkpoint-000000003"]
        last = ledger.last_checkpoint()
        assert (last.step, last.note, last.state["n"]) == (3, {"row": 3}, 3)
        torch.testing.assert_close(last.state["w"], torch.full((3,), 3.0), rtol=0, atol=0)
        next(ledger.folder.glob("checkpoint-000000003*")).write_bytes(b"broken")
        assert ledger.last_checkpoint().step == 2


def test_checkpoint_of_code_is_refused(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger:
        ledger.checkpoint({"n": 1}, 1)
        with pytest.raises(DataError, match="checkpoint"):
            ledger.checkpoint({"clock": Path}, 2)
        assert ledger.last_checkpoint().step == 1


def test_moved_folder_still_has_its_checkpoint(tmp_path):
    with Ledger.create(tmp_path / "a", "train", {}) as ledger:
        ledger.checkpoint({"n": 5}, 5)
    shutil.move(ledger.folder, tmp_path / "b")
    with Ledger.open(tmp_path / "b") as run:
        assert run.last_checkpoint().state == {"n": 5}


def test_resume_leaves_out_what_happens_again(tmp_path):
    ledger = Ledger.create(tmp_path, "train", {})
    ledger.event("epoch", 1)
    ledger.checkpoint({"step": 1}, 1)
    ledger.event("epoch", 2)
    ledger.close()
    with Ledger.open(ledger.folder) as run:
        assert run.status == "killed"
        assert run.stop() is None
    saved = Ledger.open(ledger.folder).last_checkpoint()
    with Ledger.resume(ledger.folder, since=saved.number) as again:
        assert again.run.status == "running"
        again.event("epoch", "2 again")
        again.checkpoint({"step": 2}, 2)
    with Ledger.open(ledger.folder) as run:
        assert [event.payload for event in run.events("epoch")] == [1, "2 again"]
        assert run.last_checkpoint().step == 2
        assert run.status == "done"
    with Ledger.resume(ledger.folder) as third, Ledger.open(ledger.folder) as run:
        assert run.stop() is None
        assert [event.payload for event in third.run.events("epoch")] == [1, "2 again"]


def test_only_one_writes(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger:
        with pytest.raises(DataError, match="still under way"):
            Ledger.resume(ledger.folder)
        ledger.event("a")
    Ledger.resume(ledger.folder).close()


@pytest.mark.slow
def test_sigkill_leaves_what_was_committed(tmp_path):
    process = child(WRITER, tmp_path)
    for _ in range(5):
        seen, folder = process.stdout.readline().split(" ", 1)
    process.kill()
    rest = process.communicate()[0].splitlines()
    assert process.returncode == -signal.SIGKILL
    committed = int(rest[-1].split(" ", 1)[0]) if rest else int(seen)
    with Ledger.open(Path(folder.strip())) as run:
        assert run.status == "killed"
        steps = [event.payload for event in run.events("step")]
        assert steps == list(range(1, len(steps) + 1))
        assert committed <= len(steps) <= committed + 1
        for event in run.events("step"):
            np.testing.assert_array_equal(run.arrays(event.number)["g"], np.full(3, event.payload))
        saved = run.last_checkpoint()
        assert committed <= saved.step <= committed + 1
        torch.testing.assert_close(saved.state["w"], torch.full((1000,), float(saved.step)), rtol=0, atol=0)
        assert committed <= run.last_digital_state() <= committed + 1
        assert len(run.pending()) <= 1
    with Ledger.resume(Path(folder.strip()), since=saved.number) as again:
        again.event("step", saved.step + 1)
    with Ledger.open(Path(folder.strip())) as run:
        assert run.status == "done"
