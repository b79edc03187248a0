"""Pictures for people: rows of originals and results, and the figure of compare-pca."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from aecli.batch import atomic_write

if TYPE_CHECKING:
    from aecli.pca import Comparison

SMALLEST_TILE = 96  # pixels: digits of 28×28 are enlarged to about this
GAP = 4
LABEL_HEIGHT = 22


def save_rows(path: Path, rows: Mapping[str, Tensor], *, overwrite: bool = False) -> None:
    """Write rows of pictures, each below its label, as PNG.

    Args:
        rows: (n, C, H, W) in 0–1 by label; all of one shape.
    """
    first = next(iter(rows.values()))
    zoom = max(1, round(SMALLEST_TILE / max(first.shape[-2:])))
    count, _, height, width = first.shape
    tile_h, tile_w = height * zoom + GAP, width * zoom + GAP
    sheet = Image.new("RGB", (count * tile_w + GAP, len(rows) * (tile_h + LABEL_HEIGHT) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for r, (label, pictures) in enumerate(rows.items()):
        top = r * (tile_h + LABEL_HEIGHT)
        draw.text((GAP, top + 2), label, fill="black", font=font)
        for c, picture in enumerate(pictures):
            tile = to_image(picture).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(tile, (GAP + c * tile_w, top + LABEL_HEIGHT))
    with atomic_write(path, overwrite=overwrite) as stream:
        sheet.save(stream, "PNG")


def to_image(x: Tensor) -> Image.Image:
    """(C, H, W) about 0–1 → RGB."""
    array = (x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.broadcast_to(array, (*array.shape[:2], 3)).copy())


def comparison_figure(comparison: Comparison) -> Any:
    """The figure of compare-pca: error over dimension; rows of originals, PCA, autoencoder; 2-D maps by class.

    Returns a matplotlib Figure.
    """
    from matplotlib.figure import Figure

    maps = comparison.maps
    figure = Figure(figsize=(12, 9 if maps else 4.6), layout="constrained", dpi=130)
    halves: Any = figure.subfigures(1 + bool(maps), 1, height_ratios=(1, 1.15)[: 1 + bool(maps)], squeeze=False)[:, 0]
    left, right = halves[0].subfigures(1, 2, width_ratios=(1, 1.35))
    _plot_errors(left.subplots(), comparison)
    _plot_samples(right, comparison)
    if maps:
        _plot_maps(halves[1], comparison)
    return figure


def _plot_errors(axes: Any, comparison: Comparison) -> None:
    dims = [row.dim for row in comparison.rows]
    axes.plot(dims, [row.pca_error for row in comparison.rows], "o-", label="PCA", color="tab:gray")
    axes.plot(dims, [row.error for row in comparison.rows], "o-", label=comparison.arch, color="tab:blue")
    axes.set_xscale("log", base=2)
    axes.set_xticks(dims, [str(d) for d in dims])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("latent dimensions")
    axes.set_ylabel("squared error a picture")
    axes.set_title(f"Reconstruction of test pictures ({comparison.data})", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _plot_samples(figure: Any, comparison: Comparison) -> None:
    count = len(next(iter(comparison.samples.values())))
    axes = figure.subplots(len(comparison.samples), count, squeeze=False)
    for row, (label, pictures) in zip(axes, comparison.samples.items(), strict=True):
        for cell, picture in zip(row, pictures, strict=True):
            cell.imshow(to_image(picture), interpolation="nearest")
            cell.set_xticks([])
            cell.set_yticks([])
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)


def _plot_maps(figure: Any, comparison: Comparison) -> None:
    panels = figure.subplots(1, len(comparison.maps))
    labels = comparison.map_labels
    for axes, (title, points) in zip(panels, comparison.maps.items(), strict=True):
        dots = axes.scatter(
            *points.T, s=5, linewidths=0, alpha=0.7, c=None if labels is None else labels, cmap=None if labels is None else "tab10"
        )
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    if labels is not None:
        figure.legend(*dots.legend_elements(num=None), loc="outside right center", title="class", frameon=False)
