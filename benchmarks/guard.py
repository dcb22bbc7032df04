"""What guard and ledger cost in a batch-1 training step on the emulator: the same network with and without, alternating.

    python benchmarks/guard.py [--repeats 40] [--steps 50]

Prints one JSON line: median CPU time of a step of both, median of the paired ratios and their range.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import cross_entropy

from hil.bench import open_bench
from hil.config import load_bench
from hil.datasets import load
from hil.encoding import UpdateSettings
from hil.ledger import Ledger
from hil.nn import AnalogOptimizer, population_loss
from hil.safety import SafeState
from procedures.network import Network, NetworkPlan, build

RATES = {"lr_a": 0.01, "lr_c": 0.1, "n_s": 1.0, "gamma": 0.0, "n_reads": 1.0}


def steps(network: Network, x: torch.Tensor, y: torch.Tensor, count: int) -> float:
    """CPU seconds for ``count`` steps at batch 1: on a shared machine wall time says more of its neighbours."""
    optimizer = AnalogOptimizer(network)
    began = time.process_time()
    for k in range(count):
        optimizer.zero_grad()
        loss = population_loss(cross_entropy, network(x[k : k + 1]), y[k : k + 1])
        loss.backward()
        optimizer.step()
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load("digits")
    rates = {name: torch.tensor([value], dtype=torch.float64) for name, value in RATES.items()}
    plan = NetworkPlan(
        (64, 32, 10), "tanh", "tiki-taka", rates, "inputs", UpdateSettings(), UpdateSettings(), "mid", "mid", 1.0
    )  # fmt: skip
    config = load_bench("emulated")
    with TemporaryDirectory() as folder, Ledger.create(folder, "benchmark", None) as ledger, SafeState(ledger) as safety:
        guarded = build(open_bench(config, Path(folder) / "a", ledger, safety), plan)
        bare = build(open_bench(config, Path(folder) / "b"), plan)
        for tile in bare.tiles.values():
            regions = tuple(replace(r, backend=getattr(r.backend, "inner", r.backend)) for r in tile.place.regions)
            tile.place = replace(tile.place, regions=regions)
        both = {"guarded": guarded, "bare": bare}
        times: dict[str, list[float]] = {name: [] for name in both}
        for repeat in range(args.repeats + 1):
            for name in sorted(both, reverse=bool(repeat % 2)):
                seconds = steps(both[name], data.train_x, data.train_y, args.steps)
                if repeat:
                    times[name].append(seconds / args.steps)
    ratios = [a / b for a, b in zip(times["guarded"], times["bare"], strict=True)]
    print(
        json.dumps(
            {
                "bench": "guard", "step_cpu_us": {name: round(statistics.median(t) * 1e6, 1) for name, t in times.items()},
                "ratio_median": round(statistics.median(ratios), 4), "ratio_min": round(min(ratios), 4),
                "ratio_max": round(max(ratios), 4), "repeats": args.repeats, "steps": args.steps,
                "python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine(),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
