"""Scores of a picture against its reference: PSNR, SSIM, MS-SSIM; and the Bjøntegaard delta between two codecs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor


def psnr(x: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all channels; both of one shape, 0–1. Infinite where they are equal."""
    mse = (x.double() - reference.double()).square().mean().item()
    return math.inf if mse == 0 else -10 * math.log10(mse)


def ssim(x: Tensor, reference: Tensor) -> float | None:
    """Structural similarity (Wang et al. 2004) of (C, H, W) pictures in 0–1; None below 11×11, the window."""
    from pytorch_msssim import ssim as compute

    if min(x.shape[-2:]) < 11:
        return None
    return float(compute(x[None].float(), reference[None].float(), data_range=1.0))


def ms_ssim(x: Tensor, reference: Tensor) -> float | None:
    """Multi-scale structural similarity (Wang et al. 2003) of (C, H, W) pictures in 0–1; None where a side is below 161 pixels."""
    from pytorch_msssim import ms_ssim as compute

    if min(x.shape[-2:]) <= 160:
        return None
    return float(compute(x[None].float(), reference[None].float(), data_range=1.0))


def bd_rate(
    reference: Sequence[tuple[float, float]],
    test: Sequence[tuple[float, float]],
    *,
    between: tuple[float, float] = (-math.inf, math.inf),
) -> float:
    """Bjøntegaard delta rate in % (negative: `test` needs fewer bits), by PCHIP over the logarithm of the rate.

    Each curve is a sequence of (bits per pixel, quality). It is taken over the qualities that both have `between` two; NaN
    where there are none.
    """
    from scipy.interpolate import PchipInterpolator

    curves = []
    for points in (reference, test):
        rate, quality = np.array(sorted(points, key=lambda p: p[1])).T
        curves.append((quality, np.log(rate)))
    (xr, yr), (xt, yt) = curves
    low, high = max(xr[0], xt[0], between[0]), min(xr[-1], xt[-1], between[1])
    if high <= low:
        return math.nan
    grid = np.linspace(low, high, 400)
    difference = PchipInterpolator(xt, yt)(grid) - PchipInterpolator(xr, yr)(grid)
    return float((np.exp(np.trapezoid(difference, grid) / (high - low)) - 1) * 100)
