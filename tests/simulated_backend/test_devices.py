"""How devices are drawn (theory D3), placed at their symmetry point, broken, scattered by writes, and named in presets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from simulated_backend.devices import MODELS, DeviceSettings
from simulated_backend.presets import PRESETS
from simulated_backend.settings import ClockSettings, EmulatorSettings

SIDE = 110
"""12,100 cells: a mean resolves 0.11, a standard deviation 9 %, of the spread (12 figures)."""


def mean_and_std(lab, drawn: Tensor, mean: float, std: float) -> None:
    lab.mean_is(drawn, mean, resolves=0.11 * std, figures=12)
    lab.var_is(drawn, std**2, resolves=0.18, figures=12)


def corr(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


# Draws


def test_spreads_are_drawn_as_specified(lab) -> None:
    """Bounds w (1 + dtod xi); D+- = (1 + dtod xi +- r) dw_min. Spreads small enough that nothing is made positive."""
    array = lab.emulate(
        SIDE, SIDE, dw_min=0.01, dw_min_dtod=0.2, up_down_dtod=0.05, w_max=0.8, w_max_dtod=0.15, w_min=-0.5, w_min_dtod=0.25
    )
    p = lab.params(array)
    mean_and_std(lab, p["high"], 0.8, 0.8 * 0.15)
    mean_and_std(lab, p["low"], -0.5, 0.5 * 0.25)
    mean_and_std(lab, (p["d_up"] + p["d_down"]) / 2, 0.01, 0.002)
    mean_and_std(lab, (p["d_up"] - p["d_down"]) / 2, 0.0, 0.0005)
    torch.testing.assert_close(p["s_up"] * p["high"], p["d_up"], rtol=1e-6, atol=0)
    torch.testing.assert_close(-p["s_down"] * p["low"], p["d_down"], rtol=1e-6, atol=0)
    assert not lab.weight(array).any()
    band = lab.limit(6) / SIDE
    drawn = [p["high"], p["low"], p["d_up"] + p["d_down"], p["d_up"] - p["d_down"]]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert abs(corr(one, other)) < band


@pytest.mark.parametrize(("u", "up", "down"), [(0.0, 1.0, 1.0), (0.3, 1.0, 0.7), (-0.3, 0.7, 1.0)])
def test_up_down_reduces_one_side_only(lab, u: float, up: float, down: float) -> None:
    p = lab.params(lab.emulate(1, 1, dw_min=0.01, up_down=u))
    assert float(p["d_up"]) == pytest.approx(0.01 * up)
    assert float(p["d_down"]) == pytest.approx(0.01 * down)


def test_huge_spreads_are_made_positive(lab) -> None:
    array = lab.emulate(SIDE, SIDE, dw_min_dtod=1.0, w_max_dtod=1.0, w_min_dtod=1.0)
    p = lab.params(array)
    assert (p["high"] > 0).all()
    assert (p["low"] < 0).all()
    assert (p["d_up"] >= 0).all()
    assert (p["d_down"] >= 0).all()
    g = array.read(lab.mask(array))
    lab.pulse(array, -3000)
    assert (array.read(lab.mask(array)) >= 0).all()
    assert (g > 0).all()


def test_log_normal_gain(lab) -> None:
    p = lab.params(lab.emulate(SIDE, SIDE, dw_min=0.01, dw_min_dtod=0.7, dw_min_log_normal=True))
    mean_and_std(lab, (p["d_up"] / 0.01).log(), 0.0, 0.7)
    torch.testing.assert_close(p["d_up"], p["d_down"])


def test_values_per_array(lab) -> None:
    array = lab.emulate(1, 1, arrays=3, dw_min=(0.01, 0.02, 0.03), w_max=(0.5, 0.6, 0.7), up_down=(0.0, 0.5, -0.5))
    p = lab.params(array)
    torch.testing.assert_close(p["d_up"].flatten(), torch.tensor([0.01, 0.02, 0.015]).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(p["d_down"].flatten(), torch.tensor([0.01, 0.01, 0.03]).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(p["high"].flatten(), torch.tensor([0.5, 0.6, 0.7]).double(), rtol=1e-6, atol=0)


SHAPED: dict[str, dict[str, Any]] = {
    "soft_bounds": {},
    "linear": {"slope_up": 0.5, "slope_down": 0.3},
    "power": {"power": 2.0},
    "exponential": {"exp_a": 0.5, "exp_scale_up": 0.2, "exp_scale_down": 0.1, "exp_gamma_up": 1.0, "exp_gamma_down": 1.0},
    "piecewise": {"nodes_up": (1.5, 1.0, 0.2), "nodes_down": (0.1, 1.0, 1.6)},
}


@pytest.mark.parametrize("model", SHAPED)
@pytest.mark.parametrize("symmetry", ["fraction", "weight"])
def test_symmetry_point_is_hit_with_the_step_held_fixed(lab, model: str, symmetry: str) -> None:
    """Both steps at the drawn SP are gain * dw_min, whatever the model; the SP has the mean and spread asked for."""
    sp, spread = (0.4, 0.05) if symmetry == "fraction" else (0.1, 0.04)
    device = {"model": model, "dw_min": 0.01, "symmetry": symmetry, "sp": sp, "sp_dtod": spread, **SHAPED[model]}
    array = lab.emulate(SIDE, SIDE, w_max_dtod=0.1, w_min_dtod=0.1, dw_min_dtod=0.1, **device)
    p = lab.params(array)
    step, yes = MODELS[model].step, torch.ones_like(p["low"], dtype=torch.bool)
    low, high = p["low"].clone(), p["high"].clone()
    for _ in range(60):  # the root of F_up - F_down, which falls with w
        middle = (low + high) / 2
        above = step(p, middle, yes) > step(p, middle, ~yes)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    star = (low + high) / 2
    drawn = (star - p["low"]) / (p["high"] - p["low"]) if symmetry == "fraction" else star
    mean_and_std(lab, drawn, sp, spread)
    torch.testing.assert_close(step(p, star, yes), step(p, star, ~yes), rtol=1e-4, atol=0)
    mean_and_std(lab, step(p, star, yes), 0.01, 0.001)
    if "s_up" in p:
        torch.testing.assert_close(star, (p["d_up"] - p["d_down"]) / (p["s_up"] + p["s_down"]), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_alternating_pulses_end_at_the_symmetry_point_asked_for(lab, kernel: str) -> None:
    array = lab.emulate(1, 1, kernel=kernel, dw_min=0.01, symmetry="fraction", sp=0.7)
    array.trace(torch.tensor([1, -1] * 400, dtype=torch.int8), lab.mask(array), lab.nominal, every=800)
    p, w_d = lab.params(array), float(lab.weight(array))
    w_u = float((1 - p["s_up"]) * w_d + p["d_up"])
    s, t = float(p["s_up"]), float(p["s_down"])
    assert (s * w_d + t * w_u) / (s + t) == pytest.approx(-0.6 + 0.7 * 1.2, abs=1e-5)


# Broken cells

BROKEN = {"dead": 0.06, "stuck": 0.05, "shorted": 0.04}


def broken(array, lab) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of shorted, stuck and dead cells, by what they are."""
    p, w = lab.params(array), lab.weight(array)
    fixed = p["low"] == p["high"]
    shorted = fixed & (w > 2)
    return shorted, fixed & ~shorted & (w != 0), fixed & (w == 0)


def test_broken_cells_are_as_many_as_asked_for_and_never_move(lab, kernel: str) -> None:
    """12,100 cells; resolves a yield error of 0.025."""
    array = lab.emulate(SIDE, SIDE, kernel=kernel, clean=False, dw_min=0.01, c2c=1.0, multiplicative=False, **BROKEN)
    groups = broken(array, lab)
    for group, share in zip(groups, (0.04, 0.05, 0.06), strict=True):
        lab.rate_is(int(group.sum()), SIDE**2, share, resolves=0.025, figures=3)
    g = array.read(lab.mask(array))
    torch.testing.assert_close(g[groups[0]], torch.full_like(g[groups[0]], 10 * (100e-6 + 0.6 * 50e-6)), rtol=1e-5, atol=0)
    torch.testing.assert_close(g[groups[2]], torch.full_like(g[groups[2]], 100e-6), rtol=1e-6, atol=0)
    stuck_at = (g[groups[1]] - 100e-6) / 50e-6
    assert float(stuck_at.std()) > 0.25
    assert float(stuck_at.abs().max()) < 0.6 * (1 + 0.3 * 3.84)
    for count in (50, -120):
        lab.pulse(array, count)
    after = array.read(lab.mask(array))
    fixed = groups[0] | groups[1] | groups[2]
    assert torch.equal(after[fixed], g[fixed])
    assert (after[~fixed] != g[~fixed]).all()


@pytest.mark.parametrize("what", ["write noise", "relaxation", "read disturb"])
def test_broken_cells_stay_whatever_moves_the_others(lab, kernel: str, what: str) -> None:
    clock = {"relaxation": ClockSettings(relax_s=1.0, relax_mean=0.2), "read disturb": ClockSettings(disturb_per_vs=1e5)}
    array = lab.emulate(
        30, 30, kernel=kernel, dw_min=0.01, write_noise=1.0 if what == "write noise" else 0.0,
        board={"clock": clock.get(what, ClockSettings())}, **{k: 4 * v for k, v in BROKEN.items()},
    )  # fmt: skip
    groups = broken(array, lab)
    fixed = groups[0] | groups[1] | groups[2]
    before = lab.weight(array)
    lab.pulse(array, 1)
    array.idle(0.5)
    array.mvm(torch.full((1, 20, 30), 0.2), "forward")
    array.read(lab.mask(array))
    after = lab.weight(array)
    assert (after[~fixed] != before[~fixed]).all()
    assert torch.equal(after[fixed], before[fixed])


def test_write_noise(lab, kernel: str) -> None:
    """Visible = hidden + write_noise dw_min xi, new with every write; the hidden state follows T1. 12,100 cells."""
    array = lab.emulate(SIDE, SIDE, kernel=kernel, dw_min=0.01, write_noise=2.0)
    lab.pulse(array, 10)
    hidden = 0.6 * (1 - (1 - 0.01 / 0.6) ** 10)
    first = lab.weight(array)
    torch.testing.assert_close(array.state_dict()["hidden"], torch.full((1, SIDE, SIDE), hidden), rtol=1e-5, atol=0)
    mean_and_std(lab, first, hidden, 0.02)
    lab.pulse(array, 1)
    second = lab.weight(array)
    hidden += 0.01 * (1 - hidden / 0.6)
    mean_and_std(lab, second, hidden, 0.02)
    assert abs(corr(first, second)) < lab.limit(1) / SIDE
    before = lab.weight(array)
    array.read(lab.mask(array))
    lab.pulse(array, 0)
    assert torch.equal(lab.weight(array), before)


def test_write_noise_of_some_arrays_only(lab, kernel: str) -> None:
    """An array without write noise beside one with it shows its hidden state."""
    array = lab.emulate(3, 4, kernel=kernel, arrays=2, dw_min=0.01, write_noise=(0.0, 2.0))
    lab.pulse(array, 10)
    state, hidden = array.state_dict()["state"], array.state_dict()["hidden"]
    torch.testing.assert_close(hidden, torch.full_like(hidden, 0.6 * (1 - (1 - 0.01 / 0.6) ** 10)))
    assert torch.equal(state[0], hidden[0])
    assert (state[1] != hidden[1]).all()


# Settings and presets


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_build_and_can_be_overridden(lab, name: str) -> None:
    plain = EmulatorSettings.model_validate({"preset": name})
    assert plain.device == DeviceSettings(**PRESETS[name].settings)
    other = EmulatorSettings.model_validate({"preset": name, "device": {"c2c": 0.123}})
    assert other.device == plain.device.model_copy(update={"c2c": 0.123})
    assert EmulatorSettings.model_validate(plain.model_dump()) == plain
    array = lab.emulate(4, 5, clean=False, board={"preset": name})
    assert array.read(lab.mask(array)).isfinite().all()
    lab.pulse(array, 5)
    assert (lab.weight(array) != 0).all()


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("rpu", {"model": "soft_bounds", "dw_min": 0.001, "dw_min_dtod": 0.3, "c2c": 0.3, "w_max": 0.6, "w_min": -0.6,
                 "w_max_dtod": 0.3, "w_min_dtod": 0.3, "up_down": 0.0, "up_down_dtod": 0.01}),
        ("ecram", {"model": "linear", "dw_min": 0.002, "slope_up": 0.1153, "slope_down": 0.5085, "w_max": 1.1724,
                   "w_min": -0.8276, "c2c": 0.3}),
        ("mo-ecram", {"model": "linear", "dw_min": 2.8214e-4, "slope_up": 0.4152, "slope_down": 0.7342, "c2c": 2.0}),
        ("capacitor", {"model": "linear", "dw_min": 0.005, "slope_up": 0.05, "slope_down": 0.05}),
        ("reram-sb", {"model": "soft_bounds", "dw_min": 0.002, "w_max": 1.25, "w_min": -0.75, "c2c": 3.75}),
        ("reram-om", {"dw_min": 0.0949, "dw_min_log_normal": True, "dw_min_dtod": 0.7829, "w_max_dtod": 0.35,
                      "w_min_dtod": 0.57, "c2c": 0.4158, "write_noise": 1.41}),
        ("hfo2", {"dw_min": 0.4622, "dw_min_dtod": 0.7125, "c2c": 0.2174}),
    ],
)  # fmt: skip
def test_presets_have_the_published_numbers(name: str, want: dict[str, Any]) -> None:
    device = EmulatorSettings.model_validate({"preset": name}).device
    assert {key: getattr(device, key) for key in want} == want


@pytest.mark.parametrize(
    "bad",
    [
        {"dw_min": 0.0}, {"w_max": -0.1}, {"w_min": 0.1}, {"c2c": -1.0}, {"dw_min_dtod": (0.1, -0.1)},
        {"dead": 0.6, "stuck": 0.6}, {"dead": 1.2}, {"unknown": 1}, {"model": "quadratic"}, {"symmetry": "left"},
    ],
)  # fmt: skip
def test_impossible_devices_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DeviceSettings(**bad)


def test_impossible_boards_are_refused() -> None:
    for bad in ({"preset": "unobtainium"}, {"rows": 4}, {"device": {"dw": 1}}, {"periphery": {"dac_bits": -1}}):
        with pytest.raises(ValidationError):
            EmulatorSettings.model_validate(bad)
