"""What the checks put on a board: input patterns and pulse trains, made so that its DAC and its lines can do them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hil.backend import ArrayInfo
from hil.encoding import PulseTrain, Stream, uniform, word
from hil.testing.block import Block

__all__ = ["adc_grain", "all_ones", "input_patterns", "random_train", "read_v", "up_down"]


def adc_grain(block: Block) -> float:
    """Smallest step of the current ADC, ampere; 0 where it is continuous."""
    bits, full = block.info.adc_bits, block.info.full_scale_a
    return 0.0 if not bits or math.isinf(full) else full / max(1, 2 ** (bits - 1) - 1)


def read_v(block: Block) -> float:
    """The read voltage of the bench, as the DAC can make it."""
    info, wanted = block.info, block.bench.config.read.read_v
    grain = _grain_v(info) if info.read_levels != 2 else 0.0
    return round(wanted / grain) * grain if grain else wanted


def _grain_v(info: ArrayInfo) -> float:
    """Step of the read DAC, volt; 0 where it is continuous."""
    return (info.read_v.high - info.read_v.low) / (info.read_levels - 1) if info.read_levels > 2 else info.read_v.grain


def input_patterns(block: Block, lines: int) -> Tensor:
    """Inputs in units of the read voltage, [sample line]: none, each line, all, halves, and both signs or fractions
    where the board has them."""
    kinds = [torch.zeros(1, lines), torch.eye(lines), torch.ones(1, lines)]
    halves = (torch.arange(lines) % 2).float()
    kinds += [halves[None], 1 - halves[None]]
    if block.info.read_bipolar:
        kinds += [-torch.eye(lines)[:1], 1 - 2 * halves[None], -torch.ones(1, lines)]
    if block.info.read_levels != 2:
        kinds += [_on_grid(block, torch.linspace(0.2, 1.0, lines))[None], _on_grid(block, torch.full((1, lines), 0.5))]
    return torch.cat(kinds)


def _on_grid(block: Block, share: Tensor) -> Tensor:
    """Shares of the read voltage as the DAC can make them."""
    grain, volts = _grain_v(block.info), read_v(block)
    return share if not grain else (share * volts / grain).round() * grain / volts


def up_down(n: int) -> Tensor:
    """Polarity of n pulses up and n down, int8 [pulse]."""
    return torch.cat([torch.ones(n, dtype=torch.int8), -torch.ones(n, dtype=torch.int8)])


def all_ones(block: Block, slots: int, row_sign: Tensor, col_sign: Tensor) -> tuple[PulseTrain, PulseTrain, Tensor]:
    """Trains over the lines of the block that fire in every slot; (rows, cols, signed pulses of each cell [row col])."""
    bits = (1 << slots) - 1
    count = torch.full((1, 1), slots, dtype=torch.int32)
    trains = [
        PulseTrain.given(torch.full((1, 1, len(sign)), bits, dtype=torch.int32), sign.to(torch.int8).view(1, 1, -1), count)
        for sign in (row_sign, col_sign)
    ]
    return trains[0], trains[1], (slots * torch.outer(row_sign, col_sign)).long()


def random_train(block: Block, samples: int, slots: int, lines: int, name: str) -> PulseTrain:
    """Probabilities from 0.3 to 1; every other line is negative, so that a cell goes one way in all samples."""
    key = Stream(block.bench.config.seed, block.bench.ids, "conformance", name).keys(samples)
    line = torch.arange(lines, dtype=torch.int32)
    sign = (1 - 2 * (line % 2)).expand(1, samples, lines).clone()
    probability = 0.3 + 0.7 * uniform(word(key[:, :, None], line, 99))
    length = torch.full((1, samples), slots, dtype=torch.int32)
    return PulseTrain(probability, sign.to(torch.int8), length, key, line)
