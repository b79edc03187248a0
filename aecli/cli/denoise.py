"""`aecli denoise`: clean pictures."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from aecli.batch import DENOISED, Job, read_bytes
from aecli.cli import report
from aecli.cli.formats import Formats
from aecli.cli.options import Engine, Files, Printing, Results
from aecli.errors import AecliError, UsageError
from aecli.images import SUFFIXES, UNREAD, Picture, read_picture
from aecli.pages import preview
from aecli.pipeline import Several, Work
from aecli.storage import refuse_url

if TYPE_CHECKING:
    from aecli.denoising import Denoised


def denoise(
    files: Files,
    weights: Annotated[str, typer.Option("--weights", "-w", help="The name of included weights, or a file.")] = "photo-denoise",
    sigma: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the noise, 0–255: 5 is slight, 25 clear, 50 strong; estimated by default."),
    ] = None,
    strength: Annotated[float, typer.Option(help="How much noise is removed: 0 none, 1 all that is found, up to 2 more.")] = 1.0,
    reference: Annotated[
        Path | None, typer.Option(help="The clean picture: print PSNR and SSIM before and after.", show_default=False)
    ] = None,
    results: Results = Results(),  # noqa: B008
    running: Engine = Engine(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Remove noise from pictures.

    [bold]Examples[/bold]

    aecli denoise noisy.png

    aecli denoise scans/ -o clean/ --recursive --skip-existing

    find . -name '*.jpg' | aecli denoise --files-from - -o clean/

    cat noisy.png | aecli denoise - > clean.png

    aecli denoise scans/ -o clean/ --format webp --output-quality 85

    aecli denoise s3://bucket/scans/ -o s3://bucket/clean/ -r  # needs s3fs
    """
    report.configure(printing)
    refuse_url(reference or "", "--reference")
    formats, ending = Formats.of(results), DENOISED if files.output is None else ""
    jobs = report.plan(
        files,
        SUFFIXES,
        formats.name_of(ending),
        formats.check,
        [reference, weights],
        instead=formats.other_name_of(ending),
        unread=UNREAD,
    )

    make_work = partial(_work, weights, sigma, strength, reference, formats, running, previews=files.report is not None)
    report.run_batch(jobs, make_work, files, running, _describe)


def _work(
    weights: str,
    sigma: float | None,
    strength: float,
    reference: Path | None,
    formats: Formats,
    running: Engine,
    *,
    previews: bool,
) -> Work[Picture, tuple[Denoised, dict[str, object]]]:
    """The work, with a model of its own: workers on other machines make theirs from the same words."""
    from aecli.anomalies import can_judge, errors_between, is_unlike
    from aecli.denoising import TILE, check_options, denoise_picture, denoise_small, small_size
    from aecli.tiling import TileSide
    from aecli.weights import load_weights

    compute = running.compute()
    loaded = load_weights(weights, compute.device)
    check_options(loaded, sigma, strength)
    clean = _read_reference(reference) if reference else None

    tile = TileSide(TILE)

    def process(job: Job, picture: Picture) -> tuple[Denoised, dict[str, object]]:
        def denoised(side: int) -> Denoised:
            return denoise_picture(picture, loaded, compute, sigma=sigma, strength=strength, tile=side)

        return with_more(picture, tile.fitting_memory(denoised))

    def process_small(given: Sequence[Picture]) -> list[tuple[Denoised, dict[str, object]]]:
        results = denoise_small(given, loaded, compute, sigma=sigma, strength=strength)
        return [with_more(picture, done) for picture, done in zip(given, results, strict=True)]

    def with_more(picture: Picture, done: Denoised) -> tuple[Denoised, dict[str, object]]:
        more: dict[str, object] = {"preview": (preview(picture), preview(done.picture))} if previews else {}
        if strength >= 1 and can_judge(picture, loaded):  # a photograph denoiser judges itself
            errors = errors_between(picture, done.picture, loaded)
            done = dataclasses.replace(done, unlike=is_unlike(picture, loaded, compute, errors))
        if clean is not None:
            from aecli.scores import scores

            more |= {"before": scores(picture, clean), "after": scores(done.picture, clean)}
        return done, more

    def write(job: Job, result: tuple[Denoised, dict[str, object]], stream: BinaryIO) -> Mapping[str, object]:
        done, more = result
        notes = formats.write(job, done.picture, stream)
        info: dict[str, object] = {"size": [done.picture.width, done.picture.height], "weights": loaded.name}
        if done.sigma is not None:
            info |= {"sigma": round(done.sigma, 2), "sigma_estimated": done.estimated}
        return info | more | {"unlike_training_data": done.unlike, "notes": [*notes, *_doubts(done, loaded.name)]}

    several = Several(lambda picture: small_size(picture, loaded), process_small)
    return Work(lambda job: read_picture(read_bytes(job, sys.stdin.buffer), job.name), process, write, several, formats.settle)


def _doubts(done: Denoised, weights: str) -> list[str]:
    """What to say of a picture that is unlike the training data."""
    if done.colours is not None and done.unlike:
        return [f"left as it is, as it has only {done.colours} colours: pass --sigma to denoise it"]
    if done.unlike:
        way_out = "pass other --weights" if done.sigma is None else "pass --sigma"
        return [f"unlike what {weights} was trained on: look at the result, or {way_out}"]
    return []


def _read_reference(path: Path) -> Picture:
    try:
        return read_picture(path)
    except AecliError as error:
        raise UsageError(f"--reference: {error}") from error


def _describe(info: Mapping[str, Any]) -> str:
    parts = []
    if "sigma" in info:
        parts.append(f"sigma {info['sigma']:.1f}{' (estimated)' if info['sigma_estimated'] else ''}")
    if "before" in info:
        before, after = info["before"], info["after"]
        parts.append(", ".join(f"{name.upper()} {before[name]:.4g} → {after[name]:.4g}" for name in before if name in after))
    return "; ".join([*parts, *info["notes"]])
