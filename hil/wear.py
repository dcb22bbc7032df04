"""What the devices of a bench have been through: pulses and reads per cell, over all runs.

One SQLite file per bench, ``wear.sqlite``, one row per board serial. A pulse is counted before it is sent: a process
that is killed in between leaves the counter too high by one operation, never too low.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np

from hil.backend import ArrayBackend, ArrayInfo
from hil.errors import DataError
from hil.records import Array, from_npy, to_npy
from hil.run_reader import RunReader

__all__ = ["READS_IN_MEMORY", "CellWear", "Wear", "pulses_since_start"]

READS_IN_MEMORY = 256
"""Reading operations that are counted in memory before they are written: what a killed process forgets at most."""

_TABLE = """CREATE TABLE IF NOT EXISTS wear (serial TEXT PRIMARY KEY, up BLOB NOT NULL, down BLOB NOT NULL,
    either BLOB NOT NULL, reads BLOB NOT NULL, passes INTEGER NOT NULL, utc TEXT NOT NULL)"""

_NO_CELLS = np.zeros((), dtype=np.int64)


@dataclass(frozen=True)
class CellWear:
    """Counters of one board, int64 [array row col] each."""

    up: Array
    down: Array
    either: Array
    """Pulses of a polarity that only the board knows (its own write-verify): an upper bound."""
    reads: Array
    passes: int
    """Array-wide pulse passes: an unselected cell has been half-selected so often at most."""

    @property
    def pulses(self) -> Array:
        """All pulses, int64 [array row col]: what a lifetime limit counts."""
        total: Array = self.up + self.down + self.either
        return total


class Wear:
    """Persistent counters, keyed by board serial; several processes may count in one file."""

    def __init__(self, db: sqlite3.Connection, name: str) -> None:
        self._db, self._name = db, name
        self._mutex = threading.RLock()
        self._reads: dict[str, tuple[ArrayInfo, Array]] = {}
        self._calls = 0
        with self._mutex:
            db.execute(_TABLE)

    @classmethod
    def open(cls, state_dir: Path | str) -> Self:
        """The counters in ``state_dir``/wear.sqlite, made if missing; DataError if that is no such file."""
        path = Path(state_dir) / "wear.sqlite"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            db = _connect(str(path))
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            return cls(db, str(path))
        except (OSError, sqlite3.Error) as exc:
            raise DataError(f"{path}: holds no wear counters ({exc}): restore it, or choose another state folder") from exc

    @classmethod
    def in_memory(cls) -> Self:
        """Counters that last as long as this object."""
        return cls(_connect(":memory:"), "wear counters in memory")

    def snapshot(self) -> Wear:
        """A copy in memory: a dry run counts on from the truth without changing it."""
        self.flush()
        db = _connect(":memory:")
        self._db.backup(db)
        return Wear(db, "wear counters in memory")

    def cells(self, info: ArrayInfo) -> CellWear:
        """Counters of a board, zero where it has not been seen; DataError where they belong to another size."""
        self.flush()
        with self._mutex:
            return self._load(info)

    def add(
        self,
        info: ArrayInfo,
        *,
        up: Array = _NO_CELLS,
        down: Array = _NO_CELLS,
        either: Array = _NO_CELLS,
        reads: Array = _NO_CELLS,
        passes: int = 0,
    ) -> None:
        """Count; arrays of integers broadcast to [array row col]. Negative numbers take back what was not sent."""
        with self._mutex:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    old = self._load(info)
                    arrays = (old.up + up, old.down + down, old.either + either, old.reads + reads)
                    row = (info.serial, *map(to_npy, arrays), old.passes + passes, datetime.now(UTC).isoformat())
                    self._db.execute("INSERT OR REPLACE INTO wear VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as exc:
                raise DataError(f"{self._name}: cannot count wear ({exc}): make room, pulses wait for it") from exc

    def add_reads(self, info: ArrayInfo, reads: Array) -> None:
        """Count reads, broadcast to [array row col]; written with every READS_IN_MEMORY-th call and by ``flush``."""
        with self._mutex:
            _, old = self._reads.get(info.serial, (info, _NO_CELLS))
            self._reads[info.serial] = info, old + reads
            self._calls += 1
            if self._calls >= READS_IN_MEMORY:
                self.flush()

    def flush(self) -> None:
        """Write the reads that are counted in memory."""
        with self._mutex:
            self._calls = 0
            while self._reads:
                serial, (info, reads) = next(iter(self._reads.items()))
                self.add(info, reads=reads)
                del self._reads[serial]

    def close(self) -> None:
        """Write what is left and let go of the file."""
        self.flush()
        self._db.close()

    def _load(self, info: ArrayInfo) -> CellWear:
        size = (info.arrays, info.rows, info.cols)
        query = "SELECT up, down, either, reads, passes FROM wear WHERE serial = ?"
        row = self._db.execute(query, (info.serial,)).fetchone()
        if row is None:
            zero = np.zeros(size, dtype=np.int64)
            return CellWear(zero, zero, zero, zero, 0)
        up, down, either, reads = map(from_npy, row[:4])
        if up.shape != size:
            was = f"{info.serial} was {list(up.shape)}, is now {list(size)} [array row col]"
            raise DataError(f"{self._name}: {was}: give the new board a serial of its own")
        return CellWear(up, down, either, reads, row[4])


def pulses_since_start(backend: ArrayBackend, name: str, run: RunReader | None) -> Array:
    """Pulses of every cell since the run began, resumptions included, [array row col]; NaN where nobody has counted.

    A physical board's are those in the run's record under its ``name``: whatever the board counts itself may go back to
    before the run. Others count from when they were made.
    """
    info = backend.info
    size = (info.arrays, info.rows, info.cols)
    if info.physical:
        found = None if run is None else run.pulses(name)
        return np.zeros(size, dtype=np.int64) if found is None else found
    status = backend.status()
    if not {"pulses_up", "pulses_down"} <= status.keys():
        return np.full(size, np.nan)
    total: Array = (status["pulses_up"] + status["pulses_down"]).cpu().numpy()
    return total


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
