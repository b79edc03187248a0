"""aecli: compress and denoise pictures with autoencoders. What a notebook imports; the command line is in aecli.cli.

>>> import aecli
>>> clean = aecli.denoise(noisy)                     # NumPy array or PIL image in, the same out
>>> data = aecli.encode(clean, quality=60)           # the bytes of an .npz
>>> again = aecli.decode(data)
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # torch takes seconds to import: `import aecli` must not
    import numpy as np
    from PIL import Image

    from aecli.compression import Coder
    from aecli.quality import Target
    from aecli.weights import Weights

    ImageLike = TypeVar("ImageLike", np.ndarray, Image.Image)

__version__ = "0.1.0"
__all__ = ["decode", "denoise", "encode", "load_latents", "load_weights"]


def denoise(
    image: ImageLike, *, sigma: float | None = None, strength: float = 1.0, weights: str | Path = "photo-denoise"
) -> ImageLike:
    """Remove noise from a picture.

    Args:
        image: a PIL image, or an array (H, W), (H, W, 1 … 4): uint8, uint16, or floats in 0–1.
        sigma: standard deviation of the noise in grey levels of 255; None estimates it.
        strength: share of the correction that is applied, 0–1.
        weights: the name of shipped weights, or the path of a file.

    Returns:
        The same kind, size and depth as `image` (floats come back as uint8).

    Raises:
        aecli.errors.AecliError: no picture, unknown weights, sigma or strength out of range.
    """
    from aecli import device
    from aecli.denoising import denoise_picture

    result = denoise_picture(_picture(image), load_weights(weights), device.select(), sigma=sigma, strength=strength)
    return _like(image, result.picture)


def encode(
    image: np.ndarray | Image.Image,
    *,
    quality: float | Target | None = None,
    effort: int = 0,
    weights: str | Path = "photo-codec",
) -> bytes:
    """Compress a picture to the bytes of an .npz.

    Args:
        image: a PIL image, or an array (H, W), (H, W, 1 … 4): uint8, uint16 (rounded to 8 bits), or floats in 0–1.
        quality: 0–100 (None is 50), or an aecli.quality.Target, such as Target("bpp", 0.3), whose quality is searched. Feature
            autoencoders have one quality only: leave it out.
        effort: rounds in which the codec's latents are refined for this picture (feature autoencoders have none): fewer bytes, more
            time.
        weights: the name of shipped weights, or the path of a file; a codec or a feature autoencoder.

    Raises:
        aecli.errors.AecliError: no picture, unknown weights, quality or effort out of range or a target out of reach.
    """
    from aecli.compression import encode_picture

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
    return to_pil(decode_picture(data, name, lambda wanted: _coder(weights or wanted, 0)))


def load_latents(source: bytes | str | Path, *, weights: str | Path | None = None) -> np.ndarray:
    """The latents of an .npz, as data.

    Returns:
        (N, latent_dim) float32, a row for every patch, from a feature autoencoder; (M, H/16, W/16) int32, the quantised
        symbols, from the codec.

    Raises:
        aecli.errors.AecliError: as `decode`.
    """
    from aecli.compression import latents_of

    data, name = _data(source)
    return latents_of(data, name, lambda wanted: _coder(weights or wanted, 0))


def load_weights(name: str | Path) -> Weights:
    """A trained model, by the name of shipped weights or by path: `.model` (a torch module) and `.card`.

    Raises:
        aecli.errors.AecliError: no such weights, or a damaged file.
    """
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
    from aecli.errors import AecliError

    try:
        return Path(source).read_bytes(), str(source)
    except OSError as error:
        raise AecliError(f"{source} cannot be read ({error.strerror}): check the name") from error


def _picture(image: np.ndarray | Image.Image):  # type: ignore[no-untyped-def]
    import numpy as np
    from PIL import Image

    from aecli.errors import AecliError
    from aecli.images import from_array, from_pil

    if isinstance(image, np.ndarray):
        return from_array(image)
    if isinstance(image, Image.Image):
        return from_pil(image)
    raise AecliError(f"a {type(image).__name__} is no picture: pass a NumPy array or a PIL image")


def _like(image: ImageLike, picture) -> ImageLike:  # type: ignore[no-untyped-def]
    import numpy as np

    from aecli.images import to_pil

    if not isinstance(image, np.ndarray):
        return to_pil(picture)
    array = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    return array[..., 0] if image.ndim == 2 else array
