"""The board's side of a session: who is answered, in which order requests are executed, and that each is so once."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hil.wire import Code, Flag, Frame, Kind
from hil.wire_session import Opened


class TestHello:
    def test_says_what_the_board_is(self, fresh_host):
        hello = fresh_host(serial="b7").hello()
        assert (hello.rows, hello.cols, hello.serial, hello.window, hello.max_body) == (4, 3, "b7", 8, 65535)
        assert (hello.read_levels, hello.adc_bits, hello.reference) == (127, 9, 2)
        assert hello.read_v == pytest.approx((-0.2, 0.2, 0.4 / 126))

    def test_is_answered_to_anybody_at_any_time(self, host):
        assert host.hello().nonce == host.board.nonce
        assert host.pulse() == 1

    @pytest.mark.parametrize(("body", "code"), [(b"\0", Code.VERSION), (b"", Code.MALFORMED), (b"\1\1", Code.MALFORMED)])
    def test_is_refused(self, fresh_host, body, code):
        host = fresh_host()
        assert host.error(host.ask(Frame(Kind.HELLO, body, sequence=3))).code == code

    def test_of_a_later_version_is_answered_in_this_one(self, fresh_host):
        host = fresh_host()
        assert not host.ask(Frame(Kind.HELLO, b"\7")).flags & Flag.ERROR
        answer = host.ask(Frame(Kind.HELLO, b"\2", version=2))
        assert host.error(answer).code == Code.VERSION
        assert answer.version == 1


class TestOpen:
    def test_again_is_the_same_session(self, host):
        host.pulse()
        assert not host.ask(Frame(Kind.OPEN, Opened(host.session, "test").pack(), nonce=host.board.nonce)).flags & Flag.ERROR
        assert host.pulse() == 1

    def test_by_another_host_is_refused_with_the_name_of_the_first(self, host):
        said = host.error(host.ask(Frame(Kind.OPEN, Opened(9, "thief").pack(), nonce=host.board.nonce)))
        assert said.code == Code.BUSY
        assert "test" in said.message
        assert host.pulse() == 1

    def test_by_another_host_once_the_first_is_silent(self, host):
        host.pulse()
        old = host.session
        host.now_s += 2.0
        assert not host.open(9).flags & Flag.ERROR
        assert host.code(Kind.PULSE, host.pulse_body()) == Code.DISARMED
        host.session, host.sequence = old, 2
        assert host.code(Kind.STATUS) == Code.SESSION

    @pytest.mark.parametrize("body", [b"", b"\0" * 5, Opened(0, "x").pack(), Opened(1, "x").pack() + b"\0"])
    def test_malformed(self, fresh_host, body):
        host = fresh_host()
        assert host.error(host.ask(Frame(Kind.OPEN, body, nonce=host.board.nonce))).code == Code.MALFORMED

    def test_close_ends_it(self, host):
        host.done(Kind.CLOSE)
        assert host.code(Kind.STATUS) == Code.SESSION
        assert not host.open(9).flags & Flag.ERROR

    def test_a_session_that_has_ended_never_comes_back(self, host):
        """Frames of it may still be under way: none of them is executed again."""
        old = host.session
        frames = [host.frame(Kind.ARM, b"", 1), host.frame(Kind.PULSE, host.pulse_body(), 2)]
        host.done(Kind.CLOSE)
        assert host.error(host.open(old)).code == Code.SESSION
        host.open(9)
        host.now_s += 10
        host.open(10)
        late = [Frame(Kind.OPEN, Opened(ended, "x").pack(), nonce=host.board.nonce) for ended in (old, 9)]
        assert {host.error(host.ask(frame)).code for frame in late} == {Code.SESSION}
        assert {host.error(host.ask(frame)).code for frame in frames} == {Code.SESSION}
        assert host.pulses == 0


class TestWhoIsAnswered:
    def test_the_nonce_comes_before_the_session(self, host):
        answer = host.ask(Frame(Kind.STATUS, nonce=1, session=2, sequence=1))
        assert host.error(answer).code == Code.NONCE
        assert answer.nonce == host.board.nonce

    def test_another_session(self, host):
        answer = host.ask(Frame(Kind.STATUS, nonce=host.board.nonce, session=host.session + 1, sequence=1))
        assert host.error(answer).code == Code.SESSION

    @pytest.mark.parametrize("kind", [Kind.HEARTBEAT, Kind.ABORT])
    @pytest.mark.parametrize("off", [0, 1])
    def test_heartbeat_and_abort_never_are(self, host, kind, off):
        for nonce, session in ((host.board.nonce + off, host.session), (host.board.nonce, host.session + off)):
            assert host.bytes_in(Frame(kind, nonce=nonce, session=session).encode()[:-1]) == []
        assert host.pulse() == 1

    def test_a_reply_never_is(self, host):
        assert host.bytes_in(host.frame(Kind.STATUS, b"", 2, Flag.REPLY).encode()[:-1]) == []
        assert host.pulse() == 1

    def test_bytes_that_are_no_frame_never_are(self, host):
        good = host.frame(Kind.PULSE, host.pulse_body(), 2).encode()[:-1]
        for unit in (b"", b"x", good[:-1], good[1:], good[:9] + bytes([good[9] ^ 1]) + good[10:]):
            assert host.bytes_in(unit) == []
        assert host.status().bad_frames == 4
        assert host.pulses == 0


class TestSequence:
    def test_a_resent_request_gets_the_same_answer_and_is_not_executed(self, host):
        first = host.request(Kind.PULSE, host.pulse_body([3]))
        again = host.ask(host.frame(Kind.PULSE, host.pulse_body([3]), host.sequence))
        assert again == first
        assert host.pulses == 3
        assert host.status().resent == 1

    def test_a_refusal_is_an_execution(self, host):
        first = host.request(Kind.PULSE, b"nonsense")
        assert host.ask(host.frame(Kind.PULSE, host.pulse_body(), host.sequence)) == first
        assert host.pulse() == 1

    def test_a_request_ahead_of_its_turn_is_not_executed(self, host):
        said = host.error(host.ask(host.frame(Kind.PULSE, host.pulse_body(), 3)))
        assert (said.code, said.operation) == (Code.GAP, 2)
        assert host.pulses == 0
        assert host.pulse() == 1
        assert host.pulse() == 1

    @pytest.mark.parametrize("window", [1, 8])
    def test_twice_the_window_of_replies_is_kept(self, fresh_host, window):
        host = fresh_host(window=window)
        host.open()
        first = [host.request(Kind.STATUS) for _ in range(2 * window + 1)]
        said = host.error(host.ask(host.frame(Kind.STATUS, b"", 1)))
        assert said.code == Code.GONE
        assert [host.ask(host.frame(Kind.STATUS, b"", number + 2)) for number in range(2 * window)] == first[1:]

    def test_sequence_0_is_gone(self, host):
        assert host.error(host.ask(host.frame(Kind.STATUS))).code == Code.GONE

    def test_an_unknown_kind_has_its_turn(self, host):
        assert host.code(0x7F) == Code.MALFORMED
        assert host.pulse() == 1

    @given(arriving=st.lists(st.integers(0, 30), max_size=80))
    def test_whatever_arrives_each_is_executed_once_and_in_order(self, arriving, fresh_host):
        """The pulses, the number and the hash of what was executed are those of the longest run 1, 2, 3, ... received."""
        host = fresh_host()
        host.open()
        host.arm()
        last = 1
        for sequence in arriving:
            host.bytes_in(host.frame(Kind.PULSE, host.pulse_body(), sequence).encode()[:-1])
            last += sequence == last + 1
        wanted = b"".join(struct.pack("<II", host.session, number) for number in range(1, last + 1))
        executed = host.board.truth()["executed"]
        assert executed["count"] == last
        assert executed["hash"] == hashlib.blake2b(wanted, digest_size=16).hexdigest()
        assert host.pulses == last - 1


class TestPosted:
    def test_is_skipped_after_a_failure_up_to_the_next_barrier(self, host):
        body = host.pulse_body()
        host.done(Kind.PULSE, body, Flag.POSTED)
        assert host.code(Kind.PULSE, b"", Flag.POSTED) == Code.MALFORMED
        assert host.code(Kind.PULSE, body, Flag.POSTED) == Code.SKIPPED
        assert host.code(Kind.PULSE, b"", Flag.POSTED) == Code.SKIPPED
        assert host.pulses == 1
        assert host.status().operations == 6
        host.done(Kind.PULSE, body, Flag.POSTED)
        assert host.pulses == 2

    def test_is_skipped_after_a_failure_of_what_was_not_posted(self, host):
        assert host.code(Kind.PULSE) == Code.MALFORMED
        assert host.code(Kind.PULSE, host.pulse_body(), Flag.POSTED) == Code.SKIPPED
        assert host.pulse() == 1

    def test_a_barrier_that_fails_skips_on(self, host):
        assert host.code(Kind.PULSE) == Code.MALFORMED
        assert host.code(Kind.READ) == Code.MALFORMED
        assert host.code(Kind.PULSE, host.pulse_body(), Flag.POSTED) == Code.SKIPPED

    def test_a_request_ahead_of_its_turn_is_no_failure(self, host):
        assert host.error(host.ask(host.frame(Kind.PULSE, host.pulse_body(), 9))).code == Code.GAP
        host.done(Kind.PULSE, host.pulse_body(), Flag.POSTED)


def test_status_counts(host):
    host.pulse([2, -3])
    host.code(Kind.PULSE)
    status = host.status()
    assert (status.pulses, status.operations, status.armed, status.interlock_open, status.trips) == (5, 4, 1, 0, 0)
    assert status.temperature_c == 25.0
    assert status.device_s == pytest.approx(5 * 2e-6)


def test_credits_leave_room_for_the_window(host):
    assert host.request(Kind.STATUS).credits == 8
