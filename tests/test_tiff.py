"""TIFF files beyond what Pillow reads: previews, raw files, further bands, and the kinds for which tifffile is asked."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import written
from PIL import Image

from aecli.errors import AecliError
from aecli.images import read_picture

RNG = np.random.default_rng(0)
needs_imagecodecs = pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is None, reason="imagecodecs is not installed")


def bands(count, dtype=np.uint8, height=17, width=23):
    return RNG.integers(0, np.iinfo(dtype).max, (height, width, count), dtype, endpoint=True)


def tiff(*pages, **options):
    """Each page an array, or an array with options of its own; by tifffile."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", None)) as writer:
        for page in pages:
            array, own = page if isinstance(page, tuple) else (page, {})
            writer.write(array, metadata=None, **options, **own)
    return buffer.getvalue()


def without_tifffile(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)


# ------------------------------------------------------------------------------------------------------- pages, raw files


@pytest.mark.parametrize(("bigtiff", "byteorder"), [(False, "<"), (False, ">"), (True, "<"), (True, ">")])
def test_a_preview_that_comes_first_is_not_the_picture(bigtiff, byteorder):
    preview, whole = bands(3, height=5, width=6), bands(3)
    rgb = {"photometric": "rgb"}
    data = tiff((preview, rgb | {"subfiletype": 1}), (whole, rgb), bigtiff=bigtiff, byteorder=byteorder)
    picture = read_picture(data)
    np.testing.assert_array_equal(picture.pixels, whole)
    assert picture.notes == ()


def test_overviews_are_no_frames_and_a_picture_below_a_preview_is_found():
    whole, small, rgb = bands(3), bands(3, height=5, width=6), {"photometric": "rgb"}
    assert read_picture(tiff((whole, rgb), (small, rgb | {"subfiletype": 1}))).notes == ()
    assert read_picture(tiff((whole, rgb), (whole, rgb))).notes == ("only the first of 2 frames was read",)
    below = read_picture(tiff((small, rgb | {"subfiletype": 1, "subifds": 1}), (whole, rgb)))
    np.testing.assert_array_equal(below.pixels, whole)


def test_a_preview_without_a_picture_and_a_mask_are_read_and_said():
    alone = bands(3)
    np.testing.assert_array_equal(read_picture(tiff((alone, {"photometric": "rgb", "subfiletype": 1}))).pixels, alone)
    masked = tiff((alone, {"photometric": "rgb"}), (alone[..., 0] > 99, {"photometric": "minisblack", "subfiletype": 4}))
    assert read_picture(masked).notes == ("the transparency mask was left out",)


RAW = {
    "a DNG": ((50706, 1, 4, b"\1\4\0\0", True), {}),
    "a mosaic": (None, {"photometric": 32803}),
    "a linear raw": (None, {"photometric": 34892, "planarconfig": "contig"}),
}


@pytest.mark.parametrize("kind", RAW)
def test_a_camera_raw_file_is_refused_by_name(kind):
    extra, options = RAW[kind]
    preview = {"photometric": "rgb", "subfiletype": 1, "subifds": 1, "extratags": [extra] if extra else []}
    data = tiff(
        (bands(3, height=5, width=6), preview),
        (
            bands(3, np.uint16) if "planarconfig" in options else bands(1, np.uint16)[..., 0],
            options or {"photometric": "minisblack"},
        ),
    )
    with pytest.raises(AecliError) as refused:
        read_picture(data, "raw.tif")
    assert str(refused.value) == ("raw.tif is a camera raw file, which aecli cannot develop: develop it to TIFF or PNG first")


@pytest.mark.parametrize(
    "head",
    [
        b"II*\0\x10\0\0\0CR\2\0",
        b"\0\0\0\x18ftypcrx ",
        b"IIRO\x08\0\0\0",
        b"IIU\0\x18\0\0\0",
        b"FUJIFILMCCD-RAW 0201",
        b"FOVb\0\0\2\0",
    ],
    ids=["cr2", "cr3", "orf", "rw2", "raf", "x3f"],
)
def test_raw_files_that_are_no_tiff_files_are_refused_by_name(head):
    with pytest.raises(AecliError, match=r"^photo is a camera raw file, which aecli cannot develop: develop it"):
        read_picture(head + bytes(400), "photo")


def test_the_suffix_of_a_raw_file_counts_where_the_content_says_nothing_else():
    for name in ("photo.NEF", "s3://bucket/photo.arw"):
        for data in (tiff((bands(3), {"photometric": "rgb"})), b"whatever a camera wrote" * 9):
            with pytest.raises(AecliError, match="is a camera raw file"):
                read_picture(data, name)
    png = io.BytesIO()
    Image.fromarray(bands(3)).save(png, "PNG")
    assert read_picture(png.getvalue(), "photo.nef").format == "PNG"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypheic", r"a HEIF picture \(HEIC\)"),
        (b"\xff\x0a\x7f", "a JPEG XL picture"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"%PDF-1.7", "a PDF file"),
        (b'<?xml version="1.0"?>\n<svg>', "an SVG drawing"),
        (b"\x76\x2f\x31\x01\2\0\0\0", "an OpenEXR picture"),
    ],
)
def test_healthy_files_of_other_kinds_are_named(head, kind):
    with pytest.raises(AecliError, match=f"^it is {kind}, which aecli cannot read: convert it to PNG or TIFF first$"):
        read_picture(head + bytes(100), "it")


def test_a_damaged_avif_file_is_no_video():
    avif = io.BytesIO()
    Image.fromarray(bands(3)).save(avif, "AVIF")
    for data in (avif.getvalue()[:60], avif.getvalue()[:40] + bytes(200)):
        with pytest.raises(AecliError, match="damaged"):
            read_picture(data)


# ------------------------------------------------------------------------------------------------- bands, kinds of numbers


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("count", "extrasamples", "alpha"),
    [
        (4, ["unspecified"], None),
        (5, ["unassalpha", "unspecified"], 3),
        (5, ["unspecified", "unassalpha"], 4),
        (6, ["unspecified"] * 3, None),
    ],
)
def test_further_bands_go_along_to_tiff_and_are_said_elsewhere(dtype, count, extrasamples, alpha):
    stored = bands(count, dtype)
    picture = read_picture(tiff((stored, {"photometric": "rgb", "extrasamples": extrasamples})))
    further = [band for band in range(3, count) if band != alpha]
    np.testing.assert_array_equal(picture.pixels, stored[..., :3])
    np.testing.assert_array_equal(picture.extra, stored[..., further])
    assert (picture.alpha is None) == (alpha is None)
    assert picture.notes == ()
    data, notes = written(picture, "TIFF")
    assert notes == ()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        order = [0, 1, 2, *([alpha] if alpha else []), *further]
        np.testing.assert_array_equal(file.pages[0].asarray(), stored[..., order])
    _, notes = written(picture, "PNG")
    assert notes == (
        "one further band was left out, as PNG cannot hold it"
        if len(further) == 1
        else f"{len(further)} further bands were left out, as PNG cannot hold them",
    )


def test_without_tifffile_what_is_left_out_is_said(monkeypatch):
    without_tifffile(monkeypatch)
    picture = read_picture(tiff((bands(4), {"photometric": "rgb", "extrasamples": ["unspecified"]})))
    assert picture.extra is None
    assert picture.notes == ("the last of 4 bands was left out (pip install 'aecli[tiff]' reads such files)",)


def test_without_tifffile_what_needs_it_is_refused_with_the_extra_that_reads_it(monkeypatch):
    without_tifffile(monkeypatch)
    with pytest.raises(AecliError, match=r"^hdr\.tif is a TIFF file of a kind that needs tifffile: pip install 'aecli\[tiff\]'$"):
        read_picture(tiff((RNG.random((5, 6, 3)).astype(np.float32), {"photometric": "rgb"})), "hdr.tif")


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("channels", [1, 3])
def test_signed_numbers_are_never_taken_for_unsigned_ones(dtype, channels):
    values = np.arange(6 * channels).reshape(2, 3, channels).astype(dtype)
    options = {"photometric": "rgb"} if channels == 3 else {}
    np.testing.assert_array_equal(read_picture(tiff((values.squeeze(), options))).pixels, values)
    values[0, 0] = -5
    with pytest.raises(AecliError, match=r"^signed\.tif has values from -5 to \d+, outside 0-"):
        read_picture(tiff((values.squeeze(), options)), "signed.tif")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_colours_in_floating_point_are_read_with_16_bits(dtype):
    values = RNG.random((7, 9, 3)).astype(dtype)
    picture = read_picture(tiff((values, {"photometric": "rgb"})))
    np.testing.assert_array_equal(picture.pixels, np.rint(values.astype(np.float64) * 65535).astype(np.uint16))
    assert picture.notes == ("floating-point values were read with 16 bits, 1 as white",)


def test_a_big_endian_bigtiff_is_read_with_its_resolution():
    stored = bands(3)
    options = {"photometric": "rgb", "resolution": (300, 150), "resolutionunit": "INCH", "description": "by the lake"}
    picture = read_picture(tiff((stored, options), bigtiff=True, byteorder=">"))
    np.testing.assert_array_equal(picture.pixels, stored)
    assert picture.dpi == (300, 150)
    assert b"by the lake" in picture.exif


@pytest.mark.parametrize(("count", "kind"), [(1, "minisblack"), (3, "rgb")])
def test_unsigned_numbers_of_32_bits_are_never_taken_for_signed_ones(count, kind):
    deep = np.full((7, 9, count), 4_000_000_000, np.uint32)
    with pytest.raises(AecliError, match=r"^deep\.tif has values from 4000000000 to 4000000000, outside 0-65535"):
        read_picture(tiff((deep, {"photometric": kind})), "deep.tif")


def test_32_bit_colours_and_cmyk_with_a_spot_colour_are_read():
    deep = RNG.integers(0, 65536, (7, 9, 3), np.uint32)
    np.testing.assert_array_equal(read_picture(tiff((deep, {"photometric": "rgb"}))).pixels, deep)
    inks = bands(5)
    picture = read_picture(tiff((inks, {"photometric": "separated", "extrasamples": ["unspecified"]})))
    np.testing.assert_array_equal(picture.pixels, np.array(Image.fromarray(inks[..., :4], "CMYK").convert("RGB")))
    assert picture.notes == ("CMYK was converted to RGB without a profile", "one further band was left out")


@needs_imagecodecs
def test_what_is_packed_or_compressed_in_other_ways_is_read():
    stored = bands(3)
    assert (
        np.abs(read_picture(tiff((stored, {"photometric": "rgb", "compression": "jpegxl"}))).pixels.astype(int) - stored).max() == 0
    )
    packed = RNG.integers(0, 4096, (8, 8, 3), np.uint16)
    picture = read_picture(tiff((packed, {"photometric": "rgb", "bitspersample": 12, "compression": "none"})))
    np.testing.assert_array_equal(picture.pixels, np.rint(packed * (65535 / 4095)))


def test_a_volume_and_numbers_that_are_no_samples_are_refused():
    volume = io.BytesIO()
    tifffile.imwrite(volume, bands(4, height=16, width=16), volumetric=True, photometric="minisblack", tile=(16, 16, 16))
    with pytest.raises(AecliError, match="is a volume of 16 layers: save the layer"):
        read_picture(volume.getvalue())
    with pytest.raises(AecliError, match="pixels of the kind complex64, which is not supported"):
        read_picture(tiff(np.ones((4, 5), np.complex64)))


def test_files_for_tifffile_that_are_cut_short_are_errors():
    data = tiff((RNG.random((20, 30, 3)).astype(np.float32), {"photometric": "rgb"}))
    for length in range(9, len(data), 97):
        with pytest.raises(AecliError, match=r"^cut is "):
            read_picture(data[:length], "cut")


def test_libtiff_and_tifffile_write_nothing_to_the_terminal():
    """In a process of its own: the lines come from C."""
    script = """
import io, numpy as np, tifffile
from PIL import Image
from aecli.errors import AecliError
from aecli.images import read_picture
rng = np.random.default_rng(0)
for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg"):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "TIFF", compression=compression)
    data = bytearray(buffer.getvalue())
    data[200:300] = bytes(100)
    try:
        read_picture(bytes(data))
    except AecliError:
        pass
damaged = bytearray(data)
damaged[bytes(damaged).index(b"\\x15\\x01\\x03\\0") + 8] = 99  # samples a pixel
try:
    read_picture(bytes(damaged))
except AecliError:
    pass
buffer = io.BytesIO()
tifffile.imwrite(buffer, rng.random((20, 20, 3)), photometric="rgb", description="x" * 50)
try:
    read_picture(buffer.getvalue()[:-100])
except AecliError:
    pass
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (b"", b"")
