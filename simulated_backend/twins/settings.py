"""What every twin can be told: its link, its clock, the faults that it starts with."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["FaultSettings", "LinkSettings"]

_STRICT = ConfigDict(frozen=True, extra="forbid")


class FaultSettings(BaseModel):
    """Faults of the link, each a probability per unit (frame, line, reply) in each direction."""

    model_config = _STRICT

    drop: float = Field(default=0.0, ge=0, le=1)
    corrupt: float = Field(default=0.0, ge=0, le=1)
    """One bit of one byte is flipped."""
    duplicate: float = Field(default=0.0, ge=0, le=1)
    delay: float = Field(default=0.0, ge=0, le=1)
    delay_s: float = Field(default=0.01, ge=0)
    """How long a delayed unit is held, second."""
    seed: int = 0


class LinkSettings(BaseModel):
    """How a twin is reached, and how slow it is."""

    model_config = _STRICT

    link: Literal["pty", "tcp"] = "pty"
    port: int = Field(default=0, ge=0, le=65535)
    """TCP port; 0 = any that is free."""
    bit_per_s: float = Field(default=0.0, ge=0)
    """Speed of the wire, ten bits a byte; 0 = as fast as it goes."""
    time_scale: float = Field(default=0.0, ge=0)
    """Real seconds for a second of device time: 1 = as slow as the instrument, 0 = do not wait at all."""
    faults: FaultSettings = FaultSettings()
