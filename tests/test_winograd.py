"""3×3 convolutions by Winograd's algorithm: the same results, and nothing said where there are none."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aecli import winograd
from aecli.compression import coder_for, decode_picture, encode_picture, latents_of
from aecli.denoising import denoise_picture
from aecli.device import select
from aecli.images import read_picture
from aecli.weights import load_weights
from aecli.winograd import available, convolutions

DATA = Path(__file__).parent / "data"

needs_nnpack = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or not torch.backends.nnpack.is_available(),
    reason="needs NNPACK",
)


@pytest.fixture(autouse=True)
def _asked_anew():
    available.cache_clear()
    yield
    available.cache_clear()


@pytest.fixture
def calls(monkeypatch):
    """As on a processor with AVX2; lists the channels of what was convolved."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert available()
    found, convolution = [], winograd._convolution

    def counted(x, weight, bias):
        found.append((x.shape[1], len(weight)))
        return convolution(x, weight, bias)

    monkeypatch.setattr(winograd, "_convolution", counted)
    return found


@needs_nnpack
@pytest.mark.parametrize(("inputs", "outputs", "height", "width"), [(32, 32, 40, 50), (13, 64, 1, 1), (64, 48, 7, 129)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_results_are_those_of_torch(calls, inputs, outputs, height, width, bias, layout):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), torch.randn(1, inputs, height, width).to(memory_format=layout)
    with torch.inference_mode():
        expected = conv(x)
        with convolutions():
            found = conv(x)
    assert calls == [(inputs, outputs)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@needs_nnpack
def test_every_other_convolution_takes_the_ordinary_way(calls):
    x = torch.randn(1, 32, 20, 20)
    others = [
        nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 32, 3),
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2),
        nn.Conv2d(32, 32, 3, padding=1, groups=2),
        nn.Conv2d(32, 32, 3, padding="same"),
        nn.Conv2d(32, 12, 3, padding=1),
    ]
    conv = nn.Conv2d(32, 32, 3, padding=1)
    with torch.inference_mode():
        expected = [other(x) for other in others]
        with convolutions():
            for other, result in zip(others, expected, strict=True):
                assert torch.equal(other(x), result)
            conv(x.expand(2, -1, -1, -1))  # several pictures
            conv.double()(x.double())  # exact arithmetic
            conv.bfloat16()(x.bfloat16())
    with convolutions():  # training
        conv.float()(x).sum().backward()
    assert calls == []


@needs_nnpack
def test_denoised_pictures_differ_by_at_most_one_grey_level(calls, compute, photograph, monkeypatch):
    weights = load_weights("photo-denoise")
    found = denoise_picture(photograph, weights, compute).picture.pixels.astype(int)
    assert len(calls) > 20
    hide(monkeypatch)
    assert np.abs(found - denoise_picture(photograph, weights, compute).picture.pixels).max() <= 1


@needs_nnpack
def test_what_is_encoded_one_way_decodes_the_other_way_to_the_same_symbols(calls, compute, photograph, monkeypatch):
    coder = coder_for(load_weights("photo-codec"), compute)
    data = encode_picture(photograph, coder, quality=60)
    assert len(calls) > 10
    latents, picture = (read(data, "it", lambda _: coder) for read in (latents_of, decode_picture))
    hide(monkeypatch)
    np.testing.assert_array_equal(latents_of(data, "it", lambda _: coder), latents)
    assert np.abs(decode_picture(data, "it", lambda _: coder).pixels.astype(int) - picture.pixels).max() <= 1


def hide(monkeypatch):
    monkeypatch.delattr(torch, "_nnpack_spatial_convolution")
    available.cache_clear()


def wrong(x, weight, bias, **options):
    return torch.zeros(1, len(weight), *x.shape[2:])


def refusing(*arguments, **options):
    raise RuntimeError("not initialised")


def of_another_torch(input, weight):
    raise AssertionError


@pytest.mark.parametrize("broken", [None, wrong, refusing, of_another_torch])
def test_without_it_all_goes_the_ordinary_way_and_nothing_is_said(monkeypatch, capfd, denoiser_weights, small_photograph, broken):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    expected = denoise_picture(small_photograph, denoiser_weights, select("cpu", "fp32")).picture.pixels
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.backends.nnpack, "is_available", lambda: True)
    hide(monkeypatch)
    if broken is not None:
        monkeypatch.setattr(torch, "_nnpack_spatial_convolution", broken, raising=False)
    assert not available()
    compute = select("cpu", "fp32")
    assert compute.layout == torch.channels_last
    np.testing.assert_array_equal(denoise_picture(small_photograph, denoiser_weights, compute).picture.pixels, expected)
    assert capfd.readouterr() == ("", "")


@needs_nnpack
def test_a_call_that_fails_goes_the_ordinary_way(calls, monkeypatch):
    conv, x = nn.Conv2d(32, 32, 3, padding=1), torch.randn(1, 32, 20, 20)
    monkeypatch.setattr(torch, "_nnpack_spatial_convolution", refusing)
    with torch.inference_mode():
        expected = conv(x)
        with convolutions():
            assert torch.equal(conv(x), expected)
    assert calls == [(32, 32)]


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX512", "SVE256"])
def test_where_it_was_not_measured_to_gain_nothing_is_asked(monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.nnpack, "is_available", refusing)
    assert not available()


def test_a_processor_with_avx2_alone_gives_the_same_picture_in_float32(tmp_path):
    """The variables have torch and oneDNN leave out what is newer; every processor without it gets the same answer."""
    result = tmp_path / "there.png"
    code = (
        "import sys; from pathlib import Path; from aecli import device, winograd; from aecli.images import *;"
        "from aecli.denoising import denoise_picture; from aecli.weights import load_weights; compute = device.select();"
        "done = denoise_picture(read_picture(Path(sys.argv[1])), load_weights('photo-denoise'), compute, sigma=25);"
        "to_pil(done.picture).save(sys.argv[2]); print(compute, winograd.available())"
    )
    avx2 = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code, str(DATA / "colosseum.png"), str(result)]
    done = subprocess.run(command, env=avx2, capture_output=True, text=True, check=True)
    precision, has_winograd = done.stdout.rsplit(maxsplit=1)
    assert precision == "cpu fp32"
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") and torch.backends.nnpack.is_available():
        assert has_winograd == "True"
    here = denoise_picture(read_picture(DATA / "colosseum.png"), load_weights("photo-denoise"), select("cpu", "fp32"), sigma=25)
    assert np.abs(here.picture.pixels.astype(int) - read_picture(result).pixels).max() <= 1
