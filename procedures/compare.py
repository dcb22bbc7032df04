"""``hil compare``: two explored networks side by side: gradients, how long A remembers them, asymmetries they bear.

T_A = b_A / (g_A lr_A E|g|): a network with smaller gradients has a longer memory at the same asymmetry, so that all its
asymmetries shift up by the ratio of E|g| (theory section 4: expected of spiking networks against others). Predicted from
the gradients of digital trainings that come equally far, measured where the contour of equal accuracy bends
(``procedures.knee``).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hil.bench import Bench
from hil.datasets import load
from hil.errors import DataError, UsageError
from hil.ledger import Ledger
from hil.procedure import Procedure
from hil.report.section import Table
from hil.run_reader import RunReader
from procedures.compare_report import compare_sections
from procedures.ends import shown_ends
from procedures.exploration import Exploration
from procedures.explore_config import ExploreConfig
from procedures.gradient_scale import GradientScale, measure_gradients
from procedures.knee import Knee, find_knee, predicted_knee
from procedures.rate_contour import RateContour, find_contour
from procedures.specification import Specification

__all__ = ["CompareConfig", "Compared", "Side", "compare", "headline", "procedure"]


class CompareConfig(BaseModel):
    """``-s compare.KEY=VALUE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str
    """Folder or id of a run of explore: one rate lr_A, several lr_C and alpha_A."""
    second: str
    """Another one."""
    specifications: tuple[str, str] | None = None
    """Their specification files, to put the ranges next to each other."""
    replicas: int = Field(default=4, ge=2)
    """Digital trainings that the gradients are taken from, at every learning rate."""
    level: float | None = Field(default=None, gt=0, lt=1)
    """Validation accuracy of the contours; None = 0.8 of each network's best."""
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, eq=False)
class Side:
    """One network."""

    network: str
    gradient: GradientScale
    contour: RateContour
    knee: Knee
    predicted: float
    """alpha_1 from E|g|."""


@dataclass(frozen=True, eq=False)
class Compared:
    """Both; shifts in decades of alpha, second minus first."""

    sides: tuple[Side, Side]
    predicted: float
    predicted_error: float
    """Its standard error, from the spread of E|g| over replicas."""
    measured: float
    error: float
    """Standard error of ``measured``; infinite where a contour has no knee."""
    ranges: tuple[tuple[str, str, str, str], ...]
    """(loss in points, role, range of the first, range of the second) of the specifications."""


def compare(bench: Bench, config: CompareConfig, ledger: Ledger) -> Compared:
    """Measure the gradients of both on the bench's CPU, and read the rest from their explorations.

    UsageError where a run is none of explore or the bench is a board, DataError where contours cannot be drawn.
    """
    runs = ledger.folder.parent
    # Read first: a wrong path should not cost the trainings.
    given = [_read(name, runs) for name in (config.first, config.second)]
    ranges = () if config.specifications is None else _ranges(*map(Specification.load, config.specifications))
    sides = [_side(bench, options, explored, config) for options, explored in given]
    first, second = sides
    result = Compared(
        (first, second), float(np.log10(second.predicted / first.predicted)),
        math.hypot(*(side.gradient.error / side.gradient.mean for side in sides)) / math.log(10),
        float(np.log10(second.knee.alpha / first.knee.alpha)), float(np.hypot(first.knee.error, second.knee.error)), ranges,
    )  # fmt: skip
    _record(ledger, result)
    return result


def _read(given: str, runs: Path) -> tuple[ExploreConfig, Exploration]:
    folder = Path(given) if Path(given).is_dir() else runs / given
    if not folder.is_dir():
        raise UsageError(f"compare: {given}: is no folder of a run: give the folder or the id of a run of explore")
    explored = Exploration.load(folder)
    with RunReader.open(folder) as run:
        start = run.start
    if start["verb"] != "explore":
        raise UsageError(f"compare: {given}: is a run of {start['verb']}: give one of explore")
    return ExploreConfig.model_validate(start["config"]["options"]), explored


def _side(bench: Bench, options: ExploreConfig, explored: Exploration, config: CompareConfig) -> Side:
    contour = find_contour(explored, config.level, config.seed)
    lr_a = np.unique(explored.chosen("tiki_taka").axes["lr_a"])
    if len(lr_a) != 1:
        raise DataError(f"compare: {explored.network}: has {len(lr_a)} values of lr_a: explore one, memory depends on it")
    data = load(options.dataset, classes=options.classes, pool=options.pool, limit=options.limit)
    gradient = measure_gradients(bench, options, contour.level, data, config.replicas)
    predicted = predicted_knee(float(lr_a[0]), gradient.mean, gradient.samples)
    return Side(explored.network, gradient, contour, find_knee(contour), predicted)


def _ranges(first: Specification, second: Specification) -> tuple[tuple[str, str, str, str], ...]:
    rows = []
    for one, other in zip(first.deltas, second.deltas, strict=False):
        if one.delta == other.delta:
            for role, name in (("alpha of A", "alpha_a"), ("alpha of C", "alpha_c")):
                a, b = (shown_ends(getattr(x, name), getattr(of, name)) for x, of in ((one, first), (other, second)))
                rows.append((f"{100 * one.delta:g}", role, a, b))
    return tuple(rows)


def _record(ledger: Ledger, result: Compared) -> None:
    for side in result.sides:
        contour, gradient = side.contour, side.gradient
        payload = {
            "network": side.network, "digital_lr": gradient.lr, "gradient": gradient.mean, "gradient_error": gradient.error,
            "samples": gradient.samples, "level": contour.level, "predicted": side.predicted,
            **{f"knee_{name}": _finite(value) for name, value in asdict(side.knee).items()},
        }  # fmt: skip
        arrays = {
            "alpha_a": contour.alpha_a, "rate": contour.rate, "error": contour.error, "outside": contour.outside,
            "layers": gradient.layers,
        }  # fmt: skip
        ledger.event("compared-network", payload, arrays)
    shift = {
        "predicted": result.predicted,
        "predicted_error": result.predicted_error,
        "measured": _finite(result.measured),
        "error": _finite(result.error),
    }
    ledger.event("compared", {**shift, "ranges": [list(row) for row in result.ranges]})
    text = f"decades of alpha_A, second network against the first; {result.error:.2g} standard error; predicted "
    ledger.result(
        "shift", result.measured, "decades", f"{text}{result.predicted:+.3f} ± {result.predicted_error:.2g} from E|g|"
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def headline(result: Compared) -> Table:
    """Gradients, knees and the shift."""
    rows = [
        (side.network, f"{side.gradient.mean:.4f} ± {side.gradient.error:.4f}", f"{side.predicted:.3g}",
         f"{side.knee.alpha:.3g} (± {side.knee.error:.2g} decades)")
        for side in result.sides
    ]  # fmt: skip
    rows.append(
        (
            "shift (decades)",
            "",
            f"{result.predicted:+.3f} ± {result.predicted_error:.2g}",
            f"{result.measured:+.3f} ± {result.error:.2g}",
        )
    )
    return Table(
        "Where A begins to forget within one training", ("network", "E|g|", "predicted alpha", "measured"), tuple(rows)
    )


procedure = Procedure(
    "compare", CompareConfig, compare, "two explored networks: gradients, memory, asymmetries they bear", compare_sections,
    headline=headline,
)  # fmt: skip
"""The entry point."""
