"""What the twin of an ArC TWO is: its devices, their wiring, its noise, its times."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simulated_backend.array import EmulatedArray
from simulated_backend.settings import EmulatorSettings
from simulated_backend.twins.settings import LinkSettings

__all__ = ["ArcTwoTimes", "ArcTwoTwinSettings"]

_STRICT = ConfigDict(frozen=True, extra="forbid")
_SIDE = 32
"""Rows and columns where the settings give none."""


class ArcTwoTimes(BaseModel):
    """Device time of what the instrument does, second; the defaults are its data sheet's and its library's."""

    model_config = _STRICT

    flush_s: float = Field(default=2.5e-3, ge=0)
    """After every block of instructions."""
    bias_s: float = Field(default=30e-6, ge=0)
    """Until the DACs have settled."""
    mode_s: float = Field(default=120e-6, ge=0)
    """From pulse drivers (or open channels) back to voltages."""
    read_s: float = Field(default=1.5e-3, ge=0)
    """One current reading, all its channels at once."""


class ArcTwoTwinSettings(BaseModel):
    """Settings of ``hil twin arc-two``. The devices are those of an emulated board with the same array, seed and name."""

    model_config = _STRICT

    link: LinkSettings = LinkSettings(link="tcp")
    array: EmulatorSettings = EmulatorSettings()
    """The devices; rows and cols default to 32 each. Of its periphery only the read noise is used: the rest is the
    instrument's own."""
    seed: int = 0
    """Of the devices and of the noise."""
    name: str = "main"
    """Name of the board in the bench whose emulated devices these are."""
    role: str = ""
    """"a": devices of ``array.device_a``."""
    words: tuple[int, ...] = (*range(16, 32), *range(48, 64))
    """Channels that the rows are wired to, in order; as many as there are rows, or more."""
    bits: tuple[int, ...] = (*range(16), *range(32, 48))
    """Channels that the columns are wired to, in order."""
    current_noise_a: float = Field(default=170e-12, ge=0)
    """Standard deviation of one current reading, ampere."""
    times: ArcTwoTimes = ArcTwoTimes()

    @model_validator(mode="after")
    def _wired(self) -> ArcTwoTwinSettings:
        if self.link.link != "tcp":
            raise ValueError('link.link: the stand-in of the library connects to a TCP port: give "tcp"')
        every = (*self.words, *self.bits)
        if len(set(every)) != len(every) or not all(0 <= channel < 64 for channel in every):
            raise ValueError("words and bits are channels 0 to 63, each on one line only")
        if len(self.words) < (self.array.rows or _SIDE) or len(self.bits) < (self.array.cols or _SIDE):
            raise ValueError("words and bits name fewer channels than the array has rows and cols")
        return self

    def make_array(self) -> EmulatedArray:
        """The emulated devices, freshly made."""
        rows, cols = self.array.rows or _SIDE, self.array.cols or _SIDE
        return EmulatedArray(self.array, rows, cols, seed=self.seed, name=self.name, role=self.role)
