"""What the small shipped autoencoders make of MNIST's 10,000 test digits, beside PCA fitted on the 60,000 training digits.

Squared error summed over the 784 pixels (0–1), averaged over the digits: the measure of Hinton & Salakhutdinov (2006). For
sparse weights also the share of active units, for 2-D ones how well neighbours tell the class, for denoising ones the PSNR
before and after.

usage: python benchmarks/mnist.py [WEIGHTS …] [--figure FILE] [--threads N] [--json FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, parser, table, write_json

import aecli
from aecli import device
from aecli.errors import AecliError
from aecli.models import FeatureAutoencoder
from aecli.training.data import Dataset, load_dataset
from aecli.training.features import corrupt, evaluate
from aecli.training.noise import parse_noise
from aecli.weights import Weights

NAMES = ("mnist-2d", "mnist-30d", "mnist-dense", "mnist-conv", "mnist-sparse", "mnist-denoise")
PAPER_DIM = 30  # the size of code in Hinton & Salakhutdinov's comparison with PCA
DIGITS = 10  # in the figure
NEIGHBOUR_FIT = 20_000


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("weights", nargs="*", default=NAMES, help=f"names or files (default: {' '.join(NAMES)})")
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="draw clean, noisy and restored digits")
    args = arguments.parse_args()
    device.select(threads=args.threads)
    found = [weights for name in args.weights if (weights := load(name))]
    if not found:
        sys.exit("none of the weights is there")
    data = load_dataset("mnist")
    test = data.test.images.float() / 255
    rows = [measure(weights, test) for weights in found]
    for row, weights in zip(rows, found, strict=True):
        if row["latent_dim"] == 2:
            row["neighbours"] = neighbours(weights, data)
    sizes = {row["latent_dim"] for row in rows if row["latent_dim"] <= test[0].numel()}  # a sparse code may be longer than that
    pca = pca_errors(data.train.images, data.test.images, {PAPER_DIM, *sizes})
    print(machine("fp32", *found), end="\n\n")
    print(table(["weights", "code", "squared error", "PCA, same code", f"PCA, {PAPER_DIM}-d", "also"], cells(rows, pca)))
    write_json(args.json, {"machine": machine("fp32", *found), "rows": rows, "pca": pca})
    if args.figure:
        draw(next((w for w in found if w.card.noise), None), test[:DIGITS], args.figure)


def load(name: str) -> Weights | None:
    try:
        return aecli.load_weights(name)
    except AecliError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return None


def measure(weights: Weights, test: torch.Tensor) -> dict[str, Any]:
    assert isinstance(weights.model, FeatureAutoencoder)
    noise = parse_noise(weights.card.noise) if weights.card.noise else None
    with torch.inference_mode():
        scores = evaluate(weights.model, test, noise)
    return {"weights": weights.name, "latent_dim": weights.model.config.latent_dim, "noise": weights.card.noise, **scores}


def pca_errors(train: torch.Tensor, test: torch.Tensor, dims: set[int]) -> dict[int, float]:
    """The squared error of test pictures (N, 1, H, W) uint8 by number of components."""
    from sklearn.decomposition import PCA

    fitted = PCA(n_components=max(dims), svd_solver="full").fit(rows_of(train))
    centred = rows_of(test) - fitted.mean_
    codes = centred @ fitted.components_.T
    return {k: float(np.square(centred - codes[:, :k] @ fitted.components_[:k]).sum(axis=1).mean()) for k in sorted(dims)}


def rows_of(images: torch.Tensor) -> np.ndarray:
    """(N, 1, H, W) uint8 → (N, H·W) in 0–1."""
    return images.flatten(1).numpy().astype(np.float64) / 255


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


def neighbours(weights: Weights, data: Dataset) -> float:
    """Share of test digits whose class ten nearest training codes tell (of 20,000); nothing else saw a label."""
    from sklearn.neighbors import KNeighborsClassifier

    model = weights.model
    assert isinstance(model, FeatureAutoencoder)
    with torch.inference_mode():
        known, asked = (
            torch.cat([model.encode(part.float() / 255).float() for part in images.split(1000)]).numpy()
            for images in (data.train.images[:NEIGHBOUR_FIT], data.test.images)
        )
    classifier = KNeighborsClassifier(10).fit(known, data.train.labels[:NEIGHBOUR_FIT].numpy())
    return float(classifier.score(asked, data.test.labels.numpy()))


def remark(row: dict[str, Any]) -> str:
    if "neighbours" in row:
        return f"{row['neighbours']:.1%} of the classes told by 10 neighbours"
    if "active_share" in row:
        return f"{row['active_share']:.1%} of the units active"
    if "psnr_noisy" in row:
        return f"PSNR {row['psnr_noisy']:.2f} → {row['psnr']:.2f} dB ({row['noise']}; PCA saw the clean digits)"
    return ""


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
