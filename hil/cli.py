"""The command ``hil``: parse, build the configuration, call one function."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hil.check import check_bench
from hil.config import shipped_benches
from hil.errors import HilError
from hil.execute import execute, make_report, plan, resume_plan
from hil.ledger import Ledger
from hil.plugins import find, names
from hil.run_views import describe, export_netcdf, list_runs, plain_table, results_table, watch

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
        made.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads (1)")
    verb("benches", "list the benches that come with the project")
    checked = verb("check", "connect, identify, print limits; with --procedure a dry run with pulses, time and wear")
    checked.add_argument("bench")
    checked.add_argument("-s", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    checked.add_argument("--procedure", metavar="VERB", help="procedure to run dry")
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


def _run(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    torch.set_num_threads(max(1, args.threads))
    todo = resume_plan(args.resume) if args.resume else plan(args.verb, args.bench or "emulated", args.changes, args.runs)
    done = execute(todo)
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
    return found


def _look(args: argparse.Namespace, console: Console) -> dict[str, Any]:
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
            table.add_row(*(str(value) for value in row.values()))
        console.print(table)
        return {"runs": rows}
    if args.verb == "check":
        return check_bench(args.bench, args.changes, args.runs, args.procedure, console)
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
    console = Console(soft_wrap=False)
    try:
        found = _run(args, console) if hasattr(args, "resume") else _look(args, console)
    except KeyboardInterrupt:
        return _failed(args, "interrupted: the array was made safe, the run can be resumed", 130)
    except HilError as exc:
        return _failed(args, f"{exc}", exc.exit_code)
    except Exception as exc:
        return _failed(args, f"unexpected {type(exc).__name__}: {exc} (run again with --debug for a traceback)", 1)
    if args.json:
        print(json.dumps(found, default=str))
    return 0


def _failed(args: argparse.Namespace, message: str, code: int) -> int:
    if args.debug and code != 130:
        Console(stderr=True).print_exception()
    print("error: " + " ".join(message.split()), file=sys.stderr)
    if args.json:
        print(json.dumps({"error": " ".join(message.split()), "exit": code}))
    return code
