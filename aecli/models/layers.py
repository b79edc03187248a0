"""Building blocks shared by the architectures: residual blocks, changes of resolution, layers kept in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Float32Conv2d(nn.Conv2d):
    """A convolution that stays in float32 under autocast, for the ends of a network, where bfloat16's 8 bits would show."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class HeadConv2d(Float32Conv2d):
    """A first layer: computed in float32, handed on in the precision that autocast asks for, so that all after it stays cheap."""

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        y = super().forward(x)
        return y.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else y


class ResidualBlock(nn.Module):
    """conv 3×3, ReLU, conv 3×3, plus the input (EDSR's block: no normalisation). (B, C, H, W) → the same shape.

    slope: of the activation below zero: 0 is a ReLU, whose units, once they are never positive, stop learning.
    """

    def __init__(self, channels: int, *, bias: bool, slope: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=bias),
            nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """conv 1×1 to half the channels, conv 3×3, conv 1×1 back, plus the input (as in ELIC, He et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.body = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


def stack(block: type[nn.Module], channels: int, count: int) -> nn.Sequential:
    """`count` blocks of one kind in a row."""
    return nn.Sequential(*(block(channels) for _ in range(count)))


def upsample(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Sequential:
    """Twice the height and width: conv 1×1 to four times the channels, then pixel shuffle (Shi et al. 2016)."""
    return nn.Sequential(nn.Conv2d(in_channels, 4 * out_channels, 1, bias=bias), nn.PixelShuffle(2))


def ste_round(x: Tensor) -> Tensor:
    """Rounding whose gradient is one (the straight-through estimator, Bengio et al. 2013)."""
    return x + (x.round() - x).detach()
