"""The twin's switching matrix: a 707B with one card, over TSP."""

from __future__ import annotations

from functools import partial
from typing import Any

from simulated_backend.twins.rack import CHANNEL, Rack
from simulated_backend.twins.tsp import Tsp, TspError
from simulated_backend.twins.wire import Port

__all__ = ["MatrixDevice"]

_RULES = {"channel.OFF": 0.0, "channel.BREAK_BEFORE_MAKE": 1.0, "channel.MAKE_BEFORE_BREAK": 2.0}


class MatrixDevice:
    """Crosspoints of the rack's world. Rejects channels that the card does not have."""

    delimiter = b"\n"

    def __init__(self, rack: Rack) -> None:
        self._rack = rack
        self._rule = _RULES["channel.BREAK_BEFORE_MAKE"]
        constants = {name: (partial(float, value), None) for name, value in _RULES.items()}
        self._tsp = Tsp(
            attributes={**constants, "channel.connectrule": (lambda: self._rule, self._set_rule)},
            functions={
                "channel.open": self._open, "channel.close": self._close, "channel.exclusiveclose": self._exclusive,
                "channel.getclose": self._get_close, "channel.getcount": self._get_count, "channel.reset": self._reset,
                "delay": lambda seconds: rack.clock.spend(seconds),
            },
            rejected=lambda word: rack.refuse(f"matrix.{word}"),
            identity="KEITHLEY INSTRUMENTS INC.,MODEL 707B,TWIN0707,01.40a",
        )  # fmt: skip

    def handle(self, unit: bytes, port: Port) -> None:
        with self._rack.lock:
            self._rack.clock.spend(self._rack.times.tsp_s)
            self._tsp.run(unit.decode("ascii", "replace"), port)

    def tick(self) -> None:
        """Nothing to watch."""

    def connected(self, is_connected: bool) -> None:
        """The relays stay as they are."""

    def _set_rule(self, value: Any) -> None:
        if value not in _RULES.values():
            raise TspError(1114, "Settings conflict: connect rule")
        self._rule = value

    def _listed(self, text: Any) -> list[str]:
        if not isinstance(text, str) or not text:
            raise TspError(-224, "Illegal parameter: channel list")
        names = [name.strip() for name in text.replace(";", ",").split(",")]
        wiring = self._rack.wiring
        for name in names:
            found = CHANNEL.match(name)
            if found is None or int(found[1]) != wiring.slot or not 1 <= int(found[3]) <= wiring.card_columns:
                raise TspError(1115, f"Parameter error: {name} does not exist")
        return names

    def _open(self, text: Any) -> None:
        rack = self._rack
        gone = rack.closed if text in ("allslots", f"slot{rack.wiring.slot}") else frozenset(self._listed(text))
        rack.switch(rack.closed - gone)

    def _close(self, text: Any) -> None:
        self._rack.switch(self._rack.closed | frozenset(self._listed(text)))

    def _exclusive(self, text: Any) -> None:
        if self._rule == _RULES["channel.MAKE_BEFORE_BREAK"]:
            self._rack.panel.count("made_before_break")
        self._rack.switch(frozenset(self._listed(text)))

    def _reset(self, text: Any) -> None:
        self._open(text)

    def _get_close(self, text: Any) -> tuple[str | None]:
        wanted = self._rack.closed if text == "allslots" else self._rack.closed & frozenset(self._listed(text))
        return (";".join(sorted(wanted)) or None,)

    def _get_count(self, text: Any) -> str:
        return ",".join(str(self._rack.closures[name]) for name in self._listed(text))
