"""Networks on many patches: what becomes of a picture's never depends on which others go through with them."""

from dataclasses import replace

import pytest
import torch
from conftest import FEATURES, tiny_dense, tiny_features

from aecli.models import build
from aecli.patches import call_size, goes_together, together
from aecli.weights import load_weights


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", FEATURES)
def test_a_picture_alone_gets_the_very_bits_that_it_gets_among_others(kind, bf16, compute):
    if bf16 and not torch.backends.mkldnn.is_available():
        pytest.skip("needs bfloat16 on the processor")
    model, compute = tiny_features(kind), replace(compute, bf16=bf16)
    for count, patches in ((18, 1), (7, 3)):
        pictures = list(torch.rand(count, patches, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
        pictures[5] = torch.zeros(patches, 1, 8, 8)  # as what calls are filled up with
        codes = together(model.encode, pictures, compute, model)
        for half, given in ((model.encode, pictures), (model.decode, codes), (model, pictures)):
            results = together(half, given, compute, model)
            assert len(results) == count
            for x, result in zip(given, results, strict=True):
                (alone,) = together(half, [x], compute, model)
                assert result.isfinite().all()
                assert result.shape[0] == patches
                assert torch.equal(alone, result)
        assert not torch.equal(results[0], results[1])


def test_nor_does_it_matter_how_many_threads_there_are(compute, three_threads):
    model = load_weights("mnist-conv").model
    pictures = list(torch.rand(16, 1, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    for picture, code in zip(pictures, together(model.encode, pictures, compute, model), strict=True):
        assert torch.equal(code, together(model.encode, [picture], compute, model)[0])


def test_calls_on_small_pictures_have_one_size_and_those_on_larger_ones_theirs(compute):
    def calls(pictures, patches, side):
        sizes = []
        parts = [torch.full((patches, 1, side, side), float(number)) for number in range(pictures)]
        results = together(lambda x: sizes.append(len(x)) or x + 1, parts, compute, tiny_dense(height=side, width=side))
        assert all(torch.equal(result, part + 1) for part, result in zip(parts, results, strict=True))
        return sizes

    assert calls(pictures=1, patches=1, side=28) == [16]
    assert calls(pictures=20, patches=1, side=28) == [16, 16]
    assert calls(pictures=5, patches=6, side=28) == [16, 16, 16]  # two at a time
    assert calls(pictures=2, patches=9, side=28) == [9, 9]
    assert calls(pictures=1, patches=600, side=28) == [512, 88]
    assert calls(pictures=5, patches=1, side=64) == [4, 4]
    assert calls(pictures=2, patches=1, side=128) == [1, 1]


def test_only_pictures_of_which_two_fit_into_a_call_go_together():
    digits = tiny_dense(height=28, width=28)
    assert call_size(28, 28) == 16
    assert goes_together(28, 28, digits)
    assert goes_together(2 * 28, 4 * 28, digits)
    assert not goes_together(2 * 28, 4 * 28 + 1, digits)
    assert goes_together(64, 64, tiny_dense(height=64, width=64))
    assert not goes_together(128, 128, tiny_dense(height=128, width=128))


@pytest.mark.parametrize(
    ("arch", "config"),
    [
        ("dense", {"height": 7, "width": 7}),
        ("deep", {"latent_dim": 3}),
        ("deep", {"hidden": (100, 5)}),
        ("sparse", {"latent_dim": 30, "sparsity": "kl:0.1"}),
    ],
)
def test_models_with_a_narrow_layer_take_one_picture_at_a_time(arch, config):
    assert not goes_together(28, 28, build(arch, config))
