"""Stations: the default one is the bench itself, in contact for ever; plugins are found by name."""

from __future__ import annotations

import pytest

from hil.bench import open_bench
from hil.config import load_bench
from hil.errors import UsageError
from hil.plugins import find, names
from hil.station import Site, one_site


def test_one_site_is_the_bench_itself(tmp_path):
    station = one_site.open(one_site.settings(), lambda site: open_bench(load_bench("emulated"), tmp_path))
    assert station.sites() == [Site((0, 0))]
    with station.contact(Site((0, 0))) as bench:
        assert bench.name == "emulated"
    assert station.status() == {"contacts": 1}
    assert station.safe()
    with (
        pytest.raises(UsageError, match=r"^die\+1\+0\.site0: this bench has one site, die \(0, 0\): leave"),
        station.contact(Site((1, 0))),
    ):
        pass


def test_plugins_are_found_by_name():
    assert "emulated" in names("hil.backends")
    assert find("hil.stations", "bench") is one_site
    with pytest.raises(UsageError, match=r"^stations: nothing called 'x' is installed: one of bench"):
        find("hil.stations", "x")
