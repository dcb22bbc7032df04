"""Words of an update on the wire against their definition."""

from __future__ import annotations

import numpy as np
import pytest

from hil.wire import BadFrame
from hil.wire_body import Reader, pack_bits
from hil.wire_words import check_words, pack_words, read_words, signed_words


@pytest.mark.parametrize(("samples", "lines"), [(1, 1), (1, 8), (3, 7), (2, 32), (0, 5)])
def test_a_bitmap_and_the_words_that_fire(samples: int, lines: int) -> None:
    rng = np.random.default_rng(samples * 100 + lines)
    words = rng.integers(1, 2**31, (samples, lines), dtype=np.uint32) * (rng.random((samples, lines)) < 0.5).astype(
        np.uint32
    )
    fires = words != 0
    packed = pack_words(words)
    assert packed == pack_bits(fires) + words[fires].astype("<u4").tobytes()
    reader = Reader(packed)
    np.testing.assert_array_equal(read_words(reader, samples, lines), words)
    reader.end()


def test_a_line_of_a_sign_alone_is_not_sent() -> None:
    assert pack_words(np.array([[0x80000000, 1]], dtype=np.uint32)) == b"\x02" + (1).to_bytes(4, "little")


def test_what_does_not_fit_is_no_frame() -> None:
    with pytest.raises(BadFrame, match="beyond its end"):
        read_words(Reader(b"\x08"), 1, 3)
    with pytest.raises(BadFrame, match="too short"):
        read_words(Reader(b"\x01\x01"), 1, 3)
    good, slots = np.array([[1]], dtype=np.uint32), np.array([1], dtype=np.uint8)
    check_words(good, good, slots)
    for words, slot, match in [(0x80000000, 1, "no slot"), (2, 1, "does not have"), (1, 32, "31 slots")]:
        with pytest.raises(BadFrame, match=match):
            check_words(good, np.array([[words]], dtype=np.uint32), np.array([slot], dtype=np.uint8))


def test_the_sign_is_the_last_bit() -> None:
    bits, sign = np.array([[5, 5, 0]], dtype=np.uint32), np.array([[1, -1, -1]], dtype=np.int8)
    assert signed_words(bits, sign).tolist() == [[5, 5 | 1 << 31, 1 << 31]]
