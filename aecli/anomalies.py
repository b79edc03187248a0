"""What does not belong: a picture's reconstruction error against the errors of held-out training data.

An autoencoder reconstructs well only what resembles its training data, so a large error tells of something else (Hawkins, He,
Williams and Baxter 2002, "Outlier detection using replicator neural networks").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from aecli.device import Compute
from aecli.errors import UsageError
from aecli.images import Picture, with_8_bits
from aecli.models.codec import Codec
from aecli.models.dense import FeatureAutoencoder
from aecli.patches import Grid, Shape, from_patches, in_batches, reduced, some_patches, to_patches, to_tensor
from aecli.weights import Card, Weights

QUANTILE = "0.999"
QUANTILES = (0.5, 0.9, 0.99, 0.999)
ERROR, ERROR_OF_MEAN = "squared_error", "mean_picture_error"  # scores of a card: of held-out pictures, by the model and by a guess
LITTLE_LEARNED = 0.9  # error of a model as a share of that of the mean picture, above which it knows little more than that
NOTHING_LEARNED = 1.1  # above which it knows nothing; between them lie good models of pictures that differ by noise alone
PHOTO_PATCH = Shape(channels=3, height=128, width=128)  # what photographs are judged by
PHOTO_BATCH = 16
EVIDENCE_SIDE = 512
GLANCE = 8  # patches of a photograph that tell enough beside an encoding


@dataclass(frozen=True)
class Verdict:
    """How far a picture is from the training data.

    error: mean squared error of the reconstruction, values in 0–1, mean over the picture's patches.
    limit: the error that one in a thousand held-out training patches exceeds.
    unlike: whether more of the patches exceed the limit than chance allows (one picture in a thousand).
    """

    error: float
    limit: float
    unlike: bool

    @property
    def rank(self) -> tuple[bool, float]:
        """The larger, the stranger. One strange patch in a large picture hardly moves its mean, so `unlike` comes first."""
        return self.unlike, self.error


@dataclass(frozen=True)
class Evidence:
    """A verdict's reasons, for people to look at, reduced to at most 512 pixels a side.

    seen: RGB, the picture as the autoencoder was shown it; reconstruction: the same; heat: (H, W) float32, the squared error of
    every pixel, mean over channels.
    """

    seen: Image.Image
    reconstruction: Image.Image
    heat: np.ndarray


def knows_errors(weights: Weights) -> bool:
    """Whether weights can tell what is unlike their training data."""
    return isinstance(weights.model, FeatureAutoencoder | Codec) and QUANTILE in weights.card.error_quantiles


def check_weights(weights: Weights) -> None:
    """Raises UsageError for weights of which `knows_errors` is false, and for those that have learned nothing."""
    if not knows_errors(weights):
        raise UsageError(
            f"weights {weights.name} cannot tell what is unlike their training data: pass a codec or a feature autoencoder, "
            "trained by this version of aecli"
        )
    share = share_of_mean_error(weights.card)
    if share > NOTHING_LEARNED:
        raise UsageError(
            f"weights {weights.name} have not learned their training data (their error is {share:.1f} times that of the mean "
            "picture), so nothing would stand out: train them longer"
        )


def share_of_mean_error(card: Card) -> float:
    """The error of a model as a share of that of always guessing the mean training picture; 0 where the card does not say."""
    scores = card.scores
    return scores[ERROR] / max(scores[ERROR_OF_MEAN], 1e-12) if {ERROR, ERROR_OF_MEAN} <= scores.keys() else 0.0


def judge(picture: Picture, weights: Weights, compute: Compute) -> tuple[Verdict, Evidence]:
    """Compare a picture with what the weights were trained on.

    Raises UsageError for weights of which `knows_errors` is false, AecliError for a picture smaller than the autoencoder's.
    """
    patches, grid = _patches(picture, weights)
    restored = _reconstruct(weights.model, patches, compute)
    squared = (restored - patches).square().mean(dim=1, keepdim=True)
    errors, limit = squared.flatten(1).mean(dim=1), _limit(weights)
    heat = Image.fromarray(from_patches(squared, grid, channels=1)[0].numpy())
    return (
        Verdict(errors.mean().item(), limit, _more_than_chance(errors, limit)),
        Evidence(_shown(patches, grid), _shown(restored, grid), np.array(_at_most(EVIDENCE_SIDE, heat))),
    )


def is_unlike(picture: Picture, weights: Weights, compute: Compute, errors: Tensor | None = None) -> bool:
    """Whether `judge` calls the picture unlike; of a photograph it sees eight patches, evenly spread, as more would cost too much
    beside an encoding.

    errors: (patches,), those that the encoding found, if it did; they spare the network a second run unless the weights judge
    the picture reduced.
    """
    if errors is not None and not weights.card.resize:
        return _more_than_chance(errors, _limit(weights))
    if isinstance(weights.model, Codec):
        patches = some_patches(picture.pixels, PHOTO_PATCH, GLANCE)
    else:
        patches, _ = _patches(picture, weights)
    errors = (_reconstruct(weights.model, patches, compute) - patches).square().flatten(1).mean(dim=1)
    return _more_than_chance(errors, _limit(weights))


def errors_between(before: Picture, after: Picture, weights: Weights) -> Tensor | None:
    """(patches,): what `is_unlike` takes of a picture that these weights have restored already; None where that does not tell."""
    if not knows_errors(weights) or weights.card.resize or isinstance(weights.model, Codec):
        return None
    shape = _patch_shape(weights)
    one, other = (to_patches(to_tensor(picture.pixels), shape, weights.name)[0] for picture in (before, after))
    return (one - other).square().flatten(1).mean(dim=1)


def can_judge(picture: Picture, weights: Weights) -> bool:
    """Whether the picture is as large as the patches that the weights judge by."""
    if not knows_errors(weights):
        return False
    shape = _patch_shape(weights)
    return weights.card.resize > 0 or (picture.width >= shape.width and picture.height >= shape.height)


def error_quantiles(model: nn.Module, images: Tensor, compute: Compute) -> dict[str, float]:
    """What `judge` compares with: quantiles, keyed by their probability, of the mean squared error between pictures or patches
    (N, C, H, W) in 0–1 and their reconstructions. For a denoising autoencoder the pictures are to be noisy ones."""
    return quantiles_of((_reconstruct(model, images, compute) - images).square().flatten(1).mean(dim=1))


def quantiles_of(errors: Tensor) -> dict[str, float]:
    """Of errors (N,), as a model card holds them."""
    return {str(q): _quantile(errors, q) for q in QUANTILES}


def _quantile(errors: Tensor, q: float) -> float:
    """Of too few errors to have one beyond it, what the next one exceeds with that probability if their logarithms are normal:
    of a dozen pictures the worst is no limit, as one in thirteen is worse."""
    count, found = len(errors), torch.quantile(errors, q).item()
    if not 1 < count < 1 / (1 - q) or errors.min() <= 0:
        return found
    from scipy.special import stdtrit

    logs = errors.double().log()
    spread = float(stdtrit(count - 1, q)) * logs.std().item() * math.sqrt(1 + 1 / count)
    return max(found, min(1.0, math.exp(min(0.0, logs.mean().item() + spread))))


def _patches(picture: Picture, weights: Weights) -> tuple[Tensor, Grid]:
    check_weights(weights)
    side = weights.card.resize
    x = to_tensor(picture.pixels) if not side else to_tensor(reduced(with_8_bits(picture).pixels, side))
    return to_patches(x, _patch_shape(weights), weights.name)


def _patch_shape(weights: Weights) -> Shape:
    model = weights.model
    if isinstance(model, Codec):
        return PHOTO_PATCH
    assert isinstance(model, FeatureAutoencoder)
    return Shape(model.config.channels, model.config.height, model.config.width)


def _limit(weights: Weights) -> float:
    return weights.card.error_quantiles[QUANTILE]


def _reconstruct(model: nn.Module, patches: Tensor, compute: Compute) -> Tensor:
    """(n, C, H, W) in 0–1 → the same, by a codec at its highest quality."""
    if not isinstance(model, Codec):
        return in_batches(model, patches, compute)
    highest = float(len(model.config.lambdas) - 1)

    def at_best(x: Tensor) -> Tensor:
        restored: Tensor = model(x, torch.full((len(x),), highest, device=x.device)).x_hat
        return restored.float().clamp(0, 1)

    return in_batches(at_best, patches, compute, size=PHOTO_BATCH)


def _shown(patches: Tensor, grid: Grid) -> Image.Image:
    x = from_patches(patches, grid, channels=patches.shape[1]).expand(3, -1, -1)
    return _at_most(EVIDENCE_SIDE, Image.fromarray((x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()))


def _at_most(side: int, image: Image.Image) -> Image.Image:
    share = side / max(image.size)
    width, height = (max(1, round(share * length)) for length in image.size)
    return image if share >= 1 else image.resize((width, height), Image.Resampling.BOX)


def _more_than_chance(errors: Tensor, limit: float) -> bool:
    """Whether so many of the patches are beyond the limit in at most one in a thousand pictures like the training data."""
    beyond = int((errors > limit).sum())
    rare = 1 - float(QUANTILE)
    # A single patch beyond the limit is exactly as rare as that: rounding must not decide.
    return beyond > rare * len(errors) and binomial_tail(beyond, len(errors), rare) <= rare * 1.0001


def binomial_tail(least: int, count: int, probability: float) -> float:
    """The probability of `least` successes or more in `count` trials; least above count · probability. (SciPy takes as long to
    import as a picture to encode.)"""
    odds = probability / (1 - probability)
    choices = math.lgamma(count + 1) - math.lgamma(least + 1) - math.lgamma(count - least + 1)
    term = math.exp(choices + least * math.log(probability) + (count - least) * math.log1p(-probability))
    total = 0.0
    while term > total * 1e-16:  # each is less than the one before
        total += term
        term *= (count - least) / (least + 1) * odds
        least += 1
    return total
