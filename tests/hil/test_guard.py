"""The guard: nothing reaches a board unchecked, unrecorded or changed; the emulator is reached directly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hil.backend import ArrayBackend, ArrayInfo, HasClock, HasReference, HasState, HasVerify, PulseShape, Range
from hil.encoding import PulseTrain
from hil.errors import DataError, HardwareError, LimitError, ShapeError, UsageError
from hil.guard import EmulatedGuard, Guard, PhysicalGuard, guard
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


def states(ledger):
    return [(operation.verb, operation.status) for operation in ledger.run.operations()]


# ---- which guard, which protocols


def test_the_factory_chooses(board):
    assert type(guard(board)) is PhysicalGuard
    assert type(guard(Fake(replace(INFO, physical=False)))) is EmulatedGuard
    assert isinstance(guard(board), Guard)
    assert guard(board).inner is board
    assert guard(board).info is INFO


@pytest.mark.parametrize("physical", [True, False])
def test_isinstance_tells_the_truth(physical):
    companions = (HasReference, HasVerify, HasClock, HasState)
    info = replace(INFO, physical=physical)
    plain, rich = guard(Fake(info)), guard(Rich(info))
    assert isinstance(plain, ArrayBackend)
    assert isinstance(rich, ArrayBackend)
    assert [isinstance(plain, one) for one in companions] == [False] * 4
    assert [isinstance(rich, one) for one in companions] == [True] * 4


@pytest.mark.parametrize("physical", [True, False])
def test_companions_are_passed_on(physical, ledger):
    board = Rich(replace(INFO, physical=physical))
    guarded = guard(board, LIMITS, ledger)
    g = torch.full((1, 3, 4), 1e-4)
    guarded.set_reference(g)
    guarded.idle(3.0)
    guarded.load_state_dict(guarded.state_dict())
    torch.testing.assert_close(guarded.verify(g, MASK, SHAPE, 1e-6, 5), MASK)
    assert [call[0] for call in board.calls] == ["set_reference", "idle", "load_state_dict", "verify"]
    with pytest.raises(LimitError, match="up_v_max"):
        guarded.verify(g, MASK, HIGH, 1e-6, 5)
    events = list(ledger.run.events("reference"))
    assert len(events) == int(physical)
    if physical:
        np.testing.assert_array_equal(ledger.run.arrays(events[0].number)["g_siemens"], g.numpy())


# ---- physical: order, records, wear


def test_an_intent_is_on_record_before_the_driver_is_called(board, guarded, ledger, wear):
    def watch(verb):
        with Ledger.open(ledger.folder) as reader:
            seen.append((verb, [(operation.number, operation.status) for operation in reader.operations()]))
        seen.append(int(wear.cells(INFO).pulses.sum()))

    seen = []
    board.watch = watch
    given = counts(r0c0=3, r1c2=-4)
    guarded.pulse(given, SHAPE)
    assert seen == [("pulse", [(1, "pending")]), 7]
    assert board.calls[0][1] is given
    assert board.calls[0][2] is SHAPE
    (operation,) = ledger.pending()
    np.testing.assert_array_equal(operation.cells[0], given.clamp(min=0).numpy())
    np.testing.assert_array_equal(operation.cells[1], (-given).clamp(min=0).numpy())
    assert (operation.board, operation.pulses, operation.shape["down_v"]) == ("main", 7, -1.5)


@pytest.mark.parametrize("barrier", ["read", "mvm", "trace", "status", "safe", "verify"])
def test_a_posted_pulse_is_done_at_the_next_barrier(barrier, ledger):
    guarded = guard(Rich(), LIMITS, ledger)
    ledger.digital_state({"step": 1})
    guarded.pulse(counts(r0c0=1), SHAPE)
    ledger.digital_state({"step": 2})
    assert states(ledger) == [("pulse", "pending")]
    {
        "read": lambda: guarded.read(MASK),
        "mvm": lambda: guarded.mvm(torch.full((1, 1, 3), 0.1), "forward"),
        "trace": lambda: guarded.trace(torch.ones(1, dtype=torch.int8), MASK, SHAPE),
        "status": guarded.status,
        "safe": guarded.safe,
        "verify": lambda: guarded.verify(torch.zeros(1, 3, 4), MASK, SHAPE, 1e-6, 1),
    }[barrier]()
    assert states(ledger)[0] == ("pulse", "done")
    assert next(ledger.run.operations()).digital == {"step": 1}
    assert ledger.pending() == []


@pytest.mark.parametrize("barrier", ["read", "safe"])
def test_a_fault_at_the_barrier_leaves_what_was_posted_uncertain(barrier, board, guarded, ledger):
    guarded.pulse(counts(r0c0=1), SHAPE)
    guarded.update(train([[1, 0, 0]]), train([[1, 0, 0, 0]]), SHAPE)
    board.fault[barrier] = HardwareError("no answer")
    with pytest.raises(HardwareError, match="no answer"):
        guarded.read(MASK) if barrier == "read" else guarded.safe()
    assert states(ledger) == [("pulse", "uncertain"), ("update", "uncertain")]
    assert [operation.message for operation in ledger.pending()] == ["no answer", "no answer"]
    guarded.read(MASK)
    assert len(ledger.pending()) == 2


def test_a_wrong_argument_at_the_barrier_says_nothing_of_what_was_posted(board, guarded, ledger):
    guarded.pulse(counts(r0c0=1), SHAPE)
    board.fault["read"] = ShapeError("mask")
    with pytest.raises(ShapeError):
        guarded.read(MASK)
    assert states(ledger) == [("pulse", "pending")]
    guarded.read(MASK)
    assert states(ledger) == [("pulse", "done")]


def test_safe_that_is_not_confirmed_settles_nothing(board, guarded, ledger):
    guarded.pulse(counts(r0c0=1), SHAPE)
    board.confirm = False
    assert guarded.safe() is False
    assert states(ledger) == [("pulse", "pending")]


@pytest.mark.parametrize(
    ("fault", "outcomes"),
    [
        (HardwareError("link down"), ["uncertain", "uncertain"]),
        (KeyboardInterrupt(), ["pending", "uncertain"]),
        (RuntimeError("driver"), ["pending", "uncertain"]),
    ],
    ids=repr,
)
def test_a_fault_while_sending(fault, outcomes, board, guarded, ledger, wear):
    guarded.pulse(counts(r0c0=1), SHAPE)
    board.fault["pulse"] = fault
    with pytest.raises(type(fault)):
        guarded.pulse(counts(r1c1=2), SHAPE)
    assert [status for _, status in states(ledger)] == outcomes
    assert wear.cells(INFO).up[0, 1, 1] == 2


@pytest.mark.parametrize("fault", [ShapeError("x"), LimitError("the board's own limit")], ids=repr)
def test_what_a_driver_refuses_is_no_wear(fault, board, guarded, ledger, wear):
    board.fault["update"] = fault
    with pytest.raises(type(fault)):
        guarded.update(train([[1, 0, 0]]), train([[1, -1, 0, 0]]), SHAPE)
    assert states(ledger) == [("update", "refused")]
    assert ledger.pending() == []
    assert (wear.cells(INFO).pulses.sum(), wear.cells(INFO).passes) == (0, 0)


def test_nothing_is_sent_where_it_cannot_be_recorded(board, guarded, ledger, wear):
    ledger.stop("done")
    with pytest.raises(DataError):
        guarded.pulse(counts(r0c0=1), SHAPE)
    assert board.calls == []
    assert wear.cells(INFO).pulses.sum() == 0


def test_safe_reports_although_the_record_is_closed(board, guarded, ledger):
    guarded.pulse(counts(r0c0=1), SHAPE)
    ledger.stop("done")
    assert guarded.safe() is True


def test_trace_is_counted(board, guarded, ledger, wear):
    polarity = torch.tensor([1, 1, -1, 1, 1], dtype=torch.int8)
    assert guarded.trace(polarity, MASK, SHAPE, 2).shape == (1, 3, 4, 2)
    assert board.calls[0][1] is polarity
    assert board.calls[0][4] == 2
    cells = wear.cells(INFO)
    np.testing.assert_array_equal(cells.up, MASK.numpy() * 4)
    np.testing.assert_array_equal(cells.down, MASK.numpy())
    np.testing.assert_array_equal(cells.reads, MASK.numpy() * 2)
    assert states(ledger) == [("trace", "done")]


def test_update_is_counted_exactly(board, guarded, ledger, wear):
    rows = train([[1, -1, 0], [1, 0, 0]], slots=4)
    cols = train([[1, -1, 0, 0], [0, 0, 1, 0]], slots=2)
    guarded.update(rows, cols, SHAPE)
    up = np.array([[[2, 0, 2, 0], [0, 2, 0, 0], [0, 0, 0, 0]]])
    down = np.array([[[0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]])
    np.testing.assert_array_equal(wear.cells(INFO).up, up)
    np.testing.assert_array_equal(wear.cells(INFO).down, down)
    # Sample 0: all four pairs of signs in both common slots; sample 1: one pair.
    assert next(ledger.run.operations()).passes == wear.cells(INFO).passes == 2 * 4 + 2
    assert board.calls[0][1] is rows
    assert board.calls[0][2] is cols


def test_update_leaves_inactive_arrays_out(ledger):
    info = replace(INFO, arrays=2)
    guarded = guard(Fake(info), LIMITS, ledger)

    def twice(one):
        fields = ("probability", "sign", "slots", "key")
        return replace(one, **{name: getattr(one, name).repeat_interleave(2, dim=0) for name in fields})

    guarded.update(twice(train([[1, 0, 0]])), twice(train([[1, 0, 0, 0]])), SHAPE, torch.tensor([False, True]))
    assert guarded.wear.cells(info).up.sum(axis=(1, 2)).tolist() == [0, 4]
    assert guarded.wear.cells(info).passes == 4


def test_verify_counts_the_worst(ledger):
    guarded = guard(Rich(), LIMITS, ledger)
    guarded.verify(torch.zeros(1, 3, 4), MASK, SHAPE, 1e-6, 7)
    np.testing.assert_array_equal(guarded.wear.cells(INFO).either, MASK.numpy() * 7)
    guarded.pulse(counts(r0c0=10), SHAPE)
    with pytest.raises(LimitError, match="pulses_per_cell_max"):
        guarded.verify(torch.zeros(1, 3, 4), MASK, SHAPE, 1e-6, 7)
    with pytest.raises(LimitError, match="pulses_per_operation_max"):
        guarded.verify(torch.zeros(1, 3, 4), MASK, SHAPE, 1e-6, 11)
    with pytest.raises(UsageError, match="max_pulses"):
        guarded.verify(torch.zeros(1, 3, 4), MASK, SHAPE, 1e-6, 0)


def test_reads_are_counted(guarded, wear):
    guarded.read(MASK, 3)
    guarded.mvm(torch.tensor([[[0.1, 0.0, 0.0], [0.1, 0.2, 0.0]]]), "forward")
    guarded.mvm(torch.tensor([[[0.1, 0.0, 0.0, 0.0]]]), "backward", torch.tensor([True]))
    guarded.mvm(torch.tensor([[[0.1, 0.0, 0.0, 0.0]]]), "backward", torch.tensor([False]))
    expected = MASK[0].numpy() * 3 + np.array([[2], [1], [0]]) + np.array([[1, 0, 0, 0]])
    np.testing.assert_array_equal(wear.cells(INFO).reads[0], expected)


def test_lifetime_counts_over_runs(tmp_path, board):
    for left in (10, 10, 0):
        wear = Wear.open(tmp_path / "state")
        with Ledger.create(tmp_path / "runs", "test", {}) as ledger:
            guarded = guard(board, LIMITS, ledger, "main", wear)
            if left:
                guarded.pulse(counts(r0c0=left), SHAPE)
            else:
                with pytest.raises(LimitError, match=r"\[0, 0\].*pulses_per_cell_max = 20"):
                    guarded.pulse(counts(r0c0=-1), SHAPE)
                guarded.pulse(counts(r0c1=1), SHAPE)
        wear.close()


# ---- physical: refusals


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda g: g.pulse(counts(r0c0=1), HIGH), "up_v_max"),
        (lambda g: g.pulse(counts(), HIGH), "up_v_max"),
        (lambda g: g.pulse(counts(r0c0=11), SHAPE), "pulses_per_operation_max"),
        (lambda g: g.pulse(counts(r0c0=-(2**31)), SHAPE), "pulses_per_operation_max"),
        (lambda g: g.pulse(counts(r2c3=-1), SHAPE), "excluded"),
        (lambda g: g.trace(torch.ones(2, dtype=torch.int8), ~MASK, SHAPE), "excluded"),
        (lambda g: g.trace(torch.ones(11, dtype=torch.int8), MASK, SHAPE), "pulses_per_operation_max"),
        (lambda g: g.update(train([[0, 0, 1]]), train([[0, 0, 0, 1]]), SHAPE), "excluded"),
        (lambda g: g.update(train([[1, 0, 0]] * 3), train([[1, 0, 0, 0]] * 3), SHAPE), "pulses_per_operation_max"),
        (lambda g: g.mvm(torch.full((1, 1, 3), 0.21), "forward"), "read_v_max"),
        (lambda g: g.mvm(torch.full((1, 1, 3), -0.21), "forward"), "read_v_max"),
    ],
)
def test_what_is_outside_is_refused(call, text, board, guarded, ledger, wear):
    with pytest.raises(LimitError, match=text):
        call(guarded)
    assert board.calls == []
    assert states(ledger) == []
    assert wear.cells(INFO).pulses.sum() == 0


def test_a_refusal_is_recorded(guarded, ledger):
    with pytest.raises(LimitError) as caught:
        guarded.pulse(counts(r0c0=1), HIGH)
    (event,) = ledger.run.events("refused")
    assert event.payload["message"] == str(caught.value)
    assert (event.payload["board"], event.payload["verb"], event.payload["shape"]["up_v"]) == ("main", "pulse", 2.5)


def test_an_excluded_row_may_fire_where_nothing_coincides(board, guarded):
    guarded.update(train([[0, 0, 1]]), train([[1, 0, 0, 0]]), SHAPE)
    guarded.update(train([[0, 0, 1]]), train([[0, 0, 0, 0]]), SHAPE)
    assert len(board.calls) == 2


def test_no_limits_no_pulse(board, ledger):
    guarded = guard(board, None, ledger, "left")
    for call in (
        lambda: guarded.pulse(counts(r0c0=1), SHAPE),
        lambda: guarded.trace(torch.ones(1, dtype=torch.int8), MASK, SHAPE),
        lambda: guarded.update(train([[1, 0, 0]]), train([[1, 0, 0, 0]]), SHAPE),
    ):
        with pytest.raises(LimitError, match=r"^boards.left has no \[limits\] section: "):
            call()
    assert board.calls == []
    guarded.read(MASK)
    with pytest.raises(LimitError, match="fake does"):
        guarded.mvm(torch.full((1, 1, 3), 0.5), "forward")


def test_no_record_no_pulse(board):
    guarded = guard(board, LIMITS)
    with pytest.raises(UsageError, match="no run record"):
        guarded.pulse(counts(r0c0=1), SHAPE)
    with pytest.raises(LimitError):
        guarded.pulse(counts(r0c0=1), HIGH)
    assert board.calls == []
    guarded.read(MASK)


@pytest.mark.parametrize(
    "call",
    [
        lambda g: g.pulse(counts().to(torch.int64), SHAPE),
        lambda g: g.pulse(counts()[0], SHAPE),
        lambda g: g.trace(torch.tensor([1, 0], dtype=torch.int8), MASK, SHAPE),
        lambda g: g.trace(torch.ones(2), MASK, SHAPE),
        lambda g: g.trace(torch.ones(2, dtype=torch.int8), MASK[0], SHAPE),
        lambda g: g.update(train([[1, 0]]), train([[1, 0, 0, 0]]), SHAPE),
        lambda g: g.update(train([[1, 0, 0]] * 2), train([[1, 0, 0, 0]]), SHAPE),
        lambda g: g.pulse(counts(), replace(SHAPE, up_v=(1.0, 1.0))),
    ],
)
def test_wrong_shapes(call, board, guarded):
    with pytest.raises(ShapeError):
        call(guarded)
    assert board.calls == []


def test_every_below_one(guarded):
    with pytest.raises(UsageError, match="every = 0"):
        guarded.trace(torch.ones(2, dtype=torch.int8), MASK, SHAPE, 0)


def test_limits_must_fit_the_board(board):
    with pytest.raises(UsageError, match="outside the board"):
        guard(board, LIMITS.model_copy(update={"excluded_rows": (3,)}))


# ---- leaving


def test_leaving_grounds_whatever_happened(board, guarded):
    def leave():
        with guarded as entered:
            assert entered is guarded
            raise RuntimeError

    with pytest.raises(RuntimeError):
        leave()
    assert [call[0] for call in board.calls] == ["enter", "safe", "exit"]
    guarded.close()
    board.fault["safe"] = HardwareError("gone")
    with pytest.raises(HardwareError, match="gone"):
        guarded.close()
    assert [call[0] for call in board.calls[3:]] == ["safe", "close", "close"]


# ---- emulated


def test_the_emulator_is_reached_directly(ledger):
    board = Rich(replace(INFO, physical=False))
    guarded = guard(board, None, ledger)
    volts, given, rows, cols = torch.full((1, 1, 3), 9.0), counts(r0c0=999), train([[1, 0, 0]]), train([[1, 0, 0, 0]])
    polarity = torch.ones(2, dtype=torch.int8)
    with guarded:
        guarded.mvm(volts, "forward", None)
        guarded.pulse(given, SHAPE)
        guarded.update(rows, cols, SHAPE)
        guarded.trace(polarity, MASK, SHAPE, 2)
        guarded.read(MASK, 2)
        assert guarded.status() == {"ok": True}
        assert guarded.safe()
        guarded.close()
    verbs = ["mvm", "pulse", "update", "trace", "read", "status", "safe", "close"]
    assert [call[0] for call in board.calls] == ["enter", *verbs, "exit"]
    assert board.calls[1][1] is volts
    assert board.calls[2][1:] == (given, SHAPE)
    assert board.calls[3][1:] == (rows, cols, SHAPE, None)
    assert list(ledger.run.operations()) == []
    assert list(ledger.run.events()) == []


def test_the_emulator_checks_a_shape_once(monkeypatch):
    seen = []
    monkeypatch.setattr("hil.guard.check_shape", lambda shape, *rest: seen.append(shape))
    guarded = guard(Fake(replace(INFO, physical=False)))
    alike = replace(SHAPE)
    for shape in (SHAPE, alike, SHAPE, HIGH, alike, HIGH):
        guarded.update(train([[1, 0, 0]]), train([[1, 0, 0, 0]]), shape)
        guarded.pulse(counts(), shape)
    assert seen == [SHAPE, HIGH]


def test_the_emulator_remembers_a_bounded_number_of_shapes():
    guarded = guard(Fake(replace(INFO, physical=False)))
    for number in range(3000):
        guarded.pulse(counts(), replace(SHAPE, up_v=1.0 + number * 1e-4))
    assert len(guarded._by_identity) <= 1024
    assert len(guarded._by_value) <= 1024


def test_the_emulator_keeps_limits_that_it_is_given():
    board = Fake(replace(INFO, physical=False))
    guarded = guard(board, LIMITS)
    for call in (
        lambda: guarded.pulse(counts(), HIGH),
        lambda: guarded.trace(torch.ones(1, dtype=torch.int8), MASK, HIGH),
        lambda: guarded.update(train([[1, 0, 0]]), train([[1, 0, 0, 0]]), HIGH),
        lambda: guard(board).pulse(counts(), replace(SHAPE, up_v=3.5)),
    ):
        for _ in range(2):
            with pytest.raises(LimitError):
                call()
    assert board.calls == []
