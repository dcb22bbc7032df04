"""The names of ``pyarc2`` 0.6.0 that a driver of an ArC TWO uses, with the twin in the place of the board.

``Instrument(port, firmware)`` connects to 127.0.0.1:port, where ``hil twin arc-two`` serves. As in the library, nothing
happens before ``execute`` (``read_one`` and ``finalise_operation`` execute too), results wait to be picked in the order
of their reads, and wrong arguments are turned down at the call: ArC2Error where they are out of range, TypeError and
ValueError where the library's own layer raises these. It is stricter than the library where that would round or clamp:
pulse widths, delays. What it turns down is counted by the twin.
"""

from __future__ import annotations

import json
import socket
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import numpy as np

from simulated_backend.twins.arc_two_checks import Wrong, channels, member, pairs, pulses, timings, volts, whole

__all__ = [
    "LIBARC2_VERSION",
    "ArC2Error",
    "ControlMode",
    "DataMode",
    "IdleMode",
    "Instrument",
    "OutputRange",
    "ReadType",
    "find_ids",
]

LIBARC2_VERSION = "0.6.0"

_TIMEOUT_S = 60.0
_TOP_V = {"STD": 10.0, "EXT": 13.5}


class ArC2Error(Exception):
    """Whatever the library reports of the instrument."""


class IdleMode(Enum):
    """State to leave the channels in."""

    Float = 0b01
    SoftGnd = 0b10
    HardGnd = 0b11


class ControlMode(Enum):
    """Where the daughterboard routes the channels."""

    Header = 0
    Internal = 1


class DataMode(Enum):
    """Which channels' values to pick."""

    Words = 0
    Bits = 1
    All = 2


class ReadType(Enum):
    """What the values are."""

    Current = 0
    Voltage = 1


class OutputRange(Enum):
    """Range of a channel's DAC."""

    STD = 0
    EXT = 1


def find_ids() -> list[int]:
    """No board hangs on the USB: a twin's port is told by whoever started it."""
    return []


class Instrument:
    """See ``pyarc2.Instrument`` for the methods."""

    def __init__(self, port: int, firmware: str, init: bool = True) -> None:
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        except OSError as exc:
            raise ArC2Error(f"Invalid ArC2 device id: {port}") from exc
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._socket.makefile("rb")
        for one in (self._lines, self._socket):
            weakref.finalize(self, one.close)
        self._queue: list[list[Any]] = []
        self._top_v = [_TOP_V["STD"]] * 64
        self._ask("open", firmware, init)

    def set_control_mode(self, mode: ControlMode) -> Instrument:
        """Queue: routing of the daughterboard."""
        return self._add("set_control_mode", lambda: [member(ControlMode, mode).name])

    def set_channel_range(self, chans: Any, rng: OutputRange) -> Instrument:
        """Queue: DAC range of some channels."""
        self._add("set_channel_range", lambda: [channels(chans), member(OutputRange, rng).name])
        for channel in channels(chans):
            self._top_v[channel] = _TOP_V[rng.name]
        return self

    def connect_to_gnd(self, chans: Any) -> Instrument:
        """Queue: tie these channels, and no others, to ground."""
        return self._add("connect_to_gnd", lambda: [channels(chans)])

    def config_channels(self, input: Any, base: float | None = None) -> Instrument:
        """Queue: voltages of some channels, and of all others unless ``base`` is None."""
        lowest = min(self._top_v)
        return self._add(
            "config_channels", lambda: [pairs(input, self._top_v), None if base is None else volts(base, lowest)]
        )

    def delay(self, nanos: int) -> Instrument:
        """Queue: wait."""
        return self._add("delay", lambda: [whole(nanos, 320, 2**32 * 20, 20)])

    def ground_all(self) -> Instrument:
        """Queue: all channels to 0 V."""
        return self._add("ground_all", list)

    def read_slice_open_deferred(self, highs: Any, ground_after: bool) -> Instrument:
        """Queue: read the current of some channels as they are biased."""
        return self._add("read_slice_open_deferred", lambda: [channels(highs), _flag(ground_after)])

    def pulse_slice_fast_open(self, chans: Any, cl_nanos: Any, preset_state: bool) -> Instrument:
        """Queue: one pulse on some channels; all others are opened."""

        def checked() -> list[Any]:
            widths = timings(cl_nanos)
            return [pulses(chans, widths, self._top_v), widths, _flag(preset_state)]

        return self._add("pulse_slice_fast_open", checked)

    def finalise_operation(self, mode: IdleMode | None = None, control: ControlMode | None = None) -> None:
        """Leave the channels in an idle mode; executes if there is one."""
        names = [None if one is None else one.name for one in (mode, control)]
        self._add("finalise_operation", lambda: names)
        if mode is not None:
            self.execute()

    def read_one(self, low: int, high: int, vread: float) -> float:
        """Current of the high channel at 0 V with the low one at ``-vread``; executes."""
        with self._counted("read_one"):
            arguments = [*channels([low, high]), volts(vread, self._top_v[low])]
        found = self._ask("read_one", *arguments, flush=True)
        return float(found)

    def execute(self) -> Instrument:
        """Send the queue to the instrument."""
        self._ask("execute", flush=True)
        return self

    def busy(self) -> bool:
        """Whether the instrument still works on its queue."""
        return bool(self._ask("busy"))

    def pick_one(self, mode: DataMode, rtype: ReadType) -> np.ndarray[Any, Any] | None:
        """The oldest result that nobody has picked, None where there is none."""
        with self._counted("pick_one"):
            names = [member(DataMode, mode).name, member(ReadType, rtype).name]
        found = self._ask("pick_one", *names)
        return None if found is None else np.array(found, dtype=np.float32)

    def _add(self, name: str, checked: Callable[[], list[Any]]) -> Instrument:
        with self._counted(name):
            self._queue.append([name, *checked()])
        return self

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        """Tell the twin of what is turned down."""
        try:
            yield
        except (Wrong, TypeError, ValueError) as exc:
            self._ask("rejected", name)
            if isinstance(exc, Wrong):
                raise ArC2Error(str(exc)) from exc
            raise

    def _ask(self, call: str, *arguments: Any, flush: bool = False) -> Any:
        asked: dict[str, Any] = {"call": call, "args": arguments}
        if flush:
            asked["queue"], self._queue = self._queue, []
        try:
            self._socket.sendall(json.dumps(asked).encode() + b"\n")
            answer = json.loads(self._lines.readline() or b'{"error": "the instrument is gone"}')
        except (OSError, ValueError) as exc:
            raise ArC2Error(f"FPGA Error: {exc}") from exc
        if "error" in answer:
            raise ArC2Error(answer["error"])
        return answer["ok"]


def _flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise TypeError(f"a bool is wanted, not {type(given).__name__}")
    return given
