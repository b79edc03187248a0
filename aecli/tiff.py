"""TIFF files beyond what Pillow reads: which page is the picture, and the kinds for which tifffile is asked.

tifffile, with imagecodecs for what is compressed, comes with the extra `aecli[tiff]`; without it such files are refused by
name, or what Pillow leaves out of them is said.
"""

from __future__ import annotations

import ctypes
import logging
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin, TiffTags

from aecli.errors import AecliError

Array = npt.NDArray[Any]

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # without any, Python writes its warnings to the terminal

WAY_OUT = "pip install 'aecli[tiff]'"
MOST_BANDS = 64

_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE, _OLD_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _CHANNELS, _SUB_IFDS = 254, 255, 258, 259, 262, 277, 330
_PLANAR, _EXTRA_SAMPLES, _FORMAT, _DEPTH, _ICC, _DNG_VERSION = 284, 338, 339, 32997, 34675, 50706
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_OLD_REDUCED = 2
_MOSAIC = frozenset({32803, 34892})  # colour filter array, linear raw
_MOST_PAGES = 100_000

# ---------------------------------------------------------------------------------------------------- pages of the file


@dataclass(frozen=True)
class Layout:
    """What the directories of a file say of its pages. offset: of the directory of the picture to read."""

    offset: int
    is_first: bool  # that directory is the one that readers take
    pictures: int = 1  # full pages; previews, overviews and masks do not count
    masks: int = 0
    layers: int = 1  # of a volume
    camera_raw: bool = False


@dataclass(frozen=True)
class _Directory:
    offset: int
    tags: dict[int, tuple[int, ...]]  # those of `_WANTED`
    following: int
    whole: bool  # no value of a tag lies beyond the end of the file

    @property
    def reduced(self) -> bool:
        return bool(self._first(_SUBFILE) & _REDUCED) or self._first(_OLD_SUBFILE) == _OLD_REDUCED

    @property
    def mask(self) -> bool:
        return bool(self._first(_SUBFILE) & _MASK)

    @property
    def raw(self) -> bool:
        return _DNG_VERSION in self.tags or self._first(_PHOTOMETRIC) in _MOSAIC

    def _first(self, tag: int) -> int:
        return self.tags.get(tag, (0,))[0]


_WANTED = frozenset({_SUBFILE, _OLD_SUBFILE, _PHOTOMETRIC, _SUB_IFDS, _DEPTH, _DNG_VERSION})
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # by type
_UNSIGNED = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # types of the tags that are wanted


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins like this is one, classic or BigTIFF."""
    return head.startswith(_MAGICS)


def layout_of(stream: BinaryIO) -> Layout | None:
    """None where not even the first directory can be read; a damaged chain ends where the damage is."""
    chain = list(_chain(stream))
    if not chain:
        return None
    below = [child for page in chain[:8] for child in _children(stream, page)]
    full = [page for page in chain if not page.reduced and not page.mask]
    hidden = [child for child in below if not child.reduced and not child.mask]
    chosen = (full or hidden or chain)[0]
    return Layout(
        chosen.offset,
        chosen is chain[0],
        pictures=max(1, len(full)),
        masks=sum(page.mask for page in chain),
        layers=chosen.tags.get(_DEPTH, (1,))[0],
        camera_raw=any(page.raw for page in (*chain, *below)),
    )


def with_first(stream: BinaryIO, layout: Layout) -> BinaryIO:
    """The same file, its header naming the picture's directory first."""
    if layout.is_first:
        return stream
    stream.seek(0)
    data = bytearray(stream.read())
    order, big = _order(data)
    struct.pack_into(order + ("Q" if big else "I"), data, 8 if big else 4, layout.offset)
    return BytesIO(data)


def _order(head: bytes | bytearray) -> tuple[str, bool]:
    """The byte order for struct, and whether it is a BigTIFF."""
    return ("<" if head[:2] == b"II" else ">"), 43 in head[2:4]


def _chain(stream: BinaryIO) -> Iterator[_Directory]:
    stream.seek(0)
    head = stream.read(16)
    order, big = _order(head)
    try:
        (offset,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
    except struct.error:
        return
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < _MOST_PAGES:
        seen.add(offset)
        directory = _directory(stream, offset, order, big)
        if directory is None:
            return
        yield directory
        offset = directory.following


def _children(stream: BinaryIO, page: _Directory) -> Iterator[_Directory]:
    stream.seek(0)
    order, big = _order(stream.read(4))
    for offset in page.tags.get(_SUB_IFDS, ())[:8]:
        directory = _directory(stream, offset, order, big)
        if directory is not None:
            yield directory


def _directory(stream: BinaryIO, offset: int, order: str, big: bool) -> _Directory | None:
    count_format, entry_format, field = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    entry_size = struct.calcsize(order + entry_format) + field
    try:
        stream.seek(offset)
        (count,) = struct.unpack(order + count_format, stream.read(struct.calcsize(order + count_format)))
        entries = stream.read(min(count, 65536) * entry_size)
        (following,) = struct.unpack(order + count_format.replace("H", "I"), stream.read(field))
        end = stream.seek(0, SEEK_END)
        tags, whole = {}, True
        for at in range(0, len(entries), entry_size):
            tag, type, length = struct.unpack_from(order + entry_format, entries, at)
            value = entries[at + entry_size - field : at + entry_size]
            size = _SIZES.get(type, 1) * length
            whole &= size <= field or int.from_bytes(value, "little" if order == "<" else "big") + size <= end
            if tag in _WANTED and type in _UNSIGNED and length:
                tags[tag] = _numbers(stream, order, _UNSIGNED[type], min(length, 64), value)
    except (struct.error, OSError, OverflowError, ValueError):
        return None
    return _Directory(offset, tags, following, whole)


def _numbers(stream: BinaryIO, order: str, kind: str, length: int, field: bytes) -> tuple[int, ...]:
    size = struct.calcsize(order + kind) * length
    if size > len(field):
        stream.seek(int.from_bytes(field, "little" if order == "<" else "big"))
        field = stream.read(size)
    return struct.unpack_from(f"{order}{length}{kind}", field)


# ------------------------------------------------------------------------------------------- files that tifffile reads


class OtherTiff(TiffImagePlugin.TiffImageFile):
    """A TIFF file that Pillow cannot decode: its size, tags and metadata as Pillow gives them, its samples by `read_samples`."""

    def _open(self) -> None:
        assert self.fp is not None
        head = self.fp.read(16)
        if not is_tiff(head):
            raise SyntaxError("no TIFF file")
        order, big = _order(head)
        known = b"II+\0" + head[4:] if big else head[:8]  # Pillow tells a BigTIFF by its third byte
        self.tag_v2 = TiffImagePlugin.ImageFileDirectory_v2(known, prefix=head[:2])
        directory = _directory(cast(BinaryIO, self.fp), self.tag_v2.next, order, big)
        if directory is None or not directory.whole:
            raise SyntaxError("a damaged directory")
        self.fp.seek(self.tag_v2.next)
        self.tag_v2.load(self.fp)
        width, height = self.tag_v2.get(256), self.tag_v2.get(257)
        if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
            raise SyntaxError("no size")
        self._size, self._mode, self.tile = (width, height), "L", []
        self.info.update(_info_of(self.tag_v2))
        self._pillow_reads_exif = head[:2] == b"II" or not big

    def getexif(self) -> Image.Exif:
        if self._pillow_reads_exif:
            return super().getexif()
        exif = Image.Exif()  # without the directories within, which are offsets here
        exif.update({tag: value for tag, value in self.tag_v2.items() if tag not in TiffTags.TAGS_V2_GROUPS})
        return exif


def _info_of(tags: Any) -> dict[str, Any]:
    info = {"icc_profile": tags[_ICC]} if isinstance(tags.get(_ICC), bytes) else {}
    inches = {2: 1.0, 3: 2.54}.get(tags.get(296, 2))
    resolution = tags.get(ExifTags.Base.XResolution), tags.get(ExifTags.Base.YResolution)
    if inches and None not in resolution:
        info["dpi"] = tuple(value * inches for value in resolution)
    return info


_NOT_IN_PILLOW = frozenset({34712, 50001, 50002, 52546})  # JPEG 2000, WebP, JPEG XL
_BANDS = {"RGB": 3, "RGBX": 3, "RGBA": 4, "RGBa": 4, "LA": 2, "PA": 2, "CMYK": 4, "YCbCr": 3, "LAB": 3}  # others have one


def is_beyond_pillow(image: Image.Image) -> bool:
    """Whether Pillow has opened a file, and would not give its samples or would give wrong ones."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    floats_taken_for_integers = set(tags.get(_FORMAT, ())) & {3, 5, 6} and image.mode != "F"
    return isinstance(image, OtherTiff) or bool(floats_taken_for_integers) or tags.get(_COMPRESSION) in _NOT_IN_PILLOW


def left_out(image: Image.Image) -> str:
    """What Pillow leaves out of a file that it has opened, as a clause, or nothing."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    channels = tags.get(_CHANNELS, 1)
    more = channels - _BANDS.get(image.mode, 1)
    if more > 0:
        return f"the last {more} of {channels} bands were left out" if more > 1 else f"the last of {channels} bands was left out"
    if tags.get(_PLANAR) == 2 and channels > 1 and tags.get(_COMPRESSION, 1) != 1 and max(tags.get(_BITS, (1,))) == 16:
        return "16-bit colour was read with 8 bits"
    return ""


@dataclass(frozen=True, eq=False)
class Stored:
    """The samples of a page as the file has them. colours: (H, W, C) of any numbers; bits: of integers that are used.

    alpha: (H, W) or None. extra: (H, W, E) or None, further bands.
    """

    colours: Array
    bits: int
    cmyk: bool = False
    alpha: Array | None = None
    premultiplied: bool = False
    extra: Array | None = None


class UnreadError(AecliError):
    """tifffile, or a codec of it, is not there, or does not read such files either."""


def read_samples(stream: BinaryIO, name: str) -> Stored:
    """All samples of the first page, by tifffile.

    Raises UnreadError without it, and for what it cannot read either; AecliError if parts of the file are missing, or if it is
    no picture.
    """
    try:
        import tifffile
    except ImportError:
        raise UnreadError(f"{name} is a TIFF file of a kind that needs tifffile: {WAY_OUT}") from None
    stream.seek(0)
    try:
        with tifffile.TiffFile(stream) as file:
            page = file.pages[0]
            _check_page(page, stream, name)
            return _stored(page, page.asarray(maxworkers=1), name)
    except (AecliError, MemoryError):
        raise
    except Exception as error:  # hostile files raise almost any type
        if "imagecodecs" in str(error) and not _has_imagecodecs():
            raise UnreadError(f"{name} is compressed in a way that needs imagecodecs: {WAY_OUT}") from error
        reason = str(error) or type(error).__name__
        raise UnreadError(f"{name} is damaged, or a TIFF file of a kind that cannot be read ({reason}): save it anew") from error


@cache
def _has_imagecodecs() -> bool:
    from importlib.util import find_spec

    return find_spec("imagecodecs") is not None


def _check_page(page: Any, stream: BinaryIO, name: str) -> None:
    """What tifffile would fill with zeros is refused before anything is decoded."""
    if page.samplesperpixel > MOST_BANDS:
        raise AecliError(f"{name} has {page.samplesperpixel} bands: save those that you want, up to {MOST_BANDS}")
    length = stream.seek(0, SEEK_END)
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if not parts or any(offset <= 0 or count <= 0 or offset + count > length for offset, count in parts):
        raise AecliError(f"{name} is damaged or cut short (parts of it are missing): get a whole copy of the file")


def _stored(page: Any, array: Array, name: str) -> Stored:
    channels = page.samplesperpixel
    if channels > 1 and page.planarconfig == 2:
        array = np.moveaxis(array.reshape(channels, page.imagelength, page.imagewidth), 0, -1)
    array = array.reshape(page.imagelength, page.imagewidth, channels)
    colours = _colours_of(page, array, name)
    bands = array[..., min(channels, _COLOURS[int(page.photometric)]) :]
    kinds = [int(kind) for kind in page.extrasamples][: bands.shape[2]]
    alpha = next((at for at, kind in enumerate(kinds) if kind in {1, 2}), None)
    extra = bands if alpha is None else np.delete(bands, alpha, axis=2)
    return Stored(
        colours,
        bits=16 if int(page.photometric) == 3 else _used_bits(page),
        cmyk=int(page.photometric) == 5,
        alpha=None if alpha is None else bands[..., alpha],
        premultiplied=alpha is not None and kinds[alpha] == 1,
        extra=extra if extra.shape[2] else None,
    )


_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # by PhotometricInterpretation
_NAMES = {8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}
_JPEGS = frozenset({6, 7, 33007, 34892})  # compressions that come as RGB where they hold YCbCr


def _colours_of(page: Any, array: Array, name: str) -> Array:
    kind = int(page.photometric)
    if kind not in _COLOURS or (kind == 6 and int(page.compression) not in _JPEGS):
        named = _NAMES.get(kind, "YCbCr" if kind == 6 else f"number {kind}")
        raise AecliError(f"{name} has colours of the kind {named}, which is not supported here: save it as RGB")
    if array.shape[2] < _COLOURS[kind]:
        raise AecliError(f"{name} has {array.shape[2]} bands where its colours need {_COLOURS[kind]}: save it as RGB")
    colours = array[..., : _COLOURS[kind]]
    if kind == 0:  # white is zero
        top: Any = (1 << _used_bits(page)) - 1
        return np.asarray(~colours if colours.dtype == bool else top - colours, colours.dtype)
    return np.asarray(page.colormap.T[colours[..., 0]]) if kind == 3 else colours


def _used_bits(page: Any) -> int:
    bits = page.bitspersample
    return int(max(bits) if isinstance(bits, tuple) else bits)


# ------------------------------------------------------------------------------------------------------ libtiff's lines


@cache
def keep_libtiff_quiet() -> None:
    """libtiff writes what it meets in damaged files to the terminal; Pillow turns off its warnings, and not its errors."""
    for path in _libtiffs():
        try:
            ctypes.CDLL(str(path)).TIFFSetErrorHandler(None)
        except (OSError, AttributeError):
            continue


def _libtiffs() -> list[Path]:
    """Those that this process has loaded, or that come with Pillow."""
    maps = Path("/proc/self/maps")
    if sys.platform.startswith("linux") and maps.exists():
        lines = maps.read_text(errors="replace").splitlines()
        return [Path(path) for path in {line.split(maxsplit=5)[5] for line in lines if "libtiff" in line and "/" in line}]
    return sorted((Path(Image.__file__).parent / ".dylibs").glob("libtiff*"))
