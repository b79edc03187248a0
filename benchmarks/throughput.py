"""Many files in one call: the rate of `aecli denoise` or `encode` on a folder, beside the network alone on pictures in memory.

The pictures are noisy crops of 768×512 of a folder's photographs, each written several times until there are enough. The network
alone works on them in memory in this process, some before the commands and as many after them. The command's rate leaves its
start out: it is taken from the difference between a call with all files and one with the first tenth of them. Also printed: the
largest resident memory of both calls, and what so many files cost in one call beside the start and so many times the marginal
cost of a file.

usage: python benchmarks/throughput.py FOLDER [--files 500] [--command denoise|encode] [--threads N] [--json FILE]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import add_pictures, machine, parser, pictures, table, timed, write_json
from PIL import Image
from startup import aecli_script

import aecli
from aecli import device
from aecli.compression import coder_for, encode_picture
from aecli.denoising import denoise_picture
from aecli.images import from_array
from aecli.weights import Weights

WIDTH, HEIGHT = 768, 512
SIGMA = 15
IN_MEMORY = 12  # pictures before the commands, and after them


def main() -> None:
    arguments = parser(__doc__)
    add_pictures(arguments, "photo-denoise or photo-codec")
    arguments.add_argument("--files", type=int, default=500, help="how many (default: %(default)s)")
    arguments.add_argument("--command", choices=("denoise", "encode"), default="denoise")
    args = arguments.parse_args()
    compute = device.select(threads=args.threads)
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # for the commands too
    shipped = {"denoise": "photo-denoise", "encode": "photo-codec"}[args.command]
    weights = aecli.load_weights(shipped if " or " in args.weights else args.weights)
    crops = [crop for p in pictures(args.folder, args.limit) for crop in landscape(p)]
    few = max(1, args.files // 10)
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder, "all"), crops, args.files)
        write_files(Path(folder, "few"), crops, few)
        noisy = [np.array(Image.open(path)) for path in sorted(Path(folder, "all").iterdir())[: 2 * IN_MEMORY]]
        alone = network_alone(args.command, weights, compute, noisy[:IN_MEMORY])
        command = [
            aecli_script(),
            args.command,
            "--weights",
            str(args.weights if " or " not in args.weights else shipped),
            "--quiet",
        ]
        one, _ = run_command([*command, str(next(Path(folder, "few").iterdir())), "-o", f"{folder}/one/"])
        short, short_memory = run_command([*command, str(Path(folder, "few")), "-o", str(Path(folder, "few-out"))])
        long, memory = run_command([*command, str(Path(folder, "all")), "-o", str(Path(folder, "all-out"))])
        alone = (alone + network_alone(args.command, weights, compute, noisy[IN_MEMORY:])) / 2
    marginal = (long - short) / (args.files - few)
    start = one - marginal
    expected = start + args.files * marginal
    rows = [
        ["network alone, pictures in memory", f"{1 / alone:.3f}", f"{WIDTH * HEIGHT / 1e6 / alone:.3f}", ""],
        [
            f"aecli {args.command}, {args.files} files",
            f"{1 / marginal:.3f}",
            f"{WIDTH * HEIGHT / 1e6 / marginal:.3f}",
            f"{memory:.2f}",
        ],
        [f"the same, {few} files", "", "", f"{short_memory:.2f}"],
    ]
    print(machine(compute, weights), end="\n\n")
    print(table(["", "files/s", "MP/s", "largest memory, GB"], rows))
    print(f"\nThe command reaches {alone / marginal:.1%} of the network's rate; it starts in {start:.1f} s.")
    print(f"All files took {long / expected:.3f} × as long as one start and {args.files} times a file's marginal cost.")
    figures = {"alone": alone, "marginal": marginal, "start": start, "memory": memory, "memory_few": short_memory}
    write_json(args.json, figures | {"one": one, "all": long})


def landscape(pixels: np.ndarray) -> list[np.ndarray]:
    """The picture's upper left 768×512, turned if it stands upright; nothing of a smaller one."""
    pixels = np.rot90(pixels) if pixels.shape[0] > pixels.shape[1] else pixels
    return [pixels[:HEIGHT, :WIDTH]] if pixels.shape[0] >= HEIGHT and pixels.shape[1] >= WIDTH else []


def write_files(folder: Path, crops: list[np.ndarray], count: int) -> None:
    folder.mkdir()
    for index in range(count):
        noise = np.random.default_rng(index).standard_normal((HEIGHT, WIDTH, 3)) * SIGMA
        noisy = np.clip(np.round(crops[index % len(crops)] + noise), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:05}.png", compress_level=1)


def network_alone(command: str, weights: Weights, compute: device.Compute, noisy: list[np.ndarray]) -> float:
    """Seconds a picture."""
    given = [from_array(pixels) for pixels in noisy]
    coder = None if command == "denoise" else coder_for(weights, compute)
    work = (lambda p: denoise_picture(p, weights, compute)) if coder is None else (lambda p: encode_picture(p, coder))
    work(given[0])
    _, seconds = timed(lambda: [work(picture) for picture in given])
    return seconds / len(given)


def run_command(command: list[str]) -> tuple[float, float]:
    """Seconds and largest resident memory, in GB, of a command, which must succeed."""
    start = time.perf_counter()
    process = os.posix_spawn(command[0], command, os.environ)
    _, status, used = os.wait4(process, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, used.ru_maxrss / 1e6


if __name__ == "__main__":
    main()
