"""Bandwidth of the update on a GPU against that of a copy, measured in the same run.

    python benchmarks/gpu_update.py [--device cuda] [--sizes 784x256,256x128] [--population 1,64,1024] [--batch 1,32]
        [--slots 31] [--model soft_bounds] [--repeats 30] [--graph]

A dense update: every line has a random nonzero value, management off, so that most crosspoints get pulses. "bytes" counts
what must move of the cells that got a pulse: state read and written, bounds, d and s of both polarities, once a batch. The
roofline is a device-to-device copy of 1 GiB, bytes read plus bytes written. --graph also replays the update as a CUDA
graph, which is what matters where one launch costs more than its work. One JSON line a case; timings are medians of single
calls between CUDA events; cells are rotated over copies, so that small arrays are not measured in the cache alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from machine import emit, spread

from hil.encoding import Stream, UpdateSettings, encode
from simulated_backend.devices import DeviceSettings, draw_cells, per_array
from simulated_backend.kernels.reference import Cells

COPIES = 3


def seconds(work: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Seconds of single calls, one piece of work after the other in turn."""
    for call in work:
        call()
    torch.cuda.synchronize()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for number, (began, ended) in enumerate(events):
        began.record()
        work[number % len(work)]()
        ended.record()
    torch.cuda.synchronize()
    return [began.elapsed_time(ended) / 1e3 for began, ended in events]


def copy_bytes_per_s(repeats: int) -> dict[str, float]:
    source = torch.rand(2**28, device="cuda")
    target = torch.empty_like(source)
    found = seconds([lambda: target.copy_(source)], repeats)
    return spread([2 * source.nbytes / one for one in found])


def make(model: str, population: int, rows: int, cols: int) -> Cells:
    """Devices of one replica, drawn once and repeated: their values do not change what moves."""
    s = DeviceSettings(model=model)
    params, state = draw_cells(s, rows, cols, 1, torch.arange(1), "w", -2.0, 10.0)
    there = {name: value.cuda().repeat(population, 1, 1) for name, value in params.items()}
    c2c = per_array(s.c2c, population).view(-1).float().cuda()
    return Cells(model, state.cuda().repeat(population, 1, 1), there, c2c, s.multiplicative)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda"])
    parser.add_argument("--sizes", default="784x256,256x128")
    parser.add_argument("--population", default="1,64,1024")
    parser.add_argument("--batch", default="1,32")
    parser.add_argument("--slots", type=int, default=31)
    parser.add_argument("--model", default="soft_bounds", choices=["constant", "linear", "soft_bounds"])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--graph", action="store_true")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "gpu_update: no CUDA device here: run it on a machine with an NVIDIA GPU and a CUDA build of torch",
            file=sys.stderr,
        )
        return 4
    from simulated_backend.kernels import cuda

    roof = copy_bytes_per_s(args.repeats)
    for size in args.sizes.split(","):
        rows, cols = map(int, size.split("x"))
        for population in (int(p) for p in args.population.split(",")):
            ids = torch.arange(population)
            copies = [make(args.model, population, rows, cols) for _ in range(COPIES)]
            for batch in (int(b) for b in args.batch.split(",")):
                made = torch.Generator("cuda").manual_seed(1)
                x = torch.rand(population, batch, rows, generator=made, device="cuda") * 2 - 1
                d = torch.rand(population, batch, cols, generator=made, device="cuda") * 2 - 1
                keys = [Stream(1, ids, "w", name, "cuda").keys(batch) for name in ("x", "d", "pulse")]
                one = torch.ones(population, device="cuda")
                settings = UpdateSettings(slots=args.slots, management=False, slot_management=False)
                trains = encode(x, d, one, one / args.slots, settings, keys[0], keys[1])
                before = copies[0].state.clone()
                cuda.update(copies[0], *trains, keys[2])
                touched = int((copies[0].state != before).sum())
                work: list[Callable[[], Any]] = [
                    lambda c=c, t=trains, k=keys[2]: cuda.update(c, *t, k)
                    for c in copies  # type: ignore[misc]
                ]
                ways = {"launch": work}
                if args.graph:
                    for call in work:
                        call()  # what is made once, outside the graph
                    torch.cuda.synchronize()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        for call in work:
                            call()
                    ways["graph"] = [graph.replay]
                for way, calls in ways.items():
                    found = [one / (COPIES if way == "graph" else 1) for one in seconds(calls, args.repeats)]
                    rate = [touched * 32 / one for one in found]
                    emit(
                        "gpu_update", size=size, population=population, batch=batch, slots=args.slots, way=way,
                        gpu=torch.cuda.get_device_name(), seconds=spread(found), touched_share=touched / before.numel(),
                        bytes=touched * 32, bytes_per_s=spread(rate), copy_bytes_per_s=roof,
                        share_of_roofline=round(spread(rate)["median"] / roof["median"], 4),
                    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
