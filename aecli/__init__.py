"""aecli: compress and denoise pictures with autoencoders. What a notebook imports; the command line is in aecli.cli.

>>> import aecli
>>> clean = aecli.denoise(noisy)                     # NumPy array or PIL image in, the same out
>>> data = aecli.encode(clean, quality=60)           # the bytes of an .npz
>>> again = aecli.decode(data)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from aecli.errors import AecliError

if TYPE_CHECKING:  # torch takes seconds to import: `import aecli` must not
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from aecli.compression import Coder
    from aecli.images import Picture
    from aecli.quality import Target
    from aecli.weights import Weights

    Array = npt.NDArray[Any]
    Samples = TypeVar("Samples", bound=np.generic)

__version__ = "0.1.0"
__all__ = ["AecliError", "decode", "denoise", "encode", "load_latents", "load_weights"]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


@overload
def denoise(
    image: npt.NDArray[Samples], *, sigma: float | None = None, strength: float = 1.0, weights: str | Path = "photo-denoise"
) -> npt.NDArray[Samples]: ...


@overload
def denoise(
    image: Image.Image | str | Path, *, sigma: float | None = None, strength: float = 1.0, weights: str | Path = "photo-denoise"
) -> Image.Image: ...


def denoise(
    image: Array | Image.Image | str | Path,
    *,
    sigma: float | None = None,
    strength: float = 1.0,
    weights: str | Path = "photo-denoise",
) -> Array | Image.Image:
    """Remove noise from a picture.

    Args:
        image: a PIL image, the path of a picture, or an array (H, W), (H, W, 1 … 4): uint8, uint16, or floats in 0–1.
        sigma: standard deviation of the noise in grey levels of 255; None estimates it.
        strength: share of the correction that is applied, 0–1.
        weights: the name of shipped weights, or the path of a file.

    Returns:
        An array of the shape and type of `image` (floats in 0–1, worked on with 16 bits), or a PIL image.

    Raises:
        aecli.errors.AecliError: no picture, unknown weights, sigma or strength out of range.
    """
    from aecli import device
    from aecli.denoising import denoise_picture

    with _parameters_named():
        result = denoise_picture(_picture(image), load_weights(weights), device.select(), sigma=sigma, strength=strength)
    return _like(image, result.picture)


def encode(
    image: Array | Image.Image | str | Path,
    *,
    quality: float | Target | None = None,
    effort: int = 0,
    weights: str | Path = "photo-codec",
) -> bytes:
    """Compress a picture to the bytes of an .npz.

    Args:
        image: a PIL image, the path of a picture, or an array (H, W), (H, W, 1 … 4): uint8, uint16 (rounded to 8 bits), or floats
            in 0–1.
        quality: 0–100 (None is 50), or an aecli.quality.Target, such as Target("bpp", 0.3), whose quality is searched. Feature
            autoencoders have one quality only: leave it out.
        effort: rounds in which the codec's latents are refined for this picture (feature autoencoders have none): at the same
            quality a better picture of about the same size, in far more time.
        weights: the name of shipped weights, or the path of a file; a codec or a feature autoencoder.

    Raises:
        aecli.errors.AecliError: no picture, unknown weights, quality or effort out of range or a target out of reach.
    """
    from aecli.compression import encode_picture

    with _parameters_named():
        return encode_picture(_picture(image), _coder(weights, effort), quality=quality)


def decode(source: bytes | str | Path, *, weights: str | Path | None = None) -> Image.Image:
    """The picture of an .npz, as a PIL image (L, LA, RGB or RGBA).

    Args:
        source: the bytes that `encode` returned, or a path.
        weights: what to decode with; None takes the shipped weights that the file names.

    Raises:
        aecli.errors.AecliError: a damaged or foreign file, or one made with other weights.
    """
    from aecli.compression import decode_picture
    from aecli.images import to_pil

    data, name = _data(source)
    with _parameters_named():
        return to_pil(decode_picture(data, name, lambda wanted: _coder(weights or wanted, 0)))


def load_latents(source: bytes | str | Path, *, weights: str | Path | None = None) -> Array:
    """The latents of an .npz, as data.

    Returns:
        (N, latent_dim) float32, a row for every patch, from a feature autoencoder; (M, H/16, W/16) int32, the quantised
        symbols, from the codec.

    Raises:
        aecli.errors.AecliError: as `decode`.
    """
    from aecli.compression import latents_of

    data, name = _data(source)
    with _parameters_named():
        return latents_of(data, name, lambda wanted: _coder(weights or wanted, 0))


def load_weights(name: str | Path) -> Weights:
    """A trained model, by the name of shipped weights or by path: `.model` (a torch module) and `.card`.

    Raises:
        aecli.errors.AecliError: no such weights, or a damaged file.
    """
    with _parameters_named():
        return _cached_weights(str(name))


@lru_cache(maxsize=8)
def _cached_weights(name: str) -> Weights:
    from aecli import device
    from aecli.weights import load_weights

    return load_weights(name, device.select().device)


@lru_cache(maxsize=8, typed=True)
def _coder(weights: str | Path, effort: int) -> Coder:
    from aecli import device
    from aecli.compression import coder_for

    return coder_for(load_weights(weights), device.select(), effort=effort)


def _data(source: bytes | str | Path) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, "the data"
    try:
        return Path(source).read_bytes(), str(source)
    except OSError as error:
        raise AecliError(f"{source} cannot be read ({error.strerror}): check the name") from error


@contextmanager
def _parameters_named() -> Iterator[None]:
    """Errors call a parameter by its name, not by that of the command's option."""
    try:
        yield
    except AecliError as error:
        raise type(error)(re.sub(r"--([a-z]+)", r"\1", str(error))) from error


def _picture(image: object) -> Picture:
    import numpy as np
    from PIL import Image

    from aecli.images import from_array, from_pil, read_picture

    if isinstance(image, np.ndarray):
        return from_array(image)
    if isinstance(image, Image.Image):
        return from_pil(image)
    if isinstance(image, str | Path):
        return read_picture(Path(image))
    raise AecliError(f"a {type(image).__name__} is no picture: pass a NumPy array, a PIL image or a path")


def _like(image: object, picture: Picture) -> Array | Image.Image:
    import numpy as np

    from aecli.images import to_pil

    if not isinstance(image, np.ndarray):
        return to_pil(picture)
    array: Array = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    if np.issubdtype(image.dtype, np.floating):
        array = (array / np.iinfo(array.dtype).max).astype(image.dtype)
    return array[..., 0] if image.ndim == 2 else array
