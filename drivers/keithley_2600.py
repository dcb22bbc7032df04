"""Keithley 2600B source-measure unit over TSP (TCP 5025): low-noise DC readings, slow pulses, ramps.

Usable alone::

    with Keithley2600("tcp://192.0.2.8:5025", SmuSettings(range_a=1e-4, nplc=1)) as smu:
        smu.read(0.2, averages=4).ampere
        smu.pulses(1.2, width_s=1e-3, count=10)

A reading steps from 0 V to its voltage, measures, and goes back to 0 V in one exchange; levels above ``ramp_step_v`` are
reached in steps. The output stays on at 0 V between readings; ``outputs_off`` switches it off. The current limit is
programmed into the instrument; a reading taken at the limit is marked.

Facts: manual 2600BS-901 and public examples. Unverified on hardware: the whole driver; above all the words
``measure.filter.*`` and ``source.highc``-free settling, that KIPulse's ``ConfigPulseVMeasureI`` and ``InitiatePulseTest``
return (flag, message), and how ``printbuffer`` separates its values (comma and blank are taken).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from drivers.links.tsp import TspSession, number
from hil.errors import HardwareError, HilError, LimitError, PulseOutcomeUnknown, UsageError

__all__ = ["DcReading", "Keithley2600", "SlowPulses", "SmuSettings"]

_MODELS = ("260", "261", "263", "265")
_MEASURE_S = 60e-6
"""What a reading takes beside its integration, inside a pulse."""
_SHORTEST_S = 100e-6
_MOST_PULSES = 60000
"""Readings that fit nvbuffer1 with time stamps."""


class SmuSettings(BaseModel):
    """One channel of the instrument, and how it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel: Literal["smua", "smub"] = "smua"
    range_v: float = Field(default=2.0, gt=0, le=200)
    """Source range, volt; the instrument takes the next one that holds it."""
    limit_a: float = Field(default=1e-3, gt=0, le=3)
    """Current limit (compliance), ampere."""
    range_a: float = Field(default=1e-4, ge=1e-10, le=3)
    """Measure range, ampere, fixed; at most the limit's decade."""
    nplc: float = Field(default=1.0, ge=0.001, le=25)
    """Integration time in power-line cycles."""
    line_hz: Literal[50, 60] = 50
    pulse_range_a: float = Field(default=1e-3, ge=1e-10, le=3)
    """Measure range inside a pulse, ampere."""
    pulse_nplc: float = Field(default=0.01, ge=0.001, le=25)
    """Integration time inside a pulse."""
    ramp_step_v: float = Field(default=0.5, gt=0)
    """Largest step of a DC level, volt."""
    ramp_pause_s: float = Field(default=1e-3, ge=0)
    """After every step of a ramp, second."""
    settle_s: float = Field(default=1e-3, ge=0)
    """Between the level and the reading, second."""
    off_mode: Literal["NORMAL", "ZERO", "HIGH_Z"] = "HIGH_Z"
    """What the output is when it is off: clamped to 0 V, sourced 0 V, or cut off by the relay."""
    timeout_s: float = Field(default=5.0, gt=0)
    """For one answer beside the time that the measurement itself takes, second."""


@dataclass(frozen=True)
class DcReading:
    """One averaged reading: ampere (NaN where it overflowed), and whether the source was at its limit."""

    ampere: float
    compliance: bool


@dataclass(frozen=True)
class SlowPulses:
    """The current in every pulse, ampere (NaN where it overflowed), and whether the source was at its limit at the end."""

    ampere: tuple[float, ...]
    compliance: bool


class Keithley2600:
    """The instrument. Raises HardwareError where it reports an error or is silent, LimitError before a byte is sent."""

    def __init__(self, address: str, settings: SmuSettings | None = None) -> None:
        self.settings = settings or SmuSettings()
        self.address = address
        if self.settings.range_a > self.settings.limit_a * 10:
            raise UsageError(f"{address}: range_a is far above limit_a: lower it or raise the limit")
        self._set_up_at = 0
        self._reads_as: tuple[int, float] | None = None
        """Averages and range that the instrument is set to."""
        self._holds_v: float | None = None
        """The DC level that the last exchange is known to have left; None where nobody knows."""
        self.pulses_sent = 0
        """Pulses of this session."""
        self._tsp = TspSession(address, _MODELS, self.settings.timeout_s)

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Maker, model, serial number, firmware."""
        return self._tsp.identity

    @property
    def exchanges(self) -> int:
        """Questions asked so far."""
        return self._tsp.exchanges

    def read(self, voltage_v: float, averages: int = 1, range_a: float | None = None) -> DcReading:
        """The current at ``voltage_v``, ``averages`` readings averaged by the instrument (1 to 100); then back to 0 V.

        range_a: measure range, ampere; None = that of the settings.
        """
        self._check_level(voltage_v)
        if not 1 <= averages <= 100:
            raise LimitError(f"{self.address}: {averages} averages: the filter takes 1 to 100")
        smu, s = self.settings.channel, self.settings
        self._prepare()
        lines: list[str] = []
        wanted = averages, s.range_a if range_a is None else range_a
        if wanted != self._reads_as:
            lines += self._reading(*wanted)
        up = self._steps(0.0, voltage_v)
        lines += [f"{smu}.source.output = {smu}.OUTPUT_ON", *up, f"delay({s.settle_s:g})"]
        lines += [f"reading, limited = {smu}.measure.i(), {smu}.source.compliance", *self._steps(voltage_v, 0.0)]
        lasts_s = averages * (s.nplc / s.line_hz + 0.01) + s.settle_s + 2 * len(up) * s.ramp_pause_s
        self._reads_as = self._holds_v = None  # until it has answered, nobody knows
        said = self._tsp.ask("reading", "limited", after=lines, timeout_s=s.timeout_s + 2 * lasts_s)
        self._reads_as, self._holds_v = wanted, 0.0
        return DcReading(_measured(said[0]), said[1].strip() == "true")

    def ramp(self, voltage_v: float) -> None:
        """Bring the DC level to ``voltage_v`` in steps of at most ``ramp_step_v`` and stay there, output on."""
        self._check_level(voltage_v)
        self._prepare()
        smu = self.settings.channel
        self._tsp.ask(after=[f"{smu}.source.output = {smu}.OUTPUT_ON"])
        now_v = number(self._tsp.ask(f"{smu}.source.levelv")[0])
        self._holds_v = None
        self._step_through(self._steps(now_v, voltage_v))
        self._holds_v = voltage_v

    def pulses(self, level_v: float, width_s: float, count: int, period_s: float | None = None) -> SlowPulses:
        """``count`` pulses of ``level_v`` and ``width_s`` from 0 V, the current measured in each; output off after.

        width_s: at least 100 us and long enough for the reading in it; period_s: default ten widths.
        PulseOutcomeUnknown where the start was not answered.
        """
        self._check_level(level_v)
        s, smu = self.settings, self.settings.channel
        period = 10 * width_s if period_s is None else period_s
        window_s = s.pulse_nplc / s.line_hz + _MEASURE_S
        if width_s < max(_SHORTEST_S, window_s) * (1 - 1e-9) or period <= width_s:
            raise LimitError(
                f"{self.address}: pulse of {width_s:g} s every {period:g} s: needs at least "
                f"{max(_SHORTEST_S, window_s):g} s for its reading, and a longer period"
            )
        if not 1 <= count <= _MOST_PULSES:
            raise LimitError(f"{self.address}: {count} pulses: one train holds 1 to {_MOST_PULSES}")
        self._prepare()
        setup = [
            f"{smu}.source.levelv = 0", f"{smu}.nvbuffer1.clear()", f"{smu}.nvbuffer1.appendmode = 1",
            f"{smu}.measure.nplc = {s.pulse_nplc:g}", f"{smu}.measure.rangei = {s.pulse_range_a:g}",
            f"{smu}.measure.filter.enable = {smu}.FILTER_OFF",
            f"{smu}.source.output = {smu}.OUTPUT_ON",
            f"good, text = ConfigPulseVMeasureI({smu}, 0, {level_v:g}, {s.limit_a:g}, {width_s:.10g}, "
            f"{period - width_s:.10g}, {count}, {smu}.nvbuffer1, 1)",
        ]  # fmt: skip
        self._reads_as = self._holds_v = None
        try:
            said = self._tsp.ask("good", "text", after=setup)
            if said[0].strip() != "true":
                raise HardwareError(f"{self.address}: the pulse was refused ({said[1]}): correct what the message names")
            current = self._start(count, count * period)
            self._holds_v = 0.0
        finally:
            off = self.outputs_off()
        if not off:
            raise PulseOutcomeUnknown(
                f"{self.address}: {count} pulses done, output not confirmed off: switch it off by hand"
            )
        return current

    def _start(self, count: int, lasts_s: float) -> SlowPulses:
        smu, s = self.settings.channel, self.settings
        try:
            said = self._tsp.ask(
                "good", "text", f"{smu}.nvbuffer1.n", f"{smu}.source.compliance",
                after=["good, text = InitiatePulseTest(1)"], timeout_s=s.timeout_s + 2 * lasts_s,
            )  # fmt: skip
        except HardwareError as exc:
            raise PulseOutcomeUnknown(
                f"{self.address}: {count} pulses started and not reported back ({exc}): read the cells again"
            ) from exc
        if said[0].strip() != "true" or number(said[2]) != count:
            raise PulseOutcomeUnknown(f"{self.address}: {said[2]} of {count} pulses done ({said[1]}): read the cells again")
        self.pulses_sent += count
        try:
            values = self._tsp.plain(f"printbuffer(1, {count}, {smu}.nvbuffer1.readings)", s.timeout_s + 1e-4 * count)
        except HardwareError as exc:
            raise PulseOutcomeUnknown(
                f"{self.address}: {count} pulses done, their readings lost ({exc}): read again"
            ) from exc
        ampere = tuple(_measured(value) for value in values.replace(",", " ").split())
        if len(ampere) != count:
            raise PulseOutcomeUnknown(f"{self.address}: {count} pulses done, {len(ampere)} readings came back: read again")
        return SlowPulses(ampere, said[3].strip() == "true")

    def outputs_off(self) -> bool:
        """Level to 0 V in steps, output off; never raises. Returns whether the instrument confirmed both."""
        smu, s = self.settings.channel, self.settings
        for _ in range(2):  # a lost answer is asked for again: switching off twice does no harm
            down: list[str] = []
            with suppress(HilError):
                down = self._steps_down()
            lines = [f"{smu}.abort()", *down, f"{smu}.source.levelv = 0", f"{smu}.source.output = {smu}.OUTPUT_OFF"]
            try:
                wait_s = s.timeout_s + 2 * len(down) * s.ramp_pause_s
                said = self._tsp.ask(f"{smu}.source.output", f"{smu}.source.levelv", after=lines, timeout_s=wait_s)
            except HilError:
                self._holds_v = None
                continue
            self._holds_v = number(said[1])
            return number(said[0]) == 0 and self._holds_v == 0
        return False

    def abort(self) -> bool:
        """Stop a script that hangs, then switch off; never raises. Returns whether the output is confirmed off."""
        try:
            self._tsp.abort()
        except HilError:
            return self.outputs_off()
        return self.outputs_off()

    def status(self) -> dict[str, Any]:
        """Identity, output, level, counters."""
        smu = self.settings.channel
        said = self._tsp.ask(f"{smu}.source.output", f"{smu}.source.levelv", f"{smu}.source.compliance")
        return {
            "identity": ",".join(self.identity), "output_on": number(said[0]) != 0, "level_v": number(said[1]),
            "compliance": said[2].strip() == "true", "pulses": self.pulses_sent, "exchanges": self.exchanges,
        }  # fmt: skip

    def close(self) -> None:
        """Switch off and let go; may be called twice."""
        self.outputs_off()
        self._tsp.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _check_level(self, voltage_v: float) -> None:
        if not abs(voltage_v) <= self.settings.range_v:
            raise LimitError(f"{self.address}: {voltage_v:g} V is above range_v = {self.settings.range_v:g} V: ask for less")

    def _prepare(self) -> None:
        """What the instrument must be told before it sources: all of it after every new connection."""
        self._tsp.ready()
        if self._set_up_at == self._tsp.connections:
            return
        s, smu = self.settings, self.settings.channel
        # A level that somebody left on is ramped down: a reset would jump to 0 V.
        self._holds_v = None
        self._step_through(self._steps_down("errorqueue.clear()"))
        self._tsp.ask(
            after=[
                f"{smu}.reset()", "format.asciiprecision = 8",
                f"{smu}.source.func = {smu}.OUTPUT_DCVOLTS", f"{smu}.source.offmode = {smu}.OUTPUT_{s.off_mode}",
                f"{smu}.source.autorangev = {smu}.AUTORANGE_OFF", f"{smu}.source.rangev = {s.range_v:g}",
                f"{smu}.source.limiti = {s.limit_a:g}", f"{smu}.source.levelv = 0",
                f"{smu}.measure.autorangei = {smu}.AUTORANGE_OFF",
            ]
        )  # fmt: skip
        self._reads_as, self._holds_v = None, 0.0
        self._set_up_at = self._tsp.connections

    def _reading(self, averages: int, range_a: float) -> Sequence[str]:
        smu = self.settings.channel
        switch = "FILTER_ON" if averages > 1 else "FILTER_OFF"
        return [
            f"{smu}.measure.rangei = {range_a:g}", f"{smu}.measure.nplc = {self.settings.nplc:g}",
            f"{smu}.measure.filter.type = {smu}.FILTER_REPEAT_AVG", f"{smu}.measure.filter.count = {averages}",
            f"{smu}.measure.filter.enable = {smu}.{switch}",
        ]  # fmt: skip

    def _steps_down(self, *before: str) -> list[str]:
        """From the level that is on to 0 V, asked for (after the lines ``before``) where it is not known."""
        smu, level_v = self.settings.channel, self._holds_v
        if level_v is None:
            said = self._tsp.ask(f"{smu}.source.output", f"{smu}.source.levelv", after=before)
            level_v = number(said[1]) if number(said[0]) != 0 else 0.0
        return [] if level_v == 0 or not math.isfinite(level_v) else self._steps(level_v, 0.0)

    def _step_through(self, steps: Sequence[str]) -> None:
        if steps:
            s = self.settings
            self._tsp.ask(after=steps, timeout_s=s.timeout_s + 2 * len(steps) * s.ramp_pause_s)

    def _steps(self, from_v: float, to_v: float) -> list[str]:
        """Levels on the way, the last one included, with pauses between them."""
        smu, s = self.settings.channel, self.settings
        count = max(1, math.ceil(abs(to_v - from_v) / s.ramp_step_v - 1e-9))
        lines = []
        for k in range(1, count + 1):
            lines.append(f"{smu}.source.levelv = {from_v + (to_v - from_v) * k / count:.6g}")
            if k < count:
                lines.append(f"delay({s.ramp_pause_s:g})")
        return lines


def _measured(text: str) -> float:
    """A reading as printed; NaN for the instrument's overflow value."""
    value = number(text)
    return value if abs(value) < 1e30 else math.nan
