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
FILES, RUNNING, PRINTING = "Files", "Where and how it runs", "What is printed"


@dataclass(frozen=True)
class Inputs:
    """What is read."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="Files, folders, URLs, or - for standard input.", show_default=False),
    ] = None
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Walk folders.", rich_help_panel=FILES)] = False
    files_from: Annotated[
        str | None, typer.Option(metavar="LIST", help="Take names from a file, or - for standard input.", rich_help_panel=FILES)
    ] = None
    null: Annotated[bool, typer.Option("--null", "-0", help="Names in the list end with NUL.", rich_help_panel=FILES)] = False


@dataclass(frozen=True)
class Files(Inputs):
    """What is read, and where results go."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="A file, a folder, a URL, or - for standard output.", rich_help_panel=FILES
        ),
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.", rich_help_panel=FILES)] = False
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave results that exist: resumes a broken-off run.", rich_help_panel=FILES)
    ] = False
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with files as they arrive in the folders, until Ctrl-C.", rich_help_panel=FILES)
    ] = False
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="HTML", help="A page of all files: figures, and before and after under a slider.", rich_help_panel=FILES
        ),
    ] = None


@dataclass(frozen=True)
class Results:
    """What pictures are written as."""

    format: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(FORMAT_CHOICE), help="Format of the results; otherwise as the name tells.", rich_help_panel=FILES
        ),
    ] = None
    output_quality: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            metavar="1-100",
            help="Of results in jpg, webp (100 is lossless) and avif; otherwise about that of the input where it is a jpg or a "
            "lossy webp, and next to lossless where it is not.",
            rich_help_panel=FILES,
        ),
    ] = None


@dataclass(frozen=True)
class Running:
    """Device, precision, threads."""

    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where it runs.", rich_help_panel=RUNNING)] = "auto"
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|bf16", help="auto: bf16 where it is fast.", rich_help_panel=RUNNING)
    ] = "auto"
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.", rich_help_panel=RUNNING)] = None

    def compute(self) -> Compute:
        """Resolved for this machine; imports torch, unless the command has, which is the last of what takes long to import."""
        from aecli.device import select

        gc.enable()
        return select(self.device, self.precision, self.threads)


@dataclass(frozen=True)
class Engine(Running):
    """Device, precision, threads, and on which machines."""

    engine: Annotated[str, typer.Option(metavar="local|ray", help="ray: many processes, or machines.", rich_help_panel=RUNNING)] = (
        "local"
    )
    address: Annotated[
        str | None,
        typer.Option(metavar="auto|HOST:PORT", help="A running Ray cluster; otherwise this machine.", rich_help_panel=RUNNING),
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

    json: Annotated[bool, typer.Option("--json", help="A JSON object a file, on stdout.", rich_help_panel=PRINTING)] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Errors only.", rich_help_panel=PRINTING)] = False
    verbose: Annotated[bool, typer.Option("--verbose", help="Show where an error arose.", rich_help_panel=PRINTING)] = False


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
