"""`aecli encode`: pictures to .npz."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from aecli.batch import Job, read_bytes
from aecli.cli import report
from aecli.cli.options import Engine, Files, Printing
from aecli.errors import UsageError
from aecli.images import SUFFIXES, UNREAD, Picture, few_levels_left, further_bands, read_picture, with_8_bits, without_metadata
from aecli.pages import preview
from aecli.pipeline import Several, SkippedError, Work
from aecli.quality import Target
from aecli.storage import Place

if TYPE_CHECKING:
    from torch import Tensor

SIZE = "How small"


def encode(
    files: Files,
    quality: Annotated[
        float | None, typer.Option("--quality", "-q", help="From 0 (smallest) to 100 (best); by default 50.", rich_help_panel=SIZE)
    ] = None,
    bpp: Annotated[
        float | None, typer.Option(help="Bits per pixel: find the quality that gives them.", rich_help_panel=SIZE)
    ] = None,
    psnr: Annotated[float | None, typer.Option(help="PSNR in dB: find the quality that gives it.", rich_help_panel=SIZE)] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Size of the file, such as 20k or 1.5M: find the best quality that fits.", rich_help_panel=SIZE
        ),
    ] = None,
    effort: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Rounds of refining each picture: with the same -q a better picture of about the same size; at the same PSNR, 12 "
            "rounds save about 3 % of the bytes. Takes some twenty times as long.",
            rich_help_panel=SIZE,
        ),
    ] = 0,
    skip_larger: Annotated[
        bool, typer.Option("--skip-larger", help="Skip pictures whose result would be larger than the input.", rich_help_panel=SIZE)
    ] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="Do not store EXIF, XMP, IPTC, texts, colour profile and resolution.")
    ] = False,
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="The name of included weights, or a file: a codec or a feature autoencoder.")
    ] = "photo-codec",
    score: Annotated[
        bool, typer.Option("--score", help="Print PSNR and, for pictures that are large enough, MS-SSIM of the result.")
    ] = False,
    fail_on_anomaly: Annotated[
        bool,
        typer.Option("--fail-on-anomaly", help="End with status 3 if a picture is unlike what the weights were trained on."),
    ] = False,
    running: Engine = Engine(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Compress pictures to .npz files.

    [bold]Examples[/bold]

    aecli encode photo.png  # photo.npz beside it

    aecli encode photos/ -o small/ --recursive -q 70

    aecli encode photo.png --max-bytes 20k  # or --bpp 0.3, or --psnr 36

    aecli encode photo.png --psnr 34 --effort 12  # smaller, and far slower

    aecli encode digit.png --weights mnist-conv
    """
    report.configure(printing)
    jobs = report.plan(files, SUFFIXES, lambda path: f"{path.stem}.npz", _check_name, [weights], unread=UNREAD)

    wanted = _wanted(quality, bpp, psnr, max_bytes)
    asked = Asked(effort, strip, skip_larger, score, previews=files.report is not None, judgement=fail_on_anomaly)
    make_work = partial(_work, weights, wanted, running, asked)
    tally = report.run_batch(jobs, make_work, files, running, _describe)
    if tally.unlike and fail_on_anomaly:
        raise typer.Exit(report.ExitStatus.ANOMALY)


def _check_name(target: Place) -> None:
    if target.suffix.lower() != ".npz":
        raise UsageError(f"{target}: compressed pictures must end in .npz; give such a name, or a folder")


@dataclass(frozen=True)
class Asked:
    """What is wanted besides the quality."""

    effort: int = 0
    strip: bool = False
    skip_larger: bool = False
    score: bool = False
    previews: bool = False
    judgement: bool = False


def _work(
    weights: str, wanted: float | Target | None, running: Engine, asked: Asked
) -> Work[tuple[Picture, int], tuple[bytes, dict[str, Any]]]:
    """The work, with a model of its own: workers on other machines make theirs from the same words."""
    from aecli.anomalies import can_judge, check_weights, is_unlike
    from aecli.compression import check_options, coder_for, decode_picture, describe, encode_together
    from aecli.weights import load_weights

    compute = running.compute()
    coder = coder_for(load_weights(weights, compute.device), compute, effort=asked.effort)
    check_options(coder, wanted)
    if asked.judgement:
        check_weights(coder.weights)

    def read(job: Job) -> tuple[Picture, int]:
        source = read_bytes(job, sys.stdin.buffer)
        picture = read_picture(source, job.name)
        return without_metadata(picture) if asked.strip else picture, len(source)

    def process(given: Sequence[tuple[Picture, int]]) -> list[tuple[bytes, dict[str, Any]]]:
        encoded = encode_together([picture for picture, _ in given], coder, quality=wanted)
        return [with_more(*source, *result) for source, result in zip(given, encoded, strict=True)]

    def with_more(picture: Picture, source_bytes: int, data: bytes, errors: Tensor | None) -> tuple[bytes, dict[str, Any]]:
        info: dict[str, Any] = {
            "size": [picture.width, picture.height],
            "bytes": len(data),
            "input_bytes": source_bytes,
            "bits_per_pixel": round(8 * len(data) / (picture.width * picture.height), 4),
            "ratio": round(source_bytes / len(data), 3),
            "larger_than_input": len(data) > source_bytes,
            "weights": coder.weights.name,
        }
        if isinstance(wanted, Target):
            info["quality"] = describe(data, "the result").quality
        if asked.score or asked.previews:
            decoded = decode_picture(data, "the result", lambda _: coder)
        if asked.score:
            from aecli.scores import scores

            info |= scores(decoded, with_8_bits(picture), multi_scale=True)
        if asked.previews:
            info["preview"] = (preview(picture), preview(decoded))
        notes = [*picture.notes]
        if picture.pixels.dtype.itemsize == 2:
            notes.append(f"16 bits a channel were rounded to 8{few_levels_left(picture)}")
        if picture.extra is not None:
            notes.append(f"{further_bands(picture.extra.shape[2])} left out")
        judged = can_judge(picture, coder.weights)
        info["unlike_training_data"] = is_unlike(picture, coder.weights, compute, errors) if judged else None
        if info["unlike_training_data"]:
            notes.append(f"unlike what {coder.weights.name} was trained on")
        if asked.judgement and not judged:
            notes.append(f"too small to be compared with what {coder.weights.name} was trained on")
        return data, info | {"notes": notes}

    def write(job: Job, result: tuple[bytes, dict[str, Any]], stream: BinaryIO) -> Mapping[str, object]:
        data, info = result
        if asked.skip_larger and info["larger_than_input"]:
            raise SkippedError(f"the .npz would be {_share(info)}, which is kept")
        stream.write(data)
        return info | {"notes": [*job.notes, *info["notes"]]}

    several = Several(lambda given: coder.small_size(given[0]), process)
    return Work(read, lambda job, given: process([given])[0], write, several)


def _wanted(quality: float | None, bpp: float | None, psnr: float | None, max_bytes: str | None) -> float | Target | None:
    """The one thing that the command line asks for, if any."""
    if sum(value is not None for value in (quality, bpp, psnr, max_bytes)) > 1:
        raise UsageError("give one of --quality, --bpp, --psnr and --max-bytes")
    if bpp is not None:
        return Target("bpp", bpp)
    if psnr is not None:
        return Target("psnr", psnr)
    if max_bytes is not None:
        return Target("bytes", _number_of_bytes(max_bytes))
    return quality


def _number_of_bytes(text: str) -> float:
    """`20k` → 20,000."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)([kM]?)", text)
    if found is None:
        raise UsageError(f"--max-bytes {text} is not a number of bytes: give one such as 20000, 20k or 1.5M")
    return float(found[1]) * {"": 1, "k": 1000, "M": 1_000_000}[found[2]]


def _share(info: Mapping[str, Any]) -> str:
    if not info["larger_than_input"]:
        return f"1/{info['ratio']:.1f} of the input"
    return f"{1 / info['ratio']:.1f} times as large as the input" if info["ratio"] < 1 / 1.05 else "larger than the input"


def _describe(info: Mapping[str, Any]) -> str:
    parts = [f"{info['bytes']:,} bytes, {info['bits_per_pixel']:.3f} bits a pixel, {_share(info)}"]
    if "quality" in info:
        parts.append(f"quality {info['quality']:g}")
    if "psnr" in info:
        parts.append(f"PSNR {info['psnr']:.2f} dB")
    if "ms_ssim" in info:
        parts.append(f"MS-SSIM {info['ms_ssim']:.4f}")
    return "; ".join([*parts, *info["notes"]])
