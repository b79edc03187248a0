"""Jobs are done side by side and in order; whatever happens to one of them, the others and all results stay whole."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_batch import all_files, denoised, find, in_an_empty_folder, make, plan

from aecli import pipeline
from aecli.batch import Input, plan_outputs, read_bytes
from aecli.errors import AecliError
from aecli.pipeline import Several, SkippedError, Work, run

__all__ = ["in_an_empty_folder"]  # a fixture that every test here uses by itself


def read(job):
    return read_bytes(job, io.BytesIO(b"from standard input"))


def put(job, data, stream):
    stream.write(data)
    return {"bytes": 7}


COPY = Work(read, lambda job, data: data, put)


def writing(work):
    """All of the work done where results are written: work(job, stream)."""
    return Work(lambda job: None, lambda job, _: None, lambda job, _, stream: work(job, stream))


def do(jobs, work, overwrite=False, skip_existing=False, stdout=None):
    outcomes = []
    run(jobs, work, outcomes.append, overwrite=overwrite, skip_existing=skip_existing, stdout=stdout or io.BytesIO())
    return outcomes


def test_a_job_that_is_done_tells_what_the_work_returned():
    make("a.png")
    (outcome,) = do(plan("a.png"), COPY)
    assert (outcome.status, outcome.info, outcome.error, outcome.message) == ("done", {"bytes": 7}, None, "")
    assert outcome.seconds > 0
    assert Path("a.denoised.png").read_text() == "content of a.png"


def test_one_bad_file_does_not_stop_the_others():
    make("a.png", "empty.png", "z.png")
    Path("empty.png").write_bytes(b"")
    Path("folder").mkdir()
    inputs = [*find("a.png", "missing.png", "empty.png"), Input(Path("folder"), Path("folder")), *find("z.png")]
    outcomes = do(plan_outputs(inputs, "out", rename=denoised), COPY)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "failed", "failed", "done"]
    assert [outcome.message.split(":")[0] for outcome in outcomes[1:4]] == [
        "missing.png does not exist",
        "empty.png is empty (0 bytes)",
        "folder is a folder",
    ]
    assert all_files() == ["a.png", "empty.png", "out/a.denoised.png", "out/z.denoised.png", "z.png"]


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AecliError("a.png is too odd: try b.png"), r"^a\.png is too odd: try b\.png$"),
        (OSError(errno.EIO, "Input/output error", "x.dat"), r"^a\.png failed \(Input/output error at x\.dat\): "),
        (OSError("no number"), r"^a\.png failed \(no number\): "),
        (MemoryError(), r"^a\.png needs more memory than there is: "),
        (OutOfMemoryError("CUDA"), r"^a\.png needs more memory than there is: "),
        (KeyError("x"), r"^a\.png failed: KeyError: 'x' \(this is a bug; --verbose shows where\)$"),
    ],
)
def test_each_kind_of_failure_has_its_sentence_and_keeps_its_exception(error, message):
    def fail(job, stream):
        stream.write(b"half a result")
        raise error

    make("a.png")
    (outcome,) = do(plan("a.png"), writing(fail))
    assert outcome.status == "failed"
    assert outcome.error is error
    assert re.search(message, outcome.message)
    assert all_files() == ["a.png"]


def forbidden(job):
    pytest.fail("no time may be spent on a result that will not be written")


NEVER = Work(forbidden, lambda job, _: None, put)


def test_results_that_exist_are_skipped_replaced_or_failures():
    make("a.png", "a.denoised.png")
    (skipped,) = do(plan("a.png"), NEVER, skip_existing=True)
    assert (skipped.status, skipped.message, skipped.error) == ("skipped", "a.denoised.png exists", None)
    (failed,) = do(plan("a.png"), NEVER)
    assert (failed.status, failed.message) == ("failed", "a.denoised.png exists: pass --overwrite or another --output")
    assert Path("a.denoised.png").read_text() == "content of a.denoised.png"
    (done,) = do(plan("a.png"), COPY, overwrite=True)
    assert done.status == "done"
    assert Path("a.denoised.png").read_text() == "content of a.png"


def test_where_a_result_goes_may_depend_on_what_was_read_and_is_settled_before_the_network_runs():
    make("a.bmp", "b.bmp", "c.bmp")

    def settle(job, data):
        if job.name == "b.bmp":
            raise AecliError("b.bmp does not fit")
        return replace(job, target=Path(f"{job.source.stem}.png"))

    def process(job, data):
        assert job.name != "b.bmp" and not Path(job.target).exists()
        return data

    work = Work(read, process, put, settle=settle)
    one, two, three = do(plan("a.bmp", "b.bmp", "c.bmp"), work)
    assert (one.status, one.job.target, two.status, two.message) == ("done", Path("a.png"), "failed", "b.bmp does not fit")
    assert three.status == "done" and all_files() == ["a.bmp", "a.png", "b.bmp", "c.bmp", "c.png"]
    (again,) = do(plan("a.bmp"), work, skip_existing=True)
    assert (again.status, again.message) == ("skipped", "a.png exists")
    (again,) = do(plan("a.bmp"), work)
    assert again.message == "a.png exists: pass --overwrite or another --output"


def test_work_may_leave_a_file_alone_and_so_may_the_plan():
    def leave(job, stream):
        stream.write(b"too much")
        raise SkippedError("it is small enough")

    make("a.png", "b.heic")
    (skipped,) = do(plan("a.png"), writing(leave))
    assert (skipped.status, skipped.message, skipped.error) == ("skipped", "it is small enough", None)
    (skipped,) = do([replace(job, skip="HEIC is not read") for job in plan("b.heic")], NEVER)
    assert (skipped.status, skipped.message) == ("skipped", "HEIC is not read")
    assert all_files() == ["a.png", "b.heic"]


def test_a_result_goes_into_a_pipe_or_a_device_which_stay_what_they_are():
    make("a.png")
    os.mkfifo("pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append(Path("pipe").read_bytes()))
    reader.start()
    for name in ("pipe", "/dev/null"):
        (outcome,) = do(plan("a.png", output=name), COPY, skip_existing=True)
        assert (outcome.status, outcome.job.target) == ("done", Path(name))
    reader.join()
    assert received == [b"content of a.png"] and Path("pipe").is_fifo()
    if Path("/dev/full").exists():
        (outcome,) = do(plan("a.png", output="/dev/full"), COPY)
        assert outcome.message.startswith("/dev/full could not be written, as the disk is full")


def test_a_broken_off_run_goes_on_where_it_stopped():
    make(*(f"in/{number}.png" for number in range(4)))

    def stop_at_the_third(job, data):
        if job.name == "in/2.png":
            raise KeyboardInterrupt
        return data

    with pytest.raises(KeyboardInterrupt):
        do(plan("in", output="out"), Work(read, stop_at_the_third, put))
    done = sorted(path.name for path in Path("out").iterdir())
    assert done in (["0.denoised.png"], ["0.denoised.png", "1.denoised.png"])  # the second may have waited to be written
    statuses = [outcome.status for outcome in do(plan("in", output="out"), COPY, skip_existing=True)]
    assert statuses == ["skipped"] * len(done) + ["done"] * (4 - len(done))


@pytest.mark.parametrize(("seconds", "alive"), [(0.3, False), (3, True)])
def test_the_end_waits_for_what_is_being_read_but_not_for_long(monkeypatch, seconds, alive):
    monkeypatch.setattr(pipeline, "GRACE", 1.0)
    make("a.png", "b.png")
    readers, begun = [], threading.Event()

    def slow(job):
        if job.name == "b.png":
            readers.append(threading.current_thread())
            begun.set()
            time.sleep(seconds)
        return read(job)

    def interrupted(job, data):
        begun.wait()
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        do(plan("a.png", "b.png"), Work(slow, interrupted, put))
    assert readers[0].is_alive() == alive
    assert time.monotonic() - start < 2.5


def test_standard_output_gets_all_or_nothing():
    make("a.png")
    stdout = io.BytesIO()
    do(plan("-"), COPY, stdout=stdout)
    assert stdout.getvalue() == b"from standard input"

    def fail(job, stream):
        stream.write(b"half")
        raise AecliError("no")

    stdout = io.BytesIO()
    assert do(plan("-"), writing(fail), stdout=stdout)[0].status == "failed"
    assert stdout.getvalue() == b""


def test_a_reader_that_has_gone_is_a_sentence():
    class Closed(io.BytesIO):
        def write(self, _):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    (outcome,) = do(plan("-"), COPY, stdout=Closed())
    assert outcome.message == ("the result of standard input could not go to standard output (Broken pipe): pass --output")


def test_work_can_read_and_seek_in_what_it_has_written():
    def work(job, stream):
        stream.write(b"0123")
        stream.seek(1)
        assert stream.read(1) == b"1"
        stream.seek(0)
        stream.write(b"x")
        return {}

    make("a.png")
    assert do(plan("a.png"), writing(work))[0].status == "done"
    assert Path("a.denoised.png").read_bytes() == b"x123"


def test_names_with_newlines_and_bytes_that_are_no_text_go_all_the_way():
    names = [b"new\nline.png", b"latin-\xe9.png"]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(name)
    jobs = plan(files_from="-", null_separated=True, stdin=b"\0".join(names), output="out/")
    assert [outcome.status for outcome in do(jobs, COPY)] == ["done", "done"]
    assert {path.read_bytes() for path in Path("out").iterdir()} == set(names)


def test_an_interrupt_passes_and_cleans_up():
    def interrupted(job, stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    make("a.png", "b.png")
    with pytest.raises(KeyboardInterrupt):
        do(plan("a.png", "b.png"), writing(interrupted))
    assert all_files() == ["a.png", "b.png"]


def test_ctrl_c_leaves_no_half_result_behind():
    script = """
import signal, sys, time
from pathlib import Path
from aecli.batch import Job
from aecli.pipeline import Several, Work, run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
def process(job, value):
    if job.name == "b.png":
        time.sleep(60)
def write(job, value, stream):
    stream.write(b"half"); stream.flush()
    print("started", flush=True)
    time.sleep(1)
    stream.write(b" and half")
    return {}
try:
    jobs = [Job(Path(name), Path(f"out/{name}.npz"), name) for name in ("a.png", "b.png")]
    run(jobs, Work(lambda job: None, process, write), print, overwrite=False, skip_existing=False, stdout=sys.stdout.buffer)
except KeyboardInterrupt:
    sys.exit(130)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"started\n"
        assert len(all_files()) == 1  # the temporary one
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    assert all_files() == ["out/a.png.npz"]
    assert Path("out/a.png.npz").read_bytes() == b"half and half"


def test_reading_the_network_and_writing_go_on_at_once():
    """Each part waits for the others to have begun on the files beside it."""
    make(*(f"in/{number}.png" for number in range(3)))
    began = {
        (part, name): threading.Event() for part in ("read", "process", "write") for name in ("in/0.png", "in/1.png", "in/2.png")
    }

    def meet(part, job, *others):
        began[part, job.name].set()
        if job.name == {"read": "in/2.png", "process": "in/1.png", "write": "in/0.png"}[part]:
            assert all(began[other].wait(timeout=10) for other in others)

    def slow_read(job):
        meet("read", job, ("process", "in/1.png"), ("write", "in/0.png"))

    def slow_process(job, _):
        meet("process", job, ("read", "in/2.png"), ("write", "in/0.png"))

    def slow_write(job, _, stream):
        meet("write", job, ("read", "in/2.png"), ("process", "in/1.png"))
        return {}

    outcomes = do(plan("in"), Work(slow_read, slow_process, slow_write))
    assert [outcome.status for outcome in outcomes] == ["done"] * 3


def test_no_more_pictures_are_held_than_one_ahead_one_at_work_and_one_behind():
    make(*(f"in/{number}.png" for number in range(30)))
    alive, most, lock = set(), [0], threading.Lock()

    def hold(job):
        with lock:
            alive.add(job.name)
            most[0] = max(most[0], len(alive))

    def release(job, _, stream):
        time.sleep(0.002)
        with lock:
            alive.remove(job.name)
        return {}

    do(plan("in"), Work(hold, lambda job, _: None, release))
    assert 2 <= most[0] <= 4  # a picture may be read while the writer lets the last one go


def test_a_result_that_another_process_has_written_meanwhile_is_skipped_like_any_other():
    make("a.png")

    def be_overtaken(job, data):
        job.target.write_text("the other's")
        return data

    (skipped,) = do(plan("a.png"), Work(read, be_overtaken, put), skip_existing=True)
    assert (skipped.status, skipped.message) == ("skipped", "a.denoised.png exists")
    assert Path("a.denoised.png").read_text() == "the other's"


def test_what_telling_raises_ends_the_run():
    make("a.png", "b.png", "c.png")

    def gone(outcome):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(plan("a.png", "b.png", "c.png"), COPY, gone, overwrite=False, skip_existing=False, stdout=io.BytesIO())
    assert Path("a.denoised.png").exists()


def test_a_source_that_never_comes_does_not_keep_an_interrupted_run_alive():
    make("a.png")
    os.mkfifo("never.png")

    def interrupt(job, data):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do(plan("a.png", "never.png"), Work(lambda job: job.source.read_bytes(), interrupt, put))


# ------------------------------------------------------------------------------------------------------------- together


def together(process, *, kind=lambda data: data[-1:], calls):
    """Work whose first job stands still until all are read, and which notes what goes through in one call."""
    read_all = threading.Event()

    def read_and_tell(job):
        data = read(job)
        if job.name == "last.png":
            read_all.set()
        return data

    def alone(job, data):
        if not calls:
            assert read_all.wait(30)
        calls.append([data])
        return process([data])[0]

    def several(given):
        calls.append(list(given))
        return process(given)

    return Work(read_and_tell, alone, put, Several(kind, several))


def test_small_pictures_of_a_kind_that_have_been_read_go_through_in_one_call_and_all_stay_in_order():
    contents = {"first": b"-", "a": b"1s", "b": b"2s", "c": b"3s", "d": b"4t", "e": b"5t", "f": b"6s", "last": b"-"}
    for name, data in contents.items():
        Path(f"{name}.png").write_bytes(data)
    calls = []
    work = together(lambda given: [data * 2 for data in given], calls=calls, kind=lambda data: data[1:] or None)
    outcomes = do(plan(*(f"{name}.png" for name in contents)), work)
    assert calls == [[b"-"], [b"1s", b"2s", b"3s"], [b"4t", b"5t"], [b"6s"], [b"-"]]
    assert [(Path(outcome.job.name).stem, outcome.status) for outcome in outcomes] == [(name, "done") for name in contents]
    assert {name: Path(f"{name}.denoised.png").read_bytes() for name in contents} == {n: 2 * d for n, d in contents.items()}


def test_one_that_spoils_the_call_fails_alone():
    for name, data in {"first": b"-x", "good": b"1s", "bad": b"?s", "fine": b"2s", "last": b"-y"}.items():
        Path(f"{name}.png").write_bytes(data)

    def process(given):
        if b"?s" in given:
            raise AecliError("one of them is odd")
        return given

    outcomes = do(plan("first.png", "good.png", "bad.png", "fine.png", "last.png"), together(process, calls=[]))
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed", "done", "done"]
    assert outcomes[2].message == "bad.png: one of them is odd"


def test_no_more_small_pictures_are_read_ahead_than_go_together():
    count = 3 * pipeline.TOGETHER
    for number in range(count):
        Path(f"{number:02}.png").write_bytes(b"s")
    started, ahead = [], []

    def process(given):
        time.sleep(0.02)  # time enough to read all that may be read
        ahead.append(len(started) - sum(len(part) for part in parts))
        parts.append(given)
        return given

    def read_and_count(job):
        started.append(job)
        return read(job)

    parts = []
    several = Several(lambda data: data, process)
    work = Work(read_and_count, lambda job, data: process([data])[0], put, several)
    outcomes = do(plan(*(f"{number:02}.png" for number in range(count))), work)
    assert [outcome.status for outcome in outcomes] == ["done"] * count
    assert sum(len(part) for part in parts) == count
    assert max(len(part) for part in parts) <= pipeline.TOGETHER
    assert max(ahead) <= 2 * pipeline.TOGETHER + pipeline.AHEAD  # those of the call, those that wait, and one being read
