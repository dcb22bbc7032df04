"""What the twin board is: its devices, its periphery, what it can do, and how long it takes."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hil.wire_session import Capability, Hello
from simulated_backend.array import EmulatedArray
from simulated_backend.settings import EmulatorSettings
from simulated_backend.twins.settings import LinkSettings

__all__ = ["BoardSettings", "BoardTimes", "Reach"]

_STRICT = ConfigDict(frozen=True, extra="forbid")
_SELECT = {"V/2": 0, "V/3": 1, "selector": 2}
_REFERENCE = {"none": 0, "mid": 1, "cell": 2}
_SIDE = 32
"""Rows and columns where the settings give none."""


class Reach(BaseModel):
    """What a board can make of a quantity: low to high in steps of grain (0 = continuous), SI."""

    model_config = _STRICT

    low: float
    high: float
    grain: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Reach:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        return self

    def fault(self, value: float) -> str:
        """Why it cannot make ``value``; empty where it can. Rounding errors of 1e-9 (1e-6 of a grain) are allowed."""
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        if not self.low - slack <= value <= self.high + slack:
            return f"outside {self.low:g} to {self.high:g}"
        if self.grain > 0 and abs(value / self.grain - round(value / self.grain)) > 1e-6 * max(1.0, abs(value / self.grain)):
            return f"no multiple of {self.grain:g}"
        return ""


class BoardTimes(BaseModel):
    """Device time of what the board does, second."""

    model_config = _STRICT

    mvm_s: float = Field(default=100e-6, ge=0)
    """Integration of one sample of MVM."""
    read_s: float = Field(default=50e-6, ge=0)
    """One reading of one cell."""
    gap_s: float = Field(default=1e-6, ge=0)
    """From the end of a pulse to the start of the next one."""


class BoardSettings(BaseModel):
    """Settings of ``hil twin board``. The devices are those of an emulated board with the same array, seed and name."""

    model_config = _STRICT

    link: LinkSettings = LinkSettings()
    array: EmulatorSettings = EmulatorSettings()
    """Devices and periphery; 32 x 32 cells where rows and cols are not given."""
    seed: int = 0
    name: str = "main"
    """Name of the board in the bench whose emulated devices these are."""
    role: str = ""
    """"a": devices of ``array.device_a``."""
    vendor: str = "crosspoint-hil"
    model: str = "twin board"
    serial: str | None = None
    """Default: made of name and seed."""
    firmware: str = "1.0.0"
    max_body: int = Field(default=65535, le=2**24)
    """Largest body of a request or reply, byte; at least what the protocol asks of a board of its size."""
    window: int = Field(default=8, ge=1, le=255)
    """Requests in flight."""
    watchdog_s: float = Field(default=2.0, gt=0)
    """Real time for which the host may be silent while the board is armed, second."""
    temperature_c: float | None = 25.0
    """What its thermometer shows; None = it has none."""
    pulse_v: Reach = Reach(low=-5.0, high=5.0, grain=1e-3)
    width_s: Reach = Reach(low=1e-8, high=1.0, grain=1e-8)
    times: BoardTimes = BoardTimes()

    @model_validator(mode="after")
    def _roomy(self) -> BoardSettings:
        rows, cols = self._size
        least = max(53 + 4.25 * (rows + cols), 128 + rows * cols / 8)
        if self.array.periphery.reference == "cell":
            least = max(least, 4.0 * rows * cols)
        if self.max_body < least:
            raise ValueError(f"max_body = {self.max_body} is too short for {rows} x {cols} cells: give {math.ceil(least)}")
        return self

    @property
    def _size(self) -> tuple[int, int]:
        return self.array.rows or _SIDE, self.array.cols or _SIDE

    def make_array(self) -> EmulatedArray:
        """The emulated array behind the wire, freshly made."""
        rows, cols = self._size
        return EmulatedArray(self.array, rows, cols, seed=self.seed, name=self.name, role=self.role)

    def hello(self, array: EmulatedArray, nonce: int) -> Hello:
        """What the board says of itself."""
        info = array.info
        able = Capability.INTERLOCK
        able |= Capability.REFERENCE if info.reference == "cell" else Capability.NONE
        able |= Capability.TEMPERATURE if self.temperature_c is not None else Capability.NONE
        able |= Capability.COUNTERS if self.array.count_pulses else Capability.NONE
        grain = (info.read_v.high - info.read_v.low) / (info.read_levels - 1) if info.read_levels > 2 else 0.0
        return Hello(
            nonce=nonce, rows=info.rows, cols=info.cols, capabilities=int(able), max_body=self.max_body,
            window=self.window, watchdog_s=self.watchdog_s, read_levels=info.read_levels,
            read_bipolar=int(info.read_bipolar), adc_bits=info.adc_bits, rows_at_once=0, cols_at_once=0,
            select_scheme=_SELECT[info.select_scheme], reference=_REFERENCE[info.reference],
            full_scale_a=info.full_scale_a, g_mid_siemens=info.g_mid_siemens,
            read_v=(info.read_v.low, info.read_v.high, grain),
            pulse_v=(self.pulse_v.low, self.pulse_v.high, self.pulse_v.grain),
            width_s=(self.width_s.low, self.width_s.high, self.width_s.grain),
            vendor=self.vendor, model=self.model, serial=self.serial or f"twin-{self.name}-{self.seed}",
            firmware=self.firmware,
        )  # fmt: skip
