"""The same training on a board over its wire and on the emulator configured as that board: identical to the bit."""

from __future__ import annotations

import pytest
import torch

from hil.bench import open_bench
from hil.config import load_bench
from hil.ledger import Ledger
from hil.plugins import find

AS_THE_BOARD = ["boards.main.settings.rows=32", "boards.main.settings.cols=32"]
OPTIONS = {
    "classes": (3, 8), "pool": 2, "hidden": (12,), "reference_a": "nominal", "reference_c": "nominal", "epochs": 1,
    "limit": 15,
}  # fmt: skip


def trained(folder, bench, changes, algorithm):
    """(test accuracy, pulses per matrix and cell, conductances of the board) after a short training."""
    procedure = find("hil.procedures", "train")
    config = load_bench(bench, changes)
    with (
        Ledger.create(folder, "train", None) as ledger,
        open_bench(config, folder / f"state-{bench}", ledger) as opened,
    ):
        result = procedure.run(opened, procedure.config(algorithm=algorithm, **OPTIONS), ledger)
        everywhere = torch.ones(1, 32, 32, dtype=torch.bool)
        return result, opened.pulses(), opened.read_cells("main", everywhere)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["tiki-taka", "sgd"])
def test_the_wire_changes_nothing(tmp_path, algorithm):
    emulated, pulses, g = trained(tmp_path, "emulated-board", AS_THE_BOARD, algorithm)
    on_board, board_pulses, board_g = trained(tmp_path, "twin-board", [], algorithm)
    torch.testing.assert_close(on_board.test_accuracy, emulated.test_accuracy, rtol=0, atol=0)
    assert pulses.keys() == board_pulses.keys()
    for name, count in pulses.items():
        assert count.sum() > 0
        torch.testing.assert_close(board_pulses[name], count, rtol=0, atol=0)
    torch.testing.assert_close(board_g, g, rtol=0, atol=0)
