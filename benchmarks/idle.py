"""What the harness adds to a board's own time: wall time less wire and device time, over a throttled link.

    python benchmarks/idle.py [--bit-per-s 2e6] [--time-scale 1] [--samples 200]

Runs characterize on a block of cells and train (Tiki-Taka, batch 1) on the shipped ``twin-board``, whose twin is slowed
to the link and the device time asked for, and train once more on a board of 128 x 128. Prints one JSON line for each:
wall, wire and device time, what is left of the wall time (idle), the share of the wall time in which neither the device
nor either direction of the wire was at work (where they overlap, wire and device time add up to more than that), how much
of it the twin itself was late, the harness's CPU time per operation.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from drivers.links.twin import StartedTwin, TwinStart
from hil.bench import open_bench
from hil.config import BenchConfig, load_bench, validated
from hil.ledger import Ledger
from hil.plugins import find
from simulated_backend.twins.control import Control

CHARACTERIZE = {"cycles": 2, "branch_reads": 40}
TRAIN = {
    "classes": [3, 8], "pool": 2, "hidden": [12], "epochs": 1, "reference_a": "nominal", "reference_c": "nominal",
}  # fmt: skip

WHOLE = {**TRAIN, "classes": None, "pool": 1, "hidden": [32]}
"""All digits on 64-32-10, for which a board of 32 x 32 is too small."""
_TWIN = "boards.main.settings.twin.settings"
LARGE = [f"{_TWIN}.array.rows=128", f"{_TWIN}.array.cols=128", f"{_TWIN}.max_body=131072"]


def on_a_twin(config: BenchConfig, board: str, **changes: Any) -> tuple[BenchConfig, StartedTwin]:
    """The bench with one board's twin started here, so that its control socket is at hand."""
    settings = dict(config.boards[board].settings)
    twin = validated(TwinStart, settings.pop("twin"), f"boards.{board}.settings.twin")
    started = StartedTwin(TwinStart(name=twin.name, settings={**twin.settings, **changes}))
    settings["link"] = started.links["main"]
    boards = {**config.boards, board: config.boards[board].model_copy(update={"settings": settings})}
    return config.model_copy(update={"boards": boards}), started


def measure(verb: str, options: dict[str, Any], link: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """Run a procedure on the slowed twin board; times in seconds."""
    procedure = find("hil.procedures", verb)
    config, started = on_a_twin(load_bench("twin-board", changes), "main", link=link)
    try:
        with TemporaryDirectory() as folder, Control(started.control) as control:
            # Compilation and imports are no part of a run that lasts. A run of its own: one that is there would be resumed.
            with (
                Ledger.create(Path(folder) / "first", verb, None) as ledger,
                open_bench(config, Path(folder) / "state", ledger) as bench,
            ):
                procedure.run(bench, procedure.config(**{**options, **_SHORT[verb]}), ledger)
            with (
                Ledger.create(Path(folder) / "second", verb, None) as ledger,
                open_bench(config, Path(folder) / "state", ledger) as bench,
            ):
                operations = _operations(bench)
                before, wall, cpu = control.report(), time.monotonic(), _cpu_s()
                procedure.run(bench, procedure.config(**options), ledger)
                bench.backends["main"].status()
                wall, cpu, after = time.monotonic() - wall, _cpu_s() - cpu, control.report()
                operations = _operations(bench) - operations
    finally:
        started.close()
    spent = {name: after[name] - before[name] for name in ("wire_s", "device_s", "late_s", "busy_s")}
    idle = wall - spent["wire_s"] - spent["device_s"]
    return {
        "verb": verb, "link": link, "wall_s": wall, **spent, "idle_s": idle, "idle_share": idle / wall,
        "neither_share": (wall - spent["busy_s"]) / wall,
        "idle_share_without_late": (idle - spent["late_s"]) / wall, "operations": operations,
        "cpu_per_operation_s": cpu / max(operations, 1), "machine": platform.processor() or platform.machine(),
    }  # fmt: skip


_SHORT: dict[str, dict[str, Any]] = {
    "characterize": {"cycles": 2, "branch_pulses": 8, "alternating_pulses": 16},
    "train": {"limit": 10},
}


def _operations(bench: Any) -> int:
    return int(bench.backends["main"].status().get("operations", 0))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bit-per-s", type=float, default=2e6)
    parser.add_argument("--time-scale", type=float, default=1.0)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2, help="rows of 32 cells that characterize measures (2; 1 min a row)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    link = {"link": "tcp", "bit_per_s": args.bit_per_s, "time_scale": args.time_scale}
    excluded = f"boards.main.limits.excluded_rows={list(range(args.rows, 32))}"
    print(json.dumps(measure("characterize", CHARACTERIZE, link, [excluded])), flush=True)
    print(json.dumps(measure("train", {**TRAIN, "limit": args.samples}, link, [])), flush=True)
    print(json.dumps(measure("train", {**WHOLE, "limit": args.samples}, link, LARGE)), flush=True)


if __name__ == "__main__":
    main()
