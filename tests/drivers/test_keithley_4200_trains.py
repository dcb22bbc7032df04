"""Trains compiled for the 4225-PMU: nothing lost, nothing added, within the instrument's memory."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.keithley_4200_trains import Execution, PulseTops, ReadTop, TrainTiming, compile_train
from hil.errors import LimitError, UsageError

TOPS = PulseTops(1.0, -1.5, 1e-6)
READ = ReadTop(0.2, 20e-6, 6.8e-6)
TIMING = TrainTiming(100e-9, 1e-6, 10)


def played(executions: list[Execution]) -> list[str]:
    """What the cell sees, in order: "+" and "-" for pulses, "r" for readings."""
    seen = []
    for execution in executions:
        for number, loops in execution.plays:
            tops = [s for s in execution.sequences[number - 1] if s.start_v == s.stop_v != 0]
            seen += [{1.0: "+", -1.5: "-", 0.2: "r"}[top.start_v] for top in tops] * loops
    return seen


def wanted(polarity: list[int], every: int) -> list[str]:
    seen = []
    for number, sign in enumerate(polarity, 1):
        seen.append("+" if sign > 0 else "-")
        seen += ["r"] if every and number % every == 0 else []
    return seen


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.sampled_from([1, -1]), st.integers(1, 200)), min_size=1, max_size=30),
    st.sampled_from([0, 1, 2, 7, 40]),
)
def test_order_and_memory(runs, every):
    polarity = [sign for sign, length in runs for _ in range(length)]
    executions = compile_train(polarity, TOPS, READ if every else None, TIMING, every or 1)
    assert played(executions) == wanted(polarity, every)
    for execution in executions:
        assert sum(map(len, execution.sequences)) <= 2048
        assert max(map(len, execution.sequences)) <= 128
        assert len(execution.sequences) <= 512
        assert execution.readings == played([execution]).count("r")
        assert execution.pulses == len(played([execution])) - execution.readings
        for sequence in execution.sequences:
            assert sequence[0].start_v == sequence[-1].stop_v == 0
            assert all(one.stop_v == other.start_v for one, other in pairwise(sequence))


def test_a_trace_up_and_down_is_one_execute():
    executions = compile_train([1] * 400 + [-1] * 400, TOPS, READ, TIMING)
    assert len(executions) == 1
    assert executions[0].plays == ((1, 400), (2, 400))
    assert executions[0].readings == 800
    pulse_s, read_s = 0.9e-6 + 2 * 0.1e-6 + 1e-6, 19.9e-6 + 2 * 0.1e-6 + 1e-6
    assert math.isclose(executions[0].duration_s, 800 * (pulse_s + read_s), rel_tol=1e-9)


def test_a_million_pulses_are_one_execute():
    executions = compile_train([1] * 1_000_000, TOPS, None, TIMING)
    assert [e.plays for e in executions] == [((1, 1_000_000),)]
    assert len(executions[0].sequences[0]) == 4


def test_readings_alone_and_more_than_one_test_holds():
    executions = compile_train([], None, READ, TIMING, reads=70_000)
    assert [e.readings for e in executions] == [65536, 70_000 - 65536]


def test_width_is_at_half_height_and_the_window_begins_settled():
    sequence = compile_train([1], TOPS, READ, TIMING)[0].sequences[0]
    pulse, read = sequence[:4], sequence[4:]
    assert [s.time_s for s in pulse] == [1e-7, 9e-7, 1e-7, 1e-6]
    assert [(s.start_v, s.stop_v) for s in pulse] == [(0, 1), (1, 1), (1, 0), (0, 0)]
    assert [(s.meas_start_s, s.meas_stop_s) for s in read] == [(0, 0), (6.8e-6, 19.9e-6), (0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("tops", "read", "timing", "match"),
    [
        (PulseTops(10.1, -1, 1e-6), None, TIMING, "above the range of 10 V"),
        (PulseTops(1, -10.1, 1e-6), None, TIMING, "above the range of 10 V"),
        (PulseTops(math.nan, -1, 1e-6), None, TIMING, "above the range"),
        (PulseTops(1, -1, 1.005e-6), None, TIMING, "no multiple of 10 ns"),
        (PulseTops(1, -1, 1.5), None, TIMING, "segments last from 2e-08 to 1 s"),
        (PulseTops(1, -1, 110e-9), None, TIMING, "segments last from 2e-08 to 1 s"),
        (PulseTops(20, -20, 130e-9), None, TrainTiming(100e-9, 1e-6, 40), "segments last from 5e-08 to 1 s"),
        (TOPS, None, TrainTiming(100e-9, 10e-9, 10), "gap of 1e-08 s"),
        (TOPS, ReadTop(0.2, 5e-6, 6.8e-6), TIMING, "before the current has settled"),
        (TOPS, ReadTop(11, 20e-6, 6.8e-6), TIMING, "reading of 11 V is above the range"),
    ],
)
def test_refused(tops, read, timing, match):
    with pytest.raises(LimitError, match=match):
        compile_train([1, -1], tops, read, timing)


def test_no_train():
    with pytest.raises(UsageError, match="a train of nothing"):
        compile_train([], None, None, TIMING)
    with pytest.raises(UsageError, match=r"made of \+1 and -1"):
        compile_train([1, 0], TOPS, None, TIMING)
    with pytest.raises(UsageError, match="k >= 1"):
        compile_train([1], TOPS, READ, TIMING, every=0)
