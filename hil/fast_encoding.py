"""The keys and the encoding of ``hil.encoding`` in numba, operation for operation: a step at batch 1 is made of them.

Tests hold both bit-equal. ``mix`` and ``line_hash`` are the counter hash for kernels that run on the CPU.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FIRST",
    "PHI32",
    "PSI32",
    "SPREAD",
    "STOCHASTIC",
    "draw_bits",
    "draw_keys",
    "encode_loops",
    "encode_sample",
    "fire_lines",
    "key_at",
    "line_bits",
    "line_hash",
    "mix",
]

PHI32 = np.uint32(0x9E3779B9)
PSI32 = np.uint32(0x85EBCA6B)
STOCHASTIC, FIRST, SPREAD = 0, 1, 2
"""``PulseTrain.kind`` as a number."""
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_ONE_24 = np.float32(2.0**24)
_SLOT = (np.arange(32, dtype=np.uint32) * PSI32).astype(np.uint32)
_BIT = (np.uint32(1) << np.arange(32, dtype=np.uint32)).astype(np.uint32)
_F32 = NDArray[np.float32]
_I8 = NDArray[np.int8]


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


@numba.njit(inline="always")
def key_at(base0: np.uint32, base1: np.uint32, counter: int) -> tuple[np.uint32, np.uint32]:
    """Key number ``counter`` of a stream."""
    number = np.uint32(counter)
    return mix(np.uint32(base0 ^ mix(np.uint32(number * PHI32)))), mix(np.uint32(base1 + np.uint32(number * PSI32)))


@numba.njit(cache=True, nogil=True)
def draw_keys(base: NDArray[np.uint32], counter: NDArray[np.int64], out: NDArray[np.uint32]) -> None:
    """The next keys of every array, [array count 2]; the counter is left to the caller."""
    arrays, count, _ = out.shape
    for a in range(arrays):
        for i in range(count):
            out[a, i, 0], out[a, i, 1] = key_at(base[a, 0], base[a, 1], counter[a] + i)


@numba.njit(cache=True, nogil=True)
def encode_sample(
    x: _F32, d: _F32, gain: np.float32, wanted: np.float32, management: bool, slot_management: bool, p_x: _F32, p_d: _F32,
    sign_x: _I8, sign_d: _I8,
) -> int:  # fmt: skip
    """Probabilities and signs of one sample, every line written; returns the slots. gain = rate / step."""
    max_x, max_d = np.float32(0), np.float32(0)
    for i in range(len(x)):
        max_x = max(max_x, abs(x[i]))
    for j in range(len(d)):
        max_d = max(max_d, abs(d[j]))
    k = np.float32(np.float32(gain * max_x) * max_d)
    if not k > 0:
        _lines(x, _ZERO, p_x, sign_x)
        _lines(d, _ZERO, p_d, sign_d)
        return 0
    slots = min(np.float32(np.ceil(k)), wanted) if slot_management else wanted
    base = np.float32(np.sqrt(np.float32(gain / max(slots, _ONE))))
    scale_x, scale_d = base, base
    if management:
        shrink = min(np.float32(slots / k), _ONE)
        balance = np.float32(np.sqrt(np.float32(max_x / np.float32(max_d * shrink))))
        scale_x = np.float32(base / balance)
        scale_d = np.float32(base * balance)
    _lines(x, scale_x, p_x, sign_x)
    _lines(d, scale_d, p_d, sign_d)
    return int(slots)


@numba.njit(cache=True, nogil=True)
def _lines(value: _F32, scale: np.float32, p: _F32, sign: _I8) -> None:
    for i in range(len(value)):
        p[i] = min(np.float32(abs(value[i]) * scale), _ONE)
        fires = scale > 0
        sign[i] = np.int8(fires and value[i] > 0) - np.int8(fires and value[i] < 0)


@numba.njit(cache=True, nogil=True)
def encode_loops(
    x: _F32, d: _F32, gain: _F32, wanted: _F32, management: bool, slot_management: bool, p_x: _F32, p_d: _F32,
    sign_x: NDArray[np.int8], sign_d: NDArray[np.int8], slots_out: NDArray[np.int32],
) -> None:  # fmt: skip
    """Probabilities, signs and slots of ``hil.encoding.encode``; gain [array] = rate / step."""
    arrays, samples, _ = x.shape
    for a in range(arrays):
        for s in range(samples):
            slots_out[a, s] = encode_sample(
                x[a, s], d[a, s], gain[a], wanted[a], management, slot_management, p_x[a, s], p_d[a, s],
                sign_x[a, s], sign_d[a, s],
            )  # fmt: skip


@numba.njit(inline="always")
def line_bits(limit: np.uint32, slots: int, key0: np.uint32, key1: np.uint32, line: np.uint32) -> np.uint32:
    """Packed slots of one line of a stochastic train: each fires where its word >> 8 is below ``limit``."""
    place = line_hash(key0, key1, line)
    bits = np.uint32(0)
    for slot in range(slots):
        word = mix(np.uint32(place + _SLOT[slot]))
        if (word >> np.uint32(8)) < limit:
            bits |= _BIT[slot]
    return bits


@numba.njit(cache=True, nogil=True)
def fire_lines(
    p: _F32, sign: _I8, slots: int, kind: int, key0: np.uint32, key1: np.uint32, out: NDArray[np.uint32],
) -> None:  # fmt: skip
    """Packed slots of every line of a whole train of one sample, by its ``PulseTrain.kind`` (STOCHASTIC, FIRST, SPREAD)."""
    for i in range(len(p)):
        bits = np.uint32(0)
        if sign[i] != 0 and p[i] > 0:
            if kind == STOCHASTIC:
                limit = np.uint32(np.rint(np.float32(p[i] * _ONE_24)))
                bits = line_bits(limit, slots, key0, key1, np.uint32(i))
            else:
                count = int(np.rint(np.float32(p[i] * np.float32(slots))))
                for slot in range(slots):
                    if kind == FIRST:
                        fires = slot < count
                    else:
                        fires = (slot + 1) * count // slots > slot * count // slots
                    if fires:
                        bits |= _BIT[slot]
        out[i] = bits


@numba.njit(cache=True, nogil=True)
def draw_bits(
    p: _F32,
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
                limit = np.uint32(np.rint(np.float32(p[a, s, i] * _ONE_24)))
                if sign[a, s, i] == 0 or limit == 0:
                    continue
                out[a, s, i] = line_bits(limit, total, key0, key1, line[i])
