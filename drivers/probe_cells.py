"""A small crossbar on a probe station as an ArrayBackend: one cell at a time, through the switch matrix.

A 4225-PMU pulses and reads trains, a 2600B reads quietly, a 707B connects. Every cell is wired up at 0 V, the instrument
is asked for the closed crosspoints before every pulse, and the PMU's outputs are off after every test. Unselected lines
are open: no unselected cell sees a voltage. A reading that overflows is taken again in the next larger range; within a
train it is what the range holds, and counted.

Unverified on hardware: all of it; see the drivers of the instruments for what is known of each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from drivers.keithley_4200 import CURRENT_RANGES_A, PulseTops
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
from hil.errors import HardwareError, LimitError, UsageError

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


class ProbedCells:
    """The backend. rack: the instruments, closed with this where ``owned``; site: where the probes are."""

    def __init__(self, settings: CellSettings, rack: Rack, site: str, owned: bool = False) -> None:
        self.settings, self._rack, self._owned = settings, rack, owned
        pmu, smu = rack.pmu.identity, rack.smu.identity
        top = float(rack.pmu.settings.range_v)
        shortest_s = rack.pmu.settings.edge_s + (20e-9 if top <= 10 else 50e-9)
        self._info = ArrayInfo(
            arrays=1, rows=settings.rows, cols=settings.cols, physical=True, vendor=pmu[0],
            model=f"{pmu[1]} + {smu[1]}", serial=f"{settings.wafer}/{site or 'site'}", firmware=f"{pmu[3]}, {smu[3]}",
            read_v=Range(-settings.read_v, settings.read_v), pulse_v=Range(-top, top), width_s=Range(shortest_s, 1.0, 10e-9),
            rows_at_once=1, cols_at_once=1, select_scheme="selector", parallel_update=False, exactly_once=False,
        )  # fmt: skip
        corner = (settings.rows - 1, settings.cols - 1)
        for fast in (True, False):
            self._crosspoints(*corner, fast)
        self._quiet = True
        """Whether the last use of a source is known to have ended at 0 V."""
        self._closed: list[str] | None = None
        """The crosspoints that the last use closed."""
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
        self._begin()
        g = torch.full(mask.shape, torch.nan)
        for row, col in _cells(mask):
            g[0, row, col] = self._read_cell(row, col, averages)
        return g

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        return mvm_by_columns(self, volts, direction, active)

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        check_counts(counts, self._info)
        tops = self._tops(shape)
        self._begin()
        for sent, (row, col) in enumerate(_cells(counts != 0)):
            number = int(counts[0, row, col])
            try:
                with self._wired(row, col, fast=True):
                    self._rack.pmu.pulses(tops.up_v if number > 0 else tops.down_v, tops.width_s, abs(number))
            except (LimitError, UsageError) as exc:
                # A refusal means that nothing was sent, which is so for the first cell only.
                if sent == 0:
                    raise
                raise HardwareError(f"{exc} (after {sent} cells were pulsed)") from exc

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        check_mask(mask, self._info)
        check_polarity(polarity, every)
        tops, signs = self._tops(shape), polarity.tolist()
        self._begin()
        g = torch.full((*mask.shape, len(signs) // every), torch.nan)
        if not signs:
            return g
        for row, col in _cells(mask):
            with self._wired(row, col, fast=True):
                seen = self._rack.pmu.trace(signs, tops, self.settings.read_v, every)
            self._over_range += sum(seen.over)
            g[0, row, col] = torch.tensor(seen.ampere) / torch.tensor(seen.volt)
        return g

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        update_by_counts(self, rows, cols, shape, active)

    def safe(self) -> bool:
        self._closed = None
        self._quiet = self._rack.safe()
        return self._quiet

    def status(self) -> dict[str, Any]:
        rack = self._rack
        rack.watch()
        told = (("pmu", rack.pmu.status()), ("smu", rack.smu.status()), ("matrix", rack.matrix.status()))
        return {
            "operations": self._operations,
            "over_range": self._over_range,
            "exchanges": rack.pmu.exchanges + rack.smu.exchanges + rack.matrix.exchanges,
            "closures": rack.matrix.session_closures.total(),
            "cpu_s": time.process_time() - self._began_cpu_s,
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

    def _begin(self) -> None:
        """Before every operation: count it, and ask for the door and whatever else the station watches."""
        self._operations += 1
        self._rack.watch()

    def _crosspoints(self, row: int, col: int, fast: bool) -> list[str]:
        s = self.settings
        drive, low = (s.fast_row, s.fast_low_row) if fast else (s.quiet_row, s.ground_row)
        return self._rack.matrix.cell(row, col, drive, low)

    @contextmanager
    def _wired(self, row: int, col: int, fast: bool) -> Iterator[None]:
        """One cell connected, for one use of a source: switched at 0 V, its crosspoints confirmed right before."""
        matrix, wanted = self._rack.matrix, self._crosspoints(row, col, fast)
        if not self._quiet:
            if not self._rack.outputs_off():
                raise HardwareError("probe station: a source is not confirmed off, so nothing is switched: look at it")
            self._quiet = True
        before, self._closed = self._closed, None
        if before == wanted:
            matrix.verify(wanted)
        else:
            matrix.connect(wanted)
        self._closed, self._quiet = wanted, False
        yield
        self._quiet = True

    def _read_cell(self, row: int, col: int, averages: int) -> float:
        """Siemens; NaN where even the largest range overflows."""
        by_pmu = self.settings.read_with == "pmu"
        with self._wired(row, col, fast=by_pmu):
            return self._read_fast(averages) if by_pmu else self._read_quiet(averages)

    def _read_quiet(self, averages: int) -> float:
        smu, read_v = self._rack.smu, self.settings.read_v
        parts = [_FILTER] * (averages // _FILTER) + [averages % _FILTER] * (averages % _FILTER > 0)
        range_a = smu.settings.range_a
        while True:
            seen = [smu.read(read_v, part, range_a) for part in parts]
            ampere = sum(one.ampere * part for one, part in zip(seen, parts, strict=True)) / averages
            if not math.isnan(ampere) or range_a >= smu.settings.limit_a:
                return ampere / read_v
            self._over_range += 1
            range_a = min(10 * range_a, smu.settings.limit_a)

    def _read_fast(self, averages: int) -> float:
        pmu = self._rack.pmu
        larger = [one for one in CURRENT_RANGES_A[pmu.settings.range_v] if one >= pmu.settings.current_range_a]
        for range_a in larger:
            seen = pmu.read(self.settings.read_v, averages, range_a)
            if not any(seen.over):
                return sum(i / v for i, v in zip(seen.ampere, seen.volt, strict=True)) / averages
            self._over_range += 1
        return math.nan

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
