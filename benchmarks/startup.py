"""How long the command line takes to start: `aecli --help`, and `aecli denoise` on 512×512 pixels beside `import torch`.

Denoising and importing alternate in pairs; every command runs once untimed before. Seconds are medians; the ratios are that
of the medians and the median of the pairs' own. Without --picture only `aecli --help` is measured.

usage: python benchmarks/startup.py [--picture FILE] [--repetitions N] [--threads N] [--json FILE]
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import machine, parser, table, timed, write_json
from PIL import Image

import aecli
from aecli import device
from aecli.training.data import read_rgb

SIDE = 512
SIGMA = 25


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--picture", type=Path, metavar="FILE", help=f"at least {SIDE}×{SIDE} pixels; noise is added to it")
    arguments.add_argument("--repetitions", type=int, default=9, help="pairs (default: %(default)s)")
    arguments.add_argument("--weights", default="photo-denoise", help="shipped weights by name, or a file (default: %(default)s)")
    args = arguments.parse_args()
    compute = device.select(threads=args.threads)
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # for the commands too
    seconds = {"aecli --help": repeat([aecli_script(), "--help"], args.repetitions)}
    if args.picture:
        seconds |= pairs(args.picture, str(args.weights), args.repetitions)
    line = machine(compute, *([aecli.load_weights(args.weights)] if args.picture else []))
    print(line, end="\n\n")
    print(table(["command", "seconds, median"], [[name, f"{statistics.median(s):.3f}"] for name, s in seconds.items()]))
    if args.picture:
        print(f"\n{ratios(*list(seconds.values())[1:])}")
    write_json(args.json, {"machine": line, "seconds": seconds})


def aecli_script() -> str:
    """The `aecli` of this very interpreter."""
    script = shutil.which("aecli", path=str(Path(sys.executable).parent))
    return script or sys.exit("there is no aecli beside this Python: install the package")


def repeat(command: list[str], repetitions: int) -> list[float]:
    run(command)
    return [run(command) for _ in range(repetitions)]


def pairs(picture: Path, weights: str, repetitions: int) -> dict[str, list[float]]:
    """Seconds of `aecli denoise` and of `import torch`, one after the other, again and again."""
    with tempfile.TemporaryDirectory() as folder:
        noisy, clean = Path(folder, "noisy.png"), Path(folder, "clean.png")
        write_noisy(picture, noisy)
        denoise = [aecli_script(), "denoise", str(noisy), "-o", str(clean), "--overwrite", "--weights", weights]
        bare = [sys.executable, "-c", "import torch"]
        run(denoise), run(bare)
        found = [(run(denoise), run(bare)) for _ in range(repetitions)]
    return {f"aecli denoise, {SIDE}×{SIDE}": [a for a, _ in found], 'python -c "import torch"': [b for _, b in found]}


def write_noisy(picture: Path, target: Path) -> None:
    clean = read_rgb(picture)[:SIDE, :SIDE]
    if min(clean.shape[:2]) < SIDE:
        sys.exit(f"{picture} is smaller than {SIDE}×{SIDE}: pass a larger one")
    noisy = clean + np.random.default_rng(0).standard_normal(clean.shape) * SIGMA
    Image.fromarray(np.clip(np.round(noisy), 0, 255).astype(np.uint8)).save(target)


def run(command: list[str]) -> float:
    """Seconds of a command, which must succeed."""
    done, seconds = timed(lambda: subprocess.run(command, capture_output=True, text=True))
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.strip()}")
    return seconds


def ratios(denoise: list[float], bare: list[float]) -> str:
    of_medians = statistics.median(denoise) / statistics.median(bare)
    paired = statistics.median(a / b for a, b in zip(denoise, bare, strict=True))
    return f"aecli denoise against import torch: ratio of the medians {of_medians:.2f}, median of the paired ratios {paired:.2f}"


if __name__ == "__main__":
    main()
