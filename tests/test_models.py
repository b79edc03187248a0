"""The architectures: what their docstrings promise of shapes, symmetries and optima."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_codec, tiny_conv, tiny_denoiser, tiny_dense
from torch import nn

from aecli.errors import AecliError, UsageError
from aecli.models import ARCHITECTURES, build, config_of
from aecli.models.codec import (
    ERROR_WEIGHT,
    WIDEST_DEAD_ZONE,
    Codec,
    CodecConfig,
    LogisticMixture,
    Modulation,
    checkerboard,
    dead_zone,
    gaussian_bits,
    lower_bound,
    rate_distortion,
    scale_of_index,
    symbols_near,
)
from aecli.models.conv import Vae, VaeConfig
from aecli.models.denoiser import Denoiser, DenoiserConfig
from aecli.models.dense import Dense, DenseConfig, Sparse, SparseConfig, active_share, parse_sparsity, squared_error
from aecli.models.layers import Float32Conv2d, HeadConv2d, ste_round

LIVE = {"slope": 0.1, "local_mean": True}  # a denoiser as it is trained from scratch
SMALL = {
    "dense": {"latent_dim": 4},
    "deep": {"latent_dim": 4, "hidden": [20, 10]},
    "sparse": {"latent_dim": 8, "sparsity": "kl:0.1"},
    "conv": {"latent_dim": 4, "widths": [4, 8]},
    "vae": {"latent_dim": 4, "widths": [4, 8], "beta": 2.0},
    "denoiser": {"widths": [4, 8], "blocks": 1},
    "codec": {"widths": [4, 4, 4], "blocks_down": [1, 1, 1], "blocks_up": [1, 1, 1], "latent": 4, "hyper": 2, "features": 4},
}
FEATURES = ("dense", "deep", "sparse", "conv", "vae")


# ------------------------------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_rebuilt_from_its_configuration(arch):
    model = build(arch, SMALL[arch])
    again = build(arch, config_of(model))
    assert again.config == model.config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    ("arch", "config", "message"),
    [
        ("dens", {}, "architecture dens is not known: there are dense, deep"),
        ("dense", {"latent": 3}, "does not fit architecture dense"),
        ("dense", {"latent_dim": -1}, "does not fit architecture dense"),
        ("dense", {"latent_dim": "many"}, "does not fit architecture dense"),
        ("conv", {"widths": []}, "does not fit architecture conv"),
        ("conv", {"widths": 3}, "does not fit architecture conv"),
        ("codec", {"widths": [4, 4]}, "does not fit architecture codec"),
        ("denoiser", [1, 2], "does not fit architecture denoiser"),
    ],
)
def test_what_cannot_be_built_is_a_sentence(arch, config, message):
    with pytest.raises(AecliError, match=message):
        build(arch, config)


# -------------------------------------------------------------------------------------------------- feature autoencoders


def test_a_code_of_two_numbers_is_never_worse_than_the_encoders_own_nor_than_any_of_the_codebook():
    torch.manual_seed(0)
    model = build("deep", {"latent_dim": 2, "hidden": [20, 10], "height": 8, "width": 8})
    x = torch.rand(50, 1, 8, 8)
    own = squared_error(model.decode(model.train().encode(x)), x)
    model.codebook.normal_(std=2)
    found = squared_error(model.eval()(x), x)
    best_known = torch.cdist(x.flatten(1), model.decode(model.codebook).flatten(1)).square().min(dim=1).values
    assert torch.allclose(found, torch.minimum(own, best_known), atol=1e-4)
    assert (found < own - 1e-3).any()


def test_codes_of_two_numbers_lie_close_together_however_far_the_network_spreads_them():
    model = build("deep", {"latent_dim": 2, "hidden": [20, 10], "height": 8, "width": 8}).eval()
    with torch.no_grad():
        model.encoder[-1].weight.mul_(1000)
    model.fill_codebook(torch.rand(len(model.codebook), 1, 8, 8))
    lengths = model.codebook.norm(dim=1)
    assert lengths.quantile(0.1).item() == pytest.approx(np.arcsinh(1), abs=1e-3)
    assert lengths.max() < 10


def test_a_picture_of_the_codebook_has_its_own_code():
    torch.manual_seed(0)
    model = build("deep", {"latent_dim": 3, "hidden": [20, 10], "height": 8, "width": 8}).eval()
    images = torch.rand(len(model.codebook), 1, 8, 8)
    model.fill_codebook(images)
    inside = model.encoder(images.flatten(1))
    assert torch.allclose(model.decode(model.codebook).flatten(1), model.decoder(inside).sigmoid(), atol=1e-5)
    assert torch.allclose(nn.functional.normalize(model.codebook), nn.functional.normalize(inside), atol=1e-5)
    decoded = model.decode(model.codebook[:20]).detach()
    assert squared_error(model(decoded), decoded).max() < 1e-3


@pytest.mark.parametrize("arch", FEATURES)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 13, 10)])
def test_feature_autoencoders_take_and_give_pictures_and_codes(arch, channels, height, width):
    model = build(arch, {**SMALL[arch], "channels": channels, "height": height, "width": width}).eval()
    x = torch.rand(5, channels, height, width)
    z = model.encode(x)
    x_hat = model.decode(z)
    assert z.shape == (5, SMALL[arch]["latent_dim"])
    assert x_hat.shape == x.shape
    assert ((x_hat >= 0) & (x_hat <= 1)).all()
    torch.testing.assert_close(model(x), x_hat)
    torch.testing.assert_close(model.encode(x[2:3]), z[2:3])  # a picture's code does not depend on its batch
    assert model.loss(x, x).shape == ()


def test_a_linear_dense_autoencoder_spans_the_subspace_of_pca():
    """Baldi & Hornik 1989: its only minima are the principal subspace's."""
    rng = np.random.default_rng(0)
    scales = np.array([5, 4, 3, 1, 0.5, 0.2])
    data = rng.standard_normal((200, 6)) * scales @ rng.standard_normal((6, 16)) / 20 + 0.5
    x = torch.from_numpy(data).view(-1, 1, 4, 4)
    torch.manual_seed(1)
    model = Dense(DenseConfig(height=4, width=4, latent_dim=3, activation="linear")).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3000, tolerance_grad=1e-10, tolerance_change=1e-16, history_size=30,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = model.loss(x, x)
        loss.backward()
        return loss

    optimizer.step(closure)
    centred = data - data.mean(axis=0)
    principal = np.linalg.svd(centred, full_matrices=False)[2][:3].T  # (16, 3)
    learned = np.linalg.qr(model.decoder.weight.detach().numpy())[0]  # (16, 3)
    cosines = np.linalg.svd(principal.T @ learned, compute_uv=False)
    assert np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))) < 0.1
    error_of_pca = (centred**2).sum() / len(data) - ((centred @ principal) ** 2).sum() / len(data)
    assert model.loss(x, x).item() == pytest.approx(error_of_pca, rel=1e-5)


def test_dense_with_relu_has_a_code_that_is_never_negative():
    assert (tiny_dense().encode(torch.rand(9, 1, 8, 8)) >= 0).all()
    assert (tiny_dense(activation="linear").encode(torch.rand(9, 1, 8, 8)) < 0).any()


def test_the_conv_autoencoder_takes_sizes_that_are_no_multiple_of_its_stride():
    model = tiny_conv()
    assert model.stride == 4
    assert model(torch.rand(2, 1, 13, 10)).shape == (2, 1, 13, 10)


def test_the_loss_of_a_feature_autoencoder_is_the_squared_error_summed_over_pixels():
    model, x, noisy = tiny_dense(), torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8)
    by_hand = sum(((model(noisy)[i] - x[i]) ** 2).sum() for i in range(3)) / 3
    torch.testing.assert_close(model.loss(noisy, x), by_hand)
    torch.testing.assert_close(squared_error(model(noisy), x).mean(), by_hand)


def test_the_vae_encodes_to_the_mean_and_pays_for_its_divergence_from_the_prior():
    torch.manual_seed(0)
    model = Vae(VaeConfig(height=8, width=8, latent_dim=3, widths=(4,), beta=1.0)).requires_grad_(False)
    x = torch.rand(6, 1, 8, 8)
    torch.testing.assert_close(model.encode(x), model.encode(x), rtol=0, atol=0)
    # With no weights and biases of (mean 2, log-variance 0) the divergence is 3 · 2² / 2 whatever the picture.
    model.to_code.weight.zero_()
    model.to_code.bias.copy_(torch.tensor([2.0, 2.0, 2.0, 0.0, 0.0, 0.0]))
    torch.manual_seed(1)
    plain = model.loss(x, x)
    model.config = VaeConfig(**{**config_of(model), "beta": 3.0})
    torch.manual_seed(1)
    torch.testing.assert_close(model.loss(x, x) - plain, torch.tensor(2 * 6.0))
    torch.testing.assert_close(model.encode(x), torch.full((6, 3), 2.0))


def test_the_l1_penalty_counts_activations_and_cannot_be_evaded_by_scaling():
    torch.manual_seed(0)
    model = Sparse(SparseConfig(height=8, width=8, latent_dim=16, sparsity="l1:0.5")).requires_grad_(False)
    x = torch.rand(4, 1, 8, 8)
    code = model.encode(x)
    torch.testing.assert_close(model.loss(x, x), squared_error(model.decode(code), x).mean() + 0.5 * code.sum(dim=1).mean())
    before = model(x)
    model.decoder.weight.mul_(7)
    torch.testing.assert_close(model(x), before)


def test_the_kl_penalty_is_zero_only_where_every_unit_is_active_to_its_share():
    torch.manual_seed(0)
    model = Sparse(SparseConfig(height=8, width=8, latent_dim=5, sparsity="kl:0.1")).requires_grad_(False)
    x = torch.rand(4, 1, 8, 8)
    model.encoder.weight.zero_()
    for mean_activation in (0.1, 0.3):
        model.encoder.bias.fill_(np.log(mean_activation / (1 - mean_activation)))
        penalty = model.loss(x, x) - squared_error(model(x), x).mean()
        divergence = 0.1 * np.log(0.1 / mean_activation) + 0.9 * np.log(0.9 / (1 - mean_activation))
        assert penalty.item() == pytest.approx(5 * divergence, abs=1e-4)


def test_a_top_k_code_has_so_many_units_active_and_its_refinements_explain_more():
    torch.manual_seed(0)
    config = SparseConfig(height=8, width=8, latent_dim=60, sparsity="topk:0.1", descents=0)
    model = Sparse(config).requires_grad_(False)
    x = torch.rand(20, 1, 8, 8)
    code = model.encode(x)
    assert (code >= 0).all()
    assert ((code > 0).sum(dim=1) <= 6).all()
    assert active_share(code) <= 0.1 + 1e-6
    once = model.encoder(x.flatten(1)).relu()
    once = once * (once >= once.topk(6, dim=1).values[:, -1:])
    assert squared_error(model.decode(code), x).mean() < squared_error(model.decode(once), x).mean()
    torch.testing.assert_close(model.loss(x, x), squared_error(model.decode(code), x).mean())


def test_descents_lower_every_error_with_as_few_units_and_are_not_made_in_training():
    torch.manual_seed(0)
    x, errors = torch.rand(20, 1, 8, 8), {}
    for descents in (0, 4, 16):
        torch.manual_seed(1)
        model = Sparse(SparseConfig(height=8, width=8, latent_dim=60, descents=descents)).requires_grad_(False)
        refined, descended = model.train().encode(x), model.eval().encode(x)
        assert (descents > 0) == (not torch.equal(refined, descended))
        assert ((descended > 0).sum(dim=1) <= 6).all()
        errors[descents] = squared_error(model.decode(descended), x)
    assert (errors[4] <= errors[0]).all() and (errors[16] <= errors[4]).all()
    assert errors[16].mean() < 0.95 * errors[0].mean()


@pytest.mark.parametrize("descents", [-1, 1001, 1.5])
def test_a_number_of_descents_that_cannot_be(descents):
    with pytest.raises(AecliError, match="descents are not within 0-1000"):
        build("sparse", {"descents": descents})


def test_active_share():
    assert active_share(torch.tensor([[0.0, 0.0, 5.0, 0.04], [0.06, 0.0, 0.0, 0.0]])) == 2 / 8


@pytest.mark.parametrize(
    ("text", "parsed"), [("l1:0.05", ("l1", 0.05)), ("l1:0", ("l1", 0)), ("kl:0.5", ("kl", 0.5)), ("topk:0.1", ("topk", 0.1))]
)
def test_sparsity_that_is_understood(text, parsed):
    assert parse_sparsity(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "l1", "l1:", "l1:x", "l1:-1", "l1:inf", "l1:nan", "kl:0", "kl:1", "kl:nan", "topk:0", "topk:1", "l2:1", "L1:1"]
)
def test_sparsity_that_is_not(text):
    with pytest.raises(UsageError, match="give topk:SHARE, l1:WEIGHT or kl:SHARE"):
        parse_sparsity(text)


# ------------------------------------------------------------------------------------------------------------- denoiser


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (2, 3), (16, 16), (17, 31)])
def test_the_denoiser_takes_any_size(height, width):
    x = torch.rand(2, 3, height, width)
    y = tiny_denoiser()(x, torch.tensor([0.1, 0.2]))
    assert y.shape == x.shape
    assert y.isfinite().all()


@pytest.mark.parametrize(("config", "centre"), [({}, 0.0), (LIVE, 0.5)])
def test_the_denoiser_is_homogeneous_of_degree_one(config, centre):
    """Without biases, a picture of half the contrast with half the noise is denoised alike (Mohan et al. 2020)."""
    model, x, sigma = tiny_denoiser(**config), torch.rand(2, 3, 24, 20), torch.tensor([0.1, 0.3])
    y = model(x, sigma)
    assert (y - x).abs().max() > 1e-3
    for a in (0.5, 0.1, 4.0):
        torch.testing.assert_close(model(centre + a * (x - centre), a * sigma), centre + a * (y - centre), rtol=1e-4, atol=1e-6)


def test_a_denoiser_that_sees_the_local_mean_apart_sees_texture_whatever_the_brightness():
    """All but three inputs of its head stay what they are when the light changes, at the edge of the picture too."""
    model, x = tiny_denoiser(**LIVE), torch.rand(1, 3, 24, 20)
    (texture, mean), (same, darker) = model._pixels(x), model._pixels(x - 0.3)
    torch.testing.assert_close(same, texture, rtol=0, atol=1e-6)
    torch.testing.assert_close(darker, mean - 0.3, rtol=0, atol=1e-6)
    assert texture.mean().abs() < 0.05 < mean.add(0.5).mean()


def test_an_untrained_denoiser_leaves_pictures_as_they_are():
    x = torch.rand(2, 3, 24, 20)
    assert torch.equal(Denoiser(DenoiserConfig(**LIVE))(x, torch.tensor([0.1, 0.3])), x)


@pytest.mark.parametrize("slope", [-0.1, 1.0, float("nan"), "steep"])
def test_a_denoisers_slope_is_checked(slope):
    with pytest.raises(AecliError, match="does not fit architecture denoiser"):
        build("denoiser", {"slope": slope})


def test_the_noise_level_may_be_a_number_a_picture_or_a_map():
    model, x, sigma = tiny_denoiser(), torch.rand(2, 3, 9, 14), torch.tensor([0.1, 0.3])
    as_map = sigma.view(2, 1, 1, 1).expand(2, 1, 9, 14)
    torch.testing.assert_close(model(x, as_map), model(x, sigma))
    assert not torch.allclose(model(x, sigma), model(x, sigma.flip(0)))


@pytest.mark.parametrize("config", [{}, LIVE])
def test_the_denoisers_output_depends_on_nothing_beyond_its_receptive_radius(config):
    model = tiny_denoiser(**config)
    radius = model.receptive_radius
    x = torch.rand(1, 3, 8, 2 * radius + 64).requires_grad_()
    middle = x.shape[3] // 2
    model(x, torch.tensor([0.1]))[..., middle].sum().backward()
    reached = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten() - middle
    assert reached.abs().max() <= radius
    assert reached.abs().max() > radius / 2  # nor is it a gross overestimate


def test_the_noise_estimate_depends_on_nothing_beyond_its_radius_either():
    model = tiny_denoiser()
    radius = model.blind_radius - model.receptive_radius
    x = torch.rand(1, 3, 8, 2 * radius + 64).requires_grad_()
    middle = x.shape[3] // 2
    model.estimate(x)[..., middle].sum().backward()
    reached = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten() - middle
    assert radius / 2 < reached.abs().max() <= radius


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (17, 31)])
def test_the_noise_estimate_is_a_map_of_positive_levels(height, width):
    sigma = tiny_denoiser().estimate(torch.rand(2, 3, height, width))
    assert sigma.shape == (2, 1, height, width)
    assert (sigma > 0).all()


# ---------------------------------------------------------------------------------------------------------------- codec


def test_the_codecs_shapes_and_what_its_output_means():
    model = tiny_codec()
    x = torch.rand(2, 3, 128, 64)
    y = model.analysis(x)
    assert y.shape == (2, 8, 8, 4)
    assert model.h_a(y).shape == (2, 4, 2, 1)
    assert model.h_s(model.h_a(y)).shape == y.shape
    assert model.synthesis(y, torch.tensor([0.0, 6.5])).shape == x.shape
    output = model(x, torch.tensor([0.0, 6.5]))
    assert output.x_hat.shape == x.shape
    assert output.bits_y.shape == output.bits_z.shape == (2,)
    assert (output.bits_y > 0).all()
    loss, bpp, mse = rate_distortion(output, x, torch.tensor([0.01, 0.02]))
    torch.testing.assert_close(mse, ((output.x_hat - x) ** 2).mean(dim=(1, 2, 3)))
    torch.testing.assert_close(bpp, (output.bits_y + output.bits_z) / (128 * 64))
    torch.testing.assert_close(loss, bpp + torch.tensor([0.01, 0.02]) * 255**2 * mse)


def test_gains_at_whole_levels_are_the_learned_ones_and_between_them_geometric_means():
    model = tiny_codec()
    levels = len(model.config.lambdas)
    gain, inverse = model.gains(torch.arange(levels).float())
    torch.testing.assert_close(gain[..., 0, 0], model.log_gain.exp())
    torch.testing.assert_close(inverse[..., 0, 0], model.log_inverse_gain.exp())
    between, _ = model.gains(torch.tensor([2.5]))
    torch.testing.assert_close(between[0], (gain[2] * gain[3]).sqrt())
    assert (gain[1:] > gain[:-1]).all()  # higher quality: finer steps


def test_modulations_begin_as_the_identity_and_follow_the_level():
    layer, x = Modulation(levels=3, channels=2), torch.rand(2, 2, 4, 4)
    assert torch.equal(layer(x, torch.tensor([0.0, 1.5])), x)
    layer.log_scale.data[:, 0] = torch.tensor([1.0, 2.0, 4.0]).log()
    layer.shift.data[:, 1] = torch.tensor([0.0, 1.0, 5.0])
    torch.testing.assert_close(layer(x, torch.tensor([2.0, 0.5]))[:, 0], torch.stack([4 * x[0, 0], 2**0.5 * x[1, 0]]))
    torch.testing.assert_close(layer(x, torch.tensor([1.5, 2.0]))[:, 1], torch.stack([x[0, 1] + 3, x[1, 1] + 5]))


def test_analysis_reaches_no_further_than_its_radius():
    model = tiny_codec()
    x = torch.rand(1, 3, 64, 640).requires_grad_()
    model.analysis(x)[..., 20].sum().backward()
    reached = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten() - 16 * 20
    assert model.analysis_radius / 3 < reached.abs().max() <= model.analysis_radius


@pytest.mark.parametrize("phase", [0, 7, 15])
def test_synthesis_reaches_no_further_than_its_radius(phase):
    model = tiny_codec()
    y = torch.rand(1, 8, 4, 40).requires_grad_()
    model.synthesis(y, torch.tensor([3.0]))[..., 16 * 20 + phase].sum().backward()
    reached = y.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten() - 20
    assert model.synthesis_radius / 16 / 3 < reached.abs().max() <= -(-model.synthesis_radius // 16)


def test_the_scale_table_spans_its_range_evenly_in_the_logarithm():
    scales = scale_of_index(torch.arange(64, dtype=torch.float64))
    assert scales[0].item() == pytest.approx(0.11)
    assert scales[63].item() == pytest.approx(256)
    assert torch.diff(scales.log()).std() < 1e-12
    assert scale_of_index(torch.tensor([-5.0, 99.0])).tolist() == pytest.approx([0.11, 256])


def test_a_checkerboard_has_every_second_position():
    assert checkerboard(2, 3).int().tolist() == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("index", [0.0, 7.0, 16.5, 30.0])
def test_the_dead_zone_takes_the_cheaper_of_zero_and_one(index):
    """Bits + ERROR_WEIGHT · squared error decide, but of what is an integer already."""
    v = torch.linspace(-1, 1, 401, dtype=torch.float64)
    sigma = scale_of_index(torch.tensor(index, dtype=torch.float64))
    costs = torch.stack([gaussian_bits(s, sigma) + ERROR_WEIGHT * (v - s) ** 2 for s in (torch.zeros_like(v), v.sign())])
    decided = (costs[0] - costs[1]).abs() > 1e-3
    chosen = symbols_near(v, torch.tensor(index, dtype=torch.float64))
    assert torch.equal(chosen[decided], torch.where((costs[0] < costs[1]) & (v.abs() < 1), 0, v.sign())[decided])


def test_the_dead_zone_is_wide_where_symbols_are_rare_and_leaves_integers_as_they_are():
    margins = dead_zone(scale_of_index(torch.arange(64, dtype=torch.float64)))
    assert (margins.diff() <= 0).all()
    assert margins[0] == WIDEST_DEAD_ZONE
    assert 0 <= margins[-1] < 1e-4
    integers, index = torch.arange(-5.0, 6.0), torch.arange(64.0)[:, None]
    assert torch.equal(symbols_near(integers, index), integers.expand(64, -1))


@pytest.mark.parametrize("sigma", [0.11, 1.0, 30.0])
def test_gaussian_bits_are_those_of_a_distribution_over_the_integers(sigma):
    v = torch.arange(-200, 201, dtype=torch.float64)
    probabilities = 2 ** -gaussian_bits(v, torch.tensor(sigma, dtype=torch.float64))
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-6)
    assert probabilities.argmax() == 200


def test_the_prior_of_z_is_a_distribution_over_the_integers():
    prior = LogisticMixture(3).double()
    values = torch.arange(-300, 301, dtype=torch.float64).expand(1, 3, 1, -1)
    torch.testing.assert_close(prior.probability(values).sum(dim=-1).flatten(), torch.ones(3, dtype=torch.float64))


def test_rounding_and_bounding_let_gradients_through():
    x = torch.tensor([0.3, 0.6, -1.7], requires_grad=True)
    rounded = ste_round(x)
    rounded.sum().backward()
    assert rounded.tolist() == [0.0, 1.0, -2.0]
    assert x.grad.tolist() == [1.0, 1.0, 1.0]

    x = torch.tensor([0.5, 0.5, 2.0], requires_grad=True)
    (lower_bound(x, 1.0) * torch.tensor([1.0, -1.0, 1.0])).sum().backward()
    assert x.grad.tolist() == [0.0, -1.0, 1.0]  # a descent step would raise the second: it is let through


def test_the_ends_of_a_network_stay_in_float32_under_autocast():
    x = torch.rand(1, 2, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Float32Conv2d(2, 2, 3)(x.bfloat16()).dtype == torch.float32
        assert HeadConv2d(2, 2, 3)(x).dtype == torch.bfloat16
    assert HeadConv2d(2, 2, 3)(x).dtype == torch.float32


def test_a_codec_starts_as_pca_of_blocks_of_16_pixels():
    model = tiny_codec()
    x = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    model.start_with_pca(x)
    for last in (model.g_a[-1], model.g_s[-2]):  # the deep networks are silent
        last.weight.zero_(), last.bias.zero_()
    blocks = F.pixel_unshuffle(x - 0.5, 16).transpose(0, 1).flatten(1)  # (768, 18)
    left_out = torch.linalg.svdvals(blocks)[model.config.latent :].square().sum()
    error = (model.synthesis(model.analysis(x), torch.zeros(3)) - x).square().sum()
    torch.testing.assert_close(error, left_out, rtol=1e-4, atol=0)


def test_training_gradients_reach_every_parameter_of_the_codec():
    torch.manual_seed(0)
    model = Codec(CodecConfig(widths=(8, 8, 8), blocks_down=(1, 1, 1), blocks_up=(1, 1, 1), latent=8, hyper=4))
    model.h_a[-1].weight.data.mul_(100)  # otherwise every z rounds to zero, and h_s sees nothing
    x = torch.rand(2, 3, 64, 64)
    loss, _, _ = rate_distortion(model(x, torch.tensor([3.0, 4.5])), x, torch.tensor([0.01, 0.02]))
    loss.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
