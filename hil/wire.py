"""Frames of the open crossbar protocol: what both ends put on the wire. The whole of it is in docs/wire-protocol.md.

A frame is ``COBS(header + body + CRC-32) 0x00``, little-endian throughout. The header has 20 bytes: version, kind,
flags, credits (u8 each), boot nonce, session, sequence (u32 each), length of the body (u32).
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass

from cobs import cobs

__all__ = ["DELIMITER", "HEADER_BYTES", "VERSION", "BadFrame", "Code", "Flag", "Frame", "Kind", "Splitter"]

VERSION = 1
DELIMITER = b"\0"
_HEADER = struct.Struct("<BBBBIIII")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
_UNSPLIT_BYTES = 2**22
"""What a splitter holds of a frame that does not end; more is noise, and thrown away."""


class Kind(enum.IntEnum):
    """What a request asks for; its reply has the same kind."""

    HELLO = 0x01
    OPEN = 0x02
    CLOSE = 0x03
    ARM = 0x04
    SAFE = 0x05
    STATUS = 0x06
    HEARTBEAT = 0x07
    ABORT = 0x08
    READ = 0x10
    MVM = 0x11
    PULSE = 0x12
    UPDATE = 0x13
    TRACE = 0x14
    PROGRAM = 0x15
    REFERENCE = 0x16


class Flag(enum.IntFlag):
    """Bits of the flags byte."""

    NONE = 0
    REPLY = 1
    ERROR = 2
    """Of a reply: the body is an ``ErrorReply``."""
    POSTED = 4
    """Of a request: it is refused with SKIPPED once a request before it has failed, up to the next without this flag."""


class Code(enum.IntEnum):
    """Why a board refuses."""

    MALFORMED = 1
    """The body does not fit its kind, or the kind is unknown."""
    VERSION = 2
    """Another version of the protocol."""
    BUSY = 3
    """Another host has a session."""
    SESSION = 4
    """No such session: open one."""
    NONCE = 5
    """The board has rebooted since."""
    GAP = 6
    """A request before this one did not arrive; ``operation`` is the sequence expected. Nothing was done."""
    GONE = 7
    """Answered long ago, and the answer is no longer kept."""
    DISARMED = 8
    """Pulses need ARM first."""
    WATCHDOG = 9
    """The host was silent too long: the array was grounded and disarmed. Nothing was done."""
    LIMIT = 10
    """Outside the limits it was armed with."""
    UNABLE = 11
    """Outside what the board can do."""
    INTERLOCK = 12
    ABORTED = 13
    SKIPPED = 14
    """Not done, because a request before it failed."""
    HARDWARE = 15


class BadFrame(ValueError):
    """Bytes that are no frame of this protocol."""


@dataclass(frozen=True)
class Frame:
    """One message. kind is a plain number, since a board must answer kinds that it does not know."""

    kind: int
    body: bytes = b""
    flags: Flag = Flag.NONE
    credits: int = 0
    """Of a reply: how many requests beyond this one the board has room for, 0 to 255."""
    nonce: int = 0
    session: int = 0
    sequence: int = 0
    version: int = VERSION

    def encode(self) -> bytes:
        """The bytes of the frame, its delimiter included."""
        head = _HEADER.pack(
            self.version, self.kind, int(self.flags), self.credits, self.nonce, self.session, self.sequence, len(self.body)
        )
        inside = head + self.body
        return bytes(cobs.encode(inside + _CRC.pack(zlib.crc32(inside)))) + DELIMITER

    @classmethod
    def decode(cls, unit: bytes) -> Frame:
        """The frame between two delimiters; BadFrame unless every check holds."""
        try:
            inside = bytes(cobs.decode(unit))
        except cobs.DecodeError as exc:
            raise BadFrame(f"frame of {len(unit)} bytes is not COBS: {exc}") from exc
        if len(inside) < HEADER_BYTES + _CRC.size:
            raise BadFrame(f"frame of {len(inside)} bytes is shorter than its header")
        (crc,) = _CRC.unpack_from(inside, len(inside) - _CRC.size)
        inside = inside[: -_CRC.size]
        if zlib.crc32(inside) != crc:
            raise BadFrame("frame with a wrong CRC")
        version, kind, flags, room, nonce, session, sequence, length = _HEADER.unpack_from(inside)
        body = inside[HEADER_BYTES:]
        if length != len(body):
            raise BadFrame(f"frame says {length} bytes of body and has {len(body)}")
        return cls(kind, body, Flag(flags & 7), room, nonce, session, sequence, version)


class Splitter:
    """Cuts a stream of bytes into what lies between delimiters; empty pieces are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Whole pieces that ``data`` completes."""
        *pieces, self._rest = (self._rest + data).split(DELIMITER)
        if len(self._rest) > _UNSPLIT_BYTES:
            self._rest = b""
        return [piece for piece in pieces if piece]

    def reset(self) -> None:
        """Forget what is incomplete: the link was opened anew."""
        self._rest = b""
