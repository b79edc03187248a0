"""What stands in a PNG file beside its pixels: texts, XMP, the colour profile and what else tells of colours.

Pillow calls a file damaged if a text or a profile in it inflates to more than 1 MB, or if the checksum of anything that it could
do without is wrong. So these are read here, and left out of what Pillow gets to see.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from aecli import colour

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEYWORD = "XML:com.adobe.xmp"
MOST_BYTES = 64 << 20  # of a text or a profile once it is inflated: a few kilobytes of deflate can claim any number
_PILLOWS_LIMIT = 1 << 20
_NEEDED = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT"})  # beside those with a capital letter, no picture can do without
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_HDR = frozenset({b"mDCV", b"cLLI", b"mDCv", b"cLLi"})  # how bright the picture gets, and the screen that it was made on


@dataclass
class Beside:
    """What a file has beside its pixels; `whole` is the stream for Pillow, which has the rest."""

    whole: BinaryIO
    icc: bytes | None = None
    xmp: bytes | None = None
    texts: list[tuple[str, str]] = field(default_factory=list)  # keyword and text
    signalled: colour.Signalled | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    start: int
    end: int  # with its checksum
    data: bytes
    intact: bool


def read_beside(stream: BinaryIO) -> Beside:
    """Of a file that begins with SIGNATURE. What is cut short is left for Pillow to refuse."""
    beside, hidden, colours = Beside(stream), list[_Chunk](), dict[bytes, bytes]()
    for chunk in _walk(stream):
        if not chunk.intact:
            hidden.append(chunk)
            beside.notes.append(f"the damaged part {chunk.kind.decode('ascii', 'replace')} was left out")
        elif chunk.kind in _TEXTS:
            if _read_text(chunk, beside) > _PILLOWS_LIMIT:
                hidden.append(chunk)
        elif chunk.kind == b"iCCP":
            profile = _inflated(chunk.data.partition(b"\0")[2][1:])
            beside.icc = profile or beside.icc
            if profile is not None and len(profile) > _PILLOWS_LIMIT:
                hidden.append(chunk)
        else:
            colours.setdefault(chunk.kind, chunk.data)
    beside.signalled = _signalled(colours)
    if lost := [kind.decode() for kind in colours if kind in _HDR]:
        beside.notes.append(f"the light levels of the HDR picture were left out ({', '.join(lost)})")
    if hidden:
        beside.whole = _without(stream, hidden)
    stream.seek(0)
    return beside


def _walk(stream: BinaryIO) -> Iterator[_Chunk]:
    """The chunks that a picture can do without, read whole; the others are stepped over."""
    length = stream.seek(0, io.SEEK_END)
    at = len(SIGNATURE)
    while at + 12 <= length:
        stream.seek(at)
        size, kind = struct.unpack(">I4s", stream.read(8))
        end = at + 12 + size
        if end > length or kind == b"IEND":
            return
        if kind[:1].islower() and kind not in _NEEDED and size <= MOST_BYTES:
            data, checksum = stream.read(size), stream.read(4)
            yield _Chunk(kind, at, end, data, zlib.crc32(kind + data) == int.from_bytes(checksum, "big"))
        at = end


def _read_text(chunk: _Chunk, beside: Beside) -> int:
    """How many bytes of text there are."""
    keyword, _, rest = chunk.data.partition(b"\0")
    name, encoding = keyword.decode("latin-1"), "latin-1"
    text: bytes | None = rest
    if chunk.kind == b"zTXt":
        text = _inflated(rest[1:])
    elif chunk.kind == b"iTXt":
        encoding = "utf-8"
        compressed, (_, _, rest) = rest[:1] == b"\1", _split_twice(rest[2:])
        text = _inflated(rest) if compressed else rest
    if text is None:
        beside.notes.append(f"the text {name!r} could not be read and was left out")
        return _PILLOWS_LIMIT + 1
    if name == XMP_KEYWORD:
        beside.xmp = text
    else:
        beside.texts.append((name, text.decode(encoding, "replace")))
    return len(text)


def _split_twice(data: bytes) -> tuple[bytes, bytes, bytes]:
    first, _, rest = data.partition(b"\0")
    second, _, rest = rest.partition(b"\0")
    return first, second, rest


def _inflated(data: bytes) -> bytes | None:
    """None for what is damaged or would be too long."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, MOST_BYTES)
    except zlib.error:
        return None
    return text if inflater.eof else None


def _signalled(chunks: dict[bytes, bytes]) -> colour.Signalled | None:
    """After PNG 3: cICP counts before sRGB, and that before gAMA and cHRM. (A profile counts before all but cICP.)"""
    code = chunks.get(b"cICP", b"")
    if len(code) == 4:
        return colour.of_numbers(code[0], code[1], matrix=code[2], full_range=bool(code[3]))
    if b"sRGB" in chunks:
        return None
    gamma, primaries = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
    points = [value / 100000 for value in struct.unpack(">8I", primaries)] if len(primaries) == 32 else []
    pairs = list(zip(points[::2], points[1::2], strict=True))
    return colour.of_gamma(
        int.from_bytes(gamma, "big") / 100000 if len(gamma) == 4 else None,
        (pairs[0], pairs[1], pairs[2], pairs[3]) if pairs else None,
    )


def _without(stream: BinaryIO, chunks: list[_Chunk]) -> BinaryIO:
    rest, at = io.BytesIO(), 0
    for chunk in chunks:
        stream.seek(at)
        rest.write(stream.read(chunk.start - at))
        at = chunk.end
    stream.seek(at)
    rest.write(stream.read())
    rest.seek(0)
    return rest
