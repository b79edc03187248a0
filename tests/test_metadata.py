"""Orientation, colour profile, EXIF and resolution, from every format and mode to every format."""

import io
import struct
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from conftest import written
from PIL import ExifTags, Image, ImageCms

from aecli.errors import AecliError
from aecli.images import from_array, read_picture

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
        assert len(notes) == bool(picture.icc or picture.exif)
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


# ------------------------------------------------------------------------------------------- what turns with the picture


def camera_block(orientation, preview_size=(16, 12), *, length=None):
    """As a camera writes it: sizes, resolutions and a preview that lie as the sensor does."""
    marked = np.zeros((preview_size[1], preview_size[0], 3), np.uint8)
    marked[:, : preview_size[0] // 2] = 255  # the left half is white
    preview = encoded(Image.fromarray(marked), "JPEG")[:length]
    exif_at = 8 + 2 + 4 * 12 + 4
    rationals_at = exif_at + 2 + 2 * 12 + 4
    preview_at = rationals_at + 16
    bytes_at = preview_at + 2 + 3 * 12 + 4

    def directory(entries, following=0):
        body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return struct.pack("<H", len(entries)) + body + struct.pack("<I", following)

    first = [(274, 3, 1, orientation), (282, 5, 1, rationals_at), (283, 5, 1, rationals_at + 8), (34665, 4, 1, exif_at)]
    inner = [(40962, 4, 1, 192), (40963, 4, 1, 128)]
    small = [(274, 3, 1, orientation), (513, 4, 1, bytes_at), (514, 4, 1, len(preview))]
    block = b"II*\0\x08\0\0\0" + directory(first, preview_at) + directory(inner) + struct.pack("<4I", 300, 1, 150, 1)
    return b"Exif\0\0" + block + directory(small) + preview


def preview_of(block):
    exif = loaded(block)
    places = exif.get_ifd(ExifTags.IFD.IFD1)
    return Image.open(io.BytesIO(block[6 + places[513] :][: places[514]]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_resolutions_and_preview_turn_with_the_picture(orientation):
    source = Image.fromarray(np.zeros((12, 16, 3), np.uint8))
    picture = read_picture(encoded(source, "JPEG", exif=camera_block(orientation)))
    exif, across = loaded(picture.exif), orientation >= 5
    within = exif.get_ifd(ExifTags.IFD.Exif)
    assert exif[274] == 1 and exif.get_ifd(ExifTags.IFD.IFD1)[274] == 1
    assert (exif[282], exif[283]) == picture.dpi == ((150, 300) if across else (300, 150))
    assert (within[40962], within[40963]) == ((128, 192) if across else (192, 128))
    preview = np.array(preview_of(picture.exif).convert("L"))
    assert preview.shape == ((16, 12) if across else (12, 16))
    white = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    halves = {"left": preview[:, :4], "right": preview[:, -4:], "top": preview[:4], "bottom": preview[-4:]}
    assert {side for side, half in halves.items() if half.mean() > 200} == {white}
    again = read_picture(written(picture, "JPEG")[0])
    assert again.dpi == picture.dpi
    assert loaded(again.exif).get_ifd(ExifTags.IFD.Exif)[40962] == within[40962]


def test_a_preview_that_is_upright_already_stays_and_a_damaged_one_goes():
    source = Image.fromarray(np.zeros((12, 16, 3), np.uint8))
    block = camera_block(6, (12, 16))
    assert preview_of(read_picture(encoded(source, "JPEG", exif=block)).exif).size == (12, 16)
    picture = read_picture(encoded(source, "JPEG", exif=camera_block(6, length=100)))
    assert not loaded(picture.exif).get_ifd(ExifTags.IFD.IFD1)
    assert picture.notes == ("the preview in the EXIF data was left out, as it could not be turned",)


# ----------------------------------------------------------------------------------------------------- XMP, IPTC, texts

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d" exif:PixelXDimension="20">'
    b"<exif:PixelYDimension>12</exif:PixelYDimension>gr\xc3\xbc\xc3\x9fe</rdf:Description></x:xmpmeta>"
)
IPTC = b"\x1c\x02x\x00\x05Hello"
KEEPS = {"PNG": {"xmp", "texts"}, "JPEG": {"xmp", "iptc"}, "TIFF": {"xmp", "iptc"}, "WEBP": {"xmp"}, "AVIF": {"xmp"}, "BMP": set()}


@pytest.mark.parametrize("format", KEEPS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_words_are_kept_where_the_format_can_and_said_elsewhere(format, dtype):
    words = {"xmp": XMP % 1, "iptc": IPTC, "texts": (("Author", "me"), ("Title", "grüße"), ("parameters", "a cat\nsteps: 20"))}
    data, notes = written(replace(from_array(np.full((12, 20, 3), 77, dtype)), **words), format)
    again = read_picture(data)
    names = {"xmp": "XMP data", "iptc": "IPTC data", "texts": "text (Author, Title, parameters)"}
    for kind, stored in words.items():
        assert (getattr(again, kind) or None) == (stored if kind in KEEPS[format] else None)
    lost = [note for note in notes if "left out" in note]
    assert len(lost) == 1
    assert {kind for kind, name in names.items() if name in lost[0]} == set(names) - KEEPS[format]


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF", "AVIF"])
def test_xmp_of_others_is_read(format):
    if format == "TIFF":
        info = Image.Exif()
        info[700] = XMP % 1
        data = encoded(some_image("RGB"), format, exif=info)
    else:
        data = encoded(some_image("RGB"), format, xmp=XMP % 1)
    assert read_picture(data).xmp == XMP % 1


def test_xmp_turns_with_the_picture():
    picture = read_picture(encoded(some_image("RGB"), "JPEG", xmp=XMP % 6, exif=exif_with(6)))
    turned = (XMP % 1).replace(b"PixelXDimension", b"PixelZDimension").replace(b"PixelYDimension", b"PixelXDimension")
    assert picture.xmp == turned.replace(b"PixelZDimension", b"PixelYDimension")
    alone = read_picture(encoded(some_image("RGB"), "JPEG", xmp=XMP % 6))  # Pillow applies this one, too
    assert (alone.height, alone.width) == (20, 12)
    assert b'tiff:Orientation="1"' in alone.xmp
    info = Image.Exif()
    info[700] = XMP % 6
    of_tiff = read_picture(encoded(some_image("RGB"), "TIFF", exif=info, dpi=DPI))
    assert (of_tiff.height, of_tiff.width) == (20, 12)
    assert of_tiff.dpi == DPI[::-1] and of_tiff.xmp == alone.xmp


def test_the_comment_of_a_jpeg_file_is_kept_to_the_byte_and_goes_to_png():
    for comment in (b"shot 12", b"gr\xfc\xdfe"):
        picture = read_picture(encoded(some_image("RGB"), "JPEG", comment=comment))
        with Image.open(io.BytesIO(written(picture, "JPEG")[0])) as again:
            assert again.info["comment"] == comment
    assert dict(read_picture(written(picture, "PNG")[0]).texts)["Comment"].startswith("gr")
    assert written(picture, "WEBP")[1] == ("text (Comment) was left out, as WEBP cannot hold it",)


@pytest.mark.parametrize("format", ["JPEG2000", "J2K"])
def test_the_comment_of_a_jpeg_2000_file_is_kept(format):
    options = {"no_jp2": True} if format == "J2K" else {}
    picture = read_picture(encoded(some_image("RGB"), "JPEG2000", comment="shot 12", **options))
    assert dict(picture.texts) == {"Comment": "shot 12"}
    data, notes = written(picture, format)
    assert notes == () and read_picture(data).texts == picture.texts


def test_iptc_of_others_is_read():
    block = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", 1028, 0, len(IPTC)) + IPTC
    data = encoded(some_image("RGB"), "JPEG", extra=b"\xff\xed" + struct.pack(">H", len(block) + 2) + block)
    assert read_picture(data).iptc == IPTC
    tags = [(33723, 4, 3, struct.unpack("<3I", IPTC.ljust(12, b"\0")), True)]  # in words of four bytes
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((4, 5), np.uint8), extratags=tags)
    assert read_picture(buffer.getvalue()).iptc == IPTC


def test_geographic_tags_and_the_pixel_size_of_imagej_come_back_in_tiff():
    scale, points = (0.6, 0.6, 0.0), (0.0, 0.0, 0.0, 500000.123456789, 5200000.5, 0.0)
    geo = [
        (33550, 12, 3, scale, True),
        (33922, 12, 6, points, True),
        (34735, 3, 4, (1, 1, 0, 0), True),
        (34737, 2, 5, "UTM|", True),
    ]
    buffer = io.BytesIO()
    description = "ImageJ=1.11a\nimages=3\nslices=3\nunit=um\n"
    tifffile.imwrite(
        buffer, np.zeros((4, 5), np.uint8), extratags=geo, resolution=(5.0, 5.0), resolutionunit="NONE", description=description,
        metadata=None,
    )  # fmt: skip
    data, notes = written(read_picture(buffer.getvalue()), "TIFF")
    assert notes == ()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags
        assert (tags[33550].value, tags[33922].value) == (scale, points)
        assert (tags[34735].value, tags[34737].value) == ((1, 1, 0, 0), "UTM|")
        assert (tags[282].value, tags[283].value, tags[296].value) == ((5, 1), (5, 1), 1)
        assert tags[270].value == "ImageJ=1.11a\nunit=um"  # one page is left


def test_private_tags_of_tiff_files_are_left_out_with_one_note():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((4, 5), np.uint8), extratags=[(51123, 2, 3, "{}", True), (65000, 3, 1, 7, True)])
    assert read_picture(buffer.getvalue()).notes == ("private TIFF tags were left out (51123, 65000)",)


def test_exif_text_in_utf_8_comes_back_byte_for_byte_in_tiff():
    text = "grüße aus Zürich".encode()
    body = struct.pack("<HHHIII", 1, 0x013B, 2, len(text) + 1, 8 + 2 + 12 + 4, 0) + text + b"\0"
    block = b"Exif\0\0II*\0\x08\0\0\0" + body
    for dtype in (np.uint8, np.uint16):
        data, _ = written(replace(from_array(np.zeros((4, 5, 3), dtype)), exif=block), "TIFF")
        assert text in data
        assert text in read_picture(data).exif
        assert text in written(read_picture(data), "TIFF")[0]


# ------------------------------------------------------------------------------------------------------ PNG's odd chunks


def with_chunk(png, kind, data, *, intact=True):
    """A chunk behind the header."""
    checksum = zlib.crc32(kind + data) ^ (not intact)
    return png[:33] + struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum) + png[33:]


def test_png_files_with_long_compressed_texts_and_profiles_are_healthy():
    long = b"history " * 200_000  # 1.6 MB
    png = encoded(some_image("RGB"), "PNG")
    deflated = zlib.compress(long)
    picture = read_picture(with_chunk(png, b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + deflated))
    assert (picture.xmp, picture.notes) == (long, ())
    assert read_picture(with_chunk(png, b"zTXt", b"Title\0\0" + deflated)).texts == (("Title", long.decode()),)
    profile = SRGB + bytes(1 << 20)
    assert read_picture(with_chunk(png, b"iCCP", b"icc\0\0" + zlib.compress(profile))).icc == profile
    ours = replace(from_array(np.zeros((4, 5, 3), np.uint8)), icc=profile, xmp=long, texts=(("Title", long.decode()),))
    again = read_picture(written(ours, "PNG")[0])
    assert (again.icc, again.xmp, again.texts) == (ours.icc, ours.xmp, ours.texts)


def test_damage_in_what_a_picture_can_do_without_is_left_out_with_a_note():
    image = some_image("RGB")
    png = encoded(image, "PNG")
    picture = read_picture(with_chunk(png, b"cLLI", bytes(8), intact=False))
    np.testing.assert_array_equal(picture.pixels, np.array(image))
    assert picture.notes == ("the damaged part cLLI was left out",)
    with pytest.raises(AecliError):  # without it, what is transparent would be seen
        read_picture(with_chunk(png, b"tRNS", bytes(6), intact=False))


def test_a_text_that_inflates_to_hundreds_of_megabytes_is_left_out():
    bomb = zlib.compressobj(9)
    data = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(65)) + bomb.flush()
    picture = read_picture(with_chunk(encoded(some_image("RGB"), "PNG"), b"zTXt", b"Title\0\0" + data))
    assert picture.texts == ()
    assert picture.notes == ("the text 'Title' could not be read and was left out",)
