"""Supposed cells follow soft bounds exactly: closed form of theory T1, and a trace is its pulses one by one."""

from __future__ import annotations

import torch

from hil.supposed import SupposedCells

CELLS = SupposedCells(70e-6, 130e-6, 100.0)


def test_step_at_the_symmetry_point_is_range_over_states():
    one, none = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    mid = torch.full((1, 1, 1), 100e-6, dtype=torch.float64)
    for up, down, sign in ((one, none, 1), (none, one, -1)):
        step = CELLS.pulsed(mid, up, down) - mid
        torch.testing.assert_close(step, torch.full_like(mid, sign * 60e-6 / 100), rtol=1e-9, atol=0)


def test_many_pulses_come_to_the_bound_as_the_closed_form_says():
    start = torch.full((1, 1, 1), 80e-6, dtype=torch.float64)
    after = CELLS.pulsed(start, torch.full((1, 1, 1), 37), torch.zeros(1, 1, 1))
    torch.testing.assert_close(after, 130e-6 - (130e-6 - start) * (1 - 0.02) ** 37, rtol=1e-9, atol=0)


def test_a_trace_is_its_pulses_one_by_one():
    generator = torch.Generator().manual_seed(0)
    polarity = torch.randint(0, 2, (23,), generator=generator, dtype=torch.int8) * 2 - 1
    g = torch.rand(1, 2, 3, generator=generator, dtype=torch.float64) * 60e-6 + 70e-6
    end, reads = CELLS.traced(g, polarity, 5)
    seen = []
    for number, sign in enumerate(polarity.tolist()):
        g = CELLS.pulsed(g, torch.full(g.shape, float(sign > 0)), torch.full(g.shape, float(sign < 0)))
        if number % 5 == 4:
            seen.append(g)
    torch.testing.assert_close(reads, torch.stack(seen, dim=-1), rtol=1e-9, atol=0)
    torch.testing.assert_close(end, g, rtol=1e-9, atol=0)
    assert CELLS.traced(g, polarity[:0], 1)[1].shape == (1, 2, 3, 0)
