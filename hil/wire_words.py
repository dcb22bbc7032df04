# mypy: disable-error-code="untyped-decorator"
"""The words of an update, packed and unpacked in compiled loops: a step at batch 1 on a board is made of them.

A line that fires is a word (slot s in bit s, bit 31 where its sign is negative); of a sample's lines only those that fire
are sent, behind a bitmap that says which.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hil.wire import BadFrame
from hil.wire_body import Reader

__all__ = ["Words", "check_words", "pack_words", "read_words", "signed_words"]

Words = NDArray[np.uint32]
"""[sample line]; 0 = silent."""

_SLOTS = np.uint32(0x7FFFFFFF)


def pack_words(lines: Words) -> bytes:
    """The bitmap of lines that fire, and their words."""
    flat = np.ascontiguousarray(lines).reshape(-1)
    bitmap, words = np.zeros((flat.size + 7) // 8, dtype=np.uint8), np.empty(flat.size, dtype="<u4")
    fires = _gather(flat, bitmap, words)
    return bitmap.tobytes() + words[:fires].tobytes()


def signed_words(bits: Words, sign: NDArray[np.int8]) -> Words:
    """Packed slots and signs, [sample line] each, as words."""
    words = np.empty(bits.shape, dtype=np.uint32)
    _sign(bits, sign, words)
    return words


def read_words(reader: Reader, samples: int, lines: int) -> Words:
    """Words [sample line]; BadFrame where the body is too short, or the bitmap has bits beyond its end."""
    count = samples * lines
    bitmap = reader.take((count + 7) // 8)
    number = int.from_bytes(bitmap, "little")
    if number >> count:
        raise BadFrame("bitmap has bits beyond its end")
    words = np.zeros((samples, lines), dtype=np.uint32)
    fires = number.bit_count()
    sent = np.frombuffer(reader.take(4 * fires), dtype="<u4")
    if fires:
        _scatter(np.frombuffer(bitmap, dtype=np.uint8), sent, words.reshape(-1))
    return words


def check_words(rows: Words, cols: Words, slots: NDArray[np.uint8]) -> None:
    """BadFrame unless every line that has a sign fires, in slots that its sample has; slots: [sample]."""
    if any(_silent(words) for words in (rows, cols)):
        raise BadFrame("a line has a sign and no slot in which it fires")
    if slots.size and int(slots.max()) > 31:
        raise BadFrame("a sample has more than 31 slots")
    if any(_beyond(words, slots) for words in (rows, cols)):
        raise BadFrame("a line fires in a slot that its sample does not have")


@numba.njit(cache=True, nogil=True)
def _sign(bits: Words, sign: NDArray[np.int8], out: Words) -> None:
    for s in range(bits.shape[0]):
        for i in range(bits.shape[1]):
            out[s, i] = bits[s, i] | (np.uint32(0x80000000) if sign[s, i] < 0 else np.uint32(0))


@numba.njit(cache=True, nogil=True)
def _gather(flat: Words, bitmap: NDArray[np.uint8], out: Words) -> int:
    fires = 0
    for i in range(flat.size):
        if flat[i] & _SLOTS:
            bitmap[i >> 3] |= np.uint8(1 << (i & 7))
            out[fires] = flat[i]
            fires += 1
    return fires


@numba.njit(cache=True, nogil=True)
def _scatter(bitmap: NDArray[np.uint8], sent: Words, flat: Words) -> None:
    number = 0
    for i in range(flat.size):
        if (bitmap[i >> 3] >> (i & 7)) & 1:
            flat[i] = sent[number]
            number += 1


@numba.njit(cache=True, nogil=True)
def _silent(words: Words) -> bool:
    for s in range(words.shape[0]):
        for i in range(words.shape[1]):
            if words[s, i] != 0 and words[s, i] & _SLOTS == 0:
                return True
    return False


@numba.njit(cache=True, nogil=True)
def _beyond(words: Words, slots: NDArray[np.uint8]) -> bool:
    for s in range(words.shape[0]):
        for i in range(words.shape[1]):
            if (words[s, i] & _SLOTS) >> slots[s]:
                return True
    return False
