"""What no backend takes is refused by the dry run and by the emulator alike, in one line, before anything is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hil.backend import ArrayInfo, PulseShape, Range
from hil.dry_run import DryRun
from hil.encoding import PulseTrain
from hil.errors import ShapeError, UsageError
from simulated_backend.array import EmulatedArray
from simulated_backend.settings import EmulatorSettings

SHAPE = PulseShape(up_v=1.0, down_v=-1.0, width_s=1e-6)
MASK = torch.ones(1, 3, 4, dtype=torch.bool)
UP = torch.ones(4, dtype=torch.int8)


def train(samples, lines, arrays=1):
    """A train that fires everywhere."""
    size = (arrays, samples, lines)
    return PulseTrain(
        probability=torch.ones(size), sign=torch.ones(size, dtype=torch.int8),
        slots=torch.full((arrays, samples), 2, dtype=torch.int32), key=torch.zeros(arrays, samples, 2, dtype=torch.int32),
        line=torch.arange(lines, dtype=torch.int32),
    )  # fmt: skip


@pytest.fixture(params=["dry run", "emulator"])
def backend(request):
    if request.param == "emulator":
        return EmulatedArray(EmulatorSettings(count_pulses=True), 3, 4)
    return DryRun(ArrayInfo(1, 3, 4, True, "v", "board", "s", "f", Range(-0.4, 0.4), Range(-3.0, 3.0), Range(1e-9, 1e-3)))


WRONG = {
    "counts of another type": (ShapeError, lambda b: b.pulse(torch.zeros(1, 3, 4, dtype=torch.int64), SHAPE)),
    "counts of another size": (ShapeError, lambda b: b.pulse(torch.zeros(1, 4, 3, dtype=torch.int32), SHAPE)),
    "polarity 0": (ShapeError, lambda b: b.trace(torch.tensor([1, 0], dtype=torch.int8), MASK, SHAPE)),
    "polarity 2": (ShapeError, lambda b: b.trace(torch.tensor([2, -1], dtype=torch.int8), MASK, SHAPE)),
    "polarity of another type": (ShapeError, lambda b: b.trace(UP.float(), MASK, SHAPE)),
    "polarity of another size": (ShapeError, lambda b: b.trace(UP.view(2, 2), MASK, SHAPE)),
    "a mask of another size": (ShapeError, lambda b: b.trace(UP, MASK[:, :2], SHAPE)),
    "every 0th pulse": (UsageError, lambda b: b.trace(UP, MASK, SHAPE, 0)),
    "trains with too few lines": (ShapeError, lambda b: b.update(train(1, 2), train(1, 4), SHAPE)),
    "trains of different length": (ShapeError, lambda b: b.update(train(2, 3), train(1, 4), SHAPE)),
    "trains of too many arrays": (ShapeError, lambda b: b.update(train(1, 3, 2), train(1, 4, 2), SHAPE)),
    "a shape for two arrays": (ShapeError, lambda b: b.trace(UP, MASK, replace(SHAPE, up_v=(1.0, 1.0)))),
}


@pytest.mark.parametrize("what", WRONG)
def test_refused_alike(backend, what):
    error, call = WRONG[what]
    with pytest.raises(error) as caught:
        call(backend)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    if isinstance(backend, DryRun):
        assert (backend.summary().operations, backend.summary().pulses_up, backend.summary().reads) == ({}, 0, 0)
    else:
        assert int(backend.status()["pulses_up"].sum()) == 0


def test_an_empty_trace_is_one(backend):
    assert backend.trace(UP[:0], MASK, SHAPE).shape == (1, 3, 4, 0)
