"""A picture unlike the training data is told from one that is like it."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_codec, tiny_dense
from PIL import Image

from aecli.anomalies import QUANTILE, binomial_tail, can_judge, error_quantiles, is_unlike, judge, knows_errors, quantiles_of
from aecli.compression import coder_for, encode_and_measure, encode_picture
from aecli.device import select
from aecli.errors import UsageError
from aecli.images import Picture, from_array
from aecli.training import Request, train
from aecli.training.data import load_dataset
from aecli.weights import Weights, card_of, load_weights


@pytest.mark.parametrize(("least", "count"), [(1, 1), (1, 8), (2, 8), (8, 8), (130, 100_000), (1_100, 1_000_000)])
def test_the_binomial_tail_is_scipys(least: int, count: int) -> None:
    from scipy.special import bdtrc

    assert binomial_tail(least, count, 0.001) == pytest.approx(bdtrc(least - 1, count, 0.001), rel=1e-6)


def picture(pixels: np.ndarray) -> Picture:
    return Picture(pixels, mode="L")


def digits(count: int) -> list[np.ndarray]:
    test = load_dataset("mnist").test
    return [np.asarray(test.images[i]).reshape(28, 28, 1).astype(np.uint8) for i in range(count)]


def test_digits_are_like_the_training_data_and_noise_is_not() -> None:
    weights, compute = load_weights("mnist-conv"), select("cpu", "fp32", 1)
    verdicts = [judge(picture(digit), weights, compute)[0] for digit in digits(200)]
    assert sum(v.unlike for v in verdicts) <= 3
    noise = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    strange, evidence = judge(picture(noise), weights, compute)
    assert strange.unlike
    assert strange.error > strange.limit
    assert strange.rank > max(v.rank for v in verdicts)
    assert np.array_equal(np.array(evidence.seen)[:, :, 1], noise[:, :, 0])
    assert evidence.reconstruction.size == (28, 28)
    assert evidence.heat.shape == (28, 28)
    assert evidence.heat.mean() == pytest.approx(strange.error, rel=1e-4)


def test_one_strange_patch_among_many_digits_is_noticed_and_seen_in_the_heat_map() -> None:
    weights, compute = load_weights("mnist-conv"), select("cpu", "fp32", 1)
    sheet = np.concatenate(digits(4), axis=1)
    assert not judge(picture(sheet), weights, compute)[0].unlike
    assert not is_unlike(picture(sheet), weights, compute)
    sheet[:, 28:84] = 255 - sheet[:, 28:84]
    verdict, evidence = judge(picture(sheet), weights, compute)
    assert verdict.unlike
    assert is_unlike(picture(sheet), weights, compute)
    left, middle, right = evidence.heat[:, :28], evidence.heat[:, 28:84], evidence.heat[:, 84:]
    assert middle.mean() > 5 * max(left.mean(), right.mean())


def test_weights_without_errors_are_refused() -> None:
    with pytest.raises(UsageError, match="feature autoencoder"):
        judge(picture(digits(1)[0]), load_weights("photo-denoise"), select("cpu", "fp32", 1))


def test_weights_without_the_quantile_do_not_judge() -> None:
    weights = load_weights("mnist-conv")
    assert knows_errors(weights)
    assert not knows_errors(replace(weights, card=replace(weights.card, error_quantiles={"0.5": 0.002})))


def test_weights_of_whole_reduced_pictures_see_the_picture_reduced(photograph) -> None:
    weights = dense_of(photograph, resize=8)
    _, evidence = judge(photograph, weights, select("cpu", "fp32", 1))
    assert evidence.seen.size == (8, 8)
    expected = photograph.pixels[:, 10:190].reshape(180, 180, 3).mean()
    assert np.array(evidence.seen).mean() == pytest.approx(expected, abs=2)
    assert can_judge(from_array(photograph.pixels[:3, :3]), weights)


def test_a_picture_smaller_than_a_patch_cannot_be_judged(photograph) -> None:
    weights = dense_of(photograph, resize=0)
    assert can_judge(photograph, weights)
    assert not can_judge(from_array(photograph.pixels[:7]), weights)


def dense_of(photograph: Picture, *, resize: int):
    model = tiny_dense(channels=3)
    card = card_of(model, "dense", task="features", training_data="", steps=0, resize=resize, error_quantiles={QUANTILE: 1e-3})
    return Weights(model, card, "tiny", "")


def test_photographs_are_judged_by_the_codec_at_its_best() -> None:
    codec, compute = tiny_codec(), select("cpu", "fp32", 1)
    known = np.random.default_rng(0).integers(100, 130, (8, 128, 128, 3), dtype=np.uint8)
    quantiles = error_quantiles(codec, torch.from_numpy(known).permute(0, 3, 1, 2) / 255, compute)
    card = card_of(codec, "codec", task="compress", training_data="", steps=0, error_quantiles=quantiles)
    weights = Weights(codec, card, "tiny", "")
    unlike = np.random.default_rng(0).integers(0, 2, (300, 400, 3), dtype=np.uint8) * 255
    assert not any(is_unlike(from_array(patch), weights, compute) for patch in known)
    assert is_unlike(from_array(unlike), weights, compute)
    verdict, evidence = judge(from_array(unlike), weights, compute)
    assert verdict.unlike
    assert evidence.heat.shape == (300, 400)


def test_the_limit_of_few_pictures_lies_beyond_the_worst_of_them_and_that_of_many_is_their_quantile() -> None:
    def draw(count: int, seed: int) -> torch.Tensor:
        return torch.exp(-7 + 0.3 * torch.randn(count, generator=torch.Generator().manual_seed(seed)))

    limits = [quantiles_of(draw(12, seed))[QUANTILE] for seed in range(200)]
    share_beyond = sum((draw(1000, 1000 + seed) > limit).float().mean().item() for seed, limit in enumerate(limits)) / 200
    assert share_beyond == pytest.approx(0.001, abs=0.0006)
    many = draw(5000, 0)
    assert quantiles_of(many)[QUANTILE] == pytest.approx(torch.quantile(many, 0.999).item())
    assert quantiles_of(torch.full((12,), 0.25))[QUANTILE] == pytest.approx(0.25)
    assert quantiles_of(torch.tensor([1e-9, 0.9]))[QUANTILE] == 1.0  # two tell nothing
    assert not math.isnan(quantiles_of(torch.tensor([0.5]))[QUANTILE])


def test_evidence_of_a_large_picture_is_small() -> None:
    weights, compute = load_weights("mnist-conv"), select("cpu", "fp32", 1)
    _, evidence = judge(from_array(np.zeros((2100, 700, 1), np.uint8)), weights, compute)
    assert (evidence.seen.size, evidence.reconstruction.size, evidence.heat.shape) == ((171, 512), (171, 512), (512, 171))


def test_an_encoding_tells_what_the_judge_would_find_and_spares_it_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, compute = load_weights("mnist-conv"), select("cpu", "fp32", 1)
    sheet = np.concatenate(digits(3), axis=1)
    for shown in (picture(sheet), picture(255 - sheet)):
        verdict, _ = judge(shown, weights, compute)
        data, errors = encode_and_measure(shown, coder_for(weights, compute))
        assert data == encode_picture(shown, coder_for(weights, compute))
        assert errors is not None
        assert errors.mean().item() == pytest.approx(verdict.error, rel=1e-4)
        with monkeypatch.context() as patched:
            patched.setattr(type(weights.model), "forward", None)  # it cannot run
            assert is_unlike(shown, weights, compute, errors) == verdict.unlike


def test_weights_of_reduced_pictures_judge_them_reduced_whatever_the_encoding_found(photograph) -> None:
    weights, compute = dense_of(photograph, resize=8), select("cpu", "fp32", 1)
    found = is_unlike(photograph, weights, compute)
    for errors in (torch.zeros(5), torch.ones(5)):
        assert is_unlike(photograph, weights, compute, errors) == found


# ------------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def digits_and_a_stranger(tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    folder.mkdir()
    for index, digit in enumerate(digits(12)):
        Image.fromarray(digit[:, :, 0]).save(folder / f"digit{index:02}.png")
    Image.fromarray(255 - digits(1)[0][:, :, 0]).save(folder / "stranger $1$.png")
    return folder


def aecli(*arguments: object, cwd: Path, weights: str = "mnist-conv") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aecli", "anomalies", *map(str, arguments), "--threads", "1", "--weights", weights]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_the_stranger_comes_first_and_in_the_picture_and_decides_the_exit_status(digits_and_a_stranger, tmp_path) -> None:
    done = aecli(digits_and_a_stranger, "--json", "--fail-on-anomaly", cwd=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(lines)) == (3, 13), done.stderr
    assert lines[0]["input"].endswith("stranger $1$.png")
    assert [line["unlike_training_data"] for line in lines] == [True] + [False] * 12
    errors = [line["error"] for line in lines]
    assert errors == sorted(errors, reverse=True)
    with Image.open(tmp_path / "anomalies.png") as drawn:
        assert drawn.width > 1000


def test_a_broken_file_is_said_and_the_others_are_judged(digits_and_a_stranger, tmp_path) -> None:
    (digits_and_a_stranger / "broken.png").write_bytes(b"no picture")
    (digits_and_a_stranger / "stranger $1$.png").unlink()
    done = aecli(digits_and_a_stranger, "--top", 3, "-o", "worst.svg", "--fail-on-anomaly", cwd=tmp_path)
    assert done.returncode == 1
    assert "broken.png" in done.stderr
    assert len(re.findall(r"digit\d\d\.png", done.stdout)) == 3
    assert "0 of 12 unlike what mnist-conv was trained on" in done.stderr
    assert (tmp_path / "worst.svg").read_bytes().startswith(b"<?xml")


def test_weights_that_have_learned_nothing_are_refused_and_training_says_so(tmp_path, compute) -> None:
    told: list[str] = []
    for steps, learned in ((5, False), (300, True)):
        output = tmp_path / f"{steps}.safetensors"
        train(Request("dense", output, compute, steps=steps, tell=told.append), lambda p: None, lambda: False)
        weights = load_weights(output)
        assert weights.card.scores["mean_picture_error"] == pytest.approx(52.7, abs=1)
        if learned:
            judge(picture(digits(1)[0]), weights, compute)
        else:
            with pytest.raises(UsageError, match=r"have not learned their training data .* train them longer"):
                judge(picture(digits(1)[0]), weights, compute)
    warnings = [sentence for sentence in told if "has learned little" in sentence]
    assert len(warnings) == 1
    assert "5.safetensors" in warnings[0]


def test_wrong_usage_is_said_before_any_work(digits_and_a_stranger, tmp_path) -> None:
    (tmp_path / "anomalies.png").touch()
    for arguments, weights, sentence in (
        ((), "mnist-conv", "anomalies.png exists: pass --overwrite or another --output"),
        (("-o", "x.txt"), "mnist-conv", "x.txt: a figure must end in .png"),
        (("-o", "x.png"), "photo-denoise", "photo-denoise cannot tell"),
    ):
        done = aecli(digits_and_a_stranger, *arguments, cwd=tmp_path, weights=weights)
        assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr
