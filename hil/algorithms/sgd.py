"""Analog SGD: the outer product of every sample goes straight into the weights as pulses.

W <- W - lr d x^T        (in expectation; each pulse obeys the device)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hil.encoding import UpdateSettings
from hil.fused import FusedLayer
from hil.tile import Tile

__all__ = ["AnalogSGD"]


class AnalogSGD:
    """lr: float32 [array], absolute, in weight per unit of d x."""

    def __init__(self, c: Tile, lr: Tensor, settings: UpdateSettings | None = None) -> None:
        self.tiles = {"c": c}
        self.arrays, self.inputs, self.outputs = c.arrays, c.inputs, c.outputs
        self._c, self._lr = c, lr
        self._settings = settings or UpdateSettings()

    def forward(self, x: Tensor) -> Tensor:
        return self._c.forward(x)

    def backward(self, d: Tensor) -> Tensor:
        return self._c.backward(d)

    def step(self, x: Tensor, d: Tensor, calls: int, factor: float, active: Tensor | None) -> None:
        self._c.update(x, -d, self._lr * factor, self._settings, active)

    def fused(self) -> FusedLayer | None:
        c = self._c.fused(self._lr, self._settings)
        return None if c is None else FusedLayer(c)

    def state_dict(self) -> dict[str, Any]:
        return {"c": self._c.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._c.load_state_dict(state["c"])
