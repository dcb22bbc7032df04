"""Finished trainings over a space of asymmetries and hyper-parameters: what explore makes, calibrate and specify read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hil.errors import DataError

__all__ = ["ALGORITHMS", "FILE", "Exploration", "FloatArray", "IntArray", "find_exploration"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

ALGORITHMS = ("tiki_taka", "sgd", "digital")
FILE = "exploration.json"
"""Its name in the folder of a run."""
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Exploration:
    """One training a point; every array runs over the points, in the order of the design.

    DataError where arrays differ in length, an algorithm is unknown, or an accuracy is no fraction.
    """

    network: str
    """What was trained, for example "digits 64-32-10 tanh, batch 1, 15 epochs": a specification holds for it alone."""
    axes: Mapping[str, FloatArray]
    """[point] by name: alpha_a, alpha_c, lr_a, ...; NaN where an axis does not apply to the point's algorithm."""
    algorithm: tuple[str, ...]
    """[point]: one of ALGORITHMS."""
    seed: IntArray
    """[point]: identity of the replica."""
    validation: FloatArray
    """[point]: accuracy on the validation part, 0 to 1, for selection; NaN = not finished."""
    test: FloatArray
    """[point]: accuracy on the test part, for reports."""
    validation_size: int
    """Images behind one validation accuracy: its binomial noise."""
    test_size: int

    def __post_init__(self) -> None:
        points = len(self.algorithm)
        arrays = {**self.axes, "seed": self.seed, "validation": self.validation, "test": self.test}
        for name, value in arrays.items():
            if value.shape != (points,):
                raise DataError(f"exploration: {name} has {len(value)} values for {points} points: it is damaged")
        for unknown in set(self.algorithm) - set(ALGORITHMS):
            raise DataError(f"exploration: algorithm {unknown!r} is unknown: one of {', '.join(ALGORITHMS)}")
        for name in ("validation", "test"):
            value = arrays[name]
            if bool(((value < 0) | (value > 1)).any()):
                raise DataError(f"exploration: {name}: an accuracy outside 0 to 1: give fractions, no percentages")
        if self.validation_size < 1 or self.test_size < 1:
            raise DataError("exploration: accuracies of no image: the parts of the data set need at least one")

    def __len__(self) -> int:
        return len(self.algorithm)

    def some(self, chosen: NDArray[Any]) -> Self:
        """The points of a mask or of indices."""
        which = np.arange(len(self))[chosen]
        return replace(
            self,
            axes={name: value[which] for name, value in self.axes.items()},
            algorithm=tuple(self.algorithm[k] for k in which),
            seed=self.seed[which],
            validation=self.validation[which],
            test=self.test[which],
        )

    def chosen(self, algorithm: str) -> Self:
        """The points of one algorithm."""
        return self.some(np.array([name == algorithm for name in self.algorithm], dtype=bool))

    def finished(self) -> Self:
        """The points that have both accuracies."""
        return self.some(np.isfinite(self.validation) & np.isfinite(self.test))

    def varied(self) -> tuple[str, ...]:
        """Axes that take more than one value."""
        return tuple(name for name, value in self.axes.items() if len(np.unique(value[np.isfinite(value)])) > 1)

    def to_json(self) -> dict[str, Any]:
        """Plain data; a missing number is null."""
        return {
            "format": _FORMAT, "network": self.network,
            "validation_size": self.validation_size, "test_size": self.test_size,
            "axes": {name: _plain(value) for name, value in self.axes.items()},
            "algorithm": list(self.algorithm), "seed": self.seed.tolist(),
            "validation": _plain(self.validation), "test": _plain(self.test),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Any, where: str = "exploration") -> Self:
        """``to_json`` undone; DataError says what is missing."""
        try:
            if data["format"] != _FORMAT:
                raise DataError(f"{where}: format {data['format']}, and this version reads {_FORMAT}: explore again")
            return cls(
                str(data["network"]),
                {str(name): _array(value) for name, value in data["axes"].items()},
                tuple(map(str, data["algorithm"])),
                np.array(data["seed"], dtype=np.int64),
                _array(data["validation"]),
                _array(data["test"]),
                int(data["validation_size"]),
                int(data["test_size"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise DataError(f"{where}: is no exploration ({type(exc).__name__}: {exc}): give what explore wrote") from exc

    def save(self, folder: Path) -> Path:
        """Write ``exploration.json`` into a folder; a reader never sees half of it."""
        path, draft = folder / FILE, folder / f"{FILE}.tmp"
        draft.write_text(json.dumps(self.to_json()), encoding="utf-8")
        draft.replace(path)
        return path

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """From the folder of a run, or from the file itself; DataError where there is none."""
        file = Path(path)
        file = file / FILE if file.is_dir() else file
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise DataError(f"{file}: cannot be read ({type(exc).__name__}): give the folder of a run of explore") from exc
        return cls.from_json(data, str(file))


def find_exploration(given: str, runs: Path) -> Exploration:
    """By folder, file, or id of a run in ``runs``; "" = the newest one there. DataError if there is none."""
    if given:
        beside = runs / given
        return Exploration.load(beside if beside.is_dir() and not Path(given).exists() else Path(given))
    found = sorted(runs.glob(f"*/{FILE}"))
    if not found:
        raise DataError(f"{runs}: holds no exploration: run `hil explore BENCH` first, or say which with exploration=FOLDER")
    return Exploration.load(found[-1])


def _plain(values: FloatArray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _array(values: Sequence[float | None]) -> FloatArray:
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)
