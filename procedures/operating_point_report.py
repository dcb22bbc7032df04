"""The report's part on pulse shapes, from the event ``operating-point``; and the choice as lines of a bench file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from hil.backend import PulseShape
from hil.report.section import Figure, Section, Table
from hil.report.style import MISSING, colour
from hil.report.values import number, quantity
from hil.run_reader import RunReader
from procedures.log_axis import log_ticks

__all__ = ["operating_point_sections", "roles_as_toml"]

_QUANTITIES = {
    "alpha": "asymmetry α", "states": "number of states", "sp_skew": "symmetry-point skew",
    "noise_to_step": "noise of a step / step",
}  # fmt: skip


def roles_as_toml(roles: Mapping[Any, tuple[str, PulseShape]]) -> list[str]:
    """``[roles.a]`` and ``[roles.c]`` with the board and pulse of each, line by line."""
    lines: list[str] = []
    for role, (board, shape) in roles.items():
        values = {name: value for name, value in asdict(shape).items() if value is not None}
        lines += [*([""] if lines else []), f"[roles.{role}]", f'board = "{board}"']
        lines += [f"{name} = {value!r}" for name, value in values.items()]
    return lines


def operating_point_sections(run: RunReader) -> list[Section]:
    """One section; nothing where nothing was chosen."""
    found = [*run.events("operating-point")]
    if not found:
        return []
    payload = found[-1].payload
    shapes = payload["shapes"]
    figures = [_ranges_figure(payload)]
    for role in dict.fromkeys(one["role"] for one in shapes):
        mine = [one for one in shapes if one["role"] == role]
        # On one board A and C see the same devices: their maps are the same but for the depth.
        figures += [_maps_figure(role, width, [one for one in mine if one["width_s"] == width])
                    for width in dict.fromkeys(one["width_s"] for one in mine)]  # fmt: skip
    bench_file = Table("For the bench file (also in operating-point.toml of this run).", ("line",),
                       tuple((line,) for line in payload["toml"] if line))  # fmt: skip
    return [Section("Operating point", _text(payload), tuple(figures), (_table(payload), bench_file))]


def _text(payload: Mapping[str, Any]) -> str:
    said = []
    for one in payload["shapes"]:
        if one["chosen"]:
            low, high = payload["ranges"][one["role"]]
            where = "inside" if one["depth"] >= 0 else "outside"
            said.append(
                f"{one['role'].upper()}: {_pulse(one)}, α {number(one['alpha'][1], 3)}, {abs(one['depth']):.2f} decades "
                f"{where} {number(low, 3)} … {number(high, 3)}."
            )
    expected = payload["expected"]
    accuracy = (
        "The chosen asymmetries lie outside the map of the specification: no accuracy is expected."
        if expected is None or not np.isfinite(expected)
        else f"Expected accuracy: {100 * expected:.1f} ± {100 * payload['error']:.1f} % "
        f"(trained digitally {100 * payload['digital_accuracy']:.1f} %)."
    )
    return (
        f"Network: {payload['network']}. Chosen: {' '.join(said)}\n\n{accuracy}\n\nDepth of a shape: decades between α and "
        "the nearer end of the allowed range, reached by 84 % of the responding cells."
    )


def _pulse(one: Mapping[str, Any]) -> str:
    return f"{number(one['up_v'])} V / {number(one['down_v'])} V, {quantity(one['width_s'], 's')}"


def _table(payload: Mapping[str, Any]) -> Table:
    rows = []
    for one in payload["shapes"]:
        depth = "no symmetry points" if one["depth"] is None else f"{one['depth']:+.3f}".replace("-", "\N{MINUS SIGN}")
        numbers = [number(value, 3) for value in (one["alpha"][1], one["states"], one["sp_skew"], one["noise_to_step"])]
        share = f"{100 * one['yield']:.1f}"
        rows.append((one["role"].upper(), _pulse(one), *numbers, share, depth, "chosen" if one["chosen"] else ""))
    head = ("for", "pulse up / down, width", "α", "states", "SP skew", "noise/step", "yield (%)", "depth (decades)", "")
    return Table("Pulse shapes: medians over the responding cells.", head, tuple(rows))


def _ranges_figure(payload: Mapping[str, Any]) -> Figure:
    shapes = payload["shapes"]
    roles = list(dict.fromkeys(one["role"] for one in shapes))
    most = max(sum(one["role"] == role for one in shapes) for role in roles)

    def draw(fig: Any) -> None:
        panels = fig.subplots(1, len(roles), squeeze=False)[0]
        for place, (axes, role) in enumerate(zip(panels, roles, strict=True)):
            mine = [one for one in shapes if one["role"] == role]
            low, high = payload["ranges"][role]
            axes.axvspan(low, high, color="#5aa469", alpha=0.18, linewidth=0)
            for line, one in enumerate(mine):
                left, middle, right = (np.nan if value is None else value for value in one["alpha"])
                if np.isfinite(middle):
                    mark = {"marker": "D", "markersize": 7} if one["chosen"] else {"marker": "o", "markersize": 4}
                    axes.errorbar(
                        middle, line, xerr=[[middle - left], [right - middle]], color=colour(place), linewidth=1.2, **mark
                    )
            axes.set_xscale("log")
            log_ticks(axes.xaxis)
            names = [_pulse(one) for one in mine]
            axes.set_yticks(range(len(mine)), names, fontsize=8)
            axes.set_ylim(len(mine) - 0.5, -0.5)
            axes.set(xlabel="asymmetry α", title=f"for {role.upper()}")

    caption = "Asymmetry under every pulse: median and central 68 % of the cells; green: allowed; diamond: chosen."
    return Figure("operating-point-ranges", caption, draw, (8.0, 1.3 + 0.26 * most))


def _maps_figure(role: str, width_s: float, shapes: list[Any]) -> Figure:
    ups = sorted({one["up_v"] for one in shapes})
    downs = sorted({one["down_v"] for one in shapes}, key=abs)

    def draw(fig: Any) -> None:
        panels = fig.subplots(2, 2).ravel()
        for axes, (name, label) in zip(panels, _QUANTITIES.items(), strict=True):
            values = np.full((len(downs), len(ups)), np.nan)
            for one in shapes:
                found = one[name][1] if name == "alpha" else one[name]
                values[downs.index(one["down_v"]), ups.index(one["up_v"])] = np.nan if found is None else found
            axes.imshow(np.ma.masked_invalid(values), cmap=_shades(), aspect="auto", origin="lower", interpolation="nearest")
            for (row, col), value in np.ndenumerate(values):
                text = "–" if np.isnan(value) else f"{value:.3g}"
                axes.text(col, row, text, ha="center", va="center", fontsize=8.5, color="0.1")
            for one in shapes:
                if one["chosen"]:
                    axes.plot(ups.index(one["up_v"]), downs.index(one["down_v"]), "D", markersize=26, markerfacecolor="none",
                              markeredgecolor="0.1")  # fmt: skip
            axes.grid(False)
            axes.set_xticks(range(len(ups)), [f"{up:g}" for up in ups])
            axes.set_yticks(range(len(downs)), [f"{down:g}".replace("-", "\N{MINUS SIGN}") for down in downs])
            axes.set(xlabel="up (V)", ylabel="down (V)", title=label)

    caption = f"Medians by amplitude at {quantity(width_s, 's')}, for {role.upper()}; diamond: chosen."
    return Figure(f"operating-point-{role}-{width_s:g}", caption, draw, (7.0, 5.2))


def _shades() -> Any:
    """Light enough to be written on."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    light = colormaps["viridis"](np.linspace(0.45, 1.0, 64))
    return LinearSegmentedColormap.from_list("light", list(light)).with_extremes(bad=MISSING)
