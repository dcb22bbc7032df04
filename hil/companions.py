"""What a guard passes on beside the eight verbs: the companion protocols that its backend has, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hil.backend import ArrayBackend, HasClock, HasReference, HasState

__all__ = ["companions"]


def companions(backend: ArrayBackend) -> dict[str, Callable[..., Any]]:
    """Methods of the companion protocols that the backend has, by name; ``verify``, which pulses, is each guard's own.

    A guard makes them attributes of the instance, so that ``isinstance`` tells the truth of what is behind it.
    """
    found: dict[str, Callable[..., Any]] = {}
    if isinstance(backend, HasReference):
        found["set_reference"] = backend.set_reference
    if isinstance(backend, HasClock):
        found["idle"] = backend.idle
    if isinstance(backend, HasState):
        found |= {"state_dict": backend.state_dict, "load_state_dict": backend.load_state_dict}
    return found
