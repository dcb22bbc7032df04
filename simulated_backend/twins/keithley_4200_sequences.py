"""Segment-arb sequences as the twin's pulse unit stores, checks and plays them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from simulated_backend.twins.rack import Pulses

__all__ = ["CommandError", "Sequence", "check_sequence", "expand", "whole"]

_GRAIN_S = 10e-9
_EVENTS = 2_000_000
"""Items of an expanded program that this twin is ready to play."""


class CommandError(Exception):
    """What the instrument answers: a code and a sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Sequence:
    """The arrays of one sequence, a value per segment."""

    time: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    stop: list[float] = field(default_factory=list)
    kind: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)

    def windows(self) -> list[tuple[float, float, float, float]]:
        """Of every measured segment: where it begins in the sequence, the window in it (s), its voltage."""
        found, at_s = [], 0.0
        for k, time_s in enumerate(self.time):
            if self.kind[k]:
                found.append((at_s, self.first[k], self.last[k], self.start[k]))
            at_s += time_s
        return found


def whole(text: str, what: str) -> int:
    """A whole number; CommandError where it is none."""
    try:
        return int(text)
    except ValueError as exc:
        raise CommandError(-993, f"{text!r} is no {what}.") from exc


def check_sequence(sequence: Sequence, range_v: int) -> None:
    """Raise CommandError for what the instrument does not play."""
    size = len(sequence.time)
    arrays = (sequence.start, sequence.stop, sequence.kind, sequence.first, sequence.last)
    if size < 3 or any(len(values) != size for values in arrays):
        raise CommandError(-850, "Arrays of a sequence differ in length, or it has less than 3 segments.")
    if any(abs(value) > range_v for value in (*sequence.start, *sequence.stop)):
        raise CommandError(-851, "A voltage exceeds the source range.")
    shortest_s = 20e-9 if range_v == 10 else 50e-9
    for time_s in sequence.time:
        steps = time_s / _GRAIN_S
        if not shortest_s * (1 - 1e-6) <= time_s <= 1 or abs(steps - round(steps)) > 1e-3:
            raise CommandError(-852, "A segment is too short, too long or no multiple of 10 ns.")
    for k in range(size - 1):
        if sequence.stop[k] != sequence.start[k + 1]:
            raise CommandError(-853, "Segments do not join.")
    if sequence.start[0] != 0 or sequence.stop[-1] != 0:
        raise CommandError(-853, "A sequence that does not begin and end at 0 V is not modelled.")
    for k, kind in enumerate(sequence.kind):
        first_s, last_s = sequence.first[k], sequence.last[k]
        if kind not in (0, 1):
            raise CommandError(-854, "Measure types other than 0 and 1 are not modelled.")
        if kind == 0 and (first_s, last_s) != (0, 0):
            raise CommandError(-823, "A segment that is not measured has a measure window.")
        if kind == 1 and not (0 <= first_s < last_s <= sequence.time[k] * (1 + 1e-9)):
            raise CommandError(-855, "A measure window lies outside of its segment.")
        if kind == 1 and sequence.start[k] != sequence.stop[k]:
            raise CommandError(-856, "Measuring a slope is not modelled.")


def expand(channels: list[Mapping[int, Sequence]], plays: list[tuple[int, int]]) -> list[list[Pulses]]:
    """What a list of (sequence, loops) does on channels that play together: per channel the same number of items.

    An item is a flat top, or a run of equal ones; segments in which no channel stands at a voltage are left out.
    """
    programs = {number: _programs([channel[number] for channel in channels]) for number in {number for number, _ in plays}}
    found: list[list[Pulses]] = [[] for _ in channels]
    for number, loops in plays:
        program = programs[number]
        alone = len(program[0]) == 1 and all(items[0].read_v is None for items in program)
        if not alone and len(found[0]) + len(program[0]) * loops > _EVENTS:
            raise CommandError(-857, "A program of so many loops is not modelled.")
        for whole_program, items in zip(found, program, strict=True):
            whole_program += [replace(items[0], count=loops)] if alone else items * loops
    return found


def _programs(sequences: list[Sequence]) -> list[list[Pulses]]:
    """The flat tops of one sequence on every channel."""
    found: list[list[Pulses]] = [[] for _ in sequences]
    times = sequences[0].time
    for k, time_s in enumerate(times):
        if not any((s.start[k] == s.stop[k] and s.start[k] != 0) or s.kind[k] for s in sequences):
            continue
        if any(s.start[k] != s.stop[k] for s in sequences) or k in (0, len(times) - 1):
            raise CommandError(-858, "A top while another channel is on a slope is not modelled.")
        # The width at half height: the top, and half of the slopes beside it.
        width_s = round(time_s + (times[k - 1] + times[k + 1]) / 2, 8)
        measured = any(s.kind[k] for s in sequences)
        for items, s in zip(found, sequences, strict=True):
            items.append(Pulses(s.start[k], width_s, 1, s.start[k] if measured else None))
    return found
