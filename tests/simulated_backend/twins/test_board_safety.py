"""What keeps the devices behind a board whole: arming and its limits, the watchdog, the interlock, abort, reboots."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch

from hil.wire import Code, Flag, Kind
from hil.wire_session import Arm, Capability
from hil.wire_verbs import Mvm, Op, Program, Pulse, Read, Shape, Step, Trace, Update
from simulated_backend.settings import EmulatorSettings, PeripherySettings

ROWS, COLS = 4, 3
CELLS = ROWS * COLS
ALL = np.ones(CELLS, dtype=bool)
SHAPE, WIDE = Shape(1.0, -1.0, 1e-6), Shape(1.0, -1.0, 1.0)
"""The nominal pulse, and one of a second: a hundred thousand of these take longer than any test."""


def pulse(shape=SHAPE, count=1):
    return Pulse(shape, np.full(CELLS, count, dtype=np.int32)).pack()


def update(shape=SHAPE, samples=1):
    rows, cols = np.full((samples, ROWS), 3, dtype=np.uint32), np.full((samples, COLS), 0x80000003, dtype=np.uint32)
    return Update(shape, np.full(samples, 2, dtype=np.uint8), rows, cols).pack()


def trace(shape=SHAPE, pulses=2, read_v=0.1):
    return Trace(shape, read_v, 1, np.ones(pulses, dtype=bool), ALL).pack()


def program(shape=SHAPE, *ops, read_v=0.1):
    return Program(shape, read_v, ALL, tuple(Op(*op) for op in ops or ((Step.PULSE_UP, 2),))).pack()


def read(read_v=0.1):
    return Read(read_v, 1, ALL).pack()


def mvm(volt_per_code=0.001, code=100):
    return Mvm(False, volt_per_code, np.full((1, ROWS), code, dtype=np.int16)).pack()


PULSING = [(Kind.PULSE, pulse), (Kind.UPDATE, update), (Kind.TRACE, trace), (Kind.PROGRAM, program)]
READING = [(Kind.READ, read), (Kind.MVM, mvm)]
EVERY_PULSING = pytest.mark.parametrize(("kind", "make"), PULSING, ids=lambda x: getattr(x, "name", ""))
EVERY_READING = pytest.mark.parametrize(("kind", "make"), READING, ids=lambda x: getattr(x, "name", ""))


class TestArming:
    @EVERY_PULSING
    def test_no_pulse_before(self, fresh_host, kind, make):
        host = fresh_host()
        host.open()
        assert host.code(kind, make()) == Code.DISARMED
        host.arm()
        host.done(kind, make())

    @EVERY_READING
    def test_reads_need_none(self, fresh_host, kind, make):
        host = fresh_host()
        host.open()
        host.done(kind, make())

    def test_safe_disarms_and_confirms(self, host):
        assert host.done(Kind.SAFE) == b"\1"
        assert host.code(Kind.PULSE, pulse()) == Code.DISARMED
        assert host.status().armed == 0
        host.arm()
        host.done(Kind.PULSE, pulse())

    def test_a_new_session_is_disarmed(self, host):
        host.done(Kind.CLOSE)
        host.open(9)
        assert host.code(Kind.PULSE, pulse()) == Code.DISARMED

    @pytest.mark.parametrize("value", [-1.0, math.inf])
    def test_limits_that_are_none(self, host, value):
        body = Arm(1.0, 1.0, value, 1.0, 1.0, 1.0, 1.0, 1).pack()
        assert host.code(Kind.ARM, body) == Code.MALFORMED


class TestLimits:
    @EVERY_PULSING
    @pytest.mark.parametrize(
        ("limit", "inside", "outside"),
        [
            ("up_v_max", Shape(0.9, -1.0, 1e-6), Shape(0.901, -1.0, 1e-6)),
            ("down_v_max", Shape(1.0, -0.9, 1e-6), Shape(1.0, -0.901, 1e-6)),
            ("half_select_v_max", Shape(1.8, -1.8, 1e-6), Shape(1.8, -1.801, 1e-6)),
            ("width_s_max", Shape(1.0, -1.0, 0.9), Shape(1.0, -1.0, 0.91)),
        ],
        ids=lambda x: x if isinstance(x, str) else "",
    )
    def test_of_the_pulse(self, host, kind, make, limit, inside, outside):
        """A bound is allowed, one grain beyond is refused, and a refused request has pulsed nothing."""
        host.arm(**{limit: 0.9})
        said = host.refused(kind, make(outside))
        assert (said.code, said.pulses) == (Code.LIMIT, 0)
        assert host.pulses == 0
        host.done(kind, make(inside))

    @EVERY_PULSING
    def test_of_pulses_of_a_cell(self, host, kind, make):
        host.arm(pulses=0)
        assert host.code(kind, make()) == Code.LIMIT
        assert host.pulses == 0
        host.arm(pulses=2)
        host.done(kind, make())

    def test_of_pulses_of_a_cell_counts_the_whole_request(self, host):
        host.arm(pulses=5)
        assert host.code(Kind.UPDATE, update(samples=3)) == Code.LIMIT
        assert host.code(Kind.PROGRAM, program(WIDE, (Step.LOOP, 3), (Step.PULSE_DOWN, 2), (Step.END, 0))) == Code.LIMIT
        cells = np.zeros(CELLS, dtype=np.int32)
        cells[[2, 7]] = 5, -6
        said = host.refused(Kind.PULSE, Pulse(WIDE, cells).pack())
        assert (said.code, said.operation) == (Code.LIMIT, 7)
        assert host.pulses == 0

    @pytest.mark.parametrize(
        ("kind", "make"),
        [
            (Kind.READ, read),
            (Kind.MVM, lambda v: mvm(v / 100)),
            (Kind.MVM, lambda v: mvm(-v / 100)),
            (Kind.TRACE, lambda v: trace(read_v=v)),
            (Kind.PROGRAM, lambda v: program(read_v=v)),
        ],
    )
    def test_of_the_read_voltage(self, host, kind, make):
        """The board's own bound, then that of the limits, which holds on where the board was disarmed since."""
        assert host.code(kind, make(0.21)) == Code.UNABLE
        host.done(kind, make(0.2))
        host.arm(read_v_max=0.1)
        assert host.code(kind, make(0.11)) == Code.LIMIT
        host.done(kind, make(0.1))
        host.done(Kind.SAFE)
        assert host.code(kind, make(0.11)) in (Code.LIMIT, Code.DISARMED)

    def test_names_the_sample(self, host):
        codes = np.ones((3, ROWS), dtype=np.int16)
        codes[2, 1] = -300
        said = host.refused(Kind.MVM, Mvm(False, 0.001, codes).pack())
        assert (said.code, said.operation) == (Code.UNABLE, 2)

    def test_one_common_voltage(self, fresh_host):
        one_bit = EmulatorSettings(rows=ROWS, cols=COLS, periphery=PeripherySettings(dac_bits=1))
        host = fresh_host(array=one_bit)
        host.open()
        codes = np.array([[0, 1, 1, -1], [1, 2, 0, 0]], dtype=np.int16)
        assert host.refused(Kind.MVM, Mvm(False, 0.1, codes).pack()).operation == 1
        host.done(Kind.MVM, Mvm(False, 0.2, codes[:1]).pack())


class TestAbilities:
    @EVERY_PULSING
    @pytest.mark.parametrize(
        "shape",
        [
            Shape(5.1, -1.0, 1e-6),
            Shape(1.0005, -1.0, 1e-6),
            Shape(1.0, -1.0, 2.0),
            Shape(1.0, -1.0, 1.5e-8),
            Shape(1.0, -1.0, 0.0),
            Shape(1.0, -1.0, 1e-6, gate_up_v=0.5),
            Shape(1.0, -1.0, 1e-6, compliance_a=1e-3),
        ],
        ids=str,
    )
    def test_what_it_cannot_do(self, host, kind, make, shape):
        assert host.code(kind, make(shape)) == Code.UNABLE
        assert host.pulses == 0

    @EVERY_PULSING
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_what_is_no_pulse(self, host, kind, make, value):
        assert host.code(kind, make(Shape(value, -1.0, 1e-6))) == Code.MALFORMED

    def test_a_limit_on_what_it_has_not(self, host):
        host.arm(compliance_a_max=1e-3)
        assert host.code(Kind.PULSE, pulse()) == Code.LIMIT

    def test_are_told(self, fresh_host):
        able = fresh_host().hello().capabilities
        assert able == Capability.REFERENCE | Capability.INTERLOCK | Capability.TEMPERATURE | Capability.COUNTERS
        bare = EmulatorSettings(rows=ROWS, cols=COLS, count_pulses=False, periphery=PeripherySettings(reference="mid"))
        host = fresh_host(array=bare, temperature_c=None)
        assert host.hello().capabilities == Capability.INTERLOCK
        host.open()
        assert host.code(Kind.REFERENCE, np.full(CELLS, 1e-4, dtype="<f4").tobytes()) == Code.UNABLE
        assert math.isnan(host.status().temperature_c)


class TestWatchdog:
    @EVERY_PULSING
    def test_grounds_and_disarms_when_the_host_is_silent(self, host, kind, make):
        host.now_s += 2.1
        host.board.tick()
        assert not host.board.truth()["armed"]
        said = host.refused(kind, make())
        assert (said.code, said.pulses) == (Code.WATCHDOG, 0)
        assert host.pulses == 0
        assert host.status().trips == 1
        host.arm()
        host.done(kind, make())

    @pytest.mark.parametrize("kind", [Kind.HEARTBEAT, Kind.ABORT, Kind.STATUS])
    def test_is_fed_by_every_frame_of_the_session(self, host, kind):
        for _ in range(3):
            host.now_s += 1.9
            host.bytes_in(host.frame(kind, b"", 1).encode()[:-1])
        host.done(Kind.PULSE, pulse())

    def test_is_not_fed_by_anything_else(self, host):
        host.now_s += 1.9
        host.hello()
        good = host.frame(Kind.HEARTBEAT).encode()[:-1]
        host.bytes_in(good[:-1])
        host.session += 1
        host.bytes_in(host.frame(Kind.HEARTBEAT).encode()[:-1])
        host.session -= 1
        host.now_s += 0.2
        assert host.code(Kind.PULSE, pulse()) == Code.WATCHDOG

    def test_sees_what_came_while_the_board_was_at_work(self, host):
        host.coming = lambda: [host.frame(Kind.HEARTBEAT)]
        host.now_s += 2.1
        host.board.tick()
        host.done(Kind.PULSE, pulse())

    def test_leaves_a_board_that_is_not_armed_alone(self, host):
        host.done(Kind.SAFE)
        host.now_s += 10
        assert host.status().trips == 0

    def test_the_session_outlives_it(self, host):
        first = host.request(Kind.PULSE, pulse())
        host.now_s += 10
        host.board.tick()
        assert host.ask(host.frame(Kind.PULSE, pulse(), host.sequence)) == first
        assert host.pulses == CELLS

    @EVERY_PULSING
    def test_stops_a_request_under_way(self, fresh_host, kind, make):
        """Device time runs (real seconds, so small), the host says nothing: some pulses at most, and their number told."""
        host = fresh_host(time_scale=1e-3)
        host.open()
        host.arm(pulses=10**6)
        host.coming = lambda: setattr(host, "now_s", host.now_s + 1.5) or []
        long = {Kind.PULSE: pulse(WIDE, 10**5), Kind.UPDATE: update(WIDE, 1000), Kind.TRACE: trace(WIDE, 1000)}
        said = host.refused(kind, long.get(kind) or program(WIDE, (Step.PULSE_UP, 10**5)))
        assert said.code == Code.ABORTED
        assert said.pulses == host.pulses
        assert 0 < said.pulses < 24_000
        assert host.code(Kind.PULSE, pulse()) == Code.WATCHDOG


class TestAbort:
    @EVERY_PULSING
    def test_stops_at_the_next_pulse(self, fresh_host, kind, make):
        """100 real seconds are asked for; two looks at the link in, an ABORT comes."""
        host = fresh_host(time_scale=1e-3)
        host.open()
        host.arm(pulses=10**6)
        looks = []
        host.coming = lambda: looks.append(1) or [host.frame(Kind.ABORT)] * (len(looks) > 1)
        long = {Kind.PULSE: pulse(WIDE, 10**5), Kind.UPDATE: update(WIDE, 1000), Kind.TRACE: trace(WIDE, 1000)}
        said = host.refused(kind, long.get(kind) or program(WIDE, (Step.PULSE_UP, 10**5)))
        assert said.code == Code.ABORTED
        assert said.pulses == host.pulses
        assert said.pulses > 0
        assert host.code(Kind.PULSE, pulse(), Flag.POSTED) == Code.SKIPPED
        host.coming = list
        host.done(Kind.PULSE, pulse())

    def test_stops_a_read(self, fresh_host):
        host = fresh_host(time_scale=1.0)
        host.open()
        host.coming = lambda: [host.frame(Kind.ABORT)]
        assert host.code(Kind.READ, Read(0.1, 65535, ALL).pack()) == Code.ABORTED


class TestInterlock:
    @pytest.mark.parametrize(("kind", "make"), PULSING + READING, ids=lambda x: getattr(x, "name", ""))
    def test_nothing_is_driven_while_it_is_open(self, host, kind, make):
        host.panel.order("open_interlock", 0)
        host.board.tick()
        assert host.code(kind, make()) == Code.INTERLOCK
        assert host.pulses == 0
        assert host.status().interlock_open == 1
        host.panel.order("close_interlock", 0)
        host.done(kind, make())

    @EVERY_PULSING
    @pytest.mark.parametrize("after", [1, 5, 13, 23])
    def test_opened_in_the_middle_of_a_request(self, host, kind, make, after):
        """Every request here has 24 pulses: as many as came before are applied and told, and where it ended."""
        body = pulse(count=2) if kind == Kind.PULSE else make()
        host.panel.order("open_interlock", after)
        said = host.refused(kind, body)
        assert (said.code, said.pulses, host.pulses) == (Code.INTERLOCK, after, after)
        assert said.operation == {Kind.PULSE: after // 2, Kind.TRACE: after // 12}.get(kind, 0)
        assert host.code(kind, body) == Code.INTERLOCK

    def test_opened_behind_the_last_pulse(self, host):
        host.panel.order("open_interlock", 12)
        host.done(Kind.PULSE, pulse())
        assert host.code(Kind.PULSE, pulse()) == Code.INTERLOCK
        assert host.pulses == 12

    def test_counts_over_requests(self, host):
        host.panel.order("open_interlock", 30)
        host.done(Kind.PULSE, pulse())
        host.done(Kind.UPDATE, update(samples=0))
        host.done(Kind.PULSE, pulse())
        assert host.refused(Kind.UPDATE, update(samples=2)).pulses == 6


class TestReboot:
    @EVERY_PULSING
    @pytest.mark.parametrize("after", [1, 5, 24])
    def test_in_the_middle_of_a_request(self, host, kind, make, after):
        """Nobody answers; the pulses before it stay; there is another nonce and no session."""
        host.panel.order("reboot", after)
        nonce = host.board.nonce
        frame = host.frame(kind, pulse(count=2) if kind == Kind.PULSE else make(), 2)
        assert host.bytes_in(frame.encode()[:-1]) == []
        assert host.pulses == after
        assert host.board.nonce != nonce
        assert host.error(host.ask(frame)).code == Code.NONCE
        assert host.code(Kind.STATUS) == Code.SESSION
        assert host.pulses == after
        host.open()
        assert host.code(kind, make()) == Code.DISARMED
        assert (host.status().pulses, host.status().operations) == (0, 3)

    def test_keeps_the_conductances_and_forgets_the_references(self, host):
        host.pulse([7, -3])
        before = torch.tensor(host.board.truth()["conductances"])
        host.done(Kind.REFERENCE, np.full(CELLS, 1.2e-4, dtype="<f4").tobytes())
        shifted = host.done(Kind.MVM, mvm())
        host.panel.order("reboot", 0)
        host.board.tick()
        assert host.panel.counts["rebooted"] == 1
        torch.testing.assert_close(torch.tensor(host.board.truth()["conductances"]), before, rtol=1e-6, atol=0)
        host.open()
        up, down = np.array(shifted), np.array(host.done(Kind.MVM, mvm()))
        assert up != down

    def test_closes_no_interlock(self, host):
        host.panel.order("open_interlock", 0)
        host.panel.order("reboot", 0)
        host.board.tick()
        host.board.tick()
        assert host.board.truth()["interlock_open"]
        assert host.panel.counts["rebooted"] == 1

    def test_what_was_executed_stays_known(self, host):
        host.pulse()
        host.panel.order("reboot", 1)
        host.bytes_in(host.frame(Kind.PULSE, host.pulse_body(), 3).encode()[:-1])
        assert host.board.truth()["executed"]["sessions"] == {f"{host.session:08x}": 3}


def test_the_reply_tells_the_pulses(host):
    assert struct.unpack("<I", host.done(Kind.PULSE, pulse(count=-3))) == (36,)
    assert struct.unpack("<I", host.done(Kind.UPDATE, update(samples=2))) == (48,)
    truth = host.board.truth()
    assert np.sum(truth["pulses_down"]) == 84
    assert host.panel.counts["pulses"] == 84
