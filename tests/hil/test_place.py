"""Where matrices live: no two on the same cell, every element somewhere, and a clear refusal when the board is full."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hil.errors import UsageError
from hil.place import Allocator


class Board:
    """As much of a backend as an allocator needs."""

    def __init__(self, rows, cols):
        self.info = type("Info", (), {"rows": rows, "cols": cols})()


def covered(regions, inputs, outputs, board, taken):
    """Check that the regions hold every element once, one to one; adds their cells to ``taken`` [row col]."""
    elements = torch.zeros(inputs, outputs, dtype=torch.int64)
    for r in regions:
        assert r.backend is board
        assert 0 <= r.rows.start < r.rows.stop <= board.info.rows
        assert 0 <= r.cols.start < r.cols.stop <= board.info.cols
        assert r.rows.stop - r.rows.start == r.inputs.stop - r.inputs.start
        assert r.cols.stop - r.cols.start == r.outputs.stop - r.outputs.start
        elements[r.inputs, r.outputs] += 1
        taken[r.rows, r.cols] += 1
    assert torch.equal(elements, torch.ones_like(elements))
    assert int(taken.max()) <= 1


def test_a_and_c_of_every_layer_lie_side_by_side_whole():
    board = Board(128, 96)
    allocator, taken = Allocator(board), torch.zeros(128, 96, dtype=torch.int64)
    for name, inputs, outputs in (("0.a", 64, 32), ("0.c", 64, 32), ("1.a", 32, 10), ("1.c", 32, 10)):
        regions = allocator.place(inputs, outputs, name, "main")
        covered(regions, inputs, outputs, board, taken)
        assert len(regions) == 1


def test_a_matrix_of_the_size_of_the_board_is_the_whole_board():
    board = Board(5, 7)
    (region,) = Allocator(board).place(5, 7, "m", "main")
    assert region.whole
    (part,) = Allocator(board).place(5, 6, "m", "main")
    assert not part.whole


@pytest.mark.parametrize(("inputs", "outputs"), [(20, 3), (3, 20), (9, 9)])
def test_a_matrix_larger_than_any_free_rectangle_is_split(inputs, outputs):
    board = Board(10, 10)
    allocator, taken = Allocator(board), torch.zeros(10, 10, dtype=torch.int64)
    covered(allocator.place(2, 2, "first", "main"), 2, 2, board, taken)
    regions = allocator.place(inputs, outputs, "wide", "main")
    assert len(regions) > 1
    covered(regions, inputs, outputs, board, taken)


def test_free_cells_are_used_however_they_lie():
    """3 free rows of 8: a matrix of 4 x 2 fits in two pieces."""
    board = Board(8, 8)
    allocator, taken = Allocator(board), torch.zeros(8, 8, dtype=torch.int64)
    covered(allocator.place(5, 8, "first", "main"), 5, 8, board, taken)
    covered(allocator.place(4, 2, "second", "main"), 4, 2, board, taken)


def test_a_full_board_says_so_in_one_line_and_takes_nothing():
    allocator = Allocator(Board(8, 8))
    allocator.place(8, 4, "first", "main")
    full = r"matrix layer0\.c \(8 x 5\) does not fit board lab \(8 x 8, 32 cells free\)"
    with pytest.raises(UsageError, match=full) as caught:
        allocator.place(8, 5, "layer0.c", "lab")
    assert "\n" not in str(caught.value)
    assert re.search("use a larger board", str(caught.value))
    assert len(allocator.place(8, 4, "third", "lab")) == 1


@given(
    rows=st.integers(1, 24), cols=st.integers(1, 24),
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=6),
)  # fmt: skip
def test_nothing_overlaps_and_a_matrix_fits_if_and_only_if_enough_cells_are_free(rows, cols, sizes):
    board = Board(rows, cols)
    allocator, taken = Allocator(board), torch.zeros(rows, cols, dtype=torch.int64)
    for number, (inputs, outputs) in enumerate(sizes):
        free = rows * cols - int(taken.sum())
        if inputs * outputs > free:
            with pytest.raises(UsageError, match=f"{free} cells free"):
                allocator.place(inputs, outputs, f"m{number}", "main")
        else:
            covered(allocator.place(inputs, outputs, f"m{number}", "main"), inputs, outputs, board, taken)
