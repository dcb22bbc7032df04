"""Products that are begun before they are waited for, with other requests in between; time is virtual."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hil.backend import PulseShape
from hil.errors import HardwareError, LimitError, PulseOutcomeUnknown
from hil.posted import HasPostedMvm
from hil.wire import Code, Kind
from hil.wire_session import ErrorReply

SHAPE = PulseShape(1.0, -1.0, 1e-6)
COUNTS = torch.ones(1, 2, 3, dtype=torch.int32)
VOLTS = torch.tensor([[[0.2, 0.0]]])
WANTED = torch.tensor([[[1e-6, 2e-6, 3e-6]]])


def test_everything_is_sent_before_anything_is_waited_for(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    can = isinstance(board, HasPostedMvm)
    assert can
    fake.done.clear()
    waits = []
    for _ in range(2):
        board.pulse(COUNTS, SHAPE)
        waits.append(board.post_mvm(VOLTS, "forward"))
    assert fake.kinds() == [Kind.PULSE, Kind.MVM] * 2
    operations = board.status()["operations"]
    for wait in waits:
        assert torch.equal(wait(), WANTED)
    assert fake.kinds() == [*[Kind.PULSE, Kind.MVM] * 2, Kind.STATUS]
    # Waiting is no operation of its own; the status was the last one.
    assert board.status()["operations"] == operations + 1


def test_an_answer_that_is_lost_is_asked_for_again(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    fake.done.clear()
    left = [True]
    fake.mute = lambda frame: frame.kind == Kind.MVM and bool(left) and left.pop()
    first = board.post_mvm(VOLTS, "forward")
    board.pulse(COUNTS, SHAPE)
    second = board.post_mvm(VOLTS, "forward")
    assert torch.equal(second(), WANTED)
    assert torch.equal(first(), WANTED)
    assert fake.kinds() == [Kind.MVM, Kind.PULSE, Kind.MVM]


def test_a_refusal_of_what_was_posted_before_is_raised(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    fake.answers[Kind.PULSE] = lambda _: ErrorReply(Code.LIMIT, 0, 0, "too much")
    board.pulse(COUNTS, SHAPE)
    wait = board.post_mvm(VOLTS, "forward")
    with pytest.raises(LimitError, match="too much"):
        wait()


def test_what_a_reboot_has_dropped_says_so(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    fake.mute = lambda frame: frame.kind in (Kind.PULSE, Kind.MVM)
    board.pulse(COUNTS, SHAPE)
    first, second = board.post_mvm(VOLTS, "forward"), board.post_mvm(VOLTS, "forward")
    fake.mute = lambda frame: False
    fake.reboot(0xB2)
    with pytest.raises(PulseOutcomeUnknown):
        first()
    with pytest.raises(HardwareError, match="dropped behind a failure"):
        second()
    assert torch.equal(board.mvm(VOLTS, "forward"), WANTED)
    assert fake.kinds().count(Kind.PULSE) == 1


def test_a_board_that_is_switched_off_gives_nothing(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    fake.done.clear()
    assert not board.post_mvm(VOLTS, "forward", torch.tensor([False]))().any()
    assert fake.kinds() == []
