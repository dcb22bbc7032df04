"""Benches, opened: boards and elastic ones, populations, surfaces, calibrations, and that everything is closed."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from pydantic import BaseModel, ConfigDict

from hil import bench as bench_module
from hil.backend import ArrayInfo, Range
from hil.bench import open_bench
from hil.calibration import Calibration
from hil.config import BenchConfig, load_bench, shipped_benches
from hil.errors import HardwareError, LimitError, UsageError
from hil.known import known_devices
from hil.ledger import Ledger
from hil.plugins import find
from hil.safety import SafeState
from hil.tile import Tile

LIMITS = {
    "up_v_max": 2.0, "down_v_max": 2.0, "width_s_max": 1e-3, "half_select_v_max": 1.0, "read_v_max": 0.2,
    "pulses_per_cell_max": 1000, "pulses_per_operation_max": 100,
}  # fmt: skip


class FakeSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = 8
    cols: int = 8
    physical: bool = False
    fails: bool = False
    stuck: bool = False


class FakeBoard:
    """A board that keeps the order of what is done to it in ``diary``."""

    def __init__(self, settings, wanted, diary):
        self.name, self.diary, self.settings = wanted.name, diary, settings
        self.info = ArrayInfo(
            1, settings.rows, settings.cols, settings.physical, "v", "fake", f"serial-{wanted.name}", "1",
            Range(-0.3, 0.3), Range(-3.0, 3.0), Range(1e-9, 1e-3),
        )  # fmt: skip

    def safe(self):
        self.diary.append(("safe", self.name))
        return True

    def close(self):
        self.diary.append(("close", self.name))
        if self.settings.stuck:
            raise HardwareError(f"{self.name}: does not let go: pull the plug")

    def read(self, mask, averages=1):
        self.diary.append(("read", self.name))
        return torch.where(mask, 1e-4, torch.nan)

    def mvm(self, volts, direction, active=None):
        raise AssertionError

    def pulse(self, counts, shape):
        self.diary.append(("pulse", self.name))

    trace = update = mvm

    def status(self):
        return {}

    def __enter__(self):
        return self

    def __exit__(self, *given):
        self.close()


class FakePlugin:
    settings = FakeSettings

    def __init__(self):
        self.diary = []

    def elastic(self, settings):
        return False

    def open(self, settings, wanted):
        if settings.fails:
            raise HardwareError(f"{wanted.name}: no answer: switch it on")
        self.diary.append(("open", wanted.name))
        return FakeBoard(settings, wanted, self.diary)


@pytest.fixture
def fake(monkeypatch):
    """Backend "fake" beside the installed ones."""
    plugin = FakePlugin()
    monkeypatch.setattr(bench_module, "find", lambda group, name: plugin if name == "fake" else find(group, name))
    return plugin


def two_boards(a=None, c=None, **more):
    """A and C on two fake boards."""
    role = {"up_v": 1.0, "down_v": -1.0, "width_s": 1e-6}
    boards = {
        "a": {"backend": "fake", "settings": a or {}, "limits": LIMITS},
        "c": {"backend": "fake", "settings": c or {}, "limits": LIMITS},
    }
    return BenchConfig.model_validate({
        "name": "lab", "boards": boards, "roles": {"a": {**role, "board": "a"}, "c": {**role, "board": "c", "up_v": 1.2}},
        "nominal": {"g_min_siemens": 70e-6, "g_max_siemens": 130e-6}, **more,
    })  # fmt: skip


def calibration(info, shape, **values):
    """A calibration of every cell; fields not given are 1e-7, and every cell responds."""
    size = (info.arrays, info.rows, info.cols)
    cells = {f.name: torch.full(size, 1e-7) for f in fields(Calibration) if f.type == "Tensor"}
    cells |= {name: torch.full(size, value) for name, value in values.items()}
    cells |= {"responds": torch.ones(size, dtype=torch.bool), "no_sp": torch.zeros(size, dtype=torch.bool)}
    return Calibration(serial=info.serial, shape=shape, siemens_per_weight=50e-6, **cells)


class TestShipped:
    @pytest.mark.parametrize("name", sorted(n for n, p in shipped_benches().items() if "twin" not in n))
    def test_open_place_and_close(self, name, tmp_path):
        with open_bench(load_bench(name), tmp_path) as bench:
            place = bench.place("layer0.c", "c", 6, 4)
            tile = Tile(place, known_devices(place, 1, bench.calibrations, "mid"), 0, bench.ids)
            assert tile.weights().shape == (1, 4, 6)
            assert not bench.physical


class TestElastic:
    def test_every_matrix_is_an_array_of_its_own(self, tmp_path):
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            assert bench.backends == {}
            a, c = bench.place("layer0.a", "a", 6, 4), bench.place("layer0.c", "c", 6, 4)
            assert a.regions[0].whole
            assert c.regions[0].backend is not a.regions[0].backend
            assert a.regions[0].backend.info.serial != c.regions[0].backend.info.serial
            assert set(bench.infos) == {"layer0.a", "layer0.c"}

    def test_a_name_is_one_matrix(self, tmp_path):
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            first = bench.place("layer0.c", "c", 6, 4)
            assert bench.place("layer0.c", "c", 6, 4) is first
            with pytest.raises(UsageError, match=r"^matrix layer0\.c is 6 x 4 already: give the new one another name$"):
                bench.place("layer0.c", "c", 4, 6)

    def test_population_has_the_identities_it_is_given(self, tmp_path):
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            bench.populate(torch.tensor([5, 2, 5]))
            assert bench.arrays == 3
            board = bench.place("layer0.c", "c", 6, 4).regions[0].backend
            assert board.info.arrays == 3
            low = board.state_dict()["param_low"]
            assert torch.equal(low[0], low[2])
            assert not torch.equal(low[0], low[1])

    def test_devices_follow_from_seed_name_and_identity_alone(self, tmp_path):
        found = []
        for extra in ("layer9.c", "layer0.a"):
            with open_bench(load_bench("emulated", ["seed=4"]), tmp_path) as bench:
                bench.place(extra, "c", 3, 3)
                found.append(bench.place("layer0.c", "c", 6, 4).regions[0].backend.state_dict()["param_d_up"])
        with open_bench(load_bench("emulated", ["seed=5"]), tmp_path) as bench:
            other = bench.place("layer0.c", "c", 6, 4).regions[0].backend.state_dict()["param_d_up"]
        assert torch.equal(*found)
        assert not torch.equal(found[0], other)

    def test_no_population_after_the_first_matrix(self, tmp_path):
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            bench.place("layer0.c", "c", 2, 2)
            with pytest.raises(UsageError, match=r"^bench emulated: a population of 3 needs"):
                bench.populate(torch.arange(3))

    def test_surfaces_are_the_matrices_of_a_network_or_one_of_a_size(self, tmp_path):
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            with pytest.raises(UsageError, match="an elastic bench has no size of its own: give widths or a size"):
                bench.surfaces()
            found = bench.surfaces(widths=(5, 4, 3))
            assert {s.name for s in found} == {"layer0.a", "layer0.c", "layer1.a", "layer1.c"}
            # What was characterized is what is trained afterwards.
            layer = next(s for s in found if s.name == "layer1.c")
            assert bench.place("layer1.c", "c", 4, 3).regions[0].backend is layer.backend
            (probe_a, probe_c) = bench.surfaces(size=(7, 6))
            assert (probe_a.backend.info.rows, probe_c.backend.info.cols) == (7, 6)

    def test_values_per_array_of_another_number_than_the_population(self, tmp_path):
        config = load_bench("emulated", ["boards.main.settings.device.dw_min=[0.001, 0.002]"])
        with open_bench(config, tmp_path) as bench, pytest.raises(UsageError, match="2 values given for 1 arrays: correct"):
            bench.place("layer0.c", "c", 2, 2)


class TestBoards:
    def test_a_and_c_share_an_emulated_board(self, tmp_path):
        with open_bench(load_bench("emulated-board"), tmp_path) as bench:
            a, c = bench.place("layer0.a", "a", 64, 32), bench.place("layer0.c", "c", 64, 32)
            (ra,), (rc,) = a.regions, c.regions
            assert ra.backend is rc.backend is bench.backends["main"]
            assert ra.rows.stop <= rc.rows.start or ra.cols.stop <= rc.cols.start
            (surface,) = bench.surfaces()
            assert (surface.name, surface.role) == ("board main", "a+c")
            with pytest.raises(UsageError, match=r"^matrix layer1\.c \(128 x 96\) does not fit board main \(128 x 96, "):
                bench.place("layer1.c", "c", 128, 96)

    def test_two_pulse_shapes_are_two_surfaces(self, tmp_path):
        with open_bench(load_bench("emulated-board", ["roles.a.up_v=1.1"]), tmp_path) as bench:
            assert [(s.role, s.shape.up_v) for s in bench.surfaces()] == [("a", 1.1), ("c", 1.0)]

    def test_no_population_on_a_board(self, tmp_path):
        with open_bench(load_bench("emulated-board"), tmp_path) as bench:
            with pytest.raises(UsageError, match="a population of 2 needs an elastic emulated bench, not a board"):
                bench.populate(torch.arange(2))
            bench.populate(torch.zeros(1, dtype=torch.int64))

    def test_roles_on_two_boards(self, fake, tmp_path):
        with open_bench(two_boards(), tmp_path) as bench:
            a, c = bench.place("m.a", "a", 4, 4), bench.place("m.c", "c", 4, 4)
            assert a.regions[0].backend is bench.backends["a"]
            assert c.regions[0].backend is bench.backends["c"]
            assert (a.shape.up_v, c.shape.up_v) == (1.0, 1.2)
            assert {(s.name, s.role) for s in bench.surfaces()} == {("board a", "a"), ("board c", "c")}

    def test_role_a_falls_back_on_c(self, tmp_path):
        config = load_bench("emulated")
        config = config.model_copy(update={"roles": {"c": config.roles["c"]}})
        with open_bench(config, tmp_path) as bench:
            assert bench.place("m.a", "a", 2, 2).shape == config.roles["c"].shape


class TestCalibrations:
    @pytest.mark.slow
    def test_are_kept_beside_the_bench_and_found_by_serial_and_shape(self, tmp_path):
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            place = bench.place("layer0.c", "c", 3, 2)
            info = place.regions[0].backend.info
            assert bench.calibrations.find(info.serial, place.shape) is None
            missing = r"^layer0\.c: its symmetry points were never measured \(no calibration in .*\): run `hil characterize"
            with pytest.raises(UsageError, match=missing) as caught:
                known_devices(place, 1, bench.calibrations, "sp", "emulated")
            assert "\n" not in str(caught.value)
            values = {"g_min": 60e-6, "g_max": 120e-6, "g_sp": 85e-6, "g_ref": 85e-6, "step": 5e-8}
            path = bench.calibrations.save(calibration(info, place.shape, **values))
            assert path.parent == tmp_path / "calibrations"
            assert not known_devices(place, 1, None, "mid").measured
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            place = bench.place("layer0.c", "c", 3, 2)
            known = known_devices(place, 1, bench.calibrations, "sp")
            assert known.measured
            torch.testing.assert_close(known.g_ref, torch.full((1, 3, 2), 85e-6, dtype=torch.float64), rtol=1e-6, atol=0)
            assert float(known_devices(place, 1, bench.calibrations, "mid").g_ref[0, 0, 0]) == pytest.approx(90e-6)
            assert float(known.step_weight) == pytest.approx(5e-8 / 50e-6)

    @pytest.mark.slow
    def test_are_cut_to_the_place_of_a_matrix_on_a_board(self, tmp_path):
        with open_bench(load_bench("emulated-board"), tmp_path) as bench:
            bench.place("first", "c", 5, 96)
            place = bench.place("m", "c", 3, 2)
            (region,) = place.regions
            info = region.backend.info
            made = calibration(info, place.shape, g_min=60e-6, g_max=120e-6, step=5e-8)
            made.g_sp.copy_(80e-6 + 1e-9 * torch.arange(128.0)[:, None] + 1e-7 * torch.arange(96.0))
            bench.calibrations.save(made)
            known = known_devices(place, 1, bench.calibrations, "sp")
            torch.testing.assert_close(known.g_sp.float(), made.g_sp[:, region.rows, region.cols])

    def test_of_another_seed_are_not_taken(self, tmp_path):
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            place = bench.place("layer0.c", "c", 3, 2)
            bench.calibrations.save(calibration(place.regions[0].backend.info, place.shape))
        with open_bench(load_bench("emulated", ["seed=1"]), tmp_path) as bench:
            place = bench.place("layer0.c", "c", 3, 2)
            assert not known_devices(place, 1, bench.calibrations, "mid").measured


class TestClosing:
    @pytest.mark.parametrize("safety", [None, SafeState])
    def test_leaving_grounds_and_closes_every_board_whatever_happened(self, fake, tmp_path, safety):
        """Grounding comes before letting go, last board first, once."""
        keeper = None if safety is None else safety()
        with pytest.raises(KeyboardInterrupt), open_bench(two_boards(), tmp_path, safety=keeper):
            raise KeyboardInterrupt
        for name in "ac":
            assert [what for what, board in fake.diary if board == name] == ["open", "safe", "close"]
        assert [board for what, board in fake.diary if what == "close"] == ["c", "a"]
        if keeper is not None:
            assert keeper.confirmed == {"a": True, "c": True}

    def test_a_board_that_does_not_let_go_keeps_no_other_open(self, fake, tmp_path):
        bench = open_bench(two_boards(c={"stuck": True}), tmp_path)
        with pytest.raises(HardwareError, match="does not let go"):
            bench.close()
        assert ("close", "a") in fake.diary

    def test_closing_twice_is_once(self, fake, tmp_path):
        bench = open_bench(two_boards(), tmp_path)
        bench.close()
        bench.close()
        assert fake.diary.count(("close", "a")) == 1

    def test_a_board_that_fails_to_open_closes_the_others(self, fake, tmp_path):
        with pytest.raises(HardwareError, match=r"^c: no answer: switch it on$"):
            open_bench(two_boards(c={"fails": True}), tmp_path)
        assert fake.diary == [("open", "a"), ("safe", "a"), ("close", "a")]

    def test_a_read_voltage_beyond_the_board_closes_it_again(self, fake, tmp_path):
        with pytest.raises(LimitError, match=r"reads at 0\.5 V"):
            open_bench(two_boards(read={"read_v": 0.5}), tmp_path)
        assert fake.diary == [("open", "a"), ("close", "a")]

    def test_a_run_record_outside_the_bench_says_that_all_was_confirmed(self, fake, tmp_path):
        """The order of a run: the record and the safe state are left after the bench."""
        with (
            Ledger.create(tmp_path / "runs", "test", {}, seed=0) as ledger,
            SafeState(ledger) as safety,
            open_bench(two_boards({"physical": True}), tmp_path, ledger, safety) as bench,
        ):
            place = bench.place("m.a", "a", 8, 8)
            place.regions[0].backend.pulse(torch.ones(1, 8, 8, dtype=torch.int32), place.shape)
        assert safety.confirmed == {"a": True, "c": True}
        # The posted pulses are known to be done once the board has confirmed.
        with Ledger.open(ledger.folder) as run:
            assert run.pending() == []
        assert [what for what, board in fake.diary if board == "a"] == ["open", "pulse", "safe", "close"]

    def test_a_dry_run_identifies_and_pulses_nothing(self, fake, tmp_path):
        with open_bench(two_boards({"physical": True}, {"physical": True}), tmp_path, dry=True) as bench:
            place = bench.place("m.c", "c", 4, 4)
            Tile(place, known_devices(place, 1, bench.calibrations, "mid"), 0, bench.ids).conductance()
            assert set(bench.dry_runs()) == {"a", "c"}
        assert ("read", "c") not in fake.diary


class TestMistakes:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("boards.main.backend=nope", "bench emulated: boards.main.backend: backends: nothing called 'nope'"),
            ("boards.main.settings.rws=4", "bench emulated: boards.main.settings: rws: unknown key; known here: "),
            ("boards.main.settings.rows=4", "boards.main.settings: (top level): rows and cols come together"),
            ("boards.main.settings.device.dw_min=-1", "boards.main.settings: device: dw_min = -1.0 must be above 0"),
            ("boards.main.settings.preset=foo", "preset 'foo' is unknown: choose one of "),
        ],
    )
    def test_in_settings_name_bench_board_and_key_in_one_line(self, tmp_path, change, said):
        with pytest.raises(UsageError) as caught:
            open_bench(load_bench("emulated", [change]), tmp_path)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_pulse_beyond_the_board_is_refused(self, tmp_path):
        with open_bench(load_bench("emulated", ["roles.c.up_v=9"]), tmp_path) as bench:
            place = bench.place("m", "c", 2, 2)
            with pytest.raises(LimitError, match="up_v = 9 is outside what emulated array does"):
                place.regions[0].backend.pulse(torch.ones(1, 2, 2, dtype=torch.int32), place.shape)

    def test_a_checkpoint_of_another_network(self, tmp_path):
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            bench.place("layer0.c", "c", 2, 2)
            with pytest.raises(UsageError, match=r"knows nothing of layer0\.c: it is of another network"):
                bench.load_state_dict({})


class TestState:
    def test_saved_and_restored_bit_for_bit(self, tmp_path):
        def run(bench, again):
            place = bench.place("layer0.c", "c", 4, 3)
            board = place.regions[0].backend
            counts = torch.full((1, 4, 3), 5, dtype=torch.int32)
            board.pulse(counts, place.shape)
            if again is not None:
                bench.load_state_dict(again)
            saved = bench.state_dict()
            board.pulse(-counts, place.shape)
            return saved, board.state_dict()["state"]

        with open_bench(load_bench("emulated"), tmp_path) as bench:
            saved, went_on = run(bench, None)
        with open_bench(load_bench("emulated"), tmp_path) as bench:
            place = bench.place("layer0.c", "c", 4, 3)
            place.regions[0].backend.pulse(torch.ones(1, 4, 3, dtype=torch.int32), place.shape)
            _, resumed = run(bench, saved)
        assert torch.equal(went_on, resumed)

    def test_masked_reads_of_a_board(self, tmp_path):
        with open_bench(load_bench("emulated-board"), tmp_path) as bench:
            mask = torch.zeros(1, 128, 96, dtype=torch.bool)
            mask[0, 3, 5] = True
            g = bench.read_cells("main", mask)
            assert float(g[0, 3, 5]) == pytest.approx(100e-6)
            assert math.isnan(float(g[0, 0, 0]))
