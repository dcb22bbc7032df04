"""Stations: what brings a bench into contact with one site after another.

A bench file names its station under ``[station]``; without that there is one site, always in contact. A procedure over
sites (``procedures.wafer``) gets the station; any other runs on the bench of the first site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from hil.bench import Bench, open_bench
from hil.config import BenchConfig, validated
from hil.errors import HardwareError, UsageError
from hil.ledger import Ledger
from hil.plugins import find
from hil.safety import SafeState

__all__ = ["OneSite", "OneSitePlugin", "Opened", "Site", "Station", "StationPlugin", "one_site", "open_station"]


@dataclass(frozen=True)
class Site:
    """A place that probes can touch: die column and row of the map, and the site within the die."""

    die: tuple[int, int]
    index: int = 0

    @property
    def name(self) -> str:
        """For records and file names."""
        return f"die{self.die[0]:+d}{self.die[1]:+d}.site{self.index}"


Opened = Callable[[Site], AbstractContextManager[Bench]]
"""Opens the bench of a site that is in contact."""


@runtime_checkable
class Station(Protocol):
    """The only thing that moves. A wafer procedure runs an ordinary procedure inside each contact."""

    def sites(self) -> list[Site]:
        """All sites, in the order in which they are visited."""
        ...

    def contact(self, site: Site) -> AbstractContextManager[Bench]:
        """Touch a site and yield its bench; leaving grounds, opens the matrix and separates, whatever happened.

        Raises UsageError for an unknown site and HardwareError where there is no contact.
        """
        ...

    def status(self) -> dict[str, Any]:
        """Position, chuck temperature, touchdowns, interlock."""
        ...

    def safe(self) -> bool:
        """Ground, open, separate; never raises half-way. Returns whether all was confirmed."""
        ...

    def close(self) -> None:
        """``safe()``, then let go. May be called twice."""
        ...


class StationPlugin(Protocol):
    """An entry point of ``hil.stations``."""

    settings: type[BaseModel]
    """The strict model of ``[station.settings]``."""

    def open(self, settings: Any, opened: Opened) -> Station:
        """Connect to the prober. ``opened(site)`` opens the bench of a site that is in contact."""
        ...


class OneSite:
    """The default: one site, always in contact. ``opened`` opens the bench."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._contacts = 0

    def sites(self) -> list[Site]:
        return [Site((0, 0))]

    @contextmanager
    def contact(self, site: Site) -> Iterator[Bench]:
        if site != Site((0, 0)):
            raise UsageError(f"{site.name}: this bench has one site, die (0, 0): leave the site out")
        self._contacts += 1
        with self._opened(site) as bench:
            yield bench

    def status(self) -> dict[str, Any]:
        return {"contacts": self._contacts}

    def safe(self) -> bool:
        return True

    def close(self) -> None:
        self.safe()


class _NoSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OneSitePlugin:
    """``station = "bench"``: the bench itself."""

    settings = _NoSettings

    def open(self, settings: _NoSettings, opened: Opened) -> OneSite:
        """One site."""
        return OneSite(opened)


one_site = OneSitePlugin()
"""The entry point."""


@contextmanager
def open_station(
    config: BenchConfig, state: Path, ledger: Ledger | None = None, safety: SafeState | None = None
) -> Iterator[Station]:
    """The station of a bench file, as a context that makes it safe and lets go of it.

    Arguments as of ``hil.bench.open_bench``. Each contact grounds its boards when it ends, and raises HardwareError
    where one of them did not confirm that.
    """

    @contextmanager
    def opened(site: Site) -> Iterator[Bench]:
        # Without a station of its own, a bench is registered with the run: signals ground it wherever they come.
        alone = config.station is None
        grounded = safety if alone else SafeState(ledger)
        with open_bench(config, state, ledger, grounded, site="" if alone else site.name) as bench:
            yield bench
        if not alone and grounded is not None and grounded.doubtful:
            raise HardwareError(grounded.doubtful)

    if config.station is None:
        yield OneSite(opened)
        return
    plugin: StationPlugin = find("hil.stations", config.station.station)
    where = f"bench {config.name}: station.settings"
    station = plugin.open(validated(plugin.settings, config.station.settings, where), opened)
    with closing(station):
        if safety is not None:
            safety.add("station", station)
        yield station
