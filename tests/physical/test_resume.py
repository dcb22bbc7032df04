"""A training on a board that dies goes on: nothing is sent twice, what is uncertain is read again, what is lost skipped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hil.errors import HardwareError, PulseOutcomeUnknown
from hil.guard import UNKNOWN_IN_A_ROW
from hil.ledger import Ledger
from hil.run_reader import RunReader

pytestmark = pytest.mark.slow


def steps(run: RunReader) -> list[tuple[int, int]]:
    """(epoch, step) of every operation of the training loop, in the order sent."""
    return [(o.digital["epoch"], o.digital["step"]) for o in run.operations() if o.digital is not None]


def counters(run: RunReader) -> list[int]:
    """Of the pulse trains of A at its updates: one more for every sample, whatever happened in between."""
    found = [o.digital["layers"][0]["a"]["in"][0] for o in run.operations() if o.digital is not None]
    return [now for now, before in zip(found, [-1, *found[:-1]], strict=True) if now != before]


def check_record(run: RunReader, died_in: tuple[int, int], lost: int) -> None:
    """The steps go up, no step is taken up again after the death, every outcome is known, the run is done."""
    assert run.status == "done"
    assert run.pending() == []
    taken = steps(run)
    assert taken == sorted(taken)
    # A step sends two operations at most: one for A, one for C. The step of the death was not begun again.
    assert max(taken.count(step) for step in set(taken)) <= 2
    assert died_in in taken
    trains = counters(run)
    assert trains == sorted(set(trains))
    rereads = list(run.events("reread"))
    assert len(rereads) == lost
    for event in rereads:
        arrays = run.arrays(event.number)
        assert bool(np.isfinite(arrays["g_siemens"][arrays["mask"]]).all())
        assert event.payload["cells"] == arrays["mask"].sum()
    settled = {operation.number: operation.status for operation in run.operations()}
    assert [settled[event.payload["operation"]] for event in rereads] == ["reread"] * lost
    epochs = [event.payload["epoch"] for event in run.events("epoch")]
    assert epochs == [1, 2]


@pytest.fixture
def first_update(lab: Any) -> int:
    """Number of the operation that is the first of training proper; found by a run of the same on another board."""
    assert lab.train(epochs="1") == 0
    number: int = next(number for number, verb, _ in lab.board.sent if verb == "update")
    lab.plugin.board = None
    for run in lab.runs:
        (run / "run.sqlite").rename(run / "elsewhere")
    for path in (lab.folder / "lab.state").glob("wear*"):
        path.unlink()
    return number


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", [0, 1, 10, 23])
def test_a_fault_in_the_middle(lab: Any, first_update: int, when: str, at: int) -> None:
    k = first_update + at
    opened = lab.plugin.open

    def armed(settings: Any, wanted: Any) -> Any:
        board = opened(settings, wanted)
        if not board.sent:
            getattr(board, when)[k] = HardwareError("the link is down: plug it in")
        return board

    lab.plugin.open = armed
    assert lab.train() == 4
    with lab.record() as run:
        assert run.status == "failed"
        died_in = steps(run)[-1]
        uncertain = len(run.pending())
        assert uncertain >= 1
    assert lab.resume() == 0
    numbers = [number for number, *_ in lab.board.sent]
    assert numbers == sorted(set(numbers))
    with lab.record() as run:
        check_record(run, died_in, uncertain)
        taken = [o for o in run.operations() if o.digital is not None]
        assert sum(o.status == "reread" for o in taken) == uncertain
        # The driver got exactly what was recorded, each once; the lost one only if it came that far.
        recorded = [o.cells for o in run.operations()]
        if when == "before":
            recorded = [o.cells for o in run.operations() if o.number != first_lost(run)]
        assert len(recorded) == len(lab.board.sent)
        for cells, (_, _, sent) in zip(recorded, lab.board.sent, strict=True):
            np.testing.assert_array_equal(cells, sent)


def first_lost(run: RunReader) -> int:
    """The operation that the driver raised in: the last one that was sent before the run went on."""
    return max(int(event.payload["operation"]) for event in run.events("reread"))


def test_sigkill_in_the_middle(lab: Any, first_update: int) -> None:
    board = lab.folder / "board"
    board.mkdir()
    program = [sys.executable, str(Path(__file__).with_name("physical_board.py")), str(board)]
    killed = subprocess.run(
        [*program, str(first_update + 9), *lab.train_arguments()], capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (folder,) = (path.parent for path in lab.folder.glob("runs/*/run.sqlite"))
    with Ledger.open(folder) as run:
        assert run.status == "killed"
        died_in = steps(run)[-1]
        uncertain = len(run.pending())
        assert uncertain >= 1
    again = ["train", "--runs", str(lab.folder / "runs"), "--resume", str(folder)]
    resumed = subprocess.run([*program, "0", *again], capture_output=True, text=True, timeout=120)
    assert resumed.returncode == 0, resumed.stderr
    sent = [json.loads(line) for line in (board / "sent.jsonl").read_text().splitlines()]
    with Ledger.open(folder) as run:
        check_record(run, died_in, uncertain)
        recorded = list(run.operations())
        assert [number for number, *_ in sent] == list(range(1, len(recorded) + 1))
        for operation, (_, verb, cells) in zip(recorded, sent, strict=True):
            assert operation.verb == verb
            np.testing.assert_array_equal(operation.cells, cells)


@pytest.mark.parametrize("where", ["before", "after", "at_barrier"])
def test_a_lost_pulse_is_read_again_and_skipped(lab: Any, first_update: int, where: str) -> None:
    opened = lab.plugin.open

    def armed(settings: Any, wanted: Any) -> Any:
        board = opened(settings, wanted)
        # The second while A and C are being programmed.
        for k in (first_update + 7, 2):
            getattr(board, where)[k] = PulseOutcomeUnknown(f"no answer to operation {k}")
        return board

    lab.plugin.open = armed
    assert lab.train() == 0
    with lab.record() as run:
        unknown = list(run.events("outcome-unknown"))
        assert [event.payload["message"] for event in unknown] == [
            f"no answer to operation {k}" for k in (2, first_update + 7)
        ]
        lost = [number for event in unknown for number in event.payload["operations"]]
        assert [event.payload["operation"] for event in run.events("reread")] == lost
        assert {o.number for o in run.operations() if o.status == "reread"} == set(lost)
        assert run.pending() == []
        taken = steps(run)
        assert taken == sorted(taken)
        assert taken[-1] == (1, 11)


def test_losing_every_pulse_ends_the_run(lab: Any) -> None:
    opened = lab.plugin.open

    def armed(settings: Any, wanted: Any) -> Any:
        board = opened(settings, wanted)
        for k in range(1, 100):
            board.before[k] = PulseOutcomeUnknown("no answer")
        return board

    lab.plugin.open = armed
    assert lab.train() == 4
    assert lab.board.sent == []
    assert lab.board.number == UNKNOWN_IN_A_ROW + 1
    with lab.record() as run:
        assert run.status == "failed"
        assert len(list(run.events("outcome-unknown"))) == UNKNOWN_IN_A_ROW
        assert len(run.pending()) == 1
