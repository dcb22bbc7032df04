"""The device's side of TSP: just enough Lua for assignments, calls and prints, and the error queue.

A line is one of ``name = expression[, expression]``, ``name(arguments)`` and ``print(expressions)``; several names may be
assigned at once. What the instrument knows are the names given by whoever plays it; anything else goes to the error queue
as a runtime error, anything that cannot be read as a syntax error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simulated_backend.twins.wire import Port

__all__ = ["Tsp", "TspError", "split_arguments"]

_CALL = re.compile(r"^([A-Za-z_][\w.]*)\((.*)\)$", re.DOTALL)
_ASSIGN = re.compile(r"^([A-Za-z_][\w.]*(?:\s*,\s*[A-Za-z_][\w.]*)*)\s*=(?!=)\s*(.+)$", re.DOTALL)
_NAME = re.compile(r"^[A-Za-z_][\w.]*$")
_NUMBER = re.compile(r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
_QUEUE = 100


class TspError(Exception):
    """What goes to the error queue: (code, message)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Tsp:
    """An interpreter. attributes: name -> (get, set), set None = read only; functions: name -> callable of values."""

    attributes: Mapping[str, tuple[Callable[[], Any], Callable[[Any], None] | None]]
    functions: Mapping[str, Callable[..., Any]]
    rejected: Callable[[str], None]
    """Called with a word for every error."""
    identity: str = ""
    errors: list[tuple[int, str]] = field(default_factory=list)
    _variables: dict[str, Any] = field(default_factory=dict)
    _printed: list[str] = field(default_factory=list)

    def run(self, line: str, port: Port) -> None:
        """One line; what it prints goes out by ``port``."""
        self._printed = []
        line = line.strip()
        if line == "*IDN?":
            self._printed.append(self.identity)
        elif line and line != "abort":
            try:
                self._statement(line)
            except TspError as exc:
                self.errors = [*self.errors, (exc.code, str(exc))][:_QUEUE]
                self.rejected(f"tsp{exc.code}")
        for text in self._printed:
            port.send(text.encode() + b"\n")

    def show(self, text: str) -> None:
        """Print a line."""
        self._printed.append(text)

    def _statement(self, line: str) -> None:
        assigned = _ASSIGN.match(line)
        if assigned is not None:
            values = self._values(assigned[2])
            names = [name.strip() for name in assigned[1].split(",")]
            for name, value in zip(names, [*values, *[None] * len(names)], strict=False):
                self._assign(name, value)
        elif _CALL.match(line):
            self._values(line)
        else:
            raise TspError(-285, f"TSP Syntax error at line 1: {line[:40]}")

    def _assign(self, name: str, value: Any) -> None:
        if name in self.attributes:
            setter = self.attributes[name][1]
            if setter is None:
                raise TspError(-286, f"TSP Runtime error at line 1: {name} is read only")
            setter(value)
        elif "." in name:
            raise TspError(-286, f"TSP Runtime error at line 1: {name} is no attribute")
        else:
            self._variables[name] = value

    def _values(self, text: str) -> list[Any]:
        return [value for part in split_arguments(text) for value in self._evaluate(part)]

    def _evaluate(self, text: str) -> list[Any]:
        literals = {"true": True, "false": False, "nil": None}
        if text in literals:
            return [literals[text]]
        if _NUMBER.match(text):
            return [float(text)]
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            return [text[1:-1]]
        called = _CALL.match(text)
        if called is not None:
            return self._call(called[1], self._values(called[2]) if called[2].strip() else [])
        if not _NAME.match(text):
            raise TspError(-285, f"TSP Syntax error at line 1: {text[:40]}")
        if text == "errorqueue.count":
            return [float(len(self.errors))]
        if text in self.attributes:
            return [self.attributes[text][0]()]
        if "." in text:
            raise TspError(-286, f"TSP Runtime error at line 1: {text} is no attribute")
        return [self._variables.get(text)]

    def _call(self, name: str, values: list[Any]) -> list[Any]:
        if name == "print":
            self.show("\t".join(_text(value) for value in values))
            return []
        if name == "errorqueue.clear":
            self.errors = []
            return []
        if name == "errorqueue.next":
            code, message = self.errors.pop(0) if self.errors else (0, "Queue Is Empty")
            return [float(code), message, 20.0, 1.0]
        if name not in self.functions:
            raise TspError(-286, f"TSP Runtime error at line 1: {name} is no function")
        try:
            found = self.functions[name](*values)
        except TypeError as exc:
            raise TspError(-286, f"TSP Runtime error at line 1: arguments of {name}") from exc
        return list(found) if isinstance(found, tuple) else [] if found is None else [found]


def split_arguments(text: str) -> list[str]:
    """Cut at the commas that stand outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += char
    if quote or depth:
        raise TspError(-285, "TSP Syntax error at line 1: unfinished")
    return [part.strip() for part in parts]


def _text(value: Any) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.8e}" if isinstance(value, float) else str(value)
