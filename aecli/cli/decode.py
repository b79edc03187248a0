"""`aecli decode`: .npz back to pictures."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from aecli.batch import DECODED, Input, Job, read_bytes
from aecli.cli import report
from aecli.cli.formats import Formats
from aecli.cli.options import Engine, Files, Printing, Results
from aecli.errors import AecliError, UsageError
from aecli.images import Picture
from aecli.pages import preview
from aecli.pipeline import Several, Work

if TYPE_CHECKING:
    from aecli.compression import Coder, Contents

SUFFIXES = frozenset({".npz"})


def decode(
    files: Files,
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="Weights to decode with; by default those that the file names.")
    ] = None,
    info: Annotated[bool, typer.Option("--info", help="Print what a file holds, without decoding it.")] = False,
    results: Results = Results(),  # noqa: B008
    running: Engine = Engine(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Restore pictures from .npz files.

    [bold]Examples[/bold]

    aecli decode photo.npz  # photo.decoded.png beside it

    aecli decode photo.npz -o photo.jpg

    aecli decode small/ -o back/ --recursive --format webp
    """
    report.configure(printing)
    if info:
        reading = Files(files.inputs, files.recursive, files.files_from, files.null)
        decoding = weights is not None or results != Results() or running.engine != "local" or running.address is not None
        if files != reading or decoding:
            raise UsageError("--info writes nothing and decodes nothing: leave out all options but those of what is read")
        _tell(report.find(files, SUFFIXES))
        return
    formats, ending = Formats.of(results), DECODED if files.output is None else ""
    jobs = report.plan(files, SUFFIXES, formats.name_of(ending), formats.check, [weights], instead=formats.other_name_of(ending))

    make_work = partial(_work, weights, formats, running, previews=files.report is not None)
    report.run_batch(jobs, make_work, files, running, _describe)


def _work(
    weights: str | None, formats: Formats, running: Engine, *, previews: bool
) -> Work[tuple[Contents, int], tuple[Picture, int]]:
    """The work, with models of its own: workers on other machines make theirs from the same words."""
    from aecli.coding.container import read_container
    from aecli.compression import coder_for, decode_together, outline, small_kind
    from aecli.weights import load_weights

    compute = running.compute()

    @lru_cache(maxsize=4)
    def coder(name: str) -> Coder:
        return coder_for(load_weights(name, compute.device), compute)

    if weights:
        coder(weights)  # wrong weights are wrong usage, and not the fault of every file

    def find(named: str) -> Coder:
        return coder(weights or named)

    def read(job: Job) -> tuple[Contents, int]:
        data = read_bytes(job, sys.stdin.buffer)
        return read_container(data, job.name), len(data)

    def process(given: Sequence[tuple[Contents, int]], name: str) -> list[tuple[Picture, int]]:
        files, sizes = zip(*given, strict=True)
        return list(zip(decode_together(files, name, find), sizes, strict=True))

    def write(job: Job, result: tuple[Picture, int], stream: BinaryIO) -> Mapping[str, object]:
        picture, size = result
        info = {"size": [picture.width, picture.height], "bytes": size, "notes": formats.write(job, picture, stream)}
        return info | ({"preview": ("", preview(picture))} if previews else {})

    def kind(given: tuple[Contents, int]) -> Hashable:
        (header, _), _ = given
        return small_kind(header, find)

    def settle(job: Job, given: tuple[Contents, int]) -> Job:
        return formats.settle(job, outline(given[0], job.name))

    several = Several(kind, lambda given: process(given, "one of several files"))
    return Work(read, lambda job, given: process([given], job.name)[0], write, several, settle)


def _tell(inputs: list[Input]) -> None:
    from aecli.compression import describe

    failed = False
    for job in (Job(item.path, None, item.name) for item in inputs):
        try:
            found = describe(read_bytes(job, sys.stdin.buffer), job.name)
        except AecliError as error:
            report.complain(str(error))
            if report.as_json():
                report.answer("", {"input": job.name, "status": "failed", "message": str(error)})
            failed = True
            continue
        quality = "" if found.quality is None else f", quality {found.quality:g}"
        text = (
            f"{job.name}: {found.width}×{found.height} {found.mode}, {found.bits_per_pixel:.3f} bits a pixel{quality}, "
            f"{found.layout} of {found.weights} {found.digest}"
        )
        report.answer(text, {"input": job.name, "status": "done", **dataclasses.asdict(found)})
    if failed:
        raise typer.Exit(report.ExitStatus.FAILED)


def _describe(info: Mapping[str, Any]) -> str:
    width, height = info["size"]
    return "; ".join([f"{width}×{height}", *info["notes"]])
