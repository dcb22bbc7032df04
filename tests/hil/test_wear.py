"""Wear counters: they add up over runs and processes, and never forget a pulse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hil.backend import ArrayInfo, Range
from hil.errors import DataError
from hil.wear import READS_IN_MEMORY, Wear

INFO = ArrayInfo(1, 2, 3, True, "v", "m", "serial-1", "f", Range(-1, 1), Range(-2, 2), Range(0, 1))
ONE = np.ones((1, 2, 3), dtype=np.int64)


def test_counters_add_up_over_runs(tmp_path):
    for _ in range(2):
        wear = Wear.open(tmp_path / "state")
        wear.add(INFO, up=ONE, down=2 * ONE, either=3 * ONE, reads=4 * ONE, passes=5)
        wear.add_reads(INFO, np.array([[[1], [0]]]))
        wear.close()
    other = Wear.open(tmp_path / "state")
    cells = other.cells(INFO)
    np.testing.assert_array_equal(cells.up, 2 * ONE)
    np.testing.assert_array_equal(cells.down, 4 * ONE)
    np.testing.assert_array_equal(cells.either, 6 * ONE)
    np.testing.assert_array_equal(cells.pulses, 12 * ONE)
    np.testing.assert_array_equal(cells.reads[0], [[10] * 3, [8] * 3])
    assert cells.passes == 10
    other.close()


def test_two_writers_add_up(tmp_path):
    first, second = Wear.open(tmp_path), Wear.open(tmp_path)
    for wear in (first, second, first):
        wear.add(INFO, up=ONE)
    np.testing.assert_array_equal(second.cells(INFO).up, 3 * ONE)
    first.close()
    second.close()


def test_boards_are_kept_apart():
    wear = Wear.in_memory()
    wear.add(INFO, up=ONE)
    assert wear.cells(replace(INFO, serial="serial-2")).pulses.sum() == 0
    with pytest.raises(DataError, match="serial of its own"):
        wear.cells(replace(INFO, rows=4))


def test_a_refused_pulse_is_taken_back():
    wear = Wear.in_memory()
    wear.add(INFO, up=ONE, passes=3)
    wear.add(INFO, up=-ONE, passes=-3)
    assert wear.cells(INFO).pulses.sum() == wear.cells(INFO).passes == 0


def test_snapshot_leaves_the_truth_alone(tmp_path):
    wear = Wear.open(tmp_path)
    wear.add(INFO, up=ONE)
    copy = wear.snapshot()
    copy.add(INFO, up=ONE)
    assert (wear.cells(INFO).up.sum(), copy.cells(INFO).up.sum()) == (6, 12)
    wear.close()


def test_reads_are_written_now_and_then(tmp_path):
    writer, reader = Wear.open(tmp_path), Wear.open(tmp_path)
    for _ in range(READS_IN_MEMORY - 1):
        writer.add_reads(INFO, ONE)
    assert reader.cells(INFO).reads.sum() == 0
    writer.add_reads(INFO, ONE)
    assert reader.cells(INFO).reads.sum() == 6 * READS_IN_MEMORY
    writer.close()
    reader.close()


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "wear.sqlite").write_text("no database " * 100)
    with pytest.raises(DataError, match="holds no wear counters"):
        Wear.open(tmp_path)


def test_a_failed_write_is_typed(tmp_path):
    wear = Wear.open(tmp_path)
    wear.close()
    with pytest.raises(DataError, match="cannot count wear"):
        wear.add(INFO, up=ONE)
