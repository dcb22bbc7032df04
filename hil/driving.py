"""Voltages as a board can make them: rounded to its DAC, or bit by bit where it has one common read voltage.

With one common voltage (``info.read_levels == 2``) the inputs are fed bit-serially (shift and add): input magnitudes become
integers of BITS bits, every bit and either sign is one pass in which the chosen lines get the common voltage, and

    I = sum_k 2^k / (2^BITS - 1) (I_k,plus - I_k,minus)

A one-hot input is a single pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hil.backend import ArrayBackend, ArrayInfo, Direction
from hil.posted import HasPostedMvm

__all__ = ["ALMOST_FULL", "BITS", "drive", "drive_later"]

BITS = 7
"""Bits of an input that is fed bit-serially; as many as the default DAC has."""

ALMOST_FULL = 1 - 1e-6
"""Share of the full scale from which on a reading is saturated."""


def drive(
    backend: ArrayBackend, volts: Tensor, read_v: float, direction: Direction, active: Tensor | None, one_hot: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(volts as applied, current, saturated) of one matrix-vector product.

    volts: float32 [array sample line], |volts| <= read_v; current: float32 [array sample sensed] in ampere;
    saturated: bool [array sample sensed], None where the board cannot saturate. one_hot: every line is at 0 or read_v.
    """
    if backend.info.read_levels == 2 and not one_hot:
        return _bit_serial(backend, volts, read_v, direction, active)
    volts = _converted(backend.info, volts)
    current = backend.mvm(volts, direction, active)
    return volts, current, _saturated(backend.info, current)


def drive_later(
    backend: HasPostedMvm, info: ArrayInfo, volts: Tensor, direction: Direction, active: Tensor | None
) -> Callable[[], tuple[Tensor, Tensor, Tensor | None]]:
    """``drive`` begun, of inputs that are one-hot; the function waits for what it gives."""
    volts = _converted(info, volts)
    wait = backend.post_mvm(volts, direction, active)

    def result() -> tuple[Tensor, Tensor, Tensor | None]:
        current = wait()
        return volts, current, _saturated(info, current)

    return result


def _converted(info: ArrayInfo, volts: Tensor) -> Tensor:
    """Voltages as the board's DAC has them."""
    if info.read_levels <= 2:
        return volts
    grain = (info.read_v.high - info.read_v.low) / (info.read_levels - 1)
    return (volts / grain).round() * grain


def _saturated(info: ArrayInfo, current: Tensor) -> Tensor | None:
    full = info.full_scale_a
    return None if full == float("inf") else current.abs() >= full * ALMOST_FULL


def _bit_serial(
    backend: ArrayBackend, volts: Tensor, read_v: float, direction: Direction, active: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    arrays, samples, lines = volts.shape
    top = 2**BITS - 1
    size = (volts.abs() * (top / read_v)).round().to(torch.int64)
    bit = torch.arange(BITS)
    on = ((size[..., None] >> bit) & 1).bool()
    planes = torch.stack([on & (volts > 0)[..., None], on & (volts < 0)[..., None]], dim=-1).flatten(3)
    weight = torch.stack([2.0**bit, -(2.0**bit)], dim=-1).flatten() / top
    if backend.info.physical:
        # Time on a board is dear; a population must take the same passes whatever its neighbours' inputs are.
        used = planes.flatten(0, 2).any(dim=0)
        planes, weight = planes[..., used], weight[used]
    passes = planes.permute(0, 1, 3, 2).reshape(arrays, -1, lines).float() * read_v
    current = backend.mvm(passes, direction, active).view(arrays, samples, len(weight), -1)
    saturated = _saturated(backend.info, current)
    applied = torch.sign(volts) * size * (read_v / top)
    total = (current * weight[:, None]).sum(dim=2)
    return applied.float(), total, None if saturated is None else saturated.any(dim=2)
