"""The asymmetry specification as a file: which asymmetries a network bears, and with which hyper-parameters."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.interpolate import RegularGridInterpolator

from hil.errors import DataError

__all__ = ["Range", "SpecPoint", "Specification"]

_STRICT = ConfigDict(frozen=True, extra="forbid")
Fraction = float


class Range(BaseModel):
    """Where the best accuracy stays within ``delta`` of the digital reference."""

    model_config = _STRICT

    delta: float = Field(gt=0, lt=1)
    """Allowed loss of accuracy, a fraction."""
    confidence: float = Field(gt=0, lt=1)
    """Of each end of the ranges, one-sided."""
    alpha_a: tuple[float, float] | None = None
    """Lowest and highest alpha of A that passes with some alpha of C; None = none does."""
    alpha_c: tuple[float, float] | None = None


class SpecPoint(BaseModel):
    """What to train with at one pair of asymmetries."""

    model_config = _STRICT

    alpha_a: float = Field(gt=0)
    alpha_c: float = Field(gt=0)
    accuracy: float = Field(ge=0, le=1)
    """Test accuracy at these hyper-parameters, which the filtered validation accuracy chose."""
    error: float = Field(ge=0)
    hyper: dict[str, float]


class Specification(BaseModel):
    """See docs/specification.md. Accuracies are fractions on the test part; alphas are those of docs/maths.md."""

    model_config = _STRICT

    format: Literal[1] = 1
    network: str
    digital_accuracy: float = Field(ge=0, le=1)
    """Of the same network trained digitally."""
    digital_error: float = Field(ge=0)
    deltas: tuple[Range, ...]
    alpha_a: tuple[float, ...] = Field(min_length=1)
    """Ascending values of the map's first axis."""
    alpha_c: tuple[float, ...] = Field(min_length=1)
    accuracy: tuple[tuple[float, ...], ...]
    """[alpha_a alpha_c]: best filtered accuracy over the hyper-parameters; nan = not known."""
    error: tuple[tuple[float, ...], ...]
    """[alpha_a alpha_c]: its standard error."""
    points: tuple[SpecPoint, ...] = ()

    @model_validator(mode="after")
    def _square(self) -> Self:
        shape = len(self.alpha_a), len(self.alpha_c)
        for name in ("accuracy", "error"):
            rows = getattr(self, name)
            if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
                raise ValueError(f"{name} is not {shape[0]} x {shape[1]} as its axes say")
        for name in ("alpha_a", "alpha_c"):
            axis = np.array(getattr(self, name))
            if not bool((axis > 0).all()) or not bool((np.diff(axis) > 0).all()):
                raise ValueError(f"{name} does not ascend above 0")
        if not np.isfinite(np.array(self.accuracy)).any():
            raise ValueError("accuracy: the map is empty")
        return self

    def accuracy_at(self, alpha_a: float, alpha_c: float) -> tuple[float, float]:
        """(expected accuracy, its standard error), linear in log axes; NaN outside the map."""
        return self._at(self.accuracy, alpha_a, alpha_c), self._at(self.error, alpha_a, alpha_c)

    def _at(self, rows: tuple[tuple[float, ...], ...], alpha_a: float, alpha_c: float) -> float:
        if not (alpha_a > 0 and alpha_c > 0):
            return math.nan
        table, given = np.array(rows, dtype=np.float64), []
        axes = []
        for number, (axis, value) in enumerate(((self.alpha_a, alpha_a), (self.alpha_c, alpha_c))):
            if len(axis) == 1:
                # One value only: the map says nothing of others.
                if not math.isclose(axis[0], value, rel_tol=1e-6):
                    return math.nan
                table = np.repeat(table, 2, axis=number)
                axes.append(np.array([0.0, 1.0]))
                given.append(0.0)
            else:
                axes.append(np.log10(np.array(axis)))
                given.append(math.log10(value))
        return float(RegularGridInterpolator(tuple(axes), table, bounds_error=False)(np.array([given]))[0])

    def hyper_at(self, alpha_a: float, alpha_c: float) -> dict[str, float]:
        """Hyper-parameters of the nearest point in log axes; DataError where there is none."""
        if not self.points:
            raise DataError(f"{self.network}: the specification names no hyper-parameters: specify again")
        here = np.log10([alpha_a, alpha_c])
        near = min(self.points, key=lambda p: float(np.hypot(*(np.log10([p.alpha_a, p.alpha_c]) - here))))
        return dict(near.hyper)

    def range_of(self, delta: float) -> Range:
        """The range for a loss; DataError where the specification has none for it."""
        for one in self.deltas:
            if math.isclose(one.delta, delta, rel_tol=1e-6):
                return one
        known = ", ".join(f"{one.delta:g}" for one in self.deltas)
        raise DataError(f"{self.network}: no range for a loss of {delta:g}: one of {known}")

    def save(self, path: Path) -> Path:
        """As TOML, or as JSON where the name ends so."""
        data = self.model_dump(mode="python")
        text = json.dumps(_plain(data), indent=1) if path.suffix == ".json" else _toml(data)
        path.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """From TOML or JSON; DataError with one line that says what is wrong."""
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
            data: Any = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as exc:
            raise DataError(f"{file}: cannot be read ({type(exc).__name__}): give a file that specify wrote") from exc
        try:
            return cls.model_validate(_numbers(data))
        except ValidationError as exc:
            first = exc.errors()[0]
            key = ".".join(map(str, first["loc"])) or "(top level)"
            raise DataError(f"{file}: {key}: {first['msg'].removeprefix('Value error, ')}: specify again") from exc


def _plain(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(data: Any) -> Any:
    """``_plain`` undone in the tables."""
    if isinstance(data, dict):
        tables = {"accuracy", "error"}
        return {
            name: [[math.nan if one is None else one for one in row] for row in value]
            if name in tables and isinstance(value, list)
            else value
            for name, value in data.items()
        }
    return data


def _toml(data: dict[str, Any]) -> str:
    """A specification as TOML: plain keys first, then a table for every range and point."""
    lines = ["# The asymmetry specification of a network: see docs/specification.md"]
    tables = {"deltas", "points"}
    lines += [f"{name} = {_value(value)}" for name, value in data.items() if name not in tables]
    for table in ("deltas", "points"):
        for row in data[table]:
            lines += ["", f"[[{table}]]", *(f"{name} = {_value(one)}" for name, one in row.items() if one is not None)]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    if isinstance(value, float):
        return "nan" if math.isnan(value) else repr(value)
    return json.dumps(value)
