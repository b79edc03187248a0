"""The .npz files: a few named arrays, readable with numpy.load(…, allow_pickle=False), small and safe to read.

numpy.savez would add some 300 bytes an array in padding and 64-bit fields; these are written with the same format's leanest
form. Reading checks every claimed size before it allocates, and nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from aecli.errors import AecliError

FORMAT_VERSION = 1
HEADER = "header"  # the member that holds the JSON header, as bytes
MAX_MEMBERS = 16
MAX_EXPANSION = 2000  # of a deflated member: deflate cannot do better than 1032
MAX_MEMBER_BYTES = 4 << 30


def write_container(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an .npz with a JSON header and arrays (deflated where that makes them smaller)."""
    text = json.dumps({"aecli": FORMAT_VERSION, **header}, separators=(",", ":")).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in {HEADER: np.array(text), **arrays}.items():
            data = _npy(array)
            deflated = len(zlib.compress(data, 9)) < len(data)
            info = zipfile.ZipInfo(f"{name}.npy")  # its fixed date keeps files the same from run to run
            info.compress_type = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
            archive.writestr(info, data, compresslevel=9)
    return stream.getvalue()


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
            members = archive.infolist()
            _check_sizes(members, name)
            arrays = {m.filename.removesuffix(".npy"): _array(archive.read(m), name) for m in members}
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
        SyntaxError,
    ) as error:
        raise AecliError(f"{name} is damaged or no .npz file ({error}): check the file, or encode the picture again") from error
    return _header(arrays.pop(HEADER, None), name), arrays


def _header(member: np.ndarray | None, name: str) -> dict[str, Any]:
    if member is None or member.dtype.kind != "S" or member.ndim != 0:
        raise AecliError(f"{name} was not written by aecli encode (it has no header): check the file")
    try:
        header = json.loads(member.item())
        version = header["aecli"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AecliError(f"{name} has a damaged header: encode the picture again") from error
    if version != FORMAT_VERSION:
        raise AecliError(f"{name} has format version {version}, this aecli reads {FORMAT_VERSION}: upgrade aecli")
    return dict(header)


def _check_sizes(members: list[zipfile.ZipInfo], name: str) -> None:
    if len(members) > MAX_MEMBERS or len({m.filename for m in members}) != len(members):
        raise AecliError(f"{name} has {len(members)} members where a few are expected: it is not read")
    for member in members:
        if member.file_size > min(MAX_MEMBER_BYTES, 1000 + MAX_EXPANSION * member.compress_size):
            raise AecliError(f"{name} claims to hold {member.file_size:,} bytes in {member.filename}: it is not read")


def _npy(array: np.ndarray) -> bytes:
    """The .npy form of an array, format version 1.0, without the padding to 64 bytes that only memory maps need."""
    array = np.ascontiguousarray(array) if array.ndim else array
    text = repr({"descr": array.dtype.newbyteorder("<").str, "fortran_order": False, "shape": array.shape}) + "\n"
    return (
        b"\x93NUMPY\x01\x00"
        + len(text).to_bytes(2, "little")
        + text.encode()
        + array.astype(array.dtype.newbyteorder("<")).tobytes()
    )


def _array(data: bytes, name: str) -> np.ndarray:
    """An .npy member → array, after checking that its shape and its size agree."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise AecliError(f"{name} has an array of .npy version {version}: encode the picture again")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or dtype.kind not in "iufS":
        raise AecliError(f"{name} holds {dtype} where numbers are expected: it is not read")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise AecliError(f"{name} has an array whose shape {shape} does not fit its size: encode the picture again")
    return np.frombuffer(data, dtype=dtype, offset=stream.tell()).reshape(shape)
