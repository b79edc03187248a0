"""The format of each result: asked for, or told by a name, or that of the input; and another where that cannot hold a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from aecli.batch import Job
from aecli.cli.options import FORMAT_CHOICE, Results
from aecli.errors import AecliError, UsageError
from aecli.images import FORMATS, LOSSY_FORMATS, SUFFIXES, Picture, format_of, why_not, write_picture
from aecli.lossy import FULL_COLOUR, Lossy
from aecli.storage import Place

ANY_PICTURE = ".png"  # the suffix of the format that holds every picture


@dataclass(frozen=True)
class Formats:
    """asked: a suffix of FORMATS that all results get, or None. quality: 1–100, of those in a format that loses something."""

    asked: str | None = None
    quality: int | None = None

    @classmethod
    def of(cls, results: Results) -> Formats:
        """Raises UsageError for options that do not go together."""
        if results.format is not None and results.format.lower() not in FORMAT_CHOICE:
            raise UsageError(f"--format {results.format} is not known: give one of {', '.join(FORMAT_CHOICE)}")
        asked = results.format and f".{results.format.lower()}"
        if asked and results.output_quality is not None and FORMATS[asked] not in LOSSY_FORMATS:
            raise UsageError(f"--output-quality is of no use, as --format {results.format} loses nothing: leave one of them out")
        return cls(asked, results.output_quality)

    def name_of(self, ending: str) -> Callable[[Path], str]:
        """Gives the file name of a source's result: the source's, this ending, the suffix of the format."""
        return lambda path: f"{path.stem}{ending}{self.asked or (path.suffix if path.suffix.lower() in FORMATS else ANY_PICTURE)}"

    def other_name_of(self, ending: str) -> Callable[[Path], str]:
        """The same for a result that its format cannot hold."""
        return lambda path: f"{path.stem}{ending}{ANY_PICTURE}"

    def check(self, target: Place) -> None:
        """Raises UsageError for a name that tells of no format, or of another than was asked for."""
        told = target.suffix.lower()
        if self.asked is None:
            format_of(target)
        elif told in SUFFIXES and FORMATS.get(told) != FORMATS[self.asked]:
            raise UsageError(f"{target} is no name for --format {self.asked[1:]}: give another, or leave --format out")

    def settle(self, job: Job, picture: Picture) -> Job:
        """The job with a target that can hold the picture. Raises AecliError where there is none."""
        format = self._wanted(job, picture)
        reason = why_not(picture, format)
        if not reason:
            return job
        notes = (*job.notes, f"written as PNG, as {reason}")
        if job.instead is not None:
            return replace(job, target=job.instead, notes=notes)
        if self._is_free(job):
            return replace(job, notes=notes)
        raise AecliError(f"{why_not(picture, format, job.name)}: choose {ANY_PICTURE}")

    def write(self, job: Job, picture: Picture, stream: BinaryIO) -> list[str]:
        """Writes the result of a settled job. Returns what is to be told of it, one clause each."""
        format = self._wanted(job, picture)
        if self._is_free(job) and why_not(picture, format):
            format = FORMATS[ANY_PICTURE]
        unused = self.quality is not None and format not in LOSSY_FORMATS
        lossy = picture.lossy
        if self.quality is not None:
            lossy = Lossy(self.quality, lossy.subsampling if lossy else FULL_COLOUR)
        notes = write_picture(picture, stream, format, job.name, lossy=lossy)
        return [
            *job.notes,
            *picture.notes,
            *notes,
            *([f"{format} loses nothing, whatever --output-quality says"] if unused else []),
        ]

    def _wanted(self, job: Job, picture: Picture) -> str:
        """Pillow's name of the format, whether it can hold the picture or not."""
        if self.asked is not None and (job.target is None or job.target != job.instead):
            return FORMATS[self.asked]
        if job.target is not None and not job.into:
            return format_of(job.target)
        return picture.format if picture.format in FORMATS.values() and picture.format is not None else FORMATS[ANY_PICTURE]

    def _is_free(self, job: Job) -> bool:
        """Whether nobody has named a format."""
        return self.asked is None and (job.target is None or job.into)
