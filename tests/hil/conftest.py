"""The ``desk``: emulated tiles by hand, without a bench file, and what they hold inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.special import ndtri
from torch import Tensor

from hil.backend import ArrayBackend, PulseShape
from hil.config import Nominal, ReadConfig
from hil.encoding import UpdateSettings
from hil.guard import guard
from hil.known import KnownDevices, from_nominal
from hil.place import Allocator, Place, Region
from hil.tile import Tile
from simulated_backend.array import EmulatedArray
from simulated_backend.devices import DeviceSettings
from simulated_backend.settings import EmulatorSettings, PeripherySettings

CLEAN: dict[str, Any] = {"dw_min_dtod": 0.0, "c2c": 0.0, "w_max_dtod": 0.0, "w_min_dtod": 0.0, "up_down_dtod": 0.0}
NOMINAL = Nominal(g_min_siemens=70e-6, g_max_siemens=130e-6, bound_weight=0.6, states=1200)
SHAPE = PulseShape(1.0, -1.0, 1e-6)
MID = 100e-6
SCALE = 50e-6
"""Siemens per weight."""


class Desk:
    """What the tests of tiles, algorithms and layers share."""

    nominal, shape, mid_siemens, siemens_per_weight = NOMINAL, SHAPE, MID, SCALE

    def board(
        self, rows: int, cols: int, *, ids: Tensor | None = None, name: str = "m", role: str = "c", seed: int = 0,
        clean: bool = True, periphery: PeripherySettings | None = None, **device: Any,
    ) -> ArrayBackend:  # fmt: skip
        """A guarded emulated array; devices are alike and noise-free unless ``clean`` is false."""
        settings = EmulatorSettings(
            device=DeviceSettings(**((CLEAN if clean else {}) | device)),
            periphery=PeripherySettings.ideal() if periphery is None else periphery,
        )
        return guard(EmulatedArray(settings, rows, cols, seed=seed, ids=ids, name=name, role=role))

    def tile(
        self, inputs: int, outputs: int, *, ids: Tensor | None = None, name: str = "m", seed: int = 0,
        board: ArrayBackend | None = None, known: KnownDevices | None = None, read: ReadConfig | None = None,
        nominal: Nominal = NOMINAL, allocator: Allocator | None = None, **made: Any,
    ) -> Tile:  # fmt: skip
        """A tile on an array of its own, or at a place of ``board`` that an allocator chooses."""
        ids = torch.zeros(1, dtype=torch.int64) if ids is None else ids
        if board is None:
            board = self.board(inputs, outputs, ids=ids, name=name, seed=seed, **made)
            regions: tuple[Region, ...] = (
                Region(board, slice(0, inputs), slice(0, outputs), slice(0, inputs), slice(0, outputs)),
            )
        else:
            regions = (allocator or Allocator(board)).place(inputs, outputs, name, "main")
        place = Place(name, "c", inputs, outputs, regions, SHAPE, read or ReadConfig(), nominal)
        return Tile(place, known or from_nominal(nominal, len(ids), inputs, outputs), seed, ids)

    def put(self, tile: Tile, weight: Tensor) -> None:
        """Set the hidden conductances so that the tile holds ``weight`` [array out in] exactly, without a pulse."""
        g = weight.transpose(1, 2) * tile.known.siemens_per_weight.float()[:, None, None] + tile.reference
        for region in tile.place.regions:
            saved = self.state(region.backend)
            state = (g[:, region.inputs, region.outputs].double() - MID) / SCALE
            here = (slice(None), region.rows, region.cols)
            saved["state"][here] = (state - saved["reference"][here]).float()
            region.backend.load_state_dict(saved)  # type: ignore[attr-defined]

    def state(self, board: ArrayBackend) -> dict[str, Tensor]:
        """Everything inside an emulated board."""
        return board.state_dict()  # type: ignore[attr-defined, no-any-return]

    def inside(self, tile: Tile) -> dict[str, Tensor]:
        """Everything inside the board of a tile that has one."""
        return self.state(tile.place.regions[0].backend)

    def siemens(self, tile: Tile) -> Tensor:
        """Hidden conductances, float64 [array in out]."""
        g = torch.empty(tile.arrays, tile.inputs, tile.outputs, dtype=torch.float64)
        for region in tile.place.regions:
            inside = self.state(region.backend)
            whole = MID + (inside["state"].double() + inside["reference"].double()) * SCALE
            g[:, region.inputs, region.outputs] = whole[:, region.rows, region.cols]
        return g

    def pulses(self, tile: Tile) -> Tensor:
        """Signed pulses that the cells of the matrix got so far, int32 [array in out]."""
        out = torch.zeros(tile.arrays, tile.inputs, tile.outputs, dtype=torch.int32)
        for region in tile.place.regions:
            status = region.backend.status()
            signed = status["pulses_up"] - status["pulses_down"]
            out[:, region.inputs, region.outputs] = signed[:, region.rows, region.cols]
        return out

    def true_devices(self, tile: Tile, *, symmetric_reference: bool = False) -> KnownDevices:
        """What a perfect characterization would find; cells that do not respond keep nominal values, as in a calibration."""
        inside = self.inside(tile)
        p = {k.removeprefix("param_"): v.double() for k, v in inside.items() if k.startswith("param_")}
        nominal = from_nominal(tile.place.nominal, tile.arrays, tile.inputs, tile.outputs)
        alive = p["high"] > p["low"]
        origin = MID + inside["reference"].double() * SCALE
        slopes = torch.where(alive, p["s_up"] + p["s_down"], 1.0)
        sp = (p["d_up"] - p["d_down"]) / slopes

        def cells(value: Tensor, fallback: Tensor) -> Tensor:
            return torch.where(alive, value, fallback)

        step = cells((p["d_up"] - p["s_up"] * sp) * SCALE, nominal.step_siemens)
        g_sp = cells(origin + sp * SCALE, nominal.g_sp)
        return replace(
            nominal, g_min=cells(origin + p["low"] * SCALE, nominal.g_min),
            g_max=cells(origin + p["high"] * SCALE, nominal.g_max), g_sp=g_sp,
            g_ref=g_sp if symmetric_reference else nominal.g_ref, step_siemens=step,
            slope_up=cells(p["s_up"], nominal.slope_up), slope_down=cells(p["s_down"], nominal.slope_down), responds=alive,
            step_weight=(step * alive).flatten(1).sum(dim=1) / alive.flatten(1).sum(dim=1) / SCALE, measured=True,
        )  # fmt: skip

    def limit(self, figures: int) -> float:
        """Standard errors that none of ``figures`` Gaussian figures exceeds, but for a probability of 1e-6 in all."""
        return float(-ndtri(1e-6 / (2 * figures)))

    def mean_is(self, sample: Tensor, expected: Tensor, std: Tensor, *, resolves: float) -> None:
        """Means over dim 0 of independent draws with known ``std``; ``resolves``, absolute, for every figure."""
        band = self.limit(expected.numel()) * std / math.sqrt(len(sample))
        assert float(2 * band.max()) <= resolves, f"would miss an error of {resolves}: the band is +-{float(band.max()):.3g}"
        error = (sample.double().mean(dim=0) - expected).abs()
        assert bool((error <= band + 1e-7).all()), f"off by {float((error - band).max()):.3g} beyond the band"


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def desk() -> Desk:
    """The tools, with every compiled function compiled before the first test is timed."""
    made = Desk()
    tile = made.tile(2, 2)
    x = torch.ones(1, 1, 2)
    tile.forward(x)
    tile.backward(x)
    tile.update(x, x, torch.full((1,), 0.01), UpdateSettings())
    tile.pulse(torch.ones(1, 2, 2, dtype=torch.int32))
    return made


@pytest.fixture(scope="session")
def draw() -> Callable[[tuple[int, ...], int], Tensor]:
    """Standard normal numbers: ``draw(shape, seed)``."""
    return normal
