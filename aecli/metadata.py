"""What a picture file holds beside its pixels: orientation, EXIF block and resolution, made fit for another file."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

Array = npt.NDArray[Any]

_TURNS: Mapping[int, Callable[[Array], Array]] = MappingProxyType(
    {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
)

# A TIFF file mixes these with tags on how its own pixels are stored, which must not follow the picture elsewhere.
_DESCRIPTIVE_TAGS = (270, 271, 272, 305, 306, 315, 33432)
_DESCRIPTIVE_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# And these, which some programs leave in EXIF blocks, say in a TIFF file how its pixels are stored, or where a preview is.
# fmt: off
_STORAGE_TAGS = frozenset({
    *range(254, 260), 262, 266, 273, *range(277, 282), 284, 301, 317, *range(320, 326), 330,
    *range(332, 348), *range(512, 533), 34675,
})
# fmt: on
_INCHES, _CENTIMETRES = 2, 3


def upright(samples: Array, orientation: int) -> Array:
    """The samples (H, W) or (H, W, C) of a file of this orientation (1-8, as EXIF numbers them), turned as they are to be seen."""
    turn = _TURNS.get(orientation)
    return np.ascontiguousarray(turn(samples) if turn else samples)


def exif_of(image: Image.Image) -> tuple[bytes | None, int, tuple[str, ...]]:
    """The EXIF block with its orientation reset, the orientation still to be applied (1-8), and notes."""
    stored = image.info.get("exif")
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        orientation = orientation if orientation in _TURNS else 1
        if isinstance(stored, bytes):
            if not len(exif):
                raise ValueError("not one readable tag")
            block = stored if stored.startswith(b"Exif\0\0") else b"Exif\0\0" + stored
            return _with_orientation_reset(block), orientation, ()
        return _descriptive_exif(exif), orientation, ()
    except Exception:  # the parser meets whatever cameras and editors left behind
        return None, 1, ("unreadable EXIF data was left out",)


def _with_orientation_reset(block: bytes) -> bytes:
    """Sets the tag to 1 in place: writing the block anew would lose maker notes, which point into it."""
    data = bytearray(block)
    start, order = 6, "<" if block[6:8] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", data, start + 4)
    (entries,) = struct.unpack_from(order + "H", data, start + directory)
    for entry in range(start + directory + 2, start + directory + 2 + 12 * entries, 12):
        if struct.unpack_from(order + "H", data, entry) == (ExifTags.Base.Orientation,):
            struct.pack_into(order + "HHIHH", data, entry, ExifTags.Base.Orientation, 3, 1, 1, 0)
    return bytes(data)


def _descriptive_exif(exif: Image.Exif) -> bytes | None:
    kept = Image.Exif()
    for tag in _DESCRIPTIVE_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    for ifd in _DESCRIPTIVE_IFDS:
        if entries := exif.get_ifd(ifd):
            kept[ifd] = dict(entries)
    return kept.tobytes() if len(kept) else None


def dpi_of(image: Image.Image, exif: bytes | None) -> tuple[float, float] | None:
    """Horizontal and vertical, as the file is stored; from the EXIF block where the format has no place of its own for it."""
    if image.format == "TIFF" and ExifTags.Base.XResolution not in image.tag_v2:  # type: ignore[attr-defined]
        return None  # Pillow would say 1
    try:
        x, y = (float(value) for value in image.info.get("dpi") or _dpi_in(_loaded(exif)))
    except Exception:  # whatever cameras and editors left behind
        return None
    return (x, y) if 0 < x < 65536 and 0 < y < 65536 else None  # false for NaN too


def _dpi_in(exif: Image.Exif) -> tuple[float, float]:
    """Raises KeyError if the block does not tell."""
    inches = {_INCHES: 1.0, _CENTIMETRES: 2.54}[exif.get(ExifTags.Base.ResolutionUnit, _INCHES)]
    return float(exif[ExifTags.Base.XResolution]) * inches, float(exif[ExifTags.Base.YResolution]) * inches


def _loaded(block: bytes | None) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block or b"")
    return exif


def exif_with_dpi(block: bytes | None, dpi: tuple[float, float]) -> bytes:
    """A block that tells the resolution, for formats with no other place for it.

    One that tells any stays as it is, since writing it anew would lose maker notes, which point into it; and so does a damaged one.
    """
    try:
        exif = _loaded(block)
        if block and ExifTags.Base.XResolution in exif:
            return block
        exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = dpi
        exif[ExifTags.Base.ResolutionUnit] = _INCHES
        return exif.tobytes()
    except Exception:  # whatever cameras and editors left behind
        return block or b""


def exif_for_tiff(block: bytes) -> Image.Exif:
    """The block without tags that would contradict the file's own. Raises what Pillow raises for a damaged block."""
    exif = _loaded(block)
    for tag in _STORAGE_TAGS.intersection(exif):
        del exif[tag]
    return exif
