"""Forward reads with the default periphery: microseconds a sample by the plain verbs and in compiled steps, beside the peer.

    python benchmarks/mvm.py [--sizes 784x256,256x128,512x512,1024x1024] [--batch 1,32] [--population 1,16] [--repeats 5]
        [--threads N] [--peer PYTHON --peer-script bench_forward.py] [--short]

"verbs" is a read as the generic path takes it, through tile, guard and backend; "compiled" is the same read as the steps
of a fused network take it, noise, DAC, ADC and bound management included in both. One JSON line a case; the peer, which
keeps to one network, is asked once a repeat, in between.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fully_connected import Trained
from machine import emit, peer_lines, spread

from hil.nn import AnalogLinear
from hil.threads import set_threads


def timed(work: Callable[[], Any], samples: int, at_least_s: float) -> float:
    """Microseconds a sample."""
    work()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < at_least_s:
        work()
        calls += 1
    return 1e6 * (time.perf_counter() - began) / calls / samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="784x256,256x128,512x512,1024x1024")
    parser.add_argument("--batch", default="1,32")
    parser.add_argument("--population", default="1,16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peer", help="the peer's Python")
    parser.add_argument("--peer-script", default="bench_forward.py")
    parser.add_argument("--short", action="store_true", help="784x256, batch 1, three repeats")
    args = parser.parse_args()
    if args.short:
        args.sizes, args.batch, args.repeats = "784x256", "1", 3
    set_threads(args.threads)
    for size in args.sizes.split(","):
        inputs, outputs = map(int, size.split("x"))
        for batch in (int(b) for b in args.batch.split(",")):
            made = torch.Generator().manual_seed(0)
            x = torch.rand(batch, inputs, generator=made) * (torch.rand(batch, inputs, generator=made) < 0.5)
            populations = [int(p) for p in args.population.split(",")]
            settings = {"device": {"model": "soft_bounds"}, "count_pulses": False}
            rates = {"lr_a": 0.01, "lr_c": 0.1, "n_s": 1.0}
            networks = {p: Trained((inputs, outputs), "tanh", rates, settings, torch.arange(p)) for p in populations}
            ours: dict[tuple[int, str], list[float]] = {(p, way): [] for p in populations for way in ("verbs", "compiled")}
            theirs: list[float] = []
            for _ in range(args.repeats):
                for p, network in networks.items():
                    layer = network.network.layers[0]
                    assert isinstance(layer, AnalogLinear)
                    ways: dict[str, Callable[[], Any]] = {
                        "verbs": partial(layer.algorithm.forward, x.expand(p, -1, -1)),
                        "compiled": partial(network.logits, x),
                    }
                    for way, work in ways.items():
                        ours[p, way].append(timed(work, batch * p, 0.2))
                if args.peer:
                    options = ["--threads", "1", "--sizes", size, "--batch", str(batch), "--repeats", "1"]
                    lines = peer_lines(args.peer, args.peer_script, *options)
                    theirs += [line["wall_us_per_sample"] for line in lines if line["mode"] == "default_io"]
            for (p, way), found in ours.items():
                line: dict[str, Any] = {
                    "size": size,
                    "batch": batch,
                    "population": p,
                    "way": way,
                    "us_per_sample": spread(found),
                }
                if theirs:
                    ratio = [b / a for a, b in zip(found, theirs, strict=True)]
                    line |= {"peer_us_per_sample": spread(theirs), "ratio": spread(ratio)}
                emit("mvm", **line)
            for network in networks.values():
                network.__exit__()


if __name__ == "__main__":
    main()
