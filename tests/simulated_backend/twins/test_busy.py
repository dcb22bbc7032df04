"""Time in which at least one of several things was at work."""

from __future__ import annotations

import random

import pytest

from simulated_backend.twins.busy import Busy
from simulated_backend.twins.clock import DeviceClock


def test_overlaps_count_once() -> None:
    busy = Busy()
    for interval in [(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (2.5, 2.6), (6.0, 6.5), (9.0, 9.0)]:
        busy.add(*interval)
    assert busy.seconds() == pytest.approx(3.0 + 1.5)


def test_long_runs_are_folded_without_a_change() -> None:
    rng = random.Random(3)
    intervals = [(begin := 0.01 * k + rng.uniform(-0.5, 0.5), begin + rng.uniform(0, 0.02)) for k in range(20_000)]
    busy = Busy()
    for interval in intervals:
        busy.add(*interval)
    total, until = 0.0, -1.0
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    assert busy.seconds() == pytest.approx(total)
    assert len(busy._told) < 10_000


def test_device_time_is_part_of_it() -> None:
    clock = DeviceClock(1.0)
    clock.begin()
    clock.spend(0.002)
    clock.settle()
    assert clock.busy.seconds() == pytest.approx(0.002, rel=1e-6)
