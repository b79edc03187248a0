"""Watching a folder: a file is taken once, when it is whole, and again when it has changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DATA

from aecli import watching
from aecli.batch import Job
from aecli.errors import UsageError
from aecli.watching import arriving


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that passes at each look, without waiting for it."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(watching.time, "sleep", sleep)
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])
    return now


def job(path: Path) -> Job:
    return Job(path, path.with_suffix(".npz"), str(path))


def test_a_file_is_taken_once_when_it_has_been_at_rest_for_a_second(tmp_path: Path, looks: list[float]) -> None:
    growing, whole = tmp_path / "growing.png", tmp_path / "whole.png"
    whole.write_bytes(b"whole")

    def plan() -> list[Job]:
        if looks[0] < 5:
            with growing.open("ab") as stream:
                stream.write(b"more")  # at every look
        if looks[0] > 60:
            raise StopIteration
        return [job(growing), job(whole)]

    found = []
    with pytest.raises(RuntimeError):  # what Python makes of the StopIteration that ended it
        for each in arriving(plan, print):
            found.append((each.name, looks[0]))
    assert [name for name, _ in found] == [str(whole), str(growing)]
    assert 1 <= found[0][1] < 2
    assert 5.5 <= found[1][1] < 7


def test_a_file_that_changes_or_comes_back_is_taken_again_and_an_empty_one_never(tmp_path: Path, looks: list[float]) -> None:
    path, empty = tmp_path / "a.png", tmp_path / "empty.png"
    path.write_bytes(b"first")
    empty.touch()
    jobs: Iterator[Job] = arriving(lambda: [job(path), job(empty)], print)
    assert next(jobs).source == path
    path.write_bytes(b"second one")
    first = looks[0]
    assert next(jobs).source == path
    assert looks[0] >= first + 1


def test_a_result_is_no_new_file_even_when_its_source_is_gone(tmp_path: Path, looks: list[float]) -> None:
    source, result, other = (tmp_path / name for name in ("a.png", "a.denoised.png", "b.png"))
    source.write_bytes(b"noisy")
    present = [Job(source, result, str(source))]
    jobs: Iterator[Job] = arriving(lambda: present, print)
    assert next(jobs).source == source
    result.write_bytes(b"clean")
    source.unlink()
    other.write_bytes(b"another")
    present[:] = [Job(result, tmp_path / "a.denoised.denoised.png", str(result)), job(other)]
    assert next(jobs).source == other


def test_what_cannot_be_planned_is_told_once_and_goes_on_when_it_is_settled(tmp_path: Path, looks: list[float]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    said: list[str] = []

    def plan() -> list[Job]:
        if looks[0] < 10:
            raise UsageError("two files would both be written to a.npz")
        return [job(path)]

    assert next(arriving(plan, said.append)).source == path
    assert said == ["two files would both be written to a.npz"]


def test_the_command_takes_files_as_they_come_and_ends_with_ctrl_c(weights_folder: Path, tmp_path: Path) -> None:
    folder, data = tmp_path / "in", (DATA / "arches.png").read_bytes()
    folder.mkdir()
    command = [sys.executable, "-m", "aecli", "encode", str(folder), "-o", str(tmp_path / "out"), "--watch", "--json"]
    command += ["-w", str(weights_folder / "tiny-codec.safetensors"), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_hear_interrupts) as process:
        assert process.stdout is not None
        (folder / "a.png").write_bytes(data)
        assert json.loads(process.stdout.readline())["status"] == "done"
        with (folder / "late.png").open("wb") as stream:  # half of it comes now, half a little later
            stream.write(data[:5000])
            stream.flush()
            time.sleep(0.7)
            stream.write(data[5000:])
        late = json.loads(process.stdout.readline())
        assert (late["status"], late["input"]) == ("done", str(folder / "late.png"))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    assert sorted(os.listdir(tmp_path / "out")) == ["a.npz", "late.npz"]  # noqa: PTH208


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it


def test_what_was_there_before_is_no_result_to_be_replaced(tmp_path: Path) -> None:
    for name in ("w/a.png", "w/out/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    command = [sys.executable, "-m", "aecli", "denoise", "w", "-r", "-o", "w/out", "--watch", "--overwrite"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "w/out/a.png was found in a folder and would be replaced" in done.stderr) == (2, True), done.stderr
    assert (tmp_path / "w/out/a.png").read_bytes() == b"w/out/a.png"


def test_what_cannot_be_watched_is_said(tmp_path: Path) -> None:
    for arguments in (["-", "--watch"], ["a.png", "--watch"], [str(tmp_path), "--watch", "-o", "-"]):
        done = subprocess.run(
            [sys.executable, "-m", "aecli", "encode", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert (done.returncode, "--watch looks at folders" in done.stderr) == (2, True), done.stderr
