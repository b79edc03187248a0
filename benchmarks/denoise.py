"""PSNR and speed of `aecli denoise` beside non-local means, wavelets and BM3D, on white Gaussian noise.

Two kinds of input: noise that is not clipped (the papers' convention), and noisy pictures clipped and rounded to 8 bits (what
a real file is). Results are clipped and rounded; PSNR is over all channels, averaged over the pictures.

usage: python benchmarks/denoise.py FOLDER [--sigmas 15,25,50] [--luminance] [--bm3d] [--limit N] [--threads N] [--json FILE]
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping

import cv2
import numpy as np
import torch
from common import add_pictures, machine, numbers, parser, pictures, table, timed, write_json
from PIL import Image
from skimage.restoration import denoise_wavelet

import aecli
from aecli import device
from aecli.denoising import denoise_picture
from aecli.images import from_array
from aecli.metrics import psnr
from aecli.models.denoiser import Denoiser
from aecli.weights import Weights

# (H, W, C) in 0–255, floats or uint8, and sigma in grey levels → (H, W, C) uint8
Method = Callable[[np.ndarray, float], np.ndarray]

UNCLIPPED, FILE = "noise not clipped", "clipped and rounded to 8 bits"
# OpenCV's `h` in units of sigma that gives the best PSNR, by the number of channels: with colour, noise in the lightness that
# `h` is compared with is weaker than in the channels.
BEST_H = {1: 0.9, 3: 0.55}


class Figures:
    """What was measured of one method on one kind of input."""

    def __init__(self) -> None:
        self.psnr: dict[float, list[float]] = defaultdict(list)
        self.seconds_per_megapixel: list[float] = []

    def summary(self) -> dict[str, object]:
        return {
            "psnr": {f"{sigma:g}": statistics.mean(values) for sigma, values in self.psnr.items()},
            "seconds_per_megapixel": statistics.median(self.seconds_per_megapixel),
        }

    def row(self, sigmas: list[float]) -> list[str]:
        seconds = statistics.median(self.seconds_per_megapixel)
        return [*(f"{statistics.mean(self.psnr[sigma]):.2f}" for sigma in sigmas), f"{seconds:.3f}"]


def main() -> None:
    arguments = parser(__doc__)
    add_pictures(arguments, "photo-denoise")
    arguments.add_argument("--sigmas", type=numbers, default=[15.0, 25.0, 50.0], help="noise levels in grey levels of 255")
    arguments.add_argument("--luminance", action="store_true", help="grey pictures, one channel of noise")
    arguments.add_argument("--bm3d", action="store_true", help="BM3D too (minutes a megapixel)")
    arguments.add_argument("--precision", choices=device.PRECISIONS, default="auto", help="of aecli")
    args = arguments.parse_args()
    compute = device.select("auto", args.precision, args.threads)
    cv2.setNumThreads(torch.get_num_threads())
    weights = aecli.load_weights(args.weights)
    methods = all_methods(weights, compute, with_bm3d=args.bm3d)
    figures: dict[tuple[str, str], Figures] = defaultdict(Figures)
    for index, picture in enumerate(pictures(args.folder, args.limit)):
        clean = np.array(Image.fromarray(picture).convert("L"))[..., None] if args.luminance else picture
        if index == 0:
            warm_up(methods, clean)
        for sigma in args.sigmas:
            noisy = clean + np.random.default_rng(index).standard_normal(clean.shape) * sigma
            measure(methods, clean, noisy, sigma, figures)
    print(machine(compute, weights), end="\n\n")
    columns = ["input", "method", *(f"sigma {sigma:g}" for sigma in args.sigmas), "s/MP"]
    rows = [[*key, *value.row(args.sigmas)] for key, value in figures.items()]
    print(table(columns, rows, names=2))
    results = [{"input": key[0], "method": key[1], **value.summary()} for key, value in figures.items()]
    write_json(args.json, {"machine": machine(compute, weights), "rows": results})


def all_methods(weights: Weights, compute: device.Compute, *, with_bm3d: bool) -> dict[str, dict[str, Method]]:
    """The methods by kind of input and name."""

    def unclipped(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return network(noisy, sigma, weights, compute)

    def told(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return denoise_picture(from_array(noisy), weights, compute, sigma=sigma).picture.pixels

    def blind(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return denoise_picture(from_array(noisy), weights, compute).picture.pixels

    peers: dict[str, Method] = {"noisy": lambda noisy, _: to_8_bits(noisy), "OpenCV fastNlMeans": non_local_means}
    peers["skimage wavelet"] = wavelet
    if with_bm3d:
        peers["BM3D"] = bm3d
    return {
        UNCLIPPED: {**peers, "aecli, told sigma": unclipped},
        FILE: {**peers, "aecli, told sigma": told, "aecli, blind": blind},
    }


def warm_up(methods: Mapping[str, Mapping[str, Method]], clean: np.ndarray) -> None:
    """Run everything once, so that no first call is timed."""
    for method in [method for group in methods.values() for method in group.values()]:
        method(clean, 25.0)


def measure(
    methods: Mapping[str, Mapping[str, Method]],
    clean: np.ndarray,
    noisy: np.ndarray,
    sigma: float,
    figures: Mapping[tuple[str, str], Figures],
) -> None:
    """Run every method on one noisy picture."""
    inputs = {UNCLIPPED: noisy, FILE: to_8_bits(noisy)}
    for kind, group in methods.items():
        for name, method in group.items():
            restored, seconds = timed(method, inputs[kind], sigma)
            figures[kind, name].psnr[sigma].append(psnr(torch.from_numpy(restored) / 255, torch.from_numpy(clean) / 255))
            megapixels = clean.shape[0] * clean.shape[1] / 1e6
            figures[kind, name].seconds_per_megapixel.append(seconds / megapixels)


def to_8_bits(x: np.ndarray) -> np.ndarray:
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def network(noisy: np.ndarray, sigma: float, weights: Weights, compute: device.Compute) -> np.ndarray:
    """The denoiser on a picture that no file can hold: `aecli.denoise` takes floats in 0–1 only."""
    assert isinstance(weights.model, Denoiser)
    x = torch.from_numpy(noisy / 255).float().permute(2, 0, 1).expand(3, -1, -1)[None]  # (1, 3, H, W)
    level = torch.tensor([sigma / 255], device=compute.device)
    with torch.inference_mode(), compute.autocast():
        restored = weights.model(x.to(compute.device).contiguous(memory_format=torch.channels_last), level)[0].float().cpu()
    if noisy.shape[2] == 1:
        restored = restored.mean(dim=0, keepdim=True)
    return to_8_bits(restored.permute(1, 2, 0).numpy() * 255)


def non_local_means(noisy: np.ndarray, sigma: float) -> np.ndarray:
    h, pixels = BEST_H[noisy.shape[2]] * sigma, to_8_bits(noisy)
    if pixels.shape[2] == 1:
        return cv2.fastNlMeansDenoising(pixels, None, h).reshape(pixels.shape)
    return cv2.fastNlMeansDenoisingColored(pixels[..., ::-1].copy(), None, h, h)[..., ::-1].copy()  # OpenCV reads BGR


def bm3d(noisy: np.ndarray, sigma: float) -> np.ndarray:
    from bm3d import bm3d, bm3d_rgb  # slow to import

    restored = (bm3d_rgb if noisy.shape[2] == 3 else bm3d)(noisy / 255.0, sigma / 255)
    return to_8_bits(restored.reshape(noisy.shape) * 255)


def wavelet(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """With the wavelet and the colour space that give the best PSNR; the defaults lose 0.3 and 1.4 dB at sigma 25."""
    options = {"method": "BayesShrink", "wavelet": "db2", "convert2ycbcr": noisy.shape[2] == 3, "rescale_sigma": True}
    restored = denoise_wavelet(noisy.astype(np.float64) / 255, sigma=sigma / 255, channel_axis=-1, **options)
    return to_8_bits(restored * 255)


if __name__ == "__main__":
    main()
