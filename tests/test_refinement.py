"""Encoding with effort: fewer bits and a smaller error together, from the same decoder."""

from dataclasses import replace

import pytest
import torch

from aecli import compression
from aecli.compression import coder_for, decode_picture, encode_picture
from aecli.errors import UsageError
from aecli.refinement import refine
from aecli.weights import load_weights

QUALITY = 200 / 7  # the third of eight lambdas


@pytest.fixture(scope="module")
def codec_of(compute):
    """The shipped codec at an effort."""
    weights = load_weights("photo-codec")
    return lambda effort: coder_for(weights, compute, effort=effort)


def cost(data, coder, picture, quality=QUALITY):
    """Bits of the file's stream + lambda · 255² · squared error: what the codec was trained for."""
    decoded = decode_picture(data, "a.npz", lambda _: coder).pixels.astype(float)
    _, arrays = compression.read_container(data, "a.npz")
    squared_error = ((decoded - picture.pixels) ** 2).sum() / picture.pixels.shape[2]
    return 8 * arrays["stream"].size + coder.weights.model.lambda_of(7 * quality / 100) * squared_error


@pytest.mark.parametrize(("quality", "most"), [(0, 0.985), (QUALITY, 0.98), (80, 0.98)])
def test_effort_costs_less_and_more_of_it_less_still(codec_of, small_photograph, quality, most):
    costs = [
        cost(encode_picture(small_photograph, codec_of(e), quality=quality), codec_of(0), small_photograph, quality)
        for e in (0, 4, 12)
    ]
    assert costs[1] < 0.99 * costs[0]
    assert costs[2] < most * costs[0]
    assert costs[2] < 1.001 * costs[1]  # what is compared in rounds is an estimate of the bits


def test_it_is_repeatable(codec_of, small_photograph):
    first, second = (encode_picture(small_photograph, codec_of(2)) for _ in range(2))
    assert first == second != encode_picture(small_photograph, codec_of(0))


def test_in_tiles_it_gains_as_much(codec_of, photograph, monkeypatch):
    def costs(*efforts):
        return [cost(encode_picture(photograph, codec_of(e), quality=QUALITY), codec_of(0), photograph) for e in efforts]

    plain, whole = costs(0, 4)
    monkeypatch.setattr(compression, "REFINED_TILE", 8)  # of 12×16: the second reads from 4 on
    assert plain - costs(4)[0] > 0.7 * (plain - whole)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 31), (64, 64), (96, 65)])
def test_any_size_decodes_to_its_own_symbols(codec_weights, compute, picture_of, height, width):
    picture, coder = picture_of(height, width), coder_for(codec_weights, compute, effort=2)
    assert decode_picture(encode_picture(picture, coder), "a", lambda _: coder).pixels.shape == (height, width, 3)


def test_grey_is_refined_as_it_is_decoded(codec_of, small_photograph):
    grey = replace(small_photograph, pixels=small_photograph.pixels[..., 1:2], mode="L")
    files = [encode_picture(grey, codec_of(effort), quality=QUALITY) for effort in (0, 6)]
    assert decode_picture(files[1], "a", lambda _: codec_of(0)).mode == "L"
    plain, refined = (cost(data, codec_of(0), grey) for data in files)
    assert refined < 0.985 * plain


def test_within_the_callers_inference_mode(small_photograph):
    import aecli

    outside = aecli.encode(small_photograph.pixels, effort=1)
    with torch.inference_mode():
        assert aecli.encode(small_photograph.pixels, effort=1) == outside


def test_what_is_refined_is_coded_as_it_is(codec_weights, compute):
    """Of an untrained codec whose curvature says little, too."""
    model, generator = codec_weights.model, torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 64, 64, generator=generator)
    y = 5 * torch.randn(1, 8, 4, 4, generator=generator)
    features = torch.zeros(1, 8, 4, 4)
    refined = refine(model, x, y, features, 3.0, 3, compute)
    assert refined.shape == y.shape
    assert not torch.equal(refined.round(), y.round())
    again = refine(model, x, refined, features, 3.0, 0, compute)
    torch.testing.assert_close(again, refined)


def test_lambda_between_two_levels(codec_weights):
    model = codec_weights.model
    assert [model.lambda_of(float(level)) for level in range(8)] == pytest.approx(model.config.lambdas)
    assert model.lambda_of(2.5) == pytest.approx((model.config.lambdas[2] * model.config.lambdas[3]) ** 0.5)


def test_what_cannot_be_refined(dense_weights, codec_weights, compute):
    with pytest.raises(UsageError, match="have no use for --effort"):
        coder_for(dense_weights, compute, effort=1)
    with pytest.raises(UsageError, match="--effort -1 is below zero"):
        coder_for(codec_weights, compute, effort=-1)
