"""The training loop: epochs of steps on the bench, early stopping, checkpoints, and going on from one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hil.activations import softmax_loss
from hil.bench import Bench
from hil.datasets import Dataset
from hil.fused import FusedNetwork, Samples, Sums
from hil.ledger import Ledger
from hil.nn import AnalogOptimizer
from hil.progress import progress
from procedures.network import Network
from procedures.train_config import TrainConfig
from procedures.training_state import Curves, Position, data_order, plain, tensors

__all__ = ["TrainingLoop"]

BLOCK_S = 0.3
"""About how long compiled steps run before Ctrl-C, progress and checkpoints are looked at again, second."""
CHUNK = 32
"""Samples of one batch while accuracy is measured."""


class TrainingLoop:
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
        self.compiled = True
        """Whether steps may be compiled; either way they give the same, bit for bit."""
        self._loss = torch.zeros(bench.arrays, dtype=torch.float64)
        self._right = torch.zeros(bench.arrays, dtype=torch.int64)
        self._pace = 1
        self._saved_at = time.monotonic()

    def _fused(self) -> FusedNetwork | None:
        """The network in compiled code where that may stand for plain steps."""
        return self.network.fused() if self.compiled and not self.physical else None

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return -(-len(self.x) // self.config.batch)

    @property
    def ended(self) -> bool:
        """Whether no epoch is left, or no array still learns: asked before an epoch, so that a resumed run ends alike."""
        active = self.position.active
        return self.position.epoch >= self.config.epochs or (active is not None and not bool(active.any()))

    def run(self) -> None:
        """From the current position to the end."""
        where, config = self.position, self.config
        done = where.epoch * self.steps + where.step
        if self.physical:
            self.ledger.digital_state(self.small_state)
        with progress(f"train {config.algorithm}", config.epochs * self.steps) as advance:
            advance(done, "")
            while not self.ended:
                self._epoch(advance)
                self._close_epoch()
                advance(0, f"accuracy {100 * float(self.curves.test[-1].mean()):.1f} %")

    def _epoch(self, advance: Any) -> None:
        where, config = self.position, self.config
        order = data_order(self.bench.config.seed, self.bench.ids, where.epoch, len(self.x))
        rate = 1.0 if config.decay_every is None else config.decay ** (where.epoch // config.decay_every)
        for group in self.optimizer.param_groups[:1]:
            group["lr"] = rate
        self.optimizer.active = where.active
        fused = self._fused()
        while where.step < self.steps:
            stop = where.step + 1 if fused is None else min(self.steps, where.step + self._pace)
            if fused is None:
                self._plain_step(order)
            else:
                self._fused_steps(fused, order, stop, rate)
            advance(stop - where.step, "")
            where.step = stop
            if not self.physical and time.monotonic() - self._saved_at > config.checkpoint_s:
                self.save()

    def _plain_step(self, order: Tensor) -> None:
        """One step by autograd on the verbs: what every other path is measured against."""
        begin = self.position.step * self.config.batch
        index = order[:, begin : begin + self.config.batch]
        x, y = self.x[index], self.y[index]
        self.optimizer.zero_grad()
        output = self.network(x)
        loss, right, gradient = softmax_loss(output, y)
        output.backward(gradient)
        self.optimizer.step()
        self._loss += loss
        self._right += right

    def _fused_steps(self, fused: FusedNetwork, order: Tensor, stop: int, rate: float) -> None:
        """Steps up to ``stop`` in compiled code."""
        where, began = self.position, time.monotonic()
        sums = Sums(self._loss, self._right)
        fused.train(Samples(self.x, self.y, order), sums, self.config.batch, where.step, stop, rate, where.active)
        took = max(time.monotonic() - began, 1e-6)
        self._pace = max(1, min(2 * self._pace, int((stop - where.step) * min(BLOCK_S, self.config.checkpoint_s) / took)))

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

    def decisions(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """(decision int64 [array sample], target int64 [sample]) of a part, in chunks as long for any population."""
        x, y = self.data.part(part)
        fused = self._fused()
        for start in range(0, len(x), CHUNK):
            some = x[start : start + CHUNK]
            logits = self.network(some) if fused is None else fused.logits(some)
            yield logits.argmax(dim=2), y[start : start + CHUNK]

    @torch.no_grad()
    def accuracy(self, part: str) -> Tensor:
        """Fraction right, float32 [array]."""
        right = sum((decision == y).sum(dim=1) for decision, y in self.decisions(part))
        return torch.as_tensor(right).float() / len(self.data.part(part)[1])

    @torch.no_grad()
    def confusion(self) -> Tensor:
        """Test decisions, int64 [array class class]: true class by decision."""
        size = len(self.data.classes)
        table = torch.zeros(self.bench.arrays, size * size, dtype=torch.int64)
        for decision, y in self.decisions("test"):
            table.scatter_add_(1, y * size + decision, torch.ones_like(decision))
        return table.view(self.bench.arrays, size, size)

    def small_state(self) -> dict[str, Any]:
        """Where a physical run is: goes with every operation, taken as it is sent."""
        return {
            "label": self.label, "epoch": self.position.epoch, "step": self.position.step,
            "loss": self._loss.tolist(), "right": self._right.tolist(), "layers": plain(self.network.digital_state()),
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
        self.network.load_digital_state([tensors(part) for part in small["layers"]])
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
        if self.ended:
            # Sent after the last epoch, for something else: there is no step to finish.
            where.step = 0
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
