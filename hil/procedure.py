"""What the command must know of a procedure: its name, its options, the function, one line of help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from hil.report.section import Section, Table
from hil.run_reader import RunReader

__all__ = ["Procedure"]


@dataclass(frozen=True)
class Procedure:
    """An entry of ``hil.procedures``; each procedure's module ends with one, called ``procedure``."""

    name: str
    """The verb: ``hil NAME BENCH``."""
    config: type[BaseModel]
    """Frozen, strict model of its options."""
    run: Callable[[Any, Any, Any], Any]
    """(bench, config, ledger) -> frozen result."""
    help: str
    """One line."""
    sections: Callable[[RunReader], list[Section]] | None = None
    """Its part of the report, from the run's record alone; None = the results say it all."""
    on: Literal["bench", "station"] = "bench"
    """What ``run`` gets: the bench of the first site, or the ``hil.station.Station`` with all of them."""
    headline: Callable[[Any], Table] | None = None
    """The short table printed at the end, from the result; None = all recorded results."""
