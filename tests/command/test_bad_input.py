"""Bad input gets one line that says what, where and what to do, and the exit code that goes with it."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from hil.cli import main


def test_unknown_key_is_named_with_the_known_ones(bench: Path, complain: Any) -> None:
    bench.write_text(bench.read_text().replace("read_v = 0.2", "read_v = 0.2\nread_volt = 0.1"))
    code, line = complain("train", str(bench))
    assert code == 2
    for word in ("mine.toml", "read.read_volt", "unknown key", "read_v", "averages"):
        assert word in line


def test_unknown_device_key(bench: Path, complain: Any) -> None:
    code, line = complain("train", str(bench), "-s", "boards.main.settings.device.slop=1")
    assert code == 2
    assert "boards.main.settings" in line
    assert "slop" in line


@pytest.mark.parametrize(("text", "what"), [("{", "is no JSON ("), ("[1]", "is no JSON object")])
def test_settings_of_a_twin_that_are_no_object(complain: Any, text: str, what: str) -> None:
    code, line = complain("twin", "board", "--settings", text)
    assert code == 2
    assert f"--settings: '{text}' {what}" in line


def test_unknown_option_of_a_procedure(bench: Path, complain: Any) -> None:
    code, line = complain("train", str(bench), "-s", "train.epoch=3")
    assert code == 2
    assert "epochs" in line


def test_missing_limit_is_named(bench: Path, complain: Any) -> None:
    bench.write_text(bench.read_text() + "\n[boards.main.limits]\nup_v_max = 1.5\n")
    code, line = complain("train", str(bench))
    assert code == 2
    assert "boards.main.limits" in line
    assert "down_v_max: is missing" in line


def test_a_pulse_over_the_limit_is_refused(bench: Path, complain: Any) -> None:
    limits = {"up_v_max": 0.5, "down_v_max": 1.5, "width_s_max": 1e-5, "half_select_v_max": 1.0, "read_v_max": 0.3}
    table = "\n".join(f"{name} = {value}" for name, value in limits.items())
    bench.write_text(
        f"{bench.read_text()}\n[boards.main.limits]\n{table}\n"
        "pulses_per_cell_max = 1000000\npulses_per_operation_max = 9999\n"
    )
    code, line = complain("program", str(bench), "-s", "program.rows=2", "-s", "program.cols=2")
    assert code == 3
    assert "up_v = 1 exceeds limits.up_v_max = 0.5" in line


def test_a_read_voltage_over_the_limit_is_refused(bench: Path, complain: Any) -> None:
    code, line = complain("program", str(bench), "-s", "read.read_v=3.0")
    assert code == 3
    assert "3 V" in line


def _idx(path: Path, magic: int, dims: tuple[int, ...], payload: bytes) -> None:
    path.write_bytes(struct.pack(f">I{len(dims)}I", magic, *dims) + payload)


@pytest.mark.parametrize("broken", ["truncated", "corrupt", "not gzip"])
def test_a_broken_idx_file_is_named(broken: str, bench: Path, complain: Any) -> None:
    folder = bench.parent / "data"
    folder.mkdir()
    for part in ("train", "t10k"):
        _idx(folder / f"{part}-images-idx3-ubyte", 2051, (3, 2, 2), bytes(12))
        _idx(folder / f"{part}-labels-idx1-ubyte", 2049, (3,), bytes([0, 1, 1]))
    bad = folder / "train-images-idx3-ubyte"
    if broken == "truncated":
        bad.write_bytes(bad.read_bytes()[:-1])
    elif broken == "corrupt":
        bad.write_bytes(b"\x12" * 40)
    else:
        bad.rename(bad := bad.with_name(bad.name + ".gz"))
        bad.write_bytes(gzip.compress(b"x" * 100)[:-9])
    code, line = complain("train", str(bench), "-s", f"train.dataset={folder}")
    assert code == 2
    assert "train-images-idx3-ubyte" in line


def test_a_folder_that_is_no_run(bench: Path, complain: Any) -> None:
    for verb in ("show", "report", "export", "watch"):
        code, line = complain(verb, str(bench.parent))
        assert code == 2
        assert "no run folder" in line


def test_no_such_bench_names_the_shipped_ones(bench: Path, complain: Any) -> None:
    code, line = complain("train", "emulatd")
    assert code == 2
    assert "emulated-ideal" in line


def test_zero_shift_without_a_calibration_names_characterize(bench: Path, complain: Any) -> None:
    code, line = complain("zero-shift", str(bench), "-s", "zero_shift.size=[2,2]")
    assert code == 2
    assert "hil characterize" in line


def test_training_on_symmetry_points_nobody_measured(bench: Path, complain: Any) -> None:
    code, line = complain("train", str(bench))
    assert code == 2
    assert "hil characterize" in line
    assert "zero-shift" in line


@pytest.mark.parametrize(
    ("verb", "change", "words"),
    [
        ("characterize", "size=[4,4]", ["did you mean -s characterize.size=[4,4]?"]),
        ("zero-shift", "tolerance=0.1", ["did you mean -s zero_shift.tolerance=0.1?"]),
        ("train", "characterize.size=[4,4]", ["this is train", "train.KEY=VALUE"]),
        ("characterize", "characterize.size=[-4,4]", ["characterize.size.0: ", "greater than or equal to 1"]),
        ("characterize", "characterize.widths=[4]", ["characterize.widths: ", "at least 2"]),
        ("characterize", "characterize.siz=[4,4]", ["characterize.siz: unknown key", "size"]),
        ("train", "train.hidden=[0]", ["train.hidden.0: ", "greater than or equal to 1"]),
        ("train", "train.lr_c=[]", ["train.lr_c: ", "empty"]),
    ],
)  # fmt: skip
def test_options_are_named_in_full(verb: str, change: str, words: list[str], bench: Path, complain: Any) -> None:
    code, line = complain(verb, str(bench), "-s", change)
    assert code == 2
    for word in words:
        assert word in line
    assert not (bench.parent / "runs").exists()


def test_defaults_for_a_procedure_that_does_not_exist(bench: Path, complain: Any) -> None:
    bench.write_text(bench.read_text() + "\n[procedures.zero_shift]\ntolerance = 0.1\n[procedures.trian]\nepochs = 3\n")
    code, line = complain("train", str(bench))
    assert code == 2
    assert "mine.toml: procedures.trian: no procedure has this name: one of calibrate, characterize" in line


def test_json_carries_the_error(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "nowhere.toml", "--json"]) == 2
    out = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert out["exit"] == 2
    assert "nowhere.toml" in out["error"]
