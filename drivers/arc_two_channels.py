"""Channels of an ArC TWO: which line of the array hangs on which, and how pulses are cut into passes.

A *pass* is one pulse on all crossings of some rows with some columns: these rows get half the voltage, these columns
the other half with the opposite sign, every other channel is tied to ground, so that a cell on one of these lines sees
half the voltage and any other none. A cluster of 8 channels shares one pulse width and one direction of transition, so
a pass has one polarity, rows and columns sit in different clusters, and a slot of an update takes up to four passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hil.encoding import PulseTrain

__all__ = ["CHANNELS", "CLUSTER", "ChannelMap", "Pass", "pulse_passes", "update_passes"]

CHANNELS = 64
"""Analogue channels of the instrument."""

CLUSTER = 8
"""Channels that share a pulse width and a direction of transition: 0-7, 8-15, ..."""

_SIGNS = ((1, 1), (-1, -1), (1, -1), (-1, 1))
"""Signs of (rows, columns) of the four passes of a slot: the first two are up, the others down."""


def _tuple(value: Any) -> Any:
    """A list of TOML as the tuple that a frozen model holds."""
    return tuple(value) if isinstance(value, list) else value


Channel = Annotated[int, Field(ge=0, lt=CHANNELS)]
Channels = Annotated[tuple[Channel, ...], BeforeValidator(_tuple), Field(min_length=1)]


@dataclass(frozen=True)
class Pass:
    """One pulse on the crossings of some lines (numbers of rows and columns, not of channels)."""

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    up: bool


class ChannelMap(BaseModel):
    """``[boards.NAME.settings.channels]``: the channel of every line."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    words: Channels
    """Channel of row 0, 1, ...: each 0 to 63; on the boards sold, 16-31 and 48-63 are word channels."""
    bits: Channels
    """Channel of column 0, 1, ...: each 0 to 63; on the boards sold, 0-15 and 32-47 are bit channels."""

    @model_validator(mode="after")
    def _half_bias(self) -> Self:
        every = [*self.words, *self.bits]
        twice = sorted({channel for channel in every if every.count(channel) > 1})
        if twice:
            raise ValueError(f"channel {twice[0]} is on two lines: give every line a channel of its own")
        clusters = {channel // CLUSTER for channel in self.words}
        for channel in self.bits:
            if channel // CLUSTER in clusters:
                span = f"{channel - channel % CLUSTER} to {channel - channel % CLUSTER + CLUSTER - 1}"
                raise ValueError(f"bits: channel {channel} shares the cluster {span} with words: no half-bias is possible")
        return self

    def active(self, one: Pass, volts: float) -> list[tuple[int, float, float]]:
        """(channel, pulse voltage, rest voltage) of a pass with ``volts`` row minus column: half on either side."""
        rows = [(self.words[row], volts / 2, 0.0) for row in one.rows]
        return rows + [(self.bits[col], -volts / 2, 0.0) for col in one.cols]

    def idle(self, one: Pass) -> list[int]:
        """Every channel, wired or not, that has no part in a pass."""
        busy = {self.words[row] for row in one.rows} | {self.bits[col] for col in one.cols}
        return [channel for channel in range(CHANNELS) if channel not in busy]

    def clusters(self, one: Pass, nanos: int) -> list[int | None]:
        """Pulse width of every cluster in nanoseconds, None for those without a part in a pass."""
        used = {self.words[row] // CLUSTER for row in one.rows} | {self.bits[col] // CLUSTER for col in one.cols}
        return [nanos if cluster in used else None for cluster in range(CHANNELS // CLUSTER)]


def pulse_passes(counts: NDArray[np.int32]) -> Iterator[Pass]:
    """Passes of ``pulse``: row after row, all its columns together. counts: signed [row col]."""
    for row in np.flatnonzero(counts.any(axis=1)).tolist():
        for up in (True, False):
            wanted = counts[row] if up else -counts[row]
            for done in range(int(wanted.max())):
                yield Pass((row,), tuple(np.flatnonzero(wanted > done).tolist()), up)


def update_passes(rows: PulseTrain, cols: PulseTrain) -> Iterator[Pass]:
    """Passes of ``update``: sample after sample, slot after slot, up to four in a slot; empty ones are left out.

    Where lines of both sides fire they cross, so every pass left pulses at least one cell.
    """
    row_bits, col_bits = rows.bits()[0].numpy(), cols.bits()[0].numpy()
    row_sign, col_sign = rows.sign[0].numpy(), cols.sign[0].numpy()
    for sample in range(rows.samples):
        fires = int(np.bitwise_or.reduce(row_bits[sample]) & np.bitwise_or.reduce(col_bits[sample]))
        for slot in range(fires.bit_length()):
            row_on = (row_bits[sample] >> slot) & 1 == 1
            col_on = (col_bits[sample] >> slot) & 1 == 1
            for row_s, col_s in _SIGNS:
                found = np.flatnonzero(row_on & (row_sign[sample] == row_s))
                crossed = np.flatnonzero(col_on & (col_sign[sample] == col_s))
                if len(found) and len(crossed):
                    yield Pass(tuple(found.tolist()), tuple(crossed.tolist()), row_s == col_s)
