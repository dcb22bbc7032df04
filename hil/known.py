"""What a tile knows of its devices: from a calibration where there is one, else from the bench file's nominal values."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hil.calibration import Calibration, CalibrationStore
from hil.config import Nominal
from hil.errors import UsageError
from hil.ledger import Ledger
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
    place: Place, arrays: int, store: CalibrationStore | None, reference: ReferenceChoice, bench_name: str = "BENCH",
    widths: tuple[int, ...] | None = None,
) -> KnownDevices:  # fmt: skip
    """What is known of a matrix on its regions. Without a calibration: nominal values.

    Which calibrations it took goes into the run's record; a resumed run that would take others raises UsageError.
    widths: of the network that the matrix is of, for messages.
    reference "sp": measured symmetry points (mid-range where a cell has none); UsageError where nobody measured them.
    reference "mid": the middle of each cell's measured range, or the nominal middle where nobody measured it;
    "nominal": the middle of the nominal range for all cells.
    """
    known = from_nominal(place.nominal, arrays, place.inputs, place.outputs)
    found: list[Calibration | None] = [
        store.find(region.backend.info.serial, place.shape) if store is not None else None for region in place.regions
    ]
    ledger = None if store is None else store.ledger
    fresh = None if store is None or ledger is None else _not_noted_yet(place, found, store, ledger)
    missing = any(calibration is None for calibration in found)
    if missing and reference == "sp":
        raise UsageError(_never_measured(place, arrays, store, bench_name, widths))
    if ledger is not None and fresh is not None:
        ledger.event("calibration", fresh)
    if missing:
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


def _not_noted_yet(
    place: Place, found: Sequence[Calibration | None], store: CalibrationStore, ledger: Ledger
) -> dict[str, Any] | None:
    """Which calibrations a matrix uses, to be noted in the record; None where it says so already.

    UsageError where the run has used others for it until now: its digital state, its references and its steps belong
    together. What the run itself has measured meanwhile is as good.
    """
    # On one board under one pulse all regions have the same one.
    used = [*dict.fromkeys("none" if one is None else _digest(one) for one in found)]
    said = ", ".join(dict.fromkeys("none" if one is None else f"of {one.date} by run {one.run_id}" for one in found))
    # At another site of a station the same matrix is on other devices.
    of = {"matrix": place.name, "serial": place.regions[0].backend.info.serial}
    before = [event for event in ledger.run.events("calibration") if of.items() <= event.payload.items()]
    if before and before[-1].payload["used"] == used:
        return None
    if before and any(one is None or one.run_id != ledger.id for one in found):
        raise UsageError(
            f"{place.name}: its calibration in {store.directory} is {said}, but this run began with "
            f"{before[-1].payload['said']}: put that one back, or start a new run"
        )
    return {**of, "used": used, "said": said}


def _digest(calibration: Calibration) -> str:
    """Of all that it holds."""
    digest = hashlib.blake2b(digest_size=16)
    for field in fields(calibration):
        value = getattr(calibration, field.name)
        digest.update(value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()


def _never_measured(
    place: Place, arrays: int, store: CalibrationStore | None, bench_name: str, widths: tuple[int, ...] | None
) -> str:
    """What to do about a matrix without symmetry points: commands that can be copied."""
    ledger = None if store is None else store.ledger
    bench = bench_name if store is None or ledger is None else _as_given(ledger, bench_name, store)
    key = "size" if widths is None else "widths"
    size = ",".join(map(str, (place.inputs, place.outputs) if widths is None else widths))
    looked = "" if store is None else f" (no calibration in {store.directory})"
    # A population has devices of its own, which only the run that trains it can measure.
    first = "" if arrays > 1 else (
        f"run `hil characterize {bench} -s characterize.{key}=[{size}]` and "
        f"`hil zero-shift {bench} -s zero_shift.{key}=[{size}]` first, or "
    )  # fmt: skip
    other = "-s program.reference=mid" if widths is None else (
        "-s train.prepare=measure, or do without: -s train.reference_a=mid -s train.reference_c=mid"
    )  # fmt: skip
    return f"{place.name}: its symmetry points were never measured{looked}: {first}give {other}"


def _as_given(ledger: Ledger, bench_name: str, store: CalibrationStore) -> str:
    """The bench of a run as the command takes it: file or shipped name, changes, folder of runs."""
    start = ledger.run.start
    config = start["config"] if isinstance(start["config"], dict) else {}
    own = (start["verb"].replace("-", "_"), start["verb"])
    changes = [change for change in config.get("changes", ()) if change.split(".")[0].strip() not in own]
    source = str(config.get("source", bench_name))
    words = [source, *(word for change in changes for word in ("-s", change))]
    # A shipped bench keeps its calibrations in RUNS/state/NAME.
    state = store.directory.absolute().parent
    if not Path(source).is_absolute() and state.parent.name == "state" and state.parents[1] != Path("runs").absolute():
        words += ["--runs", str(state.parents[1])]
    return shlex.join(words)


_CELLS = ("g_min", "g_max", "g_sp", "g_ref", "step_siemens", "slope_up", "slope_down")
_FROM = {"step_siemens": "step"}
