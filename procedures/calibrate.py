"""``hil calibrate``: the operating point of Tiki-Taka from an exploration: interpolate, filter, argmax.

A declared reconstruction of the calibration of Lee et al. 2022 (abstract): see ``procedures.surface``. The operating point
is the argmax of the filtered map of validation accuracy. Its region holds every cell x whose filtered accuracy lies within q
of the highest: q is the ``confidence`` quantile, over a parametric bootstrap of the accuracies, of what the operating point
itself lies below the highest of the bootstrapped map. What is reported there is the test accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from hil.bench import Bench
from hil.errors import DataError
from hil.ledger import Ledger
from hil.procedure import Procedure
from hil.report.section import Table
from procedures.adaptive import inside
from procedures.adaptive_training import explore_adaptively
from procedures.calibrate_report import calibrate_sections
from procedures.ends import shown_ends
from procedures.exploration import Exploration, FloatArray, find_exploration
from procedures.explore_config import ExploreConfig
from procedures.surface import Field as SurfaceField
from procedures.surface import Scatter, choose_sigma, field, scatter

__all__ = ["CalibrateConfig", "Calibrated", "calibrate", "calibrate_exploration", "headline", "locate", "procedure"]

_SENSITIVITY = (0.5, 1.0, 2.0)
_WORLD = 1.5
"""Width of the bootstrap's own filter, in those of the map's."""


class CalibrateConfig(BaseModel):
    """``-s calibrate.KEY=VALUE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exploration: str = ""
    """Folder, file or id of a run of explore; empty = the newest beside this run."""
    sigma: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Width of the filter in spacings of the samples; None = the one with the smallest leave-one-out error."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    bootstraps: int = Field(default=200, ge=20)
    seed: int = Field(default=0, ge=0)
    adaptive: bool = False
    """Train more round the filtered optimum, on this bench, of ``exploration`` or, where that is empty, of a coarse one."""
    rounds: int = Field(default=2, ge=1, le=8)
    """Of refinement; every further one looks half as far."""
    samples: int = Field(default=24, ge=4)
    """New points a round."""
    explore: ExploreConfig = ExploreConfig()
    """What is trained: options of ``explore`` (``-s calibrate.explore.KEY=VALUE``); its axes are those of the coarse map."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """An operating point and how well it is known. Maps are [axis 0, axis 1, ...] on the field's grid."""

    network: str
    field: SurfaceField
    sigma: float
    """Spacings of the samples."""
    errors: dict[float, float]
    """Leave-one-out error by width; empty where the width was given."""
    filtered: FloatArray
    """Filtered validation accuracy."""
    region: NDArray[np.bool_]
    point: dict[str, float]
    """The operating point by axis."""
    accuracy: float
    """Filtered validation accuracy there."""
    test: float
    """Test accuracy of the nearest explored point."""
    test_error: float
    nearest: dict[str, float]
    raw_point: dict[str, float]
    """The explored point with the highest mean validation accuracy, unfiltered."""
    sensitivity: dict[float, dict[str, float]]
    """Operating point by factor on the width."""

    @property
    def extents(self) -> dict[str, tuple[float, float]]:
        """(lowest, highest) value of every axis inside the region."""
        found = {}
        for number, (name, axis) in enumerate(zip(self.field.names, self.field.axes, strict=True)):
            inside = np.flatnonzero(self.region.any(axis=tuple(k for k in range(self.region.ndim) if k != number)))
            found[name] = (float(10 ** axis[inside[0]]), float(10 ** axis[inside[-1]]))
        return found


def locate(
    data: Scatter, surface: SurfaceField, confidence: float, bootstraps: int, seed: int
) -> tuple[FloatArray, tuple[int, ...], NDArray[np.bool_]]:
    """(filtered map, place of its argmax, region of the argmax). DataError for a map that is empty or flat."""
    filtered = surface.filtered(data.value)
    if not bool(np.isfinite(filtered).any()):
        raise DataError("calibrate: the map is empty: too few points are finished to interpolate between them; explore more")
    if float(np.ptp(data.value)) == 0.0:
        raise DataError("calibrate: the map is flat: every point has the same accuracy; explore wider axes, or train longer")
    place = np.unravel_index(int(np.nanargmax(filtered)), filtered.shape)
    # The map's own top is sharpened by its noise, and a bootstrap around it would take the argmax for better known than it
    # is: the world of the bootstrap is the map under a wider filter, whose top is as broad as that of the surface behind it.
    world = replace(surface, cells=tuple(_WORLD * width for width in surface.cells)).filtered(data.value)
    top = np.unravel_index(int(np.nanargmax(world)), world.shape)
    rng, below = np.random.default_rng(seed), []
    for _ in range(bootstraps):
        # The filter is linear, so that noise on the accuracies is filtered noise on the map.
        again = world + surface.filtered(data.error * rng.standard_normal(len(data.value)))
        below.append(float(np.nanmax(again) - again[top]))
    margin = float(np.quantile(below, confidence))
    region = np.nan_to_num(filtered, nan=-np.inf) >= float(filtered[place]) - margin
    return filtered, tuple(int(k) for k in place), region


def calibrate_exploration(whole: Exploration, ledger: Ledger | None, config: CalibrateConfig | None = None) -> Calibrated:
    """Of its Tiki-Taka points; recorded where there is a ledger. DataError as of ``scatter`` and ``locate``."""
    options = CalibrateConfig() if config is None else config
    data = scatter(whole.chosen("tiki_taka"))
    sigma, errors = (options.sigma, {}) if options.sigma is not None else choose_sigma(data)
    surface = field(data, sigma)
    filtered, place, region = locate(data, surface, options.confidence, options.bootstraps, options.seed)
    point = surface.where(place)
    here = np.log10(np.array([point[name] for name in data.names]))
    near = int((((data.points - here) / data.spacing) ** 2).sum(axis=1).argmin())
    best = int(data.value.argmax())

    def named(k: int) -> dict[str, float]:
        return {name: float(10**value) for name, value in zip(data.names, data.points[k], strict=True)}

    sensitivity = {}
    for factor in _SENSITIVITY:
        other = field(data, factor * sigma)
        values = other.filtered(data.value)
        sensitivity[factor] = other.where(tuple(int(k) for k in np.unravel_index(int(np.nanargmax(values)), values.shape)))
    result = Calibrated(
        whole.network, surface, sigma, errors, filtered, region, point, float(filtered[place]), float(data.test[near]),
        float(data.test_error[near]), named(near), named(best), sensitivity,
    )  # fmt: skip
    if ledger is not None:
        _record(ledger, result, options.confidence)
    return result


def _record(ledger: Ledger, result: Calibrated, confidence: float) -> None:
    payload: dict[str, Any] = {
        "network": result.network, "names": list(result.field.names), "point": result.point, "sigma": result.sigma,
        "accuracy": result.accuracy, "test": result.test, "test_error": result.test_error, "nearest": result.nearest,
        "raw_point": result.raw_point, "confidence": confidence,
        "extents": {name: list(ends) for name, ends in result.extents.items()},
        "errors": [[sigma, error] for sigma, error in result.errors.items()],
        "sensitivity": [[factor, point] for factor, point in result.sensitivity.items()],
    }  # fmt: skip
    # What a figure shows is the best over all other axes; the whole map may have many dimensions.
    arrays: dict[str, Any] = {f"axis_{name}": axis for name, axis in zip(result.field.names, result.field.axes, strict=True)}
    arrays |= {"filtered": result.filtered.astype(np.float32), "region": result.region}
    ledger.event("calibrated", payload, arrays)
    for name, value in result.point.items():
        low, high = result.extents[name]
        ledger.result(f"operating point, {name}", value, "1", f"{100 * confidence:g} % region from {low:.3g} to {high:.3g}")
    ledger.result("operating point, accuracy", result.test, "1", "test accuracy of the nearest explored point")


def calibrate(bench: Bench, config: CalibrateConfig, ledger: Ledger) -> Calibrated:
    """From a stored exploration, or adaptively; DataError where there is none, or nothing in it."""
    if config.adaptive:
        whole, window = explore_adaptively(bench, config.exploration, config.explore, config.rounds, config.samples, ledger)
        return calibrate_exploration(inside(whole, window), ledger, config)
    return calibrate_exploration(find_exploration(config.exploration, ledger.folder.parent), ledger, config)


def headline(result: Calibrated) -> Table:
    """The operating point with its region."""
    extents, axes = result.extents, dict(zip(result.field.names, result.field.axes, strict=True))
    rows = tuple(
        (name, f"{value:.4g}", shown_ends(extents[name], 10 ** axes[name]), f"{result.raw_point[name]:.4g}",
         ", ".join(f"{point[name]:.3g}" for point in result.sensitivity.values()))
        for name, value in result.point.items()
    )  # fmt: skip
    caption = (
        f"{result.network}: filtered validation accuracy {100 * result.accuracy:.2f} %, test accuracy of the nearest "
        f"explored point {100 * result.test:.2f} ± {100 * result.test_error:.2f} %; filter {result.sigma:g} spacings wide"
    )
    return Table(caption, ("axis", "operating point", "region", "unfiltered", "at 0.5, 1, 2 times the width"), rows)


procedure = Procedure(
    "calibrate", CalibrateConfig, calibrate, "find the operating point in an exploration", calibrate_sections,
    headline=headline,
)  # fmt: skip
"""The entry point."""
