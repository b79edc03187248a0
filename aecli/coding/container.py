"""The .npz files: a JSON header and a few named arrays, readable with numpy.load(…, allow_pickle=False), small and safe to read.

numpy.savez would add some 300 bytes an array in padding and 64-bit fields; these are written with the same format's leanest
form. The header is the archive's comment, which costs a hundred bytes less than a member; deflated, as almost all of it is in
every header alike. Reading checks every claimed size before it allocates, and nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from aecli.errors import AecliError

FORMAT_VERSION = 1
# What headers have in common, for zlib to refer to. It is a part of the format.
USUAL_HEADER = (
    b'"scale":0.0,"dpi":[72.0,72.0]{"aecli":1,"size":[512,768],"mode":"L","layout":"array","mode":"RGB",'
    b'"weights":"photo-codec 0123456789abcdef","layout":"stream","quality":50.0,"crc":1}'
)
END_OF_ARCHIVE = b"PK\x05\x06"  # what comes before the comment: readers look for the last one
# Never deflated: it is dense already, and one that grows on reading could claim a picture of any size.
STREAM = "stream"
MAX_MEMBERS = 16
MAX_HEADER_BYTES = 1 << 16
# What a file may grow to on reading, whichever is more: deflate reaches 1032 times, a bomb's trick.
MAX_INFLATED_BYTES = 256 << 20
MAX_EXPANSION = 20


def write_container(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an .npz with a JSON header and arrays (deflated where that makes them smaller)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.comment = _pack({"aecli": FORMAT_VERSION, **header})
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # its fixed date keeps files the same from run to run
            data = _npy(array)
            info.compress_type = zipfile.ZIP_DEFLATED if _is_worth_deflating(name, data) else zipfile.ZIP_STORED
            archive.writestr(info, data, compresslevel=9)
    return stream.getvalue()


def _pack(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    for level in (9, 0):  # 0 leaves the text as it is, and JSON has no such control characters
        compressor = zlib.compressobj(level, zdict=USUAL_HEADER)
        packed = compressor.compress(text) + compressor.flush()
        if END_OF_ARCHIVE not in packed:
            break
    return packed


def _is_worth_deflating(name: str, data: bytes) -> bool:
    if name == STREAM:
        return False
    shortest = len(data) // MAX_EXPANSION if len(data) > MAX_INFLATED_BYTES // MAX_MEMBERS else 0
    return shortest <= len(zlib.compress(data, 9)) < len(data)


def read_container(data: bytes, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of an .npz that `write_container` wrote.

    Args:
        data: the file's bytes.
        name: what errors call it.

    Raises:
        AecliError: not such a file, a damaged or newer one, or one that claims an absurd size.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_members(archive.infolist(), len(data), name)
            header = _header(archive.comment, name)
            arrays = {m.filename.removesuffix(".npy"): _array(_read(archive, m), name) for m in archive.infolist()}
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
        KeyError,
    ) as error:
        raise AecliError(f"{name} is damaged or no .npz file ({error}): check the file, or encode the picture again") from error
    return header, arrays


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as stream:
        return stream.read(member.file_size)  # without the number, one that is larger than it claims would be read whole


def _header(packed: bytes, name: str) -> dict[str, Any]:
    if not packed:
        raise AecliError(f"{name} was not written by aecli encode (it has no header): check the file")
    decompressor = zlib.decompressobj(zdict=USUAL_HEADER)
    text = decompressor.decompress(packed, MAX_HEADER_BYTES)
    try:
        if not decompressor.eof:  # whose checksum was not yet compared
            raise ValueError
        header = json.loads(text)
        version = header["aecli"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AecliError(f"{name} has a damaged header: encode the picture again") from error
    if version != FORMAT_VERSION:
        raise AecliError(f"{name} has format version {version}, this aecli reads {FORMAT_VERSION}: upgrade aecli")
    return dict(header)


def _check_members(members: list[zipfile.ZipInfo], length: int, name: str) -> None:
    if len(members) > MAX_MEMBERS or len({m.filename for m in members}) != len(members):
        raise AecliError(f"{name} has {len(members)} members where a few are expected: it is not read")
    total = sum(m.file_size for m in members)
    if total > max(MAX_INFLATED_BYTES, MAX_EXPANSION * length):
        raise AecliError(f"{name} claims to hold {total:,} bytes in a file of {length:,}: it is not read")
    for member in members:
        if member.extra or member.comment:  # a damaged length, which may have swallowed the entry that follows
            raise AecliError(f"{name} is damaged (its list of members): encode the picture again")
        if member.filename == f"{STREAM}.npy" and member.compress_type != zipfile.ZIP_STORED:
            raise AecliError(f"{name} has a stream that was compressed a second time: encode the picture again")


def _npy(array: np.ndarray) -> bytes:
    """The .npy form of an array, format version 1.0, without the padding to 64 bytes that only memory maps need."""
    array = np.ascontiguousarray(array) if array.ndim else array
    text = repr({"descr": array.dtype.newbyteorder("<").str, "fortran_order": False, "shape": array.shape}).replace(" ", "")
    return (
        b"\x93NUMPY\x01\x00"
        + len(text).to_bytes(2, "little")
        + text.encode()
        + array.astype(array.dtype.newbyteorder("<")).tobytes()
    )


# NumPy's own parser takes any Python literal, and hostile ones make it raise almost anything.
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    rb"{'descr': ?'(?P<dtype>\|[iu]1|<[iu][248]|<f[248])', ?'fortran_order': ?False, ?'shape': ?\((?P<shape>[0-9, ]*)\),? ?} *\n?"
)


def _array(data: bytes, name: str) -> np.ndarray:
    """An .npy member → array, after checking that its shape and its size agree."""
    start = len(_NPY_MAGIC) + 2
    end = start + int.from_bytes(data[len(_NPY_MAGIC) : start], "little")
    # No further than the header is long: the numbers after it may begin with bytes that read as spaces.
    header = _NPY_HEADER.fullmatch(data, start, end)
    if header is None or not data.startswith(_NPY_MAGIC) or end > len(data):
        raise AecliError(f"{name} has a member that is no array of plain numbers: it is not read")
    dtype, shape = np.dtype(header["dtype"].decode()), tuple(int(n) for n in header["shape"].split(b",") if n.strip())
    if math.prod(shape) * dtype.itemsize != len(data) - end:
        raise AecliError(f"{name} has an array whose shape {shape} does not fit its size: encode the picture again")
    return np.frombuffer(data, dtype=dtype, offset=end).reshape(shape)
