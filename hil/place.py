"""Where a matrix lives: regions of boards, and the allocator that finds them."""

from __future__ import annotations

from dataclasses import dataclass

from hil.backend import ArrayBackend, PulseShape
from hil.config import Nominal, ReadConfig
from hil.errors import UsageError

__all__ = ["Allocator", "Place", "Region", "Surface"]


@dataclass(frozen=True)
class Region:
    """A rectangle of a board that holds a rectangle of a matrix: inputs on rows, outputs on cols."""

    backend: ArrayBackend
    rows: slice
    cols: slice
    inputs: slice
    outputs: slice

    @property
    def whole(self) -> bool:
        """Whether it is the whole board."""
        info = self.backend.info
        return (self.rows.start, self.rows.stop, self.cols.start, self.cols.stop) == (0, info.rows, 0, info.cols)


@dataclass(frozen=True)
class Place:
    """A matrix [inputs x outputs] on its regions, with the pulse, read settings and nominal devices that go with it."""

    name: str
    role: str
    inputs: int
    outputs: int
    regions: tuple[Region, ...]
    shape: PulseShape
    read: ReadConfig
    nominal: Nominal


@dataclass(frozen=True)
class Surface:
    """Something to characterize: a whole board under one pulse shape."""

    name: str
    role: str
    """"a", "c", or "a+c" where both share board and shape."""
    backend: ArrayBackend
    shape: PulseShape
    nominal: Nominal
    averages: int


class Allocator:
    """Hands out free rectangles of one board: first fit along the rows, then in the next strip of columns."""

    def __init__(self, backend: ArrayBackend) -> None:
        self.backend = backend
        self._used: list[tuple[int, int, int, int]] = []

    def place(self, inputs: int, outputs: int, name: str, board: str) -> tuple[Region, ...]:
        """Regions for a matrix; one where it fits, else blocks as large as what is free; UsageError where it does not."""
        info = self.backend.info
        regions: list[Region] = []
        for first_in in range(0, inputs, info.rows):
            height = min(info.rows, inputs - first_in)
            first_out = 0
            while first_out < outputs:
                spot = self._find(height, outputs - first_out)
                if spot is None:
                    free = info.rows * info.cols - sum((b - a) * (d - c) for a, b, c, d in self._used)
                    raise UsageError(
                        f"matrix {name} ({inputs} x {outputs}) does not fit board {board} ({info.rows} x {info.cols}, "
                        f"{free} cells free): use a larger board, a second one, or a smaller network"
                    )
                row, col, width = spot
                self._used.append((row, row + height, col, col + width))
                regions.append(
                    Region(
                        self.backend,
                        slice(row, row + height),
                        slice(col, col + width),
                        slice(first_in, first_in + height),
                        slice(first_out, first_out + width),
                    )
                )
                first_out += width
        return tuple(regions)

    def _find(self, height: int, width: int) -> tuple[int, int, int] | None:
        """(row, col, columns) of the first free rectangle of this height, as wide as is free but not wider than asked."""
        info = self.backend.info
        best: tuple[int, int, int] | None = None
        rows = sorted({0, *(bottom for _, bottom, _, _ in self._used)})
        cols = sorted({0, *(right for *_, right in self._used)})
        for col in cols:
            for row in rows:
                if row + height > info.rows:
                    continue
                clash = [
                    left for top, bottom, left, right in self._used if top < row + height and row < bottom and right > col
                ]
                free = min([info.cols, *clash]) - col
                if free >= width:
                    return row, col, width
                if free > 0 and (best is None or free > best[2]):
                    best = (row, col, free)
        return best
