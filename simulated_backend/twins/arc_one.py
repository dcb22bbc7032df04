"""``hil twin arc-one``: an ArC ONE on a serial line, with emulated devices behind it.

It plays the requests 00, 0, 01, 999, 1, 2, 02, 04, 3 and 50; 21, 141, 191 and 201, which run programs of the board's
own, are refused like every unknown one. The board has no error answers: what it refuses it ignores, and the twin counts
it (``rejected: malformed``, ``out of range``, ``wrong read mode``, ``not initialised``, ``nothing selected``, ``unknown
request``, ``too early``). Words are rows and bits are columns; a positive voltage, word minus bit, is an up pulse.

Not played: what half-selected cells suffer from a pulse (no cell but the addressed ones moves), sneak currents, series
resistance, the averaging of ``read_cycles``, the sessions' wiring. Unselected words of a multi-bias read contribute no
current. The answer to a multi-bias write is the twin's own reading of what it may be: (resistance, voltage, width) of the
32 words of the bitline, then of the 32 bits of the first selected word, NaN-free also where nothing is wired.

Order ``reboot`` = n: the board starts anew after n more pulses (0: at once) and answers nothing to what it was doing.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hil.backend import PulseShape
from simulated_backend.array import EmulatedArray
from simulated_backend.twins.arc_one_requests import Refused, Request, RequestReader
from simulated_backend.twins.arc_one_settings import LINES, ArcOneTwinSettings
from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel
from simulated_backend.twins.plugin import Twin
from simulated_backend.twins.running import RunningTwin
from simulated_backend.twins.wire import Port, serve_link

__all__ = ["ArcOneDevice", "twin"]

_VOLTS = 12.0
_GAP_S = 0.5e-3
_RESET_S = 2.0


class ArcOneDevice:
    """What sits behind the link. array: the devices; now: the real clock, for arguments that come too early."""

    delimiter = b"\n"

    def __init__(
        self,
        settings: ArcOneTwinSettings,
        panel: FaultPanel,
        clock: DeviceClock,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        s = settings
        assert s.array.rows is not None
        assert s.array.cols is not None
        self._settings, self._panel, self._clock, self._now = settings, panel, clock, now
        self._rows, self._cols = s.array.rows, s.array.cols
        self.array = EmulatedArray(s.array, self._rows, self._cols, seed=s.seed, name=s.name, role=s.role)
        self._reader = RequestReader()
        self._lock = threading.Lock()
        scale = s.time_scale or (1.0 if s.enforce_gap else 0.0)
        self._gap_s, self._due_s = _GAP_S * scale, -1e9
        self._awake_s, self._just_reset = -1e9, False
        self._mode: int | None = None
        self._read_v = 0.0
        self._words = self._bits = 0
        self._selected: tuple[int, int] | None = None
        self._reboot_in: int | None = None

    def handle(self, unit: bytes, port: Port) -> None:
        """One argument."""
        with self._lock:
            if self._asleep() or self._early():
                return
            try:
                request = self._reader.take(unit)
                answer = None if request is None else self._obey(request)
            except Refused as reason:
                self._panel.count(f"rejected: {reason}")
                return
        if answer:
            port.send(answer)

    def tick(self) -> None:
        """Take the order to reboot."""
        after = self._panel.take("reboot")
        if after is not None:
            with self._lock:
                self._reboot_in = int(after)
                if self._reboot_in <= 0:
                    self._reboot()

    def connected(self, is_connected: bool) -> None:
        """The board has its own power: it goes on where it was, a request that has begun included."""

    def truth(self) -> dict[str, Any]:
        """conductances, pulses_up, pulses_down: [row][col], siemens and counts."""
        with self._lock:
            s = self.array.settings
            g = s.g_mid_siemens + self.array.state_dict()["state"][0].double() * s.siemens_per_weight
            status = self.array.status()
        counts: dict[str, Any] = {n: status[n][0].tolist() for n in ("pulses_up", "pulses_down") if n in status}
        return {"conductances": g.tolist(), **counts}

    def _asleep(self) -> bool:
        """During a reset bytes are lost."""
        if self._now() < self._awake_s:
            self._panel.count("lost in reset")
            return True
        return False

    def _early(self) -> bool:
        if self._gap_s <= 0:
            return False
        now = self._now()
        due = max(self._due_s + self._gap_s, now - self._settings.late_s)
        if due > now:
            self._panel.count("rejected: too early")
            return True
        self._due_s = due
        return False

    def _obey(self, request: Request) -> bytes:
        """The answer, empty where there is none."""
        if request.code == "00":
            # Without device time to wait for, resets in a row are one: the others come during the first.
            if not self._just_reset:
                self._reset()
            return b""
        self._just_reset = False
        return _DOES[request.code](self, request)

    def _reset(self) -> None:
        self._panel.count("resets")
        self._clock.spend(_RESET_S)
        self._awake_s = self._now() + _RESET_S * self._settings.time_scale
        self._reader.clear()
        self._mode, self._selected, self._just_reset = None, None, True

    def _reboot(self) -> None:
        self._panel.count("reboots")
        self._reboot_in = None
        self._reset()
        self._just_reset = False

    def _init(self, request: Request) -> bytes:
        request.whole(0, 1, 10_000)
        words, bits = request.whole(1, 1, self._rows), request.whole(2, 1, self._cols)
        request.whole(4, 0, 3)
        if request.whole(5, 0, 256) not in (0, 1, 256):
            raise Refused("out of range")
        self._mode, self._read_v = self._mode_and_volts(request, 3, 6)
        self._words, self._bits = words, bits
        self._panel.count("sessions")
        return b"1\n"

    def _set_read(self, request: Request) -> bytes:
        self._need_session()
        self._mode, self._read_v = self._mode_and_volts(request, 0, 1)
        return b""

    def _version(self, request: Request) -> bytes:
        return b"" if self._settings.firmware is None else struct.pack("<HH", *self._settings.firmware)

    def _read_one(self, request: Request) -> bytes:
        return self._ohms([self._place(request, 0)])

    def _read_many(self, request: Request) -> bytes:
        self._need_session()
        if request.whole(0, 1, 2) == 1:
            rows, cols = request.whole(1, 1, self._words), request.whole(2, 1, self._bits)
            return self._ohms([(row, col) for row in range(rows) for col in range(cols)])
        request.whole(1, LINES, LINES)
        request.whole(2, LINES, LINES)
        return self._ohms([self._place(request, 4 + 2 * number) for number in range(request.whole(3, 1, LINES**2))])

    def _select(self, request: Request) -> bytes:
        self._selected = self._place(request, 0)
        return b""

    def _pulse_selected(self, request: Request) -> bytes:
        self._need_session()
        volts, width_s = self._pulse_arguments(request, 0)
        if self._selected is None:
            raise Refused("nothing selected")
        self._pulse([self._selected], volts, width_s)
        return b""

    def _pulse_read(self, request: Request) -> bytes:
        place = self._place(request, 0)
        self._pulse([place], *self._pulse_arguments(request, 2))
        return self._ohms([place]) if self._mode is not None else b""

    def _multi_bias(self, request: Request) -> bytes:
        self._need_session()
        read_v, col = request.real(2, -_VOLTS, _VOLTS), request.whole(4, 1, self._bits) - 1
        self._check_mode(self._mode, read_v)
        count = request.whole(3, 1, self._words)
        rows = [request.whole(6 + number, 1, self._words) - 1 for number in range(count)]
        if len(set(rows)) < count:
            raise Refused("out of range")
        if request.whole(5, 1, 2) == 1:
            request.real(0, -_VOLTS, _VOLTS), request.real(1, 0.0, self._settings.width_s_max)
            self._clock.spend(self._settings.read_s)
            volts = torch.zeros(1, 1, self._rows)
            volts[0, 0, rows] = read_v
            current = float(self.array.mvm(volts, "forward")[0, 0, col])
            return struct.pack("<fff", _ratio(read_v, current), read_v, 0.0)
        write_v, width_s = self._pulse_arguments(request, 0)
        self._pulse([(row, col) for row in rows], write_v, width_s)
        return self._write_answer(rows, col, write_v, width_s) if self._mode is not None else b""

    def _write_answer(self, rows: list[int], col: int, write_v: float, width_s: float) -> bytes:
        self._clock.spend(2 * LINES * self._settings.read_s)
        g = torch.zeros(LINES, LINES)
        g[: self._rows, : self._cols] = self.array.read(torch.ones(1, self._rows, self._cols, dtype=torch.bool))[0]
        volts = torch.full((LINES,), write_v / 2)
        volts[rows] = write_v
        words = torch.stack([1 / g[:, col], volts, torch.full((LINES,), width_s)], dim=1)
        bits = torch.stack([1 / g[rows[0]], torch.full((LINES,), write_v / 2), words[:, 2]], dim=1)
        bits[col, 1] = write_v
        answer: bytes = torch.cat([words, bits]).numpy().astype("<f4").tobytes()
        return answer

    def _ohms(self, places: list[tuple[int, int]]) -> bytes:
        """Resistances at the read voltage, ohm; infinite for a cell that does not conduct."""
        self._clock.spend(len(places) * self._settings.read_s)
        mask = torch.zeros(1, self._rows, self._cols, dtype=torch.bool)
        row, col = (torch.tensor(side) for side in zip(*places, strict=True))
        mask[0, row, col] = True
        g: Tensor = self.array.read(mask)[0, row, col]
        answer: bytes = (1 / g).numpy().astype("<f4").tobytes()
        return answer

    def _pulse(self, places: list[tuple[int, int]], volts: float, width_s: float) -> None:
        self._clock.spend(width_s)
        # A pulse of no volts is none.
        if volts:
            law = self.array.settings.law
            shape = PulseShape(volts, law.down_v, width_s) if volts > 0 else PulseShape(law.up_v, volts, width_s)
            counts = torch.zeros(1, self._rows, self._cols, dtype=torch.int32)
            row, col = (torch.tensor(side) for side in zip(*places, strict=True))
            counts[0, row, col] = 1 if volts > 0 else -1
            self.array.pulse(counts, shape)
            self._panel.count("pulses", len(places))
        # A pulse is not answered, but nothing else is done meanwhile.
        self._clock.settle()
        if self._reboot_in is not None:
            self._reboot_in -= len(places)
            if self._reboot_in <= 0:
                self._reboot()

    def _pulse_arguments(self, request: Request, first: int) -> tuple[float, float]:
        """Volts and width, which is at least the 1 us that the wire can say."""
        return request.real(first, -_VOLTS, _VOLTS), request.real(first + 1, 1e-6, self._settings.width_s_max)

    def _place(self, request: Request, first: int) -> tuple[int, int]:
        self._need_session()
        return request.whole(first, 1, self._words) - 1, request.whole(first + 1, 1, self._bits) - 1

    def _need_session(self) -> None:
        if self._mode is None:
            raise Refused("not initialised")

    def _mode_and_volts(self, request: Request, mode: int, volts: int) -> tuple[int, float]:
        found = request.whole(mode, 0, 3), request.real(volts, -_VOLTS, _VOLTS)
        self._check_mode(*found)
        return found

    def _check_mode(self, mode: int | None, volts: float) -> None:
        """TIA4P reads at positive voltages only, TIA4P_NEG at negative ones."""
        if (mode == 2 and not volts > 0) or (mode == 3 and not volts < 0):
            raise Refused("wrong read mode")


_DOES: dict[str, Callable[[ArcOneDevice, Request], bytes]] = {
    "0": ArcOneDevice._init,
    "01": ArcOneDevice._set_read,
    "999": ArcOneDevice._version,
    "1": ArcOneDevice._read_one,
    "2": ArcOneDevice._read_many,
    "02": ArcOneDevice._select,
    "04": ArcOneDevice._pulse_selected,
    "3": ArcOneDevice._pulse_read,
    "50": ArcOneDevice._multi_bias,
}


def _ratio(volts: float, current: float) -> float:
    return volts / current if current else float("inf")


def _start(settings: ArcOneTwinSettings, stop: threading.Event) -> RunningTwin:
    panel, clock = FaultPanel(settings.faults), DeviceClock(settings.time_scale)
    device = ArcOneDevice(settings, panel, clock)
    port = serve_link(settings, panel, clock, device, stop)
    orders = {"reboot": "pulses after which the board starts anew, 0 = at once"}
    return RunningTwin({"main": port}, panel, clock, orders, device.truth)


twin = Twin("arc-one", "ArC ONE on a serial line", ArcOneTwinSettings, _start)
"""The entry point."""
