"""``hil specify``: the asymmetry specification: which asymmetries a network bears under Tiki-Taka, and how to train there.

For every pair of asymmetries the hyper-parameters are those with the highest filtered validation accuracy; what counts is
the filtered test accuracy there. A pair passes for a loss delta where, at the confidence asked for (one-sided, normal),
accuracy >= digital reference - delta. A declared reconstruction: Lee et al. 2022 (abstract) name the specification, their
threshold is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import norm

from hil.bench import Bench
from hil.errors import DataError
from hil.ledger import Ledger
from hil.procedure import Procedure
from hil.report.section import Table
from procedures.exploration import Exploration, FloatArray, find_exploration
from procedures.explore_report import best_points
from procedures.specification import Range, Specification, SpecPoint
from procedures.specify_report import FILE, specify_sections
from procedures.surface import Field as SurfaceField
from procedures.surface import Scatter, choose_sigma, field, scatter

__all__ = ["Specified", "SpecifyConfig", "headline", "procedure", "specify", "specify_exploration"]


class SpecifyConfig(BaseModel):
    """``-s specify.KEY=VALUE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exploration: str = ""
    """Folder, file or id of a run of explore; empty = the newest beside this run."""
    deltas: tuple[float, ...] = Field(default=(0.005, 0.01, 0.02, 0.05), min_length=1)
    """Allowed losses against the digital reference, fractions."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    sigma: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    bootstraps: int = Field(default=200, ge=20)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, eq=False)
class Specified:
    """A specification and its file."""

    specification: Specification
    file: str


def specify_exploration(whole: Exploration, ledger: Ledger | None, config: SpecifyConfig | None = None) -> Specified:
    """From a stored exploration with Tiki-Taka and digital points; DataError where there is nothing to specify from."""
    options = SpecifyConfig() if config is None else config
    points = whole.chosen("tiki_taka").finished()
    if not len(points):
        raise DataError(f"{whole.network}: no Tiki-Taka point is finished: let the exploration run, or resume it")
    names = [name for name in ("alpha_a", "alpha_c") if name in points.axes]
    for name in ("alpha_a", "alpha_c"):
        if name not in points.varied():
            raise DataError(f"{whole.network}: {name} was not explored: a specification needs several values of it")
    digital = best_points(whole).get("digital")
    if digital is None:
        raise DataError(f"{whole.network}: no digital reference is finished: explore with algorithms = tiki_taka, digital")
    names += [name for name in points.varied() if name not in names]
    data = scatter(points, names)
    if float(np.ptp(data.value)) == 0.0:
        raise DataError(
            f"{whole.network}: the map is flat: every point has the same accuracy; explore wider, or train longer"
        )
    sigma = options.sigma if options.sigma is not None else choose_sigma(data)[0]
    specification = _specified(whole, data, field(data, sigma), digital.test, _error(whole, digital), options)
    file = ""
    if ledger is not None:
        path = specification.save(ledger.folder / FILE)
        file = str(path)
        _record(ledger, specification)
    return Specified(specification, file)


def _error(whole: Exploration, digital: Any) -> float:
    """Standard error of the digital reference: of its seeds, and no less than the binomial one."""
    binomial = (digital.test * (1 - digital.test) / (digital.seeds * whole.test_size)) ** 0.5
    return float(np.nanmax([digital.test_error, binomial]))


def _specified(
    whole: Exploration, data: Scatter, surface: SurfaceField, digital: float, digital_error: float, options: SpecifyConfig
) -> Specification:
    validation, test = surface.filtered(data.value), surface.filtered(data.test)
    if not bool(np.isfinite(validation).any()):
        raise DataError(f"{whole.network}: the map is empty: too few points to interpolate between them; explore more")
    shape = validation.shape[:2]
    flat = np.where(np.isfinite(validation), validation, -np.inf).reshape(*shape, -1)
    choice = flat.argmax(axis=2)

    def at_choice(grid: FloatArray) -> FloatArray:
        return np.asarray(np.take_along_axis(grid.reshape(*shape, -1), choice[..., None], axis=2)[..., 0])

    accuracy = np.clip(at_choice(test), 0.0, 1.0)
    rng, square = np.random.default_rng(options.seed), np.zeros(shape)
    for _ in range(options.bootstraps):
        square += at_choice(surface.filtered(data.test_error * rng.standard_normal(len(data.test)))) ** 2
    error = np.sqrt(square / options.bootstraps)
    axes = [10**axis for axis in surface.axes]
    far = norm.ppf(options.confidence) * np.sqrt(error**2 + digital_error**2)
    ranges = []
    for delta in sorted(options.deltas):
        passes = accuracy - far >= digital - delta
        ends = [_range(axes[k], passes.any(axis=1 - k), accuracy.max(axis=1 - k)) for k in range(2)]
        ranges.append(Range(delta=delta, confidence=options.confidence, alpha_a=ends[0], alpha_c=ends[1]))
    points = []
    for a, c in sorted({(float(p[0]), float(p[1])) for p in data.points}):
        i, j = (int(np.abs(axis - value).argmin()) for axis, value in zip(surface.axes[:2], (a, c), strict=True))
        if not np.isfinite(accuracy[i, j]):
            continue
        place = np.unravel_index(int(choice[i, j]), validation.shape[2:])
        hyper = {
            name: round(float(10 ** axis[k]), 9)
            for name, axis, k in zip(surface.names[2:], surface.axes[2:], place, strict=True)
        }
        fixed = {name: float(np.unique(column)[0]) for name, column in _fixed(whole, surface.names).items()}
        points.append(
            SpecPoint(alpha_a=round(10**a, 9), alpha_c=round(10**c, 9), accuracy=float(accuracy[i, j]),
                      error=float(error[i, j]), hyper={**hyper, **fixed})
        )  # fmt: skip
    return Specification(
        network=whole.network, digital_accuracy=digital, digital_error=digital_error, deltas=tuple(ranges),
        alpha_a=tuple(np.round(axes[0], 9).tolist()), alpha_c=tuple(np.round(axes[1], 9).tolist()),
        accuracy=tuple(tuple(np.round(row, 6).tolist()) for row in accuracy),
        error=tuple(tuple(np.round(row, 6).tolist()) for row in error), points=tuple(points),
    )  # fmt: skip


def _fixed(whole: Exploration, names: tuple[str, ...]) -> dict[str, FloatArray]:
    """Hyper-parameters with a single value."""
    axes = whole.chosen("tiki_taka").axes
    wanted = [name for name in ("lr_a", "lr_c", "transfer_every", "gamma") if name in axes and name not in names]
    return {name: axes[name] for name in wanted}


def _range(axis: FloatArray, passes: NDArray[np.bool_], best: FloatArray) -> tuple[float, float] | None:
    """Ends of the stretch that passes around the best value; of several stretches the one with the best accuracy."""
    if not bool(passes.any()):
        return None
    k = int(np.where(passes, best, -np.inf).argmax())
    low = high = k
    while low > 0 and passes[low - 1]:
        low -= 1
    while high < len(axis) - 1 and passes[high + 1]:
        high += 1
    return round(float(axis[low]), 9), round(float(axis[high]), 9)


def _record(ledger: Ledger, found: Specification) -> None:
    ledger.event("specified", found.model_dump(mode="python"))
    for one in found.deltas:
        for name in ("alpha_a", "alpha_c"):
            ends = getattr(one, name)
            text = f"of the digital reference, at {100 * one.confidence:g} % confidence, one-sided"
            ledger.result(
                f"range of {name} within {100 * one.delta:g} points", None if ends is None else list(ends), "1", text
            )


def specify(bench: Bench, config: SpecifyConfig, ledger: Ledger) -> Specified:
    """From a stored exploration; DataError where there is none, or nothing in it."""
    return specify_exploration(find_exploration(config.exploration, ledger.folder.parent), ledger, config)


def headline(result: Specified) -> Table:
    """The ranges."""
    found = result.specification
    caption = (
        f"{found.network}: digital reference {100 * found.digital_accuracy:.2f} ± {100 * found.digital_error:.2f} %; "
        f"ranges at {100 * found.deltas[0].confidence:g} % confidence"
    )
    rows = tuple((f"{100 * one.delta:g}", _ends(one.alpha_a), _ends(one.alpha_c)) for one in found.deltas)
    return Table(caption, ("loss (points)", "alpha of A", "alpha of C"), rows)


def _ends(ends: tuple[float, float] | None) -> str:
    return "none passes" if ends is None else f"{ends[0]:.3g} to {ends[1]:.3g}"


procedure = Procedure(
    "specify", SpecifyConfig, specify, "derive the asymmetry specification from an exploration", specify_sections,
    headline=headline,
)  # fmt: skip
"""The entry point."""
