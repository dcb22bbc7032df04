"""The world that four instruments share: what the matrix connects, where the chuck is, which sources are on, the door.

The crossbar's cells have selectors: a cell sees a voltage only where both its lines are connected, to two different
terminals, while the probes touch the die. Lines that float carry nothing, so there are no sneak paths. A terminal that is
off is an open end; ground is always there. Guarded by one lock: the links are served by threads of their own.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hil.backend import PulseShape
from simulated_backend.array import EmulatedArray
from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel
from simulated_backend.twins.wafer import Die, Wafer

__all__ = ["CHANNEL", "Leg", "Pulses", "Rack", "Terminal", "TimesSettings", "WiringSettings"]

CHANNEL = re.compile(r"^([1-6])([A-H])(\d\d)$")
_CHUNK = 65536

Terminal = Literal["pmu1", "pmu2", "smu", "ground"]


class WiringSettings(BaseModel):
    """What is wired to the matrix card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slot: int = Field(default=1, ge=1, le=6)
    card_columns: int = Field(default=12, ge=1, le=99)
    """Columns of the card; a channel beyond them does not exist."""
    terminals: dict[str, Terminal] = Field(default={"A": "pmu1", "B": "pmu2", "C": "smu", "D": "ground"})
    """By matrix row."""
    row_columns: tuple[int, ...] = (1, 2, 3, 4)
    """Matrix column of every crossbar row."""
    col_columns: tuple[int, ...] = (5, 6, 7, 8)


class TimesSettings(BaseModel):
    """Device time of what the instruments do, second. Estimates, none of them from a data sheet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kxci_s: float = 1e-3
    """One KXCI command."""
    execute_s: float = 20e-3
    """Beside the waveform itself."""
    tsp_s: float = 0.3e-3
    """One TSP line."""
    relay_s: float = 15e-3
    """One switching action with its settling."""
    step_s: float = 1.5
    chuck_s: float = 0.5
    """Contact or separation."""


@dataclass(frozen=True)
class Leg:
    """Cells between two terminals: the cell voltage is that of ``row`` minus that of ``col``; mask bool [1 row col]."""

    row: Terminal
    col: Terminal
    mask: Tensor


@dataclass(frozen=True)
class Pulses:
    """``count`` equal pulses of a voltage, volt, and width, second; count 0 = only read afterwards."""

    volt: float
    width_s: float
    count: int
    read_v: float | None = None
    """A reading at this voltage follows."""


class Rack:
    """State and physics behind all four wires."""

    def __init__(
        self, wafer: Wafer, wiring: WiringSettings, times: TimesSettings, panel: FaultPanel, clock: DeviceClock
    ) -> None:
        self.wafer, self.wiring, self.times, self.panel, self.clock = wafer, wiring, times, panel, clock
        self.lock = threading.RLock()
        self.closed: frozenset[str] = frozenset()
        self.closures: Counter[str] = Counter()
        self.on: dict[Terminal, float] = {}
        """Sources that are on, and their DC level, volt."""
        self.die: Die = wafer.settings.route[0]
        self.site = 0
        self.contact = False
        self.touchdowns: Counter[str] = Counter()
        self._seen_s: dict[tuple[Die, int], float] = {}

    @property
    def door_open(self) -> bool:
        """Whether the interlock is open; opening it drops all outputs."""
        is_open = bool(self.panel.pending("open_interlock"))
        if is_open and self.on:
            self.panel.count("dropped_by_interlock")
            self.on.clear()
        return is_open

    def refuse(self, why: str) -> None:
        """Count something that the instrument rejects."""
        self.panel.count("rejected")
        self.panel.count(f"rejected.{why}")

    def switch(self, closed: frozenset[str]) -> None:
        """Set the closed crosspoints; switching under voltage is counted, not refused: a relay does not know."""
        stuck = self.panel.pending("stuck_open")
        if stuck:
            closed = frozenset(name for name in closed if int(name[2:]) != stuck)
        if closed != self.closed:
            if any(level != 0 for level in self.on.values()):
                self.panel.count("hot_switched")
            self.clock.spend(self.times.relay_s)
            news = closed - self.closed
            self.closures.update(news)
            self.panel.count("closures", len(news))
            self.closed = closed
            if any(len(found) > 1 for found in self._lines().values()):
                self.panel.count("shorted_terminals")

    def _lines(self) -> dict[int, list[Terminal]]:
        """Terminals on every matrix column."""
        found: dict[int, list[Terminal]] = {}
        for name in sorted(self.closed):
            slot, row, column = name[0], name[1], int(name[2:])
            if int(slot) == self.wiring.slot and row in self.wiring.terminals:
                found.setdefault(column, []).append(self.wiring.terminals[row])
        return found

    def legs(self) -> list[Leg]:
        """All groups of cells between two terminals that are alive; none while the probes do not touch."""
        if not self.contact or self.die in self.wafer.settings.no_contact:
            return []
        lines = self._lines()
        alive = {"ground", *self.on}
        rows = [[t for t in lines.get(column, []) if t in alive] for column in self.wiring.row_columns]
        cols = [[t for t in lines.get(column, []) if t in alive] for column in self.wiring.col_columns]
        info = self.array.info
        masks: dict[tuple[Terminal, Terminal], Tensor] = {}
        for r, at_row in enumerate(rows[: info.rows]):
            for c, at_col in enumerate(cols[: info.cols]):
                if at_row and at_col and at_row[0] != at_col[0]:
                    key = (at_row[0], at_col[0])
                    masks.setdefault(key, torch.zeros(1, info.rows, info.cols, dtype=torch.bool))[0, r, c] = True
        return [Leg(row, col, mask) for (row, col), mask in masks.items()]

    @property
    def array(self) -> EmulatedArray:
        """The crossbar under the probes."""
        array = self.wafer.array(self.die, self.site)
        if self.wafer.settings.array.clock.relax_s is not None:
            gone_s = self.clock.device_s - self._seen_s.get((self.die, self.site), 0.0)
            self._seen_s[(self.die, self.site)] = self.clock.device_s
            array.idle(max(0.0, gone_s))
        return array

    def level(self, leg: Leg) -> float:
        """DC voltage over the cells of a leg, volt."""
        return self.on.get(leg.row, 0.0) - self.on.get(leg.col, 0.0)

    def conductance(self, mask: Tensor) -> float:
        """Sum over masked cells, siemens."""
        return float(self.array.read(mask)[mask].double().sum())

    def play(self, leg: Leg, program: list[Pulses]) -> list[float]:
        """Apply pulses to the cells of a leg, and return their summed conductance at every reading, siemens."""
        found: list[float] = []
        pending: list[Pulses] = []
        threshold_v = self.wafer.settings.threshold_v
        for item in (one if abs(one.volt) >= threshold_v else replace(one, count=0) for one in program):
            differs = item.count and _has_other_shape(item, pending)
            if differs or sum(p.count for p in pending) + item.count > _CHUNK:
                found += self._play_alike(leg, pending)
                pending = []
            pending.append(item)
        return found + self._play_alike(leg, pending)

    def _play_alike(self, leg: Leg, program: list[Pulses]) -> list[float]:
        """The same for pulses of one shape (one voltage per polarity, one width): a single trace."""
        array, law = self.array, self.wafer.settings.array.law
        real = [item for item in program if item.count]
        total = sum(item.count for item in real)
        self.panel.count("pulses", total * int(leg.mask.sum()))
        before = self.conductance(leg.mask)
        if not real:
            return [before for item in program if item.read_v is not None]
        up = [item.volt for item in real if item.volt > 0]
        down = [item.volt for item in real if item.volt < 0]
        shape = PulseShape(up[0] if up else law.up_v, down[0] if down else law.down_v, real[0].width_s)
        if not any(item.read_v is not None for item in program):
            for item in real:
                array.pulse(leg.mask.to(torch.int32) * (item.count if item.volt > 0 else -item.count), shape)
            return []
        signs = [sign for item in real for sign in [1 if item.volt > 0 else -1] * item.count]
        traced = array.trace(torch.tensor(signs, dtype=torch.int8), leg.mask, shape)
        after = traced[leg.mask].double().sum(dim=0)
        seen, done = [], 0
        for item in program:
            done += item.count
            if item.read_v is not None:
                seen.append(float(after[done - 1]) if done else before)
        return seen

    def truth(self) -> dict[str, Any]:
        """Everything that only the world knows."""
        with self.lock:
            return {
                "dies": self.wafer.truth(), "closures": dict(self.closures), "closed": sorted(self.closed),
                "touchdowns": dict(self.touchdowns), "die": list(self.die), "site": self.site,
                "contact": self.contact, "on": dict(self.on),
            }  # fmt: skip


def _has_other_shape(item: Pulses, pending: list[Pulses]) -> bool:
    """Whether ``item`` needs another pulse shape than the pulses pending, which all agree."""
    last = next((one for one in reversed(pending) if one.count), None)
    if last is None or (last.volt, last.width_s) == (item.volt, item.width_s):
        return False
    alike = next((one for one in reversed(pending) if one.count and (one.volt > 0) == (item.volt > 0)), None)
    return last.width_s != item.width_s or (alike is not None and alike.volt != item.volt)
