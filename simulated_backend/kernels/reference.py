"""The update kernel in plain torch: the definition that every faster kernel is tested against.

One pulse of polarity s on a cell in state w (relative to its reference), theory D1:

    w <- clip(w + s * (step_s(w) * (1 + c2c * xi)), low, high)      multiplicative cycle noise
    w <- clip(w + s * (step_s(w) + D_s * c2c * xi), low, high)      additive

pulse after pulse, with xi = gauss(word(key, cell, pulse)); key is the array's for this sample, cell = row * cols + col.
With write noise the pulses act on a hidden state, and the visible one is hidden + write_noise * dw_min * xi, redrawn
by every write (xi at pulse index -1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hil.encoding import PSI, PulseTrain, coincidence_counts, gauss, line_hash, mix
from simulated_backend.devices import MODELS, Params

__all__ = ["COVERS", "Cells", "apply", "trace", "update"]

COVERS = frozenset(MODELS)
"""Models this kernel knows: all of them."""


@dataclass
class Cells:
    """The devices of an EmulatedArray as kernels see them; ``state`` (and what follows from it) changes in place.

    params: model parameters with bounds ``low``, ``high``, each float32 [array row col]; c2c: float32 [array];
    write: float32 [array], write noise in weight; hidden: the persistent state where there is write noise;
    pulses_up, pulses_down: int32 [array row col] wear counters, or None.
    """

    model: str
    state: Tensor
    params: Params
    c2c: Tensor
    multiplicative: bool = True
    write: Tensor | None = None
    hidden: Tensor | None = None
    pulses_up: Tensor | None = None
    pulses_down: Tensor | None = None
    views: tuple[object, ...] | None = field(default=None, repr=False)
    """Whatever a kernel wants to keep of tensors that only ever change in place."""


def update(cells: Cells, rows: PulseTrain, cols: PulseTrain, key: Tensor, active: Tensor | None = None) -> None:
    """Coincidence update, sample after sample. key: int32 [array sample 2]; active: bool [array]."""
    for sample in range(rows.samples):
        counts = coincidence_counts(rows.at(sample), cols.at(sample))
        if active is not None:
            counts = counts * active.to(torch.int32)[:, None, None]
        apply(cells, counts, key[:, sample])


def apply(cells: Cells, counts: Tensor, key: Tensor) -> None:
    """``|counts|`` pulses on every cell, up where positive. counts: int32 [array row col]; key: int32 [array 2]."""
    flat = counts.reshape(-1)
    index = flat.nonzero()[:, 0]
    if len(index) == 0:
        return
    number, order = flat[index].abs().sort(descending=True, stable=True)
    index = index[order]
    up = flat[index] > 0
    sign = up.to(torch.float32) * 2 - 1
    per_cell = cells.state[0].numel()
    array = torch.div(index, per_cell, rounding_mode="floor")
    place = line_hash(key[array], (index - array * per_cell).to(torch.int32))
    c2c = cells.c2c[array]
    params = {name: value.reshape(-1)[index] for name, value in cells.params.items()}
    target = (cells.state if cells.hidden is None else cells.hidden).reshape(-1)
    w = target[index]
    step = MODELS[cells.model].step
    noisy = bool((cells.c2c > 0).any())
    # still[k] cells take a k-th pulse; they are the first ones, since counts are sorted.
    most = int(number[0])
    still = torch.searchsorted(-number, -torch.arange(most, device=number.device, dtype=number.dtype)).tolist()
    for pulse, cut in enumerate(still):
        if cut < len(w) or pulse == 0:
            view = {name: value[:cut] for name, value in params.items()}
        now = w[:cut]
        size = step(view, now, up[:cut])
        if noisy:
            xi = c2c[:cut] * gauss(mix(place[:cut] + pulse * PSI))
            if cells.multiplicative:
                size = size * (1 + xi)
            else:
                size = size + xi * torch.where(up[:cut], view["noise_up"], view["noise_down"])
        w[:cut] = torch.minimum(torch.maximum(now + sign[:cut] * size, view["low"]), view["high"])
    target[index] = w
    if cells.hidden is not None and cells.write is not None:
        cells.state.reshape(-1)[index] = w + (params["high"] > params["low"]) * cells.write[array] * gauss(mix(place - PSI))
    for counter, side in ((cells.pulses_up, up), (cells.pulses_down, ~up)):
        if counter is not None:
            counter.reshape(-1)[index] += torch.where(side, number, 0).to(torch.int32)


def trace(cells: Cells, signs: Tensor, mask: Tensor, key: Tensor, every: int, out: Tensor) -> None:
    """One pulse of each sign in turn on every masked cell; its state after every ``every``-th goes to ``out``.

    signs: int8 [pulse]; key: int32 [array pulse 2]; out: float32 [array row col read].
    """
    one = mask.to(torch.int32)
    for number, sign in enumerate(signs.tolist()):
        apply(cells, one * sign, key[:, number])
        if (number + 1) % every == 0:
            out[..., number // every] = cells.state
