"""``report.html`` of a run: one file that holds everything it shows, for a screen, a phone or paper."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hil.errors import DataError, UsageError
from hil.records import Result
from hil.report.section import Section, Table
from hil.report.values import number, quantity
from hil.run_reader import RunReader

__all__ = ["write_report"]

_NAMED = ("python", "crosspoint-hil", "torch", "numpy", "numba", "scipy", "triton", "pyvisa", "pyserial")
"""Versions shown; the run record has those of everything installed."""

_SHORT = 15
"""A table of results with more rows stands after the sections."""
_COLUMNS = 6
"""Of results side by side."""

_MEANING = {
    "done": "The run came to its end.",
    "running": "The run was under way when this was written.",
    "killed": "The run ended without a word: what was recorded until then is shown.",
    "interrupted": "The run was interrupted: what was recorded until then is shown.",
    "failed": "The run failed: what was recorded until then is shown.",
    "refused": "A limit refused an operation before a byte was sent; the run ended there.",
}


def write_report(run: RunReader, sections: Sequence[Section]) -> Path:
    """Write ``report.html`` into the run's folder, and its figures into the folder ``figures``; returns the path.

    The file is whole or not there. UsageError where matplotlib or jinja2 is missing; DataError where nothing can be
    written.
    """
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f'report: needs {" and ".join(missing)}: install them with pip install "crosspoint-hil[plot]"')
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from hil.report.render import file_name, render

    path = run.folder / "report.html"
    taken: set[str] = set()
    try:
        shown = [
            {
                "id": f"section-{place}",
                "section": section,
                "paragraphs": [part for part in section.text.split("\n\n") if part.strip()],
                "pictures": [render(figure, run.figure_dir, file_name(figure.name, taken)) for figure in section.figures],
            }
            for place, section in enumerate(sections, 1)
        ]
        loader = FileSystemLoader(Path(__file__).parent)
        page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        page.globals["wordy"] = _wordy
        text = page.get_template("report.html.j2").render(sections=shown, **_head(run))
        _write(path, text)
    except OSError as exc:
        raise DataError(f"{path}: cannot be written ({exc}): make room, or copy the run to another folder") from exc
    return path


def _head(run: RunReader) -> dict[str, Any]:
    """What the page says before its sections."""
    start, stop, status = run.start, run.stop(), run.status
    config, tables = start["config"], _results(run.results())
    bench = config.get("bench") if isinstance(config, dict) else None
    versions = start.get("versions") or {}
    bench_name = str(bench.get("name", "")) if isinstance(bench, dict) else ""
    began = [
        ("Began", _time(start["utc"])),
        ("Took", _duration(start["utc"], None if stop is None else stop.utc)),
        ("Seed", number(start["seed"])),
        ("Operator", start.get("operator")),
        ("Computer", ", ".join(str(start[name]) for name in ("host", "system") if start.get(name))),
        ("Commit", start.get("commit")),
        ("Versions", ", ".join(f"{name} {versions[name]}" for name in _NAMED if name in versions)),
    ]
    resumed = [_time(event.utc) for event in run.events("resume")]
    if resumed:
        began.insert(2, ("Resumed", ", ".join(resumed)))
    return {
        "title": f"{start['verb']} on {bench_name}" if bench_name else start["verb"],
        "id": run.id,
        "status": status,
        "meaning": _MEANING[status],
        "message": "" if stop is None else stop.message,
        "safe": None if stop is None else stop.safe,
        "command": str(start.get("command", "")),
        "facts": [(name, str(value)) for name, value in began if value not in (None, "", "–")],
        "boards": _boards(run.boards()),
        "results": [table for table in tables if len(table["rows"]) <= _SHORT],
        "long_results": [table for table in tables if len(table["rows"]) > _SHORT],
        "settings": list(_flat(config)),
    }


def _time(utc: str) -> str:
    with suppress(ValueError):
        return f"{datetime.fromisoformat(utc):%Y-%m-%d %H:%M:%S} UTC"
    return utc


def _duration(began: str, ended: str | None) -> str | None:
    """Hours, minutes, seconds by the wall clock; None while it is not known."""
    if ended is None:
        return None
    try:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
    except (ValueError, TypeError):
        return None
    if seconds < 60:
        return f"{number(float(f'{seconds:.2g}'))} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _boards(boards: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for name, info in boards.items():
        size = f"{info.get('rows')} × {info.get('cols')}"
        arrays = info.get("arrays", 1)
        maker = " ".join(str(info[key]) for key in ("vendor", "model") if info.get(key))
        serial = ", ".join(str(info[key]) for key in ("serial", "firmware") if info.get(key))
        kind = "hardware" if info.get("physical") else "emulated"
        rows.append((name, maker, serial, size if arrays == 1 else f"{arrays} arrays of {size}", kind))
    return Table("", ("board", "make", "serial, firmware", "rows × cols", "kind"), tuple(rows))


def _results(results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """One table of the plain results, then one per set of results called "OWNER: NAME", a column per owner."""
    plain = {name: result for name, result in results.items() if ": " not in name}
    tables: list[dict[str, Any]] = (
        [] if not plain else [{"owners": [""], "rows": [_row(name, [result]) for name, result in plain.items()]}]
    )
    owned: dict[str, dict[str, Result]] = {}
    for full, result in results.items():
        owner, split, name = full.partition(": ")
        if split:
            owned.setdefault(owner, {})[name] = result
    # Owners that have results in common share a table: the matrices in one, the trained networks in another.
    groups: list[list[str]] = []
    for owner, mine in owned.items():
        like = next((group for group in groups if any(mine.keys() & owned[other].keys() for other in group)), None)
        if like is None:
            groups.append([owner])
        else:
            like.append(owner)
    # More columns than that leave the page: the dies of a wafer go below each other.
    for group in (whole[start : start + _COLUMNS] for whole in groups for start in range(0, len(whole), _COLUMNS)):
        names = dict.fromkeys(name for owner in group for name in owned[owner])
        tables.append({"owners": group, "rows": [_row(name, [owned[owner].get(name) for owner in group]) for name in names]})
    for table in tables:
        table["judged"] = any(row["limits"] for row in table["rows"])
    return tables


def _row(name: str, results: Sequence[Result | None]) -> dict[str, Any]:
    first = next(result for result in results if result is not None)
    values = [("–", None) if one is None else (quantity(one.value, one.unit), _accepted(one)) for one in results]
    return {"name": name, "values": values, "limits": _limits(first), "description": first.description}


def _limits(result: Result) -> str:
    if result.low is None and result.high is None:
        return ""
    if result.high is None:
        return f"≥ {quantity(result.low, result.unit)}"
    if result.low is None:
        return f"≤ {quantity(result.high, result.unit)}"
    return f"{quantity(result.low, result.unit)} … {quantity(result.high, result.unit)}"


def _accepted(result: Result) -> bool | None:
    """Whether it lies within its limits; None where it has none."""
    if result.low is None and result.high is None:
        return None
    try:
        value = float(result.value)
    except (TypeError, ValueError):
        return False
    low, high = (float("-inf") if result.low is None else result.low), (float("inf") if result.high is None else result.high)
    return low <= value <= high


def _flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """A configuration as (dotted name, value), in its order."""
    if isinstance(value, dict) and value:
        return [row for name, part in value.items() for row in _flat(part, f"{path}.{name}" if path else str(name))]
    shown = (
        ", ".join(map(str, value))
        if isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value)
        else value
    )
    return [(path, str(shown))] if path else []


def _wordy(table: Table) -> list[bool]:
    """Which columns hold sentences, to be wrapped."""
    return [any(len(row[col]) > 40 for row in table.rows) for col in range(len(table.header))]


def _write(path: Path, text: str) -> None:
    handle, draft = tempfile.mkstemp(prefix=".report.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
