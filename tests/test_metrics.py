"""Scores, against values known by hand."""

import math

import pytest
import torch

from aecli.metrics import bd_rate, ms_ssim, psnr, ssim


def test_psnr_of_a_constant_difference():
    x = torch.full((3, 5, 4), 0.5)
    assert psnr(x + 0.1, x) == pytest.approx(20, abs=1e-5)
    assert psnr(x, x + 10 / 255) == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)
    assert psnr(x, x) == math.inf


def test_psnr_is_over_all_channels_together():
    x, y = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    y[0] = 0.3
    assert psnr(x, y) == pytest.approx(-10 * math.log10(0.03), abs=1e-5)


@pytest.mark.parametrize(("score", "smallest"), [(ssim, 11), (ms_ssim, 161)])
def test_structural_similarity(score, smallest):
    x = torch.rand(3, smallest, smallest + 4, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert score(x, x) == pytest.approx(1, abs=1e-6)
    assert 1 > score(x, x + 0.01 * noise) > score(x, x + 0.1 * noise) > score(x, noise)
    assert score(x[:, 1:], x[:, 1:]) is None


def test_structural_similarity_of_constants():
    """Without structure, only the comparison of means is left: (2ab + c) / (a² + b² + c)."""
    x, y = torch.full((1, 16, 16), 0.4), torch.full((1, 16, 16), 0.6)
    assert ssim(x, y) == pytest.approx((2 * 0.24 + 1e-4) / (0.16 + 0.36 + 1e-4), abs=1e-4)


CURVE = [(0.1, 25.0), (0.3, 29.0), (0.6, 32.0), (1.2, 35.5)]


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 3.0])
def test_bd_rate_of_a_curve_that_needs_a_constant_share_of_the_bits(factor):
    scaled = [(rate * factor, quality) for rate, quality in CURVE]
    assert bd_rate(CURVE, scaled) == pytest.approx((factor - 1) * 100)
    assert bd_rate(CURVE, scaled[::-1]) == pytest.approx((factor - 1) * 100)


def test_bd_rate_looks_only_where_the_qualities_overlap():
    assert bd_rate(CURVE, [(rate * 0.7, quality) for rate, quality in CURVE[1:]]) == pytest.approx(-30, abs=2)
    assert math.isnan(bd_rate(CURVE, [(rate, quality + 20) for rate, quality in CURVE]))


def test_bd_rate_between_two_qualities_leaves_the_rest_of_the_curves_out():
    middle = [quality for _, quality in CURVE][1:-1]
    other = [(rate * (0.7 if quality <= middle[-1] else 2), quality) for rate, quality in CURVE]
    assert bd_rate(CURVE, other, between=(0, middle[-2])) == pytest.approx(-30, abs=0.5)
    assert bd_rate(CURVE, other) > -29
    assert math.isnan(bd_rate(CURVE, other, between=(0, 1)))
