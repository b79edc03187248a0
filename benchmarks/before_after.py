"""One picture of the effect: crops of several versions of a photograph side by side, each under its label.

usage: before_after.py ORIGINAL NOISY DENOISED DECODED -o SHEET.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

LABELS = ("original", "noisy", "denoised by aecli", "decoded by aecli")
LABEL_HEIGHT, GAP = 24, 6


def sheet(paths: list[Path], crop: int) -> Image.Image:
    """The middle of every picture, at most crop × crop, in a row."""
    pictures = [_middle(Image.open(path).convert("RGB"), crop) for path in paths]
    width, height = pictures[0].size
    result = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height + LABEL_HEIGHT), "white")
    draw, font = ImageDraw.Draw(result), ImageFont.load_default(size=15)
    for index, (label, picture) in enumerate(zip(LABELS, pictures, strict=True)):
        draw.text((index * (width + GAP) + 2, 3), label, fill="black", font=font)
        result.paste(picture, (index * (width + GAP), LABEL_HEIGHT))
    return result


def _middle(picture: Image.Image, crop: int) -> Image.Image:
    left, top = max(0, (picture.width - crop) // 2), max(0, (picture.height - crop) // 2)
    return picture.crop((left, top, min(picture.width, left + crop), min(picture.height, top + crop)))


def main() -> None:
    """Parse arguments and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs=len(LABELS), type=Path)
    parser.add_argument("--crop", type=int, default=320)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    sheet(arguments.pictures, arguments.crop).save(arguments.output)


if __name__ == "__main__":
    main()
