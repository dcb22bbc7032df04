"""Activations and the softmax loss, against double precision and autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from hil.activations import ACTIVATIONS, activate, softmax_loss
from hil.nn import population_loss

HALF_UNIT = 2.0**-24
TORCH = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_double_precision_rounded_once(name, draw):
    z = 4 * draw((3, 5, 7), 0)
    exact = TORCH[name](z.double())
    assert activate(name, z).dtype == torch.float32
    # A little more than half a unit: the double itself is rounded.
    assert bool(((activate(name, z) - exact).abs() <= 1.001 * HALF_UNIT * exact.abs() + 1e-45).all())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_are_those_of_autograd(name, draw):
    z, d = draw((3, 5, 7), 1), draw((3, 5, 7), 2)
    mine, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    activate(name, mine).backward(d)
    TORCH[name](exact).backward(d.double())
    torch.testing.assert_close(mine.grad.double(), exact.grad, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_extreme_inputs_stay_finite(name):
    z = torch.tensor([-1e30, -100.0, 0.0, 100.0, 1e30], requires_grad=True)
    y = activate(name, z)
    y.sum().backward()
    assert bool(y.isfinite().all())
    assert bool(z.grad.isfinite().all())


def test_softmax_loss_is_the_sum_over_samples_of_cross_entropy(draw):
    z, target = 3 * draw((4, 6, 5), 3), torch.arange(24).view(4, 6) % 5
    loss, right, _ = softmax_loss(z, target)
    exact = cross_entropy(z.double().flatten(0, 1), target.flatten(), reduction="none").view(4, 6).sum(dim=1)
    torch.testing.assert_close(loss, exact, rtol=1e-12, atol=0.0)
    assert torch.equal(right, (z.argmax(dim=2) == target).sum(dim=1))


def test_softmax_loss_gives_the_gradient_of_the_population_loss(draw):
    z, target = 3 * draw((4, 6, 5), 4), torch.arange(24).view(4, 6) % 5
    exact = z.double().requires_grad_()
    population_loss(cross_entropy, exact, target).backward()
    torch.testing.assert_close(softmax_loss(z, target)[2].double(), exact.grad, rtol=1e-6, atol=1e-9)


def test_of_equal_logits_the_first_counts():
    z = torch.tensor([[[1.0, 1.0, 0.0]]])
    assert [int(softmax_loss(z, torch.tensor([[k]]))[1]) for k in range(3)] == [1, 0, 0]


def test_huge_logits_neither_overflow_nor_lose_the_loss():
    loss, right, gradient = softmax_loss(torch.tensor([[[3e38, 0.0, -3e38]]]), torch.tensor([[1]]))
    assert float(loss) == pytest.approx(3e38, rel=1e-6)
    assert int(right) == 0
    torch.testing.assert_close(gradient, torch.tensor([[[1.0, -1.0, 0.0]]]))
