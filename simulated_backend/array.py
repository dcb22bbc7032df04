"""EmulatedArray: the backend verbs on emulated devices, for one array or a population of them.

Conductance G = g_mid + (state + reference) siemens_per_weight, with state and reference in weight. Randomness is keyed by
(seed, array identity, matrix name, purpose, counter), so that a replica behaves the same alone and among thousands.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType, TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from hil.activations import Activation
from hil.backend import (
    ArrayInfo,
    Direction,
    PulseShape,
    Range,
    check_active,
    check_counts,
    check_mask,
    check_mvm,
    check_per_array,
    check_polarity,
    check_trains,
)
from hil.encoding import PulseTrain, Stream, gauss, word
from hil.errors import ShapeError, UsageError
from hil.fused import FusedLayer, FusedNetwork
from simulated_backend.devices import Params, draw_cells, per_array, scaled, shift
from simulated_backend.fused.network import fuse
from simulated_backend.kernels import cpu, reference
from simulated_backend.periphery import Periphery
from simulated_backend.settings import EmulatorSettings

__all__ = ["KERNELS", "EmulatedArray"]

KERNELS: Mapping[str, ModuleType] = {"reference": reference, "cpu": cpu}
"""Update kernels by name; each has ``COVERS`` (models), ``update``, ``apply`` and ``trace``."""


class EmulatedArray:
    """An emulated crosspoint array with ``len(ids)`` replicas. See ``hil.backend.ArrayBackend`` for the verbs.

    settings: what it is made of; name: the matrix or board it plays; role "a" takes ``settings.device_a`` where given;
    ids: int64 [array], the identity of each replica (equal ids are equal devices); seed: of everything drawn.
    """

    def __init__(
        self,
        settings: EmulatorSettings,
        rows: int,
        cols: int,
        *,
        seed: int = 0,
        ids: Tensor | None = None,
        name: str = "board",
        role: str = "",
        device: torch.device | str = "cpu",
    ) -> None:
        ids = torch.zeros(1, dtype=torch.int64) if ids is None else ids
        self.settings = settings
        self._ids, self._name, self._seed = ids, name, seed
        s, p = settings, settings.periphery
        self._device_settings = s.device_a if role == "a" and s.device_a is not None else s.device
        self._unit = s.siemens_per_weight * p.read_v_max
        floor_w = -s.g_mid_siemens / s.siemens_per_weight
        short_w = 10 * (float(per_array(self._device_settings.w_max, len(ids)).max()) - floor_w) + floor_w
        params, state = draw_cells(self._device_settings, rows, cols, seed, ids, name, floor_w, short_w)
        arrays = len(ids)
        write = per_array(self._device_settings.write_noise, arrays) * per_array(self._device_settings.dw_min, arrays)
        self._cells = reference.Cells(
            model=self._device_settings.model,
            state=state.to(device),
            params={k: v.to(device) for k, v in params.items()},
            c2c=per_array(self._device_settings.c2c, arrays).view(-1).float().to(device),
            multiplicative=self._device_settings.multiplicative,
        )
        if bool((write > 0).any()):
            self._cells.write = write.view(-1).float().to(device)
            self._cells.hidden = self._cells.state.clone()
        if s.count_pulses:
            self._cells.pulses_up = torch.zeros(arrays, rows, cols, dtype=torch.int32, device=device)
            self._cells.pulses_down = torch.zeros_like(self._cells.pulses_up)
        self._reference = torch.zeros_like(self._cells.state)
        self._shapes: dict[PulseShape, reference.Cells] = {}
        self.noise = {kind: Stream(seed, ids, name, kind, device) for kind in ("pulse", "mvm", "read")}
        self.clock_s = torch.zeros(arrays, dtype=torch.float64, device=device)
        self._relaxed_s = torch.zeros_like(self.clock_s)
        self._rest: Tensor | None = None
        if s.clock.relax_s is not None:
            cell = torch.arange(rows * cols, dtype=torch.int32, device=device)
            draw = gauss(word(Stream(seed, ids, name, "rest", device).keys(1), cell, 0)).view(arrays, rows, cols)
            self._rest = s.clock.relax_mean + s.clock.relax_dtod * draw
        self._kernel = _choose_kernel(s.kernel, self._device_settings.model, torch.device(device))
        self._cell = torch.arange(rows * cols, dtype=torch.int32, device=device)
        self._info = self._describe(rows, cols)
        self._periphery = Periphery(settings)

    def _describe(self, rows: int, cols: int) -> ArrayInfo:
        s, p = self.settings, self.settings.periphery
        made_of = (
            f"{self._device_settings.model_dump_json()}|{s.law.model_dump_json()}|{s.clock.model_dump_json()}|{s.g_mid_siemens}|"
            f"{s.siemens_per_weight}|{self._seed}|{self._name}|{rows}x{cols}|{self._ids.tolist()}"
        )
        return ArrayInfo(
            arrays=len(self._ids), rows=rows, cols=cols, physical=False, vendor="crosspoint-hil", model="emulated array",
            serial="emu-" + hashlib.blake2b(made_of.encode(), digest_size=8).hexdigest(), firmware="1",
            read_v=Range(-p.read_v_max, p.read_v_max), pulse_v=Range(-5.0, 5.0), width_s=Range(1e-9, 1.0),
            read_levels=_levels(p.dac_bits), adc_bits=p.adc_bits,
            full_scale_a=float(torch.tensor(p.full_scale) * self._unit), select_scheme="V/2", reference=p.reference,
            g_mid_siemens=s.g_mid_siemens,
        )  # fmt: skip

    @property
    def info(self) -> ArrayInfo:
        return self._info

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        check_mask(mask, self._info)
        self._relax()
        passes = mask.any(dim=2).sum(dim=1) * averages
        g = self._siemens(averages, mask.any(dim=2).any(dim=1))
        self._spend(passes.double() * self.settings.clock.read_s)
        if self.settings.clock.disturb_per_vs > 0:
            dose = self.settings.clock.disturb_per_vs * self.settings.periphery.read_v_max * self.settings.clock.read_s
            for state in (self._cells.state, self._cells.hidden):
                if state is not None:
                    state += mask * dose * averages * (self._cells.params["high"] - state)
        return torch.where(mask, g, torch.nan)

    def _siemens(self, averages: int, active: Tensor | None) -> Tensor:
        """Conductances as one reading of ``averages`` sees them, float32 [array row col]."""
        g = self.settings.g_mid_siemens + (self._cells.state + self._reference) * self.settings.siemens_per_weight
        noise = self.settings.periphery.read_noise_siemens
        if noise > 0:
            key = self.noise["read"].keys(1, active)
            g = g + noise / math.sqrt(averages) * gauss(word(key, self._cell, 0)).view_as(g)
        return g

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        info, p = self._info, self.settings.periphery
        check_mvm(volts, direction, info)
        check_active(active, info)
        self._relax()
        samples = volts.shape[1]
        key = self.noise["mvm"].keys(samples, active) if p.in_noise > 0 or p.out_noise > 0 else None
        current = self._periphery.product(volts, self._cells.state, direction, key, active)
        self._spend(samples * self.settings.clock.read_s, active)
        if self.settings.clock.disturb_per_vs > 0:
            self._disturb(volts if active is None else volts * active[:, None, None], direction)
        return current

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        check_counts(counts, self._info)
        cells = self.cells(shape)
        size = counts.abs()
        key = self.noise["pulse"].keys(1, (size > 0).flatten(1).any(dim=1))
        self._kernel.apply(cells, counts, key[:, 0])
        self._spend(size.amax(dim=2).sum(dim=1).double() * self.period_s(shape))

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        check_mask(mask, self._info)
        check_polarity(polarity, every)
        cells = self.cells(shape)
        active = mask.flatten(1).any(dim=1)
        key = self.noise["pulse"].keys(len(polarity), active)
        rows = mask.any(dim=2).sum(dim=1).double()
        period, read_s = self.period_s(shape), self.settings.clock.read_s
        if self._rest is None:
            out = torch.empty((*mask.shape, len(polarity) // every), device=mask.device)
            self._kernel.trace(cells, polarity, mask, key, every, out)
            self._spend(rows * (period * len(polarity) + read_s * out.shape[-1]))
        else:
            out = self._trace_relaxing(cells, polarity, mask, key, every, rows * period, rows * read_s)
        self._to_siemens(out, active)
        return out.masked_fill_(~mask[..., None], torch.nan)

    def _trace_relaxing(
        self,
        cells: reference.Cells,
        polarity: Tensor,
        mask: Tensor,
        key: Tensor,
        every: int,
        pulse_s: Tensor,
        read_s: Tensor,
    ) -> Tensor:
        """A trace during which cells relax between pulses: one pulse a time, by the virtual clock."""
        reads = []
        for start in range(0, len(polarity), every):
            for number in range(start, min(start + every, len(polarity))):
                self._kernel.apply(cells, mask.to(torch.int32) * int(polarity[number]), key[:, number])
                self._spend(pulse_s)
                self._relax()
            if start + every <= len(polarity):
                self._spend(read_s)
                self._relax()
                reads.append(self._cells.state.clone())
        return torch.stack(reads, dim=-1) if reads else torch.empty((*mask.shape, 0))

    def _to_siemens(self, states: Tensor, active: Tensor) -> None:
        """States [array row col read] to conductances in place, each read with its own noise."""
        states += self._reference[..., None]
        states *= self.settings.siemens_per_weight
        states += self.settings.g_mid_siemens
        noise = self.settings.periphery.read_noise_siemens
        if noise > 0:
            key = self.noise["read"].keys(states.shape[-1], active)
            for number in range(states.shape[-1]):
                states[..., number] += noise * gauss(word(key[:, number, None], self._cell, 0)).view(states.shape[:-1])

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        check_trains(rows, cols, self._info)
        check_active(active, self._info)
        cells = self.cells(shape)
        key = self.noise["pulse"].keys(rows.samples, active)
        self._kernel.update(cells, rows, cols, key, active)
        self._spend(rows.slots.sum(dim=1).double() * self.period_s(shape), active)

    def set_reference(self, g_siemens: Tensor) -> None:
        """Put the analog reference of every cell at ``g_siemens`` [array row col]; NaN leaves it as it is."""
        if self._info.reference != "cell":
            raise UsageError(f"{self._name}: reference = {self._info.reference!r} has no reference per cell to set")
        if g_siemens.shape != self._reference.shape:
            raise ShapeError(f"set_reference: {list(g_siemens.shape)} needs {list(self._reference.shape)}")
        weight = ((g_siemens - self.settings.g_mid_siemens) / self.settings.siemens_per_weight).float()
        by = torch.where(weight.isnan(), 0.0, weight - self._reference)
        self._reference += by
        self._cells.state -= by
        if self._cells.hidden is not None:
            self._cells.hidden -= by
        shift(self._cells.params, by)
        self._shapes.clear()

    def idle(self, seconds: float) -> None:
        """Let ``seconds`` of virtual time pass."""
        if not seconds >= 0:
            raise UsageError(f"idle: {seconds} s is not a duration")
        self.clock_s += seconds
        self._relax()

    def safe(self) -> bool:
        return True

    def status(self) -> dict[str, Any]:
        out: dict[str, Any] = {"time_s": self.clock_s.clone(), "interlock": "closed"}
        if self._cells.pulses_up is not None and self._cells.pulses_down is not None:
            out |= {"pulses_up": self._cells.pulses_up.clone(), "pulses_down": self._cells.pulses_down.clone()}
        return out

    def close(self) -> None:
        self.safe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that changes while running."""
        return {name: value.clone() for name, value in self._changing().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave."""
        current = self._changing()
        if current.keys() != state.keys() or any(current[k].shape != state[k].shape for k in current):
            raise ShapeError(f"{self._name}: the saved state is of another kind of array: open the bench it was saved with")
        for name, value in current.items():
            value.copy_(state[name])
        self._shapes.clear()

    def _changing(self) -> dict[str, Tensor]:
        named = {
            "state": self._cells.state,
            "reference": self._reference,
            "clock_s": self.clock_s,
            "relaxed_s": self._relaxed_s,
        }
        named |= {f"counter_{kind}": stream.counter for kind, stream in self.noise.items()}
        for field in ("hidden", "pulses_up", "pulses_down"):
            if (value := getattr(self._cells, field)) is not None:
                named[field] = value
        return named | {f"param_{name}": value for name, value in self._cells.params.items()}

    def fuse(self, layers: Sequence[FusedLayer], activation: Activation) -> FusedNetwork | None:
        """See ``hil.fused.HasFusedNetwork``."""
        return fuse(layers, activation)

    @property
    def compiled(self) -> bool:
        """Whether compiled loops may stand for the verbs: CPU, the CPU's kernel, no drift and no read disturb."""
        still = self._rest is None and self.settings.clock.disturb_per_vs == 0
        return still and self._kernel is cpu and self._cells.state.device.type == "cpu"

    def cells(self, shape: PulseShape) -> reference.Cells:
        """The cells under this pulse shape; the nominal shape shares the stored parameters."""
        self._relax()
        cells = self._shapes.get(shape)
        if cells is None:
            check_per_array(shape, self._info)
            params, c = self._scaled_params(shape), self._cells
            cells = c if params is c.params else replace(c, params=params, views=None)
            self._shapes[shape] = cells
        return cells

    def _scaled_params(self, shape: PulseShape) -> Params:
        law, arrays = self.settings.law, self._info.arrays
        nominal = PulseShape(law.up_v, law.down_v, law.width_s)
        if (shape.up_v, shape.down_v, shape.width_s) == (nominal.up_v, nominal.down_v, nominal.width_s):
            return self._cells.params
        time = (per_array(shape.width_s, arrays) / law.width_s) ** law.width_power
        up = time * torch.sinh(per_array(shape.up_v, arrays).abs() / law.v_0) / math.sinh(law.up_v / law.v_0)
        down = time * torch.sinh(per_array(shape.down_v, arrays).abs() / law.v_0) / math.sinh(-law.down_v / law.v_0)
        device = self._cells.state.device
        return scaled(self._cells.params, up.float().to(device), down.float().to(device), law.bend, self._reference)

    def period_s(self, shape: PulseShape) -> Tensor | float:
        """Time of one slot under this pulse shape, second; one value, or float64 [array]."""
        gap = self.settings.clock.gap_s
        if isinstance(shape.width_s, tuple):
            return torch.tensor(shape.width_s, dtype=torch.float64, device=self.clock_s.device) + gap
        return shape.width_s + gap

    def _spend(self, seconds: Tensor | float, active: Tensor | None = None) -> None:
        self.clock_s += seconds if active is None else seconds * active.double()

    def _relax(self) -> None:
        if self._rest is None or self.settings.clock.relax_s is None:
            return
        gone = -torch.expm1((self._relaxed_s - self.clock_s) / self.settings.clock.relax_s).float()[:, None, None]
        # Dead, stuck and shorted cells, whose bounds coincide, stay where they are.
        gone = gone * (self._cells.params["high"] > self._cells.params["low"])
        rest = self._rest - self._reference
        for state in (self._cells.state, self._cells.hidden):
            if state is not None:
                state += (rest - state) * gone
        self._relaxed_s.copy_(self.clock_s)

    def _disturb(self, volts: Tensor, direction: Direction) -> None:
        """Each cell moves towards a bound by disturb_per_vs times the volt-seconds it saw."""
        dose = volts * (self.settings.clock.disturb_per_vs * self.settings.clock.read_s)
        up, down = dose.clamp(min=0).sum(dim=1), (-dose).clamp(min=0).sum(dim=1)
        axis = 2 if direction == "forward" else 1
        p = self._cells.params
        for state in (self._cells.state, self._cells.hidden):
            if state is not None:
                state += up.unsqueeze(axis) * (p["high"] - state) + down.unsqueeze(axis) * (p["low"] - state)


def _levels(bits: int) -> int:
    """Levels of the read DAC: 1 bit is one common voltage on chosen lines."""
    return (0, 2)[bits] if bits < 2 else (1 << bits) - 1


def _triton() -> ModuleType | None:
    """The Triton kernel, where the extra is installed; imported late, since that takes a second."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("simulated_backend.kernels.cuda")


def _choose_kernel(name: str, model: str, device: torch.device) -> ModuleType:
    """The kernel asked for, or the fastest that covers the model on this device."""
    if name == "auto":
        fast = cpu if device.type == "cpu" else _triton()
        return fast if fast is not None and model in fast.COVERS else reference
    kernel = _triton() if name == "cuda" else KERNELS[name]
    if kernel is None:
        raise UsageError('kernel "cuda" needs Triton: pip install "crosspoint-hil[cuda]"')
    if model not in kernel.COVERS:
        raise UsageError(f'kernel {name!r} does not know the model {model!r}: use kernel = "auto"')
    return kernel
