"""``hil explain``: the two mechanisms of Tiki-Taka on asymmetric devices, predicted and measured side by side.

A: how long a gradient counts (``procedures.forgetting``). C: what share of a transfer is accepted
(``procedures.transfers``). With an exploration also the ridge (``procedures.ridge``). On an elastic emulated bench the
devices are made with the asymmetries of the options, and known; a board is measured as it is, on a small matrix, from its
calibration.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from hil.bench import Bench, open_bench
from hil.config import BenchConfig
from hil.errors import UsageError
from hil.procedure import Procedure
from hil.report.section import Table
from hil.report.values import number
from procedures.explain_report import explain_sections
from procedures.exploration import Exploration, find_exploration
from procedures.forgetting import Forgetting, measure_forgetting
from procedures.known_cells import KnownCells, only_region
from procedures.rate_contour import RateContour, find_contour
from procedures.ridge import Ridge, find_ridge
from procedures.transfers import Transfers, measure_transfers

__all__ = ["ExplainConfig", "ExplainResult", "MemoryPoint", "explain", "made_bench", "made_cells", "procedure"]

Alpha = Annotated[float, Field(gt=0, le=30)]
Count = Annotated[int, Field(ge=1)]


class MemoryPoint(BaseModel):
    """One device of A and one learning rate, on an emulated bench."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: Alpha
    states: float = Field(gt=2)
    """2 b_w / step: the step is 2 b_w / states."""
    gain: float = Field(gt=0, le=1)
    """lr_A / step: pulses of a cell for |x d| = 1."""


class ExplainConfig(BaseModel):
    """``-s explain.KEY=VALUE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: tuple[MemoryPoint, ...] = (
        MemoryPoint(alpha=4.0, states=200, gain=0.9), MemoryPoint(alpha=4.0, states=200, gain=0.4),
        MemoryPoint(alpha=1.0, states=200, gain=0.9), MemoryPoint(alpha=1.0, states=200, gain=0.4),
        MemoryPoint(alpha=1.0, states=1000, gain=0.9), MemoryPoint(alpha=0.4, states=1000, gain=0.9),
        MemoryPoint(alpha=0.2, states=1000, gain=0.9),
    )  # fmt: skip
    """Points on an emulated bench: together two decades of alpha_A lr_A."""
    alpha_c: tuple[Alpha, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """Asymmetries of C on an emulated bench."""
    states_c: float = Field(default=200, gt=2)
    replicas: int = Field(default=8, ge=1, le=256)
    """Arrays of the population on an emulated bench; standard errors come from 4 or more."""
    size: tuple[Count, Count] = (48, 48)
    """Of each array on an emulated bench."""
    board_size: tuple[Count, Count] = (4, 4)
    """Of the matrix on a board."""
    board_gain: float = Field(default=0.9, gt=0, le=1)
    """lr_A / step on a board."""
    places: int = Field(default=9, ge=2)
    """Distances from the symmetry point at which C is asked."""
    transfers: int = Field(default=4, ge=1)
    """Transfers to every cell at each distance."""
    bins: int = Field(default=10, ge=2)
    """Classes of the distance in tables and figures."""
    exploration: str | None = None
    """Folder, file or id of a run of explore: the ridge is read from it. None = no ridge."""
    mean_gradient: float | None = Field(default=None, gt=0)
    """E|g| at A in the explored network, weight per unit of learning rate: with it the report says where T_A falls below the
    interval between two reads."""
    lines: int | None = Field(default=None, ge=1)
    """Lines that a transfer goes through in turn (N), for the same."""
    training_samples: int | None = Field(default=None, ge=1)
    """Samples of one explored training: with E|g| the report says where T_A outlasts it."""
    level: float | None = Field(default=None, gt=0, lt=1)
    """Validation accuracy of the contour of equal accuracy; None = 0.8 of the best."""
    seed: int = 0


@dataclass(frozen=True)
class ExplainResult:
    """What was measured, by name of the device; ridge and contour None where no exploration was given."""

    memory: tuple[tuple[str, float, Forgetting], ...]
    """(name, alpha_A lr_A in weight (NaN on a board), what was found)."""
    acceptance: tuple[tuple[str, Transfers], ...]
    ridge: Ridge | None
    contour: RateContour | None


def explain(bench: Any, config: ExplainConfig, ledger: Any) -> ExplainResult:
    """Measure both mechanisms. bench: a hil.bench.Bench; ledger: a hil.ledger.Ledger, or None.

    UsageError, before the first pulse, where a board was not characterized or an exploration cannot be read.
    """
    # Read first: a wrong path should not cost the measurement.
    explored = None if config.exploration is None else _explored(config.exploration, ledger)
    ridge = None if explored is None else find_ridge(explored, config.seed)
    contour = None if explored is None else find_contour(explored, config.level, config.seed)
    elastic = all(bench.config.boards[wiring.board].backend == "emulated" for wiring in bench.config.roles.values()) and all(
        wiring.board not in bench.backends for wiring in bench.config.roles.values()
    )
    memory, acceptance = _emulated(bench, config) if elastic else _board(bench, config)
    result = ExplainResult(tuple(memory), tuple(acceptance), ridge, contour)
    if ledger is not None:
        _record(ledger, result, config, elastic)
    return result


def _explored(given: str, ledger: Any) -> Exploration:
    folder = getattr(ledger, "folder", None)
    return find_exploration(given, Path("runs") if folder is None else Path(folder).parent)


def _emulated(bench: Bench, config: ExplainConfig) -> tuple[list[Any], list[Any]]:
    bound = bench.config.nominal.bound_weight
    memory, acceptance = [], []
    for place, point in enumerate(config.memory):
        with made_bench(bench, config, point.alpha, point.states) as made:
            cells = made_cells(made, point.alpha, point.states, "a", config.size)
            found = measure_forgetting(cells, point.gain, config.seed + place)
        rate = point.gain * 2 * bound / point.states
        name = f"α {point.alpha:g}, {point.states:g} states, lr {rate:.3g}"
        memory.append((name, point.alpha * rate, found))
    for alpha in config.alpha_c:
        with made_bench(bench, config, alpha, config.states_c) as made:
            cells = made_cells(made, alpha, config.states_c, "c", config.size)
            asked = measure_transfers(cells, config.places, config.transfers, config.bins, config.seed)
        acceptance.append((f"α {alpha:g}", asked))
    return memory, acceptance


def made_bench(bench: Bench, config: ExplainConfig, alpha: float, states: float) -> Bench:
    """The bench with equal devices of this asymmetry, in ``config.replicas`` arrays; the caller closes it."""
    with ExitStack() as undo:
        made = undo.enter_context(open_bench(_with_devices(bench.config, alpha, states), bench.state))
        made.populate(torch.arange(config.replicas))
        undo.pop_all()
    return made


def _with_devices(config: BenchConfig, alpha: float, states: float) -> BenchConfig:
    """alpha <= 1: linear steps of relative slope alpha to bounds +- b_w; above, soft bounds at +- b_w / alpha.

    Cells do not differ, so that what is predicted is known; cycle noise stays as the bench has it.
    """
    nominal = config.nominal
    bound = nominal.bound_weight * min(1.0, 1 / alpha)
    boards = dict(config.boards)
    for wiring in config.roles.values():
        board = config.boards[wiring.board]
        kept = {key: value for key, value in board.settings.items() if key not in ("preset", "device", "device_a")}
        noise = {key: board.settings.get("device", {})[key] for key in ("c2c",) if key in board.settings.get("device", {})}
        device = {
            "model": "linear", "dw_min": 2 * nominal.bound_weight / states, "dw_min_dtod": 0.0, "w_max": bound,
            "w_min": -bound, "w_max_dtod": 0.0, "w_min_dtod": 0.0, "up_down_dtod": 0.0, "slope_up": min(1.0, alpha),
            "slope_down": min(1.0, alpha), **noise,
        }  # fmt: skip
        scale = {"siemens_per_weight": nominal.siemens_per_weight, "g_mid_siemens": nominal.g_mid_siemens}
        boards[wiring.board] = board.model_copy(update={"settings": {**kept, **scale, "device": device}})
    return config.model_copy(update={"boards": boards})


def made_cells(bench: Bench, alpha: float, states: float, role: str, size: tuple[int, int]) -> KnownCells:
    """A matrix of a ``made_bench``, with its devices as they were made."""
    place = bench.place(f"explain.{role}", role, *size)
    nominal = bench.config.nominal
    one = torch.ones(bench.arrays, *size, dtype=torch.float64)
    step = 2 * nominal.bound_weight / states
    slope = one * (alpha * step / nominal.bound_weight)
    scale, reach = nominal.siemens_per_weight, nominal.bound_weight * min(1.0, 1 / alpha)
    middle = one * nominal.g_mid_siemens
    return KnownCells(
        only_region(place), place.shape, place.read.averages, one * (step * scale), slope, slope, middle,
        middle - reach * scale, middle + reach * scale, one > 0,
    )  # fmt: skip


def _board(bench: Bench, config: ExplainConfig) -> tuple[list[Any], list[Any]]:
    cells: dict[str, KnownCells] = {}
    roles = bench.config.roles
    for role in ("a", "c"):
        if role == "c" and roles.get("a", roles["c"]) == roles["c"]:
            # The same devices under the same pulses: one matrix tells of both, and less is worn.
            cells[role] = cells["a"]
            continue
        place = bench.place(f"explain.{role}", role, *config.board_size)
        known = bench.calibrations.find(only_region(place).backend.info.serial, place.shape)
        if known is None:
            raise UsageError(f"{place.name}: was never characterized: run `hil characterize {bench.name}` first")
        cells[role] = KnownCells.calibrated(place, known)
    memory = measure_forgetting(cells["a"], config.board_gain, config.seed)
    asked = measure_transfers(cells["c"], config.places, config.transfers, config.bins, config.seed)
    return [("devices of A", float("nan"), memory)], [("devices of C", asked)]


def _record(ledger: Any, result: ExplainResult, config: ExplainConfig, made: bool) -> None:
    for name, product, found in result.memory:
        arrays, plain = _split(found)
        ledger.event("explained-memory", {"name": name, "product": _finite(product), "made": made, **plain}, arrays)
        for kind in ("impulse", "regression"):
            value, error = getattr(found, kind), getattr(found, f"{kind}_se")
            text = f"T_A by {kind}, {error:.2g} standard error; predicted {found.predicted:.4g}"
            ledger.result(f"{name}: T_A {kind}", value, "samples", text)
        ledger.result(f"{name}: pulses", found.most_pulses, "1", "pulses of a cell for the memory, expected at most")
    for name, asked in result.acceptance:
        arrays, plain = _split(asked)
        ledger.event("explained-acceptance", {"name": name, "made": made, **plain}, arrays)
        worst = float(np.abs(asked.measured / asked.predicted - 1).max()) if len(asked.u) else float("nan")
        ledger.result(f"{name}: acceptance", worst, "1", "largest relative deviation of a bin from the exact law")
        ledger.result(f"{name}: pulses", asked.most_pulses, "1", "pulses of a cell for the acceptance, at most")
    if result.ridge is not None:
        arrays, plain = _split(result.ridge)
        settled = result.ridge.settled(config.mean_gradient, config.lines, config.training_samples)
        inner, inner_se = result.ridge.slope_over(settled)
        plain |= {"settled": settled.tolist(), "inner": _finite(inner), "inner_se": _finite(inner_se)}
        reason = {name: getattr(config, name) for name in ("mean_gradient", "lines", "training_samples")}
        ledger.event("explained-ridge", {**plain, **reason, "departs": result.ridge.departs().tolist()}, arrays)
        ledger.result("ridge slope", result.ridge.slope, "1", f"{result.ridge.slope_se:.2g} standard error; predicted +1")
    if result.contour is not None:
        arrays, plain = _split(result.contour)
        settling = result.contour.settling(config.mean_gradient, config.training_samples)
        slope, slope_se = result.contour.slope_over(settling)
        plain |= {"settling": settling.tolist(), "settling_slope": _finite(slope), "settling_slope_se": _finite(slope_se)}
        reason = {name: getattr(config, name) for name in ("mean_gradient", "training_samples")}
        ledger.event("explained-contour", {**plain, **reason}, arrays)
        text = f"{result.contour.slope_se:.2g} standard error; lr_C / n_s for equal accuracy; predicted +1 where A settles"
        ledger.result("contour slope", result.contour.slope, "1", text)


def _split(found: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a frozen result, and the rest as plain data."""
    named = {field.name: getattr(found, field.name) for field in fields(found)}
    arrays = {name: value for name, value in named.items() if isinstance(value, np.ndarray)}
    return arrays, {name: _finite(value) for name, value in named.items() if name not in arrays}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _headline(result: ExplainResult) -> Table:
    rows = [
        (name, "T_A (samples)", number(found.predicted), f"{number(found.impulse)} ± {number(found.impulse_se, 2)}",
         f"{number(found.regression)} ± {number(found.regression_se, 2)}")
        for name, _, found in result.memory
    ]  # fmt: skip
    for name, asked in result.acceptance:
        shown = (
            [f"{100 * (asked.measured / asked.predicted - 1)[k]:+.1f} %" for k in (0, -1)] if len(asked.u) else ["–", "–"]
        )
        rows.append((name, "accepted / law, ends", "1", shown[0], shown[1]))
    if result.ridge is not None:
        rows.append(
            ("ridge", "log-log slope", "+1", f"{number(result.ridge.slope, 3)} ± {number(result.ridge.slope_se, 2)}", "")
        )
    if result.contour is not None:
        shown_slope = f"{number(result.contour.slope, 3)} ± {number(result.contour.slope_se, 2)}"
        rows.append((f"equal accuracy, {100 * result.contour.level:.0f} %", "log-log slope", "+1", shown_slope, ""))
    return Table("Predicted and measured", ("device", "quantity", "predicted", "measured", "measured again"), tuple(rows))


procedure = Procedure(
    "explain", ExplainConfig, explain, "measure what A remembers and what C accepts, against theory", explain_sections,
    headline=_headline,
)  # fmt: skip
"""The entry point."""
