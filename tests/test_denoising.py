"""Denoising of pictures: what must stay as it is, tiles without seams, and the blind noise estimate."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import DATA, FEATURES, saved, tiny_codec, tiny_denoiser, tiny_dense, tiny_features
from torch import nn

from aecli import denoising
from aecli.denoising import denoise_picture, denoise_small, small_size
from aecli.errors import AecliError, UsageError
from aecli.images import from_array, read_picture
from aecli.metrics import psnr
from aecli.models.denoiser import LEAST_BLIND, MOST_BLIND, Denoiser
from aecli.tiling import TileSide
from aecli.training.noise.camera import camera_noise
from aecli.weights import load_weights


def noisy(pixels, sigma, seed=0):
    """As a file holds it: clipped and rounded to 8 bits."""
    noise = np.random.default_rng(seed).standard_normal(pixels.shape) * sigma
    return np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8)


def difference(a, b):
    return np.abs(a.pixels.astype(int) - b.pixels.astype(int)).max()


def camera_noisy(pixels, strength):
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
    x = camera_noise(x, torch.full((1, 1, 1, 1), strength), torch.Generator().manual_seed(7))
    return (x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


class WithEstimate(Denoiser):
    """A denoiser whose estimate is always the same."""

    def __init__(self, model, level):
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        self.level = level

    def estimate(self, x):
        return torch.full_like(x[:, :1], self.level)


# ----------------------------------------------------------------------------------------------------------- the picture


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (2, 3), (17, 31), (180, 200)])
def test_any_size(denoiser_weights, compute, picture_of, height, width):
    picture = picture_of(height, width)
    result = denoise_picture(picture, denoiser_weights, compute, sigma=25)
    assert result.picture.pixels.shape == picture.pixels.shape
    assert result.picture.pixels.dtype == np.uint8
    assert (result.sigma, result.estimated) == (25, False)


def test_the_result_is_the_networks_rounded_to_grey_levels(denoiser_weights, compute, small_photograph):
    x = torch.from_numpy(small_photograph.pixels).permute(2, 0, 1)[None].float() / 255
    expected = (denoiser_weights.model(x, torch.tensor([40 / 255]))[0].permute(1, 2, 0) * 255).clamp(0, 255).round()
    result = denoise_picture(small_photograph, denoiser_weights, compute, sigma=40).picture
    assert difference(result, small_photograph) > 0
    np.testing.assert_array_equal(result.pixels, expected.byte().numpy())


def test_sigma_0_and_strength_0_give_the_picture_back_bit_for_bit(denoiser_weights, compute, photograph):
    for options in ({"sigma": 0}, {"sigma": 25, "strength": 0}, {"strength": 0}):
        result = denoise_picture(photograph, denoiser_weights, compute, **options)
        np.testing.assert_array_equal(result.picture.pixels, photograph.pixels)


def test_strength_blends(denoiser_weights, compute, small_photograph):
    full, half = (
        denoise_picture(small_photograph, denoiser_weights, compute, sigma=60, strength=s).picture.pixels.astype(float)
        for s in (1, 0.5)
    )
    inside = (full > 0) & (full < 255)  # the blend comes before the clipping
    assert np.abs(half - (small_photograph.pixels + full) / 2)[inside].max() <= 1


def test_strength_above_1_multiplies_the_noise_level(denoiser_weights, compute, small_photograph):
    stronger = denoise_picture(small_photograph, denoiser_weights, compute, sigma=20, strength=1.5)
    higher = denoise_picture(small_photograph, denoiser_weights, compute, sigma=30)
    np.testing.assert_array_equal(stronger.picture.pixels, higher.picture.pixels)
    assert stronger.sigma == 20


@pytest.mark.parametrize("bits", [9, 12, 14])
@pytest.mark.parametrize("sigma", [None, 2.0])
def test_16_bits_of_which_few_are_used_are_denoised_as_if_they_were_all(denoiser_weights, compute, photograph, bits, sigma):
    unused = 16 - bits
    full = replace(photograph, pixels=(photograph.pixels.astype(np.uint16) << 8 | 255) >> unused << unused)
    low = replace(full, pixels=full.pixels >> unused)
    given = None if sigma is None else sigma / 2**unused
    a = denoise_picture(full, denoiser_weights, compute, sigma=sigma)
    b = denoise_picture(low, denoiser_weights, compute, sigma=given)
    assert b.sigma == pytest.approx(a.sigma / 2**unused, rel=0.02)
    assert np.abs(a.picture.pixels / 2.0**unused - b.picture.pixels).max() <= 2
    assert b.picture.pixels.max() < 2**bits


@pytest.mark.parametrize("size", [(20, 30), (96, 128)])
def test_equal_channels_stay_equal(denoiser_weights, compute, small_photograph, size):
    grey = np.repeat(small_photograph.pixels[: size[0], : size[1], 1:2], 3, axis=2)
    for sigma in (None, 30):
        result = denoise_picture(replace(small_photograph, pixels=grey), denoiser_weights, compute, sigma=sigma).picture.pixels
        assert result.shape == grey.shape
        assert (result == result[..., :1]).all()


def test_colour_that_alpha_hides_stays_where_the_rest_is_grey(denoiser_weights, compute, small_photograph):
    grey = replace(small_photograph, pixels=np.repeat(small_photograph.pixels[..., 1:2], 3, axis=2))
    picture, visible = masked(grey, [255, 0, 255])
    result = denoise_picture(picture, denoiser_weights, compute, sigma=30).picture.pixels
    assert (result[visible] == result[visible][:, :1]).all()
    assert (result[~visible] == [255, 0, 255]).all()


def few_coloured(count, height=40, width=60):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(count, 3)).astype(np.uint8)[rng.integers(count, size=(height, width))]


@pytest.mark.parametrize("count", [1, 2, 16])
def test_a_picture_of_few_colours_is_left_as_it_is(denoiser_weights, compute, count):
    for size in ((40, 60), (90, 80)):  # small and large ones take different ways
        picture = from_array(few_coloured(count, *size))
        result = denoise_picture(picture, denoiser_weights, compute)
        np.testing.assert_array_equal(result.picture.pixels, picture.pixels)
        assert (result.sigma, result.colours, result.unlike) == (0, count, count > 1)


def test_a_picture_of_few_colours_is_denoised_where_the_level_is_told(denoiser_weights, compute):
    picture = from_array(few_coloured(4))
    result = denoise_picture(picture, denoiser_weights, compute, sigma=40)
    assert result.colours is None
    assert difference(result.picture, picture) > 0


def test_more_colours_and_pictures_too_small_to_tell_are_denoised(denoiser_weights, compute, small_photograph):
    for pixels in (few_coloured(17), small_photograph.pixels[:8, :8], small_photograph.pixels):
        assert denoise_picture(from_array(pixels), denoiser_weights, compute).colours is None


@pytest.mark.parametrize(("estimate", "used"), [(0.9, MOST_BLIND), (0.0, LEAST_BLIND)])
def test_an_estimate_never_leaves_the_noise_of_training(denoiser_weights, compute, photograph, estimate, used):
    loud = replace(denoiser_weights, model=WithEstimate(denoiser_weights.model, estimate))
    for picture in (photograph, replace(photograph, pixels=photograph.pixels[:40, :50])):
        blind = denoise_picture(picture, loud, compute)
        told = denoise_picture(picture, denoiser_weights, compute, sigma=255 * used)
        np.testing.assert_array_equal(blind.picture.pixels, told.picture.pixels)


@pytest.mark.parametrize("kind", ["white", "camera", "clean"])
@pytest.mark.parametrize("size", [(50, 60), (180, 200)])
def test_the_noise_level_that_is_stated_is_what_was_removed(shipped, compute, photograph, kind, size):
    clean = photograph.pixels[: size[0], : size[1]]
    given = {"white": noisy(clean, 20), "camera": camera_noisy(clean, 0.4), "clean": clean}[kind]
    for pixels in (given, given[..., 1:2], given.astype(np.uint16) * 257):
        result = denoise_picture(from_array(pixels), shipped, compute)
        removed = np.sqrt(np.square(result.picture.pixels - pixels.astype(float)).mean()) * 255 / np.iinfo(pixels.dtype).max
        assert result.sigma == pytest.approx(removed, rel=0.05, abs=0.2)


@pytest.mark.parametrize("strength", [0.15, 0.4])
def test_more_is_more_on_camera_noise(shipped, compute, photograph, strength):
    picture = from_array(camera_noisy(photograph.pixels, strength))

    def removed(**options):
        return np.abs(denoise_picture(picture, shipped, compute, **options).picture.pixels - picture.pixels.astype(float)).mean()

    for amounts in ([removed(sigma=s) for s in (2, 5, 8, 15, 25, 40, 60)], [removed(strength=s) for s in (0.5, 1, 1.5, 2)]):
        assert all(more >= 0.99 * less for less, more in pairwise(amounts)), amounts


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (15, 16), (70, 90)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_black_white_flat_and_tiny_pictures_have_an_estimate(shipped, compute, value, size, dtype):
    pixels = np.full((*size, 3), value * (257 if dtype == np.uint16 else 1), dtype)
    result = denoise_picture(from_array(pixels), shipped, compute)
    assert 0 <= result.sigma < 3
    assert np.abs(result.picture.pixels.astype(int) - pixels).max() <= np.iinfo(dtype).max / 255


def test_brightness_does_not_shift_with_a_multiple_of_the_picture(denoiser_weights, compute, small_photograph):
    """The network is homogeneous: half the light with half the noise is denoised to half the picture."""
    dark = replace(small_photograph, pixels=(small_photograph.pixels.astype(np.uint16) * 128))
    light = replace(small_photograph, pixels=(small_photograph.pixels.astype(np.uint16) * 256))
    a = denoise_picture(dark, denoiser_weights, compute, sigma=10).picture.pixels.astype(float) * 2
    b = denoise_picture(light, denoiser_weights, compute, sigma=20).picture.pixels.astype(float)
    inside = (b > 0) & (b < 65535)
    assert np.abs(a - b)[inside].max() <= 4  # of 65535


def test_grey_stays_grey_and_is_denoised_like_equal_channels(denoiser_weights, compute, small_photograph):
    grey = replace(small_photograph, pixels=small_photograph.pixels[..., 1:2], mode="L")
    colour = replace(grey, pixels=np.repeat(grey.pixels, 3, axis=2), mode="RGB")
    a, b = (denoise_picture(p, denoiser_weights, compute, sigma=25).picture.pixels for p in (grey, colour))
    assert a.shape == (96, 128, 1)
    inside = ((b > 0) & (b < 255)).all(axis=2)
    assert np.abs(a[..., 0] - b.mean(axis=2))[inside].max() <= 1


def test_sixteen_bits_stay_sixteen(denoiser_weights, compute, small_photograph):
    deep = replace(small_photograph, pixels=small_photograph.pixels.astype(np.uint16) * 257)
    a = denoise_picture(deep, denoiser_weights, compute, sigma=25).picture.pixels
    b = denoise_picture(small_photograph, denoiser_weights, compute, sigma=25).picture.pixels
    assert a.dtype == np.uint16
    assert np.abs(a / 257 - b).max() <= 0.51
    assert (a % 257 != 0).any()


def test_alpha_and_metadata_pass_through(denoiser_weights, dense_denoiser_weights, compute, small_photograph):
    alpha = np.arange(96 * 128, dtype=np.uint8).reshape(96, 128)
    picture = replace(small_photograph, alpha=alpha, icc=b"profile", exif=b"Exif\0\0", dpi=(72, 72))
    for weights in (denoiser_weights, dense_denoiser_weights):
        result = denoise_picture(picture, weights, compute).picture
        np.testing.assert_array_equal(result.alpha, alpha)
        assert (result.icc, result.exif, result.dpi, result.mode) == (b"profile", b"Exif\0\0", (72, 72), "RGB")


def masked(picture, hidden_colour):
    """A disc of the picture is visible; `hidden_colour` lies around it."""
    height, width = picture.pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    visible = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) * 0.4) ** 2
    alpha = np.where(visible, 255, 0).astype(picture.pixels.dtype)
    pixels = np.where(visible[..., None], picture.pixels, np.asarray(hidden_colour, picture.pixels.dtype))
    return replace(picture, pixels=pixels, alpha=alpha), visible


@pytest.mark.parametrize("sigma", [25, None])
def test_colour_under_alpha_0_neither_reaches_what_is_visible_nor_changes(
    denoiser_weights, dense_denoiser_weights, compute, small_photograph, sigma
):
    for weights in (denoiser_weights, dense_denoiser_weights) if sigma is None else (denoiser_weights,):
        results = []
        for colour in ([255, 0, 255], [0, 90, 0]):
            picture, visible = masked(small_photograph, colour)
            results.append(denoise_picture(picture, weights, compute, sigma=sigma))
            assert (results[-1].picture.pixels[~visible] == colour).all()
            np.testing.assert_array_equal(results[-1].picture.alpha, picture.alpha)
        np.testing.assert_array_equal(results[0].picture.pixels[visible], results[1].picture.pixels[visible])
        assert results[0].sigma == results[1].sigma


def test_a_wholly_transparent_picture_stays_as_it_is(denoiser_weights, compute, small_photograph):
    picture = replace(small_photograph, alpha=np.zeros((96, 128), np.uint8))
    result = denoise_picture(picture, denoiser_weights, compute)
    np.testing.assert_array_equal(result.picture.pixels, picture.pixels)
    assert result.sigma == 0


def test_tiles_leave_no_seams(denoiser_weights, compute, photograph, monkeypatch):
    whole = denoise_picture(photograph, denoiser_weights, compute, sigma=50).picture
    tiles = []
    forward = denoiser_weights.model.forward
    monkeypatch.setattr(denoiser_weights.model, "forward", lambda x, sigma: tiles.append(x.shape) or forward(x, sigma))
    tiled = denoise_picture(photograph, denoiser_weights, compute, sigma=50, tile=32).picture
    assert len(tiles) == 6 * 7
    assert difference(whole, tiled) <= 1


def test_tiles_leave_no_seams_where_the_noise_is_estimated(denoiser_weights, compute, photograph):
    whole = denoise_picture(photograph, denoiser_weights, compute)
    tiled = denoise_picture(photograph, denoiser_weights, compute, tile=32)
    assert difference(whole.picture, tiled.picture) <= 1
    assert tiled.sigma == pytest.approx(whole.sigma, rel=1e-4)


def test_a_picture_little_larger_than_a_tile_is_done_whole(denoiser_weights, compute, picture_of, monkeypatch):
    tiles = []
    forward = denoiser_weights.model.forward
    monkeypatch.setattr(denoising, "TILE", 100)
    monkeypatch.setattr(denoiser_weights.model, "forward", lambda x, sigma: tiles.append(x.shape) or forward(x, sigma))
    denoise_picture(picture_of(110, 90), denoiser_weights, compute, sigma=50)
    assert tiles == [(1, 3, 110, 90)]


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (28, 28), (37, 50), (64, 64)])
@pytest.mark.parametrize("sigma", [None, 20.0])
def test_a_small_picture_s_result_does_not_depend_on_which_others_go_through_with_it(denoiser_weights, compute, size, sigma):
    rng = np.random.default_rng(0)
    pictures = [from_array(rng.integers(0, 256, (*size, channels), dtype=np.uint8)) for channels in (3, 1, 3) * 6]
    assert {small_size(picture, denoiser_weights) for picture in pictures} == {size}
    results = denoise_small(pictures, denoiser_weights, compute, sigma=sigma)
    for picture, result in zip(pictures, results, strict=True):
        alone = denoise_picture(picture, denoiser_weights, compute, sigma=sigma)
        np.testing.assert_array_equal(result.picture.pixels, alone.picture.pixels)
        assert (result.sigma, result.estimated) == (alone.sigma, alone.estimated)
    changed = any((result.picture.pixels != picture.pixels).any() for picture, result in zip(pictures, results, strict=True))
    assert changed or (size == (1, 1) and sigma is None)  # one pixel has no noise to see


def test_noise_levels_do_not_depend_on_the_place_in_a_call(shipped, compute, three_threads, monkeypatch):
    run, found = denoising._run, []
    monkeypatch.setattr(denoising, "_run", lambda *given: found.append(run(*given)) or found[-1])
    monkeypatch.setattr(shipped.model, "forward", lambda x, levels: x)
    pixels = np.random.default_rng(1).integers(0, 256, (16, 28, 28, 3), dtype=np.uint8)
    for shift in range(16):
        denoise_small([from_array(one) for one in np.roll(pixels, shift, axis=0)], shipped, compute)
    first = found[0][1][:16]
    for shift, (_, levels) in enumerate(found):
        assert torch.equal(levels[:16].roll(-shift, 0), first)


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("size", [(8, 8), (13, 20)])
def test_nor_does_it_by_a_feature_autoencoder(kind, size, compute, tmp_path):
    weights = saved(tmp_path / "tiny.safetensors", tiny_features(kind), FEATURES[kind][0], task="denoise", noise="gaussian:0.5")
    rng = np.random.default_rng(0)
    pictures = [from_array(rng.integers(0, 65536, (*size, channels), dtype=np.uint16)) for channels in (3, 1, 4) * 2]
    assert {small_size(picture, weights) for picture in pictures} == {size}
    for picture, result in zip(pictures, denoise_small(pictures, weights, compute, strength=0.9), strict=True):
        alone = denoise_picture(picture, weights, compute, strength=0.9)
        np.testing.assert_array_equal(result.picture.pixels, alone.picture.pixels)
        assert (result.sigma, result.estimated) == (None, False)
        assert (result.picture.pixels != picture.pixels).any()


def test_only_small_pictures_go_together(denoiser_weights, dense_denoiser_weights, picture_of):
    assert small_size(picture_of(64, 64), denoiser_weights) == (64, 64)
    assert small_size(picture_of(64, 65), denoiser_weights) is None
    assert small_size(picture_of(16, 32), dense_denoiser_weights) == (16, 32)  # eight patches
    assert small_size(picture_of(17, 32), dense_denoiser_weights) is None


def test_small_pictures_are_restored_patch_by_patch(dense_denoiser_weights, compute, small_photograph):
    grey = replace(small_photograph, pixels=small_photograph.pixels[..., :1], mode="L")
    result = denoise_picture(grey, dense_denoiser_weights, compute)
    assert (result.sigma, result.estimated) == (None, False)
    patch = torch.from_numpy(grey.pixels[8:16, 16:24, 0]).float()[None, None] / 255
    expected = (dense_denoiser_weights.model(patch)[0, 0] * 255).round().byte().numpy()
    np.testing.assert_array_equal(result.picture.pixels[8:16, 16:24, 0], expected)
    assert denoise_picture(small_photograph, dense_denoiser_weights, compute).picture.pixels.shape == (96, 128, 3)


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -1}, "--sigma -1 is out of range: give 0 to 255"),
        ({"sigma": 300}, "--sigma 300 is out of range"),
        ({"sigma": float("nan")}, "--sigma nan is out of range"),
        ({"strength": -0.1}, "--strength -0.1 is out of range: give 0 to 2"),
        ({"strength": 2.1}, "--strength 2.1 is out of range"),
        ({"strength": float("nan")}, "--strength nan is out of range"),
    ],
)
def test_options_out_of_range_are_refused(denoiser_weights, compute, picture_of, options, message):
    with pytest.raises(UsageError, match=message):
        denoise_picture(picture_of(4, 4), denoiser_weights, compute, **options)


def test_weights_that_do_not_fit_are_refused(dense_weights, dense_denoiser_weights, codec_weights, compute, picture_of, tmp_path):
    for weights, task in ((dense_weights, "features"), (codec_weights, "compress")):
        with pytest.raises(UsageError, match=rf"are for another task \({task}\): pass weights trained to denoise"):
            denoise_picture(picture_of(9, 9), weights, compute)
    with pytest.raises(UsageError, match=r"know one noise level only \(gaussian:0\.5\): leave --sigma out"):
        denoise_picture(picture_of(9, 9), dense_denoiser_weights, compute, sigma=10)
    with pytest.raises(AecliError, match="a picture of 5×9 is too small for tiny-dense-denoiser"):
        denoise_picture(picture_of(9, 5), dense_denoiser_weights, compute)
    liar = saved(tmp_path / "liar.safetensors", tiny_codec(), "codec", task="denoise")
    with pytest.raises(AecliError, match="weights liar hold a codec, which does not denoise"):
        denoise_picture(picture_of(9, 9), liar, compute)


# -------------------------------------------------------------------------------------------------------- noise estimate


@pytest.fixture(scope="module")
def shipped():
    return load_weights("photo-denoise")


def estimate(pixels, weights, compute):
    return denoise_picture(from_array(pixels), weights, compute).sigma


@pytest.mark.parametrize("sigma", [10, 25, 50])
def test_the_noise_estimate_is_within_ten_percent(shipped, compute, photograph, sigma):
    with_noise = noisy(photograph.pixels, sigma)
    assert estimate(with_noise, shipped, compute) == pytest.approx(sigma, rel=0.1)
    assert estimate(with_noise[..., 1:2], shipped, compute) == pytest.approx(sigma, rel=0.1)
    assert estimate(with_noise.astype(np.uint16) * 257, shipped, compute) == pytest.approx(
        estimate(with_noise, shipped, compute), rel=1e-4
    )


def test_tiles_of_the_shipped_weights_leave_no_seams_though_they_overlap_by_less_than_the_receptive_field(
    shipped, compute, photograph, monkeypatch
):
    assert shipped.model.receptive_radius > denoising.MAX_OVERLAP
    with_noise = from_array(noisy(photograph.pixels, 50))
    whole = denoise_picture(with_noise, shipped, compute).picture
    monkeypatch.setattr(denoising, "TILE", 32)
    assert difference(whole, denoise_picture(with_noise, shipped, compute).picture) <= 1


@pytest.mark.parametrize("sigma", [10, 25, 50])
def test_blind_is_as_good_as_told(shipped, compute, photograph, sigma):
    with_noise = from_array(noisy(photograph.pixels, sigma))
    blind, told = (psnr_of(denoise_picture(with_noise, shipped, compute, sigma=s).picture, photograph) for s in (None, sigma))
    assert psnr_of(with_noise, photograph) + 4 < told
    assert blind > told - 0.15


def test_clean_pictures_stay_what_they_are(shipped, compute, photograph):
    assert psnr_of(denoise_picture(photograph, shipped, compute).picture, photograph) > 38
    flat = np.full((40, 50, 3), 128, np.uint8)
    assert np.abs(denoise_picture(from_array(flat), shipped, compute).picture.pixels.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("name", ["arches", "colosseum", "photo", "skyline"])
def test_colours_of_clean_photographs_do_not_shift(shipped, compute, name):
    clean = read_picture(DATA / f"{name}.png")
    restored = denoise_picture(clean, shipped, compute).picture.pixels
    np.testing.assert_allclose(restored.mean(axis=(0, 1)), clean.pixels.mean(axis=(0, 1)), atol=0.5)


def test_what_alpha_hides_costs_little_of_what_it_leaves(shipped, compute, photograph):
    with_noise = replace(photograph, pixels=noisy(photograph.pixels, 25))
    whole = denoise_picture(with_noise, shipped, compute)
    picture, visible = masked(with_noise, [255, 0, 255])
    part = denoise_picture(picture, shipped, compute)
    assert part.sigma == pytest.approx(25, rel=0.1)
    errors = [np.square(done.picture.pixels[visible] - photograph.pixels[visible].astype(float)).mean() for done in (whole, part)]
    assert errors[1] < 1.3 * errors[0]


def test_tiles_leave_no_seams_where_alpha_hides_much(shipped, compute, photograph):
    picture, _ = masked(replace(photograph, pixels=noisy(photograph.pixels, 50)), [255, 0, 255])
    whole, tiled = (denoise_picture(picture, shipped, compute, tile=side).picture for side in (denoising.TILE, 64))
    assert difference(whole, tiled) <= 1


def test_noise_that_differs_from_place_to_place_is_seen_where_it_is(shipped, compute, photograph):
    with_noise = photograph.pixels.copy()
    with_noise[:, 90:] = noisy(with_noise, 30)[:, 90:]
    restored = denoise_picture(from_array(with_noise), shipped, compute).picture
    for columns, least in ((slice(0, 70), 36), (slice(110, 180), 26)):
        part, clean = (replace(p, pixels=p.pixels[:, columns]) for p in (restored, photograph))
        assert psnr_of(part, clean) > least


def psnr_of(picture, clean):
    return psnr(torch.from_numpy(picture.pixels) / 255, torch.from_numpy(clean.pixels) / 255)


def test_hardly_a_unit_of_the_shipped_denoiser_is_dormant(shipped, photograph):
    pictures = np.stack([noisy(photograph.pixels, 25), camera_noisy(photograph.pixels, 0.5)])  # the kinds it was trained on most
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    active = {}
    relus = {name: m for name, m in shipped.model.named_modules() if isinstance(m, nn.ReLU)}
    for name, relu in relus.items():
        relu.register_forward_hook(lambda _, __, out, name=name: active.update({name: (out > 0).float().mean(dim=(0, 2, 3))}))
    shipped.model(x, torch.tensor([25 / 255, 15 / 255]))
    for relu in relus.values():
        relu._forward_hooks.clear()
    assert len(active) == 12
    shares = torch.tensor([(units < 0.001).float().mean() for units in active.values()])
    assert shares.max() < 0.5 and shares.mean() < 0.1, "of a layer's units"


def test_every_denoiser_of_a_seed_is_the_same():
    """The fixtures above are what they are said to be."""
    assert torch.equal(tiny_denoiser().tail.weight, tiny_denoiser().tail.weight)
    assert not torch.equal(tiny_dense(0).encoder.weight, tiny_dense(1).encoder.weight)


def test_when_memory_runs_out_tiles_become_smaller_and_stay_so(denoiser_weights, compute, photograph, monkeypatch):
    whole = denoise_picture(photograph, denoiser_weights, compute, sigma=50).picture
    forward, tile, tried = denoiser_weights.model.forward, TileSide(512), []

    def short_of_memory(x, sigma):
        if x.shape[-1] > 190:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")
        return forward(x, sigma)

    def denoised(side):
        tried.append(side)
        return denoise_picture(photograph, denoiser_weights, compute, sigma=50, tile=side).picture

    monkeypatch.setattr(denoiser_weights.model, "forward", short_of_memory)
    assert difference(whole, tile.fitting_memory(denoised)) <= 1
    assert difference(whole, tile.fitting_memory(denoised)) <= 1
    assert tried == [512, 256, 128, 128]


def test_a_picture_that_does_not_fit_in_the_smallest_tiles_fails_and_other_errors_are_not_tried_again():
    tried = []

    def failing(side):
        tried.append(side)
        raise MemoryError if side > 200 else ValueError

    with pytest.raises(ValueError):
        TileSide(512).fitting_memory(failing)
    assert tried == [512, 256, 128]
    with pytest.raises(MemoryError):
        TileSide(200).fitting_memory(lambda side: failing(500))
