"""How a range on an explored axis is told: an end that is an end of what was explored is no limit that was found."""

from __future__ import annotations

from collections.abc import Sequence

from procedures.exploration import FloatArray

__all__ = ["shown_ends"]

_SAME = 1e-6
"""Relative: axes pass through logarithms and files."""


def shown_ends(ends: tuple[float, float] | None, axis: Sequence[float] | FloatArray) -> str:
    """ "0.1 to 3 (explored end)"; "none passes" for None. axis: ascending."""
    if ends is None:
        return "none passes"
    low = " (explored end)" if ends[0] <= axis[0] * (1 + _SAME) else ""
    high = " (explored end)" if ends[1] >= axis[-1] * (1 - _SAME) else ""
    return f"{ends[0]:.3g}{low} to {ends[1]:.3g}{high}"
