"""Files at URLs: read, written and walked as local ones are, never seen in part, and no secret in a URL is ever told."""

import io
import json
import pickle
import re
from pathlib import Path

import fsspec  # noqa: TID253
import pytest
from fsspec.implementations.local import LocalFileSystem  # noqa: TID253
from fsspec.implementations.memory import MemoryFileSystem  # noqa: TID253
from fsspec.registry import _registry, known_implementations  # noqa: TID253
from test_batch import denoised, find, in_an_empty_folder, make, plan, targets
from test_cli import aecli, assert_one_sentence, opened, photo
from test_pipeline import COPY, do, writing

from aecli import storage
from aecli.batch import Job, atomic_write, check_target, plan_outputs, read_bytes
from aecli.errors import AecliError, UsageError
from aecli.storage import Remote, local_name, place, refuse_url

__all__ = ["aecli", "in_an_empty_folder", "photo"]  # fixtures


@pytest.fixture(autouse=True)
def memory():
    """memory://, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def driver(monkeypatch):
    """Installs a driver for its protocol."""

    def install(cls):
        monkeypatch.setitem(_registry, cls.protocol, cls)
        return cls

    return install


def upload(memory, *names):
    for name in names:
        memory.pipe_file(name, f"content of {name}".encode())


def stored(memory):
    return sorted(memory.store)


def read(item):
    return read_bytes(Job(item.path, None, str(item.path)), io.BytesIO())


# -------------------------------------------------------------------------------------------------------- which is a URL


@pytest.mark.parametrize("name", ["a.png", "./s3://a.png", "C://a.png", "2026-01-31T10:00.png", "a::b.png", "-", "http:a.png"])
def test_what_is_no_url_is_a_path(name):
    assert place(name) == Path(name)


def test_a_file_url_is_the_local_path():
    assert place("file:///scans/a%20b%25%C3%BC.png") == Path("/scans/a b%ü.png")
    assert place("file:///scans/50%.png") == Path("/scans/50%.png")
    assert place("FILE://localhost/scans/a.png") == Path("/scans/a.png")
    with pytest.raises(UsageError, match=r"^file://scans/a\.png names a machine and no folder of this one: write file:///folder"):
        place("file://scans/a.png")
    with pytest.raises(UsageError, match=r"^file://…@host/a\.png names a machine"):
        place("file://user:secret@host/a.png")


def test_a_remote_has_the_parts_of_a_path():
    remote = place("S3://bucket/scans/a.b.png")
    assert isinstance(remote, Remote)
    assert (str(remote), remote.name, remote.suffix) == ("s3://bucket/scans/a.b.png", "a.b.png", ".png")
    assert str(remote.with_name("c.npz")) == "s3://bucket/scans/c.npz"
    assert str(place("memory://a.png").with_name("c.npz")) == "memory://c.npz"
    for folder in ("s3://bucket/out", "s3://bucket/out/"):
        assert str(place(folder) / Path("x/y") / "c.npz") == "s3://bucket/out/x/y/c.npz"
        assert str(place(folder) / Path() / "c.npz") == "s3://bucket/out/c.npz"
    assert str(place("memory://") / "a.png") == "memory://a.png"
    assert place("https://host/scans/a.png?name=b.jpg#c/d").name == "a.png"


def test_jobs_can_be_sent_to_other_processes():
    job = Job(place("s3://bucket/a.png"), place("memory://a.npz"), "s3://bucket/a.png")
    assert pickle.loads(pickle.dumps(job)) == job


@pytest.mark.parametrize("url", ["zip://a.png::s3://bucket/b.zip", "simplecache::s3://b/a.png", "tar://a.png", "s3://a::file://b"])
def test_urls_within_urls_are_refused(url):
    with pytest.raises(UsageError, match=r"leads through one URL to another, which is not followed: unpack or copy it$"):
        place(url)


def test_where_only_local_paths_will_do_a_url_is_refused_and_not_repeated():
    for url in ("s3://key:secret@bucket/a", Path("s3://key:secret@bucket/a"), "zip::s3://key:secret@bucket/a"):
        with pytest.raises(UsageError, match=r"^--data takes local paths only, and (s3|zip)://… is a URL: copy") as caught:
            refuse_url(url, "--data")
        assert "secret" not in str(caught.value)
    for path in ("a.png", "/scans", "./s3:/x", Path("C:/scans"), "a:b.png", "a::b/c.png"):
        refuse_url(path, "--data")


# ---------------------------------------------------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://user:pw@host/a.png", "https://…@host/a.png"),
        ("https://pw@host:8080/a.png", "https://…@host:8080/a.png"),
        ("https://host/a.png?X-Amz-Signature=pw", "https://host/a.png?…"),
        ("https://u:p?pw@host/a.png", "https://…@?…"),
        ("https://host:8080/photo@2x.png", "https://host:8080/photo@2x.png"),
        ("sftp://user:p/w@host/a.png", "sftp://…@host/a.png"),
        ("sftp://user:p@pw@host/a.png", "sftp://…@host/a.png"),
        ("s3://bucket/photo@2x.png", "s3://bucket/photo@2x.png"),
        ("s3://arn:aws:s3:us-west-2:12:accesspoint/a/2@x.png", "s3://arn:aws:s3:us-west-2:12:accesspoint/a/2@x.png"),
        ("abfs://container@account.host/a.png", "abfs://container@account.host/a.png"),
        ("abfs://user:pw@account.host/a.png", "abfs://…@account.host/a.png"),
    ],
)
def test_what_may_be_secret_in_a_url_is_left_out(url, told):
    remote = place(url)
    assert str(remote) == told
    assert repr(Job(remote, remote, str(remote))).count(told) == 3


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/a.png", "s3://key:sec/ret@bucket/a.png", "gs://secret@bucket/a.png"])
def test_credentials_where_a_driver_would_take_them_for_a_bucket_are_refused(url):
    with pytest.raises(UsageError, match=r"://…@bucket/a\.png has credentials in it: leave them out") as caught:
        place(url)
    assert "ret" not in str(caught.value).replace("secret's", "")


def broken(error):
    """broken://, of which everything raises the error."""

    def fail(self, *_, **options):
        raise error

    asked = dict.fromkeys(("cat_file", "info", "ls", "pipe_file"), fail)
    return type("Broken", (MemoryFileSystem,), {"protocol": "broken", **asked})


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FileNotFoundError("x"), "broken://a/b.png does not exist: check the name"),
        (IsADirectoryError("x"), "broken://a/b.png is a folder: name the files in it"),
        (
            PermissionError("x"),
            "broken://a/b.png could not be read, as access is denied: check your credentials, and what they allow",
        ),
        (
            OSError("no\nway to https://host/?token=pw now"),
            "broken://a/b.png could not be read (no way to … now): check the URL, the credentials and the network",
        ),
        (
            type("EndpointError", (Exception,), {})(),
            "broken://a/b.png could not be read (EndpointError): check the URL, the credentials and the network",
        ),
        (
            type("ResponseError", (Exception,), {"status": 403})("x"),
            "broken://a/b.png could not be read, as access is denied: check your credentials, and what they allow",
        ),
    ],
)
def test_whatever_a_driver_raises_becomes_a_sentence(driver, error, sentence):
    driver(broken(error))
    with pytest.raises(AecliError) as caught:
        place("broken://a/b.png").read_bytes()
    assert str(caught.value) == sentence
    assert caught.value.__cause__ is error


def test_writing_fails_with_a_sentence_too(driver):
    driver(broken(FileNotFoundError("x")))
    with pytest.raises(AecliError, match=r"^broken://a/b\.png could not be written, as its bucket or folder does not exist: "):
        place("broken://a/b.png").write_bytes(b"x", overwrite=True)
    driver(broken(NotImplementedError()))
    with pytest.raises(AecliError, match=r"^broken://a/b\.png could not be written, as the driver of broken:// cannot do that"):
        place("broken://a/b.png").write_bytes(b"x", overwrite=True)


def test_no_secret_is_told_by_what_a_driver_raises(driver):
    driver(broken(OSError("cannot log in as user with secret")))
    with pytest.raises(AecliError, match=r"^broken://…@host/a\.png could not be read \(OSError\): ") as caught:
        place("broken://user:secret@host/a.png").read_bytes()
    assert caught.value.__cause__ is None and caught.value.__suppress_context__  # so that no traceback shows it


def test_a_name_that_the_driver_would_read_otherwise_is_refused(driver):
    class Browserlike(MemoryFileSystem):
        protocol = "browserlike"

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.removeprefix("browserlike://").partition("?")[0])

    driver(Browserlike)
    for do_it in (Remote.read_bytes, lambda remote: remote.write_bytes(b"x", overwrite=True)):
        with pytest.raises(AecliError, match=r"^browserlike://a\?b\.png has characters in its name that browserlike:// takes for"):
            do_it(place("browserlike://a?b.png"))


def test_memory_running_out_is_not_the_network_s_fault(driver):
    driver(broken(MemoryError()))
    with pytest.raises(MemoryError):
        place("broken://a/b.png").read_bytes()


def test_a_driver_that_is_not_installed_is_named_before_any_work(monkeypatch):
    known = {"class": "no_such_module_s3fs.S3FileSystem", "err": "Install it"}
    monkeypatch.setitem(known_implementations, "nos3", known)
    with pytest.raises(UsageError, match=r"^nos3://bucket/a\.png needs no_such_module_s3fs: pip install no_such_module_s3fs$"):
        find("nos3://bucket/a.png")
    with pytest.raises(UsageError, match=r"^nos3://out/a.denoised\.png needs no_such_module_s3fs"):
        plan("a.png", output="nos3://out/")
    with pytest.raises(UsageError, match=r"^s9://bucket/a\.png is of no kind that fsspec has a driver for: check what stands "):
        find("s9://bucket/a.png")


# --------------------------------------------------------------------------------------------------------------- walking


def test_a_folder_gives_the_files_in_it_sorted_and_its_tree_only_when_asked(memory):
    upload(memory, "in/b.png", "in/A.JPG", "in/notes.txt", "in/.hidden.png", "in/sub/c.png", "in/.git/d.png", "inside/e.png")
    assert [str(item.path) for item in find("memory://in")] == ["memory://in/A.JPG", "memory://in/b.png"]
    deep = find("memory://in/", recursive=True)
    assert [item.relative for item in deep] == [Path("A.JPG"), Path("b.png"), Path("sub/c.png")]
    assert all(item.walked for item in deep)
    assert [read(item) for item in deep] == [b"content of in/A.JPG", b"content of in/b.png", b"content of in/sub/c.png"]


def test_urls_and_paths_are_mixed_and_come_from_lists(memory):
    upload(memory, "in/a.png", "in/b.png", "list.txt")
    make("c.png")
    memory.pipe_file("list.txt", b"c.png\nmemory://in/a.png\n")
    for list_of_them in ("memory://list.txt", "-"):
        found = find("memory://in", files_from=list_of_them, stdin=b"c.png\nmemory://in/a.png")
        assert [str(item.path) for item in found] == ["memory://in/a.png", "memory://in/b.png", "c.png"]
    with pytest.raises(UsageError, match=r"^the list memory://gone\.txt does not exist"):
        find(files_from="memory://gone.txt")


def test_a_missing_file_stays_in_the_list_and_fails_later():
    (item,) = find("memory://gone.png")
    with pytest.raises(AecliError, match=r"^memory://gone\.png does not exist: check the name$"):
        read(item)


def test_an_empty_folder_is_wrong_usage(memory):
    memory.mkdir("/empty")
    with pytest.raises(UsageError, match=r"^no file of a known kind in memory://empty: pass --recursive"):
        find("memory://empty")


def test_a_folder_that_cannot_be_listed_is_reported_as_an_input(memory, driver):
    class Private(MemoryFileSystem):
        protocol = "private"

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.removeprefix("private://"))

        def ls(self, path, **options):
            if path.endswith("secret"):
                raise PermissionError(path)
            return super().ls(path, **options)

    driver(Private)
    upload(memory, "in/a.png", "in/x/secret/b.png")
    assert [item.relative for item in find("private://in", recursive=True)] == [Path("a.png"), Path("x/secret")]


def test_a_url_that_ends_as_a_picture_does_is_taken_for_a_file_without_asking(driver):
    driver(broken(AssertionError("asked")))
    assert [item.relative for item in find("broken://in/a.png", "broken://in/b.jpg")] == [Path("a.png"), Path("b.jpg")]


def test_names_of_others_lead_nowhere(memory):
    upload(memory, "in/../evil.png", "in/./odd.png", "in/ok/../../evil.png", "in//etc/evil.png", "in/a.png", "in/x\0y.png")
    assert targets(plan("memory://in", recursive=True, output="out")) == ["out/a.denoised.png", "out/x_y.denoised.png"]
    assert targets(plan("memory://gone/..", "memory://in/a.png", output="out")) == ["out/_...denoised", "out/a.denoised.png"]


def test_a_name_becomes_one_component_of_a_path(monkeypatch):
    names = ["a.png", "..", ".", "", "../x.png", "/etc/passwd", "10:30.png"]
    assert [local_name(name) for name in names] == ["a.png", "_..", "_.", "_", ".._x.png", "_etc_passwd", "10:30.png"]
    monkeypatch.setattr(storage, "_UNSAFE", re.compile(r'[<>:"/\\|?*\0-\x1f]'))  # as on Windows
    assert [local_name(name) for name in ("..\\x.png", "C:x.png")] == [".._x.png", "C_x.png"]


# -------------------------------------------------------------------------------------------------------------- planning


def test_results_stand_beside_their_sources_by_default_and_the_tree_is_kept(memory):
    upload(memory, "in/x/a.png", "in/y/a.png")
    make("local/x/a.png")
    assert list(map(str, (job.target for job in plan("memory://in/x/a.png")))) == ["memory://in/x/a.denoised.png"]
    jobs = plan("memory://in", recursive=True, output="memory://out")
    assert [str(job.target) for job in jobs] == ["memory://out/x/a.denoised.png", "memory://out/y/a.denoised.png"]
    assert targets(plan("memory://in", recursive=True, output="out")) == ["out/x/a.denoised.png", "out/y/a.denoised.png"]
    assert [str(job.target) for job in plan("local", recursive=True, output="memory://out")] == ["memory://out/x/a.denoised.png"]
    assert [str(job.target) for job in plan("local/x/a.png", output="memory://out.png")] == ["memory://out.png"]
    assert [str(job.target) for job in plan("-", output="memory://out/")] == ["memory://out/stdin.denoised"]


def test_collisions_are_refused_before_any_work_however_a_url_is_written(memory):
    upload(memory, "x/a.png", "y/a.png")
    with pytest.raises(UsageError, match=r"^memory://x/a\.png and memory:///y/a\.png would both be written to memory://out/"):
        plan("memory://x/a.png", "memory:///y/a.png", output="memory://out")
    with pytest.raises(UsageError, match=r"^the result of memory://x/a\.png would replace the input memory:///x/a\.png"):
        plan("memory://x/a.png", output="memory:///x", rename=lambda path: path.name)
    assert len(find("memory://x/a.png", "memory:///x/a.png", "memory://x")) == 1
    with pytest.raises(UsageError, match=r"^memory://x/a\.png is a file, but the results need a folder"):
        plan("memory://x", output="memory://x/a.png")


def test_results_of_an_earlier_run_in_a_walked_folder_are_left_out(memory):
    upload(memory, "in/a.png", "in/a.denoised.png")
    assert [job.name for job in plan("memory://in")] == ["memory://in/a.png"]


def test_nothing_is_written_to_the_web(driver):
    class Web(MemoryFileSystem):
        protocol = "https"

    driver(Web)
    for jobs in (lambda: plan("https://host/a.png?sig=secret"), lambda: plan("a.png", output="https://host/")):
        with pytest.raises(UsageError, match=r"^https://host/[^?]* is an address on the web, .*: pass another --output$"):
            jobs()
    assert targets(plan("https://host/a.png?sig=secret", output="out/")) == ["out/a.denoised.png"]


# --------------------------------------------------------------------------------------------------------------- writing


def test_a_result_appears_when_it_is_whole(memory):
    target = place("memory://out/a.bin")
    with atomic_write(target, overwrite=False) as stream:
        stream.write(b"all ")
        stream.seek(0)
        assert stream.read() == b"all "
        stream.write(b"of it")
        assert stored(memory) == []
    assert target.read_bytes() == b"all of it"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_a_result_that_failed(memory, error):
    with pytest.raises(error), atomic_write(place("memory://a.bin"), overwrite=False) as stream:
        stream.write(b"half")
        raise error
    assert stored(memory) == []


def test_an_existing_object_is_replaced_only_when_asked(memory):
    memory.pipe_file("a.bin", b"precious")
    target = place("memory://a.bin")
    with pytest.raises(AecliError, match=r"^memory://a\.bin exists: pass --overwrite or another --output$"):
        check_target(target, overwrite=False)
    with pytest.raises(AecliError, match=r"^memory://a\.bin exists"), atomic_write(target, overwrite=False) as stream:
        stream.write(b"new")
    assert target.read_bytes() == b"precious"
    with atomic_write(target, overwrite=True) as stream:
        stream.write(b"new")
    assert target.read_bytes() == b"new"


def test_a_folder_is_no_place_for_a_result(memory):
    upload(memory, "out/a.png")
    with pytest.raises(AecliError, match=r"^memory://out is a folder: pass the name of a file$"):
        check_target(place("memory://out"), overwrite=True)


def recording(calls, **methods):
    """memory:// that tells how it was asked to write."""

    def pipe_file(self, path, value, mode="overwrite"):
        calls.append(mode)
        return MemoryFileSystem.pipe_file(self, path, value, mode)

    return type("Recording", (MemoryFileSystem,), {"protocol": "recording", "pipe_file": pipe_file, **methods})


def test_the_driver_makes_sure_that_nothing_is_replaced_where_it_can(driver):
    calls = []
    driver(recording(calls))
    place("recording://a").write_bytes(b"x", overwrite=False)
    with pytest.raises(FileExistsError):
        place("recording://a").write_bytes(b"x", overwrite=False)
    place("recording://a").write_bytes(b"x", overwrite=True)
    assert calls == ["create", "create", "overwrite"]


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(38, "A header implies functionality that is not implemented")])
def test_elsewhere_it_is_looked_for_right_before(driver, error):
    def only_plainly(self, path, value, mode="overwrite"):
        if mode == "create":
            raise error
        return MemoryFileSystem.pipe_file(self, path, value)

    def unaware(self, path, value):
        return MemoryFileSystem.pipe_file(self, path, value)

    for put in (only_plainly, unaware):
        driver(recording([], pipe_file=put))
        target = place(f"recording://{put.__name__}")
        target.write_bytes(b"x", overwrite=False)
        with pytest.raises(FileExistsError):
            target.write_bytes(b"new", overwrite=False)
        assert target.read_bytes() == b"x"


@pytest.fixture
def server(driver, tmp_path):
    """server://, which shows what is half written, as sftp:// does; server(name) is a URL of it."""

    @driver
    class Server(LocalFileSystem):
        protocol = "server"
        breaks = False

        @classmethod
        def _strip_protocol(cls, path):
            return path.removeprefix("server://")

        def open(self, path, mode="rb", **_):
            if mode == "wb" and self.breaks:
                Path(path).write_bytes(b"half of")
                raise ConnectionError("the line is dead")
            return Path(path).open(mode)

    def url(name):
        return place(f"server://{tmp_path}/served/{name}")

    url.driver = Server
    return url


def test_where_half_a_file_would_be_seen_it_is_renamed_when_whole(server):
    target = server("sub/a.bin")
    target.write_bytes(b"whole", overwrite=False)
    assert target.read_bytes() == b"whole"
    with pytest.raises(FileExistsError):
        target.write_bytes(b"other", overwrite=False)
    assert target.read_bytes() == b"whole"
    target.write_bytes(b"other", overwrite=True)
    assert target.read_bytes() == b"other"

    server.driver.breaks = True
    with pytest.raises(AecliError, match=r"a\.bin could not be written \(the line is dead\): check"):
        target.write_bytes(b"newest", overwrite=True)
    with pytest.raises(AecliError, match=r"the line is dead"):
        server("b.bin").write_bytes(b"newest", overwrite=False)
    assert [path.as_posix() for path in Path("served").rglob("*")] == ["served/sub", "served/sub/a.bin"]
    assert target.read_bytes() == b"other"


# --------------------------------------------------------------------------------------------------------- many at a time


def test_a_batch_goes_on_and_can_be_resumed(memory):
    upload(memory, "in/a.png", "in/b.png", "in/c.png", "out/b.denoised.png")
    memory.pipe_file("in/empty.png", b"")
    jobs = plan_outputs(find("memory://in", "memory://gone.png"), "memory://out", rename=denoised)
    outcomes = {outcome.job.source.name: outcome for outcome in do(jobs, COPY, skip_existing=True)}
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "a.png": "done",
        "b.png": "skipped",
        "c.png": "done",
        "empty.png": "failed",
        "gone.png": "failed",
    }
    assert outcomes["b.png"].message == "memory://out/b.denoised.png exists"
    assert outcomes["empty.png"].message == "memory://in/empty.png is empty (0 bytes): check where it came from"
    assert memory.cat_file("out/c.denoised.png") == b"content of in/c.png"


def test_an_object_that_appears_while_the_work_is_done_is_left(memory):
    upload(memory, "a.png")

    def while_another_writes(job, stream):
        stream.write(b"ours")
        memory.pipe_file("a.denoised.png", b"theirs")
        return {}

    (outcome,) = do(plan("memory://a.png"), writing(while_another_writes))
    assert (outcome.status, outcome.message) == ("failed", "memory://a.denoised.png exists: pass --overwrite or another --output")
    memory.rm("a.denoised.png")
    (outcome,) = do(plan("memory://a.png"), writing(while_another_writes), skip_existing=True)
    assert (outcome.status, outcome.message) == ("skipped", "memory://a.denoised.png exists")
    assert memory.cat_file("a.denoised.png") == b"theirs"


def test_a_place_that_cannot_be_looked_at_fails_its_job_alone(driver):
    driver(broken(PermissionError("x")))
    make("a.png", "b.png")
    outcomes = do(plan("a.png", output="broken://out/"), COPY, skip_existing=True) + do(plan("b.png"), COPY)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert outcomes[0].message.startswith("broken://out/a.denoised.png could not be looked at, as access is denied")


# ----------------------------------------------------------------------------------------------------------- the commands


def test_pictures_go_from_url_to_url_and_back(aecli, photo, memory, tmp_path):
    memory.pipe_file("scans/x/a.png", photo.read_bytes())
    memory.pipe_file("scans/b.png", photo.read_bytes())
    memory.pipe_file("scans/broken.png", b"no picture")

    result = aecli("encode memory://scans/ -r -o memory://small/ --json --weights {tiny-codec} --report page.html")
    assert result.exit_code == 1
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["input"], line["output"], line["status"]) for line in told] == [
        ("memory://scans/b.png", "memory://small/b.npz", "done"),
        ("memory://scans/broken.png", "memory://small/broken.npz", "failed"),
        ("memory://scans/x/a.png", "memory://small/x/a.npz", "done"),
    ]
    assert "memory://small/x/a.npz" in (tmp_path / "page.html").read_text()

    assert aecli("decode memory://small -r -o back --weights {tiny-codec}").exit_code == 0
    assert opened(tmp_path / "back" / "x" / "a.png").size == (64, 48)
    assert "memory://small/b.npz: 64×48 RGB" in aecli("decode memory://small/b.npz --info").stdout
    result = aecli("denoise photo.png memory://scans/b.png -o memory://clean --weights {tiny-denoiser}")
    assert result.exit_code == 0, result.stderr
    assert opened(io.BytesIO(memory.cat_file("clean/photo.png"))).size == (64, 48)
    assert aecli("encode memory://scans/b.png -o - --weights {tiny-codec}").stdout_bytes == memory.cat_file("small/b.npz")


def test_a_file_url_is_a_local_path_in_every_way(aecli, photo, tmp_path):
    (tmp_path / "my scans").mkdir()
    photo.rename(tmp_path / "my scans" / "photo.png")
    url = tmp_path.as_uri()
    assert aecli(f"encode {url}/my%20scans -o {url}/out/ --weights {{tiny-codec}}").exit_code == 0
    assert (tmp_path / "out" / "photo.npz").exists()
    result = aecli(f"encode {url}/my%20scans -o {url}/out/ --weights {{tiny-codec}}")
    assert_one_sentence(result, 1, f"{tmp_path}/out/photo.npz exists: pass --overwrite")


def test_no_command_tells_a_secret(aecli, photo, driver, tmp_path):
    class Web(MemoryFileSystem):
        protocol = "https"

        def cat_file(self, path, **_):
            if "gone" in path:
                raise FileNotFoundError(path)
            return photo.read_bytes()

    driver(Web)
    urls = "https://user:hunter2@host/a.png https://host/gone.png?signature=hunter2 https://user:hunter2@host/gone/b.png"
    result = aecli(f"encode {urls} -o out --json --verbose --report page.html --weights {{tiny-codec}}")
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["done", "failed", "failed"]
    for text in (result.stdout, result.stderr, (tmp_path / "page.html").read_text()):
        assert "hunter2" not in text
    assert json.loads(result.stdout.splitlines()[0])["input"] == "https://…@host/a.png"
    for line in (
        "encode s3://key:hunter2@bucket/a.png",
        "encode zip://a::s3://key:hunter2@b/c",
        "encode photo.png -o s3://a:hunter2@b/",
    ):
        assert_one_sentence(result := aecli(line), 2)
        assert "hunter2" not in result.stderr


def test_anomalies_reads_urls(aecli, memory):
    memory.pipe_file("in/broken.png", b"x")
    result = aecli("anomalies memory://in --weights mnist-conv --quiet")
    assert_one_sentence(result, 1, "memory://in/broken.png is not a picture that can be read")


@pytest.mark.parametrize(
    "line",
    [
        "train --arch dense --data s3://bucket/photos",
        "train --arch codec --data photos --valid s3://bucket/photos",
        "train --arch dense -o s3://bucket/w.safetensors",
        "project s3://bucket/photos",
        "project -o s3://bucket/map.png",
        "compare-pca --data s3://bucket/a.npy",
        "traverse --weights {tiny-dense} --data s3://bucket/a.npy",
        "anomalies photo.png -o s3://bucket/worst.png",
        "encode photo.png --report s3://bucket/page.html",
        "encode photo.png --weights s3://key:secret@bucket/w.safetensors",
        "denoise photo.png --reference s3://bucket/clean.png --weights {tiny-denoiser}",
    ],
)
def test_what_takes_local_paths_only_says_so(aecli, photo, tmp_path, line):
    assert_one_sentence(aecli(line), 2, "takes local paths only, and s3://… is a URL")
    assert not (tmp_path / "s3:").exists()


def test_watch_refuses_urls(aecli):
    assert_one_sentence(aecli("encode memory://in --watch"), 2, "name local folders alone")
