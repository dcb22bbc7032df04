"""A training that is killed at any checkpoint goes on bit-identically, early stopping included.

A checkpoint is saved after every step, and one more after every epoch. The arrays stop at epochs of their own, all of them
before the epochs are up, so that after the last checkpoint there is nothing left to learn.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hil.bench import Bench, open_bench
from hil.config import load_bench
from hil.datasets import load
from hil.encoding import UpdateSettings
from hil.ledger import Ledger
from procedures.network import NetworkPlan, build
from procedures.train import TrainConfig, TrainResult, population, train
from procedures.training_loop import TrainingLoop
from procedures.training_state import Curves, Position

STEPS, BATCH = 2, 9
CONFIG = TrainConfig(
    classes=(0, 1, 2, 3), pool=4, hidden=(), limit=STEPS * BATCH, batch=BATCH, train_on="train", reference_a="mid",
    reference_c="mid", lr_c=(0.05, 1.0), seeds=2, first_seed=3, epochs=12, patience=1, checkpoint_s=1e-9,
)  # fmt: skip


class Copied:
    """A ledger that leaves a copy of its folder at every checkpoint: what a kill right after it would leave."""

    def __init__(self, ledger: Ledger, copies: Path) -> None:
        self._ledger, self.copies = ledger, copies

    def checkpoint(self, *given: Any) -> int:
        number = self._ledger.checkpoint(*given)
        shutil.copytree(self._ledger.folder, self.copies / str(number))
        return number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


def run(folder: Path, ledger: Any, config: TrainConfig = CONFIG) -> tuple[TrainResult, dict[str, dict[str, torch.Tensor]]]:
    """The result, and the inside of every matrix."""
    with open_bench(load_bench("emulated"), folder) as bench:
        result = train(bench, config, ledger)
        return result, bench.state_dict()


def epochs(ledger: Ledger) -> list[dict[str, np.ndarray]]:
    return [ledger.run.arrays(event.number) for event in ledger.run.events("epoch")]


def assert_same(one: Any, other: Any) -> None:
    """Equal to the bit, through all containers."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


@pytest.mark.slow
def test_killed_at_any_checkpoint_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    with Ledger.create(tmp_path / "whole", "train", {}) as ledger:
        whole, inside = run(tmp_path, Copied(ledger, copies))
        recorded, saved = epochs(ledger), ledger.last_checkpoint()
    assert saved is not None
    taken = len(whole.curves["test"])
    assert 2 < taken < CONFIG.epochs, "the arrays were to stop early, and not all at once"
    assert not bool(saved.state["position"]["active"].any())
    killed = sorted(copies.iterdir(), key=lambda folder: int(folder.name))
    assert len(killed) == taken * (STEPS + 1)
    for folder in killed:
        with Ledger.open(folder) as left:
            assert left.status == "killed"
        with Ledger.resume(folder, since=int(folder.name)) as again:
            result, resumed = run(tmp_path, again)
            end = again.last_checkpoint()
            assert end is not None
            assert_same(resumed, inside)
            assert_same(epochs(again), recorded)
            # Curves, confusion, accuracies, counts; the time it took is its own.
            assert_same(vars(result) | {"seconds": 0.0}, vars(whole) | {"seconds": 0.0})
            assert_same(end.state, saved.state)
            assert len(list(again.run.events("trained"))) == 1


def loop_of(bench: Bench, config: TrainConfig, ledger: Ledger) -> TrainingLoop:
    """What ``train`` makes before it goes on."""
    _, rates, ids = population(config)
    bench.populate(ids)
    data = load(config.dataset, classes=config.classes, pool=config.pool, limit=config.limit)
    update = UpdateSettings()
    widths = (data.train_x.shape[1], len(data.classes))
    network = build(bench, NetworkPlan(widths, "tanh", "tiki-taka", rates, "inputs", update, update, "mid", "mid", 1.0))
    return TrainingLoop(bench, network, config, data, ledger, Position(), Curves(), "")


@pytest.mark.slow
@pytest.mark.parametrize("early", [False, True], ids=["all epochs", "stopped early"])
@pytest.mark.parametrize("batch", [BATCH, BATCH * STEPS], ids=["two steps", "one step"])
def test_on_a_board_a_training_that_had_ended_is_not_taken_up_again(early: bool, batch: int, tmp_path: Path) -> None:
    """What is sent after the end still carries the state of the loop: epoch as many as were taken, step 0."""
    changes = {"batch": batch, "epochs": 12 if early else 2, "patience": 1 if early else None, "lr_c": 0.05, "seeds": 1}
    config = CONFIG.model_copy(update=changes)
    with Ledger.create(tmp_path, "train", {}) as ledger:
        result, _ = run(tmp_path, ledger, config)
        taken = len(result.curves["test"])
        assert (taken < config.epochs) == early
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            loop = loop_of(bench, config, ledger)
            loop.go_on(loop.small_state() | {"epoch": taken})
            before = bench.state_dict()
            loop.run()
            assert_same(bench.state_dict(), before)
        assert (loop.position.epoch, loop.position.step) == (taken, 0)
        assert_same({name: loop.curves.stacked(name, 1) for name in result.curves}, result.curves)
        assert len(list(ledger.run.events("epoch"))) == taken
