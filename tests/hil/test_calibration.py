from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray

from hil.backend import PulseShape
from hil.calibration import QUANTITIES, Calibration, CalibrationStore
from hil.errors import DataError, ShapeError

SHAPE = PulseShape(1.0, -1.1, 1e-6)


def calibration(serial: str = "board-7", shape: PulseShape = SHAPE, arrays: int = 2, rows: int = 3) -> Calibration:
    generator = torch.Generator().manual_seed(5)
    size = (arrays, rows, 4)

    def field(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(size, generator=generator)

    cells = {name: field(1.0, 2.0) for name in QUANTITIES}
    cells |= {f"{name}_se": field(0.01, 0.02) for name in QUANTITIES if name != "g_ref"}
    cells |= {"g_min": field(60e-6, 80e-6), "g_max": field(120e-6, 140e-6), "asymmetry": field(1e4, 5e4)}
    responds = torch.ones(size, dtype=torch.bool)
    responds[0, 1, 2] = False
    cells["step"][0, 1, 2] = torch.nan
    return Calibration(
        serial=serial, shape=shape, **cells, responds=responds, no_sp=torch.zeros(size, dtype=torch.bool),
        siemens_per_weight=50e-6, procedure="characterize", run_id="run-1", date="2024-01-02T03:04:05+00:00", pulses=4711,
    )  # fmt: skip


def assert_equal(one: Calibration, other: Calibration) -> None:
    for name, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(other, name), value, rtol=0, atol=0, equal_nan=True)
        else:
            assert getattr(other, name) == value


@pytest.mark.slow
def test_file_gives_back_everything(tmp_path):
    made = calibration()
    made.save(tmp_path / "new" / "a.nc")
    assert_equal(made, Calibration.load(tmp_path / "new" / "a.nc", serial="board-7", shape=SHAPE))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.nc"]


def test_shape_with_one_value_per_array(tmp_path):
    shape = PulseShape((1.0, 1.1), -1.0, 1e-6, gate_up_v=1.2)
    calibration(shape=shape).save(tmp_path / "a.nc")
    assert Calibration.load(tmp_path / "a.nc").shape == shape


def test_file_explains_itself(tmp_path):
    calibration().save(tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as data:
        assert data["g_min"].dims == ("array", "row", "col")
        for name, (unit, definition) in QUANTITIES.items():
            assert (data[name].attrs["units"], data[name].attrs["long_name"]) == (unit, definition)
        assert data["step_se"].attrs == {"units": "siemens", "long_name": "standard error of step"}


def test_helpers():
    made = calibration()
    torch.testing.assert_close(made.mid, (made.g_min + made.g_max) / 2)
    torch.testing.assert_close(made.alpha, made.asymmetry * 50e-6 * 0.6)
    part = made.crop(slice(1, 3), slice(0, 2))
    torch.testing.assert_close(part.g_min, made.g_min[:, 1:3, :2])
    assert part.responds.shape == (2, 2, 2)
    rows = {name: value for name, value, unit, definition in made.summary()}
    assert rows["cells"] == 24
    assert rows["not_responding"] == 1
    assert rows["g_min"] == pytest.approx(float(made.g_min[made.responds].median()))
    assert np.isfinite(rows["step"])


def test_field_of_another_shape_or_type():
    made = calibration()
    with pytest.raises(ShapeError, match="step"):
        replace(made, step=made.step[:, :2])
    with pytest.raises(ShapeError, match="g_ref"):
        replace(made, g_ref=made.g_ref.double())


def one_line(raised: pytest.ExceptionInfo[DataError]) -> str:
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match="no such calibration") as raised:
        Calibration.load(tmp_path / "none.nc")
    one_line(raised)
    (tmp_path / "text.nc").write_text("g_min: 70 uS\n")
    with pytest.raises(DataError, match="not a calibration") as raised:
        Calibration.load(tmp_path / "text.nc")
    one_line(raised)
    xarray.Dataset({"x": ("t", np.zeros(3))}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="not a calibration") as raised:
        Calibration.load(tmp_path / "other.nc")
    one_line(raised)


@pytest.mark.parametrize("kept", [0, 100, 3000, -200])
def test_truncated_file(tmp_path, kept):
    calibration().save(tmp_path / "a.nc")
    data = (tmp_path / "a.nc").read_bytes()
    (tmp_path / "a.nc").write_bytes(data[:kept])
    with pytest.raises(DataError, match=r"a\.nc") as raised:
        Calibration.load(tmp_path / "a.nc")
    one_line(raised)


def changed(path, **attributes):
    """A copy with other attributes, None = left out."""
    with xarray.open_dataset(path, engine="h5netcdf") as data:
        copy = data.load()
    for name, value in attributes.items():
        if value is None:
            del copy.attrs[name]
        else:
            copy.attrs[name] = value
    copy.to_netcdf(path.with_name("changed.nc"), engine="h5netcdf")
    return path.with_name("changed.nc")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"version": None}, "version None"),
        ({"shape": "{"}, "incomplete"),
        ({"serial": None}, "incomplete"),
        ({"shape": '{"up_v": 1}'}, "incomplete"),
    ],
)
def test_file_of_another_make(tmp_path, attributes, message):
    calibration().save(tmp_path / "a.nc")
    with pytest.raises(DataError, match=message) as raised:
        Calibration.load(changed(tmp_path / "a.nc", **attributes))
    one_line(raised)


@pytest.mark.slow
def test_file_without_a_quantity(tmp_path):
    calibration().save(tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as data:
        data.load().drop_vars("slope_up").to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="slope_up"):
        Calibration.load(tmp_path / "b.nc")


@pytest.mark.slow
def test_file_of_another_board_names_both(tmp_path):
    calibration().save(tmp_path / "a.nc")
    with pytest.raises(DataError, match=r"board-7.*board-8") as raised:
        Calibration.load(tmp_path / "a.nc", serial="board-8")
    one_line(raised)
    with pytest.raises(DataError, match=r"up_v=1\.0.*up_v=2\.0") as raised:
        Calibration.load(tmp_path / "a.nc", shape=PulseShape(2.0, -1.1, 1e-6))
    one_line(raised)


@pytest.mark.slow
def test_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot save"):
        calibration().save(tmp_path / "file" / "a.nc")
    (tmp_path / "a.nc").mkdir()
    (tmp_path / "a.nc" / "inside").write_text("")
    with pytest.raises(DataError, match="cannot save"):
        calibration().save(tmp_path / "a.nc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "file"]


@pytest.mark.slow
def test_store(tmp_path):
    store = CalibrationStore(tmp_path / "store")
    assert store.find("board-7", SHAPE) is None
    other = PulseShape(1.0, -1.1, 2e-6)
    path = store.save(calibration())
    store.save(calibration(shape=other, rows=2))
    store.save(calibration(serial="board/7 left"))
    assert len(list((tmp_path / "store").iterdir())) == 3
    assert path.name.startswith("board-7-")
    found = store.find("board-7", SHAPE)
    assert found is not None
    assert_equal(found, calibration())
    assert store.find("board-7", other).responds.shape == (2, 2, 4)
    assert store.find("board/7 left", SHAPE).serial == "board/7 left"
    store.save(calibration(arrays=1))
    assert store.find("board-7", SHAPE).responds.shape == (1, 3, 4)


def test_store_refuses_a_file_of_another_board(tmp_path):
    store = CalibrationStore(tmp_path)
    store.save(calibration()).rename(store.path("board-8", SHAPE))
    with pytest.raises(DataError, match=r"board-7.*board-8"):
        store.find("board-8", SHAPE)
