"""Data to learn from that is no set of patches: arrays in .npy and .npz files, folders of pictures reduced to one size."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aecli.errors import AecliError, UsageError
from aecli.patches import reduced
from aecli.training.data import (
    HELD_OUT_IMAGES,
    ArraySource,
    Decoded,
    FeatureData,
    Pictures,
    as_unit,
    evenly,
    folder_pictures,
    read_rgb,
    useful,
)

SUFFIXES = (".npy", ".npz")
# Where an .npz keeps its pictures and their classes, the first that is there; x_test and y_test are a test set of their own.
IMAGES = ("x_train", "images", "x", "data", "arr_0")
LABELS = ("y_train", "labels", "y", "target", "targets")
TEST_SHARE = 10  # one row in ten is held out
MOST_TEST = 10_000
CHUNK = 4096  # rows looked at together
OBJECT_LABELS = "holds objects: write the names of the classes as words, array.astype(str), or as whole numbers"
OBJECTS = "holds objects, such as pictures of several sizes: save one array of pictures of one size, or a folder and --resize"


class Rows:
    """Some rows of an array that may be larger than memory, as pictures: values outside 0–1 are moved into it when read.

    `rows[…]` takes a slice, an index array or an index tensor and gives (n, C, H, W): uint8, or float32 in 0–1.
    """

    def __init__(self, array: np.ndarray, rows: np.ndarray, low: float = 0.0, high: float = 1.0) -> None:
        self._array, self._rows, self._low, self._high = array, rows, low, high

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: slice | Tensor | np.ndarray) -> Tensor:
        rows = self._rows[key.numpy() if isinstance(key, Tensor) else key]
        values = np.ascontiguousarray(self._array[rows])
        if values.dtype == np.uint8:
            return torch.from_numpy(values)
        unit = np.empty(values.shape, np.float32)
        for start in range(0, len(values), CHUNK):  # in double precision: float32 does not reach as far, nor tell 1e8 from 1e8 + 1
            unit[start : start + CHUNK] = (values[start : start + CHUNK].astype(np.float64) - self._low) / (self._high - self._low)
        return torch.from_numpy(unit)


@dataclass(frozen=True)
class Collection:
    """Pictures of one size, all of them, before any are held out.

    classes: an index into class_names for each, or None. names: what each is called (a file), or none. rows: where each stood
    in the collection that these were chosen from.
    """

    name: str
    images: Pictures  # (N, C, H, W)
    classes: Tensor | None = None
    class_names: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    rows: Sequence[int] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a picture."""
        channels, height, width = self.images[:1].shape[1:]
        return channels, height, width

    def at_most(self, count: int) -> Collection:
        """So many of the pictures, evenly spread, or all of them."""
        rows = np.linspace(0, len(self.images) - 1, min(count, len(self.images))).round().astype(int)
        classes = None if self.classes is None else self.classes[torch.from_numpy(rows)]
        names = tuple(self.names[row] for row in rows) if self.names else ()
        return replace(self, images=_select(self.images, rows), classes=classes, names=names, rows=rows.tolist())

    def unit_images(self) -> Tensor:
        """All of them, (N, C, H, W) float32 in 0–1."""
        return as_unit(self.images[:])


def read_collection(path: Path) -> tuple[Collection, Collection | None]:
    """The pictures of an .npy or .npz file, and its own test set where an .npz has one (x_test).

    Arrays are (N, H, W), (N, H, W, C), (N, C, H, W) with one or three channels, or (N, …) of anything, then a row of numbers
    each. Bytes are taken as 0–255, floats in 0–1 as they are; the range of all other values is mapped to 0–1. Raises AecliError
    for a damaged file, UsageError for an array that is no set of pictures.
    """
    if path.suffix == ".npy":
        array = _load(path, mmap_mode="c")  # read as it is needed
        return _collection(str(path), path.stem, array, None), None
    members = _load(path)
    with members:
        images = _member(members, IMAGES, path) if any(k in members for k in IMAGES) else _only_array(members, path)
        train = _collection(str(path), path.stem, images, _member(members, LABELS, path))
        if "x_test" not in members:
            return train, None
        test = _collection(f"x_test of {path}", path.stem, _member(members, ("x_test",), path), _member(members, ("y_test",), path))
    if test.images[:1].shape != train.images[:1].shape:
        raise UsageError(f"{path} holds pictures of two sizes: x_train and x_test must agree")
    if (train.classes is None) != (test.classes is None) or train.class_names != test.class_names:
        return _unlabelled(train), _unlabelled(test)
    return train, test


def array_features(path: Path, seed: int) -> FeatureData:
    """An array to train and measure on: its own test set, or one row in ten, is held out."""
    train, test = read_collection(path)
    if test is None:
        return split_features(train, seed)
    rows = evenly(len(test.images), MOST_TEST)
    shown = as_unit(test.images[rows])
    return FeatureData(
        name=f"{train.name}, {len(train.images)} training pictures",
        source=ArraySource(train.images, seed),
        train=train.images,
        train_labels=train.classes,
        valid=shown[evenly(len(shown), HELD_OUT_IMAGES)],
        test=shown,
        test_labels=None if test.classes is None else test.classes[rows],
        class_names=train.class_names,
    )


def resized_folder(folder: str, side: int, tell: Callable[[str], None]) -> Collection:
    """A folder's pictures, the central square of each reduced to side × side; sub-folders, if all lie in some, are the classes.

    Tells which pictures are left out, as they cannot be read.
    """
    found = [(path, _reduced(pixels, side)) for path, pixels in useful(folder_pictures(folder, tell), 1, tell)]
    paths, images = [path for path, _ in found], torch.stack([image for _, image in found])
    classes, class_names = _folder_classes(folder, paths)
    names = tuple(str(path.relative_to(folder)) for path in paths)
    return Collection(f"{Path(folder).resolve().name}, pictures of {side}×{side}", images, classes, class_names, names)


def _folder_classes(folder: str, paths: Sequence[Path]) -> tuple[Tensor | None, tuple[str, ...]]:
    parents = [path.relative_to(folder).parts[0] if path.parent != Path(folder) else "" for path in paths]
    return (None, ()) if "" in parents else _indices(np.array(parents))


def folder_patches(folder: str, side: int, count: int, seed: int, tell: Callable[[str], None]) -> Collection:
    """About `count` patches of side × side, as many of each picture as of any other, at places that do not overlap.

    Tells which pictures are left out. Raises AecliError where no picture is as large as a patch.
    """
    decoded = Decoded()
    paths = [path for path, _ in useful(folder_pictures(folder, tell), side, tell, decoded)]
    rng = np.random.default_rng(seed)
    patches, names, sources = [], [], []
    for path in paths:
        pixels = decoded[path]
        rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
        cells = rng.permutation(rows * columns)[: -(-count // len(paths))]
        for top, left in ((cell // columns * side, cell % columns * side) for cell in sorted(cells.tolist())):
            patches.append(torch.from_numpy(pixels[top : top + side, left : left + side]).permute(2, 0, 1))
            names.append(f"{path.relative_to(folder)}, {left} across, {top} down")
            sources.append(path)
    classes, class_names = _folder_classes(folder, sources)
    name = f"{Path(folder).resolve().name}, patches of {side}×{side}"
    return Collection(name, torch.stack(patches), classes, class_names, tuple(names))


def thumbnails(folder: str, names: Sequence[str], side: int) -> Tensor:
    """The pictures of a folder that have these names below it, their central squares, (n, 3, side, side) uint8."""
    return torch.stack([resized(Path(folder) / name, side) for name in names])


def resized(path: Path, side: int) -> Tensor:
    """The central square of a picture, (3, side, side) uint8."""
    return _reduced(read_rgb(path), side)


def _reduced(pixels: np.ndarray, side: int) -> Tensor:
    return torch.from_numpy(reduced(pixels, side)).permute(2, 0, 1)


def resized_features(folder: str, valid_folder: str | None, side: int, seed: int, tell: Callable[[str], None]) -> FeatureData:
    """A folder of whole pictures, reduced, to train and measure on. Tells which are left out."""
    collection = resized_folder(folder, side, tell)
    if valid_folder is None:
        return split_features(collection, seed)
    test = as_unit(resized_folder(valid_folder, side, tell).images[:])
    return FeatureData(
        name=f"{collection.name}, {len(collection.images)} training pictures",
        source=ArraySource(collection.images, seed),
        train=collection.images,
        train_labels=None,
        valid=test,
        test=test,
        test_labels=None,
    )


def split_features(collection: Collection, seed: int) -> FeatureData:
    """Hold one row in ten out, evenly spread, at most 10,000. Raises AecliError for fewer than two rows."""
    count = len(collection.images)
    if count < 2:
        raise AecliError(f"{collection.name} holds {count} picture: training and measuring take two or more, so add some")
    held = min(MOST_TEST, max(1, count // TEST_SHARE))
    test_rows = np.linspace(0, count - 1, held + 2).round().astype(int)[1:-1] if held + 2 <= count else np.array([count - 1])
    train_rows = np.setdiff1d(np.arange(count), test_rows)
    test = as_unit(collection.images[test_rows])
    train_labels, test_labels = (
        None if collection.classes is None else collection.classes[torch.from_numpy(rows)] for rows in (train_rows, test_rows)
    )
    train = _select(collection.images, train_rows)
    return FeatureData(
        name=f"{collection.name}, {len(train)} training pictures",
        source=ArraySource(train, seed),
        train=train,
        train_labels=train_labels,
        valid=test[evenly(len(test), HELD_OUT_IMAGES)],
        test=test,
        test_labels=test_labels,
        class_names=collection.class_names,
    )


def _select(images: Pictures, rows: np.ndarray) -> Pictures:
    if isinstance(images, Rows):
        return Rows(images._array, images._rows[rows], images._low, images._high)
    return images[torch.from_numpy(rows)]


def _load(path: Path, **options: Any) -> Any:
    try:
        return np.load(path, allow_pickle=False, **options)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist: check --data") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if "Python objects" in str(error):
            raise UsageError(f"{path} {OBJECTS}") from error
        raise AecliError(f"{path} cannot be read as an array of numbers: write it again with numpy.save") from error


def _member(members: Any, wanted: Sequence[str], path: Path) -> np.ndarray | None:
    for key in wanted:
        if key in members:
            try:
                found: np.ndarray = members[key]
            except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
                if "Object arrays" in str(error):
                    raise UsageError(f"{key} in {path} {OBJECT_LABELS if key in (*LABELS, 'y_test') else OBJECTS}") from error
                raise AecliError(f"{key} in {path} is damaged ({error}): write it again") from error
            return found
    return None


def _only_array(members: Any, path: Path) -> np.ndarray | None:
    if len(members.files) != 1:
        found = ", ".join(members.files) or "nothing"
        raise UsageError(f"{path} holds {found}: call the array of pictures images, and that of their classes labels")
    return _member(members, members.files, path)


def _collection(where: str, name: str, array: np.ndarray | None, labels: np.ndarray | None) -> Collection:
    assert array is not None
    pictures = _as_pictures(where, array)
    low, high = (0.0, 1.0) if pictures.dtype == np.uint8 else _range(where, pictures)
    if (low, high) != (0.0, 1.0):
        name = f"{name}, values {low:g} to {high:g} mapped to 0–1"
    classes, class_names = (None, ()) if labels is None else _indices(_checked_labels(where, labels, len(pictures)))
    return Collection(name, Rows(pictures, np.arange(len(pictures)), low, high), classes, class_names)


def _as_pictures(where: str, array: np.ndarray) -> np.ndarray:
    """(N, …) → (N, C, H, W)."""
    if array.ndim < 2 or 0 in array.shape:
        raise UsageError(f"{where} has shape {array.shape}: a set of pictures is (N, H, W), (N, H, W, C) or (N, numbers)")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise UsageError(f"{where} holds {array.dtype} values: pictures are made of bytes, whole numbers or floats")
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        return np.moveaxis(array[..., :3], 3, 1)  # without alpha
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    return array.reshape(len(array), 1, 1, -1)


def _range(where: str, array: np.ndarray) -> tuple[float, float]:
    """(0, 1) where all values lie there, else their smallest and largest. Raises UsageError for NaN and infinities."""
    low, high = np.inf, -np.inf
    for start in range(0, len(array), CHUNK):
        part = array[start : start + CHUNK]
        finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            bad = start + int(np.argmin(finite))
            raise UsageError(f"{where} holds NaN or infinite values (the first in row {bad}): replace them or leave the row out")
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if not high - low < np.inf:
        raise UsageError(f"{where} holds values from {low:g} to {high:g}, which are too far apart: scale them down")
    return low, high if high > low else low + max(1.0, abs(low))


def _checked_labels(where: str, labels: np.ndarray, count: int) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "biufUS":
        raise UsageError(
            f"the labels of {where} have shape {labels.shape} of {labels.dtype}: give one number or word for each of {count} rows"
        )
    if labels.dtype.kind == "f":
        odd = labels[~np.isfinite(labels) | (labels != np.round(labels))]
        if len(odd):
            raise UsageError(
                f"the labels of {where} have values such as {odd[0]:g}, which name no class: "
                f"give one number or word for each of {count} rows, or leave them out"
            )
        labels = labels.astype(np.int64)  # 1.0 is class 1
    return labels


def _indices(labels: np.ndarray) -> tuple[Tensor, tuple[str, ...]]:
    """Labels (N,) of any kind → indices (N,) into the sorted names."""
    found, indices = np.unique(labels, return_inverse=True)
    return torch.from_numpy(indices), tuple(v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in found)


def _unlabelled(collection: Collection) -> Collection:
    return Collection(collection.name, collection.images, names=collection.names)
