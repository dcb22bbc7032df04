"""The guard in front of the emulator: a pulse shape is checked once, and every verb goes straight through."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from torch import Tensor

from hil.backend import ArrayBackend, Direction, HasVerify, PulseShape
from hil.companions import companions
from hil.encoding import PulseTrain
from hil.limits import Limits, check_shape

__all__ = ["EmulatedGuard"]

_SHAPES = 1024
"""Shapes that are remembered; a population that changes its shape at every step must not fill the memory."""


class EmulatedGuard:
    """In front of a backend that no pulse wears: shapes are checked once each, nothing is recorded.

    Attributes: inner, the backend; info, what it says of itself.
    """

    def __init__(self, backend: ArrayBackend, limits: Limits | None, board_name: str) -> None:
        self.inner, self.info = backend, backend.info
        self._limits, self._board = limits, board_name
        self._by_identity: dict[int, PulseShape] = {}
        self._by_value: set[PulseShape] = set()
        self._mvm, self._update = backend.mvm, backend.update
        self.__dict__.update(companions(backend))
        if isinstance(backend, HasVerify):
            self.__dict__["verify"] = self._verify

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        """As the backend's."""
        return self.inner.read(mask, averages)

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        """As the backend's."""
        return self._mvm(volts, direction, active)

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        """As the backend's; LimitError for a shape outside the limits."""
        self.admit(shape)
        self.inner.pulse(counts, shape)

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        """As the backend's; LimitError for a shape outside the limits."""
        self.admit(shape)
        return self.inner.trace(polarity, mask, shape, every)

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        """As the backend's; LimitError for a shape outside the limits."""
        # Identity first: hashing a shape with one value per array costs more than the rest of the call.
        if self._by_identity.get(id(shape)) is not shape:
            self.admit(shape)
        self._update(rows, cols, shape, active)

    def safe(self) -> bool:
        """As the backend's."""
        return self.inner.safe()

    def status(self) -> dict[str, Any]:
        """As the backend's."""
        return self.inner.status()

    def close(self) -> None:
        """As the backend's."""
        self.inner.close()

    def __enter__(self) -> Self:
        self.inner.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.inner.__exit__(kind, value, trace)

    def _verify(
        self, target_siemens: Tensor, mask: Tensor, shape: PulseShape, tolerance_siemens: float, max_pulses: int
    ) -> Tensor:
        self.admit(shape)
        assert isinstance(self.inner, HasVerify)
        return self.inner.verify(target_siemens, mask, shape, tolerance_siemens, max_pulses)

    def admit(self, shape: PulseShape) -> None:
        """LimitError for a shape outside the limits; remembered, so that asking again is cheap."""
        if self._by_identity.get(id(shape)) is shape:
            return
        if shape not in self._by_value:
            check_shape(shape, self.info, self._limits, self._board)
        if len(self._by_identity) >= _SHAPES:
            self._by_identity.clear()
            self._by_value.clear()
        self._by_identity[id(shape)] = shape
        self._by_value.add(shape)
