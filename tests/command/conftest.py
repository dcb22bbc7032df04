"""A bench file in an empty folder, and the one line that bad input gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hil.cli import main
from hil.config import shipped_benches

Complaint = Callable[..., tuple[int, str]]
"""Exit code and the one line on stderr, of ``hil ARGUMENT...``."""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped emulated bench in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(shipped_benches()["emulated"].read_text())
    return path


@pytest.fixture
def complain(capsys: pytest.CaptureFixture[str]) -> Complaint:
    def said(*argv: str) -> tuple[int, str]:
        code = main([*argv])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return code, lines[0]

    return said
