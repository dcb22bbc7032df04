"""The SQLite file of a run record: its tables, how it is made and opened, and who may write it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from hil.errors import DataError

__all__ = ["APPLICATION", "VERSION", "connect", "create_run", "held", "hold", "open_run"]

APPLICATION = 0x48494C52
"""SQLite's application_id of a run record ("HILR")."""

VERSION = 1
"""SQLite's user_version: raised when the tables change."""

_COLUMNS = {
    "start": "utc TEXT, mono_s REAL, id TEXT, verb TEXT, seed INTEGER, config TEXT, provenance TEXT",
    "boards": "name TEXT, info TEXT, utc TEXT",
    "units": "name TEXT UNIQUE, unit TEXT, description TEXT",
    "events": "number INTEGER PRIMARY KEY, kind TEXT, mono_s REAL, utc TEXT, payload TEXT",
    "blobs": "event INTEGER, name TEXT, npy BLOB, PRIMARY KEY (event, name)",
    "operations": "number INTEGER PRIMARY KEY, board TEXT, verb TEXT, shape TEXT, pulses INTEGER, passes INTEGER, "
    "cells BLOB, sha256 TEXT, mono_s REAL, utc TEXT",
    "outcomes": "operation INTEGER, status TEXT, message TEXT, digital TEXT, mono_s REAL, utc TEXT",
    "results": "name TEXT, value TEXT, npy BLOB, unit TEXT, description TEXT, low REAL, high REAL, utc TEXT",
    "stops": "status TEXT, message TEXT, safe INTEGER, event INTEGER, mono_s REAL, utc TEXT",
}

_TABLES = (
    *(f"CREATE TABLE {name} ({columns})" for name, columns in _COLUMNS.items()),
    *(
        f"CREATE TRIGGER {name}_{verb} BEFORE {verb} ON {name} BEGIN SELECT RAISE(ABORT, 'a run record is append-only'); END"
        for name in _COLUMNS
        for verb in ("UPDATE", "DELETE")
    ),
    "CREATE INDEX outcomes_by_operation ON outcomes (operation)",
    "CREATE INDEX events_by_kind ON events (kind)",
)


def connect(path: Path, mode: Literal["ro", "rw", "rwc"]) -> sqlite3.Connection:
    """A connection without implicit transactions, usable from any thread (the caller serialises)."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)


def create_run(folder: Path, start: Sequence[Any]) -> sqlite3.Connection:
    """Make ``run.sqlite`` with its ``start`` row: all of it or nothing."""
    db = connect(folder / "run.sqlite", "rwc")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA application_id={APPLICATION}")
    db.execute(f"PRAGMA user_version={VERSION}")
    db.execute("INSERT INTO start VALUES (?, ?, ?, ?, ?, ?, ?)", tuple(start))
    db.execute("COMMIT")
    db.execute("PRAGMA synchronous=NORMAL")
    return db


def open_run(folder: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    """Open ``run.sqlite`` of a folder; DataError where there is none, or one that this version cannot read."""
    path = folder / "run.sqlite"
    if not path.is_file():
        raise DataError(f"{folder}: is no run folder (it has no run.sqlite): give a folder that a run has made")
    try:
        db = connect(path, mode)
        application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if mode == "rw":
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error as exc:
        raise DataError(f"{folder}: is no run folder (run.sqlite: {exc}): give a folder that a run has made") from exc
    if application == APPLICATION and version == VERSION:
        return db
    db.close()
    if application != APPLICATION:
        raise DataError(f"{folder}: is no run folder (run.sqlite is no run record): give a folder that a run has made")
    raise DataError(f"{folder}: is a run record of version {version}, this program reads {VERSION}: use the other")


def hold(folder: Path) -> sqlite3.Connection:
    """Hold the right to write a run until closed or killed; DataError while somebody else holds it.

    An exclusive transaction on an empty SQLite file: a lock that the system drops with the process, on every platform.
    """
    try:
        lock = connect(folder / "writer.lock", "rwc")
    except sqlite3.Error as exc:
        raise DataError(f"{folder}: cannot be written ({exc}): copy it to where it can") from exc
    try:
        lock.execute("PRAGMA busy_timeout=0")
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as exc:
        lock.close()
        if "locked" in str(exc):
            raise DataError(f"{folder}: its run is still under way: wait for it, or stop it first") from exc
        raise DataError(f"{folder}: cannot be written ({exc}): copy it to where it can") from exc
    return lock


def held(folder: Path) -> bool:
    """Whether some process holds the right to write the run: it is under way."""
    path = folder / "writer.lock"
    if not path.is_file():
        return False
    with closing(connect(path, "ro")) as lock:
        try:
            lock.execute("PRAGMA busy_timeout=0")
            lock.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            return True
    return False
