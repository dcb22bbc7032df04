"""The safe state: whatever ends a run, every board that was energised is grounded, and it is said which confirmed it."""

from __future__ import annotations

import atexit
import logging
import signal
import threading
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from hil.errors import HilError
from hil.ledger import Ledger

__all__ = ["CanBeSafe", "SafeState", "energised"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_LOG = logging.getLogger(__name__)


class CanBeSafe(Protocol):
    """A board, guard or station."""

    def safe(self) -> bool:
        """Ground everything; returns whether that was confirmed."""
        ...


class SafeState:
    """Boards in the order in which they were energised; leaving the context grounds them in reverse order.

    Inside the context SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread (handlers are installed
    from the main thread only and put back afterwards), and a normal end of the interpreter grounds too. While boards
    are being grounded one more signal waits until all is done; a further one gives up the board it hangs at and goes
    on to the next. Drivers bound the time that ``safe`` takes.

    confirmed: after grounding, whether each board confirmed; None before. ledger: the run record that gets it.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.confirmed: dict[str, bool] | None = None
        self.ledger = ledger
        self._boards: list[tuple[str, CanBeSafe]] = []
        self._handlers: dict[int, Any] = {}
        self._reason = ""
        self._grounding = self._stepping = False
        self._waiting = 0

    @property
    def doubtful(self) -> str:
        """Which boards did not confirm and what to do about it, one line; empty where none is in doubt."""
        names = ", ".join(name for name, confirmed in (self.confirmed or {}).items() if not confirmed)
        return f"{names}: did not confirm that it is grounded: look at it before touching it" if names else ""

    def add(self, name: str, board: CanBeSafe) -> None:
        """Register a board right after it has been opened."""
        self._boards.append((name, board))

    def make_safe(self, reason: str = "") -> dict[str, bool]:
        """Ground every registered board, last one first, each whatever became of the others.

        Returns whether each confirmed, and records it as a ``safe`` event. Boards are grounded once.
        Raises nothing but the KeyboardInterrupt of a signal that had to wait.
        """
        confirmed: dict[str, bool] = {}
        errors: dict[str, str] = {}
        leaving, self._grounding = self._grounding, True
        while self._boards:
            name, board = self._boards.pop()
            try:
                self._stepping = True
                confirmed[name] = board.safe() is True
                self._stepping = False
            except BaseException as exc:
                self._stepping = False
                confirmed[name] = False
                errors[name] = f"{type(exc).__name__}: {exc}"
                _LOG.error("%s: not confirmed safe (%s): look at the board before touching it", name, errors[name])
        if confirmed:
            self.confirmed = {**(self.confirmed or {}), **confirmed}
            self._record(confirmed, reason or self._reason, errors)
        self._grounding = leaving
        if self._waiting and not leaving:
            self._waiting = 0
            raise KeyboardInterrupt(self._reason)
        return confirmed

    def _record(self, confirmed: Mapping[str, bool], reason: str, errors: Mapping[str, str]) -> None:
        if self.ledger is None:
            return
        try:
            self.ledger.safe(confirmed, reason, errors)
        except HilError as exc:
            _LOG.error("safe state %s is not in the run record (%s)", dict(confirmed), exc)

    def __enter__(self) -> Self:
        atexit.register(self._at_exit)
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                # nohup ignores SIGHUP on purpose; Ctrl-C and SIGTERM always stop a run.
                if number is not None and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                    self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._grounding = True
        self.make_safe("" if value is None else f"{type(value).__name__}: {value}".splitlines()[0])
        while self._handlers:
            number, handler = self._handlers.popitem()
            # None: the handler was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        atexit.unregister(self._at_exit)
        waiting, self._waiting, self._grounding = self._waiting, 0, False
        if waiting and value is None:
            raise KeyboardInterrupt(self._reason)

    def _at_exit(self) -> None:
        self._grounding = True
        self.make_safe("exit")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._reason = signal.Signals(number).name
        if self._grounding:
            self._waiting += 1
            if self._waiting == 1 or not self._stepping:
                return
            # Once per board, so that no signal can break out of the loop over the boards.
            self._stepping = False
        raise KeyboardInterrupt(self._reason)


def energised(boards: Mapping[str, CanBeSafe] | None = None, ledger: Ledger | None = None) -> SafeState:
    """A SafeState with these boards already registered, in their order: ``with energised(bench.boards, ledger):``."""
    state = SafeState(ledger)
    for name, board in (boards or {}).items():
        state.add(name, board)
    return state
