"""Files at URLs: s3://, gs://, abfs://, sftp://, https:// and whatever else fsspec has a driver for.

    place("scans/a.png"), place("file:///scans/a.png")   → Path
    place("s3://bucket/scans/a.png")                      → Remote

A Remote has so much of Path's interface as batch.py needs, and the network is asked only by `kind`, `names`, `read_bytes` and
`write_bytes`. Not universal-pathlib: its paths are no Paths either, and print the credentials in a URL. fsspec is imported once a
URL is met, not before.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import secrets
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote_to_bytes

from aecli.errors import AecliError, UsageError

_SCHEME = "[A-Za-z][A-Za-z0-9+.-]+"  # two letters at least: C:// is a drive
_URL = re.compile(rf"(?P<outer>(?:{_SCHEME}::)*)(?P<scheme>{_SCHEME})://(?P<rest>.*)", re.DOTALL)
_INNER_URL = re.compile(rf"::{_SCHEME}://")

# Drivers that open what is inside another file or behind another driver: fsspec's chains, `zip://a.png::s3://bucket/b.zip`.
_CHAINING = frozenset(
    ("zip", "tar", "libarchive", "simplecache", "filecache", "blockcache", "cached", "dir", "reference", "generic", "data")
)
_READ_ONLY = frozenset({"http", "https"})
_NO_CREDENTIALS = frozenset({"s3", "s3a", "gs", "gcs"})  # a bucket's name has no @, and their drivers look elsewhere for keys
_CONTAINER_AT_ACCOUNT = frozenset({"abfs", "abfss", "az", "adl"})

# What may stand before the first @: no slash; but AWS secrets have slashes in them, so after a colon that begins no port, anything.
# (S3's access points are arn:aws:s3:…)
_USER = re.compile(r"[^/]*@|(?!arn:)[^/:]*:(?!\d+(?:/|$)).*@", re.DOTALL)

_PACKAGES = {"smbclient": "smbprotocol"}  # modules whose package has another name

# Characters that would make several components, or none, of one name in a path of this machine.
_UNSAFE = re.compile(r'[<>:"/\\|?*\0-\x1f]' if os.name == "nt" else r"[/\0]")


def place(name: str) -> Place:
    """What a name on the command line, or in a list, stands for. A file:// URL is the local path, percent signs decoded.

    Raises UsageError for URLs within URLs, for credentials where no driver takes them, and for file:// with another machine.
    """
    found = _URL.fullmatch(name)
    if found is None:
        return Path(name)
    scheme, rest = found["scheme"].lower(), found["rest"]
    if found["outer"] or scheme in _CHAINING or _INNER_URL.search(rest):
        raise UsageError(f"{found['outer']}{scheme}://… leads through one URL to another, which is not followed: unpack or copy it")
    if scheme in ("file", "local"):
        return _local_path(rest)
    remote = Remote(scheme, rest)
    if scheme in _NO_CREDENTIALS and _USER.match(rest):
        raise UsageError(f"{remote} has credentials in it: leave them out, and give them as {scheme}'s own tools take them")
    return remote


def _local_path(rest: str) -> Path:
    path = os.fsdecode(unquote_to_bytes(os.fsencode(re.sub("^localhost(?=/)", "", rest))))
    if "\0" in path:
        raise UsageError(f"{Remote('file', rest)} has a NUL in it, which no name has: check it")
    if not path.startswith("/"):
        raise UsageError(f"{Remote('file', rest)} names a machine and no folder of this one: write file:///folder/file")
    return Path(path.removeprefix("/") if os.name == "nt" else path)  # /C:/folder


def refuse_url(path: str | Path, option: str) -> None:
    """Raises UsageError where only a local path will do. A Path has made `s3:/` of `s3://`; nothing behind it is repeated."""
    found = re.match(rf"({_SCHEME})(?:::.*)?:/", str(path))
    if found is not None:
        raise UsageError(f"{option} takes local paths only, and {found[1]}://… is a URL: copy what is there, and name the copy")


def local_name(name: str) -> str:
    """A name that a server gave, as one component of a path on this machine that leads nowhere else."""
    safe = _UNSAFE.sub("_", name)
    return f"_{safe}" if safe in ("", ".", "..") else safe


@dataclass(frozen=True, repr=False)
class Remote:
    """A file or folder at a URL, there or not. Its text leaves out what may be secret: user, password, and a web address's query.

    Whatever a driver raises becomes an AecliError of one sentence, with no secret in it nor in its cause; UsageError where the
    driver is not installed.
    """

    scheme: str  # lower case
    rest: str  # all that follows ://, as it was given

    def __str__(self) -> str:
        user = _USER.match(self.rest)
        if user is not None and self.scheme in _CONTAINER_AT_ACCOUNT and ":" not in user[0]:
            user = None
        shown = self._path if user is None else f"…@{self._path[user.end() :]}"
        return f"{self.scheme}://{shown}{'' if self._path == self.rest else '?…'}"

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    @property
    def _url(self) -> str:
        return f"{self.scheme}://{self.rest}"

    @property
    def _path(self) -> str:
        return re.split("[?#]", self.rest, maxsplit=1)[0] if self.scheme in _READ_ONLY else self.rest

    @property
    def name(self) -> str:
        return PurePosixPath(self._path).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self._path).suffix

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there, whatever the rights."""
        return self.scheme in _READ_ONLY

    def with_name(self, name: str) -> Remote:
        """What stands beside it under another name."""
        folder, slash, _ = self._path.rstrip("/").rpartition("/")
        return Remote(self.scheme, f"{folder}{slash}{name}")

    def __truediv__(self, below: PurePath | str) -> Remote:
        names = below.as_posix() if isinstance(below, PurePath) else below
        folder = self.rest.rstrip("/")
        return self if names == "." else Remote(self.scheme, f"{folder}/{names}" if folder else names)

    @property
    def identity(self) -> Hashable:
        """The same for all URLs of a file that can be known for such without asking the network."""
        with self._errors_as_sentences("looked at"):
            driver = self._driver()
            return driver, repr(driver._get_kwargs_from_urls(self._url)), driver._strip_protocol(self._url)

    def kind(self) -> Literal["file", "folder", "missing"]:
        """What is there now. Web addresses are taken for files: no links in a page are followed."""
        if self.read_only:
            return "file"
        with self._errors_as_sentences("looked at"):
            system, path = self._opened()
            system.invalidate_cache()  # others write there, too
            try:
                found = system.info(path)
            except (FileNotFoundError, NotADirectoryError):
                return "missing"
            return "folder" if found["type"] == "directory" else "file"

    def names(self) -> list[tuple[str, bool]]:
        """Of everything in this folder the name, without a slash, and whether it is a folder.

        Not found is what stands below an empty name, such as s3://bucket//a.png: drivers cannot list it.
        """
        with self._errors_as_sentences("listed"):
            system, path = self._opened()
            system.invalidate_cache()
            found = [(entry["name"].rstrip("/"), entry["type"] == "directory") for entry in system.ls(path, detail=True)]
            # Object stores list the folder itself where there is an object of its name.
            return [(name.rpartition("/")[2], is_folder) for name, is_folder in found if name != path.rstrip("/")]

    def read_bytes(self) -> bytes:
        """All of the file."""
        with self._errors_as_sentences("read"):
            system, path = self._opened()
            self._check_name(path)
            return bytes(system.cat_file(path))

    def write_bytes(self, data: bytes, *, overwrite: bool) -> None:
        """Makes the file, which nobody ever sees in part: object stores show what is complete, elsewhere it is renamed at the end.

        Without `overwrite` one that exists is left, and FileExistsError raised. Where the driver cannot make sure of that (those of
        S3 and Google Cloud Storage can), it is looked for right before.
        """
        with self._errors_as_sentences("written", passing=() if overwrite else FileExistsError):
            system, path = self._opened()
            self._check_name(path)
            if _shows_what_is_half_written(system):
                self._write_and_rename(system, path, data, overwrite)
            elif overwrite or not _created(system, path, data):
                self._refuse_taken(overwrite)
                system.pipe_file(path, data)

    def _write_and_rename(self, system: Any, path: str, data: bytes, overwrite: bool) -> None:
        folder = path.rpartition("/")[0]
        temporary = f"{folder}/.aecli-{secrets.token_hex(8)}.tmp"
        system.makedirs(folder, exist_ok=True)
        try:
            system.pipe_file(temporary, data)
            self._refuse_taken(overwrite)
            system.mv(temporary, path)
        except BaseException:
            with suppress(Exception):  # the reason why is in flight already
                system.rm_file(temporary)
            raise

    def _refuse_taken(self, overwrite: bool) -> None:
        if not overwrite and self.kind() != "missing":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _driver(self) -> Any:
        import fsspec

        try:
            return fsspec.get_filesystem_class(self.scheme)
        except ImportError as error:
            module = getattr(error.__cause__, "name", None)
            if module is None:
                raise UsageError(
                    f"{self} needs a driver that does not start ({error.__cause__ or error}): install it anew"
                ) from error
            package = _PACKAGES.get(module, module.partition(".")[0])
            raise UsageError(f"{self} needs {package}: pip install {package}") from error
        except ValueError as error:
            raise UsageError(f"{self} is of no kind that fsspec has a driver for: check what stands before ://") from error

    def _opened(self) -> tuple[Any, str]:
        """The driver, connected, which fsspec keeps for the next time, and the path as it takes it.

        Not by fsspec.core.url_to_fs: it would follow a name with :: in it to wherever the name says.
        """
        driver = self._driver()
        return driver(**driver._get_kwargs_from_urls(self._url)), driver._strip_protocol(self._url)

    def _check_name(self, path: str) -> None:
        """Drivers that read URLs as a browser does would take `a?b.png` for the file `a`."""
        if not self.read_only and PurePosixPath(path).name != self.name:
            raise AecliError(f"{self} has characters in its name that {self.scheme}:// takes for something else: rename it")

    @contextmanager
    def _errors_as_sentences(self, done: str, passing: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        try:
            yield
        except (AecliError, MemoryError):
            raise
        except passing:
            raise
        except Exception as error:  # drivers raise what their libraries raise
            secret = str(self) != self._url
            raise AecliError(self._sentence(done, error, secret)) from (None if secret else error)

    def _sentence(self, done: str, error: Exception, secret: bool) -> str:
        if isinstance(error, FileNotFoundError):
            if done == "written":
                return f"{self} could not be written, as its bucket or folder does not exist: make it or pass another --output"
            return f"{self} does not exist: check the name"
        if isinstance(error, IsADirectoryError):
            return f"{self} is a folder: name the files in it"
        if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
            return f"{self} could not be {done}, as access is denied: check your credentials, and what they allow"
        if isinstance(error, NotImplementedError):
            return f"{self} could not be {done}, as the driver of {self.scheme}:// cannot do that: use another place"
        reason = "" if secret else " ".join(re.sub(r'"?\w+://\S+', "…", str(error)).split())[:200]
        return f"{self} could not be {done} ({reason or type(error).__name__}): check the URL, the credentials and the network"


Place: TypeAlias = Path | Remote


def _shows_what_is_half_written(system: Any) -> bool:
    """As on sftp://, ftp://, smb:// and hdfs://, whose drivers have no way of their own to put a file, but one to rename it."""
    from fsspec import AbstractFileSystem

    driver = type(system)
    puts = system.async_impl or driver.pipe_file is not AbstractFileSystem.pipe_file
    return not puts and driver.mv is not AbstractFileSystem.mv


def _created(system: Any, path: str, data: bytes) -> bool:
    """Makes the file if the driver can do so only where none is, in one request. False: it cannot, nothing was done.

    Raises FileExistsError.
    """
    if "mode" not in inspect.signature(system.pipe_file).parameters:
        return False
    try:
        system.pipe_file(path, data, mode="create")
    except NotImplementedError:
        return False
    except OSError as error:
        if error.errno == errno.ENOSYS:  # s3fs, of stores that have only part of S3
            return False
        raise
    return True
