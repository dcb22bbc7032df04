"""``hil check``: connect, identify, limits, and what a procedure would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from hil.bench import open_bench
from hil.config import load_bench
from hil.errors import HilError
from hil.execute import plan, state_folder
from hil.guard import PhysicalGuard
from hil.ledger import Ledger

__all__ = ["check_bench"]


def check_bench(bench: str, changes: Sequence[str], runs: Path, procedure: str | None, console: Console) -> dict[str, Any]:
    """Identify every board of a bench and print its limits; with a procedure, run it dry and print what it would cost."""
    config = load_bench(bench, [] if procedure else changes)
    found: dict[str, Any] = {"bench": config.name, "boards": {}, "limits": {}}
    with open_bench(config, state_folder(bench, config, runs)) as opened:
        for name, info in opened.infos.items():
            found["boards"][name] = asdict(info)
        table = Table("board", "backend", "what it says it is", "limits")
        for name, board in config.boards.items():
            known = opened.infos.get(name)
            said = "elastic: one array per matrix" if known is None else f"{known.vendor} {known.model} {known.serial}"
            limits = "none: refuses to pulse where physical" if board.limits is None else board.limits.model_dump_json()
            found["limits"][name] = None if board.limits is None else board.limits.model_dump()
            table.add_row(name, board.backend, said, limits)
        console.print(table)
    if procedure is not None:
        found["dry_run"] = _dry_run(procedure, bench, changes, runs, console)
    return found


def _dry_run(procedure: str, bench: str, changes: Sequence[str], runs: Path, console: Console) -> dict[str, Any]:
    """The procedure on recorders; a procedure that cannot go on without real answers is counted as far as it went."""
    todo = plan(procedure, bench, changes, runs)
    summaries: dict[str, Any] = {}
    with (
        TemporaryDirectory() as scratch,
        Ledger.create(scratch, procedure, None) as ledger,
        open_bench(todo.bench, todo.state, ledger, dry=True) as opened,
    ):
        try:
            todo.procedure.run(opened, todo.options, ledger)
        except HilError as exc:
            console.print(f"dry run ends early: {exc}", soft_wrap=True)
            summaries["ends_early"] = str(exc)
        heads = ("board", "operations", "pulses up", "pulses down", "most on a cell", "wear after it", "device time")
        table = Table(*heads, title="dry run")
        for name, recorder in opened.dry_runs().items():
            summary = recorder.summary()
            board = opened.backends[name]
            # Of a copy of the counters: what the cell that has had most would have had, all runs together.
            worn = int(board.wear.cells(board.info).pulses.max()) if isinstance(board, PhysicalGuard) else None
            summaries[name] = {**asdict(summary), "wear_after": worn}
            table.add_row(
                name, str(summary.operations), str(summary.pulses_up), str(summary.pulses_down),
                str(summary.pulses_per_cell_max), "-" if worn is None else str(worn), f"{summary.seconds:.3g} s",
            )  # fmt: skip
        console.print(table)
    return summaries
