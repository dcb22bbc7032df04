"""Stations: what brings a bench into contact with one site after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from hil.bench import Bench
from hil.errors import UsageError

__all__ = ["OneSite", "Site", "Station", "one_site"]


@dataclass(frozen=True)
class Site:
    """A place that probes can touch: die column and row of the map, and the site within the die."""

    die: tuple[int, int]
    index: int = 0

    @property
    def name(self) -> str:
        """For records and file names."""
        return f"die{self.die[0]:+d}{self.die[1]:+d}.site{self.index}"


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


class OneSite:
    """The default: one site, always in contact. ``opened`` opens the bench."""

    def __init__(self, opened: Callable[[], Bench]) -> None:
        self._opened = opened
        self._contacts = 0

    def sites(self) -> list[Site]:
        return [Site((0, 0))]

    @contextmanager
    def contact(self, site: Site) -> Iterator[Bench]:
        if site != Site((0, 0)):
            raise UsageError(f"{site.name}: this bench has one site, die (0, 0): leave the site out")
        self._contacts += 1
        with self._opened() as bench:
            yield bench

    def status(self) -> dict[str, Any]:
        return {"contacts": self._contacts}

    def safe(self) -> bool:
        return True


def one_site(opened: Callable[[], Bench]) -> OneSite:
    """Entry point ``bench`` of the group ``hil.stations``."""
    return OneSite(opened)
