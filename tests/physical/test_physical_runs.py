"""Whole runs on a board that wears: nothing without limits, every pulse counted, excluded cells left alone, dry runs dry."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import numpy as np
import pytest

from hil.wear import Wear

EXCLUDED = "excluded_cells = [[1, 1], [4, 5]]\nexcluded_rows = [7]\n"
pytestmark = pytest.mark.slow


def out_of_use() -> Any:
    mask = np.zeros((1, 10, 6), dtype=bool)
    mask[0, 1, 1] = mask[0, 4, 5] = True
    mask[0, 7] = True
    return mask


def worn(lab: Any) -> Any:
    wear = Wear.open(lab.folder / "lab.state")
    try:
        return wear.cells(lab.board.info)
    finally:
        wear.close()


@pytest.mark.parametrize("verb", ["characterize", "program", "train"])
def test_without_limits_nothing_is_pulsed(lab: Any, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(limits="")
    code = lab.train() if verb == "train" else lab.hil(verb, **({"rows": "3", "cols": "3"} if verb == "program" else {}))
    assert code == 3
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert "boards.main.limits" in said
    assert lab.board.pulsed == 0
    with lab.record() as run:
        assert run.status == "refused"
        assert list(run.operations()) == []


def test_characterize_zero_shift_train_and_every_pulse_is_counted(lab: Any) -> None:
    lab.write(rows=4, cols=4)
    assert lab.hil("characterize", cycles="3", alternating_pulses="200") == 0
    assert lab.hil("zero-shift", max_pulses="400") == 0
    for _ in range(2):
        before = len(lab.board.sent)
        assert lab.train(reference_a="sp", reference_c="sp", epochs="1") == 0
        assert len(lab.board.sent) > before
        counted = worn(lab)
        np.testing.assert_array_equal(counted.up, lab.board.up)
        np.testing.assert_array_equal(counted.down, lab.board.down)
        with lab.record() as run:
            assert run.status == "done"
            operations = list(run.operations())
            assert {operation.status for operation in operations} == {"done"}
            sent = lab.board.sent[before:]
            assert [operation.verb for operation in operations] == [verb for _, verb, _ in sent]
            for operation, (_, _, cells) in zip(operations, sent, strict=True):
                np.testing.assert_array_equal(operation.cells, cells)
    assert {verb for _, verb, _ in lab.board.sent} == {"pulse", "trace", "update"}


def test_excluded_cells_get_no_pulse_and_are_reported(lab: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lab.exclude(EXCLUDED)
    gone = out_of_use()
    assert lab.hil("characterize", cycles="3", alternating_pulses="200") == 0
    with lab.record() as run:
        (event,) = run.events("characterized")
        silent = {(c["array"], c["row"], c["col"]): c["reason"] for c in event.payload["silent"]}
        assert {cell for cell, reason in silent.items() if reason.startswith("excluded")} == set(
            map(tuple, np.argwhere(gone))
        )
    assert lab.hil("zero-shift", max_pulses="400") == 0
    with lab.record() as run:
        (event,) = run.events("zero-shift")
        np.testing.assert_array_equal(run.arrays(event.number)["reason"] == -1, gone)
        assert run.results()["board main: excluded"].value == gone.sum()
    # Products drive whole lines, and see an excluded cell; measurements do not.
    assert worn(lab).reads[gone].sum() == 0
    assert lab.hil("program", rows="8", cols="3") == 0
    assert lab.train(reference_a="sp", reference_c="sp", epochs="1") == 0
    assert lab.board.pulsed > 0
    assert lab.board.up[gone].sum() + lab.board.down[gone].sum() == 0
    capsys.readouterr()
    assert lab.hil("program", rows="10", cols="6") == 2
    assert "(10 x 6, 52 cells free, 8 excluded by its limits)" in capsys.readouterr().err


@pytest.mark.parametrize("prepare", ["stored", "measure"])
def test_a_dry_run_sends_nothing(lab: Any, prepare: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.train(epochs="1") == 0
    devices = {name: value.clone() for name, value in lab.board.inner.state_dict().items()}
    verbs, before = dict(lab.board.verbs), worn(lab)
    capsys.readouterr()
    options = {"pool": "4", "classes": "[0,1]", "hidden": "[]", "limit": "4", "epochs": "1", "prepare": prepare}
    references = {"reference_a": "mid", "reference_c": "mid"}
    changes = [part for k, v in {**options, **references}.items() for part in ("-s", f"train.{k}={v}")]
    assert lab.hil("check", "--procedure", "train", "--json", *changes) == 0
    said = capsys.readouterr().out
    for head in ("pulses up", "device time", "wear after it"):
        assert all(word in said for word in head.split())
    dry = json.loads(said.splitlines()[-1])["dry_run"]["main"]
    assert dry["pulses_up"] + dry["pulses_down"] > 0
    assert dry["seconds"] > 0
    assert dry["wear_after"] > before.pulses.max()
    assert {verb for verb in lab.board.verbs if lab.board.verbs[verb] != verbs.get(verb)} <= {"safe", "status", "close"}
    for name, value in lab.board.inner.state_dict().items():
        assert bool((value == devices[name]).all()), name
    np.testing.assert_array_equal(worn(lab).pulses, before.pulses)
    assert not (lab.folder / "lab.state" / "calibrations").exists()


def test_sigint_grounds_the_board_once_before_it_is_closed(lab: Any) -> None:
    assert lab.train(epochs="1") == 0
    start = len(lab.board.order)
    lab.board.after[lab.board.number + 12] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert lab.train(epochs="1") == 130
    order = lab.board.order[start:]
    assert order.count("safe") == order.count("close") == 1
    assert order.index("safe") < order.index("close")
    assert order[-2:] == ["safe", "close"]
    with lab.record() as run:
        assert run.status == "interrupted"
        stop = run.stop()
        assert stop is not None
        assert stop.safe is True
        (event,) = run.events("safe")
        assert event.payload["boards"] == {"main": True}
    assert lab.resume() == 0
