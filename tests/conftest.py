"""Tiny models, saved as weights files, and small real photographs, for all tests."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aecli.coding.tables import fill_tables
from aecli.device import select
from aecli.images import from_array, read_picture, write_picture
from aecli.models import build
from aecli.models.codec import Codec, CodecConfig
from aecli.models.conv import Conv, ConvConfig
from aecli.models.denoiser import Denoiser, DenoiserConfig
from aecli.models.dense import Dense, DenseConfig
from aecli.weights import card_of, load_weights, save_weights

DATA = Path(__file__).parent / "data"


def written(picture, format):
    """A file's bytes, and the notes on what it could not hold."""
    buffer = io.BytesIO()
    notes = write_picture(picture, buffer, format)
    return buffer.getvalue(), notes


def tiny_codec(seed=0):
    """Untrained, but its latents span many scales and go beyond the tables here and there."""
    torch.manual_seed(seed)
    model = Codec(CodecConfig(widths=(8, 8, 16), blocks_down=(1, 1, 1), blocks_up=(1, 1, 1), latent=8, hyper=4, features=8))
    with torch.no_grad():
        model.g_a[-1].weight.mul_(30)
        model.h_a[-1].weight.mul_(30)
        model.parameters_net[-1].weight.mul_(10)
        model.log_inverse_gain.sub_(1)
    fill_tables(model)
    return model.eval().requires_grad_(False)


def tiny_denoiser(seed=0, **config):
    """Untrained, but what begins with zeros is random: it changes pictures."""
    torch.manual_seed(seed)
    model = Denoiser(DenoiserConfig(widths=(8, 16), blocks=1, estimator=8, **config))
    for p in model.parameters():
        if p.ndim == 4 and not p.any():
            nn.init.kaiming_uniform_(p, a=math.sqrt(5))
    return model.eval().requires_grad_(False)


def tiny_dense(seed=0, **config):
    torch.manual_seed(seed)
    return Dense(DenseConfig(**{"height": 8, "width": 8, "latent_dim": 4, **config})).eval().requires_grad_(False)


def tiny_conv(seed=0, **config):
    torch.manual_seed(seed)
    config = {"height": 13, "width": 10, "latent_dim": 4, "widths": (8, 16), "blocks": 1, **config}
    return Conv(ConvConfig(**config)).eval().requires_grad_(False)


# Every kind of feature autoencoder, for pictures of 8×8: architecture and configuration.
FEATURES = {
    "dense": ("dense", {"latent_dim": 4}),
    "linear": ("dense", {"latent_dim": 4, "activation": "linear"}),
    "deep": ("deep", {"latent_dim": 5, "hidden": (100, 68)}),
    "sparse topk": ("sparse", {"latent_dim": 60}),
    "sparse l1": ("sparse", {"latent_dim": 60, "sparsity": "l1:0.1"}),
    "sparse kl": ("sparse", {"latent_dim": 68, "sparsity": "kl:0.1"}),
    "conv": ("conv", {"latent_dim": 4, "widths": (8, 16), "blocks": 1}),
    "vae": ("vae", {"latent_dim": 4, "widths": (8, 16)}),
}


def tiny_features(kind):
    """Untrained, of one of FEATURES."""
    torch.manual_seed(0)
    arch, config = FEATURES[kind]
    return build(arch, {"height": 8, "width": 8, **config}).eval().requires_grad_(False)


def saved(path, model, arch, *, half=False, **card):
    """Writes a weights file and loads it again."""
    values = {"task": "features", "training_data": "nothing", "steps": 0, **card}
    save_weights(path, model, card_of(model, arch, **values), half=half, overwrite=True)
    return load_weights(path)


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory):
    """tiny-codec, tiny-denoiser, tiny-dense and tiny-dense-denoiser, as files."""
    folder = tmp_path_factory.mktemp("weights")
    saved(folder / "tiny-codec.safetensors", tiny_codec(), "codec", task="compress")
    saved(folder / "tiny-denoiser.safetensors", tiny_denoiser(), "denoiser", task="denoise", noise="gaussian 0-60 of 255")
    saved(folder / "tiny-dense.safetensors", tiny_dense(), "dense", colour_mode="grey")
    saved(folder / "tiny-dense-denoiser.safetensors", tiny_dense(), "dense", task="denoise", noise="gaussian:0.5")
    return folder


@pytest.fixture(scope="session")
def codec_weights(weights_folder):
    return load_weights(weights_folder / "tiny-codec.safetensors")


@pytest.fixture(scope="session")
def denoiser_weights(weights_folder):
    return load_weights(weights_folder / "tiny-denoiser.safetensors")


@pytest.fixture(scope="session")
def dense_weights(weights_folder):
    return load_weights(weights_folder / "tiny-dense.safetensors")


@pytest.fixture(scope="session")
def dense_denoiser_weights(weights_folder):
    return load_weights(weights_folder / "tiny-dense-denoiser.safetensors")


@pytest.fixture(scope="session")
def compute():
    """The processor, in float32: what is exact there is exact everywhere."""
    return select("cpu", "fp32")


@pytest.fixture(scope="session")
def photograph():
    """200×180, RGB."""
    return read_picture(DATA / "colosseum.png")


@pytest.fixture(scope="session")
def small_photograph():
    """128×96, RGB."""
    return read_picture(DATA / "arches.png")


@pytest.fixture
def three_threads():
    """What a processor with three cores gives: batches that cannot be shared out evenly."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.fixture
def picture_of():
    """Makes a picture of the left upper corner of a photograph: picture_of(height, width)."""
    pixels = read_picture(DATA / "colosseum.png").pixels
    return lambda height, width: from_array(np.ascontiguousarray(pixels[:height, :width]))


@pytest.fixture
def photo_folder(tmp_path):
    """A folder of three small photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("colosseum", "arches", "skyline"):
        (folder / f"{name}.png").write_bytes((DATA / f"{name}.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium, for tests that are marked `needs_browser`."""
    from browser import running  # not above: the fuzz harness imports this file by another way

    with running(tmp_path_factory.mktemp("chromium")) as started:
        yield started
