"""A recording backend: what would a procedure do to a board, how long would it take, what would it wear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hil.backend import (
    ArrayInfo,
    Costs,
    Direction,
    PulseShape,
    check_counts,
    check_mask,
    check_per_array,
    check_polarity,
    check_trains,
)
from hil.compiled import compile_pulses, compile_trace, compile_update
from hil.encoding import PulseTrain
from hil.errors import ShapeError
from hil.records import Array
from hil.supposed import SupposedCells

__all__ = ["DryRun", "DryRunSummary"]


_UNKNOWN = Costs()


@dataclass(frozen=True)
class DryRunSummary:
    """What a procedure asked of a board. Voltages are magnitudes; NaN where nothing of the kind was asked."""

    operations: dict[str, int]
    """Calls by verb."""
    reads: int
    """Readings of cells, averages and the driven lines of products counted."""
    vectors: int
    """Matrix-vector products."""
    pulses_up: int
    pulses_down: int
    pulses_per_cell_max: int
    """Of the cell that got most."""
    pulses_per_cell_mean: float
    passes: int
    """Array-wide pulse passes: how often an unselected cell would have been half-selected at most."""
    closures: int
    """Relay closures."""
    seconds: float
    """Estimated device time, without the link's."""
    up_v_max: float
    down_v_max: float
    width_s_max: float
    read_v_max: float


class DryRun:
    """An ArrayBackend without devices; one clock (``idle`` takes no time), no state, and a reference if the board has one.

    cells: what the bench supposes of its cells, which start at ``g_siemens`` and move accordingly; None: every cell has
    ``g_siemens``, whatever is done to it. costs: what the board says of its operations.
    Attributes: up, down, reads, int64 [array row col] each.
    """

    def __init__(
        self,
        info: ArrayInfo,
        g_siemens: float = 100e-6,
        cells: SupposedCells | None = None,
        costs: Costs = _UNKNOWN,
    ) -> None:
        self.info = info
        size = (info.arrays, info.rows, info.cols)
        self.up, self.down, self.reads = (np.zeros(size, dtype=np.int64) for _ in range(3))
        self._g = torch.full(size, g_siemens)
        self._cells = cells
        self._reference = torch.full(size, info.g_mid_siemens if info.reference == "mid" else 0.0)
        self._costs = costs
        self._operations: dict[str, int] = {}
        self._passes = self._vectors = self._closures = 0
        self._seconds = 0.0
        self._highest: dict[str, float] = {}
        if info.reference == "cell":
            self.__dict__["set_reference"] = self._set_reference

    def summary(self) -> DryRunSummary:
        """What has been asked so far."""
        pulses = self.up + self.down
        return DryRunSummary(
            operations=dict(self._operations),
            reads=int(self.reads.sum()),
            vectors=self._vectors,
            pulses_up=int(self.up.sum()),
            pulses_down=int(self.down.sum()),
            pulses_per_cell_max=int(pulses.max(initial=0)),
            pulses_per_cell_mean=float(pulses.mean()),
            passes=self._passes,
            closures=self._closures,
            seconds=self._seconds,
            **{f"{name}_max": self._highest.get(name, math.nan) for name in ("up_v", "down_v", "width_s", "read_v")},
        )

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        """Conductances where the mask is true."""
        check_mask(mask, self.info)
        self._count("read")
        self._read(mask, averages, self._costs.read_s)
        self._address(int(mask.sum()))
        return torch.where(mask.cpu(), self._g, math.nan)

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        """The product with equal conductances, less the board's reference."""
        lines, outputs = (self.info.rows, self.info.cols) if direction == "forward" else (self.info.cols, self.info.rows)
        if volts.dim() != 3 or volts.shape[0] != self.info.arrays or volts.shape[2] != lines:
            raise ShapeError(f"mvm: volts {list(volts.shape)}: needs [{self.info.arrays} sample {lines}]")
        self._count("mvm")
        on = torch.ones(self.info.arrays, dtype=torch.bool) if active is None else active.cpu()
        volts = volts.cpu() * on[:, None, None]
        self._note("read_v", float(volts.abs().max()) if volts.numel() else 0.0)
        at_once = (self.info.rows_at_once, self.info.cols_at_once)
        drive, sense = at_once if direction == "forward" else at_once[::-1]
        self._vectors += volts.shape[1] * int(on.sum())
        steps = math.ceil(lines / (drive or lines)) * math.ceil(outputs / (sense or outputs))
        self._seconds += volts.shape[1] * steps * self._costs.mvm_s
        times = (volts != 0).sum(dim=1).numpy()
        self.reads += times[:, :, None] if direction == "forward" else times[:, None, :]
        g = self._g - self._reference
        current: Tensor = torch.bmm(volts, g if direction == "forward" else g.transpose(1, 2))
        return current

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        """Counted."""
        check_counts(counts, self.info)
        cells = compile_pulses(counts)
        self._pulse("pulse", cells, int(cells.sum()), shape)
        self._move(cells)

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        """Counted."""
        check_mask(mask, self.info)
        check_polarity(polarity, every)
        cells = compile_trace(polarity, mask)
        self._pulse("trace", cells, int(cells.sum()), shape)
        reads = len(polarity) // every
        self._read(mask, reads, self._costs.read_s if self._costs.trace_read_s is None else self._costs.trace_read_s)
        here = mask.cpu()
        if self._cells is None:
            return torch.where(here, self._g, math.nan)[..., None].repeat(1, 1, 1, reads)
        end, seen = self._cells.traced(self._g, polarity.cpu(), every)
        self._g = torch.where(here, end, self._g)
        return torch.where(here[..., None], seen, math.nan)

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        """Counted, coincidence by coincidence; a board without parallel update takes one cell after the other."""
        check_trains(rows, cols, self.info)
        cells, passes = compile_update(rows, cols, active)
        self._pulse("update", cells, passes if self.info.parallel_update else int(cells.sum()), shape)
        self._move(cells)

    def idle(self, seconds: float) -> None:
        """Counted as time."""
        self._count("idle")
        self._seconds += seconds

    def safe(self) -> bool:
        """True: nothing is energised."""
        return True

    def status(self) -> dict[str, Any]:
        """Says that this is a dry run, and what has been asked so far."""
        return {"dry_run": True, "operations": dict(self._operations), "seconds": self._seconds}

    def close(self) -> None:
        """Nothing to let go of."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _set_reference(self, g_siemens: Tensor) -> None:
        self._count("set_reference")
        self._reference = torch.where(g_siemens.isnan(), self._reference, g_siemens)

    def _move(self, cells: Array) -> None:
        if self._cells is not None:
            self._g = self._cells.pulsed(self._g, torch.from_numpy(cells[0]), torch.from_numpy(cells[1]))

    def _count(self, verb: str) -> None:
        self._operations[verb] = self._operations.get(verb, 0) + 1
        self._seconds += self._costs.operation_s

    def _note(self, name: str, value: float | tuple[float, ...]) -> None:
        sizes = [abs(one) for one in (value if isinstance(value, tuple) else (value,))]
        self._highest[name] = max(self._highest.get(name, 0.0), *sizes)

    def _address(self, cells: int) -> None:
        self._closures += cells * self._costs.closures_per_cell
        self._seconds += cells * self._costs.cell_s

    def _read(self, mask: Tensor, times: int, each_s: float) -> None:
        count: Array = mask.cpu().numpy().astype(np.int64) * times
        self.reads += count
        self._seconds += int(count.sum()) * each_s

    def _pulse(self, verb: str, cells: Array, passes: int, shape: PulseShape) -> None:
        check_per_array(shape, self.info)
        self._count(verb)
        self.up += cells[0]
        self.down += cells[1]
        self._passes += passes
        self._address(int((cells.sum(axis=0) > 0).sum()))
        width_s = max(shape.width_s) if isinstance(shape.width_s, tuple) else shape.width_s
        self._seconds += passes * (width_s + self._costs.gap_s)
        for name in ("up_v", "down_v", "width_s"):
            self._note(name, getattr(shape, name))
