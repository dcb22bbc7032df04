"""Verbs of the backend compiled to requests of the open crossbar protocol, cut so that no body is too long."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from drivers.crossbar_request import Request
from hil.errors import LimitError, UsageError
from hil.wire import Kind
from hil.wire_body import Bits
from hil.wire_session import Hello
from hil.wire_verbs import Mvm, Op, Program, Pulse, Read, Shape, Trace, Update

__all__ = ["mvm", "program", "program_reads", "pulse", "read", "trace", "update", "voltage_codes"]

_U16, _U32 = 2**16 - 1, 2**32 - 1
_READ_S, _MVM_S, _GAP_S = 1e-4, 2e-4, 2e-6
"""About what a board needs for a reading of one cell, one sample, and between pulses: how long the host waits for it."""
_STEP_PULSES, _STEP_READ, _STEP_WAIT, _STEP_LOOP, _STEP_END = (1, 2), 3, 4, 5, 6

Words = NDArray[np.uint32]


def _cut(mask: Bits, most: int) -> list[Bits]:
    """Masks of at most ``most`` cells each, one after another in row-major order."""
    cells = np.flatnonzero(mask)
    if len(cells) <= most:
        return [mask]
    parts = []
    for start in range(0, len(cells), most):
        part = np.zeros_like(mask)
        part[cells[start : start + most]] = True
        parts.append(part)
    return parts


def read(read_v: float, averages: int, mask: Bits, hello: Hello) -> list[Request]:
    """Requests whose replies, put together, are float32 siemens of the masked cells; mask: [cell]."""
    if not 1 <= averages <= _U16:
        raise UsageError(f"read: averages = {averages} is outside 1 to {_U16}: read several times instead")
    requests = []
    for part in _cut(mask, hello.max_body // 4):
        cells = int(part.sum())
        lasts_s = cells * averages * _READ_S
        requests.append(Request(Kind.READ, Read(read_v, averages, part).pack(), lasts_s=lasts_s, answer_bytes=4 * cells))
    return requests


def voltage_codes(volts: NDArray[np.float32], hello: Hello) -> tuple[float, NDArray[np.int16]]:
    """(volt per code, codes) of the voltages of lines, [sample line].

    One voltage on some of the lines is one code, exact. A DAC's voltages are multiples of its step, rounded as
    ``hil.driving`` rounds them. A continuous source, or one finer than 16 bits, gets 32767 steps up to the largest voltage.
    LimitError where a board of one common voltage, or of one sign, is asked for more.
    """
    size = np.abs(volts)
    top = float(size.max(initial=0.0))
    if not hello.read_bipolar and bool(((volts > 0).any(axis=1) & (volts < 0).any(axis=1)).any()):
        raise LimitError(f"mvm: lines of both signs at once, and {hello.model} drives one: make two passes")
    if top == 0.0:
        return 1.0, np.zeros(volts.shape, dtype=np.int16)
    if bool(((size == 0) | (size == np.float32(top))).all()):
        return top, np.sign(volts).astype(np.int16)
    if hello.read_levels == 2:
        raise LimitError(f"mvm: several voltages at once, and {hello.model} has one: feed the bits of the inputs one by one")
    step = (hello.read_v[1] - hello.read_v[0]) / (hello.read_levels - 1) if hello.read_levels else 0.0
    if not step or max(map(abs, hello.read_v[:2])) / step > 32767:
        step = top / 32767
    return step, np.rint(volts / step).astype(np.int16)


def mvm(volts: NDArray[np.float32], backward: bool, hello: Hello) -> list[Request]:
    """Requests whose replies are float32 ampere [sample sensed line]; volts: [sample line]."""
    step, codes = voltage_codes(volts, hello)
    lines, sensed = (hello.cols, hello.rows) if backward else (hello.rows, hello.cols)
    most = min((hello.max_body - 11) // (2 * lines), hello.max_body // (4 * sensed), _U16)
    requests = []
    for start in range(0, len(codes), most):
        part = codes[start : start + most]
        body = Mvm(backward, step, part).pack()
        answer_bytes = 4 * sensed * len(part)
        requests.append(Request(Kind.MVM, body, first=start, lasts_s=len(part) * _MVM_S, answer_bytes=answer_bytes))
    return requests


def pulse(counts: NDArray[np.int32], shape: Shape, hello: Hello) -> list[Request]:
    """Requests that pulse [cell]; none where nothing is to be pulsed."""
    hit = counts != 0
    if not hit.any():
        return []
    if int(counts.min()) < -(2**31) + 1:
        raise UsageError("pulse: -2^31 pulses of a cell: give fewer")
    most = (hello.max_body - 48 - (len(counts) + 7) // 8) // 4
    requests = []
    for part in _cut(hit, most):
        chosen = np.where(part, counts, np.int32(0))
        lasts_s = float(np.abs(chosen.astype(np.int64)).sum()) * (shape.width_s + _GAP_S)
        requests.append(Request(Kind.PULSE, Pulse(shape, chosen).pack(), pulses=True, posted=True, lasts_s=lasts_s))
    return requests


def update(rows: Words, cols: Words, slots: NDArray[np.uint8], shape: Shape, hello: Hello) -> list[Request]:
    """Requests of a coincidence update; rows, cols: words of ``hil.wire_verbs.Update`` [sample line], slots: [sample]."""
    samples = len(slots)
    # As long as it can get: usually that fits, and nothing has to be counted.
    per_sample = 1 + (rows.shape[1] + cols.shape[1]) * 4.25
    if samples <= _U16 and 52 + samples * per_sample <= hello.max_body:
        cuts = [0, samples]
    else:
        fires = ((rows & 0x7FFFFFFF) != 0).sum(axis=1) + ((cols & 0x7FFFFFFF) != 0).sum(axis=1)
        size = 1 + (rows.shape[1] + cols.shape[1]) / 8 + 4 * fires
        cuts = _fill(size, hello.max_body - 52)
    requests = []
    for start, stop in pairwise(cuts):
        body = Update(shape, slots[start:stop], rows[start:stop], cols[start:stop]).pack()
        lasts_s = 4 * float(slots[start:stop].sum(dtype=np.int64)) * (shape.width_s + _GAP_S)
        requests.append(Request(Kind.UPDATE, body, pulses=True, posted=True, first=start, lasts_s=lasts_s))
    return requests


def _fill(size: NDArray[np.float64], room: float) -> list[int]:
    """Where to cut a row of samples so that no part exceeds ``room``."""
    cuts, used = [0], 0.0
    for number, one in enumerate(size.tolist()):
        if used and (used + one > room or number - cuts[-1] >= _U16):
            cuts.append(number)
            used = 0.0
        used += one
    return [*cuts, len(size)]


def trace(up: Bits, mask: Bits, every: int, shape: Shape, read_v: float, hello: Hello) -> list[tuple[Bits, list[Request]]]:
    """(masked cells, requests) whose replies are float32 siemens [cell read], one block of reads after another.

    up: [pulse]; mask: [cell]. Cells that do not fit one reply are traced after one another.
    """
    plans = []
    for part in _cut(mask, hello.max_body // 4):
        cells = int(part.sum())
        requests = []
        for start, stop, step in _segments(len(up), every, hello.max_body // (4 * max(cells, 1)), _room(part, hello)):
            body = Trace(shape, read_v, step, up[start:stop], part).pack()
            reads = (stop - start) // step
            lasts_s = cells * ((stop - start) * (shape.width_s + _GAP_S) + reads * _READ_S)
            answer_bytes = 4 * cells * reads
            requests.append(Request(Kind.TRACE, body, pulses=True, first=start, lasts_s=lasts_s, answer_bytes=answer_bytes))
        plans.append((part, requests))
    return plans


def _room(mask: Bits, hello: Hello) -> int:
    """Pulses of a trace that fit one request."""
    return min(8 * (hello.max_body - 62 - (len(mask) + 7) // 8), _U32)


def _segments(pulses: int, every: int, reads: int, room: int) -> list[tuple[int, int, int]]:
    """(start, stop, every) of requests of at most ``room`` pulses and ``reads`` reads that read where the whole would."""
    if every <= min(room, _U16):
        step = every * min(reads, room // every)
        return [(start, min(start + step, pulses), every) for start in range(0, pulses, step)]
    most, parts = min(room, _U16 - 1), []
    for group in range(0, pulses, every):
        end = min(group + every, pulses)
        for start in range(group, end, most):
            stop = min(start + most, end)
            is_read = stop == group + every
            parts.append((start, stop, stop - start + (not is_read)))
    return parts


def program_reads(ops: tuple[Op, ...]) -> tuple[int, float]:
    """Reads of a program, its loops unrolled, and the seconds that it waits; UsageError unless it is well formed."""
    stack: list[tuple[int, int, float]] = []
    reads, wait_s, times = 0, 0.0, 1
    for number, op in enumerate(ops):
        if not 0 <= op.number <= _U32 or (op.number < 1 and op.code in (*_STEP_PULSES, _STEP_READ, _STEP_LOOP)):
            raise UsageError(f"program: step {number} with number {op.number}: give 1 or more")
        if op.code == _STEP_READ:
            reads += 1
        elif op.code == _STEP_WAIT:
            wait_s += op.number * 1e-6
        elif op.code == _STEP_LOOP:
            stack.append((times, reads, wait_s))
            times, reads, wait_s = op.number, 0, 0.0
        elif op.code == _STEP_END and stack:
            inside, wait_inside = times * reads, times * wait_s
            times, reads, wait_s = stack.pop()
            reads, wait_s = reads + inside, wait_s + wait_inside
        elif op.code not in _STEP_PULSES:
            raise UsageError(f"program: step {number} is code {op.code}: give PULSE, READ, WAIT, LOOP or an END that fits")
    if stack:
        raise UsageError("program: a LOOP without its END: add it")
    return reads, wait_s


def program(ops: tuple[Op, ...], mask: Bits, shape: Shape, read_v: float, hello: Hello) -> tuple[int, Request]:
    """(reads, request) of a program whose reply is float32 siemens [read cell]; UsageError where it is too long for one."""
    reads, wait_s = program_reads(ops)
    body = Program(shape, read_v, mask, ops).pack()
    answer = 4 * reads * int(mask.sum())
    if max(len(body), answer) > hello.max_body or len(ops) > _U16:
        raise UsageError(f"program: request or reply exceeds {hello.max_body} bytes: make it shorter, or mask fewer cells")
    return reads, Request(Kind.PROGRAM, body, pulses=True, lasts_s=wait_s + reads * _READ_S, answer_bytes=answer)
