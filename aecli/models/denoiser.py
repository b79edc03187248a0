"""The photograph denoiser: a bias-free residual U-Net on pixel-unshuffled input, and what tells it the noise level."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aecli.models.layers import Float32Conv2d, HeadConv2d, ResidualBlock, upsample

# Of the levels that a denoiser is given where nothing is told. It sees better than its estimator what is noise: given a little
# more than there is, it removes weak noise of cameras that the estimator misses, and leaves what is clean. Noise above the
# highest did not occur in training. Training gives the estimate as it is:
# with the lower bound, a told level of 6 came to mean no noise.
LEAST_BLIND, MOST_BLIND = 6 / 255, 80 / 255


@dataclass(frozen=True)
class DenoiserConfig:
    """widths: channels at 1/2, 1/4, 1/8 … of the resolution; blocks: residual blocks a level on the way down and up.

    estimator: channels of the network that estimates the noise. slope: of the activations below zero; local_mean: whether the
    head sees the mean of the neighbourhood apart. As they stand here the two are those of weights that do not name them;
    training from scratch takes others, as so many units die otherwise (weights/TRAINING.md).
    """

    widths: tuple[int, ...] = (64, 128, 256)
    blocks: int = 2
    estimator: int = 64
    slope: float = 0.0
    local_mean: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if not 0 <= self.slope < 1:
            raise ValueError("slope is not from 0 to 1")


class Denoiser(nn.Module):
    """Residual U-Net with a noise-level map.

    ``x, sigma → unshuffle ×2 → head → [blocks, down]* → blocks → [up, + skip, blocks]* → tail → shuffle ×2 → x − noise``

    The noise-level map and the work at half resolution are FFDNet's (Zhang et al. 2018), the U-Net is DRUNet's (Zhang et
    al. 2021); without biases the network is homogeneous of degree one, so it goes on working at noise levels it was not
    trained on (Mohan et al. 2020): around black, or around mid-grey with `local_mean`.

    With that, the head sees what differs from the mean of the neighbourhood, and that mean apart. At a coarse scale brightness
    is far larger than what varies, and without biases it decides what a unit sees: given as it is, it drives units there so far
    below zero that they are never active again. For the same reason activations may leak, and blocks begin as the identity.
    """

    Config = DenoiserConfig

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        widths, blocks, slope = config.widths, config.blocks, config.slope
        top, bottom = widths[0], widths[-1]
        self.head = HeadConv2d(4 * 3 + 3 * config.local_mean + 1, top, 3, padding=1, bias=False)
        self.down_blocks = nn.ModuleList(_blocks(w, blocks, slope) for w in widths[:-1])
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in pairwise(widths))
        self.middle = _blocks(bottom, 2 * blocks, slope)
        self.ups = nn.ModuleList(upsample(b, a, bias=False) for a, b in reversed(list(pairwise(widths))))
        self.up_blocks = nn.ModuleList(_blocks(w, blocks, slope) for w in reversed(widths[:-1]))
        self.tail = Float32Conv2d(top, 4 * 3, 3, padding=1, bias=False)
        self.estimator = NoiseEstimator(config.estimator)
        for module in (*self.ups, self.tail):  # one convolution each
            nn.init.zeros_(next(module.parameters()))

    @property
    def stride(self) -> int:
        """Heights and widths must be multiples of this; `forward` pads."""
        return 1 << len(self.config.widths)

    @property
    def receptive_radius(self) -> int:
        """How far, in pixels, the output depends on the input: tiles that overlap by this much equal the whole picture."""
        levels = len(self.config.widths)
        radius = 2 + 2  # head and tail at half resolution
        radius += 3 * self.stride if self.config.local_mean else 0
        for level in range(levels):
            per_level = 2 * self.config.blocks  # pixels of its own resolution, a 3×3 convolution adds one
            radius += 2 * per_level * 2 ** (level + 1)
        return radius + self.stride

    @property
    def blind_radius(self) -> int:
        """The same where the noise level is estimated too."""
        return self.receptive_radius + self.estimator.receptive_radius

    def estimate(self, x: Tensor) -> Tensor:
        """The noise level at every pixel: pictures (B, 3, H, W) in 0–1 → standard deviations in the same unit, (B, 1, H, W)."""
        H, W = x.shape[-2:]
        sigma = self.estimator(pad_to_multiple(x, self.estimator.stride))
        return F.interpolate(sigma, scale_factor=self.estimator.stride, mode="nearest")[..., :H, :W]

    def blind_level(self, x: Tensor) -> Tensor:
        """What to give `forward` as the noise level where nothing is told: the estimate within bounds, (B, 1, H, W), float32."""
        return self.estimate(x).float().clamp(LEAST_BLIND, MOST_BLIND)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The clean picture.

        Args:
            x: noisy pictures, (B, 3, H, W), 0–1, any H and W.
            sigma: standard deviation of the noise in the same unit, (B,) or a map (B, 1, H, W).
        """
        H, W = x.shape[-2:]
        padded = pad_to_multiple(x, self.stride)
        h = self.head(torch.cat([*self._pixels(padded), self._noise_map(sigma, padded)], dim=1))
        skips = []
        for blocks, down in zip(self.down_blocks, self.downs, strict=True):
            h = blocks(h)
            skips.append(h)
            h = down(h)
        h = self.middle(h)
        for up, blocks in zip(self.ups, self.up_blocks, strict=True):
            h = blocks(up(h) + skips.pop())
        noise = F.pixel_shuffle(self.tail(h), 2)
        return x - noise[..., :H, :W]

    def _pixels(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the head sees of the pictures: (B, 12, H/2, W/2), and the mean of the neighbourhood, (B, 3, H/2, W/2)."""
        h = F.pixel_unshuffle(x, 2)
        if not self.config.local_mean:
            return (h,)
        cells = F.avg_pool2d(F.avg_pool2d(x, self.stride), 3, stride=1, padding=1, count_include_pad=False)
        mean = F.interpolate(cells, scale_factor=self.stride // 2, mode="bilinear")
        return h - mean.repeat_interleave(4, dim=1), mean - 0.5

    def _noise_map(self, sigma: Tensor, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        if sigma.ndim == 1:
            return sigma.view(B, 1, 1, 1).expand(B, 1, H // 2, W // 2).to(x.dtype)
        return F.avg_pool2d(pad_to_multiple(sigma, self.stride), 2)


class NoiseEstimator(nn.Module):
    """Standard deviation of the noise in neighbourhoods of a picture, whatever the kind of noise (CBDNet, Guo et al. 2019).

    Works at a quarter of the resolution on unshuffled pixels, where nothing is lost and wide layers are cheap. Unlike the
    U-Net it has biases: how bright a place is decides how much of its noise was clipped.
    """

    stride = 4
    _LAYERS = 5
    _SMOOTHING = 4  # noise levels vary slowly: each is the mean over 2 · 4 + 1 places
    _UNIT = 0.1  # raw outputs of order one then span the levels that occur

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = HeadConv2d(3 * self.stride**2, channels, 3, padding=1)
        self.body = nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(self._LAYERS - 1)))
        self.tail = Float32Conv2d(channels, 1, 3, padding=1)

    @property
    def receptive_radius(self) -> int:
        """In pixels."""
        return self.stride * (self._LAYERS + 1 + self._SMOOTHING + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0–1, H and W multiples of 4 → standard deviations in the same unit, (B, 1, H/4, W/4)."""
        h = F.relu(self.head(F.pixel_unshuffle(x, self.stride)))
        for conv in self.body:
            h = F.relu(conv(h))
        sigma = self._UNIT * F.softplus(self.tail(h))
        window = 2 * self._SMOOTHING + 1
        return F.avg_pool2d(sigma, window, stride=1, padding=self._SMOOTHING, count_include_pad=False)


def _blocks(channels: int, count: int, slope: float) -> nn.Sequential:
    blocks = nn.Sequential(*(ResidualBlock(channels, bias=False, slope=slope) for _ in range(count)))
    for block in blocks:
        *_, last = block.parameters()
        nn.init.zeros_(last)
    return blocks


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until height and width are multiples (replication works for pictures of one pixel too)."""
    H, W = x.shape[-2:]
    bottom, right = -H % multiple, -W % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
