"""The suite of the harness on the lab's board, and the lab's own procedure; also on any other bench, by --bench."""

from breadboard import mean_conductance

from hil.testing.conformance import *  # noqa: F403


def test_mean_conductance(bench, ledger):
    mean = mean_conductance(bench, ledger)
    nominal = bench.config.nominal
    assert nominal.g_min_siemens < mean < nominal.g_max_siemens
    assert ledger.run.results()["mean conductance"].value == mean


def test_every_site_has_a_board(station):
    for site in station.sites():
        with station.contact(site) as bench:
            mean_conductance(bench, bench.ledger)
    assert station.safe()
