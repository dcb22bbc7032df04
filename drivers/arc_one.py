"""ArC ONE (32 x 32, serial 921600 8E1) as a backend; its wire is in ``drivers.arc_one_wire``, what is done when
an answer is lost in ``drivers.arc_one_session``.

Rows are words, columns bits. Readings are resistances at ``read_v`` and become conductances. A product takes one
multi-bias read per column, all its words at one common voltage (``info.read_levels`` is 2, so that inputs are fed bit by
bit); the other direction has no parallel read and is summed from single cells. Where ``multi_bias_from`` or more cells of a
column get the same pulse they get it at once by a multi-bias write, which puts half of the voltage on the other words;
the board must be in V/2 for that. All other pulses go cell by cell.

**How a pulse is known to have arrived.** A multi-bias write and a pulse-and-read are answered: no right answer means
PulseOutcomeUnknown at once. A lone pulse (select, pulse) is posted and never answered. After posted pulses the next
request is always a reading of the cell that was pulsed last: an answer of exactly one float, with nothing before it,
shows a board that is awake, initialised and not waiting for arguments. If it does not come, or bytes come unasked, the
driver drains, opens the port anew, resets the MCU, starts a session, compares the firmware and raises PulseOutcomeUnknown
for all pulses posted since the last proof. Nothing that pulses is sent twice; what only reads is repeated once.

**What cannot be detected.** A posted request that is lost whole (select and pulse, or pulse) leaves the board in step.
A bit error that turns a digit into another one is obeyed. An argument that is lost is taken from the request that
follows, so one pulse may be longer than meant or reach another cell before the error shows; with ``acknowledge``
every lone pulse goes as pulse-and-read and nothing follows before its answer, at the price of a reading each. A board that
reboots between the last posted pulse and the check answers nothing; one that has been started anew by another
program meanwhile would not be noticed.

``safe`` resets the MCU and starts a session, whose answer confirms it. The board has no interlock, no temperature and no
serial number; a pulse has no current compliance.

Unverified on hardware: all of it, no board has met this driver. In particular: that a board without a session does not
answer a reading (a reboot shows by that); that an argument may come as a write of its own; what the board does with bytes
that come during a reset; that an MCU reset leaves all lines grounded; that unselected words contribute no current to a
multi-bias read; what the 64 triplets of a multi-bias write are (they are counted, not used); that a masked read answers
in the order asked; that floating lines keep unselected cells below half of the voltage (``sneak = "float"`` is reported
as V/2); the range of write voltages (12 V is that of the read voltage) and of widths (1 s is this driver's own bound);
the least time of a reading.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivers.arc_one_session import ArcOneSession
from drivers.arc_one_settings import ArcOneSettings
from drivers.arc_one_wire import DEVICES_AT_ONCE, WRITE_FLOATS, Link, fixed, masked_read, multi_bias, pulse_read
from drivers.links.byte_link import ByteLink
from drivers.links.twin import StartedTwin
from hil.backend import (
    ArrayInfo,
    Direction,
    PulseShape,
    Range,
    check_active,
    check_counts,
    check_mask,
    check_mvm,
    check_per_array,
    check_polarity,
    check_trains,
    mvm_by_columns,
    trace_by_pulses,
    update_by_counts,
)
from hil.encoding import PulseTrain
from hil.errors import HardwareError, LimitError, UsageError
from hil.plugins import Wanted

__all__ = ["ArcOne", "ArcOnePlugin", "plugin"]

_VOLTS = Range(-12.0, 12.0, 1e-6)
_WIDTH_S = Range(1e-6, 1.0, 1e-6)
_SCHEMES: dict[str, Literal["V/2", "V/3"]] = {"V/2": "V/2", "V/3": "V/3", "float": "V/2"}


class ArcOne:
    """The eight verbs; see the text of the module and ``hil.backend.ArrayBackend``. closing: what ends with it."""

    def __init__(
        self,
        settings: ArcOneSettings,
        link: Link,
        closing: ExitStack | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings, self._address = settings, link.address
        self._closing = ExitStack() if closing is None else closing
        self._operations, self._cpu_s, self._depth = 0, 0.0, 0
        self._safe = self._closed = False
        self._session = ArcOneSession(settings, link, now, sleep)
        firmware = self._session.firmware
        self.info = ArrayInfo(
            arrays=1, rows=settings.words, cols=settings.bits, physical=True, vendor="ArC Instruments", model="ArC ONE",
            serial=settings.serial, firmware="unknown" if firmware is None else "{}.{}".format(*firmware),
            read_v=_VOLTS, pulse_v=_VOLTS, width_s=_WIDTH_S, read_levels=2, read_bipolar=False, cols_at_once=1,
            select_scheme=_SCHEMES[settings.sneak], parallel_update=False, exactly_once=False, reference="none",
        )  # fmt: skip

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        check_mask(mask, self.info)
        if averages < 1:
            raise UsageError(f"read: averages = {averages} is no number of readings: give 1 or more")
        cells = mask[0].numpy()
        g = np.zeros(cells.shape)
        with self._operation():
            self._session.settle()
            for _ in range(averages):
                g[cells] += self._siemens(self._read_cells(cells)) / averages
        return torch.where(mask, torch.from_numpy(g).float(), math.nan)

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        info = self.info
        sensed = info.cols if direction == "forward" else info.rows
        check_mvm(volts, direction, info)
        check_active(active, self.info)
        if not bool((volts.abs() <= _VOLTS.high).all()):
            raise LimitError(f"{info.model}: mvm: a voltage is no number within {_VOLTS.high:g} V: lower it")
        passes = self._passes(volts[0].numpy()) if direction == "forward" and self._settings.mvm == "multi-bias" else None
        with self._operation():
            self._session.settle()
            if passes is None:
                return mvm_by_columns(self, volts, direction, active)
            out = torch.zeros(1, volts.shape[1], sensed)
            if active is None or bool(active[0]):
                for sample, (rows, read_v) in enumerate(passes):
                    if rows:
                        out[0, sample] = self._sum_words(rows, read_v)
            return out

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        check_counts(counts, self.info)
        up_v, down_v, width_s = self._checked(shape)
        cells = counts[0].numpy()
        with self._operation():
            for sign, volts in ((1, up_v), (-1, down_v)):
                self._pulse_columns((cells * sign).clip(min=0), volts, width_s)

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        check_mask(mask, self.info)
        check_polarity(polarity, every)
        up_v, down_v, width_s = self._checked(shape)
        cells = mask[0].numpy()
        with self._operation():
            if self._many(int(cells.sum(axis=0).max())) or not cells.any():
                return trace_by_pulses(self, polarity, mask, shape, every)
            return self._trace_cells(polarity.tolist(), cells, (up_v, down_v), width_s, every)

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        check_trains(rows, cols, self.info)
        check_active(active, self.info)
        self._checked(shape)
        with self._operation():
            update_by_counts(self, rows, cols, shape, active)

    def safe(self) -> bool:
        if self._safe or self._closed:
            return self._safe
        with self._operation():
            self._safe = self._session.rest()
        return self._safe

    def status(self) -> dict[str, Any]:
        with self._operation():
            self._session.settle()
        return {
            "link": self._address, "firmware": self.info.firmware, "operations": self._operations,
            "requests": self._session.requests, "recoveries": self._session.recoveries, "cpu_s": self._cpu_s,
        }  # fmt: skip

    def close(self) -> None:
        if self._closed:
            return
        try:
            self.safe()
        finally:
            self._closed = True
            self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _operation(self) -> Iterator[None]:
        """Counts a verb and its processor time; verbs that call verbs count once."""
        if self._closed:
            raise HardwareError(f"{self._address}: is closed: open the bench again")
        self._safe = False
        self._depth += 1
        began_s = time.thread_time()
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._operations += 1
                self._cpu_s += time.thread_time() - began_s

    def _read_cells(self, cells: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Resistances of the cells (bool [row col]), in the order of rows, ohm."""
        read_v = self._settings.read_v
        if cells.all():
            return self._session.reading(cells.size, ["2", "1", str(self.info.rows), str(self.info.cols)], read_v)
        places = _places(cells)
        parts = [places[start : start + DEVICES_AT_ONCE] for start in range(0, len(places), DEVICES_AT_ONCE)]
        return np.concatenate(
            [np.zeros(0), *(self._session.reading(len(part), masked_read(part), read_v) for part in parts)]
        )

    def _siemens(self, ohm: NDArray[np.float64]) -> NDArray[np.float64]:
        if not ohm.all():
            raise HardwareError(f"{self._address}: a reading of 0 ohm: look for a short circuit at the socket")
        return 1 / ohm

    def _sum_words(self, rows: list[int], read_v: float) -> Tensor:
        """Current of every column with ``read_v`` on these rows, float32 [col], ampere."""
        requests = (multi_bias(col, rows, read_v=read_v) for col in range(self.info.cols))
        answers = np.stack([self._session.reading(3, request, read_v) for request in requests])
        return torch.from_numpy(answers[:, 1] * self._siemens(answers[:, 0])).float()

    def _passes(self, volts: NDArray[np.float32]) -> list[tuple[list[int], float]]:
        """(rows driven, their one voltage) of every sample; volts: [sample row]."""
        found = []
        for sample, line in enumerate(volts):
            rows = np.flatnonzero(line)
            read_v = float(line[rows[0]]) if len(rows) else 0.0
            if (line[rows] != line[rows[:1]]).any():
                fault = "has one read voltage for all driven rows: feed inputs bit by bit"
                raise UsageError(f"{self.info.model}: mvm: sample {sample} has several voltages, but the board {fault}")
            # A float32 is only good for seven digits.
            if abs(float(fixed(read_v)) - read_v) > 1e-7 * abs(read_v):
                raise LimitError(f"{self.info.model}: mvm: {read_v:g} V is no whole number of microvolts: change it")
            found.append((rows.tolist(), read_v))
        return found

    def _many(self, cells: int) -> bool:
        """Whether so many cells of a column get a pulse at once."""
        return self._settings.sneak == "V/2" and cells >= self._settings.multi_bias_from

    def _pulse_columns(self, counts: NDArray[np.int32], volts: float, width_s: float) -> None:
        """counts: [row col] >= 0. Columns at once go first: lone pulses are the ones that are posted."""
        lone = []
        for col in np.flatnonzero(counts.any(axis=0)).tolist():
            left = counts[:, col].copy()
            while self._many(int(np.count_nonzero(left))):
                rows = np.flatnonzero(left).tolist()
                read_v = self._settings.read_v
                request = multi_bias(col, rows, read_v=read_v, write_v=volts, width_s=width_s, write=True)
                self._session.answered(WRITE_FLOATS, request, width_s, len(rows))
                left[rows] -= 1
            lone += [((row, col), int(left[row])) for row in np.flatnonzero(left).tolist()]
        for cell, count in lone:
            self._session.pulse_cell(cell, count, volts, width_s)

    def _trace_cells(
        self, polarity: list[int], cells: NDArray[np.bool_], volts: tuple[float, float], width_s: float, every: int
    ) -> Tensor:
        """A trace cell by cell, in which the pulse before a reading and the reading are one request."""
        places = _places(cells)
        ohm = np.empty((len(places), len(polarity) // every))
        self._session.settle()
        for number, sign in enumerate(polarity, start=1):
            pulse_v = volts[0] if sign > 0 else volts[1]
            for place, cell in enumerate(places):
                if number % every:
                    self._session.pulse_cell(cell, 1, pulse_v, width_s)
                else:
                    answer = self._session.answered(1, pulse_read(*cell, pulse_v, width_s), width_s, 1)
                    ohm[place, number // every - 1] = answer[0]
        self._session.settle()
        out = torch.full((1, *cells.shape, ohm.shape[1]), math.nan)
        out[0, torch.from_numpy(cells)] = torch.from_numpy(self._siemens(ohm)).float()
        return out

    def _checked(self, shape: PulseShape) -> tuple[float, float, float]:
        """up_v, down_v, width_s of a pulse that the board can make; LimitError for any other."""
        check_per_array(shape, self.info)
        name = self.info.model
        for field in ("gate_up_v", "gate_down_v", "compliance_a"):
            if getattr(shape, field) is not None:
                raise LimitError(f"{name}: {field}: the board has neither gates nor a compliance in pulses: leave it out")
        found = []
        for field, span in (("up_v", _VOLTS), ("down_v", _VOLTS), ("width_s", _WIDTH_S)):
            given = getattr(shape, field)
            value = float(given[0] if isinstance(given, tuple) else given)
            if not (math.isfinite(value) and span.holds(value)):
                raise LimitError(f"{name}: {field} = {value:g} is outside {span.low:g} to {span.high:g}: change the pulse")
            if abs(float(fixed(value)) - value) > 1e-9 * abs(value):
                raise LimitError(f"{name}: {field} = {value:.9g} has more than six decimals, as the wire carries: round it")
            found.append(value)
        return found[0], found[1], found[2]


def _places(cells: NDArray[np.bool_]) -> list[tuple[int, int]]:
    return [(row, col) for row, col in np.argwhere(cells).tolist()]


class ArcOnePlugin:
    """Opens the board, or starts a twin and opens that."""

    settings = ArcOneSettings

    def elastic(self, settings: ArcOneSettings) -> bool:
        """Never: it is one board."""
        return False

    def open(self, settings: ArcOneSettings, wanted: Wanted) -> ArcOne:
        """Connect; HardwareError where nothing answers like an ArC ONE."""
        with ExitStack() as undo:
            address = settings.link
            if settings.twin is not None:
                started = StartedTwin(settings.twin)
                undo.callback(started.close)
                address = started.links["main"]
            assert address is not None
            link = ByteLink(address, baud=921600, parity="E")
            undo.callback(link.close)
            board = ArcOne(settings, link, closing := ExitStack())
            closing.push(undo.pop_all())
            return board


plugin = ArcOnePlugin()
"""The entry point."""
