"""Train a multilayer perceptron on the bench, with any algorithm, for one network or a population of them.

The same loop runs on a board and on the emulator. Hyper-parameters given as lists span a grid; with several seeds the
grid times the seeds is the population, trained at once on an elastic emulated bench.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from hil.bench import Bench
from hil.datasets import Dataset, load
from hil.encoding import UpdateSettings
from hil.errors import UsageError
from hil.known import ReferenceChoice
from hil.ledger import Ledger
from hil.nn import AnalogOptimizer, population_loss
from hil.procedure import Procedure
from hil.programming import ProgramLimits
from hil.progress import progress
from hil.report.section import Table
from hil.tile import Tile
from procedures.network import Network, NetworkPlan, build, initialise
from procedures.prepare import measure_devices
from procedures.train_report import record_network, train_sections
from procedures.training_state import Curves, Position, data_order

__all__ = ["TrainConfig", "TrainResult", "headline", "population", "procedure", "train"]

Grid = float | tuple[float, ...]
_AXES = {"sgd": ("lr",), "digital": ("lr",), "tiki-taka": ("lr_a", "lr_c", "n_s", "gamma", "n_reads")}


class TrainConfig(BaseModel):
    """``-s train.KEY=VALUE``. Fields of type number-or-list span the grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: Literal["sgd", "tiki-taka", "digital"] = "tiki-taka"
    dataset: str = "digits"
    """``digits``, a folder of IDX files, or ``openml:NAME``."""
    classes: tuple[int | str, ...] | None = None
    pool: int = Field(default=1, ge=1)
    limit: int | None = Field(default=None, ge=1)
    """At most so many samples of each part."""
    train_on: Literal["all", "train"] = "all"
    """``train`` keeps the validation part out: wherever something is selected."""
    hidden: tuple[int, ...] = (32,)
    activation: Literal["tanh", "sigmoid", "relu"] = "tanh"
    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=1, ge=1)
    seeds: int = Field(default=1, ge=1)
    """Devices, initial weights and data order of replica k follow from (bench seed, k)."""
    first_seed: int = Field(default=0, ge=0)
    lr: Grid = 0.01
    """SGD: learning rate."""
    lr_a: Grid = 0.01
    """Tiki-Taka: rate of the auxiliary matrix, absolute."""
    lr_c: Grid = 0.1
    """Tiki-Taka: rate of the transfer, absolute."""
    n_s: Grid = 1.0
    """Tiki-Taka: samples between transfers."""
    gamma: Grid = 0.0
    n_reads: Grid = 1.0
    transfer: Literal["inputs", "outputs"] = "inputs"
    slots: int = Field(default=31, ge=1, le=31)
    pulses: Literal["stochastic", "deterministic"] = "stochastic"
    management: bool = True
    slot_management: bool = True
    transfer_slots: int = Field(default=31, ge=1, le=31)
    decay_every: int | None = Field(default=None, ge=1)
    """Epochs after which rates are multiplied by ``decay``."""
    decay: float = Field(default=0.5, gt=0, le=1)
    reference_a: ReferenceChoice = "sp"
    """Weight 0 of A: symmetry points as measured, the middle of each measured range, or the nominal middle for all."""
    reference_c: ReferenceChoice = "sp"
    prepare: Literal["stored", "measure"] = "stored"
    """``measure`` runs characterize and zero-shift on the matrices first."""
    init_scale: float = Field(default=1.0, gt=0)
    patience: int | None = Field(default=None, ge=1)
    """Stop an array after so many epochs without a better validation accuracy."""
    checkpoint_s: float = Field(default=30.0, gt=0)
    """Seconds between checkpoints (emulator)."""


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
    for name in ("n_s", "n_reads"):
        if name in axes and any(point[name] < 1 or point[name] != int(point[name]) for point in points):
            raise UsageError(f"train.{name}: must be whole numbers of at least 1")
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
        config.reference_a, config.reference_c, config.init_scale,
    )  # fmt: skip
    network = build(bench, plan)
    position, curves = Position(), Curves()
    if not started:
        programmed = initialise(bench, network, plan, ProgramLimits())
        for name, done in programmed.items():
            ledger.event(
                "programmed", {"matrix": name, "success": float(done.success.float().mean()), "rounds": done.rounds}
            )
    loop = _Loop(bench, network, config, data, ledger, position, curves, label)
    if saved is not None:
        loop.restore(saved.state)
    elif going_on is not None:
        loop.go_on(going_on)
    loop.run()
    test = curves.test[-1]
    validation = curves.validation[-1] if curves.validation else torch.full_like(test, torch.nan)
    confusion = loop.confusion()
    pulses = {name: _mean_pulses(tile) for name, tile in network.tiles.items()}
    named = {name: curves.stacked(name, bench.arrays) for name in ("loss", "train", "validation", "test")}
    grid = (len(points), config.seeds)
    result = TrainResult(
        config.algorithm, points, test.view(grid), validation.view(grid), named, confusion, pulses, time.monotonic() - began
    )
    record_network(ledger, config.algorithm, result, network, label=label or config.algorithm)
    return result


def _mean_pulses(tile: Tile) -> float:
    total = torch.zeros(())
    for region in tile.place.regions:
        status = region.backend.status()
        for name in ("pulses_up", "pulses_down"):
            if name in status:
                total += status[name][:, region.rows, region.cols].sum()
    return float(total) / (tile.arrays * tile.inputs * tile.outputs)


class _Loop:
    """The training loop and its position; everything that a checkpoint holds."""

    def __init__(
        self, bench: Bench, network: Network, config: TrainConfig, data: Dataset, ledger: Ledger, position: Position,
        curves: Curves, label: str,
    ) -> None:  # fmt: skip
        self.bench, self.network, self.config, self.data, self.ledger = bench, network, config, data, ledger
        self.position, self.curves, self.label = position, curves, label
        self.x, self.y = data.full_train() if config.train_on == "all" else (data.train_x, data.train_y)
        self.optimizer = AnalogOptimizer(network)
        self.physical = bench.physical
        self._loss = torch.zeros(bench.arrays, dtype=torch.float64)
        self._right = torch.zeros(bench.arrays, dtype=torch.int64)
        self._saved_at = time.monotonic()

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return -(-len(self.x) // self.config.batch)

    def run(self) -> None:
        """From the current position to the end."""
        where, config = self.position, self.config
        done = where.epoch * self.steps + where.step
        if self.physical:
            self.ledger.digital_state(self._small_state)
        with progress(f"train {config.algorithm}", config.epochs * self.steps) as advance:
            advance(done, "")
            while where.epoch < config.epochs:
                self._epoch(advance)
                self._close_epoch()
                advance(0, f"accuracy {100 * float(self.curves.test[-1].mean()):.1f} %")
                if where.active is not None and not bool(where.active.any()):
                    break

    def _epoch(self, advance: Any) -> None:
        where, config = self.position, self.config
        order = data_order(self.bench.config.seed, self.bench.ids, where.epoch, len(self.x))
        rate = 1.0 if config.decay_every is None else config.decay ** (where.epoch // config.decay_every)
        for group in self.optimizer.param_groups[:1]:
            group["lr"] = rate
        self.optimizer.active = where.active
        for step in range(where.step, self.steps):
            index = order[:, step * config.batch : (step + 1) * config.batch]
            x, y = self.x[index], self.y[index]
            self.optimizer.zero_grad()
            output = self.network(x)
            loss = population_loss(cross_entropy, output, y)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self._right += (output.detach().argmax(dim=2) == y).sum(dim=1)
            self._loss += cross_entropy(output.detach().flatten(0, 1), y.flatten(), reduction="none").view_as(y).sum(dim=1)
            where.step = step + 1
            advance(1, "")
            if not self.physical and time.monotonic() - self._saved_at > config.checkpoint_s:
                self.save()

    def _close_epoch(self) -> None:
        where, curves, samples = self.position, self.curves, len(self.x)
        curves.loss.append((self._loss / samples).float())
        curves.train.append(self._right.float() / samples)
        curves.test.append(self._frozen(curves.test, self.accuracy("test")))
        if len(self.data.validation_y):
            curves.validation.append(self._frozen(curves.validation, self.accuracy("validation")))
        self._loss.zero_()
        self._right.zero_()
        where.epoch, where.step = where.epoch + 1, 0
        if self.config.patience is not None and curves.validation:
            self._stop_early(curves.validation[-1], self.config.patience)
        self.ledger.event(
            "epoch",
            {"epoch": where.epoch, "label": self.label},
            {name: values[-1] for name, values in curves.state_dict().items() if values},
        )
        if not self.physical:
            self.save()

    def _frozen(self, before: list[Tensor], now: Tensor) -> Tensor:
        """``now`` for arrays that still learn; a stopped array keeps what it had, as if it had been alone."""
        active = self.position.active
        return now if active is None or not before else torch.where(active, now, before[-1])

    def _stop_early(self, accuracy: Tensor, patience: int) -> None:
        where = self.position
        if where.best is None or where.waited is None:
            where.best, where.waited = accuracy.clone(), torch.zeros(len(accuracy), dtype=torch.int64)
            return
        better = accuracy > where.best
        where.best = torch.where(better, accuracy, where.best)
        where.waited = torch.where(better, 0, where.waited + 1)
        learning = where.waited < patience
        where.active = learning if where.active is None else where.active & learning

    def batches(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Samples of a part, the same for every array, in chunks that bound the memory."""
        x, y = self.data.part(part)
        chunk = max(1, 2**22 // (self.bench.arrays * x.shape[1]))
        for start in range(0, len(x), chunk):
            stop = start + chunk
            yield x[start:stop].expand(self.bench.arrays, -1, -1), y[start:stop]

    @torch.no_grad()
    def accuracy(self, part: str) -> Tensor:
        """Fraction right, float32 [array]."""
        right = sum((self.network(x).argmax(dim=2) == y).sum(dim=1) for x, y in self.batches(part))
        return torch.as_tensor(right).float() / len(self.data.part(part)[1])

    @torch.no_grad()
    def confusion(self) -> Tensor:
        """Test decisions, int64 [array class class]: true class by decision."""
        size = len(self.data.classes)
        table = torch.zeros(self.bench.arrays, size * size, dtype=torch.int64)
        for x, y in self.batches("test"):
            decision = self.network(x).argmax(dim=2)
            table.scatter_add_(1, y * size + decision, torch.ones_like(decision))
        return table.view(self.bench.arrays, size, size)

    def _small_state(self) -> dict[str, Any]:
        """Where a physical run is: goes with every operation, taken as it is sent."""
        return {
            "label": self.label, "epoch": self.position.epoch, "step": self.position.step,
            "loss": self._loss.tolist(), "right": self._right.tolist(), "layers": _plain(self.network.digital_state()),
        }  # fmt: skip

    def save(self) -> None:
        """A checkpoint from which the run goes on bit-identically."""
        self._saved_at = time.monotonic()
        state = {
            "bench": self.bench.state_dict(), "network": self.network.digital_state(),
            "position": self.position.state_dict(), "curves": self.curves.state_dict(),
            "loss": self._loss, "right": self._right,
        }  # fmt: skip
        self.ledger.checkpoint(state, self.position.epoch * self.steps + self.position.step, self.label)

    def go_on(self, small: dict[str, Any]) -> None:
        """On a board the devices are the state: go on after the step of the operation that was sent last.

        What was left of that step is skipped: what its gradients were, nobody knows any more. Layers whose turn had not
        come keep their counters, so that neither a transfer nor a pulse train is left out or used twice.
        """
        where = self.position
        for algorithm, part in zip(self.network.algorithms, small["layers"], strict=True):
            algorithm.load_state_dict(_tensors(part))
        where.epoch, where.step = small["epoch"], small["step"] + 1
        for event in self.ledger.run.events("epoch"):
            if event.payload["label"] == self.label:
                for name, value in self.ledger.run.arrays(event.number).items():
                    getattr(self.curves, name).append(torch.as_tensor(value))
        if self.config.patience is not None:
            for accuracy in self.curves.validation:
                self._stop_early(accuracy, self.config.patience)
        if len(self.curves.loss) > where.epoch:
            where.epoch, where.step = where.epoch + 1, 0
            return
        self._loss.copy_(torch.tensor(small["loss"]))
        self._right.copy_(torch.tensor(small["right"]))
        if where.step >= self.steps:
            self._close_epoch()

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint."""
        self.network.load_digital_state(state["network"])
        self.bench.load_state_dict(state["bench"])
        for name, value in state["position"].items():
            setattr(self.position, name, value)
        for name, value in state["curves"].items():
            setattr(self.curves, name, value)
        self._loss, self._right = state["loss"], state["right"]


def _plain(state: Any) -> Any:
    """Counters as JSON; the references, large and unchanging, stay out."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items() if name != "reference"}
    if isinstance(state, list):
        return [_plain(value) for value in state]
    return state.tolist() if isinstance(state, Tensor) else state


def _tensors(state: Any) -> Any:
    """``_plain`` undone: lists of counters as int64 tensors."""
    if isinstance(state, dict):
        return {name: _tensors(value) for name, value in state.items()}
    return torch.tensor(state, dtype=torch.int64)


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


procedure = Procedure("train", TrainConfig, train, "train a network on the bench", train_sections, headline)
"""The entry point."""
