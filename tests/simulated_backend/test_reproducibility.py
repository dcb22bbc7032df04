"""Array 17 of a population of 40 is the same array alone, bit for bit; and both kernels are the same to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hil.backend import PulseShape
from hil.encoding import Stream, UpdateSettings, encode
from simulated_backend.settings import ClockSettings, PeripherySettings

ROWS, COLS, SAMPLES, ROUNDS = 7, 9, 3, 4
ALL = torch.arange(40)

NOISY = PeripherySettings(in_noise=0.02, read_noise_siemens=1e-6)
DEVICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "additive": {"multiplicative": False, "c2c": 0.8},
    "write noise": {"write_noise": 1.0, "dead": 0.05, "stuck": 0.05},
    "linear": {"model": "linear", "slope_up": 0.4, "slope_down": 0.7},
    "power": {"model": "power", "power": 2.5},
    "exponential": {"model": "exponential", "exp_a": 0.5, "exp_scale_up": 0.2, "exp_scale_down": 0.1, "exp_gamma_up": 1.0},
    "piecewise": {"model": "piecewise", "nodes_up": (1.5, 1.0, 0.2), "nodes_down": (0.1, 1.0, 1.6)},
    "relaxing": {"board": {"clock": ClockSettings(relax_s=1e-3, relax_dtod=0.2)}},
    "disturbed": {"board": {"clock": ClockSettings(disturb_per_vs=50.0)}},
}


def inputs(number: int, *size: int) -> Tensor:
    """[40 *size] of +-1, the same for an array wherever it is."""
    return torch.rand((40, *size), generator=torch.Generator().manual_seed(number)) * 2 - 1


def life(lab, ids: Tensor, kernel: str, device: dict[str, Any], split: bool = False) -> dict[str, Tensor]:
    """Everything that a few rounds of all verbs bring forth, with masks of active arrays that differ from round to round.

    An array alone is not called at all in rounds in which it is inactive.
    """
    array = lab.emulate(
        ROWS, COLS, kernel=kernel, ids=ids, seed=3, clean=False, periphery=NOISY, **({"dw_min": 0.01} | device)
    )
    xs, ds = (Stream(3, ids, "w", purpose) for purpose in ("x", "d"))
    one, out = torch.ones(len(ids)), {}
    for number in range(ROUNDS):
        active = (inputs(50 + number)[ids] > -0.4) if number else None
        if active is not None and not active.any():
            continue
        shape = lab.nominal if number % 2 else PulseShape(1.05, -0.95, 1e-6)
        x, d = inputs(number, SAMPLES, ROWS)[ids], inputs(100 + number, SAMPLES, COLS)[ids]
        rows, cols = encode(
            x, d, 0.05 * one, 0.01 * one, UpdateSettings(), xs.keys(SAMPLES, active), ds.keys(SAMPLES, active)
        )
        if split:
            for sample in range(SAMPLES):
                array.update(rows.at(sample), cols.at(sample), shape, active)
        else:
            array.update(rows, cols, shape, active)
        out[f"forward {number}"] = array.mvm(0.2 * x, "forward", active)
        out[f"backward {number}"] = array.mvm(0.2 * d, "backward", active)
        counts = (3 * inputs(200 + number, ROWS, COLS)[ids]).round().to(torch.int32)
        array.pulse(counts if active is None else counts * active[:, None, None], shape)
        mask = inputs(300 + number, ROWS, COLS)[ids] > 0
        mask = mask if active is None else mask & active[:, None, None]
        out[f"trace {number}"] = array.trace(torch.tensor([1, -1, -1, 1], dtype=torch.int8), mask, shape, every=2)
        out[f"read {number}"] = array.read(mask, averages=2)
    array.idle(0.0)  # lets what is left of each array's own time act
    return out | array.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names of what differs in all that b has; NaN equals NaN."""
    return [name for name in b if not torch.equal(a[name].nan_to_num(-1.0), b[name].nan_to_num(-1.0))]


def kernels_for(lab, device: str) -> list[str]:
    return lab.kernels if device not in ("power", "exponential", "piecewise") else ["reference"]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_array_17_alone_is_array_17_of_40(lab, device: str) -> None:
    """And so are arrays 8 and 10, which are inactive in one and in two rounds of the four."""
    for kernel in kernels_for(lab, device):
        crowd = life(lab, ALL, kernel, DEVICES[device])
        for one in (17, 8, 10):
            alone = life(lab, ALL[one : one + 1], kernel, DEVICES[device])
            assert same({k: v[one : one + 1] for k, v in crowd.items()}, alone) == []


@pytest.mark.parametrize("device", ["plain", "write noise"])
def test_a_population_can_be_split_and_reordered(lab, device: str) -> None:
    ids = torch.tensor([31, 4, 17])
    for kernel in kernels_for(lab, device):
        crowd = life(lab, ALL, kernel, DEVICES[device])
        assert same({k: v[ids] for k, v in crowd.items()}, life(lab, ids, kernel, DEVICES[device])) == []


@pytest.mark.parametrize("device", ["plain", "additive", "linear", "write noise"])
def test_samples_can_be_sent_one_by_one(lab, device: str) -> None:
    for kernel in kernels_for(lab, device):
        whole, parts = (life(lab, ALL[:5], kernel, DEVICES[device], split) for split in (False, True))
        assert [k for k in same(whole, parts) if not k.endswith("_s")] == []


@pytest.mark.parametrize("device", ["plain", "additive", "write noise", "linear", "relaxing", "disturbed"])
def test_kernels_agree(lab, device: str) -> None:
    """Pulse counts exactly, conductances to rounding (a kernel may contract a product and a sum)."""
    first = life(lab, ALL, lab.kernels[0], DEVICES[device])
    for kernel in lab.kernels[1:]:
        other = life(lab, ALL, kernel, DEVICES[device])
        for name in first:
            if first[name].dtype.is_floating_point:
                band = 1e-5 if name.startswith(("state", "hidden")) else 2e-8
                if name.startswith(("forward", "backward")):  # one level of the ADC, where rounding decides it
                    band = 1.1 * 12 / 255 * 50e-6 * 0.2
                torch.testing.assert_close(other[name], first[name], rtol=1e-5, atol=band, equal_nan=True)
            else:
                assert torch.equal(other[name], first[name]), name


def test_equal_ids_are_equal_devices_and_others_are_not(lab) -> None:
    array = lab.emulate(ROWS, COLS, ids=torch.tensor([5, 5, 6]), clean=False)
    for value in lab.params(array).values():
        assert torch.equal(value[0], value[1])
        assert not torch.equal(value[0], value[2])
