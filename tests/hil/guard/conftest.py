"""The ``kit``: a fake board for the guard, what it is given, and its record."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hil.backend import ArrayInfo, PulseShape, Range
from hil.encoding import PulseTrain
from hil.guard import guard
from hil.ledger import Ledger
from hil.limits import Limits
from hil.wear import Wear

INFO = ArrayInfo(1, 3, 4, True, "v", "fake", "serial", "f", Range(-0.4, 0.4), Range(-3.0, 3.0), Range(1e-9, 1e-3))
LIMITS = Limits(
    up_v_max=2.0,
    down_v_max=2.0,
    width_s_max=1e-6,
    half_select_v_max=1.0,
    read_v_max=0.2,
    pulses_per_cell_max=20,
    pulses_per_operation_max=10,
    excluded_cells=((2, 3),),
)
SHAPE = PulseShape(up_v=1.0, down_v=-1.5, width_s=1e-6)
HIGH = replace(SHAPE, up_v=2.5)
MASK = torch.zeros(1, 3, 4, dtype=torch.bool)
MASK[0, 0, 0] = MASK[0, 1, 2] = True


class Fake:
    """A backend that keeps what it is given; ``fault`` is raised by the next call of a verb."""

    def __init__(self, info=INFO):
        self.info = info
        self.calls = []
        self.fault = {}
        self.confirm = True
        self.watch = None

    def _call(self, verb, *given):
        if self.watch is not None:
            self.watch(verb)
        if verb in self.fault:
            raise self.fault.pop(verb)
        self.calls.append((verb, *given))

    def read(self, mask, averages=1):
        self._call("read", mask, averages)
        return torch.where(mask, 1e-4, torch.nan)

    def mvm(self, volts, direction, active=None):
        self._call("mvm", volts, direction, active)
        return volts.sum(dim=2, keepdim=True)

    def pulse(self, counts, shape):
        self._call("pulse", counts, shape)

    def trace(self, polarity, mask, shape, every=1):
        self._call("trace", polarity, mask, shape, every)
        return torch.zeros(*mask.shape, len(polarity) // every)

    def update(self, rows, cols, shape, active=None):
        self._call("update", rows, cols, shape, active)

    def safe(self):
        self._call("safe")
        return self.confirm

    def status(self):
        self._call("status")
        return {"ok": True}

    def close(self):
        self._call("close")

    def __enter__(self):
        self._call("enter")
        return self

    def __exit__(self, kind, value, trace):
        self._call("exit")


class Rich(Fake):
    """One with every companion protocol."""

    def set_reference(self, g_siemens):
        self._call("set_reference", g_siemens)

    def verify(self, target_siemens, mask, shape, tolerance_siemens, max_pulses):
        self._call("verify", target_siemens, mask, shape, tolerance_siemens, max_pulses)
        return mask

    def idle(self, seconds):
        self._call("idle", seconds)

    def state_dict(self):
        return {"g": torch.ones(1)}

    def load_state_dict(self, state):
        self._call("load_state_dict", state)


def counts(**cells):
    """int32 [1 3 4]: r1c2=-3 puts -3 on row 1, col 2."""
    filled = torch.zeros(1, 3, 4, dtype=torch.int32)
    for name, count in cells.items():
        filled[0, int(name[1]), int(name[3])] = count
    return filled


def train(sign, slots=4):
    """A train of one array that fires in all its slots on every line whose sign is not 0: sign [sample line]."""
    given = torch.tensor([sign], dtype=torch.int8)
    _, samples, lines = given.shape
    return PulseTrain(
        probability=given.abs().to(torch.float32),
        sign=given,
        slots=torch.full((1, samples), slots, dtype=torch.int32),
        key=torch.zeros(1, samples, 2, dtype=torch.int32),
        line=torch.arange(lines, dtype=torch.int32),
    )


def states(ledger):
    """(verb, status) of every operation on record."""
    return [(operation.verb, operation.status) for operation in ledger.run.operations()]


@pytest.fixture(scope="session")
def kit():
    """All of the above, by name."""
    return SimpleNamespace(
        INFO=INFO, LIMITS=LIMITS, SHAPE=SHAPE, HIGH=HIGH, MASK=MASK, Fake=Fake, Rich=Rich, counts=counts, train=train,
        states=states,
    )  # fmt: skip


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path, "test", {}) as made:
        yield made


@pytest.fixture
def board():
    return Fake()


@pytest.fixture
def wear():
    return Wear.in_memory()


@pytest.fixture
def guarded(board, ledger, wear):
    return guard(board, LIMITS, ledger, "main", wear)
