"""Exact evaluation of the codec's entropy networks: the same integers on every machine, thread count and instruction set.

Activations are integers in units of 2^-12, weights integers in units of 2^-14. A convolution multiplies and adds them in
float64, where every partial sum stays below 2^53 (checked for each layer when a model is loaded) and is therefore an exact
integer, in whatever order it is summed; scaling by a power of two and flooring are exact as well. Nothing is rounded, so
nothing can be rounded differently (the integer networks of Ballé, Johnston & Minnen 2019, carried by float64 units).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aecli.errors import AecliError
from aecli.models.codec import checkerboard

FRACTION_BITS = 12
WEIGHT_BITS = 14
ACTIVATION_LIMIT = 2.0**23  # ±2048 in units of the float network
STRIP_VALUES = 1 << 23  # float64 values that a convolution may unfold at once: 64 MiB
_EXACT_LIMIT = 2.0**53


class ExactNetwork:
    """A chain of convolutions, ReLU and pixel shuffle, evaluated exactly on the CPU."""

    def __init__(self, network: nn.Module) -> None:
        self._layers: list[Callable[[Tensor], Tensor]] = []
        for layer in _leaves(network):
            if isinstance(layer, nn.Conv2d):
                self._layers.append(_ExactConv(layer))
            elif isinstance(layer, nn.ReLU) and self._layers:  # in place: never the first, which reads what the caller gave
                self._layers.append(torch.relu_)
            elif isinstance(layer, nn.PixelShuffle):
                self._layers.append(layer)
            else:
                raise TypeError(f"{type(layer).__name__} has no exact form")

    def __call__(self, x: Tensor) -> Tensor:
        """Fixed-point numbers (`to_fixed`) in, fixed-point numbers out; (B, C, H, W) float64."""
        for layer in self._layers:
            x = layer(x)
        return x


class _ExactConv:
    def __init__(self, conv: nn.Conv2d) -> None:
        self.weight = (conv.weight.detach().cpu().double() * 2**WEIGHT_BITS).round()
        bias = conv.bias if conv.bias is not None else torch.zeros(conv.out_channels)
        self.bias = (bias.detach().cpu().double() * 2 ** (WEIGHT_BITS + FRACTION_BITS)).round()
        self.padding = (conv.kernel_size[0] // 2, conv.kernel_size[1] // 2)  # all keep height and width
        largest = self.weight.abs().sum(dim=(1, 2, 3)) * ACTIVATION_LIMIT + self.bias.abs() + 2**WEIGHT_BITS
        if not bool((largest < _EXACT_LIMIT).all()):
            raise AecliError("these codec weights are too large to be evaluated exactly: train them again with a smaller --lr")

    def __call__(self, x: Tensor) -> Tensor:
        pad_rows, pad_columns = self.padding
        if pad_rows or pad_columns:
            x = F.pad(x, (pad_columns, pad_columns, pad_rows, pad_rows))
        rows = x.shape[2] - 2 * pad_rows
        # torch unfolds its input for float64 convolutions, 25-fold for a 5×5 one: in strips, large pictures fit in memory.
        strip = max(1, STRIP_VALUES // (x.shape[3] * self.weight[0].numel()))
        result = x.new_empty(x.shape[0], len(self.weight), rows, x.shape[3] - 2 * pad_columns)
        for top in range(0, rows, strip):
            bottom = min(top + strip, rows)
            total = F.conv2d(x[:, :, top : bottom + 2 * pad_rows], self.weight, self.bias)
            result[:, :, top:bottom] = _activations(total)
        return result


class ExactCheckerboardConv:
    """The exact form of a convolution that sees the anchors of a checkerboard and nothing else, at the positions between them:
    half of the positions, and at each of them not half of the weights."""

    def __init__(self, conv: nn.Conv2d) -> None:
        whole = _ExactConv(conv)
        taps = ~checkerboard(*whole.weight.shape[2:])  # an odd step away from the middle
        self.radius = whole.padding[0]
        self._taps = taps.nonzero()
        self._weight, self._bias = whole.weight[:, :, taps].flatten(1), whole.bias[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        """Fixed-point numbers (C, H + 2 · radius, W + 2 · radius), an anchor at the first of (H, W) → (C', n), at the n others."""
        height, width = (side - 2 * self.radius for side in x.shape[1:])
        where = (~checkerboard(height, width)).nonzero()
        rows, columns = (where + self._taps[:, None]).unbind(dim=2)  # (taps, n)
        return _activations(self._weight @ x[:, rows, columns].flatten(0, 1).double() + self._bias)


def _activations(total: Tensor) -> Tensor:
    """Sums in units of weights and activations → activations; in place."""
    rounded = total.add_(2 ** (WEIGHT_BITS - 1)).mul_(2.0**-WEIGHT_BITS).floor_()
    return rounded.clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


def to_fixed(x: Tensor) -> Tensor:
    """Integers → fixed-point numbers in float64, limited to what the networks take."""
    return (x.double() * 2.0**FRACTION_BITS).clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


def from_fixed(x: Tensor) -> Tensor:
    """Fixed-point numbers → their values."""
    return x * 2.0**-FRACTION_BITS


def _leaves(network: nn.Module) -> Iterator[nn.Module]:
    children = list(network.children())
    if not children:
        yield network
    for child in children:
        yield from _leaves(child)
