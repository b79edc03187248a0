"""The random part: `python -m tests.fuzz [--minutes 1] [--target npz]`; exit status 1 and the input's file where something broke.

Each target runs in a process of its own with limited memory; its current input is kept in a file, so that a crash or a
hang in a decoder written in C leaves behind what caused it.
"""

import argparse
import faulthandler
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from aecli.coding.container import read_container, write_container
from tests import conftest
from tests.fuzz.targets import SECONDS, limit_memory, subjects

TARGETS = ("picture", "npz", "stream", "weights")
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([10**9, 10**30, -1, 1e308, "L", "RGB", "../../x", "/etc/passwd", "\0", "\ud800", "a" * 300]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@st.composite
def mutated(draw, files):
    """A valid file with a few bytes changed, numbers put in, parts cut out or doubled; checksums of PNG repaired half the time."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, min(len(data), draw(st.sampled_from([64, 1000, 1 << 20]))) - 1)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                number, order = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(["<I", ">I", "<H", ">H"]))
                size = struct.calcsize(order)
                data[at : at + size] = struct.pack(order, number % 256**size)
            case 2:
                del data[at : at + draw(st.integers(1, 40))]
            case 3:
                data[at:at] = draw(st.binary(max_size=20))
            case 4:
                data[at:at] = data[at : at + draw(st.integers(1, 200))]
    return _with_right_checksums(data) if data[:4] == b"\x89PNG" and draw(st.booleans()) else bytes(data)


def _with_right_checksums(png):
    at = 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        if end + 4 > len(png):
            break
        png[end : end + 4] = zlib.crc32(png[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(png)


@st.composite
def forged_npz(draw, files):
    """A valid container, checksums right, with other header fields and members."""
    header, arrays = read_container(draw(st.sampled_from(files)), "valid")
    fields = draw(st.dictionaries(st.sampled_from([*header, "dpi", "scale", "quality"]), JSON, max_size=3))
    header = {k: v for k, v in {**header, **fields}.items() if k != "aecli" or k in fields}
    names = st.sampled_from(["stream", "latents", "alpha", "icc", "exif", "xmp", "iptc", "texts", "../../x", "/tmp/x"])
    members = st.binary(max_size=200).map(lambda b: np.frombuffer(b, np.uint8))
    members |= st.lists(st.integers(-128, 127), max_size=32).map(
        lambda n: np.array(n, np.int8).reshape(-1, 1 + 3 * (len(n) % 4 == 0))
    )
    return write_container(header, {**arrays, **draw(st.dictionaries(names, members, max_size=2))})


@st.composite
def forged_stream(draw, files):
    """A valid header, its checksum of the symbols included, and a stream of other bytes."""
    header, arrays = read_container(files[0], "valid")
    del header["aecli"]
    stream = draw(mutated([arrays["stream"].tobytes()]) | st.binary(min_size=4, max_size=600))
    if draw(st.booleans()):
        header["size"] = [draw(st.integers(1, 400)), draw(st.integers(1, 400))]
    return write_container(header, {**arrays, "stream": np.frombuffer(stream[: len(stream) // 4 * 4], np.uint8)})


@st.composite
def forged_weights(draw, files):
    """A valid weights file whose card, configuration or list of tensors is another."""
    data = draw(st.sampled_from(files))
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    card = header["__metadata__"]
    config = {**json.loads(card["config"])}
    config |= draw(st.dictionaries(st.sampled_from([*config]), JSON, max_size=2))
    card["config"] = json.dumps(config)
    card |= draw(st.dictionaries(st.sampled_from([*card]), JSON | JSON.map(json.dumps), max_size=2))
    name = draw(st.sampled_from(sorted(header)))
    if name != "__metadata__" and draw(st.booleans()):
        header[name] = {
            **header[name],
            **draw(st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON, max_size=2)),
        }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


FORGED = {"npz": forged_npz, "stream": forged_stream, "weights": forged_weights}


def work(target, seconds, first_seed, current):
    """One target, in batches of examples, until the time is up."""
    made = subjects(conftest, Path(current).parent)
    inputs = mutated(made.valid[target])
    if target in FORGED:
        inputs = FORGED[target](made.valid[target]) | inputs
    limit_memory()
    tried, accepted, slowest, end = 0, 0, 0.0, time.monotonic() + seconds

    def one(data):
        nonlocal tried, accepted, slowest
        Path(current).write_bytes(data)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        start = time.monotonic()
        try:
            accepted += made.check(target, data)
        finally:
            faulthandler.cancel_dump_traceback_later()
        tried, slowest = tried + 1, max(slowest, time.monotonic() - start)

    options = settings(
        max_examples=200,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    while time.monotonic() < end:
        seed(first_seed)(options(given(inputs)(one)))()
        first_seed += 1
    print(f"{target}: {tried:,} inputs, {accepted:,} accepted, slowest {slowest:.2f} s, none broke a promise")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Feeds hostile files to aecli.")
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together")
    parser.add_argument("--target", choices=TARGETS, help="one target only")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    targets = [options.target] if options.target else TARGETS
    seconds = 60 * options.minutes / len(targets)
    if options.worker:
        faulthandler.enable()
        work(options.target, 60 * options.minutes, options.seed, options.worker)
        return 0
    failed = False
    folder = Path(tempfile.mkdtemp(prefix="aecli-fuzz-"))
    for target in targets:
        current = folder / f"{target}.input"
        command = [sys.executable, "-B", "-W", "ignore", "-m", "tests.fuzz", "--worker", str(current), "--target", target]
        command += ["--minutes", str(seconds / 60), "--seed", str(options.seed)]
        status = subprocess.run(
            command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=2 * seconds + 300
        ).returncode
        if status:
            failed = True
            print(f"{target}: broke a promise (exit status {status}); the input is {current}", file=sys.stderr)
    if not failed:
        shutil.rmtree(folder)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
