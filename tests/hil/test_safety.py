"""Whatever ends a run grounds every board, and the record says which confirmed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hil.errors import HardwareError, LimitError
from hil.ledger import Ledger
from hil.safety import SafeState, energised

ROOT = Path(__file__).parents[2]


class Board:
    """Notes when it is grounded; ``answer`` may be an exception."""

    def __init__(self, name, log, answer=True):
        self.name, self.log, self.answer = name, log, answer

    def safe(self):
        self.log.append(self.name)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_grounded_in_reverse_order_on_the_way_out():
    log: list[str] = []
    before = handlers()
    with energised({"a": Board("a", log)}) as state:
        state.add("b", Board("b", log))
        assert state.confirmed is None
        assert handlers() != before
    assert log == ["b", "a"]
    assert state.confirmed == {"a": True, "b": True}
    assert handlers() == before


def test_one_failure_does_not_stop_the_next(tmp_path):
    log: list[str] = []
    boards = {
        "a": Board("a", log),
        "b": Board("b", log, HardwareError("no answer")),
        "c": Board("c", log, KeyboardInterrupt()),
        "d": Board("d", log, False),
        "e": Board("e", log, None),
    }
    with (
        pytest.raises(LimitError, match="too high"),
        Ledger.create(tmp_path, "train", {}) as ledger,
        energised(boards, ledger) as state,
    ):
        raise LimitError("too high")
    expected = {"a": True, "b": False, "c": False, "d": False, "e": False}
    assert log == ["e", "d", "c", "b", "a"]
    assert state.confirmed == expected
    with Ledger.open(ledger.folder) as run:
        (event,) = run.events("safe")
        assert run.stop().safe is False
        assert run.stop().status == "refused"
    assert event.payload["boards"] == expected
    assert event.payload["reason"] == "LimitError: too high"
    assert event.payload["errors"] == {"b": "HardwareError: no answer", "c": "KeyboardInterrupt: "}


def test_grounded_once():
    log: list[str] = []
    with energised({"a": Board("a", log)}) as state:
        assert state.make_safe("lost heartbeat") == {"a": True}
        assert state.make_safe() == {}
    assert log == ["a"]
    assert state.confirmed == {"a": True}


def test_a_record_that_cannot_be_written_hides_nothing(tmp_path):
    ledger = Ledger.create(tmp_path, "train", {})
    ledger.stop("done")
    with energised({"a": Board("a", [])}, ledger) as state:
        pass
    assert state.confirmed == {"a": True}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_interrupt(number):
    log: list[str] = []
    # Under nohup SIGHUP is ignored, and then stays so on purpose.
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt, match=number.name), energised({"a": Board("a", log)}):
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert log == ["a"]


def test_first_signal_while_grounding_waits():
    log: list[str] = []

    def answer():
        signal.raise_signal(signal.SIGINT)
        return True

    state = energised({"a": Board("a", log), "b": Board("b", log, answer)})
    with pytest.raises(KeyboardInterrupt, match="SIGINT"), state:
        pass
    assert state.confirmed == {"a": True, "b": True}


def test_a_signal_that_waited_in_the_middle_of_a_run_interrupts_it():
    def answer():
        signal.raise_signal(signal.SIGTERM)
        return True

    log: list[str] = []
    state = energised({"a": Board("a", log), "b": Board("b", log, answer)})
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), state:
        state.make_safe("lost heartbeat")
    assert log == ["b", "a"]
    assert state.confirmed == {"a": True, "b": True}


def test_further_signals_give_up_one_board_each():
    log: list[str] = []

    def hangs():
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal has to give it up")

    boards = {"a": Board("a", log), "b": Board("b", log, hangs), "c": Board("c", log, hangs)}
    with pytest.raises(LimitError), energised(boards) as state:
        raise LimitError("x")
    assert log == ["c", "b", "a"]
    assert state.confirmed == {"a": True, "b": False, "c": False}


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with energised():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_installs_no_handlers():
    before, seen, log = handlers(), [], []

    def work():
        with SafeState() as state:
            state.add("a", Board("a", log))
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
    assert log == ["a"]


CHILD = """
import sys
from hil.ledger import Ledger
from hil.safety import energised

class Board:
    def safe(self):
        return True

ledger = Ledger.create(sys.argv[1], "train", {})
state = energised({"main": Board()}, ledger)
if sys.argv[2] == "exit":
    state.__enter__()
    sys.exit(0)
with ledger, state:
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "exit"])
def test_a_child_that_is_stopped_grounds_and_records(tmp_path, how):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), how], text=True, env=env, **pipes) as process:
        if how != "exit":
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.Signals[how])
            process.wait()
        errors = process.communicate()[1]
    (folder,) = tmp_path.iterdir()
    with Ledger.open(folder) as run:
        (event,) = run.events("safe")
        stop, status = run.stop(), run.status
    assert event.payload["boards"] == {"main": True}
    if how == "exit":
        assert (event.payload["reason"], stop, status) == ("exit", None, "killed")
    else:
        assert event.payload["reason"] == f"KeyboardInterrupt: {how}"
        assert errors.strip().endswith(f"KeyboardInterrupt: {how}")
        assert (status, stop.safe) == ("interrupted", True)
