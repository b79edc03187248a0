"""Training noise of the photograph denoiser: JPEG arithmetic, camera noise, the kinds, and their mixture."""

import io

import numpy as np
import pytest
import torch
from conftest import DATA, tiny_denoiser
from PIL import Image

from aecli.training.data import FolderSource
from aecli.training.drawings import Drawings
from aecli.training.noise import DRAWINGS, KINDS, PHOTOGRAPHS, degrade
from aecli.training.noise.camera import bayer_masks, bilinear, blurred, camera_noise, edge_aware, malvar, resampled
from aecli.training.noise.jpeg import jpeg
from aecli.training.noise.kinds import MAX_SIGMA
from aecli.training.noise.mixture import local_rms
from aecli.training.photos import DenoiserTask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def strengths(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


def photographs(side=96):
    """(4, 3, side, side), as files hold them."""
    pixels = np.asarray(Image.open(DATA / "photo.png").convert("RGB"))
    corners = [pixels[top : top + side, left : left + side] for top in (0, 60) for left in (10, 120)]
    return torch.from_numpy(np.stack(corners)).permute(0, 3, 1, 2).float() / 255


# -------------------------------------------------------------------------------------------------------------------- JPEG


@pytest.mark.parametrize("size", [(96, 96), (61, 83), (17, 5), (1, 1)])
@pytest.mark.parametrize("quality", [20, 50, 75, 92, 100])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_jpeg_equals_libjpeg_within_a_grey_level(size, quality, subsampling):
    x = photographs()[..., : size[0], : size[1]]
    result = jpeg(x, torch.full((4,), float(quality)), torch.full((4,), subsampling == "4:2:0"))
    for picture, decoded in zip(x, result, strict=True):
        buffer = io.BytesIO()
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        expected = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
        assert (decoded - expected).abs().max() <= 1.01 / 255


def test_each_picture_of_a_batch_has_its_own_jpeg_quality():
    x = photographs()
    quality, subsampled = torch.tensor([30.0, 95.0, 60.0, 75.0]), torch.tensor([True, False, False, True])
    alone = [jpeg(x[n : n + 1], quality[n : n + 1], subsampled[n : n + 1]) for n in range(4)]
    assert torch.equal(jpeg(x, quality, subsampled), torch.cat(alone))


# ------------------------------------------------------------------------------------------------------------------ camera


@pytest.mark.parametrize("demosaic", [bilinear, malvar, edge_aware])
@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_demosaicing_keeps_flat_colours_and_what_the_sensor_saw(demosaic, phase):
    colour = torch.tensor([0.2, 0.5, 0.7]).view(1, 3, 1, 1).expand(2, 3, 12, 10)
    masks = bayer_masks(colour, torch.tensor(phase).view(2, 1, 1, 1, 1).expand(2, 2, 1, 1, 1))
    assert torch.equal(masks.sum(dim=1), torch.ones(2, 12, 10))
    assert masks.mean(dim=(0, 2, 3)).tolist() == [0.25, 0.5, 0.25]
    torch.testing.assert_close(demosaic(colour, masks), colour)
    picture = torch.rand(2, 3, 12, 10, generator=seeded())
    torch.testing.assert_close(demosaic(picture, masks) * masks, picture * masks)


@pytest.mark.parametrize("demosaic", [malvar, edge_aware])
def test_better_demosaicing_is_nearer_the_truth_than_bilinear(demosaic):
    x = photographs()
    masks = bayer_masks(x, torch.zeros(2, 4, 1, 1, 1, dtype=torch.long))
    inner = (..., slice(4, -4), slice(4, -4))

    def error(method):
        return (method(x, masks) - x)[inner].square().mean()

    assert error(demosaic) < 0.7 * error(bilinear)


def test_camera_noise_is_correlated_and_its_colours_come_in_blotches():
    x = torch.full((64, 3, 64, 64), 0.4)
    noise = camera_noise(x, strengths(0.4).expand(64, 1, 1, 1), seeded()) - x
    luma = (noise * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1)
    chroma = noise[:, 2] - luma

    def correlation(plane, distance):
        products = (plane[..., distance:] * plane[..., : plane.shape[-1] - distance]).mean(dim=(1, 2))
        return (products / plane.square().mean(dim=(1, 2))).median()

    assert correlation(luma, 1) > 0.3
    assert correlation(chroma, 3) > correlation(luma, 3) + 0.2
    assert 0.5 < (luma.std(dim=(1, 2)) / chroma.std(dim=(1, 2))).median() < 2


def test_blur_keeps_the_mean_and_resampling_by_one_keeps_the_picture():
    x = photographs()
    torch.testing.assert_close(blurred(torch.ones(2, 3, 40, 40), strengths(0.5, 4.0)), torch.ones(2, 3, 40, 40))
    deviations = blurred(x[:1].expand(4, -1, -1, -1), strengths(0.5, 1.0, 2.0, 4.0)).std(dim=(1, 2, 3))
    assert (deviations.diff() < 0).all()
    torch.testing.assert_close(resampled(x, strengths(1.0, 1.0, 1.0, 1.0)), x, atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_noise_grows_with_its_strength_and_leaves_the_mean(kind):
    x = torch.full((12, 3, 48, 48), 0.5)
    differences = [kind(x, strengths(s).expand(12, 1, 1, 1), seeded()) - x for s in (0.0, 0.5, 1.0)]
    rms = [d.square().mean().sqrt().item() for d in differences]
    assert rms[0] < rms[1] < rms[2]
    assert rms[2] > 0.03
    assert all(d.mean().abs() < 0.25 * d.square().mean().sqrt() + 1e-3 for d in differences)
    again = kind(x, strengths(0.5).expand(12, 1, 1, 1), seeded())
    assert torch.equal(again - x, differences[1])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_no_kind_of_noise_makes_nan_of_black_or_white(kind, level):
    x = torch.full((5, 3, 32, 32), level)
    assert kind(x, torch.linspace(0, 1, 5).view(-1, 1, 1, 1), seeded()).isfinite().all()


# ----------------------------------------------------------------------------------------------------------------- mixture


@pytest.mark.parametrize("mixture", [PHOTOGRAPHS, DRAWINGS])
def test_shares_of_the_mixture_hold_in_every_batch(mixture):
    x = torch.rand(50, 3, 32, 32, generator=seeded(1))
    batch = degrade(x, seeded(), mixture)
    assert batch.noisy.shape == batch.clean.shape == x.shape
    assert batch.sigma.shape == (50, 1, 32, 32)
    assert abs(int(batch.excess.sum()) - 50 * mixture.excess) <= 1
    without_noise = (batch.sigma == 0).flatten(1).all(dim=1)
    assert abs(int(without_noise.sum()) - 50 * mixture.clean) <= 1
    assert torch.equal(batch.noisy[without_noise], batch.clean[without_noise])
    assert batch.told[without_noise].isnan().all()


def test_told_white_noise_has_the_level_that_is_told():
    x = torch.rand(400, 3, 32, 32, generator=seeded(1)) * 0.2 + 0.4
    batch = degrade(x, seeded())
    told = ~batch.told.isnan().flatten() & ~batch.excess & (batch.sigma == batch.sigma[..., :1, :1]).flatten(1).all(dim=1)
    assert told.float().mean() == pytest.approx(PHOTOGRAPHS.told_white, abs=0.01)
    rms = (batch.noisy - x)[told].square().mean(dim=(1, 2, 3)).sqrt()
    within = batch.told[told].flatten() < 0.1  # what is clipped is less
    torch.testing.assert_close(rms[within], batch.told[told].flatten()[within], rtol=0.1, atol=1e-3)
    assert batch.told[told].max() <= MAX_SIGMA


def test_excess_is_told_above_the_noise():
    batch = degrade(torch.rand(400, 3, 32, 32, generator=seeded(1)), seeded())
    level = batch.sigma[batch.excess].square().mean(dim=(1, 2, 3)).sqrt().clamp(max=MAX_SIGMA)
    told = batch.told[batch.excess].flatten()
    assert (told >= level - 1e-6).all()
    assert told.max() <= MAX_SIGMA + 1e-6
    assert (told - level).max() > 0.1


def test_blind_noise_is_that_of_files():
    x = torch.randint(0, 256, (200, 3, 32, 32), generator=seeded(1)) / 255
    batch = degrade(x, seeded())
    blind = batch.noisy[batch.told.isnan().flatten()]
    torch.testing.assert_close(blind, ((blind * 255).round() / 255).clamp(0, 1))


def test_grey_pictures_mostly_get_grey_noise():
    x = torch.rand(400, 1, 24, 24, generator=seeded(1)).expand(-1, 3, -1, -1)
    noisy = degrade(x, seeded()).noisy
    grey = (noisy == noisy[:, :1]).flatten(1).all(dim=1).float().mean()
    assert 0.7 < grey < 0.9  # those without noise too


def test_noise_around_a_pixel_is_that_of_its_neighbourhood():
    noise = torch.randn(1, 3, 80, 80, generator=seeded()) * torch.linspace(0.01, 0.2, 80)
    around = noise[..., 24:57, 34:67].square().mean().sqrt()
    torch.testing.assert_close(local_rms(noise)[0, 0, 40, 50], around)


def test_degrading_repeats_with_the_seed_and_small_batches_work():
    x = torch.rand(8, 3, 32, 32, generator=seeded(1))
    assert torch.equal(degrade(x, seeded(2)).noisy, degrade(x, seeded(2)).noisy)
    assert not torch.equal(degrade(x, seeded(2)).noisy, degrade(x, seeded(3)).noisy)
    for count in range(1, 5):
        assert degrade(x[:count], seeded(count)).noisy.shape == (count, 3, 32, 32)


# -------------------------------------------------------------------------------------------------------------------- task


def task(model):
    return DenoiserTask(model, FolderSource([DATA / "photo.png"], 32, 0), [], Drawings(32, 0, pages=3))


@pytest.mark.parametrize("size", [1, 2, 16])
def test_the_loss_is_finite_in_bfloat16_and_reaches_every_weight(size):
    model = tiny_denoiser().train().requires_grad_(True)
    training = task(model)
    for step in range(6):
        with torch.autocast("cpu", torch.bfloat16):
            loss = training.loss(training.source.batch(step, size), seeded(step))
        assert loss.isfinite()
        model.zero_grad(set_to_none=True)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_blind_patches_are_learned_with_the_estimated_level():
    model = tiny_denoiser()
    training = task(model)
    given = []
    forward = model.forward
    model.forward = lambda x, sigma: given.append((x, sigma)) or forward(x, sigma)
    training.loss(photographs(32), seeded(3))
    noisy, levels = given[-1]
    blind = training._degraded(photographs(32), seeded(3)).told.isnan().flatten()
    assert blind.any()
    torch.testing.assert_close(levels[blind], model.estimate(noisy)[blind])


def test_what_is_told_in_excess_is_learned_from_white_noise_of_that_level():
    model = tiny_denoiser()
    training = task(model)
    seed = next(s for s in range(50) if training._degraded(photographs(32), seeded(s)).excess.any())
    batch = training._degraded(photographs(32), seeded(seed))
    torch.manual_seed(5)
    target = training._target(batch)
    clean, told = batch.clean[batch.excess], batch.told[batch.excess]
    torch.manual_seed(5)
    noisy = clean + told * torch.randn_like(clean)
    torch.testing.assert_close(target[batch.excess], model(noisy, told.expand(-1, 1, 32, 32)))
    assert torch.equal(target[~batch.excess], batch.clean[~batch.excess])


# ---------------------------------------------------------------------------------------------------------------- drawings


def test_drawn_pages_differ_and_repeat_with_the_seed():
    first, again, other = (Drawings(64, seed, pages=20) for seed in (0, 0, 1))
    assert torch.equal(first.pages, again.pages)
    assert not torch.equal(first.pages, other.pages)
    assert (first.pages.float().std(dim=(1, 2, 3)) > 2).sum() >= 18  # hardly any is empty
    patches = first.batch(50, seeded())
    assert patches.shape == (50, 3, 64, 64)
    assert 0 <= patches.min() < 0.1 < 0.9 < patches.max() <= 1
    assert torch.equal(patches, first.batch(50, seeded()))


def test_drawings_fit_patches_larger_than_a_page():
    assert Drawings(500, 0, pages=2).batch(2, seeded()).shape == (2, 3, 500, 500)
