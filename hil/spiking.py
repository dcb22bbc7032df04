"""Leaky integrate-and-fire neurons between analog layers, their input coding, and what is read out of the last layer.

A sample is shown for several time steps. Layers are feed-forward, so every layer takes all steps of a sample before the
next one begins: a tile gets them as one batch, steps innermost, and back-propagation through time hands it one (x, d)
pair a step, oldest first. Neurons and surrogate gradients are snnTorch's (Eshraghian et al. 2023, extra ``spiking``).
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hil.encoding import Stream, uniform, word
from hil.errors import UsageError

__all__ = ["SpikingConfig", "SpikingNeurons"]


class SpikingConfig(BaseModel):
    """``-s train.spiking.KEY=VALUE``, ``-s explore.spiking.KEY=VALUE``; ``spiking={}`` takes all defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=8, ge=1, le=256)
    """Time steps of a sample."""
    beta: float = Field(default=0.8, ge=0, lt=1)
    """Share of the membrane potential that is left after a step."""
    encoding: Literal["direct", "rate"] = "direct"
    """``direct``: the input itself at every step; ``rate``: spikes of 1 with the input (0 to 1) as probability."""
    slope: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """k of the surrogate gradient 1 / (1 + k |u - 1|)^2 (fast sigmoid)."""

    @property
    def name(self) -> str:
        """What tells a network of these neurons from others."""
        return f"LIF beta {self.beta:g} slope {self.slope:g}, {self.steps} steps, {self.encoding} coding"


class SpikingNeurons:
    """Codes the input, fires between layers, reads the last layer.

        u[t] = beta u[t-1] + i[t] - (u[t-1] > 1),  spike[t] = u[t] > 1,  u[-1] = 0

    Neurons of the last layer do not fire: logits are their mean potential over the steps. seed and ids [array] key the
    spikes of rate coding; ``counter`` int64 [array] is all of its state.
    UsageError where snnTorch is not installed.
    """

    def __init__(self, config: SpikingConfig, seed: int, ids: Tensor) -> None:
        self.config = config
        leaky, surrogate = _snntorch()
        self._leaky: Any = leaky(config.beta, threshold=1.0, spike_grad=surrogate(config.slope), reset_mechanism="subtract")
        self._stream = Stream(seed, ids, "input", "spikes")
        # Share in the mean potential of what flows in at step t: the steps from t on, each a leak further.
        left = [sum(config.beta**k for k in range(config.steps - t)) for t in range(config.steps)]
        self._weights = [share / config.steps for share in left]

    @property
    def counter(self) -> Tensor:
        """Samples coded so far, int64 [array]."""
        return self._stream.counter

    def encode(self, x: Tensor) -> Tensor:
        """x [array sample line], or [sample line] for all arrays alike -> [array sample*step line], steps innermost."""
        if x.dim() == 2:
            x = x.expand(len(self.counter), *x.shape)
        arrays, samples, lines = x.shape
        steps = self.config.steps
        if self.config.encoding == "direct":
            return x.repeat_interleave(steps, dim=1)
        keys = self._stream.keys(samples * steps)
        drawn = uniform(word(keys[..., None, :], torch.arange(lines, dtype=torch.int32), 0))
        return (drawn < x.repeat_interleave(steps, dim=1)).float().view(arrays, samples * steps, lines)

    def fire(self, current: Tensor) -> Tensor:
        """Spikes 0 or 1 of currents, both [array sample*step line], with surrogate gradients through time."""
        flow = self._steps(current)
        potential = torch.zeros_like(flow[0])
        spikes = []
        for now in flow:
            spike, potential = self._leaky(now, potential)
            spikes.append(spike)
        return torch.stack(spikes, dim=2).flatten(1, 2)

    def read_out(self, current: Tensor) -> Tensor:
        """Logits [array sample class] from the last layer's currents [array sample*step class]."""
        flow = self._steps(current)
        total = flow[0] * self._weights[0]
        # Added up in one fixed order, so that an array rounds alike in any population.
        for now, weight in zip(flow[1:], self._weights[1:], strict=True):
            total = total + now * weight
        return total

    def _steps(self, current: Tensor) -> tuple[Tensor, ...]:
        """The currents of every step, [array sample line] each."""
        arrays, _, lines = current.shape
        return current.reshape(arrays, -1, self.config.steps, lines).unbind(2)


@functools.cache
def _snntorch() -> tuple[Any, Any]:
    """(neuron, surrogate gradient) of snnTorch."""
    try:
        from snntorch import Leaky, surrogate
    except ImportError as exc:
        raise UsageError("spiking: needs snnTorch: install the extra with `pip install crosspoint-hil[spiking]`") from exc
    return Leaky, surrogate.fast_sigmoid
