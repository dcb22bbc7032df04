"""The verbs of EmulatedArray: periphery, references, saved states, and tensors that do not fit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hil.backend import ArrayBackend, HasClock, HasReference, HasState, PulseShape, trace_by_pulses
from hil.encoding import PulseTrain, Stream, UpdateSettings, encode
from hil.errors import ShapeError, UsageError
from simulated_backend.settings import ClockSettings, PeripherySettings

SPW, MID = 50e-6, 100e-6
"""Siemens per weight, and at weight 0."""


def volts(*size: int, seed: int = 1, largest: float = 0.2) -> Tensor:
    return (torch.rand(size, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * largest


def scattered(lab, rows: int = 6, cols: int = 5, **keywords):
    """An array with states all over the range."""
    array = lab.emulate(rows, cols, **keywords)
    size = lab.mask(array).shape
    lab.put(array, state=torch.rand(size, generator=torch.Generator().manual_seed(2)) - 0.5)
    return array


def periphery(**changes: object) -> PeripherySettings:
    return PeripherySettings.ideal().model_copy(update=changes)


def test_it_is_what_it_says(lab) -> None:
    array = lab.emulate(3, 4, arrays=2, periphery=PeripherySettings())
    assert isinstance(array, ArrayBackend)
    assert isinstance(array, HasReference)
    assert isinstance(array, HasClock)
    assert isinstance(array, HasState)
    info = array.info
    assert (info.arrays, info.rows, info.cols, info.physical) == (2, 3, 4, False)
    assert (info.read_levels, info.adc_bits, info.reference) == (127, 9, "cell")
    assert info.full_scale_a == pytest.approx(12 * SPW * 0.2)


def test_the_serial_names_the_devices(lab) -> None:
    """Equal devices have equal serials; each of what they are drawn from changes it, the periphery does not."""
    base = lab.emulate(3, 4).info.serial
    assert lab.emulate(3, 4, periphery=PeripherySettings()).info.serial == base
    others = [
        lab.emulate(3, 5), lab.emulate(3, 4, seed=2), lab.emulate(3, 4, name="x"), lab.emulate(3, 4, ids=torch.tensor([7])),
        lab.emulate(3, 4, dw_min=0.002),
    ]  # fmt: skip
    assert len({base, *(a.info.serial for a in others)}) == 6


# Reading


def test_read_is_conductance_to_ground(lab) -> None:
    array = scattered(lab)
    mask = torch.rand(1, 6, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    g = array.read(mask)
    assert torch.equal(g.isnan(), ~mask)
    torch.testing.assert_close(g[mask].double(), (MID + lab.weight(array) * SPW)[mask], rtol=1e-6, atol=0)


def test_read_noise_and_averages(lab) -> None:
    """12,100 cells; resolves 9 % of the noise; 16 averages quarter it; every read is new."""
    array = lab.emulate(110, 110, periphery=periphery(read_noise_siemens=2e-6))
    one, two, many = array.read(lab.mask(array)), array.read(lab.mask(array)), array.read(lab.mask(array), averages=16)
    for g, sigma in ((one, 2.0), (two, 2.0), (many, 0.5)):
        lab.var_is(g * 1e6, sigma**2, resolves=0.18, figures=6)
        lab.mean_is(g * 1e6, 100.0, resolves=0.25, figures=6, rounding=1e-3)
    both = torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))
    assert abs(float(both[0, 1])) < lab.limit(1) / 110


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_ideal_products(lab, direction: str) -> None:
    """I[col] = sum_row G[row, col] V[row], against the common reference line; backward over cols."""
    array = scattered(lab, arrays=3, periphery=periphery(reference="mid"))
    v = volts(3, 4, 6 if direction == "forward" else 5)
    g = lab.weight(array) * SPW
    want = torch.bmm(v.double(), g if direction == "forward" else g.transpose(1, 2))
    torch.testing.assert_close(array.mvm(v, direction).double(), want, rtol=1e-5, atol=1e-11)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_three_ways_to_make_zero(lab, direction: str) -> None:
    """none, mid and cell read the same conductances, and the same products once the host has subtracted the reference."""
    r = (MID + SPW * 0.3 * volts(1, 6, 5, seed=4)).float()
    v = volts(1, 3, 6 if direction == "forward" else 5)
    arrays = {k: scattered(lab, periphery=periphery(reference=k)) for k in ("none", "mid", "cell")}
    g = {k: a.read(lab.mask(a)) for k, a in arrays.items()}
    torch.testing.assert_close(g["mid"], g["none"], rtol=0, atol=0)
    torch.testing.assert_close(g["cell"], g["none"], rtol=0, atol=0)
    arrays["cell"].set_reference(r)
    torch.testing.assert_close(arrays["cell"].read(lab.mask(arrays["cell"])), g["none"], rtol=1e-6, atol=0)
    current = {k: a.mvm(v, direction).double() for k, a in arrays.items()}
    lines = r.double() if direction == "forward" else r.double().transpose(1, 2)
    held = torch.bmm(v.double(), lines)
    mid = torch.bmm(v.double(), torch.full_like(lines, MID))
    torch.testing.assert_close(current["none"] - mid, current["mid"], rtol=0, atol=2e-10)
    torch.testing.assert_close(current["none"] - held, current["cell"], rtol=0, atol=2e-10)


def test_reference_rules(lab) -> None:
    array = scattered(lab)
    before = array.read(lab.mask(array))
    first = torch.full((1, 6, 5), 90e-6)
    array.set_reference(first)
    second = torch.full((1, 6, 5), torch.nan)
    second[0, 2, 3] = 80e-6
    array.set_reference(second)
    held = (array.state_dict()["reference"] * SPW + MID).double()
    want = torch.where(second.isnan(), first, second).double()
    torch.testing.assert_close(held, want, rtol=1e-6, atol=0)
    torch.testing.assert_close(array.read(lab.mask(array)), before, rtol=1e-6, atol=0)
    with pytest.raises(ShapeError):
        array.set_reference(torch.zeros(1, 5, 6))
    with pytest.raises(UsageError, match="reference"):
        scattered(lab, periphery=periphery(reference="mid")).set_reference(first)


def test_dac(lab) -> None:
    """7 bit: 127 levels over +-read_v_max, 1/63 apart; a voltage goes to its nearest."""
    array = lab.emulate(1, 1, periphery=periphery(dac_bits=7, reference="mid"))
    lab.put(array, state=0.5)
    v = torch.linspace(-0.2, 0.2, 1001)[None, :, None]
    seen = (array.mvm(v, "forward") / (0.5 * SPW)).flatten().double()
    level = seen / 0.2 * 63
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-4)
    assert len(level.round().unique()) == 127
    assert float((seen - v.flatten()).abs().max()) <= 0.2 / 126 * (1 + 1e-4)
    assert float(array.mvm(torch.zeros(1, 1, 1), "forward")) == 0


def test_adc(lab) -> None:
    """9 bit: 511 levels over +-full scale, 1/255 apart; rounds to the nearest, saturates at full scale exactly."""
    array = lab.emulate(30, 1, periphery=periphery(adc_bits=9, full_scale=12.0, reference="mid"))
    lab.put(array, state=0.55)
    fill = torch.linspace(-1, 1, 2001)
    v = (0.2 * fill)[None, :, None].expand(1, -1, 30).contiguous()
    exact = 30 * 0.55 * fill.double()
    seen = array.mvm(v, "forward").flatten().double() / (SPW * 0.2)
    level = seen / 12 * 255
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-3)
    inside = exact.abs() < 12
    assert float((seen - exact)[inside].abs().max()) <= 12 / 510 * (1 + 1e-3)
    torch.testing.assert_close(seen[~inside], 12 * exact[~inside].sign(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("read_v_max", [0.1, 0.2, 0.3, 0.7])
@pytest.mark.parametrize("full_scale", [1.0, 3.3, 12.0, 20.0])
@pytest.mark.parametrize("bits", [0, 8, 9])
def test_saturation_can_be_recognised(lab, read_v_max: float, full_scale: float, bits: int) -> None:
    """|I| >= info.full_scale_a says "saturated" of every clipped reading, whatever float32 makes of the product."""
    own = periphery(read_v_max=read_v_max, full_scale=full_scale, adc_bits=bits, reference="mid")
    array = lab.emulate(60, 1, periphery=own)
    lab.put(array, state=0.5)
    v = torch.stack([torch.full((60,), s * read_v_max) for s in (1.0, -1.0, 0.02)])[None]
    saturated = array.mvm(v, "forward").abs() >= array.info.full_scale_a
    assert saturated.flatten().tolist() == [True, True, False]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_noise_of_products(lab, direction: str) -> None:
    """Output noise per sensed line, input noise per driven line (none on lines at 0 V), new for each sample.

    6,000 samples, figures of 12,000 and more; resolves 9 % of the standard deviations.
    """
    unit = SPW * 0.2
    array = lab.emulate(4, 4, periphery=periphery(out_noise=0.06, reference="mid"))
    y = array.mvm(torch.zeros(1, 4000, 4), direction)[0].double() / unit
    lab.mean_is(y, 0.0, resolves=0.01, figures=4)
    lab.var_is(y, 0.06**2, resolves=0.18, figures=4)
    both = torch.corrcoef(torch.cat([y.T, y.roll(1, 0).T]))
    assert float((both - torch.eye(8)).abs().max()) < lab.limit(28) / math.sqrt(4000)
    array = lab.emulate(4, 4, periphery=periphery(in_noise=0.05, reference="mid"))
    lab.put(array, state=0.5)
    v = torch.zeros(1, 12000, 4)
    v[:, :, :3] = 0.1
    y = array.mvm(v, direction)[0].double() / unit
    assert torch.equal(y[:, :1].expand_as(y), y)
    lab.mean_is(y[:, 0], 0.5 * 3 * 0.5, resolves=0.01, figures=4, rounding=1e-6)
    lab.var_is(y[:, 0], 3 * (0.5 * 0.05) ** 2, resolves=0.18, figures=4)
    assert not array.mvm(torch.zeros(1, 5, 4), direction).any()


def test_inactive_arrays_give_nothing(lab) -> None:
    array = scattered(lab, arrays=3, periphery=PeripherySettings())
    active = torch.tensor([True, False, True])
    before = array.state_dict()
    y = array.mvm(volts(3, 2, 6), "forward", active)
    after = array.state_dict()
    assert not y[1].any()
    assert y[0].any()
    assert (after["counter_mvm"] - before["counter_mvm"]).tolist() == [2, 0, 2]
    assert (after["clock_s"] > before["clock_s"]).tolist() == [True, False, True]


# Pulses


def test_trace_equals_pulses_and_reads(lab, kernel: str) -> None:
    """Bit for bit, with every noise on; and the clock to rounding."""
    own = periphery(read_noise_siemens=1e-6)
    one, two = (
        lab.emulate(4, 5, kernel=kernel, clean=False, dw_min=0.01, write_noise=0.5, arrays=2, periphery=own)
        for _ in range(2)
    )
    signs = torch.tensor([1, 1, -1, 1, -1, -1, -1], dtype=torch.int8)
    mask = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(5)) < 0.7
    for every in (1, 3):
        a, b = one.trace(signs, mask, lab.nominal, every), trace_by_pulses(two, signs, mask, lab.nominal, every)
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0, equal_nan=True)
    first, second = one.state_dict(), two.state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first if not k.endswith("_s"))
    torch.testing.assert_close(first["clock_s"], second["clock_s"], rtol=1e-6, atol=0)


def test_pulses_are_counted(lab, kernel: str) -> None:
    array = lab.emulate(1, 3, kernel=kernel)
    array.pulse(torch.tensor([[[5, -2, 0]]], dtype=torch.int32), lab.nominal)
    array.trace(torch.tensor([1, -1, 1], dtype=torch.int8), torch.tensor([[[True, False, False]]]), lab.nominal)
    lab.driver(array)(torch.tensor([[1.0, -1.0, 0.0]]))
    assert array.status()["pulses_up"].flatten().tolist() == [8, 0, 0]
    assert array.status()["pulses_down"].flatten().tolist() == [1, 3, 0]


# Saved states


@pytest.mark.parametrize("fresh", [False, True])
def test_a_restored_state_continues_bit_for_bit(lab, kernel: str, fresh: bool) -> None:
    """With all noises, relaxation, disturb, a reference, wear counters, on the same or on a new array."""
    clock = ClockSettings(relax_s=1e-3, relax_dtod=0.1, disturb_per_vs=10.0)
    own = PeripherySettings(read_noise_siemens=1e-6, in_noise=0.01)
    keywords = {"kernel": kernel, "clean": False, "dw_min": 0.01, "write_noise": 0.5, "arrays": 2, "periphery": own}
    array = lab.emulate(4, 5, board={"clock": clock}, **keywords)

    def work(on) -> list[Tensor]:
        keys = [Stream(3, torch.arange(2), "w", purpose).keys(2) for purpose in ("x", "d")]
        one = torch.ones(2)
        trains = encode(volts(2, 2, 4), volts(2, 2, 5, seed=2), one, 0.01 * one, UpdateSettings(), *keys)
        on.update(*trains, lab.nominal)
        on.update(*trains, PulseShape(1.1, -0.9, 1e-6), torch.tensor([True, False]))
        lab.pulse(on, 3)
        out = [on.trace(torch.tensor([1, -1], dtype=torch.int8), lab.mask(on), lab.nominal), on.read(lab.mask(on))]
        out += [on.mvm(volts(2, 3, 4), "forward"), on.mvm(volts(2, 3, 5), "backward")]
        on.idle(1e-4)
        return [*out, *on.state_dict().values()]

    work(array)
    array.set_reference(torch.full((2, 4, 5), 97e-6))
    saved = array.state_dict()
    first = work(array)
    if fresh:
        array = lab.emulate(4, 5, board={"clock": clock}, **keywords)
    array.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(first, work(array), strict=True))


def test_a_saved_state_is_a_copy(lab) -> None:
    array = scattered(lab)
    saved = array.state_dict()
    lab.pulse(array, 3)
    assert not torch.equal(saved["state"], array.state_dict()["state"])


def test_states_of_other_arrays_are_refused(lab) -> None:
    array = scattered(lab)
    for other in (scattered(lab, 5, 6), scattered(lab, arrays=2), scattered(lab, write_noise=1.0)):
        with pytest.raises(ShapeError, match="saved state"):
            array.load_state_dict(other.state_dict())


# Tensors that do not fit


def train(arrays: int, lines: int, samples: int = 1) -> PulseTrain:
    key = Stream(0, torch.arange(arrays), "m", "x").keys(samples)
    full = torch.ones(arrays, samples, lines)
    line = torch.arange(lines, dtype=torch.int32)
    return PulseTrain(full, full.to(torch.int8), torch.full((arrays, samples), 3, dtype=torch.int32), key, line)


MISFITS = {
    "read: shape": lambda a, s: a.read(torch.ones(2, 4, 3, dtype=torch.bool)),
    "read: type": lambda a, s: a.read(torch.ones(2, 3, 4)),
    "mvm: lines": lambda a, s: a.mvm(torch.zeros(2, 1, 4), "forward"),
    "mvm: backward lines": lambda a, s: a.mvm(torch.zeros(2, 1, 3), "backward"),
    "mvm: arrays": lambda a, s: a.mvm(torch.zeros(1, 1, 3), "forward"),
    "mvm: axes": lambda a, s: a.mvm(torch.zeros(2, 3), "forward"),
    "mvm: type": lambda a, s: a.mvm(torch.zeros(2, 1, 3, dtype=torch.float64), "forward"),
    "mvm: active": lambda a, s: a.mvm(torch.zeros(2, 1, 3), "forward", torch.ones(1, dtype=torch.bool)),
    "pulse: shape": lambda a, s: a.pulse(torch.zeros(2, 4, 3, dtype=torch.int32), s),
    "pulse: type": lambda a, s: a.pulse(torch.zeros(2, 3, 4), s),
    "pulse: shape fields": lambda a, s: a.pulse(torch.ones(2, 3, 4, dtype=torch.int32), PulseShape((1.0,) * 3, -1.0, 1e-6)),
    "trace: mask": lambda a, s: a.trace(torch.ones(2, dtype=torch.int8), torch.ones(3, 4, dtype=torch.bool), s),
    "trace: polarity": lambda a, s: a.trace(torch.ones(2, 2, dtype=torch.int8), torch.ones(2, 3, 4, dtype=torch.bool), s),
    "trace: type": lambda a, s: a.trace(torch.ones(2), torch.ones(2, 3, 4, dtype=torch.bool), s),
    "update: rows": lambda a, s: a.update(train(2, 2), train(2, 4), s),
    "update: cols": lambda a, s: a.update(train(2, 3), train(2, 2), s),
    "update: arrays": lambda a, s: a.update(train(1, 3), train(1, 4), s),
    "update: samples": lambda a, s: a.update(train(2, 3, 1), train(2, 4, 2), s),
    "update: active": lambda a, s: a.update(train(2, 3), train(2, 4), s, torch.ones(1, dtype=torch.bool)),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfits_are_refused_and_nothing_moves(lab, case: str) -> None:
    """Every verb raises ShapeError for a tensor of another shape or type (hil.backend), before anything happens."""
    array = lab.emulate(3, 4, arrays=2)
    before = array.state_dict()
    with pytest.raises(ShapeError):
        MISFITS[case](array, lab.nominal)
    after = array.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_leaving_closes_and_may_be_repeated(lab) -> None:
    with lab.emulate(1, 1) as array:
        assert array.safe() is True
    array.close()
    array.close()


def test_time_does_not_run_backwards(lab) -> None:
    with pytest.raises(UsageError, match="duration"):
        lab.emulate(1, 1).idle(-1.0)
