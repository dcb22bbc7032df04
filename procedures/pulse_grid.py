"""The pulse shapes that ``operating-point`` tries, and what they may cost: decided before the first pulse."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hil.backend import PulseShape
from hil.errors import LimitError, UsageError
from hil.limits import Limits, check_shape
from hil.place import Surface
from hil.wear import Wear

__all__ = ["pulse_grid", "refuse_beyond"]

_FACTORS = (0.9, 1.0, 1.1)
"""Of the bench's own amplitudes, where none are given."""


def pulse_grid(
    surface: Surface, limits: Limits | None, board: str, up_v: tuple[float, ...] | None,
    down_v: tuple[float, ...] | None, width_s: tuple[float, ...] | None,
) -> tuple[PulseShape, ...]:  # fmt: skip
    """Every combination of the given values, the last axis fastest. Of an axis that is None: amplitudes about the
    surface's own as far as its limits allow them, its own width.

    LimitError for a given value that the board or its limits forbid; nothing has been pulsed then.
    """
    own, info = surface.shape, surface.backend.info
    if any(isinstance(value, tuple) for value in (own.up_v, own.down_v, own.width_s)):
        raise UsageError(f"{surface.name}: its pulse has one value for every array: give it one value for all of them")
    grain = info.pulse_v.grain

    def around(name: str, nominal: float) -> tuple[float, ...]:
        values = []
        for factor in _FACTORS:
            value = nominal * factor if factor != 1 else nominal
            value = round(value / grain) * grain if grain else float(f"{value:.12g}")
            try:
                check_shape(replace(own, **{name: value}), info, limits, board)
            except LimitError:
                if factor == 1:
                    raise
                continue
            values.append(value)
        return tuple(dict.fromkeys(values))

    assert isinstance(own.up_v, float | int)
    assert isinstance(own.down_v, float | int)
    ups = around("up_v", own.up_v) if up_v is None else up_v
    downs = around("down_v", own.down_v) if down_v is None else down_v
    widths = (float(own.width_s),) if width_s is None and isinstance(own.width_s, float | int) else (width_s or ())
    shapes = [replace(own, up_v=up, down_v=down, width_s=width) for width, up, down in itertools.product(widths, ups, downs)]
    for shape in shapes:
        if not (shape.up_v > 0 > shape.down_v):  # type: ignore[operator]
            raise UsageError(f"operating_point: a pulse of {shape.up_v} V up, {shape.down_v} V down: give up_v > 0 > down_v")
        check_shape(shape, info, limits, board)
    return tuple(dict.fromkeys(shapes))


def refuse_beyond(surface: Surface, limits: Limits | None, wear: Wear | None, pulses: int, budget: int | None) -> None:
    """LimitError where ``pulses`` per cell exceed the budget, or what the limits leave of the cells' life."""
    if budget is not None and pulses > budget:
        raise LimitError(
            f"{surface.name}: {pulses} pulses per cell are needed, operating_point.pulses_per_cell = {budget}: "
            "try fewer shapes, or shorten operating_point.characterize"
        )
    if limits is None or wear is None:
        return
    worn = wear.cells(surface.backend.info).pulses[surface.mask.numpy()]
    left = limits.pulses_per_cell_max - (int(worn.max()) if worn.size else 0)
    if pulses > left:
        raise LimitError(
            f"{surface.name}: {pulses} pulses per cell are needed, limits.pulses_per_cell_max leaves {left}: "
            "try fewer shapes"
        )
