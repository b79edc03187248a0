"""What is fuzzed, and what must hold: a result or an AecliError; within 10 s and 1 GB; no code run, nothing written or sent."""

import contextlib
import io
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aecli.colour import Signalled, profile_of
from aecli.compression import Coder, coder_for, decode_picture, describe, encode_picture, latents_of
from aecli.device import select
from aecli.errors import AecliError
from aecli.images import from_array, read_picture, write_picture
from aecli.weights import load_weights

MEMORY = 1 << 30  # bytes that one input may add to the address space of the process
SECONDS = 10  # after which an input counts as a hang

_FORBIDDEN = {
    "os.exec", "os.fork", "os.forkpty", "os.link", "os.mkdir", "os.posix_spawn", "os.remove", "os.rename", "os.rmdir",
    "os.startfile", "os.symlink", "os.system", "os.truncate", "pickle.find_class", "shutil.copyfile", "socket.connect",
    "socket.getaddrinfo", "subprocess.Popen", "urllib.Request",
}  # fmt: skip
_seen: list[str] = []
_watching = False


def _audit(event, arguments):
    if _watching and (event in _FORBIDDEN or (event == "open" and _writes(*arguments[1:3]))):
        _seen.append(f"{event} {arguments!r:.300}")


def _writes(mode, flags):
    return any(c in mode for c in "wax+") if isinstance(mode, str) else bool((flags or 0) & 3)


sys.addaudithook(_audit)  # for good: Python has no way to take one away


@contextlib.contextmanager
def nothing_but_reading():
    """Fails if the block opens a file for writing, starts a program, looks up a pickled class or uses the network."""
    global _watching
    _seen.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert not _seen, _seen


def limit_memory():
    """From now on this process may take MEMORY more than it has; what goes beyond raises MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@dataclass(frozen=True)
class Subjects:
    """The models that hostile files are fed to, and valid files to start from, by target."""

    coders: dict[str, Coder]
    valid: dict[str, list[bytes]]
    folder: Path

    def check(self, target, data):
        """Feeds one input to a target. Returns whether it was accepted; any exception but AecliError passes."""
        with nothing_but_reading():
            try:
                getattr(self, f"_{target}")(data)
            except AecliError as error:
                assert 0 < len(str(error)) < 3000
                return False
        return True

    def _picture(self, data):
        assert read_picture(data, "hostile").pixels.ndim == 3

    def _npz(self, data):
        name = "hostile.npz"
        picture = decode_picture(data, name, self._coder)
        assert picture.pixels.dtype == np.uint8
        assert describe(data, name).width == picture.width
        latents_of(data, name, self._coder)
        for format in ("PNG", "JPEG", "TIFF", "WEBP"):  # what metadata it claims must be writable too
            with contextlib.suppress(AecliError):
                write_picture(picture, io.BytesIO(), format)

    _stream = _npz

    def _coder(self, name):
        return self.coders[name] if name in self.coders else coder_for(load_weights(name), select("cpu", "fp32"))

    def _weights(self, data):
        load_weights(self.weights_file(data))

    def weights_file(self, data):
        """The input as a file, written unwatched."""
        global _watching
        _watching, was = False, _watching
        path = self.folder / "hostile.safetensors"
        path.write_bytes(data)
        _watching = was
        return path


FORMATS = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {"dpi": (72, 72)}),
    "progressive": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "avif": ("AVIF", {}),
    "tiff": ("TIFF", {}),
    "lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
    "jp2": ("JPEG2000", {}),
    "qoi": ("QOI", {}),
}


def small_pictures(photograph, side=16):
    """A corner of a photograph in every format, by name; a smaller one where it has 16 bits a sample."""
    import tifffile
    from PIL import Image

    image, files = Image.fromarray(np.ascontiguousarray(photograph.pixels[:side, :side])), {}
    for name, (format, options) in FORMATS.items():
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        files[name] = buffer.getvalue()
    deep = np.dstack([photograph.pixels, photograph.pixels[..., :1]])[: side // 2, : side // 2].astype(np.uint16) * 257
    for name, channels in {"colour": slice(3), "colour and alpha": slice(4), "grey and alpha": slice(2, 4)}.items():
        for format in ("PNG", "TIFF"):
            buffer = io.BytesIO()
            write_picture(from_array(deep[..., channels]), buffer, format)
            files[f"{format} of 16-bit {name}"] = buffer.getvalue()
    for name, samples in {"floats": deep[..., :3].astype(np.float32) / 65535, "four bands": deep}.items():
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, samples, photometric="rgb", extrasamples=["unspecified"] * (samples.shape[2] - 3))
        files[f"TIFF of {name}"] = buffer.getvalue()
    buffer = io.BytesIO()
    words = {"xmp": b"<x:xmpmeta/>", "texts": (("Title", "grüße"),)}
    write_picture(replace(from_array(deep[..., :3]), icc=profile_of(Signalled(), grey=False), **words), buffer, "PNG")
    files["PNG with words"] = buffer.getvalue()
    return files


def subjects(conftest, folder):
    """`conftest` is tests/conftest.py, whose name depends on who imports it; weights are written to the folder."""
    compute = select("cpu", "fp32", threads=1)
    made = (("tiny-codec", "codec", conftest.tiny_codec()), ("tiny-dense", "dense", conftest.tiny_dense()))
    coders = {}
    for name, arch, model in made:
        coders[name] = coder_for(conftest.saved(folder / f"{name}.safetensors", model, arch), compute)
    photograph = read_picture(conftest.DATA / "colosseum.png")
    corner = conftest.from_array(np.ascontiguousarray(photograph.pixels[:16, :16]))
    npz = [encode_picture(corner, coder) for coder in coders.values()]
    weights = [(folder / f"{name}.safetensors").read_bytes() for name in ("tiny-dense", "tiny-codec")]
    valid = {"picture": [*small_pictures(photograph).values()], "npz": npz, "stream": npz[:1], "weights": weights}
    made_subjects = Subjects(coders, valid, folder)
    for target, files in valid.items():  # what is imported late is imported now, unlimited and unwatched
        for data in files:
            getattr(made_subjects, f"_{target}")(data)
    return made_subjects
