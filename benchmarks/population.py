"""A population of 64-32-10 networks on digits under Tiki-Taka v1: different asymmetry and learning rates each, batch 1.

    python benchmarks/population.py [--population 64,2304] [--epochs 15] [--chunk 576] [--threads N] [--device cpu] [--short]

The array axis spans a square grid: alpha = 0.6 / bound of both matrices from 0.1 to 3, and lr_A from 0.002 to 0.05. It is
trained chunk after chunk, each with its own identities, so that no result depends on the chunk; within one, compiled steps
take one replica after another. One JSON line for each population: time of the training with its test of every epoch, cost
of a replica-image, set-up time apart, and the accuracies.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from typing import Any

import numba
import torch
from fully_connected import Trained
from machine import emit
from torch import Tensor

from hil.datasets import Dataset, load
from hil.fused import Samples
from hil.threads import set_threads
from procedures.training_state import data_order

WIDTHS = (64, 32, 10)
BOUND = 0.6


def grid(population: int) -> tuple[Tensor, Tensor]:
    """(alpha, lr_A) of every array, float64 [array]: a square as far as the population goes."""
    side = max(1, round(population**0.5))
    number = torch.arange(population, dtype=torch.float64)
    alpha = torch.tensor(0.1).double() * 30 ** ((number % side) / max(side - 1, 1))
    return alpha, 0.002 * 25 ** ((number // side) / max(-(-population // side) - 1, 1))


def part(data: Dataset, ids: Tensor, alpha: Tensor, lr_a: Tensor, epochs: int) -> dict[str, Any]:
    """One chunk: seconds of set-up and training, and what came of it."""
    began = time.perf_counter()
    bound = tuple((BOUND / alpha).tolist())
    device = {
        "model": "soft_bounds", "dw_min": 0.0006, "w_max": bound, "w_min": tuple(-b for b in bound), "w_max_dtod": 0.1,
        "w_min_dtod": 0.1,
    }  # fmt: skip
    # A conductance cannot fall below zero: bounds of 6 weights need a scale that leaves room for them.
    settings = {"device": device, "g_mid_siemens": 500e-6, "count_pulses": False}
    spent = time.process_time()
    with Trained(WIDTHS, "tanh", {"lr_a": lr_a, "lr_c": 0.1, "n_s": 2.0}, settings, ids) as network:
        ready = time.perf_counter()
        accuracy = []
        for epoch in range(epochs):
            order = data_order(0, ids, epoch, len(data.train_x))
            network.train(Samples(data.train_x, data.train_y, order), 1, 0, len(data.train_x))
            accuracy.append(network.accuracy(data.test_x, data.test_y))
        state = b"".join(value["state"].numpy().tobytes() for value in network.bench.state_dict().values())
        return {
            "setup_s": ready - began, "train_s": time.perf_counter() - ready,
            "cpu_s": time.process_time() - spent, "accuracy": accuracy[-1],
            "state": hashlib.blake2b(state, digest_size=8).hexdigest(),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", default="64,2304")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--chunk", type=int, default=576, help="arrays at a time (576, about 1 GB)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--short", action="store_true", help="64 and 128 networks, one epoch")
    args = parser.parse_args()
    if args.device != "cpu":
        sys.exit(f"population: --device {args.device}: compiled training steps run on the CPU only")
    if args.short:
        args.population, args.epochs = "64,128", 1
    set_threads(args.threads)
    data = load("digits")
    ids = torch.arange(4)
    part(data, ids, *grid(4), epochs=1)
    for population in (int(p) for p in args.population.split(",")):
        alpha, lr_a = grid(population)
        found = [
            part(
                data,
                torch.arange(population)[k : k + args.chunk],
                alpha[k : k + args.chunk],
                lr_a[k : k + args.chunk],
                args.epochs,
            )
            for k in range(0, population, args.chunk)
        ]
        seconds = sum(f["train_s"] for f in found)
        images = population * args.epochs * len(data.train_x)
        accuracy = torch.cat([f["accuracy"] for f in found])
        emit(
            "population", population=population, widths=WIDTHS, epochs=args.epochs, images=len(data.train_x),
            chunk=args.chunk, train_s=round(seconds, 2), cpu_s=round(sum(f["cpu_s"] for f in found), 2),
            setup_s=round(sum(f["setup_s"] for f in found), 2),
            replica_images_per_s=round(images / seconds), us_per_replica_image=round(1e6 * seconds / images, 3),
            accuracy_best=round(float(accuracy.max()), 4), accuracy_median=round(float(accuracy.median()), 4),
            states=[f["state"] for f in found][:4], threads=numba.get_num_threads(),
        )  # fmt: skip


if __name__ == "__main__":
    main()
