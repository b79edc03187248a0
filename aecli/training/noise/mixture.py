"""The photograph denoiser's training noise: which share of a batch gets which kind, and what the denoiser is asked for."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aecli.training.noise.camera import camera_noise, resampled
from aecli.training.noise.draws import uniform
from aecli.training.noise.gaussian import add_gaussian, to_8_bits
from aecli.training.noise.jpeg import jpeg
from aecli.training.noise.kinds import KINDS, MAX_SIGMA

AS_FILE_SHARE = 0.3  # of the white noise whose level is told; blind pictures are what files hold
GREY_NOISE_SHARE = 0.75  # of grey pictures; a scan or a photograph of something grey has noise in colours
TOLD_CAMERA_SHARE = 0.25
SOFT_SHARE = 0.5  # of pictures with camera noise: enlarged, as a camera's own pixels show less detail than reduced photographs
WEAK_CAMERA_NOISE = 1.5  # power of the strength: most photographs have little noise
JPEG_SHARE = 0.85  # of pictures with camera noise
TWICE_JPEG_SHARE = 0.2
RMS_WINDOW = 33  # pixels: the neighbourhood whose noise the estimator is asked for
# Below about this level JPEG artefacts stay in the target, as they do in pictures without noise.
ARTEFACTS_KEPT = 2 / 255


@dataclass(frozen=True)
class Mixture:
    """Shares of a batch, which sum to one.

    excess: told a higher level than the noise has, as by a user who wants more removed.
    """

    told_white: float
    blind_white: float
    camera: float
    other: float
    clean: float
    excess: float


PHOTOGRAPHS = Mixture(told_white=0.42, blind_white=0.12, camera=0.24, other=0.09, clean=0.05, excess=0.08)
DRAWINGS = Mixture(told_white=0.08, blind_white=0.17, camera=0.20, other=0.08, clean=0.42, excess=0.05)


class Degraded(NamedTuple):
    """A batch as the denoiser meets it.

    noisy: (B, 3, H, W), within 0–1 where it is a file's. clean: what to make of it, (B, 3, H, W): the picture given, or with
    the JPEG artefacts of a picture that has hardly any noise. sigma: the noise's standard deviation around each pixel,
    (B, 1, H, W). told: the level that the user tells, (B, 1, 1, 1); NaN where the denoiser is left to its own estimate.
    excess: whether that is more than the noise has, (B,) bool.
    """

    noisy: Tensor
    clean: Tensor
    sigma: Tensor
    told: Tensor
    excess: Tensor


def degrade(x: Tensor, generator: torch.Generator, mixture: Mixture = PHOTOGRAPHS) -> Degraded:
    """A batch of clean pictures as the denoiser will meet them.

    White Gaussian noise on many, so that one model serves who knows the level and who does not; camera noise and the other
    `KINDS` on the rest. A grey picture, one whose three channels are equal, mostly gets the same noise in all of them.

    Args:
        x: clean pictures, (B, 3, H, W), 0–1, in random order: the shares are those of its parts.
        generator: on the device of x.
        mixture: the shares; they hold in every batch, to within one picture.
    """
    makers = (_told_white, _blind_white, _camera, _other, _clean, _excess)
    parts = [make(x[part], generator) for make, part in zip(makers, _parts(len(x), mixture, generator), strict=True)]
    whole = Degraded(*(torch.cat(field) for field in zip(*(p for p in parts if len(p.noisy)), strict=True)))
    return whole._replace(noisy=_grey_where_grey(whole.noisy, x, generator))


def _parts(count: int, mixture: Mixture, generator: torch.Generator) -> list[slice]:
    """Consecutive parts of a batch, each share rounded so that it holds on average."""
    offset = float(torch.rand((), generator=generator, device=generator.device))
    bounds, total = [0], 0.0
    for share in astuple(mixture):
        total += share
        bounds.append(int(total * count + offset))
    bounds[-1] = count
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _grey_where_grey(noisy: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    grey = (x[:, :1] == x).flatten(1).all(dim=1).view(-1, 1, 1, 1) & (uniform(x, generator) < GREY_NOISE_SHARE)
    return torch.where(grey, noisy[:, 1:2], noisy)


def _white(x: Tensor, sigma: Tensor, generator: torch.Generator, as_file: Tensor) -> Degraded:
    noisy = add_gaussian(x, sigma, generator, as_file=False)
    return _degraded(torch.where(as_file, to_8_bits(noisy), noisy), x, sigma)


def _degraded(noisy: Tensor, clean: Tensor, sigma: Tensor) -> Degraded:
    """Nothing told; sigma: (B, 1, 1, 1) or (B, 1, H, W)."""
    told = torch.full((len(clean), 1, 1, 1), torch.nan, device=clean.device)
    excess = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
    return Degraded(noisy, clean, sigma.expand(-1, 1, *clean.shape[2:]), told, excess)


def _told_white(x: Tensor, generator: torch.Generator) -> Degraded:
    sigma = uniform(x, generator, 0, MAX_SIGMA)
    return _white(x, sigma, generator, uniform(x, generator) < AS_FILE_SHARE)._replace(told=sigma)


def _blind_white(x: Tensor, generator: torch.Generator) -> Degraded:
    return _white(x, uniform(x, generator, 0, MAX_SIGMA), generator, torch.ones(len(x), 1, 1, 1, dtype=torch.bool, device=x.device))


def _camera(x: Tensor, generator: torch.Generator) -> Degraded:
    if not len(x):
        return _clean(x, generator)
    enlarged = torch.where(uniform(x, generator) < SOFT_SHARE, uniform(x, generator, 1.0, 2.5), 1.0)
    x = to_8_bits(resampled(x, 1 / enlarged))
    noisy = to_8_bits(camera_noise(x, uniform(x, generator) ** WEAK_CAMERA_NOISE, generator))
    is_jpeg = uniform(x, generator) < JPEG_SHARE
    before, after = _photographed(torch.cat([x, noisy]), generator).chunk(2)
    plain, noisy = torch.where(is_jpeg, before, x), torch.where(is_jpeg, after, noisy)
    sigma = local_rms(noisy - plain)
    level = sigma.square().mean(dim=(2, 3), keepdim=True).sqrt()
    clean = torch.lerp(x, plain, 1 / (1 + (level / ARTEFACTS_KEPT) ** 2))
    told = torch.where(uniform(x, generator) < TOLD_CAMERA_SHARE, level, torch.nan)
    return _degraded(noisy, clean, sigma)._replace(told=told)


def _photographed(pairs: Tensor, generator: torch.Generator) -> Tensor:
    """Saved as JPEG of quality 60–99, some once before at another place of its blocks; both halves of a batch alike."""

    def both(value: Tensor) -> Tensor:
        return torch.cat([value, value])

    half = pairs[: len(pairs) // 2]
    rows, columns = (int(n) for n in torch.randint(0, 16, (2,), generator=generator, device=generator.device))
    subsampled = both(uniform(half, generator).view(-1) < 0.5)
    first, second = (both(uniform(half, generator, 60, 100).floor().view(-1)) for _ in range(2))
    shifted = jpeg(pairs.roll((rows, columns), (2, 3)), first, subsampled).roll((-rows, -columns), (2, 3))
    twice = both(uniform(half, generator) < TWICE_JPEG_SHARE)
    return jpeg(torch.where(twice, shifted, pairs), second, subsampled)


def _other(x: Tensor, generator: torch.Generator) -> Degraded:
    """The other kinds of noise in turn, from a random one on."""
    if not len(x):
        return _clean(x, generator)
    kinds = [kind for kind in KINDS if kind is not camera_noise]
    start = int(torch.randint(0, len(kinds), (), generator=generator, device=generator.device))
    turns = range(min(len(x), len(kinds)))
    parts = [(x[n :: len(kinds)], kinds[(start + n) % len(kinds)]) for n in turns]
    clean = torch.cat([part for part, _ in parts])
    damaged = torch.cat([kind(part, uniform(part, generator), generator) for part, kind in parts])
    return _restored_order(_degraded(to_8_bits(damaged), clean, local_rms(damaged - clean)), len(x), len(kinds))


def _restored_order(parts: Degraded, count: int, kinds: int) -> Degraded:
    """Pictures that were taken by every `kinds`th, back in their places."""
    taken = [index for n in range(min(count, kinds)) for index in range(n, count, kinds)]
    order = torch.tensor(taken).argsort().to(parts.noisy.device)
    return Degraded(*(field[order] for field in parts))


def _clean(x: Tensor, generator: torch.Generator) -> Degraded:
    """As they are, or as JPEG of quality 60–98, which is to be left alone as well."""
    quality = uniform(x, generator, 60, 99).floor().view(-1)
    saved = jpeg(to_8_bits(x), quality, uniform(x, generator).view(-1) < 0.5) if len(x) else x
    plain = torch.where(uniform(x, generator) < 0.5, saved, x)
    return _degraded(plain, plain, torch.zeros(len(x), 1, 1, 1, device=x.device))


def _excess(x: Tensor, generator: torch.Generator) -> Degraded:
    """White and camera noise in equal parts, told up to MAX_SIGMA."""
    middle = len(x) // 2 + int(torch.rand((), generator=generator, device=generator.device) < 0.5) * (len(x) % 2)
    parts = [make(part, generator) for make, part in ((_camera, x[:middle]), (_blind_white, x[middle:]))]
    both = Degraded(*(torch.cat(field) for field in zip(*parts, strict=True)))
    level = both.sigma.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp(max=MAX_SIGMA)
    told = torch.lerp(level, torch.full_like(level, MAX_SIGMA), uniform(x, generator))
    return both._replace(told=told, excess=torch.ones_like(both.excess))


def local_rms(noise: Tensor) -> Tensor:
    """Root mean square around every pixel: (B, C, H, W) → (B, 1, H, W)."""
    square = noise.square().mean(dim=1, keepdim=True)
    for window in ((RMS_WINDOW, 1), (1, RMS_WINDOW)):  # one after the other the same mean, for a fraction of the time
        square = F.avg_pool2d(square, window, stride=1, padding=tuple(n // 2 for n in window), count_include_pad=False)
    return square.sqrt()
