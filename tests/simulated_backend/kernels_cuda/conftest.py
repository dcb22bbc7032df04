"""Triton's kernels on a GPU where there is one, else in Triton's interpreter, which tests/conftest.py has asked for."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
