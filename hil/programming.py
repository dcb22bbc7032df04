"""Write-verify: bring cells to target conductances by pulses and reads alone, bounded, and say which got there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hil.errors import ShapeError
from hil.tile import Tile

__all__ = ["ProgramLimits", "Programmed", "program_conductance", "program_weights"]


@dataclass(frozen=True)
class ProgramLimits:
    """When to stop.

    tolerance_steps: a cell is done within so many steps of its target, or within the noise of one reading if that is more;
    max_states: pulses a cell may take, in units of its number of states; max_rounds: reads of the whole matrix.
    """

    tolerance_steps: float = 0.6
    max_states: float = 2.0
    max_rounds: int = 60


@dataclass(frozen=True)
class Programmed:
    """What programming came to, all [array in out].

    success: read within tolerance of its target after its last pulse, and not found elsewhere since by more than read noise;
    unreachable: the target lies outside the cell's measured range, or the cell stopped answering on its way there;
    stuck: the cell does not answer pulses at all;
    error_siemens: last read minus target; pulses: spent, int32; rounds: reads taken.
    """

    success: Tensor
    unreachable: Tensor
    stuck: Tensor
    error_siemens: Tensor
    pulses: Tensor
    rounds: int


def program_weights(
    tile: Tile, weights: Tensor, limits: ProgramLimits | None = None, mask: Tensor | None = None
) -> Programmed:
    """Program W [array out in]; see ``program_conductance``."""
    target = weights.transpose(1, 2) * tile.known.siemens_per_weight[:, None, None].float() + tile.reference
    return program_conductance(tile, target, limits, mask)


def program_conductance(
    tile: Tile, target: Tensor, limits: ProgramLimits | None = None, mask: Tensor | None = None
) -> Programmed:
    """Program conductances, target float32 [array in out] in siemens; mask: bool [array in out], default all.

    The pulses of a round follow the linear-step device (theory T1): from g towards the asymptote g_inf = g_sp +- step/s,
    n = ln((g_inf - g)/(g_inf - target)) / -ln(1 - s), times a gain per cell that is learned from its answers, at most
    nine tenths of them at once while far away. Two reads before the first pulse tell the read noise, so that neither a
    cell that is there nor one that does not answer is judged by noise alone. Cells whose target lies outside their range
    go as near as is worth the pulses (2 % of the range from a bound that steps shrink towards) and are reported, as are
    cells that do not answer. Never more than max_states states of pulses on a cell.
    """
    limits = limits or ProgramLimits()
    known = tile.known
    if target.shape != known.g_min.shape:
        raise ShapeError(
            f"program {tile.place.name}: target {list(target.shape)} needs {list(known.g_min.shape)} [array in out]"
        )
    wanted = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    step = known.step_siemens.float().clamp(min=1e-15)
    low, high = known.g_min.float(), known.g_max.float()
    unreachable = wanted & ((target > high + 0.5 * step) | (target < low - 0.5 * step))
    goal = torch.minimum(torch.maximum(target, low), high)
    goal = torch.where(unreachable, _worth(tile, goal), goal)
    states = (high - low) / step
    budget = (limits.max_states * states).clamp(min=4, max=2**30).to(torch.int32)
    spent = torch.zeros_like(budget)
    gain = torch.ones_like(step)
    halted = wanted & ~known.responds
    done = torch.zeros_like(wanted)
    first, g = tile.conductance(), tile.conductance()
    noise = (g - first).abs().flatten(1).median(dim=1).values[:, None, None] * _MEDIAN_TO_STD
    tolerance = torch.maximum(limits.tolerance_steps * step, noise)
    silence = _Silence(g)
    # An array that is ready is left alone from then on, whatever others still need: it ends as it would by itself.
    busy = torch.ones(tile.arrays, dtype=torch.bool)
    rounds = 2
    while True:
        error = goal - g
        done = wanted & (error.abs() <= torch.where(done, tolerance + 4 * noise, tolerance))
        need = wanted & ~halted & ~done & (spent < budget)
        busy &= need.flatten(1).any(dim=1)
        if rounds >= limits.max_rounds or not bool(busy.any()):
            break
        need &= busy[:, None, None]
        number = _pulses_needed(tile, g, goal) * gain
        # Far away one careful round brings the cell close; the noise of many pulses is mended by the next.
        number = torch.where(number > 8, number * 0.9, number).round().clamp(min=1)
        number = torch.minimum(number, (budget - spent).float())
        counts = torch.where(need, number * torch.sign(error), torch.zeros_like(error)).to(torch.int32)
        tile.pulse(counts)
        after = torch.where(busy[:, None, None], tile.conductance(busy), g)
        rounds += 1
        size = counts.abs()
        spent += size
        moved = (after - g) * torch.sign(error)
        heard = torch.maximum(0.25 * step, 6 * noise)
        silent = silence.listen(counts, g, after, heard)
        halted |= need & (silent > 0.05 * states + 20)
        many = need & (size >= 8)
        ratio = (error.abs() / moved.clamp(min=1e-15)).clamp(0.5, 2.0)
        gain = torch.where(many & (moved > heard), (gain * ratio.sqrt()).clamp(0.1, 20.0), gain)
        gain = torch.where(many & (silent * step > 4 * heard), (gain * 2).clamp(max=20.0), gain)
        g = after
    # One that answered and then stopped has come to a bound that nobody had measured.
    stuck = halted & ~silence.broken
    unreachable |= halted & silence.broken
    return Programmed(done & ~unreachable, unreachable, stuck, torch.where(wanted, g - target, 0.0), spent, rounds)


_MEDIAN_TO_STD = 1.4826 / 2**0.5
"""From the median size of the difference of two readings to the standard deviation of one."""


class _Silence:
    """Pulses in one direction since a cell was last heard: since its conductance moved by more than noise could."""

    def __init__(self, g: Tensor) -> None:
        self._from, self._heading = g, torch.zeros_like(g)
        self._silent = torch.zeros_like(g)
        self.broken = torch.zeros_like(g, dtype=torch.bool)
        """Whether a cell was ever heard."""

    def listen(self, counts: Tensor, before: Tensor, after: Tensor, heard: Tensor) -> Tensor:
        """Account for ``counts`` between two readings; returns pulses without an answer, float32 [array in out]."""
        heading = torch.sign(counts).float()
        turned = (heading != 0) & (heading != self._heading)
        self._from = torch.where(turned, before, self._from)
        self._heading = torch.where(turned, heading, self._heading)
        self._silent = torch.where(turned, 0.0, self._silent) + counts.abs()
        answered = (heading != 0) & ((after - self._from) * heading > heard)
        self._from = torch.where(answered, after, self._from)
        self._silent = torch.where(answered, 0.0, self._silent)
        self.broken |= answered
        return self._silent


def _worth(tile: Tile, goal: Tensor) -> Tensor:
    """The conductance worth going to where the target is out of range: towards a fixed point steps shrink without end."""
    known = tile.known
    inset = 0.02 * (known.g_max - known.g_min).float()
    top = torch.where(known.slope_up > 0, known.g_max.float() - inset, known.g_max.float())
    bottom = torch.where(known.slope_down > 0, known.g_min.float() + inset, known.g_min.float())
    return torch.minimum(torch.maximum(goal, bottom), top)


def _pulses_needed(tile: Tile, g: Tensor, goal: Tensor) -> Tensor:
    """Pulses from g to goal by the linear-step law, float32 [array in out], >= 0."""
    known = tile.known
    up = goal > g
    step, sp = known.step_siemens.float(), known.g_sp.float()
    slope = torch.where(up, known.slope_up, known.slope_down).float().clamp(min=0.0, max=0.5)
    sign = torch.where(up, 1.0, -1.0)
    here, there = (g - sp) * sign, (goal - sp) * sign
    constant = (there - here) / step
    # Size of a step here and there; at or beyond the asymptote at +step/slope, that a third of a step before it.
    least = 0.3 * slope.clamp(min=1e-9) * step
    room_here, room_there = torch.maximum(step - slope * here, least), torch.maximum(step - slope * there, least)
    curved = torch.log(room_here / room_there) / -torch.log1p(-slope.clamp(min=1e-9))
    # No step is larger than two at the SP, whatever the slopes say.
    curved = torch.maximum(curved, constant / 2)
    return torch.where(slope > 1e-6, curved, constant).clamp(min=0.0, max=1e6)
