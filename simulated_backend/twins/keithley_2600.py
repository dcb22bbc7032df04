"""The twin's source-measure unit: channel A of a 2636B over TSP, with the factory script KIPulse."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from simulated_backend.twins.rack import Pulses, Rack
from simulated_backend.twins.tsp import Tsp, TspError
from simulated_backend.twins.wire import Port

__all__ = ["SmuDevice", "SmuPhysics"]

_RANGES_V = (0.2, 2.0, 20.0, 200.0)
_RANGES_A = (1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 1.5)
_OVERFLOW = 9.91e37
_MEASURE_S = 60e-6
_CONSTANTS = {
    "OUTPUT_OFF": 0, "OUTPUT_ON": 1, "OUTPUT_DCAMPS": 0, "OUTPUT_DCVOLTS": 1, "OUTPUT_NORMAL": 0, "OUTPUT_HIGH_Z": 1,
    "OUTPUT_ZERO": 2, "AUTORANGE_OFF": 0, "AUTORANGE_ON": 1, "FILTER_OFF": 0, "FILTER_ON": 1, "FILTER_MOVING_AVG": 0,
    "FILTER_REPEAT_AVG": 1, "FILTER_MEDIAN": 2, "AUTOZERO_OFF": 0, "AUTOZERO_ONCE": 1, "AUTOZERO_AUTO": 2,
}  # fmt: skip
_DEFAULTS: dict[str, float] = {
    "source.func": 1, "source.offmode": 0, "source.autorangev": 1, "source.rangev": 0.2, "source.limiti": 0.1,
    "source.levelv": 0, "source.output": 0, "measure.autorangei": 1, "measure.rangei": 1e-4, "measure.nplc": 1,
    "measure.autozero": 2, "measure.filter.type": 1, "measure.filter.count": 1, "measure.filter.enable": 0,
    "nvbuffer1.appendmode": 0,
}  # fmt: skip
_LIMITS = {
    "source.func": (1, 1), "source.offmode": (0, 2), "source.autorangev": (0, 1), "source.limiti": (1e-11, 1.5),
    "source.output": (0, 1), "measure.autorangei": (0, 1), "measure.nplc": (0.001, 25), "measure.autozero": (0, 2),
    "measure.filter.type": (0, 2), "measure.filter.count": (1, 100), "measure.filter.enable": (0, 1),
    "nvbuffer1.appendmode": (0, 1),
}  # fmt: skip


class SmuPhysics(BaseModel):
    """How well the unit measures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise: float = Field(default=20e-6, ge=0)
    """Standard deviation of a reading of one power-line cycle, of the range; falls with the root of the time."""
    line_hz: float = Field(default=50, gt=0)


class SmuDevice:
    """Channel A in the rack's world: ``smu`` among its terminals."""

    delimiter = b"\n"

    def __init__(self, rack: Rack, physics: SmuPhysics, seed: int) -> None:
        self._rack, self._physics = rack, physics
        self._random = random.Random(f"smu {seed}")
        self._state = dict(_DEFAULTS)
        self._buffer: list[float] = []
        self._pulse: tuple[float, float, float, float, int] | None = None
        self._limited = False
        self._since_s = 0.0
        attributes: dict[str, tuple[Callable[[], Any], Callable[[Any], None] | None]] = {
            "smua": (lambda: "smua", None), "smua.nvbuffer1": (lambda: "smua.nvbuffer1", None),
            "smua.nvbuffer1.n": (lambda: float(len(self._buffer)), None),
            "smua.nvbuffer1.readings": (lambda: self._buffer, None),
            "smua.source.compliance": (self._in_compliance, None),
            "localnode.linefreq": (lambda: float(physics.line_hz), None),
            "format.asciiprecision": (lambda: 8.0, lambda value: None),
        }  # fmt: skip
        attributes |= {f"smua.{name}": (partial(float, value), None) for name, value in _CONSTANTS.items()}
        attributes |= {f"smua.{name}": (partial(self._get, name), partial(self._set, name)) for name in _DEFAULTS}
        self._tsp = Tsp(
            attributes=attributes,
            functions={
                "smua.measure.i": self._measure, "smua.reset": self._reset, "smua.abort": lambda: None,
                "smua.nvbuffer1.clear": self._clear, "delay": self._delay, "printbuffer": self._print_buffer,
                "ConfigPulseVMeasureI": self._configure, "InitiatePulseTest": self._initiate,
            },
            rejected=lambda word: rack.refuse(f"smu.{word}"),
            identity="Keithley Instruments Inc.,Model 2636B,TWIN2636,3.2.2",
        )  # fmt: skip

    def handle(self, unit: bytes, port: Port) -> None:
        with self._rack.lock:
            if self._rack.door_open:
                self._state["source.output"] = 0
            self._rack.clock.spend(self._rack.times.tsp_s)
            self._tsp.run(unit.decode("ascii", "replace"), port)

    def tick(self) -> None:
        """Nothing to watch."""

    def connected(self, is_connected: bool) -> None:
        """The output stays as it is: the instrument does not watch its host."""

    def _get(self, name: str) -> float:
        return float(self._state[name])

    def _set(self, name: str, value: Any) -> None:
        if not isinstance(value, float):
            raise TspError(-286, f"TSP Runtime error at line 1: {name} takes a number")
        low, high = _LIMITS.get(name, (-math.inf, math.inf))
        if name == "source.rangev":
            value = _next(_RANGES_V, abs(value))
        elif name == "measure.rangei":
            value = _next(_RANGES_A, abs(value))
        elif name == "source.levelv":
            high = 1.01 * (_RANGES_V[-1] if self._state["source.autorangev"] else self._state["source.rangev"])
            low = -high
        if not low <= value <= high:
            raise TspError(1102 if value > high else 1103, f"Parameter too {'big' if value > high else 'small'}: {name}")
        if name == "source.output" and value == 1 and self._rack.door_open:
            raise TspError(802, "OUTPUT blocked by interlock")
        self._bias_ends()
        self._state[name] = value
        if self._state["source.output"]:
            self._rack.on["smu"] = self._state["source.levelv"]
        else:
            self._rack.on.pop("smu", None)

    def _bias_ends(self) -> None:
        """A DC level above the devices' threshold is a pulse as long as it lasted."""
        rack = self._rack
        lasted_s = rack.clock.device_s - self._since_s
        self._since_s = rack.clock.device_s
        if abs(rack.on.get("smu", 0.0)) >= rack.wafer.settings.threshold_v:
            for leg in rack.legs():
                if "smu" in (leg.row, leg.col):
                    rack.play(leg, [Pulses(rack.level(leg), max(lasted_s, 1e-6), 1)])

    def _reset(self) -> None:
        if self._rack.on.get("smu", 0.0) != 0:
            self._rack.panel.count("jumped_to_zero")
        self._set("source.output", 0.0)
        self._state = dict(_DEFAULTS)

    def _delay(self, seconds: float) -> None:
        self._rack.clock.spend(seconds)

    def _clear(self) -> None:
        self._buffer = []

    def _true_current(self) -> float:
        """Ampere out of the terminal, before any limit."""
        rack, current = self._rack, 0.0
        for leg in rack.legs():
            if "smu" in (leg.row, leg.col):
                current += rack.level(leg) * rack.conductance(leg.mask) * (1 if leg.row == "smu" else -1)
        return current

    def _in_compliance(self) -> bool:
        return abs(self._true_current()) >= self._state["source.limiti"] or self._limited

    def _seen(self, current: float, nplc: float, count: float) -> float:
        """A current as it is read: limited, with noise, overflowing at the end of the range."""
        limit = self._state["source.limiti"]
        self._limited = abs(current) >= limit
        current = max(-limit, min(limit, current))
        range_a = self._state["measure.rangei"]
        if self._state["measure.autorangei"]:
            range_a = _next(_RANGES_A, abs(current))
        if abs(current) > 1.01 * range_a:
            self._rack.panel.count("overflows")
            return math.copysign(_OVERFLOW, current)
        return current + self._random.gauss(0.0, 1.0) * self._physics.noise * range_a / math.sqrt(nplc * count)

    def _measure(self) -> float:
        count = self._state["measure.filter.count"] if self._state["measure.filter.enable"] else 1
        nplc = self._state["measure.nplc"]
        self._rack.clock.spend(count * (nplc / self._physics.line_hz + _MEASURE_S))
        self._rack.panel.count("smu_readings", int(count))
        current = self._seen(self._true_current(), nplc, count)
        self._limited = False
        return current

    def _configure(
        self,
        smu: Any,
        bias: float,
        level: float,
        limit: float,
        on_s: float,
        off_s: float,
        points: float,
        buffer: Any,
        tag: Any,
    ) -> tuple[bool, str]:
        needs_s = self._state["measure.nplc"] / self._physics.line_hz + _MEASURE_S
        problems = {
            "smu or buffer unknown": smu != "smua" or buffer != "smua.nvbuffer1",
            "bias other than 0 is not modelled": bias != 0,
            "autorange is on": bool(self._state["source.autorangev"] or self._state["measure.autorangei"]),
            "level exceeds the source range": abs(level) > self._state["source.rangev"],
            "limit out of range": not 0 < limit <= 1.5,
            "measurement does not fit the pulse": on_s < needs_s or on_s < 100e-6,
            "off time too short": off_s <= 0,
            "buffer is full or not cleared": bool(self._buffer) or not 1 <= points <= 60000,
        }
        for text, wrong in problems.items():
            if wrong:
                self._rack.refuse("smu.pulse_configuration")
                return False, text
        self._pulse = (level, limit, on_s, off_s, int(points))
        return True, "Pulse configured"

    def _initiate(self, tag: Any) -> tuple[bool, str]:
        if self._pulse is None or not self._state["source.output"]:
            self._rack.refuse("smu.pulse_not_ready")
            return False, "no pulse configured or output off"
        rack, (level, limit, on_s, off_s, points) = self._rack, self._pulse
        self._pulse = None
        self._state["source.limiti"] = limit
        rack.clock.spend(points * (on_s + off_s))
        current = [0.0] * points
        width_s = round(on_s, 8)
        legs = [leg for leg in rack.legs() if "smu" in (leg.row, leg.col)]
        if not legs:
            rack.panel.count("pulses_into_nothing", points)
        for leg in legs:
            sign = 1 if leg.row == "smu" else -1
            found = rack.play(leg, [Pulses(sign * level, width_s, 1, sign * level)] * points)
            current = [total + level * g for total, g in zip(current, found, strict=True)]
        self._buffer = [self._seen(value, self._state["measure.nplc"], 1) for value in current]
        self._limited = any(abs(value) >= limit for value in current)
        return True, "Pulse test done"

    def _print_buffer(self, first: float, last: float, values: Any) -> None:
        if not isinstance(values, list) or not 1 <= first <= last <= len(values):
            raise TspError(1115, "Parameter error: printbuffer")
        self._tsp.show(", ".join(f"{value:.8e}" for value in values[int(first) - 1 : int(last)]))


def _next(ranges: tuple[float, ...], value: float) -> float:
    """The smallest range that holds a value."""
    for one in ranges:
        if value <= one * (1 + 1e-9):
            return one
    raise TspError(1102, "Parameter too big: range")
