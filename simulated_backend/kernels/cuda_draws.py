# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""What the GPU kernels draw, as Triton device functions bit-equal to ``hil.encoding``: hash, packed slots, Gaussians.

Words are uint32, so that shifts are logical and products wrap; keys and lines arrive as int32 and are reinterpreted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hil.encoding import GAUSS

__all__ = ["KINDS", "gauss_pairs", "line_hash", "mix", "normal", "packed_slots", "popcount", "unsigned"]

KINDS = {"stochastic": 0, "spread": 1, "first": 2, "given": 3}
"""``PulseTrain.kind`` as a compile-time number."""

_STOCHASTIC = tl.constexpr(KINDS["stochastic"])
_FIRST = tl.constexpr(KINDS["first"])
_GIVEN = tl.constexpr(KINDS["given"])
_PHI = tl.constexpr(0x9E3779B9)
_PSI = tl.constexpr(0x85EBCA6B)
_CHUNK = tl.constexpr(8)
"""Slots drawn at a time."""
_TIE = tl.constexpr(8388608.0)
"""2^23: adding and subtracting it rounds a smaller float32 to the nearest integer, ties to even, as torch does."""


@triton.jit
def unsigned(x):
    """int32 reinterpreted as uint32."""
    return x.to(tl.uint32, bitcast=True)


@triton.jit
def mix(x):
    """The 32-bit mixer, on uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def line_hash(key0, key1, place):
    """First half of ``word``, all uint32."""
    return mix(key0 ^ (place * _PHI)) ^ key1


@triton.jit
def normal(place, number, pairs, mask):
    """The Gaussian of a place's slot or pulse ``number``. pairs: see ``gauss_pairs``; where mask is false, anything."""
    word = mix(place + number * _PSI)
    pair = tl.load(pairs + (word >> 22).to(tl.int32), mask=mask, other=0)
    low = (pair & 0xFFFFFFFF).to(tl.uint32).to(tl.float32, bitcast=True)
    rise = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    fraction = (word & 0x3FFFFF).to(tl.int32).to(tl.float32) * 2.384185791015625e-07
    return low + fraction * rise


@triton.jit
def popcount(x):
    """Ones among the 32 bits of a uint32; compilers make one instruction of it."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (x * 0x01010101) >> 24


@triton.jit
def _round(x):
    """float32 in [0, 2^24] to the nearest integer, ties to even."""
    return tl.where(x < _TIE, (x + _TIE) - _TIE, x).to(tl.int32)


@triton.jit
def packed_slots(
    probability, sign, slots, key, line, packed, sample, lines, number, inside, LINES: tl.constexpr, KIND: tl.constexpr
):
    """(bits, sign), int32 [LINES], of the lines ``number`` [LINES] of one (array, sample) of a train; 0 where not inside.

    sample: the sample's index array * samples + sample; the pointers are those of a PulseTrain's tensors.
    """
    at = sample.to(tl.int64) * lines + number
    side = tl.load(sign + at, mask=inside, other=0).to(tl.int32)
    total = tl.load(slots + sample)
    fires = side != 0
    if KIND == _GIVEN:
        bits = tl.load(packed + at, mask=fires, other=0) & ((1 << total) - 1)
    else:
        bits = tl.zeros([LINES], dtype=tl.int32)
        p = tl.load(probability + at, mask=fires, other=0.0)
        if KIND == _STOCHASTIC:
            key0, key1 = unsigned(tl.load(key + 2 * sample)), unsigned(tl.load(key + 2 * sample + 1))
            place = line_hash(key0, key1, unsigned(tl.load(line + number, mask=inside, other=0)))
            below = _round(p * 16777216.0)
        else:
            below = _round(p * total.to(tl.float32))
        for start in range(0, total, _CHUNK):
            slot = start + tl.arange(0, _CHUNK)[None, :]
            if KIND == _STOCHASTIC:
                on = (mix(place[:, None] + unsigned(slot) * _PSI) >> 8).to(tl.int32) < below[:, None]
            elif KIND == _FIRST:
                on = slot < below[:, None]
            else:
                on = ((slot + 1) * below[:, None]) // total > (slot * below[:, None]) // total
            on = on & fires[:, None] & (slot < total)
            bits += tl.sum(tl.where(on, 1, 0) << slot, axis=1)
    return bits, side


_PAIRS: dict[torch.device, Tensor] = {}


def gauss_pairs(device: torch.device) -> Tensor:
    """``GAUSS`` as int64 [1024] on ``device``: both float32 of a segment in one word, so that a draw is one gather."""
    pairs = _PAIRS.get(device)
    if pairs is None:
        pairs = _PAIRS.setdefault(device, GAUSS.t().contiguous().view(torch.int64)[:, 0].to(device))
    return pairs
