"""What a picture file holds beside its pixels: orientation, EXIF, XMP, IPTC, texts, resolution, made fit for another file."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)  # where each pixel lies on the earth
_DESCRIPTIVE_TAGS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, *_GEO_TAGS, 42112, 42113)
_DESCRIPTION, _XMP, _IPTC = 270, 700, 33723
_DESCRIPTIVE_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# And these, which some programs leave in EXIF blocks, say in a TIFF file how its pixels are stored, or where a preview is.
# fmt: off
_STORAGE_TAGS = frozenset({
    *range(254, 260), 262, 266, 273, *range(277, 282), 284, 301, 317, *range(320, 326), 330,
    *range(332, 348), *range(512, 533), 34675, 50674,
})
# fmt: on
_KEPT_OTHERWISE = frozenset({_IPTC, 34665, 34675, 34853, 40965, *range(32995, 32999), 33421, 33422, 34377})
_NO_UNIT, _INCHES, _CENTIMETRES = 1, 2, 3


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
    found = _Block(block)
    for directory in (found.first, found.of_preview):
        for tag, at in found.entries(directory):
            if tag == ExifTags.Base.Orientation:
                found.pack("HHIHH", at, ExifTags.Base.Orientation, 3, 1, 1, 0)
    return bytes(found.data)


class _Block:
    """An EXIF block whose entries are changed where they stand. Raises struct.error where it ends too early."""

    def __init__(self, block: bytes) -> None:
        self.data, self._order = bytearray(block), "<" if block[6:8] == b"II" else ">"
        (first,) = self.unpack("I", 10)
        self.first = self._start(first)
        try:
            (following,) = self.unpack("I", self.end_of(self.first))
            self.of_preview = self._start(following) if following else None
        except struct.error:
            self.of_preview = None

    def _start(self, offset: int) -> int:
        return offset + 6  # after Exif\0\0

    def unpack(self, format: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(self._order + format, self.data, at)

    def pack(self, format: str, at: int, *values: int) -> None:
        struct.pack_into(self._order + format, self.data, at, *values)

    def end_of(self, directory: int) -> int:
        return directory + 2 + 12 * int(self.unpack("H", directory)[0])

    def entries(self, directory: int | None) -> Iterator[tuple[int, int]]:
        """Tags and where their twelve bytes begin."""
        if directory is None:
            return
        for at in range(directory + 2, self.end_of(directory), 12):
            yield int(self.unpack("H", at)[0]), at

    def within(self, directory: int | None, tag: int) -> int | None:
        """The directory that an entry of another points to."""
        at = dict(self.entries(directory)).get(tag)
        return None if at is None else self._start(self.unpack("I", at + 8)[0])

    def swap(self, directory: int | None, one: int, other: int) -> None:
        """Exchanges the values of two tags, where both are there."""
        places = dict(self.entries(directory))
        if one in places and other in places:
            first, second = (slice(places[tag] + 2, places[tag] + 12) for tag in (one, other))
            self.data[first], self.data[second] = self.data[second], self.data[first]


_WIDTH_AND_HEIGHT = ((256, 257), (282, 283))  # size and resolution
_OF_EXIF, _OF_INTEROP = ((40962, 40963), (41486, 41487)), ((4097, 4098),)
_PREVIEW, _PREVIEW_LENGTH = 513, 514
_MOST_BYTES = 65533  # of a block in a JPEG file


def turned_exif(block: bytes | None, orientation: int, size: tuple[int, int]) -> tuple[bytes | None, tuple[str, ...]]:
    """The block of a picture that was turned: widths and heights exchanged, the preview turned with it; and notes.

    size: width and height before. A preview that lay otherwise than the picture was upright already.
    """
    if block is None or orientation == 1:
        return block, ()
    try:
        found = _Block(block)
        if orientation >= 5:
            exif = found.within(found.first, ExifTags.IFD.Exif)
            pairs = [(found.first, pair) for pair in _WIDTH_AND_HEIGHT] + [(exif, pair) for pair in _OF_EXIF]
            pairs += [(found.within(exif, ExifTags.IFD.Interop), pair) for pair in _OF_INTEROP]
            for directory, pair in pairs:
                found.swap(directory, *pair)
    except struct.error:
        return block, ()
    if found.of_preview is None or _turn_preview(found, orientation, size):
        return bytes(found.data), ()
    found.pack("I", found.end_of(found.first), 0)
    return bytes(found.data), ("the preview in the EXIF data was left out, as it could not be turned",)


def _turn_preview(found: _Block, orientation: int, size: tuple[int, int]) -> bool:
    """Whether the preview is upright afterwards."""
    try:
        places = dict(found.entries(found.of_preview))
        (offset,), (length,) = (found.unpack("I", places[tag] + 8) for tag in (_PREVIEW, _PREVIEW_LENGTH))
        with Image.open(io.BytesIO(bytes(found.data[6 + offset : 6 + offset + length])), formats=["JPEG"]) as preview:
            if orientation >= 5 and (preview.width - preview.height) * (size[0] - size[1]) < 0:
                return True
            if preview.width * preview.height > 1 << 22:
                return False
            pixels = upright(np.array(preview.convert("RGB")), orientation)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    except Exception:  # as with the rest of the block
        return False
    data = buffer.getvalue()
    if len(data) > length:
        if len(found.data) + len(data) > _MOST_BYTES:
            return False
        offset = len(found.data) - 6
        found.data.extend(data)
    else:
        found.data[6 + offset : 6 + offset + len(data)] = data
    found.pack("I", places[_PREVIEW] + 8, offset)
    found.pack("I", places[_PREVIEW_LENGTH] + 8, len(data))
    return True


def _descriptive_exif(exif: Image.Exif) -> bytes | None:
    kept = Image.Exif()
    for tag in _DESCRIPTIVE_TAGS:
        if tag in exif:
            kept[tag] = _described(exif[tag]) if tag == _DESCRIPTION else exif[tag]
    if not kept.get(_DESCRIPTION, True):
        del kept[_DESCRIPTION]
    if exif.get(ExifTags.Base.ResolutionUnit, _INCHES) == _NO_UNIT and _pixel_size(exif) != (1, 1):
        for tag in (ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit):
            kept[tag] = exif[tag]  # pixels for a unit that the description names, as ImageJ has it
    for ifd in _DESCRIPTIVE_IFDS:
        if entries := exif.get_ifd(ifd):
            kept[ifd] = dict(entries)
    return _as_stored(kept).tobytes() if len(kept) else None


def _pixel_size(exif: Image.Exif) -> tuple[Any, Any]:
    return exif.get(ExifTags.Base.XResolution, 1), exif.get(ExifTags.Base.YResolution, 1)


def _described(text: Any) -> Any:
    """A description without what tells programs how the pixels lie in its own file (tifffile), or of further ones (ImageJ)."""
    if not isinstance(text, str) or text.startswith('{"shape":'):
        return None
    if text.startswith("ImageJ=") and not re.search(r"^images=1$", text, re.MULTILINE):
        return re.sub(r"^(images|channels|slices|frames|hyperstack|loop)=.*\n?", "", text, flags=re.MULTILINE)
    return text


class _AsStored(str):
    """Text that Pillow writes with the bytes that it was read from; it would write ? for all that is not ASCII."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return str(self).encode("latin-1", "replace")  # the encoding in which Pillow reads


def _as_stored(exif: Image.Exif) -> Image.Exif:
    """The same, with all texts of its own and of the directories in it as `_AsStored`."""
    for tag, value in [*exif.items()]:
        within = value if isinstance(value, dict) else exif.get_ifd(tag) if tag in _DESCRIPTIVE_IFDS else None
        if within:
            exif[tag] = {key: _AsStored(text) if isinstance(text, str) else text for key, text in within.items()}
        elif isinstance(value, str):
            exif[tag] = _AsStored(value)
    return exif


def dpi_of(image: Image.Image, exif: bytes | None) -> tuple[float, float] | None:
    """Horizontal and vertical, as the file is stored; from the EXIF block where the format has no place of its own for it."""
    if image.format == "TIFF" and ExifTags.Base.XResolution not in image.tag_v2:  # type: ignore[attr-defined]
        return None  # Pillow would say 1
    # Of a JPEG file without a resolution of its own, Pillow would take the horizontal one of EXIF for both
    of_format = image.info.get("dpi") if image.format not in {"JPEG", "MPO"} or image.info.get("jfif_unit") in {1, 2} else None
    try:
        x, y = (float(value) for value in of_format or _dpi_in(_loaded(exif)))
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


def tags_for_tiff(block: bytes | None, xmp: bytes | None, iptc: bytes | None) -> Image.Exif:
    """The block without tags that would contradict the file's own, and XMP and IPTC as tags.

    Raises what Pillow raises for a damaged block.
    """
    exif = _loaded(block)
    for tag in _STORAGE_TAGS.intersection(exif):
        del exif[tag]
    exif.update({tag: data for tag, data in {_XMP: xmp, _IPTC: iptc}.items() if data})
    return _as_stored(exif)


# ------------------------------------------------------------------------------------------------------- XMP, IPTC, texts


@dataclass(frozen=True)
class Words:
    """What a file says in words. texts: keywords and texts, as PNG has them; the comment of a JPEG file is one called Comment."""

    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


COMMENT = "Comment"
_PHOTOSHOP_IPTC = 1028
_RAW_EXIF = ("Raw profile type exif", "Raw profile type APP1")  # ImageMagick's; Pillow reads them as EXIF


def words_of(image: Image.Image, texts: Sequence[tuple[str, str]] = ()) -> Words:
    """Of an image that is open; texts: those of a PNG file."""
    xmp = image.info.get("xmp")
    words = Words(xmp if isinstance(xmp, bytes) else None, texts=tuple(text for text in texts if text[0] not in _RAW_EXIF))
    if image.format == "TIFF":
        return _words_of_tiff(image)
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and comment:
        words = replace(words, texts=((COMMENT, comment.decode("utf-8", "surrogateescape")),))
    photoshop = image.info.get("photoshop")
    if isinstance(photoshop, dict) and isinstance(photoshop.get(_PHOTOSHOP_IPTC), bytes):
        words = replace(words, iptc=photoshop[_PHOTOSHOP_IPTC] or None)
    return words


def _words_of_tiff(image: Image.Image) -> Words:
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    xmp = tags.get(_XMP)
    iptc = getattr(tags, "_tagdata", {}).get(_IPTC)  # many programs call its bytes numbers, of which Pillow would give one
    iptc = iptc.rstrip(b"\0") if isinstance(iptc, bytes) else None
    known = _STORAGE_TAGS | _KEPT_OTHERWISE | set(_DESCRIPTIVE_TAGS)
    others = sorted(tag for tag in tags if tag >= 32768 and tag not in known)
    named = ", ".join(map(str, others[:6])) + (", …" if len(others) > 6 else "")
    notes = (f"private TIFF tags were left out ({named})",) if others else ()
    return Words(xmp if isinstance(xmp, bytes) else None, iptc or None, notes=notes)


def turned_xmp(xmp: bytes | None, orientation: int) -> bytes | None:
    """The packet of a picture that was turned: its orientation is 1, widths and heights are exchanged."""
    if xmp is None:
        return None
    xmp = re.sub(rb"(tiff:Orientation(?:\s*=\s*[\"']|>))\s*[2-8]", rb"\g<1>1", xmp)
    if orientation >= 5:
        for one, other in (
            (b"tiff:ImageWidth", b"tiff:ImageLength"),
            (b"tiff:XResolution", b"tiff:YResolution"),
            (b"exif:PixelXDimension", b"exif:PixelYDimension"),
        ):
            names = {one: other, other: one}
            xmp = re.sub(rb"\b(" + one + b"|" + other + rb")\b", lambda found, names=names: names[found[1]], xmp)  # type: ignore[misc]
    return xmp


def photoshop_block(iptc: bytes) -> bytes:
    """IPTC data as a segment of a JPEG file. Raises ValueError if it is too long for one."""
    data = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", _PHOTOSHOP_IPTC, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    if len(data) > 65533:
        raise ValueError("too much IPTC data")
    return b"\xff\xed" + struct.pack(">H", len(data) + 2) + data
