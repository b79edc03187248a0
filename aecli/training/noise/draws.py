"""Random numbers for batches of pictures, one draw a picture."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(x: Tensor, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
    """A number from low to high for each picture of (B, …): (B, 1, 1, 1), on the generator's device."""
    return low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=generator, device=generator.device)


def normal(x: Tensor, generator: torch.Generator) -> Tensor:
    """White Gaussian noise of standard deviation one, in the shape of x."""
    return torch.randn(x.shape, generator=generator, device=generator.device)
