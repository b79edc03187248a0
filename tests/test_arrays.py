"""Arrays and folders of whole pictures as data: what shapes and ranges mean, what is held out, and what is refused."""

import numpy as np
import pytest
import torch

from aecli.errors import AecliError, UsageError
from aecli.training.arrays import array_features, read_collection, resized_features, resized_folder, split_features

RNG = np.random.default_rng(0)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("shape", "pictures"),
    [
        ((20, 5, 7), (20, 1, 5, 7)),
        ((20, 5, 7, 3), (20, 3, 5, 7)),
        ((20, 5, 7, 4), (20, 3, 5, 7)),  # alpha is left out
        ((20, 3, 5, 7), (20, 3, 5, 7)),
        ((20, 1, 5, 7), (20, 1, 5, 7)),
        ((20, 9), (20, 1, 1, 9)),
        ((20, 2, 2, 2, 2), (20, 1, 1, 16)),
    ],
)
def test_shapes(tmp_path, shape, pictures):
    np.save(tmp_path / "a.npy", RNG.integers(0, 256, shape, dtype=np.uint8))
    collection, test = read_collection(tmp_path / "a.npy")
    assert tuple(collection.images[:].shape) == pictures
    assert collection.images[:].dtype == torch.uint8
    assert test is None


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (np.array([[0.25, 1.0], [0.0, 0.5]]), [[0.25, 1.0], [0.0, 0.5]]),  # within 0–1: as it is
        (np.array([[-1.0, 3.0], [1.0, 1.0]]), [[0.0, 1.0], [0.5, 0.5]]),
        (np.array([[0, 1000], [250, 500]], dtype=np.int32), [[0.0, 1.0], [0.25, 0.5]]),
        (np.array([[7.0, 7.0], [7.0, 7.0]]), [[0.0, 0.0], [0.0, 0.0]]),
        (np.array([[1e300, 0.0], [5e299, 2e299]]), [[1.0, 0.0], [0.5, 0.2]]),  # beyond float32
        (np.array([[1e9, 1e9 + 4], [1e9 + 1, 1e9 + 2]]), [[0.0, 1.0], [0.25, 0.5]]),  # closer than float32 can tell
    ],
)
def test_ranges(tmp_path, values, unit):
    np.save(tmp_path / "a.npy", values)
    images = read_collection(tmp_path / "a.npy")[0].images[:]
    torch.testing.assert_close(images[:, 0, 0], torch.tensor(unit))


def test_labels_of_any_kind_become_classes(tmp_path):
    path = saved(tmp_path / "a.npz", images=np.zeros((4, 2, 2), np.uint8), labels=np.array(["cat", "ant", "cat", "bee"]))
    collection, _ = read_collection(path)
    assert collection.class_names == ("ant", "bee", "cat")
    assert collection.classes.tolist() == [2, 0, 2, 1]


def test_a_test_set_of_its_own_is_taken(tmp_path):
    arrays = {"x_train": np.zeros((30, 4, 4), np.uint8), "x_test": np.full((5, 4, 4), 255, np.uint8)}
    data = array_features(saved(tmp_path / "a.npz", **arrays, y_train=np.arange(30) % 2, y_test=np.arange(5) % 2), seed=0)
    assert (len(data.train), len(data.test)) == (30, 5)
    assert (data.test == 1).all()
    assert data.test_labels.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("count", [2, 3, 10, 25, 100])
def test_one_row_in_ten_is_held_out_and_never_trained_on(tmp_path, count):
    np.save(tmp_path / "a.npy", np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8))
    data = split_features(read_collection(tmp_path / "a.npy")[0], seed=0)
    held = {round(255 * v) for v in data.test[:, 0, 0, 0].tolist()}
    trained = set(data.train[:][:, 0, 0, 0].tolist())
    assert len(held) == max(1, count // 10)
    assert held | trained == set(range(count))
    assert not held & trained


def test_pictures_of_mixed_sizes_are_reduced_to_their_central_squares(photo_folder):
    collection = resized_folder(str(photo_folder), 16, print)
    assert tuple(collection.images[:].shape) == (3, 3, 16, 16)
    assert collection.names == ("arches.png", "colosseum.png", "skyline.png")
    data = resized_features(str(photo_folder), None, 16, seed=0, tell=print)  # three pictures are enough
    assert (len(data.train), len(data.test)) == (2, 1)


def test_folders_are_classes(photo_folder):
    for name in ("near", "far"):
        (photo_folder / name).mkdir()
    for index, path in enumerate(sorted(photo_folder.glob("*.png"))):
        path.rename(photo_folder / ("near" if index else "far") / path.name)
    collection = resized_folder(str(photo_folder), 8, print)
    assert collection.class_names == ("far", "near")
    assert collection.classes.tolist() == [0, 1, 1]


NAN = np.zeros((4, 3), np.float32)
NAN[2, 1] = np.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros(5)}, r"has shape \(5,\): a set of pictures is"),
        ({"images": np.zeros((0, 4))}, r"has shape \(0, 4\)"),
        ({"images": NAN}, r"holds NaN or infinite values \(the first in row 2\)"),
        ({"images": np.array([["a"]])}, "pictures are made of bytes, whole numbers or floats"),
        ({"images": np.zeros((4, 3)), "labels": np.zeros(3, int)}, r"give one number or word for each of 4 rows"),
        ({"one": np.zeros((4, 3)), "two": np.zeros((4, 3))}, "holds one, two: call the array of pictures images"),
        ({"x_train": np.zeros((4, 3)), "x_test": np.zeros((4, 5))}, "holds pictures of two sizes"),
        ({"images": np.array([np.zeros(2), np.zeros(3)], object)}, "holds objects, such as pictures of several sizes: save one"),
        ({"images": np.array([[-1e308], [1e308]])}, "holds values from -1e\\+308 to 1e\\+308, which are too far apart"),
    ],
)
def test_what_is_no_set_of_pictures_is_refused(tmp_path, arrays, message):
    with pytest.raises((UsageError, AecliError), match=message):
        read_collection(saved(tmp_path / "a.npz", **arrays))


def test_files_that_are_no_arrays_are_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist: check --data"):
        read_collection(tmp_path / "none.npy")
    for name in ("a.npy", "a.npz"):
        (tmp_path / name).write_bytes(b"not an array")
        with pytest.raises(AecliError, match="cannot be read as an array of numbers"):
            read_collection(tmp_path / name)
    np.save(tmp_path / "mixed.npy", np.array([np.zeros(2), np.zeros(3)], object))
    with pytest.raises(UsageError, match="holds objects, such as pictures of several sizes"):
        read_collection(tmp_path / "mixed.npy")
    np.save(tmp_path / "one.npy", np.zeros((1, 4)))
    with pytest.raises(AecliError, match="training and measuring take two or more"):
        split_features(read_collection(tmp_path / "one.npy")[0], seed=0)
