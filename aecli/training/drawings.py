"""Pages drawn by script: text, forms, screenshots, diagrams, line art, test patterns, bilevel and dithered pictures.

People's folders hold such pictures beside photographs. A denoiser that has never seen them takes their edges for noise.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

SIDE = 384  # pixels of a page
ALPHABETS = (
    string.ascii_letters,
    string.ascii_lowercase + "  ,.;-",
    string.digits + ".,%+-=()",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "абвгдежзийклмнопрстуфхцчшщ",
    string.printable[:94],
)
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, top, right, bottom
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


class Drawings:
    """Random patches of pages drawn beforehand, flipped and turned."""

    def __init__(self, patch_size: int, seed: int, pages: int = 160) -> None:
        """Draw the pages: about 10 ms each."""
        rng = np.random.default_rng((seed, pages))
        side = max(SIDE, patch_size)
        self.pages = torch.from_numpy(np.stack([page(rng, side) for _ in range(pages)])).permute(0, 3, 1, 2)  # uint8
        self.patch_size = patch_size

    def batch(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 3, patch_size, patch_size), float32 in 0–1; the generator is on the CPU."""
        most = self.pages.shape[-1] - self.patch_size + 1
        draws = torch.rand(count, 4, generator=generator)
        pages = (draws[:, 0] * len(self.pages)).long().tolist()
        places = (draws[:, 1:3] * most).long().tolist()
        turns = (draws[:, 3] * 8).long().tolist()
        patches = torch.empty(count, 3, self.patch_size, self.patch_size)
        for patch, number, (top, left), turn in zip(patches, pages, places, turns, strict=True):
            part = self.pages[number, :, top : top + self.patch_size, left : left + self.patch_size]
            turned = torch.rot90(part, turn % 4, (1, 2))
            patch.copy_(turned.flip(2) if turn >= 4 else turned)
        return patches.div_(255)


def page(rng: np.random.Generator, side: int) -> np.ndarray:
    """One page of a random kind, (side, side, 3) uint8."""
    draw = KINDS[int(rng.integers(len(KINDS)))]
    image = _finished(draw(rng, side).convert("RGB"), rng)
    return np.asarray(image.convert("RGB"))


def _finished(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """As drawn; or bilevel, of few colours, inverted, slightly soft as from a scanner, or darkened."""
    choice = rng.random()
    if choice < 0.15:
        return image.convert("1", dither=Image.Dither.NONE if rng.random() < 0.6 else Image.Dither.FLOYDSTEINBERG)
    if choice < 0.25:
        return image.quantize(int(rng.integers(3, 64)), dither=Image.Dither.NONE)
    if choice < 0.35:
        return image.point([255 - v for v in range(256)] * 3)
    if choice < 0.55:
        return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.3))))
    if choice < 0.65:
        low, high = int(rng.integers(0, 70)), int(rng.integers(150, 256))
        return image.point([low + v * (high - low) // 255 for v in range(256)] * 3)
    return image


# ------------------------------------------------------------------------------------------------------------- kinds


def text(rng: np.random.Generator, side: int) -> Image.Image:
    """A page of print, antialiased or not, black on white or in colours."""
    paper, ink = _paper_and_ink(rng)
    image = Image.new("RGB", (side, side), paper)
    pen = _pen(image, rng)
    size = int(rng.integers(7, 34))
    _lines_of_text(pen, rng, (int(rng.integers(-20, 20)), 2, side, side), size, ink)
    return image


def form(rng: np.random.Generator, side: int) -> Image.Image:
    """A table or a form: ruled lines with a word or a number in most cells."""
    paper, ink = _paper_and_ink(rng)
    image = Image.new("RGB", (side, side), paper)
    pen = _pen(image, rng)
    size = int(rng.integers(8, 20))
    height, width = size + int(rng.integers(3, 14)), int(rng.integers(40, 140))
    rule = int(rng.integers(1, 3))
    font = _font(rng, size)
    for top in range(int(rng.integers(0, height)), side, height):
        pen.line((0, top, side, top), fill=ink, width=rule)
        for left in range(0, side, width):
            if rng.random() < 0.8:
                pen.text((left + 4, top + 1), _words(rng, 12), fill=ink, font=font)
    for left in range(0, side, width):
        pen.line((left, 0, left, side), fill=ink, width=rule)
    return image


def screenshot(rng: np.random.Generator, side: int) -> Image.Image:
    """Windows: bars, buttons, icons and small antialiased text on flat or graded grounds."""
    image = _gradient(rng, side) if rng.random() < 0.4 else Image.new("RGB", (side, side), _colour(rng, 200, 256))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 7))):
        left, top = (int(v) for v in rng.integers(-40, side - 60, size=2))
        box = (left, top, left + int(rng.integers(60, side)), top + int(rng.integers(30, side)))
        dark = rng.random() < 0.35
        ground, ink = (_colour(rng, 10, 60), _colour(rng, 180, 256)) if dark else (_colour(rng, 225, 256), _colour(rng, 0, 110))
        pen.rounded_rectangle(box, radius=int(rng.integers(0, 12)), fill=ground, outline=_colour(rng, 60, 200))
        pen.rectangle((box[0], box[1], box[2], box[1] + 18), fill=_colour(rng, 0, 256))
        _lines_of_text(pen, rng, (box[0] + 6, box[1] + 22, box[2], box[3]), int(rng.integers(9, 16)), ink)
    return image


def diagram(rng: np.random.Generator, side: int) -> Image.Image:
    """Shapes, arrows, curves of a chart, and labels."""
    paper, ink = _paper_and_ink(rng)
    image = Image.new("RGB", (2 * side, 2 * side), paper)
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(5, 26))):
        x, y, w, h = (int(v) for v in rng.integers(8, side, size=4))
        fill = _colour(rng, 0, 256) if rng.random() < 0.6 else None
        width = int(rng.integers(1, 9))
        shape = rng.integers(4)
        box = (2 * x - w, 2 * y - h, 2 * x, 2 * y)
        if shape == 0:
            pen.ellipse(box, fill=fill, outline=ink, width=width)
        elif shape == 1:
            pen.rectangle(box, fill=fill, outline=ink, width=width)
        elif shape == 2:
            pen.polygon(_points(rng, int(rng.integers(3, 6)), 2 * side), fill=fill, outline=ink)
        else:
            pen.line(_points(rng, 2, 2 * side), fill=ink, width=width)
        pen.text((2 * x, 2 * y), _words(rng, 10), fill=ink, font=_font(rng, int(rng.integers(16, 44))))
    return image.resize((side, side), Image.Resampling.LANCZOS if rng.random() < 0.7 else Image.Resampling.NEAREST)


def line_art(rng: np.random.Generator, side: int) -> Image.Image:
    """Handwriting, contour lines and hatching: smooth curves of one ink."""
    paper, ink = _paper_and_ink(rng)
    image = Image.new("RGB", (2 * side, 2 * side), paper)
    pen = ImageDraw.Draw(image)
    width = int(rng.integers(1, 7))
    for _ in range(int(rng.integers(6, 50))):
        steps = rng.normal(0, 1, size=(60, 2)).cumsum(axis=0).cumsum(axis=0) * rng.uniform(0.2, 2.0)
        points = steps + rng.uniform(0, 2 * side, size=2)
        pen.line([(float(a), float(b)) for a, b in points], fill=ink, width=width, joint="curve")
    return image.resize((side, side), Image.Resampling.LANCZOS if rng.random() < 0.7 else Image.Resampling.NEAREST)


def pattern(rng: np.random.Generator, side: int) -> Image.Image:
    """Test patterns: gratings, checks, rings, dots, bars."""
    y, x = np.mgrid[:side, :side].astype(np.float64)
    period = float(np.exp(rng.uniform(math.log(2), math.log(40))))
    angle = float(rng.choice([0, math.pi / 2, rng.uniform(0, math.pi)]))
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    waves = {
        0: np.sin(2 * math.pi * along / period),
        1: np.sin(2 * math.pi * along / period) * np.sin(2 * math.pi * across / period),
        2: np.sin(math.pi * ((x - side / 2) ** 2 + (y - side / 2) ** 2) / (side * period / 4)),
        3: np.cos(2 * math.pi * along / period) + np.cos(2 * math.pi * across / period) - 1,
    }
    value = waves[int(rng.integers(4))]
    if rng.random() < 0.6:
        value = np.sign(value)
    coloured = rng.random() < 0.5
    low, high = np.array(_colour(rng, 0, 100) if coloured else BLACK), np.array(_colour(rng, 120, 256) if coloured else WHITE)
    share = (value[..., None] + 1) / 2
    return Image.fromarray(np.clip(low + share * (high - low), 0, 255).round().astype(np.uint8))


def dithered(rng: np.random.Generator, side: int) -> Image.Image:
    """Smooth pictures in two or a few colours, by error diffusion or an ordered screen, as in faxes, newspapers and GIFs."""
    clouds = _clouds(rng, side)
    if rng.random() < 0.4:
        return clouds.quantize(int(rng.integers(3, 17)), dither=Image.Dither.FLOYDSTEINBERG)
    grey = np.asarray(clouds.convert("L")).astype(np.float64)
    if rng.random() < 0.5:
        return clouds.convert("1")
    screen = _bayer_screen(int(rng.integers(1, 4)))
    tiled = np.tile(screen, (side // len(screen) + 1,) * 2)[:side, :side]
    return Image.fromarray(((grey / 255 > tiled) * 255).astype(np.uint8))


KINDS: tuple[Callable[[np.random.Generator, int], Image.Image], ...] = (
    text,
    text,
    text,
    form,
    screenshot,
    screenshot,
    diagram,
    line_art,
    pattern,
    dithered,
)
"""Each: random numbers and a side in pixels → a page. Print is the most frequent."""

# ------------------------------------------------------------------------------------------------------------- parts


def _paper_and_ink(rng: np.random.Generator) -> tuple[Colour, Colour]:
    choice = rng.random()
    if choice < 0.4:
        return WHITE, BLACK
    if choice < 0.75:
        return _colour(rng, 215, 256), _colour(rng, 0, 90)
    if choice < 0.9:
        return _colour(rng, 0, 60), _colour(rng, 170, 256)
    return _colour(rng, 0, 256), _colour(rng, 0, 256)


def _colour(rng: np.random.Generator, low: int, high: int) -> Colour:
    """Grey half of the time."""
    r, g, b = (int(v) for v in rng.integers(low, high, size=3))
    return (r, g, b) if rng.random() < 0.5 else (g, g, g)


def _points(rng: np.random.Generator, count: int, side: int) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in rng.integers(0, side, size=(count, 2))]


def _pen(image: Image.Image, rng: np.random.Generator) -> ImageDraw.ImageDraw:
    pen = ImageDraw.Draw(image)
    pen.fontmode = "1" if rng.random() < 0.2 else "L"  # without and with antialiasing
    return pen


def _lines_of_text(pen: ImageDraw.ImageDraw, rng: np.random.Generator, box: Box, size: int, ink: Colour) -> None:
    font = _font(rng, size)
    left, top, right, bottom = box
    spacing = int(size * rng.uniform(1.05, 1.8)) + 1
    for y in range(top, bottom - spacing, spacing):
        if rng.random() < 0.9:
            pen.text((left, y), _words(rng, max(1, 2 * (right - left) // size)), fill=ink, font=font)


def _words(rng: np.random.Generator, length: int) -> str:
    letters = list(ALPHABETS[int(rng.integers(len(ALPHABETS)))])
    words = ("".join(rng.choice(letters, size=int(rng.integers(1, 11)))) for _ in range(length // 4 + 1))
    return " ".join(words)[:length]


def _font(rng: np.random.Generator, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    files = _font_files()
    if not files:
        return ImageFont.load_default(size)
    return ImageFont.truetype(files[int(rng.integers(len(files)))], size)


@cache
def _font_files() -> tuple[str, ...]:
    """The Latin text faces that come with matplotlib."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return tuple(str(path) for path in sorted(folder.glob("DejaVu*.ttf")) if "Display" not in path.name)


def _gradient(rng: np.random.Generator, side: int) -> Image.Image:
    corners = rng.integers(0, 256, size=(2, 2, 3)).astype(np.uint8)
    return Image.fromarray(corners).resize((side, side), Image.Resampling.BILINEAR)


def _clouds(rng: np.random.Generator, side: int) -> Image.Image:
    """Smooth random colours with some detail."""
    total = np.zeros((side, side, 3))
    for cells in (3, 6, 12, 24):
        layer = Image.fromarray(rng.integers(0, 256, size=(cells, cells, 3)).astype(np.uint8))
        total += np.asarray(layer.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64) * 3 / cells
    low, high = total.min(), total.max()
    return Image.fromarray(((total - low) * 255 / (high - low)).round().astype(np.uint8))


def _bayer_screen(order: int) -> np.ndarray:
    """Thresholds of ordered dithering, 0–1, of side 2^order (Bayer 1973)."""
    screen = np.zeros((1, 1))
    for _ in range(order):
        screen = np.block([[4 * screen, 4 * screen + 2], [4 * screen + 3, 4 * screen + 1]])
    return (screen + 0.5) / screen.size
