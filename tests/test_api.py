"""What a notebook imports."""

import subprocess
import sys

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


def test_denoise_takes_floats_and_gives_bytes():
    image = np.random.default_rng(0).random((20, 30, 3))
    result = aecli.denoise(image, sigma=25, **DENOISER)
    np.testing.assert_array_equal(result, aecli.denoise(np.rint(image * 255).astype(np.uint8), sigma=25, **DENOISER))


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
        (lambda x: aecli.encode(x, quality=101, **CODEC), "--quality 101 is out of range"),
        (lambda x: aecli.encode(x, **DENOISER), "are for another task"),
        (lambda x: aecli.denoise(x, sigma=-1, **DENOISER), "--sigma -1 is out of range"),
        (lambda x: aecli.denoise(x * 2.0, **DENOISER), "must lie within 0-1"),
        (lambda x: aecli.denoise(x[0, 0], **DENOISER), "an array of shape \\(3,\\) is no picture"),
        (lambda x: aecli.denoise("photo.png", **DENOISER), "a str is no picture: pass a NumPy array or a PIL image"),
        (lambda x: aecli.decode(b"nothing"), "^the data is damaged or no .npz"),
        (lambda x: aecli.decode("gone.npz"), "^gone.npz cannot be read"),
        (lambda x: aecli.load_latents(b"nothing"), "^the data is damaged or no .npz"),
        (lambda x: aecli.decode(aecli.encode(x, **CODEC), weights="tiny-dense"), "was encoded with weights tiny-codec"),
    ],
)
def test_errors_are_sentences(call, message):
    with pytest.raises(AecliError, match=message):
        call(np.full((8, 8, 3), 200, np.uint8))
