"""Encoding with effort: the symbols of one picture are chosen anew for that picture.

An encoder network is right on average; for the picture at hand, other symbols cost fewer bits or give a smaller error (Campos et
al. 2019, "Content adaptive optimization for neural image compression"). The decoder need not know. Here integers are moved and
nothing else: each round takes the gradient of the error at the decoded picture and moves a part of the symbols to where a
quadratic model of the error, and the bits that they would cost, are least together (iterative hard thresholding, Blumensath &
Davies 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aecli.device import Compute
from aecli.models.codec import BLOCK, Codec, dead_zone, gaussian_bits, scale_of_index, symbols_near

# Symbols that are moved at once disturb one another: few are, and each counts for more than it is alone.
MOVED_SHARE = 0.35
CAUTION = 2.0
MORE_CAUTION = 1.5  # times as much after a round that made matters worse
PROBED_SHARE, PROBES_A_CHANNEL, MOST_PROBES = 1 / 32, 80, 16
LEAST_CURVATURE = 0.4  # of the mean: what is less is chance


@dataclass(frozen=True)
class _Choice:
    """Symbols (1, M, h, w) and what follows from them: their means and standard deviations, bits + lambda · error, and the
    gradient of lambda · error by y_hat. All on the CPU: what counts bits is not there, or not as exact, on every device."""

    symbols: Tensor
    mu: Tensor
    sigma: Tensor
    cost: float
    gradient: Tensor


def refine(model: Codec, x: Tensor, y: Tensor, features: Tensor, level: float, rounds: int, compute: Compute) -> Tensor:
    """Latents that cost less than the encoder's, in bits + lambda · 255² · squared error.

    Args:
        x: the picture (1, 3, H, W), or (1, 1, H, W) where a grey one is to be decoded, in 0–1; where it is smaller than what y
            stands for, the rest is padding, whose error is free.
        y: what the encoder gives, after the gain, (1, M, h, w), h and w even.
        features: what h_s gives, (1, E, h, w).
        level: as of `Codec.gains`.
        rounds: each takes the time of about three decodings; before the first, two to seventeen times that are spent, the
            latter on small pictures.

    Returns:
        y (1, M, h, w) float32; coded, it costs no more than the one given, as far as the estimate goes: that of the bits, and of
        the error before the picture is rounded.
    """
    picture = _Problem(model, x, features, level, compute)
    generator = torch.Generator().manual_seed(0)

    def some(share: float) -> Tensor:
        return torch.rand(y.shape, generator=generator) < share

    best = picture.chosen(lambda mu, index: symbols_near(y - mu, index))
    curvature = picture.curvature(best, some)
    for _ in range(rounds):
        symbols = torch.where(some(MOVED_SHARE), _moved(best, curvature), best.symbols)
        choice = picture.chosen(lambda mu, index, symbols=symbols: symbols)  # type: ignore[misc]
        if choice.cost < best.cost:
            best = choice
        else:
            curvature = curvature * MORE_CAUTION
    return best.symbols + best.symbols.sign() * dead_zone(best.sigma) + best.mu


class _Problem:
    """One picture, and what symbols mean for it."""

    def __init__(self, model: Codec, x: Tensor, features: Tensor, level: float, compute: Compute) -> None:
        self._model, self._compute = model, compute
        self._x, self._features = x.to(compute.device), features.to(compute.device)
        self._level = torch.tensor([level], device=compute.device)
        with torch.no_grad():
            self._inverse_gain = model.gains(self._level)[1]
        # An error of 1 in one channel of one pixel, in bits
        self._error_weight = model.lambda_of(level) * 255**2 / x.shape[1]

    def chosen(self, symbols_of: Callable[[Tensor, Tensor], Tensor]) -> _Choice:
        """The symbols that are chosen once their means are known, and all about them."""
        with torch.no_grad():
            # In float32: mu may be a few hundred, and matters to a tenth
            found = self._model.two_passes(self._features, lambda mu, index: symbols_of(mu.cpu(), index.cpu()).to(mu.device))
            symbols, mu, index = (part.cpu() for part in found)
            sigma = scale_of_index(index)
            bits = gaussian_bits(symbols, sigma).sum().item()
        error, gradient = self._error_and_gradient(symbols + mu)
        return _Choice(symbols, mu, sigma, bits + error, gradient)

    def curvature(self, choice: _Choice, some: Callable[[float], Tensor]) -> Tensor:
        """What moving one symbol of a channel by 1 adds to the error of an optimum, in bits, (1, M, 1, 1).

        Half the mean diagonal of the Hessian, by probing a few symbols at a time (Hutchinson's estimator).
        """
        y_hat = choice.symbols + choice.mu
        rows, columns = (-(-side // BLOCK) for side in self._x.shape[-2:])  # the rest stands for padding
        inside = torch.zeros(y_hat.shape[-2:])
        inside[:rows, :columns] = 0.5
        total, count = torch.zeros(2, *y_hat.shape[:2])
        probes = math.ceil(PROBES_A_CHANNEL / (PROBED_SHARE * rows * columns))
        for _ in range(min(probes, MOST_PROBES)):
            probe = torch.where(some(PROBED_SHARE), torch.where(some(0.5), inside, -inside), 0.0)
            change = self._error_and_gradient(y_hat + probe)[1] - choice.gradient
            total += 0.5 * (change * probe).sum(dim=(2, 3))
            count += (probe * probe).sum(dim=(2, 3))
        mean = (total.sum() / count.sum()).item()
        by_channel: Tensor = (total / count).nan_to_num(mean).clamp(min=LEAST_CURVATURE * mean)
        return CAUTION * by_channel[..., None, None]

    def _error_and_gradient(self, y_hat: Tensor) -> tuple[float, Tensor]:
        y_hat = y_hat.to(self._compute.device, copy=True).requires_grad_()
        with torch.enable_grad(), self._compute.autocast():
            scaled = (y_hat * self._inverse_gain).contiguous(memory_format=torch.channels_last)
            x_hat = self._model.synthesis(scaled, self._level).float()[..., : self._x.shape[2], : self._x.shape[3]]
            if self._x.shape[1] == 1:
                x_hat = x_hat.mean(dim=1, keepdim=True)
            error = self._error_weight * F.mse_loss(x_hat, self._x, reduction="sum")
        (gradient,) = torch.autograd.grad(error, y_hat)
        return error.item(), gradient.cpu()


def _moved(choice: _Choice, curvature: Tensor) -> Tensor:
    """The symbols, each moved to the cheapest of the three around the minimum of the model, if cheaper, as if it were alone."""
    wanted = choice.symbols - choice.gradient / (2 * curvature)
    nearest = wanted.round()
    candidates = (choice.symbols, nearest, nearest - nearest.sign(), nearest + (wanted - nearest).sign())
    costs = [gaussian_bits(s, choice.sigma) + curvature * (s - wanted) ** 2 for s in candidates]
    cheapest = torch.stack(costs).argmin(dim=0, keepdim=True)
    return torch.stack(candidates).gather(0, cheapest)[0]
