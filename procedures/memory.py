"""How long A remembers: the weight of past gradients, measured on its cells through updates and reads alone.

Under gradients of size g and random sign, A forgets a share lr_A g_A |g| / b_A of itself per sample, so that the gradient of
k samples ago counts exp(-k / T_A) with

    T_A = b_A / (g_A lr_A E|g|) = b_w / (alpha_A lr_A E|g|)        (docs/maths.md; Wu et al. 2024, eq. 8 and 13)

as long as pulse probabilities are not clipped and pulses per sample times the slope of a cell stay below 0.05. Measured in
two ways: by the impulse response (what is left of a displacement under such gradients) and by regression of what A holds on
the gradients that it got.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from hil.bench import Bench, open_bench
from hil.config import BenchConfig
from hil.encoding import UpdateSettings
from hil.known import from_nominal
from hil.tile import Tile
from procedures.exploration import Exploration, FloatArray
from procedures.explore_chunk import BOUND_WEIGHT, asymmetric_bench

__all__ = ["SIZE", "Memory", "impulse_response", "lags", "one_slot", "opened_tile", "regression", "uniform_points"]

SIZE = 16
"""Inputs and outputs of the matrix that is measured."""
_SPAN = 1.5
"""Time constants that a decay is followed for."""
_READS = 12
_BLOCK = 4096
"""Samples of an update call at most."""


@dataclass(frozen=True)
class Memory:
    """One time constant, in samples."""

    alpha: float
    lr: float
    """lr_A E|g|: mean weight change of a sample."""
    predicted: float
    measured: float
    error: float
    """Standard error of ``measured``, from the scatter of the replicas."""


def uniform_points(alpha: FloatArray, states: float, c2c: float, seeds: FloatArray) -> Exploration:
    """Devices of these asymmetries for A and C alike, to open a bench of; all [point]."""
    count, nothing = len(alpha), np.full(len(alpha), np.nan)
    axes = {"alpha_a": alpha, "alpha_c": alpha, "states": np.full(count, states), "c2c": np.full(count, c2c)}
    axes["sp"] = np.zeros(count)
    return Exploration("", axes, ("tiki_taka",) * count, seeds.astype(np.int64), nothing, nothing, 1, 1)


def one_slot() -> UpdateSettings:
    """Pulse trains of a single slot: the mean change of a weight is exact (theory of pulses in docs/maths.md)."""
    return UpdateSettings(1, False, False, "stochastic")


def opened_tile(bench: Bench, ids: Tensor, role: str, size: int = SIZE) -> Tile:
    """A matrix of a bench that was opened for ``ids``, as nominal values describe it."""
    bench.populate(ids)
    place = bench.place(f"explain.{role}", role, size, size)
    return Tile(place, from_nominal(place.nominal, bench.arrays, size, size), bench.config.seed, ids)


def _signs(rng: np.random.Generator, samples: int, size: int) -> tuple[Tensor, Tensor]:
    """Random signs of inputs and of errors, float32 [1 sample line]."""
    draw = rng.integers(0, 2, (2, 1, samples, size)) * 2.0 - 1.0
    return torch.from_numpy(draw[0]).float(), torch.from_numpy(draw[1]).float()


def _train(tile: Tile, rng: np.random.Generator, samples: int, rate: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Update with random gradients of size 1, and return them."""
    given = []
    for start in range(0, samples, _BLOCK):
        x, d = _signs(rng, min(_BLOCK, samples - start), tile.inputs)
        shape = (tile.arrays, *x.shape[1:])
        tile.update(x.expand(shape).contiguous(), d.expand(shape).contiguous(), rate, one_slot())
        given.append((x[0], d[0]))
    return given


def impulse_response(
    config: BenchConfig, alpha: float, probability: float, states: float, c2c: float, replicas: int, seed: int
) -> Memory:
    """T_A from what is left of a displacement; probability: of a pulse per cell and sample, at most 1.

    Every replica is a pair with displacements of either sign and the same pulses: their difference decays without the noise
    that both have in common.
    """
    step = 2 * BOUND_WEIGHT / states
    rate, bound = probability * step, BOUND_WEIGHT / max(alpha, 1.0)
    predicted = BOUND_WEIGHT / (alpha * rate)
    ids = torch.arange(replicas).repeat(2)
    points = uniform_points(np.full(2 * replicas, alpha), states, c2c, ids.numpy().astype(np.float64))
    times = np.unique(np.rint(np.linspace(0, _SPAN * predicted, _READS)).astype(int))
    with (
        TemporaryDirectory(prefix="explain-") as folder,
        open_bench(asymmetric_bench(config, points, alike=True), Path(folder)) as bench,
    ):
        tile = opened_tile(bench, ids, "a")
        kick = torch.full((2 * replicas, SIZE, SIZE), max(1, round(0.3 * bound / step)), dtype=torch.int32)
        kick[replicas:] *= -1
        tile.pulse(kick)
        rng, rates, left = np.random.default_rng(seed), torch.full((2 * replicas,), rate), []
        for number, time in enumerate(times):
            if number:
                _train(tile, rng, int(time - times[number - 1]), rates)
            w = tile.weights().double().mean(dim=(1, 2))
            left.append((w[:replicas] - w[replicas:]).numpy())
    decay = np.log(np.stack(left))
    slopes = np.polyfit(times, decay, 1)[0]
    found = -1.0 / slopes
    return Memory(
        alpha,
        rate,
        predicted,
        float(found.mean()),
        _error(found),
    )


def _error(values: FloatArray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def lags(predicted: float, bins: int = 12, span: float = 2.0) -> FloatArray:
    """Edges of bins of the past, samples: up to ``span`` expected time constants."""
    return np.unique(np.rint(np.linspace(0, span * predicted, bins + 1))).astype(np.float64)


def regression(
    config: BenchConfig, alpha: float, probability: float, states: float, c2c: float, replicas: int, seed: int
) -> tuple[Memory, FloatArray, FloatArray, FloatArray]:
    """T_A from the regression of what A holds on its past gradients.

    Returns also (edges of the lags [bin + 1], weight of a gradient there [bin] in units of lr_A, standard error [bin]).
    Replicas differ in their pulses and in the signs of their gradients.
    """
    step = 2 * BOUND_WEIGHT / states
    rate = probability * step
    predicted = BOUND_WEIGHT / (alpha * rate)
    edges = lags(predicted)
    # A is in its steady state as far as the past of four time constants makes it one: 2 %.
    samples = round(4 * predicted)
    weights = []
    for replica in range(replicas):
        ids = torch.tensor([replica])
        points = uniform_points(np.array([alpha]), states, c2c, ids.numpy().astype(np.float64))
        with (
            TemporaryDirectory(prefix="explain-") as folder,
            open_bench(asymmetric_bench(config, points, alike=True), Path(folder)) as bench,
        ):
            tile = opened_tile(bench, ids, "a", 2 * SIZE)
            given = _train(tile, np.random.default_rng((seed, replica)), samples, torch.tensor([rate]))
            held = tile.weights().double()[0].numpy()
        x = torch.cat([part[0] for part in given]).double().numpy()[::-1]
        d = torch.cat([part[1] for part in given]).double().numpy()[::-1]
        row = []
        for low, high in zip(edges[:-1].astype(int), edges[1:].astype(int), strict=True):
            # Gradients of different cells and samples are uncorrelated, so that every coefficient is a mean by itself.
            past = d[low:high].T @ x[low:high]
            row.append(float((held * past).mean() / (high - low)) / rate)
        weights.append(row)
    table = np.array(weights)
    mean, error = table.mean(axis=0), table.std(axis=0, ddof=1) / replicas**0.5
    found, deviation = _decay(edges, mean, error)
    return Memory(alpha, rate, predicted, found, deviation), edges, mean, error


def _decay(edges: FloatArray, weight: FloatArray, error: FloatArray) -> tuple[float, float]:
    """(time constant, its standard error) of an exponential through weights of bins."""
    from scipy.optimize import curve_fit

    middle = (edges[:-1] + edges[1:]) / 2
    guess = np.array([1.0, float(middle[len(middle) // 2])])

    def model(k: FloatArray, size: float, time: float) -> FloatArray:
        return np.asarray(size * np.exp(-k / time))

    best, covariance = curve_fit(model, middle, weight, guess, sigma=np.full(len(error), error.mean()), absolute_sigma=True)
    return float(best[1]), float(covariance[1, 1] ** 0.5)
