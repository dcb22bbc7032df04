"""Pulse programs of the open crossbar protocol: what one costs, counted before it is run, and its steps in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hil.wire import Code
from hil.wire_verbs import Op, Step
from simulated_backend.twins.board_checks import Refused

__all__ = ["MAX_DEPTH", "MAX_STEPS", "Cost", "expand", "measure"]

MAX_DEPTH = 4
"""Loops inside one another."""
MAX_STEPS = 1_000_000
"""Steps that are executed, loops and their ends included."""

_LOWEST = {Step.PULSE_UP: 1, Step.PULSE_DOWN: 1, Step.READ: 1, Step.WAIT: 0, Step.LOOP: 1, Step.END: 0}
_HIGHEST = {
    Step.PULSE_UP: 2**31 - 1,
    Step.PULSE_DOWN: 2**31 - 1,
    Step.READ: 65535,
    Step.WAIT: 2**32 - 1,
    Step.LOOP: 2**32 - 1,
    Step.END: 0,
}


@dataclass(frozen=True)
class Cost:
    """What a program does to each of its cells."""

    pulses: int
    """Pulses of a cell, both polarities."""
    reads: int
    """Values of a cell in the reply."""


def measure(ops: Sequence[Op]) -> Cost:
    """Count without running; Refused for what is no program, or has more steps or deeper loops than the board takes."""
    pulses = reads = steps = 0
    times = [1]
    for index, op in enumerate(ops):
        if op.code not in _LOWEST:
            raise Refused(Code.MALFORMED, f"step code {op.code} is unknown", index)
        if not _LOWEST[Step(op.code)] <= op.number <= _HIGHEST[Step(op.code)]:
            raise Refused(Code.MALFORMED, f"{Step(op.code).name} of {op.number}", index)
        steps += times[-1]
        if op.code in (Step.PULSE_UP, Step.PULSE_DOWN):
            pulses += times[-1] * op.number
        elif op.code == Step.READ:
            reads += times[-1]
        elif op.code == Step.LOOP:
            times.append(times[-1] * op.number)
        elif op.code == Step.END:
            times.pop()
            if not times:
                raise Refused(Code.MALFORMED, "END without LOOP", index)
        if len(times) > MAX_DEPTH + 1:
            raise Refused(Code.UNABLE, f"loops nested deeper than {MAX_DEPTH}", index)
        if steps > MAX_STEPS:
            raise Refused(Code.UNABLE, f"more than {MAX_STEPS} steps in all", index)
    if len(times) != 1:
        raise Refused(Code.MALFORMED, "LOOP without END", len(ops))
    return Cost(pulses, reads)


def expand(ops: Sequence[Op]) -> Iterator[tuple[int, Op]]:
    """(index, step) in the order of execution, without loops and their ends; of a program that ``measure`` took."""
    loops: list[tuple[int, int]] = []
    at = 0
    while at < len(ops):
        op = ops[at]
        if op.code == Step.LOOP:
            loops.append((at, op.number))
        elif op.code == Step.END:
            start, left = loops.pop()
            if left > 1:
                loops.append((start, left - 1))
                at = start
        else:
            yield at, op
        at += 1
