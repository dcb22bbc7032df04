"""A probe station: a SENTIO prober and the rack that measures what its probes touch.

``[station]`` names prober and instruments (or starts the twin of them all) and keeps them for the whole run;
``[boards.NAME]`` is the crossbar of a site. Rules that hold at every step: outputs are off and the matrix is open, both
confirmed, before the chuck moves; the chuck is separated before a step; where one of these was not confirmed nothing moves
any more. The prober's door and the chuck's temperature are asked for before every step and every use of a source on a cell.

Opening the station switches all outputs off, opens the matrix and separates the chuck, in this order, before anything else.

Unverified on hardware: all of it; see the drivers of the instruments for what is known of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from drivers.probe_cells import CellSettings, ProbedCells
from drivers.probe_rack import Rack, RackSettings, share, shared_rack
from drivers.sentio import ProberSettings, Sentio
from hil.bench import Bench
from hil.errors import HardwareError, HilError, UsageError
from hil.limits import check_read_v, excluded_mask
from hil.plugins import Wanted
from hil.station import Opened, Site

__all__ = ["ProbeStation", "StationSettings", "plugin", "station"]

_LOOK = "nothing moves before somebody has looked"


class StationSettings(RackSettings):
    """``[station.settings]``: the rack with its prober; the addresses in ``links`` are pmu, smu, matrix and prober."""

    name: str = "station"
    """By which the boards of the bench find their station."""
    prober: ProberSettings = ProberSettings()
    sites_on_die: int = Field(default=1, ge=1)
    contact_min_siemens: float = Field(default=1e-7, ge=0)
    """Where every cell of a site reads less, there is no contact, siemens."""
    chuck_min_c: float = -300.0
    """Lowest chuck temperature at which cells are touched, degrees Celsius."""
    chuck_max_c: float = 500.0


class ProbeStation:
    """The station. opened: opens the bench of the site in contact. HardwareError where something is not confirmed safe."""

    def __init__(self, settings: StationSettings, opened: Opened) -> None:
        self.settings, self._opened = settings, opened
        self._grounded = True
        """Whether outputs off and matrix open are confirmed: only then may the chuck move."""
        self._bench: Bench | None = None
        """That of the site in contact, until all its boards have confirmed that they are grounded."""
        with ExitStack() as undo:
            self.rack = Rack(settings, needs=("pmu", "smu", "matrix", "prober"))
            undo.callback(self.rack.close)
            self.prober = Sentio(self.rack.links["prober"], settings.prober)
            undo.callback(self.prober.close)
            self._separate("probe station")
            self.rack.look, self.rack.watch = self.look, self.watch
            undo.callback(share(settings.name, self.rack))
            self._closing = undo.pop_all()
        self._sites = [Site(die, index) for die in self.prober.dies() for index in range(settings.sites_on_die)]

    def sites(self) -> list[Site]:
        return list(self._sites)

    @contextmanager
    def contact(self, site: Site) -> Iterator[Bench]:
        if site not in self._sites:
            raise UsageError(f"{site.name}: is not on the prober's map: leave it out")
        if not self._grounded:
            raise HardwareError(f"probe station: outputs off and matrix open were not confirmed: {_LOOK}")
        self.watch()
        if self.prober.height != "separation":
            self._separate(site.name)
        self.prober.step(*site.die, site.index)
        self._grounded = False
        try:
            self.prober.contact()
            with self._opened(site) as bench:
                self._bench = bench
                try:
                    self._check_contact(bench, site)
                    yield bench
                finally:
                    self._ground_boards()
        finally:
            # Whatever became of the bench: the instruments themselves must say it before the chuck moves.
            separated = self.safe()
        if not separated:
            raise HardwareError(f"{site.name}: not confirmed off, open and separated: {_LOOK}")

    def look(self) -> dict[str, Any]:
        """Door and temperature, asked for now."""
        interlock = "closed" if self.prober.door_closed() else "open"
        return {"interlock": interlock, "chuck_c": self.prober.chuck_temperature_c()}

    def watch(self) -> None:
        """HardwareError where the door is open or the chuck is too cold or too hot."""
        now, low, high = self.look(), self.settings.chuck_min_c, self.settings.chuck_max_c
        if now["interlock"] != "closed":
            raise HardwareError("probe station: the prober's door is open: close it")
        if not low <= now["chuck_c"] <= high:
            what = f"the chuck is at {now['chuck_c']:g} C, not at {low:g} to {high:g}"
            raise HardwareError(f"probe station: {what}: set it, or the limits")

    def status(self) -> dict[str, Any]:
        return {**self.prober.status(), "grounded": self._grounded}

    def safe(self) -> bool:
        self._ground_boards()
        self._grounded = self.rack.safe() and self._bench is None
        return self._grounded and self.prober.separate()

    def close(self) -> None:
        try:
            self.safe()
        finally:
            self._closing.close()

    def _separate(self, where: str) -> None:
        if not self.prober.separate():
            raise HardwareError(f"{where}: the chuck did not confirm that it is separated: {_LOOK}")

    def _ground_boards(self) -> None:
        """Those of the bench in contact, each whatever became of the others."""
        if self._bench is not None:
            confirmed = []
            for board in self._bench.backends.values():
                with suppress(HilError):
                    confirmed.append(board.safe())
            if confirmed == [True] * len(self._bench.backends):
                self._bench = None

    def _check_contact(self, bench: Bench, site: Site) -> None:
        for name, backend in bench.backends.items():
            limits, info = bench.config.boards[name].limits, backend.info
            mask = torch.ones(1, info.rows, info.cols, dtype=torch.bool)
            if limits is not None:
                mask &= ~torch.from_numpy(excluded_mask(limits, info, name))
            if bool(mask.any()) and self._reads_nothing(bench.read_cells(name, mask)[mask]):
                raise HardwareError(
                    f"{site.name}: no contact: every cell of board {name} reads below "
                    f"{self.settings.contact_min_siemens:g} S: look at the probes"
                )

    def _reads_nothing(self, g: Tensor) -> bool:
        return bool((g.abs() < self.settings.contact_min_siemens).all())


class _CellsPlugin:
    """The entry point of ``hil.backends``."""

    settings = CellSettings

    def elastic(self, settings: CellSettings) -> bool:
        return False

    def open(self, settings: CellSettings, wanted: Wanted) -> ProbedCells:
        """Take the open station's instruments, or connect to the board's own."""
        where = f"boards.{wanted.name}.settings"
        rack = shared_rack(settings.station)
        if (settings.rack is None) == (rack is None):
            what = f"no station {settings.station!r} is open" if rack is None else f"has the station {settings.station!r}"
            raise UsageError(f"{where}: {what}: give instruments either by a [station] or by {where}.rack")
        owned = rack is None
        if rack is None:
            assert settings.rack is not None
            rack = Rack(settings.rack)
        try:
            cells = ProbedCells(settings, rack, wanted.site, owned)
            check_read_v(settings.read_v, cells.info, wanted.limits, wanted.name)
            return cells
        except BaseException:
            if owned:
                rack.close()
            raise


class _StationPlugin:
    """The entry point of ``hil.stations``."""

    settings = StationSettings

    def open(self, settings: StationSettings, opened: Opened) -> ProbeStation:
        """Connect to instruments and prober."""
        return ProbeStation(settings, opened)


plugin = _CellsPlugin()
"""The entry point of ``hil.backends``."""

station = _StationPlugin()
"""The entry point of ``hil.stations``."""
