"""What `aecli denoise` does, blind, to noise that is not white and Gaussian, beside BM3D and non-local means.

The kinds are those of the training mixture (aecli/training/noise/kinds.py) at two strengths, on pictures that took no part in
training, clipped and rounded to 8 bits. The peers are told the true root mean square of the noise; aecli is told nothing.

usage: python benchmarks/noise_kinds.py FOLDER [--limit N] [--crop SIDE] [--no-bm3d] [--threads N] [--json FILE]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from common import add_pictures, machine, parser, pictures, table, write_json
from denoise import bm3d, non_local_means, to_8_bits

import aecli
from aecli import device
from aecli.denoising import denoise_picture
from aecli.images import from_array
from aecli.metrics import psnr
from aecli.training.noise import KINDS

STRENGTHS = {"weak": 0.25, "strong": 0.75}


def main() -> None:
    arguments = parser(__doc__)
    add_pictures(arguments, "photo-denoise")
    arguments.add_argument("--crop", type=int, default=256, help="side of the part that is used, from the middle of each picture")
    arguments.add_argument("--no-bm3d", action="store_true", help="leave BM3D out (minutes a megapixel)")
    args = arguments.parse_args()
    compute = device.select("auto", "auto", args.threads)
    weights = aecli.load_weights(args.weights)

    def blind(noisy: np.ndarray, _: float) -> np.ndarray:
        return denoise_picture(from_array(noisy), weights, compute).picture.pixels

    methods: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {"before": lambda noisy, _: noisy, "aecli, blind": blind}
    methods["OpenCV fastNlMeans"] = non_local_means
    if not args.no_bm3d:
        methods["BM3D"] = bm3d
    figures: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for index, picture in enumerate(pictures(args.folder, args.limit)):
        clean = middle(picture, args.crop)
        for kind in KINDS:
            for word, strength in STRENGTHS.items():
                noisy = degraded(kind, clean, strength, index)
                rms = float(np.sqrt(np.mean((noisy.astype(float) - clean) ** 2)))
                for name, method in methods.items():
                    restored = torch.from_numpy(method(noisy, rms)) / 255
                    figures[kind.__name__.replace("_", " "), word][name].append(psnr(restored, torch.from_numpy(clean) / 255))
    print(machine(compute, weights), end="\n\n")
    rows = [[*key, *(f"{np.mean(values[name]):.2f}" for name in methods)] for key, values in figures.items()]
    print(table(["noise", "strength", *methods], rows, names=2))
    results = [
        {"noise": k[0], "strength": k[1], **{n: float(np.mean(v)) for n, v in values.items()}} for k, values in figures.items()
    ]
    write_json(args.json, {"machine": machine(compute, weights), "rows": results})


def middle(picture: np.ndarray, side: int) -> np.ndarray:
    height, width = picture.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return picture[top : top + side, left : left + side]


def degraded(kind: Callable[..., torch.Tensor], clean: np.ndarray, strength: float, seed: int) -> np.ndarray:
    x = torch.from_numpy(clean / 255).float().permute(2, 0, 1)[None]
    noisy = kind(x, torch.full((1, 1, 1, 1), strength), torch.Generator().manual_seed(seed))
    return to_8_bits(noisy[0].permute(1, 2, 0).numpy() * 255)


if __name__ == "__main__":
    main()
