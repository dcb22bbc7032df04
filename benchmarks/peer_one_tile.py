"""Run one of the peer's scripts, in the peer's interpreter, with every layer on one tile: python peer_one_tile.py SCRIPT ...

By default the peer cuts layers of more than 512 lines into tiles, each of which transfers a line of its own at every
transfer: 784 inputs would be transferred twice as fast as ours, and the two would not do the same training.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from aihwkit.simulator.parameters.mapping import MappingParameter

made = MappingParameter.__init__


def whole(self: Any, *args: Any, **given: Any) -> None:
    made(self, *args, **({"max_input_size": 0, "max_output_size": 0} | given))


MappingParameter.__init__ = whole
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
