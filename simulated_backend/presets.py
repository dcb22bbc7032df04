"""Fitted devices by name. Numbers are aihwkit's fits (presets/devices.py) unless another source is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """Device settings and where they come from."""

    settings: Mapping[str, Any]
    source: str


PRESETS: Mapping[str, Preset] = {
    "rpu": Preset(
        {"model": "soft_bounds"},
        "1,200 nominal states with the default spreads of aihwkit, after Gokmen and Vlasov 2016",
    ),
    "ecram": Preset(
        {
            "model": "linear", "dw_min": 0.002, "slope_up": 0.1153, "slope_down": 0.5085, "w_max": 1.1724,
            "w_min": -0.8276, "c2c": 0.3, "up_down": 0.0,
        },
        "lithium ECRAM, linear-step fit of aihwkit",
    ),
    "mo-ecram": Preset(
        {
            "model": "linear", "dw_min": 2.8214e-4, "slope_up": 0.4152, "slope_down": 0.7342, "w_max": 1.1714,
            "w_min": -0.8285, "c2c": 2.0,
        },
        "metal-oxide ECRAM, linear-step fit of aihwkit; bounds from its noise-free trajectory",
    ),
    "capacitor": Preset(
        {"model": "linear", "dw_min": 0.005, "slope_up": 0.05, "slope_down": 0.05, "w_max": 1.0, "w_min": -1.0},
        "trench capacitor, linear-step fit of aihwkit; bounds +-1 nominal",
    ),
    "reram-sb": Preset(
        {"model": "soft_bounds", "dw_min": 0.002, "w_max": 1.25, "w_min": -0.75, "c2c": 3.75},
        "ReRAM, soft-bounds fit of aihwkit",
    ),
    "reram-om": Preset(
        {
            "model": "soft_bounds", "dw_min": 0.0949, "dw_min_dtod": 0.7829, "dw_min_log_normal": True, "w_max": 1.0,
            "w_min": -1.0, "w_max_dtod": 0.35, "w_min_dtod": 0.57, "c2c": 0.4158, "write_noise": 1.41,
        },
        "14 nm ReRAM array, about 21 states; Gong, Rasch et al., IEDM 2022 33.7, in aihwkit's fit",
    ),
    "hfo2": Preset(
        {
            "model": "soft_bounds", "dw_min": 0.4622, "dw_min_dtod": 0.7125, "dw_min_log_normal": True, "w_max": 1.0,
            "w_min": -1.0, "c2c": 0.2174,
        },
        "HfO2 ReRAM array, about 4 states, in aihwkit's fit",
    ),
}  # fmt: skip
"""name -> device. The corrupt-cell yields measured on the two ReRAM arrays (13.5 %, 9.8 %) are set with ``stuck``."""
