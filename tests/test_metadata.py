"""Orientation, colour profile, EXIF and resolution, from every format and mode to every format."""

import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from aecli.errors import AecliError
from aecli.images import from_array, read_picture, write_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DPI = (300, 150)
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("L", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
}
LOSSLESS = {"PNG", "TIFF", "WEBP", "BMP"}
HOLDS_NEITHER_PROFILE_NOR_EXIF = {"BMP"}
HOLDS_NO_ALPHA = {"JPEG", "BMP"}


def some_image(mode, height=12, width=20):
    """Smooth, so that lossy formats stay near it, and alike from no two sides."""
    y, x = np.mgrid[0:height, 0:width]
    image = Image.fromarray(np.stack([y * 9, x * 8, 255 - y * 4 - x * 5], axis=-1).astype(np.uint8))
    if mode in {"LA", "RGBA"}:
        image = image.convert(mode)
        image.putalpha(Image.fromarray((60 + 9 * x).astype(np.uint8)))
        return image
    return image.quantize(256, dither=Image.Dither.NONE) if mode == "P" else image.convert(mode)


def exif_with(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "Camera 7"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def encoded(image, format, **options):
    options |= {"lossless": True, "exact": True} if format == "WEBP" else {}
    options |= {"quality": 100, "subsampling": "4:4:4"} if format in {"JPEG", "AVIF"} and image.mode not in {"L", "CMYK"} else {}
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def written(picture, format):
    buffer = io.BytesIO()
    notes = write_picture(picture, buffer, format)
    return buffer.getvalue(), notes


def loaded(block):
    exif = Image.Exif()
    exif.load(block)
    return exif


def turned(image, format):
    """A file with everything, its orientation 6: a quarter turn clockwise makes it upright."""
    rich = format not in HOLDS_NEITHER_PROFILE_NOR_EXIF
    return encoded(image, format, dpi=DPI, **({"icc_profile": SRGB, "exif": exif_with(6)} if rich else {}))


@pytest.mark.parametrize(("format", "mode"), [(format, mode) for format, modes in MODES.items() for mode in modes])
def test_what_a_file_says_of_its_picture_is_read(format, mode):
    image = some_image(mode)
    picture = read_picture(turned(image, format))
    rich = format not in HOLDS_NEITHER_PROFILE_NOR_EXIF
    expected = np.array(image.convert("RGBA" if "A" in mode else "RGB"))
    expected = np.rot90(expected, -1) if rich else expected
    colours = np.broadcast_to(picture.pixels, (*picture.pixels.shape[:2], 3))
    assert np.abs(colours.astype(int) - expected[..., :3]).max() <= (0 if format in LOSSLESS else 8)
    if "A" in mode:
        np.testing.assert_array_equal(picture.alpha, expected[..., 3])
    assert picture.icc == (SRGB if rich and mode != "CMYK" else None)  # a profile of the colours that CMYK was converted from
    if rich:
        exif = loaded(picture.exif)
        assert exif[ExifTags.Base.Model] == "Camera 7"
        assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 400
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
    if format not in {"WEBP", "AVIF"}:  # for which Pillow wrote none
        assert picture.dpi == pytest.approx(DPI[::-1] if rich else DPI, abs=0.02)


@pytest.mark.parametrize("target", MODES)
@pytest.mark.parametrize(("format", "mode"), [(format, mode) for format, modes in MODES.items() for mode in modes])
def test_what_was_read_is_written(format, mode, target):
    picture = read_picture(turned(some_image(mode), format))
    picture = replace(picture, dpi=DPI)
    if picture.alpha is not None and target in HOLDS_NO_ALPHA:
        with pytest.raises(AecliError, match="cannot hold the transparency"):
            written(picture, target)
        return
    data, notes = written(picture, target)
    again = read_picture(data)
    np.testing.assert_allclose(again.pixels.astype(int) - picture.pixels, 0, atol=0 if target in LOSSLESS else 8)
    np.testing.assert_array_equal(again.alpha, picture.alpha)
    assert again.dpi == pytest.approx(DPI, abs=0.02)
    if target in HOLDS_NEITHER_PROFILE_NOR_EXIF:
        assert len(notes) == bool(picture.icc) + bool(picture.exif)
        return
    assert notes == ()
    assert again.icc == picture.icc
    if picture.exif:
        assert loaded(again.exif)[ExifTags.Base.Model] == "Camera 7"
        assert loaded(again.exif).get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 400


def test_a_tiff_file_without_a_resolution_has_none():
    assert read_picture(encoded(some_image("RGB"), "TIFF")).dpi is None


def test_exif_that_tells_a_resolution_is_not_written_anew():
    exif = Image.Exif()
    exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = 300
    exif[ExifTags.Base.ResolutionUnit] = 3  # centimetres
    block = exif.tobytes()
    data, _ = written(replace(from_array(np.zeros((4, 5, 3), np.uint8)), exif=block, dpi=(762, 762)), "WEBP")
    again = read_picture(data)
    assert again.exif == block
    assert again.dpi == pytest.approx((762, 762))


def test_exif_tags_on_how_another_file_was_stored_stay_out_of_tiff_files():
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "Camera 7"
    exif[ExifTags.Base.PhotometricInterpretation] = 6
    exif[ExifTags.Base.RowsPerStrip] = 1
    exif[ExifTags.Base.Compression] = 6
    for dtype in (np.uint8, np.uint16):
        picture = replace(from_array(np.full((4, 5, 3), 77, dtype)), exif=exif.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = read_picture(written(picture, "TIFF")[0])
        assert (again.pixels == 77).all()
        assert again.mode == "RGB"
        assert loaded(again.exif)[ExifTags.Base.Model] == "Camera 7"
