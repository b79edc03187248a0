"""Pictures as grids of equal patches: how an autoencoder for small pictures takes one of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from aecli.device import Compute, one_thread
from aecli.errors import AecliError
from aecli.models.dense import FeatureAutoencoder, HasShape

BATCH = 512
# What a call of a network on small pictures, or patches, takes. On one thread, in bfloat16, a patch then takes so much less time
# than in a call of its own: 28×28 by `conv` 5.2 ×, by `deep` with 32 dimensions 10 ×, 64×64 in colour by `conv` 1.9 ×.
CALL_PIXELS, CALL_PICTURES = 4 * 64 * 64, 16
VECTORS = 64  # values that torch takes at once: two vectors of 32 in bfloat16


@dataclass(frozen=True)
class Shape:
    """Of a patch."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Grid:
    """A picture of height × width pixels, cut into rows × columns patches."""

    height: int
    width: int
    rows: int
    columns: int


def grid_of(height: int, width: int, shape: HasShape) -> Grid:
    """The grid of a picture of height × width."""
    return Grid(height, width, -(-height // shape.height), -(-width // shape.width))


def to_patches(x: Tensor, shape: HasShape, name: str) -> tuple[Tensor, Grid]:
    """Cut a picture into patches, the last ones filled up by repeating the edge.

    Args:
        x: (C, H, W) in 0–1, C 1 or 3; converted to the colours the model takes.
        shape: of the pictures that the model takes.
        name: what errors call the weights.

    Returns:
        (rows · columns, channels, height, width), and the grid.

    Raises:
        AecliError: a picture smaller than one patch.
    """
    height, width = x.shape[-2:]
    h, w = shape.height, shape.width
    if height < h or width < w:
        raise AecliError(
            f"a picture of {width}×{height} is too small for {name}, which takes {w}×{h} and larger: pass other --weights"
        )
    grid = grid_of(height, width, shape)
    x = _fitted(x, shape.channels, grid.rows * h, grid.columns * w)
    patches = x.unfold(1, h, h).unfold(2, w, w)  # (C, rows, columns, h, w)
    return patches.permute(1, 2, 0, 3, 4).reshape(-1, shape.channels, h, w), grid


def some_patches(pixels: np.ndarray, shape: HasShape, count: int) -> Tensor:
    """At most `count` of the patches that `to_patches` cuts, evenly spread. The rest of the picture never becomes floats.

    pixels: (H, W, 1 or 3) uint8 or uint16, at least one patch → (at most count, channels, height, width) in 0–1.
    """
    h, w = shape.height, shape.width
    height, width, _ = pixels.shape
    grid = grid_of(height, width, shape)
    places = torch.linspace(0, grid.rows * grid.columns - 1, min(count, grid.rows * grid.columns)).long().tolist()
    corners = [(h * (place // grid.columns), w * (place % grid.columns)) for place in places]
    parts = [to_tensor(pixels[top : top + h, left : left + w]) for top, left in corners]
    return torch.stack([_fitted(part, shape.channels, h, w) for part in parts])


def _fitted(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """(C, H, W) → (channels, height, width), at least as large: filled up by repeating the last row and column."""
    if channels == 1 and x.shape[0] == 3:
        x = luminance(x[None])[0]
    margins = (0, width - x.shape[-1], 0, height - x.shape[-2])
    return F.pad(x.expand(channels, -1, -1)[None], margins, mode="replicate")[0]


def from_patches(patches: Tensor, grid: Grid, *, channels: int) -> Tensor:
    """The picture again, (channels, H, W): colours that the model does not have are repeated, grey is their mean."""
    _, C, h, w = patches.shape
    x = patches.view(grid.rows, grid.columns, C, h, w).permute(2, 0, 3, 1, 4).reshape(C, grid.rows * h, grid.columns * w)
    x = x[:, : grid.height, : grid.width]
    return x.expand(channels, -1, -1) if channels >= C else x.mean(dim=0, keepdim=True)


def in_batches(function: Callable[[Tensor], Tensor], x: Tensor, compute: Compute, *, size: int = BATCH) -> Tensor:
    """Apply a network to many patches or codes, (n, …), `size` at a time; the result is float32 on the CPU."""
    with torch.inference_mode(), compute.autocast():
        return torch.cat([function(part.to(compute.device)).float().cpu() for part in torch.split(x, size)])


def call_size(height: int, width: int) -> int:
    """How many pictures, or patches, of height × width go through a network in one call where that is faster; otherwise 1."""
    return max(1, min(CALL_PICTURES, CALL_PIXELS // (height * width)))


def goes_together(height: int, width: int, model: FeatureAutoencoder) -> bool:
    """Whether pictures of height × width are so small that `together` takes several in one call."""
    grid = grid_of(height, width, model.config)
    return 2 * grid.rows * grid.columns <= _patches_a_call(model)


def _patches_a_call(model: FeatureAutoencoder) -> int:
    count, pixels = call_size(model.config.height, model.config.width), model.config.height * model.config.width
    return count if model.narrowest >= VECTORS and count * pixels % VECTORS == 0 else 1


def together(
    function: Callable[[Tensor], Tensor], parts: Sequence[Tensor], compute: Compute, model: FeatureAutoencoder
) -> Sequence[Tensor]:
    """Apply a network to the patches or codes of each of several pictures: several small pictures at a time, filled up with zeros.

    What becomes of a picture must not depend on which others there are. So a call on small pictures always has one size, even
    for a single one, as rounding differs between sizes. It has one thread, and whole vectors of pixels, as rounding differs in
    what is left over (see `one_thread`).

    Args:
        function: the model, or half of it.
        parts: (n, …) each, all of one shape.
        compute: where to run.
        model: a model with a layer that is too narrow for that takes one picture at a time.

    Returns:
        What `function` gives for each, float32 on the CPU.
    """
    call, n = _patches_a_call(model), len(parts[0])
    count = call // n
    if count < 2:
        return [in_batches(function, part, compute) for part in parts]
    results: list[Tensor] = []
    for start in range(0, len(parts), count):
        x = torch.cat(list(parts[start : start + count]))
        filled = torch.cat([x, x.new_zeros(call - len(x), *x.shape[1:])])
        with one_thread():
            results += torch.split(in_batches(function, filled, compute)[: len(x)], n)
    return results


def reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    """The central square of a picture, (H, W, 1 or 3) uint8, reduced to (side, side, 3)."""
    height, width = pixels.shape[:2]
    edge = min(height, width)
    left, top = (width - edge) // 2, (height - edge) // 2
    image = Image.fromarray(np.broadcast_to(pixels, (height, width, 3)).copy())
    return np.array(image.resize((side, side), Image.Resampling.LANCZOS, box=(left, top, left + edge, top + edge)))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, C) uint8 or uint16 → (C, H, W) float32 in 0–1."""
    largest = np.iinfo(pixels.dtype).max
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) / largest


def luminance(x: Tensor) -> Tensor:
    """(B, 3, H, W) RGB → (B, 1, H, W) with the weights of ITU-R BT.601, as Pillow's mode L."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype, device=x.device)
    return (x * weights[:, None, None]).sum(dim=1, keepdim=True)
