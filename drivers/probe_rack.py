"""The rack of a probe station: pulse unit, source-measure unit and switching matrix, opened together and made safe together.

Opened first of all by the station, which keeps it for the whole run: whoever opens it finds, or makes, all outputs off and
the matrix open before anything else happens. A bench whose crossbar is always in contact opens it by its board.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

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

    Attributes: links, control (of the twin, "" without), matrix, smu, pmu; watch, called before every operation: raises
    HardwareError where the surroundings forbid it (a station's door or temperature).
    """

    def __init__(self, settings: RackSettings, needs: tuple[str, ...] = _MEASURE) -> None:
        self.watch: Callable[[], None] = lambda: None
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
            if not self.safe():
                raise HardwareError("probe station: outputs off and matrix open were not confirmed: look at the instruments")
            self._closing = undo.pop_all()

    def outputs_off(self) -> bool:
        """Both sources off, each whatever became of the other; whether both confirmed it."""
        return all([self.pmu.outputs_off(), self.smu.outputs_off()])

    def safe(self) -> bool:
        """Outputs off, then the matrix open; never raises. Returns whether all of it was confirmed.

        The matrix is opened even where an output is in doubt: relays suffer less from it than devices.
        """
        return all([self.outputs_off(), self.matrix.open_all()])

    def close(self) -> None:
        """``safe``, then let go, and stop the twin; may be called twice."""
        try:
            self.safe()
        finally:
            self._closing.close()


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
