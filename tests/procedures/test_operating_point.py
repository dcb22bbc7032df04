"""Pulse shapes: alpha follows the emulated devices' own law, the deepest shape is chosen, the forbidden is never sent."""

from __future__ import annotations

import math
import tomllib
from contextlib import contextmanager

import pytest

from hil.bench import open_bench
from hil.config import RoleConfig, load_bench
from hil.errors import DataError, LimitError, UsageError
from hil.ledger import Ledger
from hil.report.html import write_report
from hil.station import Site, open_station
from procedures.characterize import characterize
from procedures.operating_point import OperatingPointConfig, headline, operating_point
from procedures.operating_point_report import operating_point_sections
from procedures.specification import Range, Specification
from procedures.verdict import VerdictConfig, verdict
from procedures.wafer import WaferConfig, wafer

STATES = 60
BENCH = [
    "boards.main.settings.rows=6", "boards.main.settings.cols=6", "boards.main.settings.device.dw_min=0.02",
    "boards.main.settings.device.c2c=0.1", "boards.main.settings.device.w_max_dtod=0.0",
    "boards.main.settings.device.w_min_dtod=0.0", "boards.main.settings.device.dw_min_dtod=0.0",
    "boards.main.settings.device.up_down_dtod=0.0", f"nominal.states={STATES}",
]  # fmt: skip
QUICK = {"cycles": 3, "branch_reads": 30, "idle_reads": 3, "samples": 0}
V_0 = 0.25


def kappa(volt, width_s=1e-6):
    """How much stronger the emulated law makes a pulse than 1 V for 1 us."""
    return (width_s / 1e-6) ** 0.5 * math.sinh(abs(volt) / V_0) / math.sinh(1.0 / V_0)


def true_alpha(up_v, down_v, width_s=1e-6):
    """Soft bounds at +-0.6 with D+- = D kappa, s+- = D kappa^1.5 / 0.6: a = (s+ + s-)^2 / (2 (D+ s- + D- s+)), times 0.6."""
    up, down = kappa(up_v, width_s), kappa(down_v, width_s)
    s_up, s_down = up**1.5, down**1.5
    return (s_up + s_down) ** 2 / (2 * (up * s_down + down * s_up))


class Boards:
    """A station of one or two dies of emulated cells; choose(**options) runs the procedure."""

    def __init__(self, folder, changes=(), dies=1, bench="emulated-board"):
        self.folder, self.dies = folder, dies
        self.config = load_bench(bench, [*(BENCH if bench == "emulated-board" else []), *changes])
        self.visited, self.operations = [], {}

    def sites(self):
        return [Site((col, 0)) for col in range(self.dies)]

    @contextmanager
    def contact(self, site):
        self.visited.append(site.die)
        with open_bench(self.config, self.folder / "state", self.ledger, site=site.name if self.dies > 1 else "") as bench:
            self.bench = bench
            yield bench

    def choose(self, alpha_a=(0.5, 2.0), alpha_c=(0.5, 2.0), network="net", **options):
        axis = (0.01, 1.0, 10.0)
        flat = ((0.9,) * 3,) * 3
        made = Specification(
            network=network, digital_accuracy=0.95, digital_error=0.0, alpha_a=axis, alpha_c=axis, accuracy=flat, error=flat,
            deltas=(Range(delta=0.02, confidence=0.9, alpha_a=alpha_a, alpha_c=alpha_c),), points=(),
        )  # fmt: skip
        self.folder.mkdir(exist_ok=True)
        config = OperatingPointConfig(
            specification=made.save(self.folder / "spec.json"), **({"characterize": QUICK} | options)
        )
        with Ledger.create(self.folder, "operating-point", {}) as self.ledger:
            return operating_point(self, config, self.ledger)


@pytest.mark.slow
def test_alpha_follows_the_law_of_the_devices_and_the_deepest_shape_is_chosen(tmp_path):
    boards = Boards(tmp_path)
    # A wants strong pulses, C weak ones: middles of the ranges at 1.5 and at 0.7.
    result = boards.choose((0.75, 3.0), (0.35, 1.4), up_v=(0.8, 1.0, 1.2), down_v=(-0.8, -1.2), min_states=10)
    as_a = [one for one in result.shapes if one.role == "a"]
    assert len(as_a) == 6
    for one in as_a:
        want = true_alpha(one.shape.up_v, one.shape.down_v)
        # 36 cells, each within about 3 %: the median has an error of 0.6 % and a bias below 2.5 %; 6 % off is at least
        # 5.5 standard errors, false alarm below 1e-7; an exponent of the law that is off by 0.1 would be seen.
        assert one.alpha[1] == pytest.approx(want, rel=0.06)
        assert one.responding == 1.0
    # Equal amplitudes leave the symmetry point in mid-range, a stronger up pulse pushes it to the upper end.
    skew = {(one.shape.up_v, one.shape.down_v): one.sp_skew for one in as_a}
    assert skew[1.2, -0.8] < 0.3 < 0.45 < skew[1.2, -1.2] < 0.55 < 0.7 < skew[0.8, -1.2]
    a, c = result.chosen["a"], result.chosen["c"]
    assert (a.shape.up_v, a.shape.down_v) == (1.2, -1.2)
    assert (c.shape.up_v, c.shape.down_v) == (0.8, -0.8)
    # What is written is what a bench file takes.
    written = tomllib.loads(result.path.read_text())["roles"]
    assert RoleConfig(**written["a"]).shape == a.shape
    assert RoleConfig(**written["c"]).shape == c.shape
    # And the chosen shapes are calibrated already.
    assert boards.bench.calibrations.find(boards.bench.surfaces()[0].backend.info.serial, a.shape) is not None
    assert len(headline(result).rows) == 12
    with Ledger.open(boards.ledger.folder) as run:
        (section,) = operating_point_sections(run)
        assert write_report(run, [section]).exists()


@pytest.mark.slow
def test_width_works_on_alpha_too_and_an_elastic_bench_has_devices_of_its_own_for_a(tmp_path):
    changes = ["boards.main.settings.device.dw_min=0.02", "nominal.states=60", "boards.main.settings.device.c2c=0.1",
               "boards.main.settings.device_a.dw_min=0.02", "boards.main.settings.device_a.w_max=0.3",
               "boards.main.settings.device_a.w_min=-0.3", "boards.main.settings.device_a.up_down_dtod=0.0"]  # fmt: skip
    result = Boards(tmp_path, changes, bench="emulated").choose(
        size=(4, 4), up_v=(1.0,), down_v=(-1.0,), width_s=(1e-6, 4e-6)
    )
    alpha = {(one.role, one.shape.width_s): one.alpha[1] for one in result.shapes}
    # Spreads of 30 % from cell to cell: the same 16 cells under two widths, so the ratio is sharper than either.
    for role in "ac":
        assert alpha[role, 4e-6] / alpha[role, 1e-6] == pytest.approx(2**0.5, rel=0.15)
    assert alpha["a", 1e-6] > 1.4 * alpha["c", 1e-6]


@pytest.mark.slow
def test_dies_are_taken_together(tmp_path):
    boards = Boards(tmp_path, dies=3)
    result = boards.choose(up_v=(1.0,), down_v=(-1.0,), dies=((0, 0), (2, 0)))
    assert boards.visited == [(0, 0), (2, 0)]
    assert result.chosen["a"].responding == 1.0
    with pytest.raises(UsageError, match=r"^operating_point.dies: \(7, 7\) is not on the map"):
        boards.choose(dies=((7, 7),))


LIMITS = [
    "boards.main.limits.up_v_max=1.2", "boards.main.limits.down_v_max=1.05", "boards.main.limits.width_s_max=1e-5",
    "boards.main.limits.half_select_v_max=0.6", "boards.main.limits.read_v_max=0.2",
    "boards.main.limits.pulses_per_cell_max=1000000", "boards.main.limits.pulses_per_operation_max=100000",
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"up_v": (1.0, 1.5)}, r"up_v = 1.5 exceeds limits.up_v_max = 1.2"),
        ({"down_v": (-1.1,)}, r"down_v = -1.1 exceeds limits.down_v_max = 1.05"),
        ({"width_s": (1e-3,)}, r"width_s = 0.001 exceeds limits.width_s_max = 1e-05"),
        ({"pulses_per_cell": 100}, r"pulses per cell are needed, operating_point.pulses_per_cell = 100: try fewer shapes"),
    ],
)
def test_what_the_limits_or_the_budget_forbid_is_refused_before_a_pulse(tmp_path, options, match):
    boards = Boards(tmp_path, LIMITS)
    with pytest.raises(LimitError, match=match):
        boards.choose(**options)
    (board,) = boards.bench.backends.values()
    status = board.status()
    assert int(status["pulses_up"].sum() + status["pulses_down"].sum()) == 0


def test_the_default_grid_stays_within_the_limits(tmp_path):
    # 1.1 V down is beyond its limit, 3 x 2 shapes are left; the budget says so before anything is pulsed.
    with pytest.raises(LimitError, match=r"pulses per cell are needed") as caught:
        Boards(tmp_path, LIMITS).choose(pulses_per_cell=1)
    together = int(str(caught.value).split(": ")[1].split()[0])
    with pytest.raises(LimitError) as one:
        Boards(tmp_path, LIMITS).choose(pulses_per_cell=1, up_v=(1.0,), down_v=(-1.0,))
    assert together == 6 * int(str(one.value).split(": ")[1].split()[0])


def test_bad_input_is_one_clear_sentence(tmp_path):
    boards = Boards(tmp_path)
    with pytest.raises(UsageError, match=r"a pulse of -1.0 V up, -1.0 V down: give up_v > 0 > down_v"):
        boards.choose(up_v=(-1.0,), down_v=(-1.0,))
    config = OperatingPointConfig(specification=tmp_path / "spec.json", network="mnist")
    with (
        pytest.raises(
            DataError, match=r"spec.json: is of network 'net', not of 'mnist': give the specification of that one"
        ),
        Ledger.create(tmp_path, "operating-point", {}) as ledger,
    ):
        operating_point(boards, config, ledger)


@pytest.mark.slow
def test_devices_without_symmetry_points_leave_nothing_to_choose(tmp_path):
    constant = Boards(tmp_path, ['boards.main.settings.device.model="constant"'])
    with pytest.raises(
        DataError, match=r"^operating-point: under none of 1 pulse shapes have enough cells a symmetry point"
    ):
        constant.choose(up_v=(1.0,), down_v=(-1.0,))
    coarse = Boards(tmp_path / "coarse")
    with pytest.raises(DataError, match=r"no pulse shape gives A 1000 states, the finest"):
        coarse.choose(up_v=(1.0,), down_v=(-1.0,), min_states=1000)
    with pytest.raises(DataError, match=r"no pulse shape leaves A's symmetry point within 0.1 of mid-range: give equally"):
        coarse.choose(up_v=(1.0,), down_v=(-1.2,), max_skew=0.1)


TINY = {
    "cycles": 2,
    "branch_pulses": 64,
    "branch_reads": 16,
    "alternating_pulses": 160,
    "idle_reads": 3,
    "idle_s": 0.0,
    "samples": 0,
}


def _end_to_end(folder, bench, changes, dies):
    """operating-point, then verdict on what it left in the store or on a wafer run; returns both results."""
    config = load_bench(bench, changes)
    Boards(folder).choose(up_v=(1.0,), down_v=(-1.0,), characterize=TINY)
    options = {"specification": folder / "spec.json"}
    grid = {"up_v": (1.0, 1.1), "down_v": (-1.0,), "characterize": TINY, "dies": None if dies is None else dies[:1]}
    record = {"bench": config.model_dump(mode="json", exclude_unset=True)}
    with Ledger.create(folder, "wafer", record) as ledger, open_station(config, folder / "on", ledger) as station:
        chosen = operating_point(station, OperatingPointConfig(**options, **grid), ledger)
        if dies is not None:
            wafer(station, WaferConfig(dies=dies, characterize=TINY), ledger)
            options |= {"run": ledger.folder}
        return chosen, verdict(station, VerdictConfig(**options), ledger)


@pytest.mark.slow
def test_on_a_board_behind_its_wire(tmp_path):
    twin = "boards.main.settings.twin.settings"
    changes = [f"{twin}.array.rows=3", f"{twin}.array.cols=3", f"{twin}.array.device.dw_min=0.02", "nominal.states=60"]
    chosen, judged = _end_to_end(tmp_path, "twin-board", changes, None)
    alpha = {one.shape.up_v: one.alpha[1] for one in chosen.shapes if one.role == "a"}
    # Nine cells, the same ones under both pulses, each within about 7 %: 2.5 % for the ratio of medians.
    assert alpha[1.1] / alpha[1.0] == pytest.approx(true_alpha(1.1, -1.0), rel=0.15)
    # The bench's own pulse was one of the shapes: its calibration is what the verdict judges.
    assert judged.roles[0].alpha[1] == pytest.approx(alpha[1.0], rel=1e-5)
    assert judged.roles[0].judged == 9


@pytest.mark.slow
def test_over_dies_of_a_probed_wafer(tmp_path):
    twin = "station.settings.twin.settings.wafer"
    changes = [f"{twin}.columns=2", f"{twin}.rows=1", f"{twin}.no_contact=[]", f"{twin}.shorted=[]", "nominal.states=60"]
    changes += [f"{twin}.array.rows=1", f"{twin}.array.cols=2", f"{twin}.array.device.dw_min=0.02"]
    changes += ["boards.main.settings.rows=1", "boards.main.settings.cols=2"]
    chosen, judged = _end_to_end(tmp_path, "twin-probe-station", changes, ((0, 0), (1, 0)))
    assert {one.shape.up_v for one in chosen.shapes} == {1.0, 1.1}
    assert judged.roles[0].judged == 4
    assert judged.not_measured == 0


@pytest.mark.slow
def test_a_resumed_run_does_not_measure_a_finished_shape_again(tmp_path, monkeypatch):
    class Unplugged(Exception):
        pass

    seen = []

    def characterized(bench, *arguments):
        seen.append(bench.surfaces()[0].shape.up_v)
        if len(seen) == 2:
            raise Unplugged
        return characterize(bench, *arguments)

    monkeypatch.setattr("procedures.operating_point.characterize", characterized)
    boards = Boards(tmp_path)
    options = {"up_v": (0.9, 1.0), "down_v": (-1.0,)}
    with pytest.raises(Unplugged):
        boards.choose(**options)
    config = OperatingPointConfig(specification=tmp_path / "spec.json", characterize=QUICK, **options)
    with Ledger.resume(boards.ledger.folder) as boards.ledger:
        result = operating_point(boards, config, boards.ledger)
    assert seen == [0.9, 1.0, 1.0]
    assert len(result.shapes) == 4
