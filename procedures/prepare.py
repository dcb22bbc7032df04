"""Measure the devices that a network will live on, right before it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hil.bench import Bench, open_bench
from hil.ledger import Ledger
from procedures.characterize import CharacterizeConfig, characterize
from procedures.zero_shift import ZeroShiftConfig, zero_shift

__all__ = ["measure_devices"]


def measure_devices(bench: Bench, widths: tuple[int, ...], ledger: Ledger) -> None:
    """Characterize and find symmetry points; on an emulated bench once for each identity of the population.

    Replicas with equal ids are equal devices, unless the settings give each array its own. A resumed run does not measure
    the cells of a board again: they may be in training by now.
    """
    if bench.physical and any(ledger.run.events("measured")):
        return
    _measure(bench, widths, ledger)
    ledger.event("measured", {"widths": widths})


def _measure(bench: Bench, widths: tuple[int, ...], ledger: Ledger) -> None:
    unique, index = torch.unique(bench.ids, return_inverse=True)
    if len(unique) == len(bench.ids) or _per_array(bench):
        characterize(bench, CharacterizeConfig(widths=widths), ledger)
        zero_shift(bench, ZeroShiftConfig(widths=widths), ledger)
        return
    with open_bench(bench.config, bench.state) as small:
        small.populate(unique)
        characterize(small, CharacterizeConfig(widths=widths), ledger)
        zero_shift(small, ZeroShiftConfig(widths=widths), ledger)
        for own, measured in zip(bench.surfaces(widths), small.surfaces(widths), strict=True):
            found = small.calibrations.find(measured.backend.info.serial, measured.shape)
            assert found is not None
            bench.calibrations.save(found.replicated(index, own.backend.info.serial))


def _per_array(bench: Bench) -> bool:
    """Whether devices or pulses differ from array to array."""
    config = bench.config
    pulses = (wiring.model_dump() for wiring in config.roles.values())
    return any(_varies(one) for one in (*(board.settings for board in config.boards.values()), *pulses))


def _varies(settings: Mapping[str, Any]) -> bool:
    """Whether any setting is a list: one value for each array."""
    return any(_varies(v) if isinstance(v, Mapping) else isinstance(v, (list, tuple)) for v in settings.values())
