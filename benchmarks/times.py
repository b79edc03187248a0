"""How long the commands take on this computer, from the command to the result: seconds of wall time.

With ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 any x86 machine shows what a computer without bfloat16 instructions takes.
The photograph is tests/data/photo.png, mirrored to the size that is wanted, with noise of sigma 25.

usage: python benchmarks/times.py [--megapixels 1,12,24] [--many 100] [--trainings] [--threads N] [--json FILE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from common import machine, numbers, parser, photograph, table, write_json
from PIL import Image

from aecli import device

SIZE = (768, 512)  # of Kodak's pictures, and of the many


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--megapixels", type=numbers, default=[1.0, 12.0, 24.0], help="of the pictures to denoise")
    arguments.add_argument("--many", type=int, default=100, help="pictures of 768×512 in one command")
    arguments.add_argument("--trainings", action="store_true", help="the default trainings on MNIST too: minutes")
    args = arguments.parse_args()
    compute = device.select(threads=args.threads)
    threads = [] if args.threads is None else ["--threads", str(args.threads)]
    rows: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands(Path(folder), args):
            rows.append((name, seconds([*command, *threads])))
            print(f"{name}: {rows[-1][1]:.1f} s", file=sys.stderr)
    print(machine(compute), end="\n\n")
    print(table(["command", "seconds"], [[name, f"{taken:.1f}"] for name, taken in rows]))
    write_json(args.json, {"machine": machine(compute), "seconds": dict(rows)})


def commands(folder: Path, args: object) -> list[tuple[str, list[str]]]:
    """What is timed, in this order, by name."""
    megapixels, many, trainings = (getattr(args, name) for name in ("megapixels", "many", "trainings"))
    found = []
    for size in megapixels:
        picture = saved(photograph(size), folder / f"{size:g}.png")
        found.append((f"`denoise`, {size:g} megapixels", ["denoise", str(picture), "-o", str(folder / f"{size:g}.denoised.png")]))
    small, npz = saved(photograph(0.5).resize(SIZE), folder / "small.png"), str(folder / "small.npz")
    found.append(("`encode`, 768×512", ["encode", str(small), "-o", npz]))
    found.append(("`decode`, 768×512", ["decode", npz, "-o", str(folder / "back.png")]))
    (folder / "many").mkdir()
    for index in range(many):
        (folder / "many" / f"{index:04}.png").write_bytes(small.read_bytes())
    for command in ("denoise", "encode"):
        found.append((f"`{command}`, {many} of 768×512", [command, str(folder / "many"), "-o", str(folder / command)]))
    for arch in ("dense", "deep", "conv") if trainings else ():
        found.append((f"`train --arch {arch}`", ["train", "--arch", arch, "-o", str(folder / f"{arch}.safetensors")]))
    return found


def saved(picture: Image.Image, path: Path) -> Path:
    """The picture with noise, as a PNG."""
    pixels = np.asarray(picture)
    noise = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32) * 25
    Image.fromarray(np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8)).save(path, compress_level=1)
    return path


def seconds(command: list[str]) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-m", "aecli", *command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


if __name__ == "__main__":
    main()
