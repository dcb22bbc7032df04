"""A board that says that it is physical: emulated devices, a count of everything that reaches it, faults on request.

Also a program, for tests that kill it: ``python physical_board.py FOLDER KILL_AT ARGUMENT...`` runs ``hil ARGUMENT...`` with
a board that lives in FOLDER and is killed right after the devices got operation KILL_AT (0 = never).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch import Tensor

from hil.backend import ArrayInfo, Direction, PulseShape
from hil.cli import main
from hil.compiled import compile_pulses, compile_trace, compile_update
from hil.encoding import PulseTrain
from hil.plugins import Wanted, find
from simulated_backend.array import EmulatedArray
from simulated_backend.settings import EmulatorSettings

__all__ = ["PhysicalBoard", "PhysicalPlugin"]

PULSING = ("pulse", "trace", "update")


@dataclass
class PhysicalBoard:
    """``inner`` behind the verbs. Pulsing operations are numbered from 1, over all openings of the board.

    faults: before=True raises instead of operation k, else after the devices got it. sent: (number, verb, pulses per cell
    [2 array row col]) of every operation that reached the devices. folder: where the devices outlive the process.
    """

    inner: EmulatedArray
    folder: Path | None = None
    verbs: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    sent: list[tuple[int, str, Any]] = field(default_factory=list)
    number: int = 0
    before: dict[int, BaseException | Callable[[], None]] = field(default_factory=dict)
    after: dict[int, BaseException | Callable[[], None]] = field(default_factory=dict)
    at_barrier: dict[int, BaseException] = field(default_factory=dict)
    """Raised by the first read or product after operation k, as of a posted operation."""
    confirms: bool = True

    def __post_init__(self) -> None:
        self.info: ArrayInfo = replace(self.inner.info, physical=True, model="physical array")
        if self.folder is not None and (self.folder / "devices.pt").exists():
            saved = torch.load(self.folder / "devices.pt", weights_only=True)
            self.number = int(saved.pop("number"))
            self.inner.load_state_dict(saved)

    @property
    def up(self) -> Any:
        """Pulses that reached the devices, int64 [array row col]."""
        return self._count(0)

    @property
    def down(self) -> Any:
        return self._count(1)

    def _count(self, side: int) -> Any:
        zero = np.zeros((self.info.arrays, self.info.rows, self.info.cols), dtype=np.int64)
        return sum((cells[side] for *_, cells in self.sent), zero)

    @property
    def pulsed(self) -> int:
        """Pulsing operations that were asked of it."""
        return sum(self.verbs.get(verb, 0) for verb in PULSING)

    def _note(self, verb: str) -> None:
        self.verbs[verb] = self.verbs.get(verb, 0) + 1
        self.order.append(verb)

    def _apply(self, verb: str, cells: Any, call: Callable[[], Any]) -> Any:
        self._note(verb)
        if not cells.any():
            return call()
        self.number += 1
        _happen(self.before, self.number)
        result = call()
        self.sent.append((self.number, verb, cells))
        if self.folder is not None:
            with (self.folder / "sent.jsonl").open("a") as log:
                log.write(json.dumps([self.number, verb, cells.tolist()]) + "\n")
            torch.save({**self.inner.state_dict(), "number": self.number}, self.folder / "devices.tmp")
            (self.folder / "devices.tmp").replace(self.folder / "devices.pt")
        _happen(self.after, self.number)
        return result

    def _barrier(self, verb: str) -> None:
        self._note(verb)
        _happen(self.at_barrier, self.number)

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        self._barrier("read")
        return self.inner.read(mask, averages)

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        self._barrier("mvm")
        return self.inner.mvm(volts, direction, active)

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        self._apply("pulse", compile_pulses(counts), lambda: self.inner.pulse(counts, shape))

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        cells = compile_trace(polarity, mask)
        traced: Tensor = self._apply("trace", cells, lambda: self.inner.trace(polarity, mask, shape, every))
        return traced

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        cells, _ = compile_update(rows, cols, active)
        self._apply("update", cells, lambda: self.inner.update(rows, cols, shape, active))

    def set_reference(self, g_siemens: Tensor) -> None:
        self._note("set_reference")
        self.inner.set_reference(g_siemens)

    def idle(self, seconds: float) -> None:
        self.inner.idle(seconds)

    def safe(self) -> bool:
        self._note("safe")
        return self.confirms

    def status(self) -> dict[str, Any]:
        self._note("status")
        return self.inner.status()

    def close(self) -> None:
        self._note("close")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _happen(faults: Any, number: int) -> None:
    fault = faults.pop(number, None)
    if isinstance(fault, BaseException):
        raise fault
    if fault is not None:
        fault()


class PhysicalPlugin:
    """Opens the same board every time: its devices stay what they are."""

    settings = EmulatorSettings

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.board: PhysicalBoard | None = None

    def elastic(self, settings: EmulatorSettings) -> bool:
        return False

    def open(self, settings: EmulatorSettings, wanted: Wanted) -> PhysicalBoard:
        if self.board is None:
            assert settings.rows is not None
            assert settings.cols is not None
            array = EmulatedArray(settings, settings.rows, settings.cols, seed=wanted.seed, ids=wanted.ids, name=wanted.name)
            self.board = PhysicalBoard(array, self.folder)
        return self.board


def install(monkeypatch: pytest.MonkeyPatch, plugin: PhysicalPlugin) -> None:
    """Let bench files name it: ``backend = "physical"``."""
    monkeypatch.setattr("hil.bench.find", lambda group, name: plugin if name == "physical" else find(group, name))


if __name__ == "__main__":
    lasting = PhysicalPlugin(Path(sys.argv[1]))
    kill_at = int(sys.argv[2])
    opened = lasting.open

    def armed(settings: EmulatorSettings, wanted: Wanted) -> PhysicalBoard:
        board = opened(settings, wanted)
        board.after[kill_at] = lambda: os.kill(os.getpid(), signal.SIGKILL)
        return board

    lasting.open = armed  # type: ignore[method-assign]
    install(pytest.MonkeyPatch(), lasting)
    sys.exit(main(sys.argv[3:]))
