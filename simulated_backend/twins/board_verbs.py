"""What the twin board does with its array: every verb of the open crossbar protocol on an EmulatedArray.

A request is checked as a whole before its first pulse. Where something stops it in the middle, the pulses that came
before are applied (cell after cell, sample after sample, pulse after pulse) and told with the error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hil.backend import PulseShape
from hil.encoding import coincidence_counts
from hil.wire import Code, Kind
from hil.wire_body import Bits, pack_floats, unpack_floats
from hil.wire_session import Arm
from hil.wire_verbs import Mvm, Program, Pulse, Read, Shape, Step, Trace, Update
from simulated_backend.array import EmulatedArray
from simulated_backend.twins.board_checks import Refused, check_counts, check_read_v, check_shape, check_volts
from simulated_backend.twins.board_pace import Pace, Rebooted, Stop
from simulated_backend.twins.board_program import expand, measure
from simulated_backend.twins.board_settings import BoardSettings
from simulated_backend.twins.board_trains import first, passes, words_coincide, words_passes, words_train
from simulated_backend.twins.faults import FaultPanel

__all__ = ["Access", "Crossbar"]

_U32 = struct.Struct("<I")


@dataclass(frozen=True)
class Access:
    """What the host may do at present."""

    arm: Arm | None = None
    """Limits of the session, also after it was disarmed; None before the first ARM."""
    refusal: Code | None = Code.DISARMED
    """Why it may not pulse: DISARMED or WATCHDOG; None while armed."""


class Crossbar:
    """The array and everything around it. A verb takes the body of a request and gives that of its reply.

    Raises BadFrame for a body that is none, Refused for what the board does not do, Rebooted where it reboots meanwhile.
    """

    def __init__(self, settings: BoardSettings, pace: Pace, panel: FaultPanel) -> None:
        self._settings, self._pace, self._panel = settings, pace, panel
        self.array: EmulatedArray = settings.make_array()
        info = self.array.info
        self._rows, self._cols, self._cells = info.rows, info.cols, info.rows * info.cols
        self.applied = 0
        """Pulses of cells, since the board was made."""
        self.verbs = {
            Kind.READ: self.read,
            Kind.MVM: self.mvm,
            Kind.PULSE: self.pulse,
            Kind.UPDATE: self.update,
            Kind.TRACE: self.trace,
            Kind.PROGRAM: self.program,
            Kind.REFERENCE: self.reference,
        }

    def read(self, body: bytes, access: Access) -> bytes:
        """READ."""
        request = Read.unpack(body, self._cells)
        self._check_interlock()
        self._check_read_v(request.read_v, access)
        cells = int(request.mask.sum())
        self._check_reply(cells)
        _, stop = self._pace.spend(cells * request.averages * self._settings.times.read_s, 0)
        self._ended(0, stop)
        return pack_floats(self._read(request.mask, request.averages).numpy())

    def mvm(self, body: bytes, access: Access) -> bytes:
        """MVM."""
        request = Mvm.unpack(body, self._rows, self._cols)
        self._check_interlock()
        info, samples = self.array.info, len(request.codes)
        check_volts(request, access.arm, info.read_v.high, info.read_levels)
        self._check_reply(samples * (self._rows if request.backward else self._cols))
        _, stop = self._pace.spend(samples * self._settings.times.mvm_s, 0)
        self._ended(0, stop)
        volts = torch.from_numpy(request.codes).float() * request.volt_per_code
        return pack_floats(self.array.mvm(volts[None], "backward" if request.backward else "forward").numpy())

    def pulse(self, body: bytes, access: Access) -> bytes:
        """PULSE."""
        request = Pulse.unpack(body, self._cells)
        arm, shape = self._armed(request.shape, access)
        size = np.abs(request.counts.astype(np.int64))
        check_counts(size, arm)
        done, stop = self._pulse(request.counts, shape)
        self._ended(done, stop, int(np.searchsorted(size.cumsum(), done, side="right")))
        return _U32.pack(done)

    def update(self, body: bytes, access: Access) -> bytes:
        """UPDATE."""
        request = Update.unpack(body, self._rows, self._cols)
        arm, shape = self._armed(request.shape, access)
        by_sample, by_cell = words_coincide(request.rows, request.cols)
        check_counts(by_cell, arm, 0)
        seconds = words_passes(request.rows, request.cols) * self._period(shape)
        done, stop = self._pace.spend(seconds, int(by_sample.sum()))
        whole = len(by_sample) if stop is None else int(np.searchsorted(by_sample.cumsum(), done, side="right"))
        self._update(request, slice(0, whole), shape)
        if rest := done - int(by_sample[:whole].sum()):
            part = slice(whole, whole + 1)
            rows, cols = (words_train(words[part], request.slots[part]) for words in (request.rows, request.cols))
            counts = coincidence_counts(rows, cols).flatten().numpy()
            self.array.pulse(self._on_board(first(counts, rest)), shape)
        self._count(done)
        self._ended(done, stop, whole)
        return _U32.pack(done)

    def trace(self, body: bytes, access: Access) -> bytes:
        """TRACE."""
        request = Trace.unpack(body, self._cells)
        arm, shape = self._armed(request.shape, access)
        self._check_read_v(request.read_v, access)
        cells, pulses = int(request.mask.sum()), len(request.up)
        reads = cells * (pulses // request.every)
        self._check_reply(reads)
        check_counts(request.mask * np.int64(pulses), arm)
        mask = self._on_board(request.mask)
        rows = int(mask.any(dim=2).sum())
        seconds = rows * pulses * self._period(shape) + reads * self._settings.times.read_s
        done, stop = self._pace.spend(seconds, cells * pulses)
        whole = done // cells if cells else 0
        polarity = torch.from_numpy(np.where(request.up, 1, -1).astype(np.int8))
        values = self.array.trace(polarity[:whole], mask, shape, request.every)[mask] if whole else torch.empty(0)
        if rest := done - whole * cells:
            counts = first(request.mask * np.int32(polarity[whole]), rest)
            self.array.pulse(self._on_board(counts), shape)
        self._count(done)
        self._ended(done, stop, whole)
        return pack_floats(values.numpy())

    def program(self, body: bytes, access: Access) -> bytes:
        """PROGRAM."""
        request = Program.unpack(body, self._cells)
        cost = measure(request.ops)
        arm, shape = self._armed(request.shape, access)
        self._check_read_v(request.read_v, access)
        cells = int(request.mask.sum())
        self._check_reply(cost.reads * cells)
        check_counts(request.mask * np.int64(cost.pulses), arm, 0)
        reads: list[bytes] = []
        before = self.applied
        for step, op in expand(request.ops):
            stop: Stop | None
            if op.code == Step.READ:
                _, stop = self._pace.spend(cells * op.number * self._settings.times.read_s, 0)
                self._ended(self.applied - before, stop, step)
                reads.append(pack_floats(self._read(request.mask, op.number).numpy()))
            elif op.code == Step.WAIT:
                _, stop = self._pace.spend(op.number * 1e-6, 0)
                self._ended(self.applied - before, stop, step)
                self.array.idle(op.number * 1e-6)
            else:
                sign = 1 if op.code == Step.PULSE_UP else -1
                _, stop = self._pulse(request.mask * np.int32(sign * op.number), shape)
                self._ended(self.applied - before, stop, step)
        return b"".join(reads)

    def reference(self, body: bytes, access: Access) -> bytes:
        """REFERENCE."""
        g = unpack_floats(body, self._cells)
        if self.array.info.reference != "cell":
            raise Refused(Code.UNABLE, "the board has no reference per cell")
        bad = ~(np.isnan(g) | ((g >= 0) & np.isfinite(g)))
        if bad.any():
            raise Refused(Code.MALFORMED, f"a reference of {g[bad][0]:g} S", int(bad.argmax()))
        self.array.set_reference(self._on_board(g))
        return b""

    def forget_references(self) -> None:
        """As after power-up: every reference at the middle."""
        if self.array.info.reference == "cell":
            self.array.set_reference(torch.full((1, self._rows, self._cols), self.array.info.g_mid_siemens))

    def _armed(self, shape: Shape, access: Access) -> tuple[Arm, PulseShape]:
        """The limits and the pulse; Refused unless the board may and can make it now."""
        if access.arm is None or access.refusal is not None:
            why = "the host was silent too long" if access.refusal is Code.WATCHDOG else "the board is not armed"
            raise Refused(access.refusal or Code.DISARMED, f"{why}: ARM first")
        self._check_interlock()
        return access.arm, check_shape(shape, access.arm, self._settings)

    def _check_interlock(self) -> None:
        if self._pace.interlock_open:
            raise Refused(Code.INTERLOCK, "the interlock is open")

    def _check_read_v(self, read_v: float, access: Access) -> None:
        check_read_v(read_v, access.arm, self.array.info.read_v.high)

    def _check_reply(self, values: int) -> None:
        """Refused where the reply would have more float32 than fit."""
        if 4 * values > self._settings.max_body:
            raise Refused(Code.UNABLE, f"a reply of {4 * values} bytes, and max_body is {self._settings.max_body}")

    def _period(self, shape: PulseShape) -> float:
        assert isinstance(shape.width_s, float)
        return shape.width_s + self._settings.times.gap_s

    def _read(self, mask: Bits, averages: int) -> Tensor:
        """float32 [masked cell]."""
        board = self._on_board(mask)
        return self.array.read(board, averages)[board]

    def _pulse(self, counts: NDArray[np.int32], shape: PulseShape) -> tuple[int, Stop | None]:
        """Pulses on cells, as far as nothing stops them; counts: [cell]."""
        wanted = int(np.abs(counts.astype(np.int64)).sum())
        seconds = passes(counts.reshape(self._rows, self._cols)) * self._period(shape)
        done, stop = self._pace.spend(seconds, wanted)
        self.array.pulse(self._on_board(counts if done == wanted else first(counts, done)), shape)
        self._count(done)
        return done, stop

    def _update(self, request: Update, samples: slice, shape: PulseShape) -> None:
        if samples.stop > samples.start:
            rows, cols = (words_train(words[samples], request.slots[samples]) for words in (request.rows, request.cols))
            self.array.update(rows, cols, shape)

    def _on_board(self, values: NDArray[Any]) -> Tensor:
        """[cell] as [1 row col]."""
        return torch.from_numpy(np.ascontiguousarray(values)).view(1, self._rows, self._cols)

    def _count(self, pulses: int) -> None:
        if pulses:
            self.applied += pulses
            self._panel.count("pulses", pulses)

    def _ended(self, pulses: int, stop: Stop | None, operation: int = 0) -> None:
        """Raise if something has stopped the request after ``pulses`` pulses."""
        if stop is None:
            return
        if stop.code is None:
            raise Rebooted
        raise Refused(stop.code, stop.message, operation, pulses)
