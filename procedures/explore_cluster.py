"""Chunks of an exploration on the workers of a Dask cluster (extra ``cluster``; docs/cluster.md).

A chunk's result follows from the bench file and its points alone, so whichever worker trains it, the numbers are those of
the local command. Dask gives the chunk of a worker that died to another one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hil.config import BenchConfig
from hil.datasets import Dataset, load
from hil.errors import DataError, HardwareError, UsageError
from procedures.exploration import Exploration, FloatArray
from procedures.explore_chunk import train_population
from procedures.explore_config import ExploreConfig

__all__ = ["digest", "spread", "train_remotely"]

CONNECT_S = 30.0
"""How long the scheduler, and then its first worker, are waited for, second."""
_one_at_a_time = threading.Lock()
"""A chunk uses all compiled threads of its process: a worker with several threads of its own trains one after the other."""


def spread(
    address: str, bench: BenchConfig, config: ExploreConfig, data: Dataset, whole: Exploration,
    chunks: Sequence[NDArray[Any]],
) -> Iterator[tuple[NDArray[Any], FloatArray, FloatArray]]:  # fmt: skip
    """(points, validation, test) of every chunk, in the order in which they are finished.

    UsageError without the extra; HardwareError where no scheduler or no worker answers, or where one chunk has cost as many
    workers as the scheduler allows, or the scheduler is gone; DataError where a worker has another data set.
    """
    try:
        distributed: Any = import_module("distributed")
        scheduler: Any = import_module("distributed.scheduler")
    except ImportError as exc:
        raise UsageError("explore.cluster: Dask is not installed: pip install 'crosspoint-hil[cluster]'") from exc
    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as exc:
        raise HardwareError(f"explore.cluster: no scheduler answers at {address}: start `dask scheduler` there") from exc
    with closing(client):
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except OSError as exc:
            raise HardwareError(f"explore.cluster: {address} has no worker: start `dask worker {address}`") from exc
        check = digest(data)
        # Not pure: a chunk is never taken from what some other client has computed.
        sent = {
            client.submit(train_remotely, bench, config, whole.some(chunk), check, pure=False): chunk for chunk in chunks
        }
        try:
            for future in distributed.as_completed(sent, loop=client.loop):
                try:
                    validation, test = future.result()
                except scheduler.KilledWorker as exc:
                    raise HardwareError(
                        f"explore.cluster: a chunk of {len(sent[future])} trainings cost one worker after another: give the "
                        "workers more memory, or a smaller explore.chunk"
                    ) from exc
                except CancelledError as exc:
                    raise HardwareError(
                        f"explore.cluster: the scheduler at {address} is gone: start it again, then resume this run"
                    ) from exc
                yield sent[future], validation, test
                future.release()
        finally:
            client.cancel(list(sent))


def train_remotely(
    bench: BenchConfig, config: ExploreConfig, points: Exploration, check: str
) -> tuple[FloatArray, FloatArray]:
    """What a worker does with a chunk: (validation, test) accuracy [point]. check: ``digest`` of the data set."""
    with _one_at_a_time:
        data = _loaded(config.dataset, config.classes, config.pool, config.limit)
        if digest(data) != check:
            raise DataError(f"{config.dataset}: a worker has another data set by that name: put the same files there")
        validation, test = train_population(bench, config, points, data, lambda epochs, note: None)
    return np.asarray(validation.numpy()), np.asarray(test.numpy())


@lru_cache(maxsize=1)
def _loaded(name: str, classes: tuple[int | str, ...] | None, pool: int, limit: int | None) -> Dataset:
    return load(name, classes=classes, pool=pool, limit=limit)


def digest(data: Dataset) -> str:
    """Of all samples, in their order."""
    found = hashlib.blake2b(digest_size=16)
    for part in ("train", "validation", "test"):
        for tensor in data.part(part):
            found.update(np.ascontiguousarray(tensor.numpy()).data)
    return found.hexdigest()
