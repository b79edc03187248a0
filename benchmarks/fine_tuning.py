"""What `photo-codec` gains on one kind of pictures by learning from some of them: pages of text.

Draws pages of text from Python's own documentation in fonts that come with matplotlib, as training and as held-out pages; goes
on training `photo-codec` on the former for some minutes, as `aecli train --arch codec --init photo-codec --data PAGES` does; and
encodes the latter with both, beside JPEG, WebP and AVIF. Prints BD-rates over RGB PSNR, whole files counted, against the weights
as they come along and against JPEG, and the bits per pixel at some PSNR.

usage: python benchmarks/fine_tuning.py [--minutes M] [--sample FILE] [--threads N] [--json FILE]
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from common import machine, parser, pictures, table, write_json
from compress import REFERENCE, Compressor, Curves, Point, aecli_compressor, as_json, delta, mean, measure, peers
from PIL import Image, ImageDraw, ImageFont

import aecli
from aecli.device import Compute, select
from aecli.training import Request, train

GENERAL, TUNED = "photo-codec", "photo-codec, fine-tuned"
QUALITIES = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)
TRAINING_PAGES, HELD_OUT_PAGES = 80, 8
WIDTH, HEIGHT, MARGIN = 768, 512, 24  # pixels
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono", "STIXGeneral")
SIZES = (13, 22)  # pixels
AT_PSNR = (28.0, 32.0, 36.0)  # dB


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=15, help="of training (default: %(default)s)")
    arguments.add_argument("--sample", type=Path, metavar="FILE", help="keep a held-out page, to look at")
    args = arguments.parse_args()
    compute = select(threads=args.threads)
    with tempfile.TemporaryDirectory() as folder:
        training, held_out = (draw_pages(Path(folder, name)) for name in ("training", "held-out"))
        if args.sample:
            shutil.copy(min(held_out.iterdir()), args.sample)
        weights = fine_tuned(training, Path(folder, "pages.safetensors"), args.minutes, compute)
        own = (
            replace(aecli_compressor(found, QUALITIES), name=name) for name, found in ((GENERAL, GENERAL), (TUNED, str(weights)))
        )
        curves = curves_of([*own, *peers()], held_out)
        line = f"{machine(compute, aecli.load_weights(GENERAL))}, {aecli.load_weights(weights).card.steps} steps"
    print(f"{line}\n\n{table(['held-out pages', *columns()], rows(curves))}")
    write_json(args.json, {"machine": line, "curves": as_json(curves)})


def draw_pages(folder: Path) -> Path:
    """Pages of the topics that are the folder's own: every tenth is held out."""
    folder.mkdir()
    held_out = folder.name == "held-out"
    texts = [text for index, (_, text) in enumerate(sorted(topics.items())) if (index % 10 == 0) == held_out]
    rng = np.random.default_rng(int(held_out))
    for index in range(HELD_OUT_PAGES if held_out else TRAINING_PAGES):
        words = "".join(texts[int(i)] for i in rng.permutation(len(texts))[:3])
        page(words, FONTS[int(rng.integers(len(FONTS)))], int(rng.integers(*SIZES)), rng).save(folder / f"{index:03}.png")
    return folder


def page(text: str, font_name: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Dark text on light paper, no two pages of the same colours."""
    import matplotlib

    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf", f"{font_name}.ttf"), size)
    paper, ink = (tuple(int(v) for v in rng.integers(*levels, size=3)) for levels in ((225, 256), (0, 70)))
    image = Image.new("RGB", (WIDTH, HEIGHT), paper)
    draw = ImageDraw.Draw(image)
    draw.multiline_text((MARGIN, MARGIN), wrapped(text, font), font=font, fill=ink, spacing=size // 3)
    return image


def wrapped(text: str, font: ImageFont.FreeTypeFont) -> str:
    """As many lines as a page holds, none wider than it."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) > WIDTH - 2 * MARGIN and line:
            lines.append(line)
            longer = word
        line = longer
        if len(lines) * font.size > HEIGHT:
            break
    return "\n".join([*lines, line])


def fine_tuned(pages: Path, output: Path, minutes: float, compute: Compute) -> Path:
    """`aecli train --arch codec --init photo-codec --data PAGES --minutes M`."""
    request = Request("codec", output, compute, data=str(pages), init=GENERAL, minutes=minutes)
    train(request, lambda progress: print(f"{progress.share:.1%}", end="\r", file=sys.stderr), lambda: False)
    return output


def curves_of(compressors: Sequence[Compressor], folder: Path) -> Curves:
    """The mean over the pictures at each quality."""
    images = [Image.fromarray(pixels) for pixels in pictures(str(folder), None)]
    return {c.name: [mean([measure(c, quality, image)[1] for image in images]) for quality in c.qualities] for c in compressors}


def columns() -> list[str]:
    """Of the table, all but the first."""
    return [f"BD-rate, against {GENERAL}", f"against {REFERENCE}", *(f"bits per pixel at {level:g} dB" for level in AT_PSNR)]


def rows(curves: Curves) -> list[list[str]]:
    """Of the table."""
    lines = []
    for name, curve in curves.items():
        changes = (delta(curves[other], curve, "psnr") for other in (GENERAL, REFERENCE))
        rates = (rate_at(curve, level) for level in AT_PSNR)
        lines.append([name, *(shown(v, "+.1f", " %") for v in changes), *(shown(v, ".3f") for v in rates)])
    return lines


def rate_at(curve: Sequence[Point], level: float) -> float:
    """Bits per pixel at a PSNR, the logarithm interpolated; NaN where the curve does not reach."""
    scores = [point.psnr for point in curve]
    if not min(scores) <= level <= max(scores):
        return math.nan
    return float(np.exp(np.interp(level, scores, [math.log(point.bpp) for point in curve])))


def shown(value: float, form: str, unit: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{form}}{unit}"


if __name__ == "__main__":
    main()
