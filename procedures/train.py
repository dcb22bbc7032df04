"""Train a multilayer perceptron on the bench, with any algorithm, for one network or a population of them.

The same loop runs on a board and on the emulator. Hyper-parameters given as lists span a grid; with several seeds the
grid times the seeds is the population, trained at once on an elastic emulated bench.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from hil.bench import Bench
from hil.datasets import load
from hil.encoding import UpdateSettings
from hil.ledger import Ledger
from hil.procedure import Procedure
from hil.programming import ProgramLimits
from hil.report.section import Table
from procedures.network import NetworkPlan, build, initialise
from procedures.prepare import measure_devices
from procedures.train_config import Grid, TrainConfig
from procedures.train_report import record_network, train_sections
from procedures.training_loop import TrainingLoop
from procedures.training_state import Curves, Position

__all__ = ["TrainConfig", "TrainResult", "headline", "population", "procedure", "train"]

_AXES = {"sgd": ("lr",), "digital": ("lr",), "tiki-taka": ("lr_a", "lr_c", "n_s", "gamma", "n_reads")}


@dataclass(frozen=True)
class TrainResult:
    """What training came to. ``points`` [point]: hyper-parameters of the grid; accuracies float32 [point seed]."""

    algorithm: str
    points: tuple[dict[str, float], ...]
    test_accuracy: Tensor
    """After the last epoch."""
    validation_accuracy: Tensor
    curves: dict[str, Tensor]
    """float32 [epoch array] by name."""
    confusion: Tensor
    """int64 [array class class]: true class by decision, test part."""
    pulses_per_cell: dict[str, float]
    """Mean pulses spent per cell, by matrix."""
    seconds: float

    @property
    def best(self) -> int:
        """Point with the best mean test accuracy."""
        return int(self.test_accuracy.mean(dim=1).argmax())


def population(config: TrainConfig) -> tuple[tuple[dict[str, float], ...], dict[str, Tensor], Tensor]:
    """(points, rates by name [array], ids [array]): the grid times the seeds, seeds innermost."""
    axes = _AXES[config.algorithm]
    given: list[tuple[float, ...]] = []
    for name in axes:
        value: Grid = getattr(config, name)
        given.append(value if isinstance(value, tuple) else (value,))
    points = tuple(dict(zip(axes, values, strict=True)) for values in itertools.product(*given))
    rates = {
        name: torch.tensor([point[name] for point in points], dtype=torch.float64).repeat_interleave(config.seeds)
        for name in axes
    }
    ids = torch.arange(config.first_seed, config.first_seed + config.seeds).repeat(len(points))
    return points, rates, ids


def train(bench: Bench, config: TrainConfig, ledger: Ledger, label: str = "") -> TrainResult:
    """Run the whole training; goes on from the ledger's last checkpoint of this label where it has one."""
    began = time.monotonic()
    points, rates, ids = population(config)
    data = load(config.dataset, classes=config.classes, pool=config.pool, limit=config.limit)
    if bench.arrays != len(ids) or not torch.equal(bench.ids, ids):
        bench.populate(ids)
    widths = (data.train_x.shape[1], *config.hidden, len(data.classes))
    saved = ledger.last_checkpoint()
    if saved is not None and saved.note != label:
        saved = None
    going_on = ledger.run.last_digital_state() if bench.physical else None
    if going_on is not None and going_on["label"] != label:
        going_on = None
    started = saved is not None or going_on is not None
    if config.prepare == "measure" and config.algorithm != "digital" and not started:
        measure_devices(bench, widths, ledger)
    update = UpdateSettings(config.slots, config.management, config.slot_management, config.pulses)
    transfer_update = UpdateSettings(config.transfer_slots, config.management, config.slot_management, config.pulses)
    plan = NetworkPlan(
        widths, config.activation, config.algorithm, rates, config.transfer, update, transfer_update,
        config.reference_a, config.reference_c, config.init_scale, config.spiking,
    )  # fmt: skip
    network = build(bench, plan)
    position, curves = Position(), Curves()
    if not started:
        programmed = initialise(bench, network, plan, ProgramLimits())
        for name, done in programmed.items():
            ledger.event(
                "programmed", {"matrix": name, "success": float(done.success.float().mean()), "rounds": done.rounds}
            )
    loop = TrainingLoop(bench, network, config, data, ledger, position, curves, label)
    if saved is not None:
        loop.restore(saved.state)
    elif going_on is not None:
        loop.go_on(going_on)
    loop.run()
    test = curves.test[-1]
    validation = curves.validation[-1] if curves.validation else torch.full_like(test, torch.nan)
    confusion = loop.confusion()
    spent = {name: pulses for name, pulses in bench.pulses().items() if name in network.tiles}
    pulses = {name: float(count.mean()) for name, count in spent.items()}
    named = {name: curves.stacked(name, bench.arrays) for name in ("loss", "train", "validation", "test")}
    grid = (len(points), config.seeds)
    result = TrainResult(
        config.algorithm, points, test.view(grid), validation.view(grid), named, confusion, pulses, time.monotonic() - began
    )
    record_network(ledger, config.algorithm, result, network, spent, label=label or config.algorithm)
    return result


def headline(result: TrainResult) -> Table:
    """Accuracy of every point of the grid, best first, at most twelve."""
    mean, spread = result.test_accuracy.mean(dim=1), result.test_accuracy.std(dim=1, correction=0)
    order = mean.argsort(descending=True, stable=True)[:12].tolist()
    rows = tuple(
        (*(f"{value:g}" for value in result.points[k].values()), f"{100 * mean[k]:.2f} +- {100 * spread[k]:.2f}")
        for k in order
    )
    seeds = result.test_accuracy.shape[1]
    caption = f"{result.algorithm}: test accuracy after the last epoch, {seeds} seed(s)"
    return Table(caption, (*result.points[0], "accuracy (%)"), rows)


procedure = Procedure("train", TrainConfig, train, "train a network on the bench", train_sections, headline=headline)
"""The entry point."""
