"""What small autoencoders make of MNIST's, or Fashion-MNIST's, 10,000 test pictures, beside PCA fitted on the 60,000 for training.

Squared error summed over the 784 pixels (0–1), averaged over the pictures: the measure of Hinton & Salakhutdinov (2006). For
codes of up to 30 numbers also how well ten neighbours tell the class, from the code and from PCA's; for 2-D ones the error
without looking codes up, which is Hinton & Salakhutdinov's network; for sparse ones the share of active units, and the error as
a multiple of that of dense weights of the same width, if they are given too; for denoising ones the PSNR before and after.
With --passing-pca also the seconds from `aecli train` to weights that are better than PCA.

usage: python benchmarks/mnist.py [WEIGHTS …] [--fashion FOLDER] [--passing-pca] [--figure FILE] [--threads N] [--json FILE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from common import machine, parser, table, write_json

import aecli
from aecli import device
from aecli.errors import AecliError
from aecli.models import FeatureAutoencoder
from aecli.models.dense import Deep, Dense, Sparse, squared_error
from aecli.training.data import Dataset, load_dataset
from aecli.training.features import corrupt, evaluate
from aecli.training.noise import parse_noise
from aecli.weights import Weights

NAMES = {
    "mnist": ("mnist-2d", "mnist-30d", "mnist-dense", "mnist-conv", "mnist-sparse", "mnist-denoise"),
    "fashion-mnist": ("fashion-30d",),
}
PAPER_DIM = 30  # the size of code in Hinton & Salakhutdinov's comparison with PCA
PASSING = ("--arch", "deep", "--epochs", "1", "--batch-size", "128")
DIGITS = 10  # in the figure
NEIGHBOUR_FIT = 20_000


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("weights", nargs="*", help=f"names or files (default: {' '.join(sum(NAMES.values(), ()))})")
    arguments.add_argument("--fashion", type=Path, metavar="FOLDER", help="measure on Fashion-MNIST, whose four files lie there")
    arguments.add_argument("--passing-pca", action="store_true", help="train a 30-D autoencoder for an epoch, and time it")
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="draw clean, noisy and restored digits")
    args = arguments.parse_args()
    device.select(threads=args.threads)
    name = "fashion-mnist" if args.fashion else "mnist"
    found = [weights for wanted in args.weights or NAMES[name] if (weights := load(wanted))]
    if not found:
        sys.exit("none of the weights is there")
    data = load_dataset(name, args.fashion)
    test = data.test.images.float() / 255
    trained = [train(PASSING, test, args.fashion, args.threads)] if args.passing_pca else []  # first: the machine is cool then
    rows = [measure(weights, test) for weights in found]
    sizes = {row["latent_dim"] for row in rows if row["latent_dim"] <= test[0].numel()}  # a sparse code may be longer than that
    components = PcaCodes(data, max({PAPER_DIM, *sizes}))
    pca = {dim: components.error(dim) for dim in sorted({PAPER_DIM, *sizes})}
    for row, weights in zip(rows, found, strict=True):
        if row["latent_dim"] <= PAPER_DIM:
            row["neighbours"] = neighbours(*(codes_of(weights.model, images) for images in components.images), data)
            row["pca_neighbours"] = neighbours(*(codes[:, : row["latent_dim"]] for codes in components.codes), data)
        if isinstance(weights.model, Sparse):
            widths = {w.model.config.latent_dim: r["squared_error"] for r, w in zip(rows, found, strict=True) if is_dense(w)}
            if row["latent_dim"] in widths:
                row["times_dense"] = row["squared_error"] / widths[row["latent_dim"]]
    print(machine("fp32", *found), end="\n\n")
    print(table(["weights", "code", "squared error", "PCA, same code", f"PCA, {PAPER_DIM}-d", "also"], cells(rows, pca)))
    for run in trained:
        print("\n{command}: squared error {squared_error:.2f} after {seconds:.1f} s".format(**run))
    write_json(args.json, {"machine": machine("fp32", *found), "rows": rows, "pca": pca, "trained": trained})
    if args.figure:
        draw(next((w for w in found if w.card.noise), None), test[:DIGITS], args.figure)


def load(name: str) -> Weights | None:
    try:
        return aecli.load_weights(name)
    except AecliError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return None


def measure(weights: Weights, test: torch.Tensor) -> dict[str, Any]:
    model = weights.model
    assert isinstance(model, FeatureAutoencoder)
    noise = parse_noise(weights.card.noise) if weights.card.noise else None
    with torch.inference_mode():
        scores = evaluate(model, test, noise)
        if isinstance(model, Deep) and model.searches:
            parts = [squared_error(model.decoder(model.encoder(x.flatten(1))).sigmoid(), x.flatten(1)) for x in test.split(1000)]
            scores["encoder_alone"] = torch.cat(parts).mean().item()
    return {"weights": weights.name, "latent_dim": model.config.latent_dim, "noise": weights.card.noise, **scores}


def is_dense(weights: Weights) -> bool:
    return isinstance(weights.model, Dense) and not weights.card.noise


def train(options: Sequence[str], test: torch.Tensor, fashion: Path | None, threads: int | None) -> dict[str, Any]:
    """From the command to weights, timed and measured."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", "--latent-dim", str(PAPER_DIM), *options]
        where = ["--data", "fashion-mnist", "--data-root", str(fashion.resolve())] if fashion else []
        limit = [] if threads is None else ["--threads", str(threads)]
        output = Path(folder) / "trained.safetensors"
        start = perf_counter()
        subprocess.run(
            [sys.executable, "-m", "aecli", *command, *where, *limit, "-o", output], cwd=folder, check=True, capture_output=True
        )
        seconds = perf_counter() - start
        return {"command": " ".join(["aecli", *command]), "seconds": seconds, **measure(aecli.load_weights(output), test)}


class PcaCodes:
    """Principal components, and the codes by them of the first 20,000 training pictures and of the test pictures."""

    def __init__(self, data: Dataset, dim: int) -> None:
        from sklearn.decomposition import PCA

        fitted = PCA(n_components=dim, svd_solver="covariance_eigh").fit(rows_of(data.train.images))
        self.images = (data.train.images[:NEIGHBOUR_FIT], data.test.images)
        self.codes = tuple(fitted.transform(rows_of(images)) for images in self.images)
        self._vectors, self._centred = fitted.components_, rows_of(data.test.images) - fitted.mean_

    def error(self, dim: int) -> float:
        """The squared error of the test pictures with so many components."""
        return float(np.square(self._centred - self.codes[1][:, :dim] @ self._vectors[:dim]).sum(axis=1).mean())


def rows_of(images: torch.Tensor) -> np.ndarray:
    """(N, 1, H, W) uint8 → (N, H·W) in 0–1."""
    return images.flatten(1).numpy().astype(np.float64) / 255


def codes_of(model: Any, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([model.encode(part.float() / 255).float() for part in images.split(1000)]).numpy()


def neighbours(known: np.ndarray, asked: np.ndarray, data: Dataset) -> float:
    """Share of test pictures whose class ten nearest training codes tell (of 20,000); nothing else saw a label."""
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(10).fit(known, data.train.labels[:NEIGHBOUR_FIT].numpy())
    return float(classifier.score(asked, data.test.labels.numpy()))


def cells(rows: list[dict[str, Any]], pca: dict[int, float]) -> list[list[str]]:
    return [
        [
            row["weights"],
            str(row["latent_dim"]),
            f"{row['squared_error']:.2f}",
            f"{pca[row['latent_dim']]:.2f}" if row["latent_dim"] in pca else "",
            f"{pca[PAPER_DIM]:.2f}",
            remark(row),
        ]
        for row in rows
    ]


def remark(row: dict[str, Any]) -> str:
    found = []
    if "neighbours" in row:
        found.append(f"10 neighbours tell {row['neighbours']:.1%} of the classes (PCA {row['pca_neighbours']:.1%})")
    if "encoder_alone" in row:
        found.append(f"without looking codes up {row['encoder_alone']:.2f}")
    if "active_share" in row:
        found.append(f"{row['active_share']:.1%} of the units active")
    if "times_dense" in row:
        found.append(f"{row['times_dense']:.2f} × dense")
    if "psnr_noisy" in row:
        found.append(f"PSNR {row['psnr_noisy']:.2f} → {row['psnr']:.2f} dB ({row['noise']}; PCA saw the clean pictures)")
    return "; ".join(found)


def draw(weights: Weights | None, clean: torch.Tensor, path: Path) -> None:
    """Rows of clean, noisy and restored digits, (N, 1, H, W) in 0–1 each."""
    from matplotlib.figure import Figure

    if weights is None:
        sys.exit("no figure: none of the weights denoises")
    noisy = corrupt(clean, parse_noise(weights.card.noise))
    with torch.inference_mode():
        restored = weights.model(noisy.to(next(weights.model.parameters()).device)).float().cpu()
    figure = Figure(figsize=(len(clean), 3), layout="constrained")
    axes = figure.subplots(3, 1)
    for axis, (name, digits) in zip(axes, {"clean": clean, "noisy": noisy, "restored": restored}.items(), strict=True):
        axis.imshow(np.hstack(list(digits[:, 0].numpy())), cmap="gray", vmin=0, vmax=1)
        axis.set(ylabel=name, xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
