"""Tiles and patches: cut, worked on and put together again, nothing shows."""

import numpy as np
import pytest
import torch
from conftest import tiny_codec
from torch import nn

from aecli.errors import AecliError
from aecli.models.dense import DenseConfig
from aecli.patches import from_patches, some_patches, to_patches, to_tensor
from aecli.progress import watched
from aecli.tiling import map_tiles, spans


def convolution(seed=0, **options):
    torch.manual_seed(seed)
    return nn.Conv2d(2, 3, 5, **options).requires_grad_(False)


def counting(function):
    def counted(x):
        counted.sizes.append(tuple(x.shape[-2:]))
        return function(x)

    counted.sizes = []
    return counted


# ---------------------------------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 100])
def test_spans_keep_every_pixel_once_and_read_no_further_than_the_picture(length):
    parts = spans(length, 8, 3)
    kept = [i for s in parts for i in range(s.keep_start, s.keep_stop)]
    assert kept == list(range(length))
    for s in parts:
        assert s.keep_stop - s.keep_start <= 8
        assert s.read_start == max(0, s.keep_start - 3)
        assert s.read_stop == min(length, s.keep_stop + 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (9, 30), (33, 17)])
def test_tiles_that_overlap_by_the_receptive_field_equal_the_whole(height, width):
    conv, x = convolution(padding=2), torch.rand(1, 2, height, width)
    function = counting(conv)
    torch.testing.assert_close(map_tiles(function, x, tile=8, overlap=2), conv(x))
    assert len(function.sizes) == -(-height // 8) * -(-width // 8)
    assert max(h for h, _ in function.sizes) <= 8 + 2 * 2


def test_an_overlap_that_is_too_small_shows():
    conv, x = convolution(padding=2), torch.rand(1, 2, 30, 30)
    assert (map_tiles(conv, x, tile=8, overlap=1) - conv(x)).abs().max() > 0.01


def test_tiles_of_a_network_that_halves_the_resolution():
    down, x = convolution(padding=2, stride=2), torch.rand(1, 2, 34, 20)
    whole = down(x)
    assert whole.shape == (1, 3, 17, 10)
    torch.testing.assert_close(map_tiles(down, x, tile=8, overlap=2, down=2), whole)


def test_tiles_of_a_network_that_doubles_the_resolution():
    torch.manual_seed(0)
    up, x = nn.Sequential(nn.Conv2d(2, 12, 3, padding=1), nn.PixelShuffle(2)).requires_grad_(False), torch.rand(1, 2, 13, 21)
    whole = up(x)
    assert whole.shape == (1, 3, 26, 42)
    torch.testing.assert_close(map_tiles(up, x, tile=5, overlap=1, up=2), whole)


def test_tiles_of_the_codecs_transforms():
    """With the radii that the codec claims."""
    codec, x = tiny_codec(), torch.rand(1, 3, 192, 320)
    y = codec.analysis(x)
    overlap = -(-codec.analysis_radius // 16) * 16
    torch.testing.assert_close(map_tiles(codec.analysis, x, tile=64, overlap=overlap, down=16), y, atol=1e-4, rtol=1e-4)
    overlap = -(-codec.synthesis_radius // 16)
    level = torch.tensor([3.5])
    decoded = map_tiles(lambda y: codec.synthesis(y, level), y, tile=4, overlap=overlap, up=16)
    torch.testing.assert_close(decoded, codec.synthesis(y, level), atol=1e-4, rtol=1e-4)


# -------------------------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize(("height", "width"), [(8, 6), (16, 12), (9, 7), (23, 6), (8, 41)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_in_patches_and_back_is_the_same(height, width, channels):
    x = torch.rand(channels, height, width)
    patches, grid = to_patches(x, DenseConfig(channels=channels, height=8, width=6), "tiny")
    assert patches.shape == (-(-height // 8) * -(-width // 6), channels, 8, 6)
    assert torch.equal(patches[0], x[:, :8, :6])
    assert torch.equal(from_patches(patches, grid, channels=channels), x)


def test_the_last_patches_repeat_the_edge():
    patches, _ = to_patches(torch.arange(12.0).view(1, 3, 4), DenseConfig(height=2, width=3), "tiny")
    assert patches[:, 0].tolist() == [
        [[0, 1, 2], [4, 5, 6]],
        [[3, 3, 3], [7, 7, 7]],
        [[8, 9, 10], [8, 9, 10]],
        [[11, 11, 11], [11, 11, 11]],
    ]


def test_colours_are_converted_to_those_of_the_model_and_back():
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 4, 4)
    patches, grid = to_patches(red, DenseConfig(channels=1, height=4, width=4), "tiny")
    torch.testing.assert_close(patches, torch.full((1, 1, 4, 4), 0.299))  # BT.601, as Pillow
    assert from_patches(patches, grid, channels=3).shape == (3, 4, 4)

    grey = torch.rand(1, 4, 4)
    patches, grid = to_patches(grey, DenseConfig(channels=3, height=4, width=4), "tiny")
    assert torch.equal(patches[0], grey.expand(3, 4, 4))
    torch.testing.assert_close(from_patches(patches, grid, channels=1), grey)


@pytest.mark.parametrize(("height", "width", "count"), [(8, 6, 1), (17, 24, 8), (41, 60, 8), (41, 60, 100)])
@pytest.mark.parametrize("channels", [1, 3])
def test_some_patches_are_evenly_spread_among_all(height, width, count, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    shape = DenseConfig(channels=channels, height=8, width=6)
    patches, _ = to_patches(to_tensor(pixels), shape, "tiny")
    last, number = len(patches) - 1, min(count, len(patches))
    assert torch.equal(some_patches(pixels, shape, count), patches[[last * i // max(1, number - 1) for i in range(number)]])


@pytest.mark.parametrize(("height", "width"), [(7, 6), (8, 5), (1, 1)])
def test_a_picture_smaller_than_a_patch_is_refused(height, width):
    with pytest.raises(AecliError, match=rf"{width}×{height} is too small for tiny, which takes 6×8 and larger"):
        to_patches(torch.rand(1, height, width), DenseConfig(height=8, width=6), "tiny")


# ------------------------------------------------------------------------------------------------------------- progress


def test_every_tile_is_told_and_the_end():
    told = []
    with watched(lambda done, total: told.append((done, total))):
        map_tiles(nn.Identity(), torch.rand(1, 2, 16, 17), tile=8, overlap=1)
    map_tiles(nn.Identity(), torch.rand(1, 2, 16, 17), tile=8, overlap=1)
    assert told == [(n, 6) for n in range(7)]
