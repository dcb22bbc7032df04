"""Chunks of an exploration on two worker processes, one of which is killed in the middle of a chunk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hil.bench import open_bench
from hil.config import load_bench
from hil.datasets import load
from hil.errors import DataError, HardwareError, UsageError
from hil.ledger import Ledger
from procedures import explore_cluster
from procedures.design import design
from procedures.exploration import Exploration
from procedures.explore import explore
from procedures.explore_cluster import digest, train_remotely
from procedures.explore_config import ExploreConfig

TINY: dict[str, Any] = {
    "alpha_a": (0.3, 3.0), "alpha_c": (0.3, 1.0), "lr_a": (0.02,), "lr_c": (0.1, 0.3), "lr": (0.01,), "digital_lr": (0.05,),
    "seeds": 1, "epochs": 2, "hidden": (4,), "pool": 4, "limit": 60, "pairs": 10, "reads": 2, "specify": False,
}  # fmt: skip


def explored(config: ExploreConfig, folder: Path) -> Exploration:
    with (
        Ledger.create(folder / "runs", "explore", None) as ledger,
        open_bench(load_bench("emulated"), folder / "state", ledger) as bench,
    ):
        return explore(bench, config, ledger).exploration


@contextmanager
def worker(address: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process without a nanny: what is killed stays so."""
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        address,
        "--no-nanny",
        "--nthreads",
        "1",
        "--no-dashboard",
    ]
    output = subprocess.DEVNULL
    started = subprocess.Popen([*command, "--local-directory", str(folder)], stdout=output, stderr=output)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@pytest.mark.slow
def test_a_worker_killed_in_mid_chunk_leaves_the_results_of_the_local_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
    local = explored(ExploreConfig(**TINY), tmp_path)
    killed = tmp_path / "killed"

    def killing(bench: Any, config: Any, points: Any, check: str) -> Any:
        """The first worker that comes to the end of an epoch dies there, one of two behind it."""
        import os
        import signal
        from pathlib import Path

        import procedures.explore_cluster as there

        train = there.train_population

        def train_or_die(bench: Any, config: Any, points: Any, data: Any, advance: Any) -> Any:
            def advance_or_die(epochs: int, note: str) -> None:
                try:
                    Path(killed).touch(exist_ok=False)
                except FileExistsError:
                    return
                os.kill(os.getpid(), signal.SIGKILL)

            return train(bench, config, points, data, advance_or_die)

        there.train_population = train_or_die
        try:
            return there.train_remotely(bench, config, points, check)
        finally:
            there.train_population = train

    monkeypatch.setattr(explore_cluster, "train_remotely", killing)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster,
        worker(cluster.scheduler_address, tmp_path) as one,
        worker(cluster.scheduler_address, tmp_path) as other,
    ):
        spread = explored(ExploreConfig(**TINY, chunk=3, cluster=cluster.scheduler_address), tmp_path)
        codes = [one.poll(), other.poll()]
    assert sorted(codes, key=str) == [-9, None]
    assert len(spread.finished()) == len(spread) == 8 + 2 + 1
    assert np.array_equal(local.validation, spread.validation)
    assert np.array_equal(local.test, spread.test)


def test_a_worker_with_another_data_set_says_so() -> None:
    config = ExploreConfig(**TINY)
    points = design(config, "a network", (1, 1)).some(np.arange(1))
    with pytest.raises(DataError, match="a worker has another data set by that name"):
        train_remotely(load_bench("emulated"), config, points, "another")


def test_the_digest_is_of_all_samples() -> None:
    data, again, fewer = load("digits", pool=4), load("digits", pool=4), load("digits", pool=4, limit=60)
    assert digest(data) == digest(again) != digest(fewer)


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    monkeypatch.setattr(explore_cluster, "CONNECT_S", 0.1)
    with pytest.raises(HardwareError, match=r"explore\.cluster: no scheduler answers at tcp://127\.0\.0\.1:9"):
        explored(ExploreConfig(**TINY, cluster="tcp://127.0.0.1:9"), tmp_path)


def test_without_dask_it_says_which_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'crosspoint-hil\[cluster\]'"):
        explored(ExploreConfig(**TINY, cluster="tcp://127.0.0.1:9"), tmp_path)


def test_a_board_is_not_spread(tmp_path: Path) -> None:
    with (
        Ledger.create(tmp_path / "runs", "explore", None) as ledger,
        open_bench(load_bench("emulated-board"), tmp_path / "state", ledger) as bench,
        pytest.raises(UsageError, match=r"explore\.cluster: emulated-board is a board, which is in one place"),
    ):
        explore(bench, ExploreConfig(cluster="tcp://127.0.0.1:9"), ledger)
