"""The rack of a probe station: pulse unit, source-measure unit and switching matrix, opened together and made safe together.

Opened first of all by the station, which keeps it for the whole run: whoever opens it finds, or makes, all outputs off and
the matrix open before anything else happens. A bench whose crossbar is always in contact opens it by its board.

Whoever uses a source does so inside ``wired``. Nothing is switched unless the last use of a source, by whichever board of
the bench, is known to have ended at 0 V; the crosspoints are confirmed when they have been closed, and by a question of its
own right before every execute of the pulse unit, which outside of ``wired`` is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from drivers.keithley_707 import Keithley707, MatrixSettings
from drivers.keithley_2600 import Keithley2600, SmuSettings
from drivers.keithley_4200 import Keithley4200, PmuSettings
from drivers.links.twin import StartedTwin, TwinStart
from hil.errors import HardwareError, UsageError

__all__ = ["Rack", "RackSettings", "share", "shared_rack"]

_MEASURE = ("matrix", "smu", "pmu")


class RackSettings(BaseModel):
    """The instruments: where they are and how they are used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    links: dict[str, str] | None = None
    """Addresses by name: pmu, smu, matrix, and of a station also prober."""
    twin: TwinStart | None = None
    """The twin that plays them all; exactly one of links and twin."""
    pmu: PmuSettings = PmuSettings()
    smu: SmuSettings = SmuSettings()
    matrix: MatrixSettings = MatrixSettings()

    @model_validator(mode="after")
    def _one_of_both(self) -> RackSettings:
        if (self.links is None) == (self.twin is None):
            raise ValueError("give exactly one of links and twin")
        return self


class Rack:
    """The three instruments that measure. Connects at once; what was opened is closed again if a later one fails.

    Attributes: links, control (of the twin, "" without), matrix, smu, pmu; look, what the surroundings are (a station's door
    and temperature); watch, called before every use of a source: raises HardwareError where they forbid it.
    """

    def __init__(self, settings: RackSettings, needs: tuple[str, ...] = _MEASURE) -> None:
        self.look: Callable[[], dict[str, Any]] = dict
        self.watch: Callable[[], None] = lambda: None
        self._quiet = False
        """Whether the last use of a source is known to have ended at 0 V."""
        self._closed: list[str] | None = None
        """The crosspoints that the last use closed."""
        self._in_use: list[str] | None = None
        """Those of the use that is under way."""
        with ExitStack() as undo:
            twin = None if settings.twin is None else StartedTwin(settings.twin)
            if twin is not None:
                undo.callback(twin.close)
            self.links: dict[str, str] = (settings.links or {}) if twin is None else twin.links
            self.control = "" if twin is None else twin.control
            missing = [name for name in needs if name not in self.links]
            if missing:
                raise UsageError(f"probe station: links name no {', '.join(missing)}: give the address")
            self.matrix = undo.enter_context(Keithley707(self.links["matrix"], settings.matrix))
            self.smu = undo.enter_context(Keithley2600(self.links["smu"], settings.smu))
            self.pmu = undo.enter_context(Keithley4200(self.links["pmu"], settings.pmu))
            self.pmu.before_execute = self._verify
            if not self.safe():
                raise HardwareError("probe station: outputs off and matrix open were not confirmed: look at the instruments")
            self._closing = undo.pop_all()

    @contextmanager
    def wired(self, crosspoints: Sequence[str]) -> Iterator[None]:
        """These crosspoints closed and no others, for one use of a source: switched at 0 V only, confirmed before the use.

        HardwareError where the surroundings forbid it, a source is in doubt, or other crosspoints are closed.
        """
        self.watch()
        if not self._quiet:
            if not self.outputs_off():
                raise HardwareError("probe station: a source is not confirmed off, so nothing is switched: look at it")
            self._quiet = True
        wanted = sorted(crosspoints)
        before, self._closed = self._closed, None
        if before == wanted:
            self.matrix.verify(wanted)
        else:
            self.matrix.connect(wanted)
        self._closed = self._in_use = wanted
        self._quiet = False
        try:
            yield
        finally:
            self._in_use = None
        self._quiet = True

    def outputs_off(self) -> bool:
        """Both sources off, each whatever became of the other; whether both confirmed it."""
        return all([self.pmu.outputs_off(), self.smu.outputs_off()])

    def safe(self) -> bool:
        """Outputs off, then the matrix open; never raises. Returns whether all of it was confirmed.

        The matrix is opened even where an output is in doubt: relays suffer less from it than devices.
        """
        self._closed, self._quiet = None, self.outputs_off()
        return all([self._quiet, self.matrix.open_all()])

    def close(self) -> None:
        """``safe``, then let go, and stop the twin; may be called twice."""
        try:
            self.safe()
        finally:
            self._closing.close()

    def _verify(self) -> None:
        """Before every execute of the pulse unit."""
        if self._in_use is None:
            raise UsageError("probe station: a pulse without a wired cell: use the rack's pulse unit inside of wired()")
        self.matrix.verify(self._in_use)


_SHARED: dict[str, Rack] = {}
"""Racks of the stations that are open in this process, by name."""


def share(name: str, rack: Rack) -> Callable[[], None]:
    """Offer a station's rack to the boards of its bench; returns what withdraws it. UsageError for a name in use."""
    if name in _SHARED:
        raise UsageError(f"probe station: a station called {name!r} is open already: close it, or give this one a name")
    _SHARED[name] = rack

    def withdraw() -> None:
        _SHARED.pop(name, None)

    return withdraw


def shared_rack(name: str) -> Rack | None:
    """The rack of the open station of that name."""
    return _SHARED.get(name)
