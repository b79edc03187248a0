"""Noise that is added to clean pictures while training: the small models' `--noise` and the photograph denoiser's mixture."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from aecli.errors import UsageError


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of standard deviation `sigma` (pictures in 0–1), the result clipped to 0–1."""

    sigma: float

    def __str__(self) -> str:
        return f"gaussian:{self.sigma:g}"

    def add(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x: any shape, 0–1 → the same shape, 0–1."""
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        return (x + self.sigma * noise).clamp_(0, 1)


def parse_noise(text: str) -> Noise:
    """`gaussian:0.5` → Noise(0.5). Raises UsageError for anything else."""
    kind, _, amount = text.partition(":")
    try:
        sigma = float(amount)
    except ValueError:
        sigma = math.nan
    if kind != "gaussian" or not 0 < sigma < math.inf:
        raise UsageError(f"--noise {text} is not known: give gaussian and its standard deviation in 0–1, such as gaussian:0.5")
    return Noise(sigma)


# ------------------------------------------------------------------------------------------------------- photographs

MAX_SIGMA = 60 / 255
GAUSSIAN_SHARE = 0.8
TOLD_SHARE = 0.8  # of the Gaussian ones
AS_FILE_SHARE = 0.3  # of the Gaussian ones that are told; blind ones are what files hold
CLEAN_SHARE = 0.06  # of the Gaussian ones
RMS_WINDOW = 33  # pixels: the neighbourhood whose noise the estimator is asked for


class Degraded(NamedTuple):
    """noisy: (B, 3, H, W). sigma: the noise's standard deviation around each pixel, (B, 1, H, W). told: (B,) bool, whether the
    denoiser learns with this level rather than with its own estimate."""

    noisy: Tensor
    sigma: Tensor
    told: Tensor


def degrade(x: Tensor, generator: torch.Generator) -> Degraded:
    """A batch of clean photographs as the denoiser will meet them.

    White Gaussian noise on most, so that one model serves who knows the level and who does not; on the others what files hold
    besides: photon noise, noise that varies over the picture, speckle, dead pixels, noise that was compressed or demosaiced
    (the kinds of BSRGAN, Zhang et al. 2021, and SCUNet, Zhang et al. 2023, that leave the picture's sharpness alone). A grey
    picture, one whose three channels are equal, gets the same noise in all of them.

    Args:
        x: clean pictures, (B, 3, H, W), 0–1, on the CPU.
        generator: on the CPU.
    """
    parts = [_degrade_one(picture, generator) for picture in x]
    noisy, sigma, told = zip(*parts, strict=True)
    return Degraded(torch.stack(noisy), torch.stack(sigma), torch.tensor(told))


def add_gaussian(x: Tensor, sigma: float, generator: torch.Generator, *, as_file: bool) -> Tensor:
    """White Gaussian noise of standard deviation `sigma`, clipped and rounded to 8 bits where `as_file`; x: (C, H, W) in 0–1."""
    noisy = x + sigma * torch.randn(x.shape, generator=generator)
    return _as_file(noisy) if as_file else noisy


def _degrade_one(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, bool]:
    grey = bool((x[:1] == x).all())
    clean = x[:1] if grey else x
    if _uniform(generator) < GAUSSIAN_SHARE:
        told = _uniform(generator) < TOLD_SHARE
        sigma = 0.0 if _uniform(generator) < CLEAN_SHARE else _uniform(generator, 0, MAX_SIGMA)
        as_file = not told or _uniform(generator) < AS_FILE_SHARE
        noisy, level = add_gaussian(clean, sigma, generator, as_file=as_file), torch.full_like(x[:1], sigma)
    else:
        told = False
        kind = KINDS[int(_uniform(generator, 0, len(KINDS)))]
        damaged = kind(clean, _uniform(generator), generator)
        noisy, level = _as_file(damaged), _local_rms(damaged - clean)
    return noisy.expand(x.shape), level, told


def photon_noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Poisson-Gaussian: variance a · x + b², a from 1/2000 to 1/30 and b up to 10 grey levels."""
    a = (2000 / 30) ** strength / 2000
    b = strength * 10 / 255
    noise: Tensor = (a * x + b * b).sqrt() * torch.randn(x.shape, generator=generator)
    return x + noise


def varying_noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """White noise whose level changes smoothly over the picture, up to `strength` · 60 grey levels."""
    corners = strength * MAX_SIGMA * torch.rand(1, 1, 3, 3, generator=generator)
    sigma = F.interpolate(corners, size=x.shape[-2:], mode="bilinear", align_corners=True)[0]
    return x + sigma * torch.randn(x.shape, generator=generator)


def speckle(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiplicative noise of standard deviation 0.03–0.4."""
    return x * (1 + (0.03 + 0.37 * strength) * torch.randn(x.shape, generator=generator))


def salt_and_pepper(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """0.3–20 % of the values, or of the pixels, become black or white."""
    share = 0.003 + 0.197 * strength**2
    shape = x.shape if _uniform(generator) < 0.5 else (1, *x.shape[1:])
    hit = torch.rand(shape, generator=generator) < share
    return torch.where(hit, torch.rand(shape, generator=generator).round(), x)


def compressed_noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of 4–50 grey levels, then JPEG of quality 50–95, with colours at full or half resolution."""
    noisy = _as_file(x + (4 + 46 * strength) / 255 * torch.randn(x.shape, generator=generator))
    pixels = (noisy * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    subsampling = {"subsampling": "4:2:0" if _uniform(generator) < 0.5 else "4:4:4"} if image.mode == "RGB" else {}
    image.save(buffer, "JPEG", quality=int(_uniform(generator, 50, 96)), **subsampling)
    decoded = np.array(Image.open(buffer)).reshape(pixels.shape)
    return torch.from_numpy(decoded).permute(2, 0, 1).float() / 255


def demosaiced_noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Photon noise on a sensor's Bayer pattern in linear light, spread over the neighbours by bilinear demosaicing.

    Only the noise goes that way (the difference that it makes), so that the model learns to clean and not to sharpen.
    """
    if x.shape[0] == 1:
        return photon_noise(x, strength, generator)
    linear = x.clamp(0, 1) ** 2.2
    a = 0.0003 * 100**strength
    b = strength * 0.02
    noisy = linear + (a * linear + b * b).sqrt() * torch.randn(x.shape, generator=generator)
    before, after = (_demosaic(raw).clamp(1e-4, 1) ** (1 / 2.2) for raw in (linear, noisy))
    return x + after - before


KINDS: tuple[Callable[[Tensor, float, torch.Generator], Tensor], ...] = (
    photon_noise,
    varying_noise,
    speckle,
    salt_and_pepper,
    compressed_noise,
    demosaiced_noise,
)
"""Each: clean (C, H, W) in 0–1, strength 0–1, generator → noisy, not yet clipped."""


def _demosaic(linear: Tensor) -> Tensor:
    """Bayer pattern RGGB of (3, H, W), every missing value the mean of its neighbours."""
    mask = torch.zeros_like(linear)
    mask[0, 0::2, 0::2] = mask[2, 1::2, 1::2] = 1
    mask[1, 0::2, 1::2] = mask[1, 1::2, 0::2] = 1
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]).expand(3, 1, 3, 3)
    total, weight = (F.conv2d(v[None], kernel, padding=1, groups=3)[0] for v in (linear * mask, mask))
    return torch.where(mask > 0, linear, total / weight)


def _local_rms(noise: Tensor) -> Tensor:
    """Root mean square of (C, H, W) around every pixel, (1, H, W)."""
    square = noise.square().mean(dim=0, keepdim=True)[None]
    for window in ((RMS_WINDOW, 1), (1, RMS_WINDOW)):  # one after the other the same mean, for a fraction of the time
        square = F.avg_pool2d(square, window, stride=1, padding=tuple(n // 2 for n in window), count_include_pad=False)
    return square.sqrt()[0]


def _as_file(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round() / 255


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()
