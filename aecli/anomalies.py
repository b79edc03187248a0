"""What does not belong: a picture's reconstruction error against the errors of held-out training data.

An autoencoder reconstructs well only what resembles its training data, so a large error tells of something else (Hawkins, He,
Williams and Baxter 2002, "Outlier detection using replicator neural networks").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aecli.device import Compute
from aecli.errors import UsageError
from aecli.images import Picture
from aecli.models.dense import FeatureAutoencoder, squared_error
from aecli.patches import from_patches, in_batches, to_patches, to_tensor
from aecli.weights import Weights

QUANTILE = "0.999"


@dataclass(frozen=True)
class Verdict:
    """How far a picture is from the training data.

    error: mean squared error of the reconstruction, values in 0–1, mean over the picture's patches.
    limit: the error that one in a thousand held-out training pictures exceeds.
    unlike: whether more of the patches exceed the limit than chance allows (one picture in a thousand).
    heat: (H, W) float32, the squared error of every pixel, mean over channels.
    """

    error: float
    limit: float
    unlike: bool
    heat: np.ndarray


def check_knows_errors(weights: Weights) -> None:
    """Raises UsageError for weights that cannot tell what is unlike their training data."""
    if not isinstance(weights.model, FeatureAutoencoder):
        raise UsageError(f"weights {weights.name} are no feature autoencoder ({weights.card.arch}): train one with aecli train")
    if QUANTILE not in weights.card.error_quantiles:
        raise UsageError(f"weights {weights.name} do not tell the errors of their training data: train them again")


def judge(picture: Picture, weights: Weights, compute: Compute) -> Verdict:
    """Compare a picture with what the weights were trained on.

    Raises UsageError as `check_knows_errors`, AecliError for a picture smaller than the autoencoder's.
    """
    check_knows_errors(weights)
    model = weights.model
    assert isinstance(model, FeatureAutoencoder)
    patches, grid = to_patches(to_tensor(picture.pixels), model.config, weights.name)
    restored = in_batches(model, patches, compute)
    errors = squared_error(restored, patches) / patches[0].numel()
    limit = weights.card.error_quantiles[QUANTILE]
    heat = from_patches((restored - patches).square().mean(dim=1, keepdim=True), grid, channels=1)[0]
    beyond = int((errors > limit).sum())
    return Verdict(errors.mean().item(), limit, _more_than_chance(beyond, len(errors)), heat.numpy())


def _more_than_chance(beyond: int, count: int) -> bool:
    """Whether so many of `count` patches are beyond the quantile in at most as many pictures as single patches are."""
    from scipy.special import bdtrc

    rare = 1 - float(QUANTILE)
    return beyond > 0 and bool(bdtrc(beyond - 1, count, rare) <= rare * 1.0001)
