"""16 bits a sample in colour and with alpha: read bit for bit, whatever wrote the file, and written so that others read it."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms

from aecli import deep_colour
from aecli.errors import AecliError
from aecli.images import from_array, read_picture, write_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NAMES = {2: "LA", 3: "RGB", 4: "RGBA"}


def samples(channels, height=17, width=23, seed=0):
    """Every bit at random, so that a wrong one shows."""
    return np.random.default_rng(seed).integers(0, 65536, (height, width, channels), dtype=np.uint16)


def exif_block():
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "Camera 7"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return exif.tobytes()


def written(picture, format):
    buffer = io.BytesIO()
    assert write_picture(picture, buffer, format) == ()
    return buffer.getvalue()


def tiff(array, **options):
    """By another library than the one that reads it."""
    colour = array.shape[2] >= 3
    extra = {"extrasamples": ["unassalpha"]} if array.shape[2] in {2, 4} else {}
    if options.get("planarconfig") == "separate":
        array = np.moveaxis(array, -1, 0)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, array, **{"photometric": "rgb" if colour else "minisblack", "planarconfig": "contig", **extra, **options}
    )
    return buffer.getvalue()


def interlaced_png(array):
    """Adam7, without filters."""
    colour_type = {2: 4, 3: 2, 4: 6}[array.shape[2]]
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [array[top::down, left::right].astype(">u2") for top, left, down, right in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour_type, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def assert_holds(data, expected):
    picture = read_picture(data)
    pixels = np.dstack([picture.pixels, picture.alpha]) if picture.alpha is not None else picture.pixels
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, expected)
    assert picture.mode == NAMES[expected.shape[2]]
    assert picture.notes == ()


# -------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("channels", NAMES)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}, {"rowsperstrip": 5}, {"tile": (16, 16)}],
    ids=str,
)
def test_every_bit_of_a_tiff_file_is_read(channels, byteorder, options):
    array = samples(channels)
    assert_holds(tiff(array, byteorder=byteorder, **options), array)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_planes_of_their_own_are_read_where_they_are_not_compressed(channels, byteorder):
    array = samples(channels)
    assert_holds(tiff(array, byteorder=byteorder, planarconfig="separate"), array)


def test_compressed_planes_are_read_by_tifffile_and_without_it_with_8_bits_and_a_note(monkeypatch):
    array = samples(3)
    data = tiff(array, planarconfig="separate", compression="zlib")
    assert_holds(data, array)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    picture = read_picture(data)
    np.testing.assert_array_equal(picture.pixels, array >> 8)
    assert picture.notes == ("16-bit colour was read with 8 bits (pip install 'aecli[tiff]' reads such files)",)


@pytest.mark.parametrize("channels", NAMES)
def test_every_bit_of_an_interlaced_png_is_read(channels):
    array = samples(channels)
    assert_holds(interlaced_png(array), array)


@pytest.mark.parametrize("channels", [2, 4])
def test_premultiplied_alpha_is_taken_out(channels):
    straight = samples(channels)
    straight[..., -1] = np.maximum(straight[..., -1], 20_000)
    straight[0, :5, -1] = 0
    stored = straight.copy()
    stored[..., :-1] = np.rint(straight[..., :-1].astype(float) * straight[..., -1:] / 65535)
    picture = read_picture(tiff(stored, extrasamples=["assocalpha"]))
    seen = straight[..., -1] > 0
    np.testing.assert_array_equal(picture.alpha, straight[..., -1])
    assert np.abs(picture.pixels[seen].astype(int) - straight[..., :-1][seen]).max() <= 2
    assert not picture.pixels[~seen].any()


def test_a_fourth_sample_that_means_nothing_is_no_alpha():
    array = samples(4)
    picture = read_picture(tiff(array, extrasamples=["unspecified"]))
    np.testing.assert_array_equal(picture.pixels, array[..., :3])
    np.testing.assert_array_equal(picture.extra, array[..., 3:])
    assert picture.alpha is None


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_tiff_files_are_made_upright(orientation):
    array = samples(3)
    data = tiff(array, extratags=[(274, 3, 1, orientation, True)], resolution=(300, 150), resolutionunit="INCH")
    picture = read_picture(data)
    np.testing.assert_array_equal(picture.pixels, np.rot90(array, {1: 0, 3: 2, 6: -1, 8: 1}[orientation]))
    assert picture.dpi == ((150, 300) if orientation >= 5 else (300, 150))


def test_files_of_other_kinds_are_left_to_other_readers():
    with pytest.raises(SyntaxError):
        deep_colour.GreyAlphaTiff(io.BytesIO(tiff(samples(3))))


# -------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", NAMES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 23), (1, 3000), (3000, 1), (700, 300)])
def test_what_is_written_is_read_again_bit_for_bit(format, channels, height, width):
    array = samples(channels, height, width)
    assert_holds(written(from_array(array), format), array)


@pytest.mark.parametrize("channels", NAMES)
def test_another_library_reads_our_tiff_files(channels):
    array = samples(channels, 700, 300)  # more than one strip
    with tifffile.TiffFile(io.BytesIO(written(from_array(array), "TIFF"))) as file:
        assert len(file.pages) == 1
        assert len(file.pages[0].dataoffsets) == (700 * 300 * 2 * channels) // (1 << 20) + 1
        np.testing.assert_array_equal(file.pages[0].asarray(), array)


@pytest.mark.parametrize("channels", NAMES)
def test_pillow_and_libtiff_read_our_files_with_8_bits(channels):
    array = samples(channels)
    for format in ("PNG", "TIFF") if channels > 2 else ("PNG",):
        with Image.open(io.BytesIO(written(from_array(array), format))) as image:
            image.load()
            np.testing.assert_array_equal(np.array(image)[..., -2:], (array >> 8)[..., -2:])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", NAMES)
def test_profile_exif_and_resolution_are_kept(format, channels):
    from dataclasses import replace

    profile = SRGB if channels > 2 else SRGB[:16] + b"GRAY" + SRGB[20:]
    picture = replace(from_array(samples(channels)), icc=profile, exif=exif_block(), dpi=(300, 150))
    again = read_picture(written(picture, format))
    assert again.icc == profile
    assert again.dpi == pytest.approx((300, 150), abs=0.02)
    exif = Image.Exif()
    exif.load(again.exif)
    assert exif[ExifTags.Base.Model] == "Camera 7"
    assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 400
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


# ---------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", NAMES)
def test_a_file_cut_short_is_an_error_or_whole(format, channels):
    array = samples(channels)
    data = written(from_array(array), format)
    errors, lengths = 0, [*range(1, len(data), 29), len(data) - 2, len(data) - 1]
    for length in lengths:
        try:
            assert_holds(data[:length], array)  # only what follows the pixels is missing
        except AecliError:
            errors += 1
    assert errors > 0.9 * len(lengths)
