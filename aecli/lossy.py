"""How hard a picture's file was compressed, so that a result in the same format need be neither much larger nor much worse."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

# The table for brightness that libjpeg multiplies by its quality (Annex K of the standard), in any order.
# fmt: off
_JPEG_LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
])
# fmt: on
FULL_COLOUR = "4:4:4"
_VP8_START = b"\x9d\x01\x2a"


@dataclass(frozen=True)
class Lossy:
    """quality: 1–100, as libjpeg and libwebp count it. subsampling: of colour, 4:4:4, 4:2:2 or 4:2:0."""

    quality: int
    subsampling: str


def lossy_of(image: Image.Image, stream: BinaryIO) -> Lossy | None:
    """What can be told of a JPEG or lossy WebP file, `stream`, from which `image` was opened; None of others, and of odd ones."""
    try:
        if image.format in ("JPEG", "MPO"):
            return _of_jpeg(image)
        return _of_webp(stream) if image.format == "WEBP" else None
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError):
        return None


def _of_jpeg(image: Any) -> Lossy:
    """The quality whose table for brightness is as coarse as the file's, whoever chose that: libjpeg's own is found exactly."""
    scales = [5000 // quality if quality < 50 else 200 - 2 * quality for quality in range(1, 101)]
    sums = np.array([np.clip((_JPEG_LUMINANCE * scale + 50) // 100, 1, 255).sum() for scale in scales])
    quality = 1 + int(np.abs(sums - sum(image.quantization[image.layer[0][3]])).argmin())
    wide, high = (image.layer[0][side] // image.layer[-1][side] if len(image.layer) == 3 else 1 for side in (1, 2))
    return Lossy(quality, FULL_COLOUR if wide == high == 1 else "4:2:2" if high == 1 else "4:2:0")


def _of_webp(stream: BinaryIO) -> Lossy | None:
    """libwebp takes 127 × (1 − c) as the quantiser, with a c that rises with the quality; lossless files have no VP8."""
    header = next((data for name, data in _chunks(stream) if name == b"VP8 "), b"")
    if header[3:6] != _VP8_START:
        return None
    linear = _fineness(header[10:]) ** 3
    quality = 150 * linear if linear < 0.5 else 50 * (linear + 1)
    return Lossy(min(99, max(1, round(quality))), "4:2:0")  # 100 would be lossless


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Names and beginnings of a RIFF file's chunks."""
    position = 12
    while True:
        stream.seek(position)
        start = stream.read(8)
        if len(start) < 8:
            return
        yield start[:4], stream.read(256)
        length = int.from_bytes(start[4:], "little")
        position += 8 + length + length % 2


def _fineness(data: bytes) -> float:
    """The c that a VP8 key frame's header (RFC 6386, section 9) was made with, 0–1.

    libwebp gives each of four segments a power of it, whose exponents have a mean of 1 over the picture.
    """
    bits = _Bits(data)
    bits.take(2)  # colour space, clamping
    of_segments: list[int] = []
    absolute, shares = 0, [255, 255, 255]  # of 255: of the first two segments, of the first in these, of the third in the others
    if bits.take(1):
        map_follows, values_follow = bits.take(1), bits.take(1)
        if values_follow:
            absolute = bits.take(1)
            of_segments = [bits.optional(7) for _ in range(4)]
            for _ in range(4):
                bits.optional(6)  # strength of the loop filter
        if map_follows:
            shares = [bits.take(8) if bits.take(1) else 255 for _ in range(3)]
    bits.take(10)  # loop filter
    if bits.take(1) and bits.take(1):
        for _ in range(8):
            bits.optional(6)
    bits.take(2)  # partitions
    base = bits.take(7)
    quantisers = np.array(of_segments or [0] * 4) + (0 if absolute else base)
    pair, first, third = np.array(shares) / 255
    weights = [pair * first, pair * (1 - first), (1 - pair) * third, (1 - pair) * (1 - third)]
    return float(np.exp(np.dot(weights, np.log(np.clip(1 - quantisers / 127, 1 / 254, 1)))))


class _Bits:
    """The decoder of VP8's headers (RFC 6386, section 7), all bits being as likely 0 as 1."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)
        self._value, self._range, self._shifts = int.from_bytes(self._rest.read(2), "big"), 255, 0

    def _bit(self) -> int:
        split = 1 + ((self._range - 1) >> 1)
        bit = self._value >= split << 8
        self._value -= split << 8 if bit else 0
        self._range = self._range - split if bit else split
        while self._range < 128:
            self._value, self._range, self._shifts = self._value << 1, self._range << 1, self._shifts + 1
            if self._shifts % 8 == 0:
                self._value |= self._rest.read(1)[0]
        return int(bit)

    def take(self, count: int) -> int:
        """A number of so many bits."""
        number = 0
        for _ in range(count):
            number = 2 * number + self._bit()
        return number

    def optional(self, count: int) -> int:
        """A number with a sign behind it, or 0 where a first bit says that there is none."""
        if not self.take(1):
            return 0
        number = self.take(count)
        return -number if self.take(1) else number
