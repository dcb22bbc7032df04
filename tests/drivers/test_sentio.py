"""The prober's driver byte for byte, its refusals, its lost answers; and end to end against the twin's port."""

from __future__ import annotations

import pytest

from drivers.sentio import ProberSettings, Sentio
from hil.errors import HardwareError, LimitError

ANSWERS = {
    "status:get_version": "0,0,24.0.2.17", "move_chuck_separation": "0,0,11700.0", "move_chuck_contact": "0,0,12000.0",
    "map:step_first_die": "0,0,1,2,0", "map:step_next_die": "1024,0,2,2,0", "map:get_num_dies Selected": "0,0,2",
    "map:path:get_die 0": "0,0,1,2", "map:path:get_die 1": "0,0,2,2", "setup:contact_counter:get": "0,0,123",
    "status:get_chuck_temp": "0,0,25.3,25.0", "status:get_machine_status": "0,0,Ready", "get_door_status": "0,0,closed",
    "map:step_die 3, 4, 1": "0,0,3,4,1", "map:subsite:step_next": "0,0,1,2,1",
}  # fmt: skip


class Prober:
    """Answers as SENTIO does. Attributes: answers by command; silent, commands that get none, as often as told."""

    def __init__(self) -> None:
        self.answers = dict(ANSWERS)
        self.silent: dict[str, int] = {}

    def __call__(self, unit: str) -> str | None:
        if self.silent.get(unit, 0) > 0:
            self.silent[unit] -= 1
            return None
        return self.answers[unit]


@pytest.fixture
def station() -> Prober:
    return Prober()


@pytest.fixture
def prober(instruments, station):
    fake = instruments(b"\n", station)
    driver = Sentio(fake.address, ProberSettings(max_touchdowns=2, timeout_s=0.1, move_timeout_s=0.3))
    yield driver, fake
    driver.close()


def test_commands(prober):
    driver, fake = prober
    assert driver.separate()
    assert driver.step(3, 4, 1) == (3, 4, 1)
    driver.contact()
    assert driver.height == "contact"
    driver.separate()
    assert driver.step_first() == (1, 2, 0)
    assert driver.step_subsite() == (1, 2, 1)
    assert driver.step_next() == (2, 2, 0)
    assert driver.end_of_route, "bit 0 of the flags above the ten error bits"
    assert driver.step_next() is None
    assert driver.dies() == [(1, 2), (2, 2)]
    assert driver.contact_count() == 123
    assert driver.chuck_temperature_c() == 25.3
    assert driver.door_closed()
    assert fake.sent == [
        "status:get_version", "move_chuck_separation", "map:step_die 3, 4, 1", "move_chuck_contact", "move_chuck_separation",
        "map:step_first_die", "map:subsite:step_next", "map:step_next_die", "map:get_num_dies Selected",
        "map:path:get_die 0",
        "map:path:get_die 1", "setup:contact_counter:get", "status:get_chuck_temp", "get_door_status",
    ]  # fmt: skip
    assert driver.identity == "SENTIO 24.0.2.17"
    assert driver.status()["machine"] == "Ready"


def test_no_step_unless_seen_separated(prober):
    driver, fake = prober
    with pytest.raises(LimitError, match="height is unknown"):
        driver.step(3, 4, 1)
    driver.contact()
    with pytest.raises(LimitError, match="height is contact"):
        driver.step_first()
    with pytest.raises(LimitError, match="already in contact"):
        driver.contact()
    assert fake.sent == ["status:get_version", "move_chuck_contact"]


def test_touchdowns_are_limited(prober):
    driver, fake = prober
    for _ in range(2):
        driver.contact()
        driver.separate()
    with pytest.raises(LimitError, match="2 touchdowns made, 2 allowed"):
        driver.contact()
    assert fake.sent.count("move_chuck_contact") == 2


def test_error_code_is_the_low_ten_bits(prober, station):
    driver, _ = prober
    station.answers["move_chuck_contact"] = f"{(2 << 10) | 41},0,door open"
    with pytest.raises(HardwareError, match=r"error 41 \(door open\)"):
        driver.contact()
    assert driver.height == "unknown"
    assert driver.touchdowns == 0


def test_somewhere_else(prober, station):
    driver, _ = prober
    driver.separate()
    station.answers["map:step_die 3, 4, 1"] = "0,0,3,5,1"
    with pytest.raises(HardwareError, match=r"at \(3, 5, 1\) where \(3, 4, 1\) was asked for"):
        driver.step(3, 4, 1)


@pytest.mark.parametrize("said", ["hello", "0", "x,0,1", ""])
def test_no_answer_of_a_prober(prober, station, said):
    driver, _ = prober
    station.answers["setup:contact_counter:get"] = said
    with pytest.raises(HardwareError, match="is no answer"):
        driver.contact_count()


@pytest.mark.slow
def test_lost_answer_to_a_motion(prober, station):
    driver, fake = prober
    driver.separate()
    station.silent["map:step_first_die"] = 1
    with pytest.raises(HardwareError, match="no answer to 'map:step_first_die'"):
        driver.step_first()
    with pytest.raises(LimitError, match="height is unknown"):
        driver.step_first()
    assert fake.sent.count("map:step_first_die") == 1, "never sent again by itself"
    station.silent["move_chuck_separation"] = 1
    assert driver.separate(), "separating is asked for again"
    assert driver.step_first() == (1, 2, 0)
    station.silent["move_chuck_separation"] = 2
    assert not driver.separate()


@pytest.mark.slow
def test_a_touchdown_whose_answer_is_lost_is_counted(prober, station):
    driver, _ = prober
    station.silent["move_chuck_contact"] = 1
    with pytest.raises(HardwareError, match="no answer"):
        driver.contact()
    assert (driver.touchdowns, driver.height) == (1, "unknown")


@pytest.mark.parametrize(
    ("said", "closed"), [("closed", True), ("Door Closed", True), ("not closed", False), ("open", False)]
)
def test_only_a_closed_door_is_closed(prober, station, said, closed):
    driver, _ = prober
    station.answers["get_door_status"] = f"0,0,{said}"
    assert driver.door_closed() is closed


@pytest.mark.slow
def test_a_question_whose_answer_is_lost_is_asked_again(prober, station):
    driver, fake = prober
    station.silent["get_door_status"] = 1
    assert driver.door_closed()
    assert fake.sent.count("get_door_status") == 2


@pytest.mark.slow
def test_not_a_prober(instruments):
    fake = instruments(b"\n", lambda _: "-285\tTSP Syntax error")
    with pytest.raises(HardwareError, match="no SENTIO prober"):
        Sentio(fake.address)


def test_against_the_twin(rack):
    twin = rack(wafer={"columns": 2, "rows": 2, "sites": 2})
    with Sentio(twin.links["prober"]) as prober:
        assert prober.dies() == [(0, 0), (1, 0), (0, 1), (1, 1)]
        prober.separate()
        place = prober.step_first()
        seen = []
        while place is not None:
            seen.append(place[:2])
            prober.contact()
            prober.separate()
            place = prober.step_next()
        assert seen == prober.dies()
        assert prober.step(0, 1) == (0, 1, 0)
        assert prober.step_subsite() == (0, 1, 1)
        assert prober.contact_count() == prober.touchdowns == 4
        with pytest.raises(HardwareError, match="error 30"):
            prober.step(7, 7)
    assert twin.truth()["touchdowns"] == {"0,0,0": 1, "1,0,0": 1, "0,1,0": 1, "1,1,0": 1}
