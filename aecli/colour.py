"""Colours that a file signals without an ICC profile, as a profile: it goes along to every format that holds one.

PNG has gAMA and cHRM (PNG 1.2) and cICP (PNG 3), AVIF has nclx, both of the latter with the numbers of ITU-T H.273, TIFF has
white point and primaries.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Point = tuple[float, float]  # x, y of CIE 1931
Primaries = tuple[Point, Point, Point, Point]  # white, red, green, blue

_D65 = (0.3127, 0.3290)
SRGB_PRIMARIES: Primaries = (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_PRIMARIES: Mapping[int, Primaries] = MappingProxyType(
    {
        1: SRGB_PRIMARIES,
        4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
        5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
        6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
        7: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
        9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
        11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
        12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
        22: (_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
    }
)
_PQ, _HLG = 16, 18
_SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # g, a, b, c, d of ICC's parametric curve 3
_BT709 = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_PURE = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
_CURVE = 1024  # entries of a curve that has no formula in ICC


@dataclass(frozen=True)
class Signalled:
    """transfer: a number of H.273, or gamma, the exponent that leads from samples to light, where that is given instead."""

    primaries: Primaries = SRGB_PRIMARIES
    transfer: int = 13
    gamma: float | None = None
    cicp: bytes | None = None  # as the chunk of PNG has it, where it says what no curve can: PQ and HLG


def of_numbers(primaries: int, transfer: int, *, matrix: int = 0, full_range: bool = True) -> Signalled | None:
    """What numbers of H.273 signal; None for sRGB, for television's BT.709, which everyone shows as sRGB, and for unknown ones."""
    if transfer in {_PQ, _HLG}:
        code = bytes([primaries, transfer, matrix, full_range])
        return Signalled(_PRIMARIES.get(primaries, SRGB_PRIMARIES), transfer, cicp=code)
    if primaries in {0, 1, 2} and transfer in {0, 1, 2, 6, 13, 14, 15}:
        return None
    if primaries not in _PRIMARIES and transfer not in _PURE:
        return None
    return Signalled(_PRIMARIES.get(primaries, SRGB_PRIMARIES), transfer)


def of_gamma(gamma: float | None, primaries: Primaries | None) -> Signalled | None:
    """What gAMA (0.45455 for most files) and cHRM signal; None for what looks like sRGB, and for values that nothing has."""
    if gamma is not None and not 0.1 <= gamma <= 10:
        gamma = None
    near = primaries is None or np.allclose(primaries, SRGB_PRIMARIES, atol=0.004)
    if primaries is None or near or not _has_area(primaries):
        primaries = SRGB_PRIMARIES
    if near and (gamma is None or abs(gamma - 0.45455) < 0.02):
        return None
    return Signalled(primaries, gamma=None if gamma is None else 1 / gamma)


def of_tiff(tags: Any) -> Signalled | None:
    """What white point and primaries of a TIFF file signal; its curve is taken for that of sRGB. None for sRGB."""
    try:
        numbers = [float(value) for value in (*tags.get(318, ()), *tags.get(319, ()))]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if len(numbers) != 8:
        return None
    white, red, green, blue = zip(numbers[::2], numbers[1::2], strict=True)
    return of_gamma(None, (white, red, green, blue))


def _has_area(primaries: Primaries) -> bool:
    """False for primaries that no light could be mixed of."""
    points = np.array(primaries)
    (rx, ry), (gx, gy), (bx, by) = points[1:]
    area = abs((gx - rx) * (by - ry) - (bx - rx) * (gy - ry))
    return bool(np.isfinite(points).all() and (points[:, 1] > 1e-4).all() and area > 1e-3)


# ---------------------------------------------------------------------------------------------------------- ICC profiles

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])


def profile_of(signalled: Signalled, *, grey: bool) -> bytes:
    """An ICC profile, version 4.4, of RGB or of grey pixels.

    For PQ and HLG it has the tag cicp, for programs that show HDR, and a curve that others can use: the light of a white page
    (203 cd/m² after BT.2408) is the profile's white, and what is brighter is cut off.
    """
    curve = _curve(signalled)
    white, adapted = _adaptation(signalled.primaries[0])
    tags = {b"desc": _text("as the file signalled"), b"cprt": _text("CC0"), b"wtpt": _xyz(_D50), b"chad": _matrix(adapted)}
    if grey:
        tags[b"kTRC"] = curve
    else:
        colorants = adapted @ _mixing(signalled.primaries, white)
        tags |= {name: _xyz(colorants[:, at]) for at, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    if signalled.cicp:
        tags[b"cicp"] = b"cicp\0\0\0\0" + signalled.cicp
    return _assembled(tags, b"GRAY" if grey else b"RGB ")


@lru_cache(maxsize=16)  # a folder's pictures have few
def is_srgb(profile: bytes) -> bool:
    """Whether a profile of RGB pixels says of every colour what sRGB does, to a grey level."""
    from PIL import Image, ImageCms

    steps = np.linspace(0, 255, 16).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 64, 3)
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        same = ImageCms.profileToProfile(Image.fromarray(colours), given, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError):  # of other pixels, damaged, or a Pillow without LittleCMS
        return False
    return cicp_in(profile) is None and int(np.abs(np.asarray(same).astype(int) - colours).max()) <= 1


def cicp_in(profile: bytes | None) -> bytes | None:
    """The four numbers of H.273 that a profile of `profile_of` has for HDR."""
    if not profile or len(profile) < 132:
        return None
    (count,) = struct.unpack_from(">I", profile, 128)
    for at in range(132, 132 + 12 * min(count, 100), 12):
        if profile[at : at + 4] == b"cicp" and len(profile) >= at + 12:
            (offset,) = struct.unpack_from(">I", profile, at + 4)
            code = profile[offset + 8 : offset + 12]
            return code if len(code) == 4 and code[1] in {_PQ, _HLG} else None
    return None


def _curve(signalled: Signalled) -> bytes:
    if signalled.gamma is not None:
        return _formula(0, signalled.gamma)
    if signalled.transfer in _PURE:
        return _formula(0, _PURE[signalled.transfer])
    if signalled.transfer in {_PQ, _HLG}:
        light = (_pq if signalled.transfer == _PQ else _hlg)(np.linspace(0, 1, _CURVE))
        table = np.rint(np.minimum(light, 1) * 65535).astype(">u2")
        return b"curv\0\0\0\0" + struct.pack(">I", _CURVE) + bytes(table.tobytes())
    return _formula(3, *(_BT709 if signalled.transfer in {1, 6, 14, 15} else _SRGB))


def _pq(signal: Array) -> Array:
    """SMPTE ST 2084, as a multiple of 203 cd/m²."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    root = signal ** (1 / m2)
    return (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * 10000 / 203


def _hlg(signal: Array) -> Array:
    """BT.2100's inverse OETF and the system gamma of 1.2, as a multiple of what the signal 0.75 gives."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073

    def light(signal: Array) -> Array:
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12) ** 1.2

    return np.asarray(light(signal) / light(np.array(0.75)))


def _formula(kind: int, *numbers: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + b"".join(_fixed(number) for number in numbers)


def _adaptation(white: Point) -> tuple[Array, Array]:
    """XYZ of the white point, and the matrix (3, 3) that takes it to that of profiles."""
    x, y = white
    xyz = np.array([x / y, 1, (1 - x - y) / y])
    return xyz, np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / (_BRADFORD @ xyz)) @ _BRADFORD


def _mixing(primaries: Primaries, white: Array) -> Array:
    """(3, 3): XYZ of the primaries, in columns, that give white together."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries[1:]]).T
    return np.asarray(columns * np.linalg.solve(columns, white))


def _fixed(number: float) -> bytes:
    return struct.pack(">i", round(number * 65536))


def _xyz(values: Array) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(value) for value in values)


def _matrix(values: Array) -> bytes:
    return b"sf32\0\0\0\0" + b"".join(_fixed(value) for value in values.ravel())


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(data), 28) + data


def _assembled(tags: Mapping[bytes, bytes], space: bytes) -> bytes:
    """Equal tags are stored once."""
    offset, table, body, places = 132 + 12 * len(tags), b"", b"", dict[bytes, int]()
    for name, data in tags.items():
        if data not in places:
            places[data] = offset + len(body)
            body += data.ljust(-(-len(data) // 4) * 4, b"\0")
        table += struct.pack(">4sII", name, places[data], len(data))
    header = struct.pack(
        ">I4sI4s4s4s6H4s4sIIIQI3i",
        offset + len(body), b"\0\0\0\0", 0x04400000, b"mntr", space, b"XYZ ", 2026, 1, 1, 0, 0, 0, b"acsp", b"\0\0\0\0",
        0, 0, 0, 0, 0, *(round(value * 65536) for value in _D50),
    ).ljust(128, b"\0")  # fmt: skip
    return header + struct.pack(">I", len(tags)) + table + body
