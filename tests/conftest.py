"""What every test runs under: one torch thread, deterministic algorithms, repeatable examples, boards only on request."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("repeatable")
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--board", metavar="ADDRESS", default=None, help="also run the tests that touch the board at ADDRESS")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--board") is None:
        skip = pytest.mark.skip(reason="touches a board: give --board ADDRESS")
        for item in items:
            if item.get_closest_marker("board") is not None:
                item.add_marker(skip)
