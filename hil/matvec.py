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

__all__ = ["matvec"]

_F32 = NDArray[np.float32]


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _forward(v: _F32, g: _F32, active: NDArray[np.bool_], out: _F32) -> None:
    arrays, samples, rows = v.shape
    cols = g.shape[2]
    for a in range(arrays):
        if not active[a]:
            continue
        for s in range(samples):
            total = out[a, s]
            for r in range(rows):
                x = v[a, s, r]
                if x != 0:
                    line = g[a, r]
                    for c in range(cols):
                        total[c] += x * line[c]


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def _backward(v: _F32, g: _F32, active: NDArray[np.bool_], out: _F32) -> None:
    arrays, samples, cols = v.shape
    rows = g.shape[1]
    for a in range(arrays):
        if not active[a]:
            continue
        for s in range(samples):
            x = v[a, s]
            for r in range(rows):
                line = g[a, r]
                total = np.float32(0.0)
                for c in range(cols):
                    total += x[c] * line[c]
                out[a, s, r] = total


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
