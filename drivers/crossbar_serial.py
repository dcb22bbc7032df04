"""A board that speaks the open crossbar protocol (docs/wire-protocol.md): serial port, USB-CDC or ``tcp://HOST:PORT``.

Requests are executed exactly once over a link that loses messages (``drivers.crossbar_session``); ``pulse`` and ``update``
are posted. The board is armed with the limits of the bench file and enforces them itself; without limits it is not
armed, and refuses to pulse. A heartbeat keeps its watchdog quiet while the host is busy elsewhere.

Unverified on hardware: everything but the protocol itself, which is tested against a twin. A board that resets when its
port is opened (DTR) reboots with every reconnection, which costs PulseOutcomeUnknown where pulses were unanswered.
"""

from __future__ import annotations

import getpass
import os
import socket
from contextlib import ExitStack
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from drivers.crossbar_backend import CrossbarBoard
from drivers.crossbar_contact import Patience
from drivers.links.byte_link import ByteLink
from drivers.links.twin import StartedTwin, TwinStart
from hil.plugins import Wanted

__all__ = ["CrossbarPlugin", "CrossbarSettings", "plugin"]


class CrossbarSettings(BaseModel):
    """``[boards.NAME.settings]`` of a board that speaks the open crossbar protocol."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    link: str | None = None
    """Device file or COM port, or ``tcp://HOST:PORT``; either this or ``twin``."""
    twin: TwinStart | None = None
    """A twin to start and to talk to."""
    baud: int = Field(default=2_000_000, ge=1)
    """Of a serial port; USB-CDC and TCP ignore it."""
    read_v: float = 0.2
    """Voltage that single cells are read with."""
    reply_timeout_s: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    """After what silence a request is sent again, beside the time that it takes."""
    patience_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """How long an unplugged or silent board is waited for."""
    host: str | None = None
    """What other hosts are told of who has the board; default: user, computer and process."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.link is None) == (self.twin is None):
            raise ValueError("give either link (an address) or twin")
        return self


class CrossbarPlugin:
    """Opens boards that speak the open crossbar protocol."""

    settings = CrossbarSettings

    def elastic(self, settings: CrossbarSettings) -> bool:
        """Never: a board has the size that it has."""
        return False

    def open(self, settings: CrossbarSettings, wanted: Wanted) -> CrossbarBoard:
        """Start the twin if one is asked for, find the board, get a session, arm it with the limits."""
        with ExitStack() as resources:
            address = settings.link
            if settings.twin is not None:
                twin = StartedTwin(settings.twin)
                resources.callback(twin.close)
                address = twin.links["main"]
            assert address is not None
            board = CrossbarBoard(
                ByteLink(address, settings.baud),
                wanted.name,
                settings.read_v,
                settings.host or f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}",
                wanted.limits,
                Patience(settings.reply_timeout_s, settings.patience_s),
                0.0 if address.startswith("tcp://") else 10 / settings.baud,
            )
            board.resources = resources.pop_all()
        return board


plugin = CrossbarPlugin()
"""The entry point."""
