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
from aecli.tiling import tiles
from aecli.weights import Weights

TILE = 1024
# The receptive field is larger, but nothing farther away than this moves a result by 0.01 grey levels (noise of 15 and of 50),
# and reading it for every tile would cost half of the time again.
MAX_OVERLAP = 64


@dataclasses.dataclass(frozen=True)
class Denoised:
    """picture: the result. sigma: the noise level used, in grey levels of 255; where it was estimated, and so differs from place
    to place, its root mean square."""

    picture: Picture
    sigma: float | None
    estimated: bool


def denoise_picture(
    picture: Picture, weights: Weights, compute: Compute, *, sigma: float | None = None, strength: float = 1.0, tile: int = TILE
) -> Denoised:
    """Clean a picture; depth, alpha and metadata stay as they are.

    Args:
        picture: any size; uint8 or uint16.
        weights: a photograph denoiser, or a feature autoencoder trained on noisy pictures.
        compute: where to run.
        sigma: standard deviation of the noise in grey levels of 255, 0 or more; None estimates it, for every place of its own.
            Feature autoencoders have learned one noise level and take no other.
        strength: share of the correction that is applied, 0–1; 0 gives the input back, bit for bit.
        tile: side, in pixels, of the parts that a photograph is worked on in: memory against time.

    Raises:
        UsageError: sigma or strength out of range, or sigma with weights that cannot use it.
        AecliError: weights that do not denoise, or a picture too small for them.
    """
    check_options(weights, sigma, strength)
    if isinstance(weights.model, FeatureAutoencoder):
        restored = _restore_patches(picture, weights, compute)
        pixels, used = _blend(picture.pixels, restored, strength), None
    elif isinstance(weights.model, Denoiser):
        if sigma == 0:
            return Denoised(picture, 0.0, estimated=False)
        pixels, used = _restore(picture.pixels, weights.model, sigma, strength, tile, compute)
    else:
        raise AecliError(f"weights {weights.name} hold a {weights.card.arch}, which does not denoise: pass other --weights")
    return Denoised(dataclasses.replace(picture, pixels=pixels), used, estimated=used is not None and sigma is None)


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


def _restore(
    pixels: np.ndarray, model: Denoiser, sigma: float | None, strength: float, tile: int, compute: Compute
) -> tuple[np.ndarray, float]:
    """(H, W, C) pixels → the restored ones and the noise level, tile by tile: no more than a tile is ever held as floats."""
    height, width = pixels.shape[:2]
    radius = model.blind_radius if sigma is None else model.receptive_radius
    overlap = min(MAX_OVERLAP, math.ceil(radius / model.stride) * model.stride)
    # A picture little larger than a tile costs less whole than in two tiles with their overlaps.
    tile = tile if max(height, width) > tile + 2 * overlap else tile + 2 * overlap
    result = np.empty_like(pixels)
    variance = 0.0  # summed over the pixels
    for rows, columns in tiles(height, width, tile, overlap):
        read = pixels[rows.read_start : rows.read_stop, columns.read_start : columns.read_stop]
        restored, levels = _run(read, model, sigma, compute)
        inside = (
            slice(rows.keep_start - rows.read_start, rows.keep_stop - rows.read_start),
            slice(columns.keep_start - columns.read_start, columns.keep_stop - columns.read_start),
        )
        kept = _blend(read[inside], restored[:, *inside], strength)
        result[rows.keep_start : rows.keep_stop, columns.keep_start : columns.keep_stop] = kept
        variance += float(levels[inside].double().square().sum())
    return result, 255 * math.sqrt(variance / (height * width)) if sigma is None else sigma


def _run(pixels: np.ndarray, model: Denoiser, sigma: float | None, compute: Compute) -> tuple[Tensor, Tensor]:
    """(h, w, C) pixels → restored (C, h, w) and noise levels (h, w), float32 in 0–1, not clipped."""
    # A grey picture goes in as three equal channels, as in training, and comes out as their mean.
    x = to_tensor(pixels).expand(3, -1, -1)[None].to(compute.device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), compute.autocast():
        levels = model.estimate(x).float() if sigma is None else torch.full_like(x[:, :1], sigma / 255)
        restored = model(x, levels)[0].float().cpu()
    return restored if pixels.shape[2] == 3 else restored.mean(dim=0, keepdim=True), levels[0, 0].cpu()


def _restore_patches(picture: Picture, weights: Weights, compute: Compute) -> Tensor:
    model = weights.model
    assert isinstance(model, FeatureAutoencoder)
    patches, grid = to_patches(to_tensor(picture.pixels), model.config, weights.name)
    return from_patches(in_batches(model, patches, compute), grid, channels=picture.pixels.shape[2])


def _blend(pixels: np.ndarray, restored: Tensor, strength: float) -> np.ndarray:
    largest = np.iinfo(pixels.dtype).max
    x = restored.permute(1, 2, 0).numpy() * largest
    if strength < 1:
        x = pixels + strength * (x - pixels)
    return np.clip(np.round(x), 0, largest).astype(pixels.dtype)
