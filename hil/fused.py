"""Whole training steps in compiled code: a private capability of the emulator, found with isinstance.

The generic path, autograd on the verbs of tiles and backends, is the definition and the only path on a board. A plain
feed-forward network whose matrices are emulated may be fused: forward, loss, backward, updates and transfers of many steps
run in one call, one replica after another, with the same random numbers, so that the result is the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from hil.activations import Activation
from hil.backend import PulseShape
from hil.emulated_guard import EmulatedGuard
from hil.encoding import Stream, UpdateSettings

__all__ = [
    "FusedLayer",
    "FusedMatrix",
    "FusedNetwork",
    "FusedTransfers",
    "HasFusedNetwork",
    "Samples",
    "Sums",
    "fused_network",
]


@dataclass(frozen=True)
class FusedMatrix:
    """One matrix on a whole array of its own. Streams and their counters are the tile's own."""

    backend: Any
    """What holds it: an EmulatedGuard, or behind it the emulated array."""
    shape: PulseShape
    read_v: float
    bound_management: bool
    siemens_per_weight: Tensor
    """float32 [array]."""
    step: Tensor
    """Weight change of one pulse, float32 [array]."""
    rate: Tensor
    """Learning rate of its updates, float32 [array]."""
    update: UpdateSettings
    x_keys: Stream
    d_keys: Stream


@dataclass(frozen=True)
class FusedTransfers:
    """What Tiki-Taka keeps per array, int64 [array]; ``samples`` and ``next_line`` are its own and change in place."""

    n_s: Tensor
    n_reads: Tensor
    gamma: Tensor
    """float32 [array]."""
    samples: Tensor
    next_line: Tensor
    inputs: bool
    """Whether lines of inputs are moved, or of outputs."""


@dataclass(frozen=True)
class FusedLayer:
    """One layer: analog SGD on ``c``, or Tiki-Taka where there is an ``a``."""

    c: FusedMatrix
    a: FusedMatrix | None = None
    transfers: FusedTransfers | None = None


@dataclass(frozen=True)
class Samples:
    """A training set in the order of every array. x: float32 [sample in]; y: int64 [sample]; order: int64 [array sample]."""

    x: Tensor
    y: Tensor
    order: Tensor


@dataclass(frozen=True)
class Sums:
    """Running sums over samples, added to in place. loss: float64 [array]; right: int64 [array]."""

    loss: Tensor
    right: Tensor


class FusedNetwork(Protocol):
    """A network that trains in compiled code."""

    def train(
        self, samples: Samples, sums: Sums, batch: int, start: int, stop: int, factor: float, active: Tensor | None
    ) -> None:
        """Steps ``start`` to ``stop`` of an epoch, added to ``sums``. factor is the ``lr`` of the optimizer's analog group;
        arrays where ``active`` [array] is false learn nothing.
        """
        ...

    def logits(self, x: Tensor) -> Tensor:
        """x float32 [sample in], one batch, alike for all arrays -> [array sample class]."""
        ...


@runtime_checkable
class HasFusedNetwork(Protocol):
    """A backend that can train whole networks on itself and others of its kind."""

    def fuse(self, layers: Sequence[FusedLayer], activation: Activation) -> FusedNetwork | None:
        """The compiled network; None where something in it is not covered."""
        ...


def fused_network(layers: Sequence[FusedLayer | None], activation: Activation) -> FusedNetwork | None:
    """The compiled network where every layer can be fused and every matrix is emulated, else None.

    Guards check the pulse shapes here, once; LimitError for one outside the limits.
    """
    inner = [layer if layer is None else _behind_guards(layer) for layer in layers]
    found = [layer for layer in inner if layer is not None]
    if not found or len(found) < len(layers) or not isinstance(found[0].c.backend, HasFusedNetwork):
        return None
    return found[0].c.backend.fuse(found, activation)


def _behind_guards(layer: FusedLayer) -> FusedLayer | None:
    c = _behind_guard(layer.c)
    if c is None or layer.a is None:
        return None if c is None else replace(layer, c=c)
    a = _behind_guard(layer.a)
    return None if a is None else replace(layer, a=a, c=c)


def _behind_guard(matrix: FusedMatrix) -> FusedMatrix | None:
    guard = matrix.backend
    if not isinstance(guard, EmulatedGuard):
        return None
    guard.admit(matrix.shape)
    return replace(matrix, backend=guard.inner)
