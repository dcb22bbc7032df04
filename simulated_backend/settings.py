"""What an emulated board is made of: strict, frozen settings, written as a table of a bench file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simulated_backend.devices import DeviceSettings
from simulated_backend.presets import PRESETS

__all__ = ["ClockSettings", "EmulatorSettings", "LawSettings", "PeripherySettings"]

_STRICT = ConfigDict(frozen=True, extra="forbid")


class PeripherySettings(BaseModel):
    """DACs, ADCs and noise around the array. The default is theory 1.4 (7 and 9 bit, bound 12, noise 0.06)."""

    model_config = _STRICT

    read_v_max: float = Field(default=0.2, gt=0)
    """Largest read voltage, volt; one unit of input."""
    dac_bits: int = Field(default=7, ge=0, le=24)
    """Levels 2^bits - 1 from -read_v_max to read_v_max; 0 = continuous, 1 = one common voltage on chosen lines."""
    adc_bits: int = Field(default=9, ge=0, le=24)
    """Levels 2^bits - 1 from -full scale to full scale; 0 = continuous."""
    full_scale: float = Field(default=12.0, gt=0)
    """ADC full scale in units of weight times full input; inf = never saturates."""
    in_noise: float = Field(default=0.0, ge=0)
    """Standard deviation added to every driven line, of read_v_max."""
    out_noise: float = Field(default=0.06, ge=0)
    """Standard deviation added to every sensed line, in units of weight times full input."""
    read_noise_siemens: float = Field(default=0.0, ge=0)
    """Standard deviation of one reading of one cell, siemens."""
    reference: Literal["none", "mid", "cell"] = "cell"

    @classmethod
    def ideal(cls, reference: Literal["none", "mid", "cell"] = "cell") -> PeripherySettings:
        """Continuous, noise-free, never saturated."""
        return cls(dac_bits=0, adc_bits=0, full_scale=float("inf"), out_noise=0.0, reference=reference)


class LawSettings(BaseModel):
    """How a pulse's voltage and width scale its step. A law of ours, not a fitted one:

    kappa = (width / width_0)^m * sinh(|V| / v_0) / sinh(|V_nominal| / v_0) multiplies the step of that polarity, and
    kappa^(1 + bend) the slopes of the linear family, so that stronger pulses are also more asymmetric.
    """

    model_config = _STRICT

    up_v: float = Field(default=1.0, gt=0)
    """Nominal potentiating voltage, at which kappa = 1; volt."""
    down_v: float = Field(default=-1.0, lt=0)
    width_s: float = Field(default=1e-6, gt=0)
    v_0: float = Field(default=0.25, gt=0)
    width_power: float = Field(default=0.5, ge=0)
    bend: float = Field(default=0.5, ge=0)


class ClockSettings(BaseModel):
    """The virtual clock, and what time and reads do to cells; relaxation and disturb are off by default."""

    model_config = _STRICT

    read_s: float = Field(default=1e-6, gt=0)
    """Time of one read pass, second."""
    gap_s: float = Field(default=1e-7, ge=0)
    """Time between two pulses or slots, second."""
    relax_s: float | None = Field(default=None, gt=0)
    """Time constant of relaxation to each cell's own point, second; None = retention for ever."""
    relax_mean: float = 0.0
    """Mean of the points that cells relax to, weight."""
    relax_dtod: float = Field(default=0.0, ge=0)
    disturb_per_vs: float = Field(default=0.0, ge=0)
    """Read disturb: fraction of the way to the upper (positive voltage) or lower bound, per volt-second."""


class EmulatorSettings(BaseModel):
    """An emulated board. Without rows and cols it is elastic: every matrix gets an array of its own size."""

    model_config = _STRICT

    rows: int | None = Field(default=None, ge=1)
    cols: int | None = Field(default=None, ge=1)
    preset: str | None = None
    """Name of a fitted device (simulated_backend/presets.py); fields of ``device`` override it."""
    device: DeviceSettings = DeviceSettings()
    device_a: DeviceSettings | None = None
    """Devices of matrices with role "a" where they differ."""
    g_mid_siemens: float = Field(default=100e-6, gt=0)
    """Conductance at weight 0."""
    siemens_per_weight: float = Field(default=50e-6, gt=0)
    periphery: PeripherySettings = PeripherySettings()
    law: LawSettings = LawSettings()
    clock: ClockSettings = ClockSettings()
    kernel: Literal["auto", "cpu", "cuda", "reference"] = "auto"
    """Update kernel; ``auto`` takes the fastest that covers the device model."""
    count_pulses: bool = True
    """Whether pulses are counted per cell and polarity (8 bytes a cell)."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("preset") is not None:
            name = data["preset"]
            if name not in PRESETS:
                raise ValueError(f"preset {name!r} is unknown: choose one of {', '.join(sorted(PRESETS))}")
            own = data.get("device", {})
            own = own.model_dump(exclude_unset=True) if isinstance(own, DeviceSettings) else own
            return {**data, "device": {**PRESETS[name].settings, **own}}
        return data

    @model_validator(mode="after")
    def _both_or_none(self) -> EmulatorSettings:
        if (self.rows is None) != (self.cols is None):
            raise ValueError("rows and cols come together: give both for one board, none for an elastic one")
        return self
