"""Settings of an ArC TWO in a bench file."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from drivers.arc_two_channels import ChannelMap
from drivers.arc_two_instrument import DELAY_GRAIN_NS, DELAY_MIN_NS
from drivers.links.twin import TwinStart

__all__ = ["ArcTwoSettings"]

_TOP_V = {"STD": 10.0, "EXT": 13.5}
_SPAN_V = {"STD": 20.0, "EXT": 40.0}


class ArcTwoSettings(BaseModel):
    """``[boards.NAME.settings]`` with ``backend = "arc-two"``."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    id: int | None = Field(default=None, ge=0)
    """Number of the board, as the library's find_ids() counts them; this or ``twin``."""
    twin: TwinStart | None = None
    """The twin to start in the place of a board; this or ``id``."""
    module: str = "pyarc2"
    """The vendor's library, or a module that offers the same names."""
    firmware: str
    """File that the library loads into the board; comes with the board."""
    serial: str = Field(min_length=1)
    """Name of the devices in the socket, which the board cannot tell: calibrations and wear counters are kept by it."""
    channels: ChannelMap
    read_v: float = Field(default=0.2, gt=0)
    """Voltage of ``read``, row minus column, volt."""
    output_range: Literal["STD", "EXT"] = "STD"
    """STD: up to 10 V in steps of 305 uV; EXT: up to 13.5 V in steps of 610 uV."""
    control: Literal["Internal", "Header"] = "Internal"
    """Whether the daughterboard routes the channels to its socket or to its headers."""
    idle: Literal["HardGnd", "SoftGnd"] = "HardGnd"
    """What ``safe`` leaves: channels tied to ground, or held at 0 V."""
    settle_s: float = Field(default=0.0, ge=0, le=1)
    """Time between bias and reading beyond the library's own 30 us: 0, or at least 320 ns in steps of 20 ns; second."""
    sensed_sign: Literal[1, -1] = 1
    """1 where a current into a sensed channel counts positive."""
    timeout_s: float = Field(default=10.0, gt=0)
    """How much longer than expected the board may be busy, second."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.id is None) == (self.twin is None):
            raise ValueError("give either id, the number of a board, or twin")
        if not 1 <= round(self.read_v / self.step_v) <= self.codes[-1]:
            raise ValueError(f"read_v = {self.read_v} V is outside what the DAC does: {self.step_v:g} to {self.top_v:g} V")
        nanos = self.settle_s * 1e9
        if self.settle_s and (nanos < DELAY_MIN_NS or abs(nanos / DELAY_GRAIN_NS - round(nanos / DELAY_GRAIN_NS)) > 1e-6):
            raise ValueError(f"settle_s = {self.settle_s} is neither 0 nor 320 ns or more in steps of 20 ns")
        return self

    @property
    def top_v(self) -> float:
        """Largest voltage of a channel, and of a pulse, volt."""
        return _TOP_V[self.output_range]

    @property
    def step_v(self) -> float:
        """Step of the 16-bit DAC of every channel, volt."""
        return _SPAN_V[self.output_range] / 2**16

    @property
    def codes(self) -> range:
        """Steps away from 0 V that a channel can be put at; the highest code is one step below the end of the range."""
        most = int(self.top_v / self.step_v)
        return range(-most, min(most, 2**15 - 1) + 1)
