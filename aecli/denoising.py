"""Picture in, picture out: noise estimate, tiles, network, blend."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from aecli.device import Compute
from aecli.errors import AecliError, UsageError
from aecli.images import Picture
from aecli.models import FeatureAutoencoder
from aecli.models.denoiser import Denoiser
from aecli.patches import from_patches, in_batches, to_patches, to_tensor
from aecli.tiling import map_tiles
from aecli.weights import Weights

TILE = 1024
ESTIMATE_PATCH = 8
ESTIMATE_PATCHES = 40_000  # enough for the covariance of 8 × 8 × 3 values, and quick
CLIPPING_MARGIN = 2.0  # standard deviations between a patch's mean and black or white: clipping takes 3 % of the variance there


@dataclasses.dataclass(frozen=True)
class Denoised:
    """picture: the result. sigma: the noise level used, in grey levels of 255. estimated: whether it was measured here."""

    picture: Picture
    sigma: float | None
    estimated: bool


def denoise_picture(
    picture: Picture, weights: Weights, compute: Compute, *, sigma: float | None = None, strength: float = 1.0
) -> Denoised:
    """Clean a picture; depth, alpha and metadata stay as they are.

    Args:
        picture: any size; uint8 or uint16.
        weights: a photograph denoiser, or a feature autoencoder trained on noisy pictures.
        compute: where to run.
        sigma: standard deviation of the noise in grey levels of 255, 0 or more; None estimates it. Feature autoencoders
            have learned one noise level and take no other.
        strength: share of the correction that is applied, 0–1; 0 gives the input back, bit for bit.

    Raises:
        UsageError: sigma or strength out of range, or sigma with weights that cannot use it.
        AecliError: weights that do not denoise, or a picture too small for them.
    """
    check_options(weights, sigma, strength)
    if isinstance(weights.model, FeatureAutoencoder):
        restored = _restore_patches(picture, weights, compute)
        used, estimated = None, False
    elif isinstance(weights.model, Denoiser):
        used = estimate_sigma(picture.pixels) if sigma is None else sigma
        estimated = sigma is None
        if used == 0 or strength == 0:
            return Denoised(picture, used, estimated)
        restored = _restore(picture, weights.model, used, compute)
    else:
        raise AecliError(f"weights {weights.name} hold a {weights.card.arch}, which does not denoise: pass other --weights")
    return Denoised(dataclasses.replace(picture, pixels=_blend(picture.pixels, restored, strength)), used, estimated)


def check_options(weights: Weights, sigma: float | None, strength: float) -> None:
    """What `denoise_picture` refuses whatever the picture. Raises UsageError."""
    if sigma is not None and not 0 <= sigma <= 255:
        raise UsageError(f"--sigma {sigma:g} is out of range: give 0 to 255, in grey levels")
    if not 0 <= strength <= 1:
        raise UsageError(f"--strength {strength:g} is out of range: give 0 to 1")
    if weights.card.task != "denoise":
        raise UsageError(f"weights {weights.name} are for another task ({weights.card.task}): pass weights trained to denoise")
    if sigma is not None and isinstance(weights.model, FeatureAutoencoder):
        raise UsageError(f"weights {weights.name} know one noise level only ({weights.card.noise}): leave --sigma out")


def _restore(picture: Picture, model: Denoiser, sigma: float, compute: Compute) -> Tensor:
    """(C, H, W) float32 in 0–1, not clipped."""
    # A grey picture goes in as three equal channels, as in training, and comes out as their mean.
    x = to_tensor(picture.pixels).expand(3, -1, -1)[None]
    level = torch.tensor([sigma / 255], device=compute.device)

    def run(tile: Tensor) -> Tensor:
        with torch.inference_mode(), compute.autocast():
            tile = tile.to(compute.device).contiguous(memory_format=torch.channels_last)
            return model(tile, level).float()  # type: ignore[no-any-return]

    overlap = math.ceil(model.receptive_radius / model.stride) * model.stride
    # A picture little larger than a tile costs less whole than in two tiles with their overlaps.
    tile = TILE if max(x.shape[-2:]) > TILE + 2 * overlap else TILE + 2 * overlap
    restored = map_tiles(run, x, tile=tile, overlap=overlap)[0]
    return restored if picture.pixels.shape[2] == 3 else restored.mean(dim=0, keepdim=True)


def _restore_patches(picture: Picture, weights: Weights, compute: Compute) -> Tensor:
    model = weights.model
    assert isinstance(model, FeatureAutoencoder)
    patches, grid = to_patches(to_tensor(picture.pixels), model.config, weights.name)
    return from_patches(in_batches(model, patches, compute), grid, channels=picture.pixels.shape[2])


def _blend(pixels: np.ndarray, restored: Tensor, strength: float) -> np.ndarray:
    if strength == 0:
        return pixels
    largest = np.iinfo(pixels.dtype).max
    x = restored.permute(1, 2, 0).numpy() * largest
    if strength < 1:
        x = pixels + strength * (x - pixels)
    return np.clip(np.round(x), 0, largest).astype(pixels.dtype)


def estimate_sigma(pixels: np.ndarray) -> float:
    """The noise level of a picture, blind: the standard deviation of white noise in grey levels of 255.

    The smallest eigenvalues of the covariance of small patches are the noise's: pictures vary in few directions, noise in
    all (Chen, Zhu & Heng 2015). Patches whose mean is near black or white are left out, since clipping hides noise there.

    Args:
        pixels: (H, W, C) uint8 or uint16. Pictures smaller than a patch, or saturated all over, count as clean.
    """
    if min(pixels.shape[:2]) < ESTIMATE_PATCH:
        return 0.0
    patches = _sample_patches(pixels).astype(np.float32) * np.float32(255 / np.iinfo(pixels.dtype).max)
    margins = _distance_to_clipping(patches, pixels.shape[2])
    order = np.argsort(-margins)
    enough = min(len(patches), 10 * patches.shape[1])
    sigma = 5.0
    for _ in range(3):
        safe = int((margins > CLIPPING_MARGIN * sigma).sum())
        chosen = patches[order[: max(safe, enough)]]
        if len(chosen) < 2 * patches.shape[1] or margins[order[0]] < 1:
            return 0.0
        sigma = math.sqrt(max(0.0, _noise_variance(np.linalg.eigvalsh(np.cov(chosen, rowvar=False)))))
    return sigma


def _distance_to_clipping(patches: np.ndarray, channels: int) -> np.ndarray:
    """How far the mean of each patch, (n, values) in 0–255, is from black and white, in its worst channel."""
    means = patches.reshape(len(patches), channels, -1).mean(axis=2)
    distances: np.ndarray = np.minimum(means, 255 - means).min(axis=1)
    return distances


def _sample_patches(pixels: np.ndarray) -> np.ndarray:
    """Patches spread evenly over the picture, (n, values)."""
    height, width, channels = pixels.shape
    rows, columns = height - ESTIMATE_PATCH + 1, width - ESTIMATE_PATCH + 1
    step = max(1, math.ceil(math.sqrt(rows * columns / ESTIMATE_PATCHES)))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (ESTIMATE_PATCH, ESTIMATE_PATCH), axis=(0, 1))
    # A step that shares no factor with JPEG's blocks of 8 would be better still; an odd one is enough.
    return windows[:: step | 1, :: step | 1].reshape(-1, channels * ESTIMATE_PATCH**2)


def _noise_variance(eigenvalues: np.ndarray) -> float:
    """The mean of the smallest eigenvalues, as many as make mean and median agree (the paper's algorithm 1)."""
    ascending = np.sort(eigenvalues)
    for count in range(len(ascending), 0, -1):
        kept = ascending[:count]
        if kept.mean() <= np.median(kept):
            return float(kept.mean())
    return float(ascending[0])
