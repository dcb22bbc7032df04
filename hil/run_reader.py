"""Reads a run record, also while another process writes it.

Where a run went back to a checkpoint, what came after the checkpoint happened a second time: ``events`` leaves the
first time out. Of a result's name the latest value counts.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch

from hil.errors import DataError
from hil.records import (
    Array,
    Checkpoint,
    Event,
    Operation,
    Result,
    Status,
    Stop,
    Unit,
    from_json,
    from_npy,
    unpack_cells,
)
from hil.run_database import held, open_run

__all__ = ["RunReader"]


_OPERATIONS = (
    "SELECT o.number, board, verb, shape, pulses, passes, cells, sha256, o.utc, status, message, "
    "(SELECT digital FROM outcomes WHERE operation = o.number AND digital IS NOT NULL LIMIT 1) "
    "FROM operations o LEFT JOIN outcomes c ON c.rowid = (SELECT max(rowid) FROM outcomes WHERE operation = o.number)"
)


class RunReader:
    """One run's record, to read; made by ``open``. A context manager that closes it.

    Attributes: folder; id (the folder's name).
    Every method raises DataError where the record cannot be read.
    """

    def __init__(
        self, folder: Path, db: sqlite3.Connection, mutex: threading.RLock, first: Callable[[], None] = lambda: None
    ) -> None:
        self.folder = folder
        self.id = folder.name
        self._db, self._mutex, self._first = db, mutex, first

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """The record in ``folder``; DataError if there is none."""
        folder = Path(folder)
        return cls(folder, open_run(folder, "ro"), threading.RLock())

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def figure_dir(self) -> Path:
        """Folder for figures, made when first asked for."""
        path = self.folder / "figures"
        path.mkdir(exist_ok=True)
        return path

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._mutex:
            self._first()
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as exc:
                raise DataError(f"{self.folder}: cannot read the run record ({exc}): restore the file from a copy") from exc

    @property
    def start(self) -> dict[str, Any]:
        """utc, mono_s, id, verb, seed, config, and the provenance (operator, command, host, commit, versions ...)."""
        try:
            utc, mono_s, name, verb, seed, config, facts = self._rows("SELECT * FROM start")[0]
            head = {"utc": utc, "mono_s": mono_s, "id": name, "verb": verb, "seed": seed, "config": from_json(config)}
            return {**head, **from_json(facts)}
        except (IndexError, TypeError, ValueError) as exc:
            raise DataError(f"{self.folder}: its start is not in the run record: restore the file from a copy") from exc

    def boards(self) -> dict[str, dict[str, Any]]:
        """ArrayInfo of every board as JSON values, by name."""
        return {name: from_json(info) for name, info in self._rows("SELECT name, info FROM boards ORDER BY rowid")}

    def units(self) -> list[Unit]:
        """The declared names."""
        return [Unit(*row) for row in self._rows("SELECT * FROM units ORDER BY rowid")]

    def events(self, kind: str | None = None, after: int = 0) -> Iterator[Event]:
        """Events in order, of one kind if given, with numbers above ``after`` (to watch a run: the last seen one)."""
        gone = [
            (int(since), int(number))
            for number, text in self._rows("SELECT number, payload FROM events WHERE kind = 'resume'")
            if (since := from_json(text)["since"]) is not None
        ]
        query = "SELECT * FROM events WHERE number > ? AND (? IS NULL OR kind = ?) ORDER BY number LIMIT 1024"
        while rows := self._rows(query, after, kind, kind):
            after = rows[-1][0]
            for number, sort, mono_s, utc, text in rows:
                if not any(low < number < high for low, high in gone):
                    yield Event(number, sort, mono_s, utc, from_json(text))

    def arrays(self, number: int) -> dict[str, Array]:
        """Arrays of an event, by name."""
        return {name: from_npy(npy) for name, npy in self._rows("SELECT name, npy FROM blobs WHERE event = ?", number)}

    def results(self) -> dict[str, Result]:
        """The latest result of every name."""
        found = {}
        query = "SELECT name, value, npy, unit, description, low, high FROM results ORDER BY rowid"
        for name, text, npy, *rest in self._rows(query):
            found[name] = Result(name, from_json(text) if npy is None else from_npy(npy), *rest)
        return found

    def stop(self) -> Stop | None:
        """How the run ended; None while it is under way, or where it was killed."""
        stops = self._rows("SELECT status, message, safe, utc, event FROM stops ORDER BY rowid DESC LIMIT 1")
        resumed = self._rows("SELECT coalesce(max(number), 0) FROM events WHERE kind = 'resume'")[0][0]
        if not stops or stops[0][4] < resumed:
            return None
        status, message, safe, utc, _ = stops[0]
        return Stop(status, message, None if safe is None else bool(safe), utc)

    @property
    def status(self) -> Status | Literal["running", "killed"]:
        """How the run ended, ``running`` while a process writes it, ``killed`` where it ended without a word."""
        try:
            if held(self.folder):
                return "running"
        except sqlite3.Error as exc:
            raise DataError(f"{self.folder}: writer.lock is damaged ({exc}): remove it if no run is under way") from exc
        stop = self.stop()
        return "killed" if stop is None else stop.status

    def operations(self, after: int = 0) -> Iterator[Operation]:
        """Operations of physical boards in order, numbers above ``after``, each with its latest outcome."""
        while rows := self._rows(f"{_OPERATIONS} WHERE o.number > ? ORDER BY o.number LIMIT 256", after):
            after = rows[-1][0]
            yield from (_operation(row) for row in rows)

    def pending(self) -> list[Operation]:
        """Operations of which it is not known that they are done: read their cells again, never send them again."""
        rows = self._rows(f"{_OPERATIONS} WHERE coalesce(status, 'pending') IN ('pending', 'uncertain') ORDER BY o.number")
        return [_operation(row) for row in rows]

    def pulses(self, board: str) -> Array | None:
        """Pulses per cell that this run sent to a physical board, int64 [array row col]; None where it sent none.

        What may not have reached the devices counts; so does all that the board's own write-verify may have sent.
        """
        latest = "(SELECT status FROM outcomes WHERE operation = o.number ORDER BY rowid DESC LIMIT 1)"
        query = (
            f"SELECT o.number, verb, cells FROM operations o WHERE o.number > ? AND board = ? "
            f"AND coalesce({latest}, 'pending') != 'refused' ORDER BY o.number LIMIT 256"
        )
        total: Array | None = None
        after = 0
        while rows := self._rows(query, after, board):
            after = rows[-1][0]
            for _, verb, packed in rows:
                cells = unpack_cells(packed)
                # Of a write-verify only the board knows the polarity: either row holds all of them.
                pulses = cells[0] if verb == "verify" else cells.sum(axis=0)
                total = pulses if total is None else total + pulses
        return total

    def last_digital_state(self) -> Any:
        """The digital state that went with the last operation that had one, whatever became of it; None before."""
        # Not of the last that is known to be done: what came after it may have been applied, and is not to be sent again.
        query = "SELECT digital FROM outcomes WHERE digital IS NOT NULL ORDER BY operation DESC LIMIT 1"
        rows = self._rows(query)
        return from_json(rows[0][0]) if rows else None

    def last_checkpoint(self) -> Checkpoint | None:
        """The latest checkpoint that can be read; None where there is none."""
        for row in reversed([*self.events("checkpoint")][-2:]):
            # A damaged file makes the unpickler raise nearly anything; the checkpoint before it then has to do.
            with suppress(Exception):
                state = torch.load(self.folder / row.payload["file"], weights_only=True, map_location="cpu")
                return Checkpoint(row.number, row.payload["step"], row.payload["note"], state)
        return None


def _operation(row: tuple[Any, ...]) -> Operation:
    number, board, verb, shape, pulses, passes, cells, sha256, utc, status, message, digital = row
    return Operation(
        number=number,
        board=board,
        verb=verb,
        shape=from_json(shape),
        pulses=pulses,
        passes=passes,
        cells=unpack_cells(cells),
        sha256=sha256,
        utc=utc,
        status=status or "pending",
        message=message or "",
        digital=from_json(digital),
    )
