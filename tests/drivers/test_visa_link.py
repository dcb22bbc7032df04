"""The VISA link: exclusive, and never one answer taken for another."""

from __future__ import annotations

import socket
import threading

import pytest
import pyvisa

from drivers.links.visa_link import VisaLink, resource_name
from hil.errors import HardwareError, UsageError


def greet(ask) -> None:
    if ask("who") != "me":
        raise HardwareError("somebody else answers: check the address")


def answer(unit: str) -> str | None:
    return {"who": "me", "lost": None}.get(unit, f"answer to {unit}")


def test_name_of_an_address():
    assert resource_name("tcp://192.0.2.7:1225") == "TCPIP::192.0.2.7::1225::SOCKET"
    assert resource_name("TCPIP0::192.0.2.7::1225::SOCKET") == "TCPIP0::192.0.2.7::1225::SOCKET"


@pytest.mark.parametrize("address", ["192.0.2.7", "tcp://192.0.2.7", "/dev/ttyUSB0", "GPIB0::17::INSTR"])
def test_no_address(address):
    with pytest.raises(UsageError, match=r"give tcp://HOST:PORT"):
        resource_name(address)


@pytest.mark.parametrize("terminator", [b"\0", b"\n"])
def test_exchange(instruments, terminator):
    fake = instruments(terminator, answer)
    link = VisaLink(fake.address, terminator, greet)
    assert link.query("a") == "answer to a"
    link.write("quiet")
    assert link.query("b") == "answer to quiet"
    assert link.query("c") == "answer to b"
    assert fake.sent[:4] == ["who", "a", "quiet", "b"]
    assert link.exchanges == 5
    link.close()
    link.close()


@pytest.mark.slow
def test_late_answer_does_not_meet_the_next_question(instruments):
    """The fault that pyvisa-py shows on a raw socket: after a timeout every answer is one late."""
    fake = instruments(b"\n", answer)
    link = VisaLink(fake.address, b"\n", greet, timeout_s=0.3, sleep=lambda _: None)
    fake.late = b"answer to lost\n"
    with pytest.raises(HardwareError, match=r"no answer to 'lost' within 0\.3 s"):
        link.query("lost")
    assert link.query("next") == "answer to next"
    assert fake.sent.count("lost") == 1
    assert fake.connections == 2
    link.close()


def test_answer_of_a_whole_page(instruments):
    fake = instruments(b"\0", lambda unit: "me" if unit == "who" else "7" * 300_000)
    link = VisaLink(fake.address, b"\0", greet)
    assert link.query("page") == "7" * 300_000
    link.close()


def test_another_instrument(instruments):
    fake = instruments(b"\n", lambda _: "you")
    with pytest.raises(HardwareError, match="somebody else answers"):
        VisaLink(fake.address, b"\n", greet, sleep=lambda _: None)
    assert set(fake.sent) == {"who"}
    assert len(fake.sent) == 3, "attempts are bounded"


def test_an_answer_that_is_cut_short_is_none():
    """pyvisa-py may hand out what has come when the other end goes away: a list without its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for said in (b"1.5, 2.", b""):
                peer, _ = listener.accept()
                with peer:
                    peer.recv(100)
                    peer.sendall(b"me\n")
                    if said:
                        peer.recv(100)
                        peer.sendall(said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        link = VisaLink(f"tcp://127.0.0.1:{listener.getsockname()[1]}", b"\n", greet, timeout_s=0.5)
        with pytest.raises(HardwareError, match=r"no answer to 'list' within .*(cut short after 7 bytes|Timeout expired)"):
            link.query("list")
        link.ready()
        link.close()
        thread.join()


def test_one_harness_at_a_time(instruments):
    fake = instruments(b"\n", answer)
    link = VisaLink(fake.address, b"\n", greet)
    with pytest.raises(HardwareError, match="another harness has this board open"):
        VisaLink(fake.address, b"\n", greet)
    link.close()
    VisaLink(fake.address, b"\n", greet).close()
    with pytest.raises(HardwareError, match="the link is closed"):
        link.query("a")


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(HardwareError) as caught:
        VisaLink(f"tcp://127.0.0.1:{port}", b"\n", greet, timeout_s=0.2, sleep=lambda _: None)
    assert "\n" not in str(caught.value)


def test_resource_manager_is_closed_with_the_last_link(instruments):
    links = [VisaLink(instruments(b"\n", answer).address, b"\n", greet) for _ in range(2)]
    links[0].close()
    assert links[1].query("still") == "answer to still", "closing one link leaves the other"
    library = pyvisa.ResourceManager("@py").visalib
    links[1].close()
    assert library.resource_manager is None
