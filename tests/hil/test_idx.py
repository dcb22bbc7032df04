"""The IDX parser: exactly the format, or a DataError of one line."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hil.errors import DataError
from hil.idx import read_idx

FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def idx(sizes: tuple[int, ...], values: bytes, kind: int = 8) -> bytes:
    return bytes((0, 0, kind, len(sizes))) + struct.pack(f">{len(sizes)}I", *sizes) + values


GOOD = idx((2, 2, 3), bytes(range(12)))


def refused(path: Path, content: bytes, dims: int = 3) -> str:
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path, dims)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_values_and_order(tmp_path, pack):
    path = tmp_path / "images"
    path.write_bytes(pack(GOOD))
    np.testing.assert_array_equal(read_idx(path, 3), np.arange(12).reshape(2, 2, 3))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "starts with nothing"),
        (b"\0\0", "not an IDX file"),
        (b"\x89PNG\r\n", "not an IDX file"),
        (idx((2, 2, 3), bytes(12), kind=0x0D), "type 0x0d"),
        (idx((12,), bytes(12)), "1 dimensions where 3"),
        (GOOD[:9], "inside its header"),
        (idx((2, 0, 3), b""), "hold no value"),
        (GOOD[:-1], "11 value bytes"),
        (GOOD + b"\0", "bytes after the last value"),
        (idx((2**32 - 1,) * 3, bytes(12)), "12 value bytes"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_refused(tmp_path, content, says, pack):
    assert says in refused(tmp_path / "images", pack(content))


def test_corrupt_gzip(tmp_path):
    packed = gzip.compress(GOOD)
    path = tmp_path / "images.gz"
    assert "truncated" in refused(path, packed[:-9])
    assert "corrupt gzip" in refused(path, packed[:-8] + bytes(4) + packed[-4:])
    assert "corrupt gzip" in refused(path, packed[:10] + b"\xff" + packed[11:])
    assert "corrupt gzip" in refused(path, packed + b"tail")


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "absent", 3)
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path, 3)


@FUZZ
@given(content=st.binary(max_size=40))
def test_random_bytes_never_give_another_error(tmp_path, content):
    refused(tmp_path / "plain", content)
    refused(tmp_path / "header", GOOD[:4] + content[:10])
    refused(tmp_path / "packed", gzip.compress(GOOD)[:4] + content)


def read_or_refused(path: Path) -> np.ndarray | str:
    try:
        return read_idx(path, 3)
    except DataError as error:
        return str(error)


@FUZZ
@given(data=st.data(), packed=st.booleans())
def test_a_damaged_file_is_refused_or_still_valid(tmp_path, data, packed):
    content = bytearray(gzip.compress(GOOD, mtime=0) if packed else GOOD)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path / "images"
    path.write_bytes(content)
    result = read_or_refused(path)
    if isinstance(result, str):
        assert "\n" not in result
    else:
        assert result.size == 12
        assert result.dtype == np.uint8
