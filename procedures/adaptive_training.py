"""Refinement on a bench: the coarse map explored, new points trained as ``explore`` trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hil.bench import Bench
from hil.datasets import Dataset, load
from hil.errors import UsageError
from hil.ledger import Ledger
from hil.progress import progress
from procedures.adaptive import Window, refine
from procedures.exploration import Exploration, FloatArray, find_exploration
from procedures.explore import explore, network_name
from procedures.explore_chunk import train_chunk
from procedures.explore_config import ExploreConfig

__all__ = ["Trainer", "explore_adaptively"]


class Trainer:
    """Evaluates points on a bench; what the record has already is not trained again, because the points come in order."""

    def __init__(self, bench: Bench, config: ExploreConfig, data: Dataset, network: str, ledger: Ledger) -> None:
        self.bench, self.config, self.data, self.network, self.ledger = bench, config, data, network, ledger
        self.known = [ledger.run.arrays(event.number) for event in ledger.run.events("refined")]

    def __call__(self, points: Sequence[Mapping[str, float]], seeds: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """(validation, test) accuracy [point], chunk by chunk, each in the record at once."""
        nothing = np.full(len(points), np.nan)
        whole = Exploration(
            self.network,
            {name: np.array([point[name] for point in points], dtype=np.float64) for name in points[0]},
            ("tiki_taka",) * len(points),
            np.array(seeds, dtype=np.int64) + self.config.first_seed,
            nothing,
            nothing.copy(),
            len(self.data.validation_y),
            len(self.data.test_y),
        )
        size = 1 if self.bench.physical else self.config.chunk
        with progress(f"refine {len(points)} trainings", len(points) * self.config.epochs) as advance:
            for start in range(0, len(points), size):
                which = np.arange(start, min(start + size, len(points)))
                if self.known:
                    arrays = self.known.pop(0)
                    whole.validation[which], whole.test[which] = arrays["validation"], arrays["test"]
                    advance(len(which) * self.config.epochs, "")
                    continue
                validation, test = train_chunk(self.bench, self.config, whole.some(which), self.data, advance)
                whole.validation[which], whole.test[which] = validation.numpy(), test.numpy()
                arrays = {"validation": whole.validation[which], "test": whole.test[which]}
                self.ledger.event("refined", {"points": len(which)}, arrays)
        return whole.validation, whole.test


def explore_adaptively(
    bench: Bench, given: str, config: ExploreConfig, rounds: int, samples: int, ledger: Ledger
) -> tuple[Exploration, Window]:
    """(coarse and new points, window of the first round). given: the coarse exploration; "" = it is trained here first.

    UsageError where the given one is of another network than ``config`` trains. The folder of the run gets all points.
    """
    data = load(config.dataset, classes=config.classes, pool=config.pool, limit=config.limit)
    network = network_name(config, data)
    if given:
        coarse = find_exploration(given, ledger.folder.parent)
        if coarse.network != network:
            raise UsageError(
                f"calibrate.explore: trains {network}, and the exploration is of {coarse.network}: give the same options"
            )
    else:
        only = config.model_copy(update={"algorithms": ("tiki_taka",), "specify": False})
        coarse = explore(bench, only, ledger).exploration
    trainer = Trainer(bench, config, data, network, ledger)
    whole, window = refine(coarse, trainer, rounds, samples, config.seeds, config.design_seed)
    whole.save(ledger.folder)
    return whole, window
