"""Picture in, .npz out, and back: network, coding, metadata.

Two layouts (shared container): `stream` of the photograph codec, and `array` of the feature autoencoders.
"""

from __future__ import annotations

import functools
import io
import json
import struct
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aecli.coding.container import read_container, write_container
from aecli.coding.entropy import LatentCoder, Latents
from aecli.coding.exact import from_fixed
from aecli.colour import Signalled, is_srgb, profile_of
from aecli.device import Compute
from aecli.errors import AecliError, UsageError
from aecli.images import Picture, read_picture, with_8_bits, without_colour, without_metadata
from aecli.metrics import psnr
from aecli.models import FeatureAutoencoder
from aecli.models.codec import BLOCK, Codec
from aecli.models.dense import squared_error
from aecli.patches import Grid, from_patches, goes_together, grid_of, to_patches, to_tensor, together
from aecli.quality import Target, check_quality, search
from aecli.refinement import refine
from aecli.tiling import map_tiles, tiles
from aecli.weights import Weights

MAX_PIXELS = 1_000_000_000
DEFAULT_QUALITY = 50.0
DIGEST_LENGTH = 16  # hexadecimal digits of the weights' SHA-256 that a file names
TILE = 1024  # pixels
HYPER_TILE = 256  # positions of y
REFINED_TILE, REFINED_OVERLAP = 48, 4  # positions of y, even: the checkerboard begins with every tile
INT8_LOSS = 1.01  # latents are stored with 8 bits where that costs no more than 1 % of the squared error
MODES = ("L", "RGB")
LAYOUTS = ("stream", "array")
MAX_DPI = 65536  # as in pictures
MAX_NAME_BYTES = 243  # of 255 that a file's name may have, without .safetensors
_META_MEMBERS = ("icc", "exif", "xmp", "iptc")

Header = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]
Contents = tuple[Header, Arrays]  # of a .npz, as `read_container` gives them
# quality 0–100 → header fields and arrays of a picture's colours
Encoding = Callable[[float], tuple[dict[str, Any], dict[str, np.ndarray]]]


@dataclass(frozen=True)
class Prepared:
    """All work on a picture that does not depend on the quality; `encode` does the rest for each that is asked for.

    errors: (patches,), the mean squared errors of a feature autoencoder's reconstruction, its codes not yet rounded; or None.
    """

    encode: Encoding
    errors: Tensor | None = None


class Coder(Protocol):
    """One model, both ways."""

    weights: Weights

    def small_size(self, picture: Picture) -> tuple[int, int] | None:
        """(height, width) of a picture that `prepare` takes together with others of that size, None for one that goes alone."""

    def prepare(self, pictures: Sequence[Picture]) -> list[Prepared]:
        """The first half of encoding one picture, or several of one `small_size`, which gives each what it gives it alone."""

    def decode(self, files: Sequence[Contents]) -> list[np.ndarray]:
        """The pixels (H, W, C) uint8 of what `Encoding`s gave, one, or several of one size that is small."""


def coder_for(weights: Weights, compute: Compute, *, effort: int = 0) -> Coder:
    """The coder of a model; effort: rounds in which the codec's latents are refined for each picture (`refine`).

    Raises UsageError for weights that do not compress, and for an effort below zero or of a feature autoencoder.
    """
    if effort < 0:
        raise UsageError(f"--effort {effort} is below zero: pass a number of rounds, such as 12")
    if isinstance(weights.model, Codec):
        return StreamCoder(weights, compute, effort)
    if effort:
        raise UsageError(f"weights {weights.name} have no use for --effort: leave it out, or pass --weights photo-codec")
    if isinstance(weights.model, FeatureAutoencoder):
        return ArrayCoder(weights, compute)
    raise UsageError(f"weights {weights.name} are for another task ({weights.card.task}): pass --weights photo-codec")


def encode_picture(picture: Picture, coder: Coder, *, quality: float | Target | None = None) -> bytes:
    """A picture → the bytes of its .npz. Arguments and errors are those of `encode_and_measure`."""
    return encode_and_measure(picture, coder, quality=quality)[0]


def encode_and_measure(picture: Picture, coder: Coder, *, quality: float | Target | None = None) -> tuple[bytes, Tensor | None]:
    """A picture → the bytes of its .npz, and what `Prepared` calls errors.

    Args:
        picture: any size from 1×1; 16 bits are rounded to 8. Alpha is kept losslessly, EXIF as it is, and so is an ICC profile,
            unless it means sRGB, which takes a flag. Where R = G = B in every visible pixel, it is so in the decoded picture.
        coder: from `coder_for`.
        quality: 0–100, what the codec spends (None is 50), or a Target whose quality is searched. Feature autoencoders have one
            quality only, None.

    Raises:
        UsageError: quality out of range, or one for a feature autoencoder. AecliError: a picture too small for a feature
        autoencoder, or a Target that no quality reaches.
    """
    return encode_together([picture], coder, quality=quality)[0]


def encode_together(
    pictures: Sequence[Picture], coder: Coder, *, quality: float | Target | None = None
) -> list[tuple[bytes, Tensor | None]]:
    """What `encode_and_measure` gives for each of several pictures of one `Coder.small_size`, in less time."""
    check_options(coder, quality)
    pictures = [with_8_bits(picture) for picture in pictures]
    return [
        (_encode(picture, prepared, coder, quality), prepared.errors)
        for picture, prepared in zip(pictures, coder.prepare(pictures), strict=True)
    ]


def _encode(picture: Picture, prepared: Prepared, coder: Coder, quality: float | Target | None) -> bytes:
    """The second half, for 8 bits."""

    def encode(quality: float) -> bytes:
        fields, arrays = prepared.encode(quality)
        return write_container(*_with_metadata(picture, coder, fields, arrays))

    if not isinstance(quality, Target):
        # As the header has it: both gains must be of one quality
        return encode(round(DEFAULT_QUALITY if quality is None else quality, 2))

    def measure(data: bytes) -> float:
        if quality.kind == "psnr":
            return _psnr(decode_picture(data, "the picture", lambda _: coder), picture)
        return len(data) if quality.kind == "bytes" else 8 * len(data) / (picture.width * picture.height)

    try:
        return search(encode, measure, quality)
    except AecliError as error:
        raise _with_what_metadata_takes(error, quality, picture, coder, encode) from error


def _with_what_metadata_takes(
    error: AecliError, wanted: Target, picture: Picture, coder: Coder, encode: Callable[[float], bytes]
) -> AecliError:
    """The error, and the way out where a rate is out of reach because of what comes with the picture."""
    bare = without_metadata(picture)
    sizes = [len(write_container(*_with_metadata(p, coder, {}, {}))) for p in (picture, bare)]
    taken, smallest = sizes[0] - sizes[1], len(encode(0.0))
    bound = wanted.value if wanted.kind == "bytes" else wanted.value * picture.width * picture.height / 8
    if wanted.kind == "psnr" or bound >= smallest or (bound < smallest - taken and bound >= taken):
        return error
    way_out = f"pass --strip, and the smallest file has {smallest - taken:,}"
    return AecliError(f"{error}; metadata (EXIF, colour profile, texts) takes {taken:,} bytes: {way_out}")


def check_options(coder: Coder, quality: float | Target | None) -> None:
    """What `encode_picture` refuses whatever the picture. Raises UsageError."""
    if quality is None:
        return
    if not isinstance(coder, StreamCoder):
        name = coder.weights.name
        raise UsageError(f"weights {name} have one quality only: leave --quality, --bpp, --psnr and --max-bytes out")
    if not isinstance(quality, Target):
        check_quality(quality)


def _with_metadata(
    picture: Picture, coder: Coder, fields: Header, arrays: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    header: dict[str, Any] = {
        "size": [picture.width, picture.height],
        "mode": "L" if picture.pixels.shape[2] == 1 else "RGB",
        "weights": f"{coder.weights.name} {coder.weights.digest[:DIGEST_LENGTH]}",
        **fields,
    }
    if header["mode"] == "RGB" and picture.is_grey:
        header["grey"] = True
    if picture.dpi:
        header["dpi"] = list(picture.dpi)
    if picture.alpha is not None:
        arrays["alpha"] = _bytes_array(_png(picture.alpha))
    arrays |= {name: _bytes_array(getattr(picture, name)) for name in _META_MEMBERS if getattr(picture, name)}
    if "icc" in arrays and header["mode"] == "RGB" and is_srgb(arrays["icc"].tobytes()):
        del arrays["icc"]
        header["srgb"] = True
    if picture.texts:
        arrays["texts"] = _bytes_array(json.dumps(picture.texts).encode())
    return header, arrays


def _psnr(decoded: Picture, original: Picture) -> float:
    return psnr(to_tensor(decoded.pixels), to_tensor(original.pixels))


@dataclass(frozen=True)
class Description:
    """What a .npz says of itself; weights: the name, and digest: the beginning of the SHA-256, of what it was made with."""

    width: int
    height: int
    mode: str
    layout: str
    weights: str
    digest: str
    quality: float | None
    bits_per_pixel: float


def describe(data: bytes, name: str) -> Description:
    """Read a .npz's header without decoding. Raises AecliError as `decode_picture` does."""
    header, _ = read_container(data, name)
    width, height = _size(header, name)
    weights, digest = _weights_label(header, name)
    quality = header.get("quality")
    if quality is not None and type(quality) not in (int, float):
        raise AecliError(f"{name} is damaged (its quality is no number): encode the picture again")
    with _damage_as_sentences(name):
        mode, layout = _one_of(MODES, header, "mode"), _one_of(LAYOUTS, header, "layout")
    return Description(
        width, height, mode, layout, weights, digest,
        quality, 8 * len(data) / (width * height),
    )  # fmt: skip


def decode_picture(data: bytes, name: str, find_coder: Callable[[str], Coder]) -> Picture:
    """The bytes of a .npz → its picture.

    Args:
        data: what `encode_picture` returned.
        name: what errors call it.
        find_coder: gives the coder of weights by name (raises AecliError where there are none).

    Raises:
        AecliError: a damaged or foreign file, one made with other weights, one that claims an absurd size.
    """
    return decode_together([read_container(data, name)], name, find_coder)[0]


def decode_together(files: Sequence[Contents], name: str, find_coder: Callable[[str], Coder]) -> list[Picture]:
    """What `decode_picture` gives for one .npz, or for each of several of one `small_kind` in less time; name: in errors."""
    for header, _ in files:  # before any time is spent on them
        _size(header, name)
    coder = _coder_of(files[0][0], name, find_coder)
    with _damage_as_sentences(name):
        for header, _ in files:
            _one_of(MODES, header, "mode")
        pixels = coder.decode(files)
    pictures = [_picture(*file, found, name) for file, found in zip(files, pixels, strict=True)]
    return [_as_grey_as(header, picture) for (header, _), picture in zip(files, pictures, strict=True)]


def _as_grey_as(header: Header, picture: Picture) -> Picture:
    """Without the colour that decoding gives a picture that had none."""
    if header.get("grey") is not True or picture.mode != "RGB":
        return picture
    return replace(picture, pixels=without_colour(picture.pixels, picture.alpha))


def outline(contents: Contents, name: str) -> Picture:
    """The picture of a .npz but for its colours: size, transparency and what comes with it. Raises as `decode_picture` does."""
    header, arrays = contents
    width, height = _size(header, name)
    channels = 1 if header.get("mode") == "L" else 3
    return _picture(header, arrays, np.broadcast_to(np.uint8(0), (height, width, channels)), name)


def small_kind(header: Header, find_coder: Callable[[str], Coder]) -> Hashable:
    """Equal for .npz that `decode_together` takes together; None for one that goes alone, which a damaged one does."""
    try:
        size, coder = _size(header, ""), _coder_of(header, "", find_coder)
    except AecliError:
        return None
    small = isinstance(coder, ArrayCoder) and goes_together(size[1], size[0], coder.model)
    return (size, coder.weights.digest) if small else None


def _picture(header: Header, arrays: Arrays, pixels: np.ndarray, name: str) -> Picture:
    """What was decoded, with what a .npz holds besides."""
    width, height = _size(header, name)
    with _damage_as_sentences(name):
        mode, dpi = header["mode"], _dpi(header)
        if pixels.shape[:2] != (height, width):
            raise AecliError("its sizes do not agree")
        alpha = _alpha(arrays["alpha"].tobytes(), width, height) if "alpha" in arrays else None
        icc, exif, xmp, iptc = (arrays[m].tobytes() if m in arrays else None for m in _META_MEMBERS)
        if header.get("srgb") is True and mode == "RGB":
            icc = profile_of(Signalled(), grey=False)
        texts = _texts(arrays)
        return Picture(pixels, alpha, mode, icc, exif, dpi, format="NPZ", xmp=xmp, iptc=iptc, texts=texts)


def latents_of(data: bytes, name: str, find_coder: Callable[[str], Coder]) -> np.ndarray:
    """The latents of a .npz as an array: (N, latent_dim) float32 of the array layout, (M, h, w) int32 symbols of a stream.

    Raises AecliError as `decode_picture` does.
    """
    header, arrays = read_container(data, name)
    _size(header, name)
    coder = _coder_of(header, name, find_coder)
    with _damage_as_sentences(name):
        if isinstance(coder, StreamCoder):
            return coder.latents(header, arrays).symbols.astype(np.int32)
        assert isinstance(coder, ArrayCoder)
        return coder.codes(header, arrays)


def _coder_of(header: Header, name: str, find_coder: Callable[[str], Coder]) -> Coder:
    """The coder of the very weights that a file was made with."""
    weights, digest = _weights_label(header, name)
    try:
        coder = find_coder(weights)
    except AecliError as error:
        raise _other_weights(name, weights, digest) from error
    if not coder.weights.digest.startswith(digest):
        raise _other_weights(name, weights, digest)
    return coder


@contextmanager
def _damage_as_sentences(name: str) -> Iterator[None]:
    try:
        yield
    except AecliError as error:
        raise AecliError(f"{name} is damaged ({error}): encode the picture again") from error
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise AecliError(f"{name} is damaged or incomplete ({type(error).__name__}: {error}): encode the picture again") from error


class StreamCoder:
    """The photograph codec: entropy-coded bytes, every quality from one set of weights."""

    def __init__(self, weights: Weights, compute: Compute, effort: int = 0) -> None:
        assert isinstance(weights.model, Codec)
        self.weights, self._model, self._compute, self._effort = weights, weights.model, compute, effort
        self._latent_coder = LatentCoder(weights.model)

    def small_size(self, picture: Picture) -> None:
        return None

    def prepare(self, pictures: Sequence[Picture]) -> list[Prepared]:
        return [Prepared(functools.partial(self._encode, picture, self._analysed(picture))) for picture in pictures]

    def _analysed(self, picture: Picture) -> Tensor:
        height, width = picture.pixels.shape[:2]
        margins = [(0, -side % Codec.stride) for side in (height, width)]
        padded = np.pad(picture.pixels, [*margins, (0, 0)], mode="edge")
        overlap = -(-self._model.analysis_radius // BLOCK) * BLOCK
        analyse = self._run(self._model.analysis)
        bytes_of_picture = torch.from_numpy(padded).permute(2, 0, 1)[None].expand(1, 3, -1, -1)
        with torch.inference_mode():  # no more than a tile is ever held as floats
            return map_tiles(lambda x: analyse(x.float() / 255), bytes_of_picture, tile=TILE, overlap=overlap, down=BLOCK)

    def _encode(self, picture: Picture, y: Tensor, quality: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        gain, _ = self._gains(quality)
        analyse = self._run(self._model.h_a)
        with torch.inference_mode():
            z = map_tiles(lambda y: analyse(y * gain), y, tile=HYPER_TILE, overlap=Codec.hyper_analysis_radius, down=4)
        if self._effort:
            with torch.inference_mode(False), torch.no_grad():  # gradients cannot pass tensors of inference mode
                y = y * gain
                self._refine(y, z.round(), picture, quality)
                y /= gain
        with torch.inference_mode():
            stream, latents = self._latent_coder.encode(y, z, gain)
        header = {"layout": "stream", "quality": quality, "crc": latents.crc}
        return header, {"stream": _bytes_array(stream)}

    def _refine(self, y: Tensor, z: Tensor, picture: Picture, quality: float) -> None:
        """Refine y after its gain, (1, M, h, w), in place and tile by tile."""
        features = map_tiles(
            lambda z: self._model.h_s(z.to(self._compute.device)),
            z, tile=HYPER_TILE // 4, overlap=Codec.hyper_synthesis_radius, up=4,
        )  # fmt: skip
        pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None]
        for rows, columns in tiles(y.shape[2], y.shape[3], REFINED_TILE, REFINED_OVERLAP):
            x = pixels[..., rows.scaled(BLOCK).read, columns.scaled(BLOCK).read].float() / 255
            part = (..., rows.read, columns.read)
            found = refine(self._model, x, y[part], features[part], self._level(quality).item(), self._effort, self._compute)
            y[..., rows.kept, columns.kept] = found[..., rows.kept_of_read, columns.kept_of_read]

    def latents(self, header: Header, arrays: Arrays) -> Latents:
        """The symbols of a stream, checked against their CRC."""
        width, height = header["size"]
        grid = [-(-side // Codec.stride) * Codec.stride // BLOCK for side in (height, width)]
        stream = arrays["stream"]
        if stream.dtype != np.uint8 or stream.ndim != 1:
            raise AecliError("its stream is no row of bytes")
        with torch.inference_mode():
            latents = self._latent_coder.decode(stream.tobytes(), *grid)
        if latents.crc != header["crc"]:
            raise AecliError("its checksum does not match")
        return latents

    def decode(self, files: Sequence[Contents]) -> list[np.ndarray]:
        return [self._decode(*file) for file in files]

    def _decode(self, header: Header, arrays: Arrays) -> np.ndarray:
        width, height = header["size"]
        quality = float(header["quality"])
        if not 0 <= quality <= 100:  # true of NaN too
            raise AecliError("its quality is not within 0-100")
        y = self.latents(header, arrays).fixed_y_hat[None]
        _, inverse_gain = self._gains(quality)
        overlap = -(-self._model.synthesis_radius // BLOCK)
        synthesise = self._run(functools.partial(self._model.synthesis, level=self._level(quality)))
        with torch.inference_mode():
            pixels = map_tiles(
                lambda y: _to_bytes(synthesise(from_fixed(y) * inverse_gain), header["mode"]),
                y, tile=TILE // BLOCK, overlap=overlap, up=BLOCK,
            )  # fmt: skip
        return np.ascontiguousarray(pixels[0, :, :height, :width].permute(1, 2, 0).numpy())

    def _gains(self, quality: float) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            gain, inverse = self._model.gains(self._level(quality))
        return gain.cpu(), inverse.cpu()

    def _level(self, quality: float) -> Tensor:
        return torch.tensor([quality / 100 * (len(self._model.config.lambdas) - 1)], device=self._model.log_gain.device)

    def _run(self, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            with self._compute.autocast():
                x = x.to(self._compute.device).contiguous(memory_format=self._compute.layout)
                return network(x).float().cpu()

        return run


class ArrayCoder:
    """A feature autoencoder: one code a patch, stored as integers with their scale."""

    def __init__(self, weights: Weights, compute: Compute) -> None:
        assert isinstance(weights.model, FeatureAutoencoder)
        self.weights, self.model, self._compute = weights, weights.model, compute

    def small_size(self, picture: Picture) -> tuple[int, int] | None:
        height, width = picture.pixels.shape[:2]
        return (height, width) if goes_together(height, width, self.model) else None

    def prepare(self, pictures: Sequence[Picture]) -> list[Prepared]:
        cut = [to_patches(to_tensor(picture.pixels), self.model.config, self.weights.name)[0] for picture in pictures]
        codes = together(self.model.encode, cut, self._compute, self.model)
        errors = self._errors(codes, cut)
        in_8_bits = [_quantise(code, np.int8) for code in codes]
        rounded = self._errors([torch.from_numpy(_dequantise(*quantised)) for quantised in in_8_bits], cut)
        return [_prepared(*given) for given in zip(codes, errors, in_8_bits, rounded, strict=True)]

    def _errors(self, codes: Sequence[Tensor], cut: Sequence[Tensor]) -> list[Tensor]:
        """(patches,) for each picture: mean squared errors of what its codes, (patches, latent_dim), decode to."""
        restored = together(self.model.decode, codes, self._compute, self.model)
        return [squared_error(x_hat, x) / x[0].numel() for x_hat, x in zip(restored, cut, strict=True)]

    def codes(self, header: Header, arrays: Arrays) -> np.ndarray:
        """The latents (patches, latent_dim) float32. Raises AecliError, before it allocates, where they do not fit the size."""
        grid = self._grid(header)
        if arrays["latents"].shape != (grid.rows * grid.columns, self.model.config.latent_dim):
            raise AecliError("its latents do not fit its size")
        return _dequantise(header, arrays)

    def _grid(self, header: Header) -> Grid:
        width, height = header["size"]
        return grid_of(height, width, self.model.config)

    def decode(self, files: Sequence[Contents]) -> list[np.ndarray]:
        codes = [torch.from_numpy(self.codes(*file)) for file in files]
        decoded = together(self.model.decode, codes, self._compute, self.model)
        return [self._pixels(header, patches) for (header, _), patches in zip(files, decoded, strict=True)]

    def _pixels(self, header: Header, patches: Tensor) -> np.ndarray:
        grid = self._grid(header)
        restored = from_patches(patches, grid, channels=1 if header["mode"] == "L" else 3)[None]
        return np.ascontiguousarray(_to_bytes(restored, header["mode"])[0].permute(1, 2, 0).numpy())


def _prepared(codes: Tensor, errors: Tensor, in_8_bits: tuple[Header, Arrays], rounded: Tensor) -> Prepared:
    """codes: (patches, latent_dim). errors, rounded: (patches,), as they are and in 8 bits."""
    header, arrays = _quantise(codes, np.int16) if rounded.sum() > INT8_LOSS * errors.sum() else in_8_bits
    return Prepared(lambda _: ({"layout": "array", **header}, {**arrays}), errors)


def _quantise(codes: Tensor, dtype: type[np.signedinteger[Any]]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    largest = codes.abs().max().item()
    scale = float(np.float32(largest / np.iinfo(dtype).max)) or 1.0
    return {"scale": scale}, {"latents": np.round(codes.numpy() / scale).astype(dtype)}


def _dequantise(header: Header, arrays: Arrays) -> np.ndarray:
    latents = arrays["latents"]
    if latents.dtype not in (np.int8, np.int16) or latents.ndim != 2:
        raise AecliError("its latents are no table of integers")
    scale = float(header["scale"])
    if not 0 < scale <= float(np.finfo(np.float32).max):  # true of NaN too
        raise AecliError("its scale is no positive number")
    return latents.astype(np.float32) * np.float32(scale)


def _to_bytes(x: Tensor, mode: str) -> Tensor:
    """(B, C, H, W) about 0–1 → bytes, one channel for mode L."""
    if mode == "L" and x.shape[1] == 3:
        x = x.mean(dim=1, keepdim=True)
    return (x.clamp(0, 1) * 255).round().byte()


def _size(header: Header, name: str) -> tuple[int, int]:
    size = header.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise AecliError(f"{name} is damaged (it has no size): encode the picture again")
    if size[0] * size[1] > MAX_PIXELS:
        raise AecliError(f"{name} claims a picture of {size[0]}×{size[1]} pixels: it is not read")
    return size[0], size[1]


def _one_of(known: tuple[str, ...], header: Header, key: str) -> str:
    if header.get(key) not in known:
        raise AecliError(f"its {key} is none of {', '.join(known)}")
    return str(header[key])


def _dpi(header: Header) -> tuple[float, float] | None:
    dpi = header.get("dpi")
    if dpi is None:
        return None
    horizontal, vertical = (float(n) for n in dpi)
    if not (0 < horizontal < MAX_DPI and 0 < vertical < MAX_DPI):  # true of NaN too
        raise AecliError("its resolution is not within what pictures have")
    return horizontal, vertical


def _texts(arrays: Arrays) -> tuple[tuple[str, str], ...]:
    if "texts" not in arrays:
        return ()
    try:
        texts = json.loads(arrays["texts"].tobytes())
    except RecursionError as error:
        raise AecliError("its texts are nested too deep") from error
    if not (isinstance(texts, list) and all(isinstance(t, list) and [type(part) for part in t] == [str, str] for t in texts)):
        raise AecliError("its texts are no pairs of keyword and text")
    return tuple((keyword, text) for keyword, text in texts)


def _weights_label(header: Header, name: str) -> tuple[str, str]:
    label = str(header.get("weights", "")).rsplit(" ", 1)
    # A name, never a path: a file must not choose what else is opened
    is_name = len(label) == 2 and not {"/", "\\"} & set(label[0]) and label[0].isprintable()  # it is shown on terminals
    if not is_name or len(label[1]) != DIGEST_LENGTH or not label[1].isprintable() or len(label[0].encode()) > MAX_NAME_BYTES:
        raise AecliError(f"{name} is damaged (it does not say which weights it needs): encode the picture again")
    return label[0], label[1]


def _other_weights(name: str, weights: str, digest: str) -> AecliError:
    return AecliError(f"{name} was encoded with weights {weights} {digest}…, which are not here: pass --weights FILE")


def _alpha(png: bytes, width: int, height: int) -> np.ndarray:
    # The size stands at a fixed place: a picture of another one is not even unpacked.
    if png[:8] != b"\x89PNG\r\n\x1a\n" or struct.unpack(">II", png[16:24].ljust(8, b"\0")) != (width, height):
        raise AecliError("its transparency has another size")
    alpha: np.ndarray = read_picture(png).pixels[..., 0]
    return alpha


def _bytes_array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)


def _png(alpha: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(alpha).save(stream, "PNG", optimize=True)
    return stream.getvalue()
