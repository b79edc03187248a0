"""Walks through a latent space: what an autoencoder draws at the codes in between those of pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aecli.models import FeatureAutoencoder

SIDE = 20  # of the square of pictures that a two-dimensional latent space is drawn as
MARGIN = 0.01  # share of the codes that lies beyond each edge of that square
MOST_DIMENSIONS = 12
STEPS = 13  # odd, so that the mean is one of them
REACH = 3.0  # standard deviations to both sides
PAIRS = 8


@dataclass(frozen=True)
class Walks:
    """Pictures (n, C, H, W) in 0–1, to be laid out in so many columns; labels of the rows, or none."""

    pictures: Tensor
    columns: int
    labels: tuple[str, ...] = ()


@torch.inference_mode()
def traverse(model: FeatureAutoencoder, images: Tensor) -> Walks:
    """Decode a lattice of codes.

    Of two dimensions: the square that holds the codes of `images` but for one in a hundred at every edge, as Kingma & Welling
    (2014) drew it. Of more: a row for each of the twelve dimensions in which these codes vary most, from three standard
    deviations below the mean to three above, the other dimensions at their means. Of one: a single row.

    Args:
        images: (n, C, H, W) in 0–1, what the model was made for; two or more.
    """
    codes = model.encode(images).float()
    if codes.shape[1] == 2:
        low, high = (codes.quantile(share, dim=0) for share in (MARGIN, 1 - MARGIN))
        steps = torch.linspace(0, 1, SIDE)
        down, across = torch.meshgrid(steps.flip(0), steps, indexing="ij")  # the second coordinate grows upwards, as on a map
        lattice = low + torch.stack([across, down], dim=-1).view(-1, 2) * (high - low)
        return Walks(model.decode(lattice).float(), SIDE)
    mean, deviation = codes.mean(dim=0), codes.std(dim=0)
    dimensions = deviation.argsort(descending=True)[:MOST_DIMENSIONS].tolist()
    lattice = mean.repeat(len(dimensions), STEPS, 1)
    for row, dimension in enumerate(dimensions):
        lattice[row, :, dimension] += torch.linspace(-REACH, REACH, STEPS) * deviation[dimension]
    labels = tuple(f"{dimension + 1}" for dimension in dimensions)
    return Walks(model.decode(lattice.flatten(0, 1)).float(), STEPS, labels)


@torch.inference_mode()
def interpolate(model: FeatureAutoencoder, images: Tensor) -> Walks:
    """Decode what lies on the straight line between the codes of the first picture and the second, the third and the fourth, …

    Args:
        images: (n, C, H, W) in 0–1; the first and last picture of every row are these themselves.
    """
    starts, ends = images[0::2][:PAIRS], images[1::2][:PAIRS]
    starts = starts[: len(ends)]
    share = torch.linspace(0, 1, STEPS - 2)[None, :, None]
    codes = torch.lerp(model.encode(starts).float()[:, None], model.encode(ends).float()[:, None], share)
    between = model.decode(codes.flatten(0, 1)).float().unflatten(0, (len(starts), -1))  # type: ignore[no-untyped-call]
    return Walks(torch.cat([starts[:, None], between, ends[:, None]], dim=1).flatten(0, 1), STEPS)
