"""Compiled steps against the plain verbs: the same numbers, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import pytest
import torch

from hil.bench import open_bench
from hil.config import load_bench
from hil.datasets import load
from hil.encoding import UpdateSettings
from hil.ledger import Ledger
from hil.programming import ProgramLimits
from procedures.network import NetworkPlan, build, initialise
from procedures.train import TrainConfig, population
from procedures.training_loop import TrainingLoop
from procedures.training_state import Curves, Position

BOARD = "boards.main.settings."
SMALL: dict[str, Any] = {"classes": (0, 1, 2, 3), "pool": 2, "hidden": (6,), "limit": 24, "epochs": 2, "train_on": "train"}


def loop_of(folder: Path, ledger: Ledger, changes: list[str], options: dict[str, Any]) -> tuple[Any, TrainingLoop]:
    """The bench, and a training on it that has not begun."""
    config = TrainConfig(**(SMALL | options))
    _, rates, ids = population(config)
    bench = open_bench(load_bench("emulated", changes), folder)
    bench.populate(ids)
    data = load("digits", classes=config.classes, pool=config.pool, limit=config.limit)
    update = UpdateSettings(config.slots, config.management, config.slot_management, config.pulses)
    widths = (data.train_x.shape[1], *config.hidden, len(data.classes))
    plan = NetworkPlan(
        widths, config.activation, config.algorithm, rates, config.transfer, update, update, "mid", "mid", 1.0
    )  # fmt: skip
    network = build(bench, plan)
    initialise(bench, network, plan, ProgramLimits())
    return bench, TrainingLoop(bench, network, config, data, ledger, Position(), Curves(), "")


def trained(folder: Path, changes: list[str], options: dict[str, Any], compiled: bool) -> dict[str, Any]:
    """Everything that a training leaves behind: inside of the arrays, digital state, curves, decisions."""
    with Ledger.create(folder / str(compiled), "train", {}) as ledger:
        bench, loop = loop_of(folder, ledger, changes, options)
        with bench:
            loop.compiled = compiled
            loop.run()
            layers = {f"layer{k}": state for k, state in enumerate(loop.network.digital_state())}
            inside = {name: dict(state) for name, state in bench.state_dict().items()}
            return {**inside, **layers, "curves": loop.curves.state_dict(), "confusion": loop.confusion()}


def assert_same(one: Any, other: Any, name: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other)
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{name}[{number}]")
    else:
        # The clock adds the times of a batch in another order: a sum of n seconds rounds n times.
        rtol = 1e-11 if name.endswith("clock_s") else 0.0
        torch.testing.assert_close(one, other, rtol=rtol, atol=0.0, msg=lambda text: f"{name}: {text}")


CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "tiki-taka": ([], {"seeds": 2}),
    "sgd in batches, the last one short": ([], {"algorithm": "sgd", "lr": (0.01, 0.1), "batch": 7, "activation": "sigmoid"}),
    "rates of its own for every array, A shown": (
        [], {"lr_a": (0.01, 0.1), "gamma": (0.0, 0.5), "n_s": (1.0, 3.0), "n_reads": (1.0, 2.0), "batch": 4},
    ),
    "four layers, relu": ([], {"hidden": (6, 5, 4), "activation": "relu"}),
    "one layer": ([], {"hidden": ()}),
    "transfer of outputs, deterministic trains": ([], {"transfer": "outputs", "pulses": "deterministic", "batch": 3}),
    "without management": ([], {"management": False, "slot_management": False, "slots": 7}),
    "saturating ADC, input noise": (
        [f"{BOARD}periphery.full_scale=0.3", f"{BOARD}periphery.in_noise=0.02"], {"batch": 5, "seeds": 2},
    ),
    "ideal periphery": ([
        f"{BOARD}periphery.dac_bits=0", f"{BOARD}periphery.adc_bits=0", f"{BOARD}periphery.full_scale=inf",
        f"{BOARD}periphery.out_noise=0.0",
    ], {}),
    "write noise, additive cycle noise": ([f"{BOARD}device.write_noise=1.0", f"{BOARD}device.multiplicative=false"], {}),
    "arrays that stop early": ([], {"epochs": 5, "patience": 1, "lr_c": (0.05, 1.0), "seeds": 2, "batch": 9}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_compiled_steps_leave_what_plain_steps_leave(case: str, tmp_path: Path) -> None:
    changes, options = CASES[case]
    assert_same(trained(tmp_path, changes, options, True), trained(tmp_path, changes, options, False))


@pytest.mark.slow
def test_two_threads_change_nothing(tmp_path: Path) -> None:
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("this process may use one core only")
    before = numba.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            found.append(trained(tmp_path / str(threads), [], {"seeds": 5, "epochs": 1}, True))
    finally:
        numba.set_num_threads(before)
    assert_same(*found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ([], {"algorithm": "digital"}),
        ([f"{BOARD}rows=64", f"{BOARD}cols=64"], {}),
        ([f"{BOARD}periphery.reference=mid"], {}),
        ([f"{BOARD}periphery.dac_bits=1"], {}),
        ([f"{BOARD}clock.relax_s=1.0"], {}),
        ([f"{BOARD}clock.disturb_per_vs=0.1"], {}),
        ([f"{BOARD}kernel=reference"], {}),
        ([f"{BOARD}device.model=power"], {}),
    ],
    ids=["digital", "shared board", "reference line", "bit-serial", "relaxing", "read disturb", "kernel", "model"],
)
def test_what_is_not_covered_takes_plain_steps(changes: list[str], options: dict[str, Any], tmp_path: Path) -> None:
    with Ledger.create(tmp_path, "train", {}) as ledger:
        bench, loop = loop_of(tmp_path, ledger, changes, {"limit": 4, "epochs": 1} | options)
        with bench:
            assert loop.network.fused() is None
            loop.run()
            assert len(loop.curves.test) == 1


def test_a_network_of_emulated_arrays_is_covered(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, "train", {}) as ledger:
        bench, loop = loop_of(tmp_path, ledger, [], {})
        with bench:
            assert loop.network.fused() is not None
