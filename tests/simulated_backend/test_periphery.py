"""Compiled products against the steps that they stand for: equal to the bit."""

from __future__ import annotations

import pytest
import torch

from hil.encoding import Stream
from simulated_backend.periphery import Periphery
from simulated_backend.settings import EmulatorSettings

PERIPHERIES = {
    "ideal": {"in_noise": 0.0, "out_noise": 0.0, "dac_bits": 0, "adc_bits": 0, "full_scale": float("inf")},
    "default": {},
    "noisy inputs": {"in_noise": 0.05, "dac_bits": 5},
    "one voltage": {"dac_bits": 1},
    "saturating": {"full_scale": 0.2, "adc_bits": 4},
    "limited, continuous": {"full_scale": 0.5, "adc_bits": 0},
}


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", PERIPHERIES)
def test_one_walk_equals_the_steps(name: str, direction: str) -> None:
    settings = EmulatorSettings.model_validate({"periphery": PERIPHERIES[name]})
    periphery = Periphery(settings)
    generator = torch.Generator().manual_seed(5)
    top = settings.periphery.read_v_max
    for active in (None, torch.tensor([True, False, True])):
        state = torch.rand(3, 7, 5, generator=generator) - 0.5
        volts = (torch.rand(3, 4, 7 if direction == "forward" else 5, generator=generator) * 2 - 1) * top
        volts[0, 1, 2] = 0.0
        key = Stream(3, torch.arange(3), "m", "mvm").keys(4)
        want = periphery._by_steps(volts, state, direction, key, active)
        torch.testing.assert_close(periphery.product(volts, state, direction, key, active), want, rtol=0, atol=0)
