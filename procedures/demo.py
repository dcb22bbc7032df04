"""The main job from end to end: characterize, find symmetry points, train with SGD and Tiki-Taka, report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from hil.bench import Bench
from hil.datasets import load
from hil.ledger import Ledger
from hil.procedure import Procedure
from hil.report.section import Section, Table
from hil.run_reader import RunReader
from procedures.device_report import characterize_sections, zero_shift_sections
from procedures.prepare import measure_devices
from procedures.train import TrainConfig, TrainResult, train
from procedures.train_config import Count, Rate, Widths
from procedures.train_report import train_sections

__all__ = ["DemoConfig", "DemoResult", "demo", "headline", "procedure"]


class DemoConfig(BaseModel):
    """``-s demo.KEY=VALUE``. The learning rates are those that served best on validation data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = "digits"
    hidden: Widths = (32,)
    epochs: Count = 8
    seeds: Count = 3
    """Networks trained at once, each on devices of its own (1 on a board)."""
    lr_sgd: Rate = 0.01
    lr_a: Rate = 0.01
    lr_c: Rate = 0.1
    n_s: Count = 1


@dataclass(frozen=True)
class DemoResult:
    """Test accuracies float32 [seed] by what was trained."""

    accuracy: dict[str, Any]


def demo(bench: Bench, config: DemoConfig, ledger: Ledger) -> DemoResult:
    """Everything on the same devices, one after another; every network starts from freshly programmed weights."""
    data = load(config.dataset)
    widths = (data.train_x.shape[1], *config.hidden, len(data.classes))
    bench.populate(torch.arange(config.seeds))
    measure_devices(bench, widths, ledger)
    common = config.model_dump(exclude={"lr_sgd"})
    runs = {
        "analog SGD": TrainConfig(algorithm="sgd", lr=config.lr_sgd, **common),
        "Tiki-Taka": TrainConfig(algorithm="tiki-taka", reference_a="nominal", **common),
        "Tiki-Taka, zero-shifted": TrainConfig(algorithm="tiki-taka", reference_a="sp", **common),
    }
    found: dict[str, TrainResult] = {}
    already = {event.payload.get("label") for event in ledger.run.events("trained")}
    for label, options in runs.items():
        if label in already:
            continue
        found[label] = train(bench, options, ledger, label=label)
    return DemoResult({label: result.test_accuracy[0] for label, result in found.items()})


def demo_sections(run: RunReader) -> list[Section]:
    """The training comparison first, then what was measured of the devices."""
    return [*train_sections(run), *characterize_sections(run), *zero_shift_sections(run)]


def headline(result: DemoResult) -> Table:
    """One line for each network."""
    rows = tuple(
        (label, f"{100 * accuracy.mean():.1f} +- {100 * accuracy.std(correction=0):.1f}")
        for label, accuracy in result.accuracy.items()
    )
    return Table("Test accuracy, mean and standard deviation over the seeds", ("trained with", "accuracy (%)"), rows)


procedure = Procedure(
    "demo", DemoConfig, demo, "the main job end to end on the embedded digits", demo_sections, headline=headline
)
"""The entry point."""
