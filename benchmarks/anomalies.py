"""How well reconstruction error tells what does not belong, as the area under the ROC curve (0.5 is chance, 1 perfect).

Two questions. MNIST's test digits against Fashion-MNIST's test pictures, by the shipped weights for digits. And harder: one
class of digits left out of training, for each of the ten; the test digits of that class against the others, by an autoencoder,
by PCA's reconstruction error with as many dimensions, and by scikit-learn's isolation forest (Liu, Ting & Zhou 2008).

usage: python benchmarks/anomalies.py [--fashion FOLDER] [--epochs N] [--dims N …] [--threads N] [--json FILE]
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, parser, table, write_json

import aecli
from aecli import device
from aecli.models import FeatureAutoencoder
from aecli.models.dense import squared_error
from aecli.training import QUICK_BATCH, Request, train
from aecli.training.data import load_dataset

SHIPPED = ("mnist-conv", "mnist-30d", "mnist-dense", "mnist-2d")
CLASSES = range(10)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--fashion", type=Path, metavar="FOLDER", help="Fashion-MNIST's files; without, the first table is left out"
    )
    arguments.add_argument("--epochs", type=float, default=3, help="of each of the ten autoencoders a size (default 3)")
    arguments.add_argument("--dims", type=int, nargs="+", default=[8, 32], help="sizes of code (default 8 32)")
    args = arguments.parse_args()
    compute = device.select("cpu", threads=args.threads)
    print(machine("bf16" if compute.bf16 else "fp32"), end="\n\n")
    found: dict[str, Any] = {}
    if args.fashion:
        found["fashion"] = against_fashion(args.fashion)
        rows = [[name, f"{auc:.4f}"] for name, auc in found["fashion"].items()]
        print(table(["weights", "AUC, digits against Fashion-MNIST"], rows), end="\n\n", flush=True)
    found["left out"] = left_out(args.dims, args.epochs, compute)
    methods = [*found["left out"][0]]
    lines = [[str(digit), *(f"{row[m]:.3f}" for m in methods)] for digit, row in zip(CLASSES, found["left out"], strict=True)]
    means = ["mean", *(f"{np.mean([row[m] for row in found['left out']]):.3f}" for m in methods)]
    print(table(["left out", *methods], [*lines, means]))
    write_json(args.json, found)


def against_fashion(folder: Path) -> dict[str, float]:
    digits, clothes = (load_dataset(*where).test.images for where in (("mnist",), ("fashion-mnist", folder)))
    return {name: auc(*(errors(aecli.load_weights(name).model, x) for x in (digits, clothes))) for name in SHIPPED}


def auc(usual: np.ndarray, strange: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    truth = np.repeat([0, 1], [len(usual), len(strange)])
    return float(roc_auc_score(truth, np.concatenate([usual, strange])))


def errors(model: Any, images: torch.Tensor) -> np.ndarray:
    """(N, 1, 28, 28) uint8 → (N,)."""
    assert isinstance(model, FeatureAutoencoder)
    with torch.inference_mode():
        parts = [part.float() / 255 for part in images.split(1000)]
        return torch.cat([squared_error(model(x).float(), x) for x in parts]).numpy()


def left_out(dims: list[int], epochs: float, compute: device.Compute) -> list[dict[str, float]]:
    """For every digit, the AUC by method."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest

    data = load_dataset("mnist")
    rows = []
    for digit in CLASSES:
        known, asked = data.train.images[data.train.labels != digit], data.test.images
        strange = (data.test.labels == digit).numpy()
        row: dict[str, float] = {}
        for dim in dims:
            scores = errors(trained(known, dim, epochs, compute), asked)
            row[f"autoencoder, {dim}-d"] = auc(scores[~strange], scores[strange])
        fitted = PCA(max(dims), svd_solver="covariance_eigh").fit(flat(known))
        for dim in dims:
            scores = pca_errors(fitted, flat(asked), dim)
            row[f"PCA, {dim}-d"] = auc(scores[~strange], scores[strange])
        forest = IsolationForest(n_estimators=200, random_state=0).fit(flat(known))
        scores = -forest.score_samples(flat(asked))
        row["isolation forest"] = auc(scores[~strange], scores[strange])
        rows.append(row)
        print(f"without {digit}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()), flush=True)
    return rows


def trained(images: torch.Tensor, dim: int, epochs: float, compute: device.Compute) -> FeatureAutoencoder:
    """`aecli train --arch deep --batch-size 128 --data images.npy`."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "digits.npy", images[:, 0].numpy())
        output = Path(folder) / "digits.safetensors"
        data = str(Path(folder) / "digits.npy")
        request = Request("deep", output, compute, data=data, latent_dim=dim, epochs=epochs, batch_size=QUICK_BATCH)
        train(request, lambda progress: None, lambda: False)
        model = aecli.load_weights(output).model
    assert isinstance(model, FeatureAutoencoder)
    return model


def pca_errors(fitted: Any, x: np.ndarray, dim: int) -> np.ndarray:
    centred = x - fitted.mean_
    vectors = fitted.components_[:dim]
    return np.asarray(np.square(centred - centred @ vectors.T @ vectors).sum(axis=1))


def flat(images: torch.Tensor) -> np.ndarray:
    return images.flatten(1).numpy().astype(np.float32) / 255


if __name__ == "__main__":
    main()
