"""A package of another lab: its board is found by its entry point, and tested by the suite that we ship."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "data" / "third_party"
pytestmark = pytest.mark.slow


def installed(folder: Path) -> Path:
    """The package in ``folder``, with the metadata that an installer would write: its name and entry points."""
    package = shutil.copytree(SOURCE, folder / "breadboard", ignore=shutil.ignore_patterns("__pycache__"))
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    made = package / f"{project['name']}-{project['version']}.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    (made / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return package


def run_its_tests(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *arguments],
        cwd=package,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_its_board_and_its_procedure_on_its_bench_and_on_the_emulator(tmp_path: Path) -> None:
    package = installed(tmp_path)
    done = run_its_tests(package, "--bench", "breadboard.toml", "--bench", "emulated-board", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    for bench in ("breadboard", "emulated-board"):
        # Functions that were imported count as tests of its own file.
        assert f"test_breadboard.py::test_mean_conductance[{bench}] PASSED" in done.stdout
        assert f"test_breadboard.py::test_every_site_has_a_board[{bench}] PASSED" in done.stdout
        assert f"test_breadboard.py::test_a_product_is_linear[{bench}:main-forward] PASSED" in done.stdout
        assert f"test_breadboard.py::test_pulses_are_counted_one_by_one[{bench}:main] PASSED" in done.stdout
    assert "errors that a check would catch" in done.stdout


STRICT = """
import pytest, torch

pytestmark = pytest.mark.bench("emulated-board")

def give(block, pulses):
    block.backend.pulse(block.on_board(torch.full(block.size, pulses, dtype=torch.int32)), block.shape)

@pytest.mark.bench("breadboard.toml", "nowhere.toml")
def test_elsewhere(bench): pass

def test_within(block): give(block, 50)

def test_too_much(block): give(block, 51)

def test_says_before(block): block.need(51)

def test_both(bench, station): pass
"""


def test_what_the_plugin_refuses(tmp_path: Path) -> None:
    """Hardware that nobody named, benches that are not there, tests that spend too much, a board opened twice."""
    package = installed(tmp_path)
    (package / "test_breadboard.py").write_text(STRICT)
    done = run_its_tests(package, "--hil-pulses", "50", "-v")
    said = done.stdout + done.stderr
    assert "2 passed, 2 skipped, 3 errors" in said, said
    assert "breadboard.toml may be hardware: name it, --bench breadboard.toml" in said
    assert "nowhere.toml: no such bench file: give a TOML file or one of emulated" in said
    assert "test_breadboard.py::test_within[emulated-board:main] PASSED" in said
    assert "gave a cell 51 pulses: --hil-pulses allows 50" in said
    assert "needs 51 pulses on a cell, --hil-pulses allows 50" in said
    assert "takes bench and station: a board is opened once, take the bench from a contact" in said
