"""A verdict: every cell is judged by a hand-made characterization, alpha goes with the scale, bad input is one sentence."""

from __future__ import annotations

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from hil.backend import PulseShape
from hil.bench import open_bench
from hil.calibration import Calibration
from hil.config import load_bench
from hil.errors import DataError, UsageError
from hil.ledger import Ledger
from hil.report.html import write_report
from hil.station import OneSite
from procedures.judging import REASONS, Cells, depth, judge
from procedures.specification import Range, Specification, SpecPoint
from procedures.verdict import VerdictConfig, headline, verdict
from procedures.verdict_report import verdict_sections

BENCH = ["boards.main.settings.rows=2", "boards.main.settings.cols=4"]
SCALE = 50e-6


def specification(**changes):
    data = {
        "network": "digits 64-32-10 tanh", "digital_accuracy": 0.97, "digital_error": 0.002,
        "deltas": (
            Range(delta=0.005, confidence=0.95),
            Range(delta=0.02, confidence=0.95, alpha_a=(0.1, 3.0), alpha_c=(0.05, 1.5)),
        ),
        "alpha_a": (0.01, 1.0, 10.0), "alpha_c": (0.01, 1.0, 10.0),
        "accuracy": ((0.90, 0.92, 0.5), (0.94, 0.96, 0.6), (0.8, 0.7, 0.3)), "error": ((0.01,) * 3,) * 3,
        "points": (SpecPoint(alpha_a=1.0, alpha_c=1.0, accuracy=0.96, error=0.01, hyper={"lr_a": 0.02}),),
    }  # fmt: skip
    return Specification(**(data | changes))


@pytest.fixture
def spec(tmp_path):
    return specification().save(tmp_path / "spec.toml")


def calibration(serial, alpha, states=100.0, responds=True, no_sp=False, shape=None):
    """Cells with this alpha at SCALE; everything broadcasts to [1 2 4]."""

    def field(value, dtype=torch.float32):
        return torch.as_tensor(np.broadcast_to(value, (1, 2, 4)).copy()).to(dtype)

    named = {
        name: field(1e-6)
        for name in Calibration.__dataclass_fields__
        if Calibration.__dataclass_fields__[name].type == "Tensor"
    }
    named |= {"asymmetry": field(np.asarray(alpha) / (0.6 * SCALE)), "states": field(states)}
    named |= {"responds": field(responds, torch.bool), "no_sp": field(no_sp, torch.bool)}
    return Calibration(
        serial=serial,
        shape=shape or PulseShape(1.0, -1.0, 1e-6),
        siemens_per_weight=SCALE,
        procedure="characterize",
        **named,
    )


class Judged:
    """A bench of one emulated board with a calibration in its store; verdict(**options) judges it."""

    def __init__(self, folder, spec, **cells):
        self.folder, self.spec = folder, spec
        self.config = load_bench("emulated-board", BENCH)
        with self.open() as bench:
            serial = bench.surfaces()[0].backend.info.serial
            bench.calibrations.save(calibration(serial, **cells))

    @contextmanager
    def open(self, site=None):
        with open_bench(self.config, self.folder / "state") as bench:
            yield bench

    def verdict(self, **options):
        with Ledger.create(self.folder, "verdict", {}) as ledger:
            result = verdict(OneSite(self.open), VerdictConfig(specification=self.spec, **options), ledger)
        self.run = ledger.folder
        return result


ALPHA = np.array([[[1.0, 0.5, 2.0, 0.05], [4.0, 1.0, 1.0, 1.0]]])


def test_every_cell_passes_or_says_why(tmp_path, spec):
    responds = np.ones((1, 2, 4), dtype=bool)
    responds[0, 1, 3] = False
    no_sp = np.zeros((1, 2, 4), dtype=bool)
    no_sp[0, 1, 2] = True
    states = np.full((1, 2, 4), 100.0)
    states[0, 1, 1] = 5
    bench = Judged(tmp_path, spec, alpha=ALPHA, states=states, responds=responds, no_sp=no_sp)
    result = bench.verdict()
    a, c = result.roles
    assert (a.low, a.high, c.low, c.high) == (0.1, 3.0, 0.05, 1.5)
    why = dict(zip(REASONS, a.counts, strict=True))
    assert why == {
        "pass": 3, "no response": 1, "no symmetry point": 1, "alpha too low": 1, "alpha too high": 1, "too few states": 1,
        "excluded in the bench file": 0,
    }  # fmt: skip
    # As C 2.0 is too much and 0.05, the end of the range but for rounding to float32, is not judged here.
    assert c.counts[REASONS.index("alpha too high")] == 2
    assert not result.passed
    assert a.cell_yield == 3 / 8
    assert result.hyper == {"lr_a": 0.02}
    assert len(headline(result).rows) == 2
    with Ledger.open(bench.run) as run:
        (section,) = verdict_sections(run)
        assert section.title == "Verdict: fail"
        assert "50 µS per weight" in section.text.replace("\N{NO-BREAK SPACE}", " ").replace(
            "\N{NARROW NO-BREAK SPACE}", " "
        )
        assert write_report(run, [section]).exists()


def test_alpha_goes_with_the_scale_and_so_does_the_accuracy(tmp_path, spec):
    bench = Judged(tmp_path, spec, alpha=1.0)
    result = bench.verdict()
    assert result.passed
    assert result.expected == pytest.approx(0.96, abs=1e-4)
    assert result.error == pytest.approx(0.01)
    # Ten times the scale is ten times the asymmetry: outside both ranges, at the corner of the map.
    steeper = bench.verdict(siemens_per_weight=9.99 * SCALE)
    assert steeper.roles[0].alpha[1] == pytest.approx(9.99, rel=1e-5)
    assert steeper.roles[0].counts[REASONS.index("alpha too high")] == 8
    assert steeper.expected == pytest.approx(0.3, abs=0.01)
    assert math.isnan(bench.verdict(siemens_per_weight=20 * SCALE).expected)


def test_excluded_cells_count_neither_way(tmp_path, spec):
    cells = Cells(
        np.ones(4), np.full(4, 100.0), np.array([True, True, False, False]), np.zeros(4, bool), np.array([0, 0, 0, 1], bool)
    )
    assert judge(cells, 0.1, 3.0, 20).tolist() == [0, 0, 1, 6]


def test_depth_is_what_most_responding_cells_reach():
    alpha = np.append(np.full(90, 1.0), np.full(10, 0.01))
    flags = np.ones(100, bool), np.zeros(100, bool), np.zeros(100, bool)
    assert depth(Cells(alpha, alpha, *flags), 0.1, 10.0) == pytest.approx(1.0)
    assert depth(Cells(alpha, alpha, *flags), 0.1, 2.0) == pytest.approx(math.log10(2.0))
    assert depth(Cells(alpha, alpha, *flags), 2.0, 10.0) == pytest.approx(-math.log10(2.0), abs=2)
    none = np.ones(100, bool), np.ones(100, bool), np.zeros(100, bool)
    assert depth(Cells(alpha, alpha, *none), 0.1, 10.0) == -math.inf


def test_a_wafer_is_judged_die_by_die(tmp_path, spec):
    config = load_bench("emulated-board", BENCH)
    record = {"bench": config.model_dump(mode="json", exclude_unset=True)}
    with Ledger.create(tmp_path, "wafer", record) as ledger:
        for die, alpha in (((0, 0), 1.0), ((1, 0), 5.0)):
            made = calibration("x", alpha)
            arrays = {name: getattr(made, name) for name in ("asymmetry", "states", "responds", "no_sp")}
            site = f"die{die[0]:+d}{die[1]:+d}.site0"
            silent = [{"array": 0, "row": 0, "col": 0, "reason": "excluded in the bench file: neither pulsed nor read"}]
            ledger.event("characterized", {"surface": f"board main@{site}", "role": "a+c", "silent": silent}, arrays)
            ledger.event("site", {"site": site, "die": list(die), "fault": ""})
        ledger.event("site", {"site": "die+0+1.site0", "die": [0, 1], "fault": "no contact"})
    with Ledger.create(tmp_path, "verdict", {}) as judged:
        result = verdict(OneSite(None), VerdictConfig(specification=spec, run=ledger.folder), judged)
    assert result.not_measured == 1
    assert [one.cell_yield for one in result.roles] == [0.5, 0.5]
    assert result.roles[0].judged == 14
    with Ledger.open(judged.folder) as run:
        (section,) = verdict_sections(run)
        assert [row[1] for row in section.tables[2].rows] == ["100.0", "0.0", "–"]
        assert section.figures[1].name == "verdict-wafer"
        assert write_report(run, [section]).exists()


def test_bad_input_is_one_clear_sentence(tmp_path, spec):
    bench = Judged(tmp_path, spec, alpha=1.0, no_sp=True)
    with pytest.raises(DataError, match=r"no responding cell has a symmetry point: characterize with more pulses"):
        bench.verdict()
    with pytest.raises(DataError, match=r"is of network 'digits 64-32-10 tanh', not of 'mnist'"):
        bench.verdict(network="mnist")
    with pytest.raises(DataError, match=r"no asymmetry stays within a loss of 0.005: allow a larger delta"):
        bench.verdict(delta=0.005)
    with pytest.raises(DataError, match=r"no range for a loss of 0.3: one of 0.005, 0.02"):
        bench.verdict(delta=0.3)
    text = spec.read_text()
    spec.write_text(text.replace("accuracy = [[0.9, 0.92, 0.5], [0.94, 0.96, 0.6], [0.8, 0.7, 0.3]]",
                                 "accuracy = [[nan, nan, nan], [nan, nan, nan], [nan, nan, nan]]"))  # fmt: skip
    with pytest.raises(DataError, match=r"accuracy: the map is empty"):
        bench.verdict()
    spec.write_text(text)
    dead = Judged(tmp_path / "dead", spec, alpha=1.0, responds=False)
    with pytest.raises(DataError, match=r"no cell responds to pulses: nothing can be judged"):
        dead.verdict()
    with (
        pytest.raises(DataError, match=r"characterized nothing: give a run of `hil characterize`"),
        Ledger.create(tmp_path, "verdict", {}) as ledger,
    ):
        verdict(OneSite(None), VerdictConfig(specification=spec, run=ledger.folder), ledger)


def test_devices_that_nobody_characterized_are_not_judged(tmp_path, spec):
    bench = Judged(tmp_path, spec, alpha=1.0)
    for file in (tmp_path / "state" / "calibrations").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match=r"was never characterized under its pulse: run `hil characterize`"):
        bench.verdict()
