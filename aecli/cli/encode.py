"""`aecli encode`: pictures to .npz."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, BinaryIO

import typer

from aecli.batch import Job, read_bytes
from aecli.cli import report
from aecli.cli.options import Files, Printing, Running
from aecli.images import SUFFIXES, read_picture, with_8_bits


def encode(
    files: Files,
    quality: Annotated[float, typer.Option("--quality", "-q", help="0–100: smallest to best.")] = 50.0,
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="Shipped weights by name, or a file: a codec or a feature autoencoder.")
    ] = "photo-codec",
    score: Annotated[bool, typer.Option("--score", help="Decode again; print PSNR and MS-SSIM.")] = False,
    running: Running = Running(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Compress pictures to .npz files.

    [bold]Examples[/bold]

    aecli encode photo.png                                        [dim]photo.npz beside it[/dim]

    aecli encode photos/ -o small/ --recursive -q 70

    aecli encode digit.png --weights mnist-conv
    """
    report.configure(printing)
    jobs = report.plan(files, SUFFIXES, lambda path: f"{path.stem}.npz")

    from aecli.compression import check_quality, coder_for, decode_picture, encode_picture
    from aecli.weights import load_weights

    check_quality(quality)
    compute = running.compute()
    coder = coder_for(load_weights(weights, compute.device), compute)

    def work(job: Job, stream: BinaryIO) -> Mapping[str, object]:
        source = read_bytes(job, sys.stdin.buffer)
        picture = read_picture(source, job.name)
        data = encode_picture(picture, coder, quality=quality)
        stream.write(data)
        info: dict[str, object] = {
            "size": [picture.width, picture.height],
            "bytes": len(data),
            "bits_per_pixel": round(8 * len(data) / (picture.width * picture.height), 4),
            "ratio": round(len(source) / len(data), 3),
            "weights": coder.weights.name,
        }
        if score:
            from aecli.scores import scores

            info |= scores(decode_picture(data, job.name, lambda _: coder), with_8_bits(picture), multi_scale=True)
        reduced = ["16 bits a channel were rounded to 8"] if picture.pixels.dtype.itemsize == 2 else []
        return info | {"notes": [*picture.notes, *reduced]}

    report.run_batch(jobs, work, files, _describe)


def _describe(info: Mapping[str, Any]) -> str:
    parts = [f"{info['bytes']:,} bytes, {info['bits_per_pixel']:.3f} bits a pixel, 1/{info['ratio']:.1f} of the input"]
    if "psnr" in info:
        parts.append(f"PSNR {info['psnr']:.2f} dB")
    if "ms_ssim" in info:
        parts.append(f"MS-SSIM {info['ms_ssim']:.4f}")
    return "; ".join([*parts, *info["notes"]])
