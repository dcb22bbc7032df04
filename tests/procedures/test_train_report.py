"""What training records of a network, and the part of the report made from the record alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hil.bench import open_bench
from hil.config import load_bench
from hil.encoding import UpdateSettings
from hil.ledger import Ledger
from hil.report.html import write_report
from procedures.network import NetworkPlan, build, initialise
from procedures.train import TrainResult
from procedures.train_report import record_network, train_sections

SEEDS, POINTS, EPOCHS = 2, 3, 4
RATES = {"sgd": ("lr",), "digital": ("lr",), "tiki-taka": ("lr_a", "lr_c", "n_s", "gamma", "n_reads")}


def network_of(bench, algorithm):
    """4-3-2, initial weights as training would program them."""
    rates = {name: torch.ones(bench.arrays, dtype=torch.float64) for name in RATES[algorithm]}
    update = UpdateSettings()
    plan = NetworkPlan((4, 3, 2), "tanh", algorithm, rates, "inputs", update, update, "mid", "mid", 1.0)
    network = build(bench, plan)
    initialise(bench, network, plan)
    return network


def result_of(algorithm, best=1):
    """Accuracies differ by point, so that the best is known; point k's curves and counts are told by k."""
    arrays = POINTS * SEEDS
    accuracy = torch.full((POINTS, SEEDS), 0.5)
    accuracy[best] = torch.tensor([0.75, 1.0])
    point = torch.arange(arrays).div(SEEDS, rounding_mode="floor").float()
    curve = point.expand(EPOCHS, -1) / 10 + 0.1
    return TrainResult(
        algorithm=algorithm,
        points=tuple({name: float(k) for name in RATES[algorithm]} for k in range(POINTS)),
        test_accuracy=accuracy,
        validation_accuracy=torch.full((POINTS, SEEDS), torch.nan),
        curves={"loss": curve, "train": curve, "validation": torch.empty(0, arrays), "test": curve},
        confusion=point.long()[:, None, None].expand(arrays, 2, 2),
        pulses_per_cell={} if algorithm == "digital" else {"layer0.c": 12.0, "layer1.c": 7.0},
        seconds=1.5,
    )


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger.create(tmp_path, "train", {"bench": {"name": "b"}, "options": {"classes": ["no", "yes"]}})
    yield ledger
    ledger.close()


@pytest.fixture
def bench(tmp_path):
    with open_bench(load_bench("emulated"), tmp_path) as bench:
        bench.populate(torch.arange(POINTS * SEEDS))
        yield bench


@pytest.mark.slow
def test_what_is_recorded_is_of_the_best_point(ledger, bench):
    network = network_of(bench, "tiki-taka")
    record_network(ledger, "tiki-taka", result_of("tiki-taka"), network, bench.pulses())
    (event,) = ledger.run.events("trained")
    arrays = ledger.run.arrays(event.number)
    assert (event.payload["label"], event.payload["best"], event.payload["seeds"]) == ("tiki-taka", 1, SEEDS)
    assert sorted(event.payload["matrices"]) == ["layer0.a", "layer0.c", "layer1.a", "layer1.c"]
    np.testing.assert_array_equal(arrays["confusion"], np.full((2, 2), SEEDS))
    assert arrays["test"].shape == (EPOCHS, POINTS * SEEDS)
    for name, tile in network.tiles.items():
        cells = tile.inputs * tile.outputs * SEEDS
        for kind in ("weights", "conductance", "pulses"):
            counts, edges = arrays[f"{name}_{kind}_counts"], arrays[f"{name}_{kind}_edges"]
            assert (counts.sum(), len(edges)) == (cells, len(counts) + 1)
    weights = network.tiles["layer0.c"].weights()[SEEDS : 2 * SEEDS]
    centres = (arrays["layer0.c_weights_edges"][:-1] + arrays["layer0.c_weights_edges"][1:]) / 2
    mean = (centres * arrays["layer0.c_weights_counts"]).sum() / weights.numel()
    width = np.diff(arrays["layer0.c_weights_edges"])[0]
    torch.testing.assert_close(float(mean), float(weights.mean()), atol=float(width), rtol=0)
    edges = arrays["layer0.c_conductance_edges"]
    assert 10e-6 < edges[0] < edges[-1] < 200e-6


def test_results_carry_units_and_the_label_only_where_it_tells_runs_apart(ledger, bench):
    network = network_of(bench, "sgd")
    record_network(ledger, "sgd", result_of("sgd"), network, bench.pulses(), label="sgd")
    record_network(ledger, "sgd", result_of("sgd"), network, bench.pulses(), label="second")
    results = ledger.run.results()
    assert results["test_accuracy"].value == pytest.approx(0.875)
    assert results["second: test_accuracy_std"].value == pytest.approx(0.25 / 2**0.5)
    assert results["pulses_per_cell_layer0.c"].value == 12.0
    assert {results[name].unit for name in results if "seconds" in name} == {"s"}
    assert "3 grid points" in results["test_accuracy"].description
    names = {"test_accuracy", "test_accuracy_std", "pulses_per_cell_layer0.c", "pulses_per_cell_layer1.c", "seconds"}
    assert set(results) == names | {f"second: {name}" for name in names}


def test_digital_weights_have_no_device(ledger, bench):
    record_network(ledger, "digital", result_of("digital"), network_of(bench, "digital"), bench.pulses())
    (event,) = ledger.run.events("trained")
    names = {name for name in ledger.run.arrays(event.number) if name.startswith("layer")}
    assert names == {f"layer{k}_weights_{part}" for k in (0, 1) for part in ("counts", "edges")}


def test_a_single_array_has_no_deviation(ledger, tmp_path):
    result = result_of("sgd")
    single = replace(
        result,
        points=({"lr": 0.1},),
        test_accuracy=torch.tensor([[0.5]]),
        validation_accuracy=torch.tensor([[0.5]]),
        curves={name: values[:, :1] for name, values in result.curves.items()},
        confusion=result.confusion[2:3],
    )
    with open_bench(load_bench("emulated"), tmp_path) as bench:
        record_network(ledger, "sgd", single, network_of(bench, "sgd"), bench.pulses())
    assert "test_accuracy_std" not in ledger.run.results()
    (section,) = train_sections(ledger.run)
    assert "one seed" in section.text
    assert section.tables == ()


def test_several_networks_are_compared_and_the_last_of_a_label_counts(ledger, bench):
    network = network_of(bench, "sgd")
    record_network(ledger, "sgd", result_of("sgd", best=0), network, bench.pulses(), label="again")
    record_network(ledger, "sgd", result_of("sgd", best=2), network, bench.pulses(), label="again")
    record_network(ledger, "digital", result_of("digital"), network_of(bench, "digital"), bench.pulses(), label="digital")
    comparison, again, digital = train_sections(ledger.run)
    assert comparison.title == "Comparison"
    assert [row[0] for row in comparison.tables[0].rows] == ["again", "digital"]
    assert comparison.tables[0].rows[0][1] == "87.50 ± 17.68"
    assert "lr = 2" in again.text
    assert "best of 3 grid points" in again.text
    assert len(again.tables[0].rows) == POINTS
    assert again.tables[0].rows[0][0] == "2"
    assert digital.title == "Training: digital"
    for section in (comparison, again, digital):
        assert all(len(row) == len(table.header) for table in section.tables for row in table.rows)


def test_a_run_without_a_trained_network(ledger):
    assert train_sections(ledger.run) == []
    for epoch in (1, 2):
        ledger.event("epoch", {"epoch": epoch}, {"train": np.array([0.5, 0.6]), "test": np.array([0.4, 0.5])})
    (section,) = train_sections(ledger.run)
    assert "2 epochs" in section.text


@pytest.mark.slow
def test_the_report_is_drawn_from_the_record_alone(ledger, bench):
    record_network(ledger, "tiki-taka", result_of("tiki-taka"), network_of(bench, "tiki-taka"), bench.pulses(), label="one")
    record_network(ledger, "digital", result_of("digital"), network_of(bench, "digital"), bench.pulses(), label="two")
    ledger.stop("done")
    with Ledger.open(ledger.folder) as run:
        sections = train_sections(run)
        text = write_report(run, sections).read_text(encoding="utf-8")
    names = [figure.name for section in sections for figure in section.figures]
    assert len(set(names)) == len(names) == len(list((ledger.folder / "figures").iterdir()))
    assert text.count("<figure") == len(names)
    assert "Comparison" in text
