"""Labelled images for training: the embedded digits, MNIST-format folders, OpenML by name.

Three parts, fixed for ever: *train* to learn from, *validation* to select by, *test* to report. The split is made on
the whole source, before classes are chosen or samples dropped, so no option moves a sample from one part to another.
"""

from __future__ import annotations

import http.client
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from hil.errors import DataError, UsageError
from hil.idx import read_idx

__all__ = ["Dataset", "load"]

PARTS = ("train", "validation", "test")
MNIST_VALIDATION = 10_000
"""Default length of the validation part: this many of the training samples, in sets below 60,000 every sixth."""
DIGITS_VALIDATION = 0.2


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three parts of one labelled set. x: float32 [sample features] in [0, 1], row-major pixels; y: int64 [sample]."""

    name: str
    shape: tuple[int, int]
    """Height and width of a sample; features = height * width (height 1: no image)."""
    classes: tuple[str, ...]
    """What the source calls class k; labels run from 0 to len(classes) - 1."""
    train_x: Tensor
    train_y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def full_train(self) -> tuple[Tensor, Tensor]:
        """(x, y) of train followed by validation: for a run that selects nothing and so needs no validation part."""
        return torch.cat((self.train_x, self.validation_x)), torch.cat((self.train_y, self.validation_y))

    def part(self, name: str) -> tuple[Tensor, Tensor]:
        """(x, y) of ``train``, ``validation`` or ``test``; UsageError for another name."""
        if name not in PARTS:
            raise UsageError(f"data set {self.name}: no part {name!r}: choose one of {', '.join(PARTS)}")
        return getattr(self, f"{name}_x"), getattr(self, f"{name}_y")


def load(
    source: str | Path,
    *,
    validation: float | None = None,
    classes: Sequence[int | str] | None = None,
    pool: int = 1,
    limit: int | None = None,
) -> Dataset:
    """A data set, split into train, validation and test.

    source: ``digits`` (1,797 images of 8 x 8, embedded in scikit-learn: 1,150 train, 287 validation, 360 test),
    ``openml:NAME`` (fetched from the network, a fifth of it test), or a folder with the four IDX files of MNIST, plain
    or .gz (``./digits`` where a folder has such a name).
    validation: fraction of the training samples held back, 0 <= f < 1; default 287 of the digits' 1,437, elsewhere the
    last 10,000, or a sixth of a set with fewer than 60,000. classes: only these, relabelled 0, 1, ... in the order
    given. pool: mean over pool x pool pixels; divides height and width. limit: at most so many samples of each part,
    the first ones, after the choice of classes.
    Raises UsageError for an option out of range, DataError for a source that is missing, malformed or unreachable.
    """
    if validation is not None and not 0 <= validation < 1:
        raise UsageError(f"data set {source}: validation = {validation} is no fraction of the training: use 0 <= f < 1")
    if limit is not None and limit < 1:
        raise UsageError(f"data set {source}: limit = {limit} leaves no sample: use 1 or more")
    if source == "digits":
        data = _digits(validation)
    elif isinstance(source, str) and source.startswith("openml:"):
        data = _openml(source.removeprefix("openml:"), validation)
    else:
        data = _idx_folder(Path(source), validation)
    if classes is not None:
        data = _choose(data, tuple(str(name) for name in classes))
    if pool != 1:
        data = _pooled(data, pool)
    return data if limit is None else _each_part(data, lambda x, y: (x[:limit], y[:limit]))


def _digits(validation: float | None) -> Dataset:
    """scikit-learn's embedded digits (UCI optdigits, test half), pixel / 16."""
    source = _sklearn("digits").load_digits()
    fraction = DIGITS_VALIDATION if validation is None else validation
    return _shuffled("digits", (8, 8), tuple("0123456789"), source.data / 16, source.target, fraction)


def _openml(name: str, validation: float | None) -> Dataset:
    """A table with a class to predict. Whole numbers from 0 on, a square count of them, are taken for an image."""
    datasets = _sklearn(f"openml:{name}")
    try:
        table = datasets.fetch_openml(name, as_frame=False, n_retries=0)
    except (OSError, ValueError, http.client.HTTPException) as exc:
        why = " ".join(str(exc).split()) or type(exc).__name__
        raise DataError(f"openml:{name}: not fetched ({why}): check the name and the network, or use a folder") from exc
    if not isinstance(table.data, np.ndarray) or table.data.ndim != 2 or np.ndim(table.target) != 1:
        raise DataError(f"openml:{name}: no dense table with one target: choose another data set")
    try:
        x = table.data.astype(np.float64)
    except (TypeError, ValueError) as exc:
        raise DataError(f"openml:{name}: a feature is no number: choose a data set with numeric features") from exc
    if x.shape[0] < 6 or x.shape[1] < 1 or not np.isfinite(x).all():
        raise DataError(f"openml:{name}: fewer than 6 samples, no feature, or missing values: choose another data set")
    labels, y = np.unique(table.target.astype(str), return_inverse=True)
    side = math.isqrt(x.shape[1])
    seen = x[_order(len(x))[_test_length(len(x)) :]]
    image = side * side == x.shape[1] and bool((x >= 0).all() and (x == np.floor(x)).all())
    low, high = (0.0, seen.max()) if image else (seen.min(axis=0), seen.max(axis=0))
    # The scale comes from the training samples alone; a test value beyond it is clipped into [0, 1].
    x = np.clip((x - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    shape = (side, side) if image else (1, x.shape[1])
    return _shuffled(f"openml:{name}", shape, tuple(labels.tolist()), x, y, validation)


def _idx_folder(folder: Path, validation: float | None) -> Dataset:
    if not folder.is_dir():
        raise DataError(f"data set {folder}: no such folder: give digits, openml:NAME or a folder of MNIST's four IDX files")
    train, train_label = _idx_pair(folder, "train")
    test, test_label = _idx_pair(folder, "t10k")
    if train.shape[1:] != test.shape[1:]:
        sizes = f"{train.shape[1:]} for training, {test.shape[1:]} for test"
        raise DataError(f"{folder}: images of two sizes ({sizes}): use files of one data set")
    # MNIST counts from 0, EMNIST's letters from 1; a gap below the largest label means that one is corrupt.
    low, high = int(train_label.min()), int(train_label.max())
    if low > 1 or len(np.unique(train_label)) != high - low + 1:
        raise DataError(f"{folder}: training labels {low} to {high} are not a whole 0..K-1 or 1..K: one is out of range")
    if test_label.min() < low or test_label.max() > high:
        raise DataError(f"{folder}: a test label is out of range {low} to {high}: use files of one data set")
    names = tuple(str(label) for label in range(low, high + 1))
    shape = (train.shape[1], train.shape[2])
    return _split(
        folder.name,
        shape,
        names,
        (_pixels(train), torch.from_numpy(train_label.astype(np.int64) - low)),
        (_pixels(test), torch.from_numpy(test_label.astype(np.int64) - low)),
        validation,
    )


def _idx_pair(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = (_find(folder, f"{part}-images", 3), _find(folder, f"{part}-labels", 1))
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if len(x) != len(y):
        raise DataError(f"{labels}: {len(y)} labels for the {len(x)} images of {images.name}: use files of one data set")
    return x, y


def _find(folder: Path, stem: str, dims: int) -> Path:
    names = [f"{stem}{mark}idx{dims}-ubyte{end}" for end in ("", ".gz") for mark in ("-", ".")]
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise DataError(f"{folder}: {names[0]} is missing: put it there, plain or .gz")


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32)).div_(255)


def _sklearn(name: str) -> Any:
    try:
        import sklearn.datasets
    except ImportError as exc:
        raise UsageError(f"data set {name}: scikit-learn is missing: pip install 'crosspoint-hil[data]'") from exc
    return sklearn.datasets


def _order(samples: int) -> NDArray[np.intp]:
    # Sorting the bit generator's raw output: numpy keeps that stream for ever, unlike Generator.permutation's.
    return np.argsort(np.random.PCG64(0).random_raw(samples), kind="stable")


def _test_length(samples: int) -> int:
    return math.ceil(samples / 5)


def _shuffled(
    name: str, shape: tuple[int, int], classes: tuple[str, ...], x: Any, y: Any, validation: float | None
) -> Dataset:
    """Split a source that has no test part of its own: a fixed permutation, the first fifth is test."""
    order = _order(len(x))
    images, labels = torch.from_numpy(x[order].astype(np.float32)), torch.from_numpy(y[order].astype(np.int64))
    cut = _test_length(len(x))
    return _split(name, shape, classes, (images[cut:], labels[cut:]), (images[:cut], labels[:cut]), validation)


def _split(
    name: str,
    shape: tuple[int, int],
    classes: tuple[str, ...],
    training: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    validation: float | None,
) -> Dataset:
    """Take the validation part off the end of the training samples."""
    x, y = training
    held = min(MNIST_VALIDATION, len(x) // 6) if validation is None else int(validation * len(x))
    cut = len(x) - held
    return Dataset(name, shape, classes, x[:cut], y[:cut], x[cut:], y[cut:], *test)


def _each_part(data: Dataset, change: Any) -> Dataset:
    fields: dict[str, Any] = {}
    for name in PARTS:
        fields[f"{name}_x"], fields[f"{name}_y"] = change(*data.part(name))
    return replace(data, **fields)


def _choose(data: Dataset, wanted: tuple[str, ...]) -> Dataset:
    """Only the wanted classes, label k = the k-th wanted."""
    unknown = [name for name in wanted if name not in data.classes]
    if len(wanted) < 2 or unknown or len(set(wanted)) != len(wanted):
        has = ", ".join(data.classes[:12]) + (", ..." if len(data.classes) > 12 else "")
        raise UsageError(f"data set {data.name}: classes {', '.join(wanted) or 'none'}: give two or more out of {has}")
    new_label = torch.full((len(data.classes),), -1)
    new_label[[data.classes.index(name) for name in wanted]] = torch.arange(len(wanted))

    def chosen(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        label = new_label[y]
        return x[label >= 0], label[label >= 0]

    return replace(_each_part(data, chosen), classes=wanted)


def _pooled(data: Dataset, pool: int) -> Dataset:
    height, width = data.shape
    if pool < 1 or height % pool or width % pool:
        raise UsageError(f"data set {data.name}: pool = {pool} does not divide {height} x {width} pixels: choose a divisor")

    def pooled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return avg_pool2d(x.reshape(-1, 1, height, width), pool).reshape(len(x), -1), y

    return replace(_each_part(data, pooled), shape=(height // pool, width // pool))
