"""The conformance suite on the emulated board and, over their real wires, on the four set-ups that twins play.

With ``--bench FILE`` (a board of one's own) it runs there instead.
"""

from __future__ import annotations

import pytest

from hil.testing.conformance import *  # noqa: F403

pytestmark = [
    pytest.mark.slow,
    pytest.mark.bench("emulated-board", "twin-board", "twin-arc-one", "twin-arc-two", "twin-probe-station"),
]
