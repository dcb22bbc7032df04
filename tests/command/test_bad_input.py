"""Bad input gets one line that says what, where and what to do, and the exit code that goes with it."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import pytest

from hil.cli import main
from hil.config import shipped_benches


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped emulated bench in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(shipped_benches()["emulated"].read_text())
    return path


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = main([*argv])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return code, lines[0]


def test_unknown_key_is_named_with_the_known_ones(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write_text(bench.read_text().replace("read_v = 0.2", "read_v = 0.2\nread_volt = 0.1"))
    code, line = complaint(capsys, "train", str(bench))
    assert code == 2
    for word in ("mine.toml", "read.read_volt", "unknown key", "read_v", "averages"):
        assert word in line


def test_unknown_device_key(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint(capsys, "train", str(bench), "-s", "boards.main.settings.device.slop=1")
    assert code == 2
    assert "boards.main.settings" in line
    assert "slop" in line


def test_unknown_option_of_a_procedure(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint(capsys, "train", str(bench), "-s", "train.epoch=3")
    assert code == 2
    assert "epochs" in line


def test_missing_limit_is_named(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write_text(bench.read_text() + "\n[boards.main.limits]\nup_v_max = 1.5\n")
    code, line = complaint(capsys, "train", str(bench))
    assert code == 2
    assert "boards.main.limits" in line
    assert "down_v_max: is missing" in line


def test_a_pulse_over_the_limit_is_refused(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = {"up_v_max": 0.5, "down_v_max": 1.5, "width_s_max": 1e-5, "half_select_v_max": 1.0, "read_v_max": 0.3}
    table = "\n".join(f"{name} = {value}" for name, value in limits.items())
    bench.write_text(
        f"{bench.read_text()}\n[boards.main.limits]\n{table}\n"
        "pulses_per_cell_max = 1000000\npulses_per_operation_max = 9999\n"
    )
    code, line = complaint(capsys, "program", str(bench), "-s", "program.rows=2", "-s", "program.cols=2")
    assert code == 3
    assert "up_v = 1 exceeds limits.up_v_max = 0.5" in line


def test_a_read_voltage_over_the_limit_is_refused(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint(capsys, "program", str(bench), "-s", "read.read_v=3.0")
    assert code == 3
    assert "3 V" in line


def _idx(path: Path, magic: int, dims: tuple[int, ...], payload: bytes) -> None:
    path.write_bytes(struct.pack(f">I{len(dims)}I", magic, *dims) + payload)


@pytest.mark.parametrize("broken", ["truncated", "corrupt", "not gzip"])
def test_a_broken_idx_file_is_named(broken: str, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    code, line = complaint(capsys, "train", str(bench), "-s", f"train.dataset={folder}")
    assert code == 2
    assert "train-images-idx3-ubyte" in line


def test_a_folder_that_is_no_run(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("show", "report", "export", "watch"):
        code, line = complaint(capsys, verb, str(bench.parent))
        assert code == 2
        assert "no run folder" in line


def test_no_such_bench_names_the_shipped_ones(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint(capsys, "train", "emulatd")
    assert code == 2
    assert "emulated-ideal" in line


def test_zero_shift_without_a_calibration_names_characterize(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint(capsys, "zero-shift", str(bench), "-s", "zero_shift.size=[2,2]")
    assert code == 2
    assert "hil characterize" in line


def test_training_on_symmetry_points_nobody_measured(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint(capsys, "train", str(bench))
    assert code == 2
    assert "hil characterize" in line
    assert "zero-shift" in line


def test_json_carries_the_error(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "nowhere.toml", "--json"]) == 2
    out = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert out["exit"] == 2
    assert "nowhere.toml" in out["error"]
