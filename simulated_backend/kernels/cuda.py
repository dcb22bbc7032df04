# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The update kernel in Triton for GPUs: one launch an update, whatever the population and the batch.

A program owns a tile of ROWS x COLS cells of one array, columns along the lanes of a warp, so that every access is
coalesced. It draws the packed slots of its own lines from the trains' counters, counts coincidences by AND and popcount,
and takes sample after sample with its cells in registers; nothing passes through memory but cells, keys and lines, and no
call waits for the GPU, so that a step may be captured in a CUDA graph.

**What must move.** An update of one sample touches only cells that get a pulse: 8 bytes of state (read, written), 8 of
bounds, and of d and s those of the polarity at hand; both polarities occur among the eight cells of a 32-byte sector,
so 16. That makes 32 bytes a cell of the linear family where lines are dense, plus 16 with wear counters, plus 4 where a
hidden state is kept beside the visible one (written, not read). A batch moves them once, for all its samples. Lines add
11 bytes each (probability, sign, identity, once a tile), below one part in twenty at 32 x 64 cells. The roofline is
bytes over the measured bandwidth of a copy; ``benchmarks/gpu_update.py`` prints both.

Interface and definition: ``reference``. Runs on the CPU under ``TRITON_INTERPRET=1``, for tests.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hil.encoding import PulseTrain
from simulated_backend.kernels.cuda_draws import KINDS, gauss_pairs, line_hash, packed_slots, popcount, unsigned
from simulated_backend.kernels.cuda_steps import FAMILIES, NAMES, load_cells, pulses, seen_after
from simulated_backend.kernels.reference import Cells

__all__ = ["COVERS", "apply", "trace", "update"]

COVERS = frozenset(FAMILIES)
"""Models this kernel knows: all of them."""

ROWS, COLS = 32, 64
"""Cells of a tile of ``update``."""
WARPS = 8
"""Warps to a tile: eight cells a thread. With sixteen the registers of a thread run over."""
BLOCK = 1024
"""Cells of a block of ``apply`` and ``trace``."""


@triton.jit
def _coincidences(
    rows_of, cols_of, array, sample, samples, row, col, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr,
    ROW_KIND: tl.constexpr, COL_KIND: tl.constexpr,
):  # fmt: skip
    """Pulses on every cell of a tile and their polarity, int32 and bool [ROWS COLS]."""
    at = array * samples + sample
    row_bits, row_sign = packed_slots(
        rows_of[0], rows_of[1], rows_of[2], rows_of[3], rows_of[4], rows_of[5], at, rows, row, row < rows, ROWS, ROW_KIND
    )
    col_bits, col_sign = packed_slots(
        cols_of[0], cols_of[1], cols_of[2], cols_of[3], cols_of[4], cols_of[5], at, cols, col, col < cols, COLS, COL_KIND
    )
    number = popcount(unsigned(row_bits[:, None] & col_bits[None, :])).to(tl.int32)
    return number, (row_sign[:, None] * col_sign[None, :]) > 0


@triton.jit
def _update(
    rows_of, cols_of, key, active, state, hidden, params, nodes, c2c, write, count_up, count_down, pairs, rows, cols,
    samples, ROW_KIND: tl.constexpr, COL_KIND: tl.constexpr, ACTIVE: tl.constexpr, HIDDEN: tl.constexpr,
    COUNTED: tl.constexpr, FAMILY: tl.constexpr, MULTIPLICATIVE: tl.constexpr, UP: tl.constexpr, DOWN: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, ONE: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(cols, COLS)
    tiles = tl.cdiv(rows, ROWS) * across
    array, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    if ACTIVE:  # noqa: SIM102 - decided while compiling
        if tl.load(active + array) == 0:
            return
    row = (tile // across) * ROWS + tl.arange(0, ROWS)
    col = (tile % across) * COLS + tl.arange(0, COLS)
    cell = row[:, None] * cols + col[None, :]
    at = array.to(tl.int64) * rows * cols + cell
    mask = (row < rows)[:, None] & (col < cols)[None, :]
    number, up = _coincidences(rows_of, cols_of, array, 0, samples, row, col, rows, cols, ROWS, COLS, ROW_KIND, COL_KIND)
    if ONE:
        # Of one sample, only sectors that hold a cell with a pulse are fetched and written.
        mask = number > 0
        if tl.max(number) == 0:
            return
    cells = load_cells(params, at, mask, FAMILY, MULTIPLICATIVE)
    w = tl.load(hidden + at, mask=mask, other=0.0)
    seen = w
    noise, scatter = tl.load(c2c + array), 0.0
    if HIDDEN:
        scatter = tl.load(write + array)
        seen = tl.load(state + at, mask=mask, other=0.0)
    ups, downs = tl.zeros([ROWS, COLS], dtype=tl.int32), tl.zeros([ROWS, COLS], dtype=tl.int32)
    for sample in range(0, samples):
        if not ONE:  # noqa: SIM102 - decided while compiling
            if sample > 0:
                number, up = _coincidences(
                    rows_of, cols_of, array, sample, samples, row, col, rows, cols, ROWS, COLS, ROW_KIND, COL_KIND
                )
        word = key + 2 * (array * samples + sample)
        place = line_hash(unsigned(tl.load(word)), unsigned(tl.load(word + 1)), unsigned(cell))
        w = pulses(w, number, up, cells, at, place, noise, pairs, nodes, FAMILY, MULTIPLICATIVE, UP, DOWN)
        if HIDDEN:
            seen = tl.where(number > 0, seen_after(w, cells[2], cells[3], place, scatter, pairs, number > 0), seen)
        if COUNTED:
            ups += tl.where(up, number, 0)
            downs += tl.where(up, 0, number)
    tl.store(hidden + at, w, mask=mask)
    if HIDDEN:
        tl.store(state + at, seen, mask=mask)
    if COUNTED:
        tl.store(count_up + at, tl.load(count_up + at, mask=mask & (ups > 0), other=0) + ups, mask=mask & (ups > 0))
        tl.store(
            count_down + at, tl.load(count_down + at, mask=mask & (downs > 0), other=0) + downs, mask=mask & (downs > 0)
        )


@triton.jit
def _apply(
    counts, key, state, hidden, params, nodes, c2c, write, count_up, count_down, pairs, size, HIDDEN: tl.constexpr,
    COUNTED: tl.constexpr, FAMILY: tl.constexpr, MULTIPLICATIVE: tl.constexpr, UP: tl.constexpr, DOWN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(size, BLOCK)
    array = tl.program_id(0) // blocks
    cell = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = array.to(tl.int64) * size + cell
    signed = tl.load(counts + at, mask=cell < size, other=0)
    number, up = tl.abs(signed), signed > 0
    mask = number > 0
    if tl.max(number) == 0:
        return
    cells = load_cells(params, at, mask, FAMILY, MULTIPLICATIVE)
    w = tl.load(hidden + at, mask=mask, other=0.0)
    place = line_hash(unsigned(tl.load(key + 2 * array)), unsigned(tl.load(key + 2 * array + 1)), unsigned(cell))
    w = pulses(w, number, up, cells, at, place, tl.load(c2c + array), pairs, nodes, FAMILY, MULTIPLICATIVE, UP, DOWN)
    tl.store(hidden + at, w, mask=mask)
    if HIDDEN:
        tl.store(state + at, seen_after(w, cells[2], cells[3], place, tl.load(write + array), pairs, mask), mask=mask)
    if COUNTED:
        rose, fell = mask & up, mask & (signed < 0)
        tl.store(count_up + at, tl.load(count_up + at, mask=rose, other=0) + number, mask=rose)
        tl.store(count_down + at, tl.load(count_down + at, mask=fell, other=0) + number, mask=fell)


@triton.jit
def _trace(
    signs, chosen, key, out, state, hidden, params, nodes, c2c, write, count_up, count_down, pairs, size, length, every,
    reads, HIDDEN: tl.constexpr, COUNTED: tl.constexpr, FAMILY: tl.constexpr, MULTIPLICATIVE: tl.constexpr,
    UP: tl.constexpr, DOWN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(size, BLOCK)
    array = tl.program_id(0) // blocks
    cell = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = array.to(tl.int64) * size + cell
    inside = cell < size
    mask = tl.load(chosen + at, mask=inside, other=0) != 0
    cells = load_cells(params, at, mask, FAMILY, MULTIPLICATIVE)
    w = tl.load(hidden + at, mask=inside, other=0.0)
    seen = w
    noise, scatter, ups = tl.load(c2c + array), 0.0, 0
    if HIDDEN:
        scatter = tl.load(write + array)
        seen = tl.load(state + at, mask=inside, other=0.0)
    for k in range(0, length):
        rising = tl.load(signs + k) > 0
        word = key + 2 * (array * length + k)
        place = line_hash(unsigned(tl.load(word)), unsigned(tl.load(word + 1)), unsigned(cell))
        w = pulses(
            w, mask.to(tl.int32), mask & rising, cells, at, place, noise, pairs, nodes, FAMILY, MULTIPLICATIVE, UP, DOWN
        )
        if HIDDEN:
            seen = tl.where(mask, seen_after(w, cells[2], cells[3], place, scatter, pairs, mask), seen)
        else:
            seen = w
        ups += rising.to(tl.int32)
        if (k + 1) % every == 0:
            tl.store(out + at * reads + k // every, seen, mask=inside)
    tl.store(hidden + at, w, mask=mask)
    if HIDDEN:
        tl.store(state + at, seen, mask=mask)
    if COUNTED:
        tl.store(count_up + at, tl.load(count_up + at, mask=mask, other=0) + ups, mask=mask)
        tl.store(count_down + at, tl.load(count_down + at, mask=mask, other=0) + (length - ups), mask=mask)


def _arguments(cells: Cells) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What every kernel takes of the cells, made once, since their tensors change in place only."""
    if cells.views is not None:
        return cells.views  # type: ignore[return-value]
    p, state, family = cells.params, cells.state, FAMILIES[cells.model]
    d = p["d_up"]
    own = [p[name] for name in NAMES[family]]
    params = (d, p["d_down"], p["low"], p["high"], p.get("noise_up", d), p.get("noise_down", d), *own, *[d] * (6 - len(own)))
    found = {side: [p[n] for n in sorted(p) if n.startswith(f"node_{side}_")] for side in ("up", "down")}
    nodes = torch.tensor([node.data_ptr() for side in found.values() for node in side] or [0], device=state.device)
    counted = cells.pulses_up is not None and cells.pulses_down is not None
    hidden = cells.hidden is not None and cells.write is not None
    tensors = (
        state, cells.hidden if hidden else state, params, nodes, cells.c2c, cells.write if hidden else cells.c2c,
        cells.pulses_up if counted else state, cells.pulses_down if counted else state, gauss_pairs(state.device),
    )  # fmt: skip
    # Without contraction: a fused multiply-add rounds once where the definition rounds twice.
    fixed = {
        "HIDDEN": hidden, "COUNTED": counted, "FAMILY": family, "MULTIPLICATIVE": cells.multiplicative,
        "UP": len(found["up"]), "DOWN": len(found["down"]), "enable_fp_fusion": False,
    }  # fmt: skip
    cells.views = (tensors, fixed)
    return tensors, fixed


def _train(train: PulseTrain) -> tuple[Tensor, ...]:
    """What the kernel takes of a train; a tensor that its kind does not use stands in by another."""
    sign, slots = train.sign.contiguous(), train.slots.contiguous()
    packed = sign if train.packed is None else train.packed.contiguous()
    return train.probability.contiguous(), sign, slots, train.key.contiguous(), train.line.contiguous(), packed


def update(cells: Cells, rows: PulseTrain, cols: PulseTrain, key: Tensor, active: Tensor | None = None) -> None:
    """Coincidence update, sample after sample. key: int32 [array sample 2]; active: bool [array]."""
    if rows.samples == 0:
        return
    arrays, inputs, outputs = cells.state.shape
    tensors, fixed = _arguments(cells)
    grid = (arrays * triton.cdiv(inputs, ROWS) * triton.cdiv(outputs, COLS),)
    _update[grid](
        _train(rows), _train(cols), key.contiguous(), key if active is None else active.view(torch.uint8), *tensors,
        inputs, outputs, rows.samples, ROW_KIND=KINDS[rows.kind], COL_KIND=KINDS[cols.kind], ACTIVE=active is not None,
        ROWS=ROWS, COLS=COLS, ONE=rows.samples == 1, num_warps=WARPS, **fixed,
    )  # fmt: skip


def apply(cells: Cells, counts: Tensor, key: Tensor) -> None:
    """``|counts|`` pulses on every cell, up where positive. counts: int32 [array row col]; key: int32 [array 2]."""
    arrays, size = len(counts), cells.state[0].numel()
    tensors, fixed = _arguments(cells)
    grid = (arrays * triton.cdiv(size, BLOCK),)
    _apply[grid](counts.contiguous(), key.contiguous(), *tensors, size, BLOCK=BLOCK, **fixed)


def trace(cells: Cells, signs: Tensor, mask: Tensor, key: Tensor, every: int, out: Tensor) -> None:
    """One pulse of each sign in turn on every masked cell; its state after every ``every``-th goes to ``out``.

    signs: int8 [pulse]; key: int32 [array pulse 2]; out: float32 [array row col read], contiguous.
    """
    arrays, size = len(mask), cells.state[0].numel()
    tensors, fixed = _arguments(cells)
    grid = (arrays * triton.cdiv(size, BLOCK),)
    _trace[grid](
        signs.to(mask.device), mask.contiguous().view(torch.uint8), key.contiguous(), out, *tensors, size, len(signs), every,
        out.shape[-1], BLOCK=BLOCK, **fixed,
    )  # fmt: skip
