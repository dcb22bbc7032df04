"""The virtual clock, and what time and reads do to cells: relaxation and read disturb."""

from __future__ import annotations

import math

import pytest
import torch

from hil.backend import PulseShape
from simulated_backend.settings import ClockSettings

SIDE = 110
"""12,100 cells: a mean resolves 0.11, a standard deviation 9 %, of the spread."""


def test_relaxation(lab) -> None:
    """w(t) = rest + (w0 - rest) exp(-t / tau) to each cell's own point, drawn with the spread asked for; virtual time."""
    clock = ClockSettings(relax_s=2.0, relax_mean=0.1, relax_dtod=0.05)
    array = lab.emulate(SIDE, SIDE, board={"clock": clock})
    lab.put(array, state=0.4)
    array.idle(1.0)
    one = lab.weight(array)
    array.idle(1e4)
    rest = lab.weight(array)
    lab.mean_is(rest, 0.1, resolves=0.006, figures=2)
    lab.var_is(rest, 0.05**2, resolves=0.18, figures=2)
    torch.testing.assert_close(one, rest + (0.4 - rest) * math.exp(-0.5), rtol=0, atol=1e-6)
    array.set_reference(torch.full((1, SIDE, SIDE), 105e-6))
    array.idle(3.0)
    torch.testing.assert_close(lab.weight(array) + 0.1, rest, rtol=0, atol=1e-6)


def test_no_time_no_change(lab) -> None:
    """Relaxation over no time leaves every bit: what other arrays of a population do costs no rounding."""
    array = lab.emulate(SIDE, SIDE, board={"clock": ClockSettings(relax_s=2.0, relax_mean=0.01, relax_dtod=0.3)})
    lab.put(array, state=torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) - 0.5)
    before = lab.weight(array)
    array.idle(0.0)
    assert torch.equal(lab.weight(array), before)


def test_relaxation_during_pulses_and_traces(lab, kernel: str) -> None:
    """Between two pulses of a trace lies one pulse, one gap and one read pass."""
    clock = ClockSettings(relax_s=1e-5, relax_mean=-0.2, read_s=2e-6, gap_s=1e-6)
    array = lab.emulate(1, 1, kernel=kernel, dw_min=0.01, board={"clock": clock})
    seen = array.trace(torch.ones(30, dtype=torch.int8), lab.mask(array), lab.nominal)
    # A pulse (2e-6 s with its gap) relaxes before it is read, the read pass before the next pulse.
    w, want = 0.0, []
    for _ in range(30):
        w += 0.01 * (1 - w / 0.6)
        w = -0.2 + (w + 0.2) * math.exp(-0.2)
        early = w
        w = -0.2 + (w + 0.2) * math.exp(-0.2)
        want.append((early, w))
    found = ((seen.double() - 100e-6) / 50e-6).flatten().tolist()
    assert all(min(a, b) - 2e-6 <= f <= max(a, b) + 2e-6 for f, (a, b) in zip(found, want, strict=True))
    assert float(lab.weight(array)) == pytest.approx(w, abs=2e-6)


def test_read_disturb(lab) -> None:
    """A read passes read_v_max read_s volt-seconds to its cells; an mvm the volts of each line; towards high or low."""
    clock = ClockSettings(disturb_per_vs=1e4, read_s=1e-6)
    array = lab.emulate(2, 3, board={"clock": clock})
    start = torch.tensor([[[0.3, -0.3, 0.0]] * 2])
    lab.put(array, state=start)
    some = lab.mask(array)
    some[0, 1, 2] = False
    array.read(some, averages=3)
    want = start + some * 3 * 1e4 * 0.2e-6 * (0.6 - start)
    torch.testing.assert_close(lab.weight(array).float(), want, rtol=0, atol=2e-5)
    lab.put(array, state=start)
    array.mvm(torch.tensor([[[0.2, -0.1]]]), "forward")
    want = torch.stack([start[0, 0] + 2e-3 * (0.6 - start[0, 0]), start[0, 1] - 1e-3 * (0.6 + start[0, 1])])[None]
    torch.testing.assert_close(lab.weight(array).float(), want, rtol=0, atol=1e-6)
    lab.put(array, state=start)
    array.mvm(torch.tensor([[[0.2, 0.0, -0.1]]]), "backward")
    move = torch.tensor([2e-3, 0.0, -1e-3]) * torch.tensor([0.6 - 0.3, 0.0, 0.6 + 0.0])
    torch.testing.assert_close(lab.weight(array).float(), start + move, rtol=0, atol=1e-6)


def test_a_disturbed_cell_stays_disturbed_after_the_next_pulse(lab, kernel: str) -> None:
    """Disturb moves the device, not only what write noise lets see of it."""
    clock = ClockSettings(disturb_per_vs=1e4, read_s=1e-5)
    array = lab.emulate(1, 1, kernel=kernel, dw_min=1e-4, write_noise=1e-6, board={"clock": clock})
    array.mvm(torch.full((1, 10, 1), 0.2), "forward")
    moved = float(lab.weight(array))
    assert moved > 0.05
    lab.pulse(array, 1)
    assert float(lab.weight(array)) > moved


def test_virtual_clock(lab, kernel: str) -> None:
    """Row by row: read passes, pulses (the longest of a row) with their gaps, slots, samples; idle time."""
    clock = ClockSettings(read_s=3e-6, gap_s=5e-7)
    array = lab.emulate(4, 5, kernel=kernel, arrays=2, board={"clock": clock})
    time, start = [0.0, 0.0], array.status()["time_s"]
    assert start.tolist() == time

    def passed(*seconds: float) -> None:
        for i, s in enumerate(seconds):
            time[i] += s
        assert array.status()["time_s"].tolist() == pytest.approx(time, rel=1e-6)

    mask = lab.mask(array)
    mask[0, 1:], mask[1, :, 2:] = False, False
    array.read(mask, averages=2)
    passed(1 * 2 * 3e-6, 4 * 2 * 3e-6)
    array.mvm(torch.zeros(2, 7, 4), "forward", torch.tensor([True, False]))
    passed(7 * 3e-6, 0)
    counts = torch.zeros(2, 4, 5, dtype=torch.int32)
    counts[0, 0, 1], counts[0, 0, 2], counts[0, 3, 3] = 4, -6, 1
    array.pulse(counts, PulseShape(1.0, -1.0, 2e-6))
    passed((6 + 1) * 2.5e-6, 0)
    array.trace(torch.ones(9, dtype=torch.int8), mask, lab.nominal, every=2)
    passed(9 * 1.5e-6 + 4 * 3e-6, 4 * (9 * 1.5e-6 + 4 * 3e-6))
    array.pulse(counts, PulseShape(1.0, -1.0, (1e-6, 2e-6)))
    passed(7 * 1.5e-6, 0)
    array.idle(0.25)
    passed(0.25, 0.25)
