"""The ArC ONE driver byte by byte: what it sends, what it makes of answers, what it refuses before a byte is sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from drivers.arc_one import ArcOne, plugin
from hil.backend import ArrayBackend, PulseShape
from hil.errors import HardwareError, LimitError, ShapeError, UsageError
from hil.plugins import Wanted


def test_it_starts_with_a_reset_a_session_the_read_mode_and_the_version(arc: Any) -> None:
    link = arc.Script()
    made = ArcOne(arc.settings(), link, sleep=link.sleep)
    assert b"".join(link.writes).decode().split("\n")[:-1] == arc.START
    assert isinstance(made, ArrayBackend)
    info = made.info
    assert (info.rows, info.cols, info.serial, info.firmware) == (4, 3, "chip", "3.1")
    assert (info.read_levels, info.exactly_once, info.select_scheme, info.physical) == (2, False, "V/2", True)


def test_the_line_is_921600_8e1(arc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    class Port(arc.Script):
        def __init__(self, address: str, baud: int, parity: str) -> None:
            super().__init__(b"1\n", arc.VERSION)
            opened.append((address, baud, parity))

        def close(self) -> None:
            opened.append("closed")

    monkeypatch.setattr("drivers.arc_one.ByteLink", Port)
    wanted = Wanted("main", "", None, None, torch.zeros(1, dtype=torch.int64), 0)
    made = plugin.open(arc.settings(reset_s=0.0), wanted)
    made.close()
    made.close()
    assert opened == [("/dev/arc", 921600, "E"), "closed"]


@pytest.mark.parametrize(
    ("changes", "init"),
    [
        ({"sneak": "V/3"}, ["0", "50", "4", "3", "2", "0", "0", "0.200000"]),
        ({"sneak": "float", "session": "external"}, ["0", "50", "4", "3", "2", "1", "256", "0.200000"]),
        ({"session": "external to local"}, ["0", "50", "4", "3", "2", "2", "1", "0.200000"]),
        ({"session": "offline", "read_v": -0.5, "read_cycles": 7}, ["0", "7", "4", "3", "3", "3", "1", "-0.500000"]),
    ],
)
def test_sessions(arc: Any, changes: dict[str, Any], init: list[str]) -> None:
    link = arc.Script()
    made = ArcOne(arc.settings(**changes), link, sleep=link.sleep)
    arguments = b"".join(link.writes).decode().split("\n")
    assert arguments[len(arc.RESET) : len(arc.RESET) + 8] == init
    assert made.info.select_scheme == {"V/3": "V/3"}.get(changes.get("sneak", "V/2"), "V/2")


def test_arguments_keep_their_distance_and_the_reset_its_time(arc: Any) -> None:
    link = arc.Script(arc.floats(1e4), arc.floats(1e4))
    made = ArcOne(arc.settings(gap_s=1e-3, reset_s=2.0), link, now=lambda: link.now_s, sleep=link.sleep)
    assert [write.count(b"\n") for write in link.writes] == [1] * len(arc.START)
    gaps = np.diff(link.times_s)
    assert gaps.min() >= 1e-3 - 1e-12
    assert gaps[len(arc.RESET) - 1] >= 2.0
    link.said()
    made.pulse(arc.counts(r0c0=1), PulseShape(1.5, -1.25, 0.25))
    made.read(arc.mask((0, 0)))
    # Select, pulse of 0.25 s, and only then the check.
    assert np.diff(link.times_s)[5] >= 0.25 + 1e-3 - 1e-12


def test_without_a_gap_a_request_is_one_write(arc: Any) -> None:
    made, link = arc.board(arc.floats(1e4))
    made.read(arc.mask((3, 2)))
    assert link.writes == [b"1\n4\n3\n"]


def test_readings(arc: Any) -> None:
    made, link = arc.board(arc.floats(1e4), arc.floats(2e4, 5e3), arc.floats(*[1e5 * k for k in range(1, 13)]))
    one = made.read(arc.mask((3, 2)))
    assert link.said() == ["1", "4", "3"]
    assert float(one[0, 3, 2]) == pytest.approx(1e-4)
    assert torch.equal(~one.isnan(), arc.mask((3, 2)))
    some = made.read(arc.mask((0, 2), (2, 0)))
    assert link.said() == ["2", "2", "32", "32", "2", "1", "3", "3", "1"]
    assert some[arc.mask((0, 2), (2, 0))].tolist() == pytest.approx([5e-5, 2e-4])
    every = made.read(torch.ones(1, 4, 3, dtype=torch.bool))
    assert link.said() == ["2", "1", "4", "3"]
    assert every[0].flatten().tolist() == pytest.approx([1e-5 / k for k in range(1, 13)])


def test_averages_are_of_conductances_and_no_cell_is_no_request(arc: Any) -> None:
    made, link = arc.board(arc.floats(1e4), arc.floats(2e4))
    assert float(made.read(arc.mask((0, 0)), averages=2)[0, 0, 0]) == pytest.approx(0.75e-4)
    link.said()
    assert made.read(arc.mask()).isnan().all()
    assert link.said() == []


def test_long_masked_reads_are_cut(arc: Any) -> None:
    made, link = arc.board(arc.floats(*[1e4] * 128), arc.floats(*[2e4] * 65), words=32, bits=32)
    cells = torch.zeros(1, 32, 32, dtype=torch.bool)
    cells.view(-1)[:193] = True
    g = made.read(cells)[cells]
    said = link.said()
    assert (said[4], said[5 + 256 + 4]) == ("128", "65")
    assert g[:128].tolist() == pytest.approx([1e-4] * 128)
    assert g[128:].tolist() == pytest.approx([0.5e-4] * 65)


def test_a_cell_that_does_not_conduct_and_a_short_circuit(arc: Any) -> None:
    made, _ = arc.board(arc.floats(math.inf), arc.floats(0.0))
    assert float(made.read(arc.mask((0, 0)))[0, 0, 0]) == 0.0
    with pytest.raises(HardwareError, match="short circuit"):
        made.read(arc.mask((0, 0)))


def test_a_product_is_a_multi_bias_read_per_column(arc: Any) -> None:
    made, link = arc.board(arc.floats(1e4, 0.2, 0.0), arc.floats(2e4, 0.2, 0.0), arc.floats(4e4, 0.2, 0.0))
    current = made.mvm(arc.volts([0.2, 0.0, 0.0, 0.2], [0.0, 0.0, 0.0, 0.0]), "forward")
    head = ["50", "0.000000", "0.000000", "0.200000", "2"]
    assert link.said() == [part for col in "123" for part in [*head, col, "1", "1", "4"]]
    assert current[0, 0].tolist() == pytest.approx([2e-5, 1e-5, 0.5e-5])
    assert current[0, 1].tolist() == [0.0, 0.0, 0.0]


def test_the_read_mode_follows_the_sign_of_the_voltage_and_the_current_too(arc: Any) -> None:
    made, link = arc.board(*[arc.floats(1e4, v, 0.0) for v in (-0.1, -0.1, -0.1, 0.2, 0.2, 0.2)], arc.floats(1e4))
    current = made.mvm(arc.volts([-0.1, 0.0, 0.0, 0.0], [0.2, 0.0, 0.0, 0.0]), "forward")
    negative = ["50", "0.000000", "0.000000", "-0.100000", "1"]
    positive = ["50", "0.000000", "0.000000", "0.200000", "1"]
    expected = ["01", "3", "-0.100000", *(part for col in "123" for part in [*negative, col, "1", "1"])]
    expected += ["01", "2", "0.200000", *(part for col in "123" for part in [*positive, col, "1", "1"])]
    assert link.said() == expected
    assert current[0].tolist() == [pytest.approx([-1e-5] * 3), pytest.approx([2e-5] * 3)]
    made.read(arc.mask((0, 0)))
    assert link.said() == ["1", "1", "1"]


def test_a_read_after_a_negative_product_is_positive_again(arc: Any) -> None:
    made, link = arc.board(*[arc.floats(1e4, -0.2, 0.0)] * 3, arc.floats(1e4))
    made.mvm(arc.volts([-0.2, 0.0, 0.0, 0.0]), "forward")
    link.said()
    made.read(arc.mask((0, 0)))
    assert link.said() == ["01", "2", "0.200000", "1", "1", "1"]


@pytest.mark.parametrize(("direction", "changes"), [("backward", {}), ("forward", {"mvm": "by cells"})])
def test_products_without_a_parallel_read_are_summed_from_cells(arc: Any, direction: Any, changes: dict[str, Any]) -> None:
    many = 4 if direction == "backward" else 3
    made, link = arc.board(arc.floats(*[1e4] * many), **changes)
    line = [0.1] + [0.0] * (2 if direction == "backward" else 3)
    current = made.mvm(arc.volts(line), direction)
    assert link.said()[:5] == ["2", "2", "32", "32", str(many)]
    assert current[0, 0].tolist() == pytest.approx([1e-5] * many)


def test_inactive_arrays_are_not_read(arc: Any) -> None:
    made, link = arc.board()
    assert not made.mvm(arc.volts([0.2, 0.0, 0.0, 0.0]), "forward", torch.tensor([False])).any()
    assert not made.mvm(arc.volts([0.2, 0.0, 0.0]), "backward", torch.tensor([False])).any()
    made.update(*arc.trains([1, 1, 1, 1], [1, 1, 1]), arc.SHAPE, torch.tensor([False]))
    assert link.said() == []


def test_lone_pulses_are_posted_cell_by_cell(arc: Any) -> None:
    made, link = arc.board()
    made.pulse(arc.counts(r0c2=2, r3c0=-1, r1c2=1), arc.SHAPE)
    assert link.said() == ["02", "1", "3", *arc.UP, *arc.UP, "02", "2", "3", *arc.UP, "02", "4", "1", *arc.DOWN]


def test_a_column_that_shares_a_pulse_gets_it_by_a_multi_bias_write(arc: Any) -> None:
    made, link = arc.board(arc.WRITTEN, arc.WRITTEN, multi_bias_from=3)
    made.pulse(arc.counts(r0c1=-2, r1c1=-3, r2c1=-2, r3c1=-1), arc.SHAPE)
    head = ["50", "-1.250000", "0.000001", "0.200000"]
    expected = [*head, "4", "2", "2", "1", "2", "3", "4", *head, "3", "2", "2", "1", "2", "3", "02", "2", "2", *arc.DOWN]
    assert link.said() == expected


@pytest.mark.parametrize("sneak", ["V/3", "float"])
def test_multi_bias_writes_need_the_scheme_that_they_use(arc: Any, sneak: str) -> None:
    """They put V/2 on unselected words: not where the limits were checked for V/3."""
    made, link = arc.board(sneak=sneak)
    made.pulse(arc.counts(r0c1=1, r1c1=1, r2c1=1, r3c1=1), arc.SHAPE)
    assert link.said() == [part for word in "1234" for part in ["02", word, "2", *arc.UP]]


def test_acknowledged_pulses_go_with_a_reading(arc: Any) -> None:
    made, link = arc.board(*[arc.floats(1e4)] * 3, acknowledge=True)
    made.pulse(arc.counts(r0c2=2, r3c0=-1), arc.SHAPE)
    up, down = ["3", "1", "3", "1.500000", "0.000001"], ["3", "4", "1", "-1.250000", "0.000001"]
    assert link.said() == [*up, *up, *down]
    made.status()
    assert link.said() == []


def test_an_update_is_its_coincidences(arc: Any) -> None:
    made, link = arc.board()
    made.update(*arc.trains([1, -1, 0, 0], [0, 1, 0], slots=2), arc.SHAPE)
    assert link.said() == ["02", "1", "2", *arc.UP, *arc.UP, "02", "2", "2", *arc.DOWN, *arc.DOWN]


def test_a_sparse_trace_reads_with_its_pulses(arc: Any) -> None:
    made, link = arc.board(arc.floats(1e4), arc.floats(2e4), arc.floats(4e4), arc.floats(5e4))
    up_down = torch.tensor([1, -1], dtype=torch.int8)
    traced = made.trace(up_down, arc.mask((0, 0), (3, 2)), arc.SHAPE)
    up, down = ["1.500000", "0.000001"], ["-1.250000", "0.000001"]
    assert link.said() == ["3", "1", "1", *up, "3", "4", "3", *up, "3", "1", "1", *down, "3", "4", "3", *down]
    assert traced[0, 0, 0].tolist() == pytest.approx([1e-4, 0.25e-4])
    assert traced[0, 3, 2].tolist() == pytest.approx([0.5e-4, 0.2e-4])
    assert int(traced.isnan().sum()) == 20


def test_a_trace_posts_the_pulses_between_readings(arc: Any) -> None:
    made, link = arc.board(arc.floats(1e4), arc.floats(2e4), arc.floats(3e4))
    traced = made.trace(torch.tensor([1, 1, -1], dtype=torch.int8), arc.mask((0, 0)), arc.SHAPE, every=2)
    check = ["1", "1", "1"]
    assert link.said() == ["02", "1", "1", *arc.UP, *check, "3", "1", "1", *arc.UP[1:], "02", "1", "1", *arc.DOWN, *check]
    assert traced[0, 0, 0].tolist() == pytest.approx([0.5e-4])


def test_a_dense_trace_pulses_columns_at_once(arc: Any) -> None:
    made, link = arc.board(arc.WRITTEN, arc.floats(*[1e4] * 4), multi_bias_from=4)
    traced = made.trace(torch.tensor([1], dtype=torch.int8), arc.mask((0, 1), (1, 1), (2, 1), (3, 1)), arc.SHAPE)
    write = ["50", "1.500000", "0.000001", "0.200000", "4", "2", "2", "1", "2", "3", "4"]
    assert link.said() == [*write, "2", "2", "32", "32", "4", "1", "2", "2", "2", "3", "2", "4", "2"]
    assert traced[0, :, 1, 0].tolist() == pytest.approx([1e-4] * 4)


@pytest.mark.parametrize(
    "shape",
    [
        PulseShape(1.0, -1.0, 1.5e-6),
        PulseShape(1.0, -1.0, 0.5e-6),
        PulseShape(1.0, -1.0, 40e-9),
        PulseShape(1.0, -1.0, 1.1),
        PulseShape(1.0, -1.0, 0.0),
        PulseShape(12.1, -1.0, 1e-6),
        PulseShape(1.0, -12.1, 1e-6),
        PulseShape(1.0000001, -1.0, 1e-6),
        PulseShape(math.nan, -1.0, 1e-6),
        PulseShape(1.0, -1.0, math.inf),
        PulseShape(1.0, -1.0, 1e-6, compliance_a=1e-3),
        PulseShape(1.0, -1.0, 1e-6, gate_up_v=1.0),
    ],
    ids=repr,
)
def test_pulses_that_the_wire_or_board_cannot_do_are_refused_before_a_byte(arc: Any, shape: PulseShape) -> None:
    made, link = arc.board()
    verbs: list[Callable[[], object]] = [
        lambda: made.pulse(arc.counts(r0c0=1), shape),
        lambda: made.trace(torch.ones(1, dtype=torch.int8), arc.mask((0, 0)), shape),
        lambda: made.update(*arc.trains([1, 1, 1, 1], [1, 1, 1]), shape),
    ]
    for verb in verbs:
        with pytest.raises(LimitError) as refused:
            verb()
        assert "\n" not in str(refused.value)
    assert link.said() == []


def test_products_that_the_board_cannot_do_are_refused_before_a_byte(arc: Any) -> None:
    made, link = arc.board()
    for line in ([12.1, 0, 0, 0], [math.nan, 0, 0, 0], [0.1234567, 0, 0, 0]):
        with pytest.raises(LimitError):
            made.mvm(arc.volts(line), "forward")
    # The whole call is looked at first: one sample that cannot be done, and none is.
    for line in ([0.2, 0.1, 0.0, 0.0], [0.2, -0.2, 0.0, 0.0]):
        with pytest.raises(UsageError, match="bit by bit"):
            made.mvm(arc.volts([0.2, 0.0, 0.0, 0.0], line), "forward")
    for wrong in (torch.zeros(1, 1, 3), torch.zeros(1, 4), torch.zeros(1, 1, 4).double()):
        with pytest.raises(ShapeError):
            made.mvm(wrong, "forward")
    with pytest.raises(ShapeError):
        made.mvm(torch.zeros(1, 1, 4), "forward", torch.ones(2, dtype=torch.bool))
    with pytest.raises(UsageError):
        made.read(arc.mask((0, 0)), averages=0)
    assert link.said() == []


def test_settings_are_one_link_or_a_twin_and_a_voltage_that_the_wire_carries(arc: Any) -> None:
    for wrong in ({"twin": {"name": "arc-one"}}, {"link": None}, {"read_v": 0.0}, {"read_v": 0.1234567}, {"serial": ""}):
        with pytest.raises(ValidationError):
            arc.settings(**wrong)


def test_what_does_not_answer_like_the_board_is_not_opened(arc: Any) -> None:
    for answer in (b"0\n", b"\xff\xfe\n", arc.LOST, b"1" * 20):
        link = arc.Script()
        link.answers[0] = answer
        with pytest.raises(HardwareError):
            ArcOne(arc.settings(), link, sleep=link.sleep)
