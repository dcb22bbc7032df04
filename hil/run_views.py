"""Runs looked at from outside: listed, shown, watched while under way, exported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from rich.table import Table

from hil.errors import DataError
from hil.ledger import Ledger
from hil.records import Event, Result
from hil.report.section import Table as SectionTable
from hil.run_reader import RunReader

__all__ = ["describe", "export_netcdf", "list_runs", "plain_table", "results_table", "watch"]


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Every run in a folder, oldest first: id, verb, bench, status; of one that cannot be read "damaged", and the reason."""
    found = []
    for path in sorted(folder.glob("*/run.sqlite")):
        try:
            with Ledger.open(path.parent) as run:
                start = run.start
                row = {"id": start["id"], "verb": start["verb"], "bench": _bench_name(start["config"]), "status": run.status}
        except DataError as exc:
            reason = str(exc).removeprefix(f"{path.parent}: ")
            row = {"id": path.parent.name, "verb": "", "bench": "", "status": "damaged", "reason": reason}
        found.append(row)
    return found


def _bench_name(config: Any) -> str:
    bench = config.get("bench") if isinstance(config, dict) else None
    return str(bench.get("name", "")) if isinstance(bench, dict) else ""


def describe(run: RunReader) -> dict[str, Any]:
    """What `hil show` says: the start, boards, how it ended, results (arrays by their shape)."""
    stop = run.stop()
    return {
        "start": run.start,
        "boards": run.boards(),
        "status": run.status,
        "message": "" if stop is None else stop.message,
        "safe": None if stop is None else stop.safe,
        "events": sum(1 for _ in run.events()),
        "results": {name: _value(result) for name, result in run.results().items()},
    }


def _value(result: Result) -> Any:
    value = result.value
    return f"array {list(value.shape)}" if isinstance(value, np.ndarray) else value


def results_table(run: RunReader) -> Table:
    """Results with units, for a terminal."""
    table = Table("result", "value", "unit", "what it is", title=run.start["id"])
    for name, result in run.results().items():
        value = _value(result)
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value), result.unit, result.description)
    return table


def plain_table(table: SectionTable) -> Table:
    """A table of the report, for a terminal."""
    out = Table(*table.header, title=table.caption)
    for row in table.rows:
        out.add_row(*row)
    return out


def watch(folder: Path, wait: Callable[[], None]) -> Iterator[str]:
    """Lines about new events until the run has ended; ``wait`` is called between looks."""
    last = 0
    with Ledger.open(folder) as run:
        while True:
            status = run.status
            for event in run.events(after=last):
                last = event.number
                yield _event_line(event)
            if status != "running":
                yield f"ended: {status}"
                return
            wait()


_LINE = 100
"""Characters of a line about an event."""


def _event_line(event: Event) -> str:
    """Time of day (UTC), kind, and what is short enough of the payload; `hil export` and the record have it whole."""
    payload = event.payload if isinstance(event.payload, dict) else {}
    # The boards of "safe": which confirmed.
    named = {**payload, **payload["boards"]} if event.kind == "safe" else payload
    short = ((name, value) for name, value in named.items() if isinstance(value, (str, int, float)) and value != "")
    said = " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in short)
    line = f"{event.utc[11:19]} {event.kind} {said}".rstrip()
    return line if len(line) <= _LINE else f"{line[: _LINE - 1]}…"


def export_netcdf(folder: Path, target: Path) -> Path:
    """All arrays and numbers of a run as NetCDF: one group per event with arrays, results in the root."""
    with Ledger.open(folder) as run:
        start = run.start
        numbers = {
            name: ((), result.value, {"units": result.unit, "long_name": result.description})
            for name, result in run.results().items()
            if isinstance(result.value, (int, float))
        }
        head = {"run": start["id"], "verb": start["verb"], "utc": start["utc"], "config": json.dumps(start["config"])}
        try:
            xarray.Dataset(numbers, attrs=head).to_netcdf(target, mode="w", engine="h5netcdf")
            for event in run.events():
                arrays = run.arrays(event.number)
                if arrays:
                    data = {
                        name: ([f"{name}_{axis}" for axis in range(value.ndim)], _storable(value))
                        for name, value in arrays.items()
                    }
                    group = f"event_{event.number:06d}_{event.kind}"
                    attrs = {"kind": event.kind, "utc": event.utc, "payload": json.dumps(event.payload)}
                    xarray.Dataset(data, attrs=attrs).to_netcdf(target, mode="a", engine="h5netcdf", group=group)
        except OSError as exc:
            raise DataError(f"{target}: cannot be written ({exc}): choose another file with --to") from exc
    return target


def _storable(value: Any) -> Any:
    return value.astype(np.int8) if value.dtype == np.bool_ else value
