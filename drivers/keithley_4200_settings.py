"""Settings of a 4225-PMU, and its current ranges."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["CURRENT_RANGES_A", "SETTLED_S", "PmuSettings"]

CURRENT_RANGES_A = {10: (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.2), 40: (1e-4, 1e-2, 0.8)}
"""Fixed current ranges of a channel with RPM, by source range in volt."""
SETTLED_S = {1e-7: 47e-6, 1e-6: 38.7e-6, 1e-5: 6.8e-6, 1e-4: 950e-9, 1e-3: 240e-9, 1e-2: 145e-9, 0.2: 145e-9, 0.8: 145e-9}
"""How long after a step of the voltage a reading has settled, by current range, second."""


class PmuSettings(BaseModel):
    """One channel that pulses, and maybe one that holds the other end at 0 V."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: int = Field(default=1, ge=1, le=9)
    channel: int = Field(default=1, ge=1, le=8)
    """Of the card pair that pulses and measures."""
    low_channel: int | None = Field(default=2, ge=1, le=8)
    """Held at 0 V through the same tests; None where the other end is grounded."""
    range_v: Literal[10, 40] = 10
    current_range_a: float = 1e-4
    """Fixed current range, ampere: one of CURRENT_RANGES_A."""
    load_ohm: float | None = Field(default=None, ge=1, le=1e7)
    """Resistance that the instrument expects, ohm; None leaves its own."""
    edge_s: float = Field(default=100e-9, ge=20e-9, le=33e-3)
    """Rise and fall time, second."""
    gap_s: float = Field(default=1e-6, ge=20e-9, le=1)
    """At 0 V after every pulse and reading, second."""
    read_width_s: float = Field(default=20e-6, gt=0, le=1)
    """Width of a reading, second."""
    timeout_s: float = Field(default=5.0, gt=0)
    """For one answer, second."""
