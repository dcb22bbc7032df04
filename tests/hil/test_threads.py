"""Threads: sized once, and every array's work done once."""

from __future__ import annotations

import numba
import pytest
import torch

from hil.errors import UsageError
from hil.threads import set_threads, share


@pytest.fixture(autouse=True)
def _as_before():
    before = numba.get_num_threads(), torch.get_num_threads()
    yield
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.parametrize("number", [0, -1, 10_000])
def test_more_threads_than_cores_are_refused(number):
    with pytest.raises(UsageError, match=f"--threads {number}: this process has 1 to"):
        set_threads(number)


def test_by_default_compiled_loops_take_all_cores_and_torch_takes_one():
    set_threads(1)
    assert numba.get_num_threads() == 1
    set_threads(None)
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("arrays", [1, 2, 3, 16, 37])
def test_the_work_of_every_array_is_done_once(arrays):
    set_threads(None)
    done = [0] * arrays

    def work(first, last):
        for k in range(first, last):
            done[k] += 1

    share(arrays, work)
    assert done == [1] * arrays


def test_what_the_work_raises_is_raised():
    set_threads(None)

    def work(first, last):
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        share(8, work)
