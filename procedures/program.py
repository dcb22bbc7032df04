"""Program a matrix: write-verify to target weights, and say which cells got there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hil.bench import Bench
from hil.encoding import Stream, uniform, word
from hil.errors import DataError
from hil.known import known_devices
from hil.ledger import Ledger
from hil.procedure import Procedure
from hil.programming import ProgramLimits, Programmed, program_conductance
from hil.records import Array
from hil.report.figures import draw_histogram, draw_map
from hil.report.section import Figure, Section, Table
from hil.run_reader import RunReader
from hil.tile import Tile

__all__ = ["ProgramConfig", "ProgramResult", "procedure", "program"]


class ProgramConfig(BaseModel):
    """``-s program.KEY=VALUE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(default=32, ge=1)
    """Inputs of the matrix."""
    cols: int = Field(default=32, ge=1)
    """Outputs of the matrix."""
    role: Literal["a", "c"] = "c"
    targets: Path | None = None
    """A .npy file of weights [row col]; default: drawn uniformly from the middle 60 % of each cell's known range."""
    reference: Literal["sp", "mid"] = "mid"
    tolerance_steps: float = Field(default=0.6, gt=0)
    max_states: float = Field(default=2.0, gt=0)
    max_rounds: int = Field(default=60, ge=1)


@dataclass(frozen=True)
class ProgramResult:
    """What programming came to; errors in steps, over cells that are neither unreachable nor stuck."""

    programmed: Programmed
    rms_steps: float
    success: float
    unreachable: int
    stuck: int
    pulses_mean: float


def program(bench: Bench, config: ProgramConfig, ledger: Ledger) -> ProgramResult:
    """Place a matrix, program it, record the maps. The matrix is called ``probe.ROLE``, like what characterize measures."""
    place = bench.place(f"probe.{config.role}", config.role, config.rows, config.cols)
    known = known_devices(place, bench.arrays, bench.calibrations, config.reference, bench.name)
    tile = Tile(place, known, bench.config.seed, bench.ids)
    limits = ProgramLimits(config.tolerance_steps, config.max_states, config.max_rounds)
    target = _targets(bench, config, tile)
    done = program_conductance(tile, target, limits)
    usable = ~(done.unreachable | done.stuck)
    steps = done.error_siemens / known.step_siemens.float()
    rms = float(steps[usable].square().mean().sqrt()) if bool(usable.any()) else float("nan")
    result = ProgramResult(
        done, rms, float(done.success.float().mean()), int(done.unreachable.sum()), int(done.stuck.sum()),
        float(done.pulses.float().mean()),
    )  # fmt: skip
    ledger.event(
        "programmed",
        {"matrix": place.name, "success": result.success, "rounds": done.rounds, "calibrated": known.measured},
        {
            "target_siemens": target, "error_siemens": done.error_siemens, "error_steps": steps, "success": done.success,
            "unreachable": done.unreachable, "stuck": done.stuck, "pulses": done.pulses,
        },
    )  # fmt: skip
    ledger.result("rms_error", rms, "step", "root mean square of the programming error, steps at the SP, usable cells")
    ledger.result("success", result.success, "1", f"cells within {config.tolerance_steps} steps of their target")
    ledger.result("unreachable", result.unreachable, "1", "cells whose target lies outside their known range")
    ledger.result("stuck", result.stuck, "1", "cells that do not answer pulses")
    ledger.result("pulses_mean", result.pulses_mean, "1", "pulses spent on a cell, mean")
    return result


def _targets(bench: Bench, config: ProgramConfig, tile: Tile) -> Tensor:
    known = tile.known
    if config.targets is None:
        key = Stream(bench.config.seed, bench.ids, tile.place.name, "targets").keys(1)
        u = uniform(word(key, torch.arange(config.rows * config.cols, dtype=torch.int32), 0)).view(known.g_min.shape)
        return (known.g_min + (0.2 + 0.6 * u) * (known.g_max - known.g_min)).float()
    try:
        weights = torch.from_numpy(np.load(config.targets, allow_pickle=False)).float()
    except (OSError, ValueError) as exc:
        raise DataError(f"{config.targets}: is no .npy file of weights ({exc}): save one with numpy.save") from exc
    if tuple(weights.shape) != (config.rows, config.cols) or not bool(weights.isfinite().all()):
        raise DataError(
            f"{config.targets}: weights {list(weights.shape)} must be finite and [{config.rows} {config.cols}] [row col]: "
            "correct the file, or program.rows and program.cols"
        )
    scale = known.siemens_per_weight.float()[:, None, None]
    return weights.expand(bench.arrays, -1, -1) * scale + tile.reference


def program_sections(run: RunReader) -> list[Section]:
    """Error histogram and map of every programmed matrix."""
    sections = []
    for event in run.events("programmed"):
        arrays = run.arrays(event.number)
        if "error_steps" not in arrays:
            continue
        error = arrays["error_steps"]
        usable = ~(arrays["unreachable"] | arrays["stuck"])
        name = event.payload["matrix"]
        histogram = partial(_draw_error, error=error[usable])
        shown = partial(_draw_map, error=np.where(usable, error, np.nan)[0])
        figures = (
            Figure(f"{name}-error", "Programming error of cells that can reach their target, in steps.", histogram),
            Figure(f"{name}-map", "Programming error of the first array, in steps; unusable cells in grey.", shown),
        )
        rows = tuple((label, str(int(arrays[label].sum()))) for label in ("success", "unreachable", "stuck"))
        table = Table("Cells by outcome", ("outcome", "cells"), rows)
        sections.append(Section(f"Programming {name}", f"{event.payload['rounds']} rounds of reads.", figures, (table,)))
    return sections


def _draw_error(fig: Any, error: Array) -> None:
    draw_histogram(fig, {"error": error}, "error (steps at the symmetry point)")


def _draw_map(fig: Any, error: Array) -> None:
    draw_map(fig, error, "error (steps)", signed=True)


procedure = Procedure("program", ProgramConfig, program, "write a matrix by write-verify", program_sections)
"""The entry point."""
