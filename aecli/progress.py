"""How far the work on one picture is, for whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


def duration(seconds: float) -> str:
    """`50 s`, `4 min`, `5 h 43 min`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


Tell = Callable[[int, int], None]
_tell: ContextVar[Tell | None] = ContextVar("tell", default=None)


def tell(done: int, total: int) -> None:
    """Say that so many of a picture's tiles are done; nothing happens where nobody is listening."""
    listener = _tell.get()
    if listener is not None:
        listener(done, total)


@contextmanager
def watched(listener: Tell) -> Iterator[None]:
    """Have listener(done, total) called before and after every tile of each pass over a picture, in this thread."""
    token = _tell.set(listener)
    try:
        yield
    finally:
        _tell.reset(token)
