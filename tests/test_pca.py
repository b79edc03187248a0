"""Autoencoders beside PCA: what is measured, in whatever way PCA is fitted, and the figure of it."""

from __future__ import annotations

import csv
import io
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import saved, tiny_dense
from typer.testing import CliRunner

from aecli import pca
from aecli.cli import app
from aecli.errors import AecliError
from aecli.models.dense import Sparse, SparseConfig
from aecli.pca import Candidate, Comparison, Components, check_dims, compare, table_of
from aecli.plots import comparison_figure
from aecli.training.arrays import Collection, split_features
from aecli.training.data import FeatureData


def data_of(count: int = 400, *, classes: int = 2, side: int = 8) -> FeatureData:
    """Pictures that vary in few directions, the more the earlier; the first direction is the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    directions = np.linalg.qr(rng.standard_normal((side * side, 12)))[0]
    weights = rng.standard_normal((count, 12)) * 0.5 ** np.arange(12) + np.eye(12)[0] * 9 * labels[:, None]
    pixels = weights @ directions.T + 0.01 * rng.standard_normal((count, side * side))
    unit = (pixels - pixels.min()) / np.ptp(pixels)
    names = tuple(f"class ${index}$" for index in range(classes))
    images = torch.from_numpy(unit.reshape(count, 1, side, side).astype(np.float32))
    return split_features(Collection("a $ and a $", images, torch.from_numpy(labels), names), seed=0)


def sparse(latent_dim: int = 60) -> Sparse:
    torch.manual_seed(0)
    return Sparse(SparseConfig(height=8, width=8, latent_dim=latent_dim)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    linear = [Candidate("dense", tiny_dense(latent_dim=dim, activation="linear")) for dim in (4, 2)]
    return compare([*linear, Candidate("s$p$", sparse())], data_of())


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["whole", "in parts"])
def test_components_are_those_of_the_singular_value_decomposition(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "IN_MEMORY_BYTES", memory)
    data = data_of()
    train, test = (np.float64(images[:].flatten(1).numpy()) for images in (data.train, data.test))
    _, _, vectors = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)
    left = [(test - train.mean(axis=0)) @ (np.eye(64) - vectors[:dim].T @ vectors[:dim]) for dim in (2, 5)]
    expected = [np.square(rest).sum(axis=1).mean() for rest in left]
    components = Components.fit(data, 5)
    assert components.vectors.shape == (5, 64)
    errors = components.errors(data.test)
    assert [errors[1], errors[4]] == pytest.approx(expected, rel=1e-3 if memory else 0.05)
    assert errors == sorted(errors, reverse=True)


def test_rows_hold_what_can_be_computed_by_hand(comparison: Comparison) -> None:
    data = data_of()
    two, four, many = comparison.rows
    assert [(row.method, row.dim) for row in comparison.rows] == [("dense", 2), ("dense", 4), ("s$p$", 60)]
    model = tiny_dense(latent_dim=2, activation="linear")
    assert two.error == pytest.approx((model(data.test) - data.test).square().flatten(1).sum(dim=1).mean().item(), rel=1e-5)
    assert two.psnr == pytest.approx(-10 * math.log10(two.error / 64), rel=1e-5)
    assert two.pca_accuracy == 1.0  # the classes are the first direction
    assert four.pca_error < two.pca_error
    assert [row.pca_error for row in (two, four)] == pytest.approx([comparison.pca_errors[dim - 1] for dim in (2, 4)], rel=1e-3)
    assert two.active is None
    assert many.active is not None and 1 <= many.active <= 6
    assert len(comparison.pca_errors) == max(4, math.ceil(many.active))


def test_rates_are_bytes_of_deflated_symbols_and_the_error_of_what_they_stand_for() -> None:
    data, model = data_of(), tiny_dense(latent_dim=2, activation="linear")
    found = [rate for rate in compare([Candidate("dense", model)], data).rates if rate.method == "dense"]
    codes = model.encode(data.test)
    for rate, multiple in zip(found, (1, 2, 4, 8, 16, 32), strict=True):
        assert rate.step == pytest.approx(multiple * codes.abs().max().item() / 127, rel=1e-5)
        symbols = (codes / rate.step).round()
        packed = zlib.compress(symbols.T.contiguous().to(torch.int8).numpy().tobytes(), 9)
        assert rate.bytes == len(packed) / len(data.test)
        assert rate.error == pytest.approx((model.decode(symbols * rate.step) - data.test).square().sum().item() / len(data.test))


def test_one_class_has_no_neighbours_and_one_direction_no_second_component() -> None:
    row = compare([Candidate("dense", tiny_dense(latent_dim=2))], data_of(classes=1)).rows[0]
    assert (row.accuracy, row.pca_accuracy) == (None, None)
    check_dims([1, 64], data_of())


def test_samples_stand_beside_pca_with_as_many_numbers(comparison: Comparison) -> None:
    active = round(comparison.rows[2].active or 0)
    assert [*comparison.samples] == ["original", "PCA, 4-d", "dense, 4-d", f"PCA, {active}-d", f"s$p$, {active} of 60"]
    assert all(pictures.shape == (2, 1, 8, 8) for pictures in comparison.samples.values())


def test_the_table_has_every_number(comparison: Comparison) -> None:
    lines = table_of(comparison)
    exact = {(line["method"], line["dim"]): line["squared_error"] for line in lines if line["step"] is None}
    assert exact["dense", 4] == comparison.rows[1].error
    assert [exact["PCA", dim] for dim in (1, 2, 3, 4)] == pytest.approx(comparison.pca_errors[:4], rel=1e-3)
    assert sum(line["step"] is not None for line in lines) == len(comparison.rates)


def test_the_figure_has_plain_numbers_every_method_and_the_names_of_the_classes(comparison: Comparison) -> None:
    figure = comparison_figure(comparison)
    figure.savefig(io.BytesIO())  # a dollar sign begins no formula
    charts, pictures, maps = figure.subfigs
    for axes in charts.axes:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["PCA", "dense", r"s\$p\$"]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklabels(), axis.get_majorticklocs(), strict=True)
            shown = [tick.get_text() for tick, place in ticks if low <= place <= high]
            assert shown and all(float(text) >= 0 for text in shown)
    assert [cell.get_ylabel() for cell in pictures.axes][:2] == ["original", "PCA, 4-d"]
    for axes, method in zip(maps.axes, ("PCA", "dense"), strict=True):
        assert axes.get_title().startswith(f"{method}, 2-d\n10 neighbours tell ")
        assert [text.get_text() for text in axes.texts] == [r"class \$0\$", r"class \$1\$"]


@pytest.mark.parametrize("format", ["png", "svg", "pdf", "pdf,png"])
def test_the_command_writes_the_formats_asked_for_and_all_numbers(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", data_of().train[:60].numpy())
    line = f"compare-pca --data x.npy --arch dense,vae --dims 1,2 --epochs 1 -o out/c --format {format} --json --quiet --threads 1"
    done = CliRunner().invoke(app, line.split(), catch_exceptions=False)
    assert done.exit_code == 0
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for kind in format.split(","):
        assert Path(f"out/c.{kind}").read_bytes().startswith(starts[kind])
    written = {path.suffix[1:] for path in Path("out").glob("c.*")}
    assert written == {*format.split(","), "csv", "json"}
    told, kept = json.loads(done.stdout), json.loads(Path("out/c.json").read_text())
    assert told["rows"] == kept["rows"]
    assert {(row["method"], row["dim"]) for row in kept["rows"]} == {(m, d) for m in ("dense", "vae") for d in (1, 2)}
    with Path("out/c.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert {line["method"] for line in lines} == {"PCA", "dense", "vae"}


def test_neighbours_are_looked_for_in_all_classes_of_sorted_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "NEIGHBOUR_FIT", 100)
    mixed = data_of(400, classes=3)
    images, labels = torch.cat([mixed.train[:], mixed.test]), torch.cat([mixed.train_labels, mixed.test_labels])
    order = labels.argsort(stable=True)
    ordered = split_features(Collection("sorted", images[order], labels[order], ("a", "b", "c")), seed=0)
    row = compare([Candidate("dense", tiny_dense(latent_dim=2, activation="linear"))], ordered).rows[0]
    assert row.pca_accuracy > 0.95


def test_an_autoencoder_that_gives_no_numbers_is_a_sentence() -> None:
    broken = tiny_dense(latent_dim=2)
    broken.encoder.bias.fill_(math.nan)
    with pytest.raises(AecliError, match=r"^broken gives numbers that are not finite: train it again$"):
        compare([Candidate("broken", broken)], data_of())


def test_a_code_longer_than_two_values_stands_beside_pca_without_a_map() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random((60, 1, 1, 2), dtype=np.float32))
    data = split_features(Collection("pairs", images, torch.arange(60) % 2, ("a", "b")), seed=0)
    longer = tiny_dense(height=1, width=2, latent_dim=5)
    found = compare([Candidate("dense", longer)], data)
    assert not found.maps
    comparison_figure(found)


def test_weights_of_one_name_are_called_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", data_of().train[:60].numpy())
    for number, name in enumerate(("A/m", "B/m", "PCA")):
        Path(name).parent.mkdir(exist_ok=True)
        saved(Path(f"{name}.safetensors"), tiny_dense(number), "dense")
    weights = [word for name in ("A/m", "B/m", "PCA", "A/m") for word in ("-w", f"{name}.safetensors")]
    done = CliRunner().invoke(app, ["compare-pca", "--data", "x.npy", *weights, "--json", "--quiet"], catch_exceptions=False)
    assert [row["method"] for row in json.loads(done.stdout)["rows"]] == ["A/m.safetensors", "B/m.safetensors", "PCA.safetensors"]


def test_a_format_that_is_not_known_is_a_sentence() -> None:
    done = CliRunner().invoke(app, ["compare-pca", "--format", "gif"])
    assert (done.exit_code, done.stderr) == (2, "aecli: --format gif is not known: give some of png, svg, pdf, with commas\n")
