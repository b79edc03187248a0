"""Maps of a set of pictures in two dimensions: where alike pictures lie close together."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aecli.errors import AecliError, UsageError
from aecli.models import FeatureAutoencoder

FEWEST = 3
PERPLEXITY = 30.0  # of t-SNE, van der Maaten & Hinton's default; it must be below the number of pictures
NEIGHBOURS = 15  # of UMAP, its default
BATCH = 500


@dataclass(frozen=True)
class Projection:
    """Pictures and their places.

    name: of the data. images: (n, C, H, W) in 0–1. maps: places (n, 2) by title. classes: (n,) indices into class_names, or
    None. names: of the pictures, or none.
    """

    name: str
    images: Tensor
    maps: Mapping[str, np.ndarray]
    classes: np.ndarray | None = None
    class_names: Sequence[str] = ()
    names: Sequence[str] = ()


def check_methods(methods: Sequence[str]) -> None:
    """Raises UsageError for a method that is not known, or whose library is not installed."""
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"--with {method} is not known: give some of {', '.join(METHODS)}, with commas")
    if "umap" in methods and importlib.util.find_spec("umap") is None:
        raise UsageError("--with umap needs the library umap-learn: pip install umap-learn, or leave it out")


def map_with(model: FeatureAutoencoder, name: str, images: Tensor, methods: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Places (n, 2) of pictures (n, C, H, W) in 0–1 by title: by the autoencoder first, then by each of the methods.

    Codes of more than two dimensions are reduced by PCA; a single one lies along a line. Raises AecliError for fewer than
    three pictures.
    """
    if len(images) < FEWEST:
        raise AecliError(f"{len(images)} picture{'s' * (len(images) != 1)} make no map: give {FEWEST} or more")
    with torch.inference_mode():
        codes = torch.cat([model.encode(part).float().cpu() for part in torch.split(images, BATCH)]).numpy()
    dim = codes.shape[1]
    title = name if dim <= 2 else f"{name}, {dim} dimensions reduced by PCA"
    maps = {title: codes if dim == 2 else np.pad(codes, ((0, 0), (0, 1))) if dim == 1 else _pca(codes, seed)}
    flat = images.flatten(1).numpy()
    return maps | {METHODS[method][0]: METHODS[method][1](flat, seed) for method in methods}


def _pca(rows: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore", divide="ignore"):  # shares of the variance of constant pictures
        places = PCA(min(2, rows.shape[1]), random_state=seed).fit_transform(rows)
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def _tsne(rows: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    # Started at random where PCA has nothing to start from: constant pictures
    start = "pca" if rows.shape[1] >= 2 and np.ptp(rows, axis=0).any() else "random"
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(rows))


def _umap(rows: np.ndarray, seed: int) -> np.ndarray:
    import umap

    return np.asarray(umap.UMAP(n_neighbors=min(NEIGHBOURS, len(rows) - 1), random_state=seed, n_jobs=1).fit_transform(rows))


METHODS: dict[str, tuple[str, Callable[[np.ndarray, int], np.ndarray]]] = {
    "pca": ("PCA", _pca),
    "tsne": ("t-SNE", _tsne),
    "umap": ("UMAP", _umap),
}


def in_unit_square(places: np.ndarray) -> np.ndarray:
    """(n, 2) → the same in 0–1, proportions kept, in the middle; what is not finite lies there too."""
    places = np.nan_to_num(places.astype(np.float64))
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray(0.5 + (places - (low + high) / 2) / (max(high - low) or 1.0))
