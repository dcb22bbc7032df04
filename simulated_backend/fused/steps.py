# mypy: disable-error-code="untyped-decorator"
"""Steps of a network on emulated arrays, in numba: replicas outer, samples inner, so that a replica stays in the cache.

What is done, and in which order the random numbers are drawn, is what ``hil.nn``, ``hil.algorithms`` and ``hil.tile`` do on
the verbs of the backend.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hil.activations import activate_sample, return_sample, softmax_sample
from simulated_backend.fused.read import managed_read, read_line
from simulated_backend.fused.tables import Tables
from simulated_backend.fused.update import Trains, coincide

__all__ = ["forward_arrays", "train_arrays"]

_F32 = NDArray[np.float32]
_I64 = NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def _through(
    a: int, layer: int, t: Tables, forward: bool, state_c: Any, state_a: Any, v: _F32, y: _F32, extra: _F32, line: _F32,
    scale: _F32, full: NDArray[np.bool_], busy: NDArray[np.int32], low: _F32, rise: _F32,
) -> None:  # fmt: skip
    """y [sample sensed] = (C + gamma A) applied to v, for one layer."""
    x = line[: v.shape[1]]
    managed_read(a, layer, t, state_c[a], forward, v, y, x, scale, full, busy, low, rise)
    if t.two and t.gamma[layer, a] != 0:
        more = extra[: y.size].reshape(y.shape)
        managed_read(a, t.layers + layer, t, state_a[a], forward, v, more, x, scale, full, busy, low, rise)
        for s in range(len(v)):
            for i in range(y.shape[1]):
                y[s, i] = np.float32(y[s, i] + np.float32(t.gamma[layer, a] * more[s, i]))


@numba.njit(cache=True, nogil=True)
def _transfer(
    a: int, layer: int, t: Tables, state_a: Any, views_c: Any, value: _F32, one_hot: _F32, low: _F32, rise: _F32,
    scratch: Trains,
) -> None:  # fmt: skip
    """Read the next line of A and add it to C."""
    inputs, outputs = t.sizes[layer, 0], t.sizes[layer, 1]
    by_inputs = t.by_inputs[layer]
    driven, sensed = (inputs, outputs) if by_inputs else (outputs, inputs)
    number = t.line[layer, a]
    read_line(a, t.layers + layer, t, state_a[a], by_inputs, number, value[:sensed], low, rise)
    for i in range(driven):
        one_hot[i] = 0
    one_hot[number] = 1
    t.line[layer, a] = (number + 1) % driven
    if by_inputs:
        coincide(a, layer, t, one_hot[:driven], value[:sensed], views_c, scratch)
    else:
        coincide(a, layer, t, value[:sensed], one_hot[:driven], views_c, scratch)


@numba.njit(cache=True, nogil=True)
def _learn(
    a: int, layer: int, t: Tables, x: _F32, d: _F32, state_a: Any, views_c: Any, views_a: Any, value: _F32, one_hot: _F32,
    low: _F32, rise: _F32, scratch: Trains,
) -> None:  # fmt: skip
    """One layer learns from x, d [sample line]; d is turned around in place."""
    for s in range(len(x)):
        for i in range(d.shape[1]):
            d[s, i] = -d[s, i]
        if not t.two:
            coincide(a, layer, t, x[s], d[s], views_c, scratch)
            continue
        coincide(a, t.layers + layer, t, x[s], d[s], views_a, scratch)
        t.seen[layer, a] += 1
        if t.seen[layer, a] % t.n_s[layer, a] == 0:
            for _ in range(t.n_reads[layer, a]):
                _transfer(a, layer, t, state_a, views_c, value, one_hot, low, rise, scratch)


@numba.njit(cache=True, nogil=True)
def train_arrays(
    first: int, last: int, x: _F32, target: _I64, order: _I64, batch: int, start: int, stop: int, t: Tables, states_c: Any,
    states_a: Any, views_c: Any, views_a: Any, low: _F32, rise: _F32, scratch: Trains, loss: NDArray[np.float64],
    right: _I64,
) -> None:  # fmt: skip
    """Steps ``start`` to ``stop`` of arrays ``first`` to ``last``; loss and right [array] are added to.

    x [sample in], target [sample], order [array sample]; states and views: one for each layer, repeated at the end.
    """
    layers, samples, width = t.layers, order.shape[1], t.width
    ys = np.zeros((layers + 1, batch * width), dtype=np.float32)
    ds = np.zeros((layers + 1, batch * width), dtype=np.float32)
    extra = np.zeros(batch * width, dtype=np.float32)
    line, value, one_hot = np.zeros(width, np.float32), np.zeros(width, np.float32), np.zeros(width, np.float32)
    scale, full, busy = np.zeros(batch, np.float32), np.zeros(batch, np.bool_), np.zeros(width, np.int32)
    classes = t.sizes[layers - 1, 1]
    # Of a constant, numba would compile another copy of every function that it is handed to.
    forward, backward = layers > 0, layers < 0
    for a in range(first, last):
        for step in range(start, stop):
            begin = step * batch
            count = min(batch, samples - begin)
            inputs = t.sizes[0, 0]
            v = ys[0, : count * inputs].reshape(count, inputs)
            for s in range(count):
                number = order[a, begin + s]
                for i in range(inputs):
                    v[s, i] = x[number, i]
            for layer in range(layers):
                outputs = t.sizes[layer, 1]
                y = ys[layer + 1, : count * outputs].reshape(count, outputs)
                _through(
                    a, layer, t, forward, states_c[layer], states_a[layer], v, y, extra, line, scale, full, busy, low, rise
                )
                if layer < layers - 1:
                    activate_sample(t.activation, ys[layer + 1, : count * outputs], ys[layer + 1, : count * outputs])
                v = y
            d = ds[layers, : count * classes].reshape(count, classes)
            total = 0.0
            for s in range(count):
                wanted = target[order[a, begin + s]]
                lost, decision = softmax_sample(v[s], wanted, count, d[s])
                total += lost
                right[a] += decision == wanted
            loss[a] += total
            for layer in range(layers - 1, 0, -1):
                inputs = t.sizes[layer, 0]
                back = ds[layer, : count * inputs].reshape(count, inputs)
                _through(
                    a, layer, t, backward, states_c[layer], states_a[layer], d, back, extra, line, scale, full, busy, low,
                    rise,
                )  # fmt: skip
                return_sample(t.activation, ys[layer, : count * inputs], ds[layer, : count * inputs])
                d = back
            if not t.active[a]:
                continue
            for layer in range(layers):
                inputs, outputs = t.sizes[layer, 0], t.sizes[layer, 1]
                _learn(
                    a, layer, t, ys[layer, : count * inputs].reshape(count, inputs),
                    ds[layer + 1, : count * outputs].reshape(count, outputs), states_a[layer], views_c[layer],
                    views_a[layer], value, one_hot, low, rise, scratch,
                )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def forward_arrays(
    first: int, last: int, x: _F32, t: Tables, states_c: Any, states_a: Any, low: _F32, rise: _F32, logits: _F32
) -> None:
    """logits [array sample class] of x [sample in], one batch."""
    layers, count, width = t.layers, len(x), t.width
    ys = np.zeros((2, count * width), dtype=np.float32)
    extra, line = np.zeros(count * width, dtype=np.float32), np.zeros(width, np.float32)
    scale, full, busy = np.zeros(count, np.float32), np.zeros(count, np.bool_), np.zeros(width, np.int32)
    forward = layers > 0
    for a in range(first, last):
        v = x
        for layer in range(layers):
            outputs = t.sizes[layer, 1]
            flat = ys[layer % 2, : count * outputs]
            y = logits[a] if layer == layers - 1 else flat.reshape(count, outputs)
            _through(a, layer, t, forward, states_c[layer], states_a[layer], v, y, extra, line, scale, full, busy, low, rise)
            if layer < layers - 1:
                activate_sample(t.activation, flat, flat)
            v = y
