"""Fully connected autoencoders: dense (one hidden layer), deep (several), sparse (a constraint on the code)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from aecli.errors import UsageError

REFINEMENTS = 2  # of a top-k code, in training as well
MOST_DESCENTS = 1000
LONGER, SHORTER = 1.5, 0.5  # the next step after one that lowered the error, and after one that did not
SEARCHED_DIMS = 3  # a code of so few numbers is looked for, too: some thousand codes cover all there are
CODEBOOK = 4096
NEAR_SHARE = 0.1  # of the codes are so near to zero that drawing them in leaves them where they are


@dataclass(frozen=True)
class DenseConfig:
    """channels, height, width: what a picture must be; activation: of the code. `linear` makes it PCA's equal."""

    channels: int = 1
    height: int = 28
    width: int = 28
    latent_dim: int = 32
    activation: Literal["relu", "linear"] = "relu"


@dataclass(frozen=True)
class DeepConfig:
    """hidden: widths of the encoder's hidden layers; the decoder mirrors them."""

    channels: int = 1
    height: int = 28
    width: int = 28
    latent_dim: int = 32
    hidden: tuple[int, ...] = (1000, 500, 250)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))


@dataclass(frozen=True)
class SparseConfig:
    """sparsity: `topk:SHARE` (units active for a picture), `l1:WEIGHT` (penalty on the activations) or `kl:SHARE` (mean
    activation a unit is held at). descents: steps that improve a `topk` code once training is over; none for a denoising
    autoencoder, as they would fit the code to the noise."""

    channels: int = 1
    height: int = 28
    width: int = 28
    latent_dim: int = 512
    sparsity: str = "topk:0.1"
    descents: int = 16

    def __post_init__(self) -> None:
        if not (isinstance(self.descents, int) and 0 <= self.descents <= MOST_DESCENTS):
            raise ValueError(f"{self.descents} descents are not within 0-{MOST_DESCENTS}")


class HasShape(Protocol):
    """What an autoencoder's configuration says of its pictures."""

    @property
    def channels(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


class FeatureConfig(HasShape, Protocol):
    """What the configurations of the feature autoencoders have in common."""

    @property
    def latent_dim(self) -> int: ...


class FeatureAutoencoder(nn.Module):
    """What the feature autoencoders have in common: pictures (B, C, H, W) in 0–1 ⇄ codes (B, latent_dim)."""

    config: FeatureConfig

    @property
    def narrowest(self) -> int:
        """Values for a picture in the smallest layer whose function is more than a sum, a product or a comparison."""
        return self.config.channels * self.config.height * self.config.width

    def encode(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in 0–1 → (B, latent_dim)."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """(B, latent_dim) → (B, C, H, W) in 0–1."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction."""
        return self.decode(self.encode(x))

    def loss(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Squared error summed over a picture's pixels, averaged over the batch, plus the architecture's own penalty."""
        return squared_error(self(noisy), clean).mean()


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B,): squared error summed over pixels, the measure of Hinton & Salakhutdinov (2006)."""
    return (x_hat - x).square().flatten(1).sum(dim=1)


class Dense(FeatureAutoencoder):
    """The simplest autoencoder of the literature: one hidden layer, 784–32–784 on MNIST, sigmoid output.

    With `activation="linear"` the output is linear too, and the optimum spans PCA's subspace (Baldi & Hornik 1989).
    """

    Config = DenseConfig
    config: DenseConfig

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.config = config
        self._shape = (config.channels, config.height, config.width)
        pixels = config.channels * config.height * config.width
        self.encoder = nn.Linear(pixels, config.latent_dim)
        self.decoder = nn.Linear(config.latent_dim, pixels)

    def encode(self, x: Tensor) -> Tensor:
        code = self.encoder(x.flatten(1))
        return code if self.config.activation == "linear" else code.relu()  # type: ignore[no-any-return]

    def decode(self, z: Tensor) -> Tensor:
        x = self.decoder(z)
        x = x if self.config.activation == "linear" else x.sigmoid()
        return x.view(-1, *self._shape)  # type: ignore[no-any-return]


class Deep(FeatureAutoencoder):
    """Hinton & Salakhutdinov's (2006) autoencoder, 784–1000–500–250–code and back, trained at once, without pretraining.

    In two dimensions neighbours on the map are strangers, and an encoder, which is continuous, often lands beside the best
    code. So codes of up to three numbers are chosen as a vector quantiser does (Gray 1984): of the encoder's answer and of the
    codes of 4,096 training pictures, the `codebook`, the one that decodes to the least squared error. These codes are also
    drawn in towards zero, by the inverse hyperbolic sine of their length: the network spreads some a hundred times as far out
    as others, and a map of that, or eight bits for it, would show the few and squeeze the many.
    """

    Config = DeepConfig
    config: DeepConfig
    codebook: Tensor
    spread: Tensor

    def __init__(self, config: DeepConfig) -> None:
        super().__init__()
        self.config = config
        self._shape = (config.channels, config.height, config.width)
        widths = (config.channels * config.height * config.width, *config.hidden)
        self.encoder = _perceptron((*widths, config.latent_dim))
        self.decoder = _perceptron((config.latent_dim, *reversed(widths)))
        self.searches = config.latent_dim <= SEARCHED_DIMS
        if self.searches:
            self.register_buffer("codebook", torch.zeros(CODEBOOK, config.latent_dim))
            self.register_buffer("spread", torch.ones(1))

    def encode(self, x: Tensor) -> Tensor:
        code: Tensor = self.encoder(x.flatten(1))
        if not self.searches:
            return code
        code = _drawn_in(code.float(), self.spread)
        return code if self.training else self._best(x, code)

    def decode(self, z: Tensor) -> Tensor:
        if self.searches:
            z = _let_out(z.float(), self.spread)
        return self.decoder(z).sigmoid().view(-1, *self._shape)  # type: ignore[no-any-return]

    @property
    def narrowest(self) -> int:
        return 1 if self.searches else min(super().narrowest, *self.config.hidden)  # the length of a code

    @torch.no_grad()
    def fill_codebook(self, images: Tensor) -> None:
        """Take the codes of training pictures, (4096, C, H, W) in 0–1, when training has ended."""
        codes = self.encoder(images.flatten(1))
        self.spread.copy_(codes.norm(dim=1).quantile(NEAR_SHARE).clamp_min(1e-6))
        self.codebook.copy_(_drawn_in(codes, self.spread))

    def _best(self, x: Tensor, code: Tensor) -> Tensor:
        """Of the encoder's code and the codebook's, for every picture the one that decodes to the least squared error."""
        with torch.autocast(x.device.type, enabled=False):
            known = self.decode(self.codebook).flatten(1)
            x = x.flatten(1)
            without_x = known.square().sum(dim=1) - 2 * x @ known.T  # squared errors, less the square of x
            least, place = without_x.min(dim=1)
            encoded = squared_error(self.decode(code).flatten(1), x) - x.square().sum(dim=1)
            return torch.where((encoded <= least)[:, None], code, self.codebook[place])


def _drawn_in(z: Tensor, spread: Tensor) -> Tensor:
    """(n, dim) → the same directions, the lengths' inverse hyperbolic sines; `spread` is the length up to which they keep."""
    lengths = (z.norm(dim=1, keepdim=True) / spread).clamp_min(1e-9)
    return z / spread * lengths.asinh() / lengths  # type: ignore[no-any-return]


def _let_out(u: Tensor, spread: Tensor) -> Tensor:
    """The inverse of `_drawn_in`."""
    lengths = u.norm(dim=1, keepdim=True).clamp_min(1e-9)
    return u * spread * lengths.sinh() / lengths  # type: ignore[no-any-return]


class Sparse(FeatureAutoencoder):
    """One hidden layer, wider than the dense one, of which few units are active for any picture.

    `topk` keeps the largest activations only (Makhzani & Frey 2013) and then corrects them twice by what they leave
    unexplained: iterative hard thresholding (Blumensath & Davies 2008) unrolled into the encoder (Gregor & LeCun 2010), with
    no more weights. One look alone chooses the units less well: three times the squared error at 1,024 units, 10 % active.
    When training is over, steps down the gradient of the squared error follow, of the same kind but with a length that every
    picture finds for itself (normalised iterative hard thresholding, Blumensath & Davies 2010): they halve the error.
    `l1` adds a penalty on the activations (Olshausen & Field 1996); `kl` holds the mean activation of every sigmoid unit at a
    share, by the Kullback–Leibler divergence (Ng 2011).

        x ── E ── top k ── z_0 ── D ── x_0        z_1 = top k (z_0 + E' (x - x_0)), and once more
    """

    Config = SparseConfig
    config: SparseConfig

    def __init__(self, config: SparseConfig) -> None:
        super().__init__()
        self.config = config
        self.kind, self.amount = parse_sparsity(config.sparsity)
        self._active = max(1, int(self.amount * config.latent_dim))  # of top k
        self._shape = (config.channels, config.height, config.width)
        pixels = config.channels * config.height * config.width
        self.encoder = nn.Linear(pixels, config.latent_dim)
        self.decoder = nn.Linear(config.latent_dim, pixels)
        # Begin as each other's transpose: a unit that explains nothing would never be chosen again. A file brings its own weights,
        # and arithmetic on the meta device, where it is loaded, imports SymPy.
        if self.kind == "topk" and not self.encoder.weight.is_meta:
            self.decoder.weight = nn.Parameter(nn.functional.normalize(self.encoder.weight.detach().T, dim=0).contiguous())

    def encode(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        code = self.encoder(x)
        if self.kind == "topk":
            code = self._refined(x, code)
            return code if self.training else self._descended(x, code)
        return code.relu() if self.kind == "l1" else code.sigmoid()  # type: ignore[no-any-return]

    @property
    def narrowest(self) -> int:
        return min(super().narrowest, self.config.latent_dim) if self.kind == "kl" else super().narrowest

    def _refined(self, x: Tensor, code: Tensor) -> Tensor:
        """(B, pixels) and the first activations → (B, latent_dim), few of them above zero."""
        code = _largest(code, self._active)
        for _ in range(REFINEMENTS):
            unexplained = x - self.decode(code).flatten(1)
            code = _largest(code + nn.functional.linear(unexplained, self.encoder.weight), self._active)
        return code

    def _descended(self, x: Tensor, code: Tensor) -> Tensor:
        """(B, pixels) and codes → codes with as few active units and no larger squared errors."""
        with torch.autocast(x.device.type, enabled=False):  # errors that differ by little are compared
            x, code = x.float(), code.float()
            x_hat = self.decode(code).flatten(1)
            error, step = squared_error(x_hat, x)[:, None], x.new_ones(len(x), 1)
            for _ in range(self.config.descents):
                downhill = ((x - x_hat) * x_hat * (1 - x_hat)) @ self.decoder.weight
                tried = _largest(code + step * downhill, self._active)
                tried_x = self.decode(tried).flatten(1)
                tried_error = squared_error(tried_x, x)[:, None]
                better = tried_error < error
                code, x_hat = torch.where(better, tried, code), torch.where(better, tried_x, x_hat)
                error = torch.where(better, tried_error, error)
                step = step * torch.where(better, LONGER, SHORTER)
        return code

    def decode(self, z: Tensor) -> Tensor:
        # Directions of unit length: otherwise the code shrinks, the weights grow, and the penalty says nothing.
        directions = nn.functional.normalize(self.decoder.weight, dim=0) if self.kind == "l1" else self.decoder.weight
        return nn.functional.linear(z, directions, self.decoder.bias).sigmoid().view(-1, *self._shape)

    def loss(self, noisy: Tensor, clean: Tensor) -> Tensor:
        code = self.encode(noisy)
        error = squared_error(self.decode(code), clean).mean()
        if self.kind == "topk":
            return error
        if self.kind == "l1":
            return error + self.amount * code.abs().sum(dim=1).mean()
        mean, share = code.mean(dim=0).clamp(1e-4, 1 - 1e-4), self.amount
        divergence = share * (share / mean).log() + (1 - share) * ((1 - share) / (1 - mean)).log()
        return error + divergence.sum()


def _largest(code: Tensor, count: int) -> Tensor:
    """(B, latent_dim) → the same, with all but each row's `count` largest positive activations at zero."""
    code = code.relu()
    smallest = code.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    return code * (code >= smallest)


def active_share(code: Tensor) -> float:
    """Mean share of units that are active (above 1 % of the batch's largest activation); code: (B, latent_dim)."""
    return (code.abs() > 0.01 * code.abs().max()).float().mean().item()


def parse_sparsity(text: str) -> tuple[str, float]:
    """`topk:0.1` → ("topk", 0.1). Raises UsageError for anything else."""
    kind, _, amount = text.partition(":")
    try:
        value = float(amount)
    except ValueError:
        value = -1.0
    if (kind == "l1" and 0 <= value < float("inf")) or (kind in ("kl", "topk") and 0 < value < 1):
        return kind, value
    raise UsageError(f"--sparsity {text} is not known: give topk:SHARE, l1:WEIGHT or kl:SHARE, such as topk:0.1")


def _perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
