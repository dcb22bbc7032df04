"""The guard in front of a board: every operation is checked, counted and recorded before the driver sees it.

An operation is compiled to pulses per cell, compared with the limits, counted in the wear counters, put on the disk as
intended, given to the driver, recorded as done. A driver may post a pulse or update, so these count as done when the
next read, mvm, trace, verify, status or safe comes back without an error; until then ``Ledger.pending`` has them. Where
the driver raises, an operation is ``uncertain`` (its cells are to be read again), or ``refused`` if the driver turned
its arguments down and sent nothing. Where a ``pulse`` or ``update`` is lost (PulseOutcomeUnknown), the guard reads its
cells again, skips it and goes on, UNKNOWN_IN_A_ROW times at most; a ``trace`` or ``verify`` that is lost has lost its
readings too, and raises.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from torch import Tensor

from hil.backend import (
    ArrayBackend,
    Direction,
    HasReference,
    HasVerify,
    PulseShape,
    check_counts,
    check_mask,
    check_polarity,
    check_trains,
)
from hil.companions import companions
from hil.compiled import compile_pulses, compile_trace, compile_update
from hil.encoding import PulseTrain
from hil.errors import HardwareError, HilError, LimitError, PulseOutcomeUnknown, UsageError
from hil.ledger import Ledger
from hil.limits import Limits, check_cells, check_shape, check_volts, excluded_mask
from hil.posted import HasPostedMvm
from hil.records import Array, Outcome
from hil.reread import reread
from hil.wear import Wear

__all__ = ["UNKNOWN_IN_A_ROW", "PhysicalGuard"]

UNKNOWN_IN_A_ROW = 10
"""Times that pulses may be lost without one in between that is known to be done."""

T = TypeVar("T")


class PhysicalGuard:
    """In front of a board whose devices wear: see the text of the module.

    Attributes: inner, the backend; info, what it says of itself; wear, its lifetime counters.
    The pulsing verbs raise LimitError before anything is sent, and UsageError where there is no ledger.
    """

    def __init__(
        self, backend: ArrayBackend, limits: Limits | None, ledger: Ledger | None, board_name: str, wear: Wear
    ) -> None:
        self.inner, self.info, self.wear = backend, backend.info, wear
        self._limits, self._ledger, self._board = limits, ledger, board_name
        self._excluded = None if limits is None else excluded_mask(limits, self.info, board_name)
        self._shapes: set[PulseShape] = set()
        """What the limits, which do not change, allow."""
        self._posted: list[int] = []
        self._unknown = self._faults = 0
        self.__dict__.update(companions(backend))
        if isinstance(backend, HasPostedMvm):
            self.__dict__["post_mvm"] = self._post_mvm
        if isinstance(backend, HasVerify):
            self.__dict__["verify"] = self._verify
        if isinstance(backend, HasReference):
            self.__dict__["set_reference"] = self._set_reference

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        """As the backend's; the bench has checked the read voltage. Reads are counted."""
        g = self._barrier(lambda: self.inner.read(mask, averages))
        self.wear.add_reads(self.info, mask.cpu().numpy().astype(np.int64) * averages)
        return g

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        """As the backend's; LimitError for a voltage outside the limits. Reads are counted."""
        check_volts(volts, self.info, self._limits, self._board)
        current = self._barrier(lambda: self.inner.mvm(volts, direction, active))
        self._count_reads(volts, direction, active)
        return current

    def _post_mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Callable[[], Tensor]:
        """``HasPostedMvm``: what was posted before it is done when its currents are there."""
        check_volts(volts, self.info, self._limits, self._board)
        assert isinstance(self.inner, HasPostedMvm)
        before, faults = tuple(self._posted), self._faults
        try:
            wait = self.inner.post_mvm(volts, direction, active)
        except HardwareError:
            # There is no link: it is asked for in its turn, and said then.
            return lambda: self.mvm(volts, direction, active)

        def result() -> Tensor:
            if self._faults != faults:
                # Something has failed since, and took with it what was under way: ask again.
                return self.mvm(volts, direction, active)
            try:
                current = wait()
            except (HardwareError, LimitError) as exc:
                self._failed(exc)
                return self.mvm(volts, direction, active)
            self._settle_posted("done", numbers=before)
            self._count_reads(volts, direction, active)
            return current

        return result

    def _count_reads(self, volts: Tensor, direction: Direction, active: Tensor | None) -> None:
        count = np.count_nonzero(volts.cpu().numpy(), axis=1)
        if active is not None:
            count = count * active.cpu().numpy()[:, None]
        self.wear.add_reads(self.info, count[:, :, None] if direction == "forward" else count[:, None, :])

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        """As the backend's, checked and recorded."""
        check_counts(counts, self.info)
        cells = compile_pulses(counts)
        self._post("pulse", shape, cells, int(cells.sum()), lambda: self.inner.pulse(counts, shape))

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        """As the backend's, checked and recorded."""
        check_mask(mask, self.info)
        check_polarity(polarity, every)
        cells = compile_trace(polarity, mask)
        g = self._send("trace", shape, cells, int(cells.sum()), lambda: self.inner.trace(polarity, mask, shape, every))
        self.wear.add_reads(self.info, mask.cpu().numpy().astype(np.int64) * (len(polarity) // every))
        return g

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        """As the backend's, checked and recorded; its coincidences are drawn here to be counted exactly."""
        check_trains(rows, cols, self.info)
        rows, cols = rows.drawn(), cols.drawn()
        cells, passes = compile_update(rows, cols, active)
        self._post("update", shape, cells, passes, lambda: self.inner.update(rows, cols, shape, active))

    def safe(self) -> bool:
        """As the backend's; what was posted is known to be done once the board has confirmed."""
        try:
            confirmed = self.inner.safe()
        except (HardwareError, LimitError) as exc:
            # A record that cannot be written must not hide what the board said; what is unsettled stays pending.
            with suppress(HilError):
                self._settle_posted("uncertain", str(exc))
            raise
        with suppress(HilError):
            if confirmed:
                self._settle_posted("done")
            self.wear.flush()
            if self._ledger is not None:
                self._ledger.settle((), "done")
        return confirmed

    def status(self) -> dict[str, Any]:
        """As the backend's; a barrier."""
        return self._barrier(self.inner.status)

    def close(self) -> None:
        """As the backend's, after ``safe``."""
        try:
            self.safe()
        finally:
            self.inner.close()

    def __enter__(self) -> Self:
        self.inner.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.safe()
        finally:
            self.inner.__exit__(kind, value, trace)

    def _verify(
        self, target_siemens: Tensor, mask: Tensor, shape: PulseShape, tolerance_siemens: float, max_pulses: int
    ) -> Tensor:
        """The board alone decides on the pulses: every masked cell is taken to get all of ``max_pulses``."""
        check_mask(mask, self.info)
        if max_pulses < 1:
            raise UsageError(f"verify: max_pulses = {max_pulses} allows no pulse: give 1 or more")
        assert isinstance(self.inner, HasVerify)
        verify = self.inner.verify
        most = mask.cpu().numpy().astype(np.int64) * max_pulses
        return self._send(
            "verify",
            shape,
            np.stack([most, most]),
            int(most.sum()),
            lambda: verify(target_siemens, mask, shape, tolerance_siemens, max_pulses),
            either=True,
        )

    def _set_reference(self, g_siemens: Tensor) -> None:
        assert isinstance(self.inner, HasReference)
        self.inner.set_reference(g_siemens)
        if self._ledger is not None:
            self._ledger.event("reference", {"board": self._board}, arrays={"g_siemens": g_siemens})

    def _post(self, verb: str, shape: PulseShape, cells: Array, passes: int, call: Callable[[], None]) -> None:
        """``_send`` of what has no answer to lose but its own."""
        try:
            self._send(verb, shape, cells, passes, call, posted=True)
        except PulseOutcomeUnknown as exc:
            self._skip(exc)

    def _skip(self, lost: PulseOutcomeUnknown) -> None:
        """Read the cells of what was lost and settle it; ``lost`` itself where that has happened too often in a row."""
        ledger = self._ledger
        pending = [] if ledger is None else [one for one in ledger.pending() if one.board == self._board]
        self._unknown += 1
        if ledger is None or not pending or self._unknown > UNKNOWN_IN_A_ROW:
            raise lost
        numbers = [one.number for one in pending]
        ledger.event("outcome-unknown", {"board": self._board, "operations": numbers, "message": str(lost)})
        reread(ledger, pending, self.read)

    def _send(
        self,
        verb: str,
        shape: PulseShape,
        cells: Array,
        passes: int,
        call: Callable[[], T],
        *,
        posted: bool = False,
        either: bool = False,
    ) -> T:
        """Check, count, intend, call, record. cells: [2 array row col] up, down; ``either``: one or the other."""
        pulses = cells[0] if either else cells.sum(axis=0)
        ledger = self._allowed(verb, shape, pulses)
        if not pulses.any():
            return call()
        wear = {"either": pulses} if either else {"up": cells[0], "down": cells[1]}
        self.wear.add(self.info, **wear, passes=passes)
        number = None
        try:
            number = ledger.intend(self._board, verb, shape, cells, passes)
            result = call()
        except (LimitError, UsageError) as exc:
            self.wear.add(self.info, **{name: -count for name, count in wear.items()}, passes=-passes)
            if number is not None:
                ledger.settle([number], "refused", str(exc))
            raise
        except BaseException as exc:
            # Ctrl-C says nothing of what was posted before; a fault of the link does.
            if number is not None:
                before = self._posted if isinstance(exc, HardwareError) else []
                self._faults += isinstance(exc, HardwareError)
                with suppress(HilError):
                    ledger.settle([*before, number], "uncertain", f"{type(exc).__name__}: {exc}")
                    before.clear()
            raise
        self._posted.append(number)
        if not posted:
            self._settle_posted("done")
        return result

    def _allowed(self, verb: str, shape: PulseShape, pulses: Array) -> Ledger:
        """The ledger to record in; a refusal is recorded there too."""
        name, ledger = self._board, self._ledger
        try:
            if self._limits is None or self._excluded is None:
                need = f"a physical board does not pulse without: add [boards.{name}.limits] to the bench file"
                raise LimitError(f"boards.{name} has no [limits] section: {need}")
            if shape not in self._shapes:
                check_shape(shape, self.info, self._limits, name)
                self._shapes.add(shape)
            check_cells(pulses, self.wear.cells(self.info).pulses, self._excluded, self._limits, name)
        except LimitError as exc:
            if ledger is not None:
                with suppress(HilError):
                    ledger.event("refused", {"board": name, "verb": verb, "shape": shape, "message": str(exc)})
            raise
        if ledger is None:
            raise UsageError(f"boards.{name}: no run record is open, and no pulse goes without: give it a ledger")
        return ledger

    def _barrier(self, call: Callable[[], T]) -> T:
        try:
            result = call()
        except (HardwareError, LimitError) as exc:
            self._failed(exc)
            return self._barrier(call)
        self._settle_posted("done")
        return result

    def _failed(self, exc: HilError) -> None:
        """What a read that failed says of what was posted before it; ``exc`` unless that may be skipped."""
        self._faults += 1
        # A limit may be the board's own, met by something that was posted: how far that came, nobody knows.
        with suppress(HilError):
            self._settle_posted("uncertain", str(exc))
        if not isinstance(exc, PulseOutcomeUnknown):
            raise exc
        self._skip(exc)

    def _settle_posted(self, outcome: Outcome, message: str = "", numbers: tuple[int, ...] | None = None) -> None:
        """Settle what was posted, or what of it is among ``numbers``."""
        settled = [number for number in self._posted if numbers is None or number in numbers]
        if settled and self._ledger is not None:
            settle = self._ledger.settle_soon if outcome == "done" else self._ledger.settle
            settle(settled, outcome, message)
            self._posted = [number for number in self._posted if number not in settled]
            if outcome == "done":
                self._unknown = 0
