"""Whatever is asked of a guarded board: nothing outside the limits reaches it, nothing inside is changed.

The oracle below decides by itself, cell by cell and slot by slot, from ``bits()`` as a board would.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hil.backend import ArrayInfo, PulseShape, Range
from hil.encoding import PulseTrain
from hil.errors import LimitError
from hil.guard import guard
from hil.ledger import Ledger
from hil.limits import Limits
from hil.wear import Wear

ROWS, COLS = 3, 4
FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)


class Board:
    """Keeps what reaches it, with copies made on arrival."""

    def __init__(self, scheme):
        ranges = Range(-0.5, 0.5), Range(-3.0, 3.0), Range(1e-9, 1e-3)
        self.info = ArrayInfo(1, ROWS, COLS, True, "v", "m", "s", "f", *ranges, select_scheme=scheme)
        self.calls = []

    def pulse(self, counts, shape):
        self.calls.append((counts, shape))

    def update(self, rows, cols, shape, active=None):
        self.calls.append((rows, cols, shape, active))

    def trace(self, polarity, mask, shape, every=1):
        self.calls.append((polarity, mask, shape, every))
        return torch.zeros(*mask.shape, len(polarity) // every)

    def mvm(self, volts, direction, active=None):
        self.calls.append((volts, direction, active))
        return torch.zeros(1, volts.shape[1], COLS)


near = st.sampled_from([0.5, 0.99, 1.0, 1.0 + 2**-52, 1.01, 2.0])
sign = st.sampled_from([1.0, -1.0])
number = st.integers(0, 2**31 - 1)


@st.composite
def limits_and_shapes(draw):
    """Limits, and a shape whose fields lie below, at and above them."""
    cells = st.tuples(st.integers(0, ROWS - 1), st.integers(0, COLS - 1))
    limits = Limits(
        up_v_max=draw(st.floats(0.5, 1.5)),
        down_v_max=draw(st.floats(0.5, 1.5)),
        width_s_max=draw(st.floats(1e-7, 1e-4)),
        half_select_v_max=draw(st.floats(0.2, 1.0)),
        read_v_max=draw(st.floats(0.05, 0.45)),
        pulses_per_cell_max=draw(st.integers(1, 30)),
        pulses_per_operation_max=draw(st.integers(1, 20)),
        compliance_a_max=draw(st.none() | st.just(1e-3)),
        gate_v_max=draw(st.none() | st.just(2.0)),
        excluded_cells=tuple(draw(st.lists(cells, max_size=2))),
        excluded_rows=tuple(draw(st.lists(st.integers(0, ROWS - 1), max_size=1))),
    )
    calm = draw(st.booleans())
    ratio = st.just(0.5) if calm else near
    shape = PulseShape(
        up_v=draw(sign) * limits.up_v_max * draw(ratio),
        down_v=draw(sign) * limits.down_v_max * draw(ratio),
        width_s=limits.width_s_max * draw(ratio),
        gate_up_v=None if calm else draw(st.none() | st.sampled_from([1.0, -2.0, 2.1])),
        compliance_a=draw(st.sampled_from([1e-3] if calm else [None, 1e-3, 1.1e-3])),
    )
    return limits, shape


@st.composite
def trains(draw):
    """Rows and columns of up to two samples, in two kinds."""
    samples = draw(st.integers(1, 2))
    generator = torch.Generator().manual_seed(draw(number))
    slots = torch.randint(1, 13, (1, samples), generator=generator, dtype=torch.int32)
    kinds = draw(st.sampled_from([("stochastic", "stochastic"), ("spread", "first")]))
    density = draw(st.sampled_from([0.3, 1.0]))

    def one(lines, kind):
        p = torch.rand(1, samples, lines, generator=generator)
        signs = torch.randint(-1, 2, (1, samples, lines), generator=generator, dtype=torch.int8)
        signs = signs * (torch.rand(1, samples, lines, generator=generator) < density).to(torch.int8)
        key = torch.randint(-(2**31), 2**31, (1, samples, 2), generator=generator).to(torch.int32)
        return PulseTrain(p, signs, slots, key, torch.arange(lines, dtype=torch.int32), kind)

    return one(ROWS, kinds[0]), one(COLS, kinds[1])


def shape_is_inside(limits: Limits, shape: PulseShape, scheme: str) -> bool:
    fraction = {"V/2": 2.0, "V/3": 3.0, "selector": float("inf")}[scheme]
    gates = [abs(v) for v in (shape.gate_up_v, shape.gate_down_v) if v is not None]
    return (
        abs(shape.up_v) <= min(limits.up_v_max, 3.0)
        and abs(shape.down_v) <= min(limits.down_v_max, 3.0)
        and 1e-9 <= shape.width_s <= min(limits.width_s_max, 1e-3)
        and max(abs(shape.up_v), abs(shape.down_v)) * (1 / fraction) <= limits.half_select_v_max
        and (not gates or (limits.gate_v_max is not None and max(gates) <= limits.gate_v_max))
        and (limits.compliance_a_max is None or (shape.compliance_a or float("inf")) <= limits.compliance_a_max)
    )


def cells_are_inside(limits: Limits, pulses: np.ndarray, worn: np.ndarray) -> bool:
    for (row, col), count in np.ndenumerate(pulses):
        excluded = (row, col) in limits.excluded_cells or row in limits.excluded_rows
        too_many = count > limits.pulses_per_operation_max or count + worn[row, col] > limits.pulses_per_cell_max
        if count and (excluded or too_many):
            return False
    return True


def coincidences(rows: PulseTrain, cols: PulseTrain) -> np.ndarray:
    """Pulses per cell [row col], counted bit by bit."""
    total = np.zeros((ROWS, COLS), dtype=np.int64)
    r, c = rows.bits()[0].tolist(), cols.bits()[0].tolist()
    for sample in range(len(r)):
        for row in range(ROWS):
            for col in range(COLS):
                total[row, col] += (r[sample][row] & c[sample][col]).bit_count()
    return total


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder, Ledger.create(folder, "test", {}) as made:
        yield made


def compared(limits, shape, scheme, worn, pulses, call, ledger):
    """Run ``call(guarded)`` and hold what reached the board against the oracle; returns what reached it."""
    board, wear = Board(scheme), Wear.in_memory()
    wear.add(board.info, down=worn[None])
    guarded = guard(board, limits, ledger, "main", wear)
    if shape_is_inside(limits, shape, scheme) and cells_are_inside(limits, pulses, worn):
        event("inside")
        call(guarded)
        assert len(board.calls) == 1
        np.testing.assert_array_equal(wear.cells(board.info).pulses[0], worn + pulses)
        return board.calls[0]
    event("outside")
    with pytest.raises(LimitError):
        call(guarded)
    assert board.calls == []
    np.testing.assert_array_equal(wear.cells(board.info).pulses[0], worn)
    return None


schemes = st.sampled_from(["V/2", "V/3", "selector"])
worn_cells = st.integers(0, 25).map(lambda most: np.arange(ROWS * COLS).reshape(ROWS, COLS) * most // (ROWS * COLS))


few_or_many = st.sampled_from([1, 12]).flatmap(lambda most: st.lists(st.integers(-most, most), min_size=12, max_size=12))


@pytest.mark.slow
@FUZZ
@given(limits_and_shapes(), schemes, worn_cells, few_or_many, st.sampled_from([0, 1, 3]))
def test_pulse(ledger, both, scheme, worn, values, sparse):
    limits, shape = both
    counts = torch.tensor(values, dtype=torch.int32).reshape(1, ROWS, COLS)
    counts[:, :sparse] = 0
    before = counts.clone()
    got = compared(
        limits, shape, scheme, worn, before[0].abs().numpy().astype(np.int64), lambda g: g.pulse(counts, shape), ledger
    )
    if got is not None:
        assert got[1] is shape
        assert torch.equal(got[0], before)


@pytest.mark.slow
@FUZZ
@given(limits_and_shapes(), schemes, worn_cells, trains())
def test_update(ledger, both, scheme, worn, pair):
    limits, shape = both
    rows, cols = pair
    before = [getattr(one, name).clone() for one in pair for name in ("probability", "sign", "slots", "key", "line")]
    got = compared(limits, shape, scheme, worn, coincidences(rows, cols), lambda g: g.update(rows, cols, shape), ledger)
    if got is not None:
        after = [getattr(one, name) for one in got[:2] for name in ("probability", "sign", "slots", "key", "line")]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert got[2] is shape
        assert got[3] is None


@pytest.mark.slow
@FUZZ
@given(limits_and_shapes(), schemes, worn_cells, st.lists(st.sampled_from([1, -1]), max_size=12), number, st.integers(1, 3))
def test_trace(ledger, both, scheme, worn, signs, seed, every):
    limits, shape = both
    polarity = torch.tensor(signs, dtype=torch.int8)
    mask = torch.rand(1, ROWS, COLS, generator=torch.Generator().manual_seed(seed)) < 0.2
    before = polarity.clone(), mask.clone()
    pulses = mask[0].numpy().astype(np.int64) * len(signs)
    got = compared(limits, shape, scheme, worn, pulses, lambda g: g.trace(polarity, mask, shape, every), ledger)
    if got is not None:
        assert torch.equal(got[0], before[0])
        assert torch.equal(got[1], before[1])
        assert got[2] is shape
        assert got[3] == every


ratio = st.sampled_from([0.0, 0.25, -0.5, 0.999, 1.0, -1.0]) | st.floats(-1.25, 1.25, width=32)


@pytest.mark.slow
@FUZZ
@given(limits_and_shapes(), st.lists(ratio, min_size=6, max_size=6), near)
def test_mvm(ledger, both, ratios, scale):
    limits, _ = both
    volts = torch.tensor(ratios).reshape(1, 2, ROWS) * (limits.read_v_max * scale)
    before = volts.clone()
    board = Board("V/2")
    guarded = guard(board, limits, ledger, "main", Wear.in_memory())
    bound = np.float32(min(limits.read_v_max, 0.5))
    if bool(np.all(np.abs(before.numpy()) <= bound)):
        event("inside")
        guarded.mvm(volts, "forward")
        assert torch.equal(board.calls[0][0], before)
    else:
        event("outside")
        with pytest.raises(LimitError):
            guarded.mvm(volts, "forward")
        assert board.calls == []
