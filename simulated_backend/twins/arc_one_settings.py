"""Settings of the ArC ONE twin."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from simulated_backend.settings import EmulatorSettings, PeripherySettings
from simulated_backend.twins.settings import LinkSettings

__all__ = ["LINES", "ArcOneTwinSettings"]

LINES = 32
"""Words, and bits, of the instrument."""


class ArcOneTwinSettings(LinkSettings):
    """An ArC ONE and the devices in its socket."""

    array: EmulatorSettings = EmulatorSettings(rows=LINES, cols=LINES, periphery=PeripherySettings.ideal("none"))
    """Devices on words 1 to rows and bits 1 to cols. Its periphery measures whole currents: reference "none", no DAC."""
    seed: int = 0
    name: str = "board"
    """With seed and role: which devices they are."""
    role: str = ""
    firmware: tuple[int, int] | None = (1, 0)
    """Major and minor version; None = old firmware, which does not answer the question."""
    width_s_max: float = Field(default=1.0, gt=0)
    """Longest pulse, second."""
    read_s: float = Field(default=1e-3, ge=0)
    """Device time of a reading, second; the instrument's own is not documented."""
    enforce_gap: bool = False
    """Whether arguments that come within 0.5 ms are dropped also with time_scale = 0."""
    late_s: float = Field(default=5e-3, ge=0)
    """How much later than it came the twin may get to see an argument: that much is forgiven, real second."""

    @model_validator(mode="after")
    def _whole_currents(self) -> Self:
        rows, cols, periphery = self.array.rows, self.array.cols, self.array.periphery
        if rows is None or cols is None or max(rows, cols) > LINES:
            raise ValueError(f"array.rows and array.cols must be given, {LINES} at most: the board has no more lines")
        if periphery.reference != "none" or periphery.dac_bits:
            raise ValueError('array.periphery needs reference = "none" and dac_bits = 0: the board measures whole currents')
        return self
