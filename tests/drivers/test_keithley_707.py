"""The switching matrix' driver byte for byte, its refusals, its lost answers; and end to end against the twin's port."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from drivers.keithley_707 import Keithley707, MatrixSettings, channel_name
from hil.errors import HardwareError, LimitError, UsageError

RULE = ["errorqueue.clear()", "channel.connectrule = channel.BREAK_BEFORE_MAKE", "print(errorqueue.count)"]
CLOSED = 'print(channel.getclose("allslots"), errorqueue.count)'


class Matrix:
    """Answers as a 707B does. Attributes: closed, as printed; stuck, printed whatever was asked; silent, prints skipped."""

    def __init__(self) -> None:
        self.closed = "nil"
        self.stuck: str | None = None
        self.silent = 0

    def __call__(self, unit: str) -> str | None:
        if unit == "*IDN?":
            return "KEITHLEY INSTRUMENTS INC.,MODEL 707B,1234567,01.40a"
        if unit.startswith('channel.exclusiveclose("'):
            self.closed = unit.split('"')[1].replace(",", ";")
        if unit == 'channel.open("allslots")':
            self.closed = "nil"
        if not unit.startswith("print("):
            return None
        if self.silent:
            self.silent -= 1
            return None
        if "getcount" in unit:
            return "12,30\t0.00000e+00"
        if "getclose" in unit:
            return f"{self.stuck or self.closed}\t0.00000e+00"
        return "0.00000e+00"


@pytest.fixture
def relays() -> Matrix:
    return Matrix()


@pytest.fixture
def matrix(instruments, relays):
    fake = instruments(b"\n", relays)
    driver = Keithley707(fake.address, MatrixSettings(timeout_s=0.3))
    yield driver, fake
    driver.close()


def test_a_cell_is_connected_exclusively_and_verified(matrix):
    driver, fake = matrix
    driver.connect_cell(0, 3, "A", "B")
    assert fake.since("*IDN?") == [*RULE, 'channel.exclusiveclose("1A01,1B08")', CLOSED]
    driver.connect_cell(0, 2, "A", "B")
    assert fake.sent[-2:] == ['channel.exclusiveclose("1A01,1B07")', CLOSED]
    assert driver.session_closures == {"1A01": 1, "1B08": 1, "1B07": 1}, "a relay that stays closed is not worn"
    driver.verify(["1A01", "1B07"])
    assert fake.sent[-1] == CLOSED


def test_names():
    assert channel_name(1, "A", 1) == "1A01"
    assert channel_name(6, "H", 12) == "6H12"
    for slot, row, column in ((0, "A", 1), (7, "A", 1), (1, "I", 1), (1, "a", 1), (1, "A", 0), (1, "A", 100)):
        with pytest.raises(UsageError):
            channel_name(slot, row, column)


def test_counters(matrix):
    driver, fake = matrix
    assert driver.closures(["1A01", "1B08"]) == {"1A01": 12, "1B08": 30}
    assert fake.sent[-1] == 'print(channel.getcount("1A01,1B08"), errorqueue.count)'


@pytest.mark.parametrize("pair", [("1A01", "1C01"), ("1C05", "1D05"), ("1B02", "1A02")])
def test_two_sources_never_meet(matrix, pair):
    driver, fake = matrix
    with pytest.raises(LimitError, match="must not be shorted"):
        driver.connect([*pair, "1D08"])
    assert fake.sent == ["*IDN?"]


def test_pairs_on_different_columns_are_no_short(matrix):
    driver, _ = matrix
    driver.connect(["1A01", "1C02", "1D05", "1D06"])


@pytest.mark.parametrize("channels", [[], ["1A1"], ["1A00"], ["A01"], ["1A01", "9B01"], ["1A01; channel.reset()"]])
def test_no_crosspoint(matrix, channels):
    driver, fake = matrix
    with pytest.raises(UsageError):
        driver.connect(channels)
    assert fake.sent == ["*IDN?"]


def test_cell_that_is_not_wired(matrix):
    driver, fake = matrix
    for cell in ((4, 0), (0, 4), (-1, 0)):
        with pytest.raises(UsageError, match="is not wired"):
            driver.connect_cell(*cell, "A", "B")
    assert fake.sent == ["*IDN?"]


def test_column_wired_twice():
    with pytest.raises(ValidationError, match="every column once"):
        MatrixSettings(row_columns=(1, 2), col_columns=(2, 3))


def test_stuck_relay(matrix, relays):
    driver, _ = matrix
    relays.stuck = "1A01,1B08,1C03"
    with pytest.raises(HardwareError, match=r"1A01, 1B08, 1C03 closed, not 1A01,1B08"):
        driver.connect_cell(0, 3, "A", "B")
    with pytest.raises(HardwareError, match="connect again"):
        driver.verify(["1A01", "1B08"])
    assert not driver.open_all()


@pytest.mark.slow
def test_lost_answers(matrix, relays):
    driver, fake = matrix
    driver.connect_cell(0, 0, "A", "B")
    relays.silent = 1
    with pytest.raises(HardwareError, match="no answer to"):
        driver.connect_cell(0, 1, "A", "B")
    assert fake.sent.count('channel.exclusiveclose("1A01,1B06")') == 1
    relays.silent = 1
    assert driver.open_all(), "opening is asked for again"
    assert fake.sent[-2:] == ['channel.open("allslots")', CLOSED]
    relays.silent = 2
    assert not driver.open_all()


def test_against_the_twin(rack):
    twin = rack()
    with Keithley707(twin.links["matrix"]) as matrix:
        assert matrix.closed() == frozenset()
        matrix.connect_cell(0, 0, "A", "B")
        matrix.connect_cell(0, 1, "A", "B")
        assert matrix.closed() == {"1A01", "1B06"}
        assert matrix.closures(["1A01", "1B05", "1B06"]) == {"1A01": 1, "1B05": 1, "1B06": 1}
        with pytest.raises(HardwareError, match="error 1115 Parameter error: 1A77 does not exist"):
            matrix.connect(["1A77"])
        assert matrix.open_all()
    assert twin.truth()["closed"] == []
    assert twin.truth()["closures"] == {"1A01": 1, "1B05": 1, "1B06": 1}
