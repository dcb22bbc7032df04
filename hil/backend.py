"""The seam between procedures and hardware: eight verbs, and what a board says of itself.

Words and units (the whole project keeps to them): SI everywhere; axes in the order
``array sample row|col slot``. A *row* is an input line, a *col* an output line; forward current is
``I[col] = sum_row G[row, col] V[row]``. *Up* is potentiation (G rises), *down* depression. The leading
*array* axis holds replicas of the same thing and nothing else; it is 1 on hardware.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from hil.encoding import PulseTrain, coincidence_counts
from hil.errors import ShapeError, UsageError

__all__ = [
    "TRACE_BYTES",
    "ArrayBackend",
    "ArrayInfo",
    "Costs",
    "Direction",
    "HasClock",
    "HasCosts",
    "HasReference",
    "HasState",
    "HasVerify",
    "PulseShape",
    "Range",
    "check_active",
    "check_counts",
    "check_mask",
    "check_mvm",
    "check_per_array",
    "check_polarity",
    "check_trains",
    "idle",
    "mvm_by_columns",
    "trace_by_pulses",
    "trace_segments",
    "update_by_counts",
]

Direction = Literal["forward", "backward"]

TRACE_BYTES = 256 * 2**20
"""Largest result of one ``trace`` call; longer traces are called in segments (state persists)."""


@dataclass(frozen=True)
class Range:
    """Closed interval [low, high] in SI units; ``grain`` is the smallest step (0 = continuous)."""

    low: float
    high: float
    grain: float = 0.0

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies inside, a relative rounding error of 1e-9 allowed."""
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        return self.low - slack <= value <= self.high + slack


@dataclass(frozen=True)
class ArrayInfo:
    """What a board is, as it says itself. Never changes while the backend is open."""

    arrays: int
    """Replicas on the leading axis; 1 on hardware."""
    rows: int
    cols: int
    physical: bool
    """True where a pulse wears a real device: the guard then checks and records every operation."""
    vendor: str
    model: str
    serial: str
    """Identifies the devices: calibrations are keyed by it. The emulator uses a hash of what makes them."""
    firmware: str
    read_v: Range
    """Voltages a line may be driven with in ``read`` and ``mvm``."""
    pulse_v: Range
    """Signed row-minus-col voltages of a pulse."""
    width_s: Range
    read_levels: int = 0
    """Levels of the read DAC: 2 = one common voltage on chosen lines, 0 = continuous."""
    read_bipolar: bool = True
    """Whether lines may be driven with both signs in one pass."""
    adc_bits: int = 0
    """Bits of the current ADC; 0 = continuous."""
    full_scale_a: float = float("inf")
    """Current at which the ADC saturates; a reading at full scale is saturated."""
    rows_at_once: int = 0
    """Lines driven at once; 0 = all."""
    cols_at_once: int = 0
    """Lines sensed at once; 0 = all."""
    select_scheme: Literal["V/2", "V/3", "selector"] = "V/2"
    """What unselected cells see during a pulse."""
    parallel_update: bool = True
    """Whether ``update`` is parallel in hardware."""
    exactly_once: bool = True
    """Whether a pulse is applied exactly once even over a link that loses messages."""
    reference: Literal["none", "mid", "cell"] = "none"
    """How zero is made: ``none`` (the host subtracts after the ADC), ``mid`` (one common reference line),
    ``cell`` (an analog reference per cell, before the ADC)."""
    g_mid_siemens: float = 0.0
    """Conductance of the common reference line (``reference = "mid"``)."""


PerArray = float | tuple[float, ...]
"""A value for all arrays, or one per array."""


@dataclass(frozen=True)
class PulseShape:
    """One programming pulse. Voltages are signed, row minus col; each field a float or one per array.

    The asymmetry of a device depends on the shape, so the shape goes with every pulse.
    """

    up_v: PerArray
    """Potentiating pulse, volt."""
    down_v: PerArray
    """Depressing pulse, volt."""
    width_s: PerArray
    """Width of either, second."""
    gate_up_v: PerArray | None = None
    gate_down_v: PerArray | None = None
    compliance_a: PerArray | None = None


@runtime_checkable
class ArrayBackend(Protocol):
    """A crosspoint array, physical or emulated. A context manager: leaving it grounds the array.

    Shapes: ``array`` = info.arrays, ``row`` = info.rows, ``col`` = info.cols. Every verb raises ``ShapeError``
    for a tensor of another shape or type and ``HardwareError`` for a fault of the board or link.
    ``pulse`` and ``update`` may be posted: the call returns when accepted, and the next ``read``, ``mvm``,
    ``status`` or ``safe`` is the barrier that raises their errors. Everything else is synchronous.
    """

    @property
    def info(self) -> ArrayInfo:
        """What the board says of itself."""
        ...

    def read(self, mask: Tensor, averages: int = 1) -> Tensor:
        """Conductance of single cells, each against ground: no reference is subtracted.

        mask: bool [array row col]; averages: readings averaged per cell, >= 1.
        Returns float32 [array row col] in siemens, NaN where the mask is false.
        """
        ...

    def mvm(self, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
        """Matrix-vector products, sample after sample.

        volts: float32 [array sample row] for "forward", [array sample col] for "backward", inside info.read_v.
        active: bool [array]; arrays where it is false are not read: their result is 0 and none of their
        counters advances.
        Returns the current, float32 [array sample col] (backward: [array sample row]) in ampere, after the
        ADC; info.reference says what was subtracted before it. |I| >= info.full_scale_a is saturated.
        """
        ...

    def pulse(self, counts: Tensor, shape: PulseShape) -> None:
        """``|counts|`` identical pulses on every cell, up where positive, down where negative.

        counts: int32 [array row col].
        """
        ...

    def trace(self, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
        """A pulse sequence on every masked cell, with a read after every ``every``-th pulse.

        polarity: int8 [pulse] of +1 (up) and -1 (down); mask: bool [array row col].
        Returns float32 [array row col read] in siemens, read = pulse // every; NaN where the mask is false.
        The result may not exceed TRACE_BYTES (``trace_segments`` cuts a longer one).
        """
        ...

    def update(self, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None) -> None:
        """Coincidence update: sample after sample, a cell gets one pulse in every slot in which both its lines fire.

        rows: train over [array sample row]; cols: over [array sample col]; the polarity of a pulse is the
        product of both signs, +1 = up. active: bool [array]; the other arrays are left alone.
        """
        ...

    def safe(self) -> bool:
        """Ground everything; never raises half-way. Returns whether the board confirmed it."""
        ...

    def status(self) -> dict[str, Any]:
        """Temperature, interlock, counters, what the board says of itself; a barrier for posted work."""
        ...

    def close(self) -> None:
        """``safe()``, then let go. May be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class HasReference(Protocol):
    """A board that subtracts an analog reference per cell before its ADC."""

    def set_reference(self, g_siemens: Tensor) -> None:
        """g_siemens: float32 [array row col]; NaN leaves a cell's reference as it is."""
        ...


@runtime_checkable
class HasVerify(Protocol):
    """A board with write-verify of its own."""

    def verify(
        self, target_siemens: Tensor, mask: Tensor, shape: PulseShape, tolerance_siemens: float, max_pulses: int
    ) -> Tensor:
        """Program masked cells to target [array row col]; returns bool [array row col]: reached."""
        ...


@dataclass(frozen=True)
class Costs:
    """What operations of a board cost, for the estimate of a dry run; typical values, nothing is decided by them."""

    read_s: float = 1e-3
    """One reading of a cell, second."""
    trace_read_s: float | None = None
    """One reading within a trace, second; None = as any other."""
    mvm_s: float = 1e-3
    """One vector on the lines driven and sensed at once, second."""
    gap_s: float = 0.0
    """Rest after each pulse, second."""
    operation_s: float = 0.0
    """Overhead of one operation (call of a verb), second."""
    cell_s: float = 0.0
    """Overhead of every cell that an operation addresses one by one, second."""
    closures_per_cell: int = 0
    """Relay closures for every cell that an operation addresses one by one, at most."""


@runtime_checkable
class HasCosts(Protocol):
    """A board that knows what its operations cost."""

    @property
    def costs(self) -> Costs:
        """Typical costs."""
        ...


@runtime_checkable
class HasClock(Protocol):
    """A backend with a clock of its own (the emulator's is virtual)."""

    def idle(self, seconds: float) -> None:
        """Let ``seconds`` of the backend's time pass without touching a cell."""
        ...


@runtime_checkable
class HasState(Protocol):
    """A backend whose devices can be saved and restored exactly: the emulator, never a board."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that changes while running: conductances, counters, clock, reference."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave; bit-identical from there on."""
        ...


def check_mask(mask: Tensor, info: ArrayInfo, name: str = "mask") -> None:
    """Raise ShapeError unless ``mask`` is bool [array row col] of this board."""
    want = (info.arrays, info.rows, info.cols)
    if mask.dtype != torch.bool or tuple(mask.shape) != want:
        raise ShapeError(
            f"{name}: {mask.dtype} {list(mask.shape)} does not fit {info.model}: needs bool {list(want)} [array row col]"
        )


def check_counts(counts: Tensor, info: ArrayInfo) -> None:
    """Raise ShapeError unless the counts of ``pulse`` are int32 [array row col] of this board."""
    want = (info.arrays, info.rows, info.cols)
    if counts.dtype != torch.int32 or tuple(counts.shape) != want:
        raise ShapeError(f"pulse: counts {counts.dtype} {list(counts.shape)}: needs int32 {list(want)} [array row col]")


def check_polarity(polarity: Tensor, every: int = 1) -> None:
    """Raise ShapeError unless ``polarity`` of a trace is int8 [pulse] of +1 and -1, UsageError unless ``every`` >= 1."""
    if polarity.dtype != torch.int8 or polarity.dim() != 1 or bool((polarity.abs() != 1).any()):
        raise ShapeError(f"trace: polarity {polarity.dtype} {list(polarity.shape)}: needs int8 [pulse] of +1 and -1")
    if every < 1:
        raise UsageError(f"trace: every = {every} is no number of pulses: give 1 or more")


def check_trains(rows: PulseTrain, cols: PulseTrain, info: ArrayInfo) -> None:
    """Raise ShapeError unless the trains of ``update`` are on all the lines of this board, sample by sample alike."""
    for train, lines, name in ((rows, info.rows, "rows"), (cols, info.cols, "cols")):
        want = (info.arrays, rows.samples, lines)
        if tuple(train.sign.shape) != want:
            raise ShapeError(f"update: {name} {list(train.sign.shape)}: needs {list(want)} [array sample {name[:-1]}]")


def check_mvm(volts: Tensor, direction: Direction, info: ArrayInfo) -> None:
    """Raise ShapeError unless the voltages of ``mvm`` are float32 [array sample line] of this board."""
    lines = info.rows if direction == "forward" else info.cols
    if volts.dtype != torch.float32 or volts.dim() != 3 or volts.shape[0] != info.arrays or volts.shape[2] != lines:
        given = f"{volts.dtype} {list(volts.shape)}"
        raise ShapeError(f"mvm {direction}: volts {given}: needs float32 [{info.arrays} sample {lines}]")


def check_active(active: Tensor | None, info: ArrayInfo) -> None:
    """Raise ShapeError unless ``active`` is None or bool [array] of this board."""
    if active is not None and (active.dtype != torch.bool or tuple(active.shape) != (info.arrays,)):
        raise ShapeError(f"active: {active.dtype} {list(active.shape)}: needs bool [{info.arrays}] [array]")


def check_per_array(shape: PulseShape, info: ArrayInfo) -> None:
    """Raise ShapeError where a per-array field of the shape has another length than the array axis."""
    for field in ("up_v", "down_v", "width_s", "gate_up_v", "gate_down_v", "compliance_a"):
        value = getattr(shape, field)
        if isinstance(value, tuple) and len(value) != info.arrays:
            raise ShapeError(f"pulse shape: {field} has {len(value)} values for {info.arrays} arrays: give one, or one each")


def idle(backend: ArrayBackend, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait ``seconds`` in the backend's own time: virtual on the emulator, real on a board."""
    if isinstance(backend, HasClock):
        backend.idle(seconds)
    else:
        sleep(seconds)


def trace_segments(info: ArrayInfo, pulses: int, every: int = 1) -> list[slice]:
    """Slices that cut ``pulses`` into segments whose reads fit TRACE_BYTES, each a multiple of ``every``."""
    per_read = 4 * info.arrays * info.rows * info.cols
    step = max(1, TRACE_BYTES // per_read) * every
    return [slice(start, min(start + step, pulses)) for start in range(0, pulses, step)]


def trace_by_pulses(backend: ArrayBackend, polarity: Tensor, mask: Tensor, shape: PulseShape, every: int = 1) -> Tensor:
    """``trace`` composed of ``pulse`` and ``read``, for a board that has no sequencer."""
    check_mask(mask, backend.info)
    reads = []
    one = mask.to(torch.int32)
    for start in range(0, len(polarity) - len(polarity) % every, every):
        for sign in polarity[start : start + every].tolist():
            backend.pulse(one * sign, shape)
        reads.append(backend.read(mask))
    for sign in polarity[len(polarity) - len(polarity) % every :].tolist():
        backend.pulse(one * sign, shape)
    if not reads:
        return torch.empty((*mask.shape, 0), dtype=torch.float32)
    return torch.stack(reads, dim=-1)


def update_by_counts(
    backend: ArrayBackend, rows: PulseTrain, cols: PulseTrain, shape: PulseShape, active: Tensor | None = None
) -> None:
    """``update`` composed of coincidence counts and ``pulse``, sample after sample."""
    check_trains(rows, cols, backend.info)
    check_active(active, backend.info)
    for sample in range(rows.samples):
        counts = coincidence_counts(rows.at(sample), cols.at(sample))
        if active is not None:
            counts = counts * active.to(counts.dtype)[:, None, None]
        backend.pulse(counts, shape)


def mvm_by_columns(backend: ArrayBackend, volts: Tensor, direction: Direction, active: Tensor | None = None) -> Tensor:
    """``mvm`` composed of ``read``: for a board that senses one cell at a time and has no parallel read.

    The sum over lines is digital, so neither saturation nor a reference enters.
    """
    info = backend.info
    check_mvm(volts, direction, info)
    check_active(active, info)
    used = (volts != 0).any(dim=1)
    if active is not None:
        used = used & active[:, None]
    mask = used[:, :, None] if direction == "forward" else used[:, None, :]
    g = backend.read(mask.expand(info.arrays, info.rows, info.cols).contiguous()).nan_to_num(0.0)
    g = g if direction == "forward" else g.transpose(1, 2)
    current: Tensor = torch.bmm(volts * used[:, None, :], g)
    return current
