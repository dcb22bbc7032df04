"""ArC TWO (64 analogue channels, USB 3) as a backend, through its vendor's library ``pyarc2``.

Rows are the words of the channel map, columns its bits. A read biases one row after another at the read voltage and
senses the columns at 0 V; a product biases all its driven lines at once, each with a voltage of its own (every channel
has a 16-bit DAC), and senses the other side. A pulse is split, half of the voltage on the row and half with the opposite
sign on the column, and all other channels are tied to ground (V/2 scheme). ``pulse`` goes row by row, ``update`` in up to
four passes per slot (``drivers.arc_two_channels``). A verb queues its steps and flushes once per BLOCK of them; nothing
is posted: a verb that returns is done. Between verbs all channels are at 0 V; ``safe`` ties them to the idle mode.

Voltages are rounded to the DAC's step (305 uV, 610 uV in the extended range), readings are divided by what was applied.
A fault during a pulsing verb is PulseOutcomeUnknown: what was queued may have been sent, or goes out with the next
flush, before the cells are read again. The library cannot take back what is queued, neither after a fault nor after
Ctrl-C in the middle of a verb.

Facts: documentation of pyarc2 0.6.0 and of libarc2, data sheet of the ArC TWO (10 mA a channel, 200 mA in all, currents
up to 10 mA in 1.5 ms; no compliance in voltage pulses, so a pulse shape with one is refused).

Unverified on hardware: all of it, no board has met this driver. In particular: that a current *into* a sensed channel
counts positive (the vendor's own program negates readings taken with the other side at a negative voltage, one example
of its documentation does not; ``sensed_sign`` turns it); that channels tied to ground stay so during fast pulses on
others; that a pulse needs a delay of its own width behind it; that a deferred reading is collected in the order in which
it was queued; that ``set_control_mode`` and ``set_channel_range`` are queued like the rest; that the largest voltage of
the extended range is 13.5 V; that ``busy`` tells when all is done; that a board which is unplugged raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivers.arc_two_channels import CHANNELS, Pass, pulse_passes, update_passes
from drivers.arc_two_instrument import Instrument, Pulse, Sense, delay_ns, vendor
from drivers.arc_two_settings import ArcTwoSettings
from drivers.links.twin import StartedTwin
from hil.backend import (
    ArrayInfo,
    Direction,
    PulseShape,
    Range,
    check_counts,
    check_mask,
    check_mvm,
    check_per_array,
    check_polarity,
    check_trains,
)
from hil.encoding import PulseTrain
from hil.errors import HardwareError, LimitError, PulseOutcomeUnknown, ShapeError, UsageError
from hil.plugins import Wanted

__all__ = ["ArcTwo", "ArcTwoPlugin", "plugin"]

_WIDTH_S = Range(40e-9, 0.5, 10e-9)
_FULL_SCALE_A = 10e-3


class ArcTwo:
    """The eight verbs; see the text of the module and ``hil.backend.ArrayBackend``. closing: what ends with it."""

    def __init__(self, settings: ArcTwoSettings, instrument: Instrument, version: str, closing: ExitStack) -> None:
        self._settings, self._instrument, self._closing = settings, instrument, closing
        self._map = settings.channels
        step, top, codes = settings.step_v, settings.top_v, settings.codes
        self._read_v = round(settings.read_v / step) * step
        self._operations, self._cpu_s, self._closed, self._grounded = 0, 0.0, False, False
        self.info = ArrayInfo(
            arrays=1, rows=len(self._map.words), cols=len(self._map.bits), physical=True, vendor="ArC Instruments",
            model="ArC TWO", serial=settings.serial, firmware=version, width_s=_WIDTH_S, adc_bits=18,
            read_v=Range(codes.start * step, codes[-1] * step, step), pulse_v=Range(-top, top, 2 * step),
            read_levels=len(codes), full_scale_a=_FULL_SCALE_A, select_scheme="V/2", exactly_once=False,
        )  # fmt: skip

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        check_mask(mask, self.info)
        if averages < 1:
            raise UsageError(f"read: averages = {averages} is no number of readings: give 1 or more")
        cells = mask[0].numpy()
        with self._operation():
            found = self._instrument.run([step for step in self._senses(cells) for _ in range(averages)])
        return self._siemens(cells, np.stack(found).reshape(-1, averages, CHANNELS).mean(axis=1) if found else None)

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        info = self.info
        forward = direction == "forward"
        driven, sensed = (self._map.words, self._map.bits) if forward else (self._map.bits, self._map.words)
        check_mvm(volts, direction, info)
        out = torch.zeros(1, volts.shape[1], len(sensed))
        if not _is_active(active):
            return out
        wrong = ~((volts >= info.read_v.low) & (volts <= info.read_v.high))
        if bool(wrong.any()):
            span = f"{info.read_v.low:g} to {info.read_v.high:g} V"
            raise LimitError(f"mvm: {float(volts[wrong][0]):g} V is outside what {info.model} does ({span}): lower it")
        step_v = self._settings.step_v
        applied = ((volts[0].double() / step_v).round() * step_v).tolist()
        lines = [[(driven[line], v) for line, v in enumerate(sample) if v != 0] for sample in applied]
        # With nothing driven there is no current, and the library has nothing to set.
        used = [sample for sample, pairs in enumerate(lines) if pairs]
        with self._operation():
            found = self._instrument.run([self._sense(lines[sample], list(sensed)) for sample in used])
        if found:
            out[0, used] = torch.from_numpy(np.stack(found)[:, list(sensed)]) * self._settings.sensed_sign
        return out

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        check_counts(counts, self.info)
        send = self._pulser(shape)
        with self._operation(pulsing="pulse"):
            self._instrument.run(send(one) for one in pulse_passes(counts[0].numpy()))

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        check_mask(mask, self.info)
        check_polarity(polarity, every)
        send, cells = self._pulser(shape), mask[0].numpy()

        def steps() -> Iterator[Sense | Pulse]:
            for number, sign in enumerate(polarity.tolist(), start=1):
                yield from (send(one) for one in pulse_passes(cells * np.int32(sign)))
                if number % every == 0:
                    yield from self._senses(cells)

        with self._operation(pulsing="trace"):
            found = self._instrument.run(steps())
        reads, rows = len(polarity) // every, int(cells.any(axis=1).sum())
        out = torch.full((*mask.shape, reads), torch.nan)
        for number in range(reads if found else 0):
            out[..., number] = self._siemens(cells, np.stack(found[number * rows : (number + 1) * rows]))
        return out

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        check_trains(rows, cols, self.info)
        send = self._pulser(shape)
        if not _is_active(active):
            return
        with self._operation(pulsing="update"):
            self._instrument.run(send(one) for one in update_passes(rows, cols))

    def safe(self) -> bool:
        if not self._closed:
            self._grounded = self._instrument.ground(self._settings.idle)
        return self._grounded

    def status(self) -> dict[str, Any]:
        return {
            "idle": not self._instrument.is_busy(),
            "operations": self._operations,
            "flushes": self._instrument.flushes,
            "passes": self._instrument.passes,
            "cpu_s": self._cpu_s,
        }

    def close(self) -> None:
        if not self._closed:
            self.safe()
            self._closed = True
            self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _operation(self, pulsing: str = "") -> Iterator[None]:
        """Count it and its processor time; a fault of a pulsing verb leaves open how many pulses were applied."""
        began_s = time.process_time()
        self._operations += 1
        try:
            yield
        except HardwareError as exc:
            if not pulsing:
                raise
            raise PulseOutcomeUnknown(f"{pulsing}: some of its pulses may have been applied: {exc}") from exc
        finally:
            self._cpu_s += time.process_time() - began_s

    def _sense(self, drive: list[tuple[int, float]], sensed: list[int]) -> Sense:
        settle_s = self._settings.settle_s
        return Sense(drive, sensed, delay_ns(settle_s) if settle_s else 0)

    def _senses(self, cells: NDArray[np.bool_]) -> list[Sense]:
        """One for every row that has a cell to read; cells: [row col]."""
        bits = np.array(self._map.bits)
        rows = np.flatnonzero(cells.any(axis=1)).tolist()
        return [self._sense([(self._map.words[row], self._read_v)], bits[cells[row]].tolist()) for row in rows]

    def _siemens(self, cells: NDArray[np.bool_], currents: NDArray[np.float32] | None) -> Tensor:
        """float32 [1 row col], NaN outside ``cells``. currents: [row of _senses, channel]."""
        g = np.full(cells.shape, np.nan, dtype=np.float32)
        if currents is not None:
            taken = currents[:, list(self._map.bits)] * (self._settings.sensed_sign / self._read_v)
            g[cells.any(axis=1)] = taken
        return torch.from_numpy(np.where(cells, g, np.float32(np.nan)))[None]

    def _pulser(self, shape: PulseShape) -> Callable[[Pass], Pulse]:
        """From a Pass to the step that sends it; LimitError for a pulse that the board cannot make."""
        check_per_array(shape, self.info)
        for field in ("gate_up_v", "gate_down_v", "compliance_a"):
            if getattr(shape, field) is not None:
                raise LimitError(f"{field}: {self.info.model} has none for its pulses: leave it out of the pulse")
        up_v, down_v, width_s = (_one(getattr(shape, name)) for name in ("up_v", "down_v", "width_s"))
        for name, value, able in (
            ("up_v", up_v, self.info.pulse_v), ("down_v", down_v, self.info.pulse_v), ("width_s", width_s, _WIDTH_S),
        ):  # fmt: skip
            if not able.holds(value):
                span = f"{able.low:g} to {able.high:g}"
                raise LimitError(f"{name} = {value:g} is outside what {self.info.model} does ({span}): change the pulse")
        tens = width_s / _WIDTH_S.grain
        if abs(tens - round(tens)) > 1e-6 * max(1.0, tens * 1e-3):
            raise LimitError(f"width_s = {width_s:g} is no multiple of 10 ns: change the pulse")
        nanos = 10 * round(tens)

        wait_ns = delay_ns(width_s)

        def step(one: Pass) -> Pulse:
            active = self._map.active(one, up_v if one.up else down_v)
            return Pulse(self._map.idle(one), active, self._map.clusters(one, nanos), wait_ns)

        return step


def _is_active(active: Tensor | None) -> bool:
    """Whether the board is meant; ShapeError unless ``active`` is bool [1]."""
    if active is None:
        return True
    if active.dtype != torch.bool or tuple(active.shape) != (1,):
        raise ShapeError(f"active: {active.dtype} {list(active.shape)}: needs bool [1], one for each array")
    return bool(active)


def _one(value: float | tuple[float, ...]) -> float:
    return value[0] if isinstance(value, tuple) else value


class ArcTwoPlugin:
    """The entry point's object."""

    settings = ArcTwoSettings

    def elastic(self, settings: ArcTwoSettings) -> bool:
        """Never: it is one board."""
        return False

    def open(self, settings: ArcTwoSettings, wanted: Wanted) -> ArcTwo:
        """Connect to the board, or start the twin and connect to that."""
        library = vendor(settings.module)
        with ExitStack() as closing:
            port = settings.id
            if settings.twin is not None:
                twin = StartedTwin(settings.twin)
                closing.callback(twin.close)
                port = urlsplit(twin.links["main"]).port
            assert port is not None
            name = f"boards.{wanted.name}"
            instrument = Instrument(library, port, settings.firmware, name=name, timeout_s=settings.timeout_s)
            closing.callback(instrument.close)
            every = [*settings.channels.words, *settings.channels.bits]
            instrument.prepare(every, settings.control, settings.output_range)
            version = f"{settings.firmware} (library {library.LIBARC2_VERSION})"
            return ArcTwo(settings, instrument, version, closing.pop_all())


plugin = ArcTwoPlugin()
"""The entry point."""
