"""The report's part on an operating point: the filtered map seen along every pair of axes, its region, its sensitivity."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from hil.report.section import Figure, Section, Table
from hil.report.style import HALF
from hil.run_reader import RunReader
from procedures.ends import shown_ends

__all__ = ["LABELS", "calibrate_sections", "contours"]

LABELS = {
    "alpha_a": "alpha of A", "alpha_c": "alpha of C", "lr_a": "learning rate of A", "lr_c": "learning rate of the transfer",
    "transfer_every": "samples between transfers", "gamma": "gamma", "states": "number of states", "c2c": "cycle noise",
}  # fmt: skip
_PAIRS = (("alpha_a", "alpha_c"), ("alpha_a", "lr_c"), ("alpha_a", "lr_a"), ("lr_a", "lr_c"))
"""Drawn first, where they vary."""
_FIGURES = 4


def calibrate_sections(run: RunReader) -> list[Section]:
    """Of the last calibration in the record."""
    events = [*run.events("calibrated")]
    if not events:
        return []
    found, arrays = events[-1].payload, run.arrays(events[-1].number)
    names = found["names"]
    pairs = [pair for pair in _PAIRS if set(pair) <= set(names)]
    pairs += [pair for pair in itertools.combinations(names, 2) if pair not in pairs and pair[::-1] not in pairs]
    figures = tuple(_figure(found, arrays, pair) for pair in pairs[:_FIGURES])
    rows = tuple(
        (LABELS.get(name, name), f"{value:.4g}", shown_ends(tuple(found["extents"][name]), 10 ** arrays[f"axis_{name}"]),
         f"{found['raw_point'][name]:.4g}", ", ".join(f"{point[name]:.3g}" for _, point in found["sensitivity"]))
        for name, value in found["point"].items()
    )  # fmt: skip
    heads = ("axis", "operating point", "region", "unfiltered argmax", "at 0.5, 1 and 2 times the width")
    tables = [Table(f"Operating point and its {100 * found['confidence']:g} % region.", heads, rows)]
    if found["errors"]:
        widths = tuple((f"{sigma:g}", f"{100 * error:.3f}") for sigma, error in found["errors"])
        tables.append(Table("Choice of the filter's width.", ("spacings", "leave-one-out error (points)"), widths))
    text = (
        f"{found['network']}. Validation accuracies were interpolated onto a regular grid in log axes and filtered with a "
        f"Gaussian {found['sigma']:g} sample spacings wide. At the operating point the filtered validation accuracy is "
        f"{100 * found['accuracy']:.2f} %; the nearest explored point has a test accuracy of "
        f"{100 * found['test']:.2f} ± {100 * found['test_error']:.2f} %."
    )
    return [Section("Operating point", text, figures, tuple(tables))]


def _figure(found: Any, arrays: Any, pair: tuple[str, str]) -> Figure:
    names = found["names"]
    keep = tuple(names.index(name) for name in pair)
    others = tuple(k for k in range(len(names)) if k not in keep)
    filtered = np.where(np.isfinite(arrays["filtered"]), arrays["filtered"], -np.inf)
    best = filtered.max(axis=others) if others else filtered
    region = arrays["region"].any(axis=others) if others else arrays["region"]
    if keep[0] > keep[1]:
        best, region = best.T, region.T
    axes = 10 ** arrays[f"axis_{pair[0]}"], 10 ** arrays[f"axis_{pair[1]}"]
    point = found["point"][pair[0]], found["point"][pair[1]]

    def draw(fig: Any) -> None:
        shades = 100 * np.where(np.isfinite(best), best, np.nan)
        labels = LABELS.get(pair[0], pair[0]), LABELS.get(pair[1], pair[1])
        contours(fig, axes, shades, labels, "validation accuracy (%)", region=region, point=point)

    shown = " and ".join(LABELS.get(name, name) for name in pair)
    rest = ", best over everything else" if others else ""
    caption = f"Filtered accuracy over {shown}{rest}; cross: operating point, dashed: its region."
    return Figure(f"calibrate-{pair[0]}-{pair[1]}".replace("_", "-"), caption, draw, HALF)


def contours(
    fig: Any, axes: tuple[Any, Any], values: Any, labels: tuple[str, str], label: str, region: Any = None, point: Any = None,
    levels: Any = None,
) -> None:  # fmt: skip
    """A map [x y] over two log axes with contour lines; region: bool [x y], its border dashed; point: a cross."""
    ax = fig.add_subplot()
    low, high = np.nanmin(values), np.nanmax(values)
    # The top of the map is what one reads: below the worst quarter all is one shade.
    floor = max(low, high - 20.0)
    mesh = ax.pcolormesh(*axes, np.ma.masked_invalid(values.T), vmin=floor, vmax=high, shading="nearest", cmap="viridis")
    lines = levels if levels is not None else [high - step for step in (10, 5, 2, 1, 0.5) if high - step > low]
    if lines and high > low:
        drawn = ax.contour(*axes, np.ma.masked_invalid(values.T), levels=sorted(lines), colors="white", linewidths=0.8)
        ax.clabel(drawn, fontsize=7, fmt="%.1f")
    if region is not None and bool(region.any()) and not bool(region.all()):
        ax.contour(*axes, region.T.astype(float), levels=[0.5], colors="black", linewidths=1.2, linestyles="dashed")
    if point is not None:
        ax.plot(*point, marker="+", color="#D55E00", markersize=11, markeredgewidth=2.2)
    ax.grid(False)
    ax.set(xscale="log", yscale="log", xlabel=labels[0], ylabel=labels[1])
    for values_of_axis, put in ((axes[0], ax.set_xticks), (axes[1], ax.set_yticks)):
        low_end, high_end = float(values_of_axis[0]), float(values_of_axis[-1])
        if high_end < 30 * low_end:
            # Hardly a decade: every minor tick would get a label, one on top of the other.
            steps = [digit * 10.0**power for power in range(-9, 9) for digit in (1, 2, 5)]
            ticks = [step for step in steps if low_end <= step <= high_end]
            put(ticks, labels=[f"{tick:g}" for tick in ticks])
            put([], minor=True)
    fig.colorbar(mesh, ax=ax, label=label, extend="min" if floor > low else "neither", pad=0.03)
