"""Ray's workers do what the local engine does, to the byte; a worker that is lost takes nothing with it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from aecli import pipeline, ray_engine
from aecli.batch import Job, read_bytes
from aecli.cli import app, encode
from aecli.cli.options import Engine
from aecli.errors import AecliError, UsageError
from aecli.images import Picture
from aecli.pipeline import Outcome, Work
from aecli.ray_engine import AT_ONCE

if sys.platform == "win32":
    pytest.skip("workers are killed as POSIX systems do it", allow_module_level=True)

WORKERS = 2
PICTURES = 24


@pytest.fixture(autouse=True)
def not_for_ever() -> Iterator[None]:
    """What waits for Ray in vain fails, again and again until it gives in."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError("Ray took too long")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 300, 10)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster on this machine with room for two workers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        frugal = {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False, "object_store_memory": 80 << 20}
        os.environ["RAY_TMPDIR"] = folder
        Path(folder, "ray").mkdir()  # Ray notes the address here, and does not make the folder
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": WORKERS, "temp_dir": folder, **frugal})
        yield started.address
        started.shutdown()
        del os.environ["RAY_TMPDIR"]


@pytest.fixture
def pictures(tmp_path: Path, photograph: Picture, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """in/00.png to in/23.png, 48×48, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    paths = [Path(f"in/{number:02}.png") for number in range(PICTURES)]
    for number, path in enumerate(paths):
        Image.fromarray(photograph.pixels[number : number + 48, number : number + 48]).save(path)
    return paths


def jobs_for(paths: list[Path], folder: str) -> list[Job]:
    return [Job(path, Path(folder, path.name), path.stem) for path in paths]


def do(jobs: Any, make_work: Callable[[], Work[Any, Any]], address: str, *, tell: Any = None, **options: Any) -> list[Outcome]:
    """The outcomes, in the order of the jobs' names."""
    told: list[Outcome] = []

    def telling(outcome: Outcome) -> None:
        told.append(outcome)
        if tell is not None:
            tell(told)

    ray_engine.run(jobs, make_work, telling, **{"overwrite": False, "skip_existing": False, "address": address, **options})
    return sorted(told, key=lambda outcome: outcome.job.name)


def files_in(folder: str) -> dict[str, bytes]:
    """Of all files, temporary ones, too."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def signed(make_work: Callable[[], Work[Any, Any]]) -> Work[Any, Any]:
    """Work that tells its process."""
    work = make_work()
    return Work(work.read, work.process, lambda *given: {**work.write(*given), "process": os.getpid()})


def test_a_killed_worker_and_a_broken_file_leave_the_results_of_the_local_engine(
    cluster: str, pictures: list[Path], weights_folder: Path
) -> None:
    pictures[12].write_bytes(pictures[12].read_bytes()[:500])
    weights, running = str(weights_folder / "tiny-codec.safetensors"), Engine(engine="ray")
    make_work = partial(signed, partial(encode._work, weights, 50.0, running, encode.Asked()))
    expected: list[Outcome] = []
    jobs = jobs_for(pictures, "local")
    pipeline.run(jobs, make_work(), expected.append, overwrite=False, skip_existing=False, stdout=io.BytesIO())

    def kill_the_first(told: list[Outcome]) -> None:
        if len(told) == 1:
            os.kill(int(str(told[0].info["process"])), signal.SIGKILL)  # it has another job, and will be sent one more

    found = do(jobs_for(pictures, "ray"), make_work, cluster, tell=kill_the_first)
    assert len({outcome.info.get("process") for outcome in found if outcome.status == "done"}) > 1
    for outcome, local in zip(found, expected, strict=True):
        assert (outcome.status, outcome.message) == (local.status, local.message)
        assert {**outcome.info, "process": 0} == {**local.info, "process": 0}
    assert [outcome.job.name for outcome in found if outcome.status == "failed"] == ["12"]
    assert "Traceback" in str(found[12].error)
    assert len(files_in("local")) == PICTURES - 1
    assert files_in("ray") == files_in("local")


def copying(read: Callable[[Job], bytes]) -> Work[bytes, bytes]:
    def write(job: Job, data: bytes, stream: Any) -> dict[str, object]:
        stream.write(data)
        return {"bytes": len(data)}

    return Work(read, lambda job, data: data, write)


def source_of(job: Job) -> bytes:
    return read_bytes(job, io.BytesIO())


def deadly() -> Work[bytes, bytes]:
    """Copies files; some of them kill the process, but `same` and `other` only once, and after a result was written."""

    def read(job: Job) -> bytes:
        data, lost_before = source_of(job), Path(f"{job.name} was here")
        if job.name == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.name in ("same", "other") and not lost_before.exists():
            lost_before.touch()
            assert job.target is not None
            job.target.write_bytes(data if job.name == "same" else b"by somebody else")
            os.kill(os.getpid(), signal.SIGKILL)
        return data

    return copying(read)


def test_a_file_that_kills_its_workers_fails_alone_and_a_result_of_a_lost_worker_counts(cluster: str, pictures: list[Path]) -> None:
    Path("out").mkdir()
    paths = [path.rename(f"in/{name}.png") for path, name in zip(pictures, ["deadly", "same", "other"], strict=False)]
    found = {outcome.job.name: outcome for outcome in do(jobs_for([*paths, *pictures[3:]], "out"), deadly, cluster)}
    assert {name for name, outcome in found.items() if outcome.status != "done"} == {"deadly", "other"}
    assert found["deadly"].message == ("deadly failed: 3 workers were lost with it, perhaps for want of memory: try --engine local")
    assert found["other"].message == "out/other.png exists: pass --overwrite or another --output"
    results = files_in("out")
    assert results.pop("other.png") == b"by somebody else"
    assert results == {path.name: path.read_bytes() for path in [paths[1], *pictures[3:]]}


def test_jobs_without_end_are_taken_as_workers_get_free_and_an_interrupt_leaves_what_was_told(
    cluster: str, pictures: list[Path]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
    taken = 0

    def endless() -> Iterator[Job]:
        nonlocal taken
        for taken in range(1, 1_000_000):
            yield Job(pictures[0], Path(f"out/{taken}.png"), str(taken))

    told: list[Outcome] = []

    def interrupt(so_far: list[Outcome]) -> None:
        told[:] = so_far
        assert taken - len(so_far) <= WORKERS * AT_ONCE + 1
        if len(so_far) == 50:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        do(endless(), partial(copying, source_of), cluster, tell=interrupt)
    assert len(told) >= 50
    assert set(files_in("out")) == {f"{outcome.job.name}.png" for outcome in told}


def refusing() -> Work[Any, Any]:
    raise UsageError("--sigma 300 is out of range: give 0 to 255")


def broken() -> Work[Any, Any]:
    raise KeyError("oops")


def test_what_is_wrong_with_the_work_the_room_or_the_address_is_raised(cluster: str, pictures: list[Path]) -> None:
    jobs = jobs_for(pictures[:1], "out")
    with pytest.raises(UsageError, match=r"^--sigma 300 is out of range: give 0 to 255$"):
        do(jobs, refusing, cluster)
    with pytest.raises(AecliError, match=r"^no Ray worker can be started \(KeyError: 'oops'\): see that aecli is installed"):
        do(jobs, broken, cluster)
    with pytest.raises(UsageError, match=r"^a worker needs 3 CPU and 0 GPU, but Ray has 2 CPU and 0 GPU: pass other --threads"):
        do(jobs, refusing, cluster, threads=3)
    with pytest.raises(AecliError, match=r"^no Ray cluster is found at localhost:1 "):
        do(jobs, refusing, "localhost:1")
    assert not Path("out").exists()


# ------------------------------------------------------------------------------------------------------------ the commands


def aecli(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_denoise_writes_reports_and_ends_as_it_does_locally(cluster: str, pictures: list[Path], weights_folder: Path) -> None:
    Path("in/empty.png").touch()
    denoise = ["denoise", "in", "-w", weights_folder / "tiny-denoiser.safetensors", "--threads", WORKERS, "--quiet"]
    assert aecli(*denoise, "-o", "local").exit_code == 1
    Path("ray").mkdir()
    Path("ray/05.png").write_bytes(b"made before")
    more = ["-o", "ray", "--json", "--skip-existing", "--report", "r.html"]
    done = aecli(*denoise, *more, "--engine", "ray", "--address", cluster)
    assert (done.exit_code, done.stderr) == (1, "aecli: in/empty.png is empty (0 bytes): check where it came from\n")
    statuses = {line["input"]: line["status"] for line in map(json.loads, done.stdout.splitlines())}
    assert statuses == {**dict.fromkeys(map(str, pictures), "done"), "in/05.png": "skipped", "in/empty.png": "failed"}
    assert files_in("ray") == {**files_in("local"), "05.png": b"made before"}
    assert Path("r.html").read_text().count("data:image/jpeg") == 2 * (PICTURES - 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-", "--engine", "ray"], "--engine ray cannot reach standard input and output"),
        (["in/00.png", "-o", "-", "--engine", "ray"], "--engine ray cannot reach standard input and output"),
        (["in/00.png", "--engine", "dask"], "--engine dask is not known: give local or ray"),
        (["in/00.png", "--address", "auto"], "--address is that of a Ray cluster: pass --engine ray, too"),
        (["in/00.png", "--engine", "ray"], "--engine ray needs Ray, which is not installed: pip install 'aecli[ray]'"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    before = sorted(Path().rglob("*"))
    refused = aecli("denoise", *arguments)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"aecli: {sentence}")
    assert refused.stderr.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def processes_of(session: int) -> list[str]:
    """The command lines of all that descends from the process that began the session, and has not ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if os.getsid(int(process.name)) == session and b") Z " not in (process / "stat").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux to see the processes")
def test_without_an_address_ray_is_started_and_sigterm_leaves_whole_results_and_no_process(
    pictures: list[Path], weights_folder: Path
) -> None:
    """A pipe that nothing comes through keeps one worker reading."""
    codec = ["-w", str(weights_folder / "tiny-codec.safetensors"), "--threads", "1"]
    assert aecli("encode", pictures[0], "-o", "whole.npz", *codec).exit_code == 0
    assert aecli("decode", "whole.npz", "-o", "local.png", *codec).exit_code == 0
    os.mkfifo("pipe.npz")
    command = [sys.executable, "-m", "aecli", "decode", "whole.npz", "pipe.npz", "-o", "ray", "--engine", "ray", "--json", *codec]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["output"] == "ray/whole.png"
        with open("pipe.npz", "wb"):  # noqa: PTH123 — waits until the worker has begun to read
            assert any("raylet" in line for line in processes_of(process.pid))
            process.terminate()
            assert process.wait() == 143
        assert process.stdout.read() == ""
        assert process.stderr.read() == "aecli: told to end; results that are there are whole\n"
    assert files_in("ray") == {"whole.png": Path("local.png").read_bytes()}
    end = time.monotonic() + 20
    while remaining := processes_of(process.pid):
        assert time.monotonic() < end, remaining
        time.sleep(0.1)
