"""A small crossbar on a probe station as an ArrayBackend: one cell at a time, through the switch matrix.

A 4225-PMU pulses and reads trains, a 2600B reads quietly, a 707B connects. Every cell is wired up at 0 V, its crosspoints
are confirmed right before every execute (``drivers.probe_rack``), and the PMU's outputs are off after every test. Unselected
lines are open: no unselected cell sees a voltage. Trains are compiled, and so compared with what the instruments can do,
before anything is sent.

A reading that overflows is taken again in the next larger range; NaN where the largest does not hold it, or where the SMU
is at its current limit. A train is read in one range: the configured one, or the larger one that the cell's last reading
needs; what does not fit it is what the range holds, and counted.

Unverified on hardware: all of it; see the drivers of the instruments for what is known of each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from drivers.keithley_4200 import CURRENT_RANGES_A, PulseTops
from drivers.keithley_4200_trains import GRAIN_S, widths_s
from drivers.probe_rack import Rack, RackSettings
from hil.backend import (
    ArrayInfo,
    Costs,
    Direction,
    PulseShape,
    Range,
    check_counts,
    check_mask,
    check_polarity,
    mvm_by_columns,
    update_by_counts,
)
from hil.encoding import PulseTrain
from hil.errors import LimitError, UsageError

__all__ = ["CellSettings", "ProbedCells"]

_FILTER = 100
"""Readings that the SMU averages at once."""


class CellSettings(BaseModel):
    """``[boards.NAME.settings]``: the crossbar, and how its cells are pulsed and read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(default=4, ge=1)
    cols: int = Field(default=4, ge=1)
    wafer: str = "wafer"
    """Name of the wafer: with the site it identifies the devices."""
    read_v: float = Field(default=0.2, gt=0)
    """Of every reading, volt."""
    read_with: Literal["smu", "pmu"] = "smu"
    """``smu``: slow and quiet; ``pmu``: as fast and as noisy as the readings within a trace."""
    fast_row: str = "A"
    """Matrix row of the PMU channel that pulses."""
    fast_low_row: str = "B"
    """Matrix row of the PMU channel at 0 V, or of ground where the PMU has no such channel."""
    quiet_row: str = "C"
    """Matrix row of the SMU."""
    ground_row: str = "D"
    """Matrix row that the SMU measures against."""
    station: str = "station"
    """Name of the open station whose instruments these are."""
    rack: RackSettings | None = None
    """Instruments of this board's own, for a bench without a station; None = the station's."""

    @model_validator(mode="after")
    def _two_terminals(self) -> CellSettings:
        if self.fast_row == self.fast_low_row or self.quiet_row == self.ground_row:
            raise ValueError("fast_row and fast_low_row, quiet_row and ground_row must differ: they are two ends of a cell")
        return self


class ProbedCells:
    """The backend. rack: the instruments, closed with this where ``owned``; site: where the probes are."""

    def __init__(self, settings: CellSettings, rack: Rack, site: str, owned: bool = False) -> None:
        self.settings, self._rack, self._owned = settings, rack, owned
        pmu, smu = rack.pmu.identity, rack.smu.identity
        top = float(rack.pmu.settings.range_v)
        shortest_s, longest_s = widths_s(rack.pmu.settings.edge_s, rack.pmu.settings.gap_s, rack.pmu.settings.range_v)
        self._info = ArrayInfo(
            arrays=1, rows=settings.rows, cols=settings.cols, physical=True, vendor=pmu[0],
            model=f"{pmu[1]} + {smu[1]}", serial=f"{settings.wafer}/{site or 'site'}", firmware=f"{pmu[3]}, {smu[3]}",
            read_v=Range(-settings.read_v, settings.read_v), pulse_v=Range(-top, top),
            width_s=Range(shortest_s, longest_s, GRAIN_S), rows_at_once=1, cols_at_once=1, select_scheme="selector",
            parallel_update=False, exactly_once=False,
        )  # fmt: skip
        self._check_settings()
        self._seen_a = torch.zeros(settings.rows, settings.cols)
        """Magnitude of every cell's last reading, ampere [row col]."""
        self._operations = self._over_range = 0
        self._began_cpu_s = time.process_time()

    @property
    def info(self) -> ArrayInfo:
        return self._info

    @property
    def costs(self) -> Costs:
        """Typical: relays for every cell, a quiet reading over its power-line cycles, some thirty commands for a train."""
        smu, pmu = self._rack.smu.settings, self._rack.pmu.settings
        quiet_s = smu.nplc / smu.line_hz + smu.settle_s
        return Costs(
            read_s=pmu.read_width_s if self.settings.read_with == "pmu" else quiet_s, trace_read_s=pmu.read_width_s,
            mvm_s=quiet_s, gap_s=pmu.gap_s, cell_s=40e-3, closures_per_cell=2,
        )  # fmt: skip

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        check_mask(mask, self._info)
        if averages < 1:
            raise UsageError(f"read: averages = {averages} is no number of readings: give 1 or more")
        self._operations += 1
        by_pmu = self.settings.read_with == "pmu"
        g = torch.full(mask.shape, torch.nan)
        for row, col in _cells(mask):
            with self._rack.wired(self._crosspoints(row, col, fast=by_pmu)):
                ampere, volt = self._read_fast(averages) if by_pmu else self._read_quiet(averages)
            self._seen_a[row, col] = abs(ampere)
            g[0, row, col] = ampere / volt
        return g

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        return mvm_by_columns(self, volts, direction, active)

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        check_counts(counts, self._info)
        tops = self._tops(shape)
        todo = {(row, col): int(counts[0, row, col]) for row, col in _cells(counts != 0)}
        trains = {
            number: self._rack.pmu.pulse_train(tops.up_v if number > 0 else tops.down_v, tops.width_s, abs(number))
            for number in set(todo.values())
        }
        self._operations += 1
        for (row, col), number in todo.items():
            with self._rack.wired(self._crosspoints(row, col, fast=True)):
                self._rack.pmu.run(trains[number])

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        check_mask(mask, self._info)
        check_polarity(polarity, every)
        pmu, tops, signs = self._rack.pmu, self._tops(shape), polarity.tolist()
        ranges = {(row, col): self._train_range_a(row, col) for row, col in _cells(mask)}
        trains = {
            range_a: pmu.trace_train(signs, tops, self.settings.read_v, every, range_a) for range_a in set(ranges.values())
        }
        self._operations += 1
        g = torch.full((*mask.shape, len(signs) // every), torch.nan)
        if not signs:
            return g
        for (row, col), range_a in ranges.items():
            with self._rack.wired(self._crosspoints(row, col, fast=True)):
                seen = pmu.run(trains[range_a])
            if not seen.ampere:
                continue
            self._over_range += sum(seen.over)
            # Beyond the range by as little as can be told: the next train takes a larger one.
            self._seen_a[row, col] = 1.01 * range_a if seen.over[-1] else abs(seen.ampere[-1])
            g[0, row, col] = torch.tensor(seen.ampere) / torch.tensor(seen.volt)
        return g

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        update_by_counts(self, rows, cols, shape, active)

    def safe(self) -> bool:
        return self._rack.safe()

    def status(self) -> dict[str, Any]:
        rack = self._rack
        told = (("pmu", rack.pmu.status()), ("smu", rack.smu.status()), ("matrix", rack.matrix.status()))
        return {
            "operations": self._operations,
            "over_range": self._over_range,
            "exchanges": rack.pmu.exchanges + rack.smu.exchanges + rack.matrix.exchanges,
            "closures": rack.matrix.session_closures.total(),
            "cpu_s": time.process_time() - self._began_cpu_s,
            **rack.look(),
            **dict(told),
        }

    def close(self) -> None:
        try:
            self.safe()
        finally:
            if self._owned:
                self._rack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _check_settings(self) -> None:
        """UsageError or LimitError for a crossbar that is not wired, and for readings that the instruments cannot do."""
        s, smu = self.settings, self._rack.smu.settings
        for fast in (True, False):
            self._crosspoints(s.rows - 1, s.cols - 1, fast)
        if s.read_v > smu.range_v:
            raise UsageError(f"probe station: read_v = {s.read_v:g} V is above smu.range_v = {smu.range_v:g} V: change one")
        for range_a in self._larger_ranges():
            self._rack.pmu.read_train(s.read_v, 1, range_a)

    def _crosspoints(self, row: int, col: int, fast: bool) -> list[str]:
        s = self.settings
        drive, low = (s.fast_row, s.fast_low_row) if fast else (s.quiet_row, s.ground_row)
        return self._rack.matrix.cell(row, col, drive, low)

    def _larger_ranges(self) -> list[float]:
        """The PMU's current ranges from the configured one on, ampere."""
        s = self._rack.pmu.settings
        return [one for one in CURRENT_RANGES_A[s.range_v] if one >= s.current_range_a]

    def _train_range_a(self, row: int, col: int) -> float:
        """The smallest of them that holds the cell's last reading; the largest for one that nothing held."""
        seen_a, ranges = float(self._seen_a[row, col]), self._larger_ranges()
        return next((one for one in ranges if seen_a <= one), ranges[-1])

    def _read_quiet(self, averages: int) -> tuple[float, float]:
        """(ampere, volt); NaN ampere where even the largest range overflows, or at the current limit."""
        smu, read_v = self._rack.smu, self.settings.read_v
        parts = [_FILTER] * (averages // _FILTER) + [averages % _FILTER] * (averages % _FILTER > 0)
        range_a = smu.settings.range_a
        while True:
            seen = [smu.read(read_v, part, range_a) for part in parts]
            ampere = sum(one.ampere * part for one, part in zip(seen, parts, strict=True)) / averages
            limited = any(one.compliance for one in seen)
            if not limited and not math.isnan(ampere):
                return ampere, read_v
            self._over_range += 1
            if limited or range_a >= smu.settings.limit_a:
                # At its limit the source does not hold the voltage: the current says nothing of the cell.
                return math.nan, read_v
            range_a = min(10 * range_a, smu.settings.limit_a)

    def _read_fast(self, averages: int) -> tuple[float, float]:
        """As ``_read_quiet``."""
        pmu = self._rack.pmu
        for range_a in self._larger_ranges():
            seen = pmu.read(self.settings.read_v, averages, range_a)
            if not any(seen.over):
                g = sum(i / v for i, v in zip(seen.ampere, seen.volt, strict=True)) / averages
                return g * self.settings.read_v, self.settings.read_v
            self._over_range += 1
        return math.nan, self.settings.read_v

    def _tops(self, shape: PulseShape) -> PulseTops:
        """The pulse as the PMU takes it; LimitError where it cannot do it."""
        for name in ("gate_up_v", "gate_down_v", "compliance_a"):
            if getattr(shape, name) is not None:
                raise LimitError(f"probe station: {name} is nothing that a 4225-PMU has: leave it out")
        up_v, down_v, width_s = (_one(getattr(shape, name)) for name in ("up_v", "down_v", "width_s"))
        able = {"up_v": (up_v, self._info.pulse_v), "down_v": (down_v, self._info.pulse_v)}
        for name, (value, span) in {**able, "width_s": (width_s, self._info.width_s)}.items():
            if not span.holds(value):
                reach = f"{span.low:g} to {span.high:g}"
                raise LimitError(f"probe station: {name} = {value:g} is outside {reach}: change the pulse")
        return PulseTops(up_v, down_v, width_s)


def _cells(mask: Tensor) -> Iterator[list[int]]:
    yield from mask[0].nonzero().tolist()


def _one(value: float | tuple[float, ...]) -> float:
    return value[0] if isinstance(value, tuple) else value
