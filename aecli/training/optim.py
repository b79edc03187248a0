"""The optimiser of every model here: Muon on the matrices of a network, AdamW on all the rest."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

# Narrower matrices (colour in, colour out) are left to AdamW; so are wider ones, where the iterations would cost more than
# the gradient of a small batch.
NARROWEST, WIDEST = 32, 384
BF16_FROM = 192  # smaller side; narrower matrices are as fast by their Gram matrices in float32, wherever that was measured
# Of the iterations, in their order: those of Polar Express (Amsel et al. 2025). At the cost of Jordan's, which are the same for
# all, small singular values come twice as near to one, and all others within 0.13 of it.
SAFETY = 1.01  # what rounding may add to a norm of one
COEFFICIENTS = tuple(
    (a / SAFETY, b / SAFETY**3, c / SAFETY**5)
    for a, b, c in (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    )
)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton–Schulz iterations (Jordan et al. 2024), with AdamW for what is not a matrix.

    A convolution's weight counts as an (out, in·k·k) matrix. The update is scaled by 0.2·√max(rows, columns), which gives
    it the root mean square of an AdamW step (Liu et al. 2025), so that one learning rate serves both. Such a step moves the
    outputs of a wide layer by more than those of a narrow one; beyond `largest` rows or columns it grows no more.

    bf16: whether the iterations run in bfloat16, which only some processors have instructions for (`aecli.device`).

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
        bf16: bool = False,
    ) -> None:
        self.largest, self.bf16 = largest, bf16
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
            with_gradients = [p for p in group["params"] if p.grad is not None]
            if with_gradients:
                (self._step_matrices if group["matrices"] else self._step_adamw)(group, with_gradients)

    def _step_matrices(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients: list[Any] = [p.grad for p in parameters]
        momenta = [self._state_of(p, "momentum")["momentum"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p, update in zip(parameters, (u.flatten(1) for u in updates), strict=True):
            by_shape[(update.shape[0], update.shape[1])].append((p, update))
        for (rows, columns), pairs in by_shape.items():
            scale = 0.2 * min(max(rows, columns), self.largest) ** 0.5
            bf16 = self.bf16 and min(rows, columns) >= BF16_FROM
            orthogonal = orthogonalise(torch.stack([u for _, u in pairs]), bf16=bf16)
            for (p, _), update in zip(pairs, orthogonal, strict=True):
                p.sub_(update.view_as(p), alpha=group["lr"] * scale)

    def _step_adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        states = [self._state_of(p, "mean", "square") for p in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters],  # type: ignore[misc]
            [s["mean"] for s in states],
            [s["square"] for s in states],
            [],
            [s["updates"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _state_of(self, p: Tensor, *averages: str) -> dict[str, Tensor]:
        """The averages of a parameter's gradients, and how many went into them."""
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["updates"] = torch.zeros((), device=p.device)
            state.update({name: torch.zeros_like(p) for name in averages})
        return state


def orthogonalise(matrices: Tensor, *, bf16: bool = False) -> Tensor:
    """The nearest (semi-)orthogonal matrices, approximately: (n, rows, columns) → the same shape, singular values about one.

    Quintic Newton–Schulz iterations, in bfloat16 as published where that is fast. In float32, which is precise enough for it,
    they run on the Gram matrices alone, which are as large as the smaller side.
    """
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = _iterated(x.bfloat16()).to(matrices.dtype) if bf16 else _iterated_by_gram(x)
    return x.mT if tall else x


def _iterated(x: Tensor) -> Tensor:
    """x ← (a + b x xᵀ + c (x xᵀ)²) x, again and again."""
    for a, b, c in COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterated_by_gram(x: Tensor) -> Tensor:
    """The same: every factor p is a polynomial of the first x xᵀ, so that they commute, and the next x xᵀ is p x xᵀ p."""
    gram = x @ x.mT
    p = product = _polynomial(gram, *COEFFICIENTS[0])
    for coefficients in COEFFICIENTS[1:]:
        gram = p @ gram @ p
        p = _polynomial(gram, *coefficients)
        product = p @ product
    return product @ x


def _polynomial(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """a + b gram + c gram²."""
    p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    p.diagonal(dim1=1, dim2=2).add_(a)
    return p


def _is_matrix(p: Tensor) -> bool:
    return p.ndim >= 2 and NARROWEST <= min(p.shape[0], p[0].numel()) <= WIDEST
