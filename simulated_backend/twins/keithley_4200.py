"""The twin's pulse unit: a 4200A-SCS with one 4225-PMU and two RPMs, over KXCI.

Spot means only; a standard train is not measured. Readings have the noise and settling of their current range
(``RANGES``): the shorter the window, the noisier, and a window that begins before the current has settled reads too little.
What this twin does not model it refuses, as it refuses what the instrument would.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from simulated_backend.twins.keithley_4200_sequences import (
    CommandError,
    Sequence,
    check_sequence,
    expand,
    whole,
)
from simulated_backend.twins.rack import Pulses, Rack, Terminal
from simulated_backend.twins.wire import Port

__all__ = ["RANGES", "PmuDevice"]

RANGES = {
    1e-7: (47e-6, 160e-12), 1e-6: (38.7e-6, 425e-12), 1e-5: (6.8e-6, 2.5e-9), 1e-4: (950e-9, 47e-9), 1e-3: (240e-9, 280e-9),
    1e-2: (145e-9, 1.9e-6), 0.2: (145e-9, 38e-6), 0.8: (145e-9, 150e-6),
}  # fmt: skip
"""Current range -> time after which a reading has settled (s), noise of a reading of that length (A rms)."""
_RANGES_AT = {10: (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.2), 40: (1e-4, 1e-2, 0.8)}
_TERMINALS: dict[int, Terminal] = {1: "pmu1", 2: "pmu2"}
_POINTS = 65536
_PAGE = 2048
_STORED = 2048
_ARRAYS = {
    ":PMU:SARB:SEQ:TIME": "time", ":PMU:SARB:SEQ:STARTV": "start", ":PMU:SARB:SEQ:STOPV": "stop",
    ":PMU:SARB:SEQ:MEAS:TYPE": "kind", ":PMU:SARB:SEQ:MEAS:START": "first", ":PMU:SARB:SEQ:MEAS:STOP": "last",
}  # fmt: skip


@dataclass
class _Channel:
    """What INIT resets."""

    range_v: int = 10
    range_a: float | None = None
    routed: bool = False
    wanted_on: bool = False
    train: tuple[float, float] | None = None
    times: tuple[float, ...] | None = None
    sequences: dict[int, Sequence] = field(default_factory=dict)
    plays: list[tuple[int, int]] = field(default_factory=list)
    points: list[tuple[float, float, float, int]] = field(default_factory=list)


class PmuDevice:
    """Two channels in the rack's world: ``pmu1`` and ``pmu2`` among its terminals."""

    delimiter = b"\0"

    def __init__(self, rack: Rack, seed: int) -> None:
        self._rack = rack
        self._random = random.Random(f"pmu {seed}")
        self._error = "No error. (0)"
        self._mode: int | None = None
        self._burst = 1
        self._measure_mode = 0
        self._channels = {number: _Channel() for number in _TERMINALS}
        self._ends_s: float | None = None
        self._polled = False
        self._commands: dict[str, Callable[[list[str]], str | None]] = {
            "*IDN?": lambda _: "KEITHLEY INSTRUMENTS,KI4200A-SCS,TWIN4200,V1.13",
            ":ERROR:LAST:GET": lambda _: self._error, ":ERROR:LAST:CLEAR": self._clear_error,
            ":PMU:INIT": self._init, ":PMU:RPM:CONFIGURE": self._route, ":PMU:SOURCE:RANGE": self._source_range,
            ":PMU:MEASURE:RANGE": self._measure_range, ":PMU:LOAD": self._load, ":PMU:PULSE:TRAIN": self._train,
            ":PMU:PULSE:TIMES": self._times, ":PMU:PULSE:BURST:COUNT": self._count, ":PMU:MEASURE:MODE": self._measure,
            ":PMU:SARB:WFM:SEQ:LIST": self._list, ":PMU:OUTPUT:STATE": self._output, ":PMU:EXECUTE": self._execute,
            ":PMU:ABORT": self._abort, ":PMU:TEST:STATUS?": self._status,
            ":PMU:DATA:COUNT?": lambda a: str(len(self._channel(a).points)), ":PMU:DATA:GET": self._get,
        }  # fmt: skip

    def handle(self, unit: bytes, port: Port) -> None:
        with self._rack.lock:
            text = unit.decode("ascii", "replace").strip()
            if text:
                self._rack.clock.spend(self._rack.times.kxci_s)
                port.send(self._answer(text).encode() + b"\0")

    def tick(self) -> None:
        """Nothing to watch."""

    def connected(self, is_connected: bool) -> None:
        """Outputs stay as they are: the instrument does not watch its host."""

    def _answer(self, text: str) -> str:
        word, _, rest = text.partition(" ")
        arguments = [part.strip() for part in rest.split(",")] if rest.strip() else []
        try:
            if word in _ARRAYS or word.removesuffix(":ADD") in _ARRAYS:
                self._array(word, arguments)
                return "ACK"
            if word not in self._commands:
                raise CommandError(-992, "KXCI command error.")
            return self._commands[word](arguments) or "ACK"
        except CommandError as exc:
            self._error = f"{exc} ({exc.code})"
        except (ValueError, IndexError, KeyError):
            self._error = f"Illegal parameter of {word}. (-993)"
        self._rack.refuse(f"pmu.{word.lstrip(':').rstrip('?').lower().replace(':', '_')}")
        return f"ERROR: {self._error}"

    def _channel(self, arguments: list[str]) -> _Channel:
        number = whole(arguments[0], "channel")
        if number not in self._channels:
            raise CommandError(-820, f"Channel {number} does not exist.")
        return self._channels[number]

    def _clear_error(self, _: list[str]) -> None:
        self._error = "No error. (0)"

    def _idle(self) -> None:
        if self._running():
            raise CommandError(-821, "A test is running.")

    def _running(self) -> bool:
        """A test runs as long as the device needs, and at least until it was asked about once."""
        if self._ends_s is not None and self._polled and time.monotonic() >= self._ends_s:
            self._ends_s = None
        return self._ends_s is not None

    def _init(self, arguments: list[str]) -> None:
        self._idle()
        mode = whole(arguments[0], "mode")
        if mode not in (0, 1):
            raise CommandError(-822, "Mode is 0 or 1.")
        for number, terminal in _TERMINALS.items():
            if self._rack.on.pop(terminal, None) is not None:
                self._rack.panel.count("left_on")
            self._channels[number] = _Channel()
        self._mode, self._burst, self._measure_mode = mode, 1, 0

    def _route(self, arguments: list[str]) -> None:
        card, _, number = arguments[0].partition("-")
        if card != "PMU1" or arguments[1] != "0":
            raise CommandError(-824, "Only PMU1 routed to its own pulser is there.")
        self._channel([number]).routed = True

    def _source_range(self, arguments: list[str]) -> None:
        value = whole(arguments[1], "range")
        if value not in _RANGES_AT:
            raise CommandError(-825, "Source range is 10 or 40.")
        self._channel(arguments).range_v = value

    def _measure_range(self, arguments: list[str]) -> None:
        channel = self._channel(arguments)
        if arguments[1] != "2":
            raise CommandError(-826, "Segment arb needs a fixed range.")
        value = float(arguments[2])
        match = [one for one in _RANGES_AT[channel.range_v] if math.isclose(one, value, rel_tol=1e-6)]
        if not match:
            raise CommandError(-827, "Current range does not exist at this source range.")
        channel.range_a = match[0]

    def _load(self, arguments: list[str]) -> None:
        self._channel(arguments)
        if not 1 <= float(arguments[1]) <= 1e7:
            raise CommandError(-828, "Load is 1 to 1e7 ohm.")

    def _train(self, arguments: list[str]) -> None:
        channel = self._channel(arguments)
        base, top = float(arguments[1]), float(arguments[2])
        if base != 0:
            raise CommandError(-829, "A base other than 0 is not modelled.")
        if abs(top) > channel.range_v:
            raise CommandError(-830, "Pulse exceeds the source range.")
        channel.train = (base, top)

    def _times(self, arguments: list[str]) -> None:
        channel = self._channel(arguments)
        period, width, rise, fall = (float(value) for value in arguments[1:5])
        shortest_s, period_s = (40e-9, 60e-9) if channel.range_v == 10 else (250e-9, 500e-9)
        rest_s = period - width - (rise + fall) / 2
        good = (
            period_s <= period <= 1 and shortest_s <= width <= period - 10e-9 and min(rise, fall) >= 20e-9 * (1 - 1e-9)
            and max(rise, fall) <= 33e-3 and width > (rise + fall) / 2 and rise <= width and rest_s > 40e-9
        )  # fmt: skip
        if not good:
            raise CommandError(-831, "Pulse times are out of range.")
        channel.times = (period, width, rise, fall)

    def _count(self, arguments: list[str]) -> None:
        count = whole(arguments[0], "count")
        if not 1 <= count <= 10000:
            raise CommandError(-832, "Burst count is 1 to 10000.")
        self._burst = count

    def _measure(self, arguments: list[str]) -> None:
        if whole(arguments[0], "mode") != 0:
            raise CommandError(-833, "Measuring a standard train is not modelled.")

    def _array(self, word: str, arguments: list[str]) -> None:
        channel, number = self._channel(arguments), whole(arguments[1], "sequence")
        values = [float(value) for value in arguments[2:]]
        if self._mode != 1:
            raise CommandError(-834, "Not in segment-arb mode.")
        if not 1 <= number <= 512 or not 1 <= len(values) <= 128:
            raise CommandError(-835, "Sequences are 1 to 512, arrays 1 to 128 values.")
        sequence = channel.sequences.setdefault(number, Sequence())
        name = _ARRAYS[word.removesuffix(":ADD")]
        setattr(sequence, name, (getattr(sequence, name) if word.endswith(":ADD") else []) + values)
        if sum(len(one.time) for one in channel.sequences.values()) > _STORED:
            raise CommandError(-836, "More than 2048 segments.")

    def _list(self, arguments: list[str]) -> None:
        channel = self._channel(arguments)
        numbers = [whole(value, "list") for value in arguments[1:]]
        plays = list(zip(numbers[::2], numbers[1::2], strict=True))
        if not plays or any(number not in channel.sequences or not 1 <= loops <= 10**12 for number, loops in plays):
            raise CommandError(-837, "The list names a sequence that is not defined, or loops out of range.")
        channel.plays = plays

    def _output(self, arguments: list[str]) -> None:
        channel, number = self._channel(arguments), whole(arguments[0], "channel")
        if arguments[1] not in ("0", "1"):
            raise CommandError(-838, "Output state is 0 or 1.")
        channel.wanted_on = arguments[1] == "1"
        if not channel.wanted_on:
            self._rack.on.pop(_TERMINALS[number], None)

    def _abort(self, _: list[str]) -> None:
        self._ends_s = None
        for number in _TERMINALS:
            self._output([str(number), "0"])

    def _status(self, _: list[str]) -> str:
        running = self._running()
        self._polled = True
        return "1" if running else "0"

    def _get(self, arguments: list[str]) -> str:
        points = self._channel(arguments).points
        first = whole(arguments[1], "start") if len(arguments) > 1 else 0
        count = whole(arguments[2], "count") if len(arguments) > 2 else _PAGE
        if first < 0 or not 1 <= count <= _PAGE:
            raise CommandError(-839, "A page holds 1 to 2048 points.")
        return ";".join(f"{v:.9e},{i:.9e},{t:.9e},{s}" for v, i, t, s in points[first : first + count])

    def _execute(self, _: list[str]) -> None:
        self._idle()
        on = [number for number, channel in self._channels.items() if channel.wanted_on]
        if self._mode is None or not on:
            raise CommandError(-840, "Nothing is initialised or no output is on.")
        if self._rack.door_open:
            raise CommandError(-841, "Interlock is open.")
        if any(not self._channels[number].routed or self._channels[number].range_a is None for number in on):
            raise CommandError(-842, "A channel has no RPM route or no fixed range.")
        programs, duration_s = self._standard(on) if self._mode == 0 else self._segments(on)
        rack = self._rack
        for number in on:
            rack.on[_TERMINALS[number]] = 0.0
        rack.clock.spend(rack.times.execute_s)
        rack.panel.count("executes")
        rack.clock.device_s += duration_s
        self._ends_s, self._polled = time.monotonic() + duration_s * rack.clock.time_scale, False
        self._run(on, programs)

    def _standard(self, on: list[int]) -> tuple[dict[int, list[Pulses]], float]:
        channels = [self._channels[number] for number in on]
        if any(channel.train is None or channel.times is None for channel in channels):
            raise CommandError(-843, "A channel has no pulse train or no times.")
        if len({channel.times for channel in channels}) != 1:
            raise CommandError(-844, "Channels differ in their times.")
        period_s, width_s = (channels[0].times or (0.0, 0.0))[:2]
        programs = {
            number: [Pulses((channel.train or (0.0, 0.0))[1], round(width_s, 8), self._burst)]
            for number, channel in zip(on, channels, strict=True)
        }
        return programs, period_s * self._burst

    def _segments(self, on: list[int]) -> tuple[dict[int, list[Pulses]], float]:
        channels = [self._channels[number] for number in on]
        for channel in channels:
            if not channel.plays:
                raise CommandError(-845, "A channel has no sequence list.")
            for number in {number for number, _ in channel.plays}:
                check_sequence(channel.sequences[number], channel.range_v)
        first = channels[0]
        for channel in channels:
            alike = channel.plays == first.plays and all(
                channel.sequences[number].time == first.sequences[number].time for number, _ in first.plays
            )
            if not alike:
                raise CommandError(-844, "Channels differ in their times.")
            if sum(len(channel.sequences[number].windows()) * loops for number, loops in channel.plays) > _POINTS:
                raise CommandError(-846, "More than 65536 points.")
        played = expand([channel.sequences for channel in channels], first.plays)
        duration_s = sum(sum(first.sequences[number].time) * loops for number, loops in first.plays)
        return dict(zip(on, played, strict=True)), duration_s

    def _run(self, on: list[int], programs: dict[int, list[Pulses]]) -> None:
        """Apply the programs to the cells, and measure."""
        rack = self._rack
        legs = [leg for leg in rack.legs() if leg.row.startswith("pmu") or leg.col.startswith("pmu")]
        terminals = {_TERMINALS[number]: programs[number] for number in on}
        some = programs[on[0]]
        if not legs:
            threshold_v = rack.wafer.settings.threshold_v
            rack.panel.count("pulses_into_nothing", sum(item.count for item in some if abs(item.volt) >= threshold_v))
        reads = sum(item.read_v is not None for item in some)
        current: dict[Terminal, list[float]] = {terminal: [0.0] * reads for terminal in terminals}
        rest = [replace(item, volt=0.0, read_v=None if item.read_v is None else 0.0) for item in some]
        for leg in legs:
            high, low = terminals.get(leg.row, rest), terminals.get(leg.col, rest)
            program = [_between(one, other) for one, other in zip(high, low, strict=True)]
            found = rack.play(leg, program)
            volts = [item.read_v for item in program if item.read_v is not None]
            for terminal, sign in ((leg.row, 1.0), (leg.col, -1.0)):
                if terminal in current:
                    current[terminal] = [
                        total + sign * g * v for total, g, v in zip(current[terminal], found, volts, strict=True)
                    ]
        for number in on:
            self._channels[number].points = self._points(number, programs[number], current[_TERMINALS[number]])

    def _points(self, number: int, program: list[Pulses], current: list[float]) -> list[tuple[float, float, float, int]]:
        """What one channel stores: V, I, time, status of every spot mean."""
        channel = self._channels[number]
        if self._mode == 0 or not any(s.kind and any(s.kind) for s in channel.sequences.values()):
            return []
        assert channel.range_a is not None
        settled_s, noise_a = RANGES[channel.range_a]
        windows: list[tuple[float, float, float, float]] = []
        at_s = 0.0
        for sequence, loops in channel.plays:
            one = channel.sequences[sequence]
            marks = one.windows()
            for _ in range(loops):
                windows += [(at_s + start_s, first_s, last_s, volt) for start_s, first_s, last_s, volt in marks]
                at_s += sum(one.time)
        points = []
        for (begin_s, first_s, last_s, volt), true_a in zip(windows, current, strict=True):
            tau_s = settled_s / math.log(1000)
            span_s = last_s - first_s
            missing = tau_s / span_s * (math.exp(-first_s / tau_s) - math.exp(-last_s / tau_s))
            if first_s < settled_s * (1 - 1e-6):
                self._rack.panel.count("unsettled_readings")
            seen_a = true_a * (1 - missing) + self._random.gauss(0.0, noise_a) * math.sqrt(settled_s / span_s)
            over = abs(seen_a) > channel.range_a
            seen_a = max(-channel.range_a, min(channel.range_a, seen_a))
            points.append((volt, seen_a, begin_s + (first_s + last_s) / 2, int(over)))
        self._rack.panel.count("pmu_readings", len(points))
        return points


def _between(one: Pulses, other: Pulses) -> Pulses:
    """What a cell sees between two terminals that play together."""
    read_v = None if one.read_v is None or other.read_v is None else one.read_v - other.read_v
    return Pulses(one.volt - other.volt, one.width_s, one.count, read_v)
