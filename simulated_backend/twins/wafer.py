"""A wafer of dies, each a small crossbar of emulated devices whose parameters drift over the wafer.

With x and y the place of a die from -1 to 1 over the map, a gradient (gx, gy) multiplies (``dw_min``, ``range``) by
1 + gx x + gy y, or is added (``up_down``). The devices of a die are those of
``EmulatedArray(die_settings(wafer, die), rows, cols, seed=seed, name=die_name(name, die, site))``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from simulated_backend.array import EmulatedArray
from simulated_backend.devices import DeviceSettings
from simulated_backend.settings import EmulatorSettings, PeripherySettings

__all__ = ["Die", "GradientSettings", "ShortSettings", "Wafer", "WaferSettings", "die_name", "die_settings"]

_STRICT = ConfigDict(frozen=True, extra="forbid")

Die = tuple[int, int]
"""Column and row of the map."""


class GradientSettings(BaseModel):
    """(along x, along y) from the middle of the map to its edge."""

    model_config = _STRICT

    dw_min: tuple[float, float] = (0.2, 0.1)
    """Relative change of the step."""
    up_down: tuple[float, float] = (0.1, -0.05)
    """Added to the asymmetry."""
    range: tuple[float, float] = (0.1, 0.1)
    """Relative change of both bounds."""


class ShortSettings(BaseModel):
    """Cells of one die that are shorted to ten times the nominal maximum conductance."""

    model_config = _STRICT

    die: Die
    cells: tuple[tuple[int, int], ...]
    """(row, col) of each."""


class WaferSettings(BaseModel):
    """The map and its devices."""

    model_config = _STRICT

    columns: int = Field(default=5, ge=1)
    rows: int = Field(default=4, ge=1)
    """Size of the map; every place of it is a die unless ``dies`` lists them."""
    dies: tuple[Die, ...] = ()
    """The dies there are, in the order of the route; empty = the whole map, row by row."""
    sites: int = Field(default=1, ge=1)
    """Crossbars on a die."""
    array: EmulatorSettings = EmulatorSettings(
        rows=4,
        cols=4,
        device=DeviceSettings(dw_min=0.005, dw_min_dtod=0.1, w_max_dtod=0.1, w_min_dtod=0.1, c2c=0.1),
        periphery=PeripherySettings.ideal("none"),
    )
    """One crossbar; the instruments make the noise of a reading, so its own periphery stays ideal."""
    threshold_v: float = Field(default=0.4, gt=0)
    """Voltages below it leave a device as it is: readings do not disturb."""
    gradient: GradientSettings = GradientSettings()
    shorted: tuple[ShortSettings, ...] = ()
    no_contact: tuple[Die, ...] = ()
    """Dies that the probes do not reach electrically."""

    @property
    def route(self) -> tuple[Die, ...]:
        """The dies in the order in which the prober visits them."""
        return self.dies or tuple((column, row) for row in range(self.rows) for column in range(self.columns))

    @model_validator(mode="after")
    def _consistent(self) -> WaferSettings:
        if self.array.rows is None or self.array.cols is None:
            raise ValueError("array.rows and array.cols must be given: the crossbar of a die has a size")
        if len(set(self.route)) != len(self.route):
            raise ValueError("dies names a die twice")
        unknown = [die for die in (*(short.die for short in self.shorted), *self.no_contact) if die not in self.route]
        if unknown:
            raise ValueError(f"shorted or no_contact name {unknown[0]}, which is not on the map")
        for short in self.shorted:
            for row, col in short.cells:
                if not (0 <= row < self.array.rows and 0 <= col < self.array.cols):
                    raise ValueError(f"shorted: cell ({row}, {col}) is outside {self.array.rows} x {self.array.cols}")
        return self


def die_name(name: str, die: Die, site: int) -> str:
    """What the devices of a site are drawn under."""
    return f"{name} die {die[0]} {die[1]} site {site}"


def die_settings(wafer: WaferSettings, die: Die) -> EmulatorSettings:
    """The emulator settings of one die: those of the wafer with the gradient applied."""
    x, y = _place(die[0], [d[0] for d in wafer.route]), _place(die[1], [d[1] for d in wafer.route])
    gradient, device = wafer.gradient, wafer.array.device

    def by(slope: tuple[float, float]) -> float:
        return slope[0] * x + slope[1] * y

    def one(value: Any) -> float:
        return float(value[0] if isinstance(value, tuple) else value)

    changed = {
        "dw_min": one(device.dw_min) * (1 + by(gradient.dw_min)),
        "up_down": one(device.up_down) + by(gradient.up_down),
        "w_max": one(device.w_max) * (1 + by(gradient.range)),
        "w_min": one(device.w_min) * (1 + by(gradient.range)),
    }
    # The device's fields already hold those of a preset, so that the preset is not applied once more.
    return wafer.array.model_copy(update={"device": DeviceSettings.model_validate({**device.model_dump(), **changed})})


def _place(index: int, indices: list[int]) -> float:
    low, high = min(indices), max(indices)
    return 0.0 if high == low else (2 * index - low - high) / (high - low)


class Wafer:
    """The dies, made when they are first touched or asked for."""

    def __init__(self, settings: WaferSettings, seed: int, name: str) -> None:
        self.settings = settings
        self._made = lru_cache(maxsize=None)(lambda die, site: self._make(die, site, seed, name))

    def array(self, die: Die, site: int) -> EmulatedArray:
        """The crossbar at a site."""
        return self._made(die, site)

    def shorted(self, die: Die) -> list[tuple[int, int]]:
        """Its shorted cells."""
        return [cell for short in self.settings.shorted if short.die == die for cell in short.cells]

    def truth(self) -> dict[str, Any]:
        """Parameters, conductances and pulse counts of every site, as nested lists [row][col]."""
        found: dict[str, Any] = {}
        for die in self.settings.route:
            for site in range(self.settings.sites):
                array = self.array(die, site)
                status, state = array.status(), array.state_dict()
                found[f"{die[0]},{die[1]},{site}"] = {
                    "die": list(die), "site": site, "contact": die not in self.settings.no_contact,
                    "shorted": [list(cell) for cell in self.shorted(die)],
                    "g_siemens": array.read(_all(array))[0].tolist(),
                    **{name: status[name][0].tolist() for name in ("pulses_up", "pulses_down") if name in status},
                    "device": die_settings(self.settings, die).device.model_dump(),
                    "parameters": {
                        key.removeprefix("param_"): value[0].tolist()
                        for key, value in state.items()
                        if key.startswith("param_")
                    },
                }  # fmt: skip
        return found

    def _make(self, die: Die, site: int, seed: int, name: str) -> EmulatedArray:
        settings = die_settings(self.settings, die)
        assert settings.rows is not None
        assert settings.cols is not None
        array = EmulatedArray(settings, settings.rows, settings.cols, seed=seed, name=die_name(name, die, site))
        cells = self.shorted(die)
        if cells:
            _short(array, cells)
        return array


def _all(array: EmulatedArray) -> Tensor:
    return torch.ones(1, array.info.rows, array.info.cols, dtype=torch.bool)


def _short(array: EmulatedArray, cells: list[tuple[int, int]]) -> None:
    """Make cells conduct ten times the nominal maximum, for ever."""
    s = array.settings
    w_max = s.device.w_max if isinstance(s.device.w_max, float) else s.device.w_max[0]
    floor_w = -s.g_mid_siemens / s.siemens_per_weight
    short_w = 10 * (w_max - floor_w) + floor_w
    state = array.state_dict()
    for row, col in cells:
        for name, value in state.items():
            if name in ("state", "hidden", "param_low", "param_high"):
                value[0, row, col] = short_w
            elif name.startswith(("param_d_", "param_s_", "param_noise_")):
                value[0, row, col] = 0.0
    array.load_state_dict(state)
