"""The verbs that look at runs and benches, and what happens to them when something is amiss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hil.cli
from hil.bench import Bench
from hil.cli import main
from hil.errors import DataError
from hil.ledger import Ledger


@pytest.fixture
def runs(bench: Path) -> Path:
    """Three runs: one that is done, one whose file is no database, one without its start."""
    folder = bench.parent / "runs"
    with Ledger.create(folder, "train", {"bench": {"name": "lab"}}) as ledger:
        ledger.event("epoch", {"epoch": 1, "label": "", "accuracy": 0.987654321, "much": list(range(1000))})
        ledger.event("long", {"text": "x" * 1000})
        ledger.safe({"main": True})
    for name in ("0-broken", "1-empty"):
        (folder / name).mkdir()
        (folder / name / "run.sqlite").write_bytes(b"no database at all" * 100 if name == "0-broken" else b"")
    return folder


def test_runs_survives_damaged_ones(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--json"]) == 0
    broken, empty, good = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert (good["verb"], good["bench"], good["status"]) == ("train", "lab", "done")
    for row, name in ((broken, "0-broken"), (empty, "1-empty")):
        assert (row["id"], row["status"]) == (name, "damaged")
        assert "run.sqlite" in row["reason"]


def test_runs_survives_a_record_without_its_start(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hil.run_reader.RunReader._rows", lambda *given: [])
    (folder,) = (path for path in runs.iterdir() if "train" in path.name)
    with Ledger.open(folder) as run, pytest.raises(DataError, match="its start is not in the run record"):
        _ = run.start


def test_watch_is_short(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (path for path in runs.iterdir() if "train" in path.name)
    assert main(["watch", str(folder)]) == 0
    epoch, long, safe, end = capsys.readouterr().out.splitlines()
    assert epoch[8:] == " epoch epoch=1 accuracy=0.9877"
    assert len(long) == 100
    assert safe[8:] == " safe main=True"
    assert end == "ended: done"


def test_ctrl_c_in_watch_says_nothing_of_boards(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(hil.cli, "watch", stopped)
    assert main(["watch", str(runs), "--json"]) == 130
    said = capsys.readouterr()
    assert said.err == "error: stopped watching\n"
    assert json.loads(said.out) == {"error": "stopped watching", "exit": 130}


def test_check_prints_a_limit_a_line(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = {"up_v_max": 1.5, "down_v_max": 1.5, "width_s_max": 1e-5, "half_select_v_max": 1.0, "read_v_max": 0.3}
    table = "\n".join(f"{name} = {value}" for name, value in limits.items())
    bench.write_text(
        f"{bench.read_text()}\n[boards.main.limits]\n{table}\npulses_per_cell_max = 1000\npulses_per_operation_max = 99\n"
    )
    assert main(["check", str(bench)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, value in {**limits, "pulses_per_cell_max": 1000}.items():
        (line,) = (line for line in lines if f" {name} " in line)
        assert line.split("│")[2].strip() == str(value)


def test_check_connects_to_nothing_before_all_options_are_good(
    bench: Path, complain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(Bench, "_connect", lambda *given: opened.append("board"))
    code, line = complain("check", "emulated-board", "--procedure", "program", "-s", "program.row=3")
    assert code == 2
    assert "program.row: unknown key" in line
    assert opened == []


@pytest.fixture
def small(bench: Path) -> list[str]:
    return ["program", str(bench), "-s", "program.rows=2", "-s", "program.cols=2", "--json"]


def test_a_report_that_fails_leaves_the_run_done(
    small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*given: Any) -> Any:
        raise ZeroDivisionError("a figure\nwithout data")

    monkeypatch.setattr("hil.execute.write_report", fails)
    assert main(small) == 0
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("warning: no report, `hil report ")
    assert line.endswith("ZeroDivisionError: a figure without data")
    found = json.loads(said.out.splitlines()[-1])
    assert found["status"] == "done"
    assert found["safe"] is True
    assert found["safe_by_board"] == {"probe.c": True}
    assert "warning: " + found["warning"] == line


def test_a_report_without_the_plotting_extra_says_what_to_install(
    small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], complain: Any
) -> None:
    monkeypatch.setattr("hil.report.html.importlib.util.find_spec", lambda name: None)
    assert main(small) == 0
    said = capsys.readouterr()
    assert 'pip install "crosspoint-hil[plot]"' in said.err
    folder = json.loads(said.out.splitlines()[-1])["folder"]
    code, line = complain("report", folder)
    assert code == 2
    assert 'pip install "crosspoint-hil[plot]"' in line
