"""What kernels on the CPU draw: packed slots and Gaussians, bit-equal to ``hil.encoding``."""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hil.encoding import GAUSS, PulseTrain
from hil.fast_encoding import PSI32, mix

__all__ = ["GAUSS_LOW", "GAUSS_RISE", "every_array", "normal", "packed_bits", "popcount", "u32"]

GAUSS_LOW: NDArray[np.float32] = GAUSS[0].numpy().copy()
GAUSS_RISE: NDArray[np.float32] = GAUSS[1].numpy().copy()
_STEP = np.float32(2.0**-22)


@numba.njit(inline="always")
def normal(place: np.uint32, number: np.uint32, low: NDArray[np.float32], rise: NDArray[np.float32]) -> np.float32:
    """The Gaussian of a place's slot or pulse ``number``."""
    word = mix(np.uint32(place + np.uint32(number * PSI32)))
    index = word >> np.uint32(22)
    return np.float32(low[index] + np.float32(np.float32(word & np.uint32(0x3FFFFF)) * _STEP) * rise[index])


@numba.njit(inline="always")
def popcount(x: np.uint32) -> np.uint32:
    """Ones among the 32 bits of x."""
    x = np.uint32(x - ((x >> np.uint32(1)) & np.uint32(0x55555555)))
    x = np.uint32((x & np.uint32(0x33333333)) + ((x >> np.uint32(2)) & np.uint32(0x33333333)))
    x = np.uint32((x + (x >> np.uint32(4))) & np.uint32(0x0F0F0F0F))
    return np.uint32(np.uint32(x * np.uint32(0x01010101)) >> np.uint32(24))


def u32(x: Tensor) -> NDArray[np.uint32]:
    """An int32 tensor on the CPU, seen as uint32."""
    view: NDArray[np.uint32] = x.contiguous().numpy().view(np.uint32)
    return view


def packed_bits(train: PulseTrain) -> NDArray[np.uint32]:
    """``train.bits()`` as uint32 [array sample line]."""
    return u32(train.bits())


def every_array(arrays: int, active: Tensor | None) -> NDArray[np.bool_]:
    """``active`` as numpy, all true where it is None."""
    return torch.ones(arrays, dtype=torch.bool).numpy() if active is None else active.numpy()
