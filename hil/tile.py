"""A tile: one weight matrix on regions of backends.

    W[out, in] = (G[in, out] - G_ref[in, out]) / siemens_per_weight

with inputs on rows. Reads scale every sample to the DAC (absolute-maximum noise management) and repeat saturated
samples at half the input (iterative bound management); both are undone on the result. Where the board subtracts a
reference per cell, G_ref is set there; else the tile subtracts what remains after the ADC.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hil.backend import Direction, HasReference
from hil.driving import drive, drive_later
from hil.encoding import Stream, UpdateSettings, encode
from hil.errors import ShapeError, UsageError
from hil.fused import FusedMatrix
from hil.known import KnownDevices
from hil.matvec import matvec
from hil.place import Place, Region
from hil.posted import HasPostedMvm

__all__ = ["MAX_HALVINGS", "Tile"]

MAX_HALVINGS = 10
"""Repeats of a saturated read before it is taken as it is."""


class Tile:
    """One matrix. ``known``: what is known of its devices [array in out]; seed and ids key its pulse trains."""

    def __init__(self, place: Place, known: KnownDevices, seed: int, ids: Tensor) -> None:
        self.place, self.known = place, known
        self.arrays = len(ids)
        self.inputs, self.outputs = place.inputs, place.outputs
        self._x_keys = Stream(seed, ids, place.name, "train-in")
        self._d_keys = Stream(seed, ids, place.name, "train-out")
        self._per_weight = known.siemens_per_weight.float()
        self._single = len(place.regions) == 1 and place.regions[0].whole
        self._limited = any(r.backend.info.full_scale_a != float("inf") for r in place.regions)
        self.reference = known.g_ref.float()
        self.set_reference(known.g_ref.float())

    @property
    def step(self) -> Tensor:
        """Mean weight change of one pulse at the symmetry point, float32 [array]."""
        return self.known.step_weight.float()

    def set_reference(self, g_siemens: Tensor) -> None:
        """Weight 0 is at ``g_siemens`` [array in out] from now on."""
        self.reference = g_siemens
        self._rest: list[Tensor | None] = []
        for region in self.place.regions:
            info = region.backend.info
            part = g_siemens[:, region.inputs, region.outputs]
            if info.reference == "cell" and isinstance(region.backend, HasReference):
                board = torch.full((info.arrays, info.rows, info.cols), torch.nan)
                board[:, region.rows, region.cols] = part
                region.backend.set_reference(board)
                self._rest.append(None)
            else:
                zero = info.g_mid_siemens if info.reference == "mid" else 0.0
                self._rest.append((part - zero).contiguous())

    def forward(self, x: Tensor, active: Tensor | None = None) -> Tensor:
        """y [array sample out] = W x, x [array sample in]; inactive arrays give 0."""
        return self._managed(x, "forward", active, self.place.read.bound_management)

    def backward(self, d: Tensor, active: Tensor | None = None) -> Tensor:
        """[array sample in] = W^T d, d [array sample out]; without bound management (theory 1.4)."""
        return self._managed(d, "backward", active, False)

    def read_line(self, line: Tensor, transfer: Direction, active: Tensor | None = None) -> Tensor:
        """One line of W as a one-hot analog read shows it: no noise or bound management.

        line: int64 [array]. "forward": the weights of input ``line``, [array out]; "backward": of output ``line``.
        """
        x = self._one_hot(line, transfer)
        return self._product(x, transfer, active, one_hot=True)[0][:, 0]

    def post_line(self, line: Tensor, transfer: Direction, active: Tensor | None = None) -> Callable[[], Tensor]:
        """``read_line`` begun; the function waits for what it gives. Where a board cannot, it is read at once."""
        boards = [region.backend for region in self.place.regions if isinstance(region.backend, HasPostedMvm)]
        if self._single or len(boards) < len(self.place.regions):
            value = self.read_line(line, transfer, active)
            return lambda: value
        volts = self._one_hot(line, transfer) * self.place.read.read_v
        waits = [
            drive_later(board, region.backend.info, self._on_board(region, volts, transfer), transfer, active)
            for board, region in zip(boards, self.place.regions, strict=True)
        ]

        def result() -> Tensor:
            total = self._gathered([wait() for wait in waits], transfer, active)[0]
            return (total / (self._per_weight[:, None, None] * self.place.read.read_v))[:, 0]

        return result

    def _one_hot(self, line: Tensor, transfer: Direction) -> Tensor:
        x = torch.zeros(self.arrays, 1, self.inputs if transfer == "forward" else self.outputs)
        return x.scatter_(2, line[:, None, None], 1.0)

    def _managed(self, x: Tensor, direction: Direction, active: Tensor | None, bound_management: bool) -> Tensor:
        lines = self.inputs if direction == "forward" else self.outputs
        if x.dim() != 3 or x.shape[0] != self.arrays or x.shape[2] != lines:
            raise ShapeError(f"{self.place.name} {direction}: {list(x.shape)} needs [{self.arrays} sample {lines}]")
        scale = x.abs().amax(dim=2, keepdim=True)
        scale = torch.where(scale > 0, scale, 1.0)
        y, saturated = self._product(x / scale, direction, active)
        if saturated is None or not bound_management:
            return y * scale
        for _ in range(MAX_HALVINGS):
            again = saturated.any(dim=1)
            if not bool(again.any()):
                break
            scale = torch.where(saturated[:, :, None], scale * 2, scale)
            repeat, still = self._product(x / scale, direction, again)
            assert still is not None
            y = torch.where(saturated[:, :, None], repeat, y)
            saturated = saturated & still
        return y * scale

    def _product(
        self, x: Tensor, direction: Direction, active: Tensor | None, one_hot: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """W x (or W^T x) for |x| <= 1 in one analog read, and which samples saturated [array sample] (None: cannot)."""
        read_v = self.place.read.read_v
        volts = x * read_v
        if self._single:
            applied, current, full = drive(self.place.regions[0].backend, volts, read_v, direction, active, one_hot)
            total = self._less_rest(0, current, applied, direction, active)
            saturated = None if full is None else full.any(dim=2)
        else:
            total, saturated = self._sum_regions(volts, direction, active, one_hot)
        return total / (self._per_weight[:, None, None] * read_v), saturated

    def _less_rest(self, number: int, current: Tensor, volts: Tensor, direction: Direction, active: Tensor | None) -> Tensor:
        """What the board did not subtract before its ADC."""
        rest = self._rest[number]
        return current if rest is None else current - matvec(volts, rest, direction, active)

    def _sum_regions(
        self, volts: Tensor, direction: Direction, active: Tensor | None, one_hot: bool
    ) -> tuple[Tensor, Tensor | None]:
        read_v = self.place.read.read_v
        parts = [
            drive(region.backend, self._on_board(region, volts, direction), read_v, direction, active, one_hot)
            for region in self.place.regions
        ]
        return self._gathered(parts, direction, active)

    def _on_board(self, region: Region, volts: Tensor, direction: Direction) -> Tensor:
        """Voltages of all lines of the region's board."""
        info, forward = region.backend.info, direction == "forward"
        driven, source = (region.rows, region.inputs) if forward else (region.cols, region.outputs)
        board = torch.zeros(self.arrays, volts.shape[1], info.rows if forward else info.cols)
        board[:, :, driven] = volts[:, :, source]
        return board

    def _gathered(
        self, parts: list[tuple[Tensor, Tensor, Tensor | None]], direction: Direction, active: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Sum of what ``drive`` gave of every region."""
        forward = direction == "forward"
        samples = parts[0][0].shape[1]
        total = torch.zeros(self.arrays, samples, self.outputs if forward else self.inputs)
        saturated = torch.zeros(self.arrays, samples, dtype=torch.bool) if self._limited else None
        for number, (region, (applied, current, full)) in enumerate(zip(self.place.regions, parts, strict=True)):
            driven, sensed = (region.rows, region.cols) if forward else (region.cols, region.rows)
            sink = region.outputs if forward else region.inputs
            total[:, :, sink] += self._less_rest(number, current[:, :, sensed], applied[:, :, driven], direction, active)
            if saturated is not None and full is not None:
                saturated |= full[:, :, sensed].any(dim=2)
        return total, saturated

    def update(self, x: Tensor, d: Tensor, rate: Tensor, settings: UpdateSettings, active: Tensor | None = None) -> None:
        """W += rate d x^T in expectation, by coincidences. x [array sample in], d [array sample out], rate [array] >= 0.

        A rate of 0 sends no pulse. ShapeError for rates of another shape, UsageError for one that is negative, NaN or
        infinite: of such a rate the trains would fire wrongly or not at all, and nobody would be told.
        """
        self._check_rate(rate)
        samples = x.shape[1]
        rows, cols = encode(
            x, d, rate, self.step, settings, self._x_keys.keys(samples, active), self._d_keys.keys(samples, active)
        )
        for region in self.place.regions:
            info = region.backend.info
            region.backend.update(
                rows.lines(region.inputs).placed(info.rows, region.rows.start),
                cols.lines(region.outputs).placed(info.cols, region.cols.start),
                self.place.shape,
                active,
            )

    def fused(self, rate: Tensor, settings: UpdateSettings) -> FusedMatrix | None:
        """What a compiled network must know of this matrix, updated at ``rate`` [array]; None where it is not covered.

        Covered is a matrix on a whole board with a DAC, whose reference is subtracted before the ADC.
        UsageError and ShapeError as of ``update``.
        """
        self._check_rate(rate)
        backend = self.place.regions[0].backend
        if not self._single or backend.info.read_levels == 2 or self._rest[0] is not None:
            return None
        read = self.place.read
        return FusedMatrix(
            backend, self.place.shape, read.read_v, read.bound_management, self._per_weight, self.step, rate, settings,
            self._x_keys, self._d_keys,
        )  # fmt: skip

    def _check_rate(self, rate: Tensor) -> None:
        if tuple(rate.shape) != (self.arrays,):
            raise ShapeError(f"{self.place.name} update: rate {list(rate.shape)} needs [{self.arrays}]: one for each array")
        low, high = torch.aminmax(rate)
        # Not "low < 0 or ...": a NaN compares as false with everything.
        if not (low.item() >= 0 and high.item() < float("inf")):
            bad = rate[~((rate >= 0) & (rate < float("inf")))][0].item()
            raise UsageError(f"{self.place.name} update: rate {bad:g} is no learning rate: give finite ones of at least 0")

    def conductance(self, active: Tensor | None = None) -> Tensor:
        """Conductances as ``read`` gives them, float32 [array in out] siemens; inactive arrays are not read and give NaN."""
        g = torch.empty(self.arrays, self.inputs, self.outputs)
        for region in self.place.regions:
            g[:, region.inputs, region.outputs] = self._read(region, active)
        return g

    def _read(self, region: Region, active: Tensor | None) -> Tensor:
        info = region.backend.info
        mask = torch.zeros(info.arrays, info.rows, info.cols, dtype=torch.bool)
        mask[:, region.rows, region.cols] = True if active is None else active[:, None, None]
        return region.backend.read(mask, self.place.read.averages)[:, region.rows, region.cols]

    def weights(self) -> Tensor:
        """W read back, float32 [array out in]."""
        return ((self.conductance() - self.reference) / self._per_weight[:, None, None]).transpose(1, 2)

    def pulse(self, counts: Tensor) -> None:
        """``|counts|`` pulses on the cells of the matrix, up where positive; int32 [array in out]."""
        for region in self.place.regions:
            info = region.backend.info
            board = torch.zeros(info.arrays, info.rows, info.cols, dtype=torch.int32)
            board[:, region.rows, region.cols] = counts[:, region.inputs, region.outputs]
            region.backend.pulse(board, self.place.shape)

    def state_dict(self) -> dict[str, Tensor]:
        """Counters of its pulse trains, and its reference."""
        return {"in": self._x_keys.counter.clone(), "out": self._d_keys.counter.clone(), "reference": self.reference.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave. Analog references live on the board and are not set again."""
        self._x_keys.counter.copy_(state["in"])
        self._d_keys.counter.copy_(state["out"])
        reference = state.get("reference", self.reference)
        if not torch.equal(self.reference, reference):
            self.set_reference(reference)
