"""Which quality gives a wanted rate, fidelity or size: a search over 0–100."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from aecli.errors import AecliError, UsageError

HIGHEST = 100.0
RESOLUTION = 0.01  # of a quality: finer ones are written alike
_NAMES = {"bpp": "bits a pixel", "psnr": "dB", "bytes": "bytes"}
_OPTIONS = {"bpp": "--bpp", "psnr": "--psnr", "bytes": "--max-bytes"}


def check_quality(quality: float) -> None:
    """Raises UsageError for a quality outside 0–100."""
    if not 0 <= quality <= 100:
        raise UsageError(f"--quality {quality:g} is out of range: give 0 to 100")


@dataclass(frozen=True)
class Target:
    """What a file should come to: bits per pixel (within 3 %), PSNR in dB (within 0.1), or bytes (as many as fit, at most).

    Raises UsageError for a value that is not positive and finite.
    """

    kind: Literal["bpp", "psnr", "bytes"]
    value: float

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf:
            raise UsageError(f"{_OPTIONS[self.kind]} {self.value:g} is out of range: give a positive number")

    def is_met(self, found: float) -> bool:
        """Whether this is close enough to stop at. Bytes: at most the bound, and no more than 2 % under it."""
        if self.kind == "psnr":
            return abs(found - self.value) <= 0.05
        share = found / self.value
        return 0.98 <= share <= 1 if self.kind == "bytes" else abs(share - 1) <= 0.015

    def allows(self, found: float) -> bool:
        """Whether this may be kept when nothing closer is to be had."""
        if self.kind == "bytes":
            return found <= self.value
        return abs(found - self.value) <= (0.1 if self.kind == "psnr" else 0.03 * self.value)


def search(encode: Callable[[float], bytes], measure: Callable[[bytes], float], target: Target) -> bytes:
    """The file whose quality meets the target, by bisection: rate and fidelity grow with quality.

    Args:
        encode: quality, with at most two decimals → file.
        measure: file → its bits per pixel, PSNR or bytes, as the target's kind says.

    Raises AecliError, naming what can be had, where no quality meets it.
    """
    low, high = 0.0, HIGHEST
    smallest, largest = encode(low), encode(high)
    least, most = measure(smallest), measure(largest)
    if target.kind == "bytes" and most <= target.value:
        return largest  # all fits
    for data, found in ((smallest, least), (largest, most)):
        if target.is_met(found):
            return data
    if not least <= target.value <= most:
        raise AecliError(_out_of_reach(target, least, most))
    best, best_found = (smallest, least) if target.allows(least) else (b"", math.nan)
    while high - low > RESOLUTION:
        middle = round((low + high) / 2, 2)
        if middle in (low, high):
            break
        data = encode(middle)
        found = measure(data)
        if target.is_met(found):
            return data
        if target.allows(found) and not abs(best_found - target.value) < abs(found - target.value):
            best, best_found = data, found
        low, high = (middle, high) if found < target.value else (low, middle)
    if not best:
        raise AecliError(_out_of_reach(target, least, most))
    return best


def _out_of_reach(target: Target, least: float, most: float) -> str:
    unit = _NAMES[target.kind]
    digits = ",.0f" if target.kind == "bytes" else ".4g"
    wanted, low, high = (f"{value:{digits}}" for value in (target.value, least, most))
    return f"no quality comes to {wanted} {unit} (they reach from {low} to {high}): ask for another"
