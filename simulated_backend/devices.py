"""Device models as data: what one pulse does to a cell, and how cells differ.

The inside unit is the nominal *weight*: w = (G - g_mid) / siemens_per_weight. A pulse of polarity s = +1 (up), -1 (down)
does ``w <- clip(w + s * step_s(w) * (1 + c2c * xi), low, high)`` (multiplicative noise) or adds ``s * D_s * c2c * xi``
(additive). The step functions, with range = high - low:

    constant     D_s
    linear       up D_up (1 - g_up w / high), down D_down (1 - g_down w / low)         theory D2
    soft_bounds  the same with g = 1                                                   theory D4
    exponential  D_s max(0, 1 - A_s exp(+-gamma_s z)), z = 2 a w / range + b           aihwkit ExpStep
    power        up D_up ((high - w) / range)^gamma, down D_down ((w - low) / range)^gamma   theory D5
    piecewise    D_s times a linear interpolation of nodes, equidistant over the range

The slope of a cell refers to its own bounds. States are stored relative to each cell's analog reference (w - reference),
so that a read needs no second product; every model's parameters can be shifted accordingly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from hil.encoding import Stream, gauss, uniform, word

__all__ = ["MODELS", "DeviceSettings", "ModelName", "Params", "StepModel", "draw_cells", "per_array", "scaled", "shift"]

PerArray = float | tuple[float, ...]
Params = dict[str, Tensor]
ModelName = Literal["constant", "linear", "soft_bounds", "exponential", "power", "piecewise"]


class DeviceSettings(BaseModel):
    """A device family. Fields that are numbers may be one value or one per array. Weight units (see the module)."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: ModelName = "soft_bounds"
    dw_min: PerArray = 0.001
    """Mean step at w = 0 (at the SP where ``symmetry`` is not "up_down"); > 0."""
    dw_min_dtod: PerArray = Field(default=0.3)
    """Relative spread of the step between devices; >= 0."""
    dw_min_log_normal: bool = False
    """Whether the spread of the step is log-normal: gain = exp(dtod xi) instead of 1 + dtod xi."""
    c2c: PerArray = 0.3
    """Cycle-to-cycle noise of one step, relative to the step (or to D where additive); >= 0."""
    multiplicative: bool = True
    """Whether the cycle noise scales with the step itself."""
    write_noise: PerArray = 0.0
    """Visible scatter after a write, in units of dw_min, around a hidden persistent state; >= 0."""
    w_max: PerArray = 0.6
    w_min: PerArray = -0.6
    w_max_dtod: PerArray = 0.3
    """Relative spread of the upper bound."""
    w_min_dtod: PerArray = 0.3
    symmetry: Literal["up_down", "fraction", "weight"] = "up_down"
    """What places the symmetry point: ``up_down`` reduces one polarity's step by |up_down| (aihwkit's rule);
    ``fraction`` and ``weight`` draw the SP itself (of the range, or in weight) with the step at the SP held fixed."""
    up_down: PerArray = 0.0
    up_down_dtod: PerArray = 0.01
    sp: PerArray = 0.0
    """Mean SP, a fraction of the range (0.5 = centred) or in weight."""
    sp_dtod: PerArray = 0.0
    """Standard deviation of the SP, in the same unit."""
    slope_up: PerArray = 1.0
    """Linear step: relative slope g at the bound, 0 = constant step, 1 = soft bounds."""
    slope_down: PerArray = 1.0
    exp_a: float = 0.0
    exp_b: float = 0.0
    exp_scale_up: float = 0.0
    exp_scale_down: float = 0.0
    exp_gamma_up: float = 0.0
    exp_gamma_down: float = 0.0
    power: float = 1.0
    nodes_up: tuple[float, ...] = (1.0, 1.0)
    nodes_down: tuple[float, ...] = (1.0, 1.0)
    dead: float = Field(default=0.0, ge=0, le=1)
    """Fraction of cells that stay at their initial conductance."""
    stuck: float = Field(default=0.0, ge=0, le=1)
    """Fraction of cells stuck somewhere in their range."""
    shorted: float = Field(default=0.0, ge=0, le=1)
    """Fraction of cells shorted to ten times the nominal maximum conductance."""

    @model_validator(mode="after")
    def _consistent(self) -> DeviceSettings:
        for name in ("dw_min", "w_max"):
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,)) <= 0:
                raise ValueError(f"{name} = {value} must be above 0")
        if max(self.w_min if isinstance(self.w_min, tuple) else (self.w_min,)) >= 0:
            raise ValueError(f"w_min = {self.w_min} must be below 0")
        for name in ("dw_min_dtod", "c2c", "write_noise", "w_max_dtod", "w_min_dtod", "up_down_dtod", "sp_dtod"):
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,)) < 0:
                raise ValueError(f"{name} = {value} must not be negative")
        if self.dead + self.stuck + self.shorted > 1:
            raise ValueError("dead + stuck + shorted exceed 1")
        return self


def per_array(value: PerArray, arrays: int) -> Tensor:
    """A setting as float64 [array 1 1]."""
    data = value if isinstance(value, tuple) else (value,) * arrays
    if len(data) != arrays:
        raise ValueError(f"{len(data)} values given for {arrays} arrays")
    return torch.tensor(data, dtype=torch.float64).view(arrays, 1, 1)


@dataclass(frozen=True)
class StepModel:
    """One row of the table: from settings to per-cell parameters, and from a state to a step.

    build(settings, arrays, low, high) -> the shape parameters at unit D, float64 [array row col];
    step(params, w, up) -> mean size of a step, with ``low`` and ``high`` among the parameters; up is bool like w.
    """

    build: Callable[[DeviceSettings, int, Tensor, Tensor], Params]
    step: Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]


def _linear(slope: Callable[[DeviceSettings], tuple[PerArray, PerArray]]) -> StepModel:
    def build(s: DeviceSettings, arrays: int, low: Tensor, high: Tensor) -> Params:
        g_up, g_down = (per_array(g, arrays) for g in slope(s))
        return {"d_up": torch.ones_like(low), "s_up": g_up / high, "d_down": torch.ones_like(low), "s_down": -g_down / low}

    def step(p: Mapping[str, Tensor], w: Tensor, up: Tensor) -> Tensor:
        return torch.where(up, p["d_up"] - p["s_up"] * w, p["d_down"] + p["s_down"] * w)

    return StepModel(build, step)


def _exponential() -> StepModel:
    def build(s: DeviceSettings, arrays: int, low: Tensor, high: Tensor) -> Params:
        one = torch.ones_like(low)
        return {
            "d_up": one.clone(), "d_down": one.clone(), "z": one * s.exp_b, "z_slope": 2 * s.exp_a / (high - low),
            "a_up": one * s.exp_scale_up, "a_down": one * s.exp_scale_down,
            "gamma_up": one * s.exp_gamma_up, "gamma_down": one * s.exp_gamma_down,
        }  # fmt: skip

    def step(p: Mapping[str, Tensor], w: Tensor, up: Tensor) -> Tensor:
        z = p["z"] + p["z_slope"] * w
        grow = torch.where(up, p["a_up"] * torch.exp(p["gamma_up"] * z), p["a_down"] * torch.exp(-p["gamma_down"] * z))
        return torch.where(up, p["d_up"], p["d_down"]) * (1 - grow).clamp(min=0)

    return StepModel(build, step)


def _power() -> StepModel:
    def build(s: DeviceSettings, arrays: int, low: Tensor, high: Tensor) -> Params:
        one = torch.ones_like(low)
        return {"d_up": one.clone(), "d_down": one.clone(), "power": one * s.power}

    def step(p: Mapping[str, Tensor], w: Tensor, up: Tensor) -> Tensor:
        room = torch.where(up, p["high"] - w, w - p["low"]).clamp(min=0) / (p["high"] - p["low"]).clamp(min=1e-12)
        # In float64: a float32 power may round differently in the vectorised and the scalar part of one tensor.
        return torch.where(up, p["d_up"], p["d_down"]) * (room.double() ** p["power"].double()).to(w.dtype)

    return StepModel(build, step)


def _piecewise() -> StepModel:
    def build(s: DeviceSettings, arrays: int, low: Tensor, high: Tensor) -> Params:
        one = torch.ones_like(low)
        params = {"d_up": one.clone(), "d_down": one.clone()}
        for side, nodes in (("up", s.nodes_up), ("down", s.nodes_down)):
            params |= {f"node_{side}_{i:03d}": one * value for i, value in enumerate(nodes)}
        return params

    def interpolate(p: Mapping[str, Tensor], side: str, at: Tensor) -> Tensor:
        nodes = torch.stack([p[name] for name in sorted(n for n in p if n.startswith(f"node_{side}_"))])
        place = at * (len(nodes) - 1)
        left = place.floor().clamp(0, len(nodes) - 2)
        index = left.long()[None]
        a, b = nodes.gather(0, index)[0], nodes.gather(0, index + 1)[0]
        return a + (place - left) * (b - a)

    def step(p: Mapping[str, Tensor], w: Tensor, up: Tensor) -> Tensor:
        at = ((w - p["low"]) / (p["high"] - p["low"]).clamp(min=1e-12)).clamp(0, 1)
        size = torch.where(up, interpolate(p, "up", at), interpolate(p, "down", at))
        return torch.where(up, p["d_up"], p["d_down"]) * size

    return StepModel(build, step)


MODELS: Mapping[str, StepModel] = {
    "constant": _linear(lambda s: (0.0, 0.0)),
    "linear": _linear(lambda s: (s.slope_up, s.slope_down)),
    "soft_bounds": _linear(lambda s: (1.0, 1.0)),
    "exponential": _exponential(),
    "power": _power(),
    "piecewise": _piecewise(),
}
"""The table: a new device model is one more row."""


def draw_cells(
    s: DeviceSettings, rows: int, cols: int, seed: int, ids: Tensor, matrix: str, floor_w: float, short_w: float
) -> tuple[Params, Tensor]:
    """Every cell's parameters and initial state, float32 [array row col], drawn from (seed, array id, matrix).

    floor_w: weight of zero conductance (no bound lies below); short_w: weight of a shorted cell.
    Rules of theory D3: bounds w_max (1 + dtod xi), step gain 1 + dtod xi or exp(dtod xi), and for "up_down"
    D_up = (min(u, 0) + gain + r) dw_min, D_down = (-max(u, 0) + gain - r) dw_min with r = up_down_dtod xi, made
    positive. The initial state is w = 0, inside the bounds.
    """
    arrays = len(ids)
    cell = torch.arange(rows * cols, dtype=torch.int32)

    def draw(purpose: str) -> Tensor:
        return word(Stream(seed, ids, matrix, purpose).keys(1), cell, 0).view(arrays, rows, cols)

    def normal(purpose: str) -> Tensor:
        return gauss(draw(purpose)).double()

    def value(name: str) -> Tensor:
        return per_array(getattr(s, name), arrays)

    high = (value("w_max") * (1 + value("w_max_dtod") * normal("w_max"))).abs().clamp(min=1e-6)
    low = (value("w_min") * (1 + value("w_min_dtod") * normal("w_min"))).abs().neg().clamp(min=floor_w, max=-1e-6)
    spread = value("dw_min_dtod") * normal("dw_min")
    gain = spread.exp() if s.dw_min_log_normal else 1 + spread
    p = MODELS[s.model].build(s, arrays, low, high)
    p = {name: v.expand(arrays, rows, cols).clone() for name, v in p.items()} | {"low": low, "high": high}
    if s.symmetry == "up_down":
        u, r = value("up_down"), value("up_down_dtod") * normal("up_down")
        size_up = ((u.clamp(max=0) + gain + r) * value("dw_min")).abs()
        size_down = ((-u.clamp(min=0) + gain - r) * value("dw_min")).abs()
    else:
        sp = value("sp") + value("sp_dtod") * normal("sp")
        sp = low + sp * (high - low) if s.symmetry == "fraction" else sp
        sp = torch.minimum(torch.maximum(sp, low + 0.02 * (high - low)), high - 0.02 * (high - low))
        size = (gain * value("dw_min")).abs()
        step = MODELS[s.model].step
        size_up = size / step(p, sp, torch.ones_like(sp, dtype=torch.bool))
        size_down = size / step(p, sp, torch.zeros_like(sp, dtype=torch.bool))
    for name in [n for n in p if n[:2] in ("d_", "s_")]:
        p[name] = p[name] * (size_up if name.endswith("_up") else size_down)
    if not s.multiplicative:
        p |= {"noise_up": size_up, "noise_down": size_down}
    w = torch.zeros_like(low)
    _break_cells(s, p, w, uniform(draw("defects")), uniform(draw("stuck")), short_w)
    return {name: v.float().contiguous() for name, v in p.items()}, w.float()


def _break_cells(s: DeviceSettings, p: Params, w: Tensor, which: Tensor, where: Tensor, short_w: float) -> None:
    """Dead, stuck and shorted cells: no step, and both bounds at the conductance they keep."""
    shorted = which < s.shorted
    stuck = (which < s.shorted + s.stuck) & ~shorted
    dead = (which < s.shorted + s.stuck + s.dead) & ~stuck & ~shorted
    place = torch.where(stuck, p["low"] + where * (p["high"] - p["low"]), w)
    place = torch.where(shorted, torch.full_like(place, short_w), place)
    broken = dead | stuck | shorted
    w.copy_(torch.where(broken, place, w))
    for name in ("low", "high"):
        p[name] = torch.where(broken, place, p[name])
    for name in [n for n in p if n[:2] in ("d_", "s_") or n.startswith("noise_")]:
        p[name] = torch.where(broken, torch.zeros_like(p[name]), p[name])


def shift(p: Params, by: Tensor) -> None:
    """Move the origin of w up by ``by`` [array row col], in place: afterwards w' = w - by describes the same cell."""
    p["low"] -= by
    p["high"] -= by
    if "s_up" in p:
        p["d_up"] -= p["s_up"] * by
        p["d_down"] += p["s_down"] * by
    if "z" in p:
        p["z"] += p["z_slope"] * by


def scaled(p: Params, up: Tensor, down: Tensor, bend: float, origin: Tensor) -> Params:
    """Parameters under another pulse shape: steps times kappa, slopes of the linear family times kappa^(1 + bend).

    up, down: kappa of either polarity, [array 1 1]; origin: where w = 0 lies in true weight, [array row col].
    """
    out = dict(p)
    for side, kappa, sign in (("up", up, 1.0), ("down", down, -1.0)):
        d, s = p[f"d_{side}"], p.get(f"s_{side}")
        if s is None:
            out[f"d_{side}"] = kappa * d
        else:
            steeper = kappa**bend
            out[f"s_{side}"] = kappa * steeper * s
            out[f"d_{side}"] = kappa * (d + sign * s * origin * (1 - steeper))
        if f"noise_{side}" in p:
            out[f"noise_{side}"] = kappa * p[f"noise_{side}"]
    return out
