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

    tolerance_steps: a cell is done within so many steps of its target; max_states: pulses a cell may take, in units of its
    number of states; max_rounds: reads of the whole matrix.
    """

    tolerance_steps: float = 0.6
    max_states: float = 2.0
    max_rounds: int = 60


@dataclass(frozen=True)
class Programmed:
    """What programming came to, all [array in out].

    success: within tolerance at the last read; unreachable: the target lies outside the cell's measured range; stuck: the
    cell does not answer pulses; error_siemens: last read minus target; pulses: spent, int32; rounds: reads taken.
    """

    success: Tensor
    unreachable: Tensor
    stuck: Tensor
    error_siemens: Tensor
    pulses: Tensor
    rounds: int


def program_weights(tile: Tile, weights: Tensor, limits: ProgramLimits | None = None, mask: Tensor | None = None) -> Programmed:
    """Program W [array out in]; see ``program_conductance``."""
    target = weights.transpose(1, 2) * tile.known.siemens_per_weight[:, None, None].float() + tile.reference
    return program_conductance(tile, target, limits, mask)


def program_conductance(
    tile: Tile, target: Tensor, limits: ProgramLimits | None = None, mask: Tensor | None = None
) -> Programmed:
    """Program conductances, target float32 [array in out] in siemens; mask: bool [array in out], default all.

    The pulses of a round follow the linear-step device (theory T1): from g towards the asymptote g_inf = g_sp +- step/s,
    n = ln((g_inf - g)/(g_inf - target)) / -ln(1 - s), times a gain per cell that is learned from its answers, at most
    nine tenths of them at once while far away. Cells whose target lies outside their range go as near as they get and
    are reported, as are cells that do not answer. Never more than max_states states of pulses on a cell.
    """
    limits = limits or ProgramLimits()
    known = tile.known
    if target.shape != known.g_min.shape:
        raise ShapeError(f"program {tile.place.name}: target {list(target.shape)} needs {list(known.g_min.shape)} [array in out]")
    wanted = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    step = known.step_siemens.float().clamp(min=1e-15)
    slack = 0.5 * step
    unreachable = wanted & ((target > known.g_max.float() + slack) | (target < known.g_min.float() - slack))
    goal = torch.minimum(torch.maximum(target, known.g_min.float()), known.g_max.float())
    tolerance = limits.tolerance_steps * step
    states = (known.g_max.float() - known.g_min.float()) / step
    budget = (limits.max_states * states).clamp(min=4, max=2**30).to(torch.int32)
    spent = torch.zeros_like(budget)
    silent = torch.zeros_like(budget)
    """Pulses without an answer that read noise could not hide."""
    gain = torch.ones_like(step)
    stuck = wanted & ~known.responds
    g = tile.conductance()
    rounds = 1
    while rounds < limits.max_rounds:
        error = goal - g
        need = wanted & ~stuck & (error.abs() > tolerance) & (spent < budget)
        if not bool(need.any()):
            break
        predicted = _pulses_needed(tile, g, goal)
        number = predicted * gain
        # Far away one careful round brings the cell close; the noise of many pulses is mended by the next.
        number = torch.where(number > 8, number * 0.9, number).round().clamp(min=1)
        number = torch.minimum(number, (budget - spent).float())
        counts = torch.where(need, number * torch.sign(error), torch.zeros_like(error)).to(torch.int32)
        tile.pulse(counts)
        after = tile.conductance()
        rounds += 1
        spent += counts.abs()
        moved = (after - g) * torch.sign(error)
        answered = moved > 0.25 * step
        silent = torch.where(need & ~answered, silent + counts.abs(), torch.where(need, 0, silent))
        stuck |= need & (silent > 0.05 * states + 20)
        ratio = (error.abs() / moved.clamp(min=1e-15)).clamp(0.5, 2.0)
        many = need & (counts.abs() >= 8)
        gain = torch.where(many & answered, (gain * ratio.sqrt()).clamp(0.1, 20.0), gain)
        gain = torch.where(many & ~answered, (gain * 2).clamp(max=20.0), gain)
        g = after
    final = g - target
    return Programmed(wanted & (final.abs() <= tolerance), unreachable, stuck, torch.where(wanted, final, 0.0), spent, rounds)


def _pulses_needed(tile: Tile, g: Tensor, goal: Tensor) -> Tensor:
    """Pulses from g to goal by the linear-step law, float32 [array in out], >= 0."""
    known = tile.known
    up = goal > g
    step, sp = known.step_siemens.float(), known.g_sp.float()
    slope = torch.where(up, known.slope_up, known.slope_down).float().clamp(min=0.0, max=0.5)
    sign = torch.where(up, 1.0, -1.0)
    here, there = (g - sp) * sign, (goal - sp) * sign
    constant = (there - here) / step
    # In units of distance to the asymptote at +step/slope; a goal at or beyond it is approached within one step.
    room_here = (step - slope * here).clamp(min=1e-15)
    room_there = torch.maximum(step - slope * there, 0.02 * step)
    curved = torch.log(room_here / room_there) / -torch.log1p(-slope.clamp(min=1e-9))
    return torch.where(slope > 1e-6, curved, constant).clamp(min=0.0, max=1e6)
