"""Colours that files signal without a profile: read as a profile that gives the same colours, whatever the format it goes to."""

import io
import struct
import zlib

import numpy as np
import pytest
from conftest import written
from PIL import Image, ImageCms

from aecli import colour
from aecli.images import read_picture

PIXELS = np.array([[[128, 128, 128], [255, 0, 0], [0, 255, 0], [20, 90, 200]]], np.uint8)
P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(*chunks, pixels=PIXELS):
    data = encoded(Image.fromarray(pixels))
    between = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + between + data[33:]


def gamma(value):
    return (b"gAMA", struct.pack(">I", round(value * 100000)))


def chromaticities(numbers):
    return (b"cHRM", struct.pack(">8I", *numbers))


def shown(picture):
    """(H, W, 3) as a screen shows it that has sRGB."""
    grey = picture.pixels.shape[2] == 1
    image = Image.fromarray(picture.pixels[..., 0] if grey else picture.pixels)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.icc))
    return np.array(ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")).astype(int)


def linear_as_srgb(value):
    light = value / 255
    return 255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055)


def test_a_linear_png_is_shown_as_bright_from_every_format():
    picture = read_picture(png(gamma(1)))
    for format in ("PNG", "JPEG", "TIFF", "WEBP", "AVIF"):
        data, notes = written(picture, format)
        assert notes == ()
        assert abs(shown(read_picture(data))[0, 0, 0] - linear_as_srgb(128)) <= (1 if format in {"PNG", "TIFF", "WEBP"} else 4)


def test_grey_and_palette_pictures_get_a_profile_of_grey():
    grey = np.full((2, 3), 128, np.uint8)
    assert abs(shown(read_picture(png(gamma(1), pixels=grey)))[0, 0, 0] - linear_as_srgb(128)) <= 1
    data = encoded(Image.fromarray(grey).quantize(4))
    kind, body = gamma(1)
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    picture = read_picture(data[:33] + chunk + data[33:])
    assert picture.pixels.shape[2] == 1 and picture.icc[16:20] == b"GRAY"


@pytest.mark.parametrize(
    "chunks", [[gamma(0.45455)], [gamma(0.45455), chromaticities(SRGB)], [(b"sRGB", b"\0"), gamma(1)], [gamma(0)], []]
)
def test_what_is_srgb_anyway_or_nonsense_gets_no_profile(chunks):
    assert read_picture(png(*chunks)).icc is None


def test_p3_is_wider_than_srgb_and_its_grey_the_same():
    cicp, chrm = png((b"cICP", bytes([12, 13, 0, 1]))), png(chromaticities(P3))
    for data in (cicp, chrm):
        seen = shown(read_picture(data))
        assert seen[0, 0].tolist() == [128, 128, 128]
        assert seen[0, 3, 2] > 200  # a blue that is deeper in P3
    avif = bytearray(encoded(Image.fromarray(PIXELS.repeat(8, 0).repeat(8, 1)), "AVIF", quality=100))
    at = avif.index(b"colrnclx") + 8
    assert read_picture(bytes(avif)).icc is None
    struct.pack_into(">HH", avif, at, 12, 13)
    assert read_picture(bytes(avif)).icc == read_picture(cicp).icc
    struct.pack_into(">HHH", avif, at, 9, 16, 9)
    assert b"cICP" + bytes([9, 16, 0, 1]) in written(read_picture(bytes(avif)), "PNG")[0]  # of RGB, which PNG has


def test_a_tiff_file_with_primaries_of_its_own_gets_their_profile():
    def tiff(numbers):
        info = Image.Exif()
        info[318], info[319] = ([value / 100000 for value in part] for part in (numbers[:2], numbers[2:]))
        return encoded(Image.fromarray(PIXELS), "TIFF", exif=info)

    assert read_picture(tiff(SRGB)).icc is None
    assert shown(read_picture(tiff(P3)))[0, 3, 2] > 200


@pytest.mark.parametrize(("transfer", "white"), [(16, 148), (18, 191)])
def test_hdr_keeps_its_numbers_in_png_and_a_white_page_is_white_elsewhere(transfer, white):
    code = bytes([9, transfer, 0, 1])
    picture = read_picture(png((b"cICP", code), pixels=np.full((2, 2, 3), white, np.uint8)))
    data, _ = written(picture, "PNG")
    assert b"cICP" + code in data
    assert read_picture(data).icc == picture.icc
    assert (shown(read_picture(written(picture, "TIFF")[0])) >= 252).all()


def test_a_profile_counts_before_gamma():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_picture(png(gamma(1), (b"iCCP", b"icc\0\0" + zlib.compress(profile)))).icc == profile


def test_our_profile_of_srgb_is_that_of_littlecms():
    ours = ImageCms.ImageCmsProfile(io.BytesIO(colour.profile_of(colour.Signalled(), grey=False)))
    samples = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    seen = ImageCms.profileToProfile(Image.fromarray(samples), ours, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert np.abs(np.array(seen).astype(int) - samples).max() <= 1


def test_light_levels_of_hdr_are_left_out_with_a_note():
    picture = read_picture(png((b"cICP", bytes([9, 16, 0, 1])), (b"mDCV", bytes(24)), (b"cLLI", bytes(8))))
    assert picture.notes == ("the light levels of the HDR picture were left out (mDCV, cLLI)",)
