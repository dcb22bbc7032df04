"""Ticks of an axis over a few decades at most, as plain numbers."""

from __future__ import annotations

from typing import Any

__all__ = ["log_ticks"]


def log_ticks(axis: Any) -> None:
    """Labels at 1, 2 and 5 of every decade of a logarithmic matplotlib axis, none between."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
