"""Many files at work: reading the next, the network on one, and writing the last go on at once; one bad file stops nothing.

    reader thread        the caller's thread      writer thread
    work.read(job)   →   work.process(job, …) →   work.write(job, …, stream), tell(outcome)

One picture is read ahead and one result waits to be written or is being written, so that memory does not grow with the number
of files. Small pictures of one size that have been read meanwhile go through the network together, where the work knows how.
Nothing here prints, asks or exits.
"""

from __future__ import annotations

import io
import os
import queue
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, BinaryIO, Generic, Literal, TypeVar

from aecli.batch import ExistsError, Job, atomic_write, check_target, exists, put_into
from aecli.errors import AecliError, is_out_of_memory

R = TypeVar("R")
P = TypeVar("P")
T = TypeVar("T")

AHEAD = 1  # sources read, or being read, before the network needs them
BEHIND = 1  # results that wait to be written, or are being written; those of a call of the network count as one
TOGETHER = 16  # small pictures that the network does in one call; as many are read ahead
PATIENCE = 0.2  # seconds between looks at whether the work is to end
GRACE = 1.0  # seconds that a reader may take to end: it aborts the process if it comes back while Python is being torn down


class SkippedError(AecliError):
    """Raised by work that leaves a file alone, with the reason."""


@dataclass(frozen=True)
class Several(Generic[R, P]):
    """How a network does small pictures in one call, which must give what calls of their own give.

    kind: equal for those that go together, None for one that goes alone. process: of several of a kind.
    """

    kind: Callable[[R], Hashable]
    process: Callable[[Sequence[R]], Sequence[P]]


@dataclass(frozen=True)
class Work(Generic[R, P]):
    """What is done with a job, in three parts.

    read: from the source to what the network takes; runs beside `process`, so it must leave the network alone. process: the
    network; the only part in the caller's thread. write: puts the result into a stream, and returns what is to be told of it.
    several: `process` for small pictures, where one call for many is faster. settle: the job with the place that its result gets,
    once it is known what was read; what it raises is raised before any time is spent on the network.
    """

    read: Callable[[Job], R]
    process: Callable[[Job, R], P]
    write: Callable[[Job, P, BinaryIO], Mapping[str, object]]
    several: Several[R, P] | None = None
    settle: Callable[[Job, R], Job] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one job. seconds: of work, waiting left out."""

    job: Job
    status: Literal["done", "skipped", "failed"]
    seconds: float
    info: Mapping[str, object] = field(default_factory=dict)  # what the work returned
    error: BaseException | None = None
    message: str = ""  # one sentence if skipped or failed


def run(
    jobs: Iterable[Job],
    work: Work[Any, Any],
    tell: Callable[[Outcome], None],
    *,
    overwrite: bool,
    skip_existing: bool,
    stdout: BinaryIO,
) -> None:
    """Does all jobs and tells what became of each as soon as it is known, in the order of the jobs, from the writer's thread.

    What `work.write` puts into its stream becomes visible, as a file or on `stdout`, once it has returned. A result that exists
    makes the job "skipped" with `skip_existing`, which counts before `overwrite`, and "failed" without both; nothing is then
    read. Any Exception makes the job "failed" and the next one goes on. What is raised in the caller's thread, such as
    KeyboardInterrupt, or by `tell`, ends the run: the result that is being written is finished, all others are dropped.
    """
    _Run(Steps(work, overwrite, skip_existing, stdout), tell).do(jobs)


@dataclass
class Task:
    """A job on its way. value: what the last part of the work returned."""

    job: Job
    seconds: float = 0.0
    value: Any = None
    error: Exception | None = None
    message: str = ""  # why it is skipped
    kind: Hashable = None  # once it is read: what `Steps.kind` says

    def attempt(self, part: Callable[[], Any]) -> None:
        """Do a part of the work, unless one before it failed or there is nothing to do."""
        if self.error is not None or self.message:
            return
        start = perf_counter()
        try:
            self.value = part()
        except SkippedError as reason:
            self.value, self.message = None, str(reason)
        except Exception as error:
            self.value, self.error = None, error
        self.seconds += perf_counter() - start

    def outcome(self) -> Outcome:
        if self.message:
            return Outcome(self.job, "skipped", self.seconds, message=self.message)
        if self.error is not None:
            return Outcome(self.job, "failed", self.seconds, error=self.error, message=sentence(self.job, self.error))
        return Outcome(self.job, "done", self.seconds, self.value)


@dataclass(frozen=True)
class Steps:
    """What is done with a task, whoever does it and wherever: each step once, in this order. None of them raises."""

    work: Work[Any, Any]
    overwrite: bool
    skip_existing: bool
    stdout: BinaryIO

    def read(self, task: Task) -> None:
        """Look whether there is anything to do, and read the source."""
        task.attempt(lambda: self._begin(task))

    def kind(self, task: Task) -> Hashable:
        """Equal for tasks that have been read and can be processed together, otherwise None."""
        several = self.work.several
        return several.kind(task.value) if several is not None and task.value is not None else None

    def process(self, task: Task) -> None:
        task.attempt(lambda: self.work.process(task.job, task.value))

    def process_together(self, tasks: Sequence[Task]) -> None:
        """Tasks of one kind. If they fail together, each has a try of its own: one must not spoil the others."""
        several = self.work.several
        assert several is not None
        start = perf_counter()
        try:
            values = several.process([task.value for task in tasks])
        except Exception:
            for task in tasks:
                self.process(task)
            return
        for task, value in zip(tasks, values, strict=True):
            task.value = value
            task.seconds += (perf_counter() - start) / len(tasks)

    def write(self, task: Task) -> None:
        task.attempt(lambda: self._write(task))
        if self.skip_existing and isinstance(task.error, ExistsError):  # another process was quicker
            task.message = f"{task.job.target} exists"

    def _begin(self, task: Task) -> Any:
        if task.job.skip:
            raise SkippedError(task.job.skip)
        self._check(task.job)
        value = self.work.read(task.job)
        if self.work.settle is not None:
            planned, task.job = task.job, self.work.settle(task.job, value)
            if task.job.target != planned.target:
                self._check(task.job)
        return value

    def _check(self, job: Job) -> None:
        """Before any time is spent on what is there, or cannot be written."""
        if job.target is None or job.into:
            return
        if self.skip_existing and exists(job.target):
            raise SkippedError(f"{job.target} exists")
        check_target(job.target, overwrite=self.overwrite)

    def _write(self, task: Task) -> Mapping[str, object]:
        with _result_stream(task.job, self.overwrite, self.stdout) as stream:
            return self.work.write(task.job, task.value, stream)


class _Run:
    """The threads of one call and what they share."""

    def __init__(self, steps: Steps, tell: Callable[[Outcome], None]) -> None:
        self._steps, self._tell = steps, tell
        self._read: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._processed: queue.SimpleQueue[list[Task] | None] = queue.SimpleQueue()
        self._ahead, self._behind = threading.Semaphore(AHEAD), threading.Semaphore(1 + BEHIND)  # one at work
        self._small_ahead = threading.Semaphore(TOGETHER)
        self._following: list[Task | None] = []  # at most one: was read after those that go together, and is of another kind
        self._ending = threading.Event()
        self._broken: list[BaseException] = []  # what ended a thread

    def do(self, jobs: Iterable[Job]) -> None:
        # A reader may hang on a pipe for ever: it must not keep the program from ending. A writer has to be waited for.
        reader = threading.Thread(target=self._guarded, args=(lambda: self._read_all(jobs),), daemon=True)
        reader.start()
        writer = threading.Thread(target=self._guarded, args=(self._write_all,), daemon=True)
        writer.start()
        try:
            while (tasks := self._next_tasks()) and self._enter(self._behind):
                self._process(tasks)
                self._processed.put(tasks)
            self._processed.put(None)
            while writer.is_alive():
                writer.join(PATIENCE)
        finally:
            self._ending.set()
            writer.join()
            reader.join(GRACE)
        if self._broken:
            raise self._broken[0]

    def _guarded(self, part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:
            self._broken.append(error)
            self._ending.set()

    def _read_all(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if not self._enter(self._ahead):
                return
            task = Task(job)
            if job.source is not None:  # standard input is read by the caller's thread, which can be interrupted there
                self._steps.read(task)
            task.kind = self._steps.kind(task)
            if task.kind is not None:
                if not self._enter(self._small_ahead):
                    return
                self._ahead.release()
            self._read.put(task)
        self._read.put(None)

    def _next_tasks(self) -> list[Task]:
        """The next one, with those that go together with it and are there already; empty where there is none or the run ends."""
        first = self._following.pop() if self._following else self._next(self._read)
        if first is None:
            return []
        tasks = [first]
        (self._ahead if first.kind is None else self._small_ahead).release()
        while first.kind is not None and len(tasks) < TOGETHER and not self._read.empty():
            task = self._read.get()
            if task is None or task.kind != first.kind:
                self._following.append(task)
                break
            self._small_ahead.release()
            tasks.append(task)
        return tasks

    def _process(self, tasks: list[Task]) -> None:
        if len(tasks) > 1:
            self._steps.process_together(tasks)
            return
        (task,) = tasks
        if task.job.source is None:
            self._steps.read(task)
        self._steps.process(task)

    def _write_all(self) -> None:
        while (tasks := self._next(self._processed)) is not None:
            for task in tasks:
                if task is not tasks[0] and self._ending.is_set():
                    return
                self._steps.write(task)
                outcome, task.value = task.outcome(), None
                if task is tasks[-1]:
                    self._behind.release()
                self._tell(outcome)

    def _next(self, things: queue.SimpleQueue[T | None]) -> T | None:
        """The next one, or None where there is none or the run ends."""
        while not self._ending.is_set():
            try:
                return things.get(timeout=PATIENCE)
            except queue.Empty:
                pass
        return None

    def _enter(self, places: threading.Semaphore) -> bool:
        """Wait for a place; False where the run ends first."""
        while not self._ending.is_set():
            if places.acquire(timeout=PATIENCE):
                return True
        return False


@contextmanager
def _result_stream(job: Job, overwrite: bool, stdout: BinaryIO) -> Iterator[BinaryIO]:
    if job.target is not None and not job.into:
        with atomic_write(job.target, overwrite=overwrite) as stream:
            yield stream
        return
    buffer = io.BytesIO()  # a pipe cannot be taken back: nothing goes out before all is there
    yield buffer
    if job.target is not None:
        put_into(job.target, buffer.getvalue())
        return
    try:
        stdout.write(buffer.getbuffer())
        stdout.flush()
    except OSError as error:
        reason = error.strerror or str(error)
        raise AecliError(f"the result of {job.name} could not go to standard output ({reason}): pass --output") from error


def sentence(job: Job, error: Exception) -> str:
    """What the person reads of a failed job."""
    if isinstance(error, AecliError):
        text = str(error)
        return text if job.name in text or (job.target and str(job.target) in text) else f"{job.name}: {text}"
    if is_out_of_memory(error):
        return f"{job.name} needs more memory than there is: close other programs or cut it into smaller pictures"
    if isinstance(error, OSError):
        about = f" at {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return f"{job.name} failed ({error.strerror or error}{about}): check the disk and run again"
    return f"{job.name} failed: {type(error).__name__}: {error} (this is a bug; --verbose shows where)"
