"""Convolutional feature autoencoders: conv (a code of a given length) and vae (a code with a standard normal prior)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aecli.models.denoiser import pad_to_multiple
from aecli.models.dense import FeatureAutoencoder, squared_error
from aecli.models.layers import ResidualBlock, upsample


@dataclass(frozen=True)
class ConvConfig:
    """channels, height, width: what a picture must be; widths: channels after each halving of the resolution.

    blocks: residual blocks at each resolution. One takes five times as long to train as none, and pays off after an hour of it.
    """

    channels: int = 1
    height: int = 28
    width: int = 28
    latent_dim: int = 32
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))


@dataclass(frozen=True)
class VaeConfig(ConvConfig):
    """beta: weight of the divergence from the prior (Higgins et al. 2017); one is the plain variational autoencoder."""

    beta: float = 1.0


class Conv(FeatureAutoencoder):
    """Strided convolutions, with residual blocks if asked for, one linear layer to the code, and the mirror image back.

    Any picture size serves: inside, it is padded to a multiple of the stride and cropped again.
    """

    Config: type[ConvConfig] = ConvConfig
    config: ConvConfig
    code_parts = 1  # how many vectors of latent_dim the encoder gives

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.stride = 2 ** len(widths)
        self._size = (config.height, config.width)
        self._grid = (widths[-1], -(-config.height // self.stride), -(-config.width // self.stride))
        features = self._grid[0] * self._grid[1] * self._grid[2]
        self.encoder = nn.Sequential()
        for a, b in zip((config.channels, *widths), widths, strict=False):
            self.encoder.append(nn.Conv2d(a, b, 4, stride=2, padding=1))
            self.encoder.extend(nn.Sequential(nn.SiLU(), *_blocks(b, config.blocks)))
        self.to_code = nn.Linear(features, self.code_parts * config.latent_dim)
        self.from_code = nn.Linear(config.latent_dim, features)
        self.decoder = nn.Sequential()
        for a, b in zip(reversed(widths), (*reversed(widths[:-1]), config.channels), strict=True):
            self.decoder.extend(nn.Sequential(*_blocks(a, config.blocks), nn.SiLU(), *upsample(a, b)))

    @property
    def narrowest(self) -> int:
        return min(super().narrowest, self.from_code.out_features)

    def _features(self, x: Tensor) -> Tensor:
        return self.to_code(self.encoder(pad_to_multiple(x, self.stride)).flatten(1))  # type: ignore[no-any-return]

    def encode(self, x: Tensor) -> Tensor:
        return self._features(x)

    def decode(self, z: Tensor) -> Tensor:
        x = self.decoder(self.from_code(z).view(-1, *self._grid))
        return x[..., : self._size[0], : self._size[1]].sigmoid()  # type: ignore[no-any-return]


class Vae(Conv):
    """The variational autoencoder (Kingma & Welling 2014): `encode` gives the mean of the code's distribution."""

    Config = VaeConfig
    config: VaeConfig
    code_parts = 2

    def encode(self, x: Tensor) -> Tensor:
        return self._features(x).chunk(2, dim=1)[0]

    def loss(self, noisy: Tensor, clean: Tensor) -> Tensor:
        mean, log_variance = self._features(noisy).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
        # Unit variance of the observed pixels: half the squared error is the negative log-likelihood.
        return 0.5 * squared_error(self.decode(z), clean).mean() + self.config.beta * divergence


def _blocks(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(channels, bias=True) for _ in range(count)]
