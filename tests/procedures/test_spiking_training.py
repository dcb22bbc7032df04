"""Spiking networks in train and explore: reproducible, resumable, by any chunking, and told apart by their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hil.datasets import load
from hil.ledger import Ledger
from hil.spiking import SpikingConfig
from procedures.explore import network_name
from procedures.explore_config import ExploreConfig
from procedures.train import TrainConfig, population
from procedures.training_loop import TrainingLoop
from tests.procedures.test_explore import TINY, explored

pytest.importorskip("snntorch")

SMALL: dict[str, Any] = {"classes": (0, 1), "pool": 4, "hidden": (3,), "limit": 10, "epochs": 2, "train_on": "train"}


def run(folder: Path, options: dict[str, Any], stop_after: int | None = None) -> dict[str, Any]:
    """What a training leaves behind; ``stop_after``: saved there, and gone on with by a loop of its own."""
    from hil.bench import open_bench
    from hil.config import load_bench
    from hil.encoding import UpdateSettings
    from hil.programming import ProgramLimits
    from procedures.network import NetworkPlan, build, initialise
    from procedures.training_state import Curves, Position

    config = TrainConfig(**(SMALL | options))
    _, rates, ids = population(config)
    data = load("digits", classes=config.classes, pool=config.pool, limit=config.limit)
    widths = (data.train_x.shape[1], *config.hidden, len(data.classes))
    plan = NetworkPlan(
        widths, config.activation, config.algorithm, rates, "inputs", UpdateSettings(), UpdateSettings(), "mid", "mid", 1.0,
        config.spiking,
    )  # fmt: skip
    with Ledger.create(folder, "train", {}) as ledger, open_bench(load_bench("emulated"), folder / "state") as bench:
        bench.populate(ids)
        network = build(bench, plan)
        initialise(bench, network, plan, ProgramLimits())
        loop = TrainingLoop(bench, network, config, data, ledger, Position(), Curves(), "")
        if stop_after is None:
            loop.run()
        else:
            order = torch.arange(len(loop.x)).expand(bench.arrays, -1)
            for _ in range(stop_after):
                loop._plain_step(order)
            loop.save()
            saved = ledger.last_checkpoint()
            assert saved is not None
            loop._plain_step(order)
            ahead = loop.network.digital_state()
            loop.restore(saved.state)
            loop._plain_step(order)
            assert torch.equal(ahead[-1]["coded"], loop.network.digital_state()[-1]["coded"])
        return {"inside": bench.state_dict(), "curves": loop.curves.state_dict(), "digital": loop.network.digital_state()}


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["direct", "rate"])
def test_an_array_trains_alike_alone_and_in_a_population(encoding: str, tmp_path: Path) -> None:
    spiking = SpikingConfig.model_validate({"steps": 4, "encoding": encoding})
    options = {"spiking": spiking, "lr_a": 0.05, "lr_c": 0.3, "n_s": 2.0}
    many = run(tmp_path / "many", options | {"seeds": 3})
    alone = run(tmp_path / "alone", options | {"seeds": 1, "first_seed": 2})
    for name, curve in alone["curves"].items():
        for one, other in zip(curve, many["curves"][name], strict=True):
            assert torch.equal(one[0], other[2]), name
    for matrix, state in alone["inside"].items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() and len(value) == 1:
                assert torch.equal(value[0], many["inside"][matrix][key][2]), f"{matrix} {key}"
    # Transfers count samples, not time steps: the counters of Tiki-Taka are those of the samples shown.
    assert int(alone["digital"][0]["samples"]) == 2 * 10


@pytest.mark.slow
def test_a_checkpoint_holds_the_counter_of_input_spikes(tmp_path: Path) -> None:
    run(tmp_path, {"spiking": SpikingConfig(steps=3, encoding="rate"), "lr_a": 0.05}, stop_after=4)


@pytest.mark.slow
def test_exploring_in_any_chunks_gives_the_same_numbers(tmp_path: Path) -> None:
    spiking = SpikingConfig(steps=3, encoding="rate", slope=2)
    options = TINY | {"spiking": spiking, "algorithms": ("tiki_taka", "digital"), "hidden": (), "limit": 40, "epochs": 3}
    whole = explored(ExploreConfig(**options, specify=False), tmp_path / "whole")
    pieces = explored(ExploreConfig(**options, specify=False, chunk=3), tmp_path / "pieces")
    assert np.array_equal(whole.validation, pieces.validation)
    assert np.array_equal(whole.test, pieces.test)
    assert len(np.unique(whole.test)) > 2
    assert "LIF beta 0.8" in whole.network


def test_a_specification_of_another_network_is_told_apart() -> None:
    data = load("digits", limit=10)
    given = (None, {}, {"steps": 4}, {"encoding": "rate"}, {"beta": 0.5}, {"slope": 2})
    configs = [ExploreConfig.model_validate({"spiking": options}) for options in given]
    assert len({network_name(config, data) for config in configs}) == len(given)
