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
from aecli.training.drawings import Drawings
from aecli.training.noise import DRAWINGS, Degraded, add_gaussian, degrade

VALIDATION_SIGMAS = (15, 25, 50)
GREY_SHARE = 0.1
REDUCED_SHARE = 0.25  # of the denoiser's patches: twice as sharp, as pictures are that people reduced
# The estimator learns from its own loss alone. This share makes it about as large as the denoiser's, which Muon ignores, while
# the clipping of gradients does not.
ESTIMATE_WEIGHT = 0.05
ESTIMATE_FLOOR = 2 / 255  # below this, errors of the estimate count by their size and not in proportion
LOW_ESTIMATE_WEIGHT = 2.0  # noise that is taken for the picture stays; the other error smooths a little (CBDNet, Guo et al. 2019)
# Errors grow about as the square root of the noise. Divided by that, strong noise does not drown the weak noise of most files,
# which suits a measure (PSNR) that counts errors by their logarithm.
LEVEL_FLOOR = 4 / 255
TYPICAL_LEVEL = 25 / 255
DRAWN_SHARE = 0.12  # of a batch: pages drawn by script
# The loss at the optimum grows about as the square root of lambda. Divided by that, no quality drowns the others, which suits
# a measure (BD-rate) that counts rates by their logarithm.
LAMBDA_WEIGHT = 0.5
REFERENCE_LAMBDA = 0.0067


class DenoiserTask:
    """L1 between clean and restored patches, told the noise level or left to its own estimate, which has a loss of its own.

    Where more is told than the noise has, the picture to learn is what the model makes of white noise of that level: so a
    higher level removes at least the noise, whatever its kind, and more of the picture.
    """

    def __init__(self, model: Denoiser, source: FolderSource, valid: Sequence[Tensor], drawings: Drawings) -> None:
        self.model, self.source, self.valid, self.drawings = model, source, valid, drawings

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 has too few bits for the noise of good cameras
            batch = self._degraded(x, generator)
        noisy = batch.noisy.contiguous(memory_format=torch.channels_last)
        target = self._target(batch)
        estimate = self.model.estimate(noisy)
        level = torch.where(batch.told.isnan(), estimate.detach(), batch.told)
        weight = (TYPICAL_LEVEL / (batch.sigma.mean(dim=(1, 2, 3), keepdim=True) + LEVEL_FLOOR)).sqrt()
        restoring = (weight * (self.model(noisy, level) - target).abs()).mean()
        ratio = ((estimate + ESTIMATE_FLOOR) / (batch.sigma + ESTIMATE_FLOOR)).log()
        estimating = torch.where(ratio < 0, -LOW_ESTIMATE_WEIGHT * ratio, ratio).mean()
        loss: Tensor = restoring + ESTIMATE_WEIGHT * estimating
        return loss

    def _degraded(self, x: Tensor, generator: torch.Generator) -> Degraded:
        """The batch with noise, its first patches replaced by drawn ones; the generator is on the CPU."""
        drawn = int(DRAWN_SHARE * len(x) + torch.rand((), generator=generator))
        pages = self.drawings.batch(drawn, generator).to(x.device)
        own = torch.Generator(x.device).manual_seed(generator.initial_seed() + 1)
        photographs = degrade(x[drawn:], own)
        if not drawn:
            return photographs
        return Degraded(*(torch.cat(pair) for pair in zip(degrade(pages, own, DRAWINGS), photographs, strict=True)))

    @torch.no_grad()
    def _target(self, batch: Degraded) -> Tensor:
        if not batch.excess.any():
            return batch.clean
        clean, told = batch.clean[batch.excess], batch.told[batch.excess]
        noisy = (clean + told * torch.randn_like(clean)).contiguous(memory_format=torch.channels_last)
        target = batch.clean.clone()
        target[batch.excess] = self.model(noisy, told.expand(-1, 1, *clean.shape[2:])).float()
        torch.clear_autocast_cache()  # it holds copies of the weights that have no gradient
        return target

    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR on held-out crops at sigma 15, 25, 50: told, not clipped (`psnr25`), and blind, as in a file (`blind25`).

        `psnr` is that at 25, told; `clean` that of pictures without noise, blind.
        """
        assert isinstance(model, Denoiser)
        figures = {}
        for sigma in VALIDATION_SIGMAS:
            figures[f"psnr{sigma}"] = self._psnr(model, sigma, blind=False)
            figures[f"blind{sigma}"] = self._psnr(model, sigma, blind=True)
        return {"psnr": figures["psnr25"], **figures, "clean": self._psnr(model, 0, blind=True)}

    def _psnr(self, model: Denoiser, sigma: float, *, blind: bool) -> float:
        device = next(model.parameters()).device
        scores = []
        for index, clean in enumerate(self.valid):
            generator = torch.Generator().manual_seed(index)
            noisy = add_gaussian(clean, sigma / 255, generator, as_file=blind)[None].to(device)
            level = model.blind_level(noisy) if blind else torch.tensor([sigma / 255], device=device)
            restored = model(noisy, level)[0].cpu().float()
            scores.append(psnr((restored.clamp(0, 1) * 255).round() / 255, clean))
        return float(np.mean(scores))


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
