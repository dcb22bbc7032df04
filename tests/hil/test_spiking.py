"""Neurons that fire: their equations, gradients through time, input coding, and the order in which layers learn."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hil.activations import softmax_loss
from hil.algorithms.digital import DigitalSGD
from hil.nn import AnalogLinear, AnalogOptimizer
from hil.spiking import SpikingConfig, SpikingNeurons
from procedures.network import Network

pytest.importorskip("snntorch")


def neurons(arrays: int = 1, first: int = 0, **options: object) -> SpikingNeurons:
    return SpikingNeurons(SpikingConfig.model_validate(options), 5, torch.arange(first, first + arrays))


@pytest.mark.parametrize(("current", "beta"), [(0.3, 0.9), (0.15, 0.8), (1.2, 0.5), (0.09, 0.9)])
def test_a_constant_current_fires_as_the_recursion_says(current: float, beta: float) -> None:
    """u[t] = beta u[t-1] + i - (u[t-1] > 1): the first spike is where i (1 - beta^n) / (1 - beta) passes 1, or never."""
    steps = 60
    spikes = neurons(steps=steps, beta=beta).fire(torch.full((1, steps, 1), current)).flatten()
    settled = current / (1 - beta)
    if settled <= 1:
        assert not spikes.any()
        return
    first = math.floor(math.log(1 - 1 / settled) / math.log(beta)) + 1
    assert int(spikes.argmax()) == first - 1
    # In the long run what flows in leaks or is taken off by spikes: i = (1 - beta) mean u + rate.
    u, total = 0.0, 0
    for spike in spikes.tolist():
        u = beta * u + current - (u > 1)
        assert spike == (u > 1)
        total += spike
    assert total > 1


def test_gradients_go_through_time_by_the_surrogate() -> None:
    """d spike[t] / d i[s] = sigma'(u[t]) beta^(t-s) below threshold, sigma'(u) = 1 / (1 + k |u - 1|)^2; resets have none."""
    steps, beta, slope = 4, 0.5, 5.0
    current = torch.tensor([0.2, 0.3, 0.1, 0.4], dtype=torch.float32).view(1, steps, 1).requires_grad_()
    spikes = neurons(steps=steps, beta=beta, slope=slope).fire(current)
    assert not spikes.any()
    wanted = torch.zeros(steps)
    u = 0.0
    for t, now in enumerate([0.2, 0.3, 0.1, 0.4]):
        u = beta * u + now
        for s in range(t + 1):
            wanted[s] += beta ** (t - s) / (1 + slope * abs(u - 1)) ** 2
    spikes.sum().backward()
    assert current.grad is not None
    assert torch.allclose(current.grad.flatten(), wanted, rtol=1e-5)


def test_the_last_layer_is_read_as_mean_potential() -> None:
    steps, beta = 7, 0.8
    flow = torch.randn(2, 3 * steps, 4, generator=torch.Generator().manual_seed(1))
    u, total = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    for now in flow.view(2, 3, steps, 4).unbind(2):
        u = beta * u + now
        total += u
    assert torch.allclose(neurons(2, steps=steps, beta=beta).read_out(flow), total / steps, atol=1e-6)


def test_direct_coding_shows_the_input_at_every_step() -> None:
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    shown = neurons(4, steps=5).encode(x)
    assert torch.equal(shown, x[None, :, None].expand(4, 2, 5, 3).reshape(4, 10, 3))


def test_rate_coding_fires_with_the_input_as_probability_alike_in_any_population() -> None:
    """60,000 draws a value; |z| < 6 has a false alarm of 2e-9 each and would catch an error of 0.012 in a probability."""
    values = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    coder = neurons(3, steps=20, encoding="rate")
    shown = coder.encode(values.expand(1000, 5))
    assert set(shown.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(coder.counter, torch.full((3,), 20_000))
    count = 3 * 20_000
    rate = shown.double().mean(dim=(0, 1))
    assert rate[0] == 0
    assert rate[-1] == 1
    z = (rate - values.double())[1:-1] / (values * (1 - values) / count).double().sqrt()[1:-1]
    assert float(z.abs().max()) < 6
    alone = neurons(1, first=2, steps=20, encoding="rate").encode(values.expand(1000, 5))
    assert torch.equal(alone[0], shown[2])
    assert not torch.equal(shown[0], shown[1])


class Noted(DigitalSGD):
    """A digital layer that remembers what it was told to learn."""

    told: list[tuple[Tensor, Tensor, int]]

    def step(self, x: Tensor, d: Tensor, calls: int, factor: float, active: Tensor | None) -> None:
        self.told = [*getattr(self, "told", []), (x, d, calls)]
        super().step(x, d, calls, factor, active)


def layers(widths: tuple[int, ...], lr: float) -> list[AnalogLinear]:
    made = []
    generator = torch.Generator().manual_seed(11)
    for inputs, outputs in pairwise(widths):
        algorithm = Noted(2, inputs, outputs, torch.full((2,), lr))
        algorithm.weight = torch.rand(2, outputs, inputs, generator=generator) * 0.8 - 0.2
        made.append(AnalogLinear(algorithm))
    return made


def test_layer_by_layer_is_step_by_step() -> None:
    """All steps of a layer as one batch, against the textbook loop over time that calls every layer once a step: the same
    pairs, oldest first, and the same weights after learning."""
    steps, widths, samples = 6, (5, 7, 3), 2
    x = torch.rand(2, samples, 5, generator=torch.Generator().manual_seed(2))
    y = torch.tensor([[0, 2], [1, 1]])
    net = Network(layers(widths, 0.3), "tanh", neurons(2, steps=steps, beta=0.7))
    logits = net(x)
    logits.backward(softmax_loss(logits, y)[2])
    AnalogOptimizer(net).step()

    import snntorch

    first, last = loop = layers(widths, 0.3)
    leaky = snntorch.Leaky(0.7, spike_grad=snntorch.surrogate.fast_sigmoid(5.0), reset_mechanism="subtract")
    hidden, out = torch.zeros(2, samples, 7), torch.zeros(2, samples, 3)
    total = torch.zeros(2, samples, 3)
    for _ in range(steps):
        spike, hidden = leaky(first(x), hidden)
        out = 0.7 * out + last(spike)
        total = total + out
    other = total / steps
    assert torch.allclose(other, logits, atol=1e-6)
    other.backward(softmax_loss(other, y)[2])
    AnalogOptimizer(torch.nn.ModuleList(loop)).step()
    for one, two in zip(net.layers, loop, strict=True):
        assert isinstance(one, AnalogLinear)
        assert isinstance(one.algorithm, Noted)
        assert isinstance(two.algorithm, Noted)
        (told,), (wanted,) = one.algorithm.told, two.algorithm.told
        assert told[2] == wanted[2] == steps
        assert torch.equal(told[0], wanted[0])
        assert torch.allclose(told[1], wanted[1], atol=1e-6)
        assert float(told[1].abs().max()) > 1e-3
        assert torch.allclose(one.algorithm.weight, two.algorithm.weight, atol=1e-6)


def test_several_calls_a_sample_are_taken_oldest_first_with_their_steps() -> None:
    """A layer that is called twice a sample: call after call, each with its time steps in order."""
    (layer,) = layers((2, 2), 0.1)
    layer.time_steps = 3
    one, two = (torch.arange(12.0).view(1, 6, 2).expand(2, 6, 2) + 100 * k for k in range(2))
    (layer(one).sum() + layer(two).sum()).backward()
    layer.learn(1.0, None)
    algorithm = layer.algorithm
    assert isinstance(algorithm, Noted)
    ((x, _, calls),) = algorithm.told
    assert calls == 6
    assert x[0, :, 0].tolist() == [0, 2, 4, 100, 102, 104, 6, 8, 10, 106, 108, 110]
