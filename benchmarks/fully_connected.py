"""A network on emulated arrays, ready to train: what the training benchmarks share.

Weights are put into the emulated cells instead of programmed: programming is not what is timed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from torch import Tensor

from hil.activations import Activation
from hil.bench import open_bench
from hil.config import Nominal, load_bench
from hil.encoding import Stream, UpdateSettings, uniform, word
from hil.fused import Samples, Sums
from hil.tile import Tile
from procedures.network import Network, NetworkPlan, build
from simulated_backend.settings import EmulatorSettings

__all__ = ["Trained"]

BOUND = 0.6
"""Weight at the nominal bounds."""


class Trained:
    """A population of networks under Tiki-Taka v1, A at its true symmetry points, C with random weights.

    rates: lr_a, lr_c, n_s by name, one value or [array]; settings: of the emulated board, as in a bench file.
    """

    def __init__(
        self, widths: Sequence[int], activation: Activation, rates: Mapping[str, Any], settings: Mapping[str, Any],
        ids: Tensor,
    ) -> None:  # fmt: skip
        self._closing = ExitStack()
        folder = Path(self._closing.enter_context(TemporaryDirectory()))
        config = load_bench("emulated")
        board = config.boards["main"].model_copy(update={"settings": dict(settings)})
        made_of = EmulatorSettings(**settings)
        reach = BOUND * made_of.siemens_per_weight
        known = {
            "g_min_siemens": made_of.g_mid_siemens - reach, "g_max_siemens": made_of.g_mid_siemens + reach,
            "bound_weight": BOUND, "states": round(2 * BOUND / made_of.device.dw_min),
        }  # fmt: skip
        nominal = Nominal(**known)
        config = config.model_copy(update={"boards": {"main": board}, "nominal": nominal})
        self.bench = self._closing.enter_context(open_bench(config, folder))
        self.bench.populate(ids)
        arrays = len(ids)
        given = {"gamma": 0.0, "n_reads": 1.0} | dict(rates)
        each = {name: torch.as_tensor(value, dtype=torch.float64).expand(arrays).clone() for name, value in given.items()}
        plan = NetworkPlan(
            tuple(widths), activation, "tiki-taka", each, "inputs", UpdateSettings(), UpdateSettings(), "mid", "mid", 1.0
        )  # fmt: skip
        self.network: Network = build(self.bench, plan)
        self.network.train()
        for number, (name, tile) in enumerate(self.network.tiles.items()):
            self._put(tile, name, number)
        fused = self.network.fused()
        assert fused is not None
        self._fused = fused
        self.loss = torch.zeros(arrays, dtype=torch.float64)
        self.right = torch.zeros(arrays, dtype=torch.int64)
        self._begin = self._all()

    def _put(self, tile: Tile, name: str, number: int) -> None:
        array: Any = tile.place.regions[0].backend
        inside = array.state_dict()
        settings = array.inner.settings
        if name.endswith(".a"):
            p = {key.removeprefix("param_"): value for key, value in inside.items()}
            sp = (p["d_up"] - p["d_down"]) / (p["s_up"] + p["s_down"])
            tile.set_reference(settings.g_mid_siemens + sp * settings.siemens_per_weight)
            inside = array.state_dict()
            inside["state"].zero_()
        else:
            key = Stream(0, self.bench.ids, f"layer{number}", "init").keys(1)
            cell = torch.arange(tile.inputs * tile.outputs, dtype=torch.int32)
            draw = uniform(word(key, cell, 0)).view(inside["state"].shape)
            wanted = (2 * draw - 1) / tile.inputs**0.5
            inside["state"].copy_(torch.minimum(torch.maximum(wanted, inside["param_low"]), inside["param_high"]))
        array.load_state_dict(inside)

    def _all(self) -> tuple[Any, Any]:
        return self.bench.state_dict(), self.network.digital_state()

    def again(self) -> None:
        """Everything as in the beginning."""
        self.bench.load_state_dict(self._begin[0])
        self.network.load_digital_state(self._begin[1])

    def train(self, samples: Samples, batch: int, start: int, stop: int) -> None:
        """Steps of an epoch; ``loss`` and ``right`` [array] are those of these steps."""
        self.loss.zero_()
        self.right.zero_()
        self._fused.train(samples, Sums(self.loss, self.right), batch, start, stop, 1.0, None)

    def logits(self, x: Tensor) -> Tensor:
        """x [sample in], one batch -> [array sample class]."""
        return self._fused.logits(x)

    def accuracy(self, x: Tensor, y: Tensor) -> Tensor:
        """Fraction right [array]."""
        parts = zip(x.split(32), y.split(32), strict=True)
        right = sum((self._fused.logits(some).argmax(dim=2) == wanted).sum(dim=1) for some, wanted in parts)
        return torch.as_tensor(right).float() / len(y)

    def pulses(self) -> float:
        """Pulses on the matrices A since the beginning, mean over arrays; they must be counted."""
        counts = [b.status() for name, b in self.bench.backends.items() if name.endswith(".a")]
        return float(sum((c["pulses_up"] + c["pulses_down"]).double().sum() for c in counts)) / self.bench.arrays

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
