"""What the session does about lost, late, doubled and refused messages; time is virtual."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch

from drivers.crossbar_request import Request
from drivers.crossbar_session import TRIES
from hil.backend import HasReference, PulseShape
from hil.errors import HardwareError, LimitError, PulseOutcomeUnknown
from hil.wire import Code, Flag, Frame, Kind
from hil.wire_session import ErrorReply

SHAPE = PulseShape(1.0, -1.0, 1e-6)
MASK = torch.ones(1, 2, 3, dtype=torch.bool)


def counts(n: int) -> torch.Tensor:
    """A pulse that is told from others by its number."""
    return torch.full((1, 2, 3), n, dtype=torch.int32)


def pulsed(fake: Any) -> list[int]:
    """Numbers of the pulses that were executed, in order."""
    return [struct.unpack_from("<i", body, 49)[0] for kind, body in fake.done if kind == Kind.PULSE]


def once(*sequences: int) -> Callable[[Frame], bool]:
    """True for the first frame of each of these sequences of a session."""
    left = set(sequences)

    def first(frame: Frame) -> bool:
        if frame.session and frame.sequence in left:
            left.remove(frame.sequence)
            return True
        return False

    return first


def test_a_lost_reply_is_asked_for_with_the_same_bytes(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    fake.heard.clear()
    fake.mute = once(2)
    began = fake.now_s
    board.read(MASK)
    assert len(fake.heard) == 2
    assert fake.heard[0] == fake.heard[1]
    assert fake.kinds().count(Kind.READ) == 1
    assert fake.now_s - began == pytest.approx(0.5 + 6 * 1e-4)
    assert board.status()["resent"] == 1


def test_a_lost_request_is_sent_again(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    fake.lose = once(2)
    board.pulse(counts(1), SHAPE)
    board.status()
    assert pulsed(fake) == [1]


def test_a_gap_makes_it_go_back_without_waiting(lab: Any) -> None:
    """Of four in flight the second is lost: those from it on go again, once, in order, and no time passes."""
    fake = lab.fake(window=8)
    board = lab.open(fake)
    fake.heard.clear()
    fake.lose = once(3)
    began = fake.now_s
    for n in range(1, 5):
        board.pulse(counts(n), SHAPE)
    board.session.finish()
    assert pulsed(fake) == [1, 2, 3, 4]
    assert [frame.sequence for frame in fake.frames(Kind.PULSE)] == [2, 3, 4, 5, 3, 4, 5]
    assert fake.now_s == began


def test_an_answer_that_overtakes_another_asks_for_that_one(lab: Any) -> None:
    fake = lab.fake(window=8)
    board = lab.open(fake)
    fake.mute = once(2)
    began = fake.now_s
    for n in (1, 2, 3):
        board.pulse(counts(n), SHAPE)
    board.session.finish()
    assert pulsed(fake) == [1, 2, 3]
    assert [frame.sequence for frame in fake.frames(Kind.PULSE)] == [2, 3, 4, 2]
    assert fake.now_s == began


@pytest.mark.parametrize("change", [{"session": 0x99}, {"sequence": 1}, {"sequence": 77}, {"kind": Kind.MVM}, {"nonce": 5}])
def test_stale_answers_mean_nothing(lab: Any, change: dict[str, Any]) -> None:
    """Of another session, sequence, kind or boot: the right one is waited for."""
    fake = lab.fake()
    board = lab.open(fake)

    def read(body: bytes) -> bytes:
        frame = fake.frames(Kind.READ)[-1]
        fake.inbox += fake.say(frame, struct.pack("<6f", *[9.0] * 6), **change)
        return struct.pack("<6f", *[1e-6] * 6)

    fake.answers[Kind.READ] = read
    torch.testing.assert_close(board.read(MASK), torch.full((1, 2, 3), 1e-6))


def test_an_answer_that_comes_twice_counts_once(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    fake.answers[Kind.READ] = lambda body: struct.pack("<6f", *[1e-6 * len(fake.done)] * 6)
    fake.mute = lambda frame: bool(fake.__setattr__("inbox", fake.inbox + fake.replies.get(frame.sequence, b"")))
    first, second = board.read(MASK), board.read(MASK)
    assert float(second[0, 0, 0]) > float(first[0, 0, 0])


@pytest.mark.parametrize(("window", "room", "most"), [(4, 200, 4), (4, 2, 2), (4, 0, 1), (1, 200, 1)])
def test_no_more_in_flight_than_window_and_credits(lab: Any, window: int, room: int, most: int) -> None:
    fake = lab.fake(window=window)
    fake.credits = room
    board = lab.open(fake)
    seen = []

    def heard(frame: Frame) -> bool:
        answered = min((r.sequence for r in board.session._flight.requests if not r.done), default=frame.sequence)
        seen.append(frame.sequence - answered + 1)
        return False

    fake.lose = heard
    for n in range(1, 10):
        board.pulse(counts(n), SHAPE)
    board.session.finish()
    assert max(seen) == most
    assert pulsed(fake) == list(range(1, 10))


def refuse(number: int, error: ErrorReply, ok: bytes = b"\6\0\0\0") -> Callable[[bytes], Any]:
    """Refuses the pulse of that number."""
    return lambda body: error if struct.unpack_from("<i", body, 49)[0] == number else ok


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.LIMIT, LimitError), (Code.UNABLE, LimitError), (Code.DISARMED, LimitError), (Code.INTERLOCK, HardwareError),
        (Code.HARDWARE, HardwareError), (Code.ABORTED, HardwareError), (Code.MALFORMED, HardwareError),
        (Code.GONE, PulseOutcomeUnknown), (99, HardwareError),
    ],
)  # fmt: skip
@pytest.mark.parametrize("barrier", ["read", "mvm", "trace", "status", "safe"])
def test_the_barrier_raises_the_first_error(lab: Any, code: int, kind: type[Exception], barrier: str) -> None:
    """What was posted behind it is skipped, and the board can be used again."""
    fake = lab.fake(window=8)
    board = lab.open(fake)
    fake.answers[Kind.PULSE] = refuse(2, ErrorReply(code, 4, 17, "said\nthe board"))
    for n in (1, 2, 3):
        board.pulse(counts(n), SHAPE)
    calls: dict[str, Callable[[], Any]] = {
        "read": lambda: board.read(MASK),
        "mvm": lambda: board.mvm(torch.full((1, 1, 2), 0.2), "forward"),
        "trace": lambda: board.trace(torch.ones(1, dtype=torch.int8), MASK, SHAPE),
        "status": board.status,
        "safe": board.safe,
    }
    with pytest.raises(kind) as raised:
        calls[barrier]()
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)
    if code in (Code.INTERLOCK, Code.HARDWARE, Code.ABORTED):
        assert "operation 4, 17 pulses applied" in str(raised.value)
    assert pulsed(fake) == [1]
    assert Kind.TRACE not in fake.kinds()
    assert (Kind.SAFE in fake.kinds()) == (barrier == "safe")
    board.pulse(counts(4), SHAPE)
    board.status()
    assert pulsed(fake) == [1, 4]
    assert len(fake.frames(Kind.PULSE)) == 4


def test_what_is_posted_after_a_failure_is_not_sent(lab: Any) -> None:
    """The window is one, so that the failure is known when the second is posted."""
    fake = lab.fake(window=1)
    board = lab.open(fake)
    fake.answers[Kind.PULSE] = refuse(1, ErrorReply(Code.INTERLOCK, 0, 0, "open"))
    for n in (1, 2, 3):
        board.pulse(counts(n), SHAPE)
    with pytest.raises(HardwareError):
        board.session.finish()
    assert pulsed(fake) == []
    assert len(fake.frames(Kind.PULSE)) == 1


def test_watchdog(lab: Any) -> None:
    """Pulses that were refused go again after ARM, in order, and the read behind them too: it came too early."""
    fake = lab.fake(window=8)
    board = lab.open(fake)
    board.pulse(counts(1), SHAPE)
    board.session.finish()
    fake.trip()
    fake.done.clear()
    board.pulse(counts(2), SHAPE)
    board.pulse(counts(3), SHAPE)
    board.read(MASK)
    assert fake.kinds() == [Kind.READ, Kind.ARM, Kind.PULSE, Kind.PULSE, Kind.READ]
    assert pulsed(fake) == [2, 3]
    assert board.session.trips == 1


def test_a_watchdog_that_trips_again_and_again_ends_it(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    fake.answers[Kind.PULSE] = lambda body: ErrorReply(Code.WATCHDOG, 0, 0, "silent")
    board.pulse(counts(1), SHAPE)
    with pytest.raises(HardwareError, match="again and again"):
        board.status()
    assert len(fake.frames(Kind.PULSE)) == TRIES + 1


def test_the_board_is_armed_again_after_safe(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    assert board.safe() is True
    board.pulse(counts(1), SHAPE)
    board.status()
    assert fake.kinds() == [Kind.ARM, Kind.SAFE, Kind.ARM, Kind.PULSE, Kind.STATUS]


def test_without_limits_the_board_is_not_armed_and_refuses(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake, limits=None)
    board.pulse(counts(1), SHAPE)
    with pytest.raises(LimitError, match="not armed"):
        board.status()
    assert Kind.ARM not in fake.kinds()


def test_a_reboot_over_unanswered_pulses(lab: Any) -> None:
    """Nobody knows whether they were applied: said so, never sent again, and the board can be used at once."""
    fake = lab.fake(window=8)
    board = lab.open(fake)
    board.set_reference(torch.full((1, 2, 3), 1e-4))
    fake.mute = lambda frame: frame.kind == Kind.PULSE
    board.pulse(counts(1), SHAPE)
    board.pulse(counts(2), SHAPE)
    fake.reboot(0xB2)
    fake.done.clear()
    with pytest.raises(PulseOutcomeUnknown, match="pulse, pulse"):
        board.read(MASK)
    fake.mute = lambda frame: False
    board.pulse(counts(3), SHAPE)
    board.read(MASK)
    assert fake.kinds() == [Kind.REFERENCE, Kind.ARM, Kind.PULSE, Kind.READ]
    assert pulsed(fake) == [3]
    assert board.status()["reboots"] == 1


def test_a_reboot_over_unanswered_reads(lab: Any) -> None:
    """They are read again; references are set again first, what was set before kept where the last one says NaN."""
    fake = lab.fake()
    board = lab.open(fake)
    board.set_reference(torch.full((1, 2, 3), 1e-4))
    board.set_reference(torch.where(MASK.cumsum(2) == 1, 2e-4, torch.nan))
    fake.reboot(0xB2)
    fake.done.clear()
    g = board.read(MASK)
    assert not g.isnan().any()
    assert fake.kinds() == [Kind.REFERENCE, Kind.READ]
    restored = torch.tensor(struct.unpack("<6f", fake.done[0][1])).view(2, 3)
    torch.testing.assert_close(restored, torch.tensor([[2e-4, 1e-4, 1e-4]] * 2))


def test_another_board_in_its_place(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake)
    fake.reboot(0xB2)
    fake.hello = fake.hello.__class__(**{**fake.hello.__dict__, "serial": "8"})
    with pytest.raises(HardwareError, match="8 answers instead of 7"):
        board.read(MASK)


def test_a_session_that_another_host_has_taken(lab: Any) -> None:
    """Reads go on in a new session; pulses that were sent into the old one are uncertain."""
    fake = lab.fake()
    board = lab.open(fake)
    fake.session = 0x99
    board.read(MASK)
    assert fake.kinds() == [Kind.ARM, Kind.READ]
    fake.session = 0x99
    board.pulse(counts(1), SHAPE)
    with pytest.raises(PulseOutcomeUnknown, match="session was lost"):
        board.read(MASK)
    assert pulsed(fake) == []


def test_a_session_whose_numbers_are_used_up(lab: Any) -> None:
    """A new one, armed like the old one, before the sequence would wrap."""
    fake = lab.fake()
    board = lab.open(fake)
    board.session._flight._next = fake.last = 2**32 - 2**10
    fake.last -= 1
    for n in (1, 2):
        board.pulse(counts(n), SHAPE)
        board.status()
    assert pulsed(fake) == [1, 2]
    once_more = [Kind.ARM, Kind.PULSE, Kind.STATUS]
    assert fake.kinds() == [*once_more, Kind.CLOSE, *once_more]


def test_a_close_that_is_sent_again(lab: Any) -> None:
    """It finds no session: it was done."""
    fake = lab.fake()
    board = lab.open(fake)

    def close(frame: Frame) -> bool:
        if frame.kind == Kind.CLOSE and fake.session:
            fake.session = 0
            return True
        return False

    fake.mute = close
    board.close()
    assert [frame.kind for frame in fake.frames(Kind.OPEN) + fake.frames(Kind.CLOSE)] == [Kind.OPEN, Kind.CLOSE, Kind.CLOSE]


def test_a_session_number_that_was_used_before(lab: Any) -> None:
    fake = lab.fake()
    honest = fake._answer
    fake._answer = lambda frame: (
        fake.say(frame, ErrorReply(Code.SESSION, 0, 0, "ended"))
        if frame.kind == Kind.OPEN and frame.body[:1] == b"\x52"
        else honest(frame)
    )
    lab.open(fake)
    assert [frame.body[0] for frame in fake.frames(Kind.OPEN)] == [0x52, 0x53]


def test_busy_until_the_watchdog_of_the_dead_holder(lab: Any) -> None:
    fake = lab.fake(watchdog_s=2.0)
    fake.busy_until_s = 1.9
    lab.open(fake)
    assert 1.9 <= fake.now_s <= 2.4


def test_busy_with_a_holder_that_lives(lab: Any) -> None:
    fake = lab.fake(watchdog_s=2.0)
    fake.busy_until_s = 1e9
    with pytest.raises(HardwareError, match="held by somebody else"):
        lab.open(fake)
    assert 2.0 < fake.now_s < 4.0


def test_unplugged_and_plugged_in_again(lab: Any) -> None:
    """What was unanswered is sent again with the same bytes: the board did what had arrived, and does it once."""
    fake = lab.fake(window=8)
    board = lab.open(fake)
    fake.mute = once(2)
    fake.lose = once(3)
    board.pulse(counts(1), SHAPE)
    board.pulse(counts(2), SHAPE)
    fake.inbox = b""
    fake.unplug(3.0)
    board.read(MASK)
    assert pulsed(fake) == [1, 2]
    assert fake.opened == 1
    assert 3.0 <= fake.now_s < 5.0


def test_unplugged_for_too_long(lab: Any) -> None:
    """Pulses without answer are uncertain; what is asked next fails soon; plugged in, it works again."""
    fake = lab.fake()
    board = lab.open(fake)
    fake.mute = lambda frame: frame.kind == Kind.PULSE
    board.pulse(counts(1), SHAPE)
    fake.inbox = b""
    fake.unplug(1e6)
    with pytest.raises(PulseOutcomeUnknown):
        board.status()
    assert fake.now_s < 12.0
    began = fake.now_s
    with pytest.raises(HardwareError) as raised:
        board.read(MASK)
    assert type(raised.value) is HardwareError
    assert fake.now_s - began < 2.5
    assert board.safe() is False
    fake.plugged, fake.mute = True, lambda frame: False
    board.pulse(counts(2), SHAPE)
    board.read(MASK)
    assert pulsed(fake) == [1, 2]


def test_a_board_that_answers_hello_only(lab: Any) -> None:
    fake = lab.fake()
    board = lab.open(fake, link_s=2.0)
    fake.mute = lambda frame: frame.kind == Kind.STATUS
    with pytest.raises(HardwareError):
        board.status()
    assert fake.now_s < 60.0


def test_no_board_at_all(lab: Any) -> None:
    fake = lab.fake()
    fake.mute = lambda frame: True
    with pytest.raises(HardwareError, match="no answer to HELLO for 10 s"):
        lab.open(fake)
    assert fake.now_s < 11.0


def test_another_version(lab: Any) -> None:
    fake = lab.fake()
    fake._answer = lambda frame: fake.say(frame, ErrorReply(Code.VERSION, 0, 0, "version 2"))
    with pytest.raises(HardwareError, match="version 1"):
        lab.open(fake)


class Interrupt:
    """Ctrl-C at the first read of the link."""

    def __init__(self, fake: Any) -> None:
        self._read, self._fake = fake.read, fake
        fake.read = self.read

    def read(self, timeout_s: float) -> bytes:
        self._fake.read = self._read
        raise KeyboardInterrupt


def test_an_interrupted_trace_is_stopped(lab: Any) -> None:
    """ABORT; its answer concerns nobody, and safe confirms."""
    fake = lab.fake()
    board = lab.open(fake)
    fake.answers[Kind.TRACE] = lambda body: ErrorReply(Code.ABORTED, 3, 18, "stopped")
    Interrupt(fake)
    with pytest.raises(KeyboardInterrupt):
        board.trace(torch.ones(9, dtype=torch.int8), MASK, SHAPE)
    assert len(fake.frames(Kind.ABORT)) == 1
    assert board.safe() is True


def test_an_interrupted_barrier_leaves_what_was_posted(lab: Any) -> None:
    """A read is interrupted: nothing is stopped, and what went wrong before is still told."""
    fake = lab.fake(window=8)
    board = lab.open(fake)
    fake.answers[Kind.PULSE] = refuse(2, ErrorReply(Code.INTERLOCK, 0, 3, "open"))
    board.pulse(counts(1), SHAPE)
    board.pulse(counts(2), SHAPE)
    Interrupt(fake)
    with pytest.raises(KeyboardInterrupt):
        board.read(MASK)
    assert not fake.frames(Kind.ABORT)
    with pytest.raises(HardwareError, match="3 pulses applied"):
        board.safe()
    assert fake.kinds()[-1] == Kind.SAFE
    assert pulsed(fake) == [1]


def test_an_abandoned_trace_is_not_sent_as_a_new_request(lab: Any) -> None:
    """Its caller has been told that nobody knows: the watchdog's refusal must not bring it back."""
    fake = lab.fake()
    board = lab.open(fake)
    fake.trip()
    Interrupt(fake)
    with pytest.raises(KeyboardInterrupt):
        board.trace(torch.ones(9, dtype=torch.int8), MASK, SHAPE)
    board.read(MASK)
    assert len(fake.frames(Kind.TRACE)) == 1


def test_requests_in_flight_are_bounded_by_bytes(lab: Any) -> None:
    """Two full pipes would wait for each other: with 20 kB of answer each, two are in flight and no more."""
    fake = lab.fake(window=100, max_body=65535)
    board = lab.open(fake)
    seen: list[int] = []
    fake.lose = lambda frame: bool(seen.append(len(board.session._flight.requests)))
    board.session.many([Request(Kind.STATUS, answer_bytes=20000) for _ in range(6)])
    assert max(seen) == 2


def test_reference_only_where_the_board_has_one(lab: Any) -> None:
    assert isinstance(lab.open(lab.fake()), HasReference)
    assert not isinstance(lab.open(lab.fake(capabilities=0)), HasReference)
    assert not isinstance(lab.open(lab.fake(reference=1)), HasReference)


def test_posted_flags(lab: Any) -> None:
    """All that pulses is skipped after a failure; what reads never is."""
    fake = lab.fake()
    fake.answers[Kind.TRACE] = lambda body: struct.pack("<6f", *[1e-6] * 6)
    board = lab.open(fake)
    board.pulse(counts(1), SHAPE)
    board.trace(torch.ones(1, dtype=torch.int8), MASK, SHAPE)
    board.read(MASK)
    flags = {kind: [frame.flags for frame in fake.frames(kind)] for kind in (Kind.PULSE, Kind.TRACE, Kind.READ, Kind.ARM)}
    assert flags == {Kind.PULSE: [Flag.POSTED], Kind.TRACE: [Flag.POSTED], Kind.READ: [Flag.NONE], Kind.ARM: [Flag.NONE]}
