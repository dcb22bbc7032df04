"""The emulator as a backend plugin: ``backend = "emulated"`` in a bench file."""

from __future__ import annotations

from hil.errors import UsageError
from hil.plugins import Wanted
from simulated_backend.array import EmulatedArray
from simulated_backend.settings import EmulatorSettings

__all__ = ["EmulatedPlugin", "emulated"]


class EmulatedPlugin:
    """Makes emulated arrays: one board of a fixed size, or one array per matrix."""

    settings = EmulatorSettings

    def elastic(self, settings: EmulatorSettings) -> bool:
        """Elastic unless the settings fix rows and cols."""
        return settings.rows is None

    def open(self, settings: EmulatorSettings, wanted: Wanted) -> EmulatedArray:
        """A new emulated array; its devices follow from the seed, the name, the site and the ids."""
        rows, cols = settings.rows or wanted.rows, settings.cols or wanted.cols
        if rows is None or cols is None:
            raise UsageError(f"{wanted.name}: an elastic emulated board needs a matrix size: give settings.rows and cols")
        try:
            name = f"{wanted.name}@{wanted.site}" if wanted.site else wanted.name
            return EmulatedArray(settings, rows, cols, seed=wanted.seed, ids=wanted.ids, name=name, role=wanted.role)
        except ValueError as exc:
            raise UsageError(f"{wanted.name}: {exc}: correct [boards.*.settings]") from exc


emulated = EmulatedPlugin()
"""The entry point."""
