"""What a run record holds: its rows as frozen values, and how values become JSON and npy."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from hil.errors import UsageError

__all__ = [
    "Array",
    "Checkpoint",
    "Event",
    "Operation",
    "Outcome",
    "Result",
    "Status",
    "Stop",
    "Unit",
    "from_json",
    "from_npy",
    "pack_cells",
    "to_json",
    "to_npy",
    "unpack_cells",
]

Array = NDArray[Any]

Status = Literal["done", "failed", "interrupted", "refused"]
"""How a run ended. ``refused``: by a limit, before a byte was sent."""

Outcome = Literal["done", "uncertain", "refused", "reread"]
"""What became of an operation. ``refused``: by the driver, nothing was sent; ``reread``: its cells have been read again."""


@dataclass(frozen=True)
class Event:
    """A numbered event; ``mono_s`` is the writer's monotonic clock in seconds, comparable within one process only."""

    number: int
    kind: str
    mono_s: float
    utc: str
    payload: Any


@dataclass(frozen=True)
class Unit:
    """What a name in the events means; unit "1" is a pure number."""

    name: str
    unit: str
    description: str


@dataclass(frozen=True)
class Result:
    """A result with its unit and acceptance limits (None = no limit); ``value`` is JSON or an array."""

    name: str
    value: Any
    unit: str
    description: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Operation:
    """What a physical board was about to be sent; ``status`` is "pending" while nothing is known of it."""

    number: int
    board: str
    verb: str
    shape: dict[str, Any]
    pulses: int
    """Over all cells."""
    passes: int
    """Array-wide pulse passes: how often an unselected cell was half-selected at most."""
    cells: Array
    """Pulses per cell, [2 array row col]: up, down; of ``verify`` the most that either may be."""
    sha256: str
    utc: str
    status: Outcome | Literal["pending"]
    message: str
    digital: Any
    """The digital state that was set when it was sent; None where none was."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved state and the event number it belongs to."""

    number: int
    step: int
    note: Any
    state: dict[str, Any]


@dataclass(frozen=True)
class Stop:
    """How a run ended; ``safe`` is None where no board was asked to be safe."""

    status: Status
    message: str
    safe: bool | None
    utc: str


def _plain(value: Any) -> Any:
    """What json cannot write by itself: models, dataclasses, paths, single numbers of torch and numpy."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (np.generic, Tensor, np.ndarray)) and np.ndim(value) == 0:
        return value.item()
    raise UsageError(f"run record: {type(value).__name__} is no JSON value: give it under arrays= or as plain numbers")


def to_json(value: Any) -> str:
    """Compact JSON of plain values, models and dataclasses; NaN and infinities stay what they are (as JSON5 has them)."""
    return json.dumps(value, default=_plain, separators=(",", ":"))


def from_json(text: str | None) -> Any:
    """Value of ``to_json``; None of None."""
    return None if text is None else json.loads(text)


def to_npy(value: Array | Tensor) -> bytes:
    """An array as npy; a tensor is brought to the CPU first."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.flags.c_contiguous and array.dtype.kind in "biufc":
        return _npy_head(array.dtype.str, array.shape) + array.tobytes()
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@lru_cache(maxsize=256)
def _npy_head(descr: str, shape: tuple[int, ...]) -> bytes:
    """What npy puts in front of numbers in row-major order: the same for every record of a board."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def from_npy(data: bytes) -> Array:
    """Array of ``to_npy``."""
    loaded: Array = np.load(io.BytesIO(data), allow_pickle=False)
    return loaded


def pack_cells(cells: Array) -> bytes:
    """Counts >= 0 in the smallest type that holds them, compressed: most cells are zero most of the time."""
    small = cells.astype(np.min_scalar_type(int(cells.max(initial=0))))
    return zlib.compress(to_npy(small), 1)


def unpack_cells(data: bytes) -> Array:
    """int64 counts of ``pack_cells``."""
    return from_npy(zlib.decompress(data)).astype(np.int64)
