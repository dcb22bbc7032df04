# mypy: disable-error-code="untyped-decorator"
"""Activations and the softmax loss, once for autograd and once for compiled loops: the same operations, bit for bit.

Transcendental functions are computed in double precision and rounded once, so that a result depends neither on the place
of a value in a tensor nor on how many threads a library takes.

    sigmoid  1 / (1 + exp(-z)), derivative y (1 - y)
    tanh     derivative 1 - y^2
    relu     max(z, 0), derivative 1 where y > 0
    softmax loss  log sum_k exp(z_k) - z_target, derivative (softmax(z) - onehot(target)) / samples
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["ACTIVATIONS", "Activation", "activate", "activate_sample", "return_sample", "softmax_loss", "softmax_sample"]

Activation = Literal["tanh", "sigmoid", "relu"]
ACTIVATIONS: dict[Activation, int] = {"tanh": 0, "sigmoid": 1, "relu": 2}
"""Names, and the numbers that compiled loops know them by."""

_F32 = NDArray[np.float32]
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


@numba.njit(cache=True, nogil=True)
def activate_sample(kind: int, z: _F32, y: _F32) -> None:
    """y = activation(z), both [line]; may be the same array."""
    if kind == 0:
        for i in range(len(z)):
            y[i] = np.float32(math.tanh(np.float64(z[i])))
    elif kind == 1:
        for i in range(len(z)):
            y[i] = np.float32(1.0 / (1.0 + math.exp(-np.float64(z[i]))))
    else:
        for i in range(len(z)):
            y[i] = max(z[i], _ZERO)


@numba.njit(cache=True, nogil=True)
def return_sample(kind: int, y: _F32, d: _F32) -> None:
    """d *= derivative of the activation where its value is y, both [line], in place."""
    if kind == 0:
        for i in range(len(y)):
            d[i] = np.float32(d[i] * np.float32(_ONE - np.float32(y[i] * y[i])))
    elif kind == 1:
        for i in range(len(y)):
            d[i] = np.float32(d[i] * np.float32(y[i] * np.float32(_ONE - y[i])))
    else:
        for i in range(len(y)):
            d[i] = d[i] if y[i] > 0 else _ZERO


@numba.njit(cache=True, nogil=True)
def softmax_sample(z: _F32, target: int, samples: int, d: _F32) -> tuple[float, int]:
    """Loss and decision (the first largest) of one sample; d [class] becomes the gradient of the mean over ``samples``."""
    best = 0
    for k in range(1, len(z)):
        if z[k] > z[best]:
            best = k
    top = np.float64(z[best])
    total = 0.0
    for k in range(len(z)):
        total += math.exp(np.float64(z[k]) - top)
    for k in range(len(z)):
        share = math.exp(np.float64(z[k]) - top) / total
        d[k] = np.float32((share - (1.0 if k == target else 0.0)) / samples)
    return math.log(total) + top - np.float64(z[target]), best


@numba.njit(cache=True, nogil=True)
def _softmax_all(
    z: NDArray[np.float32], target: NDArray[np.int64], d: NDArray[np.float32], loss: NDArray[np.float64],
    right: NDArray[np.int64],
) -> None:  # fmt: skip
    arrays, samples, _ = z.shape
    for a in range(arrays):
        for s in range(samples):
            value, decision = softmax_sample(z[a, s], target[a, s], samples, d[a, s])
            loss[a] += value
            right[a] += decision == target[a, s]


class _Activate(torch.autograd.Function):
    """One activation with its derivative in terms of its value."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, kind: int) -> Tensor:
        y = torch.empty(z.shape)
        activate_sample(kind, z.detach().contiguous().view(-1).numpy(), y.view(-1).numpy())
        ctx.kind = kind
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        out = d.contiguous().clone()
        return_sample(ctx.kind, y.view(-1).numpy(), out.view(-1).numpy())
        return out, None


def activate(name: Activation, z: Tensor) -> Tensor:
    """The activation of every element, with its gradient. z: float32 of any shape, on the CPU."""
    y: Tensor = _Activate.apply(z, ACTIVATIONS[name])  # type: ignore[no-untyped-call]
    return y


def softmax_loss(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, right, gradient) of logits z float32 [array sample class] for classes target int64 [array sample].

    loss: float64 [array], summed over samples; right: int64 [array], samples whose largest logit is the target's;
    gradient: float32 like z, of the mean loss over samples, summed over arrays (``hil.nn.population_loss``).
    """
    loss = torch.zeros(len(z), dtype=torch.float64)
    right = torch.zeros(len(z), dtype=torch.int64)
    d = torch.empty(z.shape)
    _softmax_all(z.detach().contiguous().numpy(), target.contiguous().numpy(), d.numpy(), loss.numpy(), right.numpy())
    return loss, right, d
