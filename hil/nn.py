"""The torch.nn face of analog tiles: layers, an optimizer that hands gradients to their algorithms, the loss.

Everything carries the array axis: inputs [array sample in], outputs [array sample out]. Ordinary modules, losses and
schedulers work on top; ``loss.backward()`` runs the analog backward pass and queues (x, d) pairs, and
``optimizer.step()`` hands them to the algorithms, oldest first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hil.algorithms.base import Algorithm, Overlapping
from hil.errors import ShapeError, UsageError
from hil.programming import ProgramLimits, Programmed, program_weights

__all__ = ["AnalogLinear", "AnalogOptimizer", "population_loss"]


def _nothing() -> None:
    """What a layer leaves that is done."""


class _Product(torch.autograd.Function):
    """y = W x on the array; the backward pass is analog too, and queues (x, d) with the layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, layer: AnalogLinear) -> Tensor:
        ctx.layer, ctx.number = layer, layer.calls
        ctx.save_for_backward(x)
        layer.calls += 1
        return layer.algorithm.forward(x)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        ctx.layer.queue.append((ctx.number, x, d))
        return ctx.layer.algorithm.backward(d) if ctx.needs_input_grad[0] else None, None, None


class AnalogLinear(nn.Module):
    """y = scale * (W x) + bias, W on a tile.

    bias: digital bias [array out], trained by an ordinary optimizer; output_scale: digital scale [array 1], likewise.
    """

    def __init__(self, algorithm: Algorithm, bias: bool = False, output_scale: bool = False) -> None:
        super().__init__()
        self.algorithm = algorithm
        self.arrays = algorithm.arrays
        # Without a parameter of its own autograd would skip a first layer, whose input needs no gradient.
        self.token = nn.Parameter(torch.zeros(0))
        self.bias = nn.Parameter(torch.zeros(self.arrays, algorithm.outputs)) if bias else None
        self.output_scale = nn.Parameter(torch.ones(self.arrays, 1)) if output_scale else None
        self.time_steps = 1
        """Time steps of a sample, innermost on the sample axis of x: pairs of one sample, for the algorithm."""
        self.queue: list[tuple[int, Tensor, Tensor]] = []
        self.calls = 0
        self._staged: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """x [array sample in], or [sample in] for all arrays alike -> [array sample out]."""
        if x.dim() == 2:
            x = x.expand(self.arrays, *x.shape)
        if x.dim() != 3 or x.shape[0] != self.arrays or x.shape[2] != self.algorithm.inputs:
            raise ShapeError(f"AnalogLinear: x {list(x.shape)} needs [{self.arrays} sample {self.algorithm.inputs}]")
        if torch.is_grad_enabled():
            y: Tensor = _Product.apply(x, self.token, self)  # type: ignore[no-untyped-call]
        else:
            y = self.algorithm.forward(x)
        if self.output_scale is not None:
            y = y * self.output_scale[:, None, :]
        return y if self.bias is None else y + self.bias[:, None, :]

    @property
    def plain(self) -> bool:
        """Whether y = W x is all it does."""
        return self.bias is None and self.output_scale is None

    def learn(self, factor: float, active: Tensor | None) -> Callable[[], None]:
        """Hand the queued pairs to the algorithm: sample after sample, the calls of a sample oldest first.

        The function does what may wait until the other layers have begun.
        """
        queue, self.queue, self.calls = sorted(self.queue, key=lambda item: item[0]), [], 0
        if not queue:
            return _nothing
        steps = self.time_steps
        if len(queue) == 1:
            _, x, d = queue[0]
        else:
            sizes = {x.shape[1] for _, x, _ in queue}
            if len(sizes) > 1:
                raise UsageError(
                    f"AnalogLinear: called with batches of {sorted(sizes)} samples before one step: use one size"
                )
            x = torch.stack([x.reshape(self.arrays, -1, steps, x.shape[2]) for _, x, _ in queue], dim=2).flatten(1, 3)
            d = torch.stack([d.reshape(self.arrays, -1, steps, d.shape[2]) for _, _, d in queue], dim=2).flatten(1, 3)
        if isinstance(self.algorithm, Overlapping):
            return self.algorithm.begin(x, d, len(queue) * steps, factor, active)
        self.algorithm.step(x, d, len(queue) * steps, factor, active)
        return _nothing

    def forget(self) -> None:
        """Drop queued pairs without learning from them."""
        self.queue, self.calls = [], 0

    def get_extra_state(self) -> dict[str, Any]:
        """Weights [array out in] of every matrix, as read back."""
        return {f"weight_{role}": tile.weights() for role, tile in self.algorithm.tiles.items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Stage weights; ``program`` writes them by pulses."""
        for role, tile in self.algorithm.tiles.items():
            weight = state.get(f"weight_{role}")
            if weight is None or tuple(weight.shape) != (tile.arrays, tile.outputs, tile.inputs):
                raise ShapeError(
                    f"AnalogLinear: weight_{role} is missing or not [{tile.arrays} {tile.outputs} {tile.inputs}]"
                )
            self._staged[role] = weight

    def stage(self, weight: Tensor, role: str = "c") -> None:
        """Stage weights [array out in] of one matrix for ``program``."""
        self._staged[role] = weight

    def program(self, limits: ProgramLimits | None = None) -> dict[str, Programmed]:
        """Write what was staged, by write-verify; the result says which cells got there."""
        staged, self._staged = self._staged, {}
        return {role: program_weights(self.algorithm.tiles[role], weight, limits) for role, weight in staged.items()}


class AnalogOptimizer(torch.optim.Optimizer):
    """Hands queued pairs to the analog layers of a model, and trains its digital parameters by SGD.

    param_groups[0] are the analog layers: its ``lr`` is a factor on the algorithms' own per-array rates, for ordinary
    schedulers; param_groups[1], where there is one, the digital parameters with ``digital_lr``.
    """

    def __init__(self, model: nn.Module, digital_lr: float = 0.01) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, AnalogLinear)]
        if not self.layers:
            raise UsageError("AnalogOptimizer: the model has no AnalogLinear: use an ordinary optimizer")
        tokens = [layer.token for layer in self.layers]
        mine = {id(token) for token in tokens}
        digital = [p for p in model.parameters() if id(p) not in mine]
        groups: list[dict[str, Any]] = [{"params": tokens, "lr": 1.0}]
        if digital:
            groups.append({"params": digital, "lr": digital_lr})
        super().__init__(groups, {"lr": 1.0})
        self.active: Tensor | None = None
        """bool [array]: arrays that still learn; None = all."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of everything."""
        for rest in [layer.learn(self.param_groups[0]["lr"], self.active) for layer in self.layers]:
            rest()
        for group in self.param_groups[1:]:
            for p in group["params"]:
                if p.grad is not None:
                    change = p.grad if self.active is None else p.grad * self.active.view(-1, *[1] * (p.dim() - 1))
                    p.sub_(change, alpha=group["lr"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop gradients and queued pairs."""
        super().zero_grad(set_to_none)
        for layer in self.layers:
            layer.forget()


def population_loss(loss: Callable[..., Tensor], output: Tensor, target: Tensor) -> Tensor:
    """Sum over arrays of the mean over samples of ``loss(output, target, reduction="none")``.

    output [array sample class]; target [array sample] or [sample]. The sum keeps arrays independent: each sees the gradient
    that it would see alone.
    """
    arrays, count = output.shape[:2]
    target = target.expand(arrays, count) if target.dim() == 1 else target
    each = loss(output.flatten(0, 1), target.flatten(), reduction="none")
    return each.view(arrays, count).mean(dim=1).sum()
