"""A bench, opened: named boards behind their guards, places for matrices, calibrations."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hil.backend import ArrayBackend, ArrayInfo, Costs, HasCosts, HasState
from hil.calibration import CalibrationStore
from hil.config import BenchConfig, RoleConfig, validated
from hil.dry_run import DryRun
from hil.errors import UsageError
from hil.guard import guard
from hil.ledger import Ledger
from hil.limits import check_read_v, excluded_mask
from hil.place import Allocator, Place, Region, Surface
from hil.plugins import BackendPlugin, Wanted, find
from hil.reread import reread
from hil.safety import SafeState
from hil.supposed import SupposedCells
from hil.wear import Wear, pulses_since_start

__all__ = ["Bench", "open_bench"]


@dataclass
class _Board:
    """One entry of ``[boards]``: its plugin, and the guarded backend once opened (None while elastic)."""

    plugin: BackendPlugin
    settings: Any
    backend: ArrayBackend | None = None
    allocator: Allocator | None = None


@dataclass
class Bench:
    """A configured set-up. A context manager: leaving it makes every board safe and lets go."""

    config: BenchConfig
    state: Path
    """Folder of what outlives a run: calibrations, wear counters."""
    ledger: Ledger | None = None
    ids: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    """Identity of every replica, int64 [array]."""
    _boards: dict[str, _Board] = field(default_factory=dict)
    _matrices: dict[str, ArrayBackend] = field(default_factory=dict)
    _places: dict[str, Place] = field(default_factory=dict)
    _closing: ExitStack = field(default_factory=ExitStack)
    _safety: SafeState | None = None
    _dry: bool = False
    site: str = ""
    """Where the probes of a station are; "" without one."""

    @property
    def name(self) -> str:
        """Name of the bench."""
        return self.config.name

    @property
    def arrays(self) -> int:
        """Length of the array axis."""
        return len(self.ids)

    @property
    def calibrations(self) -> CalibrationStore:
        """What is known of its devices."""
        return CalibrationStore(self.state / "calibrations", read_only=self._dry, ledger=self.ledger)

    @property
    def infos(self) -> dict[str, ArrayInfo]:
        """What every open backend says of itself, by board or matrix name."""
        return {name: backend.info for name, backend in self.backends.items()}

    @property
    def physical(self) -> bool:
        """Whether any board is real."""
        return any(info.physical for info in self.infos.values())

    def populate(self, ids: Tensor) -> None:
        """Give the array axis these identities; only before the first matrix, and only where no board is fixed to one."""
        if self._matrices or (len(ids) > 1 and any(board.backend is not None for board in self._boards.values())):
            raise UsageError(f"bench {self.name}: a population of {len(ids)} needs an elastic emulated bench, not a board")
        self.ids = ids

    def place(self, name: str, role: str, inputs: int, outputs: int) -> Place:
        """Regions for a matrix of that role; role "a" falls back on "c" where the bench has no other."""
        if name in self._places:
            placed = self._places[name]
            if (placed.inputs, placed.outputs) != (inputs, outputs):
                raise UsageError(
                    f"matrix {name} is {placed.inputs} x {placed.outputs} already: give the new one another name"
                )
            return placed
        wiring = self._role(role)
        board = self._boards[wiring.board]
        if board.allocator is not None:
            regions = board.allocator.place(inputs, outputs, name, wiring.board)
        else:
            backend = self._matrix(name, role, inputs, outputs)
            regions = (Region(backend, slice(0, inputs), slice(0, outputs), slice(0, inputs), slice(0, outputs)),)
        place = Place(name, role, inputs, outputs, regions, wiring.shape, self.config.read, self.config.nominal)
        self._places[name] = place
        return place

    def surfaces(self, widths: tuple[int, ...] | None = None, size: tuple[int, int] | None = None) -> list[Surface]:
        """What there is to characterize: every board under each pulse shape used on it; on an elastic bench the matrices
        of a network with these widths, or one matrix of this size."""
        found: dict[tuple[str, object], Surface] = {}
        for role, wiring in self.config.roles.items():
            board = self._boards[wiring.board]
            if board.backend is not None:
                self._add_surface(found, f"board {self.label(wiring.board)}", role, board.backend, wiring)
                continue
            if widths is None and size is None:
                raise UsageError(f"bench {self.name}: an elastic bench has no size of its own: give widths or a size")
            sizes = [size] if widths is None else list(pairwise(widths))
            for number, wanted in enumerate(sizes):
                assert wanted is not None
                name = f"probe.{role}" if widths is None else f"layer{number}.{role}"
                self._add_surface(found, name, role, self._matrix(name, role, *wanted), wiring)
        return list(found.values())

    def _add_surface(
        self, found: dict[tuple[str, object], Surface], name: str, role: str, backend: ArrayBackend, wiring: RoleConfig
    ) -> None:
        key = (backend.info.serial, wiring.shape)
        roles = role if key not in found else f"{found[key].role}+{role}"
        usable = self._usable(wiring.board, backend.info)
        found[key] = Surface(name, roles, backend, wiring.shape, self.config.nominal, self.config.read.averages, usable)

    def _usable(self, board: str, info: ArrayInfo) -> Tensor:
        """Cells that the limits do not exclude, bool [row col]."""
        limits = self.config.boards[board].limits
        if limits is None:
            return torch.ones(info.rows, info.cols, dtype=torch.bool)
        return ~torch.from_numpy(excluded_mask(limits, info, board))

    def _role(self, role: str) -> RoleConfig:
        if role == "a" and "a" in self.config.roles:
            return self.config.roles["a"]
        return self.config.roles["c"]

    def _matrix(self, name: str, role: str, rows: int, cols: int) -> ArrayBackend:
        """The elastic backend's array for a matrix: made once, the same ever after."""
        if name not in self._matrices:
            board = self._boards[self._role(role).board]
            self._matrices[name] = self._connect(
                board, self._role(role).board, Wanted(name, role, rows, cols, self.ids, self.config.seed)
            )
        made = self._matrices[name]
        if (made.info.rows, made.info.cols) != (rows, cols):
            raise UsageError(f"matrix {name} is {made.info.rows} x {made.info.cols} already, not {rows} x {cols}: rename it")
        return made

    def _connect(self, board: _Board, board_name: str, wanted: Wanted) -> ArrayBackend:
        """Open a backend behind its guard, and see to it that it is recorded, made safe and closed."""
        limits = self.config.boards[board_name].limits
        inner = board.plugin.open(board.settings, replace(wanted, limits=limits, site=self.site))
        self._closing.callback(inner.close)
        check_read_v(self.config.read.read_v, inner.info, limits, board_name)
        wear, ledger = None, self.ledger
        if inner.info.physical:
            wear = Wear.open(self.state)
            self._closing.callback(wear.close)
        if self._dry:
            nominal = self.config.nominal
            states = min(nominal.states) if isinstance(nominal.states, tuple) else nominal.states
            cells = SupposedCells(nominal.g_min_siemens, nominal.g_max_siemens, states)
            costs = inner.costs if isinstance(inner, HasCosts) else Costs()
            inner = DryRun(inner.info, nominal.g_mid_siemens, cells, costs)
            wear = None if wear is None else wear.snapshot()
        guarded = guard(inner, limits, ledger, self.label(wanted.name), wear)
        if self.ledger is not None:
            self.ledger.board(self.label(wanted.name), inner.info)
        if self._safety is not None:
            self._safety.add(self.label(wanted.name), guarded)
        else:
            self._closing.callback(guarded.safe)
        return guarded

    def label(self, board: str) -> str:
        """What a board is called in the run record: its name, and the site where there is one."""
        return f"{board}@{self.site}" if self.site else board

    def dry_runs(self) -> dict[str, DryRun]:
        """The recorders of a dry run, by board or matrix name."""
        inner = {name: getattr(backend, "inner", None) for name, backend in self.backends.items()}
        return {name: backend for name, backend in inner.items() if isinstance(backend, DryRun)}

    def pulses(self) -> dict[str, Tensor]:
        """Pulses of every cell since the run began, by matrix: float64 [array in out]; NaN where nobody has counted."""
        run = None if self.ledger is None else self.ledger.run
        spent = {id(b): pulses_since_start(b, self.label(name), run) for name, b in self.backends.items()}
        found = {}
        for name, place in self._places.items():
            found[name] = torch.zeros(self.arrays, place.inputs, place.outputs, dtype=torch.float64)
            for region in place.regions:
                part = spent[id(region.backend)][:, region.rows, region.cols]
                found[name][:, region.inputs, region.outputs] = torch.from_numpy(part.astype(np.float64))
        return found

    def account_for_pending(self) -> None:
        """Read again the cells of operations of which nobody knows whether they were applied; never send those again.

        Of a station's bench: those of its site. UsageError for an operation of a board that this bench lacks.
        """
        if self.ledger is None:
            return
        boards = {self.label(name): name for name in self.backends}
        for operation in self.ledger.pending():
            if operation.board in boards:
                reread(self.ledger, [operation], partial(self.read_cells, boards[operation.board]))
            elif not self.site:
                lacking = f"operation {operation.number} is of board {operation.board}, which this bench lacks"
                raise UsageError(f"{self.ledger.folder}: {lacking}: resume it on the bench that it was made with")

    def read_cells(self, board: str, mask: Tensor) -> Tensor:
        """Conductances of some cells of a board, NaN elsewhere; mask: bool [array row col]."""
        return self.backends[board].read(mask, self.config.read.averages)

    @property
    def backends(self) -> dict[str, ArrayBackend]:
        """Every open backend behind its guard, by board or matrix name."""
        fixed = {name: board.backend for name, board in self._boards.items() if board.backend is not None}
        return {**fixed, **self._matrices}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """State of every backend that can be saved: emulated ones."""
        return {n: b.state_dict() for n, b in self.backends.items() if isinstance(b, HasState)}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Restore emulated backends; the matrices must have been placed already."""
        for name, backend in self.backends.items():
            if isinstance(backend, HasState):
                if name not in state:
                    raise UsageError(f"bench {self.name}: the checkpoint knows nothing of {name}: it is of another network")
                backend.load_state_dict(state[name])

    def close(self) -> None:
        """Make every board safe, then let go of it."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        # Grounding comes first: a board that has been let go of can confirm nothing.
        with self._closing:
            if self._safety is not None:
                self._safety.make_safe("" if value is None else f"{type(value).__name__}: {value}".splitlines()[0])


def open_bench(
    config: BenchConfig,
    state: Path,
    ledger: Ledger | None = None,
    safety: SafeState | None = None,
    dry: bool = False,
    site: str = "",
) -> Bench:
    """Open every board of a bench; what was opened is closed again if a later one fails.

    state: folder of calibrations and wear counters; safety: where backends register to be made safe; dry: connect and
    identify, then put a recorder in the place of every backend, so that a procedure pulses nothing; site: where the
    probes of a station are.
    """
    bench = Bench(config, state, ledger, _safety=safety, _dry=dry, site=site)
    with ExitStack() as undo:
        undo.callback(bench.close)
        for name, board in config.boards.items():
            where = f"bench {config.name}: boards.{name}"
            try:
                plugin: BackendPlugin = find("hil.backends", board.backend)
            except UsageError as exc:
                raise UsageError(f"{where}.backend: {exc}") from exc
            settings = validated(plugin.settings, board.settings, f"{where}.settings")
            entry = _Board(plugin, settings)
            bench._boards[name] = entry
            if not plugin.elastic(settings):
                entry.backend = bench._connect(entry, name, Wanted(name, "", None, None, bench.ids, config.seed))
                entry.allocator = Allocator(entry.backend, bench._usable(name, entry.backend.info))
        undo.pop_all()
    return bench
