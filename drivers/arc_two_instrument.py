"""An ArC TWO through its vendor's library: steps that are queued, flushed in blocks, waited for, and collected.

The library sends nothing before ``execute``, which costs about 2.5 ms; so a verb queues all it wants and flushes once.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.links.exclusive import exclusive
from hil.errors import HardwareError, HilError, UsageError

__all__ = ["BLOCK", "DELAY_GRAIN_NS", "DELAY_MIN_NS", "Instrument", "Pulse", "Sense", "delay_ns", "vendor"]

BLOCK = 1024
"""Steps of one flush at most: bounds how long the board is left alone."""

DELAY_MIN_NS, DELAY_GRAIN_NS = 320, 20
"""What the board's delay can be: at least, and in steps of; nanoseconds."""

_READ_S, _SETTLE_S = 1.5e-3, 0.4e-3
"""Time of a current reading, and more than a change of bias and drivers takes; second."""

_POLL_S = 0.2e-3


def vendor(module: str) -> Any:
    """The library, by name; UsageError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise UsageError(f"module {module!r} cannot be imported ({exc}): pip install crosspoint-hil[arc2]") from exc


def delay_ns(seconds: float) -> int:
    """The shortest delay of the board that is at least so long, nanoseconds."""
    whole = round(seconds * 1e9)
    return max(DELAY_MIN_NS, -(-whole // DELAY_GRAIN_NS) * DELAY_GRAIN_NS)


@dataclass(frozen=True)
class Sense:
    """Bias some channels, all others at 0 V, and read the currents of some of these."""

    drive: list[tuple[int, float]]
    sensed: list[int]
    settle_ns: int = 0

    @property
    def seconds(self) -> float:
        return _READ_S + _SETTLE_S + self.settle_ns * 1e-9

    def queue(self, board: Any) -> None:
        board.connect_to_gnd([])
        board.config_channels(self.drive, 0.0)
        if self.settle_ns:
            board.delay(self.settle_ns)
        board.read_slice_open_deferred(self.sensed, False)


@dataclass(frozen=True)
class Pulse:
    """Tie the idle channels to ground and pulse the active ones; then wait until the pulse is over."""

    idle: list[int]
    active: list[tuple[int, float, float]]
    clusters: list[int | None]
    wait_ns: int

    @property
    def seconds(self) -> float:
        return _SETTLE_S + self.wait_ns * 1e-9

    def queue(self, board: Any) -> None:
        board.connect_to_gnd(self.idle)
        board.pulse_slice_fast_open(self.active, self.clusters, True)
        # The board goes on with its queue while a pulse lasts.
        board.delay(self.wait_ns)


class Instrument:
    """One board, held exclusively. Every fault is a HardwareError; the vendor's exceptions do not get out.

    library: the vendor's module; name: what the board is called in messages; timeout_s: beyond the time that a block
    should take. Attributes: flushes and passes so far.
    """

    def __init__(
        self,
        library: Any,
        port: int,
        firmware: str,
        *,
        name: str,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._library, self._name, self._timeout_s = library, name, timeout_s
        self._clock, self._sleep = clock, sleep
        self.flushes = self.passes = 0
        self._stale = False
        self._lock = exclusive(f"arc-two {port}")
        try:
            self._board: Any = library.Instrument(port, firmware)
        except library.ArC2Error as exc:
            self._lock.release()
            there = ", ".join(str(one) for one in library.find_ids()) or "none"
            what = f"{name}: ArC TWO {port} does not open ({exc})"
            raise HardwareError(f"{what}: boards found: {there}; check id, firmware, cable and power") from exc

    def prepare(self, channels: list[int], control: str, output_range: str) -> None:
        """Routing, voltage range, everything at 0 V."""
        with self._translated("being set up"):
            self._board.set_control_mode(getattr(self._library.ControlMode, control))
            self._board.set_channel_range(channels, getattr(self._library.OutputRange, output_range))
            self._board.ground_all()
            self._flush(_SETTLE_S)

    def run(self, steps: Iterable[Sense | Pulse]) -> list[NDArray[np.float32]]:
        """Do the steps, BLOCK with one flush, and leave everything at 0 V; the currents of every Sense, [64] ampere.

        HardwareError for a fault, a board that stays busy, a missing reading, or a sensed channel without one.
        """
        found: list[NDArray[np.float32]] = []
        with self._translated("doing what it was told"):
            if self._stale:
                self._drain()
            remaining = iter(steps)
            while block := list(islice(remaining, BLOCK)):
                self._stale = True
                biased = False
                for step in block:
                    if biased and isinstance(step, Pulse):
                        # No channel may be tied to ground while it is at a voltage.
                        self._board.ground_all()
                    step.queue(self._board)
                    biased = isinstance(step, Sense)
                self._board.ground_all()
                self._flush(sum(step.seconds for step in block))
                found += [self._currents(step) for step in block if isinstance(step, Sense)]
                self._stale = False
                self.passes += sum(isinstance(step, Pulse) for step in block)
        return found

    def ground(self, idle: str) -> bool:
        """Everything to 0 V, then to the idle mode; both are tried, nothing is raised. Whether both were confirmed."""
        done: list[bool] = []
        for step in (self._zero, lambda: self._finalise(idle)):
            try:
                with self._translated("being grounded"):
                    step()
                done.append(True)
            except HilError:
                done.append(False)
        return all(done)

    def is_busy(self) -> bool:
        """Whether it still works on its queue."""
        with self._translated("being asked"):
            return bool(self._board.busy())

    def close(self) -> None:
        """Let go of it; the library closes a board that nobody holds any more."""
        self._board = None
        self._lock.release()

    def _zero(self) -> None:
        self._board.ground_all()
        self._flush(_SETTLE_S)

    def _finalise(self, idle: str) -> None:
        """The library flushes this by itself."""
        self.flushes += 1
        self._board.finalise_operation(getattr(self._library.IdleMode, idle), None)
        self._wait(_SETTLE_S)

    def _flush(self, seconds: float) -> None:
        """Send the queue and wait until it is done; ``seconds``: how long it should take."""
        self.flushes += 1
        self._board.execute()
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        deadline = self._clock() + seconds + self._timeout_s
        while self._board.busy():
            if self._clock() > deadline:
                after = f"still busy {seconds + self._timeout_s:.3g} s after a flush"
                raise HardwareError(f"{self._name}: {after}: switch the board off and on, then read the cells again")
            self._sleep(_POLL_S)

    def _drain(self) -> None:
        """Throw away what a verb that failed has left in the queue and in the board's memory."""
        self._flush(BLOCK * (_READ_S + _SETTLE_S))
        while self._pick() is not None:
            pass
        self._stale = False

    def _pick(self) -> NDArray[np.float32] | None:
        picked = self._board.pick_one(self._library.DataMode.All, self._library.ReadType.Current)
        return None if picked is None else np.asarray(picked, dtype=np.float32)

    def _currents(self, step: Sense) -> NDArray[np.float32]:
        picked = self._pick()
        if picked is None:
            raise HardwareError(f"{self._name}: a reading is missing: switch the board off and on, then try again")
        blind = [channel for channel in step.sensed if np.isnan(picked[channel])]
        if blind:
            raise HardwareError(f"{self._name}: channel {blind[0]} gave no reading: check its wiring and the channel map")
        return picked

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        if self._board is None:
            raise HardwareError(f"{self._name}: is closed: open the bench again")
        try:
            yield
        except self._library.ArC2Error as exc:
            words = " ".join(str(exc).split())
            raise HardwareError(f"{self._name}: ArC TWO fault while {doing} ({words}): check cable and power") from exc
