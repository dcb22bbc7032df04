"""One coincidence update, encoding included: microseconds a replica, beside the peer.

    python benchmarks/update.py [--size 784x256] [--population 1,16] [--repeats 5] [--threads N]
        [--peer PYTHON --peer-script bench_update.py] [--short]

Soft bounds with all default variations and cycle noise. "dense": BL 31, x and d uniform in -1 to 1, no management;
"sparse": BL 10, MNIST-like inputs (19 % of the lines), small errors, no management; "managed": BL 31 with update management,
MNIST-like. The peer, which keeps to one array and one thread, is asked once a repeat, in between. One JSON line a case.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from fully_connected import Trained
from machine import emit, peer_lines, spread
from mvm import timed

from hil.encoding import UpdateSettings
from hil.nn import AnalogLinear
from hil.threads import set_threads

DW = 0.001
CASES = {"dense": (31, "dense"), "sparse": (10, "sparse"), "managed": (31, "default")}
"""case -> (BL, what the peer calls it)."""


def given(case: str, inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor, float, UpdateSettings]:
    """(x [1 in], d [1 out], rate, settings) of a case."""
    made = torch.Generator().manual_seed(0)
    slots, _ = CASES[case]
    if case == "dense":
        x, d = (2 * torch.rand(1, lines, generator=made) - 1 for lines in (inputs, outputs))
        return x, d, DW * slots, UpdateSettings(slots, False, False)
    x = torch.rand(1, inputs, generator=made) * (torch.rand(1, inputs, generator=made) < 0.19)
    d = 0.05 * torch.randn(1, outputs, generator=made)
    managed = case == "managed"
    return x, d, 0.05 if managed else DW * slots, UpdateSettings(slots, managed, managed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="784x256")
    parser.add_argument("--population", default="1,16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peer", help="the peer's Python")
    parser.add_argument("--peer-script", default="bench_update.py")
    parser.add_argument("--short", action="store_true", help="256x128, three repeats")
    args = parser.parse_args()
    if args.short:
        args.size, args.repeats = "256x128", 3
    set_threads(args.threads)
    inputs, outputs = map(int, args.size.split("x"))
    settings = {"device": {"model": "soft_bounds", "dw_min": DW}, "count_pulses": False}
    rates = {"lr_a": 0.01, "lr_c": 0.1, "n_s": 1.0}
    populations = [int(p) for p in args.population.split(",")]
    networks = {p: Trained((inputs, outputs), "tanh", rates, settings, torch.arange(p)) for p in populations}
    for case, (slots, called) in CASES.items():
        x, d, rate, how = given(case, inputs, outputs)
        ours: dict[int, list[float]] = {p: [] for p in populations}
        theirs: list[float] = []
        for _ in range(args.repeats):
            for p, network in networks.items():
                layer = network.network.layers[0]
                assert isinstance(layer, AnalogLinear)
                every = x.expand(p, 1, -1).contiguous(), d.expand(p, 1, -1).contiguous()
                work = partial(layer.algorithm.tiles["a"].update, *every, torch.full((p,), rate), how)
                ours[p].append(timed(work, p, 0.2))
            if args.peer:
                options = ["--threads", "1", "--repeats", "1", "--min-time", "0.2", "--devices", "SoftBounds"]
                options += ["--sizes", args.size, "--bl", str(slots), "--batch", "1", "--regimes", called]
                theirs += [line["wall_us_per_sample"] for line in peer_lines(args.peer, args.peer_script, *options)]
        for p, found in ours.items():
            line: dict[str, Any] = {"case": case, "bl": slots, "size": args.size, "population": p}
            line["us_per_replica"] = spread(found)
            if theirs:
                ratio = [b / a for a, b in zip(found, theirs, strict=True)]
                line |= {"peer_us": spread(theirs), "ratio": spread(ratio)}
            emit("update", **line)
    for network in networks.values():
        network.__exit__()


if __name__ == "__main__":
    main()
