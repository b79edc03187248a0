"""All that is printed, and the exit status: progress, lines, JSON, tables, and the one place where errors become sentences.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import math
import shlex
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from functools import partial
from pathlib import Path
from threading import Timer
from time import perf_counter
from types import MappingProxyType
from typing import Any

import typer

from aecli import __version__, batch, ray_engine
from aecli.cli.options import FIGURES, Engine, Files, Inputs, Printing
from aecli.errors import AecliError, UsageError
from aecli.pages import HEIGHT, WIDTH, Report, Row
from aecli.pipeline import Outcome, Work, run
from aecli.progress import watched
from aecli.storage import Place, place, refuse_url
from aecli.watching import arriving

STATUSES = ("done", "skipped", "failed")
FAILURES_SHOWN = 20  # once more, at the end
SILENCE = 2.0  # seconds that a picture may take before its tiles are shown


class ExitStatus(IntEnum):
    """0 all done, 1 some failed, 2 wrong usage, 3 all done and some unlike the training data, 130 interrupted, 143 told to end."""

    OK = 0
    FAILED = 1
    USAGE = 2
    ANOMALY = 3
    INTERRUPTED = 130
    TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does, so that what is half written goes."""


_printing = Printing()


def configure(printing: Printing) -> None:
    """What the command line asked for; read by everything below."""
    global _printing
    _printing = printing


def quiet() -> bool:
    """Whether only errors are printed."""
    return _printing.quiet


def as_json() -> bool:
    """Whether results are asked for as JSON."""
    return _printing.json


def say(text: str) -> None:
    """A line for the person at the terminal."""
    if not _printing.quiet:
        typer.echo(text, err=True)


def complain(text: str) -> None:
    """An error, in one sentence."""
    typer.echo(f"aecli: {text}", err=True)


def result(text: str, values: Mapping[str, Any]) -> None:
    """A result: JSON on standard output with --json, otherwise a line for the person at the terminal."""
    if _printing.json:
        answer(text, values)
    else:
        say(text)


def answer(text: str, values: Mapping[str, Any]) -> None:
    """What was asked for, on standard output in either form."""
    typer.echo(json.dumps(values, allow_nan=False, default=str) if _printing.json else text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", to_stdout: bool = False) -> None:
    """A table; numbers come ready as text. Tables that are the command's answer go to standard output."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    if _printing.quiet and not to_stdout:
        return
    shown = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD)
    for index, column in enumerate(columns):
        shown.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    stream = sys.stdout if to_stdout else sys.stderr
    # A pipe has no width; without one, rich would fold the columns at 80.
    Console(file=stream, width=None if stream.isatty() else 160, markup=False, highlight=False).print(shown)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Errors of any command → one sentence and an exit status."""
    try:
        yield
    except (AecliError, OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output is gone: nobody is left to tell
            sys.stderr.close()
            raise typer.Exit(ExitStatus.FAILED) from error
        _show_traceback(error)
        complain(str(error) or "there is not enough memory")
        raise typer.Exit(ExitStatus.USAGE if isinstance(error, UsageError) else ExitStatus.FAILED) from error
    except KeyboardInterrupt as error:
        terminated = isinstance(error, Terminated)
        complain(f"{'told to end' if terminated else 'interrupted'}; results that are there are whole")
        raise typer.Exit(ExitStatus.TERMINATED if terminated else ExitStatus.INTERRUPTED) from error


def _show_traceback(error: BaseException | None) -> None:
    if _printing.verbose and error is not None:
        traceback.print_exception(error)


def find(
    inputs: Inputs,
    suffixes: frozenset[str],
    *,
    may_be_empty: bool = False,
    unread: Mapping[str, str] = MappingProxyType({}),
) -> list[batch.Input]:
    """What the command line names. Raises UsageError where that is nothing, unless it may be."""
    return batch.find_inputs(
        inputs.inputs or [],
        recursive=inputs.recursive,
        files_from=inputs.files_from,
        null_separated=inputs.null,
        suffixes=suffixes,
        stdin=sys.stdin.buffer,
        may_be_empty=may_be_empty,
        unread=unread,
        tell=(lambda _: None) if may_be_empty else say,  # what is watched is looked at again and again
    )


def plan(
    files: Files,
    suffixes: frozenset[str],
    rename: Callable[[Path], str],
    check: Callable[[Place], object],
    besides: Sequence[Path | str | None],
    *,
    instead: Callable[[Path], str] | None = None,
    unread: Mapping[str, str] = MappingProxyType({}),
) -> Iterable[batch.Job]:
    """The jobs that the command line names, a list, or with --watch without end. Raises UsageError before anything is done.

    rename, instead, unread: as `plan_outputs` and `find_inputs` take them. check: raises UsageError for a name that no result can
    have. besides: files that the command reads, too; none is replaced.
    """
    if files.report is not None:
        _check_page(files.report, files.overwrite)
    others = [Path(name) for name in (files.report, *besides) if name is not None]
    make = partial(batch.plan_outputs, output=files.output, rename=rename, rename_instead=instead, besides=others)
    look = partial(find, files, suffixes, unread=unread)
    if files.watch:
        return _watched(files, look, make)
    inputs = look()
    jobs = make(inputs, overwrite=files.overwrite)
    for job in jobs:
        if job.target is not None and not job.into and not job.skip:
            check(job.target)
    if files.report is not None:
        refuse_source(files.report, "--report", (job.source for job in jobs))
    if len(jobs) < len(inputs):
        say(f"skipped {batch.counted(len(inputs) - len(jobs), 'earlier result')}")
    if _printing.json and any(job.target is None for job in jobs):
        raise UsageError("--json and the result cannot both go to standard output: pass --output FILE")
    if files.dry_run:
        raise typer.Exit(_rehearse(jobs, files))
    return jobs


def _rehearse(jobs: Sequence[batch.Job], files: Files) -> ExitStatus:
    """Print what would be done."""
    status = ExitStatus.OK
    for job in jobs:
        target = "standard output" if job.target is None else str(job.target)
        there = job.target is not None and not job.into and batch.exists(job.target)
        values = {"input": job.name, "output": target, "status": "planned"}
        if job.skip or (there and files.skip_existing):
            message = job.skip or f"{target} exists"
            answer(f"{job.name} would be skipped: {message}", {**values, "status": "skipped", "message": message})
        elif (there and not files.overwrite) or (isinstance(job.source, Path) and not batch.exists(job.source)):
            message = f"{target} exists" if there else "there is no such file"
            answer(f"{job.name} would fail: {message}", {**values, "status": "failed", "message": message})
            status = ExitStatus.FAILED
        else:
            answer(f"{job.name} → {target}{'  (replaced)' if there else ''}", values)
    return status


def _watched(files: Files, look: Callable[..., list[batch.Input]], make: Callable[..., list[batch.Job]]) -> Iterator[batch.Job]:
    folders = files.inputs or []
    if files.dry_run:
        raise UsageError("--watch cannot know what will arrive: leave --dry-run out")
    if files.files_from is not None or files.output == "-" or not folders or not all(map(_is_local_folder, folders)):
        raise UsageError("--watch looks at folders, and writes files: name local folders alone; leave --files-from and -o - out")
    if files.output is not None and Path(files.output).is_file():
        raise UsageError(f"{files.output} is a file, but the results need a folder: pass another --output")
    if files.overwrite:  # what is there before the first result was not made by this run
        make(look(may_be_empty=True), overwrite=True)
    say(f"watching {', '.join(folders)}; Ctrl-C ends it")
    return arriving(lambda: make(look(may_be_empty=True)), complain)


def _is_local_folder(name: str) -> bool:
    path = place(name)
    return isinstance(path, Path) and path.is_dir()


def _check_page(path: Path, overwrite: bool) -> None:
    refuse_url(path, "--report")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report {path}: the name of a page must end in .html")
    refuse_existing(path, overwrite, "--report")


def check_figure(output: Path, overwrite: bool) -> None:
    """Raises UsageError for the name of a plot that cannot be drawn, that exists, or that is a URL."""
    refuse_url(output, "--output")
    if output.suffix[1:].lower() not in FIGURES:
        raise UsageError(f"--output {output}: a figure must end in .{', .'.join(FIGURES)}")
    refuse_existing(output, overwrite)


def refuse_nameless(output: Path) -> None:
    """Raises UsageError for a folder, or nothing, where a file is to be named."""
    if output.name in ("", ".."):
        raise UsageError(f"--output {output} is no name of a file: give one")


def refuse_existing(path: Path, overwrite: bool, option: str = "--output") -> None:
    """Raises UsageError for a result that cannot be written there, or must not."""
    if path.is_dir() or (path.exists() and not overwrite):
        raise UsageError(f"{path} {'is a folder: pass' if path.is_dir() else 'exists: pass --overwrite or'} another {option}")


def refuse_source(path: Path, option: str, sources: Iterable[Place | None]) -> None:
    """Raises UsageError for a result that would replace something that is read."""
    if batch.identity_of(path) in {batch.identity_of(source) for source in sources if source is not None}:
        raise UsageError(f"{option} {path} is an input: pass another name")


def run_batch(
    jobs: Iterable[batch.Job],
    make_work: Callable[[], Work[Any, Any]],
    files: Files,
    running: Engine,
    describe: Callable[[Mapping[str, Any]], str],
) -> Tally:
    """Do the jobs, say what became of each, and exit with status 1 if any failed.

    make_work: makes the work, in each process that does some. Of what the work tells, `preview` is for the page alone: data
    URLs of before (or nothing) and after.
    """
    run_jobs = _engine(jobs, make_work, files, running)
    count = len(jobs) if isinstance(jobs, list) else None
    for folder in {
        job.target.parent for job in (jobs if isinstance(jobs, list) else []) if isinstance(job.target, Path) and not job.into
    }:
        batch.remove_abandoned(folder)  # here, and not on writing only: there may be nothing left to write
    page = Report("aecli" if count is None else f"aecli, {batch.counted(count, 'file')}", _origin())

    def tell(outcome: Outcome) -> None:
        info: dict[str, Any] = dict(outcome.info)
        before, after = info.pop("preview", ("", ""))
        outcome = replace(outcome, info=info)
        _show_outcome(outcome, describe)
        page.add(Row(outcome.job.name, outcome.status, _figures(outcome, describe, shown=bool(after)), before, after))

    try:
        tally = _run(jobs, run_jobs, tell)
    finally:
        if files.report is not None and page:  # of wrong usage there is no page
            with batch.atomic_write(files.report, overwrite=files.overwrite) as stream:
                stream.write(page.page().encode())
    if count != 1:
        _summarise(tally)
    if tally.counts["failed"]:
        raise typer.Exit(ExitStatus.FAILED)
    return tally


def _summarise(tally: Tally) -> None:
    """A table at the end; and the failures once more, which may have gone by among thousands of lines."""
    seconds = perf_counter() - tally.start
    counts = [str(tally.counts.total()), *(str(tally.counts[status]) for status in STATUSES)]
    rates = [f"{rate / seconds:.2f}" for rate in (tally.counts["done"], tally.pixels / 1e6)]
    table(["files", *STATUSES, "files/s", "MP/s", "seconds"], [[*counts, *rates, f"{seconds:.1f}"]])
    if tally.bytes_read:
        share = tally.bytes_written / tally.bytes_read
        say(f"{tally.bytes_read / 1e6:,.2f} MB → {tally.bytes_written / 1e6:,.2f} MB ({share:.1%})")
    if tally.counts["failed"] > 1 and tally.counts.total() > tally.counts["failed"]:
        more = tally.counts["failed"] - len(tally.failures)
        table(["failed"], [*([message] for message in tally.failures), *([[f"and {more} more"]] if more else [])])


RunJobs = Callable[[Iterable[batch.Job], Callable[[Outcome], None]], None]


def _engine(jobs: Iterable[batch.Job], make_work: Callable[[], Work[Any, Any]], files: Files, running: Engine) -> RunJobs:
    """What does jobs and tells what became of them. Raises UsageError for what does not go together."""
    overwrite, skip_existing = files.overwrite, files.skip_existing
    if running.engine == "ray":
        if isinstance(jobs, list) and any(job.source is None or job.target is None or job.into for job in jobs):
            raise UsageError(
                "--engine ray cannot reach standard input and output, or pipes, from other processes: name files, and --output"
            )
        threads, device, address = running.worker_threads, running.device, running.address
        return lambda jobs, tell: ray_engine.run(
            jobs,
            make_work,
            tell,
            overwrite=overwrite,
            skip_existing=skip_existing,
            threads=threads,
            device=device,
            address=address,
        )
    if running.engine != "local":
        raise UsageError(f"--engine {running.engine} is not known: give local or ray")
    if running.address is not None:
        raise UsageError("--address is that of a Ray cluster: pass --engine ray, too")
    work = make_work()
    return lambda jobs, tell: run(jobs, work, tell, overwrite=overwrite, skip_existing=skip_existing, stdout=sys.stdout.buffer)


def _origin() -> str:
    """The command, without what URLs keep secret, the version and the time."""
    words = []
    for word in sys.argv[1:]:
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        words.append(f"{option}{equals}{_without_secrets(value)}" if "://" in value else word)
    return f"{shlex.join(['aecli', *words])} · aecli {__version__} · {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"


def _without_secrets(url: str) -> str:
    try:
        return str(place(url))
    except AecliError:
        return "URL"


def _figures(outcome: Outcome, describe: Callable[[Mapping[str, Any]], str], *, shown: bool) -> list[tuple[str, str]]:
    target = "standard output" if outcome.job.target is None else str(outcome.job.target)
    if outcome.status != "done":
        return [(outcome.status, outcome.message)]
    size: Any = outcome.info["size"]
    part = shown and (size[0] > WIDTH or size[1] > HEIGHT)
    return [
        ("result", target),
        ("size", f"{size[0]} × {size[1]} pixels"),
        *([("shown", f"the middle, at most {WIDTH} × {HEIGHT} pixels")] if part else []),
        ("details", describe(outcome.info)),
        ("time", f"{outcome.seconds:.2f} s"),
    ]


def count_failures(jobs: list[batch.Job], work: Work[Any, Any]) -> int:
    """Do jobs that write nothing, say which failed, and how many those are."""

    def tell(outcome: Outcome) -> None:
        if outcome.status == "failed":
            _show_outcome(outcome, str)

    run_jobs = _engine(jobs, lambda: work, Files(), Engine())
    return _run(jobs, run_jobs, tell).counts["failed"]


@dataclass
class Tally:
    """What a run has come to so far.

    failures: of the first files that failed, a sentence each. unlike: files that are unlike what the weights were trained on.
    bytes_read, bytes_written: of files that were compressed.
    """

    start: float = field(default_factory=perf_counter)
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    pixels: int = 0
    unlike: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        if outcome.status == "failed" and len(self.failures) < FAILURES_SHOWN:
            self.failures.append(outcome.message)
        size = outcome.info.get("size")
        if isinstance(size, list):
            self.pixels += math.prod(size)
        if "input_bytes" in outcome.info:
            self.bytes_read += int(str(outcome.info["input_bytes"]))
            self.bytes_written += int(str(outcome.info["bytes"]))
        self.unlike += bool(outcome.info.get("unlike_training_data"))

    @property
    def rates(self) -> str:
        seconds = max(1e-9, perf_counter() - self.start)
        megapixels = f", {self.pixels / 1e6 / seconds:.2f} MP/s" if self.pixels else ""
        return f"{self.counts['done'] / seconds:.2f} files/s{megapixels}"


def _run(jobs: Iterable[batch.Job], run_jobs: RunJobs, tell: Callable[[Outcome], None]) -> Tally:
    tally = Tally()
    with _ending_when_told(), _progress(len(jobs) if isinstance(jobs, list) else 0, tally) as advance:

        def count(outcome: Outcome) -> None:
            tally.add(outcome)
            tell(outcome)
            advance()

        run_jobs(jobs, count)
    return tally


@contextmanager
def _ending_when_told() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise Terminated

    def unraisable(found: Any) -> None:
        """Objects that an interrupt left half made complain when they go (zipfile's do); that is no news for anybody."""
        if _printing.verbose:
            sys.__unraisablehook__(found)

    before = signal.signal(signal.SIGTERM, end)
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


def _show_outcome(outcome: Outcome, describe: Callable[[Mapping[str, Any]], str]) -> None:
    job = outcome.job
    target = "standard output" if job.target is None else str(job.target)
    values = {"input": job.name, "output": target, "status": outcome.status, "seconds": round(outcome.seconds, 4)}
    if outcome.status == "done":
        result(f"{job.name} → {target}  {describe(outcome.info)}", {**values, **outcome.info})
        return
    if outcome.status == "failed":
        _show_traceback(outcome.error)
        complain(outcome.message)
    else:
        say(f"{job.name} skipped: {outcome.message}")
    if _printing.json:
        typer.echo(json.dumps({**values, "message": outcome.message}))


@contextmanager
def _progress(total: int, tally: Tally) -> Iterator[Callable[[], None]]:
    """Bars on terminals, of files, where there are several, and of the tiles of a picture that takes long; elsewhere nothing."""
    if _printing.quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    bars = _Bars(total, tally)
    try:
        with watched(bars.tile):
            yield bars.file
    finally:
        bars.stop()


class _Bars:
    """Of files and tiles, told by different threads."""

    def __init__(self, files: int, tally: Tally) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rest = (TextColumn("{task.fields[rates]}"), TimeRemainingColumn(), TextColumn("{task.fields[failed]}"))
        name = TextColumn("{task.description}")
        self._bar = Progress(name, BarColumn(), MofNCompleteColumn(), *rest, console=Console(stderr=True), transient=True)
        self._tally = tally
        self._files = self._bar.add_task("files", total=files, rates="", failed="", visible=files > 1)
        self._tiles = self._bar.add_task("tiles", total=None, rates="", failed="", visible=False)
        self._timer: Timer | None = None
        if files > 1:
            self._bar.start()

    def file(self) -> None:
        """One more is done."""
        failed = self._tally.counts["failed"]
        self._bar.update(self._files, advance=1, rates=self._tally.rates, failed=f"{failed} failed" if failed else "")

    def tile(self, done: int, total: int) -> None:
        """So many of the tiles of a picture are done."""
        if done == 0:
            self._hide_tiles()
            self._bar.reset(self._tiles, total=total)
            self._timer = Timer(SILENCE, self._show_tiles)
            self._timer.daemon = True
            self._timer.start()
        self._bar.update(self._tiles, completed=done)
        if done == total:
            self._hide_tiles()

    def _show_tiles(self) -> None:
        self._bar.update(self._tiles, visible=True)
        self._bar.start()

    def _hide_tiles(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        self._bar.update(self._tiles, visible=False)

    def stop(self) -> None:
        self._hide_tiles()
        self._bar.stop()
