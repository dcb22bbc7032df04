"""A bench kept open from test to test, with its run record, its safe state and what its cells have been through."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from hil.bench import Bench
from hil.config import BenchConfig
from hil.execute import state_folder
from hil.guard import PhysicalGuard
from hil.ledger import Ledger
from hil.safety import SafeState
from hil.station import Station, open_station
from hil.testing.targets import Target

__all__ = ["OpenedBench"]


class OpenedBench:
    """Opens the bench of a target when it is first asked for, and again after it was closed.

    folder: of its run record and, on anything but hardware, of its state; the pulses that hardware gets here count in
    its own wear counters, like all others.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        assert target.config is not None
        self.target, self.config = target, target.config
        self.state = state_folder(target.bench, self.config, folder) if target.hardware else folder / "state"
        self.ledger = Ledger.create(folder, "test", {"bench": self.config.model_dump(mode="json")}, seed=self.config.seed)
        self._open = ExitStack()
        self._bench: Bench | None = None

    @property
    def bench(self) -> Bench:
        """The open bench."""
        if self._bench is None:
            try:
                self._bench = self.reopened(self._open)
            except BaseException:
                self._open.close()
                raise
        return self._bench

    def reopened(self, closing: ExitStack, config: BenchConfig | None = None) -> Bench:
        """The bench (of a station: that of its first site) opened once more, to be closed by ``closing``.

        config: of another bench to open in its place.
        """
        station = self.station(closing, config)
        return closing.enter_context(station.contact(station.sites()[0]))

    def station(self, closing: ExitStack, config: BenchConfig | None = None) -> Station:
        """The station of the bench, to be closed by ``closing``."""
        safety = closing.enter_context(SafeState(self.ledger))
        return closing.enter_context(open_station(config or self.config, self.state, self.ledger, safety))

    def let_go(self) -> None:
        """Make the bench safe and close it; may be called twice."""
        self._bench = None
        self._open.close()

    def close(self) -> None:
        """Let go of the bench and end its record; may be called twice."""
        try:
            self.let_go()
        finally:
            self.ledger.stop("done")

    def spent(self) -> dict[str, Tensor]:
        """Pulses of every cell, int64 [array row col], by board: as the guard counts them, else as the board says."""
        return (
            {} if self._bench is None else {n: c for n, b in self._bench.backends.items() if (c := _pulses(b)) is not None}
        )


def _pulses(backend: object) -> Tensor | None:
    if isinstance(backend, PhysicalGuard):
        return torch.from_numpy(backend.wear.cells(backend.info).pulses)
    said = backend.status()  # type: ignore[attr-defined]
    return said["pulses_up"].long() + said["pulses_down"].long() if "pulses_up" in said else None
