"""Digital SGD in float32: the reference that analog training is compared with. No device, no pulse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hil.matvec import matvec
from hil.tile import Tile

__all__ = ["DigitalSGD"]


class DigitalSGD:
    """W <- W - lr d x^T, exactly. lr: float32 [array]; weight: float32 [array out in]."""

    def __init__(self, arrays: int, inputs: int, outputs: int, lr: Tensor) -> None:
        self.tiles: dict[str, Tile] = {}
        self.inputs, self.outputs, self.arrays = inputs, outputs, arrays
        self._lr = lr
        self._g = torch.zeros(arrays, inputs, outputs)

    @property
    def weight(self) -> Tensor:
        """W [array out in]."""
        return self._g.transpose(1, 2)

    @weight.setter
    def weight(self, value: Tensor) -> None:
        self._g = value.transpose(1, 2).contiguous().clone()

    def forward(self, x: Tensor) -> Tensor:
        return matvec(x, self._g, "forward")

    def backward(self, d: Tensor) -> Tensor:
        return matvec(d, self._g, "backward")

    def step(self, x: Tensor, d: Tensor, calls: int, factor: float, active: Tensor | None) -> None:
        rate = self._lr * factor if active is None else self._lr * factor * active
        self._g -= rate[:, None, None] * torch.bmm(x.transpose(1, 2), d)

    def fused(self) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self._g.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._g = state["weight"].clone()
