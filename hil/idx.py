"""The IDX file format of MNIST, read strictly.

Layout, big-endian: two zero bytes, one byte for the type of a value (0x08 = unsigned byte), one for the number of
dimensions, a 32-bit size for each of them, then the values, the last dimension running fastest. Whatever is not
exactly that is refused. Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", file formats.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from hil.errors import DataError

__all__ = ["read_idx"]

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08
PIECE = 2**22
"""Bytes read at once."""


def read_idx(path: Path, dims: int) -> NDArray[np.uint8]:
    """The values of an IDX file of unsigned bytes with ``dims`` dimensions, each of size 1 or more.

    A gzip-compressed file is known by its first bytes, not by its name.
    Raises DataError where the file cannot be read, is truncated, corrupt, too long, or of another type or dimension.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            raw.seek(0)
            if packed:
                with gzip.open(raw) as unpacked:
                    return _parse(cast("BinaryIO", unpacked), path, dims)
            return _parse(raw, path, dims)
    except EOFError as exc:
        raise DataError(f"{path}: the gzip stream ends early: the file is truncated, fetch it again") from exc
    except (gzip.BadGzipFile, zlib.error) as exc:
        raise DataError(f"{path}: corrupt gzip stream ({exc}): fetch the file again") from exc
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror or exc}): check the file and its permissions") from exc


def _parse(stream: BinaryIO, path: Path, dims: int) -> NDArray[np.uint8]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError(f"{path}: not an IDX file (it starts with {magic.hex(' ') or 'nothing'}): needs 00 00 08 {dims:02x}")
    if magic[2] != UNSIGNED_BYTE:
        raise DataError(f"{path}: IDX values of type 0x{magic[2]:02x}: store them as unsigned bytes (0x08)")
    if magic[3] != dims:
        raise DataError(f"{path}: {magic[3]} dimensions where {dims} are needed: are images and labels swapped?")
    header = stream.read(4 * dims)
    if len(header) < 4 * dims:
        raise DataError(f"{path}: the file ends inside its header: it is truncated, fetch it again")
    sizes = struct.unpack(f">{dims}I", header)
    if 0 in sizes:
        raise DataError(f"{path}: sizes {list(sizes)} hold no value: give a file with at least one sample")
    want = math.prod(sizes)
    # In pieces, since a read allocates what it is asked for and a corrupt header may ask for anything. One byte more
    # than wanted shows a tail, and makes gzip reach its end and verify its checksum.
    body = bytearray()
    while piece := stream.read(min(PIECE, want + 1 - len(body))):
        body += piece
    if len(body) != want:
        found = f"{len(body)} value bytes" if len(body) < want else "bytes after the last value"
        raise DataError(f"{path}: {found} where sizes {list(sizes)} need exactly {want}: fetch the file again")
    return np.frombuffer(body, dtype=np.uint8).reshape(sizes)
