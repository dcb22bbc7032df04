"""Trajectories of single cells against theory section 5: T1 to T5 and aggregated pulses, on every update kernel.

D and s are the step at w = 0 and the slope per pulse of either polarity (d_up, s_up, ... of the hidden parameters).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

SPREAD: dict[str, Any] = {"clean": False, "c2c": 0.0, "dw_min": 0.01}
DEVICES: dict[str, dict[str, Any]] = {
    "soft bounds": {},
    "imbalance": {"up_down": 0.2, "up_down_dtod": 0.1},
    "linear": {"model": "linear", "slope_up": 0.5, "slope_down": 0.3},
    "log-normal": {"dw_min_log_normal": True, "dw_min_dtod": 0.5},
}
EPS = 2.0**-23


def rounding(p: dict[str, Tensor], pulses: int) -> Tensor:
    """What float32 may lose in ``pulses`` contracting steps: each rounds twice, and forgets at rate s."""
    size = p["high"].maximum(-p["low"]) + p["d_up"].maximum(p["d_down"])
    steps = (1 / torch.minimum(p["s_up"], p["s_down"]).clamp(min=1e-9)).clamp(max=pulses)
    return 2 * EPS * size * (steps + 2)


def near(found: Tensor, expected: Tensor, band: Tensor) -> None:
    worst = ((found - expected).abs() / band).max()
    assert worst <= 1, f"off by {float(worst):.3g} times the rounding of float32"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [1, 10, 100])
def test_t1_n_pulses(lab, kernel: str, device: str, count: int) -> None:
    """w_N = D/s + (w0 - D/s)(1 - s)^N, stopped by the hard bound where g < 1; in one call, and then back down."""
    array = lab.emulate(20, 30, kernel=kernel, **SPREAD, **DEVICES[device])
    p = lab.params(array)
    start = p["low"] + 0.3 * (p["high"] - p["low"])
    lab.put(array, state=start)
    lab.pulse(array, count)
    stop = p["d_up"] / p["s_up"]
    up = torch.minimum(stop + (start.float().double() - stop) * (1 - p["s_up"]) ** count, p["high"])
    near(lab.weight(array), up, rounding(p, count))
    lab.pulse(array, -count)
    stop = -p["d_down"] / p["s_down"]
    down = torch.maximum(stop + (up - stop) * (1 - p["s_down"]) ** count, p["low"])
    near(lab.weight(array), down, 2 * rounding(p, count))


def test_t1_soft_bounds_have_the_textbook_parameters(lab) -> None:
    """s = D g / b and the asymptotes at +-b, from the settings alone: nothing of the hidden parameters enters."""
    array = lab.emulate(1, 1, model="linear", dw_min=0.01, w_max=0.8, w_min=-0.5, slope_up=0.9, slope_down=0.7)
    lab.pulse(array, 20)
    up = 0.8 / 0.9 * (1 - (1 - 0.01 * 0.9 / 0.8) ** 20)
    assert float(lab.weight(array)) == pytest.approx(up, abs=1e-6)
    lab.pulse(array, -30)
    down = -0.5 / 0.7 + (up + 0.5 / 0.7) * (1 - 0.01 * 0.7 / 0.5) ** 30
    assert float(lab.weight(array)) == pytest.approx(down, abs=1e-6)


def test_t1_hard_bound_is_reached_and_left(lab, kernel: str) -> None:
    """g = 0.5: the asymptote 2 b lies outside, so the cell rests on b, and one pulse down leaves it by D (1 + g)."""
    array = lab.emulate(1, 1, kernel=kernel, model="linear", dw_min=0.01, slope_up=0.5, slope_down=0.5)
    lab.pulse(array, 500)
    assert float(lab.weight(array)) == pytest.approx(0.6, abs=1e-7)
    lab.pulse(array, -1)
    assert float(lab.weight(array)) == pytest.approx(0.6 - 0.015, abs=1e-6)


@pytest.mark.slow
@given(
    tau=st.floats(0.1, 2.0), fraction=st.floats(1e-3, 1.0), start=st.floats(-1.0, 1.0),
    pulses=st.lists(st.integers(-12, 12), min_size=1, max_size=25),
)  # fmt: skip
def test_t2_soft_bounds_never_leave_their_range(lab, tau: float, fraction: float, start: float, pulses: list[int]) -> None:
    """|w0| <= tau, D <= tau: bounded for ever, by the recursion itself and not by the clip (it is left out here)."""
    for kernel in lab.kernels:
        array = lab.emulate(1, 1, kernel=kernel, dw_min=tau * fraction, w_max=tau, w_min=-tau)
        p = {name: float(v) for name, v in lab.params(array).items()}
        lab.put(array, state=start * p["high"])
        w = float(lab.weight(array))
        for count in pulses:
            lab.pulse(array, count)
            for _ in range(abs(count)):
                w = w + p["d_up"] - p["s_up"] * w if count > 0 else w - p["d_down"] - p["s_down"] * w
            assert abs(w) <= p["high"] * (1 + 1e-6)
            assert float(lab.weight(array)) == pytest.approx(w, abs=1e-4 * tau)
            w = float(lab.weight(array))


def alternate(lab, array, pairs: int) -> tuple[Tensor, Tensor]:
    """Hidden weights after the up and after the down pulse of the last of ``pairs`` pairs."""
    signs = torch.tensor([1, -1] * (pairs - 1) + [1], dtype=torch.int8)
    array.trace(signs, lab.mask(array), lab.nominal, every=len(signs))
    up = lab.weight(array)
    lab.pulse(array, -1)
    return up, lab.weight(array)


def fixed_points(p: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """T3 and T4: w*, w_d, w_u."""
    s, t = p["s_up"], p["s_down"]
    w_d = ((1 - t) * p["d_up"] - p["d_down"]) / (s + t - s * t)
    return (p["d_up"] - p["d_down"]) / (s + t), w_d, (1 - s) * w_d + p["d_up"]


@pytest.mark.parametrize("device", ["soft bounds", "imbalance", "log-normal"])
def test_t3_up_and_down_steps_cancel_at_the_symmetry_point(lab, kernel: str, device: str) -> None:
    array = lab.emulate(20, 30, kernel=kernel, **SPREAD, **DEVICES[device])
    star = fixed_points(lab.params(array))[0]
    moves = []
    for count in (1, -1):
        lab.put(array, state=star)
        lab.pulse(array, count)
        moves.append(lab.weight(array) - star.float().double())
    torch.testing.assert_close(moves[0], -moves[1], rtol=0, atol=4 * EPS)
    assert (moves[0] > 0).all()


@pytest.mark.parametrize("device", ["soft bounds", "imbalance", "log-normal"])
def test_t4_transient_of_alternating_pulses(lab, kernel: str, device: str) -> None:
    """w_k = w_d + (w0 - w_d) [(1 - s+)(1 - s-)]^k after k pairs."""
    array = lab.emulate(10, 30, kernel=kernel, **SPREAD, **DEVICES[device])
    p = lab.params(array)
    start = p["low"] + 0.8 * (p["high"] - p["low"])
    for pairs in (1, 7, 40):
        lab.put(array, state=start)
        _, w_d = fixed_points(p)[:2]
        found = alternate(lab, array, pairs)[1]
        want = w_d + (start.float().double() - w_d) * ((1 - p["s_up"]) * (1 - p["s_down"])) ** pairs
        near(found, want, 2 * rounding(p, 2 * pairs))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["soft bounds", "imbalance", "log-normal"])
def test_t4_symmetry_point_from_both_reads_is_exact(lab, kernel: str, device: str) -> None:
    """w* = (s+ w_d + s- w_u) / (s+ + s-).

    The midpoint is off by R (s+ - s-) / (2 (s+ + s-)), where the ripple R = w_u - w_d = F* / (1 - s+ s- / (s+ + s-)) is the
    step F* at the SP to leading order.
    """
    array = lab.emulate(10, 20, kernel=kernel, **SPREAD, **DEVICES[device], w_max_dtod=0.15, w_min_dtod=0.15)
    p = lab.params(array)
    star, want_d, want_u = fixed_points(p)
    lab.put(array, state=want_d)
    w_u, w_d = alternate(lab, array, int(3 / float((p["s_up"] + p["s_down"]).min())))
    s, t = p["s_up"], p["s_down"]
    band = 2 * rounding(p, 10**6)
    near(w_d, want_d, band)
    near(w_u, want_u, band)
    near((s * w_d + t * w_u) / (s + t), star, band)
    ripple = (p["d_up"] - s * star) / (1 - s * t / (s + t))
    near(w_u - w_d, ripple, band)
    off = ripple * (s - t) / (2 * (s + t))
    near((w_d + w_u) / 2 - star, off, band)
    assert float((off.abs() / band).max()) > 30


def test_t4_symmetric_devices_forget_in_half_the_states(lab, kernel: str) -> None:
    """n = 2 tau / D = 120 states: n/2 = 60 pulses (30 pairs) keep (1 - D/tau)^60 = 1/e to 1 %, plus -D/2 at the read."""
    array = lab.emulate(1, 1, kernel=kernel, dw_min=0.01)
    lab.put(array, state=0.4)
    found = float(alternate(lab, array, 30)[1])
    w_d = -0.01 / 2 / (1 - 0.01 / 1.2)
    assert found - w_d == pytest.approx((0.4 - w_d) * (1 - 0.01 / 0.6) ** 60, abs=1e-6)
    assert (found - w_d) / (0.4 - w_d) == pytest.approx(math.exp(-1), rel=0.01)
    assert w_d == pytest.approx(-0.005, rel=0.01)


N = 12000


@pytest.mark.slow
def test_t4b_alternating_pulses_with_additive_noise(lab, kernel: str) -> None:
    """Single read: D sigma / sqrt(1 - (1 - s)^2). Mean of M reads: the exact AR(1) sum, near sigma tau / sqrt(M).

    12,000 cells, 60 states, sigma 0.4; resolves 15 % in either variance and 0.003 weight in the means.
    """
    tau, sigma, step, reads = 0.6, 0.4, 0.02, 300
    array = lab.emulate(1, N, kernel=kernel, dw_min=step, c2c=sigma, multiplicative=False)
    s = step / tau
    settle = torch.tensor([1, -1] * 150, dtype=torch.int8)
    array.trace(settle, lab.mask(array), lab.nominal, every=len(settle))
    last = lab.weight(array)
    w_d = -step / (2 - s)
    lab.mean_is(last, w_d, resolves=0.003, figures=4)
    lab.var_is(last, step**2 * sigma**2 / (1 - (1 - s) ** 2), resolves=0.15, figures=4)
    trace = array.trace(torch.tensor([1, -1] * (reads // 2), dtype=torch.int8), lab.mask(array), lab.nominal)
    mean = ((trace.double() - 100e-6) / 50e-6).mean(dim=-1)
    keep = 1 - s
    exact = step**2 * sigma**2 / (1 - keep**2) / reads
    exact *= 1 + 2 * sum((1 - k / reads) * keep**k for k in range(1, reads))
    lab.mean_is(mean, 0.0, resolves=0.003, figures=4, rounding=1e-6)
    lab.var_is(mean, exact, resolves=0.15, figures=4)
    assert exact == pytest.approx(sigma**2 * tau**2 / reads, rel=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("p", [0.5, 0.3])
def test_t5_random_pulses_symmetric(lab, kernel: str, p: float, sigma: float) -> None:
    """Mean tau (2p - 1); E[w^2] = [2(1 - s) D (2p - 1)^2 tau + D^2 (1 + sigma^2)] / [1 - (1 - s)^2].

    12,000 cells; resolves 0.012 weight in the mean and 15 % in the variance.
    """
    tau, step = 0.6, 0.03
    array = lab.emulate(1, N, kernel=kernel, dw_min=step, c2c=sigma, multiplicative=False)
    random_pulses(lab, array, p, 250)
    s = step / tau
    mean = tau * (2 * p - 1)
    second = (2 * (1 - s) * step * (2 * p - 1) ** 2 * tau + step**2 * (1 + sigma**2)) / (1 - (1 - s) ** 2)
    lab.mean_is(lab.weight(array), mean, resolves=0.012, figures=8)
    lab.var_is(lab.weight(array), second - mean**2, resolves=0.15, figures=8)


@pytest.mark.slow
def test_t5_random_pulses_general_linear_step(lab, kernel: str) -> None:
    """p = 1/2: mean w*, E[w^2] = {[(1-s+)D+ - (1-s-)D-] m + (D+^2 + D-^2)/2} / {1 - [(1-s+)^2 + (1-s-)^2]/2}.

    p = 0.35: mean (p D+ - (1-p) D-) / (p s+ + (1-p) s-). 12,000 cells; resolves 0.015 weight and 15 % of the variance.
    """
    device = {
        "model": "linear",
        "slope_up": 0.5,
        "slope_down": 0.9,
        "w_max": 1.2,
        "w_min": -0.9,
        "up_down": -0.2,
        "dw_min": 0.04,
    }
    array = lab.emulate(1, N, kernel=kernel, **device)
    d, e, s, t = (float(lab.params(array)[k][0, 0, 0]) for k in ("d_up", "d_down", "s_up", "s_down"))
    random_pulses(lab, array, 0.5, 250)
    m = (d - e) / (s + t)
    second = (((1 - s) * d - (1 - t) * e) * m + (d**2 + e**2) / 2) / (1 - ((1 - s) ** 2 + (1 - t) ** 2) / 2)
    lab.mean_is(lab.weight(array), m, resolves=0.015, figures=3)
    lab.var_is(lab.weight(array), second - m**2, resolves=0.15, figures=3)
    random_pulses(lab, array, 0.35, 250)
    lab.mean_is(lab.weight(array), (0.35 * d - 0.65 * e) / (0.35 * s + 0.65 * t), resolves=0.015, figures=3)


def random_pulses(lab, array, p: float, pulses: int) -> None:
    """+-1 pulses on every cell, up with probability p."""
    generator = torch.Generator().manual_seed(8)
    size = lab.mask(array).shape
    for _ in range(pulses):
        lab.pulse(array, (torch.rand(size, generator=generator) < p).int() * 2 - 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_aggregated_pulses_multiplicative(lab, kernel: str, sign: int) -> None:
    """n pulses: mean w_inf + (w0 - w_inf)(1-s)^n, variance (w0 - w_inf)^2 {[(1-s)^2 + s^2 sigma^2]^n - (1-s)^(2n)}.

    12,000 cells, n = 20; resolves 0.006 weight and 15 % of the variance.
    """
    n, s, sigma, tau, start = 20, 0.02 / 0.6, 0.8, 0.6, 0.1
    array = lab.emulate(1, N, kernel=kernel, dw_min=0.02, c2c=sigma)
    lab.put(array, state=start)
    lab.pulse(array, sign * n)
    stop = sign * tau
    lab.mean_is(lab.weight(array), stop + (start - stop) * (1 - s) ** n, resolves=0.006, figures=4)
    spread = ((1 - s) ** 2 + s**2 * sigma**2) ** n - (1 - s) ** (2 * n)
    lab.var_is(lab.weight(array), (start - stop) ** 2 * spread, resolves=0.15, figures=4)


@pytest.mark.parametrize("sign", [1, -1])
def test_aggregated_pulses_additive(lab, kernel: str, sign: int) -> None:
    """The same mean, variance D^2 sigma^2 (1 - (1-s)^(2n)) / (1 - (1-s)^2). 12,000 cells; resolves 0.006 and 15 %."""
    n, step, sigma, tau, start = 15, 0.02, 0.8, 0.6, -0.1 * sign
    array = lab.emulate(1, N, kernel=kernel, dw_min=step, c2c=sigma, multiplicative=False)
    lab.put(array, state=start)
    lab.pulse(array, sign * n)
    s, stop = step / tau, sign * tau
    lab.mean_is(lab.weight(array), stop + (start - stop) * (1 - s) ** n, resolves=0.006, figures=4)
    lab.var_is(
        lab.weight(array), step**2 * sigma**2 * (1 - (1 - s) ** (2 * n)) / (1 - (1 - s) ** 2), resolves=0.15, figures=4
    )


def test_noise_of_neighbouring_pulses_and_cells_is_independent(lab, kernel: str) -> None:
    """Steps of a constant-step device: no correlation between pulses, cells, calls. 12,000 cells; resolves 0.11."""
    array = lab.emulate(1, N, kernel=kernel, model="constant", dw_min=0.001, c2c=1.0, w_max=10, w_min=-10)
    trace = array.trace(torch.ones(4, dtype=torch.int8), lab.mask(array), lab.nominal)
    states = torch.cat([torch.full((1, 1, N, 1), 100e-6), trace], dim=-1).double()
    step = states.diff(dim=-1)[0, 0]
    band = lab.limit(7) / math.sqrt(N)
    both = torch.corrcoef(torch.cat([step.T, step[:, 0].roll(1)[None]]))
    assert 2 * band < 0.11
    assert float((both - torch.eye(5)).abs().max()) < band
