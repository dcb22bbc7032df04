"""Operations on record: intended, settled, committed at once and in batches, read while they are written."""

from __future__ import annotations

import numpy as np
import pytest

from hil.backend import PulseShape
from hil.ledger import BATCH, Ledger

SHAPE = PulseShape(up_v=1.0, down_v=-1.0, width_s=1e-6)
CELLS = np.arange(12).reshape(2, 1, 2, 3)


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


def test_intent_is_committed_inside_a_batch(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger, Ledger.open(ledger.folder) as watcher, ledger.batch():
        ledger.event("a")
        number = ledger.intend("main", "pulse", SHAPE, CELLS, 66)
        assert [operation.number for operation in watcher.pending()] == [number]
        ledger.event("b")
        assert [event.kind for event in watcher.events()] == ["a"]


def test_batch_keeps_what_came_before_an_exception(tmp_path):
    with Ledger.create(tmp_path, "train", {}) as ledger, Ledger.open(ledger.folder) as watcher:

        def fail():
            with ledger.batch(), ledger.batch():
                ledger.event("a")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert [event.kind for event in watcher.events()] == ["a"]


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
