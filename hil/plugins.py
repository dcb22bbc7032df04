"""What packages offer under the entry points ``hil.backends``, ``hil.stations``, ``hil.procedures``, ``hil.twins``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol

from pydantic import BaseModel
from torch import Tensor

from hil.backend import ArrayBackend
from hil.errors import UsageError
from hil.limits import Limits

__all__ = ["BackendPlugin", "Wanted", "find", "names"]

Group = Literal["hil.backends", "hil.stations", "hil.procedures", "hil.twins"]


@dataclass(frozen=True)
class Wanted:
    """What a bench asks a backend plugin to open.

    name: board name, or matrix name on an elastic backend; role: of that matrix, "" for a board; rows, cols: the size
    wanted of an elastic backend, None for a board; ids: int64 [array], identities of the replicas; seed: of the bench;
    limits: of the board, for an instrument that can hold them itself (the guard checks them in any case); site: where a
    station has its probes, part of the devices' identity, "" without a station.
    """

    name: str
    role: str
    rows: int | None
    cols: int | None
    ids: Tensor
    seed: int
    limits: Limits | None = None
    site: str = ""


class BackendPlugin(Protocol):
    """An entry point of ``hil.backends``."""

    settings: type[BaseModel]
    """The strict model of ``[boards.NAME.settings]``."""

    def elastic(self, settings: Any) -> bool:
        """Whether it makes an array of any size for every matrix, instead of being one board."""
        ...

    def open(self, settings: Any, wanted: Wanted) -> ArrayBackend:
        """Connect to the board, or make the array."""
        ...


def names(group: Group) -> list[str]:
    """Names offered by the installed packages."""
    return sorted({point.name for point in entry_points(group=group)})


def find(group: Group, name: str) -> Any:
    """The object behind an entry point; UsageError names what there is."""
    for point in entry_points(group=group):
        if point.name == name:
            return point.load()
    raise UsageError(f"{group.removeprefix('hil.')}: nothing called {name!r} is installed: one of {', '.join(names(group))}")
