"""Trains of pulses and readings compiled into segment-arb programs of a 4225-PMU: as few executes as its memory allows.

A pulse or reading is a trapezoid that begins and ends at 0 V: rise, flat top, fall, gap. Its width is measured at half
its height, so the flat top lasts width - (rise + fall) / 2. Pulses and the reading after them become one sequence;
equal sequences that follow each other become loops. Every voltage and time of the compiled program is checked here,
before a byte is sent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from hil.errors import LimitError, UsageError

__all__ = [
    "BURST",
    "GRAIN_S",
    "Burst",
    "Execution",
    "PulseTops",
    "ReadTop",
    "Segment",
    "TrainTiming",
    "compile_burst",
    "compile_train",
    "on_grain",
    "widths_s",
]

BURST = 10000
"""Pulses that a standard train holds at most."""

GRAIN_S = 10e-9
"""Times of segments are multiples of this."""
_SEGMENTS = 2048
"""Stored in one program, all sequences together."""
_PER_SEQUENCE = 128
"""Values that one array command takes; a sequence of ours never has more segments."""
_SEQUENCES = 512
_PLAYS = 512
_READINGS = 65536
"""Points that one test may hold."""
_LOOPS = 10**12
_PULSES = (_PER_SEQUENCE - 4) // 4
"""Pulses of one sequence, with a reading after them."""


@dataclass(frozen=True)
class Segment:
    """A straight line from start_v to stop_v; measured from meas_start_s to meas_stop_s after its start."""

    start_v: float
    stop_v: float
    time_s: float
    meas_start_s: float = 0.0
    meas_stop_s: float = 0.0


@dataclass(frozen=True)
class PulseTops:
    """Signed voltages of the pulses, volt, and their width at half height, second."""

    up_v: float
    down_v: float
    width_s: float


@dataclass(frozen=True)
class ReadTop:
    """A reading: its voltage, its width, and how long after the top is reached the current has settled, second."""

    voltage_v: float
    width_s: float
    settled_s: float


@dataclass(frozen=True)
class TrainTiming:
    """Rise = fall time and gap after every pulse, second; the source range, 10 or 40 V."""

    edge_s: float
    gap_s: float
    range_v: int


@dataclass(frozen=True)
class Execution:
    """One program: sequences (numbered from 1), (number, loops) in the order played, readings, pulses and duration."""

    sequences: tuple[tuple[Segment, ...], ...]
    plays: tuple[tuple[int, int], ...]
    readings: int
    pulses: int
    duration_s: float


@dataclass(frozen=True)
class Burst:
    """A standard train: ``count`` equal pulses, nothing measured."""

    voltage_v: float
    width_s: float
    period_s: float
    edge_s: float
    pulses: int


@dataclass(frozen=True)
class _Unit:
    """What is played together: pulses by their polarity, maybe a reading after them."""

    polarity: tuple[int, ...]
    reading: bool


def on_grain(time_s: float, what: str) -> float:
    """The time as a multiple of 10 ns; LimitError where it is none."""
    steps = time_s / GRAIN_S
    if not math.isfinite(steps) or abs(steps - round(steps)) > 1e-3:
        raise LimitError(f"4225-PMU: {what} = {time_s:g} s is no multiple of 10 ns: give one")
    return round(steps) / 1e8


def widths_s(edge_s: float, gap_s: float, range_v: int) -> tuple[float, float]:
    """Shortest and longest pulse, at half height, that both kinds of train take, second."""
    top_s, standard_s = (20e-9, 40e-9) if range_v == 10 else (50e-9, 250e-9)
    return max(edge_s + top_s, standard_s), 1.0 - edge_s - gap_s


def compile_burst(voltage_v: float, width_s: float, count: int, timing: TrainTiming) -> Burst:
    """A standard train of up to BURST pulses; LimitError for what the instrument cannot do."""
    # Voltage, grain and top are limited as those of a segment.
    _trapezoid(voltage_v, width_s, timing, "pulse", None)
    edge_s, width = on_grain(timing.edge_s, "edge"), on_grain(width_s, "width")
    period_s = on_grain(width + edge_s + timing.gap_s, "period")
    shortest_s, period_low_s = (40e-9, 60e-9) if timing.range_v == 10 else (250e-9, 500e-9)
    if not shortest_s * (1 - 1e-9) <= width or not period_low_s <= period_s <= 1 or timing.gap_s < 50e-9 * (1 - 1e-9):
        raise LimitError(
            f"4225-PMU: pulse of {width:g} s, edges {edge_s:g} s, gap {timing.gap_s:g} s: a standard train needs a width of "
            f"{shortest_s:g} s, a gap of 50 ns and a period of {period_low_s:g} to 1 s: change pulse or settings"
        )
    return Burst(voltage_v, width, period_s, edge_s, count)


def _trapezoid(voltage_v: float, width_s: float, timing: TrainTiming, what: str, settled_s: float | None) -> list[Segment]:
    if not abs(voltage_v) <= timing.range_v:
        raise LimitError(
            f"4225-PMU: {what} of {voltage_v:g} V is above the range of {timing.range_v} V: take the other range"
        )
    top_s = on_grain(width_s - timing.edge_s, f"top of the {what} (width - edge)")
    shortest_s = 20e-9 if timing.range_v == 10 else 50e-9
    for name, time_s in ((f"top of the {what}", top_s), ("edge", timing.edge_s), ("gap", timing.gap_s)):
        if not shortest_s * (1 - 1e-9) <= time_s <= 1.0:
            raise LimitError(f"4225-PMU: {name} of {time_s:g} s: segments last from {shortest_s:g} to 1 s in this range")
    edge_s, gap_s = on_grain(timing.edge_s, "edge"), on_grain(timing.gap_s, "gap")
    top = Segment(voltage_v, voltage_v, top_s)
    if settled_s is not None:
        start_s = math.ceil(settled_s / GRAIN_S - 1e-6) / 1e8
        if start_s + GRAIN_S > top_s:
            raise LimitError(
                f"4225-PMU: a reading of {width_s:g} s is over before the current has settled ({settled_s:g} s in this "
                "current range): widen it or take a larger range"
            )
        top = Segment(voltage_v, voltage_v, top_s, start_s, top_s)
    return [Segment(0.0, voltage_v, edge_s), top, Segment(voltage_v, 0.0, edge_s), Segment(0.0, 0.0, gap_s)]


class _Program:
    """One program in the making."""

    def __init__(self) -> None:
        self.units: dict[_Unit, int] = {}
        self.plays: list[tuple[int, int]] = []
        self.segments = self.readings = 0

    def room(self, unit: _Unit) -> int:
        """How many loops of the unit still fit, 0 where none does."""
        new = unit not in self.units
        size = 4 * (len(unit.polarity) + unit.reading) if new else 0
        again = not new and self.plays and self.plays[-1][0] == self.units[unit]
        if (
            self.segments + size > _SEGMENTS
            or (new and len(self.units) == _SEQUENCES)
            or (not again and len(self.plays) == _PLAYS)
        ):
            return 0
        return _READINGS - self.readings if unit.reading else _LOOPS

    def add(self, unit: _Unit, loops: int) -> None:
        if unit not in self.units:
            self.units[unit] = len(self.units) + 1
            self.segments += 4 * (len(unit.polarity) + unit.reading)
        number = self.units[unit]
        self.readings += loops * unit.reading
        if self.plays and self.plays[-1][0] == number:
            self.plays[-1] = (number, self.plays[-1][1] + loops)
        else:
            self.plays.append((number, loops))


def _units(polarity: Sequence[int], every: int) -> list[tuple[_Unit, int]]:
    """The train as units with loops; a reading after every ``every``-th pulse (0 = none), the rest without one."""
    if not polarity:
        return []
    cuts = range(0, len(polarity), every or len(polarity))
    found: list[tuple[_Unit, int]] = []
    for start in cuts:
        block = tuple(polarity[start : start + (every or len(polarity))])
        reading = every > 0 and len(block) == every
        if len(block) <= _PULSES and reading:
            found.append((_Unit(block, True), 1))
            continue
        pending: tuple[int, ...] = ()
        for sign, run in ((sign, len(list(group))) for sign, group in itertools.groupby(block)):
            if run > _PULSES:
                found += [(_Unit(pending, False), 1)] if pending else []
                found.append((_Unit((sign,), False), run))
                pending = ()
                continue
            pending += (sign,) * run
            if len(pending) >= _PULSES:
                found.append((_Unit(pending[:_PULSES], False), 1))
                pending = pending[_PULSES:]
        found += [(_Unit(pending, False), 1)] if pending else []
        found += [(_Unit((), True), 1)] if reading else []
    return found


def compile_train(
    polarity: Sequence[int],
    tops: PulseTops | None,
    read: ReadTop | None,
    timing: TrainTiming,
    every: int = 1,
    reads: int = 0,
) -> list[Execution]:
    """Programs for ``polarity`` (+1 up, -1 down) with a reading after every ``every``-th pulse, given ``read``.

    Without pulses (``tops`` None): ``reads`` readings. LimitError for what the instrument cannot do.
    """
    if tops is None and read is None:
        raise UsageError("4225-PMU: a train of nothing: give pulses, a reading or both")
    if any(sign not in (1, -1) for sign in polarity) or (read is not None and every < 1):
        raise UsageError("4225-PMU: a train is made of +1 and -1, read after every k-th pulse with k >= 1: correct it")
    shapes = {}
    if tops is not None:
        shapes[1] = _trapezoid(tops.up_v, tops.width_s, timing, "pulse", None)
        shapes[-1] = _trapezoid(tops.down_v, tops.width_s, timing, "pulse", None)
    reading = None if read is None else _trapezoid(read.voltage_v, read.width_s, timing, "reading", read.settled_s)
    wanted = [(_Unit((), True), reads)] if tops is None else _units(polarity, every if read is not None else 0)
    programs = [_Program()]
    for unit, count in wanted:
        loops = count
        while loops > 0:
            room = programs[-1].room(unit)
            if room == 0:
                programs.append(_Program())
                continue
            programs[-1].add(unit, min(loops, room))
            loops -= min(loops, room)
    return [_execution(program, shapes, reading) for program in programs if program.plays]


def _execution(program: _Program, shapes: dict[int, list[Segment]], reading: list[Segment] | None) -> Execution:
    sequences = []
    for unit in program.units:
        segments = [segment for sign in unit.polarity for segment in shapes[sign]]
        sequences.append((*segments, *(reading or [] if unit.reading else [])))
    units = list(program.units)
    return Execution(
        sequences=tuple(sequences),
        plays=tuple(program.plays),
        readings=program.readings,
        pulses=sum(len(units[number - 1].polarity) * loops for number, loops in program.plays),
        duration_s=sum(sum(s.time_s for s in sequences[number - 1]) * loops for number, loops in program.plays),
    )
