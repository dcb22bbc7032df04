"""Array k of a trained population is the same array trained alone, bit for bit.

Everything that could tie arrays together is on: the default periphery's noise, an ADC so small that bound management works
all the time, rates and transfer periods of their own, batches that transfers cut, write-verify of the initial weights, and
arrays that stop early.
"""

from __future__ import annotations

import pytest
import torch

from hil.bench import open_bench
from hil.config import load_bench
from hil.ledger import Ledger
from procedures.train import TrainConfig, train

CHANGES = ("boards.main.settings.periphery.full_scale=0.3", "boards.main.settings.periphery.read_noise_siemens=1e-8")


def trained(folder, name, changes=CHANGES, **options):
    """(result, inside of every matrix) of a small network on the shipped emulated bench."""
    config = TrainConfig(
        hidden=(6,), limit=30, train_on="train", reference_a="mid", reference_c="mid", checkpoint_s=1e6, **options
    )  # fmt: skip
    bench_config = load_bench("emulated", changes)
    with Ledger.create(folder / name, "train", {}, seed=0) as ledger, open_bench(bench_config, folder) as bench:
        result = train(bench, config, ledger)
        return result, bench.state_dict()


def assert_same_array(alone, together, k, *, read_on=False):
    """read_on: it had stopped before others did, and was read while they trained: counters of reads and time went on."""
    assert alone.keys() == together.keys()
    for matrix, inside in alone.items():
        for field, value in inside.items():
            if read_on and field in ("counter_mvm", "clock_s"):
                continue
            if field.endswith("_s"):
                # Virtual time is a sum of durations: equal to rounding, however a batch was cut.
                torch.testing.assert_close(value[0], together[matrix][field][k], rtol=1e-5, atol=0)
            else:
                assert torch.equal(value[0], together[matrix][field][k]), (matrix, field)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 7])
def test_tiki_taka_with_periods_of_its_own_and_early_stopping(tmp_path, batch):
    common = {"epochs": 3, "batch": batch, "patience": 1, "lr_c": 0.3}
    result, together = trained(tmp_path, "all", n_s=(1, 3), gamma=(0.0, 0.2), n_reads=(1, 2), seeds=2, **common)
    stopped = result.curves["validation"]
    # Some stop after two epochs, some do not, or the mask would not be tested.
    better = stopped[1] > stopped[0]
    assert bool(better.any())
    assert not bool(better.all())
    for k in (0, 3, 6, 9, 12, 15):
        point = result.points[k // 2]
        one, alone = trained(
            tmp_path, f"one{k}", first_seed=k % 2, n_s=point["n_s"], gamma=point["gamma"], n_reads=point["n_reads"], **common
        )  # fmt: skip
        epochs = len(one.curves["validation"])
        assert_same_array(alone, together, k, read_on=epochs < 3)
        for name in ("loss", "train", "validation", "test"):
            # An array trained alone ends when it stops; in a population it is read on, with noise of its own.
            assert torch.equal(one.curves[name][:epochs, 0], result.curves[name][:epochs, k])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sgd", "digital"])
def test_sgd_with_rates_of_its_own(tmp_path, algorithm):
    options = {"algorithm": algorithm, "epochs": 2, "batch": 4}
    result, together = trained(tmp_path, "all", lr=(0.01, 0.05, 0.2), seeds=2, **options)
    for k in range(6):
        one, alone = trained(tmp_path, f"one{k}", lr=(0.01, 0.05, 0.2)[k // 2], first_seed=k % 2, **options)
        assert_same_array(alone, together, k)
        for name in ("loss", "train", "validation", "test"):
            assert torch.equal(one.curves[name][:, 0], result.curves[name][:, k])


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["none", "mid"])
def test_references_that_the_host_subtracts(tmp_path, reference):
    changes = (*CHANGES, f"boards.main.settings.periphery.reference={reference}")
    options = {"epochs": 1, "batch": 5, "lr_c": 0.3}
    _, together = trained(tmp_path, "all", changes, n_s=(1, 2), seeds=2, **options)
    for k in range(4):
        _, alone = trained(tmp_path, f"one{k}", changes, first_seed=k % 2, n_s=(1, 2)[k // 2], **options)
        assert_same_array(alone, together, k)


@pytest.mark.slow
def test_bound_management_is_at_work_in_these_tests(tmp_path):
    """With the small ADC a network is read more often than with the default one."""
    reads = []
    for full_scale in (0.3, 1000.0):
        changes = (*CHANGES, f"boards.main.settings.periphery.full_scale={full_scale}")
        _, inside = trained(tmp_path, f"reads{full_scale}", changes, epochs=1, batch=10)
        reads.append(int(inside["layer0.c"]["counter_mvm"]))
    assert reads[0] > 1.05 * reads[1]
