"""Exactly once, counted by the twin: pulses over a link that fails, against what the run's record says was done.

    python benchmarks/exactly_once.py [--mode faults unplug reboot] [--requests 100000] [--rate 0.01]

Sends pulse and update requests through guard and ledger to a twin board on TCP. ``faults``: the twin's link drops, corrupts
and duplicates this share of the frames, each, in either direction; ``unplug``: the link is gone for 50 to 300 ms every 2 s;
``reboot``: the board starts anew every 500 requests, in the middle of what it does. Prints one JSON line for each: what the
link did, what was sent again, and, cell by cell, pulses that were lost (recorded as done, not counted by the twin) and
doubled (counted by the twin, recorded neither as done nor as uncertain).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from drivers.links.twin import StartedTwin, TwinStart
from hil.backend import ArrayBackend
from hil.bench import Bench, open_bench
from hil.config import load_bench, validated
from hil.encoding import PulseTrain
from hil.ledger import Ledger
from simulated_backend.twins.control import Control

SIDE = 8
"""Rows and columns."""
BARRIER = 64
"""Requests between two reads."""
REBOOT = 500
"""Requests between two reboots."""
UNPLUG_S = 2.0
"""Time between two unpluggings, second."""


def send(bench: Bench, number: int, draw: random.Random) -> None:
    """One request with pulses: some on a few cells, or a coincidence update."""
    backend: ArrayBackend = bench.backends["main"]
    shape = bench.config.roles["c"].shape
    if number % 2:
        counts = torch.zeros(1, SIDE, SIDE, dtype=torch.int32)
        for _ in range(3):
            counts[0, draw.randrange(SIDE), draw.randrange(SIDE)] = draw.choice((-2, -1, 1, 2, 3))
        backend.pulse(counts, shape)
        return
    rows, cols = (
        PulseTrain.given(
            torch.tensor([draw.randrange(8) for _ in range(SIDE)], dtype=torch.int32).view(1, 1, SIDE),
            torch.tensor([draw.choice((-1, 1)) for _ in range(SIDE)], dtype=torch.int8).view(1, 1, SIDE),
            torch.full((1, 1), 3, dtype=torch.int32),
        )
        for _ in range(2)
    )
    backend.update(rows, cols, shape)


def recorded(ledger: Ledger) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """Pulses recorded as done and as uncertain, int64 [2 row col] up and down; operations that are uncertain."""
    done, uncertain = (np.zeros((2, SIDE, SIDE), dtype=np.int64) for _ in range(2))
    number = 0
    for operation in ledger.run.operations():
        into = done if operation.status == "done" else uncertain
        into += operation.cells[:, 0]
        number += operation.status != "done"
    return done, uncertain, number


def soak(mode: str, requests: int, rate: float, seed: int = 1) -> dict[str, Any]:
    """One run; see the text of the module."""
    config = load_bench("twin-board")
    settings = dict(config.boards["main"].settings)
    twin = validated(TwinStart, settings.pop("twin"), "boards.main.settings.twin")
    faults = {"drop": rate, "corrupt": rate, "duplicate": rate, "seed": seed} if mode == "faults" else {}
    array = {**twin.settings["array"], "rows": SIDE, "cols": SIDE, "count_pulses": True}
    link = {"link": "tcp", "faults": faults}
    started = StartedTwin(TwinStart(name="board", settings={**twin.settings, "array": array, "link": link}))
    settings |= {"link": started.links["main"], "reply_timeout_s": 0.05}
    boards = {"main": config.boards["main"].model_copy(update={"settings": settings})}
    config = config.model_copy(update={"boards": boards})
    draw = random.Random(seed)
    everywhere = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    try:
        with (
            TemporaryDirectory() as folder,
            Control(started.control) as control,
            Ledger.create(Path(folder) / "run", mode, None) as ledger,
            open_bench(config, Path(folder) / "state", ledger) as bench,
        ):
            began = unplugged = time.monotonic()
            for number in range(requests):
                if mode == "reboot" and number % REBOOT == REBOOT // 2:
                    control.order(reboot=draw.randrange(30))
                if mode == "unplug" and time.monotonic() > unplugged + UNPLUG_S:
                    unplugged = time.monotonic()
                    control.order(unplug=draw.uniform(0.05, 0.3))
                send(bench, number, draw)
                if number % BARRIER == BARRIER - 1:
                    bench.backends["main"].read(everywhere)
                    shown(mode, number + 1, requests)
            status = bench.backends["main"].status()
            wall_s = time.monotonic() - began
            truth, report = control.truth(), control.report()
            done, uncertain, operations = recorded(ledger)
            reported = sum(len(event.payload["operations"]) for event in ledger.run.events("outcome-unknown"))
    finally:
        started.close()
    counted = np.array([truth["pulses_up"], truth["pulses_down"]], dtype=np.int64)
    return {
        "mode": mode, "requests": requests, "seed": seed,
        "pulses_done": int(done.sum()), "pulses_counted": int(counted.sum()),
        "lost": int((done - counted).clip(min=0).sum()),
        "doubled": int((counted - done - uncertain).clip(min=0).sum()),
        "uncertain_operations": operations, "reported_uncertain": reported, "uncertain_pulses": int(uncertain.sum()),
        "link": {name: report["counts"].get(name, 0) for name in ("dropped", "corrupted", "duplicated", "unplugged")},
        "resent": status["resent"], "board": status["board"], "reboots": status["reboots"], "wall_s": round(wall_s, 1),
    }  # fmt: skip


def shown(mode: str, number: int, requests: int) -> None:
    """A line that says how far it is, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{mode}: {number} of {requests}", end="" if number < requests else "\n", file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", nargs="+", default=["faults", "unplug", "reboot"], choices=["faults", "unplug", "reboot"])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=0.01)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for mode in args.mode:
        print(json.dumps(soak(mode, args.requests, args.rate)), flush=True)


if __name__ == "__main__":
    main()
