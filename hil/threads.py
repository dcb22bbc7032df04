"""How many threads compiled code takes: one pool, sized once.

Torch keeps one thread: its operations here are small, and two threads beside another busy process make small operations
many times slower. Compiled loops over a population take the cores that the process may use.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import torch

from hil.errors import UsageError

__all__ = ["set_threads", "share"]

_SHARES = 4
"""Parts of the work for each thread, so that a slow one does not keep the others waiting."""


def set_threads(number: int | None) -> None:
    """Take ``number`` threads for compiled loops over a population; None = the cores that the process may use.

    UsageError for a number below 1 or above those cores. Results do not depend on it.
    """
    most = int(numba.config.NUMBA_NUM_THREADS)
    if number is not None and not 1 <= number <= most:
        raise UsageError(f"--threads {number}: this process has 1 to {most}: give a number in that range, or none")
    numba.set_num_threads(number or most)
    # Afterwards: both may share one OpenMP, and numba sizes that to all cores when it starts its pool.
    torch.set_num_threads(1)


def share(arrays: int, work: Callable[[int, int], Any]) -> None:
    """``work(first, last)`` on slices that make up all arrays, on the threads there are.

    ``work`` must release the interpreter lock to gain from it. What a call raises is raised here.
    """
    threads = min(int(numba.get_num_threads()), arrays)
    if threads <= 1:
        work(0, arrays)
        return
    parts = min(arrays, threads * _SHARES)
    cuts = [arrays * k // parts for k in range(parts + 1)]
    for _ in _pool(threads).map(work, cuts[:-1], cuts[1:]):
        pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="compiled")
