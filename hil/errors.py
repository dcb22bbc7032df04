"""The error tree.

    HilError                      exit 1   (never raised itself)
    ├── UsageError                exit 2   bad option, bench file, argument
    │   ├── ShapeError            exit 2   a tensor or mask of the wrong shape or type
    │   └── DataError             exit 2   a file that is not what it should be: data set, run, calibration
    ├── LimitError                exit 3   refused before a byte was sent
    └── HardwareError             exit 4   the board says no, or says nothing
        └── PulseOutcomeUnknown   exit 4   a pulse may or may not have been applied: re-read, never re-send

Every message is one line: what is wrong, where, and what to do about it. Drivers translate vendor
exceptions into this tree with ``raise ... from exc``.
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "HardwareError",
    "HilError",
    "LimitError",
    "PulseOutcomeUnknown",
    "ShapeError",
    "UsageError",
]


class HilError(Exception):
    """Root of every error this project raises on purpose."""

    exit_code = 1


class UsageError(HilError):
    """A bad option, bench file or argument."""

    exit_code = 2


class ShapeError(UsageError):
    """A tensor or mask whose shape or type does not fit the array it is meant for."""


class DataError(UsageError):
    """A file that is not what it claims to be: data set, run folder, calibration."""


class LimitError(HilError):
    """An operation outside the bench's limits, refused before a byte was sent."""

    exit_code = 3


class HardwareError(HilError):
    """A fault of the board, the instrument or the link to it."""

    exit_code = 4


class PulseOutcomeUnknown(HardwareError):
    """A pulse was sent and no answer came back: re-read those cells, never send it again."""
