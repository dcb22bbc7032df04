"""One execution of a procedure: its run record, its bench, safety, report."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hil.bench import Bench, open_bench
from hil.config import BenchConfig, load_bench, override, shipped_benches, validated
from hil.errors import DataError, HardwareError, UsageError
from hil.ledger import Ledger
from hil.plugins import find, names
from hil.procedure import Procedure
from hil.report.section import Section
from hil.reread import reread
from hil.run_reader import RunReader
from hil.safety import SafeState

__all__ = ["Finished", "Plan", "execute", "make_report", "plan", "resume_plan", "sections_of", "state_folder"]


@dataclass(frozen=True)
class Plan:
    """What is about to be run, all options resolved."""

    procedure: Procedure
    bench: BenchConfig
    options: BaseModel
    state: Path
    runs: Path
    resume: Path | None = None


@dataclass(frozen=True)
class Finished:
    """A run that ended well."""

    folder: Path
    result: Any
    report: Path | None


def state_folder(bench: str, config: BenchConfig, runs: Path) -> Path:
    """Where calibrations and wear counters of a bench are kept: beside its file, or with the runs of a shipped one."""
    if config.state is not None:
        return config.state
    if bench in shipped_benches():
        return runs / "state" / config.name
    path = Path(bench)
    return path.with_name(f"{path.stem}.state")


def plan(verb: str, bench: str, changes: Sequence[str], runs: Path) -> Plan:
    """Sort ``-s`` changes into those of the procedure (``VERB.key=value``) and those of the bench, and check both."""
    procedure: Procedure = find("hil.procedures", verb)
    sections = {name.replace("-", "_") for name in names("hil.procedures")}
    head = verb.replace("-", "_")
    own = [c for c in changes if c.split(".")[0].replace("-", "_") == head and "." in c.split("=")[0]]
    others = [c for c in changes if c not in own]
    for change in others:
        if change.split(".")[0].replace("-", "_") in sections:
            raise UsageError(f"-s {change}: this is {verb}: its options are written {head}.KEY=VALUE")
    config = load_bench(bench, others)
    defaults: Mapping[str, Any] = config.procedures.get(verb, config.procedures.get(head, {}))
    options = validated(procedure.config, override(dict(defaults), [c.split(".", 1)[1] for c in own]), f"{verb} options")
    return Plan(procedure, config, options, state_folder(bench, config, runs), runs)


def resume_plan(folder: Path) -> Plan:
    """The plan of an interrupted run, from its own record."""
    with Ledger.open(folder) as run:
        start = run.start
        config = start["config"]
        if not isinstance(config, dict) or "options" not in config:
            raise DataError(f"{folder}: holds no procedure to resume: give the folder of a run made by `hil VERB BENCH`")
        if run.status in ("done", "running"):
            raise UsageError(f"{folder}: is {run.status}: only an interrupted, failed or killed run can be resumed")
        procedure: Procedure = find("hil.procedures", start["verb"])
        return Plan(
            procedure,
            validated(BenchConfig, config["bench"], str(folder)),
            validated(procedure.config, config["options"], str(folder)),
            Path(config["state"]),
            folder.parent,
            folder,
        )


def execute(todo: Plan) -> Finished:
    """Run a plan. Whatever ends it, every board is made safe and the record says how it ended."""
    ledger = _ledger(todo)
    # From the inside out: boards are grounded, then closed, then the record says how it ended.
    with ledger, ExitStack() as closing, SafeState(ledger) as safety:
        bench = closing.enter_context(open_bench(todo.bench, todo.state, ledger, safety))
        if todo.resume is not None:
            _account_for_pending(bench, ledger)
        result = todo.procedure.run(bench, todo.options, ledger)
    doubtful = [name for name, confirmed in (safety.confirmed or {}).items() if not confirmed]
    if doubtful:
        raise HardwareError(f"{', '.join(doubtful)}: did not confirm that it is grounded: look at it before touching it")
    return Finished(ledger.folder, result, make_report(ledger.folder))


def _ledger(todo: Plan) -> Ledger:
    if todo.resume is None:
        config = {
            "bench": todo.bench.model_dump(mode="json", exclude_unset=True),
            "options": todo.options.model_dump(mode="json"),
            "state": str(todo.state.absolute()),
        }
        return Ledger.create(todo.runs, todo.procedure.name, config, seed=todo.bench.seed)
    with Ledger.open(todo.resume) as run:
        saved = run.last_checkpoint()
    return Ledger.resume(todo.resume, since=None if saved is None else saved.number)


def _account_for_pending(bench: Bench, ledger: Ledger) -> None:
    """Operations of which nobody knows whether they were applied: read their cells again, never send them again."""
    for operation in ledger.pending():
        if operation.board not in bench.backends:
            lacking = f"operation {operation.number} is of board {operation.board}, which this bench lacks"
            raise UsageError(f"{ledger.folder}: {lacking}: resume it on the bench that it was made with")
        reread(ledger, [operation], partial(bench.read_cells, operation.board))


def make_report(folder: Path) -> Path | None:
    """Write ``report.html`` from a run's record; None where the plotting extra is not installed."""
    if importlib.util.find_spec("matplotlib") is None or importlib.util.find_spec("jinja2") is None:
        return None
    from hil.report.html import write_report

    with Ledger.open(folder) as run:
        return write_report(run, sections_of(run))


def sections_of(run: RunReader) -> list[Section]:
    """What the run's procedure has to show."""
    verb = run.start["verb"]
    if verb not in names("hil.procedures"):
        return []
    procedure: Procedure = find("hil.procedures", verb)
    return [] if procedure.sections is None else procedure.sections(run)
