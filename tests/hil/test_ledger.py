"""The run record: append-only, readable while it is written, whole after SIGKILL."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from hil.backend import ArrayInfo, PulseShape, Range
from hil.errors import DataError, LimitError, UsageError
from hil.ledger import BATCH, Ledger
from hil.run_database import APPLICATION

ROOT = Path(__file__).parents[2]
SHAPE = PulseShape(up_v=1.0, down_v=-1.0, width_s=1e-6)
INFO = ArrayInfo(
    arrays=1,
    rows=2,
    cols=3,
    physical=True,
    vendor="v",
    model="m",
    serial="s",
    firmware="f",
    read_v=Range(-0.5, 0.5),
    pulse_v=Range(-2.0, 2.0),
    width_s=Range(1e-9, 1e-3),
)
CELLS = np.arange(12).reshape(2, 1, 2, 3)


class Config(BaseModel):
    steps: int = 3


def ticking():
    """A clock that advances one second whenever it is asked."""
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0], datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=now[0])

    return clock


def child(code: str, *args: object) -> subprocess.Popen[str]:
    """A process that runs ``code`` with sys.argv[1:] = args."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def test_start_says_what_ran(tmp_path):
    facts = {"boards": {"main": INFO}, "seed": 7, "operator": "me", "command": "hil train", "clock": ticking()}
    with Ledger.create(tmp_path / "runs", "train", Config(), **facts) as ledger:
        start = ledger.run.start
        assert ledger.id.startswith("20300102T030406Z-train-")
    assert (start["verb"], start["seed"], start["config"]) == ("train", 7, {"steps": 3})
    assert (start["operator"], start["command"], start["utc"]) == ("me", "hil train", "2030-01-02T03:04:06+00:00")
    assert start["mono_s"] == 1.0
    assert {"python", "torch"} <= set(start["versions"])
    assert "commit" in start
    with Ledger.open(ledger.folder) as run:
        assert run.boards()["main"]["serial"] == "s"
        assert run.boards()["main"]["pulse_v"] == {"low": -2.0, "high": 2.0, "grain": 0.0}


def test_ids_differ(tmp_path):
    clock = lambda: (0.0, datetime(2030, 1, 1, tzinfo=UTC))  # noqa: E731
    folders = set()
    for _ in range(3):
        with Ledger.create(tmp_path, "train", {}, clock=clock) as ledger:
            folders.add(ledger.folder)
    assert len(folders) == 3


def test_events_and_arrays(tmp_path):
    @dataclass(frozen=True)
    class Loss:
        value: float
        path: Path

    with Ledger.create(tmp_path, "train", {}, clock=ticking()) as ledger:
        first = ledger.event("epoch", {"loss": torch.tensor(0.5), "n": np.int64(3), "nan": float("nan")})
        second = ledger.event("map", Loss(1.0, Path("a")), arrays={"g": torch.arange(6.0).reshape(2, 3), "i": np.eye(2)})
        with pytest.raises(UsageError, match="arrays="):
            ledger.event("epoch", {"big": torch.zeros(3)})
        ledger.event("epoch", None)
    run = Ledger.open(ledger.folder)
    events = list(run.events())
    assert [event.number for event in events] == [first, second, second + 1]
    assert events[0].payload["loss"] == 0.5
    assert events[0].payload["n"] == 3
    assert np.isnan(events[0].payload["nan"])
    assert events[1].payload == {"value": 1.0, "path": "a"}
    np.testing.assert_array_equal(run.arrays(second)["g"], np.arange(6.0, dtype=np.float32).reshape(2, 3))
    assert run.arrays(second)["g"].dtype == np.float32
    np.testing.assert_array_equal(run.arrays(second)["i"], np.eye(2))
    assert [event.number for event in run.events("epoch", after=first)] == [second + 1]
    assert events[0].mono_s < events[1].mono_s
    run.close()


def test_object_arrays_are_refused(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger, pytest.raises(ValueError, match="Object arrays"):
        ledger.event("bad", arrays={"o": np.array([object()])})


def test_results_latest_counts(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger:
        ledger.result("accuracy", 0.5, "1", "of the test set")
        ledger.result("accuracy", 0.9, "1", "of the test set", low=0.8)
        ledger.result("g", np.ones((2, 2)), "S", "conductance")
    with Ledger.open(ledger.folder) as run:
        results = run.results()
    assert (results["accuracy"].value, results["accuracy"].low, results["accuracy"].high) == (0.9, 0.8, None)
    np.testing.assert_array_equal(results["g"].value, np.ones((2, 2)))


def test_units_are_declared_once(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger:
        ledger.schema({"loss": ("1", "cross entropy")})
        ledger.schema({"loss": ("1", "cross entropy"), "t": ("s", "time")})
        with pytest.raises(UsageError, match="loss is declared"):
            ledger.schema({"loss": ("V", "cross entropy")})
        assert [(unit.name, unit.unit) for unit in ledger.run.units()] == [("loss", "1"), ("t", "s")]


def test_rows_cannot_be_changed(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger:
        ledger.event("epoch", {})
    db = sqlite3.connect(ledger.folder / "run.sqlite", isolation_level=None)
    for statement in ("UPDATE events SET payload = 1", "DELETE FROM events", "DELETE FROM start"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "done"),
        (KeyboardInterrupt("SIGTERM"), "interrupted"),
        (LimitError("too high"), "refused"),
        (RuntimeError("first line\nsecond"), "failed"),
    ],
)
def test_stop_says_how_it_ended(tmp_path, error, status):
    def run():
        with Ledger.create(tmp_path, "train", {}) as ledger:
            folders.append(ledger.folder)
            ledger.safe({"a": True, "b": error is None})
            if error is not None:
                raise error

    folders: list[Path] = []
    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    with Ledger.open(folders[0]) as record:
        stop = record.stop()
        assert record.status == status
    assert stop.safe is (error is None)
    assert stop.message == ("" if error is None else f"{type(error).__name__}: {error}".splitlines()[0])


def test_finished_record_is_one_file_and_closed(tmp_path):
    ledger = Ledger.create(tmp_path, "train", {})
    ledger.stop("failed", "no board")
    ledger.stop("done")
    assert not list(ledger.folder.glob("run.sqlite-*"))
    with pytest.raises(DataError, match="not open for writing"):
        ledger.event("late")
    with Ledger.open(ledger.folder) as run:
        assert (run.stop().status, run.stop().safe) == ("failed", None)


def test_stop_inside_batch_keeps_everything(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger, ledger.batch():
        ledger.event("a")
        ledger.stop("failed", "x")
    with Ledger.open(ledger.folder) as run:
        assert [event.kind for event in run.events()] == ["a"]
        assert run.status == "failed"


def test_watched_while_under_way(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger, Ledger.open(ledger.folder) as watcher:
        assert watcher.status == "running"
        ledger.event("epoch", 1)
        assert [event.payload for event in watcher.events()] == [1]
        with ledger.batch():
            ledger.event("epoch", 2)
            assert len(list(watcher.events())) == 1
            for number in range(BATCH):
                ledger.event("epoch", number)
            assert len(list(watcher.events())) == 1 + BATCH
        assert len(list(watcher.events())) == 2 + BATCH
        ledger.stop("done")
        assert watcher.status == "done"


def test_batch_keeps_what_came_before_an_exception(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger, Ledger.open(ledger.folder) as watcher:

        def fail():
            with ledger.batch(), ledger.batch():
                ledger.event("a")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert [event.kind for event in watcher.events()] == ["a"]


def test_intent_is_committed_inside_a_batch(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger, Ledger.open(ledger.folder) as watcher, ledger.batch():
        ledger.event("a")
        number = ledger.intend("main", "pulse", SHAPE, CELLS, 66)
        assert [operation.number for operation in watcher.pending()] == [number]
        ledger.event("b")
        assert [event.kind for event in watcher.events()] == ["a"]


def test_operations(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger:
        ledger.digital_state({"step": 1})
        first = ledger.intend("main", "pulse", SHAPE, CELLS, 66)
        ledger.digital_state({"step": 2})
        second = ledger.intend("main", "update", SHAPE, CELLS * 0 + 300, 4)
        third = ledger.intend("main", "update", SHAPE, CELLS, 4)
        assert [operation.number for operation in ledger.pending()] == [first, second, third]
        assert ledger.run.last_digital_state() == {"step": 2}
        ledger.settle([first], "done")
        assert ledger.run.last_digital_state() == {"step": 2}
        ledger.settle([second], "uncertain", "no answer")
        ledger.settle([third], "done")
        assert ledger.run.last_digital_state() == {"step": 2}
        pending = ledger.pending()
        assert [(operation.number, operation.status, operation.message) for operation in pending] == [
            (second, "uncertain", "no answer")
        ]
        np.testing.assert_array_equal(pending[0].cells, CELLS * 0 + 300)
        assert pending[0].pulses == 3600
        ledger.settle([second], "reread")
        assert ledger.pending() == []
        one, two, three = ledger.run.operations()
    np.testing.assert_array_equal(one.cells, CELLS)
    assert one.shape["up_v"] == 1.0
    assert (two.status, one.digital, two.digital, three.digital) == ("reread", {"step": 1}, {"step": 2}, {"step": 2})
    assert one.sha256 != three.sha256
    with Ledger.resume(ledger.folder) as again:
        again.settle([again.intend("main", "pulse", SHAPE, CELLS, 66)], "done")
        assert again.run.last_digital_state() == {"step": 2}


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


def test_no_run_folder(tmp_path):
    def refused(text):
        for call in (Ledger.open, Ledger.resume):
            with pytest.raises(DataError, match=text) as caught:
                call(tmp_path)
            assert "\n" not in str(caught.value)

    refused("is no run folder")
    (tmp_path / "run.sqlite").write_text("no database at all, but long enough to look at" * 30)
    refused("is no run folder")
    (tmp_path / "run.sqlite").unlink()
    db = sqlite3.connect(tmp_path / "run.sqlite")
    db.execute("CREATE TABLE x (y)")
    db.commit()
    refused("no run record")
    db.execute(f"PRAGMA application_id={APPLICATION}")
    db.execute("PRAGMA user_version=99")
    db.commit()
    db.close()
    refused("version 99")


def test_create_needs_a_folder_it_can_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot start"):
        Ledger.create(tmp_path / "file", "train", {})


def test_figure_dir(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger:
        assert ledger.figure_dir.is_dir()
        assert ledger.figure_dir == ledger.run.figure_dir == ledger.folder / "figures"


def test_moved_folder_still_has_its_checkpoint(tmp_path):
    with Ledger.create(tmp_path / "a", "train", {}) as ledger:
        ledger.checkpoint({"n": 5}, 5)
    shutil.move(ledger.folder, tmp_path / "b")
    with Ledger.open(tmp_path / "b") as run:
        assert run.last_checkpoint().state == {"n": 5}


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
