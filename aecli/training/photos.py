"""The photograph models' tasks: denoising with a known noise level, and compression at every quality at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from aecli.errors import AecliError
from aecli.metrics import psnr
from aecli.models.codec import Codec, rate_distortion
from aecli.models.denoiser import Denoiser
from aecli.training.data import FolderSource
from aecli.training.noise import photograph_noise

VALIDATION_SIGMAS = (15, 25, 50)
MAX_SIGMA = 75 / 255
GREY_SHARE = 0.1
# The loss at the optimum grows about as the square root of lambda. Divided by that, no quality drowns the others, which suits
# a measure (BD-rate) that counts rates by their logarithm.
LAMBDA_WEIGHT = 0.5
REFERENCE_LAMBDA = 0.0067


class DenoiserTask:
    """L1 between clean and restored patches, noise of a level drawn evenly from 0–75."""

    def __init__(self, model: Denoiser, source: FolderSource, valid: Sequence[Tensor]) -> None:
        self.model, self.source, self.valid = model, source, valid

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        sigma = torch.rand(len(x), generator=generator) * MAX_SIGMA
        noisy = photograph_noise(x.cpu(), sigma, generator).to(x.device)
        restored = self.model(noisy, sigma.to(x.device))
        return (restored - x).abs().mean()  # type: ignore[no-any-return]

    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR at sigma 15, 25 and 50 on held-out crops, noise not clipped; `psnr` is that at 25."""
        figures = {}
        for sigma in VALIDATION_SIGMAS:
            scores = []
            for index, clean in enumerate(self.valid):
                noise = np.random.default_rng(index).standard_normal(clean.shape).astype(np.float32)
                noisy = clean + torch.from_numpy(noise) * (sigma / 255)
                device = next(model.parameters()).device
                restored = model(noisy[None].to(device), torch.tensor([sigma / 255], device=device))[0].cpu()
                scores.append(psnr((restored.float().clamp(0, 1) * 255).round() / 255, clean))
            figures[f"psnr{sigma}"] = float(np.mean(scores))
        return {"psnr": figures["psnr25"], **figures}


class CodecTask:
    """Bits per pixel + lambda · 255² · squared error, a lambda drawn at random for every patch."""

    def __init__(self, model: Codec, source: FolderSource, valid: Sequence[Tensor]) -> None:
        self.model, self.source = model, source
        # Whole blocks of 64, so that no bits go into padding
        self.valid = [v[:, : v.shape[1] // 64 * 64, : v.shape[2] // 64 * 64] for v in valid if min(v.shape[1:]) >= 64]
        if not self.valid:
            raise AecliError("no validation picture is as large as 64×64: add larger pictures, or pass others as --valid")

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        lambdas = torch.tensor(self.model.config.lambdas)
        level = torch.randint(0, len(lambdas), (len(x),), generator=generator)
        output = self.model(x, level.float().to(x.device))
        loss, _, _ = rate_distortion(output, x, lambdas[level].to(x.device))
        weight = (lambdas[level] / REFERENCE_LAMBDA) ** -LAMBDA_WEIGHT
        return (loss * weight.to(x.device)).mean()

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Estimated bits per pixel and PSNR at every second lambda; `psnr` and `bpp` are those of the third."""
        assert isinstance(model, Codec)
        figures = {}
        device = next(model.parameters()).device
        for level in range(0, len(model.config.lambdas), 2):
            rows = []
            for clean in self.valid:
                x = clean[None].to(device)
                output = model(x, torch.tensor([float(level)], device=device))
                _, bpp, _ = rate_distortion(output, x, torch.ones(1, device=device))
                rows.append((bpp.item(), psnr(output.x_hat[0].clamp(0, 1).cpu(), clean)))
            figures[f"bpp{level}"], figures[f"psnr{level}"] = (float(v) for v in np.mean(rows, axis=0))
        return {"psnr": figures["psnr2"], "bpp": figures["bpp2"], **figures}
