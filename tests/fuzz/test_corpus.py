"""The fixed corpus keeps every promise of SECURITY.md, in a process whose memory is limited."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are set in Linux's way")
def test_every_input_is_refused_or_read_at_once_in_a_gigabyte_and_without_side_effects():
    command = [sys.executable, "-B", "-W", "ignore", "-m", "tests.fuzz.corpus"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["watched"] == 3  # pickles, files and programs: the watch can fail
    assert found["broken"] == []
    assert found["refused"] > 2000
    assert found["accepted"] > 500


def test_names_of_members_lead_nowhere(weights_folder, small_photograph, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    from aecli.cli import app
    from aecli.compression import coder_for, encode_picture
    from aecli.device import select
    from aecli.weights import load_weights
    from tests.fuzz.corpus import with_foreign_members

    weights = weights_folder / "tiny-codec.safetensors"
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    data = encode_picture(small_photograph, coder_for(load_weights(weights), select("cpu", "fp32")))
    (folder / "evil.npz").write_bytes(with_foreign_members(data))
    arguments = ["decode", "evil.npz", "-o", "out/", "--weights", str(weights)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"a/b/evil.npz", "a/b/out/evil.png"}
    assert not Path("/tmp/escaped.npy").exists()
