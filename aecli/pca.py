"""Autoencoders against principal component analysis: the same data, at the same number of latent dimensions and of bytes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from aecli.errors import AecliError, UsageError
from aecli.models import FeatureAutoencoder
from aecli.models.dense import Sparse, squared_error
from aecli.training.data import FeatureData, as_unit, evenly

Function = Callable[[Tensor], Tensor]

PCA_NAME = "PCA"
NEIGHBOURS = 10
NEIGHBOUR_FIT = 20_000  # labelled training codes that the neighbours are looked for in
MAP_POINTS = 5000
SAMPLES = 10
MOST_SHOWN = 32  # dimensions of the reconstructions that the figure shows, if there are as few
BATCH = 500
IN_MEMORY_BYTES = 2 << 30  # beyond that, PCA is fitted in parts
RATE_PICTURES = 2000  # test pictures that the rates are measured on
RATE_STEPS = (1, 2, 4, 8, 16, 32)  # quantisation, in steps of which 127 reach the largest code


@dataclass(frozen=True)
class Row:
    """One autoencoder beside PCA with as many dimensions.

    Errors are squared errors a picture, summed over pixels; accuracies those of 10 nearest neighbours. active: the mean number
    of units above zero, of a sparse code.
    """

    method: str
    dim: int
    error: float
    pca_error: float
    psnr: float
    pca_psnr: float
    accuracy: float | None
    pca_accuracy: float | None
    active: float | None = None

    @property
    def ratio(self) -> float | None:
        """The autoencoder's error as a share of PCA's; None where PCA has none."""
        return self.error / self.pca_error if self.pca_error > 1e-9 else None

    @property
    def numbers(self) -> float:
        """How many numbers a picture's code has that are not zero: where the row stands in a figure."""
        return self.dim if self.active is None else self.active


@dataclass(frozen=True)
class Rate:
    """Codes rounded to multiples of `step`, deflated together: bytes a picture, and the squared error that is left."""

    method: str
    dim: int
    step: float
    bytes: float
    error: float


@dataclass(frozen=True)
class Comparison:
    """rows: by method and dimension. pca_errors: PCA's squared error with 1, 2, … components. samples: pictures by label,
    (n, C, H, W). maps: points (n, 2) of test pictures by method.
    """

    data: str
    rows: Sequence[Row]
    rates: Sequence[Rate]
    pca_errors: Sequence[float]
    samples: Mapping[str, Tensor]
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    map_labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()

    @property
    def methods(self) -> list[str]:
        """The autoencoders compared, in the order given."""
        return list(dict.fromkeys(row.method for row in self.rows))

    def map_accuracy(self, method: str) -> float | None:
        """What the nearest neighbours on a method's map tell of the classes."""
        row = next(row for row in self.rows if row.dim == 2 and method in (PCA_NAME, row.method))
        return row.pca_accuracy if method == PCA_NAME else row.accuracy


@dataclass(frozen=True)
class Candidate:
    """A trained autoencoder and what it is called."""

    method: str
    model: FeatureAutoencoder

    @property
    def dim(self) -> int:
        return self.model.config.latent_dim


def largest_dim(data: FeatureData) -> int:
    """As many components as PCA can have."""
    return min(math.prod(data.shape), len(data.train))


def check_dims(dims: Sequence[int], data: FeatureData) -> None:
    """Raises UsageError where PCA cannot have so many components."""
    pixels, largest = math.prod(data.shape), largest_dim(data)
    wrong = [d for d in dims if not 1 <= d <= largest]
    if wrong or not dims:
        count, what = (pixels, "value") if pixels == largest else (largest, "training picture")
        why = f"{count} {what}{'s' * (count > 1)}{' a picture' * (pixels == largest)}"
        possible = f"numbers from 1 to {largest}" if largest > 1 else "1"
        raise UsageError(f"--dims {','.join(map(str, wrong))} cannot be had with {why}: give {possible}")


@torch.inference_mode()
def compare(candidates: Sequence[Candidate], data: FeatureData) -> Comparison:
    """Measure trained autoencoders, and PCA, on the same test pictures.

    PCA is scikit-learn's, fitted on all training pictures. A code longer than PCA can have components (a sparse one may have
    more units than there are pixels) stands beside PCA with as many as it can. Raises AecliError for an autoencoder whose codes
    or pictures are not finite.
    """
    components = Components.fit(data, max(c.dim for c in candidates))
    linear = {dim: _Measured.of_pca(components, data, dim) for dim in sorted({components.nearest(c.dim) for c in candidates})}
    ordered = sorted(candidates, key=lambda c: c.dim)
    found = [(c, _Measured.of_model(c.method, c.model.to("cpu").eval(), data)) for c in ordered]
    rows = [_row(c, measured, linear[components.nearest(c.dim)]) for c, measured in found]
    rates = [Rate(PCA_NAME, dim, *point) for dim, measured in linear.items() for point in measured.rates]
    rates += [Rate(c.method, c.dim, *point) for c, measured in found for point in measured.rates]
    shown = _one_of_each(data.test_labels, len(data.test))
    drawn = evenly(len(data.test), MAP_POINTS)
    maps = {c.method: measured.codes for c, measured in found if c.dim == 2}
    if maps and 2 in linear:
        maps = {PCA_NAME: linear[2].codes, **maps}
    return Comparison(
        data=data.name,
        rows=sorted(rows, key=lambda row: [c.method for c in candidates].index(row.method)),
        rates=rates,
        pca_errors=components.errors(data.test)[: math.ceil(max(row.numbers for row in rows))],
        samples=_samples(components, found, data.test[shown]),
        maps={title: codes[drawn].numpy() for title, codes in maps.items()},
        map_labels=None if data.test_labels is None else data.test_labels[drawn].numpy(),
        class_names=data.class_names,
    )


def _row(candidate: Candidate, mine: _Measured, linear: _Measured) -> Row:
    psnr, pca_psnr = (-10 * math.log10(max(m.error / m.pixels, 1e-12)) for m in (mine, linear))
    return Row(
        candidate.method, candidate.dim, mine.error, linear.error, psnr, pca_psnr, mine.accuracy, linear.accuracy,
        _active(candidate, mine),
    )  # fmt: skip


def _active(candidate: Candidate, measured: _Measured) -> float | None:
    """The mean number of units above zero, of a sparse code."""
    return (measured.codes > 0).float().sum(dim=1).mean().item() if isinstance(candidate.model, Sparse) else None


@dataclass(frozen=True)
class Components:
    """Principal components. mean: (pixels,), vectors: (components, pixels), orthonormal."""

    mean: Tensor
    vectors: Tensor

    @classmethod
    def fit(cls, data: FeatureData, dim: int) -> Components:
        """The first `dim` components of the training pictures, or as many as there can be; in parts where memory is short."""
        from sklearn.decomposition import PCA, IncrementalPCA
        from sklearn.utils import gen_batches

        count, pixels = len(data.train), math.prod(data.shape)
        dim = min(dim, count, pixels)
        fitted: PCA | IncrementalPCA
        with np.errstate(invalid="ignore", divide="ignore"):  # shares of the variance of constant pictures
            if 4 * count * pixels <= IN_MEMORY_BYTES:
                solver = "covariance_eigh" if pixels <= count else "full"
                fitted = PCA(n_components=dim, svd_solver=solver).fit(_flat(data.train[:]))
            else:
                fitted = IncrementalPCA(n_components=dim)
                for part in gen_batches(count, max(5 * dim, BATCH), min_batch_size=dim):
                    fitted.partial_fit(_flat(data.train[part]))
        return cls(*(torch.from_numpy(a).float() for a in (fitted.mean_, fitted.components_)))

    def nearest(self, dim: int) -> int:
        """`dim`, or as many components as there are."""
        return min(dim, len(self.vectors))

    def encode(self, images: Tensor, dim: int) -> Tensor:
        """(n, C, H, W) in 0–1 → (n, dim)."""
        return (images.flatten(1) - self.mean) @ self.vectors[:dim].T

    def decode(self, codes: Tensor) -> Tensor:
        """(n, dim) → (n, pixels)."""
        return codes @ self.vectors[: codes.shape[1]] + self.mean

    def errors(self, images: Tensor) -> list[float]:
        """The squared error a picture, mean over images (n, C, H, W) in 0–1, with one component, with two, up to all of them."""
        whole = _in_batches(lambda x: (x.flatten(1) - self.mean).double().square().sum(dim=1), images).mean()
        told = _in_batches(lambda x: self.encode(x, len(self.vectors)).double().square(), images).mean(dim=0)
        left: list[float] = (whole - told.cumsum(dim=0)).clamp_min(0).tolist()
        return left


def _flat(images: Tensor) -> np.ndarray:
    return as_unit(images).flatten(1).numpy()


@dataclass(frozen=True)
class _Measured:
    """What one encoder and its decoder make of the test pictures. codes: (n, dim); rates: (step, bytes, error)."""

    codes: Tensor
    error: float
    accuracy: float | None
    rates: list[tuple[float, float, float]]
    pixels: int

    @classmethod
    def of_model(cls, name: str, model: FeatureAutoencoder, data: FeatureData) -> _Measured:
        return cls._of(name, lambda x: model.encode(x).float(), lambda z: model.decode(z).float().flatten(1), data)

    @classmethod
    def of_pca(cls, components: Components, data: FeatureData, dim: int) -> _Measured:
        return cls._of(PCA_NAME, lambda x: components.encode(x, dim), components.decode, data)

    @classmethod
    def _of(cls, name: str, encode: Function, decode: Function, data: FeatureData) -> _Measured:
        test = data.test.flatten(1)
        codes = _in_batches(encode, data.test)
        error = _mean_error(decode, codes, test)
        if not (codes.isfinite().all() and math.isfinite(error)):
            raise AecliError(f"{name} gives numbers that are not finite: train it again")
        some = evenly(len(test), RATE_PICTURES)
        rates = list(_rates(decode, codes[some], test[some]))
        return cls(codes, error, _accuracy(encode, codes, data), rates, test.shape[1])


def _in_batches(function: Function, x: Tensor) -> Tensor:
    return torch.cat([function(part) for part in torch.split(x, BATCH)])


def _mean_error(decode: Function, codes: Tensor, test: Tensor) -> float:
    parts = zip(torch.split(codes, BATCH), torch.split(test, BATCH), strict=True)
    return sum(squared_error(decode(z), x).sum().item() for z, x in parts) / len(test)


def _rates(decode: Function, codes: Tensor, test: Tensor) -> Iterator[tuple[float, float, float]]:
    """(step, bytes a picture, squared error) of codes as small integers, dimension after dimension, deflated at level 9."""
    finest = codes.abs().max().item() / 127 or 1.0
    for multiple in RATE_STEPS:
        step = multiple * finest
        symbols = (codes / step).round()
        size = len(zlib.compress(symbols.T.contiguous().to(torch.int8).numpy().tobytes(), 9))
        yield step, size / len(codes), _mean_error(decode, symbols * step, test)


def _accuracy(encode: Function, test_codes: Tensor, data: FeatureData) -> float | None:
    """Share of test pictures whose class the nearest codes of training pictures tell; None where there are not two classes."""
    if data.train_labels is None or data.test_labels is None or _classes(data.train_labels) < 2:
        return None
    from sklearn.neighbors import KNeighborsClassifier

    known = evenly(len(data.train), NEIGHBOUR_FIT)
    codes = _in_batches(encode, as_unit(data.train[known])).numpy()
    classifier = KNeighborsClassifier(min(NEIGHBOURS, len(codes))).fit(codes, data.train_labels[known].numpy())
    return float(classifier.score(test_codes.numpy(), data.test_labels.numpy()))


def _one_of_each(labels: Tensor | None, count: int) -> list[int]:
    """Rows of test pictures to show: the first of each class, or some evenly spread."""
    if labels is None or _classes(labels) < 2:
        return sorted({int(i) for i in np.linspace(0, count - 1, min(SAMPLES, count))})
    _, first = np.unique(labels.numpy(), return_index=True)
    return [int(row) for row in first[:SAMPLES]]


def _classes(labels: Tensor) -> int:
    return len(np.unique(labels.numpy()))


def _samples(components: Components, found: Sequence[tuple[Candidate, _Measured]], images: Tensor) -> dict[str, Tensor]:
    """Originals, and what each method makes of them at the largest size of at most 32, or else its smallest, beside PCA:
    with as many components, or as a sparse code has active units."""
    dims = {c.method: [other.dim for other, _ in found if other.method == c.method] for c, _ in found}
    shown = {method: max((d for d in all_of_it if d <= MOST_SHOWN), default=min(all_of_it)) for method, all_of_it in dims.items()}
    samples = {"original": images}
    for candidate, measured in found:
        if candidate.dim == shown[candidate.method]:
            active = _active(candidate, measured)
            dim = components.nearest(candidate.dim if active is None else max(1, round(active)))
            samples[f"{PCA_NAME}, {dim}-d"] = components.decode(components.encode(images, dim)).view_as(images)
            size = f"{candidate.dim}-d" if active is None else f"{active:.0f} of {candidate.dim}"
            samples[f"{candidate.method}, {size}"] = candidate.model(images).float()
    return samples


def table_of(comparison: Comparison) -> list[dict[str, str | float | None]]:
    """All numbers, one row a measurement, for a CSV file: at full precision of the code, then PCA's errors with every number of
    components, then codes quantised and deflated."""
    names = ("method", "dim", "active_units", "step", "bytes_per_picture", "squared_error", "psnr", "knn_accuracy")
    lines: dict[tuple[str, int], tuple[str | float | None, ...]] = {}
    for r in comparison.rows:
        lines[r.method, r.dim] = (r.method, r.dim, r.active, None, None, r.error, r.psnr, r.accuracy)
        pca_dim = max((rate.dim for rate in comparison.rates if rate.method == PCA_NAME and rate.dim <= r.dim), default=r.dim)
        lines[PCA_NAME, pca_dim] = (PCA_NAME, pca_dim, None, None, None, r.pca_error, r.pca_psnr, r.pca_accuracy)
    for dim, error in enumerate(comparison.pca_errors, start=1):
        lines.setdefault((PCA_NAME, dim), (PCA_NAME, dim, None, None, None, error, None, None))
    quantised = [(r.method, r.dim, None, r.step, r.bytes, r.error, None, None) for r in comparison.rates]
    return [dict(zip(names, line, strict=True)) for line in (*lines.values(), *quantised)]
