"""The keys and the encoding of ``hil.encoding`` in numba, operation for operation: a step at batch 1 is made of them.

Tests hold both bit-equal. ``mix`` and ``line_hash`` are the counter hash for kernels that run on the CPU.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["PHI32", "PSI32", "draw_bits", "draw_keys", "encode_loops", "line_hash", "mix"]

PHI32 = np.uint32(0x9E3779B9)
PSI32 = np.uint32(0x85EBCA6B)
_ONE = np.float32(1.0)
_F32 = NDArray[np.float32]


@numba.njit(inline="always")
def mix(x: np.uint32) -> np.uint32:
    """The 32-bit mixer."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@numba.njit(inline="always")
def line_hash(key0: np.uint32, key1: np.uint32, place: np.uint32) -> np.uint32:
    """First half of ``word``: what a line or cell has in common over its slots or pulses."""
    return np.uint32(mix(np.uint32(key0 ^ np.uint32(place * PHI32))) ^ key1)


@numba.njit(cache=True, nogil=True)
def draw_keys(base: NDArray[np.uint32], counter: NDArray[np.int64], out: NDArray[np.uint32]) -> None:
    """The next keys of every array, [array count 2]; the counter is left to the caller."""
    arrays, count, _ = out.shape
    for a in range(arrays):
        for i in range(count):
            number = np.uint32(counter[a] + i)
            out[a, i, 0] = mix(np.uint32(base[a, 0] ^ mix(np.uint32(number * PHI32))))
            out[a, i, 1] = mix(np.uint32(base[a, 1] + np.uint32(number * PSI32)))


@numba.njit(cache=True, nogil=True)
def encode_loops(
    x: _F32, d: _F32, gain: _F32, wanted: _F32, management: bool, slot_management: bool, p_x: _F32, p_d: _F32,
    sign_x: NDArray[np.int8], sign_d: NDArray[np.int8], slots_out: NDArray[np.int32],
) -> None:  # fmt: skip
    """Probabilities, signs and slots of ``hil.encoding.encode``; gain [array] = rate / step."""
    arrays, samples, inputs = x.shape
    outputs = d.shape[2]
    for a in range(arrays):
        for s in range(samples):
            max_x, max_d = np.float32(0), np.float32(0)
            for i in range(inputs):
                max_x = max(max_x, abs(x[a, s, i]))
            for j in range(outputs):
                max_d = max(max_d, abs(d[a, s, j]))
            k = np.float32(np.float32(gain[a] * max_x) * max_d)
            if not k > 0:
                slots_out[a, s] = 0
                continue
            slots = min(np.float32(np.ceil(k)), wanted[a]) if slot_management else wanted[a]
            slots_out[a, s] = np.int32(slots)
            base = np.float32(np.sqrt(np.float32(gain[a] / max(slots, _ONE))))
            scale_x, scale_d = base, base
            if management:
                shrink = min(np.float32(slots / k), _ONE)
                balance = np.float32(np.sqrt(np.float32(max_x / np.float32(max_d * shrink))))
                scale_x = np.float32(base / balance)
                scale_d = np.float32(base * balance)
            for i in range(inputs):
                value = x[a, s, i]
                if value != 0:
                    p_x[a, s, i] = min(np.float32(abs(value) * scale_x), _ONE)
                    sign_x[a, s, i] = 1 if value > 0 else -1
            for j in range(outputs):
                value = d[a, s, j]
                if value != 0:
                    p_d[a, s, j] = min(np.float32(abs(value) * scale_d), _ONE)
                    sign_d[a, s, j] = 1 if value > 0 else -1


@numba.njit(cache=True, nogil=True)
def draw_bits(
    threshold: NDArray[np.int32],
    sign: NDArray[np.int8],
    slots: NDArray[np.int32],
    key: NDArray[np.uint32],
    line: NDArray[np.uint32],
    out: NDArray[np.uint32],
) -> None:
    """Packed slots of a stochastic train, [array sample line], drawn only for lines that can fire; ``out`` is 0 before."""
    arrays, samples, lines = sign.shape
    for a in range(arrays):
        for s in range(samples):
            total = slots[a, s]
            key0, key1 = key[a, s, 0], key[a, s, 1]
            for i in range(lines):
                level = threshold[a, s, i]
                if sign[a, s, i] == 0 or level == 0:
                    continue
                place = line_hash(key0, key1, line[i])
                limit = np.uint32(level)
                bits = np.uint32(0)
                for slot in range(total):
                    word = mix(np.uint32(place + np.uint32(np.uint32(slot) * PSI32)))
                    if (word >> np.uint32(8)) < limit:
                        bits |= np.uint32(1) << np.uint32(slot)
                out[a, s, i] = bits
