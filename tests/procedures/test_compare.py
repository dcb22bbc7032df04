"""Two networks side by side: gradients against autograd, knees that shift as their gradients do, and clear refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hil.bench import Bench, open_bench
from hil.config import load_bench
from hil.datasets import load
from hil.errors import DataError, UsageError
from hil.ledger import Ledger
from hil.run_reader import RunReader
from procedures import gradient_scale
from procedures.compare import CompareConfig, compare, headline
from procedures.compare_report import compare_sections
from procedures.explore_config import ExploreConfig
from procedures.gradient_scale import GradientScale, measure_gradients
from procedures.knee import predicted_knee, rate_law
from tests.procedures.explorations import lattice

TINY: dict[str, Any] = {"hidden": (), "pool": 4, "limit": 40, "epochs": 2, "classes": (0, 1)}


@pytest.fixture
def bench(tmp_path: Path):
    with open_bench(load_bench("emulated"), tmp_path / "state") as made:
        yield made


def test_gradients_of_one_layer_are_those_of_the_softmax(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a learning rate of next to nothing the weights stay: E|g| = mean |x_i| |p_j - y_j| over cells and samples."""
    config = ExploreConfig(**TINY)
    data = load("digits", classes=(0, 1), pool=4, limit=40)
    kept: dict[str, Any] = {}
    real = gradient_scale.initialise

    def noted(bench: Bench, network: Any, plan: Any, limits: Any) -> Any:
        done = real(bench, network, plan, limits)
        kept["w"] = network.layers[0].algorithm.weight.clone()
        return done

    monkeypatch.setattr(gradient_scale, "initialise", noted)
    bench.populate(torch.arange(2))
    means, cells = gradient_scale.train_digitally(bench, config, torch.full((2,), 1e-12, dtype=torch.float64), data)
    x, y = data.train_x.double(), torch.nn.functional.one_hot(data.train_y, 2).double()
    assert cells.tolist() == [8]
    for k in range(2):
        d = torch.softmax(x @ kept["w"][k].double().T, dim=1) - y
        wanted = float((x.abs().mean(dim=1) * d.abs().mean(dim=1)).mean())
        assert means["layer0"][k] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.slow
def test_networks_are_met_where_their_trainings_end_alike(bench: Bench) -> None:
    """The more a network learns the smaller its gradients become, and the higher the rate that it takes."""
    config = ExploreConfig(**(TINY | {"classes": None, "pool": 2, "limit": 150}))
    data = load("digits", pool=2, limit=150)
    early, late = (measure_gradients(bench, config, level, data, 3) for level in (0.3, 0.5))
    assert 1e-4 < early.lr < late.lr < 0.1
    assert early.mean > late.mean
    assert early.samples == 2 * len(data.train_x)
    assert early.layers.shape == (1,)
    assert early.mean == pytest.approx(float(early.layers[0]))
    with pytest.raises(DataError, match="ask for another level"):
        measure_gradients(bench, config, 1e-3, data, 2)


ALPHAS = tuple(float(alpha) for alpha in np.logspace(-2, 1.5, 8))
RATES = tuple(float(rate) for rate in np.logspace(-3, 1, 9))


def run_of(folder: Path, name: str, knee: float) -> Path:
    """A run of explore whose accuracy is a rising function of lr_C / h(alpha / knee)."""

    def accuracy(point: Any) -> float:
        distance = np.log10(point["lr_c"] / 0.01) - np.log10(rate_law(np.array([point["alpha_a"] / knee]))[0] / 2)
        return float(0.1 + 0.85 / (1 + np.exp(-3 * distance)))

    config = ExploreConfig(**TINY)
    with Ledger.create(folder, "explore", {"options": config.model_dump(mode="json")}) as ledger:
        axes = {"alpha_a": ALPHAS, "alpha_c": (1.0,), "lr_a": (0.01,), "lr_c": RATES, "transfer_every": (1.0,)}
        lattice(axes, accuracy, noise=0.003, network=name).save(ledger.folder)
        return ledger.folder


def test_a_shift_is_predicted_and_measured(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of the second network are a third: its knee lies 0.477 decades higher, and that is found."""
    folders = [run_of(tmp_path / "runs", name, knee) for name, knee in (("one", 0.2), ("other", 0.6))]
    given = iter([0.6 / (0.01 * 0.2 * 80), 0.6 / (0.01 * 0.6 * 80)])

    def known(*_: Any) -> GradientScale:
        mean = next(given)
        return GradientScale(mean, mean / 50, np.array([mean]), 0.01, 80)

    monkeypatch.setattr("procedures.compare.measure_gradients", known)
    with Ledger.create(tmp_path / "runs", "compare", {}) as ledger:
        result = compare(bench, CompareConfig(first=str(folders[0]), second=folders[1].name), ledger)
        assert result.predicted == pytest.approx(np.log10(3))
        assert result.sides[0].predicted == pytest.approx(predicted_knee(0.01, result.sides[0].gradient.mean, 80))
        # Crossings are interpolated between half decades of a smooth curve: that, not chance, is most of the error.
        assert abs(result.measured - np.log10(3)) < 0.1
        assert result.error < 0.2
        assert len(headline(result).rows) == 3
        folder = ledger.folder
    with RunReader.open(folder) as run:
        (section,) = compare_sections(run)
    assert "predicted +0.477" in section.text
    from matplotlib.figure import Figure

    figure = Figure()
    section.figures[0].draw(figure)
    assert len(figure.axes[0].lines) >= 6


def test_what_cannot_be_compared_is_refused(bench: Bench, tmp_path: Path) -> None:
    folder = run_of(tmp_path / "runs", "one", 0.2)
    with Ledger.create(tmp_path / "runs", "train", {}) as other:
        lattice({"alpha_a": (1.0,)}, lambda _: 0.5).save(other.folder)
    with Ledger.create(tmp_path / "runs", "compare", {}) as ledger:
        with pytest.raises(UsageError, match="is no folder of a run"):
            compare(bench, CompareConfig(first=str(folder), second="nothing"), ledger)
        with pytest.raises(UsageError, match="is a run of train"):
            compare(bench, CompareConfig(first=other.folder.name, second=str(folder)), ledger)
    explored = lattice({"alpha_a": ALPHAS, "lr_a": (0.01, 0.02), "lr_c": RATES, "alpha_c": (1.0,)}, lambda p: p["lr_c"] / 20)
    replace(explored, network="two rates").save(folder)
    with Ledger.create(tmp_path / "runs", "compare", {}) as ledger, pytest.raises(DataError, match="2 values of lr_a"):
        compare(bench, CompareConfig(first=str(folder), second=str(folder)), ledger)
