"""A board of emulated devices that says it is physical, with one thing wrong about it; and how to put a check to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import torch
from torch import Tensor

from hil.backend import ArrayInfo, Direction, PulseShape, Range
from hil.config import BenchConfig
from hil.encoding import PulseTrain
from hil.errors import HardwareError
from hil.guard import EmulatedGuard
from hil.plugins import Wanted, find
from hil.testing.block import Block, block_on
from hil.testing.opened import OpenedBench
from hil.testing.targets import Target
from simulated_backend.array import EmulatedArray
from simulated_backend.settings import EmulatorSettings

__all__ = ["FAULTS", "FaultyBoard", "Put", "outcome", "put"]

SIDE = 6
READ_NOISE = 2e-8
"""Siemens; MVM_NOISE_A in ampere. What the boards here state of themselves."""
MVM_NOISE_A = 2e-7


@dataclass
class FaultyBoard:
    """``inner`` behind the verbs, each of which ``fault`` may spoil; counted: whether its status counts pulses."""

    inner: EmulatedArray
    fault: str = ""
    counted: bool = True
    number: int = 0
    held: bool = False

    def __post_init__(self) -> None:
        span = Range(-float("inf"), float("inf")) if self.fault == "no range" else Range(-2.0, 2.0)
        serial = f"faulty-{id(self)}" if self.fault == "another serial" else "faulty"
        self.info: ArrayInfo = replace(
            self.inner.info, physical=True, pulse_v=span, width_s=Range(1e-7, 1e-3), serial=serial, read_levels=0
        )

    def _mask(self, mask: Tensor) -> Tensor:
        return mask.transpose(1, 2) if self.fault == "transposed mask" else mask

    def _left(self, counts: Tensor) -> Tensor:
        """What is left of pulses, int [array row col], after every hundredth one is lost (or comes twice)."""
        if self.fault not in ("lost pulses", "doubled pulses"):
            return counts
        size = counts.abs().flatten().cumsum(0) + self.number
        before = torch.cat([torch.tensor([self.number]), size[:-1]])
        self.number = int(size[-1])
        hit = (size // 100 - before // 100).view_as(counts).to(counts.dtype) * counts.sign()
        return counts - hit if self.fault == "lost pulses" else counts + hit

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        g = self.inner.read(self._mask(mask), averages)
        if self.fault == "zero outside the mask":
            return g.nan_to_num(0.0)
        return 1.1 * g if self.fault == "reads 10 % high" else g

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        if self.fault == "backward is forward":
            return self.inner.mvm(volts, "forward", active)
        current = self.inner.mvm(volts, direction, active)
        if self.fault == "offset":
            return current + 1e-6
        if self.fault == "compressed":
            return 2e-5 * torch.tanh(current / 2e-5)
        return current * {"wrong sign": -1.0, "gain": 1.05}.get(self.fault, 1.0)

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        if self.fault == "transposed mask":
            counts = counts.transpose(1, 2).contiguous()
        if self.fault == "polarity":
            counts = -counts
        self.inner.pulse(self._left(counts), shape)
        if self.fault == "half-select disturb":
            near = (counts != 0).any(dim=1, keepdim=True) & (counts == 0)
            self.inner.pulse((near * counts.abs().amax() * 2 // 3).to(torch.int32), shape)

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        if self.fault == "trace without every third pulse":
            self.inner.trace(polarity, mask & False, shape, every)
            kept = torch.where(torch.arange(len(polarity)) % 3 == 2, 0, polarity)
            reads = [self._step(int(sign), mask, shape) for sign in kept]
            return torch.stack(reads[every - 1 :: every], dim=-1)
        return self.inner.trace(polarity, self._mask(mask), shape, every)

    def _step(self, sign: int, mask: Tensor, shape: PulseShape) -> Tensor:
        self.inner.pulse(sign * mask.to(torch.int32), shape)
        return self.inner.read(mask)

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        if self.fault == "active ignored":
            active = None
        if self.fault == "unsigned update":
            rows, cols = (replace(train, sign=train.sign.abs()) for train in (rows, cols))
        for _ in range(2 if self.fault == "update twice" else 1):
            self.inner.update(rows, cols, shape, active)

    def safe(self) -> bool:
        return self.fault != "not grounded"

    def status(self) -> dict[str, Any]:
        said = self.inner.status() if self.counted else {}
        return {**said, "read_noise_siemens": READ_NOISE, "mvm_noise_a": MVM_NOISE_A}

    def close(self) -> None:
        if self.fault == "closed once" and not self.held:
            raise HardwareError("faulty: closed before: leave it")
        self.held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class FaultyPlugin:
    """Opens the board with a fault; one at a time, unless that is the fault."""

    settings = EmulatorSettings

    def __init__(self, fault: str, counted: bool) -> None:
        self.fault, self.counted = fault, counted
        self.open_one: FaultyBoard | None = None

    def elastic(self, settings: EmulatorSettings) -> bool:
        return False

    def open(self, settings: EmulatorSettings, wanted: Wanted) -> FaultyBoard:
        if self.open_one is not None and self.open_one.held and self.fault != "opened twice":
            raise HardwareError("faulty: another harness has this board open: wait for it or stop it")
        array = EmulatedArray(settings, SIDE, SIDE, seed=wanted.seed, ids=wanted.ids, name=wanted.name)
        self.open_one = FaultyBoard(array, self.fault, self.counted, held=True)
        return self.open_one


def config(noise: float) -> BenchConfig:
    """A bench with that board. Devices of 150 states; a cell and a row excluded; noise: times what the board states."""
    periphery = {
        "dac_bits": 0, "adc_bits": 12, "full_scale": 40.0, "reference": "none",
        "read_noise_siemens": noise * READ_NOISE, "out_noise": noise * MVM_NOISE_A / 1e-5,
    }  # fmt: skip
    pulse = {"board": "main", "up_v": 1.0, "down_v": -1.0, "width_s": 1e-6}
    limits = {
        "up_v_max": 1.2, "down_v_max": 1.2, "width_s_max": 1e-5, "half_select_v_max": 0.6, "read_v_max": 0.2,
        "pulses_per_cell_max": 10**6, "pulses_per_operation_max": 60, "excluded_cells": [[1, 1]], "excluded_rows": [0],
    }  # fmt: skip
    settings = {"rows": SIDE, "cols": SIDE, "device": {"dw_min": 1.2 / 150}, "periphery": periphery}
    return BenchConfig.model_validate(
        {
            "name": "faulty", "seed": 3, "boards": {"main": {"backend": "faulty", "settings": settings, "limits": limits}},
            "roles": {"c": pulse},
            "nominal": {"g_min_siemens": 70e-6, "g_max_siemens": 130e-6, "states": 150},
        }
    )  # fmt: skip


@dataclass
class Put:
    """What checks ask for."""

    opened: OpenedBench
    closing: ExitStack
    budget: int = 10_000
    block: Block | None = None
    """Of the last check."""

    def arguments(self, check: Callable[..., None]) -> list[dict[str, Any]]:
        """Arguments of a check; one set for each direction where it takes one."""
        self.block = block_on(self.opened.bench, "main", self.budget)
        everything = {
            "block": self.block, "bench": self.block.bench, "board": "main", "ledger": self.opened.ledger,
            "hil_opened": self.opened, "reopen": partial(self.opened.reopened, self.closing),
        }  # fmt: skip
        taken = inspect.signature(check).parameters
        given = {name: value for name, value in everything.items() if name in taken}
        return [{**given, "direction": d} for d in ("forward", "backward")] if "direction" in taken else [given]


@contextmanager
def put(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str = "", counted: bool = True) -> Iterator[Put]:
    """A bench with a faulty board, opened; "" is a sound one."""
    plugin = FaultyPlugin(fault, counted)
    monkeypatch.setattr("hil.bench.find", lambda group, name: plugin if name == "faulty" else find(group, name))
    if fault == "not refused":
        monkeypatch.setattr("hil.bench.guard", lambda inner, *_: _Unguarded(inner, None, "main"))
    opened = OpenedBench(Target(str(folder / "faulty.toml"), True, config(3.0 if fault == "noise" else 1.0)), folder)
    with ExitStack() as closing:
        closing.callback(opened.close)
        yield Put(opened, closing)


class _Unguarded(EmulatedGuard):
    """Refuses nothing."""

    def _check(self, shape: PulseShape) -> None:
        pass


def outcome(made: Put, check: Callable[..., None]) -> str:
    """ "passed", "skipped", or what the check says."""
    for arguments in made.arguments(check):
        try:
            check(**arguments)
        except pytest.skip.Exception:
            return "skipped"
        # A check may meet any error of a board.
        except (Exception, pytest.fail.Exception) as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
    return "passed"


FAULTS = {
    "wrong sign": "test_a_product_matches_the_conductances_read_back",
    "gain": "test_a_product_matches_the_conductances_read_back",
    "reads 10 % high": "test_a_product_matches_the_conductances_read_back",
    "backward is forward": "test_a_product_matches_the_conductances_read_back",
    "offset": "test_a_product_is_linear",
    "compressed": "test_a_product_is_linear",
    "lost pulses": "test_pulses_are_counted_one_by_one",
    "doubled pulses": "test_pulses_are_counted_one_by_one",
    "transposed mask": "test_pulses_move_the_cells_they_are_meant_for",
    "zero outside the mask": "test_read_masks",
    "polarity": "test_pulses_move_the_cells_they_are_meant_for",
    "half-select disturb": "test_pulses_move_the_cells_they_are_meant_for",
    "trace without every third pulse": "test_a_trace_is_pulses_and_reads",
    "update twice": "test_update_moves_cells_like_pulses",
    "unsigned update": "test_update_gives_every_cell_its_coincidences",
    "active ignored": "test_inactive_lines_and_arrays_are_left_alone",
    "not refused": "test_pulses_outside_the_limits_are_refused",
    "no range": "test_info_is_coherent",
    "noise": "test_noise_is_as_stated",
    "not grounded": "test_safe_is_confirmed_and_the_board_answers_after_it",
    "another serial": "test_closing_twice_and_opening_again",
    "closed once": "test_closing_twice_and_opening_again",
    "opened twice": "test_a_board_is_opened_once",
}
"""Fault -> a check that must find it."""
