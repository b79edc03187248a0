"""What a notebook imports."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import aecli
from aecli import weights
from aecli.errors import AecliError


@pytest.fixture(autouse=True)
def shipped(weights_folder, monkeypatch):
    """The tiny models stand in for the shipped ones."""
    monkeypatch.setattr(weights, "SHIPPED_FOLDERS", (weights_folder,))
    for cached in (aecli._cached_weights, aecli._coder):
        cached.cache_clear()
    yield
    for cached in (aecli._cached_weights, aecli._coder):
        cached.cache_clear()


CODEC, DENOISER = {"weights": "tiny-codec"}, {"weights": "tiny-denoiser"}


def test_importing_aecli_imports_nothing_heavy():
    code = "import sys, aecli; print({'torch', 'torchvision', 'numpy', 'PIL', 'sklearn', 'matplotlib'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_working_never_imports_what_only_training_and_scores_need(weights_folder, tmp_path):
    code = f"""
import sys, numpy as np, aecli
x = np.zeros((16, 16, 3), np.uint8)
aecli.denoise(x, weights={str(weights_folder / "tiny-denoiser.safetensors")!r})
codec = {str(weights_folder / "tiny-codec.safetensors")!r}
aecli.decode(aecli.encode(x, weights=codec), weights=codec)
dense = {str(weights_folder / "tiny-dense.safetensors")!r}
aecli.decode(aecli.encode(x, weights=dense), weights=dense)
print({{"torchvision", "sklearn", "matplotlib", "scipy", "pytorch_msssim"}} & {{*sys.modules}})
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 2), (20, 30, 3), (20, 30, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_denoise_gives_back_an_array_of_the_same_kind(shape, dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    before = image.copy()
    result = aecli.denoise(image, sigma=25, **DENOISER)
    assert (result.shape, result.dtype) == (image.shape, image.dtype)
    np.testing.assert_array_equal(image, before)
    colours = slice(None, -1) if len(shape) == 3 and shape[2] in (2, 4) else slice(None)
    assert (result[..., colours] != image[..., colours]).any()
    if colours != slice(None):
        np.testing.assert_array_equal(result[..., -1], image[..., -1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
def test_denoise_takes_floats_and_gives_them_back(shape, dtype):
    image = np.random.default_rng(0).random(shape).astype(dtype)
    result = aecli.denoise(image, sigma=25, **DENOISER)
    assert (result.shape, result.dtype) == (image.shape, image.dtype)
    deep = aecli.denoise(np.rint(image.astype(float) * 65535).astype(np.uint16), sigma=25, **DENOISER)
    np.testing.assert_allclose(result, deep / 65535, atol=1e-3 if dtype == np.float16 else 2e-5)
    np.testing.assert_allclose(aecli.denoise(image, sigma=0, **DENOISER), image, atol=1e-5 if dtype != np.float16 else 1e-3)


def test_pictures_may_be_paths(tmp_path, photograph):
    path = tmp_path / "photo.png"
    Image.fromarray(photograph.pixels[:40, :30]).save(path)
    for source in (path, str(path)):
        np.testing.assert_array_equal(
            np.array(aecli.denoise(source, sigma=9, **DENOISER)), aecli.denoise(photograph.pixels[:40, :30], sigma=9, **DENOISER)
        )
        assert aecli.encode(source, **CODEC) == aecli.encode(photograph.pixels[:40, :30], **CODEC)


def test_dir_shows_the_api_alone():
    assert dir(aecli) == sorted(["AecliError", "decode", "denoise", "encode", "load_latents", "load_weights", "__version__"])


def test_the_types_hold_in_a_strict_project(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "mine.py").write_text(
        """from pathlib import Path
import numpy as np
import numpy.typing as npt
from PIL import Image
import aecli

x: npt.NDArray[np.float32] = np.zeros((8, 8), np.float32)
clean: npt.NDArray[np.float32] = aecli.denoise(x, sigma=25)
image: Image.Image = aecli.denoise(Path("a.png"))
again: Image.Image = aecli.denoise(image)
data: bytes = aecli.encode("a.png", quality=60)
back: Image.Image = aecli.decode(data)
codes: npt.NDArray[np.int32] = aecli.load_latents(data)
try:
    print(aecli.load_weights("photo-codec").card.arch)
except aecli.AecliError as error:
    print(error)
"""
    )
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = true\n[mypy-torch.*]\nfollow_imports = skip\nignore_missing_imports = true\n"
    )
    package = Path(aecli.__file__).parent
    assert (package / "py.typed").is_file()
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent", "mine.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(package.parent)}, capture_output=True, text=True)
    assert done.stdout == "Success: no issues found in 1 source file\n", done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pil_images_come_back_as_pil_images_of_their_mode(mode, photograph):
    image = Image.fromarray(photograph.pixels[:40, :30]).convert(mode)
    cleaned = aecli.denoise(image, **DENOISER)
    again = aecli.decode(aecli.encode(image, **CODEC))
    assert (cleaned.mode, cleaned.size) == (again.mode, again.size) == (mode, (30, 40))


def test_encode_and_decode(photograph, tmp_path):
    data = aecli.encode(photograph.pixels, quality=70, **CODEC)
    again = aecli.decode(data)
    assert np.array(again).shape == photograph.pixels.shape
    (tmp_path / "photo.npz").write_bytes(data)
    for source in (tmp_path / "photo.npz", str(tmp_path / "photo.npz")):
        np.testing.assert_array_equal(np.array(aecli.decode(source)), np.array(again))
    assert len(aecli.encode(photograph.pixels, quality=10, **CODEC)) < len(data)


def test_load_latents(photograph):
    symbols = aecli.load_latents(aecli.encode(photograph.pixels, **CODEC))
    assert (symbols.shape, symbols.dtype) == ((8, 12, 16), np.int32)  # 180×200, padded to 192×256
    codes = aecli.load_latents(aecli.encode(photograph.pixels, weights="tiny-dense"))
    assert (codes.shape, codes.dtype) == ((23 * 25, 4), np.float32)


def test_load_weights_by_name_and_path(weights_folder):
    by_name = aecli.load_weights("tiny-dense")
    assert by_name is aecli.load_weights("tiny-dense")  # read once
    by_path = aecli.load_weights(weights_folder / "tiny-dense.safetensors")
    assert by_name.card == by_path.card
    assert by_name.card.arch == "dense"
    assert by_name.model.encode(by_name.model.decode(by_name.model.encoder.bias[None])).shape == (1, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: aecli.denoise(x, weights="nobody"), "no weights named nobody: there are tiny-codec, tiny-denoiser, tiny-dense"),
        (lambda x: aecli.encode(x, quality=101, **CODEC), "^quality 101 is out of range"),
        (lambda x: aecli.encode(x, **DENOISER), "are for another task"),
        (lambda x: aecli.denoise(x, sigma=-1, **DENOISER), "^sigma -1 is out of range"),
        (lambda x: aecli.denoise(x * 2.0, **DENOISER), "must lie within 0-1"),
        (lambda x: aecli.denoise(x[0, 0], **DENOISER), "an array of shape \\(3,\\) is no picture"),
        (lambda x: aecli.denoise("photo.png", **DENOISER), "photo.png"),
        (lambda x: aecli.denoise(7, **DENOISER), "an? int is no picture: pass a NumPy array, a PIL image or a path"),
        (lambda x: aecli.encode(x, quality=50, weights="tiny-dense"), "leave quality, bpp, psnr and max-bytes out"),
        (lambda x: aecli.decode(b"nothing"), "^the data is damaged or no .npz"),
        (lambda x: aecli.decode("gone.npz"), "^gone.npz cannot be read"),
        (lambda x: aecli.load_latents(b"nothing"), "^the data is damaged or no .npz"),
        (lambda x: aecli.decode(aecli.encode(x, **CODEC), weights="tiny-dense"), "was encoded with weights tiny-codec"),
    ],
)
def test_errors_are_sentences(call, message):
    with pytest.raises(AecliError, match=message):
        call(np.full((8, 8, 3), 200, np.uint8))
