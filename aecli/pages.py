"""The page of a run: every file's figures, and before and after under a slider. One HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aecli.images import Picture, with_8_bits

TEMPLATE = Path(__file__).parent / "report_page.html"
MOST_PICTURES = 200  # with pictures, or no browser would open the page; the others are there with their figures
WIDTH, HEIGHT = 640, 480


@dataclass(frozen=True)
class Row:
    """One file. before, after: as `preview` gives them, or empty."""

    input: str
    status: str
    figures: Sequence[tuple[str, str]]
    before: str = ""
    after: str = ""


def preview(picture: Picture) -> str:
    """The middle of a picture, pixel for pixel, as a data URL: reduced, noise and artefacts could not be seen."""
    pixels = with_8_bits(picture).pixels
    top, left = (max(0, (length - most) // 2) for length, most in zip(pixels.shape, (HEIGHT, WIDTH), strict=False))
    middle = pixels[top : top + HEIGHT, left : left + WIDTH]
    buffer = io.BytesIO()
    Image.fromarray(np.broadcast_to(middle, (*middle.shape[:2], 3)).copy()).save(buffer, "JPEG", quality=92, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def embedded(data: Any) -> str:
    """JSON within a script element, that no name of a file can break out of."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # these are all that a browser might take for something else there
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class Report:
    """Collects the rows of a run, and what the page of them is."""

    def __init__(self, title: str, origin: str = "") -> None:
        """origin: what made the page, and when."""
        self._title, self._origin, self._rows, self._pictures = title, origin, list[Row](), 0

    def add(self, row: Row) -> None:
        """Pictures are kept of the first two hundred files that have some."""
        if self._pictures == MOST_PICTURES:
            row = replace(row, before="", after="")
        self._pictures += bool(row.after)
        self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def page(self) -> str:
        """HTML."""
        counts = {status: sum(row.status == status for row in self._rows) for status in ("done", "skipped", "failed")}
        summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        data = {"title": self._title, "summary": summary, "origin": self._origin, "rows": [asdict(row) for row in self._rows]}
        return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/", embedded(data))
