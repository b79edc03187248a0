"""The photograph codec: a mean-scale hyperprior autoencoder with a checkerboard context and gain vectors for every quality."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aecli.models.layers import Bottleneck, Float32Conv2d, HeadConv2d, stack, ste_round, upsample

SCALES = 64  # entries of the table of standard deviations
SCALE_MIN, SCALE_MAX = 0.11, 256.0
# The network's raw output r means scale index 8r + 24: raw values of order one then span the table.
INDEX_SLOPE, INDEX_OFFSET = 8, 24
BLOCK = 16  # pixels along the side of what one position of y stands for
# What a squared error of 1 in a symbol is worth, in bits: 6 / ln 2 = 8.7 by high-rate theory, were errors independent. Those that
# all point to zero add up: 18 was best on the validation pictures, and 16 and 20 hardly worse.
ERROR_WEIGHT = 18.0
WIDEST_DEAD_ZONE = 0.499  # what is an integer already stays as it is
HYPER_HALF_WIDTH = 63  # values of z from −63 to 63 have a probability each, others are escaped


@dataclass(frozen=True)
class CodecConfig:
    """widths, blocks: channels and residual blocks at 1/2, 1/4, 1/8 of the resolution; latent, hyper: channels of y and z;
    features: channels inside the entropy networks, whose exact arithmetic is the dearest.
    """

    widths: tuple[int, ...] = (96, 128, 192)
    blocks_down: tuple[int, ...] = (2, 3, 8)
    blocks_up: tuple[int, ...] = (3, 4, 10)
    latent: int = 320
    hyper: int = 128
    features: int = 192
    lambdas: tuple[float, ...] = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800)

    def __post_init__(self) -> None:
        for name in ("widths", "blocks_down", "blocks_up", "lambdas"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


class CodecOutput(NamedTuple):
    """x_hat (B, 3, H, W) 0–1, not clipped; bits_y and bits_z (B,): estimated bits of each picture."""

    x_hat: Tensor
    bits_y: Tensor
    bits_z: Tensor


class Codec(nn.Module):
    """Mean-scale hyperprior (Minnen et al. 2018) with a two-pass checkerboard context (He et al. 2021) and gain units (Cui
    et al. 2021), so that one set of weights serves all qualities::

        x ─ g_a ─ y ─ ·gain ─┬─ round(y − mu) ─ range coder ─ + mu ─ ·inverse gain ─ g_s ─ x_hat
                             └─ h_a ─ z ─ round ─ range coder ─ h_s ─┐
                                      first half of y_hat ─ context ─┴─ parameters ─ mu, sigma

    What is rounded is first drawn towards zero by a dead zone (`dead_zone`), in training as well.

    y before its gain is of every quality; g_s is told the level, see `Modulation`.

    Beside g_a and g_s runs a linear transform of blocks of 16×16 pixels, added to what they give (residual autoencoding,
    Chen et al. 2025, with weights to learn in its shortcut): details need not find their way through the deep networks.

    `h_s`, `context` and `parameters` are evaluated in exact integer arithmetic when files are written and read
    (aecli/coding/exact.py); they hold nothing but convolutions, ReLU and pixel shuffle for that reason.
    """

    Config = CodecConfig

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        w2, w4, w8 = config.widths
        M, N, E = config.latent, config.hyper, config.features
        d2, d4, d8 = config.blocks_down
        u2, u4, u8 = config.blocks_up
        self.g_a = nn.Sequential(
            HeadConv2d(3, w2, 5, stride=2, padding=2),
            stack(Bottleneck, w2, d2),
            nn.Conv2d(w2, w4, 3, stride=2, padding=1),
            stack(Bottleneck, w4, d4),
            nn.Conv2d(w4, w8, 3, stride=2, padding=1),
            stack(Bottleneck, w8, d8),
            # y is quantised: bfloat16 could not hold values of a few hundred to the unit.
            Float32Conv2d(w8, M, 3, stride=2, padding=1),
        )  # (B, 3, H, W) → (B, M, H/16, W/16)
        levels = len(config.lambdas)
        self.g_s = nn.ModuleList(
            [
                HeadConv2d(M, w8, 3, padding=1),
                Modulation(levels, w8),
                stack(Bottleneck, w8, 2),
                upsample(w8, w8),
                Modulation(levels, w8),
                stack(Bottleneck, w8, u8),
                upsample(w8, w4),
                Modulation(levels, w4),
                stack(Bottleneck, w4, u4),
                upsample(w4, w2),
                Modulation(levels, w2),
                stack(Bottleneck, w2, u2),
                Float32Conv2d(w2, 12, 3, padding=1),
                nn.PixelShuffle(2),
            ]
        )  # (B, M, H/16, W/16) → (B, 3, H, W)
        self.linear_analysis = nn.Sequential(nn.PixelUnshuffle(BLOCK), Float32Conv2d(3 * BLOCK**2, M, 1, bias=False))
        self.linear_synthesis = nn.Sequential(Float32Conv2d(M, 3 * BLOCK**2, 1, bias=False), nn.PixelShuffle(BLOCK))
        self.h_a = nn.Sequential(
            HeadConv2d(M, E, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(E, E, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            Float32Conv2d(E, N, 3, stride=2, padding=1),
        )  # (B, M, H/16, W/16) → (B, N, H/64, W/64)
        self.h_s = nn.Sequential(
            nn.Conv2d(N, E, 3, padding=1),
            nn.ReLU(inplace=True),
            *upsample(E, E),
            nn.ReLU(inplace=True),
            nn.Conv2d(E, E, 3, padding=1),
            nn.ReLU(inplace=True),
            *upsample(E, E),
            nn.ReLU(inplace=True),
        )  # (B, N, H/64, W/64) → (B, E, H/16, W/16)
        self.context = nn.Conv2d(M, E, 5, padding=2)
        self.parameters_net = nn.Sequential(
            nn.Conv2d(2 * E, 2 * E, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * E, 2 * E, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * E, 2 * M, 1),
        )  # features and context → mu and the raw scale index
        self.prior = LogisticMixture(N)
        # Where bits are spent freely, the best step of an orthonormal transform of three channels: d/dstep of the rate,
        # -log2(step) a coefficient, and of lambda · 255² · step²/12 cancel (high-rate theory). A good place to start.
        # (Plain numbers: on the meta device, where weights files are loaded, torch imports SymPy for arithmetic.)
        start = [-0.5 * math.log(18 / math.log(2) / 255**2 / lmbda) for lmbda in config.lambdas]
        self.log_gain = nn.Parameter(torch.tensor([[value] * M for value in start]))
        self.log_inverse_gain = nn.Parameter(torch.tensor([[-value] * M for value in start]))

        # Integer probability tables, filled when training ends (aecli/coding/tables.py)
        entries = sum(2 * gaussian_half_width(index) + 2 for index in range(SCALES))
        self.register_buffer("gaussian_frequencies", torch.zeros(entries, dtype=torch.int32))
        self.register_buffer("hyper_frequencies", torch.zeros(N, 2 * HYPER_HALF_WIDTH + 2, dtype=torch.int32))

    gaussian_frequencies: Tensor
    hyper_frequencies: Tensor
    stride = 64
    hyper_analysis_radius = 4  # how far, in positions of y, z depends on y
    hyper_synthesis_radius = 2  # how far, in positions of z, what h_s gives depends on z

    @property
    def analysis_radius(self) -> int:
        """How far, in pixels, y depends on the picture: tiles that overlap by this much give the same y."""
        d2, d4, d8 = self.config.blocks_down
        return 2 + 2 * d2 + 2 + 4 * d4 + 4 + 8 * d8 + 8

    @property
    def synthesis_radius(self) -> int:
        """How far, in pixels, the decoded picture depends on y."""
        u2, u4, u8 = self.config.blocks_up
        return 16 + 16 * 2 + 8 * u8 + 4 * u4 + 2 * u2 + 2

    @torch.no_grad()
    def start_with_pca(self, x: Tensor) -> None:
        """Set the linear transform to the principal components of pictures' blocks: a transform codec, for training to improve.

        x: (B, 3, H, W) in 0–1, H and W multiples of 16, with at least as many blocks as y has channels.
        """
        blocks = F.pixel_unshuffle(x.float() - 0.5, BLOCK).permute(0, 2, 3, 1).flatten(0, 2).double()  # (blocks, 768)
        _, vectors = torch.linalg.eigh(blocks.T @ blocks)
        components = vectors.flip(1)[:, : self.config.latent].float()  # (768, M), largest first
        analysis, synthesis = cast(nn.Conv2d, self.linear_analysis[1]), cast(nn.Conv2d, self.linear_synthesis[0])
        analysis.weight.copy_(components.T[..., None, None])
        synthesis.weight.copy_(components[..., None, None])

    def analysis(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0–1, H and W multiples of 64 → y before its gain, (B, M, H/16, W/16)."""
        x = x - 0.5
        return self.g_a(x) + self.linear_analysis(x)  # type: ignore[no-any-return]

    def synthesis(self, y: Tensor, level: Tensor) -> Tensor:
        """y after its inverse gain, (B, M, H/16, W/16), and the level (B,) that it was → pictures (B, 3, H, W), about 0–1."""
        x = y
        for layer in self.g_s:
            x = layer(x, level) if isinstance(layer, Modulation) else layer(x)
        return x + self.linear_synthesis(y) + 0.5  # type: ignore[no-any-return]

    def gains(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and inverse gain (B, M, 1, 1) at a level (B,) in 0 … len(lambdas) − 1.

        Between two levels their logarithms are interpolated.
        """
        gain, inverse = (at_level(table, level).exp() for table in (self.log_gain, self.log_inverse_gain))
        return gain, inverse

    def lambda_of(self, level: float) -> float:
        """The lambda that a level stands for, between two of the configuration by their logarithms."""
        logs = [math.log(lmbda) for lmbda in self.config.lambdas]
        lower = min(int(level), len(logs) - 2)
        return math.exp(logs[lower] + (level - lower) * (logs[lower + 1] - logs[lower]))

    def forward(self, x: Tensor, level: Tensor) -> CodecOutput:
        """What training needs: the restored picture and the estimated bits, differentiable.

        Everything is rounded as in files, and bits_y are what the symbols of a file cost. The gradients pass what is rounded
        unchanged, but those of the bits pass y as if noise had been added instead (mixed quantisation, Minnen & Singh 2020).
        """
        gain, inverse_gain = self.gains(level)
        y = self.analysis(x) * gain
        z = self.h_a(y).float()

        def drawn(mu: Tensor, index: Tensor) -> Tensor:  # straight through: what has been set to zero must learn to grow
            v = y - mu
            return v + (shrunk(v, dead_zone(scale_of_index(index))) - v).detach()

        symbols, mu, index = self.two_passes(self.h_s(ste_round(z)), lambda mu, index: ste_round(drawn(mu, index)))
        sigma = scale_of_index(index)
        noisy = gaussian_bits(drawn(mu, index) + torch.empty_like(y).uniform_(-0.5, 0.5), sigma.detach())
        bits_y = (gaussian_bits(symbols.detach(), sigma) + noisy - noisy.detach()).sum(dim=(1, 2, 3))
        bits_z = self.prior.bits(z + torch.empty_like(z).uniform_(-0.5, 0.5)).sum(dim=(1, 2, 3))
        return CodecOutput(self.synthesis((symbols + mu) * inverse_gain, level).float(), bits_y, bits_z)

    def symbols(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """What files hold of pictures, as far as floats tell: the symbols and the indices of their scales.

        x: (B, 3, H, W) in 0–1, H and W multiples of 64; level: (B,) → both (B, M, H/16, W/16), int64.
        """
        gain, _ = self.gains(level)
        y = self.analysis(x) * gain
        symbols, _, index = self.two_passes(self.h_s(self.h_a(y).round()), lambda mu, index: symbols_near(y - mu, index.round()))
        return symbols.long(), index.round().long().clamp(0, SCALES - 1)

    def two_passes(self, features: Tensor, symbols_of: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols, mu and the fractional scale index, each (B, M, h, w), as float networks predict them: anchors, then the rest.

        features: what h_s gives, (B, E, h, w). symbols_of: mu and index → symbols, asked in each pass, of the first for anchors
        alone.
        """
        anchors = checkerboard(*features.shape[-2:], device=features.device)
        context = torch.zeros_like(features)
        mu, index = self._predicted(features, context)
        context = self.context((symbols_of(mu, index) + mu) * anchors) * ~anchors
        mu, index = self._predicted(features, context)
        return symbols_of(mu, index), mu, index

    def _predicted(self, features: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        mu, raw = self.parameters_net(torch.cat([features, context], dim=1)).float().chunk(2, dim=1)
        return mu, INDEX_SLOPE * raw + INDEX_OFFSET


class Modulation(nn.Module):
    """Scales and shifts channels as a quality needs it: how coarsely y was rounded decides how much to smooth (FiLM, Perez et
    al. 2018). Begins as the identity. (B, C, H, W) and levels (B,) → (B, C, H, W)."""

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(levels, channels))
        self.shift = nn.Parameter(torch.zeros(levels, channels))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        scale, shift = at_level(self.log_scale, level).exp(), at_level(self.shift, level)
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))


class LogisticMixture(nn.Module):
    """A density a channel for the hyper-latents: a mixture of three logistic distributions, integrated over unit intervals."""

    # A step of AdamW moves a parameter by the learning rate, whatever its gradient: too slow for statistics of this size.
    SPEED = 10.0

    def __init__(self, channels: int, components: int = 3) -> None:
        super().__init__()
        places = [-0.1 + 0.2 * k / (components - 1) for k in range(components)]
        self.location = nn.Parameter(torch.tensor([places] * channels))  # (N, K), as all in units of SPEED
        self.log_scale = nn.Parameter(torch.zeros(channels, components))
        self.logit = nn.Parameter(torch.zeros(channels, components))

    def probability(self, z: Tensor) -> Tensor:
        """Probability of the unit interval around z; z: (B, N, H, W) → the same shape."""
        z = z[..., None]  # (B, N, H, W, 1)
        location = self.SPEED * self.location[:, None, None]
        scale = (self.SPEED * self.log_scale).clamp(-4, 5).exp()[:, None, None]
        distance = (z - location).abs()  # the lower tail is the accurate one, by symmetry
        mass = torch.sigmoid((0.5 - distance) / scale) - torch.sigmoid((-0.5 - distance) / scale)
        return (mass * (self.SPEED * self.logit).softmax(dim=-1)[:, None, None]).sum(dim=-1)

    def bits(self, z: Tensor) -> Tensor:
        """Bits of each z."""
        return -lower_bound(self.probability(z), 1e-9).log2()


def at_level(table: Tensor, level: Tensor) -> Tensor:
    """Rows of a table (levels, C) at levels (B,), between two of them interpolated → (B, C, 1, 1)."""
    lower = level.floor().long().clamp(0, len(table) - 2)
    return torch.lerp(table[lower], table[lower + 1], (level - lower)[:, None])[..., None, None]


def checkerboard(height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """True at the anchors, the positions that are coded first, (height, width)."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return (rows[:, None] + columns) % 2 == 0


def scale_of_index(index: Tensor) -> Tensor:
    """Standard deviation of a (fractional) scale index: 0 … 63 spans 0.11 … 256 evenly in the logarithm."""
    step = math.log(SCALE_MAX / SCALE_MIN) / (SCALES - 1)
    return torch.exp(math.log(SCALE_MIN) + step * lower_bound(index, 0.0).clamp(max=SCALES - 1.0))


def gaussian_half_width(index: int) -> int:
    """How far from zero the table of a scale index reaches: six standard deviations."""
    half_width: int = math.ceil(6 * SCALE_MIN * (SCALE_MAX / SCALE_MIN) ** (index / (SCALES - 1))) + 1
    return half_width


def gaussian_bits(v: Tensor, sigma: Tensor) -> Tensor:
    """Bits of v under a normal distribution of mean 0, integrated over the unit interval around it."""
    v = v.abs()
    upper, lower = (0.5 - v) / sigma, (-0.5 - v) / sigma
    probability = 0.5 * (torch.erfc(-upper * math.sqrt(0.5)) - torch.erfc(-lower * math.sqrt(0.5)))
    return -lower_bound(probability, 1e-9).log2()


@torch.no_grad()
def dead_zone(sigma: Tensor) -> Tensor:
    """How much farther than half way to the next integer a value must be to become it, below 0.5, from its standard deviation.

    Where a 1 costs many bits more than a 0, saving them is worth a larger error (Sullivan 1996, "Efficient scalar quantization
    of exponential and Laplacian random variables").
    """
    one, zero = (gaussian_bits(torch.full_like(sigma, value), sigma) for value in (1.0, 0.0))
    return ((one - zero) / (2 * ERROR_WEIGHT)).clamp(max=WIDEST_DEAD_ZONE)


def shrunk(v: Tensor, margin: Tensor) -> Tensor:
    """v, moved towards zero by its dead zone: rounded, it is what is coded."""
    return v - v.clamp(-margin, margin)


def symbols_near(v: Tensor, index: Tensor) -> Tensor:
    """The symbols that are coded for y − mu, given the (fractional) indices of their scales; of one shape."""
    return shrunk(v, dead_zone(scale_of_index(index))).round()


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), whose gradient still flows where it would push x up (Ballé et al. 2018)."""
    return _LowerBound.apply(x, bound)  # type: ignore[no-any-return]


def rate_distortion(output: CodecOutput, x: Tensor, lmbda: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, bits per pixel, mean squared error in 0–1), each (B,): loss = bpp + lambda · 255² · MSE."""
    bpp = (output.bits_y + output.bits_z) / (x.shape[-1] * x.shape[-2])
    mse = F.mse_loss(output.x_hat, x, reduction="none").mean(dim=(1, 2, 3))
    return bpp + lmbda * 255**2 * mse, bpp, mse
