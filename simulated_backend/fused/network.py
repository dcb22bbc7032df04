"""A network on emulated arrays as one object: tables filled from its layers, and compiled loops over them."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hil.activations import ACTIVATIONS, Activation
from hil.driving import ALMOST_FULL
from hil.encoding import Stream
from hil.fast_encoding import FIRST, SPREAD, STOCHASTIC
from hil.fused import FusedLayer, FusedMatrix, Samples, Sums
from hil.threads import share
from simulated_backend.fused.steps import forward_arrays, train_arrays
from simulated_backend.fused.tables import Tables
from simulated_backend.fused.update import trains
from simulated_backend.kernels import cpu
from simulated_backend.kernels.bits import GAUSS_LOW, GAUSS_RISE

if TYPE_CHECKING:
    from simulated_backend.array import EmulatedArray

__all__ = ["EmulatedNetwork", "fuse"]

_DEPTH = 4
"""Compiled loops know depths that are multiples of this; the last layer stands in for those that a network lacks."""


def fuse(layers: Sequence[FusedLayer], activation: Activation) -> EmulatedNetwork | None:
    """The compiled network; None where one of its matrices is on no emulated array, or on one that is not covered."""
    matrices = [matrix for layer in layers for matrix in (layer.c, layer.a) if matrix is not None]
    covered = all(getattr(matrix.backend, "compiled", False) for matrix in matrices)
    alike = len({layer.a is None for layer in layers}) == 1
    return EmulatedNetwork(layers, activation) if covered and alike else None


class EmulatedNetwork:
    """See ``hil.fused.FusedNetwork``. Between two calls arrays, tiles and algorithms are as after the same plain steps."""

    def __init__(self, layers: Sequence[FusedLayer], activation: Activation) -> None:
        self._layers = layers
        a = [layer.a for layer in layers if layer.a is not None]
        self._matrices: list[FusedMatrix] = [*(layer.c for layer in layers), *a]
        self._arrays = len(layers[0].c.rate)
        self._kind = ACTIVATIONS[activation]
        self._two = bool(a)
        self._fixed = self._tables()

    def train(
        self, samples: Samples, sums: Sums, batch: int, start: int, stop: int, factor: float, active: Tensor | None
    ) -> None:
        who = torch.ones(self._arrays, dtype=torch.bool) if active is None else active
        tables = self._now(factor, who)
        states, views = self._states(), [cpu.walk_views(m.backend.cells(m.shape)) for m in self._matrices]
        both = (*self._padded(states), *self._padded(views))

        def work(first: int, last: int) -> None:
            train_arrays(
                first, last, samples.x.numpy(), samples.y.numpy(), samples.order.numpy(), batch, start, stop, tables, *both,
                GAUSS_LOW, GAUSS_RISE, trains(self._fixed.width), sums.loss.numpy(), sums.right.numpy(),
            )  # fmt: skip

        share(self._arrays, work)
        self._keep(tables)

    def logits(self, x: Tensor) -> Tensor:
        out = torch.empty(self._arrays, len(x), self._layers[-1].c.backend.info.cols)
        tables = self._now(1.0, torch.ones(self._arrays, dtype=torch.bool))
        states = self._padded(self._states())
        inputs, result = x.contiguous().numpy(), out.numpy()
        share(
            self._arrays,
            lambda first, last: forward_arrays(first, last, inputs, tables, *states, GAUSS_LOW, GAUSS_RISE, result),
        )
        self._keep(tables)
        return out

    def _states(self) -> list[NDArray[np.float32]]:
        return [matrix.backend.cells(matrix.shape).state.numpy() for matrix in self._matrices]

    def _padded(self, of_matrices: list[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """(of C, of A) by layer, as long as compiled loops want them; without A those of C stand in."""
        layers = len(self._layers)
        c, a = of_matrices[:layers], of_matrices[layers:] or of_matrices[:layers]
        more = -layers % _DEPTH
        return (*c, *[c[-1]] * more), (*a, *[a[-1]] * more)

    def _tables(self) -> Tables:
        """What does not change while the network trains; the rest is empty."""
        layers, matrices, arrays = len(self._layers), self._matrices, self._arrays
        parts = [layer.transfers for layer in self._layers]
        ones, zeros = torch.ones(arrays, dtype=torch.int64), torch.zeros(arrays, dtype=torch.int64)

        def kinds(matrix: FusedMatrix) -> tuple[int, int]:
            return (SPREAD, FIRST) if matrix.update.kind == "deterministic" else (STOCHASTIC, STOCHASTIC)

        def wanted(matrix: FusedMatrix) -> Tensor:
            slots = matrix.update.slots
            return slots.float() if isinstance(slots, Tensor) else torch.full((arrays,), float(slots))

        return Tables(
            layers=layers,
            two=self._two,
            activation=self._kind,
            width=max(max(layer.c.backend.info.rows, layer.c.backend.info.cols) for layer in self._layers),
            sizes=np.array([(layer.c.backend.info.rows, layer.c.backend.info.cols) for layer in self._layers]),
            io=np.array([_periphery(m) for m in matrices], dtype=np.float32),
            per_unit=torch.stack([m.siemens_per_weight * m.read_v for m in matrices]).numpy(),
            bound=np.array([m.bound_management and isfinite(m.backend.info.full_scale_a) for m in matrices]),
            base=np.array([[stream.base for stream in _streams(m)] for m in matrices]),
            counter=np.empty((0, 0, 0), dtype=np.int64),
            gain=np.empty((0, 0), dtype=np.float32),
            wanted=torch.stack([wanted(m) for m in matrices]).numpy(),
            balance=np.array([(m.update.management, m.update.slot_management) for m in matrices]),
            kind=np.array([kinds(m) for m in matrices]),
            n_s=_stacked([ones if p is None else p.n_s for p in parts]),
            n_reads=_stacked([ones if p is None else p.n_reads for p in parts]),
            gamma=_stacked([zeros.float() if p is None else p.gamma for p in parts]),
            seen=_stacked([zeros for _ in parts]),
            line=_stacked([zeros for _ in parts]),
            by_inputs=np.array([p is None or p.inputs for p in parts]),
            read_s=np.array([m.backend.settings.clock.read_s for m in matrices]),
            period_s=np.array([np.broadcast_to(m.backend.period_s(m.shape), arrays) for m in matrices]),
            clock_s=np.empty((0, 0), dtype=np.float64),
            active=np.empty(0, dtype=np.bool_),
        )

    def _now(self, factor: float, active: Tensor) -> Tables:
        """The tables as things stand. factor is on the rates of C."""
        layers, parts = len(self._layers), [layer.transfers for layer in self._layers]
        rates = [m.rate * factor if k < layers else m.rate for k, m in enumerate(self._matrices)]
        now = self._fixed._replace(
            counter=np.array([[stream.counter.numpy() for stream in _streams(m)] for m in self._matrices]),
            gain=torch.stack([rate / m.step for rate, m in zip(rates, self._matrices, strict=True)]).numpy(),
            clock_s=_stacked([m.backend.clock_s for m in self._matrices]),
            active=active.numpy(),
        )
        if not self._two:
            return now
        return now._replace(
            seen=_stacked([p.samples for p in parts if p is not None]),
            line=_stacked([p.next_line for p in parts if p is not None]),
        )

    def _keep(self, tables: Tables) -> None:
        """Give back what changed."""
        for number, matrix in enumerate(self._matrices):
            matrix.backend.clock_s.copy_(torch.from_numpy(tables.clock_s[number]))
            for kind, stream in enumerate(_streams(matrix)):
                stream.counter.copy_(torch.from_numpy(tables.counter[number, kind]))
        for number, layer in enumerate(self._layers):
            if layer.transfers is not None:
                layer.transfers.samples.copy_(torch.from_numpy(tables.seen[number]))
                layer.transfers.next_line.copy_(torch.from_numpy(tables.line[number]))


def _streams(matrix: FusedMatrix) -> tuple[Stream, Stream, Stream, Stream]:
    """In the order of ``tables``."""
    backend: EmulatedArray = matrix.backend
    return matrix.x_keys, matrix.d_keys, backend.noise["pulse"], backend.noise["mvm"]


def _periphery(matrix: FusedMatrix) -> list[float]:
    """Its numbers in the order of ``tables``, as ``hil.driving`` and ``EmulatedArray.mvm`` take them."""
    array: EmulatedArray = matrix.backend
    info, p = array.info, array.settings.periphery
    drive = (info.read_v.high - info.read_v.low) / (info.read_levels - 1) if info.read_levels > 2 else 0.0
    half = max(1, 2 ** (p.dac_bits - 1) - 1) if p.dac_bits else 0
    adc = p.full_scale / (2 ** (p.adc_bits - 1) - 1) if p.adc_bits and isfinite(p.full_scale) else 0.0
    unit = array.settings.siemens_per_weight * p.read_v_max
    return [
        matrix.read_v, drive, p.read_v_max, half, p.in_noise, p.out_noise, p.full_scale, adc, unit,
        info.full_scale_a * ALMOST_FULL,
    ]  # fmt: skip


def _stacked(each: Sequence[Tensor]) -> NDArray[Any]:
    return torch.stack(list(each)).numpy()
