"""The optimiser of every model here: Muon on the matrices of a network, AdamW on all the rest."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Narrower matrices (colour in, colour out) are left to AdamW; so are wider ones, where the iterations would cost more than
# the gradient of a small batch.
NARROWEST, WIDEST = 32, 384


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton–Schulz iterations (Jordan et al. 2024), with AdamW for what is not a matrix.

    A convolution's weight counts as an (out, in·k·k) matrix. The update is scaled by 0.2·√max(rows, columns), which gives
    it the root mean square of an AdamW step (Liu et al. 2025), so that one learning rate serves both. Such a step moves the
    outputs of a wide layer by more than those of a narrow one; beyond `largest` rows or columns it grows no more.

    torch.optim.Muon has the method for 2-D parameters only, and only from torch 2.9 on.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.0,
        largest: float = math.inf,
    ) -> None:
        self.largest = largest
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if _is_matrix(p)], "matrices": True},
            {"params": [p for p in parameters if not _is_matrix(p)], "matrices": False},
        ]
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay}
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients at hand."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and group["weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
            if group["matrices"]:
                self._step_matrices(group)
            else:
                self._step_adamw(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(momentum, group["momentum"]).flatten(1)  # Nesterov
            by_shape[(update.shape[0], update.shape[1])].append((p, update))
        for (rows, columns), pairs in by_shape.items():
            scale = 0.2 * min(max(rows, columns), self.largest) ** 0.5
            for (p, _), update in zip(pairs, orthogonalise(torch.stack([u for _, u in pairs])), strict=True):
                p.sub_(update.view_as(p), alpha=group["lr"] * scale)

    def _step_adamw(self, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            mean = state["mean"].lerp_(p.grad, 1 - beta1)
            square = state["square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            t = state["step"].item()
            denominator = (square / (1 - beta2**t)).sqrt_().add_(1e-8)
            p.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1**t))


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices, approximately: (n, rows, columns) → the same shape, singular values about one.

    Quintic Newton–Schulz iteration with Jordan's coefficients, in bfloat16 as published.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrices.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = x.shape[1] <= x.shape[2]
    if not wide:
        x = x.mT
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    if not wide:
        x = x.mT
    return x.to(matrices.dtype)


def _is_matrix(p: Tensor) -> bool:
    return p.ndim >= 2 and NARROWEST <= min(p.shape[0], p[0].numel()) <= WIDEST
