"""Every verb over the wire gives what the same call of an EmulatedArray gives, to the bit; and its device time."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hil.backend import PulseShape
from hil.encoding import Stream, UpdateSettings, encode
from hil.wire import Code, Kind
from hil.wire_verbs import Mvm, Op, Program, Pulse, Read, Shape, Step, Trace, Update
from simulated_backend.array import EmulatedArray
from simulated_backend.devices import DeviceSettings
from simulated_backend.settings import EmulatorSettings, PeripherySettings
from simulated_backend.twins.board_program import MAX_DEPTH, expand, measure
from simulated_backend.twins.board_settings import BoardTimes
from simulated_backend.twins.board_trains import first, passes, words_coincide, words_passes, words_train

ROWS, COLS = 4, 3
CELLS = ROWS * COLS
NOISY = EmulatorSettings(
    rows=ROWS,
    cols=COLS,
    device=DeviceSettings(dw_min=0.01, c2c=0.3, write_noise=0.5),
    periphery=PeripherySettings(read_noise_siemens=1e-7, in_noise=0.02),
)
SHAPE, PULSE = Shape(1.1, -0.9, 2e-6), PulseShape(1.1, -0.9, 2e-6)


@pytest.fixture
def twins(fresh_host):
    """(host of a board, the array that it must equal)."""
    host = fresh_host(array=NOISY, seed=5, name="main")
    host.open()
    host.arm()
    return host, EmulatedArray(NOISY, ROWS, COLS, seed=5, name="main")


def cells(seed, low=-4, high=5):
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high, (1, ROWS, COLS), dtype=np.int32))


def mask(seed):
    return torch.from_numpy(np.random.default_rng(seed).random((1, ROWS, COLS)) < 0.6)


def bits(tensor):
    return tensor.numpy().reshape(-1)


def floats(body):
    return torch.from_numpy(np.frombuffer(body, dtype="<f4").copy())


def trains(samples, seed=2):
    """What a tile sends: stochastic trains of random vectors, every sign and some silent lines among them."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(1, samples, ROWS)).astype(np.float32))
    d = torch.from_numpy(rng.normal(size=(1, samples, COLS)).astype(np.float32))
    ids, one = torch.zeros(1, dtype=torch.int64), torch.ones(1)
    keys = [Stream(seed, ids, "test", purpose).keys(samples) for purpose in ("x", "d")]
    return encode(x, d, one, one * 0.1, UpdateSettings(), *keys)


def words(train):
    """[sample line] as on the wire."""
    fires = train.bits()[0].numpy().astype(np.uint32)
    return fires | np.where((train.sign[0].numpy() < 0) & (fires != 0), np.uint32(0x80000000), np.uint32(0))


def update_body(rows, cols):
    return Update(SHAPE, rows.slots[0].numpy().astype(np.uint8), words(rows), words(cols)).pack()


class TestEqualsTheArray:
    """One sequence of calls on both: whatever a verb leaves behind (states, counters of the noise) shows in the next."""

    def test_every_verb_in_turn(self, twins):
        host, array = twins
        rows, cols = trains(3)
        polarity = torch.tensor([1, 1, -1, 1, -1, -1, 1], dtype=torch.int8)
        codes = np.random.default_rng(3).integers(-63, 64, (2, 3, ROWS), dtype=np.int16)
        grain = 0.4 / 126
        for turn in range(2):
            got = host.done(Kind.PULSE, Pulse(SHAPE, bits(cells(turn))).pack())
            array.pulse(cells(turn), PULSE)
            assert struct.unpack("<I", got) == (int(cells(turn).abs().sum()),)
            got = host.done(Kind.READ, Read(0.2, 2, bits(mask(turn))).pack())
            assert torch.equal(floats(got), array.read(mask(turn), 2)[mask(turn)])
            got = host.done(Kind.UPDATE, update_body(rows, cols))
            counted = int(array.status()["pulses_up"].sum() + array.status()["pulses_down"].sum())
            array.update(rows, cols, PULSE)
            counted = int(array.status()["pulses_up"].sum() + array.status()["pulses_down"].sum()) - counted
            assert struct.unpack("<I", got) == (counted,)
            trace = Trace(SHAPE, 0.2, 3, bits(polarity) > 0, bits(mask(turn)))
            got = host.done(Kind.TRACE, trace.pack())
            assert torch.equal(floats(got).view(-1, 2), array.trace(polarity, mask(turn), PULSE, 3)[mask(turn)])
            reference = torch.full((1, ROWS, COLS), 1e-4 * (1 + turn / 9))
            reference[0, 0, turn] = torch.nan
            host.done(Kind.REFERENCE, bits(reference).tobytes())
            array.set_reference(reference)
            for backward, lines in ((False, ROWS), (True, COLS)):
                part = codes[turn][:, :lines]
                got = host.done(Kind.MVM, Mvm(backward, grain, part).pack())
                volts = torch.from_numpy(part).float() * grain
                wanted = array.mvm(volts[None], "backward" if backward else "forward")
                assert torch.equal(floats(got).view(wanted.shape), wanted)
        truth, status = host.board.truth(), array.status()
        for name in ("pulses_up", "pulses_down"):
            assert truth[name] == status[name][0].tolist()
        state = array.state_dict()
        g = 1e-4 + (state["state"][0].double() + state["reference"][0].double()) * 50e-6
        torch.testing.assert_close(torch.tensor(truth["conductances"], dtype=torch.float64), g, rtol=1e-12, atol=0)

    def test_a_program_is_its_steps(self, twins):
        host, array = twins
        where = mask(1)
        ops = [(Step.LOOP, 2), (Step.PULSE_UP, 3), (Step.LOOP, 2), (Step.READ, 4), (Step.PULSE_DOWN, 1), (Step.END, 0)]
        ops += [(Step.WAIT, 500), (Step.END, 0), (Step.READ, 1)]
        got = host.done(Kind.PROGRAM, Program(SHAPE, 0.1, bits(where), tuple(Op(*op) for op in ops)).pack())
        wanted = []
        for _ in range(2):
            array.pulse(where.to(torch.int32) * 3, PULSE)
            for _ in range(2):
                wanted.append(array.read(where, 4)[where])
                array.pulse(-where.to(torch.int32), PULSE)
            array.idle(500e-6)
        wanted.append(array.read(where, 1)[where])
        assert torch.equal(floats(got), torch.cat(wanted))

    def test_samples_in_one_request_or_in_several(self, twins):
        """What a host must split is the same as in one piece."""
        host, array = twins
        rows, cols = trains(4)
        for part in (slice(0, 1), slice(1, 4)):
            host.done(Kind.UPDATE, update_body(rows.at(part.start, part.stop), cols.at(part.start, part.stop)))
        array.update(rows, cols, PULSE)
        got = host.done(Kind.READ, Read(0.1, 1, np.ones(CELLS, dtype=bool)).pack())
        everything = torch.ones(1, ROWS, COLS, dtype=torch.bool)
        assert torch.equal(floats(got), array.read(everything).flatten())

    def test_nothing_asked_is_nothing_done(self, twins):
        host, _ = twins
        nothing, none = np.zeros(CELLS, dtype=bool), np.empty((0, ROWS))
        before = host.board.truth()["conductances"]
        assert host.done(Kind.READ, Read(0.1, 1, nothing).pack()) == b""
        assert host.done(Kind.MVM, Mvm(False, 0.1, none.astype(np.int16)).pack()) == b""
        silent = (none.astype(np.uint32), none[:, :COLS].astype(np.uint32))
        assert host.done(Kind.UPDATE, Update(SHAPE, np.empty(0, dtype=np.uint8), *silent).pack()) == b"\0" * 4
        assert host.done(Kind.PULSE, Pulse(SHAPE, np.zeros(CELLS, dtype=np.int32)).pack()) == b"\0" * 4
        assert host.done(Kind.TRACE, Trace(SHAPE, 0.1, 1, np.ones(3, dtype=bool), nothing).pack()) == b""
        assert host.done(Kind.TRACE, Trace(SHAPE, 0.1, 1, nothing[:0], ~nothing).pack()) == b""
        assert host.done(Kind.PROGRAM, Program(SHAPE, 0.1, ~nothing, ()).pack()) == b""
        assert host.board.truth()["conductances"] == before


class TestCutShort:
    @pytest.mark.parametrize("after", [0, 7, 20])
    def test_the_cells_that_had_their_pulses_are_as_after_the_whole(self, twins, after):
        host, array = twins
        counts = cells(0)
        host.panel.order("open_interlock", after)
        total = int(counts.abs().sum())
        assert after < total
        assert host.refused(Kind.PULSE, Pulse(SHAPE, bits(counts)).pack()).pulses == after
        array.pulse(counts, PULSE)
        whole = counts.abs().flatten().cumsum(0) <= after
        truth, status = host.board.truth(), array.status()
        for name in ("pulses_up", "pulses_down"):
            torch.testing.assert_close(torch.tensor(truth[name]).flatten()[whole], status[name].flatten()[whole].long())
        g = 1e-4 + array.state_dict()["state"].flatten().double() * 50e-6
        torch.testing.assert_close(torch.tensor(truth["conductances"]).flatten().double()[whole], g[whole])

    def test_the_first_pulses(self):
        counts = np.array([2, 0, -3, 1], dtype=np.int32)
        assert [first(counts, n).tolist() for n in (0, 1, 4, 6)] == [[0] * 4, [1, 0, 0, 0], [2, 0, -2, 0], [2, 0, -3, 1]]


class TestCounting:
    @given(seed=st.integers(0, 10**6), samples=st.integers(0, 4))
    def test_coincidences_are_those_of_the_trains(self, seed, samples):
        rng = np.random.default_rng(seed)
        slots = rng.integers(0, 32, samples, dtype=np.uint8)
        inside = (np.uint64(1) << slots.astype(np.uint64)) - np.uint64(1)
        sides = []
        for lines in (ROWS, COLS):
            fires = (rng.integers(0, 2**31, (samples, lines), dtype=np.uint64) & inside[:, None]).astype(np.uint32)
            negative = rng.integers(0, 2, (samples, lines), dtype=np.uint32) << np.uint32(31)
            sides.append(np.where(fires != 0, fires | negative, 0).astype(np.uint32))
        rows, cols = (words_train(side, slots) for side in sides)
        both = rows.fired()[0].float().transpose(1, 2) if samples else None
        by_sample, by_cell = words_coincide(*sides)
        ups = 0
        for s in range(samples):
            assert both is not None
            counts = torch.einsum("sr,sc->rc", both[s], cols.fired()[0, s].float().T)
            assert by_sample[s] == counts.sum()
            ups += counts.flatten()
            fires = [
                (train.fired()[0, s] & (train.sign[0, s] == sign)[:, None]).any(dim=0)
                for train in (rows, cols)
                for sign in (1, -1)
            ]
            assert words_passes(sides[0][s : s + 1], sides[1][s : s + 1]) == sum(
                int((fires[r] & fires[c]).sum()) for r in (0, 1) for c in (2, 3)
            )
        assert by_cell.tolist() == (ups.tolist() if samples else [0] * CELLS)

    def test_passes_of_a_pulse_request(self):
        """Row after row, up and down apart, the cells of a row at once: 3 + 1, 0, 2."""
        counts = np.array([[3, 1, -1], [0, 0, 0], [-2, -1, 0]], dtype=np.int32)
        assert passes(counts) == 6


class TestDeviceTime:
    @pytest.mark.parametrize(
        ("kind", "body", "seconds"),
        [
            (Kind.READ, Read(0.1, 3, np.arange(CELLS) < 5), 15 * 50e-6),
            (Kind.MVM, Mvm(False, 0.1, np.ones((7, ROWS), dtype=np.int16)), 7 * 100e-6),
            (Kind.PULSE, Pulse(SHAPE, np.full(CELLS, -2, dtype=np.int32)), ROWS * 2 * 3e-6),
            (Kind.TRACE, Trace(SHAPE, 0.1, 2, np.ones(5, dtype=bool), np.arange(CELLS) < 4), 2 * 5 * 3e-6 + 8 * 50e-6),
            (
                Kind.PROGRAM,
                Program(SHAPE, 0.1, np.arange(CELLS) < 3, (Op(1, 4), Op(4, 1000), Op(3, 2))),
                4 * 3e-6 + 1e-3 + 6 * 50e-6,
            ),
        ],
    )
    def test_of_each_verb(self, twins, kind, body, seconds):
        host, _ = twins
        host.done(kind, body.pack())
        assert host.clock.device_s == pytest.approx(seconds)

    def test_of_an_update(self, fresh_host):
        """Two slots with four and one pairs of signs that both fire."""
        host = fresh_host(times=BoardTimes(gap_s=3e-6))
        host.open()
        host.arm()
        rows = np.array([[3, 0x80000001, 0, 0]], dtype=np.uint32)
        cols = np.array([[3, 0x80000001, 0]], dtype=np.uint32)
        host.done(Kind.UPDATE, Update(SHAPE, np.array([2], dtype=np.uint8), rows, cols).pack())
        assert host.clock.device_s == pytest.approx(5 * 5e-6)


class TestBodies:
    def test_a_reply_that_would_be_too_long(self, fresh_host):
        array = EmulatorSettings(rows=20, cols=20, periphery=PeripherySettings(reference="mid"))
        host = fresh_host(array=array, max_body=1024)
        host.open()
        host.arm()
        everything = np.ones(400, dtype=bool)
        assert host.code(Kind.READ, Read(0.1, 1, everything).pack()) == Code.UNABLE
        assert len(host.done(Kind.READ, Read(0.1, 1, np.arange(400) < 256).pack())) == 1024
        loop = (Op(Step.LOOP, 2**32 - 1), Op(Step.READ, 1), Op(Step.END, 0))
        for kind, body in (
            (Kind.TRACE, Trace(SHAPE, 0.1, 1, np.ones(3, dtype=bool), everything)),
            (Kind.PROGRAM, Program(SHAPE, 0.1, everything, (Op(1, 1), Op(3, 1)))),
            (Kind.PROGRAM, Program(SHAPE, 0.1, everything[:1].repeat(400), loop)),
        ):
            assert host.code(kind, body.pack()) == Code.UNABLE
        assert host.code(Kind.MVM, Mvm(False, 0.001, np.ones((13, 20), dtype=np.int16)).pack()) == Code.UNABLE
        assert host.pulses == 0

    def test_a_request_that_is_too_long(self, fresh_host):
        host = fresh_host(max_body=512)
        host.open()
        assert host.code(Kind.MVM, Mvm(False, 0.001, np.ones((63, ROWS), dtype=np.int16)).pack()) == Code.MALFORMED
        host.done(Kind.MVM, Mvm(False, 0.001, np.ones((42, COLS + 1), dtype=np.int16)).pack())

    def test_every_board_takes_a_sample_and_its_references(self, fresh_host):
        array = EmulatorSettings(rows=20, cols=20)
        with pytest.raises(ValueError, match="1600"):
            fresh_host(array=array, max_body=1599)
        fresh_host(array=array, max_body=1600)

    @pytest.mark.parametrize("kind", list(Kind))
    @pytest.mark.parametrize("body", [b"\0", b"\xff" * 70])
    def test_nonsense_is_malformed(self, host, kind, body):
        if kind in (Kind.HELLO, Kind.OPEN, Kind.HEARTBEAT, Kind.ABORT):
            return
        assert host.code(kind, body) == Code.MALFORMED
        assert host.pulses == 0

    def test_numbers_that_say_nothing(self, host):
        good = Pulse(SHAPE, np.ones(CELLS, dtype=np.int32)).pack()
        assert host.code(Kind.PULSE, good[:-4] + b"\0" * 4) == Code.MALFORMED
        assert host.code(Kind.PULSE, good[:-4] + b"\0\0\0\x80") == Code.MALFORMED
        assert host.code(Kind.READ, Read(0.1, 0, np.ones(CELLS, dtype=bool)).pack()) == Code.MALFORMED
        assert host.code(Kind.READ, Read(np.nan, 1, np.ones(CELLS, dtype=bool)).pack()) == Code.MALFORMED
        assert host.code(Kind.MVM, Mvm(False, np.inf, np.ones((1, ROWS), dtype=np.int16)).pack()) == Code.MALFORMED
        assert host.code(Kind.MVM, b"\2" + Mvm(False, 0.1, np.ones((1, ROWS), np.int16)).pack()[1:]) == Code.MALFORMED
        assert host.code(Kind.TRACE, Trace(SHAPE, 0.1, 0, np.ones(1, bool), np.ones(CELLS, bool)).pack()) == Code.MALFORMED
        slot = np.array([[2, 0, 0, 0]], dtype=np.uint32)
        for slots, rows in ((1, slot), (32, slot), (2, slot << np.uint32(29))):
            body = Update(SHAPE, np.array([slots], dtype=np.uint8), rows, slot[:, :COLS]).pack()
            assert host.code(Kind.UPDATE, body) == Code.MALFORMED
        sign_only = Update(SHAPE, np.array([2], dtype=np.uint8), slot, slot[:, :COLS]).pack()
        assert host.code(Kind.UPDATE, sign_only[:-4] + b"\0\0\0\x80") == Code.MALFORMED
        for g in (-1e-4, np.inf):
            assert host.code(Kind.REFERENCE, np.full(CELLS, g, dtype="<f4").tobytes()) == Code.MALFORMED
        assert host.pulses == 0


class TestPrograms:
    @pytest.mark.parametrize(
        ("ops", "code", "step"),
        [
            ([(9, 1)], Code.MALFORMED, 0),
            ([(1, 1), (1, 0)], Code.MALFORMED, 1),
            ([(2, 2**31)], Code.MALFORMED, 0),
            ([(3, 65536)], Code.MALFORMED, 0),
            ([(6, 0)], Code.MALFORMED, 0),
            ([(5, 2), (6, 1)], Code.MALFORMED, 1),
            ([(5, 2), (1, 1)], Code.MALFORMED, 2),
            ([(5, 0), (6, 0)], Code.MALFORMED, 0),
            ([(5, 1)] * (MAX_DEPTH + 1) + [(6, 0)] * (MAX_DEPTH + 1), Code.UNABLE, MAX_DEPTH),
            ([(5, 2**32 - 1), (4, 0), (6, 0)], Code.UNABLE, 1),
        ],
    )
    def test_that_are_none(self, host, ops, code, step):
        body = Program(SHAPE, 0.1, np.ones(CELLS, dtype=bool), tuple(Op(*op) for op in ops)).pack()
        said = host.refused(Kind.PROGRAM, body)
        assert (said.code, said.operation, host.pulses) == (code, step, 0)

    @given(
        st.recursive(
            st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=3),
            lambda inner: st.lists(
                st.one_of(st.tuples(st.integers(1, 4), st.integers(1, 3)), st.tuples(st.integers(1, 3), inner)), max_size=3
            ),
            max_leaves=6,
        )
    )
    def test_cost_is_that_of_the_steps_in_order(self, tree):
        """Against programs unrolled by recursion."""
        flat, unrolled = _both(tree)
        if _depth(tree) > MAX_DEPTH:
            return
        steps = [op for _, op in expand(flat)]
        assert steps == unrolled
        cost = measure(flat)
        assert cost.pulses == sum(op.number for op in steps if op.code in (1, 2))
        assert cost.reads == sum(op.code == 3 for op in steps)


def _both(tree):
    """(the program, its steps one after another)."""
    flat, unrolled = [], []
    for a, b in tree:
        if isinstance(b, list):
            inner, steps = _both(b)
            flat += [Op(Step.LOOP, a), *inner, Op(Step.END, 0)]
            unrolled += steps * a
        else:
            flat.append(Op(a, b))
            unrolled.append(Op(a, b))
    return flat, unrolled


def _depth(tree):
    return max((1 + _depth(b) for _, b in tree if isinstance(b, list)), default=0)
