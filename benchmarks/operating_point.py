"""The pulse shapes that ``operating-point`` chooses, against the best pair that trying all of them finds, on the emulator.

    python benchmarks/operating_point.py [--short] [--specification FILE] [--up 0.8,1,1.2] [--down 0.8,1,1.2]

Every pair (shape of A, shape of C) trains 64-32-10 on digits with Tiki-Taka, all pairs and seeds as one population whose
devices are measured first; the choice itself sees only its own characterization of other, equal-kind devices. One JSON line:
mean test accuracy of the chosen pair and of the best, their difference with its standard error over the seeds, and the
alphas. Without --specification the range is one set by hand, and said to be: alpha of A 0.03 to 3, of C 0.05 to 1.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import emit
from torch import Tensor

from hil.backend import PulseShape
from hil.bench import open_bench
from hil.config import load_bench
from hil.ledger import Ledger
from hil.station import open_station
from hil.threads import set_threads
from procedures.operating_point import OperatingPointConfig, OperatingPointResult, operating_point
from procedures.specification import Range, Specification
from procedures.train import TrainConfig, train

STATES = 200
DEVICES = [f"boards.main.settings.device.dw_min={1.2 / STATES}", f"nominal.states={STATES}"]


def by_hand(path: Path) -> Path:
    """A specification with nothing but a range."""
    axis, flat = (0.01, 30.0), ((0.5, 0.5), (0.5, 0.5))
    one = Range(delta=0.02, confidence=0.5, alpha_a=(0.03, 3.0), alpha_c=(0.05, 1.0))
    return Specification(
        network="by hand", digital_accuracy=0.97, digital_error=0.01, deltas=(one,), alpha_a=axis, alpha_c=axis,
        accuracy=flat, error=flat, points=(),
    ).save(path)  # fmt: skip


def choose(folder: Path, specification: Path, up: tuple[float, ...], down: tuple[float, ...]) -> OperatingPointResult:
    """What the procedure says of a matrix of 16 x 16 other devices."""
    config = OperatingPointConfig(specification=specification, up_v=up, down_v=down, size=(16, 16))
    bench = load_bench("emulated", [*DEVICES, "seed=1"])
    with Ledger.create(folder, "operating-point", {}) as ledger, open_station(bench, folder / "choose", ledger) as station:
        return operating_point(station, config, ledger)


def accuracies(folder: Path, pairs: list[tuple[PulseShape, PulseShape]], seeds: int, options: dict[str, Any]) -> Tensor:
    """Test accuracy of every pair, float32 [pair seed]."""
    wiring = []
    for role, place in (("a", 0), ("c", 1)):
        for name in ("up_v", "down_v", "width_s"):
            values = [getattr(pair[place], name) for pair in pairs for _ in range(seeds)]
            wiring.append(f"roles.{role}.{name}={values}")
    # A value for every array, though all are equal: each is then measured under its own pulse.
    wiring.append(f"boards.main.settings.device.dw_min={[1.2 / STATES] * len(pairs) * seeds}")
    bench_config = load_bench("emulated", [*DEVICES, *wiring])
    # As many equal points as there are pairs: replicas differ in nothing but their pulses and their seed.
    config = TrainConfig(
        seeds=seeds, prepare="measure", checkpoint_s=1e6, **(options | {"lr_a": (options["lr_a"],) * len(pairs)})
    )
    with Ledger.create(folder, "train", {}, seed=0) as ledger, open_bench(bench_config, folder / "train", ledger) as bench:
        return train(bench, config, ledger).test_accuracy


def main() -> None:
    """Parse, choose, try all, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--short", action="store_true", help="four shapes, 16-16-10 on pooled digits, three epochs, two seeds"
    )
    parser.add_argument("--specification", type=Path)
    parser.add_argument("--up", default="0.8,1.0,1.2")
    parser.add_argument("--down", default="0.8,1.0,1.2")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--lr-a", type=float, default=0.01)
    parser.add_argument("--lr-c", type=float, default=0.1)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    set_threads(args.threads)
    up, down = (tuple(float(one) for one in text.split(",")) for text in (args.up, args.down))
    epochs, seeds = args.epochs, args.seeds
    if args.short:
        up, down, epochs, seeds = (0.8, 1.2), (0.8, 1.2), 3, 2
    size = {"hidden": (16,), "pool": 2} if args.short else {"hidden": (32,)}
    options = {"epochs": epochs, "lr_a": args.lr_a, "lr_c": args.lr_c, **size}
    down = tuple(-abs(one) for one in down)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        specification = args.specification or by_hand(folder / "specification.json")
        found = choose(folder, specification, up, down)
        ready = time.perf_counter()
        shapes = [one.shape for one in found.shapes if one.role == "a"]
        pairs = list(itertools.product(shapes, shapes))
        accuracy = accuracies(folder, pairs, seeds, options)
    mean = accuracy.mean(dim=1)
    chosen = pairs.index((found.chosen["a"].shape, found.chosen["c"].shape))
    best = int(mean.argmax())
    alpha = {(one.role, one.shape): round(one.alpha[1], 3) for one in found.shapes}

    def told(place: int) -> dict[str, object]:
        a, c = pairs[place]
        return {"a": [a.up_v, a.down_v], "c": [c.up_v, c.down_v], "alpha": [alpha["a", a], alpha["c", c]],
                "accuracy": round(float(mean[place]), 4)}  # fmt: skip

    gap = accuracy[best] - accuracy[chosen]
    error = float(gap.std() / max(seeds, 1) ** 0.5) if seeds > 1 else float("nan")
    order = mean.argsort(descending=True)
    emit(
        "operating_point", pairs=len(pairs), seeds=seeds, options=options,
        specification="by hand" if args.specification is None else str(args.specification), chosen=told(chosen),
        best=told(best), worst=told(int(mean.argmin())), behind_best_points=round(100 * float(gap.mean()), 2),
        standard_error_points=round(100 * error, 2), rank=int((order == chosen).nonzero()) + 1,
        median_pair=round(float(torch.median(mean)), 4), choose_s=round(ready - began, 1),
        train_s=round(time.perf_counter() - ready, 1),
    )  # fmt: skip


if __name__ == "__main__":
    main()
