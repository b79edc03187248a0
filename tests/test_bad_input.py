"""Pictures of impossible shape, with impossible values, of many frames, that claim too much; numbers that are none.

Each goes through the program as a person starts it: a right result or one sentence, and inputs that stay as they were.
"""

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from aecli.images import from_array, read_picture, write_picture

PROGRAM = [sys.executable, "-W", "ignore", "-m", "aecli"]


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(100, 140, (height, width, 3), dtype=np.uint8))


def floats(value):
    field = np.full((20, 30), 0.5, np.float32)
    field[3, 4] = value
    return encoded(Image.fromarray(field), "TIFF")


def animated(format):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)


def png_that_claims(width, height, bits=8):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )


def deep_colour(format):
    buffer = io.BytesIO()
    write_picture(from_array(np.random.default_rng(0).integers(0, 65536, (30, 40, 4), dtype=np.uint16)), buffer, format)
    return buffer.getvalue()


FIRST = ["only the first of 3 frames was read"]
RIGHT = {  # the file, the size (width, height) and the notes of its result
    "one.png": (encoded(noise(1, 1)), (1, 1), []),
    "row.png": (encoded(noise(1, 5000)), (5000, 1), []),
    "column.bmp": (encoded(noise(5000, 1), "BMP"), (1, 5000), []),
    "panorama.png": (encoded(noise(3, 1_000_000), compress_level=1), (1_000_000, 3), []),
    "tower.tif": (encoded(noise(200_000, 1), "TIFF"), (1, 200_000), []),
    "loop-gif.gif": (animated("GIF"), (40, 30), FIRST),
    "loop-webp.webp": (animated("WEBP"), (40, 30), FIRST),
    "loop-apng.png": (animated("PNG"), (40, 30), FIRST),
    "deep.png": (deep_colour("PNG"), (40, 30), []),
    "deep-tiff.tiff": (deep_colour("TIFF"), (40, 30), []),
}
WRONG = {  # the file, and what its sentence says
    "nan.tif": (floats(np.nan), "infinite or no number"),
    "infinite.tif": (floats(-np.inf), "infinite or no number"),
    "negative.tif": (floats(-1), "values from -1 to 0.5"),
    "bomb.png": (png_that_claims(100_000, 100_000), "claims more than 1,000,000,000 pixels"),
    "deep-bomb.png": (png_that_claims(31_000, 31_000, bits=16), "claims 31000×31000 pixels"),
    "bomb-gif.gif": (animated("GIF")[:6] + struct.pack("<HH", 31_000, 31_000) + animated("GIF")[10:], "claims 31000×31000 pixels"),
    "cut.png": (encoded(noise(90, 90))[:2000], "damaged or cut short"),
    "deep-cut.png": (deep_colour("PNG")[:2000], "damaged or cut short"),
    "empty.jpg": (b"", "empty"),
    "text.webp": (b"not a picture " * 99, "is not a picture"),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory, weights_folder):
    """All files through one process: what it says of each, and the folder."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "in").mkdir()
    for name, (data, *_) in {**RIGHT, **WRONG}.items():
        (folder / "in" / name).write_bytes(data)
    weights = ["--weights", str(weights_folder / "tiny-denoiser.safetensors"), "--threads", "1"]
    command = [*PROGRAM, "denoise", "in", "-o", "out", "--json", *weights]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    said = [json.loads(line) for line in process.stdout.splitlines()]
    return {line["input"].removeprefix("in/"): line for line in said}, folder


@pytest.mark.parametrize("name", RIGHT)
def test_it_is_denoised(done, name):
    said, folder = done
    _, size, notes = RIGHT[name]
    assert said[name]["status"] == "done"
    assert said[name]["notes"] == notes
    result = read_picture(folder / said[name]["output"])
    assert (result.width, result.height) == size
    assert result.pixels.dtype == (np.uint16 if "deep" in name else np.uint8)


@pytest.mark.parametrize("name", WRONG)
def test_it_is_refused_in_a_sentence(done, name):
    said, folder = done
    assert said[name]["status"] == "failed"
    assert WRONG[name][1] in said[name]["message"]
    assert "\n" not in said[name]["message"]
    assert not (folder / said[name]["output"]).exists()


def test_no_input_was_changed_and_nothing_else_appeared(done):
    said, folder = done
    for name, (data, *_) in {**RIGHT, **WRONG}.items():
        assert (folder / "in" / name).read_bytes() == data
    results = {folder / line["output"] for line in said.values() if line["status"] == "done"}
    assert {path for path in folder.rglob("*") if path.is_file() and path.parent.name != "in"} == results


def test_numbers_that_are_none_are_wrong_usage(tmp_path, weights_folder):
    data = encoded(noise(9, 9))
    (tmp_path / "photo.png").write_bytes(data)
    weights = ["--weights", str(weights_folder / "tiny-denoiser.safetensors")]
    started = {
        value: subprocess.Popen(
            [*PROGRAM, "denoise", "photo.png", f"--sigma={value}", *weights], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        for value in ("-1", "nan", "much", "inf")
    }
    ended = {value: (process.communicate(timeout=300)[1], process.returncode) for value, process in started.items()}
    for value, (errors, status) in ended.items():
        assert status == 2, value
        assert "--sigma" in errors and "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    assert (tmp_path / "photo.png").read_bytes() == data
