"""What a tile knows of its devices: from a calibration where there is one, else from the bench file's nominal values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hil.calibration import Calibration, CalibrationStore
from hil.config import Nominal
from hil.errors import UsageError
from hil.place import Place

__all__ = ["KnownDevices", "ReferenceChoice", "from_nominal", "known_devices"]

ReferenceChoice = Literal["sp", "mid", "nominal"]


@dataclass(frozen=True)
class KnownDevices:
    """Per cell of a matrix, float64 [array in out]: range, reference, step and slopes; per array: scale and step.

    step_siemens is the size of a pulse at g_sp; slope_up and slope_down are relative slopes per pulse (0 = constant step).
    """

    g_min: Tensor
    g_max: Tensor
    g_sp: Tensor
    g_ref: Tensor
    step_siemens: Tensor
    slope_up: Tensor
    slope_down: Tensor
    responds: Tensor
    siemens_per_weight: Tensor
    """float64 [array]."""
    step_weight: Tensor
    """float64 [array]: mean step of the responding cells in weight."""
    measured: bool

    @property
    def mid(self) -> Tensor:
        """Middle of every cell's range."""
        return (self.g_min + self.g_max) / 2


def from_nominal(nominal: Nominal, arrays: int, inputs: int, outputs: int) -> KnownDevices:
    """Nominal devices, all alike, as if steps were constant: reference at mid-range."""

    def full(value: float) -> Tensor:
        return torch.full((arrays, inputs, outputs), value, dtype=torch.float64)

    states = nominal.states if isinstance(nominal.states, tuple) else (nominal.states,) * arrays
    if len(states) != arrays:
        raise UsageError(f"nominal.states: {len(states)} values for {arrays} arrays: give one, or one each")
    step = (nominal.g_max_siemens - nominal.g_min_siemens) / torch.tensor(states, dtype=torch.float64)
    scale = torch.full((arrays,), nominal.siemens_per_weight, dtype=torch.float64)
    mid = full(nominal.g_mid_siemens)
    return KnownDevices(
        full(nominal.g_min_siemens), full(nominal.g_max_siemens), mid, mid.clone(), step[:, None, None].expand_as(mid),
        full(0.0), full(0.0), torch.ones_like(mid, dtype=torch.bool), scale, step / scale, False,
    )  # fmt: skip


def known_devices(
    place: Place, arrays: int, store: CalibrationStore | None, reference: ReferenceChoice, bench_name: str = "BENCH"
) -> KnownDevices:
    """What is known of a matrix on its regions. Without a calibration: nominal values.

    reference "sp": measured symmetry points (mid-range where a cell has none); UsageError where nobody measured them.
    reference "mid": the middle of each cell's measured range, or the nominal middle where nobody measured it;
    "nominal": the middle of the nominal range for all cells.
    """
    known = from_nominal(place.nominal, arrays, place.inputs, place.outputs)
    found: list[Calibration | None] = [
        store.find(region.backend.info.serial, place.shape) if store is not None else None for region in place.regions
    ]
    if any(calibration is None for calibration in found):
        if reference == "sp":
            raise UsageError(
                f"{place.name}: its symmetry points were never measured: run `hil characterize {bench_name}` and "
                f'`hil zero-shift {bench_name}` first, or take references = "mid"'
            )
        return known
    out = {name: getattr(known, name).clone() for name in _CELLS}
    responds = known.responds.clone()
    for region, calibration in zip(place.regions, found, strict=True):
        assert calibration is not None
        target = (slice(None), region.inputs, region.outputs)
        part = calibration.crop(region.rows, region.cols)
        for name in _CELLS:
            value = getattr(part, _FROM.get(name, name)).to(torch.float64)
            out[name][target] = torch.where(value.isfinite(), value, out[name][target])
        responds[target] = part.responds
    count = responds.flatten(1).sum(dim=1).clamp(min=1)
    step = (out["step_siemens"] * responds).flatten(1).sum(dim=1) / count / known.siemens_per_weight
    measured = replace(known, **out, responds=responds, step_weight=step, measured=True)
    choices = {"sp": measured.g_ref, "mid": measured.mid, "nominal": known.g_ref}
    return replace(measured, g_ref=choices[reference])


_CELLS = ("g_min", "g_max", "g_sp", "g_ref", "step_siemens", "slope_up", "slope_down")
_FROM = {"step_siemens": "step"}
