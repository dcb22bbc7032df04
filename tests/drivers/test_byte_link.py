"""The stream of bytes, over TCP and over a pseudo terminal."""

from __future__ import annotations

import os
import socket
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from drivers.links.byte_link import ByteLink
from drivers.links.exclusive import exclusive
from hil.errors import HardwareError

Ends = tuple[ByteLink, Callable[[bytes], object], Callable[[int], bytes], Callable[[], object]]


@pytest.fixture(params=["tcp", "pty"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A link and its other end: send, receive, hang up."""
    with ExitStack() as closing:
        if request.param == "tcp":
            listener = closing.enter_context(socket.create_server(("127.0.0.1", 0)))
            link = ByteLink(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
            peer, _ = listener.accept()
            closing.callback(peer.close)
            made: Ends = (link, peer.sendall, peer.recv, peer.close)
        else:
            master, slave = os.openpty()
            tty.setraw(slave)
            link = ByteLink(os.ttyname(slave))
            os.close(slave)
            opened = [master]
            closing.callback(lambda: [os.close(one) for one in opened])
            made = (link, lambda d: os.write(master, d), lambda n: os.read(master, n), lambda: os.close(opened.pop()))
        closing.callback(link.close)
        yield made


def test_bytes_both_ways(ends: Ends) -> None:
    link, send, receive, _ = ends
    link.write(bytes(range(256)))
    assert receive(256) == bytes(range(256))
    send(b"abcdef")
    assert link.read(5.0, at_least=6) == b"abcdef"
    assert link.read(0.0) == b""


def test_no_more_than_asked_for(ends: Ends) -> None:
    link, send, _, _ = ends
    send(b"abcdef")
    assert link.read(5.0, at_least=2, at_most=2) == b"ab"
    assert link.drain() == b"cdef"


def test_fewer_than_asked_for(ends: Ends) -> None:
    link, send, _, _ = ends
    send(b"abc")
    assert link.read(0.02, at_least=6) == b"abc"


def test_the_other_end_has_gone(ends: Ends) -> None:
    link, _, _, hang_up = ends
    hang_up()
    with pytest.raises(HardwareError, match="check the cable"):
        link.read(5.0)
    link.close()
    for use in (lambda: link.read(0.0), lambda: link.write(b"a")):
        with pytest.raises(HardwareError):
            use()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "/dev/there-is-none"])
def test_addresses_where_nobody_is(address: str) -> None:
    """Twice: the lock of the first attempt is not kept."""
    for _ in range(2):
        with pytest.raises(HardwareError, match="cannot be opened"):
            ByteLink(address)


def test_one_harness_at_a_time(ends: Ends) -> None:
    with pytest.raises(HardwareError, match="another harness"):
        ByteLink(ends[0].address)


def test_a_pseudo_terminal_that_is_given_out_again_is_free(tmp_path: Path) -> None:
    """A harness whose twin has gone still holds its lock when the next twin gets the same terminal under its own name."""
    master, slave = os.openpty()
    try:
        for name in ("gone", "new"):
            (tmp_path / name).symlink_to(os.ttyname(slave))
        locks = [exclusive(str(tmp_path / name)) for name in ("gone", "new")]
        with pytest.raises(HardwareError, match="another harness"):
            exclusive(str(tmp_path / "new"))
        for lock in locks:
            lock.release()
    finally:
        os.close(master)
        os.close(slave)
