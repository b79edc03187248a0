"""Odd data, for every command that learns from data or judges them: a right result, or one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, saved, tiny_dense
from PIL import Image
from typer.testing import CliRunner, Result

from aecli.cli import app
from aecli.training import data as training_data

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (30, 8, 8), dtype=np.uint8)
WITH_NAN = RNG.random((30, 8, 8))
WITH_NAN[7, 3, 3] = np.nan
MIXED = np.array([np.zeros((2, 2)), np.zeros((3, 3))], dtype=object)
COMMANDS = {
    "train": "train --arch dense --latent-dim 2 --epochs 1 --data {} -o out.safetensors",
    "compare-pca": "compare-pca --arch dense --dims 2 --epochs 1 --data {} -o out.svg --format svg",
    "project": "project {} --epochs 1 -o out.svg",
}


@pytest.fixture
def aecli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Result]:
    """Runs a command line in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_data, "FOLDER_SAMPLE", 200)
    return lambda line: CliRunner().invoke(app, [*line.split(), "--threads", "1", "--quiet", "--json"], catch_exceptions=False)


def folder(path: Path, **sizes: tuple[int, int]) -> str:
    """A folder of corners of a photograph, of so many rows and columns, by name."""
    path.mkdir()
    with Image.open(DATA / "colosseum.png") as whole:
        for name, (rows, columns) in sizes.items():
            whole.crop((0, 0, columns, rows)).save(path / f"{name}.png")
    return path.name


def assert_one_sentence(done: Result, status: int, sentence: str) -> None:
    assert (done.exit_code, done.stdout) == (status, "")
    assert sentence in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "arrays",
    [
        {"images": PICTURES},
        {"x_train": PICTURES, "y_train": np.arange(30) % 3, "x_test": PICTURES[:5]},
        {"images": PICTURES, "labels": np.zeros(30, int)},
        {"images": PICTURES, "labels": np.arange(30.0) % 3},
        {"images": np.full((30, 8, 8), 7, np.uint8), "labels": np.arange(30) % 3},
        {"images": PICTURES[:3]},
    ],
    ids=[
        "labels missing",
        "labels of the test set missing",
        "one class only",
        "floats that are whole numbers",
        "constant",
        "three pictures",
    ],
)
def test_a_right_result(aecli, arrays: dict[str, np.ndarray], command: str) -> None:
    np.savez("data.npz", **arrays)
    done = aecli(COMMANDS[command].format("data.npz"))
    assert (done.exit_code, done.stderr) == (0, "")
    told = json.loads(done.stdout)  # which refuses NaN
    if command == "compare-pca":
        (row,) = told["rows"]
        assert (row["accuracy"] is None) == (row["pca_accuracy"] is None) == (len(set(arrays.get("labels", [0]))) < 2)
        constant = not np.ptp(arrays.get("images", PICTURES))
        assert (row["ratio"] is None) == constant


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"images": WITH_NAN}, "images in data.npz holds NaN or infinite values (the first in row 7)"),
        ({"x_train": PICTURES, "x_test": WITH_NAN}, "x_test of data.npz holds NaN or infinite values (the first in row 7)"),
        ({"images": MIXED}, "images in data.npz holds objects, such as pictures of several sizes"),
        ({"images": PICTURES, "labels": np.arange(9)}, "give one number or word for each of 30 rows"),
        (
            {"images": PICTURES, "labels": np.full(30, np.nan)},
            "have values such as nan, which name no class: give one number or word",
        ),
        (
            {"images": PICTURES, "labels": np.arange(30) / 4},
            "have values such as 0.25, which name no class: give one number or word",
        ),
        (
            {"images": PICTURES, "labels": np.array(["a", None] * 15)},
            "labels in data.npz holds objects: write the names of the classes",
        ),
    ],
    ids=[
        "NaN",
        "NaN in the test set",
        "mixed sizes",
        "too few labels",
        "labels are NaN",
        "labels are fractions",
        "labels are objects",
    ],
)
def test_a_sentence(aecli, arrays: dict[str, np.ndarray], sentence: str, command: str) -> None:
    np.savez("data.npz", **arrays)
    assert_one_sentence(aecli(COMMANDS[command].format("data.npz")), 2, sentence.replace("images in data", "data"))
    assert [path.name for path in Path().iterdir()] == ["data.npz"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", ["--resize 8", "--patch-size 8"])
def test_folders_of_three_pictures_and_of_mixed_sizes(aecli, tmp_path: Path, command: str, how: str) -> None:
    """Pictures smaller than a patch are left out, and enlarged where pictures are taken whole."""
    data = folder(tmp_path / "photos", a=(60, 40), b=(9, 90), c=(40, 61), d=(1, 1), e=(7, 9))
    for name in [] if how.startswith("--resize") else ["d", "e"]:
        (tmp_path / "photos" / f"{name}.png").unlink()
    done = aecli(f"{COMMANDS[command].format(data)} {how}")
    assert (done.exit_code, done.stderr) == (0, "")
    json.loads(done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_folders_with_nothing_to_learn_from(aecli, tmp_path: Path, command: str) -> None:
    line = COMMANDS[command]
    folder(tmp_path / "none")
    assert aecli(line.format("none")).stderr.startswith("aecli: no file of a known kind in none: check the folder")
    folder(tmp_path / "one", a=(40, 40))
    refusal = "a map takes 2 pictures or more" if command == "project" else "one, pictures of 8×8 holds 1 picture: "
    assert aecli(f"{line.format('one')} --resize 8").stderr.startswith(f"aecli: {refusal}")
    folder(tmp_path / "small", a=(6, 6), b=(7, 9))
    too_small = "aecli: no picture of small is as large as 32×32: add larger ones, or reduce --patch-size"
    assert aecli(f"{line.format('small')} --patch-size 32").stderr.startswith(too_small)


@pytest.mark.parametrize(
    ("data", "dims", "sentence"),
    [
        ("data.npy", "0", "--dims 0 cannot be had with 27 training pictures: give numbers from 1 to 27"),
        ("data.npy", "2,65", "--dims 65 cannot be had with 27 training pictures: give numbers from 1 to 27"),
        ("many.npy", "2,65", "--dims 65 cannot be had with 64 values a picture: give numbers from 1 to 64"),
        ("few.npy", "8", "--dims 8 cannot be had with 4 training pictures: give numbers from 1 to 4"),
        ("two.npy", "2", "--dims 2 cannot be had with 1 training picture: give 1"),
        ("data.npy", "-1", "--dims -1 cannot be had"),
        ("data.npy", "2,,4", "--dims 2,,4 is not a list of whole numbers"),
    ],
)
def test_dimensions_that_cannot_be(aecli, data: str, dims: str, sentence: str) -> None:
    for name, count in (("data", 30), ("many", 90), ("few", 5), ("two", 2)):
        np.save(f"{name}.npy", np.resize(PICTURES, (count, 8, 8)))
    assert_one_sentence(aecli(f"compare-pca --data {data} --dims={dims}"), 2, sentence)


@pytest.mark.parametrize(("count", "dims"), [(2, [1]), (6, [2])])
def test_of_the_usual_dimensions_those_are_taken_that_few_pictures_have(aecli, count: int, dims: list[int]) -> None:
    np.save("few.npy", PICTURES[:count])
    done = aecli("compare-pca --data few.npy --arch dense --epochs 1 --json")
    assert done.exit_code == 0
    assert [row["dim"] for row in json.loads(done.stdout)["rows"]] == dims


@pytest.mark.parametrize("arch", ["dense", "deep", "sparse", "conv", "vae"])
def test_every_architecture_learns_from_fewer_pictures_than_it_has_dimensions(aecli, arch: str) -> None:
    np.save("few.npy", PICTURES[:5])
    done = aecli(f"train --arch {arch} --latent-dim 32 --epochs 1 --data few.npy -o w.safetensors")
    assert (done.exit_code, done.stderr) == (0, "")
    assert aecli("compare-pca --data few.npy -w w.safetensors -o out.svg --format svg").exit_code == 0


def test_a_latent_dimension_that_cannot_be(aecli) -> None:
    assert "--latent-dim" in aecli("train --arch dense --latent-dim 0 --epochs 1").stderr
    assert_one_sentence(aecli("train --arch dense --latent-dim 1000000000000 --epochs 1"), 1, "'latent_dim': 1000000000000}")


def test_anomalies_among_constant_pictures_and_mixed_sizes(aecli, tmp_path: Path) -> None:
    saved(tmp_path / "w.safetensors", tiny_dense(channels=3), "dense", error_quantiles={"0.999": 1.0})
    data = folder(tmp_path / "photos", large=(90, 70), exact=(8, 8), three=(9, 200))
    Image.new("RGB", (30, 30), (90, 90, 90)).save(tmp_path / "photos" / "constant.png")
    done = aecli(f"anomalies {data} -w w.safetensors")
    assert (done.exit_code, done.stderr) == (0, "")
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 4
    folder(tmp_path / "small", small=(7, 9), exact=(8, 8))
    done = aecli("anomalies small -w w.safetensors -o small.png")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert [json.loads(line).get("status", "judged") for line in done.stdout.splitlines()] == ["failed", "judged"]
    assert "small/small.png: a picture of 9×7 is too small for w, which takes 8×8 and larger" in done.stderr
    np.save("nan.npy", WITH_NAN)
    done = aecli("anomalies nan.npy -w w.safetensors -o nan.png")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
