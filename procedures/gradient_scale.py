"""E|g|: the mean size of a gradient, |x d| of a cell and a sample, while the digital reference of a network trains.

With it T_A = b_A / (g_A lr_A E|g|) says how many samples A remembers (theory T6). Of a spiking network the pairs of all time
steps of a sample are added up: each of them moves A (theory section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from hil.activations import softmax_loss
from hil.bench import Bench
from hil.datasets import Dataset
from hil.encoding import UpdateSettings
from hil.errors import DataError, UsageError
from hil.nn import AnalogLinear, AnalogOptimizer
from hil.programming import ProgramLimits
from hil.progress import progress
from procedures.exploration import FloatArray
from procedures.explore_chunk import accuracy_of, has_boards
from procedures.explore_config import ExploreConfig
from procedures.network import NetworkPlan, build, initialise
from procedures.training_state import data_order

__all__ = ["RATES", "GradientScale", "measure_gradients", "train_digitally"]


RATES = tuple(float(rate) for rate in np.logspace(-4, -1, 13))
"""Learning rates of the digital trainings that are looked at, quarter decades."""


@dataclass(frozen=True, eq=False)
class GradientScale:
    """Means over the cells, the samples, and whole trainings that end at one accuracy.

    How large gradients are depends on how fast they vanish: networks are compared in trainings that come equally far.
    """

    mean: float
    """E|g|, weight per unit of learning rate and sample."""
    error: float
    """Standard error from the spread of the replicas."""
    layers: FloatArray
    """E|g| by layer, [layer]."""
    lr: float
    """The digital learning rate that ends there."""
    samples: int
    """Of one training: epochs times samples."""


def measure_gradients(bench: Bench, config: ExploreConfig, level: float, data: Dataset, replicas: int) -> GradientScale:
    """Train the digital reference as ``explore`` trains it, at many rates, and look at every gradient.

    level: mean validation accuracy at the end, met by interpolation between rates. UsageError on a board: the bench must
    be elastic. DataError where no rate gets there, or the lowest is beyond it already.
    """
    if has_boards(bench):
        raise UsageError(f"{bench.name}: is a board: gradients of digital trainings are measured on an emulated bench")
    bench.populate(torch.arange(config.first_seed, config.first_seed + replicas).repeat(len(RATES)))
    lr = torch.tensor(RATES, dtype=torch.float64).repeat_interleave(replicas)
    means, cells = train_digitally(bench, config, lr, data)
    accuracy = means.pop("accuracy").reshape(len(RATES), replicas)
    layers = np.stack([means[name].reshape(len(RATES), replicas) for name in sorted(means)])
    ends = accuracy.mean(axis=1)
    met = _meeting(ends, level)
    if np.isnan(met):
        raise DataError(
            f"gradients: digital trainings end between {100 * ends.min():.1f} and {100 * ends.max():.1f} %, and not at "
            f"{100 * level:.1f} %: ask for another level"
        )
    places = np.arange(len(RATES))
    at = np.array([[np.interp(met, places, row[:, k]) for k in range(replicas)] for row in layers])
    each = (at * cells[:, None]).sum(axis=0) / cells.sum()
    rate = float(10 ** np.interp(met, places, np.log10(RATES)))
    error = float(each.std(ddof=1) / replicas**0.5)
    return GradientScale(float(each.mean()), error, at.mean(axis=1), rate, config.epochs * len(data.train_x))


def _meeting(accuracy: FloatArray, level: float) -> float:
    """Place along the rates where the accuracy first passes the level; NaN where it does not."""
    above = np.flatnonzero(accuracy >= level)
    if not len(above) or above[0] == 0:
        return float("nan")
    k = int(above[0])
    low, high = accuracy[k - 1], accuracy[k]
    return k - 1 + float((level - low) / (high - low))


def train_digitally(
    bench: Bench, config: ExploreConfig, lr: torch.Tensor, data: Dataset
) -> tuple[dict[str, FloatArray], FloatArray]:
    """("layer0", ... E|g| and "accuracy" at the end, by name [array]; cells of every layer)."""
    widths = (data.train_x.shape[1], *config.hidden, len(data.classes))
    plan = NetworkPlan(
        widths, config.activation, "digital", {"lr": lr}, "inputs",
        UpdateSettings(), UpdateSettings(), "nominal", "nominal", 1.0, config.spiking,
    )  # fmt: skip
    network = build(bench, plan)
    initialise(bench, network, plan, ProgramLimits())
    layers = [layer for layer in network.layers if isinstance(layer, AnalogLinear)]
    optimizer = AnalogOptimizer(network)
    total = np.zeros((len(layers), bench.arrays))
    x, y = data.train_x, data.train_y
    steps = -(-len(x) // config.batch)
    with progress("gradients of the digital reference", config.epochs * steps) as advance:
        for epoch in range(config.epochs):
            order = data_order(bench.config.seed, bench.ids, epoch, len(x))
            for step in range(steps):
                index = order[:, step * config.batch : (step + 1) * config.batch]
                optimizer.zero_grad()
                output = network(x[index])
                output.backward(softmax_loss(output, y[index])[2])
                for number, layer in enumerate(layers):
                    for _, lines, d in layer.queue:
                        # The mean of |x_i d_j| over all cells is that of |x_i| times that of |d_j|.
                        total[number] += (lines.detach().abs().mean(dim=2) * d.abs().mean(dim=2)).sum(dim=1).double().numpy()
                optimizer.step()
                advance(1, "")
    cells = np.array([inputs * outputs for inputs, outputs in pairwise(widths)], dtype=np.float64)
    means = {f"layer{number}": row / (config.epochs * len(x)) for number, row in enumerate(total)}
    return means | {"accuracy": accuracy_of(network, *data.part("validation")).numpy()}, cells
