"""Training data: data sets by name (MNIST comes with the package), folders of pictures as random patches, batches by step.

A batch is a function of the seed and the step alone, so a resumed run goes on with the very batches it would have seen, and
several processes can each take a part of it.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from aecli.batch import find_inputs
from aecli.errors import AecliError, UsageError
from aecli.images import SUFFIXES, read_picture, with_8_bits
from aecli.patches import luminance

MNIST_FOLDER = Path(__file__).parent.parent / "data" / "mnist"
NAMES = ("mnist", "fashion-mnist", "cifar10")
CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
    "cifar10": ("aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry"),
}
CACHE_BYTES = 4 << 30  # decoded pictures kept in memory; what does not fit is read again for every patch
HELD_OUT_IMAGES = 2000  # of a data set's training part, or patches of the held-out pictures
FOLDER_SAMPLE = 20_000  # patches that stand for a folder where a fixed set is needed (PCA)
HELD_OUT_SHARE = 20  # one picture in twenty validates where no --valid folder is given
NAMED = 10  # of the pictures that are left out


@dataclass(frozen=True)
class Labelled:
    """images (N, C, H, W) uint8 and labels (N,) int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """A data set with its official split and the name it goes by."""

    name: str
    train: Labelled
    test: Labelled


WHOLE = slice(None)


class Pictures(Protocol):
    """Pictures by row, (n, C, H, W), uint8 or float32 in 0–1: a tensor, or what is read when it is needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...


def as_unit(images: Tensor) -> Tensor:
    """uint8 → float32 in 0–1; floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def evenly(count: int, most: int) -> Tensor:
    """Rows of at most `most` of `count` pictures, evenly spread, as data may be sorted by class."""
    return torch.linspace(0, count - 1, min(most, count), dtype=torch.float64).round().long()


class Source(Protocol):
    """Where training batches come from."""

    def batch(self, step: int, size: int, part: slice = WHOLE) -> Tensor:
        """The clean pictures of a step: (size, C, H, W), float32 in 0–1; or those of a part of the batch."""

    def __len__(self) -> int: ...


class ArraySource:
    """A data set or an array, reshuffled every epoch."""

    def __init__(self, images: Pictures, seed: int) -> None:
        self.images, self.seed = images, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, step: int, size: int, part: slice = WHOLE) -> Tensor:
        """The next `size` pictures of the epoch that the step falls in; an epoch's last batch wraps round to its start."""
        steps_per_epoch = -(-len(self) // size)
        epoch, position = divmod(step, steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(len(self), generator=torch.Generator().manual_seed(hash((self.seed, epoch)) % 2**62))
        chosen = self._order[torch.arange(position * size, (position + 1) * size)[part] % len(self)]
        return as_unit(self.images[chosen])


class _Place(NamedTuple):
    """Where in a picture a patch is taken, how it is reduced, turned (by 90° each) and then flipped."""

    top: int
    left: int
    reduced: int
    turns: int
    flipped: bool


class Decoded:
    """A folder's pictures by path, (H, W, 3) uint8: kept in memory as far as CACHE_BYTES reach, the others read every time."""

    def __init__(self) -> None:
        self._kept: dict[Path, np.ndarray] = {}
        self._bytes = 0

    def __getitem__(self, path: Path) -> np.ndarray:
        if path in self._kept:
            return self._kept[path]
        pixels = read_rgb(path)
        if self._bytes + pixels.nbytes <= CACHE_BYTES:
            self._kept[path] = pixels
            self._bytes += pixels.nbytes
        return pixels


class FolderSource:
    """Random patches of a folder's pictures, flipped and turned, some grey, some of pictures reduced to half their size.

    A picture is drawn in proportion to the root of its area: large ones hold more, but not so much more as they have pixels.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        patch_size: int,
        seed: int,
        *,
        grey_share: float = 0.0,
        reduced_share: float = 0.0,
        decoded: Decoded | None = None,
    ) -> None:
        self.patch_size, self.seed, self.grey_share, self.reduced_share = patch_size, seed, grey_share, reduced_share
        self._decoded = decoded or Decoded()
        self.paths: list[Path] = []
        self._sizes: list[tuple[int, int]] = []
        for path in paths:
            height, width = self._decoded[path].shape[:2]
            if min(height, width) >= patch_size:
                self.paths.append(path)
                self._sizes.append((height, width))
        if not self.paths:
            raise AecliError(f"no picture is as large as a patch of {patch_size}×{patch_size}: pass a smaller --patch-size")
        areas = np.array([height * width for height, width in self._sizes])
        self._area = int(areas.sum())
        self._chances = np.sqrt(areas) / np.sqrt(areas).sum()

    def __len__(self) -> int:
        """Patches that would cover the pictures: what an epoch sees."""
        return max(1, self._area // self.patch_size**2)

    def batch(self, step: int, size: int, part: slice = WHOLE) -> Tensor:
        """`size` patches, (size, 3, patch_size, patch_size); or those of a part of the batch: only their pictures are read."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.paths), size=size, p=self._chances)
        places = [(self.paths[i], self._place(self._sizes[i], rng)) for i in chosen]
        patches = np.stack([self._patch(path, place) for path, place in places[part]])
        x = torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255
        grey = torch.from_numpy(rng.random(size)[part] < self.grey_share)
        x[grey] = luminance(x[grey]).expand(-1, 3, -1, -1)
        return x.contiguous(memory_format=torch.channels_last)

    def _place(self, size: tuple[int, int], rng: np.random.Generator) -> _Place:
        reduced = 2 if rng.random() < self.reduced_share and min(size) >= 2 * self.patch_size else 1
        top, left = (int(rng.integers(0, side - reduced * self.patch_size + 1)) for side in size)
        return _Place(top, left, reduced, int(rng.integers(4)), rng.random() < 0.5)

    def _patch(self, path: Path, place: _Place) -> np.ndarray:
        rows, columns = (slice(start, start + place.reduced * self.patch_size) for start in (place.top, place.left))
        part = self._decoded[path][rows, columns]
        if place.reduced == 2:
            cells = part.reshape(self.patch_size, 2, self.patch_size, 2, 3)
            part = cells.mean(axis=(1, 3)).round().astype(np.uint8)
        patch: np.ndarray = np.rot90(part, k=place.turns)
        return patch[:, ::-1] if place.flipped else patch


def read_rgb(path: Path) -> np.ndarray:
    """A picture's colours with 8 bits, (H, W, 3) uint8; grey is repeated, alpha is dropped."""
    pixels = with_8_bits(read_picture(path)).pixels
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()


def folder_pictures(folder: str, tell: Callable[[str], None] = lambda _: None) -> list[Path]:
    """The pictures below a folder, sorted by name; tells of earlier results, which are left out. Raises AecliError where there are
    none."""
    if not Path(folder).is_dir():
        raise UsageError(
            f"{folder} is neither a data set ({', '.join(NAMES)}), nor a folder of pictures, nor an .npy or .npz file: check --data"
        )
    found = find_inputs(
        [folder], recursive=True, files_from=None, null_separated=False, suffixes=SUFFIXES, stdin=io.BytesIO(), tell=tell
    )
    return [i.path for i in found if isinstance(i.path, Path)]


def useful(
    paths: Sequence[Path], least: int, tell: Callable[[str], None], decoded: Decoded | None = None
) -> Iterator[tuple[Path, np.ndarray]]:
    """The pictures that can be read and are at least so high and wide, one by one; then tells how many and which are left out.

    Raises AecliError where there are none.
    """
    read = decoded.__getitem__ if decoded else read_rgb
    small, unreadable = [], []
    first_error: AecliError | None = None
    for path in paths:
        try:
            pixels = read(path)
        except AecliError as error:
            unreadable.append(path)
            first_error = first_error or error
            continue
        if min(pixels.shape[:2]) < least:
            small.append(path)
        else:
            yield path, pixels
    if len(small) + len(unreadable) == len(paths):
        if small:
            raise AecliError(
                f"no picture of {small[0].parent} is as large as {least}×{least}: add larger ones, or reduce --patch-size"
            )
        raise AecliError(f"no picture can be read; of the first: {first_error}")
    for why, left_out in ((f"they are smaller than {least}×{least}", small), ("they cannot be read", unreadable)):
        if left_out:
            named = ", ".join(map(str, left_out[:NAMED]))
            more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
            tell(f"{len(left_out)} of {len(paths)} pictures left out, as {why}: {named}{more}")


def split_pictures(
    folder: str, valid_folder: str | None, least: tuple[int, int], tell: Callable[[str], None], decoded: Decoded
) -> tuple[list[Path], list[Path]]:
    """(training, validation) pictures of one folder, or of two: those that can be read and are large enough.

    least: the smaller side that a picture must have, of `folder` and of `valid_folder`.
    """
    paths = [path for path, _ in useful(folder_pictures(folder), least[0], tell, decoded)]
    if valid_folder is None:
        return hold_out(paths)
    return paths, [path for path, _ in useful(folder_pictures(valid_folder), least[1], tell, decoded)]


def hold_out(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(training, validation) pictures: every twentieth validates, at least one, spread evenly."""
    if len(paths) < 2:
        found = paths[0] if paths else "none found"
        raise AecliError(f"one picture cannot both train and validate ({found}): add pictures, or pass --valid to train")
    held = set(range(HELD_OUT_SHARE // 2, len(paths), HELD_OUT_SHARE)) or {len(paths) - 1}
    return [p for i, p in enumerate(paths) if i not in held], [p for i, p in enumerate(paths) if i in held]


def central_crops(paths: Sequence[Path], size: int) -> list[Tensor]:
    """The middle of every picture, at most size × size: a list of (3, h, w) float32 in 0–1, for validation."""
    crops = []
    for path in paths:
        pixels = read_rgb(path)
        height, width = pixels.shape[:2]
        top, left = max(0, (height - size) // 2), max(0, (width - size) // 2)
        crops.append(torch.from_numpy(pixels[top : top + size, left : left + size]).permute(2, 0, 1).float() / 255)
    return crops


@dataclass(frozen=True)
class FeatureData:
    """What a feature autoencoder is trained and measured on.

    train: pictures that PCA is fitted on, (N, C, H, W) by row. valid, test: (n, C, H, W) float32 in 0–1. Labels (N,) are indices
    into the names of the classes, or None.
    """

    name: str
    source: Source
    train: Pictures
    train_labels: Tensor | None
    valid: Tensor
    test: Tensor
    test_labels: Tensor | None
    class_names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.test.shape[1:]
        return channels, height, width


def dataset_features(dataset: Dataset, seed: int) -> FeatureData:
    """A labelled data set, some of its training part held out for validation and the error quantiles."""
    order = torch.randperm(len(dataset.train.images), generator=torch.Generator().manual_seed(0))
    held_out = min(HELD_OUT_IMAGES, len(order) // 10)
    kept = order[held_out:]
    images = dataset.train.images
    return FeatureData(
        name=f"{dataset.name}, {len(kept)} training pictures",
        source=ArraySource(images[kept], seed),
        train=images,
        train_labels=dataset.train.labels,
        valid=images[order[:held_out]].float() / 255,
        test=dataset.test.images.float() / 255,
        test_labels=dataset.test.labels,
        class_names=CLASS_NAMES.get(dataset.name, ()),
    )


def folder_features(folder: str, valid_folder: str | None, patch_size: int, seed: int, tell: Callable[[str], None]) -> FeatureData:
    """A folder of pictures as patches; those of held-out pictures validate and test. Tells which pictures are left out."""
    decoded = Decoded()
    train_paths, valid_paths = split_pictures(folder, valid_folder, (patch_size, patch_size), tell, decoded)
    source = FolderSource(train_paths, patch_size, seed, decoded=decoded)
    held_out = FolderSource(valid_paths, patch_size, seed, decoded=decoded).batch(0, HELD_OUT_IMAGES)
    return FeatureData(
        name=f"{len(source.paths)} pictures of {Path(folder).name}, patches of {patch_size}×{patch_size}",
        source=source,
        train=(source.batch(0, FOLDER_SAMPLE) * 255).round().byte(),
        train_labels=None,
        valid=held_out,
        test=held_out,
        test_labels=None,
    )


def load_dataset(name: str, root: Path | None = None, *, download: bool = False) -> Dataset:
    """A data set by name, with its official split.

    Args:
        name: mnist (comes with the package), fashion-mnist or cifar10.
        root: a local copy: torchvision's layout, or for the MNIST-like ones the four IDX files themselves.
        download: fetch what is missing, through torchvision.

    Raises:
        UsageError: an unknown name, or no copy to be found and `download` not given.
    """
    if name == "mnist" and root is None:
        return _idx_dataset(name, MNIST_FOLDER)
    if name in ("mnist", "fashion-mnist"):
        base = root or Path("data")
        folder = next((f for f in (base, base / _TORCHVISION[name] / "raw") if _idx_file(f, "train-images")), None)
        if folder is None and download:
            _torchvision(name, base, train=True, download=True)
            folder = base / _TORCHVISION[name] / "raw"
        if folder is None:
            raise UsageError(f"{name} was not found in {base}: pass --data-root FOLDER, or --download to fetch it")
        return _idx_dataset(name, folder)
    if name == "cifar10":
        return Dataset(name, *(_cifar10(root or Path("data"), train=train, download=download) for train in (True, False)))
    raise UsageError(f"{name} is not a data set: give {', '.join(NAMES)} or a folder of pictures")


_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}


def _torchvision(name: str, root: Path, *, train: bool, download: bool):  # type: ignore[no-untyped-def]
    from torchvision import datasets

    try:
        return getattr(datasets, _TORCHVISION[name])(str(root), train=train, download=download)
    except Exception as error:  # torchvision raises RuntimeError, URLError and more
        raise UsageError(f"{name} was not found in {root}: pass --data-root FOLDER, or --download to fetch it ({error})") from error


def _cifar10(root: Path, *, train: bool, download: bool) -> Labelled:
    data = _torchvision("cifar10", root, train=train, download=download)
    return Labelled(torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets))


def _idx_dataset(name: str, folder: Path) -> Dataset:
    parts = []
    for prefix in ("train", "t10k"):
        files = [_idx_file(folder, f"{prefix}-{kind}") for kind in ("images", "labels")]
        if files[0] is None or files[1] is None:
            raise AecliError(f"{folder} holds no {prefix}-images and {prefix}-labels file: check --data-root")
        images, labels = read_idx(files[0]), read_idx(files[1])
        parts.append(Labelled(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long()))
    return Dataset(name, *parts)


def _idx_file(folder: Path, prefix: str) -> Path | None:
    return next((p for p in sorted(folder.glob(f"{prefix}*ubyte*")) if p.is_file()), None)


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes (LeCun's format), gzipped or not → a uint8 array of its shape. Raises AecliError where it is damaged."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise AecliError(f"{path} cannot be read ({error}): fetch the data set again") from error
    dims = data[3] if len(data) > 4 and data[:3] == b"\x00\x00\x08" else 0
    shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims]) if len(data) >= 4 + 4 * dims else ()
    if not shape or len(data) != 4 + 4 * dims + math.prod(shape):
        raise AecliError(f"{path} is not an IDX file of bytes, or is cut off: fetch the data set again")
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dims).reshape(shape).copy()
