"""How the open crossbar protocol puts numbers, bitmaps and texts into a body.

Numbers are little-endian; voltages, widths, conductances and currents are SI; NaN stands for "none". Cells are row-major,
masks are bitmaps with cell (or line) i in bit i % 8 of byte i // 8. Unpacking raises BadFrame for anything that is
not exactly one message.
"""

from __future__ import annotations

import struct
from dataclasses import fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hil.wire import BadFrame

__all__ = ["Bits", "Flat", "Floats", "Reader", "pack_bits", "pack_floats", "text", "unpack_bits", "unpack_floats"]

Bits = NDArray[np.bool_]
Floats = NDArray[np.float32]


def pack_bits(bits: Bits) -> bytes:
    """A bitmap: element i in bit i % 8 of byte i // 8."""
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()


def unpack_bits(data: bytes, count: int) -> Bits:
    """``count`` elements of a bitmap; BadFrame where it has another length or bits set beyond them."""
    if len(data) != (count + 7) // 8:
        raise BadFrame(f"bitmap of {len(data)} bytes for {count} elements")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little").astype(np.bool_)
    if bits[count:].any():
        raise BadFrame("bitmap has bits beyond its end")
    return bits[:count]


def pack_floats(values: NDArray[Any]) -> bytes:
    """float32 in order."""
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def unpack_floats(data: bytes, count: int) -> Floats:
    """``count`` float32; BadFrame where there are more or fewer."""
    if len(data) != 4 * count:
        raise BadFrame(f"{len(data)} bytes for {count} float32")
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def text(value: str) -> bytes:
    """A text: its length in one byte, then at most 255 bytes of UTF-8; a longer one is cut between characters."""
    raw = value.encode()[:255].decode(errors="ignore").encode()
    return bytes([len(raw)]) + raw


class Reader:
    """Takes a body apart from the front; BadFrame where it is too short, or too long at the end."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._body):
            raise BadFrame(f"body of {len(self._body)} bytes is too short")
        self._at += count
        return self._body[self._at - count : self._at]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def bits(self, count: int) -> Bits:
        return unpack_bits(self.take((count + 7) // 8), count)

    def array(self, kind: str, count: int) -> NDArray[Any]:
        size = np.dtype(kind).itemsize
        return np.frombuffer(self.take(size * count), dtype=kind)

    def text(self) -> str:
        try:
            return self.take(self.take(1)[0]).decode()
        except UnicodeDecodeError as exc:
            raise BadFrame("a text is not UTF-8") from exc

    def end(self) -> None:
        if self._at != len(self._body):
            raise BadFrame(f"body has {len(self._body) - self._at} bytes too many")


class Flat:
    """A message of numbers only, in the order of its fields."""

    _layout: struct.Struct

    def pack(self) -> bytes:
        return self._layout.pack(*(getattr(self, field.name) for field in fields(self)))  # type: ignore[arg-type]

    @classmethod
    def unpack(cls, body: bytes) -> Self:
        return cls.read(_whole(body, cls._layout.size))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(*reader.unpack(cls._layout))


def _whole(body: bytes, size: int) -> Reader:
    if len(body) != size:
        raise BadFrame(f"body of {len(body)} bytes instead of {size}")
    return Reader(body)
