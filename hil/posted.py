"""Products that are begun before they are waited for: what a board with several requests in flight can do besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from hil.backend import Direction

__all__ = ["HasPostedMvm"]


@runtime_checkable
class HasPostedMvm(Protocol):
    """A board that takes further verbs while a product is under way, and does all of them in their order."""

    def post_mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Callable[[], Tensor]:
        """``mvm`` begun; the function, called once, waits for its currents and raises what ``mvm`` would."""
        ...
