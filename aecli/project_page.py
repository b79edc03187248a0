"""The page of `aecli project`: maps to explore in a browser, in a single file that needs nothing else."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from aecli.pages import embedded
from aecli.plots import class_colour, grid_image

if TYPE_CHECKING:
    from aecli.projection import Projection

TEMPLATE = Path(__file__).with_name("project_page.html")
LARGEST_TILE = 128  # pixels
LARGEST_SHEET = 4096  # pixels a side: what every browser draws from
ALL_THUMBNAILS = 12_000_000  # pixels that a page has for its thumbnails: about 3 MB
SMALLEST_THUMBNAIL = 48
QUALITY = 85  # of coloured sheets
PRECISION = 1e5  # steps of the unit square that places are rounded to


@dataclass(frozen=True)
class Sprites:
    """Pictures on sheets, side by side, row by row, as data URLs: `columns` to a row, `rows` to a sheet, of width × height."""

    sheets: list[str]
    width: int
    height: int
    columns: int
    rows: int


def thumbnail_side(count: int) -> int:
    """Pixels that each of so many square thumbnails may have."""
    return min(LARGEST_TILE, max(SMALLEST_THUMBNAIL, math.isqrt(ALL_THUMBNAILS // count)))


def sprites(images: Tensor) -> Sprites:
    """Pictures (n, C, H, W) in 0–1 as sprites: grey ones as PNG, without loss; coloured ones as WebP; at most 128 pixels a side."""
    height, width = images.shape[-2:]
    zoom = min(1.0, LARGEST_TILE / max(height, width))
    if zoom < 1:
        height, width = (max(1, round(zoom * side)) for side in (height, width))
        images = F.interpolate(images, size=(height, width), mode="area")
    columns, rows = min(len(images), LARGEST_SHEET // width), LARGEST_SHEET // height
    sheets = [images[start : start + columns * rows] for start in range(0, len(images), columns * rows)]
    return Sprites([_data_url(grid_image(part, columns), grey=part.shape[1] == 1) for part in sheets], width, height, columns, rows)


def _data_url(sheet: Image.Image, *, grey: bool) -> str:
    buffer = io.BytesIO()
    if grey:
        sheet.convert("L").save(buffer, "PNG", optimize=True)
    else:
        sheet.save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/{'png' if grey else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def projection_page(projection: Projection) -> str:
    """Maps side by side, to zoom and to move; the picture where the mouse is, its class and its name."""
    from aecli.projection import in_unit_square

    classes = projection.classes
    count = 0 if classes is None else max(len(projection.class_names), int(classes.max()) + 1)
    data = {
        "name": projection.name,
        "maps": [
            {"title": title, "places": np.rint(PRECISION * in_unit_square(places)).astype(int).ravel().tolist()}
            for title, places in projection.maps.items()
        ],
        "precision": PRECISION,
        "classes": None if classes is None else classes.tolist(),
        "classNames": [projection.class_name(index) for index in range(count)],
        "colours": [class_colour(index) for index in range(count)],
        "names": list(projection.names or (f"row {row}" for row in projection.rows or range(len(projection.images)))),
        "thumbnails": projection.with_thumbnails,
        "sprites": vars(sprites(projection.images)),
    }
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/", embedded(data))
