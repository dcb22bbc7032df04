"""The twin's wafer prober: SENTIO's remote commands. Moving with a source on, with the door open or stepping in contact
is refused and counted."""

from __future__ import annotations

from collections.abc import Callable

from simulated_backend.twins.rack import Rack
from simulated_backend.twins.wire import Port

__all__ = ["ProberDevice"]

_END_OF_ROUTE = 1
_LAST_SITE = 2
_ERRORS = {
    "unknown_command": 20,
    "bad_parameter": 30,
    "outputs_on": 40,
    "door_open": 41,
    "in_contact": 42,
    "end_of_route": 50,
}
_CHUCK_UM = {True: 12000.0, False: 11700.0}


class _Refused(Exception):
    """A word of _ERRORS."""


class ProberDevice:
    """Chuck and map of the rack's world."""

    delimiter = b"\n"

    def __init__(self, rack: Rack) -> None:
        self._rack = rack
        self._contacts = 0
        self._flags = 0
        self._commands: dict[str, Callable[[list[str]], str]] = {
            "status:get_version": lambda _: "24.0.2.17",
            "status:get_machine_status": lambda _: "Ready",
            "status:get_chuck_temp": lambda _: "25.0",
            "get_door_status": lambda _: "open" if rack.door_open else "closed",
            "setup:contact_counter:get": lambda _: str(self._contacts),
            "map:get_num_dies": lambda _: str(len(rack.wafer.settings.route)),
            "map:path:get_die": self._path,
            "move_chuck_contact": self._contact,
            "move_chuck_separation": self._separation,
            "map:step_die": self._step_die,
            "map:step_first_die": lambda _: self._step(0, 0),
            "map:step_next_die": lambda _: self._step(self._place() + 1, rack.site),
            "map:subsite:step_next": lambda _: self._step(self._place(), rack.site + 1),
        }

    def handle(self, unit: bytes, port: Port) -> None:
        with self._rack.lock:
            line = unit.decode("ascii", "replace").strip()
            if line:
                port.send((self._answer(line) + "\n").encode())

    def tick(self) -> None:
        """Nothing to watch."""

    def connected(self, is_connected: bool) -> None:
        """The chuck stays where it is."""

    def _answer(self, line: str) -> str:
        word, _, rest = line.partition(" ")
        self._flags = 0
        try:
            if word not in self._commands:
                raise _Refused("unknown_command")
            message = self._commands[word]([part.strip() for part in rest.split(",") if part.strip()])
        except _Refused as exc:
            self._rack.refuse(f"prober.{exc}")
            return f"{_ERRORS[str(exc)]},0,{str(exc).replace('_', ' ')}"
        return f"{self._flags << 10},0,{message}"

    def _may_move(self) -> None:
        if self._rack.door_open:
            raise _Refused("door_open")
        if self._rack.on:
            raise _Refused("outputs_on")

    def _contact(self, _: list[str]) -> str:
        self._may_move()
        rack = self._rack
        if not rack.contact:
            rack.contact = True
            self._contacts += 1
            rack.touchdowns[f"{rack.die[0]},{rack.die[1]},{rack.site}"] += 1
            rack.panel.count("touchdowns")
            rack.clock.spend(rack.times.chuck_s)
        return f"{_CHUCK_UM[True]:.1f}"

    def _separation(self, _: list[str]) -> str:
        if self._rack.on:
            raise _Refused("outputs_on")
        if self._rack.contact:
            self._rack.contact = False
            self._rack.clock.spend(self._rack.times.chuck_s)
        return f"{_CHUCK_UM[False]:.1f}"

    def _place(self) -> int:
        return self._rack.wafer.settings.route.index(self._rack.die)

    def _path(self, parts: list[str]) -> str:
        route = self._rack.wafer.settings.route
        if len(parts) != 1 or not parts[0].isdigit() or int(parts[0]) >= len(route):
            raise _Refused("bad_parameter")
        column, row = route[int(parts[0])]
        return f"{column},{row}"

    def _step_die(self, parts: list[str]) -> str:
        try:
            numbers = [int(part) for part in parts]
        except ValueError as exc:
            raise _Refused("bad_parameter") from exc
        route = self._rack.wafer.settings.route
        if len(numbers) not in (2, 3) or (numbers[0], numbers[1]) not in route:
            raise _Refused("bad_parameter")
        return self._step(route.index((numbers[0], numbers[1])), numbers[2] if len(numbers) == 3 else 0)

    def _step(self, place: int, site: int) -> str:
        self._may_move()
        rack, route = self._rack, self._rack.wafer.settings.route
        if rack.contact:
            raise _Refused("in_contact")
        if place >= len(route):
            raise _Refused("end_of_route")
        if not 0 <= site < rack.wafer.settings.sites:
            raise _Refused("bad_parameter")
        if (rack.die, rack.site) != (route[place], site):
            rack.clock.spend(rack.times.step_s)
        rack.die, rack.site = route[place], site
        self._flags = _END_OF_ROUTE * (place == len(route) - 1) | _LAST_SITE * (site == rack.wafer.settings.sites - 1)
        return f"{rack.die[0]},{rack.die[1]},{site}"
