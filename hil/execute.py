"""One execution of a procedure: its run record, its bench, safety, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hil.config import BenchConfig, load_bench, override, shipped_benches, validated
from hil.errors import DataError, HardwareError, HilError, UsageError
from hil.ledger import Ledger
from hil.plugins import find, names
from hil.procedure import Procedure
from hil.report.html import write_report
from hil.report.section import Section
from hil.run_reader import RunReader
from hil.safety import SafeState
from hil.station import open_station

__all__ = ["Finished", "Plan", "execute", "make_report", "plan", "resume_plan", "sections_of", "state_folder"]

_LEAVE_OUT = "leave it out: a run goes on as it began"


@dataclass(frozen=True)
class Plan:
    """What is about to be run, all options resolved."""

    procedure: Procedure
    bench: BenchConfig
    options: BaseModel
    state: Path
    runs: Path
    source: str
    """Absolute path of the bench file, or the name of a shipped bench."""
    changes: tuple[str, ...] = ()
    """``-s`` changes, of the procedure and of the bench."""
    resume: Path | None = None
    limits_from: str = ""
    """Of a resumed run: where its limits come from."""

    @property
    def record(self) -> dict[str, Any]:
        """What the run record keeps, to resume from."""
        return {
            "bench": self.bench.model_dump(mode="json", exclude_unset=True),
            "options": self.options.model_dump(mode="json"),
            "state": str(self.state.absolute()),
            "source": self.source,
            "changes": list(self.changes),
        }


@dataclass(frozen=True)
class Finished:
    """A run that ended well."""

    folder: Path
    result: Any
    report: Path | None
    warning: str = ""
    """Why there is no report."""


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
    head = verb.replace("-", "_")
    own, others = _sorted(verb, changes)
    sections = {name.replace("-", "_") for name in names("hil.procedures")}
    for change in others:
        first = _head(change)
        if first in sections:
            raise UsageError(f"-s {change}: this is {verb}: its options are written {head}.KEY=VALUE")
        if first in procedure.config.model_fields and first not in BenchConfig.model_fields:
            raise UsageError(f"-s {change}: is no key of a bench file: did you mean -s {head}.{change}?")
    config = load_bench(bench, others)
    defaults: Mapping[str, Any] = config.procedures.get(verb, config.procedures.get(head, {}))
    data = override({head: dict(defaults)}, [f"{head}.{change.split('.', 1)[1]}" for change in own])[head]
    options = validated(procedure.config, data, f"hil {verb}", head)
    return Plan(procedure, config, options, state_folder(bench, config, runs), runs, _source(bench), tuple(changes))


def _sorted(verb: str, changes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Changes of the procedure, and the others."""
    own = [c for c in changes if _head(c) == verb.replace("-", "_") and "." in c.split("=")[0]]
    return own, [c for c in changes if c not in own]


def _head(change: str) -> str:
    return change.split("=")[0].split(".")[0].strip().replace("-", "_")


def _source(bench: str) -> str:
    return bench if bench in shipped_benches() else str(Path(bench).resolve())


def resume_plan(folder: Path, verb: str, bench: str | None = None, changes: Sequence[str] = ()) -> Plan:
    """The plan of an interrupted run, from its own record; only its limits are those that its bench file has by now.

    verb, bench, changes: what the command line says; UsageError where the run is of others.
    """
    with Ledger.open(folder) as run:
        start, status = run.start, run.status
    config = start["config"]
    if not isinstance(config, dict) or not {"bench", "options", "state", "source", "changes"} <= config.keys():
        raise DataError(f"{folder}: holds no procedure to resume: give the folder of a run made by `hil VERB BENCH`")
    source, given = config["source"], tuple(config["changes"])
    if start["verb"] != verb:
        raise UsageError(f"{folder}: is a run of {start['verb']}, not of {verb}: hil {start['verb']} --resume {folder}")
    if bench is not None and _source(bench) != source:
        raise UsageError(f"{folder}: is a run on {source}, not on {bench}: {_LEAVE_OUT}")
    if changes and tuple(changes) != given:
        began = " ".join(f"-s {change}" for change in given) or "no -s"
        raise UsageError(f"{folder}: -s {' -s '.join(changes)}: it began with {began}: {_LEAVE_OUT}")
    if status in ("done", "running"):
        raise UsageError(f"{folder}: is {status}: only an interrupted, failed or killed run can be resumed")
    procedure: Procedure = find("hil.procedures", verb)
    recorded = validated(BenchConfig, config["bench"], str(folder))
    limited, limits_from = _limits_now(recorded, source, _sorted(verb, given)[1], folder)
    options = validated(procedure.config, config["options"], str(folder), verb.replace("-", "_"))
    return Plan(procedure, limited, options, Path(config["state"]), folder.parent, source, given, folder, limits_from)


def _limits_now(recorded: BenchConfig, source: str, changes: Sequence[str], folder: Path) -> tuple[BenchConfig, str]:
    """The recorded bench with the limits that its file has by now, and where they are from: tightened ones must bind."""
    if source in shipped_benches():
        return recorded, "the run record: the bench is a shipped one"
    if not Path(source).exists():
        return recorded, f"the run record: {source} is gone"
    boards, now = {}, load_bench(source, changes).boards
    for name, board in recorded.boards.items():
        if name not in now:
            raise UsageError(f"{source}: has no boards.{name} any more, which {folder} needs: put it back, with its limits")
        boards[name] = board.model_copy(update={"limits": now[name].limits})
    return recorded.model_copy(update={"boards": boards}), source


def execute(todo: Plan, safety: SafeState | None = None) -> Finished:
    """Run a plan. Whatever ends it, every board is made safe and the record says how it ended.

    safety: says afterwards which boards confirmed, also where this raises. HardwareError where one did not.
    """
    safety = SafeState() if safety is None else safety
    safety.ledger = ledger = _ledger(todo)
    # From the inside out: boards are grounded, then closed, then the record says how it ended.
    with ledger, ExitStack() as closing, safety:
        if todo.resume is not None:
            limits = {name: board.limits for name, board in todo.bench.boards.items()}
            ledger.event("limits", {"from": todo.limits_from, "boards": limits})
        station = closing.enter_context(open_station(todo.bench, todo.state, ledger, safety))
        if todo.procedure.on == "station":
            result = todo.procedure.run(station, todo.options, ledger)
        else:
            bench = closing.enter_context(station.contact(station.sites()[0]))
            if todo.resume is not None:
                bench.account_for_pending()
            result = todo.procedure.run(bench, todo.options, ledger)
    if safety.doubtful:
        raise HardwareError(safety.doubtful)
    try:
        return Finished(ledger.folder, result, make_report(ledger.folder))
    # Whatever a report trips over, the run is done.
    except (Exception, KeyboardInterrupt) as exc:
        reason = str(exc) if isinstance(exc, HilError) else f"{type(exc).__name__}: {exc}"
        return Finished(ledger.folder, result, None, f"no report, `hil report {ledger.folder}` tries again: {reason}")


def _ledger(todo: Plan) -> Ledger:
    if todo.resume is None:
        return Ledger.create(todo.runs, todo.procedure.name, todo.record, seed=todo.bench.seed)
    with Ledger.open(todo.resume) as run:
        saved = run.last_checkpoint()
    return Ledger.resume(todo.resume, since=None if saved is None else saved.number)


def make_report(folder: Path) -> Path:
    """Write ``report.html`` from a run's record; UsageError where the plotting extra is not installed."""
    with Ledger.open(folder) as run:
        return write_report(run, sections_of(run))


def sections_of(run: RunReader) -> list[Section]:
    """What the run's procedure has to show."""
    verb = run.start["verb"]
    if verb not in names("hil.procedures"):
        return []
    procedure: Procedure = find("hil.procedures", verb)
    return [] if procedure.sections is None else procedure.sections(run)
