"""The backend verbs over the open crossbar protocol: arguments checked, compiled to requests, replies put in order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivers import crossbar_verbs as verbs
from drivers.crossbar_board import arm_with, describe, has_reference, wire_shape
from drivers.crossbar_contact import Patience
from drivers.crossbar_port import CrossbarPort, Line
from drivers.crossbar_request import Request
from drivers.crossbar_session import Session
from hil.backend import Direction, PulseShape, check_counts, check_mask, check_mvm, check_polarity, check_trains
from hil.encoding import PulseTrain
from hil.errors import HardwareError, HilError, LimitError, ShapeError, UsageError
from hil.limits import Limits, check_read_v, check_shape, check_volts
from hil.wire import BadFrame, Kind
from hil.wire_body import pack_floats, unpack_floats
from hil.wire_session import Status
from hil.wire_verbs import Op, Shape
from hil.wire_words import signed_words

__all__ = ["CrossbarBoard"]

_SHAPES = 1024
"""Pulse shapes that are remembered as checked."""


class CrossbarBoard:
    """The verbs of ``hil.backend.ArrayBackend`` on a board at the other end of ``line``, which ``close`` closes.

    name: of the board in the bench; read_v: of single cells; host: what other hosts are told of who has the board;
    limits: what it is armed with, None = it is not; byte_s: time of a byte on the wire, second.
    Attributes: info; session; resources, let go of by ``close`` after the board.

    ``pulse`` and ``update`` are posted: the next read, mvm, trace, status or safe raises their first error. LimitError
    where the board refuses (limits, abilities, not armed), HardwareError with operation and pulses applied where it
    fails, PulseOutcomeUnknown where it rebooted or was lost over unanswered pulses; it can be used again then.
    """

    def __init__(
        self,
        line: Line,
        name: str,
        read_v: float,
        host: str,
        limits: Limits | None = None,
        patience: Patience | None = None,
        byte_s: float = 0.0,
    ) -> None:
        self.name, self._read_v, self._limits = name, read_v, limits
        self._meter = _Meter()
        self._closed = self._ended = self._grounded = False
        self._shapes: dict[PulseShape, Shape] = {}
        self._reference: Tensor | None = None
        self.resources = ExitStack()
        with ExitStack() as undo:
            patience = patience or Patience()
            self._port = CrossbarPort(line, patience.clock)
            undo.callback(self._port.close)
            self.session = Session(self._port, host, patience, None if limits is None else arm_with(limits), byte_s)
            undo.callback(self.session.close)
            self.info = describe(self.session.hello, line.address)
            check_read_v(read_v, self.info, limits, name)
            bound = math.inf if limits is None else limits.read_v_max
            self._volts = (np.float32(max(self.info.read_v.low, -bound)), np.float32(min(self.info.read_v.high, bound)))
            self._port.start()
            self.session.arm()
            if has_reference(self.session.hello):
                self.__dict__["set_reference"] = self._set_reference
            undo.pop_all()

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        with self._meter:
            check_mask(mask, self.info)
            cells = _flat(mask)
            parts = verbs.read(self._read_v, averages, cells, self.session.hello)
            out = np.full(cells.shape, np.nan, dtype=np.float32)
            out[cells] = np.concatenate(self._floats(parts))
            return torch.from_numpy(out).view(mask.shape)

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        with self._meter:
            if not self._is_on(active):
                self._check_volts(volts, direction)
                self.session.finish()
                return torch.zeros(1, volts.shape[1], self._sensed(direction))
            requests = self._products(volts, direction)
            self._post(requests)
            self.session.finish()
            return self._currents(requests, volts, direction)

    def post_mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Callable[[], Tensor]:
        """``hil.posted.HasPostedMvm``."""
        with self._meter:
            if not self._is_on(active):
                self._check_volts(volts, direction)
                nothing = torch.zeros(1, volts.shape[1], self._sensed(direction))
                return lambda: nothing
            requests = self._products(volts, direction)
            self._post(requests)

        def wait() -> Tensor:
            with self._meter.more:
                self.session.answers(requests)
                return self._currents(requests, volts, direction)

        return wait

    def _check_volts(self, volts: Tensor, direction: Direction) -> NDArray[np.float32]:
        """The voltages [sample line], if they may be driven."""
        info = self.info
        check_mvm(volts, direction, info)
        line_v, (low, high) = volts[0].contiguous().numpy(), self._volts
        # The usual case costs two numbers; what lies outside, or is none, is looked at closely.
        if volts.numel() and not (line_v.min() >= low and line_v.max() <= high):
            check_volts(volts, info, self._limits, self.name)
        at_once = info.rows_at_once if direction == "forward" else info.cols_at_once
        if at_once and volts.numel() and int((volts != 0).sum(dim=2).max()) > at_once:
            raise LimitError(f"boards.{self.name}: more than {at_once} lines driven at once: split the product")
        return line_v

    def _products(self, volts: Tensor, direction: Direction) -> list[Request]:
        return verbs.mvm(self._check_volts(volts, direction), direction == "backward", self.session.hello)

    def _sensed(self, direction: Direction) -> int:
        return self.info.cols if direction == "forward" else self.info.rows

    def _currents(self, requests: list[Request], volts: Tensor, direction: Direction) -> Tensor:
        """[1 sample sensed] of requests that were answered."""
        parts = self._unpacked(requests, [request.reply or b"" for request in requests])
        current = parts[0] if len(parts) == 1 else np.concatenate([_NOTHING, *parts])
        return torch.from_numpy(current).view(1, volts.shape[1], self._sensed(direction))

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        with self._meter:
            check_counts(counts, self.info)
            wire = self._shape(shape)
            self._post(verbs.pulse(_flat(counts), wire, self.session.hello))

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        with self._meter:
            check_trains(rows, cols, self.info)
            wire = self._shape(shape)
            if self._is_on(active) and rows.samples:
                slots = rows.slots[0].numpy().astype(np.uint8)
                self._post(verbs.update(_words(rows), _words(cols), slots, wire, self.session.hello))

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        with self._meter:
            check_mask(mask, self.info)
            check_polarity(polarity, every)
            wire, cells, reads = self._shape(shape), _flat(mask), len(polarity) // every
            out = np.full((len(cells), reads), np.nan, dtype=np.float32)
            up = (polarity > 0).numpy()
            plans = verbs.trace(up, cells, every, wire, self._read_v, self.session.hello) if cells.any() else []
            for part, requests in plans:
                count = int(part.sum())
                if requests:
                    out[part] = np.concatenate([g.reshape(count, -1) for g in self._floats(requests)], axis=1)
            self.session.finish()
            return torch.from_numpy(out).view(*mask.shape, reads)

    def run_program(self, ops: tuple[Op, ...], mask: Tensor, shape: PulseShape, read_v: float | None = None) -> Tensor:
        """Run steps (``hil.wire_verbs.Op``) on the masked cells in one request, on the board's own clock.

        mask: bool [1 row col]; read_v: volt, default that of the settings. Returns float32 [1 row col read] in siemens,
        NaN where the mask is false. The board enforces the limits that it was armed with; the guard neither counts nor
        records these pulses, so a procedure uses ``trace``. UsageError for steps that are no program.
        """
        with self._meter:
            check_mask(mask, self.info)
            read_v = self._read_v if read_v is None else read_v
            check_read_v(read_v, self.info, self._limits, self.name)
            cells = _flat(mask)
            reads, request = verbs.program(ops, cells, self._shape(shape), read_v, self.session.hello)
            out = np.full((len(cells), reads), np.nan, dtype=np.float32)
            out[cells] = self._floats([request])[0].reshape(reads, -1).T
            return torch.from_numpy(out).view(*mask.shape, reads)

    def _set_reference(self, g_siemens: Tensor) -> None:
        """``hil.backend.HasReference``; what was set is set again after a reboot."""
        with self._meter:
            want = (1, self.info.rows, self.info.cols)
            if tuple(g_siemens.shape) != want:
                raise ShapeError(f"set_reference: {list(g_siemens.shape)} needs {list(want)} [array row col]")
            g = g_siemens.float()
            if 4 * g.numel() > self.session.hello.max_body:
                raise UsageError(f"boards.{self.name}: references of {g.numel()} cells exceed its max_body: raise it")
            old = self._reference
            self.session.call(Request(Kind.REFERENCE, pack_floats(g.numpy())))
            self._reference = g.clone() if old is None else torch.where(g.isnan(), old, g)
            self.session.restore = [Request(Kind.REFERENCE, pack_floats(self._reference.numpy()))]

    def safe(self) -> bool:
        if self._ended:
            return self._grounded
        with self._meter:
            before: HilError | None = None
            try:
                self.session.finish()
            except HilError as exc:
                before = exc
            try:
                self._grounded = self.session.call(Request(Kind.SAFE)) == b"\x01"
            except HilError:
                self._grounded = False
            if before is not None:
                raise before
            return self._grounded

    def status(self) -> dict[str, Any]:
        """What the board counts (``board``), and what the host does: operations (verbs), cpu_s, resent, reboots, bytes."""
        with self._meter:
            try:
                board = Status.unpack(self.session.call(Request(Kind.STATUS)))
            except BadFrame as exc:
                raise self._garbled(exc) from exc
        session, port = self.session, self._port
        names = ("device_s", "pulses", "operations", "bad_frames", "resent", "trips")
        return {
            "link": port.address,
            "interlock": "open" if board.interlock_open else "closed",
            "temperature_c": None if math.isnan(board.temperature_c) else board.temperature_c,
            "armed": bool(board.armed),
            "board": {name: getattr(board, name) for name in names},
            "operations": self._meter.operations,
            "cpu_s": self._meter.cpu_s,
            "resent": port.resent,
            "reboots": session.reboots,
            "bytes": port.bytes_out + port.bytes_in,
            "bad_frames": port.bad_frames,
            "heartbeats": port.heartbeats,
        }

    def abort(self) -> None:
        """Stop what the board is doing at its next pulse or read; from another thread, or after an interrupt."""
        self.session.abort()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self.resources:
            self.resources.callback(self._port.close)
            self.resources.callback(self._end)
            self.safe()

    def _end(self) -> None:
        self._ended = True
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _is_on(self, active: Tensor | None) -> bool:
        if active is None:
            return True
        if active.dtype != torch.bool or tuple(active.shape) != (1,):
            raise ShapeError(f"active: {active.dtype} {list(active.shape)}: needs bool [1]")
        return bool(active)

    def _shape(self, shape: PulseShape) -> Shape:
        wire = self._shapes.get(shape)
        if wire is None:
            check_shape(shape, self.info, self._limits, self.name)
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            wire = self._shapes[shape] = wire_shape(shape, self.session.hello, self.name)
        return wire

    def _post(self, requests: list[Request]) -> None:
        for request in requests:
            self.session.post(request)

    def _floats(self, requests: list[Request]) -> list[NDArray[np.float32]]:
        """Replies to requests, each of the length that it must have."""
        return self._unpacked(requests, self.session.many(requests))

    def _unpacked(self, requests: list[Request], replies: list[bytes]) -> list[NDArray[np.float32]]:
        try:
            return [unpack_floats(reply, one.answer_bytes // 4) for one, reply in zip(requests, replies, strict=True)]
        except BadFrame as exc:
            raise self._garbled(exc) from exc

    def _garbled(self, exc: BadFrame) -> HardwareError:
        return HardwareError(f"{self._port.address}: a reply that does not fit its request ({exc}): update its firmware")


_NOTHING = np.empty(0, dtype=np.float32)


class _Meter:
    """Counts operations and the CPU time that the caller's thread spends in them."""

    def __init__(self) -> None:
        self.operations, self.cpu_s, self._began_s = 0, 0.0, 0.0
        self.more = _More(self)
        """Of an operation that was counted when it began."""

    def __enter__(self) -> None:
        self._began_s = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.cpu_s += time.thread_time() - self._began_s
        self.operations += 1


class _More:
    """Counts more CPU time, and no operation."""

    def __init__(self, meter: _Meter) -> None:
        self._meter, self._began_s = meter, 0.0

    def __enter__(self) -> None:
        self._began_s = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self._meter.cpu_s += time.thread_time() - self._began_s


def _flat(cells: Tensor) -> NDArray[Any]:
    """[1 row col] as [cell]."""
    return cells.detach().cpu().contiguous().view(-1).numpy()


def _words(train: PulseTrain) -> verbs.Words:
    """The words of ``hil.wire_verbs.Update``, [sample line]."""
    return signed_words(train.bits()[0].numpy().view(np.uint32), train.sign[0].numpy())
