"""The Triton kernel against the reference: pulses bit for bit, and conductances too, but for exponentials and powers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hil.encoding import MAX_SLOTS, PulseTrain, Stream
from simulated_backend.devices import MODELS, DeviceSettings, draw_cells, per_array
from simulated_backend.kernels import reference
from simulated_backend.kernels.reference import Cells

pytest.importorskip("triton")
from simulated_backend.kernels import cuda

ARRAYS, ROWS, COLS = 2, 9, 67
DEVICES: dict[str, dict[str, Any]] = {
    "soft bounds": {},
    "quiet": {"c2c": 0.0},
    "constant": {"model": "constant"},
    "linear": {"model": "linear", "slope_up": 0.4, "slope_down": 0.7, "c2c": (0.5, 0.0)},
    "additive": {"multiplicative": False, "c2c": 0.8},
    "write noise": {"write_noise": (1.0, 0.0), "dead": 0.05, "stuck": 0.05},
    "power": {"model": "power", "power": 2.5},
    "flat power": {"model": "power", "power": 0.0},
    "exponential": {"model": "exponential", "exp_a": 0.5, "exp_scale_up": 0.2, "exp_scale_down": 0.1, "exp_gamma_up": 1.0},
    "piecewise": {"model": "piecewise", "nodes_up": (1.5, 1.0, 0.2), "nodes_down": (0.1, 1.6)},
}


def make(device: dict[str, Any], arrays: int = ARRAYS, rows: int = ROWS, cols: int = COLS, counted: bool = True) -> Cells:
    """Drawn devices, each at a weight of its own."""
    s = DeviceSettings(**({"dw_min": 0.02} | device))
    params, state = draw_cells(s, rows, cols, 5, torch.arange(arrays), "m", -2.0, 10.0)
    start = torch.rand(state.shape, generator=torch.Generator().manual_seed(1)) * 0.8 - 0.4
    state = torch.minimum(torch.maximum(start, params["low"]), params["high"])
    cells = Cells(s.model, state, params, per_array(s.c2c, arrays).view(-1).float(), s.multiplicative)
    write = per_array(s.write_noise, arrays).view(-1).float() * 0.02
    if bool((write > 0).any()):
        cells.write, cells.hidden = write, state.clone()
    if counted:
        cells.pulses_up, cells.pulses_down = torch.zeros_like(state).int(), torch.zeros_like(state).int()
    return cells


def moved(cells: Cells, device: torch.device) -> Cells:
    """A copy on the device."""
    there = {
        name: value.clone().to(device)
        for name in ("state", "c2c", "write", "hidden", "pulses_up", "pulses_down")
        if (value := getattr(cells, name)) is not None
    }
    return replace(cells, params={k: v.clone().to(device) for k, v in cells.params.items()}, **there)


def train_on(train: PulseTrain, device: torch.device) -> PulseTrain:
    """The train with its tensors on the device."""
    there = {n: getattr(train, n).to(device) for n in ("probability", "sign", "slots", "key", "line")}
    return replace(train, packed=None if train.packed is None else train.packed.to(device), **there)


def make_train(arrays: int, samples: int, lines: int, seed: int, kind: str = "stochastic") -> PulseTrain:
    """Trains with silent lines, empty samples and certain slots among them."""
    g = torch.Generator().manual_seed(seed)
    p = (torch.rand(arrays, samples, lines, generator=g) * 1.3).clamp(max=1)
    sign = torch.randint(-1, 2, (arrays, samples, lines), generator=g).to(torch.int8)
    slots = torch.randint(0, MAX_SLOTS + 1, (arrays, samples), generator=g).to(torch.int32)
    slots[0, 0] = MAX_SLOTS
    key = Stream(seed, torch.arange(arrays), "m", "x").keys(samples)
    train = PulseTrain(p, sign, slots, key, torch.arange(lines, dtype=torch.int32), "stochastic")
    return PulseTrain.given(train.bits(), sign, slots) if kind == "given" else replace(train, kind=kind)  # type: ignore[arg-type]


def agree(found: Cells, wanted: Cells) -> None:
    """Counters to the bit; states too, except where an exponential or power is rounded by another library."""
    exact = wanted.model not in ("exponential", "power")
    for name in ("state", "hidden", "pulses_up", "pulses_down"):
        have, want = getattr(found, name), getattr(wanted, name)
        if want is not None:
            assert have is not None
            if exact or want.dtype == torch.int32:
                assert torch.equal(have.cpu(), want), name
            else:
                torch.testing.assert_close(have.cpu(), want, rtol=1e-5, atol=1e-6)


def keys(samples: int, purpose: str = "pulse") -> Tensor:
    return Stream(3, torch.arange(ARRAYS), "m", purpose).keys(samples)


def test_every_model_is_covered() -> None:
    assert frozenset(MODELS) == cuda.COVERS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "samples"),
    [(model, 3) for model in DEVICES] + [(model, 1) for model in ("soft bounds", "write noise", "power")],
)
def test_update(device: torch.device, model: str, samples: int) -> None:
    wanted = make(DEVICES[model])
    found = moved(wanted, device)
    rows, cols = make_train(ARRAYS, samples, ROWS, 1), make_train(ARRAYS, samples, COLS, 2)
    reference.update(wanted, rows, cols, keys(samples))
    cuda.update(found, train_on(rows, device), train_on(cols, device), keys(samples).to(device))
    agree(found, wanted)
    assert wanted.pulses_up is not None
    assert int(wanted.pulses_up.sum()) > 300


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("spread", "first"), ("given", "given"), ("stochastic", "given")])
def test_update_by_other_trains_and_some_arrays(device: torch.device, kinds: tuple[str, str]) -> None:
    wanted = make({}, rows=35)
    found = moved(wanted, device)
    rows, cols = make_train(ARRAYS, 2, 35, 1, kinds[0]), make_train(ARRAYS, 2, COLS, 2, kinds[1])
    active = torch.tensor([False, True])
    reference.update(wanted, rows, cols, keys(2), active)
    cuda.update(found, train_on(rows, device), train_on(cols, device), keys(2).to(device), active.to(device))
    agree(found, wanted)
    assert torch.equal(found.state[0].cpu(), make({}, rows=35).state[0])


def test_update_by_part_of_a_train(device: torch.device) -> None:
    """Lines keep their identity where a matrix lies on a part of an array, and where a train is cut into samples."""
    wanted = make({}, rows=6, cols=9)
    found = moved(wanted, device)
    rows, cols = make_train(ARRAYS, 3, 20, 1), make_train(ARRAYS, 3, 12, 2)
    rows, cols = rows.lines(slice(4, 8)).placed(6, 1).at(1, 3), cols.lines(slice(0, 9)).at(1, 3)
    reference.update(wanted, rows, cols, keys(2))
    cuda.update(found, train_on(rows, device), train_on(cols, device), keys(2).to(device))
    agree(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("model", DEVICES)
def test_apply(device: torch.device, model: str) -> None:
    wanted = make(DEVICES[model])
    found = moved(wanted, device)
    counts = torch.randint(-4, 5, wanted.state.shape, generator=torch.Generator().manual_seed(7)).to(torch.int32)
    counts[0, :3] = 0
    counts[1, 4, 5] = 40
    reference.apply(wanted, counts, keys(1)[:, 0])
    cuda.apply(found, counts.to(device), keys(1)[:, 0].to(device))
    agree(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("model", ["linear", "write noise", "piecewise", "exponential"])
def test_trace(device: torch.device, model: str, every: int) -> None:
    wanted = make(DEVICES[model], rows=5, cols=7)
    found = moved(wanted, device)
    mask = torch.rand(wanted.state.shape, generator=torch.Generator().manual_seed(4)) < 0.7
    signs = torch.tensor([1, 1, -1, 1, -1, -1, 1], dtype=torch.int8)
    want, have = (torch.full((*wanted.state.shape, len(signs) // every), torch.nan) for _ in range(2))
    there = have.to(device)
    reference.trace(wanted, signs, mask, keys(len(signs)), every, want)
    cuda.trace(found, signs, mask.to(device), keys(len(signs)).to(device), every, there)
    agree(found, wanted)
    if model == "exponential":
        torch.testing.assert_close(there.cpu(), want, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(there.cpu(), want)


def test_without_counters_and_without_samples(device: torch.device) -> None:
    wanted = make({}, rows=4, cols=5, counted=False)
    found = moved(wanted, device)
    rows, cols = make_train(ARRAYS, 2, 4, 1), make_train(ARRAYS, 2, 5, 2)
    reference.update(wanted, rows, cols, keys(2))
    cuda.update(found, train_on(rows, device), train_on(cols, device), keys(2).to(device))
    cuda.update(found, train_on(rows.at(0, 0), device), train_on(cols.at(0, 0), device), keys(0).to(device))
    agree(found, wanted)


@pytest.mark.slow
def test_an_array_alone_is_the_same_array_in_a_population(device: torch.device) -> None:
    """Array 2 of 3, by its own identity, alone."""
    cells, alone = make({}, arrays=3), make({}, arrays=3)
    part = slice(2, 3)
    one = Cells(
        alone.model,
        alone.state[part].clone(),
        {k: v[part].clone() for k, v in alone.params.items()},
        alone.c2c[part].clone(),
    )
    rows, cols = make_train(3, 2, ROWS, 1), make_train(3, 2, COLS, 2)
    key = Stream(3, torch.arange(3), "m", "pulse").keys(2)
    both, single = moved(cells, device), moved(one, device)
    cuda.update(both, train_on(rows, device), train_on(cols, device), key.to(device))

    def cut(train: PulseTrain) -> PulseTrain:
        named = {n: getattr(train, n)[part] for n in ("probability", "sign", "slots", "key")}
        return train_on(replace(train, **named), device)

    cuda.update(single, cut(rows), cut(cols), key[part].to(device))
    assert torch.equal(both.state[part], single.state)
