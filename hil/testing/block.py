"""A block of cells for the checks: small, clear of excluded cells, and with an account of the pulses it gets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from hil.backend import ArrayBackend, HasReference
from hil.bench import Bench
from hil.encoding import PulseTrain
from hil.errors import UsageError
from hil.guard import PhysicalGuard
from hil.limits import Limits
from hil.place import Surface
from hil.testing.sampling import pooled_variance

__all__ = ["SIDE", "Block", "Stated", "block_on"]

SIDE = 4
"""Rows and columns of a block, at most."""


@dataclass(frozen=True)
class Stated:
    """What a board may say of its errors in ``status()``, under these names; None = not said."""

    read_noise_siemens: float | None = None
    """Standard deviation of one reading of one cell."""
    mvm_noise_a: float | None = None
    """Standard deviation of one sensed line of one product, before the ADC."""
    mvm_relative_error: float = 0.0
    """Largest systematic error of the current that a cell adds to a product, of that current."""


class Block:
    """``rows`` x ``cols`` of a board: verbs on these cells alone, [row col], conductances in float64.

    budget: pulses that a cell may get from it; a check that needs more is skipped. notes: what a check would catch.
    """

    def __init__(self, bench: Bench, board: str, surface: Surface, budget: int) -> None:
        self.bench, self.board, self.budget = bench, board, budget
        self.backend: ArrayBackend = surface.backend
        self.info, self.shape, self.nominal = surface.backend.info, surface.shape, surface.nominal
        self.role = "a" if surface.role == "a" else "c"
        self.limits: Limits | None = bench.config.boards[board].limits
        self.usable = surface.mask[0]
        self.rows, self.cols = _window(self.usable, board)
        self.size = (self.rows.stop - self.rows.start, self.cols.stop - self.cols.start)
        self.mask = self.on_board(torch.ones(self.size, dtype=torch.bool))
        # Cells above and below the diagonal: a mask that every confusion of rows and columns turns into the other.
        self.above = torch.ones(self.size, dtype=torch.bool).triu(1)
        self.below = torch.ones(self.size, dtype=torch.bool).tril(-1)
        self._given = torch.zeros(self.size, dtype=torch.int64)
        self.notes: list[str] = []

    @property
    def spent(self) -> int:
        """Most pulses that a cell got from it."""
        return int(self._given.max())

    @cached_property
    def states(self) -> int:
        """Nominal number of states of a cell."""
        states = self.nominal.states
        return int(states[0] if isinstance(states, tuple) else states)

    @cached_property
    def range_siemens(self) -> float:
        """Nominal range of a cell."""
        return self.nominal.g_max_siemens - self.nominal.g_min_siemens

    @property
    def step_siemens(self) -> float:
        """Nominal size of a pulse."""
        return self.range_siemens / self.states

    @cached_property
    def noise_siemens(self) -> float:
        """Standard deviation of one reading, measured: eight reads; never below what float32 rounds."""
        variance, _ = pooled_variance(self.reads(8))
        return max(math.sqrt(variance), 1e-7 * self.nominal.g_max_siemens)

    @property
    def moving(self) -> int:
        """Pulses that move a cell clearly: a twentieth of its states, ten at least, ten times the noise of a reading."""
        wanted = max(self.states / 20, 10, 10 * self.noise_siemens / self.step_siemens)
        return math.ceil(min(wanted, max(10, self.states / 4)))

    @property
    def stated(self) -> Stated:
        """What the board says of its errors."""
        said = self.backend.status()
        return Stated(**{name: said[name] for name in Stated.__dataclass_fields__ if name in said})

    @property
    def per_operation(self) -> int:
        """Pulses of a cell in one operation, at most."""
        return 2**20 if self.limits is None else self.limits.pulses_per_operation_max

    def on_board(self, cells: Tensor) -> Tensor:
        """[row col] of the block as [array row col] of the board, zero elsewhere."""
        whole = torch.zeros(1, self.info.rows, self.info.cols, dtype=cells.dtype)
        whole[0, self.rows, self.cols] = cells
        return whole

    def read(self, averages: int = 4) -> Tensor:
        """Conductances, float64 [row col] siemens."""
        return self.backend.read(self.mask, averages)[0, self.rows, self.cols].double()

    def reads(self, times: int, averages: int = 1) -> Tensor:
        """``times`` readings, float64 [time row col]."""
        return torch.stack([self.read(averages) for _ in range(times)])

    def need(self, pulses: float) -> None:
        """Skip unless a cell may get so many pulses from this check."""
        if pulses > self.budget:
            pytest.skip(f"needs {math.ceil(pulses)} pulses on a cell, --hil-pulses allows {self.budget}")

    def pulse(self, counts: Tensor) -> None:
        """Signed pulses, int [row col], in operations as long as the limits allow."""
        self._give(counts.abs())
        left = counts.to(torch.int32)
        while bool(left.any()):
            part = left.clamp(-self.per_operation, self.per_operation)
            self.backend.pulse(self.on_board(part), self.shape)
            left = left - part

    def trace(self, polarity: Tensor, every: int = 1, cells: Tensor | None = None) -> Tensor:
        """float64 [row col read], in operations as long as the limits allow; cells: bool [row col], default all."""
        chosen = torch.ones(self.size, dtype=torch.bool) if cells is None else cells
        self._give(chosen.long() * len(polarity))
        step = max(1, self.per_operation // every) * every
        parts = [
            self.backend.trace(polarity[k : k + step], self.on_board(chosen), self.shape, every)[0, self.rows, self.cols]
            for k in range(0, len(polarity), step)
        ]
        return torch.cat(parts, dim=-1).double()

    def update(self, rows: PulseTrain, cols: PulseTrain, counts: Tensor, active: Tensor | None = None) -> None:
        """Trains over the lines of the block, [1 sample line]; counts: pulses that each cell gets of them, [row col]."""
        self._give(counts.abs())
        placed = rows.placed(self.info.rows, self.rows.start), cols.placed(self.info.cols, self.cols.start)
        self.backend.update(*placed, self.shape, active)

    def centre(self) -> None:
        """Bring cells that are near an end of the nominal range to its middle, roughly: half as many pulses as states."""
        middle = self.nominal.g_mid_siemens
        for _ in range(4):
            away = (middle - self.read()) / self.step_siemens
            far = away.abs() > self.states / 6
            if not bool(far.any()):
                return
            self.pulse(torch.where(far, away.clamp(-self.states / 8, self.states / 8), 0.0).round().long())

    def set_zero(self) -> Tensor:
        """Conductance that reads as no current in a product, float64 [row col]; put low where the board lets one choose."""
        if self.info.reference == "cell":
            assert isinstance(self.backend, HasReference), 'info.reference = "cell" without set_reference'
            zero = torch.full(self.size, self.nominal.g_min_siemens)
            whole = torch.full((1, self.info.rows, self.info.cols), torch.nan)
            whole[0, self.rows, self.cols] = zero
            self.backend.set_reference(whole)
            return zero.double()
        mid = self.info.g_mid_siemens if self.info.reference == "mid" else 0.0
        return torch.full(self.size, mid, dtype=torch.float64)

    def counted(self) -> list[tuple[str, Tensor]]:
        """(who counts, pulses up and down, int64 [2 row col]): the guard on a physical board, and a board that says so."""
        found: list[tuple[str, Any]] = []
        if isinstance(self.backend, PhysicalGuard):
            wear = self.backend.wear.cells(self.info)
            found.append(("wear counters", (torch.from_numpy(wear.up), torch.from_numpy(wear.down))))
        said = self.backend.status()
        if "pulses_up" in said:
            found.append(("board", (torch.as_tensor(said["pulses_up"]), torch.as_tensor(said["pulses_down"]))))
        return [(who, torch.stack(pair).long()[:, 0, self.rows, self.cols]) for who, pair in found]

    def _give(self, pulses: Tensor) -> None:
        self._given += pulses.long()
        if self.spent > self.budget:
            raise UsageError(f"boards.{self.board}: {self.spent} pulses on a cell: --hil-pulses allows {self.budget}")


def block_on(bench: Bench, board: str, budget: int) -> Block:
    """A block of a board, or of a matrix of an elastic one; UsageError where no 2 x 2 cells may be used."""
    for surface in bench.surfaces(size=(SIDE, SIDE)):
        if bench.config.roles["a" if surface.role == "a" else "c"].board == board:
            return Block(bench, board, surface, budget)
    raise UsageError(f"bench {bench.name}: boards.{board} has no role: give it one in [roles]")


def _window(usable: Tensor, board: str) -> tuple[slice, slice]:
    """The first of the largest windows, at most SIDE x SIDE, of which every cell is usable."""
    rows, cols = usable.shape
    sizes = sorted(((h, w) for h in range(2, SIDE + 1) for w in range(2, SIDE + 1)), key=lambda size: -size[0] * size[1])
    for height, width in sizes:
        for row in range(rows - height + 1):
            for col in range(cols - width + 1):
                window = slice(row, row + height), slice(col, col + width)
                if bool(usable[window].all()):
                    return window
    raise UsageError(f"boards.{board}: no 2 x 2 cells without an excluded one: the conformance suite needs that many")
