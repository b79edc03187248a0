"""Walks through a latent space: the lattice is where the codes are, and lines end at their pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from conftest import saved, tiny_dense
from PIL import Image

from aecli.models import FeatureAutoencoder
from aecli.traversal import MOST_DIMENSIONS, SIDE, STEPS, interpolate, traverse


class TwoNumbers(FeatureAutoencoder):
    """A code that can be read off the picture: its first two pixels."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2]

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([z, torch.zeros(len(z), 2)], dim=1).view(-1, 1, 2, 2)


def test_the_latent_square_spans_the_codes_and_grows_to_the_right_and_upwards() -> None:
    walks = traverse(TwoNumbers(), torch.rand(5000, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    assert (walks.columns, len(walks.pictures)) == (SIDE, SIDE**2)
    across, up = walks.pictures[:, 0, 0].T.reshape(2, SIDE, SIDE)
    assert torch.allclose(across[0], torch.linspace(0.01, 0.99, SIDE), atol=0.01)
    assert torch.allclose(across, across[0].expand(SIDE, -1))
    assert torch.allclose(up[:, 0], torch.linspace(0.99, 0.01, SIDE), atol=0.01)


def test_of_many_dimensions_those_that_vary_most_come_first_and_their_middle_is_the_mean() -> None:
    model = tiny_dense(latent_dim=20, activation="linear")
    images = torch.rand(100, 1, 8, 8)
    walks = traverse(model, images)
    codes = model.encode(images)
    assert (walks.columns, len(walks.labels)) == (STEPS, MOST_DIMENSIONS)
    assert walks.labels[0] == str(codes.std(dim=0).argmax().item() + 1)
    mean = model.decode(codes.mean(dim=0, keepdim=True))
    assert torch.allclose(
        walks.pictures.unflatten(0, (-1, STEPS))[:, STEPS // 2], mean.expand(MOST_DIMENSIONS, -1, -1, -1), atol=1e-5
    )


def test_a_line_goes_from_picture_to_picture_by_way_of_their_reconstructions() -> None:
    model, images = tiny_dense(), torch.rand(7, 1, 8, 8)
    lines = interpolate(model, images).pictures.unflatten(0, (-1, STEPS))
    assert len(lines) == 3  # the seventh picture has no partner
    assert torch.equal(lines[1, 0], images[2])
    assert torch.equal(lines[1, -1], images[3])
    assert torch.allclose(lines[1, 1], model(images[2:3])[0], atol=1e-6)
    assert torch.allclose(lines[1, -2], model(images[3:4])[0], atol=1e-6)


def aecli(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aecli", "traverse", *map(str, arguments), "--threads", "1"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_the_command_draws_it_and_refuses_in_a_sentence_what_it_cannot(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.random.default_rng(0).random((60, 8, 8)))
    saved(tmp_path / "w.safetensors", tiny_dense(), "dense")
    done = aecli("--weights", "w.safetensors", "--data", "data.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "traversal.png") as drawn:
        assert drawn.width > 1000
    for arguments, sentence in (
        ((), "traversal.png exists: pass --overwrite or another --output"),
        (("-o", "x.pdf", "--weights", "w.safetensors"), "do not take the pictures of mnist"),
        (("-o", "x.pdf", "--weights", "photo-codec"), "have no latent size"),
    ):
        done = aecli(*arguments, cwd=tmp_path)
        assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr
