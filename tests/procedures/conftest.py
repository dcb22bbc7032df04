"""A bench of one emulated board, and what its devices really are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hil.backend import PulseShape
from hil.calibration import CalibrationStore
from hil.config import Nominal
from hil.guard import guard
from hil.place import Surface
from simulated_backend.array import EmulatedArray
from simulated_backend.devices import DeviceSettings
from simulated_backend.settings import EmulatorSettings, PeripherySettings

G_MID, SCALE = 100e-6, 50e-6


@dataclass
class StubBench:
    """What characterize and zero-shift use of a bench: surfaces and calibrations."""

    array: EmulatedArray
    nominal: Nominal
    calibrations: CalibrationStore
    name: str = "stub"
    shape: PulseShape = field(default_factory=lambda: PulseShape(1.0, -1.0, 1e-6))

    def surfaces(self, widths: Any = None, size: Any = None) -> list[Surface]:
        return [Surface("board main", "c", guard(self.array), self.shape, self.nominal, 1)]

    def truth(self) -> dict[str, Tensor]:
        """Linear-step family: the calibration's quantities as the devices were drawn, float64 [array row col]."""
        p = {name: value.double() for name, value in self.array.state_dict().items()}
        total = p["param_s_up"] + p["param_s_down"]
        sp = (p["param_d_up"] - p["param_d_down"]) / total
        step = (p["param_d_up"] - p["param_s_up"] * sp) * SCALE
        low, high = (p[f"param_{side}"] * SCALE + G_MID for side in ("low", "high"))
        g_sp = G_MID + sp * SCALE
        return {
            "g_min": low, "g_max": high, "g_sp": g_sp, "step": step,
            "slope_up": p["param_s_up"], "slope_down": p["param_s_down"],
            "asymmetry": total / (2 * step), "states": (high - low) / step, "sp_skew": (high - g_sp) / (high - low),
        }  # fmt: skip


@dataclass
class Notes:
    """A ledger that remembers."""

    id: str = "run-1"
    events: list[tuple[str, Any, Any]] = field(default_factory=list)
    results: list[tuple[str, Any, str, str]] = field(default_factory=list)

    def event(self, kind: str, payload: Any = None, arrays: Any = None) -> None:
        self.events.append((kind, payload, arrays))

    def result(self, name: str, value: Any, unit: str, description: str) -> None:
        self.results.append((name, value, unit, description))


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def make_bench(tmp_path: Path):
    """make_bench(rows=, cols=, arrays=, read_noise=, states=, **device) -> StubBench; soft bounds by default."""

    def make(
        rows: int = 16,
        cols: int = 16,
        arrays: int = 1,
        read_noise: float = 0.0,
        states: float = 60.0,
        seed: int = 3,
        **device: Any,
    ) -> StubBench:
        device = {"dw_min": 1.2 / states, "symmetry": "fraction", "sp": 0.5, "sp_dtod": 0.1, "c2c": 0.3} | device
        settings = EmulatorSettings(
            device=DeviceSettings(**device), periphery=PeripherySettings(read_noise_siemens=read_noise),
            g_mid_siemens=G_MID, siemens_per_weight=SCALE,
        )  # fmt: skip
        array = EmulatedArray(settings, rows, cols, seed=seed, ids=torch.arange(arrays), name="bench")
        nominal = Nominal(g_min_siemens=70e-6, g_max_siemens=130e-6, states=states)
        return StubBench(array, nominal, CalibrationStore(tmp_path / "calibrations"))

    return make
