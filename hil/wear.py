"""What the devices of a bench have been through: pulses and reads per cell, over all runs.

One SQLite file per bench, ``wear.sqlite``, one row per board serial. A pulse is counted before it is sent: a process
that is killed in between leaves the counter too high by one operation, never too low.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass, replace
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

_COUNTERS = ("up", "down", "either", "reads")

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
        self._known: dict[str, CellWear] = {}
        self._version = -1
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
        with self._mutex:
            _, reads = self._reads.get(info.serial, (info, _NO_CELLS))
            found = self._load(info)
            return found if reads is _NO_CELLS else replace(found, reads=found.reads + reads)

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
        more = {"up": up, "down": down, "either": either, "reads": reads}
        with self._mutex:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    old = self._load(info)
                    fields = {name: getattr(old, name) + by for name, by in more.items() if by is not _NO_CELLS}
                    new = replace(old, **fields, passes=old.passes + passes)
                    self._write(info.serial, new, tuple(fields))
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
                self._known[info.serial] = new
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
        """The counters as they are written; read from the file again where another process has written to it."""
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._version = version
            self._known.clear()
        if info.serial not in self._known:
            self._known[info.serial] = self._read_row(info)
        found, size = self._known[info.serial], (info.arrays, info.rows, info.cols)
        if found.up.shape != size:
            was = f"{info.serial} was {list(found.up.shape)}, is now {list(size)} [array row col]"
            raise DataError(f"{self._name}: {was}: give the new board a serial of its own")
        return found

    def _write(self, serial: str, cells: CellWear, fields: tuple[str, ...]) -> None:
        """The named counters of a row, or all of them where the row is new."""
        known = [cells.passes, datetime.now(UTC).isoformat(), serial]
        change = ", ".join(f"{name} = ?" for name in (*fields, "passes", "utc"))
        values = [to_npy(getattr(cells, name)) for name in fields]
        if not self._db.execute(f"UPDATE wear SET {change} WHERE serial = ?", [*values, *known]).rowcount:
            values = [to_npy(getattr(cells, name)) for name in _COUNTERS]
            self._db.execute(
                f"INSERT INTO wear ({', '.join(_COUNTERS)}, passes, utc, serial) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [*values, *known],
            )

    def _read_row(self, info: ArrayInfo) -> CellWear:
        query = "SELECT up, down, either, reads, passes FROM wear WHERE serial = ?"
        row = self._db.execute(query, (info.serial,)).fetchone()
        if row is None:
            zero = np.zeros((info.arrays, info.rows, info.cols), dtype=np.int64)
            return CellWear(zero, zero, zero, zero, 0)
        up, down, either, reads = map(from_npy, row[:4])
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
