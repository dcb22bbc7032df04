"""A bench with a physical board of 10 x 6 cells, and ways to run the command on it."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hil.execute
from hil.cli import main
from hil.ledger import Ledger
from hil.run_reader import RunReader

BENCH = """
name = "lab"
seed = 4
[boards.main]
backend = "physical"
[boards.main.settings]
rows = {rows}
cols = {cols}
[boards.main.settings.device]
model = "soft_bounds"
dw_min = 0.02
{limits}
[roles.a]
board = "main"
up_v = 1.0
down_v = -1.0
width_s = 1e-6
[roles.c]
board = "main"
up_v = 1.0
down_v = -1.0
width_s = 1e-6
[nominal]
g_min_siemens = 70e-6
g_max_siemens = 130e-6
states = 60
"""
LIMITS = """
[boards.main.limits]
up_v_max = 1.2
down_v_max = 1.2
width_s_max = 1e-5
half_select_v_max = 0.6
read_v_max = 0.3
pulses_per_cell_max = 1000000
pulses_per_operation_max = 10000
"""
TRAIN = {
    "pool": "4", "classes": "[0,1]", "hidden": "[]", "limit": "12", "epochs": "2", "lr_a": "0.1", "lr_c": "0.2",
    "train_on": "train",
}  # fmt: skip
"""A network of one layer, 4 inputs and 2 outputs, 12 steps an epoch, a transfer at every step."""


def _module() -> ModuleType:
    path = Path(__file__).with_name("physical_board.py")
    spec = importlib.util.spec_from_file_location("physical_board", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["physical_board"] = made
    spec.loader.exec_module(made)
    return made


@dataclass
class Lab:
    """A bench file, its board, its runs."""

    folder: Path
    plugin: Any

    @property
    def board(self) -> Any:
        assert self.plugin.board is not None
        return self.plugin.board

    @property
    def bench(self) -> str:
        return str(self.folder / "lab.toml")

    @property
    def runs(self) -> list[Path]:
        """Oldest first."""
        return sorted((path.parent for path in self.folder.glob("runs/*/run.sqlite")), key=lambda p: p.stat().st_ctime_ns)

    def write(self, limits: str = LIMITS, rows: int = 10, cols: int = 6) -> None:
        (self.folder / "lab.toml").write_text(BENCH.format(limits=limits, rows=rows, cols=cols))

    def exclude(self, cells: str) -> None:
        """The same bench with cells that may not be pulsed."""
        self.write(LIMITS + cells)

    def arguments(self, verb: str, *more: str, **options: str) -> list[str]:
        """``hil VERB lab.toml`` with options of the verb."""
        changes = [part for key, value in options.items() for part in ("-s", f"{verb}.{key}={value}")]
        return [verb, self.bench, "--runs", str(self.folder / "runs"), *changes, *more]

    def hil(self, verb: str, *more: str, **options: str) -> int:
        return main(self.arguments(verb, *more, **options))

    def train_arguments(self, **options: str) -> list[str]:
        return self.arguments("train", **{**TRAIN, "reference_a": "mid", "reference_c": "mid", **options})

    def train(self, **options: str) -> int:
        return main(self.train_arguments(**options))

    def resume(self) -> int:
        return main(["train", "--runs", str(self.folder / "runs"), "--resume", str(self.runs[-1])])

    def record(self) -> RunReader:
        """Of the last run."""
        return Ledger.open(self.runs[-1])


@pytest.fixture
def physical_board() -> ModuleType:
    return sys.modules.get("physical_board") or _module()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, physical_board: ModuleType) -> Lab:
    made = Lab(tmp_path, physical_board.PhysicalPlugin())
    physical_board.install(monkeypatch, made.plugin)
    # Reports have tests of their own, and take longer than these runs.
    monkeypatch.setattr(hil.execute, "make_report", lambda folder: None)
    made.write()
    return made
