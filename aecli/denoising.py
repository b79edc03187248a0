"""Picture in, picture out: noise estimate, tiles, network, blend."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aecli.device import Compute, one_thread
from aecli.errors import AecliError, UsageError
from aecli.images import Picture
from aecli.models import FeatureAutoencoder
from aecli.models.denoiser import Denoiser
from aecli.patches import call_size, from_patches, goes_together, to_patches, to_tensor, together
from aecli.tiling import tiles
from aecli.weights import Weights

TILE = 1024
# The receptive field is larger, but nothing farther away than this moves a result by 0.1 grey levels (0.02 in noise of 15, 0.08
# in noise of 50), and reading it for every tile would cost half of the time again.
MAX_OVERLAP = 64
# Several pictures of up to so many pixels take less time in one call of the denoiser than one after the other (measured on one
# thread: 3.1 × less at 32×32, 1.6 × at 64×64, 1.15 × at 128×128, nothing beyond). A call always has one size, and one thread:
# see `together`.
SMALL_PIXELS = 64 * 64
SHORTEST = 64  # side of a narrow picture that still counts: below it a call of the network costs more than its pixels


UNLIKE_SIGMA = 60  # grey levels: no photograph is so noisy all over
MAX_STRENGTH = 2.0
# A photograph has thousands of colours, and one with noise more still. What has so few is bilevel, drawn or dithered, and what
# looks like noise there is not.
FEW_COLOURS = 16
FEWEST_PIXELS = 256  # that tell something about the number of colours


@dataclasses.dataclass(frozen=True)
class Denoised:
    """A cleaned picture, and what is said of it.

    sigma: the noise level that was told, in grey levels of 255; where it was estimated, the root mean square of what strength 1
    removes, over all that alpha does not hide: what a person sees go. None of a feature autoencoder. colours: how many a picture
    has that was left as it is for having so few. unlike: whether the picture is unlike the training data, and its result doubtful.
    """

    picture: Picture
    sigma: float | None
    estimated: bool
    colours: int | None = None
    unlike: bool = False


def denoise_picture(
    picture: Picture, weights: Weights, compute: Compute, *, sigma: float | None = None, strength: float = 1.0, tile: int = TILE
) -> Denoised:
    """Clean a picture; depth, alpha, metadata, and the colour where alpha is 0, stay as they are.

    The network never sees that colour: it would smear into what is visible.

    Args:
        picture: any size; uint8 or uint16.
        weights: a photograph denoiser, or a feature autoencoder trained on noisy pictures.
        compute: where to run.
        sigma: standard deviation of the noise in grey levels of 255, 0 or more; None estimates it, for every place of its own.
            Feature autoencoders have learned one noise level and take no other.
        strength: up to 1 the share of the correction that is applied; 0 gives the input back, bit for bit. Above 1, up to 2,
            what the noise level is multiplied by: more is removed.
        tile: side, in pixels, of the parts that a photograph is worked on in: memory against time.

    Raises:
        UsageError: sigma or strength out of range, or sigma with weights that cannot use it.
        AecliError: weights that do not denoise, or a picture too small for them.
    """
    if small_size(picture, weights) is not None:
        return denoise_small([picture], weights, compute, sigma=sigma, strength=strength)[0]
    check_options(weights, sigma, strength)
    if isinstance(weights.model, FeatureAutoencoder):
        return _restore_patches([picture], weights, compute, strength)[0]
    if not isinstance(weights.model, Denoiser):
        raise AecliError(f"weights {weights.name} hold a {weights.card.arch}, which does not denoise: pass other --weights")
    if sigma == 0:
        return Denoised(picture, 0.0, estimated=False)
    if sigma is None and (left := _left_alone(picture)):
        return left
    pixels, used = _restore(_channels(picture), _visible(picture), weights.model, sigma, strength, tile, compute)
    return _denoised(picture, pixels, used, estimated=sigma is None)


def small_size(picture: Picture, weights: Weights) -> tuple[int, int] | None:
    """(height, width) of a picture that `denoise_small` takes, together with others of that size; None for any other."""
    height, width = picture.pixels.shape[:2]
    if isinstance(weights.model, FeatureAutoencoder):
        small = goes_together(height, width, weights.model)
    else:
        small = isinstance(weights.model, Denoiser) and height * width <= SMALL_PIXELS
    return (height, width) if small else None


def denoise_small(
    pictures: Sequence[Picture], weights: Weights, compute: Compute, *, sigma: float | None = None, strength: float = 1.0
) -> list[Denoised]:
    """What `denoise_picture` gives for each of several pictures of one `small_size`, in less time. Raises what it raises."""
    check_options(weights, sigma, strength)
    if isinstance(weights.model, FeatureAutoencoder):
        return _restore_patches(pictures, weights, compute, strength)
    assert isinstance(weights.model, Denoiser)
    if sigma == 0:
        return [Denoised(picture, 0.0, estimated=False) for picture in pictures]
    height, width = pictures[0].pixels.shape[:2]
    count = call_size(height, width)
    # At the end stay 64 of the noise levels, one for 4×4 pixels, empty, unless vectors of them fit: see `together`.
    spare = 0 if height % 32 == width % 32 == 0 else math.ceil(64 * 4 * 4 / (height * width))
    results = []
    for start in range(0, len(pictures), count):
        part = pictures[start : start + count]
        x, told = torch.zeros(count + spare, 3, height, width), torch.zeros(count + spare)
        for row, picture in enumerate(part):
            white = white_level(picture.pixels)
            told[row] = _level_of(sigma or 0.0, picture.pixels, white)
            visible = _visible(picture)
            filled = _without_hidden(_channels(picture), visible, white).expand(3, -1, -1)
            if not visible.all():
                level = float(told[row]) if sigma is not None else _visible_level([(filled, visible)], weights.model, compute)
                filled = _with_noise_where_hidden(filled, visible, level)
            x[row] = filled
        with one_thread():
            restored, removed = _run(x, weights.model, None if sigma is None else told, strength, compute)
        results += [_small_result(*given, sigma, strength) for given in zip(part, restored, removed, strict=False)]
    return results


def _small_result(picture: Picture, restored: Tensor, removed: Tensor, sigma: float | None, strength: float) -> Denoised:
    if sigma is None and (left := _left_alone(picture)):
        return left
    visible, white = _visible(picture), white_level(picture.pixels)
    pixels = _blend(_channels(picture), visible, restored, strength, white)
    used = sigma if sigma is not None else _grey_levels(_sum_of_squares(removed, visible), visible, picture.pixels, white)
    return _denoised(picture, pixels, used, estimated=sigma is None)


def _denoised(picture: Picture, pixels: np.ndarray, sigma: float, *, estimated: bool) -> Denoised:
    """pixels: the result, (H, W, C), or (H, W, 1) of a picture whose channels are equal."""
    if pixels.shape != picture.pixels.shape:
        pixels = np.where(_visible(picture)[..., None], pixels, picture.pixels)
    unlike = estimated and sigma * np.iinfo(pixels.dtype).max > UNLIKE_SIGMA * white_level(picture.pixels)
    return Denoised(dataclasses.replace(picture, pixels=pixels), sigma, estimated=estimated, unlike=bool(unlike))


def _channels(picture: Picture) -> np.ndarray:
    """The pixels, (H, W, C), or one channel of a picture without colour: what is grey stays grey."""
    return picture.pixels[..., :1] if picture.is_grey else picture.pixels


def white_level(pixels: np.ndarray) -> int:
    """The largest value that pixels may have: of 16 bits, the least number of bits that holds them, as cameras of 10 to 14 bits
    leave the upper ones empty."""
    if pixels.dtype == np.uint8:
        return 255
    return (1 << max(8, int(pixels.max(initial=0)).bit_length())) - 1


def _left_alone(picture: Picture) -> Denoised | None:
    """The picture as it is, if it has too few visible colours for a photograph, and is large enough to tell."""
    seen = picture.pixels[_visible(picture)]  # (n, C)
    most = FEW_COLOURS if len(seen) >= FEWEST_PIXELS else 1
    if len(_colours(seen[:: max(1, len(seen) // 4096)])) > most:
        return None
    count = len(_colours(seen))
    return Denoised(picture, 0.0, estimated=True, colours=count, unlike=count > 1) if 0 < count <= most else None


def _colours(pixels: np.ndarray) -> np.ndarray:
    """The distinct values of (n, C), each packed into one number."""
    packed = np.zeros(len(pixels), dtype=np.uint64)
    for channel in pixels.T:
        packed = (packed << np.uint64(16)) | channel
    return np.unique(packed)


def _visible(picture: Picture) -> np.ndarray:
    """(H, W) bool: what alpha does not hide."""
    return np.broadcast_to(True, picture.pixels.shape[:2]) if picture.alpha is None else picture.alpha > 0


def check_options(weights: Weights, sigma: float | None, strength: float) -> None:
    """What `denoise_picture` refuses whatever the picture. Raises UsageError."""
    if sigma is not None and not 0 <= sigma <= 255:
        raise UsageError(f"--sigma {sigma:g} is out of range: give 0 to 255, in grey levels")
    if not 0 <= strength <= MAX_STRENGTH:
        raise UsageError(f"--strength {strength:g} is out of range: give 0 to {MAX_STRENGTH:g}")
    if weights.card.task != "denoise":
        raise UsageError(f"weights {weights.name} are for another task ({weights.card.task}): pass weights trained to denoise")
    if sigma is not None and isinstance(weights.model, FeatureAutoencoder):
        raise UsageError(f"weights {weights.name} know one noise level only ({weights.card.noise}): leave --sigma out")


def _restore(
    pixels: np.ndarray, visible: np.ndarray, model: Denoiser, sigma: float | None, strength: float, tile: int, compute: Compute
) -> tuple[np.ndarray, float]:
    """(H, W, C) pixels → the restored ones and the noise level, tile by tile: no more than a tile is ever held as floats."""
    height, width = pixels.shape[:2]
    radius = model.blind_radius if sigma is None else model.receptive_radius
    overlap = min(MAX_OVERLAP, math.ceil(radius / model.stride) * model.stride)
    tile *= max(1, tile // max(min(height, width), SHORTEST))  # narrow pictures are cut into longer parts, of as many pixels
    # A picture little larger than a tile costs less whole than in two tiles with their overlaps.
    tile = tile if max(height, width) > tile + 2 * overlap else tile + 2 * overlap
    result = pixels.copy()
    white = white_level(pixels)
    told = None if sigma is None else torch.tensor([_level_of(sigma, pixels, white)])
    squares = 0.0  # of what is removed, summed over the visible pixels

    def shown(read: tuple[slice, slice]) -> Tensor:
        """What the network sees of a part, (3, h, w); a grey picture goes in as three equal channels, as in training."""
        return _without_hidden(pixels[read], visible[read], white).expand(3, -1, -1)

    level = 0.0
    if not visible.all():
        cuts = (
            (rows.read, columns.read)
            for rows, columns in tiles(height, width, tile, overlap)
            if visible[rows.kept, columns.kept].any()
        )
        level = _visible_level(((shown(cut), visible[cut]) for cut in cuts), model, compute) if told is None else float(told)
    for rows, columns in tiles(height, width, tile, overlap):
        kept, read, inside = (rows.kept, columns.kept), (rows.read, columns.read), (rows.kept_of_read, columns.kept_of_read)
        if not visible[kept].any():
            continue
        x = _with_noise_where_hidden(shown(read), visible[read], level, (rows.read_start, columns.read_start))
        restored, removed = _run(x[None], model, told, strength, compute)
        result[kept] = _blend(pixels[kept], visible[kept], restored[0][:, *inside], strength, white)
        squares += _sum_of_squares(removed[0][inside], visible[kept])
    return result, _grey_levels(squares, visible, pixels, white) if sigma is None else sigma


def _run(x: Tensor, model: Denoiser, told: Tensor | None, strength: float, compute: Compute) -> tuple[Tensor, Tensor]:
    """(B, 3, h, w) in 0–1, told levels (B,) or None → restored (B, 3, h, w), not clipped, and the root mean square of what that
    takes from each pixel's channels, (B, h, w); float32."""
    moved = x.to(compute.device).contiguous(memory_format=compute.layout)
    with torch.inference_mode(), compute.autocast():
        levels = model.blind_level(moved) if told is None else told.to(moved.device).view(-1, 1, 1, 1)
        restored = model(moved, levels.expand_as(moved[:, :1]) * max(1.0, strength)).float().cpu()
    return restored, (x - restored.clamp(0, 1)).square().mean(dim=1).sqrt()


def _visible_level(parts: Iterable[tuple[Tensor, np.ndarray]], model: Denoiser, compute: Compute) -> float:
    """The root mean square of the noise that is estimated where parts, (3, h, w) in 0–1, are visible, (h, w)."""
    squares, count = 0.0, 0
    for x, visible in parts:
        moved = x[None].to(compute.device).contiguous(memory_format=compute.layout)
        with torch.inference_mode(), compute.autocast():
            levels = model.estimate(moved)[0, 0].float().cpu()
        squares, count = squares + _sum_of_squares(levels, visible), count + int(np.count_nonzero(visible))
    return math.sqrt(squares / max(1, count))


def _with_noise_where_hidden(x: Tensor, visible: np.ndarray, level: float, place: tuple[int, int] = (0, 0)) -> Tensor:
    """The same noise where (3, h, w) is hidden as where it is visible: a smooth ground beside it would count as the picture.

    place: of the part in the picture; the noise of a pixel does not depend on how the picture is cut.
    """
    if visible.all() or not level:
        return x
    side = 256
    texture = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    rows, columns = (torch.arange(start, start + length) % side for start, length in zip(place, visible.shape, strict=True))
    noisy = (x + level * texture[:, rows[:, None], columns]).clamp(0, 1)
    return torch.where(torch.from_numpy(np.ascontiguousarray(visible)), x, noisy)


def _level_of(sigma: float, pixels: np.ndarray, white: int) -> float:
    """A noise level in grey levels of 255 of the pixels' type, as a share of the range that is used."""
    return sigma / 255 * np.iinfo(pixels.dtype).max / white


def _sum_of_squares(values: Tensor, visible: np.ndarray) -> float:
    return float(np.square(values.numpy()[visible], dtype=np.float64).sum())


def _grey_levels(squares: float, visible: np.ndarray, pixels: np.ndarray, white: int) -> float:
    """The root mean square of values whose squares sum to that over all visible pixels, in grey levels of 255."""
    level = math.sqrt(squares / max(1, int(np.count_nonzero(visible))))
    return float(255 * level * white / np.iinfo(pixels.dtype).max)


def _restore_patches(pictures: Sequence[Picture], weights: Weights, compute: Compute, strength: float) -> list[Denoised]:
    """By a feature autoencoder; pictures of one size."""
    model = weights.model
    assert isinstance(model, FeatureAutoencoder)
    white = np.iinfo(pictures[0].pixels.dtype).max
    cut = [to_patches(_without_hidden(p.pixels, _visible(p), white), model.config, weights.name) for p in pictures]
    restored = together(model, [patches for patches, _ in cut], compute, model)
    results = []
    for picture, (_, grid), patches in zip(pictures, cut, restored, strict=True):
        x = from_patches(patches, grid, channels=picture.pixels.shape[2])
        pixels = _blend(picture.pixels, _visible(picture), x, strength, np.iinfo(picture.pixels.dtype).max)
        results.append(Denoised(dataclasses.replace(picture, pixels=pixels), None, estimated=False))
    return results


def _without_hidden(pixels: np.ndarray, visible: np.ndarray, white: int) -> Tensor:
    """(h, w, C) pixels up to white → (C, h, w) float32 in 0–1, with colours of the surroundings where they are hidden."""
    x = to_tensor(pixels) * (np.iinfo(pixels.dtype).max / white)
    return x if visible.all() else _filled(x[None], torch.from_numpy(visible)[None, None])[0]


def _filled(x: Tensor, visible: Tensor) -> Tensor:
    """Push and pull (Gortler et al. 1996): means of what is visible, over ever larger cells, fill what is not.

    Args:
        x: (1, C, h, w).
        visible: (1, 1, h, w), bool.
    """
    height, width = x.shape[-2:]
    if visible.all() or height == width == 1:
        return x
    share = F.avg_pool2d(visible.float(), 2, ceil_mode=True)
    means = F.avg_pool2d(x * visible, 2, ceil_mode=True) / share.clamp_min(1 / 8)  # 1/4 is the least above 0
    coarse = F.interpolate(_filled(means, share > 0), scale_factor=2, mode="bilinear")
    return torch.where(visible, x, coarse[..., :height, :width])


def _blend(pixels: np.ndarray, visible: np.ndarray, restored: Tensor, strength: float, white: int) -> np.ndarray:
    """Restored (3, h, w), or (C, h, w), to pixels (h, w, C) up to white; one of grey is the mean of three channels."""
    if pixels.shape[2] == 1:
        restored = restored.mean(dim=0, keepdim=True)
    x = restored.permute(1, 2, 0).numpy() * white
    if strength < 1:
        x = pixels + strength * (x - pixels)
    return np.where(visible[..., None], np.clip(np.round(x), 0, white).astype(pixels.dtype), pixels)
