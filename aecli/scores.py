"""Scores of one picture against another, as the commands print them."""

from __future__ import annotations

import math

from aecli import metrics
from aecli.errors import AecliError
from aecli.images import Picture, to_8_bits
from aecli.patches import to_tensor


def scores(picture: Picture, reference: Picture, *, multi_scale: bool = False) -> dict[str, float]:
    """PSNR in dB and SSIM (MS-SSIM with `multi_scale`) with 8 bits; a score that the size does not allow is left out.

    Pictures that are equal have no finite PSNR: it is left out as well. Raises AecliError where the sizes differ.
    """
    if (picture.height, picture.width) != (reference.height, reference.width):
        raise AecliError(
            f"a picture of {picture.width}×{picture.height} cannot be compared with a reference of "
            f"{reference.width}×{reference.height}: pass the clean version of the same picture"
        )
    channels = max(picture.pixels.shape[2], reference.pixels.shape[2])
    x, y = (to_tensor(to_8_bits(p.pixels)).expand(channels, -1, -1) for p in (picture, reference))
    similarity = ("ms_ssim", metrics.ms_ssim(x, y)) if multi_scale else ("ssim", metrics.ssim(x, y))
    found = {"psnr": metrics.psnr(x, y), similarity[0]: similarity[1]}
    return {name: round(value, 5) for name, value in found.items() if value is not None and math.isfinite(value)}
