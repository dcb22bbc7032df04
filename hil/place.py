"""Where a matrix lives: regions of boards, and the allocator that finds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
    usable: Tensor | None = None
    """bool [row col]: cells that the bench file does not exclude; None = all."""

    @property
    def mask(self) -> Tensor:
        """The usable cells, bool [array row col]."""
        info = self.backend.info
        usable = torch.ones(info.rows, info.cols, dtype=torch.bool) if self.usable is None else self.usable
        return usable.repeat(info.arrays, 1, 1)


class Allocator:
    """Hands out free rectangles of one board: first fit along the rows, then in the next strip of columns.

    usable: bool [row col], cells that may be used; default all. No rectangle holds another one.
    """

    def __init__(self, backend: ArrayBackend, usable: Tensor | None = None) -> None:
        self.backend = backend
        info = backend.info
        self._excluded = 0 if usable is None else int((~usable).sum())
        self._free = info.rows * info.cols - self._excluded
        self._used: list[_Box] = [] if usable is None else _boxes(~usable)

    def place(self, inputs: int, outputs: int, name: str, board: str) -> tuple[Region, ...]:
        """Regions for a matrix: one where it fits, else blocks as large as what is free.

        UsageError where the board has fewer free cells than the matrix; nothing is taken then.
        """
        info = self.backend.info
        if inputs * outputs > self._free:
            without = f", {self._excluded} excluded by its limits" if self._excluded else ""
            raise UsageError(
                f"matrix {name} ({inputs} x {outputs}) does not fit board {board} ({info.rows} x {info.cols}, "
                f"{self._free} cells free{without}): use a larger board, a second one, or a smaller network"
            )
        self._free -= inputs * outputs
        regions: list[Region] = []
        todo = [(0, inputs, 0, outputs)]
        while todo:
            first_in, last_in, first_out, last_out = todo.pop()
            row, col, height, width = self._find(last_in - first_in, last_out - first_out)
            self._used.append((row, row + height, col, col + width))
            cut_in, cut_out = first_in + height, first_out + width
            rows, cols = slice(row, row + height), slice(col, col + width)
            regions.append(Region(self.backend, rows, cols, slice(first_in, cut_in), slice(first_out, cut_out)))
            if cut_in < last_in:
                todo.append((cut_in, last_in, first_out, last_out))
            if cut_out < last_out:
                todo.append((first_in, cut_in, cut_out, last_out))
        return tuple(regions)

    def _find(self, height: int, width: int) -> _Box:
        """(row, col, rows, cols) of the first free rectangle of this size, else of the largest one inside this size."""
        info = self.backend.info
        best, most = (0, 0, 0, 0), 0
        for col in sorted({0, *(right for *_, right in self._used)}):
            for row in sorted({0, *(bottom for _, bottom, _, _ in self._used)}):
                # Every lower edge that something used or the board gives, and the one asked for.
                edges = {min(row + height, info.rows), *(top for top, *_ in self._used if row < top < row + height)}
                for bottom in sorted(edges):
                    clash = [a for top, end, a, b in self._used if top < bottom and row < end and b > col]
                    wide = min([info.cols, col + width, *clash]) - col
                    area = (bottom - row) * wide
                    if wide > 0 and area > most:
                        best, most = (row, col, bottom - row, wide), area
                if most == height * width:
                    return best
        return best


def _boxes(cells: Tensor) -> list[_Box]:
    """Cells, bool [row col], as boxes: whole rows, whole columns, what is left one by one."""
    height, width = cells.shape
    rows, cols = cells.all(dim=1), cells.all(dim=0)
    lone = cells & ~rows[:, None] & ~cols[None, :]
    return [
        *((row, row + 1, 0, width) for row in rows.nonzero().flatten().tolist()),
        *((0, height, col, col + 1) for col in cols.nonzero().flatten().tolist()),
        *((row, row + 1, col, col + 1) for row, col in lone.nonzero().tolist()),
    ]


_Box = tuple[int, int, int, int]
"""First row, last row + 1, first col, last col + 1."""
