"""What is resumed is the run as it began; only its limits are those of today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hil.execute
from hil.cli import main
from hil.errors import HardwareError
from hil.execute import plan
from hil.ledger import Ledger

LIMITS = """
[boards.main.limits]
up_v_max = 1.2
down_v_max = 1.2
width_s_max = 1e-5
half_select_v_max = 0.6
read_v_max = 0.3
pulses_per_cell_max = 1000000
pulses_per_operation_max = 9999
"""
CHANGES = ("program.rows=2", "program.cols=2", "seed=3")


@pytest.fixture
def dead(bench: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of ``program`` that ended at once, on a bench with limits."""
    monkeypatch.setattr(hil.execute, "make_report", lambda folder: folder / "report.html")
    bench.write_text(bench.read_text() + LIMITS)
    return die("mine.toml")


def die(bench: str) -> Path:
    todo = plan("program", bench, CHANGES, Path("runs"))
    with pytest.raises(HardwareError), Ledger.create(todo.runs, "program", todo.record) as ledger:
        raise HardwareError("no answer")
    return ledger.folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], ["is a run of program, not of train", "hil program --resume"]),
        (["program", "emulated"], ["mine.toml, not on emulated", "leave it out"]),
        (["program", "other.toml"], ["not on other.toml"]),
        (["program", "mine.toml", "-s", "program.rows=3"], ["-s program.rows=3", "began with -s program.rows=2"]),
        (["program", "-s", "seed=3"], ["leave it out"]),
    ],
)  # fmt: skip
def test_another_verb_bench_or_option_is_refused(arguments: list[str], words: list[str], dead: Path, complain: Any) -> None:
    code, line = complain(*arguments, "--resume", str(dead))
    assert code == 2
    for word in words:
        assert word in line
    with Ledger.open(dead) as run:
        assert list(run.events("resume")) == []


@pytest.mark.slow
@pytest.mark.parametrize("given", [[], ["mine.toml", "-s", CHANGES[0], "-s", CHANGES[1], "-s", CHANGES[2]]])
def test_the_same_words_are_no_change(given: list[str], dead: Path) -> None:
    assert main(["program", *given, "--resume", str(dead)]) == 0
    with Ledger.open(dead) as run:
        assert run.status == "done"
        (event,) = run.events("limits")
        assert event.payload["from"] == str(Path("mine.toml").resolve())


def test_a_limit_that_was_tightened_since_binds(dead: Path, bench: Path, complain: Any) -> None:
    bench.write_text(bench.read_text().replace("up_v_max = 1.2", "up_v_max = 0.9"))
    code, line = complain("program", "--resume", str(dead))
    assert code == 3
    assert "up_v = 1 exceeds limits.up_v_max = 0.9" in line
    with Ledger.open(dead) as run:
        (event,) = run.events("limits")
        assert event.payload["boards"]["main"]["up_v_max"] == 0.9


def test_a_board_that_is_gone_from_the_file_has_no_limits_to_bind(dead: Path, bench: Path, complain: Any) -> None:
    bench.write_text(bench.read_text().replace("[boards.main", "[boards.other").replace('"main"', '"other"'))
    code, line = complain("program", "--resume", str(dead))
    assert code == 2
    assert "has no boards.main any more" in line


@pytest.mark.slow
@pytest.mark.parametrize("gone", [True, False])
def test_recorded_limits_serve_where_the_file_is_gone_or_shipped(gone: bool, dead: Path, bench: Path) -> None:
    bench.unlink()
    folder = dead if gone else die("emulated")
    assert main(["program", "--resume", str(folder)]) == 0
    with Ledger.open(folder) as run:
        (event,) = run.events("limits")
        assert event.payload["from"].startswith("the run record: ")
        limits = event.payload["boards"]["main"]
        assert limits["up_v_max"] == 1.2 if gone else limits is None
