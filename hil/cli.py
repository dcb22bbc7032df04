"""The command ``hil``: parse, build the configuration, call one function."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hil.check import check_bench
from hil.config import override, shipped_benches, validated
from hil.errors import HilError, UsageError
from hil.execute import execute, make_report, plan, resume_plan
from hil.ledger import Ledger
from hil.plugins import find, names
from hil.run_views import describe, export_netcdf, list_runs, plain_table, results_table, watch
from hil.safety import SafeState
from hil.threads import set_threads

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hil", description="Characterize and train resistive crosspoint arrays.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
        made.add_argument("--debug", action="store_true", help="show a traceback with an error")
        made.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of runs (runs)")
        return made

    for name in names("hil.procedures"):
        made = verb(name, find("hil.procedures", name).help)
        made.add_argument("bench", nargs="?", default=None, help="a TOML file or a shipped bench (emulated)")
        made.add_argument("-s", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change an option")
        made.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run")
        made.add_argument("--threads", type=int, metavar="N", help="threads of compiled loops (all cores)")
        if "cluster" in find("hil.procedures", name).config.model_fields:
            made.add_argument("--cluster", metavar="ADDRESS", help="Dask scheduler that spreads the work over its workers")
    verb("benches", "list the benches that come with the project")
    checked = verb("check", "connect, identify, print limits; with --procedure a dry run with pulses, time and wear")
    checked.add_argument("bench")
    checked.add_argument("-s", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    checked.add_argument("--procedure", metavar="VERB", help="procedure to run dry")
    twin = verb("twin", "play an instrument on its real wire, with emulated devices behind it, until stopped")
    twin.add_argument("name", choices=names("hil.twins"))
    twin.add_argument("-s", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    twin.add_argument("--settings", default="{}", metavar="JSON", help="all settings at once; -s changes them")
    twin.add_argument("--follow", action="store_true", help="stop when stdin ends")
    verb("runs", "list runs")
    for name, text in (
        ("show", "what a run did and found"),
        ("watch", "follow a run while it is under way"),
        ("report", "write a run's report.html again"),
        ("export", "write a run's arrays and results as NetCDF"),
    ):
        made = verb(name, text)
        made.add_argument("run", type=Path, help="folder of the run")
        if name == "export":
            made.add_argument("--to", type=Path, metavar="FILE", help="default: RUN/export.nc")
    return parser


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise UsageError(f"--settings: {text[:60]!r} is no JSON ({exc}): correct it") from exc
    if not isinstance(found, dict):
        raise UsageError(f"--settings: {text[:60]!r} is no JSON object: write {{...}}")
    return found


def _run(args: argparse.Namespace, console: Console, safety: SafeState) -> dict[str, Any]:
    """The verbs that are procedures."""
    set_threads(args.threads)
    if args.resume:
        todo = resume_plan(args.resume, args.verb, args.bench, args.changes)
    else:
        cluster = getattr(args, "cluster", None)
        changes = args.changes if cluster is None else [*args.changes, f"{args.verb.replace('-', '_')}.cluster={cluster}"]
        todo = plan(args.verb, args.bench or "emulated", changes, args.runs)
    done = execute(todo, safety)
    with Ledger.open(done.folder) as run:
        headline = todo.procedure.headline
        console.print(results_table(run) if headline is None else plain_table(headline(done.result)))
        numbers = {
            name: result.value for name, result in run.results().items() if isinstance(result.value, (int, float, str))
        }
        found = {"run": run.start["id"], "folder": str(done.folder), "status": run.status, "results": numbers}
    console.print(f"run:    {done.folder}", soft_wrap=True)
    if done.report is not None:
        console.print(f"report: {done.report}", soft_wrap=True)
        found["report"] = str(done.report)
    if done.warning:
        print(f"warning: {_line(done.warning)}", file=sys.stderr)
        found["warning"] = _line(done.warning)
    return found


def _look(args: argparse.Namespace, console: Console, safety: SafeState) -> dict[str, Any]:
    """The verbs that only look."""
    if args.verb == "benches":
        found: dict[str, Any] = {
            name: path.read_text().splitlines()[0].lstrip("# ") for name, path in shipped_benches().items()
        }
        table = Table("bench", "what it is")
        for name, text in found.items():
            table.add_row(name, text)
        console.print(table)
        return found
    if args.verb == "runs":
        rows = list_runs(args.runs)
        table = Table("run", "verb", "bench", "status")
        for row in rows:
            status = f"{row['status']}: {row['reason']}" if "reason" in row else row["status"]
            table.add_row(row["id"], row["verb"], row["bench"], status)
        console.print(table)
        return {"runs": rows}
    if args.verb == "twin":
        program = find("hil.twins", args.name)
        settings = override(_json_object(args.settings), args.changes)
        found = program.run(validated(program.settings, settings, f"twin {args.name}"), args.follow)
        console.print_json(json.dumps(found), indent=None)
        return dict(found)
    if args.verb == "check":
        return check_bench(args.bench, args.changes, args.runs, args.procedure, console, safety)
    if args.verb == "show":
        with Ledger.open(args.run) as run:
            shown = describe(run)
            console.print_json(json.dumps({k: v for k, v in shown.items() if k != "results"}, default=str))
            console.print(results_table(run))
        return shown
    if args.verb == "watch":
        for line in watch(args.run, lambda: time.sleep(1.0)):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        return {"run": str(args.run)}
    if args.verb == "report":
        path = make_report(args.run)
        console.print(str(path), soft_wrap=True)
        return {"report": str(path)}
    target = export_netcdf(args.run, args.to or args.run / "export.nc")
    console.print(str(target), soft_wrap=True)
    return {"export": str(target)}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code."""
    args = _parser().parse_args(argv)
    console, safety = Console(soft_wrap=False), SafeState()
    runs = hasattr(args, "resume")
    try:
        found = _run(args, console, safety) if runs else _look(args, console, safety)
    except KeyboardInterrupt:
        if not runs and args.verb != "check":
            return _failed(args, "stopped watching" if args.verb == "watch" else f"stopped {args.verb}", 130, safety)
        return _failed(args, f"interrupted: {_interrupted(args.verb, safety)}", 130, safety)
    except HilError as exc:
        doubt = safety.doubtful if safety.doubtful not in str(exc) else ""
        return _failed(args, f"{exc}; {doubt}" if doubt else str(exc), exc.exit_code, safety)
    except Exception as exc:
        return _failed(args, f"unexpected {type(exc).__name__}: {exc} (run again with --debug for a traceback)", 1, safety)
    if args.json:
        print(json.dumps({**found, **_safe(safety)}, default=str))
    return 0


def _interrupted(verb: str, safety: SafeState) -> str:
    """What Ctrl-C came upon: never more is claimed of the boards than they have confirmed."""
    if safety.confirmed is None:
        said = "no board had been opened"
    else:
        said = safety.doubtful or "every board confirmed that it is grounded"
    if safety.ledger is not None:
        with suppress(HilError), Ledger.open(safety.ledger.folder) as run:
            if run.status == "interrupted":
                return f"{said}; to go on: hil {verb} --resume {run.folder}"
    return said


def _safe(safety: SafeState) -> dict[str, Any]:
    """For ``--json``: whether all boards confirmed that they are grounded, and each; nothing where none was opened."""
    confirmed = safety.confirmed
    return {} if confirmed is None else {"safe": all(confirmed.values()), "safe_by_board": confirmed}


def _failed(args: argparse.Namespace, message: str, code: int, safety: SafeState) -> int:
    if args.debug and code != 130:
        Console(stderr=True).print_exception()
    print(f"error: {_line(message)}", file=sys.stderr)
    if args.json:
        print(json.dumps({"error": _line(message), "exit": code, **_safe(safety)}))
    return code


def _line(text: str) -> str:
    return " ".join(text.split())
