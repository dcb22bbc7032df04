"""Settings of an ArC ONE in a bench file."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from drivers.links.twin import TwinStart

__all__ = ["ArcOneSettings"]


class ArcOneSettings(BaseModel):
    """``[boards.NAME.settings]`` with ``backend = "arc-one"``."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    link: str | None = None
    """Serial port, or ``tcp://HOST:PORT``; this or ``twin``."""
    twin: TwinStart | None = None
    """The twin to start in the place of a board; this or ``link``."""
    serial: str = Field(min_length=1)
    """Name of the devices in the socket, which the board cannot tell: calibrations and wear counters are kept by it."""
    words: int = Field(default=32, ge=1, le=32)
    """Rows that are wired, from word 1."""
    bits: int = Field(default=32, ge=1, le=32)
    """Columns that are wired, from bit 1."""
    read_v: float = Field(default=0.2, ge=-12, le=12)
    """Voltage of ``read``, row minus column, volt, other than 0; six decimals."""
    read_cycles: int = Field(default=50, ge=1)
    """Samples that the board averages for one reading."""
    session: Literal["local", "external", "external to local", "offline"] = "local"
    """Where the devices are: on the board, at its BNC connectors, ..."""
    sneak: Literal["V/2", "V/3", "float"] = "V/2"
    """What the board does with unselected lines. Multi-bias writes, which put V/2 on them, are used with V/2 only."""
    multi_bias_from: int = Field(default=4, ge=2)
    """Fewest cells of a column that share a pulse by a multi-bias write: it takes the wire as long as some 3 lone pulses."""
    mvm: Literal["multi-bias", "by cells"] = "multi-bias"
    """Forward products by parallel reads, or summed from single cells: fewer readings where inputs have many bits."""
    acknowledge: bool = False
    """Whether lone pulses too go with a reading, whose answer tells that they arrived."""
    gap_s: float = Field(default=1e-3, ge=0, le=1)
    """Least time between arguments; a board drops what comes within 0.5 ms. 0 for a twin that does not mind; second."""
    reset_s: float = Field(default=2.0, ge=0, le=60)
    """How long an MCU reset takes, second."""
    timeout_s: float = Field(default=7.0, gt=0, le=600)
    """How long an answer may stay away, second."""
    reopen_s: float = Field(default=10.0, ge=0, le=600)
    """How long to try to open a lost port again, second."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.link is None) == (self.twin is None):
            raise ValueError("give either link, the address of a board, or twin")
        if self.read_v == 0 or abs(round(self.read_v, 6) - self.read_v) > 1e-12:
            raise ValueError(f"read_v = {self.read_v} V is 0 or has more than six decimals: round it")
        return self
