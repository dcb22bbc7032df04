"""A wafer: every site is measured or named, a resumed run leaves out what is done, the report has the maps."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from hil.bench import open_bench
from hil.config import load_bench
from hil.errors import HardwareError, UsageError
from hil.ledger import Ledger
from hil.report.html import write_report
from hil.station import Site
from procedures.wafer import WaferConfig, headline, wafer
from procedures.wafer_report import wafer_sections

BENCH = [
    "boards.main.settings.rows=2",
    "boards.main.settings.cols=3",
    "boards.main.settings.device.dw_min=0.02",
    "nominal.states=60",
]
QUICK = {"cycles": 2, "branch_reads": 20, "idle_reads": 3}


class Shelf:
    """Dies of emulated cells in a 3 x 2 map without its corner; some have no contact."""

    def __init__(self, state, ledger, without_contact=()):
        self.state, self.ledger, self.without_contact = state, ledger, without_contact
        self.config = load_bench("emulated-board", BENCH)
        self.contacts = []

    def sites(self):
        return [Site((col, row)) for row in (-1, 0) for col in (0, 1, 2) if (col, row) != (2, 0)]

    @contextmanager
    def contact(self, site):
        self.contacts.append(site.die)
        if site.die in self.without_contact:
            raise HardwareError(f"{site.name}: no contact: all cells read open")
        with open_bench(self.config, self.state, self.ledger, site=site.name) as bench:
            yield bench

    def status(self):
        return {"touchdowns": len(self.contacts)}

    def safe(self):
        return True

    def close(self):
        pass


@pytest.fixture
def config():
    return WaferConfig(characterize=QUICK)


@pytest.mark.slow
def test_every_site_is_measured_or_named(tmp_path, config):
    with Ledger.create(tmp_path, "wafer", {}) as ledger:
        station = Shelf(tmp_path / "state", ledger, without_contact=[(1, 0)])
        result = wafer(station, config, ledger)
        assert station.contacts == [(0, -1), (1, -1), (2, -1), (0, 0), (1, 0)]
        faults = {found.site.die: found.fault for found in result.sites if found.fault}
        assert faults == {(1, 0): "die+1+0.site0: no contact: all cells read open"}
        measured = [found for found in result.sites if not found.fault]
        assert [found.cells for found in measured] == [6] * 4
        # Other dies are other devices.
        assert len({dict(found.medians)["alpha"] for found in measured}) == 4
        assert len(headline(result).rows) == 5
    with Ledger.open(ledger.folder) as run:
        assert {event.payload["surface"] for event in run.events("characterized")} == {
            f"board main@{found.site.name}" for found in measured
        }
        (section,) = wafer_sections(run)
        assert section.tables[0].rows == (("die+1+0.site0", "not measured: no contact: all cells read open"),)
        assert [row[1] for row in section.tables[1].rows] == ["6 of 6"] * 4 + ["not measured"]
        assert write_report(run, [section]).exists()


@pytest.mark.slow
def test_a_resumed_wafer_leaves_out_what_is_done(tmp_path, config):
    class Unplugged(Exception):
        pass

    class Cut(Shelf):
        @contextmanager
        def contact(self, site):
            if len(self.contacts) == 2:
                raise Unplugged
            with super().contact(site) as bench:
                yield bench

    with pytest.raises(Unplugged), Ledger.create(tmp_path, "wafer", {}) as ledger:
        wafer(Cut(tmp_path / "state", ledger), config, ledger)
    with Ledger.resume(ledger.folder) as ledger:
        station = Shelf(tmp_path / "state", ledger)
        result = wafer(station, config, ledger)
        assert station.contacts == [(2, -1), (0, 0), (1, 0)]
        assert [found.site.die for found in result.sites] == [site.die for site in station.sites()]
        assert all(np.isfinite(dict(found.medians)["states"]) for found in result.sites)


def test_probes_off_the_wafer_stop_the_run(tmp_path):
    with Ledger.create(tmp_path, "wafer", {}) as ledger:
        station = Shelf(tmp_path / "state", ledger, without_contact=[site.die for site in Shelf(tmp_path, None).sites()])
        with pytest.raises(HardwareError, match=r"^3 sites in a row without a measurement, the last: die"):
            wafer(station, WaferConfig(faults_in_a_row=3), ledger)
        assert len(station.contacts) == 3


def test_a_die_off_the_map_is_refused(tmp_path):
    with Ledger.create(tmp_path, "wafer", {}) as ledger:
        station = Shelf(tmp_path / "state", ledger)
        with pytest.raises(UsageError, match=r"^wafer.dies: \(7, 7\) is not on the map: leave it out"):
            wafer(station, WaferConfig(dies=((7, 7),)), ledger)
