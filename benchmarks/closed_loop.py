"""The same closed loop on boards and on the emulator: digits 3 against 8, network 16-12-2, one table.

    python benchmarks/closed_loop.py [--epochs 3] [--benches emulated-32 twin-board twin-arc-one twin-two-boards]

Each bench is characterized and zero-shifted, its weights programmed, then trained by Tiki-Taka and by SGD, with the same
procedure and options. ``emulated-32`` is the bench ``emulated-board`` configured as the board that ``twin-board``
plays. Prints one JSON line per run and a table; accuracies and pulses of those two benches must be identical.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

OPTIONS = [
    "train.classes=[3,8]", "train.pool=2", "train.hidden=[12]", "train.prepare=measure", "train.lr_a=0.02", "train.lr=0.02",
]  # fmt: skip

SAME = {"emulated-32": ["boards.main.settings.rows=32", "boards.main.settings.cols=32"]}
"""Changes that make the emulated bench the board that the twin plays."""


def run(bench: str, algorithm: str, epochs: int) -> dict[str, Any]:
    """One training through the command; its results and wall time."""
    with TemporaryDirectory() as runs:
        options = [*OPTIONS, *SAME.get(bench, []), f"train.algorithm={algorithm}", f"train.epochs={epochs}"]
        command = [sys.executable, "-m", "hil", "train", bench.replace("-32", "-board"), "--json", "--runs", runs]
        began = time.monotonic()
        done = subprocess.run(
            [*command, *(part for option in options for part in ("-s", option))], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{bench} {algorithm}: exit {done.returncode}: {done.stderr.strip()}")
        found = json.loads(done.stdout.splitlines()[-1])
        return {"bench": bench, "algorithm": algorithm, "wall_s": time.monotonic() - began, **found["results"]}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    benches = ["emulated-32", "twin-board", "twin-arc-one", "twin-two-boards"]
    parser.add_argument("--benches", nargs="+", default=benches)
    args = parser.parse_args()
    table = Table("bench", "algorithm", "test accuracy (%)", "pulses per cell", "wall (s)")
    for bench in args.benches:
        for algorithm in ("sgd", "tiki-taka"):
            found = run(bench, algorithm, args.epochs)
            print(json.dumps(found), flush=True)
            pulses = ", ".join(f"{k.rsplit('_', 1)[-1]} {v:.2f}" for k, v in found.items() if k.startswith("pulses"))
            table.add_row(bench, algorithm, f"{100 * found['test_accuracy']:.2f}", pulses, f"{found['wall_s']:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
