"""What the benchmarks share: arguments, pictures, the line that names the machine, tables and times."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from aecli.training.data import folder_pictures, read_rgb
from aecli.weights import Weights

T = TypeVar("T")

DATA = Path(__file__).parent.parent / "tests" / "data"


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--threads", type=int, help="threads to compute with; what the libraries choose if not given")
    result.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too, unrounded")
    return result


def add_pictures(arguments: argparse.ArgumentParser, weights: str) -> None:
    """The options of the benchmarks that work on a folder of photographs; `weights` is the default of --weights."""
    arguments.add_argument("folder", help="pictures, taken in the order of their names")
    arguments.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    arguments.add_argument("--weights", default=weights, help="shipped weights by name, or a file (default: %(default)s)")


def numbers(text: str) -> list[float]:
    """`15,25,50` → [15.0, 25.0, 50.0], for argparse."""
    return [float(part) for part in text.split(",")]


def pictures(folder: str, limit: int | None) -> Iterator[np.ndarray]:
    """The pictures of a folder in name order, (H, W, 3) uint8; progress goes to stderr."""
    paths = folder_pictures(folder)[:limit]
    for index, path in enumerate(paths, start=1):
        print(f"{index}/{len(paths)} {path.name}", file=sys.stderr)
        yield read_rgb(path)


def photograph(megapixels: float) -> Image.Image:
    """tests/data/photo.png in another size, 4:3, mirrored or cut."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    small = np.array(Image.open(DATA / "photo.png").convert("RGB"))
    missing = [max(0, wanted - side) for wanted, side in zip((height, width), small.shape[:2], strict=True)]
    mirrored = np.pad(small, [*((0, n) for n in missing), (0, 0)], mode="symmetric")
    return Image.fromarray(mirrored[:height, :width])


def machine(precision: object, *weights: Weights) -> str:
    """The line before a table: processor, threads, precision, torch, weights."""
    threads = torch.get_num_threads()
    names = [f"{w.name} {w.digest[:8]}" for w in weights]
    return ", ".join([_processor(), f"{threads} thread{'s' * (threads > 1)}", str(precision), f"torch {torch.__version__}", *names])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """A Markdown table; the first `names` columns hold names, the others figures."""
    rule = [*["---"] * names, *["---:"] * (len(columns) - names)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, rule, *rows])


def timed(function: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    """A call's result and how many seconds it took."""
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def write_json(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures, if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n")
