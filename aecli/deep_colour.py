"""16 bits a sample in colour, or with alpha: PNG and TIFF files that Pillow has no mode for.

They are read by Pillow's decoders all the same, and so within the bounds that hold for every other file. A decoder keeps one
of the two bytes of a sample, and which one depends on the byte order it is told: the file is decoded twice, in both orders.
Written files take their metadata from Pillow and their samples from zlib, TIFF files of 8 bits and of further bands too. (The
libraries that could do either were tried: imagecodecs ends the interpreter, of Python 3.11, after some thousand damaged PNG
files; tifffile writes no EXIF. For what Pillow does not read at all, `aecli.tiff` asks tifffile.)
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin, TiffTags

Samples = npt.NDArray[np.uint16]  # (H, W, C): C = 2 grey and alpha, 3 RGB, 4 RGBA
Bands = npt.NDArray[Any]  # (H, W, C) uint8 or uint16

_BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _CHANNELS, _ROWS, _LENGTHS = 258, 259, 262, 273, 277, 278, 279
_WIDTH, _HEIGHT, _PLANAR, _PREDICTOR, _EXTRA_SAMPLES = 256, 257, 284, 317, 338
_DEFLATE, _DIFFERENCES, _BLACK_IS_ZERO, _RGB, _STRAIGHT_ALPHA, _PREMULTIPLIED, _UNSPECIFIED = 8, 2, 1, 2, 2, 1, 0
_BLOCK = 1 << 20  # bytes of samples that are filtered and compressed at once

# -------------------------------------------------------------------------------------------------------------- reading


class GreyAlphaTiff(TiffImagePlugin.TiffImageFile):
    """A TIFF file of 16-bit grey with alpha, which Pillow does not open: its four bytes a pixel as the bands of RGBA.

    Raises SyntaxError, as Pillow's own classes do, for any other file.
    """

    def _setup(self) -> None:
        tags, wanted = self.tag_v2, {_BITS: (16, 16), _PHOTOMETRIC: _BLACK_IS_ZERO, _CHANNELS: 2, _PLANAR: 1}
        if {tag: tags.get(tag, 1) for tag in wanted} != wanted or tags.get(_EXTRA_SAMPLES) not in {(1,), (2,)}:
            raise SyntaxError("no TIFF file of 16-bit grey with alpha")
        self.premultiplied: bool = tags[_EXTRA_SAMPLES] == (_PREMULTIPLIED,)
        for tag, value in {_BITS: (8, 8, 8, 8), _PHOTOMETRIC: _RGB, _CHANNELS: 4, _EXTRA_SAMPLES: (_STRAIGHT_ALPHA,)}.items():
            tags[tag] = value
        super()._setup()


def deep_samples(image: Image.Image, reopened: Callable[[], Image.Image]) -> Samples | None:
    """All samples with all their bits, `image` being decoded on the way; None where a sample has 8 bits, or no way is known.

    Args:
        image: just opened, not decoded.
        reopened: opens the same file again; called once `image` is decoded.

    Returns:
        (H, W, C), alpha not premultiplied. TIFF files are upright then, as Pillow makes them.
    """
    kind, premultiplied = _rawmode(image), _premultiplied(image)
    if isinstance(image, GreyAlphaTiff) or kind == "LA;16B":
        order = _byte_order(image)
        samples = _decoded(image, "RGBA").view(order).astype(np.uint16)  # (H, W, 4 bytes) to (H, W, 2)
    elif re.fullmatch(r"(RGB|RGB[AaX]);16[BLN]", kind) and not _planes_are_compressed(image):
        order = _byte_order(image)
        first = _decoded(image, "16B")  # takes the first byte of each sample
        both = np.empty((*first.shape, 2), np.uint8)
        both[..., 0] = first
        del first  # 300 MB of 100 megapixels
        both[..., 1] = _decoded(reopened(), "16L")
        samples = both.view(order)[..., 0].astype(np.uint16, copy=False)
    else:
        return None
    return _straight(samples) if premultiplied else samples


def _rawmode(image: Image.Image) -> str:
    """What Pillow's decoder is told of the samples in the file, planes of their own taken together: RGB;16B, say."""
    if not isinstance(image, (PngImagePlugin.PngImageFile, TiffImagePlugin.TiffImageFile)) or not image.tile:
        return ""
    arguments = image.tile[0].args
    name = arguments if isinstance(arguments, str) else str(arguments[0]) if arguments else ""
    in_planes = name == "R" and isinstance(image, TiffImagePlugin.TiffImageFile) and set(image.tag_v2.get(_BITS, ())) == {16}
    return f"{image.mode};16B" if in_planes else name


def _planes_are_compressed(image: Image.Image) -> bool:
    """Pillow always keeps the higher byte of these."""
    tile = cast(ImageFile.ImageFile, image).tile[0]
    return tile.codec_name == "libtiff" and bool(cast(Any, image).tag_v2.get(_PLANAR) == 2)


def _byte_order(image: Image.Image) -> str:
    """That of the samples as Pillow's decoder meets them."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return ">u2"
    little = sys.byteorder == "little" if image.tile[0].codec_name == "libtiff" else image.tag_v2.prefix == b"II"
    return "<u2" if little else ">u2"


def _decoded(image: Image.Image, kept: str) -> npt.NDArray[np.uint8]:
    """(H, W, C), decoded as `kept` says: RGBA, or 16B or 16L for one of two bytes."""
    file = cast(ImageFile.ImageFile, image)
    file.tile = [tile._replace(args=_arguments(tile.args, kept)) for tile in file.tile]
    file.load()
    bands = np.asarray(file)
    return bands[..., :3] if file.mode == "RGBX" else bands


def _arguments(arguments: Any, kept: str) -> Any:
    name, *others = [arguments] if isinstance(arguments, str) else arguments
    rawmode = kept if kept == "RGBA" else f"{name.partition(';')[0].replace('a', 'A')};{kept}"
    return (rawmode, *others) if others else rawmode


def _premultiplied(image: Image.Image) -> bool:
    if isinstance(image, GreyAlphaTiff):
        return image.premultiplied
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_EXTRA_SAMPLES) == (_PREMULTIPLIED,)


def _straight(samples: Samples) -> Samples:
    """Alpha taken out of the other samples, in place; no more than a strip is ever held as floats."""
    for strip in _strips(samples):
        alpha = np.maximum(strip[..., -1:], 1)
        strip[..., :-1] = np.minimum(np.rint(strip[..., :-1] * (65535.0 / alpha)), 65535)
    return samples


# -------------------------------------------------------------------------------------------------------------- writing


def write_png(samples: Samples, target: BinaryIO, metadata: Mapping[str, Any]) -> None:
    """`metadata` are keyword arguments for Pillow's `save`: what it writes beside the samples of a picture is written here."""
    height, width, channels = samples.shape
    model = BytesIO()
    Image.new("RGB", (1, 1)).save(model, "PNG", **metadata)
    target.write(model.getvalue()[:8])
    for kind, data in _chunks(model.getvalue()):
        match kind:
            case b"IHDR":
                size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
                PngImagePlugin.putchunk(target, kind, size, bytes([16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0]))
            case b"IDAT":
                for part in _deflated_rows(samples):
                    PngImagePlugin.putchunk(target, kind, part)
            case _:
                PngImagePlugin.putchunk(target, kind, data)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8], png[at + 8 : end]
        at = end + 4


def _deflated_rows(samples: Samples) -> Iterator[bytes]:
    """Rows as differences from the one above: PNG's filter 2, on photographs within 2 % of choosing the best for each."""
    compressor = zlib.compressobj()
    above = np.zeros((1, samples[0].nbytes), np.uint8)
    for strip in _strips(samples):
        rows = strip.astype(">u2").reshape(len(strip), -1).view(np.uint8)
        differences = rows - np.concatenate([above, rows[:-1]])
        if part := compressor.compress(np.pad(differences, ((0, 0), (1, 0)), constant_values=2).data):
            yield part
        above = rows[-1:]
    yield compressor.flush()


def write_tiff(samples: Bands, target: BinaryIO, metadata: Mapping[str, Any], extra: Bands | None = None) -> None:
    """Deflated strips of 8 or 16 bits, C = 1 grey included.

    `metadata` are keyword arguments for Pillow's `save`; of these icc_profile, exif (an Image.Exif), dpi. `extra`: (H, W, E),
    further bands of the same type.
    """
    height, width, channels = samples.shape
    grey, has_alpha = channels <= 2, channels in {2, 4}
    if extra is not None:
        samples = np.dstack([samples, extra])
    strips = [_deflated(strip) for strip in _strips(samples)]
    tags = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    exif = metadata.get("exif", {})
    for tag in exif:
        within = tag in TiffTags.TAGS_V2_GROUPS and not isinstance(exif[tag], dict)
        tags[tag] = exif.get_ifd(tag) if within else exif[tag]
    if metadata.get("icc_profile"):
        tags[TiffImagePlugin.ICCPROFILE] = metadata["icc_profile"]
    if "dpi" in metadata:
        tags[TiffImagePlugin.RESOLUTION_UNIT] = 2  # inches
        tags[TiffImagePlugin.X_RESOLUTION], tags[TiffImagePlugin.Y_RESOLUTION] = metadata["dpi"]
    bands = samples.shape[2]
    layout = {_WIDTH: width, _HEIGHT: height, _BITS: (8 * samples.itemsize,) * bands, _CHANNELS: bands, _PLANAR: 1}
    layout |= {_COMPRESSION: _DEFLATE, _PREDICTOR: _DIFFERENCES, _PHOTOMETRIC: _BLACK_IS_ZERO if grey else _RGB}
    kinds = (_STRAIGHT_ALPHA,) * has_alpha + (_UNSPECIFIED,) * (bands - channels)
    layout |= {_EXTRA_SAMPLES: kinds} if kinds else {}
    for tag, value in layout.items():
        tags[tag] = value
    lengths = [len(strip) for strip in strips]
    tags[_ROWS], tags[_LENGTHS] = _rows_of_strip(samples), tuple(lengths)
    tags.tagtype[_LENGTHS] = tags.tagtype[_STRIPS] = TiffTags.LONG
    tags[_STRIPS] = tuple(np.cumsum([0, *lengths[:-1]]).tolist())  # from the end of the tags, where Pillow sets them
    tags.save(target)
    target.writelines(strips)


def _deflated(strip: Bands) -> bytes:
    differences = strip.astype(strip.dtype.newbyteorder("<"))
    differences[:, 1:] -= strip[:, :-1]
    return zlib.compress(differences.data)


def _strips(samples: Bands) -> Iterator[Bands]:
    rows = _rows_of_strip(samples)
    return (samples[top : top + rows] for top in range(0, len(samples), rows))


def _rows_of_strip(samples: Bands) -> int:
    return max(1, _BLOCK // int(samples[0].nbytes))
