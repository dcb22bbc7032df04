"""What a layer asks of a training algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from hil.fused import FusedLayer
from hil.tile import Tile

__all__ = ["Algorithm", "Overlapping"]


class Algorithm(Protocol):
    """One layer's weights and how they learn."""

    arrays: int
    inputs: int
    outputs: int
    tiles: dict[str, Tile]
    """The matrices it lives on, by role; none where weights are digital."""

    def forward(self, x: Tensor) -> Tensor:
        """x [array sample in] -> y [array sample out]."""
        ...

    def backward(self, d: Tensor) -> Tensor:
        """d [array sample out] -> [array sample in]."""
        ...

    def step(self, x: Tensor, d: Tensor, calls: int, factor: float, active: Tensor | None) -> None:
        """Learn from (x, d) pairs, d the gradient of the loss at the output.

        x [array sample*calls in], d [array sample*calls out]: the pairs of one sample follow each other, oldest first;
        factor scales the learning rate; arrays where ``active`` [array] is false learn nothing.
        """
        ...

    def fused(self) -> FusedLayer | None:
        """What a compiled network must know of this layer; None where it cannot be part of one."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Digital state: counters, next transfer line, references."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        ...


@runtime_checkable
class Overlapping(Protocol):
    """An algorithm whose step may be left open while other layers begin theirs: a board has several reads under way."""

    def begin(self, x: Tensor, d: Tensor, calls: int, factor: float, active: Tensor | None) -> Callable[[], None]:
        """``step`` up to its last read; the function does the rest."""
        ...
