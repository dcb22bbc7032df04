"""The report's part on devices, made from the record of the procedures alone."""

from __future__ import annotations

import pytest

from hil.bench import open_bench
from hil.config import load_bench
from hil.ledger import Ledger
from hil.report.html import write_report
from procedures.characterize import CharacterizeConfig, characterize
from procedures.device_report import characterize_sections, zero_shift_sections
from procedures.zero_shift import ZeroShiftConfig, zero_shift

SIZE = (6, 5)


def measured(folder, *changes):
    """A record of both procedures on one small matrix per role."""
    config = load_bench("emulated", [f"boards.main.settings.device.{change}" for change in changes])
    with Ledger.create(folder, "characterize", {}) as ledger, open_bench(config, folder) as bench:
        characterize(bench, CharacterizeConfig(size=SIZE, branch_pulses=200, alternating_pulses=200), ledger)
        zero_shift(bench, ZeroShiftConfig(size=SIZE, max_pulses=200, segment_pairs=20), ledger)
    return ledger.folder


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0.0, 0.3, 1.0])
def test_every_cell_is_accounted_for_and_figures_are_drawn(tmp_path, dead):
    folder = measured(tmp_path, "dw_min=0.02", f"dead={dead}")
    with Ledger.open(folder) as run:
        devices, points = characterize_sections(run), zero_shift_sections(run)
        assert [section.title for section in devices] == ["Devices of probe.a", "Devices of probe.c"]
        assert [section.title for section in points] == ["Symmetry points of probe.a", "Symmetry points of probe.c"]
        for section, shift in zip(devices, points, strict=True):
            outcome = {name: int(count) for name, count in shift.tables[0].rows}
            assert sum(outcome.values()) == 30
            silent = [table for table in section.tables if table.caption.startswith("Cells that do not respond")]
            assert sum(len(table.rows) for table in silent) == outcome["no response"]
            assert (outcome["no response"] == 30) == (dead == 1.0)
            traced = {figure.name for figure in (*section.figures, *shift.figures)}
            assert ("probe.a-traces" in traced or "probe.c-traces" in traced) == (dead < 1.0)
            for table in (*section.tables, *shift.tables):
                assert all(len(row) == len(table.header) for row in table.rows)
        text = write_report(run, [*devices, *points]).read_text(encoding="utf-8")
    assert text.count("<figure") == sum(len(section.figures) for section in (*devices, *points))


def test_a_run_that_measured_nothing(tmp_path):
    with Ledger.create(tmp_path, "characterize", {}) as ledger:
        assert characterize_sections(ledger.run) == zero_shift_sections(ledger.run) == []
