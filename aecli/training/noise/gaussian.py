"""White Gaussian noise: the small models' `--noise`, and what photographs are validated with."""

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


def add_gaussian(x: Tensor, sigma: float | Tensor, generator: torch.Generator, *, as_file: bool) -> Tensor:
    """White Gaussian noise of standard deviation `sigma`, clipped and rounded to 8 bits where `as_file`; x: any shape, 0–1."""
    noisy = x + sigma * torch.randn(x.shape, generator=generator, device=generator.device)
    return to_8_bits(noisy) if as_file else noisy


def to_8_bits(x: Tensor) -> Tensor:
    """What a file of 8 bits a channel keeps: any shape → the same shape, multiples of 1/255 in 0–1."""
    return (x.clamp(0, 1) * 255).round() / 255
