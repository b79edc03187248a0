"""`aecli train`: teach an autoencoder, on MNIST at once or on your own pictures."""

from __future__ import annotations

import math
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aecli.cli import report
from aecli.cli.options import MOST_SEED, Printing, Running
from aecli.errors import UsageError
from aecli.progress import duration

if TYPE_CHECKING:
    from aecli.training import Progress, Request, Result
    from aecli.training.distributed import Processes

DATA, BUDGET, START = "Data", "How long, how fast", "Start and end"
LOG_SECONDS = 30  # between progress lines where there is no terminal


def train(
    arch: Annotated[str, typer.Option(help="dense, deep, sparse, conv, vae (small pictures); denoiser, codec (photographs).")],
    data: Annotated[
        str | None,
        typer.Option(help="mnist (included), fashion-mnist, cifar10, a folder, or an .npz or .npy array.", rich_help_panel=DATA),
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="A local copy of the data set.", rich_help_panel=DATA)] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download the data set if it is not there.", rich_help_panel=DATA)
    ] = False,
    valid: Annotated[
        str | None, typer.Option(help="A folder of pictures to validate on; by default some are held out.", rich_help_panel=DATA)
    ] = None,
    patch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the patches that are cut from the pictures of a folder.", rich_help_panel=DATA),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(
            min=1, help="Take whole pictures of a folder, reduced to this side, instead of patches.", rich_help_panel=DATA
        ),
    ] = None,
    data_name: Annotated[
        str | None, typer.Option(help="Name of the data in the model card; by default that of the folder.", rich_help_panel=DATA)
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            help="Learn to denoise: gaussian:0.5 adds noise of that strength (values 0–1) to the input.", rich_help_panel=DATA
        ),
    ] = None,
    latent_dim: Annotated[int | None, typer.Option(min=1, help="Length of the code.")] = None,
    sparsity: Annotated[str | None, typer.Option(help="For sparse: topk:SHARE, l1:WEIGHT or kl:SHARE.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.", rich_help_panel=BUDGET)] = None,
    steps: Annotated[int | None, typer.Option(help="Number of batches.", rich_help_panel=BUDGET)] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes of training; measuring afterwards is not included.", rich_help_panel=BUDGET)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures per step, of each process.", rich_help_panel=BUDGET)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", rich_help_panel=BUDGET)] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Same seed, same machine: same weights.", rich_help_panel=BUDGET)
    ] = 0,
    init: Annotated[str | None, typer.Option(help="Weights to start from (fine-tuning).", rich_help_panel=START)] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted run; its options must be the same.", rich_help_panel=START),
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an interrupted run and start again.", rich_help_panel=START)
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The weights file; by default named after data and arch.", rich_help_panel=START),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "-f", help="Replace the weights file if it exists.", rich_help_panel=START)
    ] = False,
    running: Running = Running(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Train an autoencoder.

    Ends with the weights file, a picture of reconstructions beside it, and a table of test scores. Ctrl-C keeps a checkpoint, from
    which --resume continues.

    [bold]Examples[/bold]

    aecli train --arch conv  # MNIST, a few minutes

    aecli train --arch conv --noise gaussian:0.5 -o digits.safetensors

    aecli train --arch codec --init photo-codec --data photos/ --minutes 60

    torchrun --nproc-per-node=4 -m aecli train --arch codec --data photos/  # four processes, or GPUs
    """
    report.configure(printing)
    from aecli.models.dense import parse_sparsity
    from aecli.training import RECIPES, Request
    from aecli.training.noise import parse_noise

    with _processes(printing) as processes:
        with processes.together():
            if arch not in RECIPES:
                raise UsageError(f"--arch {arch} is not known: give one of {', '.join(RECIPES)}")
            if sparsity is not None:
                parse_sparsity(sparsity)
            name = Path(data).resolve().name if data and Path(data).is_dir() else Path(data or RECIPES[arch].data or "photos").stem
            request = Request(
                arch=arch,
                output=output or Path(f"{name}-{arch}.safetensors"),
                compute=processes.place(running.compute()),
                data=data,
                data_root=data_root,
                download=download,
                valid=valid,
                data_name=data_name,
                patch_size=patch_size,
                resize=resize,
                latent_dim=latent_dim,
                sparsity=sparsity,
                noise=None if noise is None else parse_noise(noise),
                epochs=epochs,
                steps=steps,
                minutes=minutes,
                batch_size=batch_size,
                lr=lr,
                seed=seed,
                init=init,
                resume=resume,
                restart=restart,
                overwrite=overwrite,
                command=shlex.join([*processes.launcher(), *sys.argv[1:]]),
                tell=report.say,
            )
            report.refuse_nameless(request.output)
            report.refuse_existing(_picture_beside(request), overwrite)
        status = _run(request, processes)
    if status != report.ExitStatus.OK:  # after all processes: torchrun ends them as soon as one ends badly
        raise typer.Exit(status)


@contextmanager
def _processes(printing: Printing) -> Iterator[Processes]:
    """Those that torchrun started, or this one alone; the first one does the talking."""
    from aecli.training import distributed

    try:
        with distributed.joined() as processes:
            if not processes.leads:
                report.configure(replace(printing, quiet=True))
            yield processes
    except distributed.ElsewhereError as error:
        raise typer.Exit(report.ExitStatus.FAILED) from error


def _run(request: Request, processes: Processes) -> report.ExitStatus:
    from aecli.training import train as run

    with show_progress() as show, stopping_when_told() as told:
        result = run(request, show, told, processes)
    if not result.finished:
        if processes.leads:
            report.complain(f"stopped after step {result.steps}; the same command with --resume goes on from {request.checkpoint}")
        return report.ExitStatus.TERMINATED if told.signal == signal.SIGTERM else report.ExitStatus.INTERRUPTED
    if processes.leads:
        _finish(request, result)
    return report.ExitStatus.OK


def _finish(request: Request, result: Result) -> None:
    from aecli.plots import save_rows

    if result.samples:
        picture = _picture_beside(request)
        save_rows(picture, result.samples, overwrite=request.overwrite)
        report.say(f"picture: {picture}")
    report.table(("score", "held out"), [(name, f"{value:.4f}") for name, value in result.scores.items()])
    values = {"weights": str(request.output), "steps": result.steps, "scores": dict(result.scores)}
    report.answer(str(request.output), values)
    report.say(f"next: {shlex.join(_next_command(request))}")


def _next_command(request: Request) -> list[str]:
    """What the weights are for, on the data at hand."""
    weights = ["--weights", str(request.output)]
    if request.arch == "denoiser" or request.noise:
        return ["aecli", "denoise", "noisy.png", *weights]
    if request.resize:
        return ["aecli", "anomalies", "new/", *weights]
    if request.arch == "codec" or Path(request.source).is_dir():
        return ["aecli", "encode", "photo.png", *weights]
    root = ["--data-root", str(request.data_root)] if request.data_root else []
    return ["aecli", "compare-pca", "--data", request.source, *root, *weights]


def _picture_beside(request: Request) -> Path:
    """Of reconstructions, beside the weights."""
    return request.output.with_suffix(".png")


@dataclass
class Told:
    """Whether Ctrl-C or SIGTERM came, and which."""

    signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None


@contextmanager
def stopping_when_told() -> Iterator[Told]:
    """Ctrl-C and SIGTERM are noted: the step at hand is finished first. A second one ends the program at once."""
    told = Told()

    def note(number: int, frame: Any) -> None:
        if told():
            raise KeyboardInterrupt
        told.signal = number

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """Live on a terminal; a line every half minute elsewhere; nothing with --quiet."""
    if report.quiet():
        yield lambda p: None
    elif sys.stderr.isatty():
        with _live_progress() as show:
            yield show
    else:
        yield _line_printer()


def _line_printer() -> Callable[[Progress], None]:
    last = -math.inf  # the first step is shown at once: it says that training is under way

    def show(p: Progress) -> None:
        nonlocal last
        if p.seconds - last >= LOG_SECONDS:
            last = p.seconds
            report.say(f"{p.share:6.1%}  {_text(p)}")

    return show


@contextmanager
def _live_progress() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda p: bar.update(task, completed=p.share, description=_text(p))


def _text(p: Progress) -> str:
    figures = _figures(p.figures)
    return f"step {p.step}  loss {p.loss:.4f}{figures}  {p.images_per_second:.1f} images/s  {duration(p.seconds_left)} left"


def _figures(figures: Mapping[str, float]) -> str:
    shown = {"psnr": "validation PSNR {:.2f} dB", "bpp": "{:.3f} bits a pixel", "active_share": "{:.1%} active"}
    return "".join("  " + text.format(figures[name]) for name, text in shown.items() if name in figures)
