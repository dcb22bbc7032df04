"""A crossbar on the probe station: the eight verbs end to end against the twin, the order of what is said on the wires, and
what goes wrong on the way."""

from __future__ import annotations

import math
from contextlib import ExitStack, closing

import pytest
import torch

from drivers.probe_cells import CellSettings
from drivers.probe_rack import Rack, RackSettings
from drivers.probe_station import plugin
from hil.backend import ArrayBackend, PulseShape
from hil.encoding import PulseTrain
from hil.errors import HardwareError, LimitError, PulseOutcomeUnknown, ShapeError, UsageError
from hil.ledger import Ledger
from hil.plugins import Wanted
from hil.station import Site, open_station

pytestmark = pytest.mark.slow

SHAPE = PulseShape(1.0, -1.0, 1e-6)
SMU_S = 20e-6 * 1e-4 / 0.2
"""Standard deviation of a quiet reading, siemens: that of the twin's SMU in its range of 100 uA, at 0.2 V."""
PMU_S = 47e-9 * math.sqrt(0.95 / 18.95) / 0.2
"""Of a reading within a train: 0.95 us settle, the window lasts 18.95 us."""
DIE = Site((0, 0))
WRONG = ("rejected", "hot_switched", "shorted_terminals", "left_on", "unsettled_readings", "pulses_into_nothing")
"""Counters of the twin that stay at nothing in ordinary use."""


@pytest.fixture
def touched(station, tmp_path):
    """In contact with the first die: ``touched(...)`` as ``station``; returns (it, guarded board, driver, ledger)."""
    with ExitStack() as closing:
        ledger = closing.enter_context(Ledger.create(tmp_path / "runs", "test", {}))

        def touch(**settings):
            made = station(**settings)
            opened = closing.enter_context(open_station(made.config, tmp_path / "state", ledger))
            board = closing.enter_context(opened.contact(DIE)).backends["main"]
            return made, board, board.inner, ledger

        yield touch


def some(*cells):
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    for cell in cells:
        mask[(0, *cell)] = True
    return mask


def counts(**pulses):
    """counts(c12=3): three pulses up on row 1, column 2."""
    made = torch.zeros(1, 4, 4, dtype=torch.int32)
    for cell, number in pulses.items():
        made[0, int(cell[1]), int(cell[2])] = number
    return made


def truth(made):
    return torch.tensor(made.twin.truth()["dies"]["0,0,0"]["g_siemens"])[None]


def test_the_eight_verbs(touched):
    """Six standard deviations each on some 80 readings: false alarm 2e-7; a gain off by 0.1 % is caught."""
    made, board, driver, _ = touched(seed=5)
    assert isinstance(driver, ArrayBackend)
    board.pulse(counts(c00=300, c12=-200, c33=1), SHAPE)
    assert made.applied() == {(0, 0): (300, 0), (1, 2): (0, 200), (3, 3): (1, 0)}

    every = torch.ones(1, 4, 4, dtype=torch.bool)
    torch.testing.assert_close(board.read(every, averages=150), truth(made), rtol=0, atol=6 * SMU_S / math.sqrt(150))
    seen = board.read(some((1, 2), (0, 3)))
    assert seen.isfinite().nonzero().tolist() == [[0, 0, 3], [0, 1, 2]]
    torch.testing.assert_close(seen[0, 1, 2], truth(made)[0, 1, 2], rtol=0, atol=6 * SMU_S)

    signs = torch.tensor([1] * 40 + [-1] * 20, dtype=torch.int8)
    before = made.tap.executes()
    seen = board.trace(signs, some((0, 1), (2, 2)), SHAPE, every=4)
    assert made.tap.executes() - before == 2, "one execute a cell"
    assert seen.shape == (1, 4, 4, 15)
    assert seen[..., -1].isfinite().nonzero().tolist() == [[0, 0, 1], [0, 2, 2]]
    last = seen[0, [0, 2], [1, 2], -1]
    torch.testing.assert_close(last, truth(made)[0, [0, 2], [1, 2]], rtol=0, atol=6 * PMU_S)
    assert bool((seen[0, 2, 2, :10].diff() > -10 * PMU_S).all()), "up"
    assert made.applied()[(0, 1)] == made.applied()[(2, 2)] == (40, 20)

    rows = PulseTrain.given(
        torch.tensor([[[0b0111, 0, 0b1000, 0]]], dtype=torch.int32), torch.tensor([[[1, 1, -1, 1]]], dtype=torch.int8),
        torch.tensor([[4]], dtype=torch.int32),
    )  # fmt: skip
    cols = PulseTrain.given(
        torch.tensor([[[0b1110, 0, 0b1001, 0]]], dtype=torch.int32), torch.tensor([[[1, 1, 1, 1]]], dtype=torch.int8),
        torch.tensor([[4]], dtype=torch.int32),
    )  # fmt: skip
    was = made.applied()
    board.update(rows, cols, SHAPE)
    now = made.applied()
    # Coincidences: row 0 fires in slots 0-2, column 0 in 1-3, column 2 in 0 and 3; row 2 in slot 3, the other way.
    assert {cell: now[cell] for cell in now if now[cell] != was.get(cell)} == {
        (0, 0): (302, 0), (0, 2): (1, 0), (2, 0): (0, 1), (2, 2): (40, 21),
    }  # fmt: skip

    for direction, summed in (("forward", 1), ("backward", 2)):
        volts = torch.tensor([[[0.2, 0.0, -0.1, 0.05]]])
        current = board.mvm(volts, direction)
        g = truth(made) if direction == "forward" else truth(made).transpose(1, 2)
        assert summed
        torch.testing.assert_close(current, volts @ g, rtol=0, atol=6 * SMU_S * 0.3)

    status = board.status()
    assert (status["interlock"], status["chuck_c"], status["over_range"]) == ("closed", 25.0, 0)
    assert status["operations"] > 0
    assert 0 < status["cpu_s"] < 60
    assert status["pmu"]["pulses"] == made.count("pulses")
    assert status["closures"] == sum(made.twin.truth()["closures"].values())
    assert board.safe()
    assert (made.twin.truth()["on"], made.twin.truth()["closed"]) == ({}, [])
    made.tap.check_order()
    assert {name: made.count(name) for name in WRONG} == dict.fromkeys(WRONG, 0)


def test_reading_with_the_pulse_unit(touched):
    made, board, _, _ = touched(seed=6, changes=['boards.main.settings.read_with="pmu"'])
    before = made.count("smu_readings")
    seen = board.read(some((1, 1), (2, 3)), averages=64)
    torch.testing.assert_close(seen[0, [1, 2], [1, 3]], truth(made)[0, [1, 2], [1, 3]], rtol=0, atol=6 * PMU_S / 8)
    assert made.count("smu_readings") == before == 0
    assert made.count("pulses") == 0
    made.tap.check_order()


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        (PulseShape(1.0, -1.0, 1e-6, gate_up_v=1.0), "gate_up_v is nothing that a 4225-PMU has"),
        (PulseShape(1.0, -1.0, 1e-6, compliance_a=1e-3), "compliance_a is nothing"),
        (PulseShape(10.5, -1.0, 1e-6), "up_v = 10.5 is outside -10 to 10"),
        (PulseShape(1.0, -11.0, 1e-6), "down_v = -11 is outside"),
        (PulseShape(1.0, -1.0, 1e-7), "width_s = 1e-07 is outside 1.2e-07 to"),
        (PulseShape(1.0, -1.0, 1.0), "width_s = 1 is outside"),
        (PulseShape(1.0, -1.0, 1.005e-6), "no multiple of 10 ns"),
        (PulseShape(math.nan, -1.0, 1e-6), "up_v = nan"),
    ],
)
def test_refused_before_a_byte_is_sent(touched, shape, match):
    """By the driver itself, without the guard; every width within ``info.width_s`` on its grain is taken."""
    made, _, driver, _ = touched()
    for width_s in (driver.info.width_s.low, driver.info.width_s.high):
        driver._rack.pmu.pulse_train(1.0, width_s, 1)
        driver._rack.pmu.trace_train([1, -1], driver._tops(PulseShape(1.0, -1.0, width_s)), 0.2)
    said = len(made.tap.said)
    signs, one = torch.ones(2, dtype=torch.int8), some((0, 0))
    with pytest.raises(LimitError, match=match):
        driver.pulse(counts(c00=1), shape)
    with pytest.raises(LimitError, match=match):
        driver.trace(signs, one, shape)
    with pytest.raises(ShapeError):
        driver.pulse(counts(c00=1).long(), SHAPE)
    with pytest.raises(ShapeError):
        driver.trace(signs, one[0], SHAPE)
    with pytest.raises(UsageError):
        driver.read(one, averages=0)
    assert len(made.tap.said) == said


def test_overload(touched):
    """A short is read in the next larger range, by the SMU and within a train; at the current limit nothing is known."""
    short = {"columns": 2, "rows": 1, "shorted": [{"die": (0, 0), "cells": [(1, 1)]}]}
    made, board, driver, _ = touched(wafer=short)
    cell = some((1, 1))
    true = float(truth(made)[0, 1, 1])
    assert float(board.read(cell)[0, 1, 1]) == pytest.approx(true, rel=1e-3)
    assert made.count("overflows") == 2, "once as the contact was checked, once now"
    seen = board.trace(torch.tensor([1, -1], dtype=torch.int8), cell, SHAPE)[0, 1, 1]
    # 280 nA rms over 0.24 us in the range of 1 mA; the window lasts 19.66 us.
    assert seen.tolist() == pytest.approx([true] * 2, abs=6 * 280e-9 * math.sqrt(0.24 / 19.66) / 0.2)
    assert board.status()["over_range"] == 2
    # Nobody has read the cell: the first train is in the configured range, and is what that holds.
    driver._seen_a.zero_()
    signs = torch.tensor([1] * 5, dtype=torch.int8)
    assert board.trace(signs, cell, SHAPE)[0, 1, 1].tolist() == pytest.approx([1e-4 / 0.2] * 5, rel=1e-3)
    assert board.status()["over_range"] == 7
    assert board.trace(signs, cell, SHAPE)[0, 1, 1].tolist() == pytest.approx([true] * 5, rel=1e-2)


def test_at_the_current_limit(touched):
    short = {"columns": 2, "rows": 1, "shorted": [{"die": (0, 0), "cells": [(1, 1)]}]}
    _, board, _, _ = touched(wafer=short, changes=["station.settings.smu.limit_a=2e-4"])
    seen = board.read(some((1, 1), (0, 0)))
    assert math.isnan(seen[0, 1, 1])
    assert float(seen[0, 0, 0]) == pytest.approx(100e-6, rel=1e-2)


def test_a_relay_that_does_not_close(touched):
    made, board, driver, _ = touched()
    made.twin.panel.order("stuck_open", 2)
    with pytest.raises(HardwareError, match=r"1B05 closed, not 1A02,1B05: check cards and relays"):
        driver.pulse(counts(c00=3, c10=2, c20=1), SHAPE)
    assert made.applied() == {(0, 0): (3, 0)}, "the cells before it, and nothing after it"
    assert made.tap.executes() == 1
    with pytest.raises(HardwareError, match="closed, not"):
        board.read(some((1, 1)))
    made.twin.panel.order("stuck_open", 0)
    board.pulse(counts(c10=2), SHAPE)
    assert made.applied() == {(0, 0): (3, 0), (1, 0): (2, 0)}
    made.tap.check_order()


def test_a_relay_that_opens_behind_the_drivers_back(touched):
    """The crosspoints are asked for right before the execute, not only when they were closed."""
    made, _, driver, _ = touched()
    made.tap.before("pmu", ":PMU:PULSE:BURST:COUNT", lambda: made.twin.panel.order("stuck_open", 5))
    made.tap.before("pmu", ":PMU:PULSE:BURST:COUNT", lambda: rack_of(made).switch(rack_of(made).closed))
    with pytest.raises(HardwareError, match=r"1A01 closed, not 1A01, 1B05: connect again"):
        driver.pulse(counts(c00=1), SHAPE)
    assert made.tap.executes() == 0
    assert made.applied() == {}


def rack_of(made):
    """The twin's world."""
    return made.twin.truth.__self__


def test_a_lost_answer_in_the_middle(touched):
    """The pulses of the second cell of three were applied, and nobody was told: never again."""
    made, board, driver, ledger = touched()
    made.tap.lose("pmu", ":PMU:EXECUTE", nth=2)
    with pytest.raises(PulseOutcomeUnknown, match="5 pulses may be applied or not"):
        driver.pulse(counts(c00=5, c01=-5, c02=5), SHAPE)
    assert made.applied() == {(0, 0): (5, 0), (0, 1): (0, 5)}
    assert made.tap.executes() == 2
    # The guard reads the cells again, and goes on from what it sees.
    made.tap.lose("pmu", ":PMU:EXECUTE")
    board.pulse(counts(c00=1, c11=1), SHAPE)
    assert made.applied() == {(0, 0): (6, 0), (0, 1): (0, 5)}
    assert [event.payload["cells"] for event in ledger.run.events("reread")] == [2]
    assert ledger.pending() == []
    board.pulse(counts(c11=7), SHAPE)
    assert made.applied()[(1, 1)] == (7, 0)
    made.tap.check_order()
    assert {name: made.count(name) for name in WRONG} == dict.fromkeys(WRONG, 0)


@pytest.mark.parametrize("start", [":PMU:EXECUTE", ":PMU:TEST:STATUS?", ":PMU:DATA:GET"])
def test_a_trace_that_is_lost_raises(touched, start):
    """With its readings; questions that change nothing were asked twice before that. The next trace is whole."""
    made, board, _, ledger = touched()
    signs = torch.ones(20, dtype=torch.int8)
    made.tap.lose("pmu", start, times=1 if start == ":PMU:EXECUTE" else 2)
    with pytest.raises(PulseOutcomeUnknown):
        board.trace(signs, some((0, 0), (3, 3)), SHAPE)
    assert made.applied() == {(0, 0): (20, 0)}
    assert [operation.status for operation in ledger.run.operations()] == ["uncertain"]
    assert board.trace(signs, some((3, 3)), SHAPE)[0, 3, 3].isfinite().all()
    assert made.applied() == {(0, 0): (20, 0), (3, 3): (20, 0)}
    made.tap.check_order()


def test_a_lost_look_at_the_crosspoints(touched):
    """Asked once more; without an answer to that nothing is pulsed."""
    made, board, driver, _ = touched()
    made.tap.lose("matrix", "print(channel.getclose", nth=2)
    board.pulse(counts(c00=1), SHAPE)
    assert made.applied() == {(0, 0): (1, 0)}
    made.tap.lose("matrix", "print(channel.getclose", times=2)
    with pytest.raises(HardwareError, match="no answer") as caught:
        driver.pulse(counts(c00=1), SHAPE)
    assert not isinstance(caught.value, PulseOutcomeUnknown)
    assert made.applied() == {(0, 0): (1, 0)}
    made.tap.check_order()


def test_the_door_is_opened_in_the_middle(touched):
    """Before the second cell of three: it is not even wired up. While a cell is wired up: the instruments refuse."""
    made, board, driver, _ = touched()
    made.tap.before("prober", "get_door_status", lambda: made.twin.panel.order("open_interlock", 1), nth=2)
    with pytest.raises(HardwareError, match="the prober's door is open: close it"):
        driver.pulse(counts(c00=5, c01=5, c02=5), SHAPE)
    assert made.applied() == {(0, 0): (5, 0)}
    assert made.tap.executes() == 1
    assert board.status()["interlock"] == "open"
    with pytest.raises(HardwareError, match="door is open"):
        board.read(some((0, 0)))
    made.twin.panel.order("open_interlock", 0)
    made.tap.before("pmu", ":PMU:EXECUTE", lambda: made.twin.panel.order("open_interlock", 1), nth=2)
    with pytest.raises(HardwareError, match="Interlock is open") as caught:
        driver.pulse(counts(c10=5, c11=5, c12=5), SHAPE)
    assert not isinstance(caught.value, PulseOutcomeUnknown)
    assert made.applied() == {(0, 0): (5, 0), (1, 0): (5, 0)}
    assert made.tap.on("pmu")[-4:] == [
        ":PMU:ABORT", ":PMU:OUTPUT:STATE 1, 0", ":PMU:OUTPUT:STATE 2, 0", ":PMU:TEST:STATUS?",
    ]  # fmt: skip
    made.twin.panel.order("open_interlock", 0)
    board.pulse(counts(c12=5), SHAPE)
    made.tap.check_order()


def test_a_source_in_doubt_stops_the_switching_of_every_board(touched):
    """What one use left in doubt is settled before anybody switches a relay again."""
    made, board, driver, _ = touched()
    made.tap.lose("smu", "print(reading")
    with pytest.raises(HardwareError, match="no answer"):
        board.read(some((0, 0)))
    said = len(made.tap.said)
    # The same crossbar by another name: a second board on the instruments of the station.
    other = plugin.open(driver.settings, wanted())
    other.read(some((1, 1)))
    links = [link for link, unit in made.tap.said[said:] if not unit.startswith(("get_door", "status:"))]
    assert links[: links.index("matrix")] == ["pmu"] * 4 + ["smu"] * (links[: links.index("matrix")].count("smu"))
    assert "smu" in links[: links.index("matrix")]
    made.tap.check_order()
    # The pulse unit does not confirm that it is off: nothing is switched.
    made.tap.lose("smu", "print(reading")
    with pytest.raises(HardwareError, match="no answer"):
        board.read(some((0, 0)))
    switched = sum(unit.startswith("channel.") for unit in made.tap.on("matrix"))
    made.tap.lose("pmu", ":PMU:OUTPUT:STATE 2, 0")
    with pytest.raises(HardwareError, match="a source is not confirmed off, so nothing is switched"):
        other.read(some((2, 2)))
    assert sum(unit.startswith("channel.") for unit in made.tap.on("matrix")) == switched


def wanted(site: str = "die+0+0.site0", limits=None) -> Wanted:
    return Wanted("main", "", None, None, torch.zeros(1, dtype=torch.int64), 0, limits, site)


def test_instruments_of_ones_own(rack):
    """A bench without a station: the board opens the rack, and is always in contact."""
    twin = rack(wafer={"columns": 1, "rows": 1})
    rack_settings = {"links": {name: twin.links[name] for name in ("pmu", "smu", "matrix")}}
    settings = CellSettings.model_validate({"rack": rack_settings})
    with plugin.open(settings, wanted("")) as board:
        assert board.info.serial == "wafer/site"
        assert board.read(some((0, 0)))[0, 0, 0].abs() < 1e-7, "the chuck is separated"
        with pytest.raises(HardwareError, match="another harness has this board open"):
            plugin.open(settings, wanted(""))
        assert board.status()["matrix"]["closed"] == ["1C01", "1D05"]
    assert twin.truth()["closed"] == []


def test_no_instruments_or_two_of_them(touched):
    with pytest.raises(UsageError, match=r"boards.main.settings: no station 'station' is open: give instruments either"):
        plugin.open(CellSettings(), wanted())
    made, _, driver, _ = touched()
    with pytest.raises(UsageError, match="has the station 'station'"):
        plugin.open(driver.settings.model_copy(update={"rack": RackSettings(links=made.tap.links)}), wanted())


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"rows": 5}, UsageError, r"cell \(4, 3\) is not wired"),
        ({"read_v": 2.5}, UsageError, "read_v = 2.5 V is above smu.range_v = 2 V"),
        ({"read_v": 0.3}, LimitError, "limits.read_v_max = 0.2 V"),
    ],
)
def test_settings_that_do_not_fit_the_instruments(touched, changes, error, match):
    made, board, driver, _ = touched()
    with pytest.raises(error, match=match):
        plugin.open(driver.settings.model_copy(update=changes), wanted(limits=made.config.boards["main"].limits))
    assert board.read(some((0, 0))).isfinite().any()


def test_two_ends_of_a_cell():
    with pytest.raises(ValueError, match="must differ"):
        CellSettings(fast_row="A", fast_low_row="A")


def test_no_pulse_outside_of_a_wired_cell(rack):
    twin = rack()
    with closing(Rack(RackSettings(links=twin.links))) as one, pytest.raises(UsageError, match="without a wired cell"):
        one.pmu.pulses(1.0, 1e-6, 1)
    assert "executes" not in twin.panel.counts
