"""The update kernel in numba for CPUs: the arithmetic of ``reference``, operation for operation.

Only lines that fire are visited; coincidences are counted by AND and popcount; the parameters of a cell lie together. A core
walks some rows of an array, sample after sample, and cells do not see each other, so that the result depends on neither
threads nor population. Covers the linear family (constant, linear, soft_bounds).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hil.encoding import PulseTrain
from hil.fast_encoding import line_hash
from simulated_backend.devices import Params
from simulated_backend.kernels.bits import (
    GAUSS_LOW,
    GAUSS_RISE,
    every_array,
    normal,
    packed_bits,
    u32,
)
from simulated_backend.kernels.coincide import hits, update_array
from simulated_backend.kernels.reference import Cells

__all__ = ["COVERS", "apply", "trace", "update", "walk_views"]

COVERS = frozenset({"constant", "linear", "soft_bounds"})
"""Models this kernel knows; the rest runs on the reference."""

_F32 = NDArray[np.float32]
_I32 = NDArray[np.int32]
_U32 = NDArray[np.uint32]
_ONE = np.float32(1.0)


@numba.njit(inline="always")
def _pulses(
    w: np.float32, n: int, up: bool, d: np.float32, s: np.float32, low: np.float32, high: np.float32, c2c: np.float32,
    extra: np.float32, multiplicative: bool, place: np.uint32, first: np.uint32, g_low: _F32, g_rise: _F32,
) -> np.float32:  # fmt: skip
    """n pulses of one polarity on one cell; pulse k draws xi number first + k."""
    for k in range(n):
        size = np.float32(d - np.float32(s * w)) if up else np.float32(d + np.float32(s * w))
        if c2c > 0:
            xi = np.float32(c2c * normal(place, np.uint32(first + np.uint32(k)), g_low, g_rise))
            if multiplicative:
                size = np.float32(size * np.float32(_ONE + xi))
            else:
                size = np.float32(size + np.float32(xi * extra))
        w = np.float32(w + size) if up else np.float32(w - size)
        w = min(max(w, low), high)
    return w


@numba.njit(inline="always")
def _cell(
    a: int, r: int, c: int, cols: int, n: int, up: bool, state: _F32, hidden: _F32, p: tuple[_F32, ...], c2c: np.float32,
    write: np.float32, multiplicative: bool, key0: np.uint32, key1: np.uint32, counted: bool, count_up: _I32,
    count_down: _I32, g_low: _F32, g_rise: _F32,
) -> None:  # fmt: skip
    """n pulses on cell (a, r, c), its write noise and wear counter.

    p: as in _FIELDS.
    """
    place = line_hash(key0, key1, np.uint32(r * cols + c))
    low, high, d_up, s_up, d_down, s_down, noise_up, noise_down = p
    d = d_up[a, r, c] if up else d_down[a, r, c]
    s = s_up[a, r, c] if up else s_down[a, r, c]
    extra = np.float32(0) if multiplicative else (noise_up[a, r, c] if up else noise_down[a, r, c])
    w = _pulses(
        hidden[a, r, c], n, up, d, s, low[a, r, c], high[a, r, c], c2c, extra, multiplicative, place, np.uint32(0),
        g_low, g_rise,
    )  # fmt: skip
    hidden[a, r, c] = w
    state[a, r, c] = w
    if write > 0 and high[a, r, c] > low[a, r, c]:
        state[a, r, c] = np.float32(w + np.float32(write * normal(place, np.uint32(0xFFFFFFFF), g_low, g_rise)))
    if counted:
        if up:
            count_up[a, r, c] += n
        else:
            count_down[a, r, c] += n


def _update_loops(
    row_bits: _U32, row_sign: NDArray[np.int8], col_bits: _U32, col_sign: NDArray[np.int8], key: _U32,
    active: NDArray[np.bool_], parts: int, views: Any,
) -> None:  # fmt: skip
    arrays, samples, rows = row_bits.shape
    # Cells do not see each other, so that any cut of an array into parts gives the same.
    for job in numba.prange(arrays * parts):
        a, part = job // parts, job % parts
        if not active[a]:
            continue
        first, last = part * rows // parts, (part + 1) * rows // parts
        scratch = hits(col_bits.shape[2])
        for s in range(samples):
            update_array(
                a, first, last, row_bits[a, s], row_sign[a, s], col_bits[a, s], col_sign[a, s], key[a, s, 0], key[a, s, 1],
                scratch, views,
            )  # fmt: skip


def _apply_loops(
    counts: _I32, key: _U32, state: _F32, hidden: _F32, p: tuple[_F32, ...], c2c: _F32, write: _F32, multiplicative: bool,
    counted: bool, count_up: _I32, count_down: _I32, g_low: _F32, g_rise: _F32,
) -> None:  # fmt: skip
    arrays, rows, cols = counts.shape
    for a in numba.prange(arrays):
        for r in range(rows):
            for c in range(cols):
                n = counts[a, r, c]
                if n != 0:
                    _cell(
                        a, r, c, cols, abs(n), n > 0, state, hidden, p, c2c[a], write[a], multiplicative,
                        key[a, 0], key[a, 1], counted, count_up, count_down, g_low, g_rise,
                    )  # fmt: skip


def _trace_loops(
    signs: NDArray[np.int8], mask: NDArray[np.bool_], every: int, key: _U32, out: _F32, state: _F32, hidden: _F32,
    p: tuple[_F32, ...], c2c: _F32, write: _F32, multiplicative: bool, counted: bool, count_up: _I32, count_down: _I32,
    g_low: _F32, g_rise: _F32,
) -> None:  # fmt: skip
    arrays, rows, cols = mask.shape
    for a in numba.prange(arrays):
        for r in range(rows):
            for c in range(cols):
                if not mask[a, r, c]:
                    continue
                place = np.uint32(r * cols + c)
                low, high, d_up, s_up = p[0][a, r, c], p[1][a, r, c], p[2][a, r, c], p[3][a, r, c]
                d_down, s_down, extra_up, extra_down = p[4][a, r, c], p[5][a, r, c], p[6][a, r, c], p[7][a, r, c]
                noise, scatter = c2c[a], write[a]
                w, seen = hidden[a, r, c], state[a, r, c]
                ups = 0
                # The body of _cell with everything in registers: a trace is most of what characterize waits for.
                for k in range(len(signs)):
                    up = signs[k] > 0
                    hashed = line_hash(key[a, k, 0], key[a, k, 1], place)
                    w = _pulses(
                        w, 1, up, d_up if up else d_down, s_up if up else s_down, low, high, noise,
                        extra_up if up else extra_down, multiplicative, hashed, np.uint32(0), g_low, g_rise,
                    )  # fmt: skip
                    ups += up
                    seen = w
                    if scatter > 0 and high > low:
                        seen = np.float32(w + np.float32(scatter * normal(hashed, np.uint32(0xFFFFFFFF), g_low, g_rise)))
                    if (k + 1) % every == 0:
                        out[a, r, c, k // every] = seen
                hidden[a, r, c] = w
                state[a, r, c] = seen
                if counted:
                    count_up[a, r, c] += ups
                    count_down[a, r, c] += len(signs) - ups


_update_one = numba.njit(cache=True, nogil=True)(_update_loops)
_update_many = numba.njit(cache=True, nogil=True, parallel=True)(_update_loops)
_apply_one = numba.njit(cache=True, nogil=True)(_apply_loops)
_apply_many = numba.njit(cache=True, nogil=True, parallel=True)(_apply_loops)
_trace_one = numba.njit(cache=True, nogil=True)(_trace_loops)
_trace_many = numba.njit(cache=True, nogil=True, parallel=True)(_trace_loops)

_SPREAD_CELLS = 200_000
"""Cells from which on a call is worth waking the other cores for."""
_JOBS = 4
"""Pieces of work for a thread, so that none waits long for another."""
_FIELDS = ("low", "high", "d_up", "s_up", "d_down", "s_down", "noise_up", "noise_down")
"""Order of a cell's record; the noise is there where it is additive."""
_NO_COUNT = np.zeros((1, 1, 1), dtype=np.int32)


def _interleaved(params: Params) -> Tensor:
    """The parameters of a cell beside each other, float32 [array row col field], in the order of ``_FIELDS``.

    ``params`` hold views of it from then on, so that whoever changes them changes the record.
    """
    names = [name for name in _FIELDS if name in params]
    record = torch.stack([params[name] for name in names], dim=-1)
    params.update({name: record[..., number] for number, name in enumerate(names)})
    return record


def _views(cells: Cells) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """What the loops take of the cells: (of updates, of apply and trace); made once, since tensors change in place only."""
    if cells.views is None:
        record = _interleaved(cells.params).numpy()
        p = [record[..., number] for number in range(record.shape[3])]
        p += [p[_FIELDS.index("d_up")]] * (len(_FIELDS) - len(p))
        state = cells.state.numpy()
        hidden = state if cells.hidden is None else cells.hidden.numpy()
        c2c = cells.c2c.numpy()
        write = np.zeros_like(c2c) if cells.write is None else cells.write.numpy()
        up, down = cells.pulses_up, cells.pulses_down
        counts = (True, up.numpy(), down.numpy()) if up is not None and down is not None else (False, _NO_COUNT, _NO_COUNT)
        rest = (*counts, GAUSS_LOW, GAUSS_RISE)
        walked = (state, hidden, record, c2c, write, cells.multiplicative, cells.hidden is not None, *rest)
        cells.views = (walked, (state, hidden, tuple(p), c2c, write, cells.multiplicative, *rest))
    walk, plain = cells.views
    return walk, plain  # type: ignore[return-value]


def walk_views(cells: Cells) -> tuple[object, ...]:
    """What ``update_array`` takes of the cells."""
    return _views(cells)[0]


def _spread(cells: Cells) -> bool:
    return len(cells.state) > 1 and cells.state.numel() >= _SPREAD_CELLS and numba.get_num_threads() > 1


def update(cells: Cells, rows: PulseTrain, cols: PulseTrain, key: Tensor, active: Tensor | None = None) -> None:
    """Coincidence update, sample after sample. key: int32 [array sample 2]; active: bool [array]."""
    spread = numba.get_num_threads() > 1 and cells.state.numel() >= _SPREAD_CELLS
    parts = max(1, -(-_JOBS * numba.get_num_threads() // len(cells.state))) if spread else 1
    loops = _update_many if spread else _update_one
    loops(
        packed_bits(rows), rows.sign.contiguous().numpy(), packed_bits(cols), cols.sign.contiguous().numpy(), u32(key),
        every_array(len(cells.state), active), parts, walk_views(cells),
    )  # fmt: skip


def apply(cells: Cells, counts: Tensor, key: Tensor) -> None:
    """``|counts|`` pulses on every cell, up where positive. counts: int32 [array row col]; key: int32 [array 2]."""
    loops = _apply_many if _spread(cells) else _apply_one
    loops(counts.contiguous().numpy(), u32(key), *_views(cells)[1])


def trace(cells: Cells, signs: Tensor, mask: Tensor, key: Tensor, every: int, out: Tensor) -> None:
    """One pulse of each sign in turn on every masked cell; its state after every ``every``-th goes to ``out``.

    signs: int8 [pulse]; key: int32 [array pulse 2]; out: float32 [array row col read].
    """
    loops = _trace_many if _spread(cells) else _trace_one
    loops(signs.contiguous().numpy(), mask.contiguous().numpy(), every, u32(key), out.numpy(), *_views(cells)[1])
