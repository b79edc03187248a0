"""Options that several commands share, as groups: a command asks for `files: Files` and gets all of its options filled in."""

from __future__ import annotations

import dataclasses
import functools
import gc
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from aecli.device import Compute

FIGURES = ("png", "svg", "pdf")  # formats that plots are drawn in
FORMAT_CHOICE = ("png", "jpg", "webp", "avif", "tif")  # of results
MOST_SEED = 2**32 - 1  # of what NumPy and scikit-learn take
OVERWRITE = "Replace results that exist."
FILES, RUNNING, PRINTING = "Files", "Computing", "Output on the terminal"


@dataclass(frozen=True)
class Inputs:
    """What is read."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="Files, folders, URLs, or - for standard input.", show_default=False),
    ] = None
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Include subfolders.", rich_help_panel=FILES)] = False
    files_from: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Read names of files from LIST, or - for standard input.", rich_help_panel=FILES),
    ] = None
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Names in LIST end with NUL (find -print0).", rich_help_panel=FILES)
    ] = False


@dataclass(frozen=True)
class Files(Inputs):
    """What is read, and where results go."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="A file, a folder, a URL, or - for standard output.", rich_help_panel=FILES
        ),
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", "-f", help=OVERWRITE, rich_help_panel=FILES)] = False
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip results that exist: resumes an interrupted run.", rich_help_panel=FILES)
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Print what would be written, and write nothing.", rich_help_panel=FILES)
    ] = False
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep running, and process files as they arrive, until Ctrl-C.", rich_help_panel=FILES)
    ] = False
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="HTML", help="Write a page of all files, with before and after under a slider.", rich_help_panel=FILES
        ),
    ] = None


@dataclass(frozen=True)
class Results:
    """What pictures are written as."""

    format: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(FORMAT_CHOICE),
            help="Format of the results; by default that of the name, or of the input.",
            rich_help_panel=FILES,
        ),
    ] = None
    output_quality: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            metavar="1-100",
            help="Quality of jpg, webp (100 is lossless) and avif results; by default about that of a jpg or lossy webp input, "
            "and nearly lossless for other inputs.",
            rich_help_panel=FILES,
        ),
    ] = None


@dataclass(frozen=True)
class Running:
    """Device, precision, threads."""

    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.", rich_help_panel=RUNNING)] = "auto"
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|bf16", help="auto takes bf16 where it is fast.", rich_help_panel=RUNNING)
    ] = "auto"
    threads: Annotated[
        int | None,
        typer.Option("--threads", "--jobs", "-j", min=1, help="CPU threads; by default one per core.", rich_help_panel=RUNNING),
    ] = None

    def compute(self) -> Compute:
        """Resolved for this machine; imports torch, unless the command has, which is the last of what takes long to import."""
        from aecli.device import select

        gc.enable()
        return select(self.device, self.precision, self.threads)


@dataclass(frozen=True)
class Engine(Running):
    """Device, precision, threads, and on which machines."""

    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="ray: many processes, or several machines.", rich_help_panel=RUNNING)
    ] = "local"
    address: Annotated[
        str | None,
        typer.Option(metavar="auto|HOST:PORT", help="A running Ray cluster; by default this machine.", rich_help_panel=RUNNING),
    ] = None

    @property
    def worker_threads(self) -> int:
        """Of each of Ray's workers: processors are shared among them, not among threads."""
        return self.threads or 1

    def compute(self) -> Compute:
        """Resolved for the machine, and the engine, that it runs on; imports torch."""
        return super().compute() if self.engine == "local" else Running(self.device, self.precision, self.worker_threads).compute()


@dataclass(frozen=True)
class Printing:
    """How much is said, and in what form."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file.", rich_help_panel=PRINTING)] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.", rich_help_panel=PRINTING)] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the traceback of an error.", rich_help_panel=PRINTING)] = (
        False
    )


_GROUPS = (Inputs, Files, Results, Running, Engine, Printing)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameters of the types above by their fields, in the signature that Typer reads."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if hint in _GROUPS}

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group)})
        command(**values)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        if group is None:
            parameters.append(_keyword(parameter.name, hints[parameter.name], parameter.default))
        else:
            field_hints = get_type_hints(group, include_extras=True)
            parameters += [_keyword(f.name, field_hints[f.name], f.default) for f in dataclasses.fields(group)]
    del run.__wrapped__  # inspect would follow it to the original signature
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
