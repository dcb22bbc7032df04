"""Inside the twin of an ArC TWO: 64 channels, the emulated array wired to them, and the instructions that move them.

A channel is open, at a voltage of its DAC (16 bits), or on its pulse driver, and may be tied to ground besides. A reading
is the current into the channel, sum_o G (V_o - V), over all crossing lines o that are not floating; of the three
transimpedance ranges the most sensitive one that holds it is taken, 18 bits over +-10.24 V. A cell whose row and column
are both pulsed gets one pulse of V_row - V_col; a half-selected one stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hil.backend import PulseShape
from simulated_backend.twins.arc_two_settings import ArcTwoTwinSettings
from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel

__all__ = ["ArcTwoBox", "Refused"]

_OHMS = (15e6, 110e3, 830.0)
_ADC_V, _ADC_CODES = 10.24, 2**17
_OPEN, _BIASED, _FAST = 0, 1, 2

Floats = NDArray[np.float64]


class Refused(Exception):
    """An instruction that the instrument cannot follow as it stands."""


class ArcTwoBox:
    """The instrument behind the library. Instructions are the methods named like the library's.

    Attributes: results, the readings not yet fetched, [64] ampere each, NaN for a channel that was not read; blind,
    channels whose readings come to nothing.
    """

    def __init__(self, settings: ArcTwoTwinSettings, panel: FaultPanel, clock: DeviceClock) -> None:
        self.array = settings.make_array()
        self.results: list[Floats] = []
        self.blind: set[int] = set()
        self._settings, self._panel, self._clock, self._times = settings, panel, clock, settings.times
        info = self.array.info
        self._words, self._bits = np.array(settings.words[: info.rows]), np.array(settings.bits[: info.cols])
        self._every = torch.ones(1, info.rows, info.cols, dtype=torch.bool)
        self._random = np.random.default_rng(settings.seed)
        self._state = np.full(64, _BIASED)
        self._volts, self._step_v = np.zeros(64), np.full(64, 20 / 2**16)
        self._ground = np.zeros(64, dtype=bool)

    def run(self, queue: Sequence[Sequence[Any]]) -> None:
        """Follow the instructions, [name, argument, ...] each; Refused stops there."""
        self._spend(self._times.flush_s)
        for name, *arguments in queue:
            getattr(self, f"do_{name}")(*arguments)

    def do_set_control_mode(self, mode: str) -> None:
        """Routing: the devices are reached either way."""

    def do_set_channel_range(self, channels: list[int], name: str) -> None:
        self._step_v[channels] = (20 if name == "STD" else 40) / 2**16

    def do_connect_to_gnd(self, channels: list[int]) -> None:
        self._ground[:] = False
        self._ground[channels] = True
        self._unhurt()

    def do_delay(self, nanos: int) -> None:
        self._spend(nanos * 1e-9)

    def do_config_channels(self, pairs: list[tuple[int, float]], base: float | None) -> None:
        wanted = {} if base is None else dict.fromkeys(range(64), base)
        wanted |= dict(pairs)
        self._bias(np.array(list(wanted), dtype=int), np.array(list(wanted.values())))
        self._unhurt()

    def do_ground_all(self) -> None:
        self._bias(np.arange(64), np.zeros(64))

    def do_finalise_operation(self, mode: str | None, control: str | None) -> None:
        if mode == "HardGnd":
            self._volts[:] = 0.0
            self._state[:] = _OPEN
            self._ground[:] = True
        elif mode == "SoftGnd":
            self._ground[:] = False
            self.do_ground_all()
        elif mode == "Float":
            self._ground[:] = False
            self._volts[:] = 0.0
            self._state[:] = _OPEN

    def do_read_slice_open_deferred(self, highs: list[int], ground_after: bool) -> None:
        self.results.append(self.currents(highs))
        if ground_after:
            self._volts[highs] = 0.0

    def do_pulse_slice_fast_open(
        self, chans: list[tuple[int, float, float]], cl_nanos: list[int | None], preset_state: bool
    ) -> None:
        numbers = np.array([channel for channel, _, _ in chans], dtype=int)
        if self._ground[numbers].any():
            raise Refused(f"channel {numbers[self._ground[numbers]][0]} is pulsed while tied to ground")
        pulse_v, width_s = np.full(64, np.nan), np.zeros(64)
        pulse_v[numbers] = self._dac(numbers, np.array([volts for _, volts, _ in chans]))
        width_s[numbers] = [(cl_nanos[channel // 8] or 0) * 1e-9 for channel in numbers]
        # The library opens every channel that it does not pulse.
        self._state[:] = _OPEN
        self._state[numbers] = _FAST
        self._volts[numbers] = self._dac(numbers, np.array([rest for _, _, rest in chans]))
        lines = np.concatenate([self._words, self._bits])
        if floating := int(((self._state == _OPEN) & ~self._ground)[lines].sum()):
            self._panel.count("floating_lines", floating)
        self._spend(self._times.bias_s)
        self._pulse(pulse_v, width_s)

    def currents(self, sensed: list[int]) -> Floats:
        """What the sensed channels read, [64] ampere."""
        ready = (self._state == _BIASED) & ~self._ground
        if not ready[sensed].all():
            wrong = next(channel for channel in sensed if not ready[channel])
            raise Refused(f"channel {wrong} is read, but it is open, grounded or on its pulse driver: configure it first")
        self._spend(self._times.read_s)
        known = self._ground | (self._state != _OPEN)
        volts = np.where(self._ground, 0.0, self._volts)
        g = self.array.read(self._every)[0].double().numpy()
        g = g * known[self._words][:, None] * known[self._bits]
        across = volts[self._words][:, None] - volts[self._bits]
        into = np.zeros(64)
        into[self._bits] = (g * across).sum(axis=0)
        into[self._words] = -(g * across).sum(axis=1)
        into += self._settings.current_noise_a * self._random.standard_normal(64)
        out = np.full(64, np.nan)
        seen = [channel for channel in sensed if channel not in self.blind]
        out[seen] = _converted(into[seen])
        self._panel.count("readings", len(sensed))
        return out

    def truth(self) -> dict[str, Any]:
        """True conductances and pulses of every cell [row col], and the state of every channel."""
        state, s = self.array.state_dict(), self.array.settings
        status = self.array.status()
        g = s.g_mid_siemens + (state["state"] + state["reference"]) * s.siemens_per_weight
        return {
            "g_siemens": g[0].tolist(),
            "pulses_up": status["pulses_up"][0].tolist(),
            "pulses_down": status["pulses_down"][0].tolist(),
            "volts": self._volts.tolist(),
            "state": [("open", "biased", "fast")[state] for state in self._state],
            "grounded": self._ground.tolist(),
        }

    def _pulse(self, pulse_v: Floats, width_s: Floats) -> None:
        """One pulse on every cell with both lines pulsed. pulse_v: [channel] volt, NaN where not pulsed."""
        rows, cols = (np.flatnonzero(~np.isnan(pulse_v[lines])) for lines in (self._words, self._bits))
        words, bits = self._words[rows], self._bits[cols]
        across = pulse_v[words][:, None] - pulse_v[bits]
        width = np.minimum(width_s[words][:, None], width_s[bits])
        law = self.array.settings.law
        for volts, seconds in np.unique(np.stack([across, width], axis=-1).reshape(-1, 2), axis=0).tolist():
            up = volts > 0
            counts = np.zeros((1, len(self._words), len(self._bits)), dtype=np.int32)
            cells = (across == volts) & (width == seconds)
            counts[0, rows[:, None], cols] = cells * (1 if up else -1)
            shape = PulseShape(volts, law.down_v, seconds) if up else PulseShape(law.up_v, volts, seconds)
            self._panel.count("pulses", int(cells.sum()))
            self.array.pulse(torch.from_numpy(counts), shape)

    def _bias(self, channels: NDArray[np.int64], volts: Floats) -> None:
        """Put channels at voltages."""
        self._spend(self._times.bias_s + self._times.mode_s * bool((self._state[channels] != _BIASED).any()))
        self._state[channels] = _BIASED
        self._volts[channels] = self._dac(channels, volts)

    def _dac(self, channels: NDArray[np.int64], volts: Floats) -> Floats:
        step = self._step_v[channels]
        made: Floats = np.clip(np.round(volts / step), -(2**15), 2**15 - 1) * step
        return made

    def _unhurt(self) -> None:
        """Refused where a DAC drives a voltage into ground."""
        shorted = np.flatnonzero(self._ground & (self._state == _BIASED) & (self._volts != 0))
        if len(shorted):
            raise Refused(f"channel {shorted[0]} is driven with {self._volts[shorted[0]]:g} V while tied to ground")

    def _spend(self, seconds: float) -> None:
        self._clock.spend(seconds)
        self.array.idle(seconds)


def _converted(current_a: Floats) -> Floats:
    """Through the transimpedance amplifiers and the ADC."""
    ohms = np.full(len(current_a), _OHMS[-1])
    for range_ohms in reversed(_OHMS):
        ohms = np.where(np.abs(current_a) * range_ohms < _ADC_V, range_ohms, ohms)
    codes = np.clip(np.round(current_a * ohms / _ADC_V * _ADC_CODES), -_ADC_CODES, _ADC_CODES - 1)
    found: Floats = codes / _ADC_CODES * _ADC_V / ohms
    return found
