"""Camera noise: what a sensor's noise becomes on its way to a picture file.

``sRGB → linear → sensor colours → + shot, read, row noise, hot pixels → mosaic → demosaic → sRGB → camera's smoothing, sharpening``

After Brooks et al. 2019 (unprocessing) and CBDNet (Guo et al. 2019). Only the difference that noise makes is kept, so that a
model learns to clean and not to sharpen. What comes out is correlated over pixels and channels: 5 to 10 times stronger in
brightness than in colours at the scale of a pixel, but colour noise spans blotches of up to 20 pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aecli.training.noise.draws import normal, uniform

LUMA = (0.299, 0.587, 0.114)
DARKEST = 1e-4  # of linear light, below which the slope of the tone curve grows without bounds
WIDEST_BLUR = 5.0  # pixels


def camera_noise(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of a camera of random make.

    Args:
        x: clean sRGB pictures, (B, 3, H, W), 0–1.
        strength: 0–1, (B, 1, 1, 1): from a bright day to more than ISO 12,800.
        generator: on the device of x.

    Returns:
        Noisy pictures, (B, 3, H, W), not clipped.
    """
    enlarged = torch.where(uniform(x, generator) < 0.25, uniform(x, generator, 1.0, 1.8), 1.0)
    seen = resampled(x, enlarged)
    noise = _developed_noise(seen, strength, generator)
    noise = _sharpened(_smoothed(noise, generator), generator)
    return x + resampled(noise, 1 / enlarged)


class Development(NamedTuple):
    """From sensor to sRGB: gains and matrix per channel, exponent and contrast of the tone curve; each (B, …)."""

    gamma: Tensor  # (B, 1, 1, 1)
    contrast: Tensor  # (B, 1, 1, 1)
    gains: Tensor  # (B, 3, 1, 1)
    matrix: Tensor  # (B, 3, 3), rows sum to one

    @classmethod
    def random(cls, x: Tensor, generator: torch.Generator) -> Development:
        """A camera for each of (B, 3, H, W)."""
        red, green, blue = uniform(x, generator, 1.0, 2.4), torch.ones_like(x[:, :1, :1, :1]), uniform(x, generator, 1.0, 2.4)
        off = torch.rand(len(x), 3, 3, generator=generator, device=x.device) * uniform(x, generator, 0.0, 0.5)[..., 0]
        off = off * (1 - torch.eye(3, device=x.device))
        matrix = torch.eye(3, device=x.device) * (1 + off.sum(dim=2, keepdim=True)) - off
        contrast = torch.where(uniform(x, generator) < 0.5, uniform(x, generator, 1.0, 1.4), 1.0)
        return cls(uniform(x, generator, 1.8, 2.4), contrast, torch.cat([red, green, blue], dim=1), matrix)

    def to_sensor(self, x: Tensor) -> Tensor:
        """sRGB → sensor colours, 0–1; (B, 3, H, W) both."""
        linear = _contrasted(x.clamp(0, 1), 1 / self.contrast) ** self.gamma
        return (_mixed(torch.linalg.inv(self.matrix), linear) / self.gains).clamp(0, 1)

    def to_srgb(self, sensor: Tensor) -> Tensor:
        """The way back, clipped."""
        linear = _mixed(self.matrix, sensor * self.gains).clamp(DARKEST, 1)
        return _contrasted(linear ** (1 / self.gamma), self.contrast)


def _mixed(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("bij,bjhw->bihw", matrix, x)


def _contrasted(x: Tensor, contrast: Tensor) -> Tensor:
    """An S-shaped tone curve through 0, 1/2 and 1, whose inverse has the inverse contrast."""
    a = x.clamp_min(1e-6) ** contrast
    return a / (a + (1 - x).clamp_min(1e-6) ** contrast)


def _developed_noise(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """The difference that sensor noise makes to the developed picture."""
    camera = Development.random(x, generator)
    clean = camera.to_sensor(x)
    phase = torch.randint(0, 2, (2, len(x), 1, 1, 1), generator=generator, device=x.device)
    masks = bayer_masks(x, phase)
    noisy = _sensed(clean, strength, generator)
    start = int(torch.randint(0, len(DEMOSAICINGS), (), generator=generator, device=x.device))
    result = torch.empty_like(x)
    for number, demosaic in enumerate(DEMOSAICINGS):  # each of them for an equal part of the batch
        part = slice((number - start) % len(DEMOSAICINGS), None, len(DEMOSAICINGS))
        if len(x[part]) == 0:
            continue
        kind = Development(*(parameter[part] for parameter in camera))
        developed = (kind.to_srgb(demosaic(sensor[part], masks[part])) for sensor in (noisy, clean))
        result[part] = next(developed) - next(developed)
    return result


def _sensed(clean: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Shot and read noise (Foi et al. 2008), rows or columns of their own level, hot pixels."""
    gain = 0.00015 * 120**strength
    read = 0.012 * strength * uniform(clean, generator, 0.3, 1.5)
    noisy = clean + (gain * clean + read.square()).sqrt() * normal(clean, generator)
    B, _, H, W = clean.shape
    banding = torch.where(uniform(clean, generator) < 0.25, read * uniform(clean, generator, 0.0, 0.7), 0.0)
    upright = uniform(clean, generator) < 0.5
    rows = torch.randn(B, 1, H, 1, generator=generator, device=clean.device)
    columns = torch.randn(B, 1, 1, W, generator=generator, device=clean.device)
    noisy = noisy + banding * torch.where(upright, columns, rows)
    share = torch.where(uniform(clean, generator) < 0.15, 10 ** uniform(clean, generator, -4.5, -2.7), 0.0)
    values = torch.rand(2, *clean.shape, generator=generator, device=clean.device)
    return torch.where(values[0] < share, torch.maximum(noisy, values[1]), noisy)


def bayer_masks(x: Tensor, phase: Tensor) -> Tensor:
    """Which colour a sensor's pixels see.

    Args:
        x: (B, 3, H, W); its size counts.
        phase: 0 or 1, of rows and columns: (2, B, 1, 1, 1).

    Returns:
        1 for the colour of a pixel, 0 for the others: (B, 3, H, W).
    """
    rows = torch.arange(x.shape[2], device=x.device).view(1, 1, -1, 1)
    columns = torch.arange(x.shape[3], device=x.device).view(1, 1, 1, -1)
    odd_row, odd_column = (rows + phase[0]) % 2, (columns + phase[1]) % 2
    red, blue = (1 - odd_row) * (1 - odd_column), odd_row * odd_column
    return torch.cat([red, 1 - red - blue, blue], dim=1).to(x.dtype)


def bilinear(sensor: Tensor, masks: Tensor) -> Tensor:
    """Every missing value is the mean of its neighbours of that colour."""
    return torch.where(masks > 0, sensor, _spread(sensor * masks, masks))


def _spread(values: Tensor, known: Tensor) -> Tensor:
    """Means over the known ones among 3×3 neighbours, the nearer the heavier; (B, C, H, W)."""
    C = values.shape[1]
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]], device=values.device).expand(C, 1, 3, 3)
    total, weight = (F.conv2d(v, kernel, padding=1, groups=C) for v in (values, known))
    return total / weight.clamp_min(1e-6)


_MALVAR = (
    ((0, 0, -1, 0, 0), (0, 0, 2, 0, 0), (-1, 2, 4, 2, -1), (0, 0, 2, 0, 0), (0, 0, -1, 0, 0)),  # green at red or blue
    ((0, 0, 0.5, 0, 0), (0, -1, 0, -1, 0), (-1, 4, 5, 4, -1), (0, -1, 0, -1, 0), (0, 0, 0.5, 0, 0)),  # from left and right
    ((0, 0, -1, 0, 0), (0, -1, 4, -1, 0), (0.5, 0, 5, 0, 0.5), (0, -1, 4, -1, 0), (0, 0, -1, 0, 0)),  # from above and below
    ((0, 0, -1.5, 0, 0), (0, 2, 0, 2, 0), (-1.5, 0, 6, 0, -1.5), (0, 2, 0, 2, 0), (0, 0, -1.5, 0, 0)),  # from the diagonals
)


def malvar(sensor: Tensor, masks: Tensor) -> Tensor:
    """Linear, with gradients of the known colour (Malvar, He, Cutler 2004)."""
    mosaic = (sensor * masks).sum(dim=1, keepdim=True)
    kernels = torch.tensor(_MALVAR, device=sensor.device)[:, None] / 8
    green, across, along, diagonal = F.conv2d(F.pad(mosaic, (2, 2, 2, 2), mode="reflect"), kernels).chunk(4, dim=1)
    is_red, is_green, is_blue = masks.chunk(3, dim=1)
    in_red_row = is_green * F.max_pool2d(is_red, (1, 3), stride=1, padding=(0, 1))
    in_blue_row = is_green - in_red_row
    red = mosaic * is_red + across * in_red_row + along * in_blue_row + diagonal * is_blue
    blue = mosaic * is_blue + across * in_blue_row + along * in_red_row + diagonal * is_red
    return torch.cat([red, mosaic * is_green + green * (1 - is_green), blue], dim=1)


def edge_aware(sensor: Tensor, masks: Tensor) -> Tensor:
    """Green along the weaker gradient, then colours by their difference from it (Hamilton and Adams 1997)."""
    mosaic = F.pad((sensor * masks).sum(dim=1, keepdim=True), (2, 2, 2, 2), mode="reflect")
    centre = mosaic[..., 2:-2, 2:-2]
    left, right = (mosaic[..., 2:-2, n : n + centre.shape[3]] for n in (1, 3))
    far_left, far_right = (mosaic[..., 2:-2, n : n + centre.shape[3]] for n in (0, 4))
    top, bottom = (mosaic[..., n : n + centre.shape[2], 2:-2] for n in (1, 3))
    far_top, far_bottom = (mosaic[..., n : n + centre.shape[2], 2:-2] for n in (0, 4))
    bend_across, bend_along = 2 * centre - far_left - far_right, 2 * centre - far_top - far_bottom
    across, along = (left + right) / 2 + bend_across / 4, (top + bottom) / 2 + bend_along / 4
    slope_across, slope_along = (left - right).abs() + bend_across.abs(), (top - bottom).abs() + bend_along.abs()
    is_green = masks[:, 1:2]
    green = torch.where(is_green > 0, centre, torch.where(slope_across < slope_along, across, along))
    ends = masks[:, ::2]
    red_blue = green + torch.where(ends > 0, sensor[:, ::2] - green, _spread((sensor[:, ::2] - green) * ends, ends))
    return torch.cat([red_blue[:, :1], green, red_blue[:, 1:]], dim=1)


def without_mosaic(sensor: Tensor, masks: Tensor) -> Tensor:
    """Three colours at every pixel: pictures reduced from larger ones, and scans."""
    return sensor


DEMOSAICINGS = (bilinear, malvar, edge_aware, without_mosaic)
"""Each: sensor colours (B, 3, H, W) and the Bayer masks of that shape → every colour at every pixel, (B, 3, H, W)."""


def _smoothed(noise: Tensor, generator: torch.Generator) -> Tensor:
    """The camera's own noise reduction: partly, and colours more than brightness; 17 pictures in 20."""
    luma = (noise * torch.tensor(LUMA, device=noise.device).view(3, 1, 1)).sum(dim=1, keepdim=True)
    chroma = noise - luma
    part, colour_part = 1 - uniform(noise, generator) ** 3, 1 - uniform(noise, generator) ** 4
    smooth_luma = blurred(luma, uniform(noise, generator, 0.5, 1.8))
    # Several neighbouring scales make blotches; what is left of them is as strong as a camera's noise reduction lets it be.
    smooth_chroma = blurred(chroma, uniform(noise, generator, 0.6, WIDEST_BLUR)) * uniform(noise, generator, 0.6, 1.6)
    smooth = torch.lerp(luma, smooth_luma, part) + torch.lerp(chroma, smooth_chroma, colour_part)
    smooth = smooth * uniform(noise, generator, 1.0, 3.0)
    return torch.where(uniform(noise, generator) < 0.85, smooth, noise)


def _sharpened(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Unsharp masking, which noise gets as much as detail; 3 pictures in 10."""
    amount = torch.where(uniform(noise, generator) < 0.3, uniform(noise, generator, 0.2, 1.2), 0.0)
    return noise + amount * (noise - blurred(noise, uniform(noise, generator, 0.6, 1.5)))


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur; x: (B, C, H, W), sigma in pixels up to WIDEST_BLUR, (B, 1, 1, 1)."""
    B, C, H, W = x.shape
    radius = min(math.ceil(2.5 * WIDEST_BLUR), H - 1, W - 1)
    distances = torch.arange(-radius, radius + 1, device=x.device)
    kernels = torch.exp(-0.5 * (distances / sigma.view(B, 1)).square())
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(C, dim=0)  # (B·C, taps)
    rows = F.pad(x, (radius,) * 4, mode="reflect").reshape(1, B * C, H + 2 * radius, W + 2 * radius)
    rows = F.conv2d(rows, kernels.view(B * C, 1, 1, -1), groups=B * C)
    return F.conv2d(rows, kernels.view(B * C, 1, -1, 1), groups=B * C).view(B, C, H, W)


def resampled(x: Tensor, step: Tensor) -> Tensor:
    """Every pixel taken `step` pixels apart from the next one, mirrored at the edges: (B, C, H, W), step (B, 1, 1, 1)."""
    H, W = x.shape[-2:]
    rows = torch.arange(H, device=x.device).view(1, H, 1) * step[..., 0]  # (B, H, 1), in pixels
    columns = torch.arange(W, device=x.device).view(1, 1, W) * step[..., 0]
    shape = (len(x), H, W)
    grid = torch.stack([((2 * columns + 1) / W - 1).expand(shape), ((2 * rows + 1) / H - 1).expand(shape)], dim=-1)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
