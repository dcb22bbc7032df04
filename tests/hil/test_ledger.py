"""The run record: append-only, says what ran, what was found and how it ended."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from hil.backend import ArrayInfo, Range
from hil.errors import DataError, LimitError, UsageError
from hil.ledger import Ledger
from hil.run_database import APPLICATION

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


class Config(BaseModel):
    steps: int = 3


def ticking():
    """A clock that advances one second whenever it is asked."""
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0], datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=now[0])

    return clock


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
