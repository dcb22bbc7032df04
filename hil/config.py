"""Bench files: TOML, read into frozen and strict models. An unknown key is an error, never ignored."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hil.backend import PerArray, PulseShape
from hil.errors import UsageError
from hil.limits import Limits
from hil.plugins import names

__all__ = [
    "BenchConfig",
    "BoardConfig",
    "Nominal",
    "ReadConfig",
    "RoleConfig",
    "StationConfig",
    "load_bench",
    "override",
    "shipped_benches",
    "validated",
]

_STRICT = ConfigDict(frozen=True, extra="forbid")
Model = TypeVar("Model", bound=BaseModel)


class BoardConfig(BaseModel):
    """``[boards.NAME]``: one array backend."""

    model_config = _STRICT

    backend: str
    """Name of an entry point in the group ``hil.backends``."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of that backend, checked by its own strict model."""
    limits: Limits | None = None
    """What the devices bear; a physical board without limits refuses to pulse."""


class RoleConfig(BaseModel):
    """``[roles.a]``, ``[roles.c]``: where the matrices of a role live, and their pulse."""

    model_config = _STRICT

    board: str
    up_v: PerArray
    """Potentiating pulse, volt, row minus col."""
    down_v: PerArray
    width_s: PerArray
    gate_up_v: PerArray | None = None
    gate_down_v: PerArray | None = None
    compliance_a: PerArray | None = None

    @property
    def shape(self) -> PulseShape:
        """The pulse of this role."""
        return PulseShape(**{field.name: getattr(self, field.name) for field in fields(PulseShape)})


class ReadConfig(BaseModel):
    """``[read]``: how lines are read."""

    model_config = _STRICT

    read_v: float = Field(default=0.2, gt=0)
    """Voltage of an input of 1 after scaling, volt."""
    averages: int = Field(default=1, ge=1)
    """Readings averaged for the conductance of a cell."""
    bound_management: bool = True
    """Whether a saturated forward read is repeated with halved inputs."""


class Nominal(BaseModel):
    """``[nominal]``: what a tile assumes of devices that nobody has characterized yet."""

    model_config = _STRICT

    g_min_siemens: float = Field(ge=0)
    g_max_siemens: float = Field(gt=0)
    bound_weight: float = Field(default=0.6, gt=0)
    """The range of conductance maps to +- this weight (b_w of the asymmetry axis)."""
    states: PerArray = 1200.0
    """(g_max - g_min) / step at the symmetry point."""

    @model_validator(mode="after")
    def _ordered(self) -> Nominal:
        if self.g_min_siemens >= self.g_max_siemens:
            raise ValueError(f"g_min_siemens = {self.g_min_siemens} is not below g_max_siemens = {self.g_max_siemens}")
        return self

    @property
    def siemens_per_weight(self) -> float:
        """Scale from weight to conductance."""
        return (self.g_max_siemens - self.g_min_siemens) / (2 * self.bound_weight)

    @property
    def g_mid_siemens(self) -> float:
        """Middle of the nominal range."""
        return (self.g_max_siemens + self.g_min_siemens) / 2


class StationConfig(BaseModel):
    """``[station]``: what brings the probes from site to site."""

    model_config = _STRICT

    station: str
    """Name of an entry point in the group ``hil.stations``."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of that station, checked by its own strict model."""


class BenchConfig(BaseModel):
    """A whole bench file."""

    model_config = _STRICT

    name: str
    seed: int = 0
    """Seed of everything drawn on the host, and of emulated devices."""
    boards: dict[str, BoardConfig] = Field(min_length=1)
    roles: dict[Literal["a", "c"], RoleConfig]
    read: ReadConfig = ReadConfig()
    nominal: Nominal
    station: StationConfig | None = None
    """None: one site, always in contact."""
    state: Path | None = None
    """Folder of what outlives a run (calibrations, wear counters), seen from the bench file's folder; default: beside the
    bench file, NAME.state."""
    procedures: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """``[procedures.NAME]``: this bench's own defaults for a procedure's options."""

    @model_validator(mode="after")
    def _wired(self) -> BenchConfig:
        for role, config in self.roles.items():
            if config.board not in self.boards:
                raise ValueError(f"roles.{role}.board = {config.board!r} is no board here: one of {', '.join(self.boards)}")
        if "c" not in self.roles:
            raise ValueError("roles.c is missing: every network needs a main matrix")
        return self


def validated(model: type[Model], data: Any, where: str, table: str = "") -> Model:
    """``model`` from plain data; UsageError with one line that names the key, what is wrong and where.

    table: the dotted name under which the data stand, put before the key.
    """
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        parts = [table] * bool(table) + [str(part) for part in first["loc"] if part not in _NOT_KEYS]
        key = ".".join(parts) or "(top level)"
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            what = "is missing: add it"
        if first["type"] == "extra_forbidden":
            what = f"unknown key; known here: {', '.join(_known_keys(model, first['loc']))}"
        more = f" (and {exc.error_count() - 1} more)" if exc.error_count() > 1 else ""
        raise UsageError(f"{where}: {key}: {what}{more}") from exc


_NOT_KEYS = ("float", "tuple[float, ...]", "[key]")
"""What pydantic puts in a location beside keys: the members of a number-or-list field, and a key's own mark."""


def _known_keys(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Keys that the table around ``loc`` may have."""
    here: Any = model
    for part in loc[:-1]:
        field = here.model_fields.get(str(part)) if isinstance(here, type) and issubclass(here, BaseModel) else None
        if field is None:
            continue
        inner = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(a, type)]
        here = next((a for a in reversed(inner) if issubclass(a, BaseModel)), here)
    return sorted(here.model_fields)


def shipped_benches() -> dict[str, Path]:
    """Bench files that come with the project, by name."""
    folder = Path(str(resources.files("hil") / "benches"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def override(data: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """``-s a.b.c=value`` applied to a copy of ``data``; values are TOML, bare words are strings."""
    out: dict[str, Any] = _copy(data)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"-s {change}: is not KEY=VALUE: write, for example, -s read.read_v=0.1")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        table = out
        *path, last = key.strip().split(".")
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise UsageError(f"-s {change}: {part} is a value, not a table: give its own key")
        table[last] = value
    return out


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}


def load_bench(bench: str, changes: Sequence[str] = ()) -> BenchConfig:
    """The bench file at a path or with a shipped name, with ``-s`` changes; UsageError says what is wrong."""
    shipped = shipped_benches()
    path = shipped.get(bench, Path(bench))
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise UsageError(f"{bench}: no such bench file: give a TOML file or one of {', '.join(shipped)}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{bench}: cannot be read ({type(exc).__name__}): give a TOML bench file") from exc
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{path}: is not valid TOML: {exc}: correct that line") from exc
    # A folder named in the file is beside the file; one named on the command line is seen from where one stands.
    if isinstance(data.get("state"), str):
        data["state"] = str(path.parent / data["state"])
    config = validated(BenchConfig, override(data, changes), str(path))
    known = names("hil.procedures")
    for name in config.procedures:
        if name.replace("-", "_") not in (one.replace("-", "_") for one in known):
            raise UsageError(f"{path}: procedures.{name}: no procedure has this name: one of {', '.join(known)}")
    return config
