"""What lies between an emulated array and its host: DAC, noise of inputs and outputs, ADC."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hil.backend import Direction
from hil.encoding import gauss, word
from hil.matvec import matvec
from simulated_backend.kernels.bits import GAUSS_LOW, GAUSS_RISE, every_array, u32
from simulated_backend.kernels.product import (
    ADC_GRAIN,
    DAC_HALF,
    FULL_SCALE,
    IN_NOISE,
    NUMBERS,
    OUT_NOISE,
    READ_V_MAX,
    UNIT,
    product,
)
from simulated_backend.settings import EmulatorSettings

__all__ = ["Periphery"]


class Periphery:
    """The products of an array with these settings, its state given with every one."""

    def __init__(self, settings: EmulatorSettings) -> None:
        p = settings.periphery
        self._p, self._unit = p, settings.siemens_per_weight * p.read_v_max
        self._shift = settings.g_mid_siemens / settings.siemens_per_weight
        self._half = max(1, 2 ** (p.dac_bits - 1) - 1) if p.dac_bits else 0
        limited = p.full_scale != float("inf")
        self._grain = p.full_scale / (2 ** (p.adc_bits - 1) - 1) if limited and p.adc_bits else 0.0
        self._io = np.zeros(NUMBERS, dtype=np.float32)
        self._io[READ_V_MAX], self._io[DAC_HALF], self._io[UNIT] = p.read_v_max, self._half, self._unit
        self._io[IN_NOISE], self._io[OUT_NOISE] = p.in_noise, p.out_noise
        self._io[FULL_SCALE], self._io[ADC_GRAIN] = p.full_scale, self._grain

    def product(
        self, volts: Tensor, state: Tensor, direction: Direction, key: Tensor | None, active: Tensor | None
    ) -> Tensor:
        """Currents float32 [array sample sensed] in ampere; inactive arrays give 0.

        volts: float32 [array sample line]; state: weights [array row col]; key: of the noise, int32 [array sample 2].
        """
        if volts.device.type != "cpu" or self._p.reference == "none":
            return self._by_steps(volts, state, direction, key, active)
        arrays, samples, _ = volts.shape
        out = torch.zeros(arrays, samples, state.shape[2 if direction == "forward" else 1])
        keys = torch.zeros(arrays, samples, 2, dtype=torch.int32) if key is None else key
        product(
            volts.contiguous().numpy(), state.numpy(), direction == "forward", self._io, u32(keys),
            every_array(arrays, active), out.numpy(), GAUSS_LOW, GAUSS_RISE,
        )  # fmt: skip
        return out

    def _by_steps(
        self, volts: Tensor, state: Tensor, direction: Direction, key: Tensor | None, active: Tensor | None
    ) -> Tensor:
        """The same, on any device: what the compiled walk does, operation for operation."""
        p = self._p
        x = volts / p.read_v_max
        if p.dac_bits:
            x = (x * self._half).round() / self._half
        if key is not None and p.in_noise > 0:
            line = torch.arange(volts.shape[2], dtype=torch.int32, device=x.device)
            x = x + p.in_noise * gauss(word(key[:, :, None], line, 1)) * (x != 0)
        y = matvec(x, state, direction, active)
        if p.reference == "none":
            y = y + x.sum(dim=2, keepdim=True) * self._shift
        if key is not None and p.out_noise > 0:
            line = torch.arange(y.shape[2], dtype=torch.int32, device=x.device)
            y = y + p.out_noise * gauss(word(key[:, :, None], line, 0))
        if p.full_scale != float("inf"):
            y = y.clamp(-p.full_scale, p.full_scale)
            if p.adc_bits:
                y = (y / self._grain).round() * self._grain
        if active is not None:
            y = y * active[:, None, None]
        return y * self._unit
