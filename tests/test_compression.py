"""Pictures to .npz files and back, and what becomes of files that are damaged, forged or made with other weights."""

import io
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FEATURES, saved, tiny_codec, tiny_conv, tiny_dense, tiny_features
from PIL import Image, ImageCms

from aecli import compression
from aecli.coding.container import read_container, write_container
from aecli.colour import Signalled, is_srgb, profile_of
from aecli.compression import (
    coder_for,
    decode_picture,
    decode_together,
    describe,
    encode_and_measure,
    encode_picture,
    encode_together,
    latents_of,
    small_kind,
)
from aecli.errors import AecliError, UsageError
from aecli.images import from_array
from aecli.metrics import psnr

WIDE = Signalled(((0.3127, 0.3290), (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)))  # Display P3
ICC = profile_of(WIDE, grey=False)


@pytest.fixture(scope="module")
def codec(codec_weights, compute):
    return coder_for(codec_weights, compute)


@pytest.fixture(scope="module")
def dense(dense_weights, compute):
    return coder_for(dense_weights, compute)


@pytest.fixture(params=["codec", "dense"])
def coder(request):
    return request.getfixturevalue(request.param)


def decode(data, coder, name="a.npz"):
    return decode_picture(data, name, lambda wanted: coder)


def equal(a, b):
    return np.array_equal(a.pixels, b.pixels) and (
        (a.alpha is None and b.alpha is None) or (a.alpha is not None and b.alpha is not None and np.array_equal(a.alpha, b.alpha))
    )


def forged(data, *, without=(), arrays=(), **fields):
    """The file again with other header fields and members, all checksums right."""
    header, members = read_container(data, "forged")
    header = {k: v for k, v in {**header, **fields}.items() if k not in without}
    members = {k: v for k, v in {**members, **dict(arrays)}.items() if k not in without}
    return write_container(header, members)


# ------------------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (17, 31), (64, 64), (96, 65)])
def test_the_codec_takes_any_size(codec, picture_of, height, width):
    picture = picture_of(height, width)
    data = encode_picture(picture, codec)
    decoded = decode(data, codec)
    assert decoded.pixels.shape == picture.pixels.shape
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.mode, decoded.format) == ("RGB", "NPZ")
    assert equal(decoded, decode(data, codec))
    assert encode_picture(picture, codec) == data


def test_the_decoded_picture_is_what_the_network_gives_for_the_quantised_latents(codec, codec_weights, small_photograph):
    """Nothing is lost between the network and the pixels but the rounding of y and of the grey levels."""
    model = codec_weights.model
    x = torch.from_numpy(small_photograph.pixels).permute(2, 0, 1)[None].float() / 255
    padded = torch.nn.functional.pad(x, (0, 0, 0, 32), mode="replicate")
    level = torch.tensor([0.3 * 7])
    gain, inverse = model.gains(level)
    y = model.analysis(padded)
    _, latents = codec._latent_coder.encode(y, model.h_a(y * gain), gain)
    expected = model.synthesis(latents.y_hat * inverse, level)[0, :, :96]
    decoded = decode(encode_picture(small_photograph, codec, quality=30), codec)
    difference = torch.from_numpy(decoded.pixels).permute(2, 0, 1) - expected.clamp(0, 1) * 255
    assert difference.abs().max() < 0.51


def test_a_picture_in_tiles_is_coded_like_the_whole(codec, photograph, monkeypatch):
    whole = encode_picture(photograph, codec)
    whole_pixels = decode(whole, codec).pixels
    monkeypatch.setattr(compression, "TILE", 64)
    monkeypatch.setattr(compression, "HYPER_TILE", 4)
    tiled_pixels = decode(whole, codec).pixels
    assert np.abs(tiled_pixels.astype(int) - whole_pixels).max() <= 1
    symbols, tiled_symbols = (latents_of(d, "a", lambda _: codec) for d in (whole, encode_picture(photograph, codec)))
    assert symbols.shape == tiled_symbols.shape == (8, 12, 16)
    assert (symbols != tiled_symbols).mean() < 1e-3  # floats that fall on the other side of a half


def test_higher_quality_costs_more_bits(codec, small_photograph):
    sizes = [len(encode_picture(small_photograph, codec, quality=q)) for q in (0, 25, 50, 75, 100)]
    assert sizes == sorted(sizes)
    assert sizes[4] > 1.5 * sizes[0]


@pytest.mark.parametrize("quality", [-1, 100.5, float("nan")])
def test_a_quality_out_of_range_is_refused(codec, picture_of, quality):
    with pytest.raises(UsageError, match=r"--quality .* is out of range: give 0 to 100"):
        encode_picture(picture_of(8, 8), codec, quality=quality)


def test_grey_comes_back_grey(codec, small_photograph):
    grey = replace(small_photograph, pixels=small_photograph.pixels[..., 1:2], mode="L")
    decoded = decode(encode_picture(grey, codec), codec)
    assert decoded.pixels.shape == (96, 128, 1)
    assert decoded.mode == "L"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rgb_without_colour_comes_back_without_colour(coder, small_photograph, dtype):
    grey = np.repeat(small_photograph.pixels[..., 1:2], 3, axis=2).astype(dtype) * (257 if dtype == np.uint16 else 1)
    decoded = decode(encode_picture(replace(small_photograph, pixels=grey, icc=ICC), coder), coder)
    assert decoded.pixels.shape == (96, 128, 3) and decoded.icc == ICC
    assert np.ptp(decoded.pixels, axis=2).max() == 0
    coloured = decode(encode_picture(small_photograph, coder), coder)
    assert coloured.is_grey is (coder.weights.name == "tiny-dense")  # which has learned grey pictures alone


def test_what_alpha_hides_keeps_its_colour_in_a_grey_picture(codec, small_photograph):
    alpha = np.full((96, 128), 255, np.uint8)
    alpha[:, 64:] = 0
    pixels = small_photograph.pixels.copy()
    pixels[:, :64] = pixels[:, :64, 1:2]
    decoded = decode(encode_picture(replace(small_photograph, pixels=pixels, alpha=alpha), codec), codec)
    spread = np.ptp(decoded.pixels, axis=2)
    assert spread[:, :64].max() == 0 and spread[:, 64:].max() > 0
    pixels[0, 0] = 1, 2, 3
    assert "grey" not in read_container(encode_picture(replace(small_photograph, pixels=pixels, alpha=alpha), codec), "a")[0]


@pytest.mark.parametrize("kind", ["codec", "dense"])
def test_alpha_profile_and_metadata_survive(kind, request, small_photograph):
    coder = request.getfixturevalue(kind)
    alpha = np.random.default_rng(0).integers(0, 256, (96, 128), dtype=np.uint8)
    words = {"xmp": b"<x:xmpmeta/>", "iptc": b"\x1c\x02x\0\5Hello", "texts": (("Title", "grüße"), ("Comment", "\udcfc"))}
    picture = replace(small_photograph, **words)
    picture = replace(picture, alpha=alpha, icc=ICC, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", dpi=(300.0, 72.5))
    decoded = decode(encode_picture(picture, coder), coder)
    np.testing.assert_array_equal(decoded.alpha, alpha)
    assert (decoded.icc, decoded.exif, decoded.dpi) == (picture.icc, picture.exif, picture.dpi)
    assert (decoded.xmp, decoded.iptc, decoded.texts) == tuple(words.values())
    plain = decode(encode_picture(small_photograph, coder), coder)
    assert (plain.alpha, plain.icc, plain.exif, plain.dpi) == (None, None, None, None)
    np.testing.assert_array_equal(plain.pixels, decoded.pixels)


def test_sixteen_bits_are_rounded_to_eight(coder, small_photograph):
    deep = small_photograph.pixels.astype(np.uint16) * 257
    alpha = np.arange(96 * 128, dtype=np.uint16).reshape(96, 128) * 5
    decoded = decode(encode_picture(replace(small_photograph, pixels=deep, alpha=alpha), coder), coder)
    eight = decode(encode_picture(small_photograph, coder), coder)
    np.testing.assert_array_equal(decoded.pixels, eight.pixels)
    np.testing.assert_array_equal(decoded.alpha, np.round(alpha / 257).astype(np.uint8))


def test_the_array_layout_holds_a_code_for_every_patch(dense, dense_weights, small_photograph):
    data = encode_picture(small_photograph, dense)
    latents = latents_of(data, "a.npz", lambda _: dense)
    assert latents.shape == (12 * 16, 4)
    assert latents.dtype == np.float32
    x = torch.from_numpy(np.array(Image.fromarray(small_photograph.pixels).convert("L"))).float() / 255
    codes = dense_weights.model.encode(x[8:16, 24:32][None, None])
    assert np.abs(latents[16 + 3] - codes[0].numpy()).max() < 0.02 * np.abs(latents).max()
    # whatever the scale, its integers use 8 or 16 bits in full
    stored = read_container(data, "a.npz")[1]["latents"]
    assert np.abs(stored.astype(int)).max() == np.iinfo(stored.dtype).max


def test_eight_bits_are_taken_only_where_they_cost_next_to_nothing(compute, tmp_path, small_photograph):
    picture = replace(small_photograph, pixels=small_photograph.pixels[..., :1], mode="L")

    def stored_dtype(model):
        coder = coder_for(saved(tmp_path / "w.safetensors", model, "dense"), compute)
        return read_container(encode_picture(picture, coder), "a")[1]["latents"].dtype

    assert stored_dtype(tiny_dense()) == np.int8  # it reconstructs badly anyway
    identity = tiny_dense(latent_dim=64, activation="linear")
    for layer in (identity.encoder, identity.decoder):
        layer.weight.copy_(torch.eye(64))
        layer.bias.zero_()
    identity.decoder.weight.mul_(0.999)  # so near that rounding to 8 bits would be the larger error
    assert stored_dtype(identity) == np.int16
    coder = coder_for(saved(tmp_path / "w.safetensors", identity, "dense"), compute)
    np.testing.assert_array_equal(decode(encode_picture(picture, coder), coder).pixels, picture.pixels)


def test_a_constant_code_is_stored_too(dense):
    black = from_array(np.zeros((8, 8, 3), np.uint8))
    weights = replace(dense.weights, model=tiny_dense())
    weights.model.encoder.weight.zero_()
    weights.model.encoder.bias.zero_()
    coder = coder_for(weights, dense._compute)
    assert (latents_of(encode_picture(black, coder), "a", lambda _: coder) == 0).all()


def test_colour_through_a_grey_model_keeps_its_shape(dense, small_photograph):
    decoded = decode(encode_picture(small_photograph, dense), dense)
    assert decoded.pixels.shape == small_photograph.pixels.shape
    assert (decoded.pixels == decoded.pixels[..., :1]).all()


def test_conv_weights_code_pictures_that_are_no_multiple_of_their_patch(compute, tmp_path, small_photograph):
    coder = coder_for(saved(tmp_path / "conv.safetensors", tiny_conv(channels=3), "conv"), compute)
    data = encode_picture(small_photograph, coder)
    decoded = decode(data, coder)
    assert decoded.pixels.shape == (96, 128, 3)
    assert latents_of(data, "a", lambda _: coder).shape == (8 * 13, 4)


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("size", [(8, 8), (13, 20)])
def test_small_pictures_encoded_together_give_the_files_that_each_gives_alone(kind, size, compute, tmp_path):
    coder = coder_for(saved(tmp_path / "tiny.safetensors", tiny_features(kind), FEATURES[kind][0]), compute)
    rng = np.random.default_rng(0)
    pictures = [from_array(rng.integers(0, 256, (*size, channels), dtype=np.uint8)) for channels in (3, 1, 4) * 2]
    assert {coder.small_size(picture) for picture in pictures} == {size}
    results = encode_together(pictures, coder)
    assert len({errors.sum().item() for _, errors in results}) == len(pictures)
    for picture, (data, errors) in zip(pictures, results, strict=True):
        data_alone, errors_alone = encode_and_measure(picture, coder)
        assert data == data_alone
        assert torch.equal(errors, errors_alone)
        assert decode(data, coder).pixels.shape[:2] == size


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("size", [(8, 8), (13, 20)])
def test_small_files_decoded_together_give_the_pictures_that_each_gives_alone(kind, size, compute, tmp_path):
    coder = coder_for(saved(tmp_path / "tiny.safetensors", tiny_features(kind), FEATURES[kind][0]), compute)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (*size, channels), dtype=np.uint8) for channels in (3, 1, 4) * 2]
    files = [encode_picture(from_array(pixels), coder) for pixels in arrays]
    contents = [read_container(data, "a") for data in files]
    assert len({small_kind(header, lambda _: coder) for header, _ in contents}) == 1
    decoded = decode_together(contents, "files", lambda _: coder)
    assert [picture.mode for picture in decoded] == ["RGB", "L", "RGB"] * 2
    for data, picture in zip(files, decoded, strict=True):
        assert equal(picture, decode(data, coder))


def test_only_whole_files_of_small_pictures_of_one_size_and_model_are_decoded_together(codec, dense, picture_of):
    def header_of(size, coder):
        return read_container(encode_picture(picture_of(*size), coder), "a")[0]

    small, other, large = (header_of(size, dense) for size in ((16, 32), (16, 24), (40, 40)))
    without_size, of_no_weights = {**small, "size": [16]}, {**small, "weights": "tiny"}
    kinds = [small_kind(header, lambda _: dense) for header in (small, other, large, without_size, of_no_weights, {})]
    assert kinds[0] is not None
    assert kinds[1] not in (None, kinds[0])
    assert kinds[2:] == [None] * 4
    assert small_kind(small, lambda _: codec) is None  # made with other weights
    assert small_kind(header_of((16, 32), codec), lambda _: codec) is None


def test_only_small_pictures_for_feature_autoencoders_go_together(codec, dense, picture_of):
    assert dense.small_size(picture_of(16, 32)) == (16, 32)  # eight patches
    assert dense.small_size(picture_of(17, 32)) is None
    assert codec.small_size(picture_of(16, 32)) is None


def test_a_picture_smaller_than_a_patch_is_refused(dense, picture_of):
    with pytest.raises(AecliError, match="a picture of 7×9 is too small for tiny-dense"):
        encode_picture(picture_of(9, 7), dense)


def test_weights_that_do_not_compress_are_refused(denoiser_weights, compute):
    with pytest.raises(UsageError, match=r"weights tiny-denoiser are for another task \(denoise\)"):
        coder_for(denoiser_weights, compute)


# ----------------------------------------------------------------------------------------------------------------- the file


def test_numpy_reads_the_files(codec, dense, small_photograph, tmp_path):
    for coder, layout in ((codec, "stream"), (dense, "array")):
        (tmp_path / "a.npz").write_bytes(data := encode_picture(small_photograph, coder))
        header, arrays = read_container(data, "a")
        assert (header["layout"], header["size"]) == (layout, [128, 96])
        with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
            (name,) = loaded.files
            assert name == ("stream" if layout == "stream" else "latents")
            np.testing.assert_array_equal(loaded[name], arrays[name])


@pytest.mark.parametrize("size", [(1, 1), (96, 128), (180, 200)])
@pytest.mark.parametrize("quality", [0, 33.33, 100])
def test_the_container_costs_at_most_250_bytes(codec, picture_of, size, quality):
    data = encode_picture(picture_of(*size), codec, quality=quality)
    stream = read_container(data, "a")[1]["stream"]
    assert len(data) - len(stream) <= 250


def test_a_file_describes_itself(codec, dense, small_photograph):
    data = encode_picture(small_photograph, codec, quality=60)
    d = describe(data, "a.npz")
    assert (d.width, d.height, d.mode, d.layout, d.quality) == (128, 96, "RGB", "stream", 60)
    assert (d.weights, d.digest) == ("tiny-codec", codec.weights.digest[:16])
    assert d.bits_per_pixel == 8 * len(data) / (128 * 96)
    assert describe(encode_picture(small_photograph, dense), "a.npz").quality is None


DECODE_ELSEWHERE = """
import sys, zlib
from pathlib import Path
from aecli.compression import coder_for, decode_picture
from aecli.device import select
from aecli.weights import load_weights
coder = coder_for(load_weights(sys.argv[1]), select("cpu", "fp32", threads=2))
picture = decode_picture(Path(sys.argv[2]).read_bytes(), "a.npz", lambda _: coder)
Path(sys.argv[3]).write_bytes(picture.pixels.tobytes())
"""


def test_a_file_decodes_on_a_machine_with_other_instructions(codec, weights_folder, small_photograph, tmp_path):
    data = encode_picture(small_photograph, codec)
    (tmp_path / "a.npz").write_bytes(data)
    old_machine = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    files = [weights_folder / "tiny-codec.safetensors", tmp_path / "a.npz", tmp_path / "out"]
    subprocess.run([sys.executable, "-c", DECODE_ELSEWHERE, *files], env=old_machine, check=True)
    elsewhere = np.frombuffer((tmp_path / "out").read_bytes(), np.uint8).reshape(96, 128, 3)
    assert np.abs(elsewhere.astype(int) - decode(data, codec).pixels).max() <= 1


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs bfloat16 on the processor")
def test_what_was_encoded_in_bfloat16_decodes_in_float32(codec, codec_weights, compute, small_photograph):
    coarse = coder_for(codec_weights, replace(compute, bf16=True))
    data = encode_picture(small_photograph, coarse)
    a, b = decode(data, coarse).pixels, decode(data, codec).pixels
    symbols = [latents_of(data, "a", lambda _, c=c: c) for c in (coarse, codec)]
    np.testing.assert_array_equal(*symbols)
    assert psnr(torch.from_numpy(a) / 255, torch.from_numpy(b) / 255) > 30


# ------------------------------------------------------------------------------------------------------- damage and forgery


@pytest.fixture(scope="module")
def small_files(codec, dense, photograph):
    """A small file of each layout, one with alpha, and its coder."""
    corner = replace(photograph, pixels=photograph.pixels[:16, :16])
    with_alpha = replace(corner, alpha=np.eye(16, dtype=np.uint8) * 255)
    return {"stream": (encode_picture(corner, codec), codec), "array": (encode_picture(with_alpha, dense), dense)}


@pytest.mark.parametrize("layout", ["stream", "array"])
def test_a_file_cut_anywhere_is_refused(small_files, layout):
    data, coder = small_files[layout]
    for length in range(len(data)):
        with pytest.raises(AecliError, match=r"^a\.npz "):
            decode(data[:length], coder)


@pytest.mark.parametrize("layout", ["stream", "array"])
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_a_changed_byte_is_refused_or_changes_nothing(small_files, layout, mask):
    data, coder = small_files[layout]
    picture = decode(data, coder)
    refused = 0
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= mask
        try:
            assert equal(decode(bytes(changed), coder), picture), position
        except AecliError as error:
            refused += 1
            assert str(error).startswith("a.npz ")
    assert refused > 0.7 * len(data)


FORGED = {
    "another crc": {"crc": 1},
    "no crc": {"without": ["crc"]},
    "no size": {"without": ["size"]},
    "no weights": {"without": ["weights"]},
    "no stream": {"without": ["stream"]},
    "no mode": {"without": ["mode"]},
    "no quality": {"without": ["quality"]},
    "quality in words": {"quality": "good"},
    "quality beyond floats": {"quality": 10**400},
    "quality that is a list": {"quality": [1]},
    "another size": {"size": [300, 16]},
    "size in words": {"size": ["16", "16"]},
    "size in fractions": {"size": [16.0, 16.0]},
    "size of truths": {"size": [True, True]},
    "three sizes": {"size": [16, 16, 3]},
    "negative": {"size": [-16, -16]},
    "nothing": {"size": [0, 16]},
    "10⁹ pixels": {"size": [31_000, 32_000]},
    "10⁹ pixels in a row": {"size": [10**9, 1]},
    "10¹² pixels": {"size": [10**6, 10**6]},
    "beyond 64 bits": {"size": [10**30, 10**30]},
    "dpi that is a number": {"dpi": 3},
    "weights without digest": {"weights": "tiny-codec"},
    "weights that are a list": {"weights": [1]},
    "stream of floats": {"arrays": {"stream": np.zeros(64, np.float32)}},
    "stream in rows": {"arrays": {"stream": np.zeros((8, 8), np.uint8)}},
    "empty stream": {"arrays": {"stream": np.zeros(0, np.uint8)}},
    "stream of zeros": {"arrays": {"stream": np.zeros(64, np.uint8)}},
    "stream of ones": {"arrays": {"stream": np.full(64, 255, np.uint8)}},
    "alpha that is no picture": {"arrays": {"alpha": np.zeros(64, np.uint8)}},
    "empty alpha": {"arrays": {"alpha": np.zeros(0, np.uint8)}},
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_streams_are_refused_at_once(small_files, kind):
    data, coder = small_files["stream"]
    start = time.perf_counter()
    with pytest.raises(AecliError, match=r"^a\.npz (is damaged|claims|was encoded)"):
        decode(forged(data, **FORGED[kind]), coder)
    assert time.perf_counter() - start < 1


FORGED_ARRAYS = {
    "no latents": {"without": ["latents"]},
    "no scale": {"without": ["scale"]},
    "scale in words": {"scale": "one"},
    "scale beyond floats": {"scale": 10**400},
    "too few": {"arrays": {"latents": np.zeros((3, 4), np.int8)}},
    "too wide": {"arrays": {"latents": np.zeros((4, 5), np.int8)}},
    "flat": {"arrays": {"latents": np.zeros(16, np.int8)}},
    "of floats": {"arrays": {"latents": np.zeros((4, 4), np.float32)}},
    "of 64 bits": {"arrays": {"latents": np.zeros((4, 4), np.int64)}},
    "10⁹ pixels": {"size": [31_000, 32_000]},
}


@pytest.mark.parametrize("kind", FORGED_ARRAYS)
def test_forged_arrays_are_refused_at_once(small_files, kind):
    data, coder = small_files["array"]
    with pytest.raises(AecliError, match=r"^a\.npz is damaged"):
        decode(forged(data, **FORGED_ARRAYS[kind]), coder)


@pytest.mark.parametrize(("layout", "change"), [("stream", "another crc"), ("stream", "no stream"), ("stream", "10¹² pixels"),
                                                ("array", "no scale"), ("array", "flat")])  # fmt: skip
def test_latents_of_forged_files_are_refused_alike(small_files, layout, change):
    data, coder = small_files[layout]
    with pytest.raises(AecliError, match=r"^a\.npz (is damaged|claims)"):
        latents_of(forged(data, **{**FORGED, **FORGED_ARRAYS}[change]), "a.npz", lambda _: coder)


def png(height, width):
    stream = io.BytesIO()
    Image.new("L", (width, height)).save(stream, "PNG")
    return np.frombuffer(stream.getvalue(), np.uint8)


def test_transparency_of_another_size_is_refused_without_unpacking_it(small_files, monkeypatch):
    data, coder = small_files["array"]
    assert decode(forged(data, arrays={"alpha": png(16, 16)}), coder).alpha.shape == (16, 16)
    monkeypatch.setattr(compression, "read_picture", None)
    with pytest.raises(AecliError, match="transparency has another size"):
        decode(forged(data, arrays={"alpha": png(20_000, 20_000)}), coder)


def test_layouts_do_not_pass_for_each_other(small_files):
    (stream, codec), (array, dense) = small_files["stream"], small_files["array"]
    digest = {"weights": f"tiny-codec {codec.weights.digest[:16]}"}
    with pytest.raises(AecliError, match="damaged"):
        decode(forged(array, **digest), codec)
    digest = {"weights": f"tiny-dense {dense.weights.digest[:16]}"}
    with pytest.raises(AecliError, match="damaged"):
        decode(forged(stream, **digest), dense)


def test_other_weights_are_named(codec, compute, tmp_path, small_photograph):
    data = encode_picture(small_photograph, codec)
    other = coder_for(saved(tmp_path / "other.safetensors", tiny_codec(seed=9), "codec"), compute)
    label = f"tiny-codec {codec.weights.digest[:16]}"
    with pytest.raises(AecliError, match=f"a.npz was encoded with weights {label}…, which are not here: pass --weights FILE"):
        decode(data, other)
    with pytest.raises(AecliError, match=f"a.npz was encoded with weights {label}…, which are not here: pass --weights FILE"):
        latents_of(data, "a.npz", lambda _: other)

    def not_here(wanted):
        assert wanted == "tiny-codec"
        raise AecliError("no weights named tiny-codec")

    with pytest.raises(AecliError, match="which are not here: pass --weights FILE"):
        decode_picture(data, "a.npz", not_here)


def test_a_foreign_npz_is_refused(codec):
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    with pytest.raises(AecliError, match=r"was not written by aecli encode|no array of plain numbers"):
        decode(stream.getvalue(), codec)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(AecliError, match=r"^a\.npz "):
        describe(stream.getvalue(), "a.npz")


@pytest.mark.parametrize("quality", ["abc", [50], True, {}])
def test_describing_a_file_whose_quality_is_no_number_is_an_error(quality, photograph, codec_weights, compute):
    data = encode_picture(photograph, coder_for(codec_weights, compute))
    header, arrays = read_container(data, "a.npz")
    del header["aecli"]
    hostile = write_container({**header, "quality": quality}, arrays)
    with pytest.raises(AecliError, match=r"a\.npz is damaged \(its quality is no number\)"):
        describe(hostile, "a.npz")


def test_the_quality_of_a_file_is_the_one_it_was_encoded_with(photograph, codec_weights, compute):
    coder = coder_for(codec_weights, compute)
    data = encode_picture(photograph, coder, quality=100 / 3)
    assert describe(data, "a.npz").quality == 33.33
    assert data == encode_picture(photograph, coder, quality=33.33)


@pytest.mark.parametrize("texts", [b"{}", b'[["Title"]]', b'[["Title", 7]]', b"[" * 5000, b"\xff"])
def test_texts_that_are_none_are_damage(codec, picture_of, texts):
    data = forged(encode_picture(picture_of(8, 8), codec), arrays={"texts": np.frombuffer(texts, np.uint8)})
    with pytest.raises(AecliError, match="is damaged"):
        decode(data, codec)


def test_a_profile_of_srgb_is_a_flag_and_any_other_is_kept(codec_weights, compute, photograph):
    coder = coder_for(codec_weights, compute)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    bare = len(encode_picture(photograph, coder))
    sizes = {}
    for name, profile in (("srgb", srgb), ("wide", ICC), ("damaged", b"no profile" * 30)):
        data = encode_picture(replace(photograph, icc=profile), coder)
        sizes[name] = len(data) - bare
        back = decode_picture(data, "x", lambda _: coder).icc
        assert back == profile if name != "srgb" else is_srgb(back)
    assert sizes["srgb"] < 20 < 200 < sizes["wide"]
    assert is_srgb(profile_of(Signalled(), grey=False))
    assert not is_srgb(profile_of(Signalled(gamma=1.8), grey=False))
    assert not is_srgb(profile_of(Signalled(), grey=True))
