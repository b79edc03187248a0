"""Many files on several machines, by Ray: each worker process has a model of its own, reads sources and writes results itself.

    this process                                   worker, on any machine of the Ray cluster
    jobs, at most two a worker at a time    →      read   →   network, one job at a time   →   write
    tell(outcome)                           ←      what became of the job: a few numbers and sentences

The steps of a job are those of pipeline.py. A worker that is lost (killed, out of memory, its machine gone) is replaced, and its
jobs are done again. Nothing here prints, asks or exits.
"""

from __future__ import annotations

import io
import logging
import os
import platform
import queue
import signal
import socket
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from aecli.batch import ExistsError, Job, remove_abandoned
from aecli.errors import AecliError, UsageError
from aecli.pipeline import PATIENCE, Outcome, Steps, Task, Work

AT_ONCE = 2  # jobs of a worker: while the network is at one, the other is read or written
ATTEMPTS = 3  # a job, or the start of a worker, is given up after so many lost workers
OBJECT_STORE = 80 << 20  # bytes, about the least that Ray takes: what workers answer does not go through it
KNOCKING = 10.0  # seconds that a cluster may take to answer

MakeWork = Callable[[], Work[Any, Any]]


def run(
    jobs: Iterable[Job],
    make_work: MakeWork,
    tell: Callable[[Outcome], None],
    *,
    overwrite: bool,
    skip_existing: bool,
    threads: int = 1,
    device: str = "auto",
    address: str | None = None,
) -> None:
    """Does what `pipeline.run` does, in the workers of a Ray cluster: the same results, told in the order in which they are ready.

    Jobs are taken from `jobs`, which may be endless, as workers get free. What is raised in the caller's thread, which must be the
    main one, such as KeyboardInterrupt, or by `tell`, ends the run: results that are being written are finished (and told, unless
    `tell` is what raised), all others are dropped.

    Args:
        jobs: none of them standard input or output. Their files are read and written by the workers, under the same names.
        make_work: makes a worker's Work. It is sent to the workers, so it must be picklable: a `partial` of a module's function.
        tell: called in a thread of its own. `error` of an outcome that failed is a `WorkerError`.
        overwrite, skip_existing: as in `pipeline.run`.
        threads: processors that Ray sets aside for a worker; there are as many workers as fit.
        device: with "cuda", or "auto" where Ray has GPUs, each worker gets a GPU of its own.
        address: of a Ray cluster, or "auto"; None starts Ray on this machine for the time of the run.

    Raises:
        UsageError: Ray is not installed, or has no room for a worker; or what `make_work` raises.
        AecliError: there is no cluster at the address, or no worker can be started; or what `make_work` raises.
    """
    work = _Run(_Plan(make_work, overwrite, skip_existing), tell)
    # In a thread of its own, for no signal shall find Ray half started, or half of a line told. It lives as long as Ray, whose
    # processes the kernel ends with the thread that started them.
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(work.do, jobs, threads, device, address)
        try:
            while not wait([running], PATIENCE).done:
                signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # Ray's library puts an answer of its own there
        finally:
            work.stop()
    running.result()


class WorkerError(Exception):
    """The traceback of what went wrong in a worker, as text: not every exception can be sent."""


# ---------------------------------------------------------------------------------------------------------- in the worker


@dataclass(frozen=True)
class _Plan:
    """What a worker is told when it begins."""

    make_work: MakeWork
    overwrite: bool
    skip_existing: bool
    folder: str = field(default_factory=os.getcwd)  # in which relative names mean what they mean to the caller


class _Worker:
    """Lives in a process of its own; its methods are called from several threads."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._network, self._writing = threading.Lock(), threading.Lock()
        self._ending = threading.Event()
        self._written: deque[int] = deque(maxlen=AT_ONCE)

    def begin(self) -> AecliError | None:
        """Load the model. What is wrong with it is returned: raised, it would come wrapped into Ray's own errors."""
        try:
            os.chdir(self._plan.folder)
            work = self._plan.make_work()
        except AecliError as error:
            return error
        except OSError as error:
            machine, reason = platform.node(), error.strerror or error
            return AecliError(f"{machine} cannot work in {self._plan.folder} ({reason}): start aecli in a folder of all machines")
        self._steps = Steps(work, self._plan.overwrite, self._plan.skip_existing, io.BytesIO())
        return None

    def do(self, number: int, job: Job, again: bool) -> Outcome | None:
        """What became of a job, or None if it was dropped. again: a worker was lost that may have done it."""
        task, steps = Task(job), self._steps
        if again:
            replace(steps, overwrite=True).read(task)  # the result may be there
        else:
            steps.read(task)
        with self._network:
            if self._ending.is_set():
                return None
            steps.process(task)
        with self._writing:
            if self._ending.is_set():
                return None
            value = task.value
            steps.write(task)
            if again and isinstance(task.error, ExistsError):
                compare = partial(self._compare, task.job, value, task.error)
                task.error = None
                task.attempt(compare)
            self._written.append(number)
        outcome = task.outcome()
        error = outcome.error and WorkerError("".join(traceback.format_exception(outcome.error)))
        return replace(outcome, error=error)

    def _compare(self, job: Job, value: Any, exists: ExistsError) -> Any:
        """A result that is there is the lost worker's if it is the same. It is never replaced."""
        assert job.target is not None
        result = io.BytesIO()
        info = self._steps.work.write(job, value, result)
        if job.target.read_bytes() != result.getvalue():
            raise exists
        return info

    def end(self) -> tuple[int, ...]:
        """Finish the result that is being written, and drop all else. The numbers of the last jobs that were finished."""
        self._ending.set()
        with self._writing:
            return tuple(self._written)


# ---------------------------------------------------------------------------------------------------------- in the caller


@dataclass(eq=False)
class _Attempt:
    """A job that is with a worker, or is to be. lost: workers that were lost with it."""

    number: int
    job: Job
    lost: int = 0
    answer: Future[Outcome | None] | None = None


@dataclass(eq=False)
class _Actor:
    """A worker, from here. alone: its only job has lost a worker before, and no other job shall suffer if it does so again."""

    handle: Any
    begun: bool = False
    alone: bool = False
    at: set[_Attempt] = field(default_factory=set)

    @property
    def is_free(self) -> bool:
        return self.begun and not self.alone and len(self.at) < AT_ONCE


class _Run:
    """The workers of one call, and the jobs that are with them. All happens in one thread, event after event."""

    def __init__(self, plan: _Plan, tell: Callable[[Outcome], None]) -> None:
        self._plan, self._tell = plan, tell
        self._actors: list[_Actor] = []
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: deque[_Attempt] = deque()
        self._suspects: deque[_Attempt] = deque()  # jobs that have lost a worker
        self._untold = 0  # jobs that were taken
        self._all_taken = self._stopped = self._ever_begun = False
        self._failed_starts = 0  # since the last one that did not fail

    def do(self, jobs: Iterable[Job], threads: int, device: str, address: str | None) -> None:
        with _connected(address) as self._ray:
            count = self._find_room(threads, device)
            count = min(count, len(jobs)) if isinstance(jobs, Sized) else count
            self._places = threading.Semaphore(count * AT_ONCE)
            threading.Thread(target=self._take_all, args=(jobs,), daemon=True).start()  # `jobs` may make us wait
            try:
                for _ in range(count):
                    self._start()
                while not self._stopped and (self._untold or not self._all_taken):
                    self._events.get()()
                    self._hand_out()
            except BaseException:
                self._tell = lambda outcome: None
                raise
            finally:
                self._stopped = True
                self._places.release()
                self._finish()

    def stop(self) -> None:
        """To be called from another thread."""
        self._events.put(self._stop)

    def _stop(self) -> None:
        self._stopped = True

    def _find_room(self, threads: int, device: str) -> int:
        """The number of workers that Ray has room for."""
        has = self._ray.cluster_resources()
        needs = {"CPU": threads, "GPU": int(device == "cuda" or (device == "auto" and has.get("GPU", 0) >= 1))}
        room = min(int(has.get(name, 0) // count) for name, count in needs.items() if count)
        if not room:
            need, there = (" and ".join(f"{of.get(name, 0):g} {name}" for name in needs) for of in (needs, has))
            raise UsageError(f"a worker needs {need}, but Ray has {there}: pass other --threads or --device")
        one_for_end = 1
        options = {"num_cpus": threads, "num_gpus": needs["GPU"], "max_concurrency": AT_ONCE + one_for_end}
        self._worker = self._ray.remote(**options)(_Worker)
        return room

    def _take_all(self, jobs: Iterable[Job]) -> None:
        """In a thread of its own: no more jobs than the workers have places for."""
        try:
            for number, job in enumerate(jobs):
                self._places.acquire()
                if self._stopped:
                    return
                self._events.put(partial(self._take, _Attempt(number, job)))
            self._events.put(self._no_more)
        except BaseException as error:
            self._events.put(partial(_raise, error))

    def _take(self, attempt: _Attempt) -> None:
        self._untold += 1
        self._waiting.append(attempt)

    def _no_more(self) -> None:
        self._all_taken = True

    def _start(self) -> None:
        actor = _Actor(self._worker.remote(self._plan))
        self._actors.append(actor)
        self._then(actor.handle.begin.remote(), partial(self._began, actor))

    def _then(self, reference: Any, event: Callable[[Future[Any]], None]) -> Future[Any]:
        """What `reference` stands for, once it is known; `event` is then called with it."""
        future: Future[Any] = reference.future()
        future.add_done_callback(lambda done: self._events.put(partial(event, done)))
        return future

    def _began(self, actor: _Actor, future: Future[AecliError | None]) -> None:
        error = future.exception() or future.result()
        if error is None:
            actor.begun = self._ever_begun = True
            self._failed_starts = 0
            return
        self._discard(actor)
        self._failed_starts += 1
        if isinstance(error, AecliError) and not self._ever_begun:
            raise error
        if self._failed_starts < ATTEMPTS:
            self._start()
        elif not self._actors:
            reason = str(error).strip().rpartition("\n")[2]
            raise AecliError(f"no Ray worker can be started ({reason}): see that aecli is installed on all machines") from error

    def _discard(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        self._ray.kill(actor.handle)  # it may live, and only be out of reach

    def _hand_out(self) -> None:
        """Give jobs to free workers, the least busy first; those that have lost a worker go before all others, each alone."""
        while free := [actor for actor in self._actors if actor.is_free]:
            actor = min(free, key=lambda actor: len(actor.at))
            if self._suspects and not actor.at:
                actor.alone = True
                self._send(actor, self._suspects.popleft())
            elif self._waiting and not self._suspects:
                self._send(actor, self._waiting.popleft())
            else:
                return

    def _send(self, actor: _Actor, attempt: _Attempt) -> None:
        actor.at.add(attempt)
        reference = actor.handle.do.remote(attempt.number, attempt.job, attempt.lost > 0)
        attempt.answer = self._then(reference, partial(self._answered, actor, attempt))

    def _answered(self, actor: _Actor, attempt: _Attempt, future: Future[Outcome]) -> None:
        actor.at.remove(attempt)
        actor.alone = False
        error = future.exception()
        if error is None:
            self._close(attempt, future.result())
            return
        if actor in self._actors:  # once for all of its jobs
            self._discard(actor)
            self._start()
        attempt.lost += 1
        if attempt.lost < ATTEMPTS:
            self._suspects.append(attempt)
            return
        message = f"{attempt.job.name} failed: {ATTEMPTS} workers were lost with it, perhaps for want of memory: try --engine local"
        self._close(attempt, Outcome(attempt.job, "failed", 0.0, error=WorkerError(str(error)), message=message))

    def _close(self, attempt: _Attempt, outcome: Outcome) -> None:
        if attempt.lost and isinstance(attempt.job.target, Path):
            remove_abandoned(attempt.job.target.parent)
        self._untold -= 1
        self._places.release()
        self._tell(outcome)

    def _finish(self) -> None:
        """Wait for the results that are being written."""
        ending = [(actor, actor.handle.end.remote().future()) for actor in self._actors if actor.begun]
        for actor, written in ending:
            with suppress(self._ray.exceptions.RayError):  # a worker that is lost now has nothing to tell
                numbers = written.result()
                for attempt in actor.at:
                    outcome = attempt.answer.result() if attempt.answer and attempt.number in numbers else None
                    if outcome is not None:
                        self._tell(outcome)


def _raise(error: BaseException) -> None:
    raise error


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """The library, connected to a cluster, or to one of this machine alone that ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.exceptions
    except ImportError as error:
        raise UsageError("--engine ray needs Ray, which is not installed: pip install 'aecli[ray]'") from error
    ray._private.worker._worker_logs_enabled = False  # it would tell of lost workers on standard output, whatever the options
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ExitStack() as ending:
        if address is None:
            short = "/tmp" if os.name == "posix" else None  # names of sockets have a hundred characters at most
            folder = tempfile.TemporaryDirectory(prefix="aecli-ray-", dir=short, ignore_cleanup_errors=True)
            options |= {"_temp_dir": ending.enter_context(folder)}
            options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
        ending.callback(ray.shutdown)
        try:
            _knock(address)
            ray.init(address or "local", **options)
        except Exception as error:
            reason = getattr(error, "strerror", None) or str(error).split(". ")[0]
            if address is None:
                raise AecliError(f"Ray cannot be started on this machine ({reason}): use --engine local") from error
            raise AecliError(f"no Ray cluster is found at {address} ({reason}): see ray status, or leave --address out") from error
        yield ray


def _knock(address: str | None) -> None:
    """Raises OSError where nobody answers, which Ray takes minutes to notice."""
    address = os.environ.get("RAY_ADDRESS") if address == "auto" else address
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCKING).close()
