"""Autoencoder against principal component analysis: the same data, the same number of latent dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from aecli.errors import UsageError
from aecli.models import FeatureAutoencoder
from aecli.training.data import FeatureData

NEIGHBOURS = 10
NEIGHBOUR_FIT = 20_000  # labelled training codes that the neighbours are looked for in
MAP_POINTS = 5000
SAMPLES = 8


@dataclass(frozen=True)
class Row:
    """One latent size. Errors are squared errors a picture, summed over pixels; accuracies those of 10 nearest neighbours."""

    dim: int
    error: float
    pca_error: float
    psnr: float
    pca_psnr: float
    accuracy: float | None
    pca_accuracy: float | None

    @property
    def ratio(self) -> float:
        """The autoencoder's error as a share of PCA's."""
        return self.error / self.pca_error if self.pca_error else math.nan


@dataclass(frozen=True)
class Comparison:
    """rows: by dimension. samples: pictures by label, (n, C, H, W). maps: points (n, 2) of test pictures by title."""

    arch: str
    data: str
    rows: Sequence[Row]
    samples: Mapping[str, Tensor]
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    map_labels: np.ndarray | None = None


def check_dims(dims: Sequence[int], data: FeatureData) -> None:
    """Raises UsageError where PCA cannot have so many components."""
    channels, height, width = data.shape
    largest = min(channels * height * width, len(data.train))
    wrong = [d for d in dims if not 1 <= d <= largest]
    if wrong or not dims:
        raise UsageError(f"--dims {','.join(map(str, wrong))} cannot be had: give numbers from 1 to {largest}, such as 2,8,16,32")


@torch.inference_mode()
def compare(models: Mapping[int, FeatureAutoencoder], data: FeatureData, arch: str) -> Comparison:
    """Measure trained autoencoders, by latent dimension, and PCA on the same test pictures.

    PCA is scikit-learn's, fitted on all training pictures.
    """
    components = _fit_pca(data, max(models))
    rows, reconstructions, codes = [], {}, {}
    for dim, model in sorted(models.items()):
        model = model.to("cpu").eval()
        pca_codes, pca_test = _project(components, data.test, dim)
        test_codes = _encode(model, data.test)
        test = torch.cat([model.decode(z).float() for z in torch.split(test_codes, 500)])
        reconstructions[dim] = (pca_test, test)
        codes[dim] = (pca_codes, test_codes)
        accuracies = _accuracies(components, model, data, dim, pca_codes, test_codes)
        rows.append(_row(dim, data.test, test, pca_test, accuracies))
    shown = max((d for d in models if d <= 32), default=min(models))
    samples = {
        "original": data.test[:SAMPLES],
        f"PCA, {shown}-d": reconstructions[shown][0][:SAMPLES],
        f"{arch}, {shown}-d": reconstructions[shown][1][:SAMPLES],
    }
    maps = {}
    if 2 in codes:
        maps = {name: z[:MAP_POINTS].numpy() for name, z in zip(("PCA", arch), codes[2], strict=True)}
    labels = None if data.test_labels is None else data.test_labels[:MAP_POINTS].numpy()
    return Comparison(arch, data.name, rows, samples, maps, labels)


def _row(dim: int, clean: Tensor, test: Tensor, pca_test: Tensor, accuracies: tuple[float | None, float | None]) -> Row:
    pixels = clean[0].numel()
    error, pca_error = (((x - clean).square().sum() / len(clean)).item() for x in (test, pca_test))
    psnr, pca_psnr = (-10 * math.log10(max(e / pixels, 1e-12)) for e in (error, pca_error))
    return Row(dim, error, pca_error, psnr, pca_psnr, *accuracies)


@dataclass(frozen=True)
class _Components:
    mean: np.ndarray  # (pixels,)
    vectors: np.ndarray  # (components, pixels), orthonormal


def _fit_pca(data: FeatureData, dim: int) -> _Components:
    from sklearn.decomposition import PCA

    x = data.train.flatten(1).numpy().astype(np.float32) / 255
    pca = PCA(n_components=dim, svd_solver="covariance_eigh" if x.shape[1] <= len(x) else "full").fit(x)
    return _Components(pca.mean_, pca.components_)


def _project(components: _Components, images: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """(codes (n, dim), reconstructions (n, C, H, W)) by the first components."""
    vectors = components.vectors[:dim]
    codes = (images.flatten(1).numpy() - components.mean) @ vectors.T
    restored = torch.from_numpy(codes @ vectors + components.mean)
    return torch.from_numpy(codes), restored.view_as(images).float()


def _encode(model: FeatureAutoencoder, images: Tensor) -> Tensor:
    return torch.cat([model.encode(part).float() for part in torch.split(images, 500)])


def _accuracies(
    components: _Components, model: FeatureAutoencoder, data: FeatureData, dim: int, pca_codes: Tensor, test_codes: Tensor
) -> tuple[float | None, float | None]:
    """Share of test pictures whose class the nearest codes of training pictures tell, for (autoencoder, PCA)."""
    if data.train_labels is None or data.test_labels is None:
        return None, None
    fit = data.train[:NEIGHBOUR_FIT].float() / 255
    labels = data.train_labels[:NEIGHBOUR_FIT]
    return (
        _neighbour_accuracy(_encode(model, fit), labels, test_codes, data.test_labels),
        _neighbour_accuracy(_project(components, fit, dim)[0], labels, pca_codes, data.test_labels),
    )


def _neighbour_accuracy(codes: Tensor, labels: Tensor, test_codes: Tensor, test_labels: Tensor) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(min(NEIGHBOURS, len(codes))).fit(codes.numpy(), labels.numpy())
    return float(classifier.score(test_codes.numpy(), test_labels.numpy()))
