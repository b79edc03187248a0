"""Weights files: write, read, check, find by name. Safetensors with a model card in the metadata; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from aecli.batch import atomic_write
from aecli.errors import AecliError
from aecli.models import build, config_of
from aecli.storage import refuse_url

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 1 << 20
MAX_PARAMETERS = 1 << 30
_PACKAGE = Path(__file__).parent
# An installed wheel carries the weights inside the package, a checkout has them beside it.
SHIPPED_FOLDERS = (_PACKAGE / "_weights", _PACKAGE.parent / "weights")


@dataclass(frozen=True)
class Card:
    """What a weights file says of itself.

    scores: measured figures by name. error_quantiles: quantiles of the reconstruction error (mean squared, 0–1) on held-out
    training data, by probability.
    """

    arch: str
    config: Mapping[str, Any]
    task: str  # features, denoise or compress
    training_data: str
    steps: int
    noise: str = ""  # what the input was corrupted with
    colour_mode: str = "rgb"  # rgb or grey
    value_range: str = "0..1"
    scores: Mapping[str, float] = field(default_factory=dict)
    error_quantiles: Mapping[str, float] = field(default_factory=dict)
    command: str = ""
    resize: int = 0  # whole pictures were reduced to this side; 0: patches, or pictures as they are
    licence: str = ""  # of the weights, where their author has stated one


@dataclass(frozen=True)
class Weights:
    """A model ready for inference, its card, the name it was asked for by, and the SHA-256 of its file."""

    model: nn.Module
    card: Card
    name: str
    digest: str


def save_weights(path: Path, model: nn.Module, card: Card, *, half: bool, overwrite: bool = False) -> None:
    """Write a weights file; `half` stores floating-point tensors with 16 bits."""
    tensors = {k: _stored(v, half) for k, v in model.state_dict().items()}
    metadata = {"format_version": str(FORMAT_VERSION)}
    for name, value in asdict(card).items():
        metadata[name] = value if isinstance(value, str) else json.dumps(value)
    with atomic_write(path, overwrite=overwrite) as stream:
        stream.write(save_tensors(tensors, metadata=metadata))


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor


@torch.inference_mode(False)  # whatever the caller is at: gradients pass through parameters
def load_weights(name: str | Path, device: str | torch.device = "cpu") -> Weights:
    """Read a weights file by the name of a shipped one (`photo-denoise`) or by its path.

    Raises:
        AecliError: no such file, a damaged one, an unknown format version or architecture, tensors that do not fit it.
    """
    path = find_weights(name)
    data = _read(path)
    card, header = _parse_header(path, data)
    _check_counts(path, card.config, len(header))
    with torch.device("meta"):
        model = build(card.arch, card.config)
    _check_shapes(path, model, header)
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError) as error:
        raise AecliError(f"{path} is damaged ({error}): fetch or train it again") from error
    state = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    wrong = [k for k, v in model.state_dict().items() if state[k].dtype != v.dtype]
    if wrong:
        raise AecliError(f"{path} does not fit its architecture: {wrong[0]} holds {tensors[wrong[0]].dtype}")
    model.load_state_dict(state, assign=True)
    model = model.to(device).eval().requires_grad_(False)
    return Weights(model, card, path.stem, hashlib.sha256(data).hexdigest())


def read_card(path: Path) -> Card:
    """The card alone, without the tensors."""
    return _parse_header(path, _read(path))[0]


def find_weights(name: str | Path) -> Path:
    """The file of a shipped name or of a path. Raises AecliError, naming what there is, where there is none."""
    refuse_url(name, "--weights")
    direct = Path(name)
    if direct.suffix == ".safetensors" or os.path.isfile(direct):  # noqa: PTH113 — Path.is_file raises for long names
        return direct
    if direct.name == str(name):
        for folder in SHIPPED_FOLDERS:
            if os.path.isfile(folder / f"{name}.safetensors"):  # noqa: PTH113
                return folder / f"{name}.safetensors"
    known = ", ".join(path.stem for path in shipped_weights()) or "none"
    raise AecliError(f"no weights named {name}: there are {known}; or pass the path of a .safetensors file")


def shipped_weights() -> list[Path]:
    """The weights that come along, by name."""
    folder = next((f for f in SHIPPED_FOLDERS if f.is_dir()), SHIPPED_FOLDERS[0])
    return sorted(folder.glob("*.safetensors"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # the latter for names that no file can have
        reason = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise AecliError(f"weights {path} cannot be read ({reason}): check the name, or see aecli models") from error


def _parse_header(path: Path, data: bytes) -> tuple[Card, dict[str, Any]]:
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise AecliError(f"{path} is not a safetensors file, or is cut off: fetch or train it again")
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        version = metadata.get("format_version")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise AecliError(f"{path} has a damaged header: fetch or train it again") from error
    if version is None:
        raise AecliError(f"{path} was not written by aecli (its header has no format_version): pass weights made by aecli train")
    if version != str(FORMAT_VERSION):
        raise AecliError(f"{path} has format version {version}, this aecli reads {FORMAT_VERSION}: upgrade aecli")
    try:
        known = {f.name: f.type for f in fields(Card)}
        return Card(**{k: _card_value(v, str(known[k])) for k, v in metadata.items() if k in known}), header
    except (TypeError, ValueError, RecursionError) as error:
        raise AecliError(f"{path} has a damaged model card ({error}): fetch or train it again") from error


def _card_value(text: object, kind: str) -> Any:
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.100} is no text")
    value = text if kind == "str" else json.loads(text)
    if not isinstance(value, {"str": str, "int": int}.get(kind, dict)):
        raise TypeError(f"{text:.100} is no {kind}")
    return value


def _check_counts(path: Path, config: Mapping[str, Any], tensors: int) -> None:
    """A network has no more layers than its file has tensors: a billion blocks would take days to build even without memory."""
    for name, value in config.items():
        numbers = value if isinstance(value, list) else [value]
        is_count = name.startswith("blocks")
        if len(numbers) > tensors or any(is_count and isinstance(n, int) and n > tensors for n in numbers):
            raise AecliError(f"{path} does not fit its architecture: {name} {value!s:.100} with {tensors} tensors")


def _check_shapes(path: Path, model: nn.Module, header: Mapping[str, Any]) -> None:
    """Compare the header with what the architecture needs, before anything is allocated."""
    expected = {k: list(v.shape) for k, v in model.state_dict().items()}
    if sum(math.prod(shape) for shape in expected.values()) > MAX_PARAMETERS:
        raise AecliError(f"{path} claims a model of more than {MAX_PARAMETERS:,} parameters: it is not read")
    found = {k: v.get("shape") if isinstance(v, dict) else None for k, v in header.items()}
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise AecliError(
            f"{path} does not fit its architecture: {wrong[0]} is {found.get(wrong[0])} where {expected.get(wrong[0])} belongs"
        )


def card_of(model: nn.Module, arch: str, **values: Any) -> Card:
    """A card for a model at hand; `values` are the fields that only its training knows."""
    return Card(arch=arch, config=config_of(model), **values)
