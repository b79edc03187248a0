"""The feature autoencoders' task: reconstruct small pictures, clean or from noise, and measure how well."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from aecli.models.dense import FeatureAutoencoder, Sparse, active_share, squared_error
from aecli.training.data import Source
from aecli.training.noise import Noise

BATCH = 500


class FeatureTask:
    """Squared error between a clean picture and its reconstruction from the clean, or a noisy, one."""

    def __init__(self, model: FeatureAutoencoder, source: Source, valid: Tensor, noise: Noise | None) -> None:
        self.model, self.source, self.valid, self.noise = model, source, valid, noise

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        noisy = self.noise.add(x, generator) if self.noise else x
        return self.model.loss(noisy, x)

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, FeatureAutoencoder)
        return evaluate(model, self.valid, self.noise)


def evaluate(model: FeatureAutoencoder, images: Tensor, noise: Noise | None = None) -> dict[str, float]:
    """Scores on clean pictures (N, C, H, W) in 0–1.

    Returns `psnr` (dB, of the mean squared error), `squared_error` (summed over a picture's pixels, mean over pictures),
    with noise `psnr_noisy`, and for a sparse model `active_share`.
    """
    errors, noisy_errors, shares = [], [], []
    for clean, noisy in _batches(images, noise):
        clean, noisy = (t.to(next(model.parameters()).device) for t in (clean, noisy))
        code = model.encode(noisy)
        errors.append(squared_error(model.decode(code).float(), clean))
        noisy_errors.append(squared_error(noisy, clean))
        if isinstance(model, Sparse):
            shares.append(active_share(code))
    error, pixels = torch.cat(errors).mean().item(), images[0].numel()
    scores = {"psnr": _psnr(error / pixels), "squared_error": error}
    if noise:
        scores["psnr_noisy"] = _psnr(torch.cat(noisy_errors).mean().item() / pixels)
    if shares:
        scores["active_share"] = sum(shares) / len(shares)
    return scores


def corrupt(images: Tensor, noise: Noise | None) -> Tensor:
    """The noisy version of test pictures, the same at every call."""
    return noise.add(images, torch.Generator().manual_seed(0)) if noise else images


def _batches(images: Tensor, noise: Noise | None) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(images, BATCH), torch.split(corrupt(images, noise), BATCH), strict=True)


def _psnr(mse: float) -> float:
    return -10 * torch.tensor(max(mse, 1e-12)).log10().item()
