"""Data sets: fixed splits, strict files, options that never move a sample from one part to another."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from hil import datasets
from hil.datasets import Dataset, load
from hil.errors import DataError, UsageError

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
PARTS = ("train", "validation", "test")
FUZZ = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.astype(np.uint8).tobytes()


def mnist_files(train: int = 12, test: int = 6, side: int = 4) -> dict[str, np.ndarray]:
    """A small folder's content: image k is filled with k, labels count 0, 1, 2, 0, ..."""
    return {
        "train-images-idx3-ubyte": np.arange(train)[:, None, None] * np.ones((1, side, side)),
        "train-labels-idx1-ubyte": np.arange(train) % 3,
        "t10k-images-idx3-ubyte": np.arange(test)[:, None, None] * np.ones((1, side, side)),
        "t10k-labels-idx1-ubyte": np.arange(test) % 3,
    }


def write(folder: Path, files: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, values in files.items():
        (folder / name).write_bytes(idx(values))
    return folder


def is_valid(data: Dataset) -> bool:
    for name in PARTS:
        x, y = data.part(name)
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
        assert x.shape == (len(y), data.shape[0] * data.shape[1])
        assert bool(((x >= 0) & (x <= 1)).all())
        assert bool(((y >= 0) & (y < len(data.classes))).all())
    return True


def test_digits_split_is_fixed():
    data = load("digits")
    assert is_valid(data)
    assert (data.name, data.shape, data.classes) == ("digits", (8, 8), tuple("0123456789"))
    assert [len(data.part(name)[1]) for name in PARTS] == [1150, 287, 360]
    x = data.full_train()[0]
    assert x.shape == (1437, 64)
    assert torch.equal(x[1150:], data.validation_x)
    # Pinned: another split would make every earlier accuracy incomparable.
    assert data.test_y[:12].tolist() == [0, 6, 3, 8, 1, 8, 4, 1, 5, 8, 9, 7]
    assert data.train_y[:12].tolist() == [6, 7, 4, 4, 2, 4, 4, 9, 9, 8, 6, 1]
    # Nothing lost, nothing twice: one exact number per image, sums of sixteenths.
    source = torch.from_numpy(load_digits().data / 16)
    code = torch.arange(64, dtype=torch.float64) ** 2
    found = torch.cat((x, data.test_x)).double() @ code
    assert torch.equal(found.sort().values, (source @ code).sort().values)


@pytest.mark.slow
def test_digits_options():
    whole, data = load("digits"), load("digits", classes=(8, 3), pool=2, limit=40)
    assert is_valid(data)
    assert (data.shape, data.classes, [len(data.part(name)[1]) for name in PARTS]) == ((4, 4), ("8", "3"), [40, 40, 40])
    kept = (whole.test_y == 8) | (whole.test_y == 3)
    assert torch.equal(data.test_y, (whole.test_y[kept] == 3).long()[:40])
    first = whole.test_x[kept][0].reshape(8, 8)
    torch.testing.assert_close(data.test_x[0, 0], first[:2, :2].mean())
    torch.testing.assert_close(data.test_x[0, 7], first[2:4, 6:].mean())
    assert len(load("digits", validation=0).validation_y) == 0
    assert torch.equal(load("digits", validation=0).train_x, whole.full_train()[0])


@pytest.mark.parametrize(
    "options",
    [
        {"validation": 1.0},
        {"validation": -0.1},
        {"limit": 0},
        {"pool": 3},
        {"pool": 0},
        {"classes": (3,)},
        {"classes": (3, 3)},
        {"classes": (3, 10)},
        {"classes": ()},
    ],
)
def test_bad_options(options):
    with pytest.raises(UsageError, match=r"^data set digits: [^\n]+: [^\n]+$"):
        load("digits", **options)


def test_unknown_part():
    with pytest.raises(UsageError, match="train, validation, test"):
        load("digits").part("dev")


def test_idx_folder(tmp_path):
    data = load(write(tmp_path / "tiny", mnist_files()))
    assert is_valid(data)
    assert (data.name, data.shape, data.classes) == ("tiny", (4, 4), ("0", "1", "2"))
    assert [len(data.part(name)[1]) for name in PARTS] == [10, 2, 6]
    torch.testing.assert_close(data.validation_x[:, 0], torch.tensor([10.0, 11.0]) / 255)
    assert data.validation_y.tolist() == [1, 2]
    assert len(load(tmp_path / "tiny", validation=0.5).validation_y) == 6


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_names(tmp_path, mark, packed):
    for name, values in mnist_files().items():
        content = idx(values)
        path = tmp_path / (name.replace("-idx", f"{mark}idx") + ".gz" * packed)
        path.write_bytes(gzip.compress(content) if packed else content)
    assert is_valid(load(str(tmp_path)))


def test_labels_from_one(tmp_path):
    files = mnist_files()
    files["train-labels-idx1-ubyte"] += 1
    files["t10k-labels-idx1-ubyte"] += 1
    data = load(write(tmp_path, files))
    assert data.classes == ("1", "2", "3")
    assert data.train_y[:4].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("train-labels-idx1-ubyte", np.arange(11) % 3, "11 labels for the 12 images"),
        ("train-labels-idx1-ubyte", np.r_[np.arange(11) % 3, 200], "training labels 0 to 200"),
        ("train-labels-idx1-ubyte", 2 + np.arange(12) % 3, "training labels 2 to 4"),
        ("t10k-labels-idx1-ubyte", np.full(6, 3), "test label"),
        ("t10k-images-idx3-ubyte", np.zeros((6, 5, 5)), "images of two sizes"),
        ("t10k-images-idx3-ubyte", np.zeros(6), "1 dimensions where 3"),
    ],
)
def test_files_that_do_not_fit(tmp_path, name, values, says):
    files = mnist_files()
    files[name] = values
    with pytest.raises(DataError, match=rf"^{tmp_path}[^\n]*{says}[^\n]*: [^\n]+$"):
        load(write(tmp_path, files))


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "absent")
    files = mnist_files()
    del files["t10k-labels-idx1-ubyte"]
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing"):
        load(write(tmp_path, files))


def loaded_or_refused(folder: Path) -> Dataset | str:
    try:
        return load(folder)
    except DataError as error:
        return str(error)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_damaged_folder_is_refused_or_valid(tmp_path, data):
    files = {name: idx(values) for name, values in mnist_files().items()}
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    content[data.draw(st.integers(0, min(len(content), 40) - 1))] = data.draw(st.integers(0, 255))
    files[name] = bytes(content[: data.draw(st.sampled_from((len(content), len(content) // 2, 3)))])
    for file, value in files.items():
        (tmp_path / file).write_bytes(value)
    result = loaded_or_refused(tmp_path)
    if isinstance(result, str):
        assert "\n" not in result
    else:
        assert is_valid(result)


def openml(monkeypatch, answer):
    def fetch(name, **options):
        assert name == "toy"
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "_sklearn", lambda name: SimpleNamespace(fetch_openml=fetch))


def test_openml_table(monkeypatch):
    x = np.linspace(-3, 5, 60).reshape(20, 3)
    openml(monkeypatch, SimpleNamespace(data=x, target=np.array(["a", "b"] * 10, dtype=object)))
    data = load("openml:toy")
    assert is_valid(data)
    assert (data.name, data.shape, data.classes) == ("openml:toy", (1, 3), ("a", "b"))
    assert [len(data.part(name)[1]) for name in PARTS] == [14, 2, 4]
    train = data.full_train()[0]
    torch.testing.assert_close(train.amin(dim=0), torch.zeros(3))
    torch.testing.assert_close(train.amax(dim=0), torch.ones(3))


def test_openml_image_keeps_its_zero(monkeypatch):
    x = np.full((10, 4), 100.0)
    x[:, 0] = 50
    openml(monkeypatch, SimpleNamespace(data=x, target=np.arange(10) % 2))
    data = load("openml:toy")
    assert data.shape == (2, 2)
    torch.testing.assert_close(data.train_x[0], torch.tensor([0.5, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    "answer",
    [
        OSError("[Errno -2] Name or service not known"),
        ValueError("Dataset toy\nnot found."),
        TimeoutError(),
        SimpleNamespace(data=np.full((9, 2), np.nan), target=np.zeros(9)),
        SimpleNamespace(data=np.array([["x", 1]] * 9, dtype=object), target=np.zeros(9)),
        SimpleNamespace(data=np.zeros((9, 2)), target=None),
        SimpleNamespace(data=np.zeros((3, 2)), target=np.zeros(3)),
    ],
)
def test_openml_refused(monkeypatch, answer):
    openml(monkeypatch, answer)
    with pytest.raises(DataError, match=r"^openml:toy: [^\n]+: [^\n]+$"):
        load("openml:toy")


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"crosspoint-hil\[data\]"):
        load("digits")


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not beside the checkout")
def test_mnist():
    data = load(MNIST, classes=(3, 8), pool=2, limit=500)
    assert is_valid(data)
    assert (data.shape, data.classes, len(data.train_y)) == ((14, 14), ("3", "8"), 500)
    whole = load(MNIST)
    assert [len(whole.part(name)[1]) for name in PARTS] == [50_000, 10_000, 10_000]
    assert whole.train_y[:5].tolist() == [5, 0, 4, 1, 9]
    assert whole.test_y[:5].tolist() == [7, 2, 1, 0, 4]
    assert whole.train_x.mean().item() == pytest.approx(0.1307, abs=2e-3)
