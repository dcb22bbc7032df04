"""Reads through a DAC and bit by bit: what is applied, what comes back, and how many passes it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hil.backend import Direction
from hil.driving import BITS, drive
from simulated_backend.array import EmulatedArray
from simulated_backend.settings import EmulatorSettings, PeripherySettings

READ_V = 0.2


def board(dac_bits: int, **periphery: float) -> EmulatedArray:
    """An array with states of all sizes and no noise."""
    settings = {"adc_bits": 0, "full_scale": float("inf"), "out_noise": 0.0, **periphery}
    array = EmulatedArray(EmulatorSettings(periphery=PeripherySettings(dac_bits=dac_bits, **settings)), 6, 4)
    state = array.state_dict()
    state["state"] = torch.rand(1, 6, 4, generator=torch.Generator().manual_seed(1)) - 0.5
    array.load_state_dict(state)
    return array


def inputs(lines: int) -> torch.Tensor:
    return (torch.rand(1, 3, lines, generator=torch.Generator().manual_seed(2)) * 2 - 1) * READ_V


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dac_bits", [1, 7])
def test_current_is_that_of_the_volts_as_applied(direction: Direction, dac_bits: int) -> None:
    volts = inputs(6 if direction == "forward" else 4)
    applied, current, saturated = drive(board(dac_bits), volts, READ_V, direction, None)
    _, exact, _ = drive(board(0), applied, READ_V, direction, None)
    torch.testing.assert_close(current, exact, rtol=1e-5, atol=1e-12)
    grain = READ_V / (2**BITS - 1 if dac_bits == 1 else 63)
    assert (applied - volts).abs().max() <= grain / 2 * 1.0001
    assert saturated is None


def test_passes_of_a_board_with_one_voltage() -> None:
    """Two signs times BITS bits in a population; on a real board silent passes are left out; one-hot is one pass."""
    array = board(1)
    drive(array, inputs(6), READ_V, "forward", None)
    assert array.status()["time_s"].item() == pytest.approx(3 * 2 * BITS * 1e-6)
    real = board(1)
    real._info = replace(real.info, physical=True)
    drive(real, torch.full((1, 1, 6), READ_V), READ_V, "forward", None)
    assert real.status()["time_s"].item() == pytest.approx(BITS * 1e-6)
    single = board(1)
    hot = torch.zeros(1, 1, 6)
    hot[0, 0, 2] = READ_V
    _, current, _ = drive(single, hot, READ_V, "forward", None, one_hot=True)
    assert single.status()["time_s"].item() == pytest.approx(1e-6)
    torch.testing.assert_close(current[0, 0], single.state_dict()["state"][0, 2] * 50e-6 * READ_V, rtol=1e-5, atol=1e-12)


def test_saturation_of_any_pass_is_reported() -> None:
    _, _, saturated = drive(board(1, full_scale=0.01), inputs(6), READ_V, "forward", None)
    assert saturated is not None
    assert bool(saturated.any())
