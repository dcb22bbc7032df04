"""Who trains on symmetry points that nobody measured is told commands that work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import hil.execute
from hil.cli import main

OPTIONS = ("train.pool=4", "train.classes=[0,1]", "train.hidden=[]", "train.limit=4", "train.epochs=1", "seed=3")
CHEAP = {
    "characterize": ("characterize.cycles=2", "characterize.branch_pulses=100", "characterize.alternating_pulses=400"),
    "zero-shift": ("zero_shift.max_pulses=400",),
}


def switches(changes: tuple[str, ...]) -> list[str]:
    return [part for change in changes for part in ("-s", change)]


@pytest.mark.slow
@pytest.mark.parametrize("given", ["mine.toml", "emulated"])
def test_the_commands_in_the_message_are_the_remedy(
    given: str, bench: Path, complain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hil.execute, "make_report", lambda folder: folder / "report.html")
    train = ["train", given, *switches(OPTIONS), "--runs", "elsewhere"]
    code, line = complain(*train)
    assert code == 2
    assert str(Path("elsewhere/state/emulated" if given == "emulated" else "mine.state")) in line
    assert "-s train.reference_a=mid -s train.reference_c=mid" in line
    commands = [shlex.split(command) for command in re.findall(r"`hil (.+?)`", line)]
    assert [verb for verb, *_ in commands] == ["characterize", "zero-shift"]
    for command in commands:
        assert main([*command, *switches(CHEAP[command[0]])]) == 0
    assert main(train) == 0


@pytest.mark.slow
def test_a_population_has_devices_that_only_its_own_run_can_measure(bench: Path, complain: Any) -> None:
    code, line = complain("train", str(bench), *switches((*OPTIONS, "train.seeds=2")))
    assert code == 2
    assert "`" not in line
    assert "-s train.prepare=measure" in line
