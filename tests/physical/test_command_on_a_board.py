"""What the command says of a board's safety, of its calibrations on resumption, and of the pulses it got."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hil.backend import PulseShape
from hil.bench import open_bench
from hil.calibration import CalibrationStore
from hil.config import load_bench
from hil.errors import HardwareError
from hil.ledger import Ledger
from hil.wear import pulses_since_start

pytestmark = pytest.mark.slow
SMALL = {"rows": "2", "cols": "2"}


@pytest.fixture
def silent(lab: Any) -> Any:
    """A lab whose board, opened once, does not confirm that it is grounded from now on."""
    assert lab.hil("check") == 0
    lab.board.confirms = False
    return lab


def last_json(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """The JSON object at the end of stdout, and stderr, which must be one line."""
    said = capsys.readouterr()
    assert said.err.count("\n") == 1, said.err
    found: dict[str, Any] = json.loads(said.out.splitlines()[-1])
    return found, said.err


@pytest.mark.parametrize("verb", ["program", "check"])
def test_a_board_that_does_not_confirm_is_a_hardware_fault(
    silent: Any, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert silent.hil(verb, "--json", **(SMALL if verb == "program" else {})) == 4
    found, line = last_json(capsys)
    assert "main: did not confirm that it is grounded" in line
    assert (found["exit"], found["safe"], found["safe_by_board"]) == (4, False, {"main": False})
    if verb == "program":
        with silent.record() as run:
            stop = run.stop()
            assert stop is not None
            assert stop.safe is False


def test_a_fault_is_told_with_the_doubt(silent: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    silent.board.before[silent.board.number + 1] = HardwareError("the link is down: plug it in")
    assert silent.hil("program", "--json", **SMALL) == 4
    found, line = last_json(capsys)
    assert line.startswith("error: the link is down: plug it in; main: did not confirm")
    assert found["safe"] is False


@pytest.mark.parametrize("confirms", [True, False])
def test_ctrl_c_claims_no_more_than_the_board_confirmed(
    lab: Any, confirms: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.hil("check") == 0
    lab.board.confirms = confirms
    lab.board.after[lab.board.number + 1] = lambda: os.kill(os.getpid(), signal.SIGINT)
    capsys.readouterr()
    assert lab.hil("program", "--json", **SMALL) == 130
    found, line = last_json(capsys)
    assert f"hil program --resume {lab.runs[-1]}" in line
    assert ("every board confirmed that it is grounded" in line) == confirms
    assert ("main: did not confirm that it is grounded" in line) != confirms
    assert (found["exit"], found["safe"]) == (130, confirms)


def interrupted(lab: Any) -> None:
    """A training on symmetry points that stops in its first epoch."""
    lab.write(rows=4, cols=4)
    assert lab.hil("characterize", cycles="2", alternating_pulses="200") == 0
    lab.board.after[lab.board.number + 8] = HardwareError("the link is down: plug it in")
    assert lab.train(reference_a="sp", reference_c="sp", epochs="1") == 4
    with lab.record() as run:
        used = list(run.events("calibration"))
        assert [event.payload["matrix"] for event in used] == ["layer0.a", "layer0.c"]


@pytest.mark.parametrize("what", ["another", "gone", "the same"])
def test_a_run_goes_on_only_with_the_calibration_that_it_began_with(
    lab: Any, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(lab)
    store = CalibrationStore(lab.folder / "lab.state" / "calibrations")
    shape = PulseShape(1.0, -1.0, 1e-6)
    found = store.find(lab.board.info.serial, shape)
    assert found is not None
    if what == "another":
        store.save(replace(found, g_sp=found.g_sp + 1e-6, run_id="yesterday"))
    elif what == "gone":
        store.path(found.serial, shape).unlink()
    else:
        store.save(found)
    pulsed = lab.board.pulsed
    capsys.readouterr()
    code = lab.resume()
    if what == "the same":
        assert code == 0
        return
    assert code == 2
    line = capsys.readouterr().err
    assert f"layer0.a: its calibration in {store.directory} is " in line
    assert f"began with of {found.date} by run {found.run_id}" in line
    assert lab.board.pulsed == pulsed


def test_pulses_are_counted_over_the_whole_run_where_the_board_does_not_count(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lab.train(epochs="1") == 0
    monkeypatch.setattr(type(lab.board), "status", lambda self: {})
    before = lab.board.up + lab.board.down
    lab.board.after[lab.board.number + 12] = HardwareError("the link is down: plug it in")
    assert lab.train(epochs="1") == 4
    assert lab.resume() == 0
    sent = lab.board.up + lab.board.down - before
    with lab.record() as run:
        np.testing.assert_array_equal(pulses_since_start(lab.board, "main", run), sent)
        assert pulses_since_start(lab.board, "other", run).sum() == 0


def test_pulses_of_a_matrix(lab: Any) -> None:
    with (
        Ledger.create(lab.folder / "runs", "test", {}) as ledger,
        open_bench(load_bench(lab.bench), lab.folder / "lab.state", ledger) as bench,
    ):
        first, _ = (bench.place(name, "c", 4, 2).regions[0] for name in ("first", "second"))
        counts = torch.zeros(1, 10, 6, dtype=torch.int32)
        counts[0, first.rows, first.cols] = torch.tensor([[1, -1], [3, 0], [0, 0], [0, 0]], dtype=torch.int32)
        bench.backends["main"].pulse(counts, PulseShape(1.0, -1.0, 1e-6))
        assert {name: float(pulses.mean()) for name, pulses in bench.pulses().items()} == {"first": 5 / 8, "second": 0.0}
