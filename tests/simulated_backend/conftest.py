"""The ``lab``: emulated devices by the number of cells, trains that fire with a wanted probability, and statistics.

A statistical assertion states two numbers and holds itself to both: the false-alarm probability (1e-6, shared among the
``figures`` that a test checks) and ``resolves``, the smallest error that it is sure to catch: where the sample is too small
for that, the assertion fails too.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.special import ndtri
from torch import Tensor

from hil.backend import PulseShape
from hil.encoding import Stream, UpdateSettings, encode
from simulated_backend.array import KERNELS as ALL_KERNELS
from simulated_backend.array import EmulatedArray
from simulated_backend.devices import DeviceSettings
from simulated_backend.settings import EmulatorSettings, PeripherySettings

KERNELS = sorted(ALL_KERNELS)
CLEAN: dict[str, Any] = {"dw_min_dtod": 0.0, "c2c": 0.0, "w_max_dtod": 0.0, "w_min_dtod": 0.0, "up_down_dtod": 0.0}
ONE_SLOT = UpdateSettings(slots=1, management=False, slot_management=False)


class Driver:
    """Writes on an array of one row, so that every cell gets a pulse with a probability of its own, independently."""

    def __init__(self, array: EmulatedArray, seed: int) -> None:
        ids = torch.arange(array.info.arrays)
        self._array = array
        self._keys = [Stream(seed, ids, "test", purpose) for purpose in ("x", "d")]
        self._one = torch.ones(array.info.arrays)

    def __call__(self, probability: Tensor) -> None:
        """One slot: an up pulse with ``probability`` [array col] where positive, a down pulse with its size elsewhere."""
        assert float(probability.abs().max()) <= 1
        x = torch.ones(len(self._one), 1, 1)
        keys = [stream.keys(1) for stream in self._keys]
        rows, cols = encode(x, probability[:, None].float(), self._one, self._one, ONE_SLOT, *keys)
        self._array.update(rows, cols, Lab.nominal)


class Lab:
    """What the tests of the emulator share."""

    nominal = PulseShape(1.0, -1.0, 1e-6)
    kernels = KERNELS

    def emulate(
        self, rows: int, cols: int, *, kernel: str = "auto", arrays: int = 1, ids: Tensor | None = None, seed: int = 1,
        name: str = "board", clean: bool = True, periphery: PeripherySettings | None = None,
        board: dict[str, Any] | None = None, **device: Any,
    ) -> EmulatedArray:  # fmt: skip
        """An array of devices without spread and noise (unless ``clean`` is false), behind an ideal periphery."""
        settings = EmulatorSettings(
            device=DeviceSettings(**((CLEAN if clean else {}) | device)),
            periphery=PeripherySettings.ideal() if periphery is None else periphery, kernel=kernel, **(board or {}),
        )  # fmt: skip
        return EmulatedArray(settings, rows, cols, seed=seed, ids=torch.arange(arrays) if ids is None else ids, name=name)

    def weight(self, array: EmulatedArray) -> Tensor:
        """Hidden weights, float64 [array row col], relative to the reference."""
        return array.state_dict()["state"].double()

    def params(self, array: EmulatedArray) -> dict[str, Tensor]:
        """Hidden parameters, float64 [array row col]."""
        return {k.removeprefix("param_"): v.double() for k, v in array.state_dict().items() if k.startswith("param_")}

    def put(self, array: EmulatedArray, **values: Tensor | float) -> None:
        """Overwrite parts of the hidden state, e.g. ``state=0.1`` or ``param_s_up=...``."""
        saved = array.state_dict()
        for name, value in values.items():
            saved[name] = torch.as_tensor(value, dtype=saved[name].dtype).expand_as(saved[name]).clone()
        array.load_state_dict(saved)

    def pulse(self, array: EmulatedArray, count: int | Tensor, shape: PulseShape | None = None) -> None:
        """``count`` pulses on every cell."""
        size = (array.info.arrays, array.info.rows, array.info.cols)
        array.pulse(torch.as_tensor(count, dtype=torch.int32).expand(size).contiguous(), shape or self.nominal)

    def mask(self, array: EmulatedArray) -> Tensor:
        """All cells."""
        return torch.ones(array.info.arrays, array.info.rows, array.info.cols, dtype=torch.bool)

    def driver(self, array: EmulatedArray, seed: int = 2) -> Driver:
        """See ``Driver``."""
        return Driver(array, seed)

    def limit(self, figures: int) -> float:
        """Standard errors that none of ``figures`` Gaussian figures exceeds, but for a probability of 1e-6 in all."""
        return float(-ndtri(1e-6 / (2 * figures)))

    def mean_is(self, sample: Tensor, expected: float, *, resolves: float, figures: int = 1, rounding: float = 0.0) -> None:
        """The mean of independent values; ``resolves``, absolute. rounding: systematic error allowed on top."""
        sample = sample.double().flatten()
        band = self.limit(figures) * float(sample.std()) / math.sqrt(len(sample)) + rounding
        assert 2 * band <= resolves, f"would miss an error of {resolves}: the band is +-{band:.3g}"
        error = float(sample.mean()) - expected
        assert abs(error) <= band, f"mean {float(sample.mean()):.6g}, expected {expected:.6g}, allowed +-{band:.3g}"

    def var_is(self, sample: Tensor, expected: float, *, resolves: float, figures: int = 1) -> None:
        """The variance of independent values; ``resolves``, relative."""
        sample = sample.double().flatten()
        away = (sample - sample.mean()) ** 2
        band = self.limit(figures) * float(away.std()) / math.sqrt(len(sample)) / expected
        assert 2 * band <= resolves, f"would miss a relative error of {resolves}: the band is +-{band:.3g}"
        found = float(sample.var())
        assert abs(found / expected - 1) <= band, (
            f"variance {found:.6g}, expected {expected:.6g}, allowed +-{band:.3g} relative"
        )

    def rate_is(self, hits: int, draws: int, expected: float, *, resolves: float, figures: int = 1) -> None:
        """A rate of independent events; ``resolves``, absolute."""
        band = self.limit(figures) * math.sqrt(max(expected * (1 - expected), 1 / draws) / draws)
        assert 2 * band <= resolves, f"would miss an error of {resolves}: the band is +-{band:.3g}"
        assert abs(hits / draws - expected) <= band, (
            f"rate {hits / draws:.6g}, expected {expected:.6g}, allowed +-{band:.3g}"
        )


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The tools, with every kernel compiled before the first test is timed."""
    made = Lab()
    for kernel in KERNELS:
        small = made.emulate(2, 2, kernel=kernel, c2c=0.1)
        made.pulse(small, 1)
        small.trace(torch.ones(1, dtype=torch.int8), made.mask(small), made.nominal)
        line = made.emulate(1, 2, kernel=kernel)
        made.driver(line)(torch.ones(1, 2))
        for direction in ("forward", "backward"):
            small.mvm(torch.ones(1, 1, 2), direction)  # type: ignore[arg-type]
    return made


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    """Every update kernel in turn."""
    return str(request.param)
