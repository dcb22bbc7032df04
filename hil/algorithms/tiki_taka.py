"""Tiki-Taka, version 1 (Gokmen and Haensch 2020; theory 1.6).

    W = gamma A + C
    A <- A - lr_A d x^T                          pulses, every sample
    every n_s samples, n_reads times:
        v <- A e_k                               one-hot analog read of line k
        C <- C + lr_C v e_k^T                    pulses
        k <- k + 1 (wraps)

A accumulates minus the gradient, C adds what is read from A. Learning rates are absolute. Every hyper-parameter may
differ per array, the transfer period included: a batch is cut at every transfer, and arrays that do not transfer are
masked out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from hil.encoding import UpdateSettings
from hil.errors import UsageError
from hil.fused import FusedLayer, FusedTransfers
from hil.tile import Tile

__all__ = ["TikiTaka", "TikiTakaRates"]


@dataclass(frozen=True)
class TikiTakaRates:
    """Hyper-parameters, one value per array.

    lr_a, lr_c: float32 [array], absolute; n_s: int64 [array], samples between transfers, >= 1; gamma: float32 [array];
    n_reads: int64 [array], lines per transfer, >= 1; transfer: lines of inputs or of outputs are moved.
    """

    lr_a: Tensor
    lr_c: Tensor
    n_s: Tensor
    gamma: Tensor
    n_reads: Tensor
    transfer: Literal["inputs", "outputs"] = "inputs"
    update: UpdateSettings = field(default_factory=UpdateSettings)
    transfer_update: UpdateSettings = field(default_factory=UpdateSettings)

    def __post_init__(self) -> None:
        if int(self.n_s.min()) < 1 or int(self.n_reads.min()) < 1:
            raise UsageError("tiki-taka: n_s and n_reads are counts of at least 1: correct them")


def _nothing() -> None:
    """What is left of a step without a transfer."""


class TikiTaka:
    """Tiki-Taka on an auxiliary tile A and a main tile C of the same size."""

    def __init__(self, a: Tile, c: Tile, rates: TikiTakaRates) -> None:
        if (a.inputs, a.outputs) != (c.inputs, c.outputs):
            raise UsageError(f"tiki-taka: A is {a.inputs} x {a.outputs}, C is {c.inputs} x {c.outputs}: they must be alike")
        self.tiles = {"a": a, "c": c}
        self.arrays, self.inputs, self.outputs = c.arrays, c.inputs, c.outputs
        self._a, self._c, self._rates = a, c, rates
        # Arrays with gamma = 0 do not read A: its noise counters must not depend on what else is in the population.
        shown = rates.gamma != 0
        self._hidden, self._shown = not bool(shown.any()), None if bool(shown.all()) else shown
        self._lines = c.inputs if rates.transfer == "inputs" else c.outputs
        self._samples = torch.zeros(c.arrays, dtype=torch.int64)
        self._next = torch.zeros(c.arrays, dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        y = self._c.forward(x)
        return y if self._hidden else y + self._rates.gamma[:, None, None] * self._a.forward(x, self._shown)

    def backward(self, d: Tensor) -> Tensor:
        g = self._c.backward(d)
        return g if self._hidden else g + self._rates.gamma[:, None, None] * self._a.backward(d, self._shown)

    def step(self, x: Tensor, d: Tensor, calls: int, factor: float, active: Tensor | None) -> None:
        self.begin(x, d, calls, factor, active)()

    def begin(self, x: Tensor, d: Tensor, calls: int, factor: float, active: Tensor | None) -> Callable[[], None]:
        samples = x.shape[1] // calls
        start = 0
        rest: Callable[[], None] | None = None
        for sample in range(1, samples + 1):
            if active is None:
                self._samples += 1
            else:
                self._samples += active
            due = self._samples % self._rates.n_s == 0
            if active is not None:
                due = due & active
            transfers = bool(due.any())
            if transfers or sample == samples:
                if rest is not None:
                    rest()
                    rest = None
                part = slice(start * calls, sample * calls)
                self._a.update(x[:, part], -d[:, part], self._rates.lr_a, self._rates.update, active)
                start = sample
            if transfers:
                rest = self._transfer(due, factor)
        return rest or _nothing

    def _transfer(self, due: Tensor, factor: float) -> Callable[[], None]:
        """Read the next line (or lines) of A and add it to C, on arrays that are due; the function adds the last one."""
        rates = self._rates
        inputs = rates.transfer == "inputs"
        rest = _nothing
        for number in range(int(rates.n_reads.max())):
            rest()
            who = due & (number < rates.n_reads)
            line = self._next.clone()
            wait = self._a.post_line(line, "forward" if inputs else "backward", who)
            rest = partial(self._add, wait, line, who, factor)
        return rest

    def _add(self, wait: Callable[[], Tensor], line: Tensor, who: Tensor, factor: float) -> None:
        """C + lr_C v e_k^T, v what ``wait`` gives of line k."""
        rates = self._rates
        value = wait()[:, None]
        one_hot = torch.zeros(len(who), 1, self._lines)
        one_hot.scatter_(2, line[:, None, None], 1.0)
        x, d = (one_hot, value) if rates.transfer == "inputs" else (value, one_hot)
        # Before the pulses go out: on a board the state that is recorded with them is where to go on after them.
        self._next.copy_(torch.where(who, (line + 1) % self._lines, line))
        self._c.update(x, d, rates.lr_c * factor, rates.transfer_update, who)

    def fused(self) -> FusedLayer | None:
        rates = self._rates
        a, c = self._a.fused(rates.lr_a, rates.update), self._c.fused(rates.lr_c, rates.transfer_update)
        if a is None or c is None:
            return None
        transfers = FusedTransfers(
            rates.n_s, rates.n_reads, rates.gamma, self._samples, self._next, rates.transfer == "inputs"
        )
        return FusedLayer(c, a, transfers)

    def state_dict(self) -> dict[str, Any]:
        return {
            "a": self._a.state_dict(), "c": self._c.state_dict(),
            "samples": self._samples.clone(), "next": self._next.clone(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._a.load_state_dict(state["a"])
        self._c.load_state_dict(state["c"])
        self._samples.copy_(state["samples"])
        self._next.copy_(state["next"])
