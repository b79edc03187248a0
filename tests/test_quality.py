"""The search for a quality: rates, fidelities and sizes that were asked for are met, or it is said what can be had."""

import pytest

from aecli import compression
from aecli.compression import coder_for, decode_picture, describe, encode_picture
from aecli.errors import AecliError, UsageError
from aecli.metrics import psnr
from aecli.patches import to_tensor
from aecli.quality import Target, search
from aecli.weights import load_weights


@pytest.fixture(scope="module")
def coder(compute):
    return coder_for(load_weights("photo-codec"), compute)


@pytest.mark.parametrize("bpp", [0.6, 0.8])
def test_bits_per_pixel_within_three_percent(coder, photograph, bpp):
    data = encode_picture(photograph, coder, quality=Target("bpp", bpp))
    assert describe(data, "a.npz").bits_per_pixel == pytest.approx(bpp, rel=0.03)


def test_psnr_within_a_tenth_of_a_decibel(coder, photograph):
    def psnr_at(quality):
        decoded = decode_picture(encode_picture(photograph, coder, quality=quality), "a.npz", lambda _: coder)
        return psnr(to_tensor(decoded.pixels), to_tensor(photograph.pixels))

    wanted = (psnr_at(20.0) + psnr_at(60.0)) / 2
    assert psnr_at(Target("psnr", wanted)) == pytest.approx(wanted, abs=0.1)


def test_as_many_bytes_as_fit(coder, photograph):
    data = encode_picture(photograph, coder, quality=Target("bytes", 2000))
    assert 1960 <= len(data) <= 2000
    assert encode_picture(photograph, coder, quality=Target("bytes", 10**7)) == encode_picture(photograph, coder, quality=100.0)


def test_the_picture_is_analysed_once(coder, photograph, monkeypatch):
    calls = []
    prepare = compression.StreamCoder.prepare
    monkeypatch.setattr(compression.StreamCoder, "prepare", lambda *a: calls.append(a) or prepare(*a))
    encode_picture(photograph, coder, quality=Target("bpp", 0.7))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("bpp", 40.0), "no quality comes to 40 bits a pixel"),
        (Target("psnr", 99.0), "no quality comes to 99 dB"),
        (Target("bytes", 20), "no quality comes to 20 bytes"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_can(coder, small_photograph, target, message):
    with pytest.raises(AecliError, match=rf"{message} \(they reach from .* to .*\): ask for another"):
        encode_picture(small_photograph, coder, quality=target)


def test_a_target_needs_weights_with_more_than_one_quality(dense_weights, compute, small_photograph):
    with pytest.raises(UsageError, match="have one quality only: leave --quality, --bpp, --psnr and --max-bytes out"):
        encode_picture(small_photograph, coder_for(dense_weights, compute), quality=Target("bpp", 0.7))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_targets_are_positive_numbers(value):
    with pytest.raises(UsageError, match="give a positive number"):
        Target("bpp", value)


@pytest.mark.parametrize("goal", [130, 5000, 9999])
def test_the_search_ends_close_to_any_goal_of_a_growing_size(goal):
    sizes = []

    def encode(quality):
        sizes.append(quality)
        return bytes(round(100 * 1.05**quality))

    data = search(encode, len, Target("bytes", goal))
    assert 0.98 * goal <= len(data) <= goal
    assert len(sizes) <= 16


def test_a_bound_that_only_steps_can_meet_is_kept():
    data = search(lambda quality: bytes(100 if quality < 33.3 else 1000), len, Target("bytes", 900))
    assert len(data) == 100
