"""Keithley 4200A-SCS with a 4225-PMU and 4225-RPMs: fast pulses and pulse-and-read trains over KXCI on TCP 1225.

Usable alone::

    with Keithley4200("tcp://192.0.2.7:1225", PmuSettings(current_range_a=1e-5)) as pmu:
        pmu.pulses(1.2, width_s=1e-6, count=100)
        seen = pmu.trace([1] * 50 + [-1] * 50, PulseTops(1.2, -1.4, 1e-6), read_v=0.2)
        seen.volt / seen.ampere

KXCI must be set (KCon) to Ethernet with the string terminator "none": units then end with NUL. Every command is asked,
and answers ACK; the last error is read before every execute. Outputs are switched off after every test, whatever
happened, because the instrument does not do it. A test whose execute was not answered raises PulseOutcomeUnknown.

The :PMU: commands know no current limit: what bounds the current is the device, the 50 ohm of the source, and the limits
that the caller keeps. A reading at the end of its range is marked in ``Readings.over``.

Facts: manual 4200A-KXCI-907-01 and Tektronix' public examples for Clarius 1.13 and later. Unverified on hardware:
the whole driver; above all the text of ``*IDN?``; that an error is told in place of ACK or by :ERROR:LAST:GET (both are
looked at); the longest list of :SARB:WFM:SEQ:LIST (we stop at 512 entries); the order V, I, time, status of one point of
a spot mean; which status bits mean a fault; the times after which a current has settled (those of the B1530A).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from drivers.keithley_4200_settings import CURRENT_RANGES_A, SETTLED_S, PmuSettings
from drivers.keithley_4200_trains import (
    BURST,
    Burst,
    Execution,
    PulseTops,
    ReadTop,
    Segment,
    TrainTiming,
    compile_burst,
    compile_train,
    on_grain,
)
from drivers.links.visa_link import Ask, VisaLink
from hil.errors import HardwareError, HilError, LimitError, PulseOutcomeUnknown, UsageError

__all__ = ["CURRENT_RANGES_A", "SETTLED_S", "Keithley4200", "PmuSettings", "PulseTops", "Readings", "Train"]

_PAGE = 2048
"""Points of one :PMU:DATA:GET."""
_OVER = 0.999
_REFUSAL = re.compile(r"^ERROR|\(-\d+\)", re.IGNORECASE)
"""An answer that says that a command was not carried out; anything else but ACK says nothing for certain."""


@dataclass(frozen=True)
class Readings:
    """What a train measured, in the order of its readings: volt, ampere, raw status, and where the range was exceeded."""

    volt: tuple[float, ...]
    ampere: tuple[float, ...]
    status: tuple[int, ...]
    over: tuple[bool, ...]


@dataclass(frozen=True)
class Train:
    """Compiled and found to be within the instrument's limits, ready to be run: as many executes as it has parts."""

    parts: tuple[Burst | Execution, ...]
    range_a: float
    """Current range of its readings, ampere."""

    @property
    def pulses(self) -> int:
        """All of them."""
        return sum(part.pulses for part in self.parts)


class Keithley4200:
    """The instrument. Raises HardwareError where it refuses or is silent, LimitError before a byte is sent.

    before_execute: called right before the outputs are switched on for an execute; what it raises stops that.
    """

    def __init__(
        self,
        address: str,
        settings: PmuSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings or PmuSettings()
        self.address = address
        if self.settings.low_channel == self.settings.channel:
            raise UsageError(f"{address}: channel and low_channel are both {self.settings.channel}: correct the settings")
        self._clock, self._sleep = clock, sleep
        self.identity = ("", "", "", "")
        """Maker, model, serial number, firmware."""
        self.before_execute: Callable[[], None] = lambda: None
        self._error_known = False
        """Whether what :ERROR:LAST:GET tells can only be of the test at hand, not of one before."""
        self.executes = self.pulses_sent = 0
        """Tests executed and pulses in them since this was opened."""
        self._link = VisaLink(address, b"\0", self._greet, timeout_s=self.settings.timeout_s, sleep=sleep)

    @property
    def channels(self) -> list[int]:
        """Channels in use, the pulsing one first."""
        low = self.settings.low_channel
        return [self.settings.channel] + ([] if low is None else [low])

    @property
    def exchanges(self) -> int:
        """Questions asked so far."""
        return self._link.exchanges

    def pulses(self, voltage_v: float, width_s: float, count: int) -> None:
        """``count`` equal pulses of ``voltage_v`` (signed) and ``width_s`` at half height, one execute, nothing measured."""
        self.run(self.pulse_train(voltage_v, width_s, count))

    def trace(
        self, polarity: Sequence[int], tops: PulseTops, read_v: float, every: int = 1, current_range_a: float | None = None
    ) -> Readings:
        """The pulses of ``polarity`` (+1 up, -1 down) with a reading at ``read_v`` after every ``every``-th of them."""
        return self.run(self.trace_train(polarity, tops, read_v, every, current_range_a))

    def read(self, read_v: float, count: int = 1, current_range_a: float | None = None) -> Readings:
        """``count`` readings at ``read_v``, one execute."""
        return self.run(self.read_train(read_v, count, current_range_a))

    def pulse_train(self, voltage_v: float, width_s: float, count: int) -> Train:
        """What ``pulses`` runs. LimitError for what the instrument cannot do; nothing is sent."""
        if count < 1:
            raise UsageError(f"{self.address}: {count} pulses are no train: give 1 or more")
        timing = self._timing(self.settings.current_range_a)
        one = compile_burst(voltage_v, width_s, count, timing)
        if count > BURST:
            # A standard train stops there; looped segments do not.
            tops = PulseTops(voltage_v, voltage_v, width_s)
            return Train(tuple(compile_train([1] * count, tops, None, timing)), self.settings.current_range_a)
        return Train((one,), self.settings.current_range_a)

    def trace_train(
        self, polarity: Sequence[int], tops: PulseTops, read_v: float, every: int = 1, current_range_a: float | None = None
    ) -> Train:
        """What ``trace`` runs, as ``pulse_train``."""
        range_a = current_range_a or self.settings.current_range_a
        timing, read = self._timing(range_a), self._read_top(read_v, range_a)
        return Train(tuple(compile_train(list(polarity), tops, read, timing, every)), range_a)

    def read_train(self, read_v: float, count: int = 1, current_range_a: float | None = None) -> Train:
        """What ``read`` runs, as ``pulse_train``."""
        if count < 1:
            raise UsageError(f"{self.address}: {count} readings are none: give 1 or more")
        range_a = current_range_a or self.settings.current_range_a
        timing = self._timing(range_a)
        return Train(tuple(compile_train([], None, self._read_top(read_v, range_a), timing, reads=count)), range_a)

    def run(self, train: Train) -> Readings:
        """Play a train, part by part, and return its readings, none of a train without them."""
        points: list[tuple[float, ...]] = []
        with self._known_outcome():
            for part in train.parts:
                if isinstance(part, Burst):
                    self._burst(part, train.range_a)
                else:
                    points += self._segments(part, train.range_a)
        volt, ampere, _, status = zip(*points, strict=True) if points else ((), (), (), ())
        over = tuple(abs(value) >= _OVER * train.range_a for value in ampere)
        return Readings(tuple(volt), tuple(ampere), tuple(int(word) for word in status), over)

    def outputs_off(self) -> bool:
        """Stop what runs and switch all channels off; never raises. Returns whether the instrument confirmed it all."""
        steps = [":PMU:ABORT", *(f":PMU:OUTPUT:STATE {channel}, 0" for channel in self.channels)]
        confirmed = [self._quietly(step) == "ACK" for step in steps]
        return all(confirmed) and self._quietly(":PMU:TEST:STATUS?") == "0"

    def status(self) -> dict[str, Any]:
        """Identity, whether a test runs, the last error, counters."""
        return {
            "identity": ",".join(self.identity), "running": self._again(":PMU:TEST:STATUS?") != "0",
            "last_error": self._again(":ERROR:LAST:GET"), "executes": self.executes, "pulses": self.pulses_sent,
            "exchanges": self.exchanges,
        }  # fmt: skip

    def close(self) -> None:
        """Switch off and let go; may be called twice."""
        self.outputs_off()
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _greet(self, ask: Ask) -> None:
        said = [part.strip() for part in ask("*IDN?").split(",")]
        if len(said) != 4 or "4200" not in said[1]:
            raise HardwareError(f"{self.address}: {','.join(said)!r} answers, no 4200A-SCS: check address and KXCI")
        self.identity = (said[0], said[1], said[2], said[3])

    def _timing(self, range_a: float) -> TrainTiming:
        s = self.settings
        if range_a not in CURRENT_RANGES_A[s.range_v]:
            known = ", ".join(f"{r:g}" for r in CURRENT_RANGES_A[s.range_v])
            raise LimitError(f"{self.address}: current range {range_a:g} A does not exist at {s.range_v} V: one of {known}")
        return TrainTiming(on_grain(s.edge_s, "edge"), on_grain(s.gap_s, "gap"), s.range_v)

    def _read_top(self, read_v: float, range_a: float) -> ReadTop:
        return ReadTop(read_v, self.settings.read_width_s, SETTLED_S[range_a])

    def _begin(self, mode: int, range_a: float) -> None:
        s = self.settings
        if not self._error_known:
            self._quietly(":ERROR:LAST:CLEAR")
            self._error_known = True
        self._tell(f":PMU:INIT {mode}")
        for channel in self.channels:
            self._tell(f":PMU:RPM:CONFIGURE PMU{s.card}-{channel}, 0")
            self._tell(f":PMU:SOURCE:RANGE {channel}, {s.range_v}")
            self._tell(f":PMU:MEASURE:RANGE {channel}, 2, {range_a:g}")
            if s.load_ohm is not None:
                self._tell(f":PMU:LOAD {channel}, {s.load_ohm:g}")

    def _burst(self, burst: Burst, range_a: float) -> None:
        """Run a standard train."""
        edges = f"{burst.edge_s:.10g}, {burst.edge_s:.10g}"
        with self._switched_off():
            self._begin(0, range_a)
            for channel in self.channels:
                top_v = burst.voltage_v if channel == self.settings.channel else 0.0
                self._tell(f":PMU:PULSE:TRAIN {channel}, 0, {top_v:g}")
                self._tell(f":PMU:PULSE:TIMES {channel}, {burst.period_s:.10g}, {burst.width_s:.10g}, {edges}")
            self._tell(":PMU:MEASURE:MODE 0")
            self._tell(f":PMU:PULSE:BURST:COUNT {burst.pulses}")
            self._execute(burst.pulses, burst.pulses * burst.period_s)

    def _segments(self, execution: Execution, range_a: float) -> list[tuple[float, ...]]:
        """Run one program; its points, each (V, I, time, status)."""
        with self._switched_off():
            self._begin(1, range_a)
            for channel in self.channels:
                for number, sequence in enumerate(execution.sequences, 1):
                    self._define(channel, number, sequence, channel == self.settings.channel)
                plays = ", ".join(f"{number}, {loops}" for number, loops in execution.plays)
                self._tell(f":PMU:SARB:WFM:SEQ:LIST {channel}, {plays}")
            self._execute(execution.pulses, execution.duration_s)
            return self._points(execution.readings)

    def _define(self, channel: int, number: int, sequence: tuple[Segment, ...], driven: bool) -> None:
        measured = [driven and segment.meas_stop_s > 0 for segment in sequence]
        windows = list(zip(sequence, measured, strict=True))
        columns = {
            "TIME": [f"{segment.time_s:.10g}" for segment in sequence],
            "STARTV": [f"{segment.start_v if driven else 0:g}" for segment in sequence],
            "STOPV": [f"{segment.stop_v if driven else 0:g}" for segment in sequence],
            "MEAS:TYPE": [f"{int(flag)}" for flag in measured],
            # A segment that is not measured must have a window of 0 to 0.
            "MEAS:START": [
                f"{segment.meas_start_s if m else 0:.10g}" for segment, m in zip(sequence, measured, strict=True)
            ],
            "MEAS:STOP": [f"{segment.meas_stop_s if m else 0:.10g}" for segment, m in windows],
        }
        for word, values in columns.items():
            self._tell(f":PMU:SARB:SEQ:{word} {channel}, {number}, {', '.join(values)}")

    def _execute(self, pulses: int, duration_s: float) -> None:
        """Switch on, execute once, wait for the end."""
        self.before_execute()
        for channel in self.channels:
            self._tell(f":PMU:OUTPUT:STATE {channel}, 1")
        self._check_last_error()
        try:
            said = self._link.query(":PMU:EXECUTE").strip()
        except HardwareError as exc:
            raise PulseOutcomeUnknown(
                f"{self.address}: no answer to :PMU:EXECUTE: {pulses} pulses may be applied or not: read the cells again"
            ) from exc
        if _REFUSAL.search(said):
            raise HardwareError(f"{self.address}: :PMU:EXECUTE was refused ({said[:80]}): correct what the message names")
        if said != "ACK":
            raise PulseOutcomeUnknown(
                f"{self.address}: {said[:80]!r} is no answer to :PMU:EXECUTE: {pulses} pulses may be applied or not: "
                "read the cells again"
            )
        self.executes += 1
        self.pulses_sent += pulses
        deadline = self._clock() + 5 * duration_s + 10
        while True:
            try:
                running = self._again(":PMU:TEST:STATUS?")
            except HardwareError as exc:
                raise PulseOutcomeUnknown(f"{self.address}: silent while {pulses} pulses run: read the cells again") from exc
            if running == "0":
                return
            if self._clock() > deadline:
                raise PulseOutcomeUnknown(f"{self.address}: a test of {duration_s:g} s does not end: read the cells again")
            self._sleep(min(0.05, max(duration_s / 10, 1e-4)))

    def _points(self, readings: int) -> list[tuple[float, ...]]:
        """All points of the pulsing channel, page by page; asking again does no harm."""
        if readings == 0:
            return []
        channel = self.settings.channel
        count = self._again(f":PMU:DATA:COUNT? {channel}")
        if count != str(readings):
            raise HardwareError(f"{self.address}: {count} points where {readings} were to be measured: read the cells again")
        points: list[tuple[float, ...]] = []
        while len(points) < readings:
            said = self._again(f":PMU:DATA:GET {channel}, {len(points)}, {min(_PAGE, readings - len(points))}")
            try:
                page = [tuple(float(field) for field in point.split(",")) for point in said.split(";") if point.strip()]
            except ValueError:
                page = []
            if not page or len(page) > readings - len(points) or any(len(point) != 4 for point in page):
                raise HardwareError(f"{self.address}: {said[:40]!r} is no page of points: Clarius 1.13 or later is needed")
            points += page
        return points

    def _tell(self, command: str) -> None:
        said = self._link.query(command).strip()
        if said != "ACK":
            raise HardwareError(f"{self.address}: {command[:60]!r} was refused ({said[:80]}): correct the settings")

    def _check_last_error(self) -> None:
        said = self._link.query(":ERROR:LAST:GET").strip()
        code = re.search(r"\((-?\d+)\)", said)
        if code is not None and int(code[1]) != 0:
            raise HardwareError(f"{self.address}: {said[:100]} before the execute: correct the settings")

    def _again(self, question: str) -> str:
        """A question that changes nothing: asked a second time where the answer is lost."""
        try:
            return self._link.query(question).strip()
        except HardwareError:
            return self._link.query(question).strip()

    def _quietly(self, command: str) -> str:
        try:
            return self._link.query(command).strip()
        except HilError:
            return ""

    @contextmanager
    def _known_outcome(self) -> Iterator[None]:
        """A fault after some pulses were applied is PulseOutcomeUnknown: the cells must be read again."""
        before = self.pulses_sent
        try:
            yield
        except PulseOutcomeUnknown:
            raise
        except HardwareError as exc:
            if self.pulses_sent == before:
                raise
            done = self.pulses_sent - before
            raise PulseOutcomeUnknown(f"{exc}; {done} pulses were applied: read the cells again") from exc

    @contextmanager
    def _switched_off(self) -> Iterator[None]:
        """Leaves the outputs off, whatever happens inside; HardwareError where that is not confirmed."""
        try:
            yield
        except BaseException:
            self._error_known = False
            self.outputs_off()
            raise
        off = [self._quietly(f":PMU:OUTPUT:STATE {channel}, 0") == "ACK" for channel in self.channels]
        if not all(off) and not self.outputs_off():
            raise HardwareError(f"{self.address}: outputs are not confirmed off: switch the PMU off by hand before going on")
