"""SIGKILL of the harness while updates are on their way to a board whose twin lives on: no pulse twice, none forgotten."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from drivers.links.twin import StartedTwin, TwinStart
from hil.config import load_bench
from hil.errors import HilError
from hil.run_reader import RunReader
from simulated_backend.twins.control import Control

TRAIN = {
    "classes": "[3,8]", "pool": "4", "hidden": "[]", "limit": "16", "lr_a": "0.1", "lr_c": "0.2",
    "reference_a": "nominal", "reference_c": "nominal",
}  # fmt: skip
"""4 inputs, 2 outputs: an operation is a few cells, and the run is soon over."""
EPOCHS = {"twin-board": 40, "twin-two-boards": 40, "twin-arc-one": 2, "twin-arc-two": 2}
"""Long enough not to be over when the fifth update has been seen."""
DEADLINE_S = 60.0


def until(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """What ``what`` gives as soon as that is something; the test fails after DEADLINE_S, or where the process ends."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := what():
            return found
        if process is not None and process.poll() is not None:
            break
    pytest.fail(f"did not happen: {what.__doc__}", pytrace=True)


class Played:
    """A shipped bench whose twins were started apart from it, and live as long as this."""

    def __init__(self, bench: str, folder: Path, closing: ExitStack) -> None:
        self.bench, self.runs = bench, folder / "runs"
        self.changes: list[str] = []
        self.controls: dict[str, Control] = {}
        for name, board in load_bench(bench).boards.items():
            settings = dict(board.settings)
            twin = StartedTwin(TwinStart(**settings.pop("twin")))
            closing.callback(twin.close)
            self.controls[name] = control = Control(twin.control)
            closing.callback(control.close)
            link = twin.links["main"]
            settings |= {"id": urlsplit(link).port} if board.backend == "arc-two" else {"link": link}
            self.changes += ["-s", f"boards.{name}.settings={toml(settings)}"]
        self.changes += ["-s", f"train.epochs={EPOCHS[bench]}"]
        self.changes += [word for name, value in TRAIN.items() for word in ("-s", f"train.{name}={value}")]

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hil", "train", "--runs", str(self.runs), *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def record(self) -> RunReader | None:
        """The run's record, once there is one."""
        try:
            return RunReader.open(next(self.runs.glob("*/run.sqlite")).parent)
        except (StopIteration, HilError):
            return None

    def updates(self) -> int:
        """Updates on record."""
        run = self.record()
        if run is None:
            return 0
        with run:
            return sum(operation.verb == "update" for operation in run.operations())


def toml(value: Any) -> str:
    """A value as TOML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[[str], Played]]:
    with ExitStack() as closing:
        yield lambda bench: Played(bench, tmp_path, closing)


@pytest.mark.slow
@pytest.mark.parametrize("bench", ["twin-board", "twin-two-boards", "twin-arc-one", "twin-arc-two"])
def test_killed_during_updates(play: Callable[[str], Played], bench: str) -> None:
    lab = play(bench)
    process = lab.start(bench, *lab.changes)
    until(lambda: lab.updates() >= 5, process)
    for control in lab.controls.values():
        # What was sent last is now on the way, and is executed, or not, when nobody waits for it any more.
        control.order(freeze=1.0)
    before = lab.updates()
    until(lambda: lab.updates() > before or process.poll() is not None or stuck(lab), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.communicate()
    run = lab.record()
    assert run is not None
    with run:
        folder, lost = run.folder, {operation.number for operation in run.pending()}
        last = max(operation.number for operation in run.operations())
        assert run.status == "killed"
    if "board" in bench:
        for name, control in lab.controls.items():
            until(lambda control=control: not control.truth()["armed"])
            assert control.report()["counts"].get("trips", 0) <= 1, name
    resumed = lab.start("--resume", str(folder))
    _, said = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, said
    run = lab.record()
    assert run is not None
    with run:
        assert run.status == "done"
        assert run.pending() == []
        operations = list(run.operations())
        assert {operation.number for operation in operations if operation.status == "reread"} == lost
        assert {int(event.payload["operation"]) for event in run.events("reread")} == lost
        assert all(operation.status == "done" for operation in operations if operation.number > last)
    for name, control in lab.controls.items():
        truth = control.truth()
        counted = np.array([truth["pulses_up"], truth["pulses_down"]])
        done, uncertain = (np.zeros_like(counted) for _ in range(2))
        for operation in operations:
            if operation.board == name:
                into = done if operation.status == "done" else uncertain
                into += operation.cells[:, 0]
        assert done.sum() > 0
        assert bool((done <= counted).all()), f"{name}: pulses were lost"
        assert bool((counted <= done + uncertain).all()), f"{name}: pulses were sent twice"


@pytest.mark.slow
def test_killed_during_a_wafer(tmp_path: Path) -> None:
    """At the second die of two: the rack is made safe, the die is taken up again, the first one is not touched any more."""
    twin = StartedTwin(TwinStart(name="probe-station", settings={"name": "main", "wafer": {"columns": 2, "rows": 1}}))
    runs = tmp_path / "runs"
    short = {"cycles": 2, "branch_pulses": 200, "branch_reads": 20, "alternating_pulses": 40, "idle_reads": 4}
    changes = [f"station.settings={toml({'links': twin.links})}", *(f"wafer.characterize.{k}={v}" for k, v in short.items())]
    command = [sys.executable, "-m", "hil", "wafer", "--runs", str(runs)]

    def sites() -> int:
        """Dies that are finished, once the one after them has been pulsed."""
        try:
            with RunReader.open(next(runs.glob("*/run.sqlite")).parent) as run:
                done = len(list(run.events("site")))
                return done if any(operation.status == "pending" for operation in run.operations()) else 0
        except (StopIteration, HilError):
            return 0

    with ExitStack() as closing:
        closing.callback(twin.close)
        control = closing.enter_context(Control(twin.control))
        words = [word for change in changes for word in ("-s", change)]
        killed = subprocess.Popen(
            [*command, "twin-probe-station", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until(lambda: sites() == 1, killed)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL
        before = control.truth()
        (folder,) = (path.parent for path in runs.glob("*/run.sqlite"))
        done = subprocess.run([*command, "--resume", str(folder)], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        after = control.truth()
    with RunReader.open(folder) as run:
        assert run.status == "done"
        assert run.pending() == []
        assert len(list(run.events("site"))) == 2
        operations = list(run.operations())
    assert sum(operation.status == "reread" for operation in operations) >= 1
    for die in ("0,0,0", "1,0,0"):
        counted = np.array([after["dies"][die]["pulses_up"], after["dies"][die]["pulses_down"]])
        column = int(die[0])
        mine = [operation for operation in operations if operation.board == f"main@die+{column}+0.site0"]
        sure, uncertain = (np.zeros_like(counted) for _ in range(2))
        for operation in mine:
            into = sure if operation.status == "done" else uncertain
            into += operation.cells[:, 0]
        assert sure.sum() > 0
        assert bool((sure <= counted).all()), f"{die}: pulses were lost"
        assert bool((counted <= sure + uncertain).all()), f"{die}: pulses were sent twice"
    assert after["dies"]["0,0,0"] == before["dies"]["0,0,0"]


def stuck(lab: Played) -> bool:
    """Whether an update is on record of which nobody knows yet that it is done."""
    run = lab.record()
    assert run is not None
    with run:
        return any(operation.verb == "update" for operation in run.pending())
