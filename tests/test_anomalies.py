"""A picture unlike the training data is told from one that is like it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aecli.anomalies import judge, knows_errors
from aecli.device import select
from aecli.errors import UsageError
from aecli.images import Picture
from aecli.training.data import load_dataset
from aecli.weights import load_weights


def picture(pixels: np.ndarray) -> Picture:
    return Picture(pixels, mode="L")


def digits(count: int) -> list[np.ndarray]:
    test = load_dataset("mnist").test
    return [np.asarray(test.images[i]).reshape(28, 28, 1).astype(np.uint8) for i in range(count)]


def test_digits_are_like_the_training_data_and_noise_is_not() -> None:
    weights, compute = load_weights("mnist-conv"), select("cpu", "fp32", 1)
    verdicts = [judge(picture(digit), weights, compute) for digit in digits(200)]
    assert sum(v.unlike for v in verdicts) <= 3
    noise = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    strange = judge(picture(noise), weights, compute)
    assert strange.unlike
    assert strange.error > strange.limit
    assert strange.heat.shape == (28, 28)
    assert strange.heat.mean() == pytest.approx(strange.error, rel=1e-4)


def test_one_strange_patch_among_many_digits_is_noticed() -> None:
    weights, compute = load_weights("mnist-conv"), select("cpu", "fp32", 1)
    sheet = np.concatenate(digits(4), axis=1)
    assert not judge(picture(sheet), weights, compute).unlike
    sheet[:, 28:84] = 255 - sheet[:, 28:84]
    assert judge(picture(sheet), weights, compute).unlike


def test_weights_without_errors_are_refused() -> None:
    with pytest.raises(UsageError, match="feature autoencoder"):
        judge(picture(digits(1)[0]), load_weights("photo-denoise"), select("cpu", "fp32", 1))


def test_weights_of_whole_pictures_or_without_the_quantile_do_not_judge_patches() -> None:
    weights = load_weights("mnist-conv")
    assert knows_errors(weights)
    assert not knows_errors(replace(weights, card=replace(weights.card, resize=28)))
    assert not knows_errors(replace(weights, card=replace(weights.card, error_quantiles={"0.5": 0.002})))
