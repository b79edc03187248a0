"""The codec's latents to bytes and back: which table codes which symbol, and the range coder.

First z, channel after channel; then y in two passes, the anchors of the checkerboard and the rest, each grouped by scale
index so that one static table codes many symbols in a call.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aecli.coding.exact import ACTIVATION_LIMIT, FRACTION_BITS, ExactCheckerboardConv, ExactNetwork, from_fixed, to_fixed
from aecli.coding.tables import gaussian_tables, hyper_tables
from aecli.errors import AecliError
from aecli.models.codec import INDEX_OFFSET, INDEX_SLOPE, SCALES, Codec, checkerboard, dead_zone, scale_of_index, shrunk

# constriction's submodules are attributes of a binary module, and cannot be imported by name
models, queue = constriction.stream.model, constriction.stream.queue

SYMBOL_LIMIT = 32767
STRIP_POSITIONS = 1 << 12  # latent positions whose activations are held as float64 at once
CONTEXT_POSITIONS = 1 << 12  # the same of the context, whose strips overlap
STRIP_CHANNELS = 16  # of y that are held as float64 at once
# No stream is shorter than a byte for so many latent positions, so that a short file cannot claim a huge picture.
POSITIONS_PER_BYTE = 64


@dataclass(frozen=True)
class Latents:
    """symbols: y − mu as coded, (M, h, w) int16; z: (N, h/4, w/4) int16.

    fixed_y_hat: what the decoder sees, fixed-point, (M, h, w) int32.
    """

    symbols: np.ndarray
    z: np.ndarray
    fixed_y_hat: Tensor

    @property
    def y_hat(self) -> Tensor:
        """What the decoder sees, (1, M, h, w) float32."""
        return from_fixed(self.fixed_y_hat)[None]

    @property
    def crc(self) -> int:
        """CRC-32 of all symbols."""
        crc = 0
        for channel in (*self.z, *self.symbols):  # one by one, to save the memory of copies
            crc = zlib.crc32(channel.astype("<i4").tobytes(), crc)
        return crc


class LatentCoder:
    """Codes the latents of one codec. Raises AecliError for a codec whose tables were never filled."""

    def __init__(self, model: Codec) -> None:
        if int(model.gaussian_frequencies.min()) < 1 or int(model.hyper_frequencies.min()) < 1:
            raise AecliError("these codec weights hold no probability tables: finish their training with aecli train --resume")
        self._latent, self._hyper = model.config.latent, model.config.hyper
        self._h_s, self._parameters = ExactNetwork(model.h_s), ExactNetwork(model.parameters_net)
        self._context = ExactCheckerboardConv(model.context)
        self._gaussians = [_Table(t) for t in gaussian_tables(model)]
        self._hypers = [_Table(t) for t in hyper_tables(model)]
        self._dead_zones = dead_zone(scale_of_index(torch.arange(SCALES, dtype=torch.float64)))

    def encode(self, y: Tensor, z: Tensor, gain: Tensor) -> tuple[bytes, Latents]:
        """y: (1, M, h, w) before its gain (1, M, 1, 1), z: (1, N, h/4, w/4), h and w multiples of 4 → the stream and what was
        coded."""
        coder = queue.RangeEncoder()
        z_symbols = _to_symbols(z[0].round())
        for table, channel in zip(self._hypers, z_symbols, strict=True):
            table.encode(coder, channel.ravel())
        y = y[0].flatten(1)

        def code(indices: np.ndarray, where: Tensor, mu: Tensor) -> np.ndarray:
            symbols = np.empty(indices.shape, dtype=np.int16)
            for part in self._strips():
                scaled = y[part, where] * gain[0, part, 0]
                v = scaled.double() - from_fixed(mu[part, where].double())
                symbols[part] = _to_symbols(shrunk(v, self._dead_zones[torch.from_numpy(indices[part]).int()]).round())
            for index in np.unique(indices):
                self._gaussians[index].encode(coder, symbols[indices == index])
            return symbols

        latents = self._two_passes(z_symbols, code)
        stream = coder.get_compressed().astype("<u4").tobytes()
        shortest = _shortest_stream(*latents.symbols.shape[1:])
        return stream.ljust(shortest, b"\0"), latents

    def decode(self, stream: bytes, height: int, width: int) -> Latents:
        """The latents (height, width multiples of 4) of a stream. Raises AecliError where the stream cannot be theirs."""
        if len(stream) % 4 or len(stream) < _shortest_stream(height, width):
            raise AecliError("the stream is shorter than its picture")
        decoder = queue.RangeDecoder(np.frombuffer(stream, dtype="<u4").astype(np.uint32))
        try:
            count = (height // 4) * (width // 4)
            z = np.stack([table.decode(decoder, count).astype(np.int16) for table in self._hypers])

            def code(indices: np.ndarray, where: Tensor, mu: Tensor) -> np.ndarray:
                symbols = np.empty(indices.shape, dtype=np.int16)
                for index in np.unique(indices):
                    chosen = indices == index
                    symbols[chosen] = self._gaussians[index].decode(decoder, int(chosen.sum()))
                return symbols

            return self._two_passes(z.reshape(self._hyper, height // 4, width // 4), code)
        except AssertionError as error:  # constriction's way to say so
            raise AecliError("the stream is damaged") from error

    def _two_passes(self, z: np.ndarray, code: Callable[[np.ndarray, Tensor, Tensor], np.ndarray]) -> Latents:
        """Walk the model as encoder and decoder alike must.

        `code` (indices of the tables (M, n), n positions of the pass, mu of all positions (M, h·w)) gives the pass's symbols,
        (M, n).

        Fixed-point numbers that the networks gave are kept as int32, which holds them, and symbols as int16: float64 only ever
        holds strips.
        """
        features = self._h_s(to_fixed(torch.from_numpy(z))[None])[0].int()
        height, width = features.shape[-2:]
        y_hat = torch.zeros(self._latent, height * width, dtype=torch.int32)  # of a pass whose symbols are not known: mu
        symbols = np.zeros(y_hat.shape, dtype=np.int16)
        context = torch.zeros_like(features)
        anchors = checkerboard(height, width).flatten()
        for mask in (anchors, ~anchors):
            where = mask.nonzero()[:, 0]
            indices = self._predict(features, context, where, y_hat)
            coded = code(indices, where, y_hat)
            self._add(coded, where, y_hat)
            symbols[:, where.numpy()] = coded
            if mask is anchors:
                self._put_context(y_hat.view(-1, height, width), context)
        return Latents(symbols.reshape(-1, height, width), z, y_hat.view(-1, height, width))

    def _predict(self, features: Tensor, context: Tensor, where: Tensor, mu: Tensor) -> np.ndarray:
        """Put mu, fixed-point, into its (M, h·w) at the positions, from what is known there; the indices of their tables (M, n)."""
        indices = np.empty((self._latent, len(where)), dtype=np.uint8)
        for start in range(0, len(where), STRIP_POSITIONS):
            part = slice(start, start + STRIP_POSITIONS)
            known = torch.cat([found.flatten(1)[:, where[part]] for found in (features, context)]).double()
            strip, raw = self._parameters(known[None, :, None])[0, :, 0].chunk(2)
            mu[:, where[part]], indices[:, part] = strip.int(), _scale_indices(raw)
        return indices

    def _add(self, symbols: np.ndarray, where: Tensor, mu: Tensor) -> None:
        """Make y_hat of mu (M, h·w), fixed-point, at the positions whose symbols are now known, (M, n)."""
        whole = int(ACTIVATION_LIMIT) >> FRACTION_BITS  # as `to_fixed` limits them
        for part in self._strips():
            mu[part, where] += torch.from_numpy(symbols[part]).int().clamp_(-whole, whole) << FRACTION_BITS

    def _strips(self) -> Iterator[slice]:
        """The channels of y, some at a time."""
        return (slice(start, start + STRIP_CHANNELS) for start in range(0, self._latent, STRIP_CHANNELS))

    def _put_context(self, y_hat: Tensor, context: Tensor) -> None:
        """Write into `context` (E, h, w) what the anchors of y_hat (M, h, w) tell the positions between; fixed-point int32."""
        height, width = y_hat.shape[1:]
        radius = self._context.radius
        rows = max(1, CONTEXT_POSITIONS // (2 * width)) * 2  # each strip begins with an anchor
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            strip = y_hat[:, max(0, top - radius) : bottom + radius].clamp(-int(ACTIVATION_LIMIT), int(ACTIVATION_LIMIT))
            strip = F.pad(strip, (radius, radius, max(0, radius - top), max(0, bottom + radius - height)))
            context[:, top:bottom][:, ~checkerboard(bottom - top, width)] = self._context(strip).int()


class _Table:
    """A static table: values −w … w, and an escape followed by 16 plain bits for any other."""

    _plain = models.Uniform(2 * SYMBOL_LIMIT + 1)

    def __init__(self, frequencies: np.ndarray) -> None:
        self._half_width = (len(frequencies) - 2) // 2
        self._escape = len(frequencies) - 1
        # Integers below 2^24, added one after the other in float64: constriction's own arithmetic on them is exact too.
        self._model = models.Categorical(frequencies, perfect=False)

    def encode(self, coder: Any, symbols: np.ndarray) -> None:
        symbols = symbols.astype(np.int32)  # sums below need not fit into 16 bits
        outside = np.abs(symbols) > self._half_width
        coder.encode(np.where(outside, self._escape, symbols + self._half_width), self._model)
        if outside.any():
            coder.encode(symbols[outside] + SYMBOL_LIMIT, self._plain)

    def decode(self, decoder: Any, count: int) -> np.ndarray:
        coded = decoder.decode(self._model, count)
        symbols: np.ndarray = coded - self._half_width
        outside = coded == self._escape
        if outside.any():
            symbols[outside] = decoder.decode(self._plain, int(outside.sum())) - SYMBOL_LIMIT
        return symbols


def _scale_indices(raw: Tensor) -> np.ndarray:
    """Fixed-point raw outputs → indices 0 … 63 of the tables, rounded to the nearest, exactly."""
    scaled = raw * INDEX_SLOPE + (INDEX_OFFSET << FRACTION_BITS) + (1 << (FRACTION_BITS - 1))
    indices: np.ndarray = (scaled * 2.0**-FRACTION_BITS).floor().clamp(0, SCALES - 1).numpy().astype(np.uint8)
    return indices


def _to_symbols(x: Tensor) -> np.ndarray:
    symbols: np.ndarray = x.detach().cpu().clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT).numpy().astype(np.int16)
    return symbols


def _shortest_stream(height: int, width: int) -> int:
    return 4 * -(-height * width // (4 * POSITIONS_PER_BYTE))
