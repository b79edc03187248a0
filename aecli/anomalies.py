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
from aecli.models.dense import FeatureAutoencoder
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


def knows_errors(weights: Weights) -> bool:
    """Whether weights can tell what is unlike their training data, patch by patch; errors of whole, reduced pictures cannot."""
    card = weights.card
    return isinstance(weights.model, FeatureAutoencoder) and QUANTILE in card.error_quantiles and not card.resize


def judge(picture: Picture, weights: Weights, compute: Compute) -> Verdict:
    """Compare a picture with what the weights were trained on.

    Raises UsageError for weights of which `knows_errors` is false, AecliError for a picture smaller than the autoencoder's.
    """
    model = weights.model
    if not (isinstance(model, FeatureAutoencoder) and knows_errors(weights)):
        raise UsageError(
            f"weights {weights.name} cannot tell what is unlike their training data: pass a feature autoencoder's, trained on "
            "pictures or patches of the size that they are"
        )
    patches, grid = to_patches(to_tensor(picture.pixels), model.config, weights.name)
    squared = (in_batches(model, patches, compute) - patches).square()
    errors = squared.flatten(1).mean(dim=1)
    limit = weights.card.error_quantiles[QUANTILE]
    beyond = int((errors > limit).sum())
    heat = from_patches(squared.mean(dim=1, keepdim=True), grid, channels=1)[0]
    return Verdict(errors.mean().item(), limit, _more_than_chance(beyond, len(errors)), heat.numpy())


def _more_than_chance(beyond: int, count: int) -> bool:
    """Whether so many of `count` patches are beyond the limit in at most one in a thousand pictures like the training data."""
    from scipy.special import bdtrc

    rare = 1 - float(QUANTILE)
    # A single patch beyond the limit is exactly as rare as that: rounding must not decide.
    return beyond > 0 and bool(bdtrc(beyond - 1, count, rare) <= rare * 1.0001)
