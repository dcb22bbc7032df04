"""The twin ``board``: an emulated crossbar board that speaks the open crossbar protocol (docs/wire-protocol.md).

``hil twin board -s array.rows=32 -s array.cols=32 -s seed=1``. Its devices are those of an emulated board with the same
array settings, seed and name, and the same calls give the same numbers to the bit. It is strict: what does not fit the
protocol is refused and counted (``rejected.*``). A reboot makes a new nonce, forgets session and references, and keeps
the conductances.
"""

from __future__ import annotations

import threading

import numpy as np
import torch

from hil.backend import PulseShape
from hil.encoding import PulseTrain
from hil.wire_verbs import Shape, Update
from simulated_backend.array import EmulatedArray
from simulated_backend.twins.board_device import Board
from simulated_backend.twins.board_pace import ORDERS
from simulated_backend.twins.board_settings import BoardSettings
from simulated_backend.twins.board_trains import words_coincide, words_passes
from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel
from simulated_backend.twins.plugin import Twin
from simulated_backend.twins.running import RunningTwin
from simulated_backend.twins.wire import serve_link

__all__ = ["start", "twin", "warm"]


def start(settings: BoardSettings, stop: threading.Event) -> RunningTwin:
    """Serve a board until ``stop`` is set."""
    panel, clock = FaultPanel(settings.link.faults), DeviceClock(settings.link.time_scale)
    warm(settings)
    board = Board(settings, clock, panel)
    port = serve_link(settings.link, panel, clock, board, stop)
    return RunningTwin({"main": port}, panel, clock, ORDERS, board.truth)


def warm(settings: BoardSettings) -> None:
    """Run every verb once on a small array: what is compiled at its first use would be taken for a slow board."""
    array = EmulatedArray(settings.array, 2, 2)
    shape, mask = PulseShape(1.0, -1.0, 1e-6), torch.ones(1, 2, 2, dtype=torch.bool)
    array.pulse(mask.to(torch.int32), shape)
    array.trace(torch.ones(1, dtype=torch.int8), mask, shape)
    one = torch.ones(1, 1, 2, dtype=torch.int32)
    train = PulseTrain.given(one, one.to(torch.int8), torch.ones(1, 1, dtype=torch.int32))
    array.update(train, train, shape)
    array.read(mask)
    volts = torch.full((1, 1, 2), settings.array.periphery.read_v_max)
    array.mvm(volts, "forward")
    array.mvm(volts, "backward")
    words = np.ones((1, 2), dtype=np.uint32)
    body = Update(Shape(1.0, -1.0, 1e-6), np.ones(1, dtype=np.uint8), words, words).pack()
    request = Update.unpack(body, 2, 2)
    words_coincide(request.rows, request.cols)
    words_passes(request.rows, request.cols)


twin = Twin("board", "a crossbar board that speaks the open crossbar protocol", BoardSettings, start)
"""The entry point."""
