"""The run record: a folder with ``run.sqlite``, its checkpoints and its figures.

The database is append-only (triggers refuse to change a row) and in WAL mode: another process can read it while the
run is under way, and what was committed survives SIGKILL. Tables, in ``hil.records``:

* ``start``: verb, configuration, seed, versions, operator, command line; ``boards``: the identity of every board;
* ``units``: names that events use, with unit and description;
* ``events``: numbered, with monotonic and UTC time and a JSON payload; their arrays lie in ``blobs`` as npy;
* ``operations``: what a physical board is about to be sent, on the disk *before* the driver is called;
  ``outcomes``: the digital state of the training loop that went with it, and then what became of it;
* ``results``: values with unit and acceptance limits; ``stops``: how the run ended, and whether its boards were safe.

A resumed run appends to the same record. ``hil.run_reader`` reads it back.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hil.backend import ArrayInfo, PulseShape
from hil.errors import DataError, LimitError, UsageError
from hil.provenance import provenance
from hil.records import Array, Checkpoint, Operation, Outcome, Status, pack_cells, to_json, to_npy
from hil.run_database import create_run, hold, open_run
from hil.run_reader import RunReader

__all__ = ["BATCH", "Clock", "Ledger", "system_clock"]

BATCH = 256
"""Records of a ``batch`` that are committed together at most."""

Clock = Callable[[], tuple[float, datetime]]
"""Monotonic seconds and UTC."""


@lru_cache(maxsize=256)
def _shape_json(shape: PulseShape) -> str:
    return to_json(shape)


def system_clock() -> tuple[float, datetime]:
    """This machine's clocks."""
    return time.monotonic(), datetime.now(UTC)


class Ledger:
    """Writes one run's record; made by ``create`` or ``resume``, read by ``open``. A context manager that stops the run.

    Attributes: folder; id (the folder's name); run (a RunReader of what has been written).
    Every method raises DataError where the record cannot be written: disk full, run stopped.
    """

    def __init__(self, folder: Path, db: sqlite3.Connection, lock: sqlite3.Connection, clock: Clock) -> None:
        self.folder = folder
        self.id = folder.name
        self._db, self._lock, self._clock = db, lock, clock
        self._mutex = threading.RLock()
        self.run = RunReader(folder, db, self._mutex, self._write_settled)
        self._batched: int | None = None
        self._settled: list[tuple[Any, ...]] = []
        self._full = False
        self._digital: Any = None
        self._safe: bool | None = None
        self._stopped = False

    @classmethod
    def create(
        cls,
        runs_dir: Path | str,
        verb: str,
        config: Any,
        *,
        boards: Mapping[str, ArrayInfo] | None = None,
        seed: int | None = None,
        operator: str | None = None,
        command: str | None = None,
        clock: Clock = system_clock,
    ) -> Self:
        """A new run in ``runs_dir`` (made if missing), named by UTC time, verb and a random tail.

        config: a model, dataclass or JSON value, recorded whole. operator, command: default to this process's.
        """
        mono_s, utc = clock()
        folder = Path(runs_dir) / f"{utc:%Y%m%dT%H%M%SZ}-{verb}-{secrets.token_hex(3)}"
        facts = to_json(config), to_json(provenance(operator, command))
        try:
            folder.mkdir(parents=True)
            lock = hold(folder)
            db = create_run(folder, (utc.isoformat(), mono_s, folder.name, verb, seed, *facts))
        except (OSError, sqlite3.Error) as exc:
            raise DataError(f"{folder}: cannot start a run record ({exc}): choose another folder with --runs") from exc
        ledger = cls(folder, db, lock, clock)
        for name, info in (boards or {}).items():
            ledger.board(name, info)
        return ledger

    @staticmethod
    def open(folder: Path | str) -> RunReader:
        """The record in ``folder``, to read, also while its run is under way; DataError if there is none."""
        return RunReader.open(folder)

    @classmethod
    def resume(
        cls, folder: Path | str, *, since: int | None = None, command: str | None = None, clock: Clock = system_clock
    ) -> Self:
        """The record in ``folder``, to go on; DataError if there is none, or its run is still under way.

        since: number of the checkpoint's event where the run went back to one; None where the devices are the state.
        """
        folder = Path(folder)
        open_run(folder, "ro").close()
        lock = hold(folder)
        ledger = cls(folder, open_run(folder, "rw"), lock, clock)
        ledger.event("resume", {"since": since, **provenance(None, command)})
        return ledger

    @property
    def figure_dir(self) -> Path:
        """Folder for figures, made when first asked for."""
        return self.run.figure_dir

    def board(self, name: str, info: ArrayInfo) -> None:
        """Record the identity of a board of the bench."""
        self._insert("boards", name, to_json(info), self._now()[1])

    def schema(self, names: Mapping[str, tuple[str, str]]) -> None:
        """Declare names that events use: name -> (unit, description). A name may be declared again only alike."""
        known = {row.name: (row.unit, row.description) for row in self.run.units()}
        for name, (unit, description) in names.items():
            if known.get(name, (unit, description)) != (unit, description):
                raise UsageError(f"run record: {name} is declared as {known[name]}: give {(unit, description)} another name")
        with self._transaction() as db:
            fresh = [(name, *rest) for name, rest in names.items() if name not in known]
            db.executemany("INSERT INTO units VALUES (?, ?, ?)", fresh)

    def event(self, kind: str, payload: Any = None, arrays: Mapping[str, Array | Tensor] | None = None) -> int:
        """Append an event, its arrays with it; returns its number. Committed on return, but inside ``batch``."""
        text, blobs = to_json(payload), [(name, to_npy(array)) for name, array in (arrays or {}).items()]
        with self._transaction() as db:
            row = (kind, *self._now(), text)
            number = int(db.execute("INSERT INTO events VALUES (NULL, ?, ?, ?, ?)", row).lastrowid or 0)
            db.executemany("INSERT INTO blobs VALUES (?, ?, ?)", [(number, *blob) for blob in blobs])
        return number

    def result(
        self, name: str, value: Any, unit: str, description: str, *, low: float | None = None, high: float | None = None
    ) -> None:
        """Record a result: a JSON value or an array, its unit, and the closed range it is accepted in."""
        array = isinstance(value, (Tensor, np.ndarray)) and np.ndim(value) > 0
        text, blob = (None, to_npy(value)) if array else (to_json(value), None)
        self._insert("results", name, text, blob, unit, description, low, high, self._now()[1])

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Commit the small records inside together, at most BATCH at a time, also when an exception leaves it."""
        if self._batched is not None:
            yield
            return
        self._batched = 0
        try:
            yield
        finally:
            with self._mutex:
                self._batched = None
                self._commit()

    def checkpoint(self, state: Mapping[str, Any], step: int, note: Any = None) -> int:
        """Save a state of tensors, plain numbers and containers; returns its event number. The last two are kept.

        The file is whole on the disk before the record speaks of it: killed at any moment, ``last_checkpoint`` gives
        one that was saved completely, with its step. DataError where the state would need more than data to load.
        """
        path = self.folder / f"checkpoint-{step:09d}-{secrets.token_hex(4)}.pt"
        draft = path.with_suffix(".tmp")
        try:
            with draft.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            torch.load(draft, weights_only=True, mmap=True)
            draft.replace(path)
        except (OSError, RuntimeError, pickle.PickleError) as exc:
            raise DataError(f"{path}: cannot save the checkpoint ({exc}): make room and resume the run") from exc
        number = self.event("checkpoint", {"step": step, "file": path.name, "note": note})
        with self._mutex:
            self._commit()
        kept = {row.payload["file"] for row in [*self.run.events("checkpoint")][-2:]}
        for old in self.folder.glob("checkpoint-*"):
            if old.name not in kept:
                old.unlink(missing_ok=True)
        return number

    def digital_state(self, state: Any) -> None:
        """The small digital state (JSON) that goes with operations from now on; a function is asked at each of them.

        A resumed run goes on after the operation that was sent last, whether or not it is known to be done.
        """
        self._digital = state

    def intend(self, board: str, verb: str, shape: PulseShape, cells: Array, passes: int) -> int:
        """Record what is about to be sent, on the disk when this returns; gives the operation's number.

        cells: pulses per cell, integers >= 0 [2 array row col]: up, down; passes: array-wide pulse passes.
        """
        text, packed = _shape_json(shape), pack_cells(cells)
        sha = hashlib.sha256(f"{board}/{verb}/{text}/".encode() + packed).hexdigest()
        now = self._now()
        digital = self._digital() if callable(self._digital) else self._digital
        row = (board, verb, text, int(cells.sum()), passes, packed, sha, *now)
        with self._transaction(full=True) as db:
            cursor = db.execute("INSERT INTO operations VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            number = int(cursor.lastrowid or 0)
            if digital is not None:
                sent = (number, "pending", "", to_json(digital), *now)
                db.execute("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?)", sent)
        return number

    def settle(self, numbers: Sequence[int], status: Outcome, message: str = "") -> None:
        """Record what became of operations."""
        self.settle_soon(numbers, status, message)
        with self._transaction():
            pass

    def settle_soon(self, numbers: Sequence[int], status: Outcome, message: str = "") -> None:
        """``settle`` with what is written next: a killed process leaves these operations pending, others see them late.

        For what is done: to read its cells again does no harm, and a commit of its own is dear between two pulses.
        """
        now = self._now()
        with self._mutex:
            self._settled += [(number, status, message, *now) for number in numbers]

    def pending(self) -> list[Operation]:
        """Operations of which it is not known that they are done: read their cells again, never send them again."""
        return self.run.pending()

    def last_checkpoint(self) -> Checkpoint | None:
        """The latest checkpoint that can be read."""
        return self.run.last_checkpoint()

    def safe(self, boards: Mapping[str, bool], reason: str = "", errors: Mapping[str, str] | None = None) -> None:
        """Record which boards confirmed that they are grounded; ``stop`` repeats whether all did."""
        self._safe = all(boards.values())
        self.event("safe", {"boards": dict(boards), "reason": reason, "errors": dict(errors or {})})

    def stop(self, status: Status, message: str = "") -> None:
        """End the run and close the record; a second call does nothing."""
        if self._stopped:
            return
        self._batched = None
        try:
            with self._transaction() as db:
                last = db.execute("SELECT coalesce(max(number), 0) FROM events").fetchone()[0]
                db.execute("INSERT INTO stops VALUES (?, ?, ?, ?, ?, ?)", (status, message, self._safe, last, *self._now()))
            # A finished record is one file again, readable where nothing can be written; a watcher may forbid it.
            with suppress(sqlite3.Error):
                self._db.execute("PRAGMA busy_timeout=100")
                self._db.execute("PRAGMA journal_mode=DELETE")
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the files without ending the run in the record; may be called twice."""
        with suppress(DataError):
            self._write_settled()
        self._stopped = True
        self._db.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if value is None:
            self.stop("done")
        else:
            status: Status = "failed"
            if isinstance(value, KeyboardInterrupt):
                status = "interrupted"
            elif isinstance(value, LimitError):
                status = "refused"
            self.stop(status, f"{type(value).__name__}: {value}".splitlines()[0])
        self.close()

    def _now(self) -> tuple[float, str]:
        mono_s, utc = self._clock()
        return mono_s, utc.isoformat()

    def _insert(self, table: str, *row: Any) -> None:
        with self._transaction() as db:
            db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    def _write_settled(self) -> None:
        """Write what ``settle_soon`` has kept, as before this process reads its own record."""
        if self._settled and not self._stopped:
            with self._transaction():
                pass

    def _commit(self) -> None:
        if not self._stopped and self._db.in_transaction:
            self._db.execute("COMMIT")

    def _to_disk(self, full: bool) -> None:
        """Whether commits from now on wait for the disk."""
        if full != self._full:
            self._db.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._full = full

    @contextmanager
    def _transaction(self, full: bool = False) -> Iterator[sqlite3.Connection]:
        """What a writing method writes, all or nothing; ``full``: on the disk, not just with the operating system."""
        with self._mutex:
            if self._stopped:
                raise DataError(f"{self.folder}: is not open for writing: use Ledger.create or Ledger.resume")
            try:
                if full or self._batched is None:
                    self._commit()
                if not self._db.in_transaction:
                    self._to_disk(full)
                    self._db.execute("BEGIN IMMEDIATE")
                if self._settled:
                    rows, self._settled = self._settled, []
                    self._db.executemany("INSERT INTO outcomes VALUES (?, ?, ?, NULL, ?, ?)", rows)
                self._db.execute("SAVEPOINT record")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK TO record")
                    raise
                finally:
                    self._db.execute("RELEASE record")
                if self._batched is not None:
                    self._batched = (self._batched + 1) % BATCH
                if full or not self._batched:
                    self._commit()
            except sqlite3.Error as exc:
                raise DataError(f"{self.folder}: cannot write the run record ({exc}): make room and resume the run") from exc
