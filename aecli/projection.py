"""Maps of a set of pictures in two dimensions, on which alike pictures lie close together."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aecli.errors import AecliError, UsageError
from aecli.models import FeatureAutoencoder

FEWEST = 2  # pictures on a map
PERPLEXITY = 30.0  # of t-SNE, van der Maaten & Hinton's (2008); it must be below the number of pictures
NEIGHBOURS = 15  # of UMAP, its default
FEWEST_OF_UMAP = 3  # of so few it makes no graph: they lie where PCA has them
FEW = 6  # pictures that UMAP's spectral start cannot do with
BATCH = 500
REDUCED = 50  # principal components that t-SNE and UMAP begin with, as van der Maaten & Hinton did: noise goes, and time


@dataclass(frozen=True)
class Projection:
    """Pictures and their places.

    name: of the data. images: (n, C, H, W) in 0–1, as they are shown. maps: places (n, 2) by title. classes: (n,) indices
    into class_names, or None. names: of the pictures (files), or none. rows: of the data that they stand in, or none.
    """

    name: str
    images: Tensor
    maps: Mapping[str, np.ndarray]
    classes: np.ndarray | None = None
    class_names: Sequence[str] = ()
    names: Sequence[str] = ()
    rows: Sequence[int] = ()

    @property
    def with_thumbnails(self) -> bool:
        """Whether the pictures themselves are drawn: they have names, or no classes that colours could stand for."""
        return bool(self.names) or (self.classes is None and min(self.images.shape[-2:]) > 1)

    def class_name(self, index: int) -> str:
        """What a class is called."""
        return self.class_names[index] if index < len(self.class_names) else str(index)


def check_methods(methods: Sequence[str]) -> None:
    """Raises UsageError for a method that is not known, or whose library is not installed."""
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"--with {method} is not known: give some of {', '.join(METHODS)}, with commas")
    library = importlib.util.find_spec("umap")
    if "umap" in methods and (library is None or library.loader is None):  # a folder of that name is no library
        raise UsageError("--with umap needs a library that is not installed: pip install umap-learn, or leave umap out")


def check_count(pictures: int) -> None:
    """Raises AecliError for too few to draw a map of."""
    if pictures < FEWEST:
        raise AecliError(f"a map takes {FEWEST} pictures or more and this is {pictures}: add some")


def map_with(model: FeatureAutoencoder, name: str, images: Tensor, methods: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Places (n, 2) of pictures (n, C, H, W) in 0–1 by title: by the autoencoder first, then by each of the methods, of pixels.

    Codes of more than two dimensions are reduced by PCA; a single one lies along a line. In float32 on the processor: on a
    map, bfloat16 would be seen as steps. Raises AecliError for fewer than two pictures, and for codes that are not finite.
    """
    check_count(len(images))
    with torch.inference_mode():
        codes = torch.cat([model.encode(part).float().cpu() for part in torch.split(images, BATCH)]).numpy()
    if not np.isfinite(codes).all():
        raise AecliError(f"{name} gives codes that are no finite numbers: train it again")
    dim = codes.shape[1]
    title = name if dim <= 2 else f"{name}, {dim} dimensions reduced by PCA"
    maps = {title: codes if dim == 2 else np.pad(codes, ((0, 0), (0, 1))) if dim == 1 else _pca(codes, seed)}
    rows = images.flatten(1).numpy()
    alike = not np.ptp(rows, axis=0).any()  # which t-SNE and UMAP would lay out somehow
    for method in methods:
        title, places_of = METHODS[method]
        maps[title] = np.zeros((len(rows), 2)) if alike else places_of(rows, seed)
    return maps


def _pca(rows: np.ndarray, seed: int) -> np.ndarray:
    places = _components(rows, 2, seed)
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def _components(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(n, d) → (n, count), or as many as there can be."""
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore", divide="ignore"):  # shares of the variance of constant pictures
        return np.asarray(PCA(min(count, *rows.shape), random_state=seed).fit_transform(rows))


def _tsne(rows: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    reduced = _components(rows, REDUCED, seed)
    start = _pca(rows, seed)
    start = start / start.std(axis=0)[0] * 1e-4  # as init="pca" has it, which two pictures or one dimension are too few for
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init=start.astype(np.float32), random_state=seed).fit_transform(reduced))


def _umap(rows: np.ndarray, seed: int) -> np.ndarray:
    if len(rows) <= FEWEST_OF_UMAP:
        return _pca(rows, seed)
    neighbours, start = min(NEIGHBOURS, len(rows) - 1), "random" if len(rows) <= FEW else "spectral"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that it could use, of few neighbours
        import umap

        fitted = umap.UMAP(n_neighbors=neighbours, init=start, random_state=seed, n_jobs=1)
        return np.asarray(fitted.fit_transform(_components(rows, REDUCED, seed)))


METHODS: dict[str, tuple[str, Callable[[np.ndarray, int], np.ndarray]]] = {
    "pca": ("PCA", _pca),
    "umap": ("UMAP", _umap),
    "tsne": ("t-SNE", _tsne),
}


def in_unit_square(places: np.ndarray) -> np.ndarray:
    """(n, 2) → the same in 0–1, proportions kept, in the middle of it."""
    places = places.astype(np.float64)
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray(0.5 + (places - (low + high) / 2) / (max(high - low) or 1.0))
