"""Tiki-Taka v1 on MNIST, 784-256-128-10: images a second of one network and of each of a population, beside the peer.

    python benchmarks/train.py --mnist FOLDER [--replicas 1,16] [--batch 1,32] [--windows 0:2000,20000:22000]
        [--repeats 3] [--threads N] [--peer PYTHON --peer-script bench_train.py] [--short]

Same lr_A, lr_C, n_s, BL, management, periphery and image order on both sides, no bias, soft bounds with all default
variations, A at its symmetry points; in a batch the loss is summed, so that lr_A is multiplied by the batch here, where
losses are averaged; the peer's layers on one tile each, as ours (peer_one_tile.py). Images before a window are trained
on, untimed. One JSON line for each batch, window and population.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from fully_connected import Trained
from machine import emit, peer_lines, spread

from hil.datasets import load
from hil.fused import Samples
from hil.threads import set_threads

LR_A, LR_C, N_S, DW_MIN = 0.02, 0.2, 2, 0.001
WIDTHS = (784, 256, 128, 10)


def made(replicas: int, batch: int, count: bool = False) -> Trained:
    settings = {"device": {"model": "soft_bounds", "dw_min": DW_MIN}, "count_pulses": count}
    rates = {"lr_a": LR_A * batch, "lr_c": LR_C, "n_s": N_S}
    return Trained(WIDTHS, "sigmoid", rates, settings, torch.arange(replicas))


def timed(network: Trained, samples: Samples, batch: int, windows: list[tuple[int, int]]) -> list[dict[str, float]]:
    """Images a second and running accuracy in every window."""
    network.again()
    found, at = [], 0
    for low, high in windows:
        if low > at:
            network.train(samples, batch, at // batch, low // batch)
        steps = -(-(high - low) // batch)
        wall, cpu = time.perf_counter(), time.process_time()
        network.train(samples, batch, low // batch, low // batch + steps)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        images = steps * batch * network.bench.arrays
        accuracy = float(network.right.double().mean()) / (steps * batch)
        found.append({"images_per_s": images / wall, "images_per_cpu_s": images / cpu, "accuracy": accuracy})
        at = (low // batch + steps) * batch
    return found


def coincidences(samples: Samples, batch: int, windows: list[tuple[int, int]]) -> list[float]:
    """Pulses on A for an image, in the first 500 images of every window: mean of four networks."""
    found, at = [], 0
    with made(4, batch, count=True) as network:
        for low, high in windows:
            steps = min(high - low, 500) // batch
            if low > at:
                network.train(samples, batch, at // batch, low // batch)
            before = network.pulses()
            network.train(samples, batch, low // batch, low // batch + steps)
            found.append((network.pulses() - before) / (steps * batch))
            at = (low // batch + steps) * batch
    return found


def peer(args: argparse.Namespace, batch: int, count: bool) -> list[dict[str, Any]]:
    given = {
        "mnist": args.mnist, "algo": "tt1", "lr-a": LR_A, "lr-c": LR_C, "every": N_S, "batch": batch, "bl": 31,
        "windows": args.windows, "repeats": 1, "dw-min": DW_MIN, "threads": 1,
    }  # fmt: skip
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    script = str(Path(args.peer_script).absolute())
    return peer_lines(
        args.peer, Path(__file__).with_name("peer_one_tile.py"), script, *options, *(["--count"] if count else [])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", required=True)
    parser.add_argument("--replicas", default="1,16")
    parser.add_argument("--batch", default="1,32")
    parser.add_argument("--windows", default="0:2000,20000:22000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peer", help="the peer's Python")
    parser.add_argument("--peer-script", default="bench_train.py")
    parser.add_argument("--short", action="store_true", help="the first 500 images, two repeats")
    args = parser.parse_args()
    if args.short:
        args.windows, args.repeats = "0:500", 2
    set_threads(args.threads)
    data = load(args.mnist)
    x, y = data.full_train()
    windows = [(int(w.split(":")[0]), int(w.split(":")[1])) for w in args.windows.split(",")]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    for batch in (int(b) for b in args.batch.split(",")):
        populations = [int(r) for r in args.replicas.split(",")]
        networks = {r: made(r, batch) for r in populations}
        samples = {r: Samples(x, y, order.expand(r, -1).contiguous()) for r in populations}
        for r in populations:
            networks[r].train(samples[r], batch, 0, 1)
        pulses = coincidences(Samples(x, y, order.expand(4, -1).contiguous()), batch, windows)
        ours: dict[int, list[list[dict[str, float]]]] = {r: [] for r in populations}
        theirs: list[list[dict[str, Any]]] = []
        for repeat in range(args.repeats):
            for r in populations:
                ours[r].append(timed(networks[r], samples[r], batch, windows))
            if args.peer:
                theirs.append(peer(args, batch, count=repeat == 0))
        for number, window in enumerate(windows):
            for r in populations:
                rates = [found[number]["images_per_s"] for found in ours[r]]
                line: dict[str, Any] = {
                    "batch": batch, "window": window, "population": r, "images_per_s": spread(rates),
                    "images_per_cpu_s": spread([found[number]["images_per_cpu_s"] for found in ours[r]]),
                    "running_accuracy": round(ours[r][0][number]["accuracy"], 4),
                    "coincidences_per_image": round(pulses[number], 1), "repeats": args.repeats,
                }  # fmt: skip
                if theirs:
                    there = [found[number]["images_per_s"] for found in theirs]
                    expected = theirs[0][number]["pulses_per_image"]
                    line |= {
                        "peer_images_per_s": spread(there),
                        "ratio": spread([a / b for a, b in zip(rates, there, strict=True)]),
                        "peer_coincidences_per_image": expected, "coincidence_ratio": round(pulses[number] / expected, 4),
                        "peer_running_accuracy": theirs[0][number]["running_accuracy"],
                        "peer_version": theirs[0][number]["aihwkit"],
                    }  # fmt: skip
                emit("train", **line)
        for network in networks.values():
            network.__exit__()


if __name__ == "__main__":
    main()
