"""``hil check``: connect, identify, limits, and what a procedure would do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from hil.bench import open_bench
from hil.config import BenchConfig, load_bench
from hil.errors import HardwareError, HilError
from hil.execute import Plan, plan, state_folder
from hil.guard import PhysicalGuard
from hil.ledger import Ledger
from hil.limits import Limits
from hil.safety import SafeState
from hil.station import OneSite, Station, open_station

__all__ = ["check_bench"]


def check_bench(
    bench: str, changes: Sequence[str], runs: Path, procedure: str | None, console: Console, safety: SafeState | None = None
) -> dict[str, Any]:
    """Identify every board of a bench and print its limits; with a procedure, run it dry and print what it would cost.

    Nothing is connected before all options are known to be good. safety: says afterwards which boards confirmed that they
    are grounded; HardwareError where one did not.
    """
    todo = None if procedure is None else plan(procedure, bench, changes, runs)
    config = load_bench(bench, changes) if todo is None else todo.bench
    safety = SafeState() if safety is None else safety
    found: dict[str, Any] = {"bench": config.name, "boards": {}, "limits": {}}
    state = state_folder(bench, config, runs)
    with (
        safety,
        open_station(config, state, safety=safety) as station,
        # No contact: to be looked at is no reason for a touchdown.
        open_bench(config, state, safety=safety, site=_first_site(config, station)) as opened,
    ):
        found["boards"] = {name: asdict(info) for name, info in opened.infos.items()}
        table = Table("board", "backend", "what it says it is")
        for name, board in config.boards.items():
            known = opened.infos.get(name)
            said = "elastic: one array per matrix" if known is None else f"{known.vendor} {known.model} {known.serial}"
            table.add_row(name, board.backend, said)
        console.print(table)
        for name, board in config.boards.items():
            found["limits"][name] = None if board.limits is None else board.limits.model_dump()
            _print_limits(name, board.limits, console)
        if config.station is not None:
            found["station"] = {"sites": [site.name for site in station.sites()], **station.status()}
            _print_station(found["station"], console)
    if safety.doubtful:
        raise HardwareError(safety.doubtful)
    if todo is not None:
        found["dry_run"] = _dry_run(todo, console)
    return found


def _print_limits(board: str, limits: Limits | None, console: Console) -> None:
    if limits is None:
        console.print(f"limits of {board}: none: refuses to pulse where physical", soft_wrap=True, highlight=False)
        return
    table = Table("limit", "value", title=f"limits of {board}", title_justify="left")
    for name, value in limits.model_dump().items():
        table.add_row(name, "-" if value is None or value == () else json.dumps(value))
    console.print(table)


def _first_site(config: BenchConfig, station: Station) -> str:
    return "" if config.station is None else station.sites()[0].name


def _print_station(status: dict[str, Any], console: Console) -> None:
    table = Table("station", "value")
    for name, value in status.items():
        table.add_row(name, f"{len(value)}: {value[0]} to {value[-1]}" if name == "sites" else str(value))
    console.print(table)


def _dry_run(todo: Plan, console: Console) -> dict[str, Any]:
    """The procedure on recorders; a procedure that cannot go on without real answers is counted as far as it went."""
    summaries: dict[str, Any] = {}
    with (
        TemporaryDirectory() as scratch,
        Ledger.create(scratch, todo.procedure.name, todo.record) as ledger,
        open_station(todo.bench, todo.state, ledger) as station,
        open_bench(todo.bench, todo.state, ledger, dry=True, site=_first_site(todo.bench, station)) as opened,
    ):
        on_all = todo.procedure.on == "station"
        sites = len(station.sites()) if on_all else 1
        try:
            if on_all:
                todo.procedure.run(OneSite(lambda site: nullcontext(opened)), todo.options, ledger)
            else:
                todo.procedure.run(opened, todo.options, ledger)
        except HilError as exc:
            console.print(f"dry run ends early: {exc}", soft_wrap=True)
            summaries["ends_early"] = str(exc)
        heads = ("board", "pulses up", "pulses down", "most on a cell", "wear after it", "relay closures", "device time")
        title = f"dry run of one site; there are {sites}, a touchdown each" if on_all else "dry run"
        table = Table(*heads, title=title, title_justify="left")
        summaries["sites"] = summaries["touchdowns"] = sites if todo.bench.station is not None else 0
        calls = Table("board", "operation", "calls", title="operations", title_justify="left")
        for name, recorder in opened.dry_runs().items():
            summary = recorder.summary()
            board = opened.backends[name]
            # Of a copy of the counters: what the cell that has had most would have had, all runs together.
            worn = int(board.wear.cells(board.info).pulses.max()) if isinstance(board, PhysicalGuard) else None
            summaries[name] = {**asdict(summary), "wear_after": worn}
            table.add_row(
                name, str(summary.pulses_up), str(summary.pulses_down), str(summary.pulses_per_cell_max),
                "-" if worn is None else str(worn), str(summary.closures), f"{summary.seconds:.3g} s",
            )  # fmt: skip
            for verb, count in summary.operations.items():
                calls.add_row(name, verb, str(count))
        console.print(table)
        console.print(calls)
    return summaries
