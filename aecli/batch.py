"""Many files: which to read, where each result goes, and that one bad file neither stops the others nor harms anything.

    inputs = find_inputs(arguments, …)            # files, folders, "-", lists of names
    jobs = plan_outputs(inputs, output, rename=…)  # every collision is found here, before any work
    for outcome in run(jobs, work, …):            # work(job, stream) writes one result

A result appears under its name only when it is whole. Nothing here prints, asks or exits.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import BinaryIO, Literal

from aecli.errors import AecliError, UsageError
from aecli.images import unreadable

STDIN = "standard input"

# --------------------------------------------------------------------------------------------------- what is to be read


@dataclass(frozen=True)
class Input:
    """One thing to read."""

    path: Path | None  # None is standard input
    relative: Path  # below the folder that was walked; the bare name of a file given by itself
    walked: bool = False  # found in a folder, not named


def find_inputs(
    arguments: Sequence[str],
    *,
    recursive: bool,
    files_from: str | None,
    null_separated: bool,
    suffixes: frozenset[str],
    stdin: BinaryIO,
) -> list[Input]:
    """Lists what files, folders, "-" (standard input) and the names in the file `files_from` ("-" again) stand for.

    A folder stands for the files in it with one of `suffixes` (lower case, with the dot), sorted, hidden ones left out;
    with `recursive` for those of the whole tree, symbolic links to folders not followed. A file that is named is taken
    whatever its suffix, and even if it is missing: its own job will fail, not the batch. The names in `files_from`
    stand one a line, or each before a NUL if `null_separated`. A file given twice is taken once.

    Raises UsageError if there is nothing to read, if standard input is wanted twice, or if the list cannot be read.
    """
    if [*arguments, files_from].count("-") > 1:
        raise UsageError('standard input can be read only once: pass "-" a single time')
    named: list[Input | Path] = [Input(None, Path("stdin")) if name == "-" else Path(name) for name in arguments]
    if files_from is not None:
        named += [Path(name) for name in _names_in_list(files_from, null_separated, stdin)]
    inputs: list[Input] = []
    for item in named:
        if isinstance(item, Input):
            inputs.append(item)
        elif _kind(item) == "folder":
            inputs += _inputs_in_folder(item, recursive, suffixes)
        else:
            inputs.append(Input(item, Path(item.name)))
    if not inputs:
        raise UsageError(_why_there_is_nothing(named, files_from, recursive))
    return _without_repetitions(inputs)


def _names_in_list(files_from: str, null_separated: bool, stdin: BinaryIO) -> list[str]:
    try:
        data = stdin.read() if files_from == "-" else Path(files_from).read_bytes()
    except OSError as error:
        raise UsageError(str(unreadable(f"the list {files_from}", error))) from error
    if b"\0" in data and not null_separated:
        raise UsageError("the list of files has NUL characters in it: pass --null to separate the names at them")
    names = data.split(b"\0") if null_separated else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(name) for name in names if name]


def _inputs_in_folder(folder: Path, recursive: bool, suffixes: frozenset[str]) -> list[Input]:
    found: list[Path] = []
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError:
            found.append(current)  # its job will fail: a folder that cannot be read must not go unnoticed
            continue
        for entry in visible:
            path = current / entry.name
            if entry.is_dir(follow_symlinks=False):
                pending += [path] if recursive else []
            elif path.suffix.lower() in suffixes and _is_file(entry):
                found.append(path)
    return [
        Input(path, Path(path.name) if path == folder else path.relative_to(folder), walked=True)
        for path in sorted(found, key=lambda path: path.parts)
    ]


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A file or a link to one; a broken link too, so that it is reported: the picture that it stood for is missing."""
    if entry.is_symlink():
        return _kind(Path(entry.path)) in {"file", "missing"}
    return entry.is_file(follow_symlinks=False)


def _kind(path: Path) -> Literal["file", "folder", "other", "missing"]:
    """What the path names, links followed; "missing" also where permissions forbid to look and Path.is_dir raises."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "missing"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def _why_there_is_nothing(named: Sequence[object], files_from: str | None, recursive: bool) -> str:
    if not named:
        where = "" if files_from is None else f" in the list {files_from}"
        return f'nothing to read{where}: name files or folders, or pass "-" for standard input'
    folders, hint = (
        ", ".join(str(folder) for folder in named),
        "check the folder" if recursive else "pass --recursive to look deeper",
    )
    return f"no file of a known kind in {folders}: {hint}"


def _without_repetitions(inputs: Sequence[Input]) -> list[Input]:
    first: dict[Path | None, Input] = {}
    for item in inputs:
        # Links in the folder's name are resolved, one that is the file itself is not: its result has another name.
        first.setdefault(item.path and Path(os.path.realpath(item.path.parent), item.path.name), item)
    return list(first.values())


# ----------------------------------------------------------------------------------------------------- where results go


@dataclass(frozen=True)
class Job:
    """One thing to read and the place of its result."""

    source: Path | None  # None is standard input
    target: Path | None  # None is standard output
    name: str  # what messages call the source


def plan_outputs(inputs: Sequence[Input], output: str | None, *, rename: Callable[[Path], str]) -> list[Job]:
    """Decides where each result goes; `rename` gives the file name of the result of a source.

    Without `output` a result stands beside its source, and that of standard input goes to standard output, as with "-".
    `output` is a folder if it exists as one, ends with a slash, or several inputs or a folder were given; the tree
    below a folder that was walked is kept. Otherwise it is the result's file name. Files in a walked folder that are
    the results of others (of an earlier run, then) are left out, so that a run that broke off can be repeated.

    Raises UsageError if two results would have the same name, or one that of an input, or if `output` must be a folder
    and is a file.
    """
    if output == "-" and len(inputs) > 1:
        raise UsageError(f"{len(inputs)} results cannot all go to standard output: pass a folder as --output")
    folder = _output_folder(inputs, output)

    def target_of(item: Input) -> Path | None:
        source = item.path or item.relative
        if output == "-" or (output is None and item.path is None):
            return None
        if output is None:
            return source.with_name(rename(source))
        return Path(output) if folder is None else folder / item.relative.parent / rename(source)

    planned = [(item, target_of(item)) for item in inputs]
    results = {_identity(target): item for item, target in planned if target is not None}
    jobs = [
        Job(item.path, target, STDIN if item.path is None else str(item.path))
        for item, target in planned
        if not (item.walked and item.path and results.get(_identity(item.path), item) is not item)
    ]
    _refuse_collisions(jobs)
    return jobs


def _output_folder(inputs: Sequence[Input], output: str | None) -> Path | None:
    if output is None or output == "-":
        return None
    path = Path(output)
    wanted = len(inputs) > 1 or any(item.walked for item in inputs) or output.endswith(("/", os.sep))
    kind = _kind(path)
    if wanted and kind in {"file", "other"}:
        raise UsageError(f"{output} is a file, but the results need a folder: pass another --output")
    return path if wanted or kind == "folder" else None


def _identity(path: Path) -> str:
    """The same for all names of a file, links resolved; unlike Path.resolve, it never raises."""
    return os.path.realpath(path)


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    sources = {_identity(job.source): job for job in jobs if job.source is not None}
    taken: dict[str, Job] = {}
    for job in jobs:
        if job.target is None:
            continue
        identity = _identity(job.target)
        if identity in sources:
            raise UsageError(f"the result of {job.name} would replace the input {job.target}: pass another --output")
        if identity in taken:
            raise UsageError(
                f"{taken[identity].name} and {job.name} would both be written to {job.target}: "
                "pass a folder with --recursive, which keeps the tree, or run them one by one"
            )
        taken[identity] = job


# -------------------------------------------------------------------------------------------------- reading and writing


def read_bytes(job: Job, stdin: BinaryIO) -> bytes:
    """All bytes of the job's source. Raises AecliError if it is missing, a folder, empty, or may not be read."""
    try:
        data = stdin.read() if job.source is None else job.source.read_bytes()
    except OSError as error:
        raise unreadable(job.name, error) from error
    if not data:
        raise AecliError(f"{job.name} is empty (0 bytes): check where it came from")
    return data


@contextmanager
def atomic_write(target: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A stream, readable and seekable too, whose bytes become the file `target` when the block ends without exception.

    Until then they stand in a hidden file beside it, which any exception, also KeyboardInterrupt, removes. Missing
    folders are made. Without `overwrite` a file that has appeared meanwhile is not touched. A symbolic link stays one:
    the file that it names is replaced.

    Raises AecliError if the target exists, is no regular file, or cannot be written; exceptions of the block pass.
    """
    with _as_sentences(target):
        _refuse_occupied(target, overwrite)
        final = Path(os.path.realpath(target)) if overwrite else target
        _make_folder(final.parent)
    temporary = final.parent / f".aecli-{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        with _as_sentences(target):
            stream = temporary.open("x+b")  # unlike tempfile, with the permissions that the umask leaves
        with stream:
            yield stream
            with _as_sentences(target):
                stream.flush()
                os.fsync(stream.fileno())
        with _as_sentences(target):
            _publish(temporary, final, overwrite)
    except OSError as error:
        if error.errno in _DISK_FULL:  # met while the block was writing
            raise _unwritable(target, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_occupied(target: Path, overwrite: bool) -> None:
    kind = _kind(target)
    if kind == "folder":
        raise AecliError(f"{target} is a folder: pass the name of a file")
    if kind == "other":
        raise AecliError(f"{target} is a device or a pipe, which cannot be replaced: pass - for standard output")
    if not overwrite and os.path.lexists(target):
        raise _exists(target)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise AecliError(f"the folder {folder} cannot be made, as a file is in its way: pass another --output") from error


def _publish(temporary: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(target)
        return
    try:
        target.hardlink_to(temporary)  # unlike a rename, it fails if the name is taken
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # exFAT and some network drives have no hard links
        target.open("xb").close()  # reserves the name
        try:
            temporary.replace(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def _as_sentences(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(target, error) from error


def _unwritable(target: Path, error: OSError) -> AecliError:
    if error.errno in _DISK_FULL:
        return AecliError(f"{target} could not be written, as the disk is full: make room and run again")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return AecliError(f"{target} could not be written, as its folder is not writable: pass another --output")
    if error.errno == errno.EEXIST:
        return _exists(target)
    return AecliError(f"{target} could not be written ({error.strerror or error}): pass another --output")


def _exists(target: Path) -> AecliError:
    return AecliError(f"{target} exists: pass --overwrite or another --output")


# -------------------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class Outcome:
    """What became of one job."""

    job: Job
    status: Literal["done", "skipped", "failed"]
    seconds: float
    info: Mapping[str, object] = field(default_factory=dict)  # what the work returned
    error: BaseException | None = None
    message: str = ""  # one sentence if skipped or failed


def run(
    jobs: Iterable[Job],
    work: Callable[[Job, BinaryIO], Mapping[str, object]],
    *,
    overwrite: bool,
    skip_existing: bool,
    stdout: BinaryIO,
) -> Iterator[Outcome]:
    """Does the jobs one after the other and yields what became of each as soon as it is known.

    `work(job, stream)` writes the result into the stream; it becomes visible, as a file or on `stdout`, once `work` has
    returned. A result that exists makes the job "skipped" with `skip_existing`, which counts before `overwrite`, and
    "failed" without both; `work` is then not called. Any Exception makes the job "failed" and the next one starts;
    KeyboardInterrupt passes, after what was half written has been removed.
    """
    for job in jobs:
        start = perf_counter()
        if skip_existing and job.target is not None and os.path.lexists(job.target):
            yield Outcome(job, "skipped", perf_counter() - start, message=f"{job.target} exists")
            continue
        try:
            with _result_stream(job, overwrite, stdout) as stream:
                info = work(job, stream)
        except Exception as error:
            yield Outcome(job, "failed", perf_counter() - start, error=error, message=_sentence(job, error))
        else:
            yield Outcome(job, "done", perf_counter() - start, info)


@contextmanager
def _result_stream(job: Job, overwrite: bool, stdout: BinaryIO) -> Iterator[BinaryIO]:
    if job.target is not None:
        with atomic_write(job.target, overwrite=overwrite) as stream:
            yield stream
        return
    buffer = io.BytesIO()  # a pipe cannot be taken back: nothing goes out before all is there
    yield buffer
    try:
        stdout.write(buffer.getbuffer())
        stdout.flush()
    except OSError as error:
        reason = error.strerror or str(error)
        raise AecliError(f"the result of {job.name} could not go to standard output ({reason}): pass --output") from error


def _sentence(job: Job, error: Exception) -> str:
    if isinstance(error, AecliError):
        text = str(error)
        return text if job.name in text or (job.target and str(job.target) in text) else f"{job.name}: {text}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's, for GPUs
        return f"{job.name} needs more memory than there is: close other programs or cut it into smaller pictures"
    if isinstance(error, OSError):
        about = f" at {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return f"{job.name} failed ({error.strerror or error}{about}): check the disk and run again"
    return f"{job.name} failed: {type(error).__name__}: {error} (this is a bug; --verbose shows where)"
