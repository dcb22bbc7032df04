"""The probe station as a whole, over the wires of its twin: what moves when, and what may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hil.backend import PulseShape
from hil.errors import HardwareError, UsageError
from hil.ledger import Ledger
from hil.station import Site, Station, open_station

pytestmark = pytest.mark.slow

SHAPE = PulseShape(1.0, -1.0, 1e-6)
FIRST, SECOND = Site((0, 0)), Site((1, 0))


@contextmanager
def opened(tapped: Any, folder: Path) -> Iterator[Station]:
    with Ledger.create(folder, "test", None) as ledger, open_station(tapped.config, folder / "state", ledger) as station:
        yield station


def counts(**cells: int) -> torch.Tensor:
    """int32 [1 4 4]: r1c2=-3 puts -3 on row 1, col 2."""
    filled = torch.zeros(1, 4, 4, dtype=torch.int32)
    for name, count in cells.items():
        filled[0, int(name[1]), int(name[3])] = count
    return filled


def moves(tapped: Any) -> list[str]:
    """What moved the chuck, without its arguments."""
    said = [unit.split(" ")[0].split("(")[0] for unit in tapped.tap.on("prober")]
    return [unit for unit in said if unit.startswith(("move_chuck", "map:step"))]


def give_up(board: Any) -> None:
    """A procedure that fails with pulses behind it."""
    board.pulse(counts(r0c0=1), SHAPE)
    raise UsageError("given up")


def test_opening_switches_off_and_separates_and_steps_nowhere(station: Any, tmp_path: Path) -> None:
    tapped = station()
    with opened(tapped, tmp_path) as made:
        assert made.sites() == [FIRST, SECOND]
        assert set(moves(tapped)) == {"move_chuck_separation"}
        assert tapped.applied() == {}
    tapped.tap.check_order()


def test_pulses_go_to_the_cells_of_the_die_in_contact(station: Any, tmp_path: Path) -> None:
    tapped = station()
    with opened(tapped, tmp_path) as made:
        with made.contact(FIRST) as bench:
            bench.backends["main"].pulse(counts(r0c1=3, r2c3=-2), SHAPE)
            bench.backends["main"].status()
            assert tapped.applied("0,0,0") == {(0, 1): (3, 0), (2, 3): (0, 2)}
        with made.contact(SECOND) as bench:
            bench.backends["main"].pulse(counts(r3c3=1), SHAPE)
            bench.backends["main"].status()
        assert tapped.applied("1,0,0") == {(3, 3): (1, 0)}
        assert tapped.applied("0,0,0") == {(0, 1): (3, 0), (2, 3): (0, 2)}
    # Open and off at every step, a look at the crosspoints and the door before every execute.
    tapped.tap.check_order()
    assert moves(tapped)[-1] == "move_chuck_separation"


def test_an_exception_in_contact_grounds_and_separates(station: Any, tmp_path: Path) -> None:
    tapped = station()
    with opened(tapped, tmp_path) as made:
        with pytest.raises(UsageError, match="given up"), made.contact(FIRST) as bench:
            give_up(bench.backends["main"])
        assert moves(tapped)[-1] == "move_chuck_separation"
        with made.contact(FIRST) as bench:
            assert bench.read_cells("main", torch.ones(1, 4, 4, dtype=torch.bool)).isfinite().all()
    tapped.tap.check_order()


def test_a_die_without_contact_is_said_and_the_next_one_is_measured(station: Any, tmp_path: Path) -> None:
    tapped = station(wafer={"columns": 2, "rows": 1, "no_contact": [[0, 0]]})
    with opened(tapped, tmp_path) as made:
        with pytest.raises(HardwareError, match=r"die\+0\+0\.site0: no contact"), made.contact(FIRST):
            pass
        with made.contact(SECOND) as bench:
            assert bench.read_cells("main", torch.ones(1, 4, 4, dtype=torch.bool)).min() > 1e-6
    tapped.tap.check_order()


def test_a_place_off_the_map_is_refused_before_anything_moves(station: Any, tmp_path: Path) -> None:
    tapped = station()
    with opened(tapped, tmp_path) as made:
        before = len(tapped.tap.said)
        with pytest.raises(UsageError, match="not on the prober's map"), made.contact(Site((7, 7))):
            pass
        assert len(tapped.tap.said) == before


def test_nothing_steps_while_the_door_is_open(station: Any, tmp_path: Path) -> None:
    tapped = station()
    with opened(tapped, tmp_path) as made:
        tapped.twin.panel.order("open_interlock", 1)
        with pytest.raises(HardwareError, match="door is open"), made.contact(FIRST):
            pass
        assert set(moves(tapped)) == {"move_chuck_separation"}
        tapped.twin.panel.order("open_interlock", 0)
        with made.contact(FIRST):
            assert any(unit.startswith("map:step") for unit in moves(tapped))
    tapped.tap.check_order()


def test_no_pulse_comes_after_the_door_was_opened_in_contact(station: Any, tmp_path: Path) -> None:
    tapped = station()
    with opened(tapped, tmp_path) as made, made.contact(FIRST) as bench:
        tapped.twin.panel.order("open_interlock", 1)
        executes = tapped.tap.executes()
        with pytest.raises(HardwareError, match="door"):
            bench.backends["main"].pulse(counts(r0c0=1), SHAPE)
        assert tapped.tap.executes() == executes
        tapped.twin.panel.order("open_interlock", 0)
    assert tapped.applied() == {}
    tapped.tap.check_order()


def test_a_chuck_outside_its_temperatures_is_not_moved(station: Any, tmp_path: Path) -> None:
    tapped = station(changes=["station.settings.chuck_min_c=400"])
    with opened(tapped, tmp_path) as made:
        with pytest.raises(HardwareError, match=r"the chuck is at .* not at 400 to 500"), made.contact(FIRST):
            pass
        assert set(moves(tapped)) == {"move_chuck_separation"}


def test_a_second_station_on_the_same_instruments_is_refused(station: Any, tmp_path: Path) -> None:
    tapped = station()
    with opened(tapped, tmp_path / "one"):
        before = len(tapped.tap.said)
        with pytest.raises(HardwareError), opened(tapped, tmp_path / "two"):
            pass
        assert len(tapped.tap.said) == before
