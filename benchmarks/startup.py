"""How long the command line takes to start: `aecli --help` beside `import typer, rich`, and `aecli denoise`, `encode` and
`decode` on 512×512 pixels beside `import torch`.

Each command alternates with its peer; every one runs once untimed before. Seconds are medians of processor time, which other work
on the machine disturbs less than the clock on the wall; ratios are the medians of the pairs' own. Each row is shown as it comes,
on standard error. Without --picture only `aecli --help` is measured.

usage: python benchmarks/startup.py [--picture FILE] [--repetitions N] [--threads N] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import machine, parser, table, write_json
from PIL import Image

import aecli
from aecli import device
from aecli.training.data import read_rgb

SIDE = 512
SIGMA = 25


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--picture", type=Path, metavar="FILE", help=f"at least {SIDE}×{SIDE} pixels; noise is added to it")
    arguments.add_argument("--repetitions", type=int, default=5, help="pairs (default: %(default)s)")
    arguments.add_argument("--weights", default="photo-denoise", help="shipped weights by name, or a file (default: %(default)s)")
    arguments.add_argument("--precision", choices=device.PRECISIONS, default="auto")
    args = arguments.parse_args()
    compute = device.select("auto", args.precision, args.threads)
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # for the commands too
    with tempfile.TemporaryDirectory() as folder:
        commands = {"--help": ["--help"]} | (on_a_picture(args, Path(folder)) if args.picture else {})
        seconds = {}
        for name, words in commands.items():
            seconds[name] = pairs([aecli_script(), *words], peer_of(name), args.repetitions)
            print(*row(name, seconds[name]), sep="  ", file=sys.stderr, flush=True)
    line = machine(compute, *([aecli.load_weights(args.weights)] if args.picture else []))
    print(line, end="\n\n")
    print(table(["command", "seconds", "peer", "seconds", "ratio"], [row(name, found) for name, found in seconds.items()]))
    write_json(args.json, {"machine": line, "seconds": seconds})


def on_a_picture(args: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """The words of each command, by its name."""
    write_noisy(args.picture, folder / "noisy.png")
    encode = ["encode", str(folder / "noisy.png"), "-o", str(folder / "small.npz"), "--overwrite", "--precision", args.precision]
    run([aecli_script(), *encode])
    denoise = ["denoise", str(folder / "noisy.png"), "-o", str(folder / "clean.png"), "--overwrite", "--weights", str(args.weights)]
    decode = ["decode", str(folder / "small.npz"), "-o", str(folder / "back.png"), "--overwrite", "--precision", args.precision]
    return {"denoise": [*denoise, "--precision", args.precision], "encode": encode, "decode": decode}


def peer_of(name: str) -> list[str]:
    return [sys.executable, "-c", "import typer, rich" if name == "--help" else "import torch"]


def row(name: str, found: list[tuple[float, float]]) -> list[str]:
    own, peer = (statistics.median(pair[i] for pair in found) for i in range(2))
    ratio = statistics.median(a / b for a, b in found)
    return [f"aecli {name}", f"{own:.3f}", peer_of(name)[-1], f"{peer:.3f}", f"{ratio:.2f}"]


def aecli_script() -> str:
    """The `aecli` of this very interpreter."""
    script = shutil.which("aecli", path=str(Path(sys.executable).parent))
    return script or sys.exit("there is no aecli beside this Python: install the package")


def pairs(command: list[str], peer: list[str], repetitions: int) -> list[tuple[float, float]]:
    """Seconds of both, one after the other, again and again."""
    run(command), run(peer)
    return [(run(command), run(peer)) for _ in range(repetitions)]


def write_noisy(picture: Path, target: Path) -> None:
    clean = read_rgb(picture)[:SIDE, :SIDE]
    if min(clean.shape[:2]) < SIDE:
        sys.exit(f"{picture} is smaller than {SIDE}×{SIDE}: pass a larger one")
    noisy = clean + np.random.default_rng(0).standard_normal(clean.shape) * SIGMA
    Image.fromarray(np.clip(np.round(noisy), 0, 255).astype(np.uint8)).save(target)


def run(command: list[str]) -> float:
    """Seconds of processor time of a command, which must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.strip()}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
