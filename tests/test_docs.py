"""Everything shown in the docs is run: Python and shell blocks, bench files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hil.cli import main
from hil.config import BenchConfig, load_bench

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(kind, text, id=f"{page.name}-{number}-{kind}")
    for page in PAGES
    for number, (kind, text) in enumerate(re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.M | re.S))
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "text"), BLOCKS)
def test_block_runs(kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "python":
        exec(compile(text, "docs", "exec"), {"__name__": "docs"})
    elif kind == "toml":
        (tmp_path / "bench.toml").write_text(text)
        assert isinstance(load_bench("bench.toml"), BenchConfig)
    else:
        assert kind == "bash"
        for line in text.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "hil"
            if arguments[0] == "train" and not any("limit" in a for a in arguments):
                arguments += ["-s", "train.limit=60", "-s", "train.epochs=1"]
            assert main(arguments) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
