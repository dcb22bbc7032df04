"""The ArC ONE driver and its twin, a process of its own, over a pty: pulses counted, readings true, losses reported."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drivers.arc_one import ArcOne, plugin
from drivers.arc_one_settings import ArcOneSettings
from drivers.links.twin import StartedTwin, TwinStart
from hil.backend import PulseShape
from hil.cli import main
from hil.encoding import PulseTrain, coincidence_counts
from hil.errors import HardwareError, PulseOutcomeUnknown
from hil.plugins import Wanted
from simulated_backend.twins.control import Control

pytestmark = pytest.mark.slow

ROWS, COLS = 8, 6
SHAPE = PulseShape(1.0, -1.0, 1e-6)
PERIPHERY = {"dac_bits": 0, "adc_bits": 0, "full_scale": float("inf"), "out_noise": 0.0, "reference": "none"}
ARRAY = {"rows": ROWS, "cols": COLS, "device": {"dw_min": 0.01}, "periphery": PERIPHERY}


class Rig:
    """A board and the control socket of its twin."""

    def __init__(self, board: ArcOne, control: Control) -> None:
        self.board, self.control = board, control

    def pulses(self) -> Tensor:
        """By the twin's own counters, int64 [2 row col]: up, down."""
        truth = self.control.truth()
        return torch.tensor([truth["pulses_up"], truth["pulses_down"]])

    def conductances(self) -> Tensor:
        return torch.tensor(self.control.truth()["conductances"], dtype=torch.float64)

    def count(self, name: str) -> int:
        return int(self.control.report()["counts"].get(name, 0))

    def refused(self) -> dict[str, int]:
        return {n: c for n, c in self.control.report()["counts"].items() if n.startswith("rejected")}


@pytest.fixture(scope="module")
def twin() -> Iterator[StartedTwin]:
    """One process for all tests; they look at what changes."""
    started = StartedTwin(TwinStart(name="arc-one", settings={"array": ARRAY, "seed": 5, "name": "main"}))
    yield started
    started.close()


@contextmanager
def opened(twin: StartedTwin, **changes: Any) -> Iterator[Rig]:
    """The driver on the twin's pty."""
    own: dict[str, Any] = {"words": ROWS, "bits": COLS, "gap_s": 0.0, "reset_s": 0.0, "timeout_s": 0.3} | changes
    settings = ArcOneSettings(link=twin.links["main"], serial="twin", **own)
    wanted = Wanted("main", "", None, None, torch.zeros(1, dtype=torch.int64), 0)
    with Control(twin.control) as control, plugin.open(settings, wanted) as board:
        yield Rig(board, control)


@pytest.fixture
def rig(twin: StartedTwin) -> Iterator[Rig]:
    """A board of which the twin refuses nothing that the test has sent."""
    with opened(twin) as made:
        before = made.refused()
        yield made
        assert made.refused() == before, "the twin refused something"


def everything() -> Tensor:
    return torch.ones(1, ROWS, COLS, dtype=torch.bool)


def test_readings_are_the_truth(rig: Rig) -> None:
    """Resistances and their inverses each round to float32: 2 ulp."""
    truth = rig.conductances()
    torch.testing.assert_close(rig.board.read(everything())[0].double(), truth, rtol=3e-7, atol=0.0)
    mask = torch.rand(1, ROWS, COLS, generator=torch.Generator().manual_seed(1)) < 0.3
    torch.testing.assert_close(rig.board.read(mask)[mask].double(), truth[mask[0]], rtol=3e-7, atol=0.0)


@pytest.mark.parametrize("acknowledge", [False, True])
def test_every_pulse_arrives_once_at_its_cell(twin: StartedTwin, acknowledge: bool) -> None:
    """Signed counts between -3 and 3 everywhere: lone pulses, columns at once, and both."""
    counts = torch.randint(-3, 4, (1, ROWS, COLS), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    with opened(twin, acknowledge=acknowledge) as rig:
        before = rig.pulses()
        rig.board.pulse(counts, SHAPE)
        rig.board.status()
        given = rig.pulses() - before
    assert torch.equal(given, torch.stack([counts[0].clamp(min=0), (-counts[0]).clamp(min=0)]).long())


def test_a_trace_is_what_pulses_and_readings_are(rig: Rig) -> None:
    polarity = torch.tensor([1, 1, 1, -1, -1], dtype=torch.int8)
    dense, sparse = everything(), torch.zeros(1, ROWS, COLS, dtype=torch.bool)
    sparse[0, 2, 3] = sparse[0, 5, 0] = True
    for mask, every in ((dense, 1), (sparse, 1), (sparse, 2)):
        before = rig.pulses()
        traced = rig.board.trace(polarity, mask, SHAPE, every)
        assert torch.equal(rig.pulses() - before, torch.stack([3 * mask[0], 2 * mask[0]]).long())
        assert traced.shape == (1, ROWS, COLS, 5 // every)
        assert torch.equal(~traced[..., 0].isnan(), mask)
        if every == 1:
            torch.testing.assert_close(traced[..., -1][mask].double(), rig.conductances()[mask[0]], rtol=3e-7, atol=0.0)


@pytest.mark.parametrize("read_v", [0.2, -0.1])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_products_are_those_of_the_conductances_read_back(rig: Rig, direction: Any, read_v: float) -> None:
    lines = ROWS if direction == "forward" else COLS
    on = torch.rand(1, 5, lines, generator=torch.Generator().manual_seed(3)) < 0.5
    volts = on.float() * read_v
    g = rig.board.read(everything()).double()
    expected = volts.double() @ (g if direction == "forward" else g.transpose(1, 2))
    torch.testing.assert_close(rig.board.mvm(volts, direction).double(), expected, rtol=2e-6, atol=1e-12)


def test_an_update_gives_every_cell_its_coincidences(rig: Rig) -> None:
    generator = torch.Generator().manual_seed(4)
    slots = torch.full((1, 3), 20, dtype=torch.int32)
    trains = []
    for lines in (ROWS, COLS):
        bits = torch.randint(0, 2**20, (1, 3, lines), generator=generator, dtype=torch.int32)
        sign = torch.randint(-1, 2, (1, 3, lines), generator=generator).to(torch.int8)
        trains.append(PulseTrain.given(bits, sign, slots))
    wanted = torch.stack([coincidence_counts(trains[0].at(k), trains[1].at(k))[0] for k in range(3)]).long()
    before = rig.pulses()
    rig.board.update(trains[0], trains[1], SHAPE)
    rig.board.read(everything())
    assert torch.equal(rig.pulses() - before, torch.stack([wanted.clamp(min=0).sum(0), (-wanted).clamp(min=0).sum(0)]))


def lone(count: int) -> Tensor:
    counts = torch.zeros(1, ROWS, COLS, dtype=torch.int32)
    counts[0, 1, 1] = count
    return counts


def test_a_board_that_reboots_among_posted_pulses_is_reported_and_none_is_repeated(twin: StartedTwin) -> None:
    with opened(twin) as rig:
        board = rig.board
        before = rig.pulses()
        rig.control.order(reboot=3)
        board.pulse(lone(10), SHAPE)
        with pytest.raises(PulseOutcomeUnknown, match="10 pulses"):
            board.read(everything())
        given = rig.pulses() - before
        # Three arrived; the others met a board without a session, which refused them.
        assert int(given.sum()) == int(given[0, 1, 1]) == 3
        assert float(board.read(everything())[0, 1, 1]) == pytest.approx(float(rig.conductances()[1, 1]), rel=3e-7)
        board.pulse(lone(1), SHAPE)
        board.status()
        assert int((rig.pulses() - before).sum()) == 4


def test_pulling_the_cable_is_survived(rig: Rig) -> None:
    rig.board.pulse(lone(2), SHAPE)
    rig.board.status()
    before, unplugged = rig.pulses(), rig.count("unplugged")
    rig.control.order(unplug=0.3)
    until_s = time.monotonic() + 10
    while rig.count("unplugged") == unplugged:
        assert time.monotonic() < until_s
    truth = rig.conductances()
    torch.testing.assert_close(rig.board.read(everything())[0].double(), truth, rtol=3e-7, atol=0.0)
    rig.board.pulse(lone(2), SHAPE)
    assert rig.board.safe() is True
    assert int((rig.pulses() - before).sum()) == 2


def test_lost_arguments_and_answers_of_readings_are_made_good(twin: StartedTwin) -> None:
    """One in fifty is lost: some readings fail for good, those that come are true, and no cell gets a pulse."""
    right = 0
    with opened(twin, timeout_s=0.1) as rig:
        truth = rig.conductances()
        rig.control.rates(drop=0.02, seed=1)
        for _ in range(30):
            with suppress(HardwareError):
                torch.testing.assert_close(rig.board.read(everything())[0].double(), truth, rtol=3e-7, atol=0.0)
                right += 1
        rig.control.rates(drop=0.0)
        assert right > 20
        assert rig.board.status()["recoveries"] > 0
        assert torch.equal(rig.conductances(), truth)


def test_a_second_harness_is_turned_away(rig: Rig, twin: StartedTwin) -> None:
    settings = ArcOneSettings(link=twin.links["main"], serial="twin")
    with pytest.raises(HardwareError, match="open"):
        plugin.open(settings, Wanted("main", "", None, None, torch.zeros(1, dtype=torch.int64), 0))


def test_the_shipped_bench_starts_its_twin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "twin-arc-one", "--runs", str(tmp_path)]) == 0
    assert "ArC ONE" in capsys.readouterr().out
