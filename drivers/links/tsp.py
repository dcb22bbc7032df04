"""Keithley's TSP over a raw socket: lines of Lua, answers by ``print``, an error queue that is looked at every time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from drivers.links.visa_link import Ask, VisaLink
from hil.errors import HardwareError

__all__ = ["TspSession", "number"]

_ERRORS_SHOWN = 5


def number(text: str) -> float:
    """A number as TSP prints it; NaN where it prints something else."""
    try:
        return float(text)
    except ValueError:
        return math.nan


class TspSession:
    """One TSP instrument. models: words of which one must stand in the model of ``*IDN?``, such as "2636B".

    Every exchange is one write that ends with a ``print``, so that no write waits for the network's own acknowledgement,
    and prints ``errorqueue.count`` last. Raises HardwareError with the instrument's first error.
    """

    def __init__(self, address: str, models: Sequence[str], timeout_s: float) -> None:
        self.address, self._models = address, tuple(models)
        self.identity = ("", "", "", "")
        """Maker, model, serial number, firmware."""
        self.connections = 0
        """How often the link was opened: what was set up before the last time may be gone."""
        self._link = VisaLink(address, b"\n", self._greet, timeout_s=timeout_s)

    @property
    def exchanges(self) -> int:
        """Questions asked so far."""
        return self._link.exchanges

    def _greet(self, ask: Ask) -> None:
        said = [part.strip() for part in ask("*IDN?").split(",")]
        if len(said) != 4 or not any(model in said[1].upper() for model in self._models):
            raise HardwareError(
                f"{self.address}: {','.join(said)!r} answers, no {'/'.join(self._models)}: check the address"
            )
        self.identity = (said[0], said[1].upper().removeprefix("MODEL ").strip(), said[2], said[3])
        self.connections += 1

    def ready(self) -> None:
        """Connect again where the link was lost; ``connections`` then counts up."""
        self._link.ready()

    def ask(self, *expressions: str, after: Sequence[str] = (), timeout_s: float | None = None) -> list[str]:
        """Run the statements ``after`` which the values are wanted, and return the values of the expressions as printed."""
        wanted = ", ".join([*expressions, "errorqueue.count"])
        said = self._link.query("\n".join([*after, f"print({wanted})"]), timeout_s).strip().split("\t")
        count = number(said[-1])
        if math.isnan(count) or len(said) != len(expressions) + 1:
            raise HardwareError(f"{self.address}: {' '.join(said)!r} is no answer to {wanted}: check instrument and address")
        if count > 0:
            raise HardwareError(f"{self.address}: {self._errors(int(count))}: correct the settings or reset the instrument")
        return said[:-1]

    def plain(self, line: str, timeout_s: float | None = None) -> str:
        """The answer to one line that prints by itself, such as ``printbuffer``."""
        return self._link.query(line, timeout_s).strip()

    def _errors(self, count: int) -> str:
        """The first errors of the queue, which is then emptied."""
        first = [self._link.query("print(errorqueue.next())").split("\t") for _ in range(min(count, _ERRORS_SHOWN))]
        self._link.query("errorqueue.clear()\nprint(errorqueue.count)")
        return "; ".join(f"error {number(said[0]):.0f} {said[1] if len(said) > 1 else ''}".strip() for said in first)

    def abort(self) -> None:
        """Stop what runs; has no answer."""
        self._link.write("abort")

    def close(self) -> None:
        """Let go; may be called twice."""
        self._link.close()
