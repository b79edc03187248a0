"""Files as they arrive in a folder: each is a job once nobody writes to it any more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

from aecli.batch import Job, identity_of
from aecli.errors import UsageError

PAUSE = 0.5  # seconds between two looks
AT_REST = 1.0  # seconds without a change after which a file is taken for whole

State = tuple[int, int]  # a file's size and time of its last change


def arriving(plan: Callable[[], Sequence[Job]], complain: Callable[[str], None]) -> Iterator[Job]:
    """Yields the jobs that `plan` finds, look after look, without end, each when its source has been at rest for a second.

    A source that changes later is a job again; a result never is one, even when its source is gone. What `plan` refuses (two
    files whose results would have one name) is told once by `complain`, and nothing new is begun until it is settled.
    """
    taken: dict[str, State] = {}
    seen: dict[str, tuple[State, float]] = {}
    results: set[Hashable] = set()
    refused = ""
    while True:
        try:
            jobs, trouble = plan(), ""
        except UsageError as error:
            jobs, trouble = [], str(error)
        if trouble and trouble != refused:
            complain(trouble)
        refused = trouble
        for job in jobs:
            state = _state(job)
            if state is None or taken.get(job.name) == state or (job.source and identity_of(job.source) in results):
                continue
            known, since = seen.get(job.name, (None, 0.0))
            if known != state:
                seen[job.name] = (state, time.monotonic())
            elif time.monotonic() - since >= AT_REST:
                del seen[job.name]
                taken[job.name] = state
                results |= {identity_of(place) for place in (job.target, job.instead) if place is not None}
                yield job
        time.sleep(PAUSE)


def _state(job: Job) -> State | None:
    assert isinstance(job.source, Path)
    try:
        found = os.stat(job.source)  # noqa: PTH116
    except OSError:
        return None  # gone again
    return (found.st_size, found.st_mtime_ns) if found.st_size else None  # an empty one is just being made
