"""A board of a lab of its own: one common read voltage, one sign, no parallel update, and a procedure for it."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict

from hil.backend import (
    ArrayInfo,
    Range,
    check_counts,
    check_mask,
    check_polarity,
    check_trains,
    trace_by_pulses,
    update_by_counts,
)
from hil.errors import ShapeError

LOW, HIGH = 20e-6, 60e-6


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    noise_siemens: float = 0.0


class Breadboard:
    """Devices of 200 states whose steps shrink towards their bounds; every reading has its own noise."""

    info = ArrayInfo(
        arrays=1, rows=4, cols=6, physical=False, vendor="lab", model="breadboard", serial="bb-7", firmware="3",
        read_v=Range(0.0, 0.3), pulse_v=Range(-1.5, 1.5), width_s=Range(1e-6, 1e-3), read_levels=2, read_bipolar=False,
        parallel_update=False,
    )  # fmt: skip

    def __init__(self, settings, seed):
        self._noise = settings.noise_siemens
        self._random = torch.Generator().manual_seed(seed)
        self._g = 40e-6 + 4e-6 * torch.randn(1, 4, 6, generator=self._random)
        self._up = torch.zeros(1, 4, 6, dtype=torch.int64)
        self._down = torch.zeros_like(self._up)

    def _gauss(self, *size):
        return torch.randn(size, generator=self._random)

    def read(self, mask, averages=1):
        check_mask(mask, self.info)
        return torch.where(mask, self._g + self._noise / averages**0.5 * self._gauss(1, 4, 6), torch.nan)

    def mvm(self, volts, direction, active=None):
        lines = self.info.rows if direction == "forward" else self.info.cols
        if volts.dtype != torch.float32 or volts.dim() != 3 or volts.shape[::2] != (1, lines):
            raise ShapeError(f"mvm: volts {volts.dtype} {list(volts.shape)}: needs float32 [1 sample {lines}]")
        current = volts @ (self._g if direction == "forward" else self._g.transpose(1, 2))
        current = current + 5e-8 * self._gauss(*current.shape)
        return current * self._chosen(active)

    def pulse(self, counts, shape):
        check_counts(counts, self.info)
        for sign in (1, -1):
            left = (sign * counts).clamp(min=0)
            while bool(left.any()):
                room = (HIGH - self._g if sign > 0 else self._g - LOW) / (HIGH - LOW)
                step = 2 * room * (HIGH - LOW) / 200 * (1 + 0.2 * self._gauss(1, 4, 6))
                self._g = self._g + sign * step * (left > 0)
                left = (left - 1).clamp(min=0)
        self._up += counts.clamp(min=0)
        self._down -= counts.clamp(max=0)

    def trace(self, polarity, mask, shape, every=1):
        check_polarity(polarity, every)
        return trace_by_pulses(self, polarity, mask, shape, every)

    def update(self, rows, cols, shape, active=None):
        check_trains(rows, cols, self.info)
        update_by_counts(self, rows, cols, shape, self._chosen(active))

    def _chosen(self, active):
        if active is None:
            return torch.ones(1, dtype=torch.bool)
        if active.dtype != torch.bool or active.shape != (1,):
            raise ShapeError(f"active: {active.dtype} {list(active.shape)}: needs bool [1]")
        return active

    def safe(self):
        return True

    def status(self):
        return {
            "pulses_up": self._up.clone(), "pulses_down": self._down.clone(),
            "read_noise_siemens": self._noise, "mvm_noise_a": 5e-8,
        }  # fmt: skip

    def close(self):
        self.safe()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Plugin:
    settings = Settings

    def elastic(self, settings):
        return False

    def open(self, settings, wanted):
        return Breadboard(settings, wanted.seed)


plugin = Plugin()


def mean_conductance(bench, ledger):
    """A procedure of the lab: the mean conductance of all cells that may be used."""
    (surface, *_) = bench.surfaces(size=(4, 4))
    mean = float(surface.backend.read(surface.mask, surface.averages)[surface.mask].mean())
    ledger.result("mean conductance", mean, "siemens", "of all usable cells")
    return mean
