"""Architectures. A new one is one file here and one line in the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from aecli.errors import AecliError
from aecli.models.codec import Codec
from aecli.models.conv import Conv, Vae
from aecli.models.denoiser import Denoiser
from aecli.models.dense import Deep, Dense, FeatureAutoencoder, Sparse

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "dense": Dense,
    "deep": Deep,
    "sparse": Sparse,
    "conv": Conv,
    "vae": Vae,
    "denoiser": Denoiser,
    "codec": Codec,
}


def build(arch: str, config: Mapping[str, Any]) -> nn.Module:
    """A model with fresh weights. Raises AecliError for an unknown name or a configuration that does not fit it."""
    if arch not in ARCHITECTURES:
        raise AecliError(f"architecture {arch} is not known: there are {', '.join(ARCHITECTURES)}")
    model_class: Any = ARCHITECTURES[arch]
    try:
        return model_class(model_class.Config(**config))  # type: ignore[no-any-return]
    except (TypeError, ValueError, IndexError, RuntimeError, OverflowError, MemoryError) as error:
        raise AecliError(f"the configuration {config} does not fit architecture {arch}: {error}") from error


def config_of(model: nn.Module) -> dict[str, Any]:
    """The configuration that `build` needs to make this model again."""
    config: Any = model.config
    return dataclasses.asdict(config)


__all__ = ["ARCHITECTURES", "FeatureAutoencoder", "build", "config_of"]
