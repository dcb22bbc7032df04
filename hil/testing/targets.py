"""The benches a test session is to run on, and the boards of each that have a pulse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hil.config import BenchConfig, BoardConfig, StationConfig, load_bench, shipped_benches
from hil.errors import HilError

__all__ = ["DEFAULT", "Target", "has_twin", "targets"]

DEFAULT = "emulated-board"


@dataclass(frozen=True)
class Target:
    """A bench to run on. ``problem``: why it cannot be run, then there is no config; ``named``: by ``--bench``."""

    bench: str
    named: bool
    config: BenchConfig | None = None
    problem: str = ""

    @property
    def boards(self) -> list[str]:
        """Names of the boards that have a role, "?" where the bench file cannot be read."""
        if self.config is None:
            return ["?"]
        wired = {role.board for role in self.config.roles.values()}
        return [name for name in self.config.boards if name in wired]

    @property
    def hardware(self) -> bool:
        """Whether any board may be a real one: of a bench that is not shipped, neither emulated nor played by a twin."""
        if self.config is None or self.bench in shipped_benches() or has_twin(self.config.station):
            return False
        return any(board.backend != "emulated" and not has_twin(board) for board in self.config.boards.values())

    @property
    def name(self) -> str:
        """For test ids."""
        return self.bench if self.config is None else self.config.name


def has_twin(part: BoardConfig | StationConfig | None) -> bool:
    """Whether a board, or the station that brings it, is a twin that the bench starts."""
    return part is not None and part.settings.get("twin") is not None


def targets(named: Sequence[str], fallback: Sequence[str] = (DEFAULT,)) -> list[Target]:
    """Targets for the values of ``--bench`` (each may hold several, comma-separated), else for ``fallback``."""
    benches = [name for value in named for name in value.split(",") if name] or list(fallback)
    return [_target(bench, bool(named)) for bench in benches]


def _target(bench: str, named: bool) -> Target:
    try:
        return Target(bench, named, load_bench(bench))
    except HilError as exc:
        return Target(bench, named, problem=str(exc))
