"""The ArC ONE driver on a board that loses answers, reboots or goes: what it reports, and that no pulse goes twice."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
import torch

from drivers.arc_one import ArcOne
from hil.errors import HardwareError, PulseOutcomeUnknown


def test_the_check_after_posted_pulses_reads_the_last_cell(arc: Any) -> None:
    made, link = arc.board(arc.floats(1e4), arc.floats(1e4))
    made.pulse(arc.counts(r0c0=1, r2c1=-1), arc.SHAPE)
    link.said()
    made.status()
    assert link.said() == ["1", "3", "2"]
    made.status()
    made.read(arc.mask((0, 0)))
    assert link.said() == ["1", "1", "1"]


@pytest.mark.parametrize("answer", [b"", b"\1\2", struct.pack("<f", math.nan)])
def test_posted_pulses_without_the_proof_are_unknown_and_not_sent_again(arc: Any, answer: bytes) -> None:
    made, link = arc.board(answer, *([arc.LOST] if len(answer) == 2 else []), b"1\n", arc.VERSION, arc.floats(1e4))
    made.pulse(arc.counts(r0c0=2, r1c1=1), arc.SHAPE)
    link.said()
    with pytest.raises(PulseOutcomeUnknown, match="3 pulses") as unknown:
        made.read(arc.mask((0, 0)))
    assert "\n" not in str(unknown.value)
    assert link.said() == ["1", "2", "2", *arc.START]
    assert link.reopened == 1
    assert float(made.read(arc.mask((0, 0)))[0, 0, 0]) == pytest.approx(1e-4)
    assert link.said() == ["1", "1", "1"]


def test_bytes_that_come_unasked_show_a_board_out_of_step(arc: Any) -> None:
    made, link = arc.board(b"1\n", arc.VERSION)
    made.pulse(arc.counts(r0c0=1), arc.SHAPE)
    link.said()
    link.stray = arc.floats(1e4)
    with pytest.raises(PulseOutcomeUnknown, match="unasked"):
        made.status()
    assert link.said() == []


def test_a_write_without_its_answer_is_unknown_and_not_sent_again(arc: Any) -> None:
    made, link = arc.board(arc.WRITTEN[:-4], arc.LOST, b"1\n", arc.VERSION, multi_bias_from=4)
    with pytest.raises(PulseOutcomeUnknown, match="4 pulses"):
        made.pulse(arc.counts(r0c1=2, r1c1=2, r2c1=2, r3c1=2), arc.SHAPE)
    assert link.said().count("50") == 1 + arc.START.count("50")


def test_a_pulse_and_read_without_its_answer_is_unknown(arc: Any) -> None:
    made, link = arc.board(arc.floats(1e4), arc.LOST, b"1\n", arc.VERSION)
    with pytest.raises(PulseOutcomeUnknown, match="1 pulses"):
        made.trace(torch.ones(5, dtype=torch.int8), arc.mask((0, 0)), arc.SHAPE)
    assert link.said().count("3") == 2 + arc.START.count("3")


def test_a_lost_reading_is_asked_for_once_more_in_its_read_mode(arc: Any) -> None:
    made, link = arc.board(arc.LOST, b"1\n", arc.VERSION, *[arc.floats(1e4, -0.2, 0.0)] * 3)
    current = made.mvm(arc.volts([-0.2, 0.0, 0.0, 0.0]), "forward")
    ask = ["01", "3", "-0.200000", "50", "0.000000", "0.000000", "-0.200000", "1", "1", "1", "1"]
    assert link.said()[: 2 * len(ask) + len(arc.START)] == [*ask, *arc.START, *ask]
    assert current[0, 0].tolist() == pytest.approx([-2e-5] * 3)


def test_a_reading_that_is_lost_twice_is_a_fault_and_the_next_one_starts_anew(arc: Any) -> None:
    made, link = arc.board(arc.LOST, b"1\n", arc.VERSION, arc.LOST, b"1\n", arc.VERSION, arc.floats(1e4))
    with pytest.raises(HardwareError) as fault:
        made.read(arc.mask((0, 0)))
    assert not isinstance(fault.value, PulseOutcomeUnknown)
    link.said()
    made.read(arc.mask((0, 0)))
    assert link.said() == ["1", "1", "1"]
    assert link.reopened == 2


def test_a_cable_that_is_pulled_while_pulses_are_posted(arc: Any) -> None:
    made, link = arc.board()
    link.broken = True
    with pytest.raises(PulseOutcomeUnknown):
        made.pulse(arc.counts(r0c0=1), arc.SHAPE)
    with pytest.raises(HardwareError):
        made.read(arc.mask((0, 0)))
    link.broken = False
    link.answers = [b"1\n", arc.VERSION, arc.floats(1e4)]
    assert float(made.read(arc.mask((0, 0)))[0, 0, 0]) == pytest.approx(1e-4)


def test_a_port_that_comes_back_is_waited_for(arc: Any) -> None:
    made, link = arc.board(b"1\n", arc.VERSION, arc.floats(1e4), reopen_s=10.0, reset_s=0.0)
    link.broken, link.back_at_s = True, 53.0
    made.read(arc.mask((0, 0)))
    assert 53.0 <= link.now_s < 53.5


def test_another_board_in_its_place_is_noticed(arc: Any) -> None:
    made, _ = arc.board(arc.LOST, b"1\n", struct.pack("<HH", 9, 9))
    with pytest.raises(HardwareError, match="same board"):
        made.read(arc.mask((0, 0)))


def test_old_firmware_does_not_tell_its_version_and_is_not_asked_again(arc: Any) -> None:
    link = arc.Script()
    link.answers = [b"1\n", arc.LOST, arc.LOST, b"1\n", arc.floats(1e4)]
    made = ArcOne(arc.settings(), link, sleep=link.sleep)
    assert made.info.firmware == "unknown"
    link.said()
    made.read(arc.mask((0, 0)))
    assert "999" not in link.said()


def test_safe_resets_and_is_confirmed_by_a_session(arc: Any) -> None:
    made, link = arc.board(arc.floats(1e4), b"1\n", arc.VERSION)
    made.pulse(arc.counts(r0c0=1), arc.SHAPE)
    link.said()
    assert made.safe() is True
    assert link.said() == ["1", "1", "1", *arc.START]
    assert made.safe() is True
    assert link.said() == []


def test_safe_does_not_raise_where_the_board_is_gone(arc: Any) -> None:
    made, link = arc.board()
    link.broken = True
    assert made.safe() is False
    made.close()


def test_safe_grounds_first_and_then_says_what_was_lost(arc: Any) -> None:
    made, link = arc.board(arc.LOST, b"1\n", arc.VERSION)
    made.pulse(arc.counts(r0c0=1), arc.SHAPE)
    link.said()
    with pytest.raises(PulseOutcomeUnknown):
        made.safe()
    assert link.said() == ["1", "1", "1", *arc.START]


def test_a_request_that_was_broken_off_is_not_followed_by_another(arc: Any) -> None:
    """Ctrl-C in the middle of a request: the board may wait for arguments, so zeros come first."""
    made, link = arc.board(b"1\n", arc.VERSION, arc.floats(1e4))
    whole = link.write

    def half(data: bytes) -> None:
        whole(data[:5])
        link.write = whole  # type: ignore[method-assign]
        raise KeyboardInterrupt

    link.write = half  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        made.read(arc.mask((0, 0)))
    link.said()
    made.read(arc.mask((0, 0)))
    assert link.said() == ["1", "1", "1"]
    assert link.reopened == 1


def test_a_closed_board_says_so(arc: Any) -> None:
    made, _ = arc.board(b"1\n", arc.VERSION)
    made.close()
    assert made.safe() is True
    with pytest.raises(HardwareError, match="closed"):
        made.read(arc.mask((0, 0)))
    with pytest.raises(HardwareError, match="closed"):
        made.status()


def test_status_counts_verbs_and_requests(arc: Any) -> None:
    made, _ = arc.board(arc.floats(1e4), arc.floats(1e4), arc.floats(1e4))
    made.update(*arc.trains([1, 0, 0, 0], [1, 0, 0]), arc.SHAPE)
    made.read(arc.mask((0, 0)))
    said = made.status()
    assert (said["operations"], said["recoveries"], said["link"]) == (3, 0, "/dev/arc")
    assert said["cpu_s"] >= 0
