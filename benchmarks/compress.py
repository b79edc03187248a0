"""Rate, distortion and speed of `aecli encode` and `decode` beside JPEG, WebP and AVIF (Pillow).

Bits per pixel count the whole file; PSNR is over all channels; figures are averaged over the pictures at each quality.
Prints the curve of aecli, BD-rates against JPEG, times, and what they are spent on; exits with 1 if encoding twice (with --effort
at the first quality only) gave two different pictures.

usage: python benchmarks/compress.py FOLDER [--qualities 0,14,29,43,57,71,86,100] [--effort N] [--limit N] [--threads N]
       [--json FILE]
"""

from __future__ import annotations

import io
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from common import add_pictures, machine, numbers, parser, pictures, table, timed, write_json
from PIL import AvifImagePlugin, Image
from torch.utils.flop_counter import FlopCounterMode

import aecli
from aecli import device
from aecli.coding import entropy
from aecli.metrics import bd_rate, ms_ssim, psnr

REFERENCE, PEER = "JPEG", "AVIF 4:2:0"  # of the BD-rates, of the times
LOW, HIGH = 28.0, 38.0  # dB: the range that photographs are kept at


@dataclass(frozen=True)
class Compressor:
    """qualities: what `encode` takes besides the picture."""

    name: str
    qualities: Sequence[float]
    encode: Callable[[Image.Image, float], bytes]
    decode: Callable[[bytes], Image.Image]


@dataclass(frozen=True)
class Point:
    """One picture, or the mean of several, at one quality. overhead: bytes of the file that are no entropy-coded ones."""

    quality: float
    bpp: float
    psnr: float
    ms_ssim: float
    encode_seconds: float
    decode_seconds: float
    overhead: float = math.nan


Points = dict[str, list[list[Point]]]  # by compressor: for each quality, a point for every picture
Curves = dict[str, list[Point]]


def main() -> int:
    arguments = parser(__doc__)
    add_pictures(arguments, "photo-codec")
    arguments.add_argument("--qualities", type=numbers, default=[0.0, 14.0, 29.0, 43.0, 57.0, 71.0, 86.0, 100.0], help="of aecli")
    arguments.add_argument("--effort", type=int, default=0, help="of aecli")
    args = arguments.parse_args()
    compute = device.select(threads=args.threads)
    AvifImagePlugin.DEFAULT_MAX_THREADS = args.threads or 0
    weights = aecli.load_weights(args.weights)
    own = aecli_compressor(args.weights, args.qualities, args.effort)
    compressors = [own, *peers()]
    points: Points = {c.name: [[] for _ in c.qualities] for c in compressors}
    checked = args.qualities[:1] if args.effort else args.qualities  # refining takes long
    changed = 0
    for index, pixels in enumerate(pictures(args.folder, args.limit)):
        if min(pixels.shape[:2]) <= 160:
            sys.exit("MS-SSIM needs pictures of more than 160×160 pixels")
        image = Image.fromarray(pixels)
        if index == 0:
            warm_up(compressors, image)
        for compressor in compressors:
            for quality, found in zip(compressor.qualities, points[compressor.name], strict=True):
                decoded, point = measure(compressor, quality, image)
                found.append(point)
                if compressor is own and quality in checked:
                    changed += own.decode(own.encode(image, quality)) != decoded
    curves: Curves = {name: [mean(found) for found in by_quality] for name, by_quality in points.items()}
    print(machine(compute, weights), end="\n\n")
    print("\n\n".join([curve_table(curves[own.name]), bd_rate_table(curves), times_table(points), work_table(own, image)]))
    print(f"\nencoded and decoded twice, {changed} of {len(checked) * (index + 1)} results differ")
    write_json(args.json, {"machine": machine(compute, weights), "changed": changed, "curves": as_json(curves)})
    return 1 if changed else 0


def aecli_compressor(weights: str, qualities: Sequence[float], effort: int = 0) -> Compressor:
    return Compressor(
        f"aecli --effort {effort}" if effort else "aecli",
        qualities,
        lambda image, quality: aecli.encode(image, quality=quality, effort=effort, weights=weights),
        lambda data: aecli.decode(data, weights=weights),
    )


def peers() -> list[Compressor]:
    """Qualities that span 26–40 dB on photographs."""
    avif = (10, 20, 30, 40, 50, 60, 70, 80, 88, 94)
    return [
        pillow("JPEG", "JPEG", (5, 10, 15, 25, 40, 55, 70, 80, 87, 92, 95), optimize=True, progressive=True),
        pillow("WebP", "WEBP", (1, 10, 25, 40, 55, 70, 80, 88, 94, 98), method=6),
        pillow("AVIF 4:2:0", "AVIF", avif, subsampling="4:2:0"),
        pillow("AVIF 4:4:4", "AVIF", avif, subsampling="4:4:4"),
    ]


def pillow(name: str, file_format: str, qualities: Sequence[int], **options: Any) -> Compressor:
    def encode(image: Image.Image, quality: float) -> bytes:
        stream = io.BytesIO()
        image.save(stream, file_format, quality=int(quality), **options)
        return stream.getvalue()

    def decode(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    return Compressor(name, qualities, encode, decode)


def warm_up(compressors: Sequence[Compressor], image: Image.Image) -> None:
    """Run everything once, so that no first call is timed."""
    for compressor in compressors:
        compressor.decode(compressor.encode(image, compressor.qualities[0]))


def measure(compressor: Compressor, quality: float, image: Image.Image) -> tuple[Image.Image, Point]:
    data, encode_seconds = timed(compressor.encode, image, quality)
    decoded, decode_seconds = timed(compressor.decode, data)
    x, reference = to_tensor(decoded), to_tensor(image)
    similarity = ms_ssim(x, reference)
    assert similarity is not None  # main has looked at the size
    return decoded, Point(
        quality,
        8 * len(data) / (image.width * image.height),
        psnr(x, reference),
        similarity,
        encode_seconds,
        decode_seconds,
        len(data) - stream_bytes(data) if compressor.name.startswith("aecli") else math.nan,
    )


def stream_bytes(data: bytes) -> int:
    """How much of an .npz is entropy-coded bytes."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return int(archive["stream"].size)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """(3, H, W) in 0–1."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def mean(points: Sequence[Point]) -> Point:
    return Point(*(statistics.mean(getattr(point, field.name) for point in points) for field in fields(Point)))


def curve_table(curve: Sequence[Point]) -> str:
    rows = [[f"{p.quality:g}", f"{p.bpp:.3f}", f"{p.psnr:.2f}", f"{p.ms_ssim:.4f}", f"{p.overhead:.0f}"] for p in curve]
    return table(["aecli, quality", "bits per pixel", "PSNR", "MS-SSIM", "container overhead, bytes"], rows)


def bd_rate_table(curves: Curves) -> str:
    """BD-rates over all that two curves share (the published convention), and over what they share of LOW … HIGH dB."""
    rows = []
    for name, curve in curves.items():
        reference = curves[REFERENCE]
        cells = [delta(reference, curve, "psnr"), delta(reference, curve, "psnr", (LOW, HIGH)), delta(reference, curve, "ms_ssim")]
        rows.append([name, *("–" if math.isnan(cell) else f"{cell:+.1f} %" for cell in cells), shared_range(reference, curve)])
    columns = ["BD-rate", f"PSNR, against {REFERENCE}", f"PSNR, {LOW:g}–{HIGH:g} dB", "MS-SSIM", "PSNR shared, dB"]
    return table(columns, rows)


def delta(
    reference: Sequence[Point], curve: Sequence[Point], score: str, between: tuple[float, float] = (-math.inf, math.inf)
) -> float:
    """BD-rate in %; NaN where a curve has too few points for an interpolation, or shares nothing with the reference."""
    if min(len(reference), len(curve)) < 2:
        return math.nan
    first, second = ([(point.bpp, getattr(point, score)) for point in points] for points in (reference, curve))
    return bd_rate(first, second, between=between)


def shared_range(reference: Sequence[Point], curve: Sequence[Point]) -> str:
    scores = [[point.psnr for point in points] for points in (reference, curve)]
    low, high = max(map(min, scores)), min(map(max, scores))
    return f"{low:.1f}–{high:.1f}" if low < high else "none"


def times_table(points: Points) -> str:
    """Seconds a picture: means and medians over pictures and qualities, medians also in units of PEER's."""
    encode, decode = (times(points, name) for name in ("encode_seconds", "decode_seconds"))
    rows = [[name, *time_cells(name, encode), *time_cells(name, decode)] for name in points]
    ratio = f"× {PEER}"
    return table(["seconds a picture", "encode, mean", "median", ratio, "decode, mean", "median", ratio], rows)


def times(points: Points, field: str) -> dict[str, list[float]]:
    return {name: [getattr(p, field) for found in by_quality for p in found] for name, by_quality in points.items()}


def time_cells(name: str, seconds: Mapping[str, list[float]]) -> list[str]:
    median = statistics.median(seconds[name])
    ratio = median / statistics.median(seconds[PEER])
    return [f"{statistics.mean(seconds[name]):.4f}", f"{median:.4f}", f"{ratio:.2f}"]


def work_table(own: Compressor, image: Image.Image) -> str:
    """Multiplications a pixel, and how much of the time the range coder itself takes, of one picture at the middle quality."""
    data = own.encode(image, 50)
    halves: dict[str, Callable[[], Any]] = {"encode": lambda: own.encode(image, 50), "decode": lambda: own.decode(data)}
    rows = []
    for name, half in halves.items():
        with FlopCounterMode(display=False) as counter:
            half()
        kilo = counter.get_total_flops() / 2000 / (image.width * image.height)
        shares = [range_coding_share(half, name) for _ in range(5)]
        rows.append([name, f"{kilo:.0f}", f"{statistics.median(shares):.1%}"])
    return table(["aecli", "kMAC a pixel", "range coding, share of the time"], rows)


def range_coding_share(half: Callable[[], Any], name: str) -> float:
    """Of one call: the seconds in calls of the tables' method of this name."""
    original, inside = getattr(entropy._Table, name), 0.0

    def measured(*arguments: Any) -> Any:
        nonlocal inside
        result, seconds = timed(original, *arguments)
        inside += seconds
        return result

    setattr(entropy._Table, name, measured)
    try:
        _, whole = timed(half)
    finally:
        setattr(entropy._Table, name, original)
    return inside / whole


def as_json(curves: Curves) -> dict[str, list[dict[str, float]]]:
    """NaN, which JSON has no word for, is left out."""
    return {
        name: [{k: v for k, v in asdict(point).items() if not math.isnan(v)} for point in curve] for name, curve in curves.items()
    }


if __name__ == "__main__":
    sys.exit(main())
