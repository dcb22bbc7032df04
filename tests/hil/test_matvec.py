"""matvec: the product itself, and its rounding, which may not depend on how many arrays there are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.matvec import matvec

PRODUCT = {"forward": "asr,arc->asc", "backward": "asc,arc->asr"}


@pytest.fixture(autouse=True, scope="module")
def compiled():
    for direction in ("forward", "backward"):
        matvec(torch.ones(1, 1, 1), torch.ones(1, 1, 1), direction)
        torch.einsum(PRODUCT[direction], torch.ones(1, 1, 1), torch.ones(1, 1, 1))


def operands(arrays, samples, rows, cols, direction, seed=0, sparse=False):
    made = torch.Generator().manual_seed(seed)
    g = torch.randn(arrays, rows, cols, generator=made)
    v = torch.randn(arrays, samples, rows if direction == "forward" else cols, generator=made)
    return (v * (torch.rand(v.shape, generator=made) < 0.3) if sparse else v), g


@pytest.mark.slow  # the first use of hypothesis in a process
@pytest.mark.parametrize("direction", ["forward", "backward"])
@settings(max_examples=20)
@given(
    arrays=st.integers(1, 4), samples=st.integers(1, 5), rows=st.integers(1, 40), cols=st.integers(1, 40),
    seed=st.integers(0, 99), sparse=st.booleans(),
)  # fmt: skip
def test_equals_the_product_in_double_precision(direction, arrays, samples, rows, cols, seed, sparse):
    v, g = operands(arrays, samples, rows, cols, direction, seed, sparse)
    got = matvec(v, g, direction)
    assert got.dtype == torch.float32
    exact = torch.einsum(PRODUCT[direction], v.double(), g.double())
    # Rounding of a sum of n products: n + 1 roundings of at most half a unit of the sum of magnitudes.
    size = torch.einsum(PRODUCT[direction], v.double().abs(), g.double().abs())
    terms = v.shape[2]
    assert bool(((got - exact).abs() <= (terms + 1) * 2.0**-24 * size + 1e-30).all())


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_an_array_in_a_population_is_bit_equal_to_the_array_alone(direction):
    v, g = operands(37, 3, 65, 33, direction, seed=1)
    together = matvec(v, g, direction)
    alone = torch.cat([matvec(v[k : k + 1], g[k : k + 1], direction) for k in range(37)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_sample_in_a_batch_is_bit_equal_to_the_sample_alone(direction):
    v, g = operands(2, 19, 47, 31, direction, seed=2)
    alone = torch.cat([matvec(v[:, s : s + 1], g, direction) for s in range(19)], dim=1)
    assert torch.equal(matvec(v, g, direction), alone)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_inactive_arrays_give_zero_and_leave_the_others_alone(direction):
    v, g = operands(5, 2, 9, 7, direction, seed=3)
    active = torch.tensor([True, False, True, True, False])
    got, full = matvec(v, g, direction, active), matvec(v, g, direction)
    assert torch.equal(got[active], full[active])
    assert torch.equal(got[~active], torch.zeros_like(got[~active]))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_views_that_are_not_contiguous_are_taken_as_they_are(direction):
    v, g = operands(2, 6, 8, 8, direction, seed=4)
    for view in (v[:, ::2], v[:1].expand(2, -1, -1), v.transpose(0, 1).contiguous().transpose(0, 1)):
        copy = view.clone(memory_format=torch.contiguous_format)
        assert torch.equal(matvec(view, g, direction), matvec(copy, g, direction))
