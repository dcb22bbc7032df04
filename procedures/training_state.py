"""What a training run must remember to go on: where it is, its curves, its order of the samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hil.encoding import Stream, word

__all__ = ["Curves", "Position", "data_order", "plain", "tensors"]


@dataclass
class Position:
    """The next step to take, and the arrays that still learn."""

    epoch: int = 0
    step: int = 0
    """Within the epoch."""
    active: Tensor | None = None
    """bool [array]; None = all."""
    best: Tensor | None = None
    """Best validation accuracy so far, float32 [array]."""
    waited: Tensor | None = None
    """Epochs since then, int64 [array]."""

    def state_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"epoch": self.epoch, "step": self.step, "active": self.active, "best": self.best, "waited": self.waited}


@dataclass
class Curves:
    """Per epoch: mean training loss and accuracies, lists of float32 [array]."""

    loss: list[Tensor] = field(default_factory=list)
    train: list[Tensor] = field(default_factory=list)
    """Running accuracy while training."""
    validation: list[Tensor] = field(default_factory=list)
    test: list[Tensor] = field(default_factory=list)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """As plain data."""
        return {"loss": self.loss, "train": self.train, "validation": self.validation, "test": self.test}

    def stacked(self, name: str, arrays: int) -> Tensor:
        """float32 [epoch array]."""
        rows: list[Tensor] = getattr(self, name)
        return torch.stack(rows) if rows else torch.empty(0, arrays)


def data_order(seed: int, ids: Tensor, epoch: int, samples: int) -> Tensor:
    """Order of the samples in an epoch, int64 [array sample]: each array's own, from its identity alone."""
    stream = Stream(seed, ids, "data", "order")
    stream.counter += epoch
    place = torch.arange(samples, dtype=torch.int32)
    return word(stream.keys(1), place, 0).argsort(dim=1, stable=True)


def plain(state: Any) -> Any:
    """Digital state as JSON: counters as lists; the references, large and unchanging, stay out."""
    if isinstance(state, dict):
        return {name: plain(value) for name, value in state.items() if name != "reference"}
    if isinstance(state, list):
        return [plain(value) for value in state]
    return state.tolist() if isinstance(state, Tensor) else state


def tensors(state: Any) -> Any:
    """``plain`` undone: lists of counters as int64 tensors."""
    if isinstance(state, dict):
        return {name: tensors(value) for name, value in state.items()}
    return torch.tensor(state, dtype=torch.int64)
