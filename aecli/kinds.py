"""Kinds of files that are healthy and no pictures for aecli: each is refused by its name, with the way out."""

from __future__ import annotations

from pathlib import PurePath

# fmt: off
CAMERA_RAW_SUFFIXES: frozenset[str] = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".gpr", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef",
    ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
})
# fmt: on
"""Suffixes, in lower case, of cameras' raw files."""

_RAW = "a camera raw file"
_CONVERT, _DEVELOP = "convert it to PNG or TIFF first", "develop it to TIFF or PNG first"

# Where in the file, what stands there, and what it is then.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (8, b"CR\x02", _RAW),
    (4, b"ftypcrx", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIRS", _RAW),
    (0, b"MMOR", _RAW),
    (0, b"IIU\0", _RAW),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (6, b"HEAPCCDR", _RAW),
    (0, b"\0MRM", _RAW),
    (0, b"FOVb", _RAW),
    (8, b"IIII", _RAW),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"II\xbc", "a JPEG XR picture"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"gimp xcf", "a GIMP file"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"#?RGBE", "a Radiance HDR picture"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"SIMPLE  =", "a FITS file"),
    (128, b"DICM", "a DICOM file"),
    (0, b"\0\0\x01\0", "an icon"),
    (0, b"P7\n", "a PAM picture"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster picture"),
    (0, b"\x01\xda", "an SGI picture"),
    (0, b"AT&TFORM", "a DjVu file"),
)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2"})

_AVIF_BRANDS = frozenset({b"avif", b"avis"})  # read; a file that is not all the same is a damaged one


def refusal(head: bytes, name: str) -> str | None:
    """One sentence for a file that begins with `head` and is of a kind that aecli does not read; None for one it does not know."""
    if is_camera_raw(head) or (head and PurePath(name).suffix.lower() in CAMERA_RAW_SUFFIXES):
        return camera_raw(name)
    found = next((kind for at, signature, kind in _SIGNATURES if head.startswith(signature, at)), None) or _by_content(head)
    if found == "latents":
        return f"{name} is no picture but a file of NumPy arrays: pass an .npz that aecli encode wrote to aecli decode"
    return f"{name} is {found}, which aecli cannot read: {_CONVERT}" if found else None


def camera_raw(name: str) -> str:
    """The sentence for a camera's raw file."""
    return f"{name} is {_RAW}, which aecli cannot develop: {_DEVELOP}"


def is_camera_raw(head: bytes) -> bool:
    """Whether a file begins like a camera's raw file; most of those in TIFF do not show it here."""
    return any(head.startswith(signature, at) for at, signature, kind in _SIGNATURES if kind == _RAW)


def _by_content(head: bytes) -> str | None:
    if head[4:8] == b"ftyp" and head[8:12] not in _AVIF_BRANDS:
        return "a HEIF picture (HEIC)" if head[8:12] in _HEIF_BRANDS else "a video"
    text = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!--")) and b"<svg" in text):
        return "an SVG drawing"
    if head.startswith(b"PK\x03\x04") and b".npy" in head[:100]:
        return "latents"
    return None
