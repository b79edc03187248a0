"""What `aecli denoise`, told nothing, does to pictures that have no noise: photographs, their JPEGs, and drawn pages.

Printed is the PSNR of the result against its input, the mean over pictures and the lowest, the noise level that was estimated,
and the largest shift of a picture's mean. The pages are drawn by aecli/training/drawings.py with a seed that no training uses.

usage: python benchmarks/clean_pictures.py FOLDER [--pages N] [--limit N] [--weights FILE] [--threads N] [--json FILE]
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import torch
from common import add_pictures, machine, parser, pictures, table, write_json
from PIL import Image

import aecli
from aecli import device
from aecli.denoising import denoise_picture
from aecli.images import from_array
from aecli.metrics import psnr
from aecli.training.drawings import page
from aecli.weights import Weights

SEED = 2**31
SIDE = 512
MOST_DB = 99.0  # stands for a result that is equal to its input


def main() -> None:
    arguments = parser(__doc__)
    add_pictures(arguments, "photo-denoise")
    arguments.add_argument("--pages", type=int, default=60, help="drawn pages")
    args = arguments.parse_args()
    compute = device.select("auto", "auto", args.threads)
    weights = aecli.load_weights(args.weights)
    photographs = list(pictures(args.folder, args.limit))
    groups: dict[str, Iterable[np.ndarray]] = {"photographs": photographs}
    for quality in (90, 75):
        groups[f"as JPEG of quality {quality}"] = [jpeg(picture, quality) for picture in photographs]
    rng = np.random.default_rng(SEED)
    groups["drawn pages"] = [page(rng, SIDE).copy() for _ in range(args.pages)]
    rows, results = [], []
    for name, group in groups.items():
        figures = np.array([measure(picture, weights, compute) for picture in group])
        scores, levels, shifts = figures.T
        rows.append([name, f"{scores.mean():.2f}", f"{scores.min():.2f}", f"{levels.mean():.2f}", f"{shifts.max():.2f}"])
        results.append({"pictures": name, "psnr": scores.tolist(), "sigma": levels.tolist(), "shift": shifts.tolist()})
    print(machine(compute, weights), end="\n\n")
    print(table(["without noise", "PSNR to the input", "lowest", "sigma estimated", "largest shift of the mean"], rows))
    write_json(args.json, {"machine": machine(compute, weights), "rows": results})


def measure(picture: np.ndarray, weights: Weights, compute: device.Compute) -> tuple[float, float, float]:
    """(PSNR to the input in dB, estimated sigma in grey levels, shift of the mean in grey levels)."""
    result = denoise_picture(from_array(picture), weights, compute)
    pixels = result.picture.pixels
    same = psnr(torch.from_numpy(pixels) / 255, torch.from_numpy(picture) / 255)
    return min(same, MOST_DB), result.sigma or 0.0, abs(float(pixels.mean()) - float(picture.mean()))


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """As a JPEG file gives it back."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


if __name__ == "__main__":
    main()
