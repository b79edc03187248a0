"""Large pictures in bounded memory, with no seams: tiles that overlap by the network's receptive field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor

from aecli.errors import is_out_of_memory
from aecli.progress import tell

T = TypeVar("T")
SMALLEST_TILE = 128


@dataclass(frozen=True)
class Span:
    """One tile along an axis, in input pixels: what the network reads, and the part of it that is kept."""

    read_start: int
    read_stop: int
    keep_start: int
    keep_stop: int

    @property
    def read(self) -> slice:
        return slice(self.read_start, self.read_stop)

    @property
    def kept(self) -> slice:
        return slice(self.keep_start, self.keep_stop)

    @property
    def kept_of_read(self) -> slice:
        """Where the kept part lies in the part that was read."""
        return slice(self.keep_start - self.read_start, self.keep_stop - self.read_start)

    def scaled(self, up: int, down: int = 1) -> Span:
        """The same span at another resolution, up/down times as fine."""
        return Span(*(v * up // down for v in astuple(self)))


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Cut an axis into parts of at most `tile`, each read with `overlap` more on both sides where there is more."""
    return [
        Span(max(0, start - overlap), min(length, start + tile + overlap), start, min(length, start + tile))
        for start in range(0, length, tile)
    ]


def tiles(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[Span, Span]]:
    """(rows, columns) of every tile, row by row."""
    parts = list(product(spans(height, tile, overlap), spans(width, tile, overlap)))
    for done, part in enumerate(parts):
        tell(done, len(parts))
        yield part
    tell(len(parts), len(parts))


def map_tiles(function: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, overlap: int, up: int = 1, down: int = 1) -> Tensor:
    """Apply a network to a picture tile by tile; the result equals `function(x)` where `overlap` covers its receptive field.

    Args:
        function: (1, C, h, w) → (1, D, h·up/down, w·up/down).
        x: (1, C, H, W); H and W are multiples of `down`.
        tile: side of the part that a tile contributes, a multiple of `down` and of the network's stride.
        overlap: pixels read beyond it on every side, likewise.
        up, down: change of resolution.

    Returns:
        (1, D, H·up/down, W·up/down) on the CPU.
    """
    height, width = x.shape[-2:]
    result: Tensor | None = None
    for rows, columns in tiles(height, width, tile, overlap):
        part = function(x[..., rows.read, columns.read]).cpu()
        if result is None:
            result = torch.empty(1, part.shape[1], height * up // down, width * up // down, dtype=part.dtype)
        rows, columns = rows.scaled(up, down), columns.scaled(up, down)
        result[..., rows.kept, columns.kept] = part[..., rows.kept_of_read, columns.kept_of_read]
    assert result is not None
    return result


class TileSide:
    """The side of the tiles that pictures are worked on in: halved, and for all that follows, when memory runs out."""

    def __init__(self, side: int) -> None:
        self.side = side

    def fitting_memory(self, function: Callable[[int], T]) -> T:
        """`function(side)`, tried again with smaller sides. Raises what it raises when even the smallest does not fit."""
        while True:
            try:
                return function(self.side)
            except Exception as error:
                if not is_out_of_memory(error) or self.side // 2 < SMALLEST_TILE:
                    raise
            self.side //= 2
