"""Pictures from and to files: the one place that knows depths, palettes, alpha, orientation, profiles and metadata.

Whatever a file held, the rest of the program sees a `Picture`: upright pixels, grey or RGB, 8 or 16 bits a sample,
alpha apart. What had to be reduced on the way is listed in its `notes`, so that nothing is lost in silence.
"""

from __future__ import annotations

import errno
import io
import logging
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from aecli import kinds
from aecli.errors import AecliError, UsageError
from aecli.lossy import Lossy, lossy_of
from aecli.metadata import (
    COMMENT,
    dpi_of,
    exif_of,
    exif_with_dpi,
    photoshop_block,
    tags_for_tiff,
    turned_exif,
    turned_xmp,
    upright,
    words_of,
)
from aecli.storage import Place

if TYPE_CHECKING:
    from aecli.colour import Signalled
    from aecli.png_chunks import Beside
    from aecli.tiff import Stored

Array = npt.NDArray[Any]

MAX_PIXELS = 1_000_000_000  # 3 GB as 8-bit RGB: beyond that a header is more likely to lie than a picture to be that large

# A header may lie, and decoders fill what a file lacks with grey: 600 bytes of JPEG took 14 s and 5 GB. Blank pages aside,
# no picture of a larger size has fewer bytes.
PLAUSIBLE_PIXELS = 1 << 25
PIXELS_PER_BYTE = 2000

_LOOKED_AT_TOGETHER = 1 << 18  # pixels

_DEEP_FORMATS = frozenset({"PNG", "TIFF"})  # those in which 16-bit colour is read and written

# Only formats with a signature, and none that starts another program (EPS runs Ghostscript) or needs a plug-in.
_READABLE = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "QOI")

# fmt: off
SUFFIXES: frozenset[str] = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".dib",
    ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx", ".qoi",
})
# fmt: on
"""Suffixes, in lower case, of the files that a walk through a folder takes for pictures."""

_HEIC = "HEIC is not read: convert it to JPEG, PNG or AVIF first"
_RAW = "a camera's raw file is not read: develop it to TIFF or PNG first"
UNREAD: Mapping[str, str] = MappingProxyType(
    dict.fromkeys((".heic", ".heif", ".hif"), _HEIC) | dict.fromkeys(kinds.CAMERA_RAW_SUFFIXES, _RAW)
)
"""Suffixes, in lower case, of pictures that a walk through a folder finds and cannot take, and why."""

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        ".png": "PNG",
        ".apng": "PNG",
        ".jpg": "JPEG",
        ".jpeg": "JPEG",
        ".jpe": "JPEG",
        ".jfif": "JPEG",
        ".mpo": "JPEG",
        ".webp": "WEBP",
        ".avif": "AVIF",
        ".tif": "TIFF",
        ".tiff": "TIFF",
        ".bmp": "BMP",
        ".dib": "DIB",
        ".ppm": "PPM",
        ".pgm": "PPM",
        ".pnm": "PPM",
        ".jp2": "JPEG2000",
        ".jpx": "JPEG2000",
        ".j2k": "J2K",
    }
)
"""Suffixes that can be written, and the name of their format. Not GIF: 256 colours are too few for a result.

The names are Pillow's, but for J2K, the bare codestream of JPEG 2000.
"""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the file meant it to be seen: upright, palette resolved, alpha not premultiplied.

    Change the pixels with `dataclasses.replace(picture, pixels=…)`; the rest goes along to `write_picture`.
    """

    pixels: Array  # (H, W, C), C = 1 grey or 3 RGB; uint8 0-255 or uint16 0-65535
    alpha: Array | None = None  # (H, W), same dtype; 0 is transparent
    mode: str = "RGB"  # Pillow's mode of the file
    icc: bytes | None = None  # colour profile of `pixels`
    exif: bytes | None = None  # as Pillow takes it, b"Exif\0\0" first; its orientation is 1 or absent
    dpi: tuple[float, float] | None = None  # horizontal, vertical, after the orientation was applied
    format: str | None = None  # of the file, as FORMATS names those that are written; others as Pillow does
    notes: tuple[str, ...] = ()  # what was reduced on reading, one clause each
    lossy: Lossy | None = None  # how hard the file was compressed, where that can be told
    xmp: bytes | None = None
    iptc: bytes | None = None  # the records themselves
    texts: tuple[tuple[str, str], ...] = ()  # keywords and texts, as PNG has them
    extra: Array | None = None  # (H, W, E), same dtype: further bands, infrared say, which the models leave as they are

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @cached_property
    def is_grey(self) -> bool:
        """Whether every pixel that alpha does not hide has no colour (R = G = B), however many channels there are.

        Formats that lose something give grey pixels a level of colour, as they round.
        """
        return _is_grey(self.pixels, self.alpha, tolerance=int(self.format in LOSSY_FORMATS and self.pixels.dtype == np.uint8))


# -------------------------------------------------------------------------------------------------------------- reading


def read_picture(source: Path | BinaryIO | bytes, name: str | None = None) -> Picture:
    """Reads a whole picture from a file, an open binary stream (which need not be seekable) or the bytes of a file.

    `name` is what error messages call it. Raises AecliError if it is missing, unreadable, empty, no picture, damaged,
    cut short, larger than MAX_PIXELS, or one that claims more than PIXELS_PER_BYTE pixels a byte of its file (counted above
    PLAUSIBLE_PIXELS).
    """
    name = name or (str(source) if isinstance(source, Path) else "the picture")
    with _errors_as_sentences(name):
        if isinstance(source, Path):
            with source.open("rb") as stream:
                return _read_stream(stream, name)
        return _read_stream(io.BytesIO(source) if isinstance(source, bytes) else source, name)


def from_pil(image: Image.Image, name: str = "picture") -> Picture:
    """Makes a Picture of a Pillow image of any mode, as `read_picture` does for a file.

    Raises AecliError if its pixels cannot be decoded or have values that no picture has.
    """
    with _errors_as_sentences(name):
        texts = [(keyword, str(text)) for keyword, text in getattr(image, "text", {}).items() if not keyword.startswith("XML:")]
        return _picture_of(image, name, stored_bits=8, reopened=None, texts=texts)


def _read_stream(stream: BinaryIO, name: str) -> Picture:
    if not stream.seekable():
        stream = io.BytesIO(stream.read())
    head = stream.read(1 << 16)  # where every format that we read keeps its bit depth
    if not head:
        raise AecliError(f"{name} is empty (0 bytes): check where it came from")
    if kinds.is_camera_raw(head):
        raise AecliError(kinds.camera_raw(name))
    pages_notes: tuple[str, ...] = ()
    beside = None
    if head.startswith((b"II", b"MM")):
        stream, pages_notes = _tiff_at_its_picture(stream, head, name)
    elif head.startswith(b"\x89PNG\r\n\x1a\n"):
        from aecli.png_chunks import read_beside

        beside = read_beside(stream)
        stream, pages_notes = beside.whole, tuple(beside.notes)
    with _pillow_kept_quiet():
        image = _open(stream, head, name)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        _check_length(stream, image, name)
        frames = 1 if image.format == "TIFF" else getattr(image, "n_frames", 1)
        if image.format == "TIFF":
            image.getexif()  # Pillow would read it while decoding, where its warnings reach the terminal
    with image:
        if image.format == "JPEG2000":
            _check_codestream_ends(stream, name)
        _add_signals(image, head, beside)
        texts = beside.texts if beside else ()
        picture = _picture_of(image, name, _stored_bits(image, head), lambda: _reopened(stream, head, name), texts)
        picture = replace(picture, format=_container(image, head), lossy=lossy_of(image, stream))
    if frames > 1:
        pages_notes = (*pages_notes, f"only the first of {frames} frames was read")
    return replace(picture, notes=(*picture.notes, *pages_notes))


_SIGNALLED = "aecli signalled colours"  # a key of `Image.info`


def _add_signals(image: Image.Image, head: bytes, beside: Beside | None) -> None:
    """Puts what Pillow does not read of a file, its profile, XMP and signalled colours, where it puts what it reads."""
    from aecli.colour import of_numbers, of_tiff

    if beside:
        found = {"icc_profile": beside.icc, "xmp": beside.xmp, _SIGNALLED: beside.signalled}
        image.info.update({key: value for key, value in found.items() if value is not None})
    elif image.format == "TIFF":
        image.info[_SIGNALLED] = of_tiff(image.tag_v2)  # type: ignore[attr-defined]
    elif image.format == "AVIF" and (at := head.find(b"colrnclx")) >= 0:
        primaries, transfer = struct.unpack_from(">HH", head.ljust(at + 12, b"\0"), at + 8)
        image.info[_SIGNALLED] = of_numbers(primaries & 255, transfer & 255)  # decoding makes them RGB of the full range
    elif image.format == "JPEG2000" and (at := head.find(b"colr\x02")) >= 4:
        (length,) = struct.unpack_from(">I", head, at - 4)
        if at - 4 + length <= len(head) and head[at + 7 + 36 : at + 7 + 40] == b"acsp":
            image.info["icc_profile"] = head[at + 7 : at - 4 + length]


def _profile_of(image: Image.Image, *, grey: bool) -> bytes | None:
    """The file's profile, or one of the colours that it signals otherwise; HDR, which profiles do not know, counts before them."""
    profile: bytes | None = image.info.get("icc_profile") or None
    signalled: Signalled | None = image.info.get(_SIGNALLED)
    if signalled is None or (profile and not signalled.cicp):
        return profile
    from aecli.colour import profile_of

    return profile_of(signalled, grey=grey)


def _tiff_at_its_picture(stream: BinaryIO, head: bytes, name: str) -> tuple[BinaryIO, tuple[str, ...]]:
    """The file as one that begins with its picture, where a preview comes first, and notes on its other pages."""
    from aecli.tiff import is_tiff, keep_libtiff_quiet, layout_of, with_first

    layout = layout_of(stream) if is_tiff(head) else None
    stream.seek(0)
    if layout is None:
        return stream, ()
    keep_libtiff_quiet()
    if layout.camera_raw or PurePath(name).suffix.lower() in kinds.CAMERA_RAW_SUFFIXES:
        raise AecliError(kinds.camera_raw(name))
    if layout.layers > 1:
        raise AecliError(f"{name} is a volume of {layout.layers} layers: save the layer that you want by itself")
    notes = [f"only the first of {layout.pictures} frames was read"] if layout.pictures > 1 else []
    if layout.masks:
        notes.append("the transparency mask was left out")
    stream = with_first(stream, layout)
    stream.seek(0)
    return stream, tuple(notes)


def _open(stream: BinaryIO, head: bytes, name: str) -> Image.Image:
    stream.seek(0)
    try:
        return Image.open(stream, formats=_READABLE)
    except UnidentifiedImageError:
        from aecli.deep_colour import GreyAlphaTiff
        from aecli.tiff import OtherTiff

        for kind in (GreyAlphaTiff, OtherTiff):
            stream.seek(0)
            try:
                return kind(stream)
            except SyntaxError:
                continue
        if sentence := kinds.refusal(head, name):
            raise AecliError(sentence) from None
        raise


def _reopened(stream: BinaryIO, head: bytes, name: str) -> Image.Image:
    with _pillow_kept_quiet():
        image = _open(stream, head, name)
        if image.format == "TIFF":
            image.getexif()  # as in `_read_stream`
    return image


def _check_length(stream: BinaryIO, image: Image.Image, name: str) -> None:
    position = stream.tell()
    length = stream.seek(0, io.SEEK_END)
    stream.seek(position)
    if image.width * image.height > max(PLAUSIBLE_PIXELS, PIXELS_PER_BYTE * length):
        raise AecliError(
            f"{name} claims {image.width}×{image.height} pixels in {length:,} bytes: "
            "if it is no damaged file but a blank picture, save it uncompressed"
        )


def _check_codestream_ends(stream: BinaryIO, name: str) -> None:
    """A JPEG 2000 file cut where its first tile starts decodes to a blank picture: it must have its end marker."""
    position = stream.tell()
    stream.seek(0)
    if b"\xff\xd9" not in stream.read():
        raise AecliError(f"{name} is damaged or cut short (it has no end): get a whole copy of the file")
    stream.seek(position)


_pillow_lock = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # without any, Python writes what it logs to the terminal


@contextmanager
def _pillow_kept_quiet() -> Iterator[None]:
    """Reading of headers under our own limit of pixels, without Pillow's warnings.

    The limit and the filters belong to the whole process: the lock keeps our own threads apart, and decoding, which
    takes the time, stays outside.
    """
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit_of_others, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit_of_others


@contextmanager
def _errors_as_sentences(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes one AecliError; hostile files raise almost any type of exception."""
    try:
        yield
    except (AecliError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise AecliError(f"{name} is not a picture that can be read (unknown or damaged format): check the file") from error
    except Image.DecompressionBombError as error:
        raise AecliError(f"{name} claims more than {MAX_PIXELS:,} pixels: cut it into smaller pictures") from error
    except OSError as error:
        raise (unreadable(name, error) if error.errno is not None else _damaged(name, error)) from error
    except Exception as error:
        raise _damaged(name, error) from error


def unreadable(name: str, error: OSError) -> AecliError:
    """The sentence for a file that the operating system does not hand out."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return AecliError(f"{name} does not exist: check the name")
        case errno.EISDIR:
            return AecliError(f"{name} is a folder: name the files in it")
        case errno.EACCES | errno.EPERM:
            return AecliError(f"{name} may not be read: check its permissions")
    return AecliError(f"{name} could not be read ({error.strerror or error}): check the disk and the name")


def _damaged(name: str, error: Exception) -> AecliError:
    return AecliError(f"{name} is damaged or cut short ({error or type(error).__name__}): get a whole copy of the file")


def _container(image: Image.Image, head: bytes) -> str | None:
    """The format as FORMATS has it: a JPEG with further pictures behind it (MPO) is one, a bare codestream is no JP2."""
    if image.format == "JPEG2000" and head.startswith(b"\xff\x4f\xff\x51"):
        return "J2K"
    return "JPEG" if image.format == "MPO" else image.format


def _stored_bits(image: Image.Image, head: bytes) -> int:
    """Bits a sample in the file, which the mode does not tell: Pillow decodes colour with 8 bits whatever there is."""
    match image.format:
        case "PNG":
            return head[24]
        case "TIFF":
            return int(max(image.tag_v2.get(258, (1,))))  # type: ignore[attr-defined]
        case "PPM":
            header = re.match(rb"P[2356]\s+\d+\s+\d+\s+(\d+)", re.sub(rb"#[^\n]*\n", b"", head[:4096]))
            return int(header[1]).bit_length() if header else 8
        case "JPEG2000":
            size_marker = head.find(b"\xff\x4f\xff\x51")
            return (head[size_marker + 42] & 0x7F) + 1 if 0 <= size_marker < len(head) - 42 else 8
        case "AVIF":
            configuration = head.find(b"av1C")
            high_bitdepth = 0 <= configuration < len(head) - 6 and head[configuration + 6] & 0x40
            return 10 if high_bitdepth else 8
    return 8


def _picture_of(
    image: Image.Image,
    name: str,
    stored_bits: int,
    reopened: Callable[[], Image.Image] | None,
    texts: Sequence[tuple[str, str]] = (),
) -> Picture:
    """`reopened` opens the file again, where there is one. texts: those of a PNG file."""
    size = image.size
    turned_by_pillow = _orientation_of_tiff(image)
    samples = _samples_by_tifffile(image, name) if reopened and image.format == "TIFF" else None
    if samples is None:
        samples = _samples_by_pillow(image, name, stored_bits, reopened)
    else:
        turned_by_pillow = 1
    with _pillow_kept_quiet():
        exif, orientation, exif_notes = exif_of(image)
        dpi = dpi_of(image, exif)
        words = words_of(image, texts)
    turned = max(orientation, turned_by_pillow)
    exif, turning_notes = turned_exif(exif, turned, size)
    return Picture(
        pixels=upright(samples.pixels, orientation),
        alpha=None if samples.alpha is None else upright(samples.alpha, orientation),
        extra=None if samples.extra is None else upright(samples.extra, orientation),
        mode=samples.mode or image.mode,
        icc=_profile_of(image, grey=samples.pixels.shape[2] == 1) if samples.profile_fits else None,
        exif=exif,
        dpi=(dpi[1], dpi[0]) if dpi and turned >= 5 else dpi,
        xmp=turned_xmp(words.xmp, turned),
        iptc=words.iptc,
        texts=words.texts,
        format=image.format,
        notes=samples.notes + exif_notes + turning_notes + words.notes,
    )


def _samples_by_pillow(image: Image.Image, name: str, stored_bits: int, reopened: Callable[[], Image.Image] | None) -> _Samples:
    deep = _deep_samples(image, reopened) if reopened and image.format in _DEEP_FORMATS else None
    image.load()
    samples = _samples_of(image, name, stored_bits) if deep is None else _samples_of_deep(image, deep)
    if image.format == "TIFF" and _SIGNED in image.tag_v2.get(_SAMPLE_FORMAT, ()):  # type: ignore[attr-defined]
        _refuse_negative(samples.pixels, image.mode, name)
    return samples


_SAMPLE_FORMAT, _SIGNED = 339, 2  # a tag of TIFF, and what it says


def _refuse_negative(pixels: Array, mode: str, name: str) -> None:
    """Of signed samples that Pillow took for unsigned ones, which it does except for its 32-bit mode."""
    if mode == "I":
        return
    signed = pixels.view(np.int8 if pixels.dtype == np.uint8 else np.int16)
    _check_integers(int(signed.min()), int(signed.max()), np.iinfo(pixels.dtype).max, name)


def _samples_by_tifffile(image: Image.Image, name: str) -> _Samples | None:
    """Of a TIFF file that is not decoded yet; None where Pillow reads all of it."""
    from aecli.deep_colour import GreyAlphaTiff
    from aecli.tiff import WAY_OUT, UnreadError, is_beyond_pillow, left_out, read_samples

    if isinstance(image, GreyAlphaTiff):
        return None
    stream: BinaryIO = image.fp  # type: ignore[attr-defined]
    if is_beyond_pillow(image):
        return _samples_of_stored(read_samples(stream, name), name)
    if not (clause := left_out(image)):
        return None
    try:
        return _samples_of_stored(read_samples(stream, name), name)
    except UnreadError:  # what Pillow reads of it is whole, as far as it goes
        samples = _samples_by_pillow(image, name, 8, None)
        return replace(samples, notes=(*samples.notes, f"{clause} ({WAY_OUT} reads such files)"))


def _deep_samples(image: Image.Image, reopened: Callable[[], Image.Image]) -> Array | None:
    from aecli.deep_colour import deep_samples  # with it come Pillow's plug-ins, which a start-up can do without

    return deep_samples(image, reopened)


def _orientation_of_tiff(image: Image.Image) -> int:
    """Of a file that is not decoded yet: Pillow makes TIFF files upright, and forgets how they were."""
    orientation = image.getexif().get(274) if image.format == "TIFF" else None  # that of XMP, too, as Pillow applies it
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


# -------------------------------------------------------------------------------------------------- pixels of each mode


@dataclass(frozen=True, eq=False)
class _Samples:
    pixels: Array  # (H, W, C)
    alpha: Array | None = None  # (H, W)
    notes: tuple[str, ...] = ()
    profile_fits: bool = True  # the file's ICC profile still describes `pixels`
    extra: Array | None = None  # (H, W, E)
    mode: str | None = None  # where Pillow's mode of the image is another


def _samples_of(image: Image.Image, name: str, stored_bits: int) -> _Samples:
    match image.mode:
        case "P" | "PA":
            return _samples_of_palette(image)
        case "I" | "I;16" | "I;16L" | "I;16B" | "I;16N":
            return _samples_of_integers(image, name, stored_bits)
        case "F":
            return _samples_of_floats(image, name)
        case "CMYK":
            return _samples_of_cmyk(image)
        case "1" | "L" | "LA" | "La" | "RGB" | "RGBA" | "RGBa" | "RGBX" | "YCbCr" | "LAB" | "HSV":
            return _samples_of_bytes(image, stored_bits)
    raise AecliError(f"{name} has pixels of the kind {image.mode}, which is not supported: convert it to RGB first")


def _samples_of_deep(image: Image.Image, deep: Array) -> _Samples:
    has_alpha = deep.shape[2] in {2, 4}
    pixels = np.ascontiguousarray(deep[..., :-1]) if has_alpha else deep
    alpha = np.ascontiguousarray(deep[..., -1]) if has_alpha else _alpha_of_key(pixels, image.info.get("transparency"))
    return _Samples(pixels, alpha, mode=_MODES[deep.shape[2]])


def _samples_of_stored(stored: Stored, name: str) -> _Samples:
    """What tifffile has read: any numbers, brought to 8 or 16 bits as those that Pillow reads are."""
    if stored.cmyk:
        to_bytes, _ = _scaling(stored.colours, stored.bits, name)
        samples = _samples_of_cmyk(Image.fromarray(to_8_bits(to_bytes(stored.colours)), "CMYK"))
        return replace(samples, notes=(*samples.notes, *_notes_of_inks(stored)), mode="CMYK")
    scaled, notes = _scaling(stored.colours, stored.bits, name)
    pixels = scaled(stored.colours)
    alpha = None if stored.alpha is None else scaled(stored.alpha)
    if alpha is not None and stored.premultiplied:
        pixels = _straightened(pixels, alpha)
    extra = None
    if stored.extra is not None:
        if stored.extra.dtype in (np.uint8, np.uint16) and stored.extra.dtype == pixels.dtype:
            extra = np.ascontiguousarray(scaled(stored.extra))
        else:
            notes = (*notes, f"{further_bands(stored.extra.shape[2])} left out")
    mode = ("L" if pixels.shape[2] == 1 else "RGB") + "A" * (alpha is not None)
    return _Samples(pixels, alpha, notes, extra=extra, mode=mode)


def _notes_of_inks(stored: Stored) -> tuple[str, ...]:
    more = (stored.alpha is not None) + (0 if stored.extra is None else stored.extra.shape[2])
    return (f"{further_bands(more)} left out",) if more else ()


def _them(extra: Array) -> str:
    return "it" if extra.shape[2] == 1 else "them"


def further_bands(count: int) -> str:
    """The beginning of a note that they are left out."""
    return "one further band was" if count == 1 else f"{count} further bands were"


def _straightened(pixels: Array, alpha: Array) -> Array:
    """Alpha taken out of the other samples."""
    top = np.iinfo(pixels.dtype).max
    return np.minimum(np.rint(pixels * (top / np.maximum(alpha, 1)[..., None])), top).astype(pixels.dtype)


def _scaling(values: Array, bits: int, name: str) -> tuple[Callable[[Array], Array], tuple[str, ...]]:
    """How samples of the kind and range of `values` become uint8 or uint16, and notes on it. bits: of integers that are used.

    Raises AecliError for values that no picture has.
    """
    if values.dtype == bool:
        return lambda samples: samples.astype(np.uint8) * np.uint8(255), ()
    if np.issubdtype(values.dtype, np.floating):
        white = _white_of(values, name)
        note = f"floating-point values were read with 16 bits, {white:g} as white"
        return lambda samples: np.rint(np.clip(samples.astype(np.float64), 0, white) * (65535 / white)).astype(np.uint16), (note,)
    if values.dtype == np.uint8 or (values.dtype == np.uint16 and bits > 8):
        whole, kind = (255, np.uint8) if values.dtype == np.uint8 else (65535, np.uint16)
        top = (1 << bits) - 1
        if top >= whole:
            return lambda samples: samples, ()
        return lambda samples: ((samples.astype(np.uint32) * whole + top // 2) // top).astype(kind), ()
    if not np.issubdtype(values.dtype, np.integer):
        raise AecliError(f"{name} has pixels of the kind {values.dtype}, which is not supported: convert it to RGB first")
    _check_integers(int(values.min()), int(values.max()), 255 if values.dtype == np.int8 else 65535, name)
    kind = np.uint8 if values.dtype == np.int8 else np.uint16
    return lambda samples: samples.astype(kind), ()


def _check_integers(low: int, high: int, most: int, name: str) -> None:
    if low < 0 or high > most:
        raise AecliError(
            f"{name} has values from {low} to {high}, outside 0-{most}: scale it to {8 if most == 255 else 16} bits first"
        )


def _samples_of_bytes(image: Image.Image, stored_bits: int) -> _Samples:
    grey, has_alpha = image.mode in {"1", "L", "LA", "La"}, image.mode in {"LA", "La", "RGBA", "RGBa"}
    bands = np.array(image.convert(("L" if grey else "RGB") + "A" * has_alpha))
    bands = bands.reshape(*bands.shape[:2], -1)  # (H, W, 1-4)
    alpha = bands[..., -1] if has_alpha else None
    pixels = bands[..., :-1] if has_alpha else bands
    if alpha is None and image.mode in {"1", "L", "RGB"}:
        alpha = _alpha_of_key(pixels, _transparent_byte(image, stored_bits))
    kind = "grey" if pixels.shape[2] == 1 else "colour"
    notes = (f"{stored_bits}-bit {kind} was read with 8 bits",) if stored_bits > 8 else ()
    return _Samples(pixels, alpha, notes, profile_fits=image.mode != "LAB")


def _samples_of_palette(image: Image.Image) -> _Samples:
    has_alpha = image.has_transparency_data
    bands = np.array(image.convert("RGBA" if has_alpha else "RGB"))  # (H, W, 3 or 4)
    pixels = bands[..., :3]
    # A profile in a palette file is one for RGB, which grey pixels could not keep.
    if "icc_profile" not in image.info and _is_grey(pixels):
        pixels = pixels[..., :1]
    return _Samples(pixels, bands[..., 3] if has_alpha else None)


def _samples_of_integers(image: Image.Image, name: str, stored_bits: int) -> _Samples:
    values = np.array(image)[..., None]  # (H, W, 1)
    if image.mode == "I" and image.format == "TIFF" and _SIGNED not in image.tag_v2.get(_SAMPLE_FORMAT, ()):  # type: ignore[attr-defined]
        values = values.view(np.uint32)  # which Pillow has no mode for
    _check_integers(int(values.min()), int(values.max()), 65535, name)
    pixels: Array = values.astype(np.uint16)
    if image.format == "TIFF" and image.mode.startswith("I;16"):
        if stored_bits == 12:
            pixels = (pixels << 4) | (pixels >> 8)  # 0-4095 to 0-65535
        if image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
            pixels = ~pixels  # WhiteIsZero, which Pillow heeds for 8 bits only
    return _Samples(pixels, _alpha_of_key(pixels, image.info.get("transparency")))


def _samples_of_floats(image: Image.Image, name: str) -> _Samples:
    values = np.array(image)[..., None]  # (H, W, 1)
    scaled, notes = _scaling(values, 32, name)
    return _Samples(scaled(values), notes=notes)


_HDR = 16.0  # what is brighter than white reaches no further, and values of 0-255 are no picture without anything that is


def _white_of(values: Array, name: str) -> float:
    """Floating-point files do not say what white is, so the largest value has to: 1, 255 or 65535, or itself in HDR."""
    if not np.isfinite(values).all():
        raise AecliError(f"{name} has pixels that are infinite or no number: replace them first")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        raise AecliError(f"{name} has values from {low:g} to {high:g}: scale them to 0-1 first")
    if 1 < high <= _HDR and (values != np.rint(values)).any():
        return high
    return next(white for white in (1, 255, 65535) if high <= white)


def _samples_of_cmyk(image: Image.Image) -> _Samples:
    profile = image.info.get("icc_profile")
    rgb = _cmyk_to_srgb(image, profile) if profile else None
    note = "CMYK was converted to sRGB with its colour profile" if rgb else "CMYK was converted to RGB without a profile"
    return _Samples(np.array(rgb or image.convert("RGB")), notes=(note,), profile_fits=False)


def _cmyk_to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """None where the profile is damaged or not one for CMYK."""
    from PIL import ImageCms

    try:
        return ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return None


def _is_grey(pixels: Array, alpha: Array | None = None, *, tolerance: int = 0) -> bool:
    """Whether all channels (H, W, C) are equal, or differ by so much, wherever alpha (H, W) is not 0."""
    if pixels.shape[2] == 1:
        return True
    step = max(1, _LOOKED_AT_TOGETHER // pixels.shape[1])
    for start in range(0, len(pixels), step):  # most pictures show in their first rows that they have colour
        rows = slice(start, start + step)
        channels = [pixels[rows, :, channel] for channel in range(pixels.shape[2])]
        coloured = reduce(np.maximum, channels) - reduce(np.minimum, channels) > tolerance
        if (coloured if alpha is None else coloured & (alpha[rows] != 0)).any():
            return False
    return True


def without_colour(pixels: Array, alpha: Array | None = None) -> Array:
    """Pixels (H, W, 3) whose channels become their mean wherever alpha (H, W) is not 0: what comes of a picture that `is_grey`."""
    grey = np.empty_like(pixels)
    step = max(1, _LOOKED_AT_TOGETHER // pixels.shape[1])
    for start in range(0, len(pixels), step):
        rows = slice(start, start + step)
        grey[rows] = (pixels[rows].sum(axis=2, keepdims=True, dtype=np.uint32) + 1) // 3  # rounded: thirds are never halves
    return grey if alpha is None else np.where(alpha[..., None] != 0, grey, pixels)


def _transparent_byte(image: Image.Image, stored_bits: int) -> Any:
    """The colour that PNG's tRNS chunk makes transparent, scaled as the 8-bit pixels are: Pillow leaves it unscaled."""
    key = image.info.get("transparency")
    if key is None or image.mode == "1" or stored_bits == 8:
        return key
    return np.asarray(key) * (255 // (2**stored_bits - 1))


def _alpha_of_key(pixels: Array, key: Any) -> Array | None:
    """Alpha of a picture in which one colour, `key`, is transparent and every other opaque."""
    if key is None or isinstance(key, bytes):
        return None
    opaque = (pixels != np.asarray(key)).any(axis=2)
    return np.where(opaque, np.iinfo(pixels.dtype).max, 0).astype(pixels.dtype)


# -------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Writer:
    modes: frozenset[str]  # those of L, LA, RGB, RGBA and I;16 that the format holds
    metadata: bool  # ICC and EXIF, and some of XMP, IPTC and texts
    options: Mapping[str, Any]
    longest: int | None = None  # side, in pixels
    largest: int | None = None  # area


# A result should not lose a second time what the model has kept. So, where nothing else is asked for, lossless wherever the format
# can: WebP too, whose lossy kind halves the resolution of colour. JPEG and AVIF cannot, through Pillow: there 95 with full colour
# (4:4:4), and alpha as it is. The bounds of AVIF are those of libavif on reading.
_AVIF_OPTIONS = {"quality": 95, "subsampling": "4:4:4", "advanced": {"alpha:lossless": "1"}}
_WRITERS: Mapping[str, _Writer] = MappingProxyType(
    {
        "PNG": _Writer(frozenset({"L", "LA", "RGB", "RGBA", "I;16"}), True, {}),
        "TIFF": _Writer(frozenset({"L", "LA", "RGB", "RGBA", "I;16"}), True, {}),
        "JPEG": _Writer(frozenset({"L", "RGB"}), True, {"quality": 95, "subsampling": "4:4:4"}, longest=65500),
        # exact: colour under alpha 0
        "WEBP": _Writer(frozenset({"RGB", "RGBA"}), True, {"lossless": True, "exact": True}, longest=16383),
        "AVIF": _Writer(frozenset({"L", "RGB", "RGBA"}), True, _AVIF_OPTIONS, longest=32768, largest=16384 * 16384),
        "JPEG2000": _Writer(frozenset({"L", "LA", "RGB", "RGBA", "I;16"}), False, {}),
        "J2K": _Writer(frozenset({"L", "LA", "RGB", "RGBA", "I;16"}), False, {"no_jp2": True}),
        "BMP": _Writer(frozenset({"L", "RGB"}), False, {}),
        "DIB": _Writer(frozenset({"L", "RGB"}), False, {}),
        "PPM": _Writer(frozenset({"L", "RGB", "I;16"}), False, {}),
    }
)
LOSSY_FORMATS = frozenset({"JPEG", "WEBP", "AVIF"})
_DPI_IN_EXIF = frozenset({"WEBP", "AVIF"})
_DPI_NOWHERE = frozenset({"PPM", "JPEG2000", "J2K"})
_PILLOW_NAMES = {"J2K": "JPEG2000"}  # of formats that it has another name for


def format_of(path: Place) -> str:
    """The name of the format in which this file is written. Raises UsageError for a suffix not in FORMATS."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        suffix = f"the suffix {path.suffix}, which cannot be written" if path.suffix else "no suffix"
        raise UsageError(f"{path} has {suffix}: choose one of {', '.join(FORMATS)}") from None


def why_not(picture: Picture, format: str, name: str = "the picture") -> str:
    """Why a format of FORMATS cannot hold the picture, as a clause, or "" if it can. Pixels other than alpha are not looked at."""
    writer, (height, width) = _WRITERS[format], picture.pixels.shape[:2]
    size = f"{name} ({width} x {height} pixels) cannot be written as {format}"
    if writer.longest and max(height, width) > writer.longest:
        return f"{size} (a side has up to {writer.longest:,})"
    if writer.largest and height * width > writer.largest:
        return f"{size} (it has up to {writer.largest:,})"
    if picture.alpha is None or _holds_alpha(writer) or not (picture.alpha != np.iinfo(picture.alpha.dtype).max).any():
        return ""
    return f"{format} cannot hold the transparency of {name}"


def write_picture(
    picture: Picture, target: BinaryIO, format: str, name: str = "the picture", *, lossy: Lossy | None = None
) -> tuple[str, ...]:
    """Writes the picture in one of the formats of FORMATS and returns what was reduced on writing, one clause each.

    lossy: how hard JPEG, WebP (which at 100 is lossless) and AVIF compress; None takes what loses least. Raises AecliError if the
    format cannot hold the picture; `target` is then untouched.
    """
    writer = _WRITERS.get(format)
    if writer is None:
        raise AecliError(f"{name} cannot be written as {format}: choose one of {', '.join(_WRITERS)}")
    if reason := why_not(picture, format, name):
        raise AecliError(f"{reason}: choose .png")
    if not _holds_alpha(writer):
        picture = replace(picture, alpha=None)
    elif (format == "AVIF" or (format == "WEBP" and lossy)) and picture.pixels.shape[2] == 3 and picture.is_grey:
        picture = replace(picture, pixels=without_colour(picture.pixels))  # what alpha hides would colour what it does not
    by_us = format == "TIFF" or (format == "PNG" and _is_deep(picture))
    image, notes = (None, ()) if by_us else _image_for(picture, writer)
    mode = image.mode if image else _pillow_mode(picture)
    if picture.extra is not None and format != "TIFF":
        notes = (*notes, f"{further_bands(picture.extra.shape[2])} left out, as {format} cannot hold {_them(picture.extra)}")
    buffer = io.BytesIO()  # Pillow seeks, and leaves half a file behind when it fails
    try:
        metadata, metadata_notes = _metadata_for(picture, mode, format)
        if image:
            options = _options_for(writer, mode) | _compression(format, mode, lossy)
            image.save(buffer, _PILLOW_NAMES.get(format, format), **options, **metadata)
        else:
            from aecli.deep_colour import write_png, write_tiff

            if format == "PNG":
                write_png(_bands(picture), buffer, metadata)
            else:
                write_tiff(_bands(picture), buffer, metadata, picture.extra)
    except (OSError, ValueError, RuntimeError, SyntaxError, struct.error) as error:
        size = f"{picture.width} x {picture.height} pixels"
        raise AecliError(f"{name} ({size}) cannot be written as {format} ({error}): choose .png") from error
    target.write(buffer.getbuffer())
    return (*notes, *metadata_notes)


def _is_deep(picture: Picture) -> bool:
    """Whether it has 16 bits a sample, and Pillow no mode for it."""
    return picture.pixels.dtype == np.uint16 and _pillow_mode(picture) != "I;16"


def _image_for(picture: Picture, writer: _Writer) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture in a mode that the format has, and notes on what that reduced."""
    image = to_pil(picture)
    if image.mode == "I;16" and image.mode not in writer.modes:
        image = to_pil(with_8_bits(picture))
    reduced = picture.pixels.dtype == np.uint16 and image.mode != "I;16"
    if image.mode not in writer.modes:
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    return image, (f"16-bit values were written with 8 bits{few_levels_left(picture)}",) if reduced else ()


def _options_for(writer: _Writer, mode: str) -> dict[str, Any]:
    options = {**writer.options}
    if mode == "L":
        options.pop("subsampling", None)  # with it AVIF would write three channels for grey
    return options


def _compression(format: str, mode: str, lossy: Lossy | None) -> dict[str, Any]:
    if lossy is None or format not in LOSSY_FORMATS:
        return {}
    options: dict[str, Any] = {"quality": lossy.quality}
    if format == "WEBP":  # where something is lost, a colour that is hidden would run into what is not
        return options | {"lossless": lossy.quality == 100, "exact": lossy.quality == 100}
    return options if mode == "L" else options | {"subsampling": lossy.subsampling}


def _holds_alpha(writer: _Writer) -> bool:
    return "RGBA" in writer.modes


def _metadata_for(picture: Picture, mode: str, format: str) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments for Pillow, and notes on what the file cannot take."""
    metadata: dict[str, Any] = {"dpi": picture.dpi} if picture.dpi else {}
    exif = exif_with_dpi(picture.exif, picture.dpi) if picture.dpi and format in _DPI_IN_EXIF else picture.exif
    # Pillow would otherwise write the profile that `to_pil` left in the image.
    metadata["icc_profile"] = None
    left_out = ["the resolution"] if picture.dpi and format in _DPI_NOWHERE else []
    holds_metadata = _WRITERS[format].metadata
    if picture.icc:
        grey_profile_for_colour = mode.startswith("RGB") and picture.icc[16:20] == b"GRAY"
        if holds_metadata and not grey_profile_for_colour:
            metadata["icc_profile"] = picture.icc
        else:
            left_out.append("the colour profile")
    if exif:
        if holds_metadata and not (format == "JPEG" and len(exif) > _JPEG_SEGMENT):
            metadata["exif"] = exif
        else:
            left_out.append("EXIF data")
    words, words_left_out = _words_for(picture, format)
    left_out += words_left_out
    if format == "TIFF" and (exif or words):
        metadata["exif"] = tags_for_tiff(exif, picture.xmp, picture.iptc)
        words = {}
    if len(left_out) > 1:
        return metadata | words, [f"{', '.join(left_out[:-1])} and {left_out[-1]} were left out, as {format} cannot hold them"]
    return metadata | words, [f"{what} was left out, as {format} cannot hold it" for what in left_out]


_JPEG_SEGMENT = 65533  # bytes
_COMMENTED = MappingProxyType({"JPEG": _JPEG_SEGMENT, "JPEG2000": 65531, "J2K": 65531})  # formats with a comment, and its bytes


def _words_for(picture: Picture, format: str) -> tuple[dict[str, Any], list[str]]:
    """XMP, IPTC and texts as keyword arguments for Pillow, and the names of what the format has no place for."""
    words: dict[str, Any] = {}
    left_out = []
    if picture.xmp:
        fits = format in {"PNG", "TIFF", "WEBP", "AVIF"} or (format == "JPEG" and len(picture.xmp) < _JPEG_SEGMENT - 29)
        words |= {"xmp": picture.xmp} if fits else {}
        left_out += [] if fits else ["XMP data"]
    if picture.iptc:
        fits = format == "TIFF" or (format == "JPEG" and len(picture.iptc) < _JPEG_SEGMENT - 40)
        words |= {"extra": photoshop_block(picture.iptc) if format == "JPEG" else picture.iptc} if fits else {}
        left_out += [] if fits else ["IPTC data"]
    if format == "PNG":
        if info := _png_info(picture):
            words = {"pnginfo": info}
        return words, left_out
    comment = dict(picture.texts).get(COMMENT, "").encode("utf-8", "surrogateescape")
    if format in _COMMENTED and 0 < len(comment) <= _COMMENTED[format]:
        words["comment"] = comment
    lost = list(dict.fromkeys(keyword for keyword, _ in picture.texts if not (keyword == COMMENT and "comment" in words)))
    return words, left_out + ([f"text ({', '.join(lost[:5])}{', …' if len(lost) > 5 else ''})"] if lost else [])


def _png_info(picture: Picture) -> Any:
    """A PngInfo with XMP, texts and HDR's numbers, or None."""
    from PIL.PngImagePlugin import PngInfo

    from aecli.colour import cicp_in
    from aecli.png_chunks import XMP_KEYWORD

    info = PngInfo()
    if picture.xmp:
        info.add_itxt(XMP_KEYWORD, picture.xmp.decode("utf-8", "replace"))
    for keyword, text in picture.texts:
        plain = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if plain.isascii():
            info.add_text(keyword, plain)
        else:
            info.add_itxt(keyword, plain)
    if cicp := cicp_in(picture.icc):
        info.add(b"cICP", cicp)
    return info if info.chunks else None


def without_metadata(picture: Picture) -> Picture:
    """The picture alone."""
    return replace(picture, icc=None, exif=None, dpi=None, xmp=None, iptc=None, texts=())


def with_8_bits(picture: Picture) -> Picture:
    """The picture with pixels and alpha rounded to uint8; one that is uint8 already comes back as it is."""
    alpha = None if picture.alpha is None else to_8_bits(picture.alpha)
    extra = None if picture.extra is None else to_8_bits(picture.extra)
    return replace(picture, pixels=to_8_bits(picture.pixels), alpha=alpha, extra=extra)


def few_levels_left(picture: Picture) -> str:
    """What to add to a note on rounding to 8 bits where hardly any are left, as of 12 bits in 16, or ""."""
    levels = int(to_8_bits(picture.pixels.max())) + 1
    few = picture.pixels.dtype == np.uint16 and 1 < levels <= 64
    return f", which leaves {levels} levels: scale the values to 0-65535 first" if few else ""


def to_8_bits(samples: Array) -> Array:
    """Rounds 0-65535 to 0-255; bytes pass."""
    if samples.dtype == np.uint8:
        return samples
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- arrays and Pillow


def from_array(array: Array) -> Picture:
    """Makes a Picture of (H, W) grey or (H, W, C) with C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.

    uint8 and uint16 are taken as they are; floats must lie within 0-1 and are rounded to uint16.
    Raises AecliError for other shapes and types, for floats outside 0-1 and for NaN.
    """
    samples = array[..., None] if array.ndim == 2 else array
    if samples.ndim != 3 or samples.shape[2] not in {1, 2, 3, 4} or samples.size == 0:
        raise AecliError(f"an array of shape {array.shape} is no picture: pass (H, W) or (H, W, C) with C from 1 to 4")
    if np.issubdtype(samples.dtype, np.floating):
        if not (samples.min() >= 0 and samples.max() <= 1):  # NaN fails both
            raise AecliError("a picture of floats must lie within 0-1, without NaN: clip or scale it first")
        samples = np.rint(samples.astype(np.float64) * 65535).astype(np.uint16)
    if samples.dtype not in (np.uint8, np.uint16):
        raise AecliError(f"an array of {samples.dtype} is no picture: pass uint8, uint16 or floats within 0-1")
    samples = samples.astype(samples.dtype.newbyteorder("="))  # a copy, so that the picture is the caller's no longer
    channels = 3 if samples.shape[2] >= 3 else 1
    alpha = np.ascontiguousarray(samples[..., -1]) if samples.shape[2] in {2, 4} else None
    picture = Picture(np.ascontiguousarray(samples[..., :channels]), alpha)
    return replace(picture, mode=_pillow_mode(picture))


def to_pil(picture: Picture) -> Image.Image:
    """The picture as a Pillow image of mode L, LA, RGB, RGBA, or I;16 for 16-bit grey without alpha.

    Pillow has no 16-bit colour and no 16-bit grey with alpha: these are rounded to 8 bits.
    """
    mode = _pillow_mode(picture)
    if mode != "I;16":
        picture = with_8_bits(picture)
    bands = _bands(picture)
    image = Image.fromarray(bands[..., 0] if bands.shape[2] == 1 else bands)
    stored = {"icc_profile": picture.icc, "exif": picture.exif, "dpi": picture.dpi}
    image.info.update({key: value for key, value in stored.items() if value is not None})
    return image


_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by channels


def _bands(picture: Picture) -> Array:
    """(H, W, C), C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA."""
    return picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])


def _pillow_mode(picture: Picture) -> str:
    grey = picture.pixels.shape[2] == 1
    if grey and picture.alpha is None and picture.pixels.dtype == np.uint16:
        return "I;16"
    return ("L" if grey else "RGB") + ("" if picture.alpha is None else "A")
