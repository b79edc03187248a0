"""Units that have fallen silent, made anew before training goes on (ReDo, Sokar et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aecli.models.layers import ResidualBlock

DORMANT = 0.001  # share of a picture's places where a unit is active; made anew is what stays below it in every picture
NEIGHBOURHOOD = 8  # places: what so many have in common is brightness, by which units are driven silent
COLOURS = 3


@torch.no_grad()
def recycle(model: nn.Module, run: Callable[[], Any], generator: torch.Generator) -> int:
    """Give the units of residual blocks that are hardly ever active new incoming weights, and outgoing ones that are zero.

    The model goes on computing what it did, but for the few places where one of them was active, and they learn again: a ReLU
    that is never active has no gradient. What they hear at first is orthonormal, and nothing of what a neighbourhood has in common.

    Args:
        model: without biases in its residual blocks; changed in place. Only blocks with a ReLU are looked at.
        run: passes a batch through the model that is typical of its training.
        generator: of the new weights, on the CPU.

    Returns:
        How many units were made anew.
    """
    inputs: dict[ResidualBlock, Tensor] = {}
    blocks = [m for m in model.modules() if isinstance(m, ResidualBlock) and isinstance(m.body[1], nn.ReLU)]
    hooks = [block.register_forward_pre_hook(lambda block, given: inputs.update({block: given[0]})) for block in blocks]
    run()
    for hook in hooks:
        hook.remove()
    return sum(_renew_dormant(block, x, generator) for block, x in inputs.items())


def _renew_dormant(block: ResidualBlock, x: Tensor, generator: torch.Generator) -> int:
    """x: what the block was given, (B, C, H, W)."""
    first, last = (m for m in block.body if isinstance(m, nn.Conv2d))
    dormant = (first(x) > 0).float().mean(dim=(2, 3)).amax(dim=0) < DORMANT
    shared = _shared_directions(x)
    fresh = torch.randn(first.weight.shape, generator=generator).flatten(2)
    heard = torch.einsum("oit,ij->oj", fresh, shared)
    fresh -= torch.einsum("oj,ij->oi", heard, shared)[..., None] / fresh.shape[2]
    rows = torch.linalg.qr(fresh.flatten(1).T).Q.T.reshape(first.weight.shape)
    first.weight[dormant] = rows[dormant]
    last.weight[:, dormant] = 0
    return int(dormant.sum())


def _shared_directions(x: Tensor) -> Tensor:
    """What neighbourhoods of (B, C, H, W) have in common: (C, 3), orthonormal."""
    means = F.avg_pool2d(x, min(NEIGHBOURHOOD, *x.shape[2:])).transpose(0, 1).flatten(1)
    directions: Tensor = torch.linalg.eigh(means @ means.T).eigenvectors
    return directions[:, -COLOURS:]
