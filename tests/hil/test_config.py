"""Bench files: what loads, and how every mistake is told in one line that names file, key and remedy."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from hil.backend import ArrayInfo, PulseShape, Range, check_per_array
from hil.config import BenchConfig, Nominal, RoleConfig, load_bench, override, shipped_benches, validated
from hil.errors import ShapeError, UsageError
from hil.known import from_nominal

GOOD = """
name = "lab"
[boards.main]
backend = "emulated"
[roles.c]
board = "main"
up_v = 1.0
down_v = -1.0
width_s = 1e-6
[nominal]
g_min_siemens = 70e-6
g_max_siemens = 130e-6
"""


@pytest.fixture
def bench(tmp_path):
    """Write a bench file; returns its path as text."""

    def write(text=GOOD):
        path = tmp_path / "lab.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def refusal(call, *given):
    """The message of the UsageError that ``call`` ends with, which must be one line."""
    with pytest.raises(UsageError) as caught:
        call(*given)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


class TestShipped:
    def test_all_load(self):
        benches = shipped_benches()
        assert {"emulated", "emulated-board", "emulated-ideal"} <= benches.keys()
        for name in benches:
            config = load_bench(name)
            assert config.name == name
            assert "c" in config.roles

    def test_map_siemens_to_weights_as_the_asymmetry_axis_wants(self):
        """b_w = 0.6: the nominal range is +-0.6 weight, 50 uS per weight."""
        nominal = load_bench("emulated").nominal
        assert nominal.bound_weight == 0.6
        assert nominal.siemens_per_weight == pytest.approx(50e-6)
        assert nominal.g_mid_siemens == pytest.approx(100e-6)


class TestGoodFiles:
    def test_defaults(self, bench):
        config = load_bench(bench())
        assert config.seed == 0
        assert config.read.read_v == 0.2
        assert config.read.bound_management
        assert config.nominal.states == 1200

    def test_values_per_array(self, bench):
        config = load_bench(bench(), ["roles.c.up_v=[0.9, 1.0, 1.1]", "nominal.states=[100, 1000, 10000]"])
        assert config.roles["c"].shape == PulseShape((0.9, 1.0, 1.1), -1.0, 1e-6)
        known = from_nominal(config.nominal, 3, 2, 2)
        torch.testing.assert_close(known.step_weight, 1.2 / torch.tensor([100.0, 1000.0, 10000.0], dtype=torch.float64))

    def test_a_state_folder_is_beside_the_file_that_names_it(self, bench, tmp_path, monkeypatch):
        (tmp_path / "elsewhere").mkdir()
        path = bench('state = "kept"' + GOOD)
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert load_bench("../lab.toml").state.resolve() == tmp_path / "kept"
        assert load_bench(path, ["state=here"]).state.resolve() == tmp_path / "elsewhere" / "here"
        assert load_bench(bench(f'state = "{tmp_path}/far"' + GOOD)).state == tmp_path / "far"

    def test_a_role_has_every_field_of_a_pulse(self):
        assert [*RoleConfig.model_fields] == ["board", *(field.name for field in fields(PulseShape))]

    def test_values_per_array_of_another_number_of_arrays(self, bench):
        config = load_bench(bench(), ["roles.c.up_v=[0.9, 1.0, 1.1]", "nominal.states=[100, 1000]"])
        info = ArrayInfo(2, 1, 1, False, "", "", "", "", Range(-1, 1), Range(-1, 1), Range(0, 1))
        with pytest.raises(ShapeError, match=r"^pulse shape: up_v has 3 values for 2 arrays: give one, or one each$"):
            check_per_array(config.roles["c"].shape, info)
        assert refusal(from_nominal, config.nominal, 3, 1, 1) == (
            "nominal.states: 2 values for 3 arrays: give one, or one each"
        )


class TestMistakes:
    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("width_s = 1e-6", "width_s = 1e-6\nwidht_s = 1e-6", ["roles.c.widht_s", "unknown key", "width_s"]),
            ('name = "lab"', 'name = "lab"\nseeds = 3', ["seeds", "unknown key", "seed"]),
            ("[nominal]", "[read]\nvolts = 1\n[nominal]", ["read.volts", "unknown key", "read_v"]),
            ("[roles.c]", "[roles.a]", ["roles.c is missing"]),
            ("[roles.c]", "[roles.b]", ["roles.b: ", "'a' or 'c'"]),
            ('board = "main"', 'board = "other"', ["roles.c.board = 'other' is no board here", "main"]),
            ("up_v = 1.0", 'up_v = "high"', ["roles.c.up_v: ", "number"]),
            ("up_v = 1.0\n", "", ["roles.c.up_v", "missing"]),
            ("g_min_siemens = 70e-6\n", "", ["nominal.g_min_siemens", "missing"]),
            ("g_min_siemens = 70e-6", "g_min_siemens = 140e-6", ["nominal", "is not below g_max_siemens"]),
            ("[boards.main]\nbackend", "[board.main]\nbackend", ["boards", "missing"]),
            ("[nominal]", "[read]\nread_v = -1\n[nominal]", ["read.read_v", "greater than 0"]),
            ("[nominal]", "[procedures.typo]\nx = 1\n[nominal]", ["procedures.typo: ", "zero-shift"]),
            ('name = "lab"', 'name = "lab', ["not valid TOML", "line 2", "correct that line"]),
            ('name = "lab"', 'name = "lab"\nname = "lab"', ["not valid TOML", "line 3"]),
        ],
    )  # fmt: skip
    def test_name_file_key_and_remedy(self, bench, old, new, said):
        assert old in GOOD
        path = bench(GOOD.replace(old, new))
        message = refusal(load_bench, path)
        assert message.startswith(path)
        for part in said:
            assert part in message

    def test_several_are_counted(self, bench):
        assert "(and 1 more)" in refusal(load_bench, bench(GOOD.replace("width_s = 1e-6", "x = 1\nwidth_s = 1e-6\ny = 2")))

    def test_unreadable_files(self, bench, tmp_path):
        assert "no such bench file" in refusal(load_bench, str(tmp_path / "missing.toml"))
        assert "emulated-board" in refusal(load_bench, "emulatd")
        assert "cannot be read (IsADirectoryError)" in refusal(load_bench, str(tmp_path))
        (tmp_path / "latin.toml").write_bytes(b'name = "M\xfcnchen"')
        assert "cannot be read (UnicodeDecodeError)" in refusal(load_bench, str(tmp_path / "latin.toml"))

    def test_boards_per_role_must_be_one_at_least(self):
        assert "boards" in refusal(validated, BenchConfig, {"name": "x", "boards": {}, "roles": {}, "nominal": {}}, "x.toml")


class TestOverrides:
    def test_replace_add_and_type_values(self, bench):
        changes = [
            "read.read_v=0.1",
            "seed=7",
            "name=new",
            "boards.main.settings.device.dw_min=0.002",
            "read.averages = 4",
        ]
        config = load_bench(bench(), changes)
        assert (config.read.read_v, config.seed, config.name, config.read.averages) == (0.1, 7, "new", 4)
        assert config.boards["main"].settings == {"device": {"dw_min": 0.002}}

    def test_leave_the_original_alone(self):
        data = {"a": {"b": 1}}
        assert override(data, ["a.b=2", "a.c=[1, 2]"]) == {"a": {"b": 2, "c": [1, 2]}}
        assert data == {"a": {"b": 1}}

    def test_the_last_one_wins(self):
        assert override({}, ["a=1", "a=2"]) == {"a": 2}

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("read.read_v", "is not KEY=VALUE"),
            ("=3", "is not KEY=VALUE"),
            ("name.first=x", "name is a value, not a table"),
            ("read.red_v=0.1", "read.red_v: unknown key; known here: averages, bound_management, read_v"),
            ("read.read_v=high", "read.read_v"),
        ],
    )
    def test_mistakes(self, bench, change, said):
        assert said in refusal(load_bench, bench(), [change])


def test_nominal_scale_is_the_range_over_twice_the_bound():
    nominal = Nominal(g_min_siemens=10e-6, g_max_siemens=50e-6, bound_weight=2.0)
    assert nominal.siemens_per_weight == pytest.approx(10e-6)
    assert nominal.g_mid_siemens == pytest.approx(30e-6)
