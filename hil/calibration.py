"""What was measured of the devices of one board under one pulse shape, and the files that keep it.

Calibrations are keyed by the board's serial and the pulse shape, since the asymmetry of a device depends on the pulse.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import xarray
from torch import Tensor

from hil.backend import PulseShape
from hil.errors import DataError, ShapeError
from hil.ledger import Ledger

__all__ = ["QUANTITIES", "VERSION", "Calibration", "CalibrationStore"]

VERSION = 1
"""Of the file format."""

_FORMAT = "crosspoint-hil calibration"
_DIMS = ("array", "row", "col")

QUANTITIES: Mapping[str, tuple[str, str]] = {
    "g_min": ("siemens", "lower end of the range: fixed point of the down pulses, or where they stop"),
    "g_max": ("siemens", "upper end of the range: fixed point of the up pulses, or where they stop"),
    "g_sp": ("siemens", "symmetry point: where an up and a down pulse are equal in size; NaN where no usable one"),
    "g_ref": ("siemens", "reference to use: the symmetry point, or mid-range where flagged no-sp"),
    "step": ("siemens", "size F* of one pulse at the symmetry point"),
    "slope_up": ("1", "relative slope s+: an up pulse moves G by F* - s+ (G - G_sp)"),
    "slope_down": ("1", "relative slope s-: a down pulse moves G by -F* - s- (G - G_sp)"),
    "asymmetry": ("1/siemens", "a = (s+ + s-)^2 / (2 (D+ s- + D- s+)) = (s+ + s-) / (2 F*)"),
    "states": ("1", "(G_max - G_min) / F*"),
    "sp_skew": ("1", "(G_max - G_sp) / (G_max - G_min); 0.5 = centred"),
    "noise_to_step": ("1", "standard deviation of single steps at the symmetry point / F*, read noise removed"),
    "read_noise": ("siemens", "standard deviation of single readings without pulses"),
}
"""Name -> (unit, definition). Every one but g_ref has a standard error ``NAME_se`` beside it."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Measured devices. Cell fields are float32 [array row col] with the units of QUANTITIES; NaN = not measured.

    A cell that does not respond has ``responds`` false, its conductance as g_min, g_max and g_ref, and NaN elsewhere.
    """

    serial: str
    shape: PulseShape
    g_min: Tensor
    g_min_se: Tensor
    g_max: Tensor
    g_max_se: Tensor
    g_sp: Tensor
    g_sp_se: Tensor
    g_ref: Tensor
    step: Tensor
    step_se: Tensor
    slope_up: Tensor
    slope_up_se: Tensor
    slope_down: Tensor
    slope_down_se: Tensor
    asymmetry: Tensor
    asymmetry_se: Tensor
    states: Tensor
    states_se: Tensor
    sp_skew: Tensor
    sp_skew_se: Tensor
    noise_to_step: Tensor
    noise_to_step_se: Tensor
    read_noise: Tensor
    read_noise_se: Tensor
    responds: Tensor
    """bool [array row col]."""
    no_sp: Tensor
    """bool [array row col]: responds, but has no usable symmetry point."""
    siemens_per_weight: float
    """The scale with which ``alpha`` is computed."""
    bound_weight: float = 0.6
    """b_w of the asymmetry axis, weight."""
    procedure: str = ""
    """Who wrote it: every procedure that had a part, joined by " + "."""
    run_id: str = ""
    date: str = ""
    """UTC, ISO 8601."""
    pulses: int = 0
    """Most pulses that any cell got in making it."""

    def __post_init__(self) -> None:
        size = tuple(self.responds.shape)
        for name in _cell_names():
            value = getattr(self, name)
            want = torch.bool if name in ("responds", "no_sp") else torch.float32
            if len(size) != 3 or tuple(value.shape) != size or value.dtype != want:
                raise ShapeError(
                    f"calibration: {name} is {value.dtype} {list(value.shape)}, needs {want} {list(size)} [array row col]"
                )

    @property
    def mid(self) -> Tensor:
        """Middle of every cell's range, siemens [array row col]."""
        return (self.g_min + self.g_max) / 2

    @property
    def alpha(self) -> Tensor:
        """Asymmetry a in 1/weight times the bound b_w, [array row col]: 0 symmetric, 1 soft bounds at +-b_w."""
        return self.asymmetry * (self.siemens_per_weight * self.bound_weight)

    def crop(self, rows: slice, cols: slice) -> Calibration:
        """The same for a rectangle of the board."""
        return replace(self, **{name: getattr(self, name)[:, rows, cols].contiguous() for name in _cell_names()})

    def replicated(self, index: Tensor, serial: str) -> Calibration:
        """For a population whose array k has the devices of array ``index[k]`` here; index int64 [array]."""
        return replace(self, serial=serial, **{name: getattr(self, name)[index] for name in _cell_names()})

    def summary(self) -> list[tuple[str, float, str, str]]:
        """Table rows (name, value, unit, definition): medians over the cells that respond, and how many do not."""
        alive = self.responds
        rows: list[tuple[str, float, str, str]] = [
            ("cells", float(alive.numel()), "1", "cells measured"),
            (
                "not_responding",
                float((~alive).sum()),
                "1",
                "cells without a response to pulses, left out of everything below",
            ),
            ("no_sp", float(self.no_sp.sum()), "1", "responding cells without a usable symmetry point"),
        ]
        for name, (unit, definition) in QUANTITIES.items():
            rows.append((name, _median(getattr(self, name)[alive]), unit, f"median: {definition}"))
        scale = f"b_w = {self.bound_weight:g} weight, {self.siemens_per_weight:g} siemens per weight"
        rows.append(("alpha", _median(self.alpha[alive]), "1", f"median: a in 1/weight times b_w; {scale}"))
        return rows

    def save(self, path: Path | str) -> None:
        """Write NetCDF; the file appears whole or not at all. DataError where it cannot be written."""
        path = Path(path)
        data = xarray.Dataset({name: (_DIMS, getattr(self, name).cpu().numpy()) for name in _cell_names()})
        for name, array in data.data_vars.items():
            array.attrs = _attributes(str(name))
        for name in ("responds", "no_sp"):
            data[name] = data[name].astype(np.int8).assign_attrs(data[name].attrs)
        data.attrs = {
            "format": _FORMAT, "version": VERSION, "serial": self.serial, "shape": json.dumps(asdict(self.shape)),
            "siemens_per_weight": self.siemens_per_weight, "bound_weight": self.bound_weight, "procedure": self.procedure,
            "run_id": self.run_id, "date": self.date, "pulses": self.pulses,
        }  # fmt: skip
        draft: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            os.close(handle)
            data.to_netcdf(draft, engine="h5netcdf")
            with open(draft, "rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError as exc:
            if draft is not None:
                with suppress(OSError):
                    os.unlink(draft)
            raise DataError(f"{path}: cannot save the calibration ({exc}): make room or choose another folder") from exc

    @classmethod
    def load(cls, path: Path | str, *, serial: str | None = None, shape: PulseShape | None = None) -> Self:
        """Read a file of ``save``.

        serial, shape: what it must be of, if given. DataError where there is no such file, it is no calibration, is
        damaged, has another version, or belongs to another board or pulse.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such calibration: run `hil characterize BENCH`, or correct the path")
        try:
            with xarray.open_dataset(path, engine="h5netcdf") as data:
                attrs, named = dict(data.attrs), {str(n): np.array(v.values) for n, v in data.data_vars.items()}
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as exc:
            reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
            raise DataError(f"{path}: is not a calibration, or is damaged ({reason}): characterize the bench again") from exc
        if attrs.get("format") != _FORMAT:
            raise DataError(f"{path}: is a NetCDF file but not a calibration: give one that `hil characterize` wrote")
        if int(attrs.get("version", -1)) != VERSION:
            raise DataError(f"{path}: has version {attrs.get('version')}, this program reads {VERSION}: characterize again")
        try:
            loaded = cls(**_arguments(attrs, named))
        except (KeyError, TypeError, ValueError, ShapeError) as exc:
            raise DataError(f"{path}: is incomplete ({str(exc).splitlines()[0]}): characterize the bench again") from exc
        if serial is not None and loaded.serial != serial:
            raise DataError(f"{path}: belongs to board {loaded.serial}, not to {serial}: give the calibration of this bench")
        if shape is not None and loaded.shape != shape:
            raise DataError(f"{path}: was made with {loaded.shape}, not with {shape}: characterize with this pulse")
        return loaded


class CalibrationStore:
    """A folder of calibrations, one file per board and pulse shape. read_only: ``save`` writes nothing (dry runs).

    ledger: record of the run that they are used in, None without one; ``hil.known`` notes there which it took.
    """

    def __init__(self, directory: Path | str, read_only: bool = False, ledger: Ledger | None = None) -> None:
        self.directory, self.read_only, self.ledger = Path(directory), read_only, ledger

    def path(self, serial: str, shape: PulseShape) -> Path:
        """Where the calibration of this board and pulse lies, or would."""
        key = json.dumps([serial, asdict(shape)], sort_keys=True)
        tail = hashlib.blake2b(key.encode(), digest_size=6).hexdigest()
        return self.directory / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', serial)[:80]}-{tail}.nc"

    def find(self, serial: str, shape: PulseShape) -> Calibration | None:
        """The calibration of this board and pulse, or None; DataError where its file is damaged or another's."""
        path = self.path(serial, shape)
        return Calibration.load(path, serial=serial, shape=shape) if path.exists() else None

    def save(self, calibration: Calibration) -> Path:
        """Keep it, in place of an older one; returns its path."""
        path = self.path(calibration.serial, calibration.shape)
        if not self.read_only:
            calibration.save(path)
        return path


def _median(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.median()) if len(finite) else float("nan")


def _cell_names() -> list[str]:
    return [field.name for field in fields(Calibration) if field.type == "Tensor"]


def _attributes(name: str) -> dict[str, str]:
    if name == "responds":
        return {"units": "1", "long_name": "1 where the cell answers to pulses"}
    if name == "no_sp":
        return {"units": "1", "long_name": "1 where a responding cell has no usable symmetry point"}
    unit, definition = QUANTITIES[name.removesuffix("_se")]
    return {"units": unit, "long_name": f"standard error of {name[:-3]}" if name.endswith("_se") else definition}


def _arguments(attrs: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments from a file's attributes and arrays; KeyError, TypeError, ValueError where they do not fit."""
    shape = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(attrs["shape"]).items()}
    cells = {name: torch.from_numpy(named[name].astype(np.float32)) for name in _cell_names()}
    cells |= {name: cells[name] > 0 for name in ("responds", "no_sp")}
    text = {name: str(attrs[name]) for name in ("serial", "procedure", "run_id", "date")}
    scale = {name: float(attrs[name]) for name in ("siemens_per_weight", "bound_weight")}
    return {"shape": PulseShape(**shape), "pulses": int(attrs["pulses"]), **cells, **text, **scale}
