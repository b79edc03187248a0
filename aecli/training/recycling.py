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


class _Watch:
    """What passes through a residual block: `active`, the share of places where each unit is in the picture that
    it likes best, and `shared`, the directions (C, 3) of its input that neighbourhoods have in common."""

    def __init__(self, block: ResidualBlock) -> None:
        self.block = block
        self._active: list[Tensor] = []
        self._means: list[Tensor] = []
        self.hooks = [block.register_forward_pre_hook(self._see_input), block.body[0].register_forward_hook(self._see_units)]

    def _see_input(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        self._means.append(F.avg_pool2d(x.float(), min(NEIGHBOURHOOD, *x.shape[2:])).transpose(0, 1).flatten(1))

    def _see_units(self, conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._active.append((output > 0).float().mean(dim=(2, 3)))

    @property
    def active(self) -> Tensor:
        return torch.cat(self._active).amax(dim=0)

    @property
    def shared(self) -> Tensor:
        means = torch.cat(self._means, dim=1)
        directions: Tensor = torch.linalg.eigh(means @ means.T).eigenvectors
        return directions[:, -COLOURS:]


@torch.no_grad()
def recycle(model: nn.Module, run: Callable[[], Any], generator: torch.Generator) -> int:
    """Give the units of residual blocks that are hardly ever active new incoming weights, and outgoing ones that are zero.

    The model goes on computing what it did, but for the few places where one of them was active, and they learn again: a ReLU
    that is never active has no gradient. What they hear at first is orthonormal, and nothing of what a neighbourhood has in common.

    Args:
        model: without biases in its residual blocks; changed in place. Only blocks with a ReLU are looked at.
        run: passes inputs through the model that are typical of its training.
        generator: of the new weights, on the CPU.

    Returns:
        How many units were made anew.
    """
    watches = [_Watch(m) for m in model.modules() if isinstance(m, ResidualBlock) and isinstance(m.body[1], nn.ReLU)]
    run()
    for hook in (hook for watch in watches for hook in watch.hooks):
        hook.remove()
    return sum(_renew(watch.block, watch.active < DORMANT, watch.shared, generator) for watch in watches)


def _renew(block: ResidualBlock, dormant: Tensor, shared: Tensor, generator: torch.Generator) -> int:
    """dormant: (C,) bool. shared: (C, 3), orthonormal."""
    first, last = (m for m in block.body if isinstance(m, nn.Conv2d))
    fresh = torch.randn(first.weight.shape, generator=generator).flatten(2)
    heard = torch.einsum("oit,ij->oj", fresh, shared)
    fresh -= torch.einsum("oj,ij->oi", heard, shared)[..., None] / fresh.shape[2]
    rows = torch.linalg.qr(fresh.flatten(1).T).Q.T.reshape(first.weight.shape)
    first.weight[dormant] = rows[dormant]
    last.weight[:, dormant] = 0
    return int(dormant.sum())
