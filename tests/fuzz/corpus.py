"""Nasty inputs, generated: `python -m tests.fuzz.corpus` feeds each to aecli in limited memory and prints what broke a promise.

What tests/test_coding.py, test_compression.py, test_weights.py and test_images.py hold already (flipped and cut .npz files,
pickles, zip bombs, newer versions, missing members, wrong types) is not here a second time.
"""

import io
import json
import os
import pickle
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np

from aecli.coding.container import _npy, read_container, write_container
from tests.fuzz.targets import limit_memory, nothing_but_reading, small_pictures, subjects

SECONDS = 2  # of processor time, for each input: half of it where nothing else runs, but cores are shared
NAN, INFINITY = float("nan"), float("inf")

HEADERS = {
    "quality": [NAN, INFINITY, 1e300, -1, 101, "NaN"],
    "dpi": [[NAN, 1], [INFINITY, 1], [-1, -1], [0, 0], [10**30, 1], [1], [1, 2, 3], "ab", {"a": 1, "b": 2}, [[1], [2]], 5],
    "mode": ["P", 5, ["L"], None, "\x1b[2J"],
    "size": [[NAN, 16], [1e9, 1], [10**9, 10**9], "16x16", None],
    "weights": [
        f"{name} {'0' * 16}"
        for name in (
            "a" * 300,
            "é" * 200,
            "a\0b",
            "a\0.safetensors",
            "\ud800.safetensors",
            "\x1b[2J",
            "../x",
            "/etc/passwd",
            "..\\x",
        )
    ],
}
SCALES = [NAN, INFINITY, 1e39, 1e300, 0, -1, "one", None]
NAMES = ("../../escaped.npy", "/tmp/escaped.npy", "..\\escaped.npy", "C:\\escaped.npy")


class Bomb:
    """A pickle that would leave through os.system."""

    def __reduce__(self):
        return (os.system, ("true",))


def forged(valid, *, arrays=(), **fields):
    """The file again with other header fields and members, all checksums right."""
    header, members = read_container(valid, "valid")
    header = {k: v for k, v in {**header, **fields}.items() if k != "aecli"}
    return write_container(header, {**members, **dict(arrays)})


def with_foreign_members(valid):
    """A valid file with further members whose names lead elsewhere."""
    stream = io.BytesIO(valid)
    with zipfile.ZipFile(stream, "a") as archive:
        for name in NAMES:
            archive.writestr(zipfile.ZipInfo(name), _npy(np.zeros(3)))
    return stream.getvalue()


def hostile_npz(made):
    codec, dense = made.valid["npz"]
    yield from ((f"{key} {value!a:.40}", forged(codec, **{key: value})) for key, values in HEADERS.items() for value in values)
    yield from ((f"scale {value}", forged(dense, scale=value)) for value in SCALES)
    for side in (2048, 8192):
        noise = np.random.default_rng(0).integers(0, 256, (side // 64) ** 2 // 4 + 64, dtype=np.uint8)
        yield f"stream that claims {side}²", forged(codec, size=[side, side], arrays={"stream": noise})
    bomb = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(dense)) as valid, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = valid.comment
        archive.writestr("latents.npy", _npy(np.zeros((50 << 20, 4), np.int8)))
    yield "200 MiB of latents in 200 KB", bomb.getvalue()


def hostile_pictures(photograph):
    def png(width, height, bits=8):
        chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
        empty = b"IDAT" + zlib.compress(b"")
        chunks = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, empty, b"IEND"))
        return b"\x89PNG\r\n\x1a\n" + chunks

    files = small_pictures(photograph)
    jpeg, gif, bmp = (bytearray(files[name]) for name in ("jpeg", "gif", "bmp"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 31_000, 31_000)
    gif[6:10] = struct.pack("<HH", 31_000, 31_000)
    bmp[18:26] = struct.pack("<II", 31_000, 31_000)
    yield "jpeg that claims 31000²", bytes(jpeg)
    yield "gif that claims 31000²", bytes(gif)
    yield "bmp that claims 31000²", bytes(bmp)
    yield "png that claims 31000²", png(31_000, 31_000)
    yield "png that claims 5790²", png(5_790, 5_790)  # small enough to be tried
    yield "16-bit png that claims 31000²", png(31_000, 31_000, 16)
    yield "16-bit png that claims 5790²", png(5_790, 5_790, 16)
    for name in ("colour", "grey and alpha"):
        for side in (5_790, 31_000):
            yield f"16-bit tiff of {name} that claims {side}²", with_size(files[f"TIFF of 16-bit {name}"], side)
    yield "ppm that claims 31000²", b"P6 31000 31000 255\n" + bytes(99)
    yield "ppm that claims 5790²", b"P6 5790 5790 255\n" + bytes(99)


def with_size(tiff, side):
    """The file with other values in its tags 256 and 257."""
    changed = bytearray(tiff)
    for tag in (256, 257):
        entry = struct.pack("<HHI", tag, 4, 1)
        struct.pack_into("<I", changed, tiff.index(entry) + len(entry), side)
    return bytes(changed)


def hostile_weights(made):
    data = made.valid["weights"][0]
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])

    def file_of(header, data=data[8 + length :]):
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    yield "a pickle where the header belongs", struct.pack("<Q", len(pickle.dumps(Bomb()))) + pickle.dumps(Bomb())
    yield "a pickle for tensors", file_of(header, pickle.dumps(Bomb()))
    yield "tensors by the names of paths", file_of({f"../{k}" if k != "__metadata__" else k: v for k, v in header.items()})
    tensor = next(k for k in header if k != "__metadata__")
    for offsets in ([0, 1 << 62], [-8, 8], [NAN, 1], [8, 0]):
        yield f"offsets {offsets}", file_of({**header, tensor: {**header[tensor], "data_offsets": offsets}})


def accepted_or_not(made, photograph):
    """Where nothing is known but that no promise may break: every byte of small files changed, one at a time."""
    for name, data in small_pictures(photograph).items():
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 0xFF if position % 2 else 0x11
            yield f"{name} with byte {position} changed", "picture", bytes(changed)
    yield "foreign members", "npz", with_foreign_members(made.valid["npz"][0])


def watched_acts():
    """How many of three forbidden acts the watch sees."""
    data, seen = pickle.dumps(Bomb()), 0
    for act in (lambda: pickle.loads(data), lambda: Path(os.devnull).open("wb").close(), lambda: os.system("true")):
        try:
            with nothing_but_reading():
                act()
        except AssertionError:
            seen += 1
    return seen


def main():
    with tempfile.TemporaryDirectory() as folder:
        return feed(Path(folder))


def feed(folder):
    from tests import conftest

    made, broken, counts = subjects(conftest, folder), [], {True: 0, False: 0}
    photograph = conftest.read_picture(conftest.DATA / "arches.png")
    refused = [(name, "npz", data) for name, data in hostile_npz(made)]
    refused += [(name, "picture", data) for name, data in hostile_pictures(photograph)]
    refused += [(name, "weights", data) for name, data in hostile_weights(made)]
    watched = watched_acts()
    limit_memory()
    for must_be_refused, inputs in ((True, refused), (False, accepted_or_not(made, photograph))):
        for name, target, data in inputs:
            start = time.process_time()
            try:
                accepted = made.check(target, data)
            except BaseException as error:
                broken.append(f"{target}, {name}: {type(error).__name__}: {error}"[:300])
                continue
            counts[accepted] += 1
            seconds = time.process_time() - start
            if (accepted and must_be_refused) or seconds > SECONDS:
                broken.append(f"{target}, {name}: {'accepted' if accepted else 'refused'} after {seconds:.2f} s")
    print(json.dumps({"broken": broken, "accepted": counts[True], "refused": counts[False], "watched": watched}))
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
