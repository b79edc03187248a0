"""Which files a command takes, where results go, and that nothing is ever lost, half written or overwritten unasked."""

import errno
import io
import os
import stat
import threading
from pathlib import Path

import pytest

from aecli import batch
from aecli.batch import Input, Job, atomic_write, find_inputs, plan_outputs, read_bytes
from aecli.errors import AecliError, UsageError

not_as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do everything")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(f"content of {name}")


KINDS = frozenset({".png", ".jpg"})
MORE_KINDS = frozenset({".png", ".gif", ".pfm", ".bmp"})


def find(*arguments, recursive=False, files_from=None, null_separated=False, stdin=b"", unread=None, suffixes=KINDS):
    return find_inputs(
        arguments,
        recursive=recursive,
        files_from=files_from,
        null_separated=null_separated,
        suffixes=suffixes,
        stdin=io.BytesIO(stdin),
        unread=unread or {},
    )


def denoised(path):
    return f"{path.stem}.denoised{path.suffix}"


def denoised_png(path):
    return f"{path.stem}.denoised.png"


def plan(*arguments, output=None, rename=denoised, rename_instead=None, overwrite=False, besides=(), **options):
    found = find(*arguments, **options)
    return plan_outputs(found, output, rename=rename, rename_instead=rename_instead, overwrite=overwrite, besides=besides)


def targets(jobs):
    return [None if job.target is None else job.target.as_posix() for job in jobs]


def all_files():
    return sorted(path.as_posix() for path in Path().rglob("*") if path.is_file() or path.is_symlink())


# ------------------------------------------------------------------------------------------------------- finding inputs


def test_files_are_taken_in_the_order_given_whatever_their_suffix():
    make("b.png", "a.weird")
    assert find("b.png", "a.weird") == [Input(Path("b.png"), Path("b.png")), Input(Path("a.weird"), Path("a.weird"))]


def test_a_missing_file_stays_in_the_list_and_fails_later():
    assert find("gone/missing.png") == [Input(Path("gone/missing.png"), Path("missing.png"))]


def test_a_folder_gives_the_files_in_it_sorted_and_its_tree_only_when_asked():
    make("in/b.png", "in/A.JPG", "in/notes.txt", "in/.hidden.png", "in/sub/c.png", "in/.git/d.png")
    assert [item.relative.as_posix() for item in find("in")] == ["A.JPG", "b.png"]
    deep = find("in", recursive=True)
    assert [item.relative.as_posix() for item in deep] == ["A.JPG", "b.png", "sub/c.png"]
    assert [item.path for item in deep] == [Path("in/A.JPG"), Path("in/b.png"), Path("in/sub/c.png")]
    assert all(item.walked for item in deep)


def test_the_present_folder_can_be_walked():
    make("a.png", "sub/b.png")
    assert [str(item.path) for item in find(".", recursive=True)] == ["a.png", os.path.join("sub", "b.png")]  # noqa: PTH118


def test_links_to_files_are_taken_and_links_to_folders_are_not():
    make("elsewhere/a.png", "in/own.png")
    Path("in/link.png").symlink_to("../elsewhere/a.png")
    Path("in/broken.png").symlink_to("nowhere.png")  # taken, to be reported: the picture it stood for is missing
    Path("in/folder.png").symlink_to("../elsewhere")
    Path("in/loop").symlink_to(".")
    assert [item.relative.name for item in find("in", recursive=True)] == ["broken.png", "link.png", "own.png"]


def test_pipes_and_devices_in_a_folder_are_left_out():
    make("in/a.png")
    os.mkfifo("in/pipe.png")
    Path("in/null.png").symlink_to("/dev/null")
    assert [item.relative.name for item in find("in")] == ["a.png"]


def test_a_folder_that_cannot_be_listed_is_reported_as_an_input(monkeypatch):
    make("in/a.png", "in/private/b.png")
    scandir = os.scandir

    def scandir_with_permissions(path):
        if Path(path).name == "private":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_with_permissions)
    assert [item.relative.as_posix() for item in find("in", recursive=True)] == ["a.png", "private"]


@not_as_root
def test_a_folder_without_permissions_fails_with_its_name():
    make("in/a.png", "in/private/b.png")
    Path("in/private").chmod(0)
    try:
        readable, private = plan("in", recursive=True, output="out")
        assert read_bytes(readable, io.BytesIO()) == b"content of in/a.png"
        with pytest.raises(AecliError, match=f"^{Path('in/private')} may not be read: check its permissions"):
            read_bytes(private, io.BytesIO())
    finally:
        Path("in/private").chmod(0o700)


def test_names_come_from_a_list_or_from_standard_input():
    make("a.png", "b c.png")
    Path("list.txt").write_bytes(b"a.png\r\n\nb c.png\n")  # as Windows ends lines, with an empty one
    assert [str(item.path) for item in find(files_from="list.txt")] == ["a.png", "b c.png"]
    assert [str(item.path) for item in find(files_from="-", stdin=b"b c.png\na.png")] == ["b c.png", "a.png"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_from_windows_may_begin_with_a_byte_order_mark(encoding):
    Path("list.txt").write_bytes("ü.png\r\nb.png\r\n".encode(encoding))
    assert [str(item.path) for item in find(files_from="list.txt")] == ["ü.png", "b.png"]
    assert find(files_from="-", null_separated=True, stdin=b"\xef\xbb\xbf.png")[0].path.name == "\ufeff.png"


def test_files_of_a_kind_that_is_not_read_are_listed_with_the_reason_and_those_alone_are_nothing_to_read():
    make("in/a.png", "in/b.HEIC", "in/c.heic", "in/d.txt", "raw/x.heic", "raw/y.heic")
    unread = {".heic": "HEIC is not read"}
    found = find("in", unread=unread)
    assert [(item.relative.name, item.unread) for item in found] == [("a.png", "")] + [
        (n, unread[".heic"]) for n in ("b.HEIC", "c.heic")
    ]
    jobs = plan("in", unread=unread, output="out", rename=lambda path: f"{path.stem}.png")
    assert [job.skip for job in jobs] == ["", unread[".heic"], unread[".heic"]]
    with pytest.raises(
        UsageError, match=r"^there is nothing to read: raw.x\.heic is left out, and 1 more like it \(HEIC is not read\)$"
    ):
        find("raw", unread=unread)
    assert find("raw/x.heic", unread=unread)[0].unread == ""  # whoever names it learns what is wrong with it


def test_null_separated_names_may_hold_newlines_and_bytes_that_are_no_text():
    names = [b"new\nline.png", b"latin-\xe9.png", b"-"]
    found = find(files_from="-", null_separated=True, stdin=b"\0".join(names) + b"\0")
    assert [os.fsencode(item.path) for item in found] == names
    assert found[2].path == Path("-")  # in a list it is a file of that name


def test_a_null_separated_list_read_without_saying_so_is_told():
    with pytest.raises(UsageError, match="pass --null"):
        find(files_from="-", stdin=b"a.png\0b.png\0")


def test_the_same_file_is_taken_once_by_whatever_way_it_is_named():
    make("in/a.png", "in/b.png")
    Path("link").symlink_to("in")
    found = find("in/b.png", "in", "in/../in/a.png", "link/a.png", str(Path("in/a.png").absolute()))
    assert [item.path for item in found] == [Path("in/b.png"), Path("in/a.png")]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], {}, "^nothing to read: name files"),
        ([], {"files_from": "-"}, "^nothing to read in the list -: "),
        (["empty"], {}, "^no file of a known kind in empty: pass --recursive"),
        (["empty"], {"recursive": True}, "^no file of a known kind in empty: check the folder"),
        ([""], {}, "^one of the names is empty"),
        (["a.png"], {"files_from": ""}, "^one of the names is empty"),
        (["a.png"], {"null_separated": True}, "^--null .*: pass --files-from, too"),
        (["-", "-"], {}, "^standard input can be read only once"),
        (["-"], {"files_from": "-"}, "^standard input can be read only once"),
        ([], {"files_from": "no-list.txt"}, r"^the list no-list\.txt does not exist"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(arguments, options, message):
    Path("empty").mkdir()
    with pytest.raises(UsageError, match=message):
        find(*arguments, **options)


# ----------------------------------------------------------------------------------------------------- planning outputs


def test_results_stand_beside_their_sources_by_default():
    assert targets(plan("a.png", "sub/b.jpg")) == ["a.denoised.png", "sub/b.denoised.jpg"]


def test_standard_input_goes_to_standard_output_by_default():
    assert plan("-") == [Job(None, None, "standard input")]
    assert targets(plan("-", output="clean.png")) == ["clean.png"]
    assert targets(plan("-", "a.png", output="out", rename=lambda path: path.stem + ".npz")) == [
        "out/stdin.npz",
        "out/a.npz",
    ]


def test_a_single_input_may_go_to_a_file_a_folder_or_standard_output():
    Path("exists").mkdir()
    assert targets(plan("a.png", output="clean.png")) == ["clean.png"]
    assert targets(plan("a.png", output="exists")) == ["exists/a.denoised.png"]
    assert targets(plan("a.png", output="new/")) == ["new/a.denoised.png"]
    assert targets(plan("a.png", output="-")) == [None]


def test_several_inputs_or_a_folder_make_the_output_a_folder():
    make("in/c.png")
    assert targets(plan("a.png", "b.png", output="new")) == ["new/a.denoised.png", "new/b.denoised.png"]
    assert targets(plan("in", output="new")) == ["new/c.denoised.png"]


def test_the_tree_is_kept_so_that_equal_names_do_not_collide():
    make("in/x/a.png", "in/y/a.png")
    assert targets(plan("in", recursive=True, output="out")) == ["out/x/a.denoised.png", "out/y/a.denoised.png"]


def test_two_results_of_one_name_are_refused_before_any_work():
    with pytest.raises(UsageError, match=r"^x.a\.png and y.a\.png would both be written to out.a\.denoised\.png: "):
        plan("x/a.png", "y/a.png", output="out")
    with pytest.raises(
        UsageError, match=r"^x.a\.gif and x.a\.gif\.png would both be written to out.a\.gif\.png: rename one of them"
    ):
        plan("x/a.gif", "x/a.png", "x/a.gif.png", output="out", rename=lambda path: f"{path.stem}.png")


def test_results_of_one_name_in_a_folder_are_told_apart():
    make("in/a.gif", "in/a.pfm", "in/a.png", "in/b.gif")
    jobs = plan("in", rename=denoised_png, suffixes=MORE_KINDS)
    assert targets(jobs) == ["in/a.gif.denoised.png", "in/a.pfm.denoised.png", "in/a.denoised.png", "in/b.denoised.png"]
    apart = ("named apart from the result of a.png",)
    assert [job.notes for job in jobs] == [apart, apart, (), ()]
    make(*targets(jobs))
    assert targets(plan("in", rename=denoised_png, suffixes=MORE_KINDS)) == targets(jobs)
    for path in Path("in").glob("*.denoised.png"):
        path.unlink()
    codes = plan("in", suffixes=MORE_KINDS, output="out", rename=lambda path: f"{path.stem}.npz")[:3]
    assert targets(codes) == ["out/a.gif.npz", "out/a.pfm.npz", "out/a.png.npz"]  # none of them has more of a right to a.npz


def test_a_result_has_another_name_for_the_case_that_its_format_cannot_hold_it_which_no_other_has():
    make("in/a.bmp", "in/a.png", "in/b.bmp", "in/c.png")
    jobs = plan("in", rename_instead=denoised_png, suffixes=MORE_KINDS)
    assert [job.instead and job.instead.as_posix() for job in jobs] == ["in/a.bmp.denoised.png", None, "in/b.denoised.png", None]
    make("in/b.denoised.png", "in/a.bmp.denoised.png")
    assert plan("in", rename_instead=denoised_png, suffixes=MORE_KINDS) == jobs
    (named,) = plan("in/a.bmp", output="out.bmp", rename_instead=denoised_png)
    assert named.instead is None


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_has_several_names(name):
    assert plan("a.png", output=name) == plan("a.png", output="-")
    with pytest.raises(UsageError, match=r"^2 results cannot all go to standard output"):
        plan("a.png", "b.png", output=name)


def test_a_single_result_goes_into_a_pipe_that_is_named_and_several_do_not():
    os.mkfifo("pipe")
    assert plan("a.png", output="pipe") == [Job(Path("a.png"), Path("pipe"), "a.png", into=True)]
    assert plan("a.png", output="/dev/null")[0].into
    with pytest.raises(UsageError, match=r"^pipe is a device or a pipe, but the results need a folder"):
        plan("a.png", "b.png", output="pipe")


def test_several_results_do_not_fit_into_a_file_or_standard_output():
    make("a.png", "b.png", "result.png")
    with pytest.raises(UsageError, match=r"^result\.png is a file, but the results need a folder"):
        plan("a.png", "b.png", output="result.png")
    with pytest.raises(UsageError, match=r"^2 results cannot all go to standard output"):
        plan("a.png", "b.png", output="-")


@pytest.mark.parametrize("output", ["in", "in/", "link"])
def test_the_same_folder_in_and_out_cannot_destroy_the_originals(output):
    make("in/a.png")
    Path("link").symlink_to("in")
    with pytest.raises(UsageError, match=r"^the result of in.a\.png would replace the input "):
        plan("in", output=output, rename=lambda path: path.name)


def test_a_result_cannot_replace_an_input_through_a_link_or_another_job():
    make("a.png")
    Path("link.png").symlink_to("a.png")
    for arguments, output in [(["a.png"], "a.png"), (["a.png"], "link.png"), (["a.png", "a.denoised.png"], None)]:
        with pytest.raises(UsageError, match="would replace the input"):
            plan(*arguments, output=output)


def test_a_file_in_an_output_folder_that_is_walked_is_no_result_to_be_replaced():
    make("in/a.png", "in/out/a.png")  # of an earlier run, or a picture of its own
    again = {"output": "in/out", "recursive": True, "rename": lambda path: path.name}
    assert [job.name for job in plan("in", **again)] == ["in/a.png"]
    with pytest.raises(UsageError, match=r"^in/out/a\.png was found in a folder and would be replaced: pass an --output outside"):
        plan("in", overwrite=True, **again)
    make("in/a.denoised.png")
    assert targets(plan("in", overwrite=True)) == ["in/a.denoised.png"]  # beside their sources, results have names of their own


def test_no_result_replaces_a_file_that_is_used_besides():
    make("a.png", "clean.png")
    Path("link.png").symlink_to("clean.png")
    with pytest.raises(UsageError, match=r"^link\.png is used besides, and would be the result of a\.png: pass another --output"):
        plan("a.png", output="link.png", besides=[Path("clean.png")])


def test_an_empty_output_is_not_the_present_folder():
    with pytest.raises(UsageError, match=r"^--output is empty"):
        plan("a.png", output="")


def test_a_folder_can_be_done_again_without_doing_earlier_results():
    make("in/a.png", "in/a.denoised.png", "in/a.denoised.denoised.png", "in/b.png", "in/sub/c.png")
    assert targets(plan("in", recursive=True)) == [
        "in/a.denoised.png",
        "in/b.denoised.png",
        "in/sub/c.denoised.png",
    ]


# ------------------------------------------------------------------------------------------------------- atomic writing


def test_a_result_appears_only_when_it_is_whole():
    with atomic_write(Path("new/folder/result.bin"), overwrite=False) as stream:
        stream.write(b"half")
        stream.flush()
        assert not Path("new/folder/result.bin").exists()
        assert [path.name[0] for path in Path("new/folder").iterdir()] == ["."]
        stream.write(b" and half")
    assert Path("new/folder/result.bin").read_bytes() == b"half and half"
    assert all_files() == ["new/folder/result.bin"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_exception_halfway_leaves_everything_as_it_was(error, overwrite):
    target = Path("result.bin")
    if overwrite:
        target.write_text("old")
    with pytest.raises(error), atomic_write(target, overwrite=overwrite) as stream:
        stream.write(b"half")
        raise error
    assert all_files() == (["result.bin"] if overwrite else [])
    assert not overwrite or target.read_text() == "old"


def test_overwriting_is_asked_for():
    make("result.bin")
    with (
        pytest.raises(AecliError, match=r"^result\.bin exists: pass --overwrite or another --output$"),
        atomic_write(Path("result.bin"), overwrite=False),
    ):
        pytest.fail("nothing may be computed for a result that cannot be written")
    with atomic_write(Path("result.bin"), overwrite=True) as stream:
        stream.write(b"new")
    assert Path("result.bin").read_bytes() == b"new"


def without_hard_links(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_touched(monkeypatch, links):
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", without_hard_links)
    with (
        pytest.raises(AecliError, match=r"^result\.bin exists"),
        atomic_write(Path("result.bin"), overwrite=False) as stream,
    ):
        stream.write(b"ours")
        Path("result.bin").write_text("theirs")
    assert Path("result.bin").read_text() == "theirs"
    assert all_files() == ["result.bin"]


def test_of_many_writers_exactly_one_succeeds():
    barrier, results = threading.Barrier(8), []

    def write(number):
        try:
            with atomic_write(Path("result.bin"), overwrite=False) as stream:
                stream.write(b"%d" % number)
                barrier.wait()
        except AecliError:
            return
        results.append(b"%d" % number)

    threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [Path("result.bin").read_bytes()] == results
    assert all_files() == ["result.bin"]


def test_where_there_are_no_hard_links_a_result_is_written_all_the_same(monkeypatch):
    monkeypatch.setattr(Path, "hardlink_to", without_hard_links)
    with atomic_write(Path("result.bin"), overwrite=False) as stream:
        stream.write(b"whole")
    assert Path("result.bin").read_bytes() == b"whole"
    assert all_files() == ["result.bin"]


def test_permissions_are_those_that_the_umask_leaves():
    previous = os.umask(0o027)
    try:
        with atomic_write(Path("result.bin"), overwrite=False):
            pass
    finally:
        os.umask(previous)
    assert stat.S_IMODE(Path("result.bin").stat().st_mode) == 0o640


def test_a_link_stays_a_link_and_its_file_is_replaced():
    make("real/result.bin")
    Path("link.bin").symlink_to("real/result.bin")
    with atomic_write(Path("link.bin"), overwrite=True) as stream:
        stream.write(b"new")
    assert Path("link.bin").is_symlink()
    assert Path("real/result.bin").read_bytes() == b"new"


def test_a_broken_link_is_not_written_through_unasked():
    Path("link.bin").symlink_to("nowhere.bin")
    with pytest.raises(AecliError, match=r"^link\.bin exists"), atomic_write(Path("link.bin"), overwrite=False):
        pytest.fail("not reached")
    assert not Path("nowhere.bin").exists()


def test_devices_pipes_and_folders_are_never_replaced():
    os.mkfifo("pipe")
    Path("folder").mkdir()
    for name, message in {"pipe": "is a device or a pipe", "folder": "is a folder"}.items():
        with pytest.raises(AecliError, match=f"^{name} {message}"), atomic_write(Path(name), overwrite=True):
            pytest.fail("not reached")
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)


def test_a_file_in_the_way_of_a_folder_is_a_sentence():
    make("file")
    for target in ("file/result.bin", "file/sub/result.bin"):
        with pytest.raises(AecliError, match="as a file is in its way"), atomic_write(Path(target), overwrite=True):
            pytest.fail("not reached")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "as the disk is full: make room"),
        (errno.EACCES, "as its folder is not writable: pass another --output"),
        (errno.EIO, r"\(Input/output error\)"),
    ],
)
def test_what_the_operating_system_refuses_is_a_sentence(monkeypatch, number, message):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(batch.os, "fsync", refuse)
    with (
        pytest.raises(AecliError, match=rf"^result\.bin could not be written.*{message}"),
        atomic_write(Path("result.bin"), overwrite=False),
    ):
        pass
    assert all_files() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_disk_that_fills_up_while_writing_is_a_sentence():
    with (
        pytest.raises(AecliError, match=r"^result\.bin could not be written, as the disk is full"),
        atomic_write(Path("result.bin"), overwrite=False),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert all_files() == []


def test_a_long_name_that_the_target_may_have_is_no_trouble_for_the_temporary_file():
    target = Path("x" * 251 + ".bin")
    with atomic_write(target, overwrite=False):
        pass
    assert target.exists()


def test_empty_standard_input_is_a_sentence():
    with pytest.raises(AecliError, match=r"^standard input is empty \(0 bytes\)"):
        read_bytes(Job(None, None, "standard input"), io.BytesIO())
