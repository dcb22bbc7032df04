"""Keithley 707B/708B switching matrix over TSP (TCP 5025): crosspoints closed exclusively and verified.

Usable alone::

    with Keithley707("tcp://192.0.2.9:5025") as matrix:
        matrix.connect(["1A01", "1D05"])      # opens all others first, then verifies
        matrix.connect_cell(0, 3, "A", "D")   # the same by cell of the wired crossbar and matrix rows
        matrix.open_all()

A channel is slot, row letter, two-digit column. Switching is break-before-make; whoever calls keeps the sources at 0 V
meanwhile. Two terminals that must never meet (``forbidden``: two sources) are refused in software wherever they would
share a column, before a byte is sent. Relay closures are counted by the instrument and, for this session, here.

Facts: manual 707B-901-01. Unverified on hardware: the whole driver; above all whether ``channel.getclose`` separates its
list by comma or semicolon (both are taken) and prints ``nil`` for an empty one, that ``channel.getcount`` exists in the
firmware at hand, and whether ``channel.getclose`` looks at the relays or repeats what it was told: then only a reading of
the cell shows a relay that is stuck.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from drivers.links.tsp import TspSession, number
from hil.errors import HardwareError, HilError, LimitError, UsageError

__all__ = ["Keithley707", "MatrixSettings", "channel_name"]

_MODELS = ("707B", "708B")
_CHANNEL = re.compile(r"^([1-6])([A-H])(\d\d)$")


def channel_name(slot: int, row: str, column: int) -> str:
    """``1A01``; UsageError for a crosspoint that no card has."""
    name = f"{slot}{row}{column:02d}"
    if not _CHANNEL.match(name) or column < 1:
        raise UsageError(f"{name!r}: no crosspoint: slot 1 to 6, row A to H, column 01 to 99")
    return name


class MatrixSettings(BaseModel):
    """How the crossbar's lines and the instruments are wired to the matrix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slot: int = Field(default=1, ge=1, le=6)
    row_columns: tuple[int, ...] = (1, 2, 3, 4)
    """Matrix column of every crossbar row."""
    col_columns: tuple[int, ...] = (5, 6, 7, 8)
    """Matrix column of every crossbar column."""
    forbidden: tuple[tuple[str, str], ...] = (("A", "B"), ("A", "C"), ("B", "C"), ("A", "D"), ("C", "D"))
    """Pairs of matrix rows that may never meet on one column: two sources, or a source and ground."""
    timeout_s: float = Field(default=5.0, gt=0)
    """For one answer, second; more than the settling of the relays."""

    @model_validator(mode="after")
    def _each_column_once(self) -> MatrixSettings:
        both = self.row_columns + self.col_columns
        if len(set(both)) != len(both) or any(not 1 <= column <= 99 for column in both):
            raise ValueError(f"row_columns and col_columns {both} must name every column once, 1 to 99")
        return self


class Keithley707:
    """The instrument. HardwareError where it reports an error, is silent or shows other crosspoints than were asked for."""

    def __init__(self, address: str, settings: MatrixSettings | None = None) -> None:
        self.settings = settings or MatrixSettings()
        self.address = address
        self.session_closures: Counter[str] = Counter()
        """Closures of every crosspoint asked for by this session."""
        self._known: frozenset[str] | None = None
        self._set_up_at = 0
        self._tsp = TspSession(address, _MODELS, self.settings.timeout_s)

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Maker, model, serial number, firmware."""
        return self._tsp.identity

    @property
    def exchanges(self) -> int:
        """Questions asked so far."""
        return self._tsp.exchanges

    def connect(self, channels: Sequence[str]) -> None:
        """Open everything else, close these crosspoints, and verify that these and no others are closed.

        LimitError where forbidden rows would meet, UsageError for a name that is none; both before a byte is sent.
        """
        wanted = frozenset(channels)
        if not wanted:
            raise UsageError(f"{self.address}: no crosspoint to close: name some, or call open_all")
        self._check(wanted)
        self._prepare()
        names = ",".join(sorted(wanted))
        said = self._tsp.ask(self._closed_now(), after=[f'channel.exclusiveclose("{names}")'])
        before, self._known = self._known or frozenset(), None
        closed = _names(said[0])
        if closed != wanted:
            raise HardwareError(f"{self.address}: {_listed(closed)} closed, not {names}: check cards and relays")
        self.session_closures.update(wanted - before)
        self._known = closed

    def connect_cell(self, row: int, col: int, drive: str, low: str) -> None:
        """Crossbar row ``row`` to matrix row ``drive``, crossbar column ``col`` to matrix row ``low``; all else open."""
        self.connect(self.cell(row, col, drive, low))

    def cell(self, row: int, col: int, drive: str, low: str) -> list[str]:
        """The two crosspoints of ``connect_cell``; UsageError for a cell that is not wired."""
        s = self.settings
        if not (0 <= row < len(s.row_columns) and 0 <= col < len(s.col_columns)):
            raise UsageError(
                f"{self.address}: cell ({row}, {col}) is not wired: there are {len(s.row_columns)} x {len(s.col_columns)}"
            )
        return [channel_name(s.slot, drive, s.row_columns[row]), channel_name(s.slot, low, s.col_columns[col])]

    def verify(self, channels: Sequence[str]) -> None:
        """HardwareError unless exactly these crosspoints are closed now: asked before every use of a source."""
        closed = self.closed()
        if closed != frozenset(channels):
            raise HardwareError(f"{self.address}: {_listed(closed)} closed, not {_listed(channels)}: connect again")

    def closed(self) -> frozenset[str]:
        """The crosspoints that are closed now; a lost answer is asked for once more."""
        try:
            said = self._tsp.ask(self._closed_now())
        except HardwareError:
            said = self._tsp.ask(self._closed_now())
        self._known = _names(said[0])
        return self._known

    def open_all(self) -> bool:
        """Open every crosspoint; never raises. Returns whether the instrument confirmed it."""
        for _ in range(2):  # a lost answer is asked for again: opening twice does no harm
            try:
                said = self._tsp.ask(self._closed_now(), after=['channel.open("allslots")'])
                self._known = _names(said[0])
                return not self._known
            except HilError:
                self._known = None
        return False

    def closures(self, channels: Sequence[str]) -> dict[str, int]:
        """The instrument's own closure counter of these crosspoints."""
        for name in channels:
            _parts(name)
        said = self._tsp.ask(f'channel.getcount("{",".join(channels)}")')[0].replace(";", ",").split(",")
        if len(said) != len(channels):
            raise HardwareError(f"{self.address}: {len(said)} counters for {len(channels)} crosspoints: check the firmware")
        return {name: int(number(count)) for name, count in zip(channels, said, strict=True)}

    def status(self) -> dict[str, Any]:
        """Identity, what is closed, counters."""
        return {
            "identity": ",".join(self.identity), "closed": sorted(self.closed()),
            "session_closures": self.session_closures.total(), "exchanges": self.exchanges,
        }  # fmt: skip

    def close(self) -> None:
        """Open everything and let go; may be called twice."""
        self.open_all()
        self._tsp.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _prepare(self) -> None:
        """The switching rule, once after every connection."""
        self._tsp.ready()
        if self._set_up_at != self._tsp.connections:
            self._tsp.ask(after=["errorqueue.clear()", "channel.connectrule = channel.BREAK_BEFORE_MAKE"])
            self._set_up_at = self._tsp.connections

    def _closed_now(self) -> str:
        return 'channel.getclose("allslots")'

    def _check(self, channels: frozenset[str]) -> None:
        rows_of: dict[tuple[str, str], set[str]] = {}
        for name in channels:
            slot, row, column = _parts(name)
            rows_of.setdefault((slot, column), set()).add(row)
        for (slot, column), rows in rows_of.items():
            for pair in self.settings.forbidden:
                if set(pair) <= rows:
                    raise LimitError(
                        f"{self.address}: rows {' and '.join(pair)} would meet on column {column} of slot {slot}: "
                        "two sources, or a source and ground, must not be shorted"
                    )


def _parts(name: str) -> tuple[str, str, str]:
    """Slot, row and column of a channel; UsageError for what is none."""
    found = _CHANNEL.match(name)
    if found is None or found[3] == "00":
        raise UsageError(f"{name!r}: no crosspoint: slot 1 to 6, row A to H, two-digit column, as in 1A01")
    return found[1], found[2], found[3]


def _names(said: str) -> frozenset[str]:
    """What ``channel.getclose`` printed."""
    text = said.strip()
    return frozenset() if text in ("", "nil") else frozenset(name.strip() for name in re.split("[,;]", text))


def _listed(channels: Iterable[str]) -> str:
    return ", ".join(sorted(channels)) or "nothing"
