"""A whole wafer on the probe-station twin: is everything named that is wrong, and everything else measured without bias?

    python benchmarks/wafer.py [--bench twin-probe-station] [-s KEY=VALUE ...] [--folder DIR]

Runs ``hil wafer`` on a bench whose station starts a twin; the twin is started here, so that its counters and the true
parameters of its devices are at hand. Prints one JSON line: wall time, what the twin counted, sites and cells that were
named, and for every quantity the z of its mean error over all cells and the coverage of the nominal 95 % bars.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from drivers.links.twin import StartedTwin, TwinStart
from hil.calibration import CalibrationStore
from hil.config import BenchConfig, validated
from hil.execute import Plan, execute, plan
from hil.ledger import Ledger
from hil.station import Site
from simulated_backend.twins.control import Control

QUANTITIES = (
    "step", "g_min", "g_max", "g_sp", "slope_up", "slope_down", "asymmetry", "states", "sp_skew", "noise_to_step",
)  # fmt: skip


def on_a_twin(todo: Plan) -> tuple[Plan, StartedTwin]:
    """The plan with the twin of its station started here."""
    config = todo.bench
    assert config.station is not None
    settings = dict(config.station.settings)
    started = StartedTwin(validated(TwinStart, settings.pop("twin"), "station.settings.twin"))
    station = config.station.model_copy(update={"settings": {**settings, "links": started.links}})
    fields = {name: getattr(todo, name) for name in Plan.__dataclass_fields__}
    return Plan(**{**fields, "bench": config.model_copy(update={"station": station})}), started


def true_values(config: BenchConfig, die: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """What characterize estimates, of the linear-step devices of a die as the twin made them, [row col]."""
    g_mid = 100e-6
    per_weight = config.nominal.siemens_per_weight
    p = {name: np.array(value, dtype=np.float64) for name, value in die["parameters"].items()}
    total = p["s_up"] + p["s_down"]
    with np.errstate(invalid="ignore"):  # a shorted cell has no steps
        sp_w = (p["d_up"] - p["d_down"]) / total
    step = (p["d_up"] - p["s_up"] * sp_w) * per_weight
    low, high, sp = (g_mid + per_weight * w for w in (p["low"], p["high"], sp_w))
    return {
        "step": step, "g_min": low, "g_max": high, "g_sp": sp, "slope_up": p["s_up"], "slope_down": p["s_down"],
        "asymmetry": total / (2 * step), "states": (high - low) / step, "sp_skew": (high - sp) / (high - low),
        "noise_to_step": np.full_like(step, die["device"]["c2c"]),
    }  # fmt: skip


def z_scores(todo: Plan, truth: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """(estimate - truth) / standard error of every responding cell of the wafer, by quantity."""
    store = CalibrationStore(todo.state / "calibrations")
    (board,) = todo.bench.boards.values()
    found: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in QUANTITIES}
    for die in truth["dies"].values():
        site = Site(tuple(die["die"]), die["site"])
        kept = store.find(f"{board.settings['wafer']}/{site.name}", todo.bench.roles["c"].shape)
        if kept is None:
            continue
        alive = kept.responds[0].numpy()
        for name, true in true_values(todo.bench, die).items():
            value, error = (getattr(kept, which)[0].double().numpy() for which in (name, f"{name}_se"))
            found[name].append(((value - true) / error)[alive])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def summary(scores: dict[str, np.ndarray[Any, Any]]) -> dict[str, dict[str, float]]:
    """Per quantity: cells, z of the mean (scores cut at 8), coverage of 95 % bars, root mean square score."""
    return {
        name: {
            "cells": len(z), "z_of_mean": round(float(np.clip(z, -8, 8).mean() * np.sqrt(len(z))), 2),
            "coverage_95": round(float((np.abs(z) < 1.96).mean()), 4), "rms": round(float(np.sqrt((z**2).mean())), 3),
        }
        for name, z in scores.items()
    }  # fmt: skip


def measure(bench: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """Run the wafer and compare."""
    todo, started = on_a_twin(plan("wafer", bench, changes, folder))
    try:
        with Control(started.control) as control:
            wall_s = time.monotonic()
            done = execute(todo)
            wall_s = time.monotonic() - wall_s
            report, truth = control.report(), control.truth()
    finally:
        started.close()
    with Ledger.open(done.folder) as run:
        sites = [event.payload for event in run.events("site")]
    faults = [
        one
        for site in sites
        for one in ([site["fault"]] if site["fault"] else [f"{site['site']}: {what}" for what in site["silent"]])
    ]
    return {
        "bench": bench, "changes": changes, "run": str(done.folder), "report": str(done.report), "wall_s": round(wall_s, 1),
        "twin": report, "closures": sum(truth["closures"].values()), "sites": len(sites),
        "measured": sum(not site["fault"] for site in sites),
        "named": faults,
        "recovered": summary(z_scores(todo, truth)),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", default="twin-probe-station")
    parser.add_argument("-s", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, help="keep runs and calibrations here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        print(json.dumps(measure(args.bench, args.changes, args.folder or Path(scratch))))


if __name__ == "__main__":
    main()
