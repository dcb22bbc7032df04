"""A multilayer perceptron on a bench: layers with their algorithm, initial weights and activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hil.activations import Activation, activate
from hil.algorithms.base import Algorithm
from hil.algorithms.digital import DigitalSGD
from hil.algorithms.sgd import AnalogSGD
from hil.algorithms.tiki_taka import TikiTaka, TikiTakaRates
from hil.bench import Bench
from hil.encoding import Stream, UpdateSettings, uniform, word
from hil.fused import FusedNetwork, fused_network
from hil.known import ReferenceChoice, known_devices
from hil.nn import AnalogLinear
from hil.programming import ProgramLimits, Programmed, program_conductance
from hil.spiking import SpikingConfig, SpikingNeurons
from hil.tile import Tile

__all__ = ["AlgorithmName", "Network", "NetworkPlan", "build", "initialise"]

AlgorithmName = Literal["sgd", "tiki-taka", "digital"]


@dataclass(frozen=True)
class NetworkPlan:
    """What to build. widths: lines of every layer; rates: per-array hyper-parameters by name, float64 [array]."""

    widths: tuple[int, ...]
    activation: Activation
    algorithm: AlgorithmName
    rates: Mapping[str, Tensor]
    transfer: Literal["inputs", "outputs"]
    update: UpdateSettings
    transfer_update: UpdateSettings
    reference_a: ReferenceChoice
    reference_c: ReferenceChoice
    init_scale: float
    spiking: SpikingConfig | None = None
    """Neurons that fire take the place of the activation."""


class Network(nn.Module):
    """The layers in order, the activation or neurons that fire between them; logits come out."""

    def __init__(self, layers: list[AnalogLinear], activation: Activation, neurons: SpikingNeurons | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.activation: Activation = activation
        self.neurons = neurons
        for layer in layers:
            layer.time_steps = 1 if neurons is None else neurons.config.steps

    def forward(self, x: Tensor) -> Tensor:
        """x [array sample in] -> logits [array sample out]."""
        last = len(self.layers) - 1
        if self.neurons is not None:
            x = self.neurons.encode(x)
            for number, layer in enumerate(self.layers):
                x = self.neurons.fire(layer(x)) if number < last else self.neurons.read_out(layer(x))
            return x
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number < last:
                x = activate(self.activation, x)
        return x

    def fused(self) -> FusedNetwork | None:
        """The same network in compiled code; None on a board, and wherever else its plain steps must be taken."""
        if self.neurons is not None:
            return None
        layers = [layer for layer in self.layers if isinstance(layer, AnalogLinear)]
        return fused_network([layer.algorithm.fused() if layer.plain else None for layer in layers], self.activation)

    @property
    def algorithms(self) -> list[Algorithm]:
        """Of every layer."""
        return [layer.algorithm for layer in self.layers if isinstance(layer, AnalogLinear)]

    @property
    def tiles(self) -> dict[str, Tile]:
        """Every tile by matrix name."""
        return {tile.place.name: tile for algorithm in self.algorithms for tile in algorithm.tiles.values()}

    def digital_state(self) -> list[dict[str, Any]]:
        """Counters and references of every layer; behind them the counter of input spikes, where there are some."""
        layers = [algorithm.state_dict() for algorithm in self.algorithms]
        return layers if self.neurons is None else [*layers, {"coded": self.neurons.counter.clone()}]

    def load_digital_state(self, state: list[dict[str, Any]]) -> None:
        """Take back what ``digital_state`` gave."""
        if self.neurons is not None:
            *state, coded = state
            self.neurons.counter.copy_(coded["coded"])
        for algorithm, part in zip(self.algorithms, state, strict=True):
            algorithm.load_state_dict(part)


def build(bench: Bench, plan: NetworkPlan) -> Network:
    """Place every matrix on the bench and wrap it; nothing is programmed yet."""
    layers = []
    for number, (inputs, outputs) in enumerate(zip(plan.widths[:-1], plan.widths[1:], strict=True)):

        def tile(
            role: str, reference: ReferenceChoice, number: int = number, size: tuple[int, int] = (inputs, outputs)
        ) -> Tile:
            place = bench.place(f"layer{number}.{role}", role, *size)
            known = known_devices(place, bench.arrays, bench.calibrations, reference, bench.name, plan.widths)
            return Tile(place, known, bench.config.seed, bench.ids)

        rate = {name: value.float() for name, value in plan.rates.items()}
        if plan.algorithm == "digital":
            algorithm: Algorithm = DigitalSGD(bench.arrays, inputs, outputs, rate["lr"])
        elif plan.algorithm == "sgd":
            algorithm = AnalogSGD(tile("c", plan.reference_c), rate["lr"], plan.update)
        else:
            rates = TikiTakaRates(
                rate["lr_a"], rate["lr_c"], plan.rates["n_s"].long(), rate["gamma"], plan.rates["n_reads"].long(),
                plan.transfer, plan.update, plan.transfer_update,
            )  # fmt: skip
            algorithm = TikiTaka(tile("a", plan.reference_a), tile("c", plan.reference_c), rates)
        layers.append(AnalogLinear(algorithm))
    neurons = None if plan.spiking is None else SpikingNeurons(plan.spiking, bench.config.seed, bench.ids)
    return Network(layers, plan.activation, neurons)


def initialise(
    bench: Bench, network: Network, plan: NetworkPlan, limits: ProgramLimits | None = None
) -> dict[str, Programmed]:
    """Program A to its reference and C to random weights, uniform within +- init_scale / sqrt(inputs), by write-verify."""
    done: dict[str, Programmed] = {}
    for number, layer in enumerate(network.layers):
        assert isinstance(layer, AnalogLinear)
        algorithm = layer.algorithm
        shape = (bench.arrays, algorithm.outputs, algorithm.inputs)
        key = Stream(bench.config.seed, bench.ids, f"layer{number}", "init").keys(1)
        place = torch.arange(algorithm.outputs * algorithm.inputs, dtype=torch.int32)
        weight = (uniform(word(key, place, 0)).view(shape) * 2 - 1) * (plan.init_scale / algorithm.inputs**0.5)
        if isinstance(algorithm, DigitalSGD):
            algorithm.weight = weight
            continue
        if "a" in algorithm.tiles:
            a = algorithm.tiles["a"]
            done[a.place.name] = program_conductance(a, a.reference, limits)
        layer.stage(weight)
        done[algorithm.tiles["c"].place.name] = layer.program(limits)["c"]
    return done
