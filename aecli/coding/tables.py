"""Integer probability tables of the codec, made once when training ends and stored in the weights.

The tables of y begin as normal distributions, which is what training assumes, and are then fitted to what pictures really have.
A table holds frequencies that sum to 2^24: one for each value from −w to w, and a last one for an escape, anything outside.
Decoding only ever reads these integers, so that no machine's floats can choose a probability (Ballé et al. 2019).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from aecli.device import Compute
from aecli.models.codec import HYPER_HALF_WIDTH, SCALES, Codec, gaussian_half_width, scale_of_index

TOTAL = 1 << 24
PRIOR_WEIGHT = 50  # symbols that the normal distribution counts for, beside those that pictures have
FIT_BATCH = 8  # pictures


@torch.no_grad()
def fill_tables(model: Codec) -> None:
    """Write the tables for the model's learned priors into its buffers."""
    gaussian = [_gaussian_frequencies(index) for index in range(SCALES)]
    model.gaussian_frequencies.copy_(torch.from_numpy(np.concatenate(gaussian)))
    values = torch.arange(-HYPER_HALF_WIDTH, HYPER_HALF_WIDTH + 1, dtype=torch.float64)
    prior = model.prior.double()
    channels = model.config.hyper
    probabilities = prior.probability(values.to(prior.logit.device).expand(1, channels, 1, -1))[0, :, 0].cpu().numpy()
    model.prior.float()
    model.hyper_frequencies.copy_(torch.from_numpy(np.stack([_to_frequencies(p) for p in probabilities])))


@torch.no_grad()
def fit_tables(model: Codec, x: Tensor, compute: Compute) -> None:
    """Fit the tables of y, which `fill_tables` has written, to pictures at every quality: (B, 3, H, W) in 0–1, H and W multiples
    of 64. Between the levels of the qualities, and for other pictures, they hold as well: about 1 % fewer bytes."""
    half_widths = np.array([gaussian_half_width(index) for index in range(SCALES)])
    starts = np.cumsum([0, *(2 * half_widths + 2)])
    counts = np.zeros(starts[-1])
    for level in range(len(model.config.lambdas)):
        for part in torch.split(x, FIT_BATCH):
            with compute.autocast():
                symbols, indices = model.symbols(
                    part.to(compute.device), torch.full((len(part),), float(level), device=compute.device)
                )
            s, i = symbols.cpu().numpy().ravel(), indices.cpu().numpy().ravel()
            inside = np.abs(s) <= half_widths[i]
            counts += np.bincount(starts[i] + half_widths[i] + np.where(inside, s, half_widths[i] + 1), minlength=len(counts))
    tables = [
        _to_frequencies((count + PRIOR_WEIGHT * table / TOTAL)[:-1] / (count.sum() + PRIOR_WEIGHT))
        for count, table in zip(np.split(counts, starts[1:-1]), gaussian_tables(model), strict=True)
    ]
    model.gaussian_frequencies.copy_(torch.from_numpy(np.concatenate(tables)))


def gaussian_tables(model: Codec) -> list[np.ndarray]:
    """The table of each scale index, as arrays of integers in float64 (what constriction takes)."""
    flat = model.gaussian_frequencies.cpu().numpy().astype(np.float64)
    ends = np.cumsum([2 * gaussian_half_width(i) + 2 for i in range(SCALES)])
    return np.split(flat, ends[:-1])


def hyper_tables(model: Codec) -> list[np.ndarray]:
    """The table of each channel of z."""
    return list(model.hyper_frequencies.cpu().numpy().astype(np.float64))


def _gaussian_frequencies(index: int) -> np.ndarray:
    half_width = gaussian_half_width(index)
    sigma = scale_of_index(torch.tensor(float(index), dtype=torch.float64)).item()
    edges = (np.arange(half_width + 1) + 0.5) / (sigma * math.sqrt(2))
    upper_tail = np.array([0.5 * math.erfc(e) for e in edges])  # P(v > k + 0.5), k = 0 … w
    positive = upper_tail[:-1] - upper_tail[1:]  # values 1 … w
    return _to_frequencies(np.concatenate([positive[::-1], [1 - 2 * upper_tail[0]], positive]))


def _to_frequencies(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of −w … w → integers of at least one, summing to TOTAL, the escape's last."""
    probabilities = np.maximum(probabilities, 0)
    escape = max(0.0, 1 - probabilities.sum())
    p = np.append(probabilities, escape)
    frequencies: np.ndarray = 1 + np.floor(p / p.sum() * (TOTAL - len(p))).astype(np.int64)
    frequencies[np.argmax(frequencies)] += TOTAL - frequencies.sum()
    return frequencies.astype(np.int32)
