"""Pictures for people: rows of originals and results, and the figure of compare-pca."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from aecli.batch import atomic_write

if TYPE_CHECKING:
    from aecli.anomalies import Evidence
    from aecli.pca import Comparison, Rate
    from aecli.projection import Projection
    from aecli.traversal import Walks

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


def grid_image(pictures: Tensor, columns: int, *, zoom: int = 1) -> Image.Image:
    """(n, C, H, W) in 0–1 → one RGB picture, edge to edge, row by row."""
    count, _, height, width = pictures.shape
    sheet = Image.new("RGB", (columns * width, -(-count // columns) * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(to_image(picture), (i % columns * width, i // columns * height))
    return sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST) if zoom > 1 else sheet


# --------------------------------------------------------------------------------------------------------- compare-pca

PCA_COLOUR = "#7f7f7f"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe & Ito's, which the colour-blind can tell apart
CLASS_COLOURS = (  # Petroff's (2021), chosen for the colour-blind and for looks
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = "osD^v"
FRAME = "#c8c8c8"  # of a map
ERROR_LABEL = "squared error a picture"
LEAST_ERROR = 1e-6  # what is below is rounding, which a logarithmic axis would show as a cliff
MOST_NAMED = 20  # classes whose names are written on a map
MOST_NEIGHBOURS = 500  # pictures of a class that are looked at to find where most of it lies
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "svg.fonttype": "path"}


def comparison_figure(comparison: Comparison) -> Any:
    """The figure of compare-pca: error over dimensions and over bytes; rows of originals and reconstructions; 2-D maps by class.

    Returns a matplotlib Figure.
    """
    import matplotlib
    from matplotlib.figure import Figure

    maps_height = min(4.7, 9 / max(1, len(comparison.maps)) + 0.5)  # about as high as each is wide, below its title
    shares = [3.4, 0.72 * len(comparison.samples), *([maps_height] if comparison.maps else [])]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, sum(shares) + 0.3), layout="constrained", dpi=160)
        parts: Any = figure.subfigures(len(shares), 1, height_ratios=shares, hspace=0.03, squeeze=False)[:, 0]
        left, right = parts[0].subplots(1, 2)
        _plot_errors(left, comparison)
        _plot_rates(right, comparison)
        _plot_samples(parts[1], comparison.samples)
        if comparison.maps:
            _plot_maps(parts[2], comparison)
        figure.suptitle(_literal(comparison.data), fontsize=11)
    return figure


def _looks(comparison: Comparison, method: str) -> dict[str, Any]:
    place = comparison.methods.index(method)
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def _plot_errors(axes: Any, comparison: Comparison) -> None:
    dims = sorted({max(1, round(row.numbers)) for row in comparison.rows})
    curve = np.array([error if error > LEAST_ERROR else np.nan for error in comparison.pca_errors])
    compared = [dim - 1 for dim in dims if dim <= len(curve)]
    axes.plot(1 + np.arange(len(curve)), curve, "x--", markevery=compared, label="PCA", color=PCA_COLOUR)
    for method in comparison.methods:
        rows = [row for row in comparison.rows if row.method == method]
        axes.plot([r.numbers for r in rows], [r.error for r in rows], label=_literal(method), **_looks(comparison, method))
    axes.set(xscale="log", xlabel=_numbers_label(comparison), ylabel=ERROR_LABEL, title="with the same number of dimensions")
    _finish_errors(axes, [row.error for row in comparison.rows])
    ticks = _apart(dims)
    if ticks:
        axes.set_xticks(ticks, [str(d) for d in ticks])


def _apart(dims: Sequence[int]) -> list[int]:
    """Those whose labels do not touch on a logarithmic axis."""
    found: list[int] = []
    for dim in dims:
        if not found or dim >= 1.25 * found[-1]:
            found.append(dim)
    return found


def _numbers_label(comparison: Comparison) -> str:
    sparse = any(row.active is not None for row in comparison.rows)
    return "dimensions (of a sparse code: active units)" if sparse else "latent dimensions"


def _plot_rates(axes: Any, comparison: Comparison) -> None:
    """Of each method, what no other size or step of it betters: the fewest bytes for an error."""
    for method in ("PCA", *comparison.methods):
        best: list[Rate] = []
        for rate in sorted((r for r in comparison.rates if r.method == method), key=lambda r: (r.bytes, r.error)):
            if not best or rate.error < best[-1].error:
                best.append(rate)
        looks = {"color": PCA_COLOUR, "marker": "x", "ls": "--"} if method == "PCA" else _looks(comparison, method)
        axes.plot([r.bytes for r in best], [r.error for r in best], label=_literal(method), markersize=4, **looks)
    axes.set(xscale="log", xlabel="bytes a picture (codes quantised and deflated)", ylabel=ERROR_LABEL)
    axes.set_title("with the same number of bytes")
    _finish_errors(axes, [rate.error for rate in comparison.rates])


def _finish_errors(axes: Any, errors: list[float]) -> None:
    """Plain numbers on logarithmic axes, 1, 2, 5, 10, …: powers of ten are hard to read off where there is one decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if min(errors) > LEAST_ERROR:
        axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False)


def _plot_samples(figure: Any, samples: Mapping[str, Tensor]) -> None:
    axes = figure.subplots(len(samples), 1, squeeze=False)[:, 0]
    for cell, (label, pictures) in zip(axes, samples.items(), strict=True):
        cell.imshow(grid_image(pictures, len(pictures)), interpolation="nearest")
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
        cell.set_ylabel(_literal(label), rotation=0, ha="right", va="center")


def _plot_maps(figure: Any, comparison: Comparison) -> None:
    panels = figure.subplots(1, len(comparison.maps), squeeze=False)[0]
    for axes, (method, points) in zip(panels, comparison.maps.items(), strict=True):
        told = comparison.map_accuracy(method)
        title = f"{method}, 2-d" if told is None else f"{method}, 2-d\n10 neighbours tell {told:.0%}"
        plot_map(axes, title, points, comparison.map_labels, comparison.class_names)
        if comparison.map_labels is not None:
            _name_classes(axes, points, comparison.map_labels, comparison.class_names)
    if comparison.map_labels is not None:
        _legend(figure, panels[0])


def plot_map(axes: Any, title: str, points: np.ndarray, labels: np.ndarray | None, names: Sequence[str]) -> None:
    """Points (n, 2), coloured by class where there are classes. The dots are drawn as pixels: thousands of paths open slowly."""
    looks: dict[str, Any] = {"s": 4, "linewidths": 0, "alpha": 0.7, "rasterized": True}
    if labels is None:
        axes.scatter(*points.T, color=COLOURS[0], **looks)
    else:
        for index in np.unique(labels):
            name = _class_name(names, int(index))
            axes.scatter(*points[labels == index].T, color=class_colour(int(index)), label=name, **looks)
    axes.set(title=_literal(title), xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set(visible=True, color=FRAME)


def _legend(figure: Any, axes: Any) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, markerscale=4)


def _class_name(names: Sequence[str], index: int) -> str:
    return _literal(names[index]) if index < len(names) else str(index)


def _name_classes(axes: Any, points: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """Each class's name where most of it lies: colours alone do not tell ten classes apart for everybody."""
    from matplotlib.patheffects import withStroke

    found = np.unique(labels)
    if len(found) > MOST_NAMED:
        return
    reach = 0.04 * np.ptp(points, axis=0).max()
    for index in found:
        own = points[labels == index][:MOST_NEIGHBOURS]
        near = np.abs(own[:, None] - own).max(axis=2) <= reach
        place = own[near[near.sum(axis=1).argmax()]].mean(axis=0)  # the mean of all would lie between the parts of a class in two
        halo = [withStroke(linewidth=2.5, foreground="white")]
        text = _class_name(names, int(index))
        axes.text(*place, text, ha="center", va="center", fontsize=11, weight="bold", path_effects=halo)


def _literal(text: str) -> str:
    """A dollar sign in a name begins no formula."""
    return text.replace("$", r"\$")


def class_colour(index: int) -> str:
    """The colour of a class, as #rrggbb; ten that the colour-blind can tell apart, then twenty shades, again and again."""
    if index < len(CLASS_COLOURS):
        return CLASS_COLOURS[index]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["tab20b"](index % 20))


# ----------------------------------------------------------------------------------------------------------- anomalies

PANEL = 1.9  # inches


def anomalies_figure(labels: Sequence[str], evidence: Sequence[Evidence], weights: str) -> Any:
    """The pictures that an autoencoder reconstructs worst, side by side: as seen, as reconstructed, and where the error is.

    Returns a matplotlib Figure. labels: one for each, the worst first.
    """
    import matplotlib
    from matplotlib.figure import Figure

    largest = max(1e-12, *(float(e.heat.max()) ** 0.5 for e in evidence))
    with matplotlib.rc_context({**STYLE, "font.size": 7, "axes.titlesize": 7}):
        columns = len(evidence)
        figure = Figure(figsize=(PANEL * columns + 1.6, 3 * PANEL + 0.7), layout="constrained", dpi=160)
        axes = figure.subplots(3, columns, squeeze=False)
        for cells, label, shown in zip(axes.T, labels, evidence, strict=True):
            cells[0].imshow(shown.seen)
            cells[1].imshow(shown.reconstruction)
            heat = cells[2].imshow(np.sqrt(shown.heat), cmap="inferno", vmin=0, vmax=largest)
            cells[0].set_title(_literal(label))
        for cell in axes.flat:
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        for cell, name in zip(axes[:, 0], ("seen", "reconstructed", "error"), strict=True):
            cell.set_ylabel(name, fontsize=9)
        figure.colorbar(heat, ax=axes[2].tolist(), label="root of the squared error", fraction=0.05, aspect=12)
        figure.suptitle(f"Worst reconstructed by {weights}", fontsize=10)
    return figure


# ----------------------------------------------------------------------------------------------------------- traversal


def traversal_figure(lattice: Walks, lines: Walks, weights: str) -> Any:
    """A latent space as pictures: a lattice of decoded codes, and beside it straight lines between pictures.

    Returns a matplotlib Figure.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        sheets = [grid_image(walks.pictures, walks.columns) for walks in (lattice, lines)]
        height = 5.5 * min(2.0, max(sheet.height / sheet.width for sheet in sheets)) + 0.4
        figure = Figure(figsize=(11, max(1.5, height)), layout="constrained", dpi=160)
        left, right = figure.subplots(1, 2)
        square = not lattice.labels
        left.set_title(f"the latent square of {weights}" if square else f"dimensions of {weights} that vary most, ±3 deviations")
        right.set_title("from one picture to another")
        for axes, walks, sheet in zip((left, right), (lattice, lines), sheets, strict=True):
            axes.imshow(sheet, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_anchor("N")
            rows = max(1, len(walks.labels))
            axes.set_yticks([(row + 0.5) * sheet.height / rows for row in range(len(walks.labels))], walks.labels)
            axes.tick_params(length=0)
    return figure


# ------------------------------------------------------------------------------------------------------------- project

THUMBNAIL = 0.3  # inches


def projection_figure(projection: Projection) -> Any:
    """Maps side by side, coloured by class; pictures with names, or without classes, where they are if there is room.

    Returns a matplotlib Figure.
    """
    import matplotlib
    from matplotlib.figure import Figure

    labels, names = projection.classes, projection.class_names
    with matplotlib.rc_context(STYLE):
        width = 5.6 * len(projection.maps) + (0.9 if labels is not None else 0)
        figure = Figure(figsize=(width, 5.3), layout="constrained", dpi=200)
        panels = figure.subplots(1, len(projection.maps), squeeze=False)[0]
        for axes, (title, points) in zip(panels, projection.maps.items(), strict=True):
            plot_map(axes, title, points, labels, names)
            if labels is not None and not projection.with_thumbnails:
                _name_classes(axes, points, labels, names)
        figure.suptitle(_literal(f"{projection.name}: {len(projection.images):,}"))
        if labels is not None:
            _legend(figure, panels[0])
        if projection.with_thumbnails:
            figure.draw_without_rendering()  # the places on the paper are known only then
            for axes, points in zip(panels, projection.maps.values(), strict=True):
                _draw_thumbnails(axes, points, projection)
    return figure


def _draw_thumbnails(axes: Any, points: np.ndarray, projection: Projection) -> None:
    """The pictures that no other one before them covers; the dots of all the others show between them."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    side = 1.12 * THUMBNAIL * axes.figure.dpi  # with the frame, and a little air
    places = axes.transData.transform(points)
    drawn = np.empty((0, 2))
    for row, place in enumerate(places):
        if (np.abs(drawn - place).max(axis=1) < side).any():
            continue
        drawn = np.vstack([drawn, place])
        picture = OffsetImage(np.asarray(to_image(projection.images[row])), zoom=72 * THUMBNAIL / max(projection.images.shape[-2:]))
        colour = "none" if projection.classes is None else class_colour(int(projection.classes[row]))
        frame = {"edgecolor": colour, "facecolor": "none", "linewidth": 1.5, "boxstyle": "square,pad=0.04"}
        box = AnnotationBbox(picture, points[row], pad=0.04, bboxprops=frame)
        box.set_in_layout(False)  # or the places would move
        axes.add_artist(box)
