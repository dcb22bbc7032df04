"""Explore on the emulated bench: chunks, killed runs, devices of the asymmetry asked for, references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hil.bench import open_bench
from hil.config import load_bench
from hil.datasets import load
from hil.errors import UsageError
from hil.ledger import Ledger
from procedures import explore as explore_module
from procedures.design import design
from procedures.exploration import Exploration
from procedures.explore import explore, network_name
from procedures.explore_chunk import asymmetric_bench, train_chunk
from procedures.explore_config import ExploreConfig
from procedures.explore_report import explore_sections, statements
from procedures.network import NetworkPlan, build
from tests.procedures.explorations import lattice

TINY: dict[str, Any] = {
    "alpha_a": (0.3, 3.0), "alpha_c": (0.3, 1.0), "lr_a": (0.02,), "lr_c": (0.1, 0.3), "lr": (0.01,), "digital_lr": (0.05,),
    "seeds": 1, "epochs": 1, "hidden": (4,), "pool": 4, "limit": 60, "pairs": 10, "reads": 2,
}  # fmt: skip


def explored(config: ExploreConfig, folder: Path, ledger: Ledger | None = None) -> Exploration:
    with (
        ledger or Ledger.create(folder / "runs", "explore", None) as book,
        open_bench(load_bench("emulated"), folder / "state", book) as bench,
    ):
        return explore(bench, config, book).exploration


@pytest.mark.slow
def test_any_chunking_gives_the_same_numbers(tmp_path: Path) -> None:
    whole = explored(ExploreConfig(**TINY, specify=False), tmp_path)
    pieces = explored(ExploreConfig(**TINY, specify=False, chunk=3), tmp_path)
    assert len(whole.finished()) == len(whole) == 8 + 2 + 1
    assert np.array_equal(whole.validation, pieces.validation)
    assert np.array_equal(whole.test, pieces.test)
    # Otherwise everything above would hold for a network that does nothing, too.
    assert len(np.unique(whole.test)) > 3


@pytest.mark.slow
def test_a_killed_exploration_goes_on_behind_its_last_chunk_and_ends_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExploreConfig(**TINY, chunk=3)
    whole = explored(config, tmp_path)
    trained: list[int] = []

    def failing(bench: Any, config: Any, points: Any, data: Any, advance: Any) -> Any:
        trained.append(len(points))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train_chunk(bench, config, points, data, advance)

    monkeypatch.setattr(explore_module, "train_chunk", failing)
    ledger = Ledger.create(tmp_path / "runs", "explore", None)
    with pytest.raises(KeyboardInterrupt):
        explored(config, tmp_path, ledger)
    assert len(Exploration.load(ledger.folder).finished()) == 6
    again = explored(config, tmp_path, Ledger.resume(ledger.folder))
    assert trained == [3, 3, 2, 2, 2, 1]
    assert np.array_equal(whole.validation, again.validation)
    assert np.array_equal(whole.test, again.test)
    with Ledger.open(ledger.folder) as run:
        titles = [section.title for section in explore_sections(run)]
    assert titles == ["Exploration", "Operating point", "Asymmetry specification"]


@pytest.mark.slow
def test_a_board_explores_point_by_point_and_has_no_axis_of_asymmetry(tmp_path: Path) -> None:
    tiny = {name: value for name, value in TINY.items() if name not in ("alpha_a", "alpha_c")} | {"limit": 20}
    with (
        Ledger.create(tmp_path / "runs", "explore", None) as ledger,
        open_bench(load_bench("emulated-board"), tmp_path / "state", ledger) as bench,
    ):
        found = explore(bench, ExploreConfig(**tiny), ledger).exploration
        assert [event.payload["points"] for event in ledger.run.events("explored")] == [1, 1, 1, 1]
        with pytest.raises(UsageError, match=r"explore\.alpha_c: the devices of a board"):
            explore(bench, ExploreConfig(**tiny, alpha_c=(1.0,)), ledger)
    assert found.algorithm == ("tiki_taka", "tiki_taka", "sgd", "digital")
    assert not {"alpha_a", "alpha_c", "states", "sp", "c2c"} & set(found.axes)
    assert len(found.finished()) == 4


def test_a_data_set_without_a_validation_part_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("digits", pool=4)
    nothing = replace(data, validation_x=data.validation_x[:0], validation_y=data.validation_y[:0])
    monkeypatch.setattr(explore_module, "load", lambda name, **options: nothing)
    with pytest.raises(UsageError, match="digits: has no validation part to select on"):
        explored(ExploreConfig(**TINY), tmp_path)


def test_a_flat_map_leaves_the_exploration_done_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flat(bench: Any, config: Any, points: Any, data: Any, advance: Any) -> Any:
        return torch.full((len(points),), 0.5).double(), torch.full((len(points),), 0.5).double()

    monkeypatch.setattr(explore_module, "train_chunk", flat)
    ledger = Ledger.create(tmp_path / "runs", "explore", None)
    assert len(explored(ExploreConfig(**TINY), tmp_path, ledger).finished()) == 11
    with Ledger.open(ledger.folder) as run:
        assert run.status == "done"
        (section,) = explore_sections(run)
    assert "No specification: calibrate: the map is flat" in section.text


def test_devices_have_the_asymmetry_of_their_point(tmp_path: Path) -> None:
    config = ExploreConfig(
        algorithms=("tiki_taka",), alpha_a=(0.05, 1.0, 8.0), alpha_c=(0.4,), lr_a=(0.01,), lr_c=(0.1,), seeds=1
    )
    points = design(config, "a network", (1, 1))
    bench_config = asymmetric_bench(load_bench("emulated"), points)
    with open_bench(bench_config, tmp_path) as bench:
        bench.populate(torch.from_numpy(points.seed))
        for role in ("a", "c"):
            bench.place(f"layer0.{role}", role, 64, 32)
        for role, wanted in (("a", [0.05, 1.0, 8.0]), ("c", [0.4] * 3)):
            state = bench.state_dict()[f"layer0.{role}"]
            p = {name.removeprefix("param_"): value.double() for name, value in state.items() if name.startswith("param_")}
            total = p["s_up"] + p["s_down"]
            slope = total**2 / (2 * (p["d_up"] * p["s_down"] + p["d_down"] * p["s_up"]))
            # Cells differ by the spread of their bounds, 30 % each of two: the median of 2048 is within 3 %.
            alpha = 0.6 * slope.flatten(1).median(dim=1).values
            assert torch.allclose(alpha, torch.tensor(wanted, dtype=torch.float64), rtol=0.05)
            # The skew is held fixed in weight: 0.006 whatever alpha is, 5 % at six sigmas of 2048 cells is too strict.
            sp = ((p["d_up"] - p["d_down"]) / total).flatten(1)
            assert torch.allclose(sp.std(dim=1), torch.full((3,), 0.006, dtype=torch.float64), rtol=0.1)


@pytest.mark.slow
def test_the_aggregated_zero_shift_finds_the_symmetry_points(tmp_path: Path) -> None:
    from hil.encoding import UpdateSettings
    from procedures.explore_chunk import _rates, _symmetry_points

    config = ExploreConfig(
        algorithms=("tiki_taka",), alpha_a=(1.0, 0.01), alpha_c=(1.0,), lr_a=(0.01,), lr_c=(0.1,), seeds=1, sp=(0.05,),
        pairs=1000,
    )  # fmt: skip
    points = design(config, "a network", (1, 1))
    with open_bench(asymmetric_bench(load_bench("emulated"), points), tmp_path) as bench:
        bench.populate(torch.from_numpy(points.seed))
        update = UpdateSettings()
        plan = NetworkPlan(
            (64, 32), "tanh", "tiki-taka", _rates(points), "inputs", update, update, "nominal", "nominal", 1.0
        )  # fmt: skip
        tile = build(bench, plan).tiles["layer0.a"]
        before = tile.reference.clone()
        found = _symmetry_points(tile, config, torch.tensor([True, False]))
        state = bench.state_dict()["layer0.a"]
    assert torch.equal(found[1], before[1])
    p = {name.removeprefix("param_"): value[0].double() for name, value in state.items() if name.startswith("param_")}
    truth = (p["d_up"] - p["d_down"]) / (p["s_up"] + p["s_down"])
    error = (found[0].double() - 100e-6) / 50e-6 - truth
    # The scatter of a single read is c2c bound / sqrt(states) = 0.004 weight (T4b), of neighbouring reads somewhat less;
    # the mean over 2048 cells is 0.0001 without a bias. A bias of 0.002 would be seen with certainty.
    assert float(error.std()) < 0.008
    assert abs(float(error.mean())) < 0.002


def test_statements_say_what_a_known_map_says() -> None:
    axes = {"alpha_a": (0.01, 0.1, 1.0, 10.0), "alpha_c": (0.1, 1.0, 10.0)}

    def accuracy(p: Mapping[str, float]) -> float:
        return 0.97 - 0.1 * np.log10(p["alpha_a"]) ** 2 - 0.3 * max(0.0, np.log10(p["alpha_c"]))

    found = lattice(axes, accuracy, digital=0.97, noise=0.001)
    said = dict(statements(found))
    assert said["Is Tiki-Taka's window in alpha_A two-sided?"].startswith("Yes")
    assert said["Where is the upper limit of alpha_C?"].startswith("Between 1 (")
    flat = dict(statements(lattice(axes, lambda p: 0.97, digital=0.97)))
    assert flat["Is Tiki-Taka's window in alpha_A two-sided?"].startswith("Not shown")
    assert flat["Where is the upper limit of alpha_C?"].startswith("Not reached")


def test_a_network_is_named_by_what_was_trained_not_by_where_the_data_lie() -> None:
    data = load("digits", pool=4)
    here, there = (network_name(ExploreConfig(dataset=path), data) for path in ("/data/mnist", "/home/lab/mnist"))
    assert here == there == "mnist 4-32-10 tanh, batch 1, 5 epochs"
