"""What every kind of picture becomes when it is read, and what is left of it when it is written."""

import errno
import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps

from aecli import images
from aecli.errors import AecliError, UsageError
from aecli.images import (
    FORMATS,
    SUFFIXES,
    Picture,
    format_of,
    from_array,
    from_pil,
    read_picture,
    to_pil,
    why_not,
    without_colour,
    write_picture,
)
from aecli.lossy import Lossy

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def some_rgb(height=19, width=23):
    """Smooth, so that lossy formats stay near it, and alike in no two rows, columns or channels."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 9, x * 8, 255 - y * 4 - x * 5], axis=-1).astype(np.uint8)


def some_grey(height=19, width=23):
    return some_rgb(height, width)[..., 2]


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def written(picture, format):
    buffer = io.BytesIO()
    write_picture(picture, buffer, format)
    return buffer.getvalue()


def png_with(colour_type, bits, rows, extra=b""):
    """A PNG of kinds that Pillow can read but not write; `rows` are the bytes of each row."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bytes_a_pixel = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type] * bits / 8
    header = struct.pack(">IIBBBBB", int(len(rows[0]) / bytes_a_pixel), len(rows), bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def transparent(key):
    data = b"tRNS" + key
    return struct.pack(">I", len(key)) + data + struct.pack(">I", zlib.crc32(data))


# ----------------------------------------------------------------------------------------------------- modes on reading


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "YCbCr", "HSV", "LAB", "CMYK", "RGBX"])
def test_modes_without_alpha(mode):
    source = Image.fromarray(some_rgb()).convert("RGB" if mode == "LAB" else mode)
    if mode == "LAB":
        source = ImageCms.profileToProfile(source, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
    picture = from_pil(source)
    grey = mode in {"1", "L"}
    assert picture.mode == mode
    assert picture.alpha is None
    assert picture.pixels.dtype == np.uint8
    np.testing.assert_array_equal(picture.pixels.squeeze(), np.array(source.convert("L" if grey else "RGB")))
    assert picture.pixels.shape == (19, 23, 1 if grey else 3)
    assert (picture.height, picture.width) == (19, 23)


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_modes_with_alpha(mode):
    alpha = np.full((19, 23), 255, np.uint8)
    alpha[3:9, 4:8] = 0
    straight = Image.fromarray(np.dstack([some_rgb(), alpha]))
    if mode in {"LA", "La"}:
        straight = Image.fromarray(np.dstack([some_grey(), alpha]))
    if mode == "PA":
        source = Image.fromarray(some_rgb()).quantize(256).convert("PA")
        source.putalpha(Image.fromarray(alpha))
    else:
        source = straight.convert(mode)
    picture = from_pil(source)
    np.testing.assert_array_equal(picture.alpha, alpha)
    assert picture.pixels.shape[2] == (1 if mode in {"LA", "La"} else 3)
    if mode != "PA":  # whose 256 colours are too few
        np.testing.assert_array_equal(picture.pixels[alpha == 255], np.array(straight)[alpha == 255][:, :-1])


def test_palette_of_colours_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    opaque = read_picture(encoded(image, "PNG"))
    assert opaque.pixels.tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert opaque.alpha is None
    assert read_picture(encoded(image, "PNG", transparency=1)).alpha.tolist() == [[255, 0]]
    assert read_picture(encoded(image, "PNG", transparency=bytes([255, 77]))).alpha.tolist() == [[255, 77]]


def test_palette_of_greys_becomes_grey_unless_an_rgb_profile_belongs_to_it():
    image = Image.fromarray(some_grey()).quantize(64)
    assert read_picture(encoded(image, "GIF")).pixels.shape == (19, 23, 1)
    assert read_picture(encoded(image, "PNG", icc_profile=SRGB)).pixels.shape == (19, 23, 3)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_16_bit_grey_keeps_every_bit_in_any_byte_order(mode):
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), 0x1234)
    image.putpixel((1, 0), 0xFFFE)
    picture = from_pil(image)
    assert picture.pixels.dtype == np.dtype("=u2")
    assert picture.pixels.tolist() == [[[0x1234], [0xFFFE]]]


def test_32_bit_integers_are_read_if_they_fit_into_16_bits():
    def tiff(*values):
        return encoded(Image.fromarray(np.array([values], np.int32)), "TIFF")

    assert read_picture(tiff(0, 65535)).pixels.tolist() == [[[0], [65535]]]
    with pytest.raises(AecliError, match=r"^deep\.tif has values from 0 to 65536, .*: scale it"):
        read_picture(tiff(0, 65536), "deep.tif")
    with pytest.raises(AecliError, match="values from -1 to 0"):
        read_picture(tiff(-1, 0))


@pytest.mark.parametrize(
    ("values", "white", "expected"),
    [
        ([0, 0.5, 1], 1, [0, 32768, 65535]),
        ([0, 1.5, 255], 255, [0, 386, 65535]),
        ([0, 1.5, 6], 6, [0, 16384, 65535]),  # brighter than white
        ([0, 2, 6], 255, [0, 514, 1542]),
        ([0, 256, 999.6], 65535, [0, 256, 1000]),
    ],
)
def test_floats_take_white_from_their_largest_value_and_say_so(values, white, expected):
    picture = read_picture(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF"))
    assert picture.pixels.dtype == np.uint16
    assert picture.pixels.ravel().tolist() == expected
    assert picture.notes == (f"floating-point values were read with 16 bits, {white} as white",)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "infinite or no number"), (np.inf, "infinite or no number"), (-0.5, "-0.5 to 0"), (7e4, "0 to 70000")],
)
def test_floats_that_no_picture_has_are_refused(value, message):
    data = encoded(Image.fromarray(np.array([[0, value]], np.float32)), "TIFF")
    with pytest.raises(AecliError, match=rf"^field\.tif has .*{message}"):
        read_picture(data, "field.tif")


def test_cmyk_is_converted_and_its_profile_dropped():
    source = Image.fromarray(some_rgb()).convert("CMYK")
    picture = read_picture(encoded(source, "TIFF", icc_profile=SRGB))  # an RGB profile: of no use for CMYK
    assert picture.icc is None
    assert picture.notes == ("CMYK was converted to RGB without a profile",)
    np.testing.assert_array_equal(picture.pixels, np.array(source.convert("RGB")))


def test_cmyk_goes_through_its_profile_if_that_works(monkeypatch):
    # No CMYK profile is small enough for a test; that the conversion is asked for and used is what matters here.
    monkeypatch.setattr(ImageCms, "profileToProfile", lambda image, *_, **__: Image.new("RGB", image.size, "red"))
    picture = read_picture(encoded(Image.new("CMYK", (2, 2)), "TIFF", icc_profile=SRGB))
    assert (picture.pixels == [255, 0, 0]).all()
    assert picture.notes == ("CMYK was converted to sRGB with its colour profile",)


# --------------------------------------------------------------------------------------------- depths that Pillow hides


def test_colour_with_more_than_8_bits_is_noted_where_it_is_read_with_8():
    assert read_picture(b"P6 # comment\n2 1\n65535\n" + bytes(range(12))).notes == ("16-bit colour was read with 8 bits",)


def test_8_bit_files_have_no_notes():
    for format in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "JPEG2000", "QOI"):
        assert read_picture(encoded(Image.fromarray(some_rgb()), format)).notes == ()


def test_16_bit_tiff_whose_zero_is_white_is_inverted():
    data = bytearray(encoded(Image.fromarray(np.array([[0, 1000]], np.uint16)), "TIFF"))
    entry = data.index(struct.pack("<HHI", 262, 3, 1))
    struct.pack_into("<H", data, entry + 8, 0)  # PhotometricInterpretation: WhiteIsZero
    assert read_picture(bytes(data)).pixels.ravel().tolist() == [65535, 64535]


def test_the_transparent_colour_of_a_png_is_found_at_every_depth():
    assert read_picture(png_with(0, 8, [b"\x07\x09"], transparent(b"\0\x07"))).alpha.tolist() == [[0, 255]]
    assert read_picture(png_with(0, 4, [b"\x7f"], transparent(b"\0\x07"))).alpha.tolist() == [[0, 255]]
    assert read_picture(png_with(0, 1, [b"\x40"], transparent(b"\0\x01"))).alpha.tolist()[0][:3] == [255, 0, 255]
    assert read_picture(png_with(2, 8, [b"abcabd"], transparent(b"\0a\0b\0c"))).alpha.tolist() == [[0, 255]]
    wide = read_picture(png_with(0, 16, [b"\x12\x34\x12\x35"], transparent(b"\x12\x34")))
    assert wide.alpha.tolist() == [[0, 65535]]
    assert wide.alpha.dtype == np.uint16
    deep = read_picture(png_with(2, 16, [b"\x12\x34" * 3 + b"\x12\x35" * 3], transparent(b"\x12\x34" * 3)))
    assert deep.alpha.tolist() == [[0, 65535]]
    assert deep.alpha.dtype == np.uint16


# --------------------------------------------------------------------------------------------- orientation and metadata


def exif_with(orientation=None):
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "Camera 7"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_and_its_tag_reset(format, orientation):
    rgb = Image.fromarray(some_rgb())
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(rgb, format, exif=exif_with(orientation), **options)
    picture = read_picture(data)
    upright = rgb.copy()
    upright.getexif()[ExifTags.Base.Orientation] = orientation
    np.testing.assert_array_equal(picture.pixels, np.array(ImageOps.exif_transpose(upright)))
    again = Image.Exif()
    again.load(picture.exif)
    assert again.get(ExifTags.Base.Orientation, 1) == 1
    assert again[ExifTags.Base.Model] == "Camera 7"
    assert again.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 400


def test_resetting_the_orientation_changes_nothing_else_in_the_block():
    block = exif_with(6)
    kept = read_picture(encoded(Image.fromarray(some_rgb()), "JPEG", exif=block)).exif
    assert [(a, b) for a, b in zip(block, kept, strict=True) if a != b] == [(6, 1)]


def test_resolution_turns_with_the_picture():
    data = encoded(Image.fromarray(some_rgb()), "JPEG", dpi=(300, 150), exif=exif_with(6))
    assert read_picture(data).dpi == (150, 300)


def test_a_tiff_file_hands_on_no_tags_about_its_own_storage():
    data = encoded(Image.fromarray(some_rgb()), "TIFF", exif=exif_with())
    exif = Image.Exif()
    exif.load(read_picture(data).exif)
    assert set(exif) == {ExifTags.Base.Model, ExifTags.IFD.Exif}
    assert read_picture(encoded(Image.fromarray(some_rgb()), "TIFF")).exif is None


def test_unreadable_exif_is_left_out_with_a_note():
    picture = read_picture(encoded(Image.fromarray(some_rgb()), "JPEG", exif=b"Exif\0\0nonsense"))
    assert picture.exif is None
    assert picture.notes == ("unreadable EXIF data was left out",)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_profile_and_exif_survive_reading_and_writing(format):
    source = encoded(Image.fromarray(some_rgb()), "JPEG", icc_profile=SRGB, exif=exif_with(3), dpi=(300, 300))
    picture = read_picture(source)
    assert picture.icc == SRGB
    again = read_picture(written(picture, format))
    assert again.icc == SRGB
    exif = Image.Exif()
    exif.load(again.exif)
    assert exif[ExifTags.Base.Model] == "Camera 7"
    assert exif.get(ExifTags.Base.Orientation, 1) == 1
    if format in {"PNG", "JPEG", "TIFF"}:
        assert again.dpi == pytest.approx((300, 300), abs=0.01)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_read_and_the_rest_noted(format):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime", "blue")]
    picture = read_picture(encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True))
    assert (picture.pixels == [255, 0, 0]).all()
    assert picture.notes == ("only the first of 3 frames was read",)


# --------------------------------------------------------------------------------------------------- sources and errors


def test_a_path_a_stream_bytes_and_a_pipe_give_the_same(tmp_path):
    data = encoded(Image.fromarray(some_rgb()), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    read_end, write_end = os.pipe()
    os.write(write_end, data)  # smaller than a pipe's buffer
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        for source in (path, data, io.BytesIO(data), pipe):
            np.testing.assert_array_equal(read_picture(source).pixels, some_rgb())


def test_the_suffix_does_not_decide_what_a_file_is(tmp_path):
    path = tmp_path / "really-a-jpeg.png"
    path.write_bytes(encoded(Image.fromarray(some_rgb()), "JPEG"))
    assert read_picture(path).format == "JPEG"


@pytest.mark.parametrize(
    ("format", "options", "kept"),
    [
        ("MPO", {"save_all": True, "append_images": [Image.new("RGB", (23, 19))]}, "JPEG"),
        ("DIB", {}, "DIB"),
        ("JPEG2000", {"no_jp2": True}, "J2K"),
        ("JPEG2000", {}, "JPEG2000"),
    ],
)
def test_the_container_of_a_file_can_be_written_again(format, options, kept):
    picture = read_picture(encoded(Image.fromarray(some_rgb()), format, **options))
    assert picture.format == kept
    again = read_picture(written(picture, picture.format))
    assert again.format == kept
    assert np.abs(again.pixels.astype(int) - some_rgb()).max() <= 12


def test_each_way_not_to_be_a_picture_has_its_sentence(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture at all " * 99)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    for name, message in {
        "missing.png": "does not exist: check the name",
        "empty.png": r"is empty \(0 bytes\): ",
        "text.png": "is not a picture that can be read .*: check the file",
        "folder.png": "is a folder: ",
        "script.eps": "is a PostScript file, which aecli cannot read: convert it to PNG or TIFF first",
    }.items():
        with pytest.raises(AecliError, match=f"{name} {message}"):
            read_picture(tmp_path / name)


def test_a_file_that_may_not_be_read_has_its_sentence(monkeypatch, tmp_path):
    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)  # root, who runs tests in containers, may read everything
    with pytest.raises(AecliError, match=r"secret\.png may not be read: check its permissions"):
        read_picture(tmp_path / "secret.png")


KINDS = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}),
    "lossless": ("WEBP", {"lossless": True}),
    "avif": ("AVIF", {}),
    "tiff": ("TIFF", {}),
    "deflated": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "bmp": ("BMP", {}),
    "gif": ("GIF", {}),
    "ppm": ("PPM", {}),
    "jp2": ("JPEG2000", {}),
    "j2k": ("JPEG2000", {"no_jp2": True}),
    "qoi": ("QOI", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_is_an_error_or_whole_but_never_half_a_picture(kind):
    format, options = KINDS[kind]
    data = encoded(Image.fromarray(some_rgb()), format, **options)
    whole = read_picture(data).pixels
    errors, lengths = 0, [*range(1, len(data), 3), len(data) - 2, len(data) - 1]
    for length in lengths:
        try:
            pixels = read_picture(data[:length], "cut").pixels
        except AecliError as error:
            assert str(error).startswith("cut is ")
            errors += 1
        else:  # only what follows the pixels is missing
            np.testing.assert_array_equal(pixels, whole)
    assert errors > 0.6 * len(lengths)


def test_a_jpeg_2000_file_without_a_single_tile_is_an_error():
    data = encoded(Image.fromarray(some_rgb()), "JPEG2000", no_jp2=True)
    with pytest.raises(AecliError, match="cut short"):
        read_picture(data[: data.index(b"\xff\x90")])  # openjpeg decodes it, to black


def test_flipped_bytes_give_a_picture_or_a_sentence_and_nothing_else():
    rng = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "QOI"):
        data = np.frombuffer(encoded(Image.fromarray(some_rgb()), format, exif=exif_with(6)), np.uint8)
        for _ in range(40):
            hostile = data.copy()
            hostile[rng.integers(0, min(200, len(data)), 4)] = rng.integers(0, 256, 4)
            try:
                assert read_picture(hostile.tobytes(), "hostile").pixels.ndim == 3
            except AecliError as error:
                assert str(error).startswith("hostile ")


def test_a_header_that_claims_ten_billion_pixels_is_refused_at_once():
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    bomb += struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png_with(2, 8, [b"abc"])[33:]
    with pytest.raises(AecliError, match=r"^bomb\.png claims more than 1,000,000,000 pixels: "):
        read_picture(bomb, "bomb.png")


def test_our_limit_of_pixels_counts_and_that_of_other_users_of_pillow_stays(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data = encoded(Image.fromarray(some_rgb()), "PNG")
    read_picture(data)  # warnings are errors here, and Pillow warns above its limit and refuses above twice that
    monkeypatch.setattr(images, "MAX_PIXELS", 19 * 23)
    read_picture(data)
    monkeypatch.setattr(images, "MAX_PIXELS", 19 * 23 - 1)
    with pytest.raises(AecliError, match="claims more than 436 pixels"):
        read_picture(data)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_reading_prints_nothing_and_leaves_the_warning_filters_alone(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        read_picture(encoded(Image.fromarray(some_rgb()).quantize(9), "PNG", transparency=bytes([9, 8, 7])))
        with pytest.raises(AecliError):
            read_picture(encoded(Image.fromarray(some_rgb()), "TIFF", exif=exif_with(6))[:90])
        assert list(warnings.filters) == filters
    assert capfd.readouterr() == ("", "")


def test_importing_does_not_import_torch():
    script = "import aecli.images, aecli.batch, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], check=False).returncode == 0


# -------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG2000"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossless_formats_give_back_every_value_and_alpha(format, channels):
    picture = from_array(np.random.default_rng(channels).integers(0, 256, (7, 9, channels), dtype=np.uint8))
    again = read_picture(written(picture, format))
    np.testing.assert_array_equal(*np.broadcast_arrays(again.pixels, picture.pixels))  # WebP has no grey: three equal ones
    assert (again.alpha is None) == (picture.alpha is None)
    if picture.alpha is not None:
        np.testing.assert_array_equal(again.alpha, picture.alpha)


@pytest.mark.parametrize("format", ["JPEG", "AVIF"])
def test_lossy_formats_stay_near_and_keep_grey_and_full_colour_resolution(format):
    grey = read_picture(written(from_array(some_grey(64, 64)), format))
    assert np.abs(grey.pixels[..., 0].astype(int) - some_grey(64, 64)).max() <= 6
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (200, 60, 60), (60, 60, 200)
    colour = read_picture(written(from_array(stripes), format))
    assert np.abs(colour.pixels.astype(int) - stripes).mean() < 8  # halved resolution of colour gives more than 40


def test_16_bit_grey_stays_16_bit_where_the_format_has_it():
    picture = from_array(np.array([[0, 1, 0x1234, 65535]], np.uint16))
    for format in ("PNG", "TIFF", "PPM", "JPEG2000"):
        np.testing.assert_array_equal(read_picture(written(picture, format)).pixels, picture.pixels)


def test_16_bits_are_rounded_with_a_note_where_they_cannot_stay():
    target = io.BytesIO()
    notes = write_picture(from_array(np.array([[0, 128, 129, 65406, 65535]], np.uint16)), target, "BMP")
    assert notes == ("16-bit values were written with 8 bits",)
    assert read_picture(target.getvalue()).pixels.ravel().tolist() == [0, 0, 1, 254, 255]
    notes = write_picture(from_array(np.array([[0, 1, 4095]], np.uint16)), target, "BMP")  # 12 bits
    assert notes == ("16-bit values were written with 8 bits, which leaves 17 levels: scale the values to 0-65535 first",)
    with_alpha = replace(from_array(np.full((2, 2), 65535, np.uint16)), alpha=np.full((2, 2), 32768, np.uint16))
    assert (read_picture(written(with_alpha, "WEBP")).alpha == 128).all()


@pytest.mark.parametrize("format", ["JPEG", "BMP", "PPM"])
def test_transparency_is_never_dropped_in_silence(format):
    glass = from_array(np.dstack([some_rgb(), some_grey()]))
    target = io.BytesIO()
    with pytest.raises(AecliError, match=rf"^{format} cannot hold the transparency of logo\.png: choose \.png"):
        write_picture(glass, target, format, "logo.png")
    assert target.getvalue() == b""
    opaque = replace(glass, alpha=np.full_like(glass.alpha, 255))
    assert read_picture(written(opaque, format)).alpha is None  # nothing was lost


def test_metadata_that_a_format_lacks_is_noted():
    picture = replace(from_array(some_rgb()), icc=SRGB, exif=exif_with(), dpi=(300, 300))
    assert write_picture(picture, io.BytesIO(), "PPM") == (
        "the resolution, the colour profile and EXIF data were left out, as PPM cannot hold them",
    )
    long = replace(picture, exif=picture.exif + bytes(70_000))
    assert write_picture(long, io.BytesIO(), "JPEG") == ("EXIF data was left out, as JPEG cannot hold it",)


def test_a_grey_profile_does_not_go_with_colours():
    grey_profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    picture = replace(from_array(some_grey()), icc=grey_profile)
    assert read_picture(written(picture, "PNG")).icc == grey_profile
    assert read_picture(written(picture, "WEBP")).icc is None  # WebP has RGB only


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 90, 99, 100])
@pytest.mark.parametrize(("subsampling", "name"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_the_quality_of_a_jpeg_file_is_told_by_its_tables(quality, subsampling, name):
    image = Image.fromarray(some_rgb())
    picture = read_picture(encoded(image, "JPEG", quality=quality, subsampling=subsampling))
    assert picture.lossy == Lossy(quality, name)
    again = io.BytesIO()
    write_picture(picture, again, "JPEG", lossy=picture.lossy)
    assert read_picture(again.getvalue()).lossy == picture.lossy
    assert read_picture(encoded(image.convert("L"), "JPEG", quality=quality)).lossy.quality == quality


@pytest.mark.parametrize("quality", [10, 40, 75, 90])
def test_the_quality_of_a_lossy_webp_file_is_told_by_its_header(quality):
    image = Image.open(Path(__file__).parent / "data/arches.png")
    several = {"icc_profile": bytes(70_001), "exif": b"Exif\0\0" + bytes(9)}  # chunks before the picture's
    for options in ({}, several, {"method": 0}):
        found = read_picture(encoded(image, "WEBP", quality=quality, **options)).lossy
        assert found.subsampling == "4:2:0" and abs(found.quality - quality) <= 2
    assert read_picture(encoded(image, "WEBP", lossless=True)).lossy is None
    assert read_picture(encoded(image, "PNG")).lossy is None


def test_how_hard_results_are_compressed_can_be_told():
    picture = read_picture(Path(__file__).parent / "data/arches.png")
    for format in ("JPEG", "WEBP", "AVIF"):
        sizes = []
        for lossy in (Lossy(30, "4:2:0"), Lossy(80, "4:2:0"), Lossy(80, "4:4:4"), None):
            target = io.BytesIO()
            write_picture(picture, target, format, lossy=lossy)
            sizes.append(len(target.getvalue()))
        assert sizes == sorted(sizes) and len(set(sizes)) >= 3
    target = io.BytesIO()
    write_picture(picture, target, "WEBP", lossy=Lossy(100, "4:4:4"))
    assert (read_picture(target.getvalue()).pixels == picture.pixels).all()


def test_a_size_that_a_format_cannot_hold_is_a_sentence():
    target = io.BytesIO()
    with pytest.raises(AecliError, match=r"^wide\.png \(17000 x 1 pixels\) cannot be written as WEBP .*: choose \.png"):
        write_picture(from_array(np.zeros((1, 17000), np.uint8)), target, "WEBP", "wide.png")
    assert target.getvalue() == b""


@pytest.mark.parametrize(("format", "side"), [("JPEG", 65500), ("WEBP", 16383), ("AVIF", 32768)])
def test_the_largest_picture_that_a_format_holds_is_read_again_and_a_larger_one_is_known_before(format, side):
    fits = from_array(np.zeros((side, 1, 3), np.uint8))
    assert why_not(fits, format) == ""
    assert read_picture(written(fits, format)).pixels.shape == (side, 1, 3)
    reason = rf"the picture \(1 x {side + 1} pixels\) cannot be written as {format} \(a side has up to {side:,}\)"
    assert re.fullmatch(reason, why_not(from_array(np.zeros((side + 1, 1), np.uint8)), format))
    assert why_not(from_array(np.zeros((side + 1, 1), np.uint8)), "PNG") == ""
    area = replace(fits, pixels=np.broadcast_to(np.uint8(0), (16385, 16384, 3)))
    assert ("it has up to 268,435,456" in why_not(area, format)) is (format == "AVIF")


def test_formats_go_by_suffix(tmp_path):
    assert format_of(Path("a/b.PNG")) == "PNG"
    assert format_of(Path("b.jpeg")) == "JPEG"
    with pytest.raises(UsageError, match=r"^out\.xyz has the suffix \.xyz, which cannot be written: choose one of \.png, "):
        format_of(Path("out.xyz"))
    with pytest.raises(UsageError, match=r"^out has no suffix: choose"):
        format_of(Path("out"))
    for suffix, format in FORMATS.items():
        assert suffix in SUFFIXES
        assert read_picture(written(from_array(some_rgb()), format)).pixels.shape == (19, 23, 3)


# ---------------------------------------------------------------------------------------------------- arrays and Pillow


@pytest.mark.parametrize(
    ("shape", "mode"), [((2, 3), "L"), ((2, 3, 1), "L"), ((2, 3, 2), "LA"), ((2, 3, 3), "RGB"), ((2, 3, 4), "RGBA")]
)
def test_arrays_become_pictures_and_pillow_images(shape, mode):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    picture = from_array(array)
    assert picture.mode == to_pil(picture).mode == mode
    np.testing.assert_array_equal(np.array(to_pil(picture)).squeeze(), array.squeeze())
    again = from_pil(to_pil(picture))
    np.testing.assert_array_equal(again.pixels, picture.pixels)


def test_floats_are_rounded_to_16_bits():
    assert from_array(np.array([[0, 0.499 / 65535, 0.5, 1]])).pixels.ravel().tolist() == [0, 0, 32768, 65535]


@pytest.mark.parametrize(
    "array",
    [
        np.array([[np.nan]]),
        np.array([[1.01]]),
        np.array([[-0.01]]),
        np.zeros((2, 2), np.int64),
        np.zeros((2, 2), bool),
        np.zeros(5, np.uint8),
        np.zeros((2, 2, 5), np.uint8),
        np.zeros((0, 2), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_that_are_no_pictures_are_refused(array):
    with pytest.raises(AecliError, match=r": (pass|clip) "):
        from_array(array)


def test_a_picture_does_not_share_its_array_with_the_caller():
    array = some_rgb()
    picture = from_array(array)
    array[:] = 0
    np.testing.assert_array_equal(picture.pixels, some_rgb())


def test_from_pil_leaves_the_image_alone_and_takes_its_metadata():
    image = Image.open(io.BytesIO(encoded(Image.fromarray(some_rgb()), "PNG", exif=exif_with(6), icc_profile=SRGB)))
    picture = from_pil(image)
    assert isinstance(picture, Picture)
    assert (picture.width, picture.height) == (19, 23)
    assert image.size == (23, 19)
    assert picture.icc == SRGB


def test_to_pil_hands_the_metadata_on_to_whoever_saves():
    picture = replace(from_array(some_rgb()), icc=SRGB, dpi=(72, 72))
    assert read_picture(encoded(to_pil(picture), "PNG")).icc == SRGB


def test_grey_is_what_has_no_colour_that_can_be_seen():
    grey = np.repeat(some_grey(600, 700)[..., None], 3, axis=2)  # more than is looked at together
    assert from_array(grey[..., 0]).is_grey and from_array(grey).is_grey and from_array(grey.astype(np.uint16) * 257).is_grey
    coloured = grey.copy()
    coloured[-1, -1, 2] ^= 1
    assert not from_array(coloured).is_grey
    opaque, hidden = np.full((600, 700), 255, np.uint8), np.full((600, 700), 255, np.uint8)
    hidden[-1, -1] = 0
    assert not from_array(np.dstack([coloured, opaque])).is_grey
    assert from_array(np.dstack([coloured, hidden])).is_grey
    assert replace(from_array(coloured), format="WEBP").is_grey  # which rounds so
    coloured[-1, -1, 2] = grey[-1, -1, 2] ^ 2
    assert not replace(from_array(coloured), format="WEBP").is_grey


@pytest.mark.parametrize("format", ["WEBP", "AVIF"])
def test_a_hidden_colour_does_not_run_into_grey_where_something_is_lost(format):
    pixels, alpha = np.repeat(some_grey(64, 64)[..., None], 3, axis=2), np.full((64, 64), 255, np.uint8)
    pixels[:21, :21], alpha[:21, :21] = (255, 0, 0), 0
    target = io.BytesIO()
    write_picture(from_array(np.dstack([pixels, alpha])), target, format, lossy=Lossy(60, "4:2:0"))
    again = read_picture(target.getvalue())
    assert np.ptp(again.pixels.astype(int), axis=2)[again.alpha > 0].max() <= 1


def test_taking_colour_out_rounds_the_mean_of_the_channels():
    pixels = np.array([[[0, 0, 1], [0, 1, 1], [255, 255, 254]]], np.uint8)
    assert without_colour(pixels)[..., 0].tolist() == [[0, 1, 255]]
    assert without_colour(pixels, np.array([[255, 0, 1]], np.uint8)).tolist() == [[[0, 0, 0], [0, 1, 1], [255, 255, 255]]]
    deep = np.full((1, 1, 3), 65535, np.uint16)
    assert (without_colour(deep) == deep).all()
