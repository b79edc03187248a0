"""Whatever ends a run, no result is lost, halved or replaced, and no input touched. docs/faults.md lists these tests.

The runs are processes: forked from one that has imported torch already, so that fifty of them take seconds.
"""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from aecli import batch
from aecli.batch import Job, atomic_write, read_bytes, remove_abandoned
from aecli.errors import AecliError
from aecli.images import from_array, read_picture, write_picture

if sys.platform == "win32":
    pytest.skip("these faults are those of POSIX systems", allow_module_level=True)

DATA = Path(__file__).parent / "data"
PICTURES = 24

# Reads orders from its input, one JSON text a line: Python code that a forked child is to run, or a child to wait for.
SERVER = """
import json, os, signal, sys, traceback
import torch
torch.set_num_threads(1)  # a process with threads must not fork
from PIL import Image
from aecli.cli import app
for warm_up in json.loads(sys.argv[1]):
    try:
        app(warm_up)
    except SystemExit as ended:
        assert not ended.code, ended.code
print("warm", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    os.setpgrp()  # no session of its own: kernels that share processors out among sessions may let a new one starve
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the children of background jobs are born deaf to it
    for descriptor, name in {0: os.devnull, 1: order["log"] + ".out", 2: order["log"] + ".err"}.items():
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666), descriptor)
    status = 1
    try:
        exec(order["code"])
        status = 0
    except SystemExit as ended:
        status = ended.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)
"""


def until(condition, what, seconds=120.0):
    """Waits for it, and returns what it returned."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.0005)
    return value


class Child:
    """One run."""

    def __init__(self, server, pid, log):
        self.server, self.pid, self.log = server, pid, log

    @property
    def errors(self):
        return Path(f"{self.log}.err").read_text()

    @property
    def outcomes(self):
        """What it has reported so far, one dictionary a file."""
        text = Path(f"{self.log}.out").read_text() if Path(f"{self.log}.out").exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n") and line.startswith("{")]

    def told(self, message):
        """How many files failed with the message; the table at the end repeats some."""
        return sum(message in line for line in self.errors.splitlines() if line.startswith("aecli: "))

    def count(self, status):
        return sum(outcome["status"] == status for outcome in self.outcomes)

    @property
    def told_of_all(self):
        """Whether it has nothing left to do: after kills that struck late, less than what is waited for may have been left."""
        return len(self.outcomes) == PICTURES

    def kill(self, number):
        os.kill(self.pid, number)  # the server has not waited for it: the number is still its own
        return self.wait()

    def wait(self):
        """Its exit status, or the negative number of the signal that killed it."""
        self.server.order(wait=self.pid)
        return self.server.answer()


class Server:
    """The warm process that runs are forked from."""

    def __init__(self, folder, warm_up, prefix=()):
        self.logs, self.started = folder, 0
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-W", "ignore", "-c", SERVER, json.dumps(warm_up)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in self.process.stdout:  # the warm-up reports too
            if line == "warm\n":
                return
        raise OSError(f"{self.process.stderr.read()} (exit status {self.process.wait()})")

    def order(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self):
        return int(self.process.stdout.readline())

    def run_code(self, code):
        self.started += 1
        log = str(self.logs / f"{self.started}")
        self.order(code=code, log=log)
        return Child(self, self.answer(), log)

    def start(self, *arguments, first=""):
        """`aecli` with the arguments; the code `first` runs before it."""
        return self.run_code(f"{first}\napp({[*map(str, arguments), '--json', '--threads', '1']!r})")

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()
        self.process.stderr.close()


def crop(number):
    pixels = read_picture(DATA / "colosseum.png").pixels
    return from_array(np.ascontiguousarray(pixels[5 * number : 5 * number + 48, 5 * number : 5 * number + 48]))


def save(path, picture):
    with path.open("wb") as stream:
        write_picture(picture, stream, {".png": "PNG", ".ppm": "PPM"}[path.suffix])


def contents(folder):
    """Names of all files in the folder, hidden ones too, and their bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def hashes(folder):
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(folder).items()}


def temporary_files(folder):
    return [name for name in os.listdir(folder) if name.startswith(".")] if folder.exists() else []  # noqa: PTH208


@pytest.fixture(scope="module")
def world(weights_folder):
    """A folder that every user may look into, with 24 small pictures and the weights of both commands."""
    folder = Path(tempfile.mkdtemp(prefix="aecli-faults-"))
    folder.chmod(0o755)
    for name in ("in", "logs"):
        (folder / name).mkdir()
    (folder / "logs").chmod(0o777)  # a run of another user writes there
    for number in range(PICTURES):
        save(folder / "in" / f"{number:02}.png", crop(number))
    for name in ("tiny-denoiser", "tiny-codec"):
        shutil.copy(weights_folder / f"{name}.safetensors", folder)
        (folder / f"{name}.safetensors").chmod(0o644)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def commands(world):
    """The beginnings of both command lines."""
    return {
        "denoise": ["denoise", "--weights", str(world / "tiny-denoiser.safetensors")],
        "encode": ["encode", "--weights", str(world / "tiny-codec.safetensors")],
    }


@pytest.fixture(scope="module")
def warm_up(world, commands):
    """Command lines that import whatever the runs will need, and write an undisturbed run's results."""
    return [
        [*command, str(world / "in"), "-o", str(world / f"undisturbed-{name}"), "--overwrite", "--threads", "1"]
        for name, command in commands.items()
    ]


@pytest.fixture(scope="module")
def server(world, warm_up):
    server = Server(world / "logs", warm_up)
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(world, server):
    results = {name: contents(world / f"undisturbed-{name}") for name in ("denoise", "encode")}
    assert [len(files) for files in results.values()] == [PICTURES, PICTURES]
    return results


@pytest.fixture
def out(world):
    yield world / "out"
    if (world / "out").exists():
        (world / "out").chmod(0o755)
        shutil.rmtree(world / "out")


@pytest.fixture
def held(world):
    """A pipe named as a picture is: a run that reads it stands still until it is given one."""
    path = world / "held.png"
    os.mkfifo(path)
    yield path
    path.unlink()


def reader_of(pipe):
    """The writing end of a pipe, as soon as a run has opened it, and so has planned its work."""

    def opened():
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO  # nobody reads it yet
            return None

    descriptor = until(opened, "the run to read the pipe")
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb")


# ------------------------------------------------------------------------------------------------------- killed, ended


def test_fifty_sigkills_at_random_moments_lose_nothing(world, commands, server, undisturbed, out):
    moments = random.Random(6)
    before = hashes(world / "in")
    kills, at_work, left_behind = 0, 0, 0
    while kills < 50:
        name = moments.choice(["denoise", "encode"])
        command = [*commands[name], world / "in", "-o", out, "--skip-existing"]
        for _ in range(5):
            run = server.start(*command)
            wanted = moments.choice([0, 1, 1, 2, 3])
            if wanted == 0:
                time.sleep(moments.uniform(0, 0.15))  # also while it starts
            else:
                until(lambda run=run, wanted=wanted: run.count("done") >= wanted or run.told_of_all, "results")
                time.sleep(moments.uniform(0, 0.01))
            if run.kill(signal.SIGKILL) != -signal.SIGKILL:
                break  # it was done before
            kills += 1
            at_work += run.count("done") > 0
            left_behind += bool(temporary_files(out))
            results = {file: data for file, data in contents(out).items() if file[0] != "."} if out.exists() else {}
            assert results.items() <= undisturbed[name].items()  # nothing half, even now
        last = server.start(*command)
        assert last.wait() == 0, last.errors
        assert contents(out) == undisturbed[name]  # complete, equal, and no temporary file
        shutil.rmtree(out)
    assert hashes(world / "in") == before
    print(f"{kills} kills, {at_work} after the first result, {left_behind} left a temporary file")
    assert at_work >= 30 and left_behind >= 5, "the moments must fall into the work"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["denoise", "encode"])
def test_ctrl_c_and_sigterm_at_random_moments_leave_whole_results_only(
    world, commands, server, undisturbed, out, held, name, number, status
):
    moments = random.Random(number)
    command = [*commands[name], world / "in", "-o", out, "--skip-existing"]
    for _ in range(5):
        run = server.start(*command, held)  # which nobody fills: it does not end before it is told to
        until(lambda run=run: run.count("done") >= 1 or run.told_of_all, "a result")
        time.sleep(moments.uniform(0, 0.01))
        assert run.kill(number) == status, run.errors
        assert "results that are there are whole" in run.errors and "Traceback" not in run.errors
        assert contents(out).items() <= undisturbed[name].items()
    assert server.start(*command).wait() == 0
    assert contents(out) == undisturbed[name]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_waits_for_its_input_can_be_ended(world, commands, server, out, held, number, status):
    run = server.start(*commands["denoise"], held, world / "in" / "00.png", "-o", out)
    with reader_of(held):
        assert run.kill(number) == status, run.errors
    assert temporary_files(out) == []


# ---------------------------------------------------------------------------------------------------- temporary files


def killed_while_writing(server, target):
    """The temporary file that a killed writer of `target` has left."""
    code = f"""
from pathlib import Path; from aecli.batch import atomic_write; import time
with atomic_write(Path({str(target)!r}), overwrite=True) as stream:
    stream.write(b"half"); stream.flush(); print("{{}}", flush=True); time.sleep(60)"""
    run = server.run_code(code)
    until(lambda: run.outcomes, "the writer")
    assert run.kill(signal.SIGKILL) == -signal.SIGKILL
    (name,) = temporary_files(target.parent)
    return target.parent / name


def test_a_later_run_removes_what_a_killed_one_left_even_with_nothing_to_do(world, commands, server, out):
    picture = world / "in" / "00.png"
    assert server.start(*commands["denoise"], picture, "-o", out / "00.png").wait() == 0
    left = killed_while_writing(server, out / "00.png")
    assert left.read_bytes() == b"half"
    run = server.start(*commands["denoise"], picture, "-o", out / "00.png", "--skip-existing")
    assert (run.wait(), run.count("skipped")) == (0, 1)
    assert not left.exists()


def test_saving_anything_removes_what_a_killed_writer_left_in_the_folder(server, tmp_path):
    left = killed_while_writing(server, tmp_path / "checkpoint.pt")
    with atomic_write(tmp_path / "checkpoint.pt", overwrite=True) as stream:
        stream.write(b"whole")
    assert not left.exists()
    assert contents(tmp_path) == {"checkpoint.pt": b"whole"}


def test_a_living_writer_keeps_its_temporary_file(world, commands, server, undisturbed, out):
    with atomic_write(out / "ours.bin", overwrite=False) as stream:
        stream.write(b"ours")
        (name,) = temporary_files(out)
        assert server.start(*commands["denoise"], world / "in", "-o", out).wait() == 0
        assert temporary_files(out) == [name]
    assert contents(out) == {**undisturbed["denoise"], "ours.bin": b"ours"}


def test_a_file_of_another_machine_stays_for_a_day(tmp_path):
    """Its lock may not be seen from here."""
    other = tmp_path / f".aecli-{'0' * 12}-{'1' * 16}.tmp"
    other.write_bytes(b"half")
    remove_abandoned(tmp_path)
    assert other.exists()
    yesterday = time.time() - 25 * 3600
    os.utime(other, (yesterday, yesterday))
    remove_abandoned(tmp_path)
    assert not other.exists()


def test_a_locked_file_stays_however_old_and_of_whatever_machine(tmp_path):
    with atomic_write(tmp_path / "result.bin", overwrite=False):
        (name,) = temporary_files(tmp_path)
        other = (tmp_path / name).rename(tmp_path / f".aecli-{'0' * 12}-{'1' * 16}.tmp")
        os.utime(other, (0, 0))
        remove_abandoned(tmp_path)
        assert other.exists()
        other.rename(tmp_path / name)
    assert contents(tmp_path) == {"result.bin": b""}


def test_files_that_are_not_ours_and_links_stay(tmp_path):
    for name in (".aecli-notes.tmp", ".aecli-0-1.tmp", f"aecli-0-{'1' * 16}.tmp"):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / f".aecli-{'0' * 12}-{'2' * 16}.tmp").symlink_to(".aecli-notes.tmp")
    before = contents(tmp_path)
    remove_abandoned(tmp_path)
    assert contents(tmp_path) == before


def test_a_file_taken_for_abandoned_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    """Another run may clear the folder between our opening of the file and our locking of it."""
    lock, cleared = batch._lock, []

    def clear_first(descriptor):
        monkeypatch.setattr(batch, "_lock", lock)
        cleared.extend(temporary_files(tmp_path))
        remove_abandoned(tmp_path)
        return lock(descriptor)

    monkeypatch.setattr(batch, "_lock", clear_first)
    with atomic_write(tmp_path / "result.bin", overwrite=False) as stream:
        stream.write(b"whole")
        assert len(cleared) == 1 and temporary_files(tmp_path) != cleared
    assert contents(tmp_path) == {"result.bin": b"whole"}


def test_where_files_cannot_be_locked_results_are_written_and_nothing_is_removed(tmp_path, monkeypatch):
    import fcntl

    def unsupported(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with atomic_write(tmp_path / "result.bin", overwrite=False) as stream:
        stream.write(b"whole")
        (name,) = temporary_files(tmp_path)
        remove_abandoned(tmp_path)
        assert temporary_files(tmp_path) == [name]
    assert contents(tmp_path) == {"result.bin": b"whole"}


def test_without_hard_links_a_kill_leaves_no_empty_file_in_the_result_s_place(server, tmp_path):
    """Its name used to be reserved by an empty file, which --skip-existing would have taken for a result."""
    code = f"""
import os; from pathlib import Path; from aecli.batch import atomic_write
def refuse(*_): raise PermissionError(1, "no links here")
def die(*_): os.kill(os.getpid(), 9)
Path.hardlink_to, Path.rename, Path.replace = refuse, die, die
with atomic_write(Path({str(tmp_path / "result.bin")!r}), overwrite=False) as stream:
    stream.write(b"whole")"""
    assert server.run_code(code).wait() == -signal.SIGKILL
    remove_abandoned(tmp_path)
    assert contents(tmp_path) == {}


# ------------------------------------------------------------------------------------------------------ no room to write


def test_results_beyond_the_limit_on_file_size_fail_and_come_later(world, commands, server, undisturbed, out):
    sizes = sorted(len(data) for data in undisturbed["denoise"].values())
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, 2 * ({sizes[PICTURES // 2]},))"
    # The reports count as files too, and here they are longer than results: they go to a pipe that nobody limits.
    quiet = "os.dup2(os.pipe()[1], 1)"
    run = server.start(*commands["denoise"], world / "in", "-o", out, first=f"{limit}; {quiet}")
    assert run.wait() == 1
    done = contents(out)
    assert 0 < len(done) < PICTURES and done.items() <= undisturbed["denoise"].items()
    assert run.told("as files may not become that large here") == PICTURES - len(done), run.errors
    again = server.start(*commands["denoise"], world / "in", "-o", out, "--skip-existing")
    assert again.wait() == 0
    assert contents(out) == undisturbed["denoise"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_standard_output_on_a_full_disk_is_a_sentence(world, commands, server):
    full = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
    arguments = [*map(str, commands["denoise"]), str(world / "in" / "00.png"), "-o", "-", "--threads", "1"]
    run = server.run_code(f"{full}; app({arguments!r})")
    assert run.wait() == 1
    assert "could not go to standard output (No space left on device)" in run.errors


@pytest.fixture(scope="module")
def mounting_server(world, warm_up):
    """A warm process which may mount file systems that only it and its children see."""
    try:
        server = Server(world / "logs", warm_up, prefix=["unshare", "--user", "--map-root-user", "--mount"])
    except OSError as error:
        pytest.skip(f"no file systems may be mounted here: {error}")
    server.logs, server.started = world / "logs", 1000
    yield server
    server.close()


def mount(server, options, folder):
    """Mounts a file system in memory, and returns the folder as seen from outside."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    run = server.run_code(f"import subprocess; subprocess.run({command!r}, check=True)")
    if run.wait() != 0:
        pytest.skip(f"no file systems may be mounted here: {run.errors}")
    return Path(f"/proc/{server.process.pid}/root{folder}")


def unmount(server, folder):
    assert server.run_code(f"import subprocess; subprocess.run(['umount', {str(folder)!r}], check=True)").wait() == 0


def test_a_disk_that_fills_up_keeps_whole_results_and_the_rest_come_when_there_is_room(
    world, commands, mounting_server, undisturbed, out
):
    disk = mount(mounting_server, "size=64k", out)
    try:
        run = mounting_server.start(*commands["denoise"], world / "in", "-o", out)
        assert run.wait() == 1
        done = contents(disk)
        assert 0 < len(done) < PICTURES and done.items() <= undisturbed["denoise"].items()
        assert run.told("as the disk is full: make room and run again") == PICTURES - len(done), run.errors
        mount(mounting_server, "remount,size=1m", out)
        again = mounting_server.start(*commands["denoise"], world / "in", "-o", out, "--skip-existing")
        assert again.wait() == 0, again.errors
        assert (again.count("skipped"), contents(disk)) == (len(done), undisturbed["denoise"])
    finally:
        unmount(mounting_server, out)


def test_a_read_only_file_system_is_a_sentence_a_file(world, commands, mounting_server, out):
    disk = mount(mounting_server, "ro", out)
    try:
        run = mounting_server.start(*commands["denoise"], world / "in", "-o", out)
        assert (run.wait(), run.count("failed")) == (1, PICTURES)
        assert run.told("as its folder is not writable: pass another --output") == PICTURES
        assert contents(disk) == {}
    finally:
        unmount(mounting_server, out)


# ----------------------------------------------------------------------------------------------------------- permissions

# Root may do everything, so its runs become those of nobody.
UNPRIVILEGED = "os.geteuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))"


def test_a_folder_that_may_not_be_written_to_is_a_sentence_a_file(world, commands, server, out):
    out.mkdir()
    out.chmod(0o555)
    run = server.start(*commands["encode"], world / "in", "-o", out, first=UNPRIVILEGED)
    assert (run.wait(), run.count("failed")) == (1, PICTURES), run.errors
    assert run.told("as its folder is not writable: pass another --output") == PICTURES
    assert contents(out) == {}


def test_an_input_that_may_not_be_read_fails_alone(world, commands, server, undisturbed, out):
    out.mkdir()
    out.chmod(0o777)
    forbidden = world / "in" / "05.png"
    forbidden.chmod(0)
    try:
        run = server.start(*commands["denoise"], world / "in", "-o", out, first=UNPRIVILEGED)
        assert run.wait() == 1
    finally:
        forbidden.chmod(0o644)
    (failed,) = [outcome for outcome in run.outcomes if outcome["status"] == "failed"]
    assert failed["message"] == f"{forbidden} may not be read: check its permissions"
    assert contents(out) == {name: data for name, data in undisturbed["denoise"].items() if name != "05.png"}
    again = server.start(*commands["denoise"], world / "in", "-o", out, "--skip-existing")
    assert (again.wait(), again.count("done"), contents(out)) == (0, 1, undisturbed["denoise"])


# ---------------------------------------------------------------------------------------------- inputs that do not stay


def test_an_input_that_vanishes_after_planning_fails_alone(world, commands, server, undisturbed, out, held):
    gone = world / "gone.png"
    shutil.copy(world / "in" / "01.png", gone)
    run = server.start(*commands["denoise"], held, gone, world / "in" / "02.png", "-o", out)
    with reader_of(held) as pipe:
        gone.unlink()
        pipe.write((world / "in" / "00.png").read_bytes())
    assert run.wait() == 1
    assert {Path(outcome["input"]).name: outcome["status"] for outcome in run.outcomes} == {
        "held.png": "done",
        "gone.png": "failed",
        "02.png": "done",
    }
    assert f"{gone} does not exist: check the name" in run.errors
    expected = undisturbed["denoise"]
    assert contents(out) == {"held.png": expected["00.png"], "02.png": expected["02.png"]}


def test_an_input_that_is_replaced_after_planning_gives_one_of_the_two_pictures_whole(
    world, commands, server, undisturbed, out, held
):
    changed = world / "changed.png"
    shutil.copy(world / "in" / "01.png", changed)
    run = server.start(*commands["denoise"], held, changed, "-o", out)
    with reader_of(held) as pipe:
        changed.write_bytes((world / "in" / "02.png").read_bytes())
        pipe.write((world / "in" / "00.png").read_bytes())
    assert run.wait() == 0, run.errors
    changed.unlink()
    expected = undisturbed["denoise"]
    assert contents(out)["changed.png"] in {expected["01.png"], expected["02.png"]}


def job_of(path):
    return Job(path, None, str(path))


@pytest.mark.parametrize("new", [b"P6 4 4 255 " + b"n" * 48, b"P6 9 9 255 " + b"n" * 243, b"P6 4 2"])
def test_an_input_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, new):
    """In a format without checksums half of one picture and half of another would pass for a whole one."""
    path = tmp_path / "picture.ppm"
    path.write_bytes(b"P6 4 4 255 " + b"o" * 48)
    os.utime(path, (0, 0))
    fstat, calls = os.fstat, []

    def fstat_and_a_writer(descriptor):
        status = fstat(descriptor)
        if not calls:
            calls.append(path.write_bytes(new))  # comes between the first look at the file and the reading of it
        return status

    monkeypatch.setattr(batch.os, "fstat", fstat_and_a_writer)
    with pytest.raises(AecliError, match=r"was changed while it was read: run again when its writer is done$"):
        read_bytes(job_of(path), sys.stdin.buffer)
    assert read_bytes(job_of(path), sys.stdin.buffer) == new


# ------------------------------------------------------------------------------------------- two runs into one folder


@pytest.mark.parametrize("options", [[], ["--skip-existing"], ["--overwrite"]])
@pytest.mark.parametrize("delay", [0.0, 0.06])
def test_two_runs_into_one_folder_make_each_result_once_and_whole(world, commands, server, undisturbed, out, options, delay):
    command, expected = [*commands["denoise"], world / "in", "-o", out, *options], undisturbed["denoise"]
    runs = [server.start(*command)]
    time.sleep(delay)
    runs.append(server.start(*command))
    half = set()

    def all_reported():
        half.update(name for name, data in expected.items() if (out / name).exists() and (out / name).read_bytes() != data)
        return sum(len(run.outcomes) for run in runs) == 2 * PICTURES

    until(all_reported, "both runs")
    statuses = [run.wait() for run in runs]
    assert half == set()
    assert contents(out) == expected
    if options == ["--overwrite"]:
        assert statuses == [0, 0]
        return
    assert sum(run.count("done") for run in runs) == PICTURES
    refusals = [line for run in runs for line in run.errors.splitlines() if line.startswith("aecli:")]
    assert all(re.search(r"exists: pass --overwrite or another --output$", line) for line in refusals)
    assert len(refusals) == sum(run.count("failed") for run in runs)
