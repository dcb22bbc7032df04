"""Batched vector-matrix products whose rounding does not depend on how many arrays there are.

A BLAS may sum in another order for a batch of 1,000 than for one matrix, so that an array trained alone would differ from
the same array in a population. These loops sum every output in one fixed order, and skip silent lines.
"""

from __future__ import annotations

from typing import Literal

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["backward_sample", "forward_sample", "matvec"]

_F32 = NDArray[np.float32]


_I32 = NDArray[np.int32]


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def forward_sample(v: _F32, g: _F32, out: _F32, busy: _I32) -> None:
    """out[col] += sum_row v[row] g[row, col], one line after another. busy: int32 [>= row], scratch."""
    rows, cols = g.shape
    number = 0
    for r in range(rows):
        if v[r] != 0:
            busy[number] = r
            number += 1
    # Four lines a pass: each total is loaded once for four products, which are still added one after another.
    whole = number - number % 4
    for k in range(0, whole, 4):
        r0, r1, r2, r3 = busy[k], busy[k + 1], busy[k + 2], busy[k + 3]
        for c in range(cols):
            total = out[c]
            total += v[r0] * g[r0, c]
            total += v[r1] * g[r1, c]
            total += v[r2] * g[r2, c]
            total += v[r3] * g[r3, c]
            out[c] = total
    for k in range(whole, number):
        r = busy[k]
        x = v[r]
        for c in range(cols):
            out[c] += x * g[r, c]


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def backward_sample(v: _F32, g: _F32, out: _F32) -> None:
    """out[row] = sum_col v[col] g[row, col]."""
    rows, cols = g.shape
    for r in range(rows):
        total = np.float32(0.0)
        for c in range(cols):
            total += v[c] * g[r, c]
        out[r] = total


@numba.njit(cache=True, nogil=True)
def _forward(v: _F32, g: _F32, active: NDArray[np.bool_], out: _F32) -> None:
    arrays, samples, rows = v.shape
    busy = np.empty(rows, dtype=np.int32)
    for a in range(arrays):
        if active[a]:
            for s in range(samples):
                forward_sample(v[a, s], g[a], out[a, s], busy)


@numba.njit(cache=True, nogil=True)
def _backward(v: _F32, g: _F32, active: NDArray[np.bool_], out: _F32) -> None:
    arrays, samples, _ = v.shape
    for a in range(arrays):
        if active[a]:
            for s in range(samples):
                backward_sample(v[a, s], g[a], out[a, s])


_ALL: dict[int, NDArray[np.bool_]] = {}


def matvec(v: Tensor, g: Tensor, direction: Literal["forward", "backward"], active: Tensor | None = None) -> Tensor:
    """forward: out[a, s, col] = sum_row v[a, s, row] g[a, row, col]; backward: over cols. Inactive arrays give 0.

    On a GPU this is torch.bmm, and reproducibility over population sizes is the library's.
    """
    if v.device.type != "cpu":
        out = torch.bmm(v, g if direction == "forward" else g.transpose(1, 2))
        return out if active is None else out * active[:, None, None]
    out = torch.zeros(v.shape[0], v.shape[1], g.shape[2 if direction == "forward" else 1])
    who = _ALL.setdefault(len(v), np.ones(len(v), dtype=np.bool_)) if active is None else active.numpy()
    kernel = _forward if direction == "forward" else _backward
    kernel(v.contiguous().numpy(), g.numpy(), who, out.numpy())
    return out
