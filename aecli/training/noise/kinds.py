"""Kinds of noise that photographs have, each a function of clean pictures and a strength.

After BSRGAN (Zhang et al. 2021) and SCUNet (Zhang et al. 2023), of whose degradations those are taken that leave the picture's
sharpness alone. `x`: clean pictures, (B, 3, H, W), 0–1; `strength`: 0–1, (B, 1, 1, 1); returned: noisy ones, not clipped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aecli.training.noise.camera import blurred, camera_noise
from aecli.training.noise.draws import normal, uniform
from aecli.training.noise.gaussian import to_8_bits
from aecli.training.noise.jpeg import jpeg

MAX_SIGMA = 60 / 255


def photon_noise(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Poisson-Gaussian: variance a · x + b², a from 1/2000 to 1/30 and b up to 10 grey levels (Foi et al. 2008)."""
    a = (2000 / 30) ** strength / 2000
    b = strength * 10 / 255
    return x + (a * x + b * b).sqrt() * normal(x, generator)


def varying_noise(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """White noise whose level changes smoothly over the picture, up to `strength` · 60 grey levels."""
    corners = strength * MAX_SIGMA * torch.rand(len(x), 1, 3, 3, generator=generator, device=generator.device)
    sigma = F.interpolate(corners, size=x.shape[-2:], mode="bilinear", align_corners=True)
    return x + sigma * normal(x, generator)


def speckle(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Multiplicative noise of standard deviation 0.03–0.4."""
    return x * (1 + (0.03 + 0.37 * strength) * normal(x, generator))


def salt_and_pepper(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """0.3–20 % of the values, or of the pixels, become black or white."""
    share = 0.003 + 0.197 * strength**2
    chance, value = torch.rand(2, *x.shape, generator=generator, device=generator.device)
    whole = uniform(x, generator) < 0.5
    chance, value = (torch.where(whole, v[:, :1], v) for v in (chance, value))
    return torch.where(chance < share, value.round(), x)


def compressed_noise(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of 4–50 grey levels, then JPEG of quality 50–95, with colours at full or half resolution."""
    noisy = to_8_bits(x + (4 + 46 * strength) / 255 * normal(x, generator))
    quality = uniform(x, generator, 50, 96).floor().view(-1)
    return jpeg(noisy, quality, uniform(x, generator).view(-1) < 0.5)


def film_grain(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Grain of scanned film, 2–30 grey levels: strongest in the mid-tones, about a pixel wide, mostly the same in all colours."""
    common, own = normal(x[:, :1], generator), normal(x, generator)
    colour = uniform(x, generator, 0.0, 0.7)
    sigma = uniform(x, generator, 0.3, 1.6)
    grain = blurred((1 - colour).sqrt() * common + colour.sqrt() * own, sigma)
    grain = grain / grain.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
    tones = 0.35 + 0.65 * 4 * x * (1 - x)
    return x + (2 + 28 * strength) / 255 * tones * grain


Kind = Callable[[Tensor, Tensor, torch.Generator], Tensor]

KINDS: tuple[Kind, ...] = (
    photon_noise,
    varying_noise,
    speckle,
    salt_and_pepper,
    compressed_noise,
    film_grain,
    camera_noise,
)
"""Each: clean (B, 3, H, W) in 0–1, strength (B, 1, 1, 1) in 0–1, generator on their device → noisy, not clipped."""
