"""The suite passes on a sound board that wears, and finds each of the faults that a board can be given.

The smallest errors that it must find: a gain of 5 %, one pulse in 100 lost or doubled on a board that counts, noise of
three times what is stated, 1 % outside a limit.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hil.testing import conformance
from hil.testing.targets import targets

pytestmark = pytest.mark.slow


def _module() -> ModuleType:
    name = "faulty_boards"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("faulty.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


faulty: Any = _module()


@pytest.mark.parametrize("counted", [True, False])
def test_a_sound_board_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: bool) -> None:
    with faulty.put(tmp_path, monkeypatch, counted=counted) as made:
        found = {name: faulty.outcome(made, getattr(conformance, name)) for name in conformance.__all__}
    assert {name: what for name, what in found.items() if what != "passed"} == {}


@pytest.mark.parametrize(("fault", "check"), faulty.FAULTS.items())
def test_a_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, check: str) -> None:
    with faulty.put(tmp_path, monkeypatch, fault) as made:
        found = faulty.outcome(made, getattr(conformance, check))
    assert found not in ("passed", "skipped"), f"{fault} got through {check}"


@pytest.mark.parametrize("fault", ["transposed mask", "polarity", "update twice", "unsigned update", "active ignored"])
def test_gross_faults_are_found_where_the_board_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    with faulty.put(tmp_path, monkeypatch, fault, counted=False) as made:
        found = faulty.outcome(made, getattr(conformance, faulty.FAULTS[fault]))
    assert found.startswith("AssertionError"), f"{fault}: {found}"


def test_a_check_that_needs_more_pulses_than_allowed_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty.put(tmp_path, monkeypatch) as made:
        made.budget = 100
        assert faulty.outcome(made, conformance.test_alternating_pulses_find_the_symmetry_point) == "skipped"
        assert made.opened.spent()["main"].max() == 0


def test_checks_account_for_their_pulses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty.put(tmp_path, monkeypatch) as made:
        before = made.opened.spent().get("main", 0)
        for name in ("test_a_trace_is_pulses_and_reads", "test_update_gives_every_cell_its_coincidences"):
            assert faulty.outcome(made, getattr(conformance, name)) == "passed"
            after = made.opened.spent()["main"]
            assert made.block.spent == (after - before).max() > 0
            before = after


def test_benches_are_named_in_several_ways() -> None:
    found = targets(["emulated-board,emulated", "nowhere.toml"], ("emulated-skewed",))
    assert [target.bench for target in found] == ["emulated-board", "emulated", "nowhere.toml"]
    assert [target.boards for target in found] == [["main"], ["main"], ["?"]]
    assert all(target.named and not target.hardware for target in found)
    assert found[2].problem.startswith("nowhere.toml: no such bench file")
    (unnamed,) = targets([], ("emulated-skewed",))
    assert not unnamed.named
