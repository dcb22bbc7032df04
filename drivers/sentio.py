"""MPI SENTIO wafer prober over TCP 35555: dies, contact and separation, chuck temperature, door.

Usable alone::

    with Sentio("tcp://192.0.2.10:35555") as prober:
        prober.separate()
        prober.step(3, 4)
        prober.contact()

Commands and answers are lines that end with LF; an answer is ``status,command,message`` with the error in the low ten
bits of the status and flags (1 = last die of the route) above. The driver refuses to step unless it has itself seen the
chuck separated, and to contact more often than ``max_touchdowns``, before a byte is sent. It knows nothing of the sources:
whoever calls switches outputs off first. After a move whose answer is lost the height is unknown: only ``separate`` helps.

Facts: SENTIO's remote commands as the public package sentio-prober-control sends them. Unverified on hardware: the whole
driver; above all the answers of ``get_door_status`` (taken: the word "closed" or "open"), whether a step while in contact
is refused by the prober itself, and that move_chuck_contact is still taken by releases after 25.2.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from drivers.links.visa_link import Ask, VisaLink
from hil.errors import HardwareError, HilError, LimitError

__all__ = ["Place", "ProberSettings", "Sentio"]

Place = tuple[int, int, int]
"""Die column, die row, subsite."""
Height = Literal["contact", "separation", "unknown"]
_END_OF_ROUTE = 1


class ProberSettings(BaseModel):
    """How the prober is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_touchdowns: int | None = Field(default=None, ge=1)
    """Contacts that this session may make; None = as many as wanted."""
    timeout_s: float = Field(default=5.0, gt=0)
    """For an answer that involves no motion, second."""
    move_timeout_s: float = Field(default=40.0, gt=0)
    """For the end of a motion, second."""


class Sentio:
    """The prober. Raises HardwareError where it refuses or is silent, LimitError before a byte is sent."""

    def __init__(self, address: str, settings: ProberSettings | None = None) -> None:
        self.settings = settings or ProberSettings()
        self.address = address
        self.identity = ""
        self.height: Height = "unknown"
        """As this driver last saw it confirmed."""
        self.place: Place | None = None
        """Where the last step ended."""
        self.touchdowns = 0
        """Contacts of this session."""
        self.end_of_route = False
        """Whether the last step reached the last die of the route."""
        self._link = VisaLink(address, b"\n", self._greet, timeout_s=self.settings.timeout_s)

    @property
    def exchanges(self) -> int:
        """Questions asked so far."""
        return self._link.exchanges

    def contact(self) -> None:
        """Raise the chuck into contact; counted as a touchdown."""
        limit = self.settings.max_touchdowns
        if limit is not None and self.touchdowns >= limit:
            raise LimitError(f"{self.address}: {self.touchdowns} touchdowns made, {limit} allowed: raise max_touchdowns")
        if self.height == "contact":
            raise LimitError(f"{self.address}: already in contact: separate before the next touchdown")
        self.height = "unknown"
        try:
            said = self._link.query("move_chuck_contact", self.settings.move_timeout_s)
        except HardwareError:
            # The probes may have touched.
            self.touchdowns += 1
            raise
        self._message("move_chuck_contact", said)
        self.height = "contact"
        self.touchdowns += 1

    def separate(self) -> bool:
        """Lower the chuck; never raises. Returns whether the prober confirmed it. Asked twice: it does no harm."""
        for _ in range(2):
            try:
                self._move("move_chuck_separation")
            except HilError:
                continue
            self.height = "separation"
            return True
        return False

    def step(self, column: int, row: int, site: int = 0) -> Place:
        """To a subsite of a die; returns where the chuck is."""
        return self._step(f"map:step_die {column}, {row}, {site}", (column, row, site))

    def step_first(self) -> Place:
        """To the first die of the route."""
        return self._step("map:step_first_die")

    def step_next(self) -> Place | None:
        """To the next die of the route; None after the last one (the prober has not moved then)."""
        return None if self.end_of_route else self._step("map:step_next_die")

    def step_subsite(self) -> Place:
        """To the next subsite of this die."""
        return self._step("map:subsite:step_next")

    def dies(self) -> list[tuple[int, int]]:
        """(column, row) of every die of the route, in its order."""
        count = self._number(self._again("map:get_num_dies Selected"))
        return [self._pair(self._again(f"map:path:get_die {place}")) for place in range(count)]

    def contact_count(self) -> int:
        """The prober's own counter of contacts."""
        return self._number(self._again("setup:contact_counter:get"))

    def chuck_temperature_c(self) -> float:
        """Degrees Celsius."""
        said = self._again("status:get_chuck_temp").split(",")[0]
        try:
            return float(said)
        except ValueError as exc:
            raise HardwareError(f"{self.address}: {said!r} is no temperature: check the prober") from exc

    def door_closed(self) -> bool:
        """Whether the prober says that its door is closed, and nothing else of it."""
        said = set(re.findall("[a-z]+", self._again("get_door_status").lower()))
        return "closed" in said and not said & {"open", "opened", "not"}

    def status(self) -> dict[str, Any]:
        """Identity, place, height, machine status, chuck temperature, door, counters."""
        return {
            "identity": self.identity, "place": self.place, "height": self.height,
            "machine": self._again("status:get_machine_status"), "chuck_c": self.chuck_temperature_c(),
            "interlock": "closed" if self.door_closed() else "open", "contacts": self.contact_count(),
            "touchdowns": self.touchdowns, "exchanges": self.exchanges,
        }  # fmt: skip

    def close(self) -> None:
        """Let go; may be called twice. The chuck stays where it is: ``separate`` is the caller's, after its outputs."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _greet(self, ask: Ask) -> None:
        said = ask("status:get_version").strip().split(",", 2)
        if len(said) != 3 or said[0] != "0":
            raise HardwareError(f"{self.address}: {','.join(said)[:60]!r} answers, no SENTIO prober: check the address")
        self.identity = f"SENTIO {said[2].strip()}"

    def _step(self, command: str, wanted: Place | None = None) -> Place:
        if self.height != "separation":
            raise LimitError(f"{self.address}: chuck height is {self.height}: separate before a step")
        message = self._move(command)
        parts = message.split(",")
        try:
            place = (int(parts[0]), int(parts[1]), int(parts[2]))
        except (ValueError, IndexError) as exc:
            raise HardwareError(f"{self.address}: {message!r} is no place after {command!r}: check the wafer map") from exc
        # A step on some settings of the prober raises the chuck by itself; ours asked for none.
        self.height, self.place = "separation", place
        if wanted is not None and place != wanted:
            raise HardwareError(f"{self.address}: at {place} where {wanted} was asked for: check the wafer map")
        return place

    def _move(self, command: str) -> str:
        """A motion: until it is confirmed, the height is unknown."""
        self.height = "unknown"
        return self._ask(command, self.settings.move_timeout_s)

    def _ask(self, command: str, timeout_s: float | None = None) -> str:
        return self._message(command, self._link.query(command, timeout_s))

    def _again(self, question: str) -> str:
        """A question that changes nothing: asked a second time where the answer is lost."""
        try:
            said = self._link.query(question)
        except HardwareError:
            said = self._link.query(question)
        return self._message(question, said)

    def _message(self, command: str, said: str) -> str:
        """What an answer says; HardwareError for an error or no answer at all."""
        said = said.strip()
        head, _, rest = said.partition(",")
        _, comma, message = rest.partition(",")
        if not head.isdigit() or not comma:
            raise HardwareError(f"{self.address}: {said[:60]!r} is no answer to {command!r}: check the prober's release")
        error, flags = int(head) & 0x3FF, int(head) >> 10
        if error:
            raise HardwareError(f"{self.address}: {command!r} failed with error {error} ({message[:80]}): see to the prober")
        if command.startswith("map:step"):
            self.end_of_route = bool(flags & _END_OF_ROUTE)
        return message

    def _number(self, said: str) -> int:
        try:
            return int(said)
        except ValueError as exc:
            raise HardwareError(f"{self.address}: {said!r} is no number: check the prober's release") from exc

    def _pair(self, said: str) -> tuple[int, int]:
        column, _, row = said.partition(",")
        return self._number(column), self._number(row)
