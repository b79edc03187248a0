"""Seconds and memory of `aecli encode` and `aecli decode` over sizes, as whole commands, and what their tiles cost.

Each command runs as a process on tests/data/photo.png, mirrored to the size that is wanted; start-up and files are counted.

usage: python benchmarks/large_pictures.py [--megapixels 1,4,16,50] [--weights NAME] [--threads N] [--json FILE]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from common import machine, numbers, parser, photograph, table, timed, write_json

import aecli
from aecli import compression, device
from aecli.compression import coder_for, decode_picture, encode_picture
from aecli.images import from_array
from aecli.metrics import psnr
from aecli.patches import to_tensor
from aecli.weights import Weights

TILED = 3.0  # megapixels, four tiles


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--weights", default="photo-codec", help="shipped weights by name, or a file (default: %(default)s)")
    arguments.add_argument("--megapixels", type=numbers, default=[1.0, 4.0, 16.0, 50.0], help="sizes, the smallest first")
    args = arguments.parse_args()
    compute = device.select(threads=args.threads)
    weights = aecli.load_weights(args.weights)
    line = machine(compute, weights)
    print(line, end="\n\n")
    options = ["--weights", args.weights, *(["--threads", str(args.threads)] if args.threads else [])]
    runs = [run for megapixels in args.megapixels for run in round_trip(megapixels, options)]
    columns = ["command", "megapixels", "seconds", "s/MP", "resident, GB"]
    print(table(columns, [[run["command"], *(f"{run[c]:.3g}" for c in columns[1:])] for run in runs]))
    cost = tile_cost(weights, compute)
    print(f"\nPSNR in tiles less that of the whole, {TILED:g} megapixels: {cost:+.4f} dB")
    write_json(args.json, {"machine": line, "runs": runs, "tiled_minus_whole_db": cost})


def round_trip(megapixels: float, options: list[str]) -> list[dict[str, Any]]:
    """What encoding and decoding one picture takes."""
    with tempfile.TemporaryDirectory() as folder:
        picture, packed, again = (str(Path(folder) / name) for name in ("picture.png", "picture.npz", "again.png"))
        image = photograph(megapixels)
        image.save(picture)
        size = image.width * image.height / 1e6
        del image
        files = {"encode": (picture, packed), "decode": (packed, again)}
        return [measure(command, source, target, size, options) for command, (source, target) in files.items()]


def measure(command: str, source: str, target: str, megapixels: float, options: list[str]) -> dict[str, Any]:
    process = subprocess.Popen([sys.executable, "-m", "aecli", command, source, "-o", target, "--quiet", *options])
    (_, status, used), seconds = timed(os.wait4, process.pid, 0)
    assert status == 0
    resident = used.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    return {
        "command": command,
        "megapixels": megapixels,
        "seconds": seconds,
        "s/MP": seconds / megapixels,
        "resident, GB": resident,
    }


def tile_cost(weights: Weights, compute: device.Compute) -> float:
    """dB."""
    picture, coder = from_array(np.asarray(photograph(TILED))), coder_for(weights, compute)

    def decoded_psnr() -> float:
        decoded = decode_picture(encode_picture(picture, coder), "the picture", lambda _: coder)
        return psnr(to_tensor(decoded.pixels), to_tensor(picture.pixels))

    with mock.patch.multiple(compression, TILE=1 << 16, HYPER_TILE=1 << 12):
        whole = decoded_psnr()
    return decoded_psnr() - whole


if __name__ == "__main__":
    main()
