"""Hash, Gaussians and packed slots inside a Triton kernel, bit for bit those of ``hil.encoding``."""

from __future__ import annotations

import pytest
import torch

from hil.encoding import Stream, gauss, word

pytest.importorskip("triton")
import triton
import triton.language as tl

from simulated_backend.kernels.cuda_draws import gauss_pairs, line_hash, mix, normal, popcount, unsigned

SIZE = 256


@triton.jit
def _drawn(key0, key1, words, normals, ones, pairs, slot, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    key0, key1 = unsigned(tl.load(key0 + place)), unsigned(tl.load(key1 + place))
    hashed = line_hash(key0, key1, unsigned(place * 7919))
    drawn = mix(hashed + unsigned(tl.full([SIZE], slot, tl.int32)) * 0x85EBCA6B)
    tl.store(words + place, drawn.to(tl.int32, bitcast=True))
    tl.store(normals + place, normal(hashed, unsigned(tl.full([SIZE], slot, tl.int32)), pairs, place >= 0))
    tl.store(ones + place, popcount(drawn).to(tl.int32))


@pytest.mark.parametrize("slot", [0, 1, 30, -1])
def test_words_and_gaussians(device: torch.device, slot: int) -> None:
    """Keys with either top bit, places and slots that wrap around."""
    key = Stream(11, torch.arange(SIZE), "m", "x").keys(1)[:, 0]
    place = torch.arange(SIZE, dtype=torch.int32) * 7919
    words, ones = torch.empty(SIZE, dtype=torch.int32, device=device), torch.empty(SIZE, dtype=torch.int32, device=device)
    normals = torch.empty(SIZE, device=device)
    first, second = key[:, 0].contiguous().to(device), key[:, 1].contiguous().to(device)
    _drawn[(1,)](first, second, words, normals, ones, gauss_pairs(device), slot, SIZE=SIZE, enable_fp_fusion=False)
    want = word(key, place, slot)
    assert (want < 0).any()
    assert (key < 0).any()
    assert torch.equal(words.cpu(), want)
    assert torch.equal(normals.cpu(), gauss(want))
    assert ones.tolist() == [(x & 0xFFFFFFFF).bit_count() for x in want.tolist()]
