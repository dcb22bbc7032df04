"""What share of a requested transfer C accepts: measured through ``update`` and ``read`` on any bench, by the exact law.

A transfer asks line after line (one-hot input) for v = request * step on each of its cells, in one slot. With C - SP = w,
F the step at the SP and s+- the slope per pulse, the linear step accepts exactly (theory section 2)

    E[dC] / v = 1 - u,    u = sign(v) w s / F,        s / F = g / (b -+ g C_SP)

u is above 0 away from the SP, below 0 toward it. Two kinds of transfer do not follow the law and are counted apart:
requests of more than one pulse, whose probability is clipped at 1, and steps that may leave the range of a cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from procedures.known_cells import Floats, Keys, KnownCells, one_slot

__all__ = ["Transfers", "measure_transfers"]

_SHARE_LARGE = 0.1
"""Requests of more than one pulse, on purpose: what a transfer of a strong gradient meets."""
_FULL = 0.97
"""Outermost starting place, of what a cell can reach."""
_MARGIN = 4.0
"""A cell so many steps or fewer from the bound that it moves to may be clipped: cycle noise has no bound."""


@dataclass(frozen=True, eq=False)
class Transfers:
    """One kind of cells: the share accepted, by u. Arrays [bin]; bins with fewer than 2 transfers are left out."""

    u: Floats
    """Mean of sign(v) (C - SP) s / F, weighted with the requests."""
    predicted: Floats
    """1 - u."""
    measured: Floats
    error: Floats
    """Standard error of ``measured``."""
    transfers: Floats
    """Behind each bin."""
    counted: int
    clipped_request: int
    """Transfers that asked for more than one pulse."""
    clipped_request_share: float
    """What those accepted, of what the law says without clipping; NaN if there was none."""
    clipped_range: int
    """Transfers from within a few steps of the bound that they move to."""
    most_pulses: int
    """Of a cell, at most."""


def measure_transfers(cells: KnownCells, places: int, transfers: int, bins: int, seed: int) -> Transfers:
    """Put C at ``places`` distances from its SP, and ask ``transfers`` times for a transfer to every cell at each."""
    generator = torch.Generator().manual_seed(seed)
    keys = Keys(seed, cells.arrays, "acceptance")
    rows: list[tuple[Floats, ...]] = []
    most = 0
    for place in torch.linspace(-_FULL, _FULL, places).tolist():
        most += cells.send_to(place * cells.reach()) + transfers
        rows += [_transfer(cells, generator, keys) for _ in range(transfers)]
    u, asked, moved, large, edge = (np.concatenate(part) for part in zip(*rows, strict=True))
    fine, clipped = (large == 0) & (edge == 0), (large == 1) & (edge == 0)
    law = float((asked * (1 - u))[clipped].sum())
    top = float(np.abs(u[fine]).max(initial=0.0)) or 1.0
    place_of = np.clip(np.digitize(u[fine], np.linspace(-top, top, bins + 1)) - 1, 0, bins - 1)

    def total(x: Floats) -> Floats:
        return np.bincount(place_of, x, minlength=bins).astype(np.float64)

    ask, got, expected = asked[fine], moved[fine], (asked * (1 - u))[fine]
    count = total(np.ones_like(ask))
    some = count > 1
    weight = total(ask)[some]
    return Transfers(
        total(ask * u[fine])[some] / weight, total(expected)[some] / weight, total(got)[some] / weight,
        np.sqrt(total(np.square(got - expected))[some]) / weight, count[some], int(fine.sum()), int((large == 1).sum()),
        float(moved[clipped].sum()) / law if law > 0 else float("nan"), int((edge == 1).sum()), most,
    )  # fmt: skip


def _transfer(cells: KnownCells, generator: torch.Generator, keys: Keys) -> tuple[Floats, ...]:
    """One transfer to every line; (u, asked, moved, asked too much, near the bound) of every usable cell, in steps."""
    arrays, inputs, outputs = cells.step.shape
    size = 0.1 + 0.9 * torch.rand((arrays, inputs, outputs), generator=generator)
    large = torch.rand(size.shape, generator=generator) < _SHARE_LARGE
    size = torch.where(large, 1 + size, size)
    sign = torch.where(torch.rand(size.shape, generator=generator) < 0.5, -1.0, 1.0)
    # Two readings before: noise in the one that says where C is must not enter the one that says how far it moves.
    where, before = cells.offset(), cells.offset()
    one_hot = torch.eye(inputs).expand(arrays, inputs, inputs).contiguous()
    cells.update(*one_slot(one_hot, (sign * size).contiguous(), 1.0, keys))
    after = cells.offset()
    u = sign * where * torch.where(sign > 0, cells.slope_up, cells.slope_down) / cells.step
    room = torch.where(sign > 0, cells.g_max - cells.g_sp - where, where + cells.g_sp - cells.g_min)
    edge = room < _MARGIN * (1 - u).clamp(min=0) * cells.step
    return tuple(_flat(x, cells.usable) for x in (u, size, sign * (after - before) / cells.step, large, edge))


def _flat(x: Tensor, usable: Tensor) -> Floats:
    values: Floats = x[usable].double().numpy()
    return values
