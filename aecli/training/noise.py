"""Noise that is added to clean pictures while training: the small models' `--noise` and the photograph denoiser's mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
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


def photograph_noise(x: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """White Gaussian noise on a batch of photographs, as files hold it and as papers define it.

    Half of the pictures are clipped to 0–1 and rounded to 8 bits afterwards (a model that never saw that loses 0.5–1.3 dB
    on real files), the others are not. A grey picture, one whose three channels are equal, gets the same noise in all.

    Args:
        x: clean pictures, (B, 3, H, W), 0–1.
        sigma: standard deviation for each, (B,), in the same unit.
        generator: on the CPU.
    """
    B = x.shape[0]
    noise = torch.randn(x.shape, generator=generator)
    grey = (x[:, :1] == x).flatten(1).all(dim=1)
    noise[grey] = noise[grey, :1].expand(-1, 3, -1, -1)
    noisy = x + sigma.view(B, 1, 1, 1) * noise
    as_file = torch.rand(B, generator=generator) < 0.5
    noisy[as_file] = (noisy[as_file].clamp(0, 1) * 255).round() / 255
    return noisy
