"""Training: batches, noise, the optimiser, the loop and its checkpoints, and from a request to a weights file."""

import copy
import gzip
import math
import pickle
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import DATA, saved, tiny_codec, tiny_denoiser, tiny_dense
from PIL import Image
from torch import nn

from aecli.anomalies import error_quantiles
from aecli.compression import coder_for, decode_picture, encode_picture
from aecli.denoising import denoise_picture
from aecli.device import select
from aecli.errors import AecliError, UsageError
from aecli.models.layers import ResidualBlock
from aecli.progress import duration
from aecli.training import Request, train
from aecli.training.data import (
    ArraySource,
    FolderSource,
    central_crops,
    folder_pictures,
    hold_out,
    load_dataset,
    read_idx,
    read_rgb,
)
from aecli.training.features import FeatureTask, evaluate
from aecli.training.loop import ANNEALING, WARM_UP, Budget, Trainer, learning_rate_factor
from aecli.training.noise import Noise, parse_noise
from aecli.training.optim import Muon, orthogonalise
from aecli.training.recycling import recycle
from aecli.weights import load_weights


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Results go there."""
    monkeypatch.chdir(tmp_path)


def never():
    return False


def ignore(progress):
    pass


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ----------------------------------------------------------------------------------------------------------------- batches


def test_an_epoch_shows_every_picture_once_in_an_order_of_its_own():
    source = ArraySource(torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1), seed=0)
    epochs = [torch.cat([source.batch(step, 4) for step in range(3 * e, 3 * e + 3)]).flatten() * 255 for e in range(2)]
    for epoch in epochs:
        assert epoch.round().sort().values.tolist() == list(range(12))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_an_epochs_last_batch_is_filled_up():
    source = ArraySource(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), seed=0)
    epoch = torch.cat([source.batch(step, 4) for step in range(3)]).flatten() * 255
    assert len(epoch) == 12
    assert set(epoch.round().tolist()) == set(range(10))
    assert source.batch(3, 4).shape == (4, 1, 1, 1)


def test_a_batch_is_a_function_of_seed_and_step_alone(photo_folder):
    images = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8, generator=seeded())
    paths = folder_pictures(str(photo_folder))
    for make in (lambda seed: ArraySource(images, seed), lambda seed: FolderSource(paths, 32, seed, grey_share=0.3)):
        walked = make(1)
        for step in range(30):
            walked.batch(step, 4)
        assert torch.equal(walked.batch(30, 4), make(1).batch(30, 4))
        assert not torch.equal(make(1).batch(30, 4), make(2).batch(30, 4))
        assert not torch.equal(make(1).batch(30, 4), make(1).batch(31, 4))


def test_patches_come_from_their_picture_flipped_and_turned():
    source = FolderSource([DATA / "arches.png"], 90, seed=0)
    x = source.batch(0, 8)
    assert x.shape == (8, 3, 90, 90)
    assert 0 <= x.min() < x.max() <= 1
    pixels = torch.from_numpy(read_rgb(DATA / "arches.png")).permute(2, 0, 1)  # (3, 96, 128)
    windows = pixels.unfold(1, 90, 1).unfold(2, 90, 1)  # (3, 7, 39, 90, 90)
    turns = set()
    for patch in (x * 255).round().byte():
        found = [
            (k, flip)
            for k in range(4)
            for flip in (False, True)
            if (windows == (patch.flip(2) if flip else patch).rot90(-k, (1, 2))[:, None, None])
            .all(dim=4)
            .all(dim=3)
            .all(dim=0)
            .any()
        ]
        assert found
        turns.add(found[0])
    assert len(turns) > 2


def test_pictures_are_drawn_by_the_root_of_their_area_and_small_ones_not_at_all(tmp_path):
    for name, size, level in (("large", 60, 200), ("small", 30, 100), ("tiny", 10, 50)):
        Image.new("RGB", (size, size), (level,) * 3).save(tmp_path / f"{name}.png")
    source = FolderSource(folder_pictures(str(tmp_path)), 20, seed=0)
    assert [p.stem for p in source.paths] == ["large", "small"]
    assert len(source) == (60 * 60 + 30 * 30) // 20**2  # patches that would cover them
    levels = (source.batch(0, 1000)[:, 0, 0, 0] * 255).round().tolist()
    assert set(levels) == {200, 100}
    assert levels.count(200) / 1000 == pytest.approx(60 / (60 + 30), abs=0.05)


def test_a_share_of_patches_is_grey(photo_folder):
    x = FolderSource(folder_pictures(str(photo_folder)), 8, seed=0, grey_share=0.3).batch(0, 400)
    grey = (x == x[:, :1]).flatten(1).all(dim=1)
    assert grey.float().mean().item() == pytest.approx(0.3, abs=0.08)
    assert not (FolderSource([DATA / "arches.png"], 8, 0).batch(0, 50).std(dim=1) == 0).flatten(1).all(dim=1).any()


def test_pictures_that_are_all_too_small_are_refused():
    with pytest.raises(AecliError, match="no picture is as large as a patch of 97×97: pass a smaller --patch-size"):
        FolderSource([DATA / "arches.png"], 97, seed=0)


def test_a_share_of_patches_is_of_reduced_pictures(tmp_path):
    fine = np.indices((64, 64)).sum(axis=0) % 2 * 255  # a reduced one is grey all over
    Image.fromarray(fine.astype(np.uint8)).save(tmp_path / "checks.png")
    x = FolderSource(folder_pictures(str(tmp_path)), 32, seed=0, reduced_share=0.3).batch(0, 300)
    reduced = (x.std(dim=(1, 2, 3)) == 0).float().mean()
    assert reduced == pytest.approx(0.3, abs=0.08)
    assert (FolderSource(folder_pictures(str(tmp_path)), 40, seed=0, reduced_share=1.0).batch(0, 5).std(dim=(1, 2, 3)) > 0.4).all()


def test_grey_pictures_and_alpha_become_colours(tmp_path):
    Image.new("LA", (5, 4), (77, 9)).save(tmp_path / "a.png")
    assert read_rgb(tmp_path / "a.png").tolist() == np.full((4, 5, 3), 77).tolist()


@pytest.mark.parametrize(("count", "held"), [(2, 1), (3, 1), (10, 1), (11, 1), (20, 1), (31, 2), (708, 35)])
def test_one_picture_in_twenty_is_held_out(tmp_path, count, held):
    paths = [tmp_path / f"{i}.png" for i in range(count)]
    training, validation = hold_out(paths)
    assert len(validation) == held
    assert sorted([*training, *validation]) == sorted(paths)


def test_one_picture_alone_cannot_validate_itself(tmp_path):
    with pytest.raises(AecliError, match="one picture cannot both train and validate"):
        hold_out([tmp_path / "a.png"])


def test_central_crops():
    crop, whole = (central_crops([DATA / "arches.png"], size)[0] for size in (50, 256))
    assert (crop.shape, whole.shape) == ((3, 50, 50), (3, 96, 128))
    assert torch.equal(crop, whole[:, 23:73, 39:89])


# --------------------------------------------------------------------------------------------------------------- data sets


def test_mnist_comes_with_the_package_in_its_official_split():
    mnist = load_dataset("mnist")
    assert (mnist.train.images.shape, mnist.test.images.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert (mnist.train.labels.shape, mnist.test.labels.shape) == ((60_000,), (10_000,))
    assert mnist.train.images.dtype == torch.uint8
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("shape", [(7,), (2, 3), (2, 3, 4), (0, 3)])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read(tmp_path, shape, suffix):
    array = np.arange(math.prod(shape)).reshape(shape)
    path = tmp_path / f"a-ubyte{suffix}"
    path.write_bytes(gzip.compress(idx(array)) if suffix else idx(array))
    np.testing.assert_array_equal(read_idx(path), array)


GOOD = idx(np.zeros((2, 3)))
BAD_IDX = {
    "empty": b"",
    "cut in its header": GOOD[:9],
    "cut": GOOD[:-1],
    "too long": GOOD + b"\0",
    "of integers": b"\0\0\x0c" + GOOD[3:],
    "no dimensions": b"\0\0\x08\0",
    "another file": b"\x89PNG\r\n\x1a\n" * 4,
    "negative size": struct.pack(">HBBii", 0, 8, 2, -2, -3) + bytes(6),
    "absurd size": struct.pack(">HBB4i", 0, 8, 4, *[2**31 - 1] * 4) + bytes(6),
    "size that overflows to fit": struct.pack(">HBB3i", 0, 8, 3, 2**30, 2**30, 16),
}


@pytest.mark.parametrize("kind", BAD_IDX)
def test_bad_idx_files_are_refused(tmp_path, kind):
    (tmp_path / "a-ubyte").write_bytes(BAD_IDX[kind])
    with pytest.raises(AecliError, match="a-ubyte is not an IDX file of bytes, or is cut off"):
        read_idx(tmp_path / "a-ubyte")


@pytest.mark.parametrize("data", [b"no gzip", gzip.compress(GOOD)[:-9], gzip.compress(GOOD)[:12] + b"\xff" * 9])
def test_damaged_gzip_is_refused(tmp_path, data):
    (tmp_path / "a-ubyte.gz").write_bytes(data)
    with pytest.raises(AecliError, match=r"a-ubyte\.gz cannot be read"):
        read_idx(tmp_path / "a-ubyte.gz")


def test_a_local_copy_of_cifar10_is_read_through_torchvision(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for index, name in enumerate(["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]):
        batch = {"data": np.full((2, 3072), index, dtype=np.uint8), "labels": [index, 9]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    # Its checksums are those of the real files.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)

    dataset = load_dataset("cifar10", tmp_path)

    assert dataset.train.images.shape == (10, 3, 32, 32) and dataset.test.images.shape == (2, 3, 32, 32)
    assert dataset.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert (dataset.test.images == 5).all()


def test_cifar10_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"cifar10 was not found in .*: pass --data-root FOLDER, or --download"):
        load_dataset("cifar10", tmp_path)


def test_a_local_copy_of_fashion_mnist_is_read(tmp_path):
    for prefix, count in (("train", 5), ("t10k", 3)):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.full((count, 28, 28), count))))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(count))))
    dataset = load_dataset("fashion-mnist", tmp_path)
    assert dataset.train.images.shape == (5, 1, 28, 28)
    assert (dataset.test.images == 3).all()
    assert dataset.test.labels.tolist() == [0, 1, 2]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"fashion-mnist was not found in .*: pass --data-root FOLDER, or --download"):
        load_dataset("fashion-mnist", tmp_path)
    with pytest.raises(UsageError, match="mnits is not a data set: give mnist, fashion-mnist, cifar10 or a folder"):
        load_dataset("mnits")
    with pytest.raises(UsageError, match="gone is neither a data set"):
        folder_pictures("gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AecliError, match="empty"):
        folder_pictures(str(tmp_path / "empty"))


# ------------------------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize(("text", "sigma"), [("gaussian:0.5", 0.5), ("gaussian:1e-3", 0.001), ("gaussian:2", 2)])
def test_noise_that_is_understood(text, sigma):
    assert parse_noise(text) == Noise(sigma)
    assert parse_noise(str(parse_noise(text))) == Noise(sigma)


@pytest.mark.parametrize(
    "text", ["", "gaussian", "gaussian:", "gaussian:0", "gaussian:-1", "gaussian:inf", "gaussian:nan", "poisson:1"]
)
def test_noise_that_is_not(text):
    with pytest.raises(UsageError, match="give gaussian and its standard deviation in 0–1"):
        parse_noise(text)


def test_noise_has_its_standard_deviation_and_stays_within_0_and_1():
    x = torch.full((4, 1, 100, 100), 0.5)
    assert (Noise(0.05).add(x, seeded()) - x).std().item() == pytest.approx(0.05, rel=0.02)
    noisy = Noise(0.5).add(x, seeded())
    assert (noisy.min(), noisy.max()) == (0, 1)
    assert torch.equal(noisy, Noise(0.5).add(x, seeded()))
    assert (x == 0.5).all()


# --------------------------------------------------------------------------------------------------------------- optimiser


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shape", [(3, 32, 64), (1, 40, 200), (2, 200, 40)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape, bf16):
    matrices = torch.randn(shape, generator=seeded())
    result = orthogonalise(matrices, bf16=bf16)
    assert result.shape == matrices.shape
    assert result.dtype == matrices.dtype
    values = torch.linalg.svdvals(result)
    assert 0.8 < values.min() <= values.max() < 1.2
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    cosine = (result * (u @ v)).sum() / (result.norm() * (u @ v).norm())
    assert cosine > 0.97
    torch.testing.assert_close(orthogonalise(1000 * matrices, bf16=bf16), result, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("weak", [1e-2, 1e-5, 0])
def test_the_iterations_in_float32_bear_directions_that_are_weak_or_missing(weak):
    """They see the squares of singular values only."""
    u, s, v = torch.linalg.svd(torch.randn(1, 64, 512, generator=seeded()), full_matrices=False)
    s[:, 32:] *= weak
    result = orthogonalise(u * s[:, None] @ v)
    values = (u.mT @ result @ v.mT).diagonal(dim1=1, dim2=2)[0]
    assert values[:32].min() > 0.8
    assert values.abs().max() < 1.2
    assert values[32:].abs().max() < {1e-2: 1.2, 1e-5: 0.05, 0: 0.01}[weak]


def test_what_is_no_matrix_is_stepped_as_by_torchs_adamw():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)).to(memory_format=torch.channels_last)
    theirs = copy.deepcopy(ours)
    optimizers = (Muon(ours, lr=0.1, weight_decay=0.1), torch.optim.AdamW(theirs.parameters(), 0.1, (0.9, 0.98), weight_decay=0.1))
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.ones(1, 3, 5, 6)).square().sum().backward()
            optimizer.step()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_bfloat16_is_chosen_where_the_processor_has_it_and_onednn_may_use_it(monkeypatch):
    """As on a computer with AVX2 and nothing newer, for which these variables stand."""
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    for instructions, limit, chosen in (
        (False, "", False),
        (True, "", True),
        (True, "DEFAULT", True),
        (True, "AVX512_CORE_AMX", True),
        (True, "AVX2", False),
        (True, "avx512_core", False),
    ):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=instructions: found)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert select("cpu").bf16 is chosen, limit


def test_muon_steps_matrices_and_adamw_the_rest():
    model = nn.Sequential(nn.Conv2d(8, 40, 3), nn.Conv2d(40, 3, 1))
    optimizer = Muon(model, lr=0.1)
    assert [len(g["params"]) for g in optimizer.param_groups] == [1, 3]
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=seeded())
    optimizer.step()
    moved = [(b - p).detach() for b, p in zip(before, model.parameters(), strict=True)]
    values = torch.linalg.svdvals(moved[0].flatten(1)) / (0.1 * 0.2 * math.sqrt(72))  # (40, 72)
    assert 0.8 < values.min() <= values.max() < 1.2
    for p, step in list(zip(model.parameters(), moved, strict=True))[1:]:  # the first step of Adam is the sign
        torch.testing.assert_close(step, 0.1 * p.grad.sign(), rtol=1e-3, atol=1e-4)


def test_muons_steps_do_not_grow_with_the_width_of_a_layer_beyond_a_size():
    """At one learning rate a layer of 256 channels would otherwise move twice as far as one of 64."""
    layers = [nn.Conv2d(channels, channels, 3, bias=False) for channels in (64, 256)]
    sizes = []
    for layer in layers:
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.randn(layer.weight.shape, generator=seeded())
        Muon(layer, lr=0.1, largest=9 * 64).step()
        sizes.append(torch.linalg.matrix_norm((layer.weight.detach() - before).flatten(1), 2).item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_weight_decay_shrinks_weights_and_missing_gradients_are_left_alone():
    model = nn.Linear(40, 40)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    model.weight.grad = torch.zeros(40, 40)
    Muon(model, lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(model.weight.detach(), weight * 0.95)
    assert torch.equal(model.bias.detach(), bias)


def test_the_learning_rate_warms_up_holds_and_falls_to_zero():
    assert learning_rate_factor(0) < 0.01
    assert learning_rate_factor(WARM_UP / 2) == pytest.approx(0.5, abs=0.01)
    for share in (WARM_UP, 0.2, 1 - ANNEALING):
        assert learning_rate_factor(share) == 1
    assert learning_rate_factor(1 - ANNEALING / 2) == pytest.approx(0.5)
    assert learning_rate_factor(1) == learning_rate_factor(1.5) == 0
    falling = [learning_rate_factor(1 - ANNEALING + ANNEALING * i / 50) for i in range(51)]
    assert falling == sorted(falling, reverse=True)
    assert learning_rate_factor(0.5, annealing=1 - WARM_UP) == pytest.approx(0.5, abs=0.02)


# -------------------------------------------------------------------------------------------------------------------- loop


IMAGES = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def trainer_of(compute, path, *, steps=12, seed=0, noise=None, batch_size=8, model=None, lr=1e-2, latent_dim=40):
    model = model or tiny_dense(latent_dim=latent_dim)  # 40: its matrices are Muon's
    task = FeatureTask(model.train().requires_grad_(True), ArraySource(IMAGES, seed), IMAGES[:10].float() / 255, noise)
    return Trainer(
        task, budget=Budget(steps=steps), batch_size=batch_size, lr=lr, clip=1.0, seed=seed, compute=compute, checkpoint=path
    )


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_training_lowers_the_loss_and_reports_it(compute, tmp_path):
    trainer = trainer_of(compute, tmp_path / "c.pt", steps=60)
    before, reports = trainer.validate()["psnr"], []
    assert trainer.run(reports.append, never) is True
    assert trainer.figures["psnr"] > before + 1
    assert [r.step for r in reports] == list(range(1, 61))
    assert reports[-1].loss < reports[0].loss
    assert reports[30].share == 0.5
    assert reports[29].seconds_left == reports[29].seconds  # as long again as the first half took
    assert reports[-1].seconds_left == 0


def test_the_time_that_is_left_of_minutes_is_known_from_the_first_step():
    assert Budget(minutes=2).seconds_left(1, 0.5) == 119.5
    assert Budget(minutes=2).seconds_left(90, 121.0) == 0


def test_the_same_seed_gives_the_same_weights(compute, tmp_path):
    runs = []
    for number, seed in enumerate((5, 5, 6)):
        trainer = trainer_of(compute, tmp_path / f"{number}.pt", seed=seed, noise=Noise(0.3))
        trainer.run(ignore, never)
        runs.append(trainer)
    assert same_weights(runs[0].model, runs[1].model)
    assert same_weights(runs[0].ema, runs[1].ema)
    assert not same_weights(runs[0].model, runs[2].model)


def test_a_resumed_run_equals_one_that_was_never_stopped(compute, tmp_path):
    whole = trainer_of(compute, tmp_path / "whole.pt", noise=Noise(0.3))
    whole.run(ignore, never)
    stopped = trainer_of(compute, tmp_path / "parts.pt", noise=Noise(0.3))
    assert stopped.run(ignore, lambda: stopped.step == 5) is False
    resumed = trainer_of(compute, tmp_path / "parts.pt", noise=Noise(0.3), model=tiny_dense(seed=9, latent_dim=40))
    resumed.load_checkpoint()
    assert resumed.step == 5
    assert resumed.run(ignore, never) is True
    assert same_weights(resumed.model, whole.model)
    assert same_weights(resumed.ema, whole.ema)
    assert resumed.figures == whole.figures


def test_the_average_follows_the_model(compute, tmp_path):
    trainer = trainer_of(compute, tmp_path / "c.pt", steps=1)
    start = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.run(ignore, never)
    for name, averaged in trainer.ema.state_dict().items():
        torch.testing.assert_close(averaged, start[name].lerp(trainer.model.state_dict()[name], 1 - 2 / 11))


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_checkpoint(compute, tmp_path):
    trainer = trainer_of(compute, tmp_path / "c.pt", steps=4)
    trainer.run(ignore, never)
    before = (tmp_path / "c.pt").read_bytes()
    trainer.budget = Budget(steps=9)
    trainer.task.loss = lambda x, generator: trainer.model.encoder.weight.sum() * math.nan
    with pytest.raises(AecliError, match=r"training diverged at step 5 \(the loss is nan\): pass a smaller --lr"):
        trainer.run(ignore, never)
    assert (tmp_path / "c.pt").read_bytes() == before


def test_a_checkpoint_of_another_run_is_refused(compute, tmp_path):
    path = tmp_path / "c.pt"
    trainer_of(compute, path, steps=1).run(ignore, never)
    for other, message in (
        ({"seed": 1}, r"c\.pt was trained with --seed 0, not with --seed 1: pass the same, or --restart to begin anew"),
        ({"lr": 1e-3, "seed": 2}, r"was trained with --lr 0\.01 and --seed 0, not with --lr 0\.001 and --seed 2"),
        ({"batch_size": 4}, r"c\.pt was trained with --batch-size 8"),
        ({"latent_dim": 5}, r"c\.pt is of another model"),
        ({"model": tiny_denoiser()}, r"c\.pt is of another model"),
    ):
        with pytest.raises(AecliError, match=message):
            trainer_of(compute, path, **other).load_checkpoint()
    with pytest.raises(AecliError, match=r"there is no checkpoint .*gone\.pt to resume from"):
        trainer_of(compute, tmp_path / "gone.pt").load_checkpoint()


class Bomb:
    loaded = False

    def __reduce__(self):
        return (setattr, (Bomb, "loaded", True))


def test_damaged_and_hostile_checkpoints_are_refused_and_run_nothing(compute, tmp_path):
    path = tmp_path / "c.pt"
    trainer_of(compute, path, steps=1).run(ignore, never)
    good = path.read_bytes()
    state = torch.load(path, weights_only=True)
    writers = [lambda n=n: path.write_bytes(good[:n]) for n in (0, 10, len(good) // 2, len(good) - 10)]
    writers += [lambda s=s: torch.save(s, path) for s in (
        Bomb(), {**state, "model": Bomb()}, [1], {"format": 99}, {"format": 2}, {**state, "options": 5}, {**state, "model": 5},
        {**state, "optimizer": {}}, {**state, "optimizer": 5}, {**state, "step": "three"}, {**state, "seconds": None},
        {k: v for k, v in state.items() if k != "step"},
    )]  # fmt: skip
    for write in writers:
        write()
        with pytest.raises(AecliError, match=r"c\.pt"):
            trainer_of(compute, path).load_checkpoint()
    assert not Bomb.loaded


@pytest.mark.parametrize(
    "given", [{}, {"steps": 1, "minutes": 1}, {"steps": 0}, {"minutes": 0}, {"minutes": math.inf}, {"minutes": math.nan}]
)
def test_budgets_that_make_no_sense_are_refused(given):
    with pytest.raises(UsageError, match="--epochs, --steps and --minutes"):
        Budget(**given)


def test_a_budget_of_minutes_follows_the_clock():
    assert Budget(minutes=2).share_done(10**6, 60) == 0.5
    assert Budget(steps=50).share_done(10, 10**6) == 0.2


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"lr": 0}, {"lr": math.nan}])
def test_batch_size_and_learning_rate_must_be_positive(compute, tmp_path, options):
    with pytest.raises(UsageError, match="--batch-size and --lr must be positive"):
        trainer_of(compute, tmp_path / "c.pt", **options)


def test_scores_of_features(compute):
    model, x = tiny_dense(), torch.rand(700, 1, 8, 8, generator=seeded())
    scores = evaluate(model, x)
    errors = (model(x) - x).square().flatten(1).sum(dim=1)
    assert scores["squared_error"] == pytest.approx(errors.mean().item(), rel=1e-5)
    assert scores["psnr"] == pytest.approx(-10 * math.log10(errors.mean().item() / 64), abs=1e-4)
    assert "psnr_noisy" not in scores
    assert evaluate(model, x, Noise(0.05))["psnr_noisy"] == pytest.approx(-20 * math.log10(0.05), abs=0.5)
    quantiles = error_quantiles(model, x, compute)
    assert quantiles["0.9"] == pytest.approx((errors / 64).quantile(0.9).item(), rel=1e-5)
    assert [*quantiles.values()] == sorted(quantiles.values())


# ------------------------------------------------------------------------------------------------- from request to weights


def request_of(compute, arch, output="out/w.safetensors", **options):
    from pathlib import Path

    return Request(arch, Path(output), compute, **options)


def test_dense_on_mnist_from_request_to_use(compute, photograph, monkeypatch):
    reports = []
    request = request_of(compute, "dense", steps=30, latent_dim=16, command="aecli train")
    result = train(request, reports.append, never)
    assert (result.finished, result.steps, result.output) == (True, 30, request.output)
    assert reports[-1].step == 30
    assert {*result.samples} == {"original", "reconstruction"}
    assert result.samples["reconstruction"].shape == (10, 1, 28, 28)
    weights = load_weights(request.output)
    card = weights.card
    assert (card.arch, card.task, card.colour_mode, card.steps) == ("dense", "features", "grey", 30)
    assert (card.noise, card.command, card.config["latent_dim"]) == ("", "aecli train", 16)
    assert "mnist" in card.training_data
    assert card.scores["squared_error"] == pytest.approx(result.scores["squared_error"], abs=1e-4)
    test = load_dataset("mnist").test.images.float() / 255
    with torch.inference_mode():
        assert evaluate(weights.model, test)["squared_error"] == pytest.approx(result.scores["squared_error"], rel=1e-4)
    assert {*card.error_quantiles} == {"0.5", "0.9", "0.99", "0.999"}
    coder = coder_for(weights, compute)
    assert decode_picture(encode_picture(photograph, coder), "a", lambda _: coder).pixels.shape == photograph.pixels.shape


def test_a_small_denoiser_on_mnist_from_request_to_use(compute, photograph):
    result = train(request_of(compute, "conv", steps=2, latent_dim=4, noise=Noise(0.5)), ignore, never)
    assert {*result.samples} == {"original", "noisy", "restored"}
    weights = load_weights(result.output)
    assert (weights.card.task, weights.card.noise) == ("denoise", "gaussian:0.5")
    assert "psnr_noisy" in weights.card.scores
    assert denoise_picture(photograph, weights, compute).picture.pixels.shape == photograph.pixels.shape


def test_dense_on_a_folder_learns_its_patches(compute, photo_folder):
    result = train(request_of(compute, "dense", data=str(photo_folder), patch_size=16, steps=3), ignore, never)
    card = load_weights(result.output).card
    assert card.colour_mode == "rgb"
    assert (card.config["channels"], card.config["height"], card.config["width"]) == (3, 16, 16)
    assert "patches of 16×16" in card.training_data


@pytest.mark.parametrize("arch", ["denoiser", "codec"])
def test_the_photograph_models_go_on_from_given_weights(compute, photo_folder, tmp_path, photograph, arch):
    start = tmp_path / "start.safetensors"
    model = tiny_denoiser() if arch == "denoiser" else tiny_codec()
    saved(start, model, arch, task="denoise" if arch == "denoiser" else "compress")
    request = request_of(compute, arch, data=str(photo_folder), patch_size=64, batch_size=2, steps=2, init=str(start))
    result = train(request, ignore, never)
    weights = load_weights(result.output)
    assert weights.card.config["widths"] == list(model.config.widths)
    assert not same_weights(weights.model, model)
    assert weights.card.scores["psnr"] == pytest.approx(result.scores["psnr"], abs=1e-4)
    if arch == "denoiser":
        assert denoise_picture(photograph, weights, compute, sigma=25).picture.pixels.shape == photograph.pixels.shape
    else:
        coder = coder_for(weights, compute)
        assert decode_picture(encode_picture(photograph, coder), "a", lambda _: coder).pixels.shape == photograph.pixels.shape


def test_dormant_units_are_made_anew_without_changing_what_the_model_does():
    torch.manual_seed(0)
    block = ResidualBlock(16, bias=False).requires_grad_(False)
    first = block.body[0].weight.abs_()
    first[3:6] *= -1
    brightness = torch.rand(16) * torch.rand(4, 1, 1, 1)
    x = brightness.view(4, 16, 1, 1) + 0.01 * torch.rand(4, 16, 24, 24)  # positive everywhere
    before, weights = block(x), first.clone()
    assert recycle(block, lambda: block(x), seeded()) == 3
    assert torch.equal(block(x), before)
    changed = (first != weights).flatten(1).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [3, 4, 5]
    active = (block.body[0](x)[..., 1:-1, 1:-1] > 0).float().mean(dim=(0, 2, 3))
    assert ((active[changed] > 0.2) & (active[changed] < 0.8)).all(), "brightness, 100 times what varies, decides nothing"
    assert recycle(block, lambda: block(x), seeded()) == 0


def test_a_unit_that_is_active_in_one_picture_of_many_is_not_dormant():
    torch.manual_seed(0)
    block = ResidualBlock(4, bias=False).requires_grad_(False)
    block.body[0].weight.abs_()
    block.body[0].weight[0] *= -1
    x = torch.ones(200, 4, 12, 12)
    x[7, :, 5, 5] = -100
    before = block(x)
    assert recycle(block, lambda: block(x), seeded()) == 0
    assert torch.equal(block(x), before)


def test_going_on_from_a_denoiser_revives_its_units(compute, photo_folder, tmp_path):
    start = tmp_path / "start.safetensors"
    model = tiny_denoiser()
    model.middle[0].body[0].weight[:4] = 0  # never active
    saved(start, model, "denoiser", task="denoise")
    request = request_of(compute, "denoiser", data=str(photo_folder), patch_size=64, batch_size=2, steps=2, init=str(start))
    train(request, ignore, never)
    rows = load_weights(request.output).model.middle[0].body[0].weight.flatten(1).norm(dim=1)
    assert (rows[:4] > 0.5).all()


def test_a_denoiser_from_scratch_is_of_the_kind_whose_units_live(compute, photo_folder, photograph):
    request = request_of(compute, "denoiser", data=str(photo_folder), patch_size=64, batch_size=2, steps=2)
    train(request, ignore, never)
    weights = load_weights(request.output)
    assert (weights.card.config["slope"], weights.card.config["local_mean"]) == (0.1, True)
    assert denoise_picture(photograph, weights, compute, sigma=25).picture.pixels.shape == photograph.pixels.shape


@pytest.mark.parametrize("arch", ["denoiser", "codec"])
def test_the_photograph_models_resume_exactly(compute, photo_folder, tmp_path, arch):
    start = tmp_path / "start.safetensors"
    saved(start, tiny_denoiser() if arch == "denoiser" else tiny_codec(), arch, task="any")
    options = {"data": str(photo_folder), "patch_size": 64, "batch_size": 2, "steps": 4, "init": str(start)}
    whole = train(request_of(compute, arch, "whole.safetensors", **options), ignore, never)
    steps = []
    half = request_of(compute, arch, "half.safetensors", **options)
    stopped = train(half, steps.append, lambda: len(steps) == 2)
    assert (stopped.finished, stopped.steps) == (False, 2)
    assert not half.output.exists()
    resumed = train(replace(half, resume=True), ignore, never)
    assert resumed.finished
    assert same_weights(load_weights(whole.output).model, load_weights(half.output).model)
    assert resumed.scores == whole.scores


def test_the_checkpoint_stands_beside_the_output(compute):
    for output in ("w.safetensors", "a/w.safetensors", "/a/b/w.safetensors"):
        assert request_of(compute, "dense", output).checkpoint.as_posix() == output.replace(".safetensors", ".checkpoint.pt")


def test_stopping_leaves_a_checkpoint_and_resuming_finishes(compute):
    request = request_of(compute, "dense", steps=6, latent_dim=4)
    stopped = train(request, ignore, lambda: True)
    assert (stopped.finished, stopped.steps) == (False, 0)
    assert request.checkpoint.is_file()
    assert not request.output.exists()
    assert train(replace(request, resume=True), ignore, never).finished
    assert [path.name for path in request.output.parent.iterdir()] == ["w.safetensors"]


def test_a_run_that_has_not_ended_is_not_replaced_unless_asked(compute):
    request = request_of(compute, "dense", steps=6, latent_dim=4)
    train(request, ignore, lambda: True)
    before = request.checkpoint.read_bytes()
    with pytest.raises(UsageError, match=r"w\.checkpoint\.pt is of a run that has not ended: pass --resume .* or --restart"):
        train(request, ignore, never)
    with pytest.raises(UsageError, match="--resume goes on and --restart begins anew: give one of them"):
        train(replace(request, resume=True, restart=True), ignore, never)
    assert request.checkpoint.read_bytes() == before
    assert train(replace(request, restart=True, lr=1e-3), ignore, never).finished
    assert not request.checkpoint.exists()


def test_a_run_that_cannot_go_on_keeps_no_checkpoint(compute):
    request = request_of(compute, "dense", steps=6, latent_dim=4, resumable=False)
    assert not train(request, ignore, lambda: True).finished
    assert not request.output.parent.exists()


def test_a_run_that_is_stopped_can_leave_its_weights(compute):
    request = request_of(compute, "dense", steps=500, latent_dim=4, resumable=False, keep_stopped=True)
    steps = []
    result = train(request, lambda p: steps.append(p.step), lambda: len(steps) == 2)
    assert (result.finished, result.steps) == (False, 2)
    assert load_weights(request.output).card.steps == 2


def test_what_follows_the_last_step_is_said(compute):
    told = []
    train(request_of(compute, "dense", steps=2, tell=told.append), ignore, never)
    assert told[0] == "step 2 was the last: measuring held-out pictures"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59, "59 s"), (240, "4 min"), (20580, "5 h 43 min"), (3599, "1 h 00 min"), (90000, "25 h 00 min")],
)
def test_times_are_short_texts(seconds, text):
    assert duration(seconds) == text


OTHER_OPTIONS = {
    "lr": ({"lr": 1e-3}, r"with --lr 0\.005, not with --lr 0\.001: pass the same, or --restart to begin anew"),
    "noise": ({"noise": Noise(0.5)}, "with no --noise, not with --noise gaussian:0.5"),
    "latent-dim": ({"latent_dim": 5}, "with --latent-dim 4, not with --latent-dim 5"),
    "batch-size": ({"batch_size": 5}, "was trained with --batch-size 128"),
    "seed": ({"seed": 3}, "with --seed 0, not with --seed 3"),
    "arch": ({"arch": "sparse"}, "with --arch dense and no --sparsity, not with --arch sparse and --sparsity topk:0.1"),
    "init": ({"init": "start.safetensors"}, r"with no --init, not with --init start \([0-9a-f]{8}\)"),
    "data": ({"data": "photos", "resize": 28}, "with --data mnist, .*, not with --data photos, pictures of 28×28"),
}


@pytest.mark.parametrize("kind", OTHER_OPTIONS)
def test_a_run_goes_on_with_its_own_options_only(compute, photo_folder, kind):
    (photo_folder / "more.png").write_bytes((DATA / "arches.png").read_bytes())
    saved(photo_folder.parent / "start.safetensors", tiny_dense(height=28, width=28), "dense")
    request = request_of(compute, "dense", steps=6, latent_dim=4)
    train(request, ignore, lambda: True)
    options, message = OTHER_OPTIONS[kind]
    with pytest.raises(UsageError, match=message):
        train(replace(request, resume=True, **options), ignore, never)
    assert request.checkpoint.exists()


def test_a_run_goes_on_with_the_pictures_it_began_with_only(compute, photo_folder):
    request = request_of(compute, "dense", data=str(photo_folder), patch_size=16, steps=6)
    train(request, ignore, lambda: True)
    (photo_folder / "colosseum.png").rename(photo_folder / "zoo.png")  # another one is held out
    with pytest.raises(UsageError, match=r"with --data 2 pictures of photos, .*held out: \w+\), not with --data 2 pictures"):
        train(replace(request, resume=True), ignore, never)


@pytest.mark.parametrize("arch", ["dense", "denoiser", "codec"])
def test_pictures_that_are_of_no_use_are_left_out_counted_and_named(compute, photo_folder, tmp_path, arch):
    """Before some are held out: of `0.png` to `9.png` with three photographs the middle one would be damaged."""
    for index in range(10):
        (photo_folder / f"{index}.png").write_bytes(b"no picture")
    Image.new("RGB", (200, 30)).save(photo_folder / "a.png")
    start, told = tmp_path / "start.safetensors", []
    if arch != "dense":
        saved(start, tiny_denoiser() if arch == "denoiser" else tiny_codec(), arch, task="any")
    options = {"init": str(start)} if arch != "dense" else {}
    request = request_of(compute, arch, data=str(photo_folder), patch_size=64, batch_size=2, steps=1, tell=told.append, **options)
    result = train(request, ignore, never)
    assert told[:-1] == [  # the last one says what follows the last step
        f"1 of 14 pictures left out, as they are smaller than 64×64: {photo_folder}/a.png",
        "10 of 14 pictures left out, as they cannot be read: " + ", ".join(f"{photo_folder}/{i}.png" for i in range(10)),
    ]
    assert load_weights(result.output).card.training_data.startswith("2 pictures of photos")


def test_whole_pictures_that_cannot_be_read_are_left_out_and_named(compute, photo_folder):
    for index in range(12):
        (photo_folder / f"{index:02}.png").write_bytes(b"no picture")
    told = []
    train(request_of(compute, "dense", data=str(photo_folder), resize=8, steps=1, tell=told.append), ignore, never)
    assert len(told) == 2  # and what follows the last step
    assert told[0].startswith(f"12 of 15 pictures left out, as they cannot be read: {photo_folder}/00.png, ")
    assert told[0].endswith("/09.png and 2 more")


def test_a_folder_of_which_nothing_can_be_read_is_refused(compute, tmp_path):
    (tmp_path / "bad").mkdir()
    for name in "ab":
        (tmp_path / "bad" / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(AecliError, match=r"no picture can be read; of the first: .*a\.png is not a picture"):
        train(request_of(compute, "dense", data=str(tmp_path / "bad"), steps=1), ignore, never)


def test_how_long_it_takes_is_told_before_it_begins_and_changes_nothing(compute, tmp_path):
    told, steps = [], []
    request = request_of(compute, "dense", steps=200, latent_dim=40, tell=told.append, seed=3)
    train(request, lambda p: steps.append(len(told)), lambda: len(steps) == 2)
    assert set(steps) == {1}
    assert re.fullmatch(r"out/w\.safetensors: training takes about (\d+ s|\d+ min|\d+ h \d\d min)", told[0])
    trainer, other = (trainer_of(compute, tmp_path / f"{i}.pt", steps=60, noise=Noise(0.3)) for i in range(2))
    assert trainer.expected_seconds() > 0
    trainer.run(ignore, never), other.run(ignore, never)
    assert same_weights(trainer.model, other.model) and same_weights(trainer.ema, other.ema)
    assert trainer_of(compute, tmp_path / "c.pt", steps=5).expected_seconds() is None


def test_a_sparse_denoising_autoencoder_does_not_fit_its_code_to_the_noise(compute):
    for noise, descents in ((None, 16), (Noise(0.5), 0)):
        request = request_of(compute, "sparse", steps=2, latent_dim=20, noise=noise, overwrite=True)
        train(request, ignore, never)
        assert load_weights(request.output).card.config["descents"] == descents


REFUSED = {
    "arch": ({"arch": "dens"}, "--arch dens is not known: give one of dense"),
    "exists": ({"output": "here.safetensors"}, "here.safetensors exists: pass --overwrite or another --output"),
    "noise": ({"arch": "codec", "noise": Noise(0.5)}, "--noise is for the small architectures"),
    "latent-dim": ({"arch": "denoiser", "latent_dim": 5}, "--latent-dim is for the small architectures"),
    "sparsity": ({"sparsity": "l1:1"}, "--sparsity goes with --arch sparse only"),
    "photographs": ({"arch": "denoiser"}, "--arch denoiser learns from photographs: pass --data FOLDER"),
    "not MNIST": ({"arch": "codec", "data": "mnist"}, "--arch codec learns from photographs"),
    "patch": ({"arch": "codec", "data": "photos", "patch_size": 100}, "give a multiple of 64"),
    "two budgets": ({"steps": 5, "epochs": 1}, "give one of --epochs, --steps and --minutes"),
    "no steps": ({"steps": 0}, "must be positive"),
    "no folder": ({"data": "gone"}, "gone is neither a data set"),
    "resume": ({"resume": True, "steps": 5}, "there is no checkpoint .* to resume from"),
    "init": ({"init": "start.safetensors", "arch": "deep"}, "is a dense, not a deep: pass --arch dense"),
    "init of another size": ({"init": "start.safetensors"}, "has height 8 instead of 28, width 8 instead of 28"),
    "large patches": (
        {"data": "photos", "patch_size": 500},
        "no picture of photos is as large as 500×500: add larger ones, or reduce --patch-size",
    ),
    "valid": (
        {"arch": "codec", "data": "photos", "patch_size": 64, "valid": "small"},
        "no picture of small is as large as 64×64",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_requests_that_cannot_be_met_are_refused(compute, photo_folder, tmp_path, kind):
    (tmp_path / "here.safetensors").touch()
    (tmp_path / "small").mkdir()
    Image.new("RGB", (60, 200)).save(tmp_path / "small" / "a.png")
    saved(tmp_path / "start.safetensors", tiny_dense(), "dense")
    options, message = REFUSED[kind]
    with pytest.raises(AecliError, match=message):
        train(request_of(compute, **{"arch": "dense", **options}), ignore, never)
    assert not (tmp_path / "out").exists()
