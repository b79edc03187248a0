"""Many files: which to read, where each result goes, and that one bad file neither stops the others nor harms anything.

    inputs = find_inputs(arguments, …)            # files, folders, "-", lists of names
    jobs = plan_outputs(inputs, output, rename=…)  # every collision is found here, before any work
    pipeline.run(jobs, work, …)                   # does them

A result appears under its name only when it is whole. Nothing here prints, asks or exits.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import io
import os
import platform
import re
import secrets
import stat
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from time import time
from types import MappingProxyType
from typing import BinaryIO, Literal

from aecli.errors import AecliError, UsageError
from aecli.images import SUFFIXES, unreadable
from aecli.storage import Place, Remote, local_name, place

STDIN = "standard input"
STDOUT = "-"
DENOISED, DECODED = ".denoised", ".decoded"  # what is put before the suffix of a result that stands beside its source
_NAMES_OF_STDOUT = frozenset({"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})

# --------------------------------------------------------------------------------------------------- what is to be read


@dataclass(frozen=True)
class Input:
    """One thing to read."""

    path: Place | None  # None is standard input
    relative: Path  # below the folder that was walked; the bare name of a file given by itself
    walked: bool = False  # found in a folder, not named
    unread: str = ""  # why it is none of those that are read, though it belongs to them

    @property
    def name(self) -> str:
        """What messages call it."""
        return STDIN if self.path is None else str(self.path)


def find_inputs(
    arguments: Sequence[str],
    *,
    recursive: bool,
    files_from: str | None,
    null_separated: bool,
    suffixes: frozenset[str],
    stdin: BinaryIO,
    may_be_empty: bool = False,
    unread: Mapping[str, str] = MappingProxyType({}),
    tell: Callable[[str], None] = lambda _: None,
) -> list[Input]:
    """Lists what files, folders, URLs, "-" (standard input) and the names in the file `files_from` ("-" again) stand for.

    A folder stands for the files in it with one of `suffixes` (lower case, with the dot), sorted, hidden ones left out;
    with `recursive` for those of the whole tree, symbolic links to folders not followed. Pictures in a folder that are called as
    results beside their sources, which are there, too, are left out (a.denoised.png beside a.jpg). A file that is named is taken
    whatever its suffix, and even if it is missing: its own job will fail, not the batch. The names in `files_from`
    stand one a line, or each before a NUL if `null_separated`; local files of them keep their places below their common parent.
    A file given twice is taken once. A URL with one of `suffixes` is taken for a file without asking the network. Files in a
    folder with a suffix of `unread` are listed too, with the reason that it gives: they must not go unnoticed. What is left out
    is told: earlier results, and subfolders where `recursive` is not given.

    Raises UsageError if there is nothing to read (unless it `may_be_empty`, as what is watched may), if standard input is wanted
    twice, if the list cannot be read, if a name is empty, or if a URL cannot be followed.
    """
    if "" in arguments or files_from == "":
        raise UsageError("one of the names is empty: check the variable that it came from")
    if null_separated and files_from is None:
        raise UsageError("--null tells how the names in a list are separated: pass --files-from, too")
    if [*arguments, files_from].count("-") > 1:
        raise UsageError('standard input can be read only once: pass "-" a single time')
    named: list[Input | Place] = [Input(None, Path("stdin")) if name == "-" else place(name) for name in arguments]
    listed: Mapping[Path, Path] = {}
    if files_from is not None:
        names = [place(name) for name in _names_in_list(files_from, null_separated, stdin)]
        listed = _below_common_parent([name for name in names if isinstance(name, Path) and _kind(name) != "folder"])
        named += names
    inputs: list[Input] = []
    subfolders: list[Place] = []  # that are not looked into
    for item in named:
        if isinstance(item, Input):
            inputs.append(item)
        elif isinstance(item, Remote):
            inputs += _inputs_at_url(item, recursive, suffixes, unread, subfolders)
        elif _kind(item) == "folder":
            inputs += _inputs_in_folder(item, recursive, suffixes, unread, subfolders)
        else:
            inputs.append(Input(item, listed.get(item, Path(item.name))))
    earlier = _earlier_results(inputs)
    inputs = [item for item in inputs if item not in earlier]
    if earlier:
        endings = sorted({f"*{Path(item.relative.stem).suffix}.*" for item in earlier})
        tell(f"skipped {counted(len(earlier), 'earlier result')} ({', '.join(endings)})")
    if subfolders and inputs:
        tell(f"{counted(len(subfolders), 'subfolder')} left out ({_examples(subfolders)}): pass --recursive to include them")
    if not may_be_empty and all(item.unread for item in inputs):
        raise UsageError(_why_there_is_nothing(named, files_from, recursive, inputs))
    return _without_repetitions(inputs)


def _names_in_list(files_from: str, null_separated: bool, stdin: BinaryIO) -> list[str]:
    listing = place(files_from)
    try:
        data = stdin.read() if files_from == "-" else listing.read_bytes()
    except OSError as error:
        raise UsageError(str(unreadable(f"the list {listing}", error))) from error
    except AecliError as error:
        raise UsageError(f"the list {error}") from error
    if not null_separated:
        data = _without_byte_order_mark(data)
        if b"\0" in data:
            raise UsageError("the list of files has NUL characters in it: pass --null to separate the names at them")
    names = data.split(b"\0") if null_separated else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(name) for name in names if name]


def _below_common_parent(paths: Sequence[Path]) -> dict[Path, Path]:
    """Each with its place below the folder that all are in."""
    try:
        absolute = {path: Path(os.path.abspath(path)) for path in paths}  # noqa: PTH100 — links stay as they are
        parent = os.path.commonpath([path.parent for path in absolute.values()] or [Path(os.sep)])
    except ValueError:  # several drives
        return {}
    return {path: whole.relative_to(parent) for path, whole in absolute.items()}


def _earlier_results(inputs: Sequence[Input]) -> set[Input]:
    """What was found in a folder and is called as the result, beside it, of another picture."""
    pictures = [item for item in inputs if item.walked and item.path is not None and item.relative.suffix.lower() != ".npz"]
    sources = {name for item in pictures if item.path for name in (item.path, item.path.with_name(item.relative.stem))}
    results = [item for item in pictures if item.relative.stem.endswith((DENOISED, DECODED))]
    return {item for item in results if item.path and item.path.with_name(Path(item.relative.stem).stem) in sources}


def counted(count: int, what: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def _examples(paths: Sequence[Place]) -> str:
    return ", ".join(path.name for path in paths[:3]) + (", …" if len(paths) > 3 else "")


def _without_byte_order_mark(data: bytes) -> bytes:
    """What editors and shells of Windows put before a text, UTF-16 included."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        with suppress(UnicodeDecodeError):
            return os.fsencode(data.decode("utf-16"))
    return data.removeprefix(codecs.BOM_UTF8)


def _inputs_in_folder(
    folder: Path, recursive: bool, suffixes: frozenset[str], unread: Mapping[str, str], left_out: list[Place]
) -> list[Input]:
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
                (pending if recursive else left_out).append(path)
            elif (path.suffix.lower() in suffixes or path.suffix.lower() in unread) and _is_file(entry):
                found.append(path)
    return [
        Input(path, Path(path.name) if path == folder else path.relative_to(folder), True, unread.get(path.suffix.lower(), ""))
        for path in sorted(found, key=lambda path: path.parts)
    ]


def _inputs_at_url(
    item: Remote, recursive: bool, suffixes: frozenset[str], unread: Mapping[str, str], left_out: list[Place]
) -> list[Input]:
    named = Input(item, Path(local_name(item.name)))
    if item.suffix.lower() in suffixes or _kind(item) != "folder":
        return [named]
    found: list[Input] = []
    pending = [(item, Path())]
    while pending:
        folder, relative = pending.pop()
        try:
            names = folder.names()
        except AecliError:
            found.append(Input(folder, relative if relative.name else named.relative, walked=True))  # its job will fail, as above
            continue
        for name, is_folder in names:
            if name.startswith("."):  # hidden, or leading out of the folder
                continue
            path, below = folder / name, relative / local_name(name)
            if is_folder:
                if recursive:
                    pending.append((path, below))
                else:
                    left_out.append(path)
            elif path.suffix.lower() in suffixes or path.suffix.lower() in unread:
                found.append(Input(path, below, True, unread.get(path.suffix.lower(), "")))
    return sorted(found, key=lambda item: item.relative.parts)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A file or a link to one; a broken link too, so that it is reported: the picture that it stood for is missing."""
    if entry.is_symlink():
        return _kind(Path(entry.path)) in {"file", "missing"}
    return entry.is_file(follow_symlinks=False)


def _kind(path: Place) -> Literal["file", "folder", "other", "missing"]:
    """What the path names, links followed; "missing" also where permissions or the network forbid to look."""
    try:
        if isinstance(path, Remote):
            return path.kind()
        mode = path.stat().st_mode
    except (OSError, ValueError, AecliError):
        return "missing"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def _why_there_is_nothing(named: Sequence[object], files_from: str | None, recursive: bool, unread: Sequence[Input] = ()) -> str:
    if unread:
        more = f", and {len(unread) - 1} more like it" if len(unread) > 1 else ""
        return f"there is nothing to read: {unread[0].name} is left out{more} ({unread[0].unread})"
    if not named:
        where = "" if files_from is None else f" in the list {place(files_from)}"
        return f'nothing to read{where}: name files or folders, or pass "-" for standard input'
    folders, hint = (
        ", ".join(str(folder) for folder in named),
        "check the folder" if recursive else "pass --recursive to look deeper",
    )
    return f"no file of a known kind in {folders}: {hint}"


def _without_repetitions(inputs: Sequence[Input]) -> list[Input]:
    first: dict[Hashable, Input] = {}
    for item in inputs:
        if isinstance(item.path, Path):
            # Links in the folder's name are resolved, one that is the file itself is not: its result has another name.
            first.setdefault(Path(os.path.realpath(item.path.parent), item.path.name), item)
        else:
            first.setdefault(item.path and item.path.identity, item)
    return list(first.values())


# ----------------------------------------------------------------------------------------------------- where results go


@dataclass(frozen=True)
class Job:
    """One thing to read and the place of its result."""

    source: Place | None  # None is standard input
    target: Place | None  # None is standard output
    name: str  # what messages call the source
    instead: Place | None = None  # the target of a result that the format of `target` cannot hold
    into: bool = False  # the target is a pipe or a device: the result goes into it, and does not replace it
    notes: tuple[str, ...] = ()  # what is to be told of where the result goes, one clause each
    skip: str = ""  # why it is left alone


def plan_outputs(
    inputs: Sequence[Input],
    output: str | None,
    *,
    rename: Callable[[Path], str],
    rename_instead: Callable[[Path], str] | None = None,
    overwrite: bool = False,
    besides: Sequence[Path] = (),
) -> list[Job]:
    """Decides where each result goes; `rename` gives the file name of the result of a source, known by its path in its folder.

    Without `output` a result stands beside its source, and that of standard input goes to standard output, as with "-" and
    "/dev/stdout". `output` is a folder if it exists as one, ends with a slash, or several inputs or a folder were given; the tree
    below a folder that was walked is kept. Otherwise it is the result's file name, or a pipe or device that the result goes into.
    Files in a walked folder that are the results of others (of an earlier run, then) are left out, so that a run that broke off
    can be repeated. Where several results would have one name, that of the source which has its suffix keeps it, and the others
    are called by the whole names of their sources (a.gif.png). `rename_instead` gives the name of a result that the format of the
    first name cannot hold. `besides` are files that the run reads or writes, too.

    Raises UsageError if two results would have the same name all the same, or one that of an input or of a file of `besides`, if
    `output` must be a folder and is a file, or if nothing can be written there. With `overwrite` no file found in a folder is
    taken for a result in an `output` within it: it might be a picture.
    """
    if output == "":
        raise UsageError("--output is empty: check the variable that it came from")
    output = STDOUT if output in _NAMES_OF_STDOUT else output
    if output == STDOUT and len(inputs) > 1:
        raise UsageError(f"{len(inputs)} results cannot all go to standard output: pass a folder as --output")
    folder = _output_folder(inputs, output)
    others = {identity_of(path) for path in besides}
    if output is not None and folder is None:
        target = None if output == STDOUT else place(output)
        jobs = [Job(item.path, target, item.name, into=target is not None and takes_bytes(target)) for item in inputs]
        _refuse_collisions(jobs, others)
        return jobs

    def places(item: Input, rename: Callable[[Path], str]) -> list[Place]:
        """Where the result of the item may go, best first."""
        names = [rename(path) for path in (item.relative, item.relative.with_name(item.relative.name + item.relative.suffix))]
        if folder is not None:
            return [folder / item.relative.parent / name for name in names]
        return [item.path.with_name(name) for name in names] if item.path is not None else []

    plans = [_Plan(item, places(item, rename), places(item, rename_instead) if rename_instead else []) for item in inputs]
    made = _results_of_others(plans)
    if overwrite and output is not None and made:
        found = min(item.name for item in made)
        raise UsageError(f"{found} was found in a folder and would be replaced: pass an --output outside of the folder")
    jobs = _jobs_of([plan for plan in plans if plan.item not in made], others)
    _refuse_collisions(jobs, others)
    return jobs


@dataclass(frozen=True)
class _Plan:
    """Where the result of an input may go, and one that the format of these cannot hold; best first, none is standard output."""

    item: Input
    places: Sequence[Place]
    instead: Sequence[Place]


def _results_of_others(plans: Sequence[_Plan]) -> set[Input]:
    """What was found in a folder and is the result of another input."""
    found = {identity_of(plan.item.path): plan.item for plan in plans if plan.item.walked and plan.item.path is not None}
    names = {item.path.name for item in found.values() if item.path is not None}
    made: set[Input] = set()
    for plan in plans:
        for target in (*plan.places, *plan.instead):
            # The network may have to be asked, and links be followed, for the first place alone.
            item = found.get(identity_of(target)) if target is plan.places[0] or target.name in names else None
            if item is not None and item is not plan.item and not plan.item.unread:
                made.add(item)
    return made


def _jobs_of(plans: Sequence[_Plan], others: Collection[Hashable]) -> list[Job]:
    """Each with a target of its own, as far as there is one."""
    rivals: defaultdict[Hashable, list[_Plan]] = defaultdict(list)
    for plan in plans:
        if plan.places and not plan.item.unread:
            rivals[identity_of(plan.places[0])].append(plan)
    jobs = [_job_of(plan, rivals) for plan in plans]
    taken = {identity_of(place) for job in jobs for place in (job.source, job.target) if place is not None} | set(others)
    for index, plan in enumerate(plans):
        free = [place for place in plan.instead if place == jobs[index].target or identity_of(place) not in taken]
        if free and free[0] != jobs[index].target:
            jobs[index] = replace(jobs[index], instead=free[0])
            taken.add(identity_of(free[0]))
    return jobs


def _job_of(plan: _Plan, rivals: Mapping[Hashable, Sequence[_Plan]]) -> Job:
    item = plan.item
    target = plan.places[0] if plan.places else None
    job = Job(item.path, target, item.name, skip=item.unread)
    if target is None or item.unread:
        return job
    same = rivals[identity_of(target)]
    of_that_suffix = [other for other in same if other.item.relative.suffix == target.suffix]
    can_be_told_apart = len({other.places[1] for other in same}) == len(same)
    if len(same) == 1 or [plan] == of_that_suffix or not can_be_told_apart:
        return job
    other = next(other for other in (*of_that_suffix, *same) if other is not plan)
    return replace(job, target=plan.places[1], notes=(f"named apart from the result of {other.item.relative.name}",))


def _output_folder(inputs: Sequence[Input], output: str | None) -> Place | None:
    if output is None or output == STDOUT:
        return None
    path = place(output)
    _refuse_web(path)
    wanted = len(inputs) > 1 or any(item.walked for item in inputs) or output.endswith(("/", os.sep))
    kind = _kind(path)
    if wanted and kind in {"file", "other"}:
        what = "a file" if kind == "file" else "a device or a pipe"
        raise UsageError(f"{path} is {what}, but the results need a folder: pass another --output")
    if wanted and kind == "missing" and not output.endswith(("/", os.sep)) and path.suffix.lower() in {*SUFFIXES, ".npz"}:
        raise UsageError(f"{path} is the name of a file, but the results need a folder: pass another --output, or {path}/")
    return path if wanted or kind == "folder" else None


def _refuse_web(target: Place) -> None:
    if isinstance(target, Remote) and target.read_only:
        raise UsageError(f"{target} is an address on the web, where nothing can be written: pass another --output")


def identity_of(path: Place) -> Hashable:
    """The same for all names of a file, links resolved; unlike Path.resolve, it never raises for them."""
    return path.identity if isinstance(path, Remote) else os.path.realpath(path)


def _refuse_collisions(jobs: Sequence[Job], besides: Collection[Hashable]) -> None:
    sources = {identity_of(job.source): job for job in jobs if job.source is not None}
    taken: dict[Hashable, Job] = {}
    for job in jobs:
        if job.target is None or job.skip:
            continue
        _refuse_web(job.target)
        identity = identity_of(job.target)
        if identity in sources:
            raise UsageError(f"the result of {job.name} would replace the input {job.target}: pass another --output")
        if identity in besides:
            raise UsageError(f"{job.target} is used besides, and would be the result of {job.name}: pass another --output")
        if identity in taken:
            raise UsageError(
                f"{taken[identity].name} and {job.name} would both be written to {job.target}: {_how_to_part(taken[identity], job)}"
            )
        taken[identity] = job


def _how_to_part(one: Job, other: Job) -> str:
    if isinstance(one.source, Path) and isinstance(other.source, Path) and one.source.parent == other.source.parent:
        return "rename one of them"
    return "pass a folder with --recursive, which keeps the tree, or run them one by one"


# -------------------------------------------------------------------------------------------------- reading and writing


def read_bytes(job: Job, stdin: BinaryIO) -> bytes:
    """All bytes of the job's source.

    Raises AecliError if it is missing, a folder, empty, or may not be read, or if it was written to meanwhile: half of
    the old picture and half of the new one can look like a whole one.
    """
    try:
        if isinstance(job.source, Remote):
            data = job.source.read_bytes()
        else:
            data = stdin.read() if job.source is None else _bytes_at_rest(job.source)
    except OSError as error:
        raise unreadable(job.name, error) from error
    if not data:
        raise AecliError(f"{job.name} is empty (0 bytes): check where it came from")
    return data


def _bytes_at_rest(path: Path) -> bytes:
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        data = stream.read()
        after = os.fstat(stream.fileno())
    if stat.S_ISREG(before.st_mode) and (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, len(data)):
        raise AecliError(f"{path} was changed while it was read: run again when its writer is done")
    return data


def takes_bytes(target: Place) -> bool:
    """Whether it is a pipe or a character device: a result can go into it, but not take its place."""
    try:
        mode = target.stat().st_mode if isinstance(target, Path) else 0
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def exists(target: Place) -> bool:
    """Whether something has that name, be it a link to nowhere. At a URL that cannot be reached, nothing has."""
    return _kind(target) != "missing" if isinstance(target, Remote) else os.path.lexists(target)


@contextmanager
def atomic_write(target: Place, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A stream, readable and seekable too, whose bytes become the file `target` when the block ends without exception.

    Until then they stand in a hidden file beside it, which any exception, also KeyboardInterrupt, removes; that of a
    process that was killed is removed when its folder is written to again (`remove_abandoned`). Missing folders are
    made. Without `overwrite` a file that has appeared meanwhile is not touched. A symbolic link stays one: the file
    that it names is replaced. What goes to a URL is held in memory, and sent when the block has ended.

    Raises AecliError if the target exists, is no regular file, or cannot be written; exceptions of the block pass.
    """
    if isinstance(target, Remote):
        buffer = io.BytesIO()
        yield buffer
        _send(buffer.getvalue(), target, overwrite)
        return
    with _as_sentences(target):
        _refuse_occupied(target, overwrite)
        final = Path(os.path.realpath(target)) if overwrite else target
        _make_folder(final.parent)
    _remove_abandoned_once(final.parent)
    try:
        with ExitStack() as ending:
            with _as_sentences(target):
                temporary, stream = _open_temporary(final.parent, ending)
            with stream:
                yield stream
                with _as_sentences(target):
                    stream.flush()
                    os.fsync(stream.fileno())
            with _as_sentences(target):
                _publish(temporary, final, overwrite)
    except OSError as error:
        if error.errno in _NO_ROOM:  # met while the block was writing
            raise _unwritable(target, error) from error
        raise


def _send(data: bytes, target: Remote, overwrite: bool) -> None:
    try:
        target.write_bytes(data, overwrite=overwrite)
    except FileExistsError:
        raise _exists(target) from None


def put_into(target: Place, data: bytes) -> None:
    """Bytes into what `takes_bytes`. Raises AecliError where that fails, as when its reader is gone."""
    assert isinstance(target, Path)
    with _as_sentences(target), target.open("wb") as stream:
        stream.write(data)


def check_target(target: Place, *, overwrite: bool) -> None:
    """What `atomic_write` refuses before anything is written. Raises AecliError."""
    with _as_sentences(target):
        _refuse_occupied(target, overwrite)


def _refuse_occupied(target: Place, overwrite: bool) -> None:
    kind = target.kind() if isinstance(target, Remote) else _kind(target)
    if kind == "folder":
        raise AecliError(f"{target} is a folder: pass the name of a file")
    if kind == "other":
        raise AecliError(f"{target} is a device or a pipe, which cannot be replaced: pass - for standard output")
    if not overwrite and (kind == "file" or (isinstance(target, Path) and os.path.lexists(target))):
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
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        temporary.rename(target)  # reserving the name first would leave an empty file if we were killed in between


# A killed process cannot remove its temporary file, so a later one does, and must tell it from one still being written.
# Numbers of processes are used again, and mean nothing on another machine or in another container. A lock (flock) on
# the file means its writer lives: the kernel frees it however the process ends. Locks of other machines do not reach us
# on every shared file system; there their files stay until they are old.

_OLD = 24 * 3600.0  # seconds since the last write


def remove_abandoned(folder: Path) -> None:
    """Removes the temporary files that killed processes have left in the folder; those of living ones stay.

    Files of other machines go if nothing was written to them for a day. What cannot be removed stays: never raises
    OSError.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        named = [entry for entry in entries if _TEMPORARY_NAME.fullmatch(entry.name)]
        for path in [Path(entry.path) for entry in named if entry.is_file(follow_symlinks=False)]:
            with suppress(OSError):
                _remove_if_abandoned(path)


_remove_abandoned_once = cache(remove_abandoned)  # a walk through the folder for each of its files would take long


def _remove_if_abandoned(path: Path) -> None:
    with path.open("r+b") as stream:  # for writing, or NFS would refuse the lock
        ours = path.name.startswith(f".aecli-{_machine()}-")
        old = time() - os.fstat(stream.fileno()).st_mtime > _OLD
        if (ours or old) and _lock(stream.fileno()):
            path.unlink()


_TEMPORARY_NAME = re.compile(r"\.aecli-[0-9a-f]+-[0-9a-f]{16}\.tmp")


def _open_temporary(folder: Path, ending: ExitStack) -> tuple[Path, BinaryIO]:
    """A new hidden file, locked. At the `ending` it is removed, unless it has been renamed, and its lock is freed."""
    while True:
        path = folder / f".aecli-{_machine()}-{secrets.token_hex(8)}.tmp"
        ending.callback(_unlink_if_possible, path)
        stream = path.open("x+b")  # unlike tempfile, with the permissions that the umask leaves
        locked = _lock(stream.fileno())
        if locked:
            ending.callback(os.close, os.dup(stream.fileno()))  # holds the lock until the file has its final name
        if locked is not False and os.path.lexists(path):
            return path, stream
        stream.close()  # another process took it for abandoned before it was locked


def _unlink_if_possible(path: Path) -> None:
    with suppress(OSError):  # on a read-only disk even a missing file raises: the reason why is in flight already
        path.unlink()


def _lock(descriptor: int) -> bool | None:
    """Locks the file. False if another has it locked, None if that cannot be known on this system."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


@cache
def _machine() -> str:
    """Names the running kernel, which knows all locks of its processes, also of those in other containers."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        name = platform.node().encode()
    return hashlib.sha256(name).hexdigest()[:12]


_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_ROOM = _DISK_FULL | {errno.EFBIG}


@contextmanager
def _as_sentences(target: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(target, error) from error


def _unwritable(target: Place, error: OSError) -> AecliError:
    if error.errno in _DISK_FULL:
        return AecliError(f"{target} could not be written, as the disk is full: make room and run again")
    if error.errno == errno.EFBIG:
        return AecliError(f"{target} could not be written, as files may not become that large here: see ulimit -f")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return AecliError(f"{target} could not be written, as its folder is not writable: pass another --output")
    if error.errno == errno.EEXIST:
        return _exists(target)
    return AecliError(f"{target} could not be written ({error.strerror or error}): pass another --output")


class ExistsError(AecliError):
    """A result that is there already."""


def _exists(target: Place) -> ExistsError:
    return ExistsError(f"{target} exists: pass --overwrite or another --output")
