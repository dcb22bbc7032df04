"""A chunk of an exploration: many trainings at once as one population on the emulator, or one on a board.

A point's result follows from the bench's seed and the point alone, so it does not depend on the chunk that it is in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hil.activations import softmax_loss
from hil.bench import Bench, open_bench
from hil.config import BenchConfig
from hil.datasets import Dataset
from hil.encoding import UpdateSettings
from hil.fused import Samples, Sums
from hil.nn import AnalogOptimizer
from hil.programming import ProgramLimits
from hil.tile import Tile
from procedures.exploration import Exploration
from procedures.explore_config import ExploreConfig
from procedures.network import AlgorithmName, Network, NetworkPlan, build, initialise
from procedures.training_state import data_order

__all__ = ["BOUND_WEIGHT", "accuracy_of", "asymmetric_bench", "has_boards", "train_chunk", "train_population"]

BOUND_WEIGHT = 0.6
"""b_w of the asymmetry axis, weight."""
_NAMES: dict[str, AlgorithmName] = {"tiki_taka": "tiki-taka", "sgd": "sgd", "digital": "digital"}
_SPREADS = ("dw_min_dtod", "w_max_dtod", "w_min_dtod", "sp_dtod")
_CHUNK = 32
"""Samples of one batch while accuracy is measured."""
Advance = Callable[[int, str], None]


def asymmetric_bench(config: BenchConfig, points: Exploration, alike: bool = False) -> BenchConfig:
    """The emulated bench with devices of every point's own asymmetry, one array a point; A and C on boards of their own.

    alpha <= 1: linear steps with relative slope alpha and bounds +- b_w; above, soft bounds at +- b_w / alpha. Their
    symmetry points have the mean ``sp`` and a standard deviation of a hundredth of b_w, in weight, whatever alpha is.
    Everything else is as the bench file has it. alike: cells do not differ from each other.
    """
    boards, roles = {}, {}
    for role in ("a", "c"):
        wiring = config.roles.get(role, config.roles["c"])
        board = config.boards[wiring.board]
        device = dict(board.settings.get("device", {}))
        if f"alpha_{role}" in points.axes and bool(np.isfinite(points.axes[f"alpha_{role}"]).all()):
            alpha = points.axes[f"alpha_{role}"]
            bound, slope = BOUND_WEIGHT / np.maximum(alpha, 1.0), np.minimum(alpha, 1.0)
            device |= {
                "model": "linear", "symmetry": "weight", "sp": _each(points.axes["sp"]), "sp_dtod": 0.01 * BOUND_WEIGHT,
                "w_max": _each(bound), "w_min": _each(-bound), "slope_up": _each(slope), "slope_down": _each(slope),
                "dw_min": _each(2 * BOUND_WEIGHT / points.axes["states"]), "c2c": _each(points.axes["c2c"]),
            }  # fmt: skip
            device |= dict.fromkeys(_SPREADS, 0.0) if alike else {}
        boards[role] = board.model_copy(update={"settings": {**board.settings, "device": device}})
        roles[role] = wiring.model_copy(update={"board": role})
    states = config.nominal.states
    if "states" in points.axes and bool(np.isfinite(points.axes["states"]).all()):
        states = _each(points.axes["states"])
    nominal = config.nominal.model_copy(update={"states": states})
    return config.model_copy(update={"boards": boards, "roles": roles, "nominal": nominal})


def _each(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def has_boards(bench: Bench) -> bool:
    """Whether a bench is made of boards of their own size and devices, real or emulated: they train point by point."""
    return bool(bench.backends)


def train_chunk(
    bench: Bench, config: ExploreConfig, points: Exploration, data: Dataset, advance: Advance
) -> tuple[Tensor, Tensor]:
    """(validation, test) accuracy of points of one algorithm, float64 [point]. advance: told of every epoch of each point.

    bench: where it is elastic only its configuration is used, another is opened on it; a board trains one point at a time.
    """
    if has_boards(bench):
        return _train(bench, config, points, data, advance)
    return train_population(bench.config, config, points, data, advance)


def train_population(
    bench: BenchConfig, config: ExploreConfig, points: Exploration, data: Dataset, advance: Advance
) -> tuple[Tensor, Tensor]:
    """``train_chunk`` on emulated devices that are made for these points and gone afterwards."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(TemporaryDirectory(prefix="explore-")))
        own = closing.enter_context(open_bench(asymmetric_bench(bench, points), folder))
        own.populate(torch.from_numpy(points.seed))
        return _train(own, config, points, data, advance)


def _train(
    bench: Bench, config: ExploreConfig, points: Exploration, data: Dataset, advance: Advance
) -> tuple[Tensor, Tensor]:
    name = points.algorithm[0]
    ids = torch.from_numpy(points.seed)
    # On a board too, replica k has weights and an order of samples of its own.
    bench.ids = ids
    widths = (data.train_x.shape[1], *config.hidden, len(data.classes))
    plan = NetworkPlan(
        widths, config.activation, _NAMES[name], _rates(points), "inputs", UpdateSettings(), UpdateSettings(),
        "nominal", "nominal", 1.0, config.spiking,
    )  # fmt: skip
    network = build(bench, plan)
    if config.references == "zero-shift" and name != "digital":
        for tile in network.tiles.values():
            alpha = points.axes.get(f"alpha_{tile.place.role}")
            usable = torch.ones(len(ids), dtype=torch.bool)
            if alpha is not None:
                usable = ~torch.from_numpy(alpha < config.min_alpha)
            tile.set_reference(_symmetry_points(tile, config, usable))
    initialise(bench, network, plan, ProgramLimits())
    _epochs(bench, network, config, data, advance)
    return accuracy_of(network, *data.part("validation")), accuracy_of(network, *data.part("test"))


def _rates(points: Exploration) -> dict[str, Tensor]:
    """Hyper-parameters under the names of the training procedure, float64 [point]."""
    axes = points.axes
    if points.algorithm[0] == "tiki_taka":
        named = {"lr_a": axes["lr_a"], "lr_c": axes["lr_c"], "n_s": axes["transfer_every"], "gamma": axes["gamma"]}
        return {name: torch.from_numpy(value.copy()) for name, value in named.items()} | {
            "n_reads": torch.ones(len(points), dtype=torch.float64)
        }
    return {"lr": torch.from_numpy(axes["lr" if points.algorithm[0] == "sgd" else "digital_lr"].copy())}


def _symmetry_points(tile: Tile, config: ExploreConfig, usable: Tensor) -> Tensor:
    """Aggregated zero shift: alternating pairs without reads in between, then a few readings; float32 [array in out].

    Readings behind the last down pulse lie half a step at the SP below it on average (theory T4), and that is put right with
    the nominal step. Arrays that are not ``usable`` keep the reference that they have, and get no pulses.
    """
    found = tile.reference.clone()
    per_siemens = tile.known.step_siemens.float()
    polarity = torch.tensor([1, -1], dtype=torch.int8).repeat(config.pairs * config.reads)
    for region in tile.place.regions:
        info = region.backend.info
        mask = torch.zeros(info.arrays, info.rows, info.cols, dtype=torch.bool)
        mask[:, region.rows, region.cols] = usable[:, None, None]
        if not bool(mask.any()):
            continue
        g = region.backend.trace(polarity, mask, tile.place.shape, every=2 * config.pairs)
        late = g[:, region.rows, region.cols, config.reads // 2 :].double().mean(dim=3).float()
        late = late + per_siemens[:, region.inputs, region.outputs] / 2
        part = found[:, region.inputs, region.outputs]
        found[:, region.inputs, region.outputs] = torch.where(usable[:, None, None], late, part)
    return found


def _epochs(bench: Bench, network: Network, config: ExploreConfig, data: Dataset, advance: Advance) -> None:
    x, y, batch = data.train_x, data.train_y, config.batch
    steps = -(-len(x) // batch)
    fused = None if bench.physical else network.fused()
    optimizer = AnalogOptimizer(network)
    loss, right = torch.zeros(bench.arrays, dtype=torch.float64), torch.zeros(bench.arrays, dtype=torch.int64)
    for epoch in range(config.epochs):
        order = data_order(bench.config.seed, bench.ids, epoch, len(x))
        if fused is not None:
            fused.train(Samples(x, y, order), Sums(loss, right), batch, 0, steps, 1.0, None)
        else:
            for step in range(steps):
                index = order[:, step * batch : (step + 1) * batch]
                optimizer.zero_grad()
                output = network(x[index])
                output.backward(softmax_loss(output, y[index])[2])
                optimizer.step()
        advance(bench.arrays, "")


@torch.no_grad()
def accuracy_of(network: Network, x: Tensor, y: Tensor) -> Tensor:
    """Fraction right, float64 [array]; a network that puts out NaN has nothing right."""
    fused = network.fused()
    right = torch.zeros(1, dtype=torch.float64)
    for some, wanted in zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True):
        logits = network(some) if fused is None else fused.logits(some)
        good = (logits.argmax(dim=2) == wanted) & logits.isfinite().all(dim=2)
        right = right + good.sum(dim=1)
    return right / len(y)
