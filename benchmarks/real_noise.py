"""What `aecli denoise`, told nothing, makes of real camera noise, beside non-local means, wavelets and BM3D at their best setting.

Pairs of one scene: NAME_real.* is a noisy photograph, NAME_mean.* the mean of many exposures, which counts as clean. The peers
get the setting, one for the whole folder, that gives them the highest PSNR. `removed` is the root mean square of what aecli
took away, over the noise level that it states.

usage: python benchmarks/real_noise.py FOLDER [--no-bm3d] [--limit N] [--weights FILE] [--threads N] [--json FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from common import add_pictures, machine, parser, table, write_json
from denoise import bm3d, wavelet

import aecli
from aecli import device
from aecli.denoising import denoise_picture
from aecli.images import from_array
from aecli.metrics import psnr
from aecli.training.data import read_rgb

Method = Callable[[np.ndarray], np.ndarray]
NLM_STRENGTHS = (2, 3, 4, 5, 6, 8, 10, 15)
SIGMAS = (5, 10, 15)


def main() -> None:
    arguments = parser(__doc__)
    add_pictures(arguments, "photo-denoise")
    arguments.add_argument("--no-bm3d", action="store_true", help="leave BM3D out (minutes a megapixel)")
    args = arguments.parse_args()
    compute = device.select("auto", "auto", args.threads)
    cv2.setNumThreads(torch.get_num_threads())
    weights = aecli.load_weights(args.weights)
    levels: list[float] = []
    removed: list[float] = []

    def blind(noisy: np.ndarray) -> np.ndarray:
        result = denoise_picture(from_array(noisy), weights, compute)
        assert result.sigma is not None
        levels.append(result.sigma)
        removed.append(_rms(result.picture.pixels, noisy))
        return result.picture.pixels

    methods = {("noisy", ""): lambda noisy: noisy, ("**aecli**, told nothing", ""): blind} | peers(with_bm3d=not args.no_bm3d)
    scores: dict[tuple[str, str], list[float]] = {key: [] for key in methods}
    for noisy, clean in pairs(args.folder, args.limit):
        for key, method in methods.items():
            scores[key].append(psnr(torch.from_numpy(method(noisy)) / 255, torch.from_numpy(clean) / 255))
    print(machine(compute, weights), end="\n\n")
    best = {name: max((k for k in scores if k[0] == name), key=lambda k: float(np.mean(scores[k]))) for name, _ in scores}
    print(table(["method", "best setting", "PSNR"], [[*key, f"{np.mean(scores[key]):.2f}"] for key in best.values()], names=2))
    ratios = np.array(removed) / np.maximum(levels, 1e-3)
    spread = f"{ratios.min():.2f} to {ratios.max():.2f}, mean {ratios.mean():.2f}"
    print(f"\nstated noise level {np.mean(levels):.2f}; removed / stated: {spread}")
    rows = [{"method": k[0], "setting": k[1], "psnr": values} for k, values in scores.items()]
    write_json(args.json, {"machine": machine(compute, weights), "rows": rows, "levels": levels, "removed": removed})


def pairs(folder: str, limit: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(noisy, clean), (H, W, 3) uint8, in the order of their names; progress goes to stderr."""
    noisy = sorted(Path(folder).glob("*_real.*"))[:limit]
    if not noisy:
        sys.exit(f"{folder} has no files named NAME_real.*")
    for index, path in enumerate(noisy, start=1):
        print(f"{index}/{len(noisy)} {path.name}", file=sys.stderr)
        yield read_rgb(path), read_rgb(path.with_name(path.name.replace("_real.", "_mean.")))


def peers(*, with_bm3d: bool) -> dict[tuple[str, str], Method]:
    """The peers' methods by name and setting."""
    methods: dict[tuple[str, str], Method] = {}
    for h in NLM_STRENGTHS:
        methods["OpenCV fastNlMeans", f"h = {h}"] = lambda noisy, h=h: _non_local_means(noisy, h)  # type: ignore[misc]
    for sigma in SIGMAS:
        methods["scikit-image wavelet", f"sigma = {sigma}"] = lambda noisy, s=sigma: wavelet(noisy.astype(float), s)  # type: ignore[misc]
        if with_bm3d:
            methods["BM3D", f"sigma = {sigma}"] = lambda noisy, s=sigma: bm3d(noisy.astype(float), s)  # type: ignore[misc]
    return methods


def _non_local_means(noisy: np.ndarray, h: float) -> np.ndarray:
    return cv2.fastNlMeansDenoisingColored(noisy[..., ::-1].copy(), None, h, h)[..., ::-1].copy()  # OpenCV reads BGR


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(float) - b) ** 2)))


if __name__ == "__main__":
    main()
