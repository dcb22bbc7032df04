"""Vectors to pulse trains, and the counter hash that every random number of the project comes from.

Randomness is counter-based: a value depends on a key (seed, array identity, matrix, purpose, counter) and a
place (line or cell, slot or pulse), never on a generator that somebody else may have advanced. The same bits come
out of torch, numba and Triton, for one array or ten thousand, in any order.

The hash, on unsigned 32-bit words (``mix`` is a bijection with low avalanche bias)::

    mix(x):                 x ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x *= 0x846ca68b;  x ^= x >> 16
    word(key, place, slot): mix((mix(key0 ^ place * PHI) ^ key1) + slot * PSI)

A Bernoulli draw fires where ``word >> 8 < round(p * 2**24)``. A Gaussian draw takes the table ``GAUSS``: 1024
segments of the normal quantile function, linear inside each (index = upper ten bits, fraction = the rest), scaled to
variance 1 exactly; it uses one multiplication and one addition, so every kernel rounds alike. Its largest
value is 3.84, its excess kurtosis 0.02.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from hil.errors import UsageError
from hil.fast_encoding import draw_bits, draw_keys, encode_loops

__all__ = [
    "GAUSS",
    "MAX_SLOTS",
    "PHI",
    "PSI",
    "PulseTrain",
    "Stream",
    "UpdateSettings",
    "coincidence_counts",
    "encode",
    "encode_torch",
    "gauss",
    "line_hash",
    "mix",
    "uniform",
    "word",
]

MAX_SLOTS = 31
"""Slots of a train are packed into one int32, its sign bit unused."""

PHI = 0x9E3779B9 - 2**32
PSI = 0x85EBCA6B - 2**32
_M1 = 0x7FEB352D
_M2 = 0x846CA68B - 2**32


def mix(x: Tensor) -> Tensor:
    """The 32-bit mixer of the module's docstring, on int32 of any shape (read as unsigned)."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * _M1
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * _M2
    return x ^ ((x >> 16) & 0xFFFF)


def line_hash(key: Tensor, place: Tensor) -> Tensor:
    """First half of ``word``: key int32 [..., 2] against place int32, broadcast -> int32."""
    return mix(key[..., 0] ^ (place * PHI)) ^ key[..., 1]


def word(key: Tensor, place: Tensor, slot: Tensor | int) -> Tensor:
    """One random word for each (key, place, slot), int32, all three broadcast (key without its last axis)."""
    return mix(line_hash(key, place) + slot * PSI)


def uniform(words: Tensor) -> Tensor:
    """float32 in (0, 1) from random words: 24 bits, centred in their interval."""
    return ((words >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24 + 2.0**-25


def _gauss_table() -> Tensor:
    """[2, 1024] float32: value at the left end of each segment, and the rise over it."""
    edge = torch.arange(1025, dtype=torch.float64) / 1024
    z = torch.from_numpy(ndtri(edge.numpy().clip(2.0**-14, 1 - 2.0**-14)))
    z = (z - z.flip(0)) / 2
    low, rise = z[:-1], z[1:] - z[:-1]
    second = (low**2 + low * rise + rise**2 / 3).mean()
    return (torch.stack([low, rise]) / second.sqrt()).to(torch.float32)


GAUSS = _gauss_table()
"""float32 [2, 1024]: left end and rise of each segment."""

_TABLES: dict[torch.device, Tensor] = {GAUSS.device: GAUSS}


def gauss(words: Tensor) -> Tensor:
    """Standard normal float32 from random words (mean 0 and variance 1 up to float rounding)."""
    table = _TABLES.get(words.device)
    if table is None:
        table = _TABLES.setdefault(words.device, GAUSS.to(words.device))
    index = ((words >> 22) & 0x3FF).long()
    fraction = (words & 0x3FFFFF).to(torch.float32) * 2.0**-22
    return table[0][index] + fraction * table[1][index]


class Stream:
    """Keys for one purpose of one matrix: a counter per array, advanced only for arrays that a call addresses.

    seed, matrix and purpose name the stream, ``ids`` [array] the arrays; ``counter`` int64 [array] is its whole state.
    """

    def __init__(self, seed: int, ids: Tensor, matrix: str, purpose: str, device: torch.device | str = "cpu") -> None:
        base = [
            int.from_bytes(
                hashlib.blake2b(f"{seed}/{int(i)}/{matrix}/{purpose}".encode(), digest_size=8).digest(),
                "little",
                signed=True,
            )
            for i in ids.tolist()
        ]
        both = torch.tensor(base, dtype=torch.int64)
        self._base = torch.stack([_low32(both), _low32(both >> 32)], dim=-1).to(device)
        self.counter = torch.zeros(len(base), dtype=torch.int64, device=device)

    @property
    def base(self) -> NDArray[np.uint32]:
        """What its keys are made of, [array 2], on the CPU."""
        return _words(self._base)

    def keys(self, count: int, active: Tensor | None = None) -> Tensor:
        """The next ``count`` keys of every array, int32 [array count 2]; inactive arrays do not advance."""
        if self.counter.device.type == "cpu":
            out = torch.empty(len(self.counter), count, 2, dtype=torch.int32)
            draw_keys(self._base.numpy().view(np.uint32), self.counter.numpy(), out.numpy().view(np.uint32))
            self.counter += count if active is None else count * active.to(torch.int64)
            return out
        steps = self.counter[:, None] + torch.arange(count, device=self.counter.device)
        self.counter += count if active is None else count * active.to(torch.int64)
        number = _low32(steps)
        first = mix(self._base[:, None, 0] ^ mix(number * PHI))
        second = mix(self._base[:, None, 1] + number * PSI)
        return torch.stack([first, second], dim=-1)


def _low32(x: Tensor) -> Tensor:
    """The low 32 bits of int64 as int32."""
    return (((x + 2**31) & 0xFFFFFFFF) - 2**31).to(torch.int32)


TrainKind = Literal["stochastic", "spread", "first", "given"]


@dataclass(frozen=True)
class PulseTrain:
    """A lazy pulse train for every sample and line: nothing is drawn until somebody asks for ``bits``.

    probability: float32 [array sample line] in [0, 1]; sign: int8 [array sample line] of -1, 0, +1;
    slots: int32 [array sample], at most MAX_SLOTS; key: int32 [array sample 2]; line: int32 [line], the identity that
    a line is hashed with, so that a slice of a train draws the same bits.
    kind: ``stochastic`` fires each slot with the probability; ``spread`` fires in round(p * slots) evenly spread slots,
    ``first`` in the first round(p * slots) ones; ``given`` in those of ``packed``, int32 [array sample line].
    exact: whether ``packed`` has no bit beyond a sample's slots or on a line of sign 0, so that nothing has to be masked.
    """

    probability: Tensor
    sign: Tensor
    slots: Tensor
    key: Tensor
    line: Tensor
    kind: TrainKind = "stochastic"
    packed: Tensor | None = None
    exact: bool = False

    @classmethod
    def given(cls, bits: Tensor, sign: Tensor, slots: Tensor) -> PulseTrain:
        """The train with these bits, as a board receives it: slot s of a line fires where bit s is set.

        bits: int32 [array sample line]; sign: int8 [array sample line]; slots: int32 [array sample].
        """
        arrays, samples, lines = bits.shape
        key = torch.zeros(arrays, samples, 2, dtype=torch.int32)
        return cls(torch.zeros(bits.shape), sign, slots, key, torch.arange(lines, dtype=torch.int32), "given", packed=bits)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.sign.shape[1])

    @property
    def threshold(self) -> Tensor:
        """int32 [array sample line]: a slot fires where its word >> 8 is below (stochastic trains)."""
        return (self.probability * 2.0**24).round().to(torch.int32)

    @property
    def count(self) -> Tensor:
        """int32 [array sample line]: slots that fire (deterministic trains)."""
        return (self.probability * self.slots[..., None]).round().to(torch.int32)

    def at(self, start: int, stop: int | None = None) -> PulseTrain:
        """The train of samples start to stop (default: of one sample)."""
        part = slice(start, start + 1 if stop is None else stop)
        return replace(
            self,
            probability=self.probability[:, part],
            sign=self.sign[:, part],
            slots=self.slots[:, part],
            key=self.key[:, part],
            packed=None if self.packed is None else self.packed[:, part],
        )

    def lines(self, part: slice) -> PulseTrain:
        """The train of some of the lines, drawing the same bits as in the whole."""
        if part == slice(0, self.sign.shape[-1]):
            return self
        return replace(
            self,
            probability=self.probability[..., part],
            sign=self.sign[..., part],
            line=self.line[part],
            packed=None if self.packed is None else self.packed[..., part],
        )

    def placed(self, lines: int, start: int) -> PulseTrain:
        """The train on lines start, start + 1, ... of an array with ``lines`` lines; the others stay silent."""
        if start == 0 and lines == self.sign.shape[-1]:
            return self
        part = slice(start, start + self.sign.shape[-1])
        if not 0 <= start <= part.stop <= lines:
            raise UsageError(f"placed: lines {start} to {part.stop} are not on an array with {lines}: place them inside")

        def wide(x: Tensor) -> Tensor:
            out = x.new_zeros(*x.shape[:-1], lines)
            out[..., part] = x
            return out

        return replace(
            self,
            probability=wide(self.probability),
            sign=wide(self.sign),
            line=wide(self.line),
            packed=None if self.packed is None else wide(self.packed),
        )

    def drawn(self) -> PulseTrain:
        """The same train with its bits drawn once and for all: for whoever needs them more than once."""
        return self if self.exact else replace(self, kind="given", packed=self.bits(), exact=True)

    def fired(self) -> Tensor:
        """bool [array sample line slot], slot axis MAX_SLOTS long: where the lines pulse."""
        slot = torch.arange(MAX_SLOTS, dtype=torch.int32, device=self.sign.device)
        inside = slot < self.slots[..., None, None]
        if self.kind == "stochastic":
            words = mix(line_hash(self.key[:, :, None], self.line)[..., None] + slot * PSI)
            fires = ((words >> 8) & 0xFFFFFF) < self.threshold[..., None]
        elif self.packed is not None:
            fires = ((self.packed[..., None] >> slot) & 1).bool()
        elif self.kind == "first":
            fires = slot < self.count[..., None]
        else:
            n, total = self.count[..., None], self.slots[..., None, None].clamp(min=1)
            fires = torch.div((slot + 1) * n, total, rounding_mode="floor") > torch.div(
                slot * n, total, rounding_mode="floor"
            )
        return fires & inside & (self.sign != 0)[..., None]

    def bits(self) -> Tensor:
        """Packed slots, int32 [array sample line]: slot s is bit s. Not to be written to."""
        if self.exact and self.packed is not None:
            return self.packed
        if self.kind == "stochastic" and self.sign.device.type == "cpu":
            out = torch.zeros(self.sign.shape, dtype=torch.int32)
            draw_bits(
                self.probability.contiguous().numpy(), self.sign.contiguous().numpy(), self.slots.contiguous().numpy(),
                _words(self.key), _words(self.line), out.numpy().view(np.uint32),
            )  # fmt: skip
            return out
        if self.packed is not None:
            # Slots are at most 31: the shift stays within int32.
            inside = (torch.ones_like(self.slots) << self.slots) - 1
            return self.packed & inside[..., None] & -(self.sign != 0).to(torch.int32)
        slot = torch.arange(MAX_SLOTS, dtype=torch.int32, device=self.sign.device)
        return (self.fired().to(torch.int32) << slot).sum(dim=-1, dtype=torch.int32)


def _words(x: Tensor) -> NDArray[np.uint32]:
    """int32 on the CPU, seen as uint32."""
    return x.contiguous().numpy().view(np.uint32)


def coincidence_counts(rows: PulseTrain, cols: PulseTrain) -> Tensor:
    """Signed coincidences of one sample, int32 [array row col]: slots in which both lines fire, times both signs."""
    if rows.samples != 1 or cols.samples != 1:
        raise UsageError("coincidence_counts takes trains of one sample: cut them with at()")
    r = rows.fired()[:, 0].to(torch.float32) * rows.sign[:, 0, :, None]
    c = cols.fired()[:, 0].to(torch.float32) * cols.sign[:, 0, :, None]
    return torch.bmm(r, c.transpose(1, 2)).round().to(torch.int32)


@dataclass(frozen=True)
class UpdateSettings:
    """How an outer product becomes pulses (theory 1.3).

    slots: desired number of slots, 1 to 31, for all arrays or int32 [array]; management: balance both maxima to the
    same pulse probability; slot_management: no more slots than the largest element needs;
    kind: ``stochastic``, or ``deterministic`` (inputs evenly spread, outputs in the first slots).
    """

    slots: int | Tensor = 31
    management: bool = True
    slot_management: bool = True
    kind: Literal["stochastic", "deterministic"] = "stochastic"

    def __post_init__(self) -> None:
        low, high = (
            (self.slots, self.slots) if isinstance(self.slots, int) else (int(self.slots.min()), int(self.slots.max()))
        )
        if low < 1 or high > MAX_SLOTS:
            raise UsageError(f"update: slots = {self.slots} is outside 1 to {MAX_SLOTS}: choose a shorter train")


def encode(
    x: Tensor, d: Tensor, rate: Tensor, step: Tensor, settings: UpdateSettings, x_key: Tensor, d_key: Tensor
) -> tuple[PulseTrain, PulseTrain]:
    """Trains whose expected coincidences make the update ``rate * d x^T``, where no probability is clipped.

    x [array sample in], d [array sample out]; rate [array] >= 0; step [array] > 0: weight change of one pulse.
    With k = rate max|x| max|d| / step: slots = min(ceil(k), wanted) under slot management;
    p_x = |x| sqrt(rate / (step slots)) / r and p_d = |d| sqrt(rate / (step slots)) r, r = sqrt(max|x| / max|d|)
    under management; if k exceeds the slots, max|d| counts slots / k times itself, so that larger d are clipped at
    probability 1 and x is not. E[count] = rate |x d| / step where nothing is clipped.
    Source: theory 1.3, after Gokmen and Vlasov 2016 and aihwkit.
    """
    gain = rate / step
    wanted = settings.slots if isinstance(settings.slots, Tensor) else torch.full_like(gain, float(settings.slots))
    compute = _encode_cpu if x.device.type == "cpu" else encode_torch
    p_x, p_d, sign_x, sign_d, slots = compute(x, d, gain, wanted.to(gain), settings)
    deterministic = settings.kind == "deterministic"
    return (
        PulseTrain(p_x, sign_x, slots, x_key, _lines(x), "spread" if deterministic else "stochastic"),
        PulseTrain(p_d, sign_d, slots, d_key, _lines(d), "first" if deterministic else "stochastic"),
    )


_LINES: dict[tuple[int, torch.device], Tensor] = {}


def _lines(x: Tensor) -> Tensor:
    """0, 1, ... for every line, int32."""
    key = (x.shape[2], x.device)
    if key not in _LINES:
        _LINES[key] = torch.arange(x.shape[2], dtype=torch.int32, device=x.device)
    return _LINES[key]


_Encoded = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def encode_torch(x: Tensor, d: Tensor, gain: Tensor, wanted: Tensor, settings: UpdateSettings) -> _Encoded:
    """(p_x, p_d, sign_x, sign_d, slots) of ``encode`` in plain torch: the definition. gain [array] = rate / step."""
    size_x, size_d = x.abs(), d.abs()
    max_x, max_d = size_x.amax(dim=2), size_d.amax(dim=2)
    k = gain[:, None] * max_x * max_d
    slots = torch.minimum(k.ceil(), wanted[:, None]) if settings.slot_management else wanted[:, None].expand_as(k)
    silent = ~(k > 0)
    slots = torch.where(silent, 0.0, slots)
    base = _sqrt(gain[:, None] / slots.clamp(min=1))
    if settings.management:
        shrink = (slots / k).clamp(max=1.0)
        balance = _sqrt(max_x / (max_d * shrink))
        scale_x, scale_d = base / balance, base * balance
    else:
        scale_x = scale_d = base
    scale_x, scale_d = torch.where(silent, 0.0, scale_x), torch.where(silent, 0.0, scale_d)
    p_x = (size_x * scale_x[..., None]).clamp(max=1.0)
    p_d = (size_d * scale_d[..., None]).clamp(max=1.0)
    quiet = silent[..., None]
    sign_x = torch.where(quiet, 0, torch.sign(x)).to(torch.int8)
    sign_d = torch.where(quiet, 0, torch.sign(d)).to(torch.int8)
    return p_x, p_d, sign_x, sign_d, slots.to(torch.int32)


def _sqrt(x: Tensor) -> Tensor:
    """Correctly rounded square root: that of some float32 libraries is not, and kernels must agree to the bit."""
    return x.double().sqrt().float()


def _encode_cpu(x: Tensor, d: Tensor, gain: Tensor, wanted: Tensor, settings: UpdateSettings) -> _Encoded:
    """``encode_torch`` in one pass."""
    p_x, p_d = torch.zeros(x.shape), torch.zeros(d.shape)
    sign_x, sign_d = torch.zeros(x.shape, dtype=torch.int8), torch.zeros(d.shape, dtype=torch.int8)
    slots = torch.empty(x.shape[:2], dtype=torch.int32)
    encode_loops(
        x.contiguous().numpy(), d.contiguous().numpy(), gain.numpy(), wanted.numpy(), settings.management,
        settings.slot_management, p_x.numpy(), p_d.numpy(), sign_x.numpy(), sign_d.numpy(), slots.numpy(),
    )  # fmt: skip
    return p_x, p_d, sign_x, sign_d, slots
