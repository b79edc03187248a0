"""The program as a process: start-up, pipes, signals, the wheel."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import aecli

REPOSITORY = Path(__file__).parent.parent
DATA = REPOSITORY / "tests" / "data"
PROGRAM = [sys.executable, "-W", "ignore", "-m", "aecli"]


def run(*arguments, cwd, **options):
    return subprocess.run([*PROGRAM, *map(str, arguments)], cwd=cwd, capture_output=True, timeout=300, check=False, **options)


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image, dtype=float)


def modules_after(code):
    printing = f"import sys; {code}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", printing], capture_output=True, text=True, check=True).stdout.split())


def test_import_and_help_load_neither_torch_nor_torchvision(tmp_path):
    heavy = {"torch", "torchvision", "sklearn", "matplotlib", "scipy", "fsspec", "ray"}
    assert not heavy & modules_after("import aecli")
    assert not heavy & modules_after("import aecli.cli")
    asking = "import aecli.cli; from typer.testing import CliRunner; CliRunner().invoke(aecli.cli.app, ['--help'])"
    used = modules_after(asking)
    assert not heavy & used
    # It draws no boxes, reads no pictures, and no command that is not asked for is imported.
    assert not {"numpy", "PIL", "rich.console", "aecli.cli.report", "aecli.cli.denoise", "aecli.cli.train"} & used


def test_denoise_encode_and_decode_import_nothing_that_they_do_not_need(tmp_path):
    photo = DATA / "colosseum.png"  # large enough to be compared with the training data
    code = (
        "from aecli.cli import app; from typer.testing import CliRunner; r = CliRunner().invoke;"
        f"r(app, ['denoise', {str(photo)!r}, '-o', {str(tmp_path / 'd.png')!r}]);"
        f"r(app, ['encode', {str(photo)!r}, '-o', {str(tmp_path / 'e.npz')!r}, '--effort', '1', '--score']);"
        f"r(app, ['decode', {str(tmp_path / 'e.npz')!r}, '-o', {str(tmp_path / 'e.png')!r}])"
    )
    loaded = modules_after(code)
    assert (tmp_path / "d.png").exists() and (tmp_path / "e.png").exists()
    assert "torch" in loaded
    assert not {"torch._dynamo", "sympy", "torchvision", "sklearn", "matplotlib", "scipy", "fsspec", "ray"} & loaded


def test_garbage_is_collected_once_the_imports_are_over(tmp_path):
    code = (
        "import gc, sys; from aecli.cli import main; from aecli.cli.options import Running; before = Running.compute;"
        "Running.compute = lambda self: (print(gc.isenabled()), before(self), print(gc.isenabled()))[1];"
        f"sys.argv = ['aecli', 'denoise', {str(DATA / 'arches.png')!r}, '-o', {str(tmp_path / 'd.png')!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_shipped_models_do_their_work_in_a_pipeline(tmp_path):
    """cat noisy.png | aecli denoise - | aecli encode - | aecli decode -: better than the noisy picture was."""
    denoised = run("denoise", "-", cwd=tmp_path, input=(DATA / "noisy.png").read_bytes())
    encoded = run("encode", "-", cwd=tmp_path, input=denoised.stdout)
    decoded = run("decode", "-", cwd=tmp_path, input=encoded.stdout)
    assert (denoised.returncode, encoded.returncode, decoded.returncode) == (0, 0, 0)
    (tmp_path / "decoded.png").write_bytes(decoded.stdout)
    clean = pixels_of(DATA / "photo.png")
    error_before = np.square(pixels_of(DATA / "noisy.png") - clean).mean()
    error_after = np.square(pixels_of(tmp_path / "decoded.png") - clean).mean()
    assert error_after < error_before / 5
    assert len(encoded.stdout) < len(denoised.stdout) / 5


def test_wrong_usage_and_failure_have_their_exit_status(tmp_path):
    assert run("denoise", cwd=tmp_path).returncode == 2
    missing = run("denoise", "missing.png", cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.decode().count("\n") == 1 and missing.stdout == b""


def test_a_reader_that_goes_ends_it_quietly(tmp_path):
    (tmp_path / "list").write_text("".join(f"{number}.png\n" for number in range(9000)))  # more than a pipe holds
    command = f"{sys.executable} -m aecli encode --files-from list -n -o out | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "0.png would fail: there is no such file\n"
    assert done.stderr == ""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_streams_that_a_daemon_has_closed_are_no_trouble(tmp_path, closed):
    shutil.copy(DATA / "photo.png", tmp_path)
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *PROGRAM, "denoise", "photo.png"], cwd=tmp_path, capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert pixels_of(tmp_path / "photo.denoised.png").shape == (512, 512, 3)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_training_that_is_told_to_end_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path, number, status):
    command = [*PROGRAM, "train", "--arch", "dense", "--epochs", "100", "--threads", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr.readline().startswith("mnist-dense.safetensors: training takes about ")
    assert "step 1 " in process.stderr.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "--resume" in errors and "Traceback" not in errors
    assert (tmp_path / "mnist-dense.checkpoint.pt").exists()
    assert not (tmp_path / "mnist-dense.safetensors").exists()


def test_sigterm_drops_the_file_at_hand_and_keeps_the_others(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(50):
        shutil.copy(DATA / "noisy.png", tmp_path / "in" / f"{number:02}.png")
    command = [*PROGRAM, "denoise", "in", "-o", "out", "--json", "--threads", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    first = json.loads(process.stdout.readline())
    process.terminate()
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "told to end; results that are there are whole" in errors
    reported = [first["output"], *(json.loads(line)["output"] for line in rest.splitlines())]
    assert sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "out").iterdir()) == reported
    assert len(reported) < 50


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_weights_and_mnist(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "mnist-2d",
        "mnist-30d",
        "fashion-30d",
        "mnist-dense",
        "mnist-conv",
        "mnist-sparse",
        "mnist-denoise",
        "photo-denoise",
        "photo-codec",
    ):
        assert f"aecli/_weights/{name}.safetensors" in names
    assert "aecli/data/mnist/train-images-idx3-ubyte.gz" in names


def test_an_installed_wheel_finds_its_weights_without_the_repository(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import aecli; print(aecli.__file__)"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(site)), where
    result = run("denoise", DATA / "arches.png", "-o", tmp_path / "out.png", cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert pixels_of(tmp_path / "out.png").shape == (96, 128, 3)


def test_the_version_of_the_package_is_that_of_the_project():
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["version"] == aecli.__version__


def seen_on_a_terminal(*arguments, cwd, silence):
    """(what stands on the terminal that is standard error, what went to standard output)."""
    pty = pytest.importorskip("pty")
    code = f"from aecli.cli import main, report; report.SILENCE = {silence}; main()"
    terminal, end = pty.openpty()
    command = [sys.executable, "-c", code, *map(str, arguments)]
    seen = b""
    with subprocess.Popen(command, cwd=cwd, stderr=end, stdout=subprocess.PIPE) as process:
        os.close(end)
        with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
            while part := os.read(terminal, 1 << 16):
                seen += part
        answer = process.stdout.read()
    os.close(terminal)
    assert process.returncode == 0, seen
    return seen.decode(), answer.decode()


@pytest.mark.parametrize(("silence", "shown"), [(0.0, True), (60.0, False)])
def test_a_picture_that_takes_long_shows_its_tiles_on_a_terminal(weights_folder, tmp_path, silence, shown):
    Image.new("RGB", (2400, 20)).save(tmp_path / "long.png")
    weights = weights_folder / "tiny-codec.safetensors"
    seen, answer = seen_on_a_terminal(
        "encode", "long.png", "--effort", "1", "--json", "--weights", weights, cwd=tmp_path, silence=silence
    )
    assert ("tiles" in seen and re.search(r"[1-9]/[1-9]", seen) is not None) == shown
    assert json.loads(answer)["status"] == "done"
