"""Latents to bytes and back: exact networks, tables, the range coder, and the container that must survive hostile files."""

import io
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_codec
from torch import nn

from aecli.coding import container
from aecli.coding.container import _npy, read_container, write_container
from aecli.coding.entropy import SYMBOL_LIMIT, LatentCoder, _scale_indices
from aecli.coding.exact import ExactCheckerboardConv, ExactNetwork, from_fixed, to_fixed
from aecli.coding.tables import TOTAL, fill_tables, fit_tables, gaussian_tables, hyper_tables
from aecli.device import select
from aecli.errors import AecliError
from aecli.models.codec import SCALES, WIDEST_DEAD_ZONE, Codec, checkerboard, dead_zone, gaussian_half_width, scale_of_index

CODEC = tiny_codec()


@pytest.fixture(scope="module")
def coder():
    return LatentCoder(CODEC)


UNIT_GAIN = torch.ones(1, 8, 1, 1)


def some_latents(height=8, width=12, *, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(1, 8, height, width, generator=generator) * scale
    return y, torch.randn(1, 4, height // 4, width // 4, generator=generator) * 2


# ---------------------------------------------------------------------------------------------------------------- tables


def test_tables_hold_frequencies_of_at_least_one_that_sum_to_2_to_the_24():
    tables = [*gaussian_tables(CODEC), *hyper_tables(CODEC)]
    assert len(tables) == SCALES + CODEC.config.hyper
    for table in tables:
        assert table.sum() == TOTAL
        assert table.min() >= 1


@pytest.mark.parametrize("index", [0, 20, 40, 63])
def test_a_table_has_the_standard_deviation_of_its_scale(index):
    half_width = gaussian_half_width(index)
    values, table = np.arange(-half_width, half_width + 1), gaussian_tables(CODEC)[index][:-1]
    assert np.abs(table - table[::-1]).sum() <= 2 * len(table)  # symmetric, but for what rounding leaves over
    assert abs(values[table.argmax()]) <= 1
    sigma = scale_of_index(torch.tensor(float(index))).item()
    if sigma > 0.5:  # rounding to integers adds a variance of 1/12
        assert np.sqrt((table * values**2).sum() / table.sum()) == pytest.approx(np.sqrt(sigma**2 + 1 / 12), rel=1e-3)


def test_tables_follow_the_learned_prior():
    probabilities = CODEC.prior.probability(torch.arange(-63.0, 64.0).expand(1, 4, 1, -1))[0, :, 0]
    np.testing.assert_allclose(np.array(hyper_tables(CODEC))[:, :-1] / TOTAL, probabilities, atol=1e-5)


def photographs(photograph):
    """Four parts of 64×64."""
    x = torch.from_numpy(photograph.pixels).permute(2, 0, 1).float() / 255
    return torch.stack([x[:, top : top + 64, left : left + 64] for top in (0, 64) for left in (0, 64)])


def test_fitted_tables_make_smaller_files_which_decode_as_before(photograph):
    general, fitted, x = LatentCoder(CODEC), tiny_codec(), photographs(photograph)
    fit_tables(fitted, x, select("cpu", "fp32", 1))
    for table in gaussian_tables(fitted):
        assert table.sum() == TOTAL
        assert table.min() >= 1
    y, gain = CODEC.analysis(x[:1]), CODEC.gains(torch.tensor([3.0]))[0]
    streams = [coder.encode(y, CODEC.h_a(y * gain), gain) for coder in (general, LatentCoder(fitted))]
    assert len(streams[1][0]) < 0.97 * len(streams[0][0])
    assert LatentCoder(fitted).decode(streams[1][0], *y.shape[-2:]).crc == streams[0][1].crc


def test_the_symbols_of_floats_are_those_of_files_but_for_roundings(photograph):
    x, level = photographs(photograph)[:1], torch.tensor([3.0])
    symbols, indices = CODEC.symbols(x, level)
    y, gain = CODEC.analysis(x), CODEC.gains(level)[0]
    _, coded = LatentCoder(CODEC).encode(y, CODEC.h_a(y * gain), gain)
    assert (symbols[0].numpy() != coded.symbols).mean() < 0.01
    assert indices.min() >= 0
    assert indices.max() < SCALES


def test_filling_tables_leaves_the_model_in_float32_and_is_repeatable():
    model = tiny_codec()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fill_tables(model)
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_a_codec_without_tables_does_not_code():
    with pytest.raises(AecliError, match="no probability tables"):
        LatentCoder(Codec(CODEC.config))


# --------------------------------------------------------------------------------------------------------- exact networks


NETWORKS = {"h_s": CODEC.h_s, "context": CODEC.context, "parameters": CODEC.parameters_net}


def fixed_input(channels, *, seed=0, height=6, width=10):
    """Random numbers of the size of activations, in units of 2^-12."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-20_000, 20_000, (1, channels, height, width), generator=generator).double()


def channels_of(network):
    return next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exact_network_equals_the_float_network_within_its_resolution(name):
    x = fixed_input(channels_of(NETWORKS[name]))
    exact = from_fixed(ExactNetwork(NETWORKS[name])(x))
    in_float = NETWORKS[name].double()(from_fixed(x))
    NETWORKS[name].float()
    assert (exact - in_float).abs().max() < 0.05
    assert (exact - in_float).abs().max() < 0.01 * in_float.abs().max()
    assert exact.std() > 0.1  # it is not all zeros


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_networks_give_the_same_bits_however_they_are_summed(name):
    network = NETWORKS[name]
    x = fixed_input(channels_of(network))
    expected = ExactNetwork(network)(x)
    assert torch.equal(expected, expected.round())

    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(ExactNetwork(network)(x), expected)
    finally:
        torch.set_num_threads(threads)

    assert torch.equal(ExactNetwork(network)(x.contiguous(memory_format=torch.channels_last)), expected)
    whole = torch.cat([x, x.flip(1), x])
    assert torch.equal(ExactNetwork(network)(whole)[2:], expected)


@pytest.mark.parametrize("name", ["h_s", "context", "parameters_net"])
def test_exact_networks_give_the_same_bits_in_strips(name, monkeypatch):
    network = ExactNetwork(getattr(CODEC, name))
    channels = next(m for m in getattr(CODEC, name).modules() if isinstance(m, nn.Conv2d)).in_channels
    x = to_fixed(torch.randint(-9, 10, (1, channels, 7, 5), generator=torch.Generator().manual_seed(0)))
    whole = network(x)
    monkeypatch.setattr("aecli.coding.exact.STRIP_VALUES", 1)  # a row at a time
    assert torch.equal(network(x), whole)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 6), (5, 7)])
def test_the_context_of_the_anchors_alone_is_that_of_the_whole_convolution(height, width):
    x = fixed_input(8, height=height, width=width)
    anchors = checkerboard(height, width)
    expected = ExactNetwork(CODEC.context)(x * anchors)[0, :, ~anchors]
    found = ExactCheckerboardConv(CODEC.context)(nn.functional.pad(x[0].int(), (2, 2, 2, 2)))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("positions", [1, 50])
def test_the_context_is_the_same_in_strips(coder, monkeypatch, positions):
    latents = some_latents(16, 12, scale=10)
    whole, _ = coder.encode(*latents, UNIT_GAIN)
    monkeypatch.setattr("aecli.coding.entropy.CONTEXT_POSITIONS", positions)
    assert coder.encode(*latents, UNIT_GAIN)[0] == whole


@pytest.mark.parametrize("seed", range(3))
def test_exact_sums_do_not_depend_on_the_order_of_their_terms(seed):
    torch.manual_seed(seed)
    conv = nn.Conv2d(64, 16, 3, padding=1).requires_grad_(False)
    x = fixed_input(64, seed=seed) * 400  # near the limit of activations: float64 would round here if it ever did
    order = torch.randperm(64)
    permuted = nn.Conv2d(64, 16, 3, padding=1).requires_grad_(False)
    permuted.weight.copy_(conv.weight[:, order])
    permuted.bias.copy_(conv.bias)
    expected = ExactNetwork(conv)(x)
    assert torch.equal(ExactNetwork(permuted)(x[:, order]), expected)
    one_position_by_hand = 0
    integer_weights = (conv.weight[3].double() * 2**14).round().long()
    for c, row, column in np.ndindex(64, 3, 3):  # Python's integers, at position (2, 5)
        one_position_by_hand += int(integer_weights[c, row, column]) * int(x[0, c, 1 + row, 4 + column])
    one_position_by_hand += int((conv.bias[3].double() * 2**26).round())
    by_hand = (one_position_by_hand + 2**13) >> 14
    assert expected[0, 3, 2, 5] == max(-(2**23), min(2**23, by_hand))


def test_activations_are_limited_and_weights_that_could_overflow_are_refused():
    conv = nn.Conv2d(1, 1, 1).requires_grad_(False)
    conv.weight.fill_(3.0)
    conv.bias.fill_(0)
    assert ExactNetwork(conv)(torch.full((1, 1, 1, 1), 2.0**23, dtype=torch.float64)).item() == 2**23
    conv.weight.fill_(2.0**17)
    with pytest.raises(AecliError, match="too large to be evaluated exactly"):
        ExactNetwork(conv)
    conv.weight.fill_(float("nan"))
    with pytest.raises(AecliError, match="too large to be evaluated exactly"):
        ExactNetwork(conv)


def test_fixed_point_numbers():
    assert to_fixed(torch.tensor([1, -3, 5000])).tolist() == [4096, -12288, 2**23]
    assert from_fixed(torch.tensor([4096.0, -6144.0], dtype=torch.float64)).tolist() == [1.0, -1.5]


def test_scale_indices_are_rounded_exactly_and_limited():
    raw = torch.tensor([0, 1, 255, 256, -256, -257, 10**6, -(10**6)], dtype=torch.float64)  # 8 raw + 24, in units of 2^-12
    assert _scale_indices(raw).tolist() == [24, 24, 24, 25, 24, 23, 63, 0]


# ----------------------------------------------------------------------------------------------------------- range coder


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (4, 40)])
@pytest.mark.parametrize("scale", [0.0, 3.0, 60.0])
def test_what_is_decoded_is_what_was_encoded(coder, height, width, scale):
    stream, coded = coder.encode(*some_latents(height, width, scale=scale), UNIT_GAIN)
    decoded = coder.decode(stream, height, width)
    np.testing.assert_array_equal(decoded.symbols, coded.symbols)
    np.testing.assert_array_equal(decoded.z, coded.z)
    assert torch.equal(decoded.y_hat, coded.y_hat)
    assert decoded.crc == coded.crc


def test_decoded_latents_lie_within_half_a_step_of_the_originals_and_a_dead_zone_nearer_to_their_means(coder):
    y, z = some_latents()
    _, coded = coder.encode(y, z, UNIT_GAIN)
    error, symbols = coded.y_hat - y, torch.from_numpy(coded.symbols).float()
    assert error.abs().max() <= 0.5 + dead_zone(scale_of_index(torch.tensor(0.0)))
    farther = error.abs() > 0.5
    assert 0 < farther.float().mean() < 0.2
    assert ((symbols - error).abs() > symbols.abs())[farther].all()
    np.testing.assert_array_equal(coded.z, z[0].round())


def test_the_same_latents_give_the_same_bytes(coder):
    assert coder.encode(*some_latents(), UNIT_GAIN)[0] == LatentCoder(tiny_codec()).encode(*some_latents(), UNIT_GAIN)[0]


def test_symbols_far_outside_their_tables_are_escaped(coder):
    y, z = some_latents(scale=1.0)
    y[0, 2, 1, 3], y[0, 5, 7, 0], y[0, 0, 0, 0], z[0, 1, 0, 0], z[0, 3, 1, 2] = 1500.0, -1999.0, 64.0, 64.0, -1000.0
    stream, coded = coder.encode(y, z, UNIT_GAIN)
    decoded = coder.decode(stream, 8, 12)
    assert abs(decoded.y_hat[0, 2, 1, 3] - 1500) <= 0.5 + WIDEST_DEAD_ZONE
    assert abs(decoded.y_hat[0, 5, 7, 0] + 1999) <= 0.5
    assert decoded.z[1, 0, 0] == 64
    assert decoded.z[3, 1, 2] == -1000
    assert decoded.crc == coded.crc


def test_symbols_beyond_every_limit_are_clipped_alike_by_both_sides(coder):
    y, z = some_latents()
    y[0, 2, 1, 3], z[0, 0, 0, 0] = 1e7, -1e7
    stream, coded = coder.encode(y, z, UNIT_GAIN)
    assert coded.symbols.max() == SYMBOL_LIMIT
    assert coded.z.min() == -SYMBOL_LIMIT
    decoded = coder.decode(stream, 8, 12)
    assert decoded.crc == coded.crc
    assert torch.equal(decoded.y_hat, coded.y_hat)


def test_the_stream_is_about_as_long_as_the_model_of_training_estimates():
    """What training minimises is what a file costs, but for the noise that stands for the rounding of z there."""
    torch.manual_seed(0)
    model, x, level = Codec(CODEC.config).requires_grad_(False), torch.rand(1, 3, 256, 256), torch.tensor([7.0])
    fill_tables(model)
    y, gain = model.analysis(x), model.gains(level)[0]
    stream, _ = LatentCoder(model).encode(y, model.h_a(y * gain), gain)
    output = model(x, level)
    assert 8 * len(stream) == pytest.approx((output.bits_y + output.bits_z).item(), rel=0.01)


def test_a_constant_picture_costs_a_byte_for_64_positions_and_no_stream_may_be_shorter(coder):
    stream, coded = coder.encode(torch.zeros(1, 8, 64, 64), torch.zeros(1, 4, 16, 16), UNIT_GAIN)
    assert len(stream) >= 64
    assert coder.decode(stream, 64, 64).crc == coded.crc
    for size in ((64, 68), (4000, 4000)):
        with pytest.raises(AecliError, match="shorter than its picture"):
            coder.decode(stream[:64], *size)


def test_a_stream_that_is_cut_or_changed_is_an_error_or_other_symbols(coder):
    stream, coded = coder.encode(*some_latents(), UNIT_GAIN)
    with pytest.raises(AecliError, match="shorter"):
        coder.decode(stream[:-1], 8, 12)
    with pytest.raises(AecliError, match="shorter"):
        coder.decode(b"", 8, 12)
    for position in range(0, len(stream), 3):
        changed = bytearray(stream)
        changed[position] ^= 0x10
        try:
            other = coder.decode(bytes(changed), 8, 12)
        except AecliError:
            continue
        same_symbols = np.array_equal(other.symbols, coded.symbols) and np.array_equal(other.z, coded.z)
        assert same_symbols == (other.crc == coded.crc)


DECODE_ELSEWHERE = """
import sys, torch
sys.path.insert(0, sys.argv[3])
from conftest import tiny_codec
from aecli.coding.entropy import LatentCoder
assert torch.backends.cpu.get_cpu_capability() == "DEFAULT"
torch.set_num_threads(int(sys.argv[2]))
latents = LatentCoder(tiny_codec()).decode(open(sys.argv[1], "rb").read(), 16, 24)
print(latents.crc, latents.y_hat.sum().item())
"""


def test_a_stream_decodes_alike_with_other_instructions_and_threads(coder, tmp_path):
    stream, coded = coder.encode(*some_latents(16, 24, scale=10), UNIT_GAIN)
    (tmp_path / "stream").write_bytes(stream)
    old_machine = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    command = [sys.executable, "-c", DECODE_ELSEWHERE, tmp_path / "stream", "2", Path(__file__).parent]
    printed = subprocess.run(command, env=old_machine, capture_output=True, text=True, check=True).stdout.split()
    assert [int(printed[0]), float(printed[1])] == [coded.crc, coded.y_hat.sum().item()]


# ------------------------------------------------------------------------------------------------------------- container


ARRAYS = {
    "stream": np.arange(50, dtype=np.uint8),
    "latents": np.arange(-6, 6, dtype=np.int16).reshape(3, 4),
    "numbers": np.linspace(0, 1, 6, dtype=np.float32).reshape(1, 2, 3),
    "nothing": np.zeros((0, 7), np.int8),
    "scalar": np.array(5.5),
}


def packed(header, dictionary=container.USUAL_HEADER):
    compressor = zlib.compressobj(zdict=dictionary)
    return compressor.compress(header) + compressor.flush()


HEADER = packed(b'{"aecli": 1}')


def zip_of(comment, **members):
    """An .npz of raw bytes, whatever they are."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = comment
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def saved_by_numpy(array, save=np.save, **options):
    stream = io.BytesIO()
    save(stream, array, **options)
    return stream.getvalue()


def test_a_container_gives_back_its_header_and_arrays():
    header, arrays = read_container(write_container({"size": [3, 4], "name": "Zoë"}, ARRAYS), "a.npz")
    assert header == {"aecli": 1, "size": [3, 4], "name": "Zoë"}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].shape == array.shape


@pytest.mark.parametrize("first", range(256))
def test_an_array_may_begin_with_any_byte(first):
    """Streams do: 32 and 10, a space and a new line, once read as a part of the array's header."""
    array = np.full(5, first, np.uint8)
    np.testing.assert_array_equal(read_container(write_container({}, {"stream": array}), "a.npz")[1]["stream"], array)


def test_numpy_reads_a_container(tmp_path):
    (tmp_path / "a.npz").write_bytes(write_container({"size": [3, 4]}, ARRAYS))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        assert loaded.files == [*ARRAYS]
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(loaded[name], array)


def test_a_header_is_small_and_never_looks_like_the_end_of_its_archive(monkeypatch):
    header = {"size": [768, 512], "mode": "RGB", "weights": "photo-codec 0f1e2d3c4b5a6978", "crc": 3049182734}
    data = write_container(header, {})
    comment = zipfile.ZipFile(io.BytesIO(data)).comment
    assert len(comment) < 60
    monkeypatch.setattr(container, "END_OF_ARCHIVE", comment[8:12])  # as if these had been the bytes that readers look for
    other = write_container(header, {})
    assert comment[8:12] not in other
    assert read_container(other, "a") == read_container(data, "a")


def test_containers_are_the_same_from_run_to_run_and_small():
    assert write_container({"a": 1}, ARRAYS) == write_container({"a": 1}, ARRAYS)
    noise = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    assert len(write_container({}, {"stream": noise})) - 5000 < 300
    assert len(write_container({}, {"latents": np.zeros((1000, 32), np.int8)})) < 500


def test_arrays_of_the_other_byte_order_and_of_strange_strides_are_stored_as_their_values():
    arrays = {"big": np.arange(5, dtype=">i2"), "turned": np.arange(12, dtype=np.int8).reshape(3, 4).T[::-1]}
    _, again = read_container(write_container({}, arrays), "a.npz")
    np.testing.assert_array_equal(again["big"], arrays["big"])
    np.testing.assert_array_equal(again["turned"], arrays["turned"])


class Bomb:
    """A pickle that leaves a trace when it is loaded."""

    loaded = False

    def __reduce__(self):
        return (setattr, (Bomb, "loaded", True))


HOSTILE = {
    "empty": b"",
    "no zip": b"PK\x03\x04 this is no zip file at all",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "nothing in it": b"PK\x05\x06" + bytes(18),
    "no header": saved_by_numpy(np.arange(9, dtype=np.uint8), save=np.savez),
    "header that is not packed": zip_of(b'{"aecli": 1}'),
    "header that is cut": zip_of(HEADER[:-5]),
    "header of another dictionary": zip_of(packed(b'{"aecli": 1}', b"another")),
    "header that is no JSON": zip_of(packed(b"{size")),
    "header that is no UTF-8": zip_of(packed(b'{"aecli": 1, "\xff": 1}')),
    "header that is no object": zip_of(packed(b"[1]")),
    "header without version": zip_of(packed(b"{}")),
    "header nested too deep": zip_of(packed(b'{"aecli":' + b"[" * 60_000)),
    "header with a huge number": zip_of(packed(b'{"aecli": 1, "size": [' + b"1" * 9_000 + b", 1]}")),
    "huge header": zip_of(packed(b'{"aecli": 1, "a": "' + b"a" * 100_000 + b'"}')),
    "newer version": zip_of(packed(b'{"aecli": 2}')),
    "pickle as a member": zip_of(HEADER, stream=pickle.dumps(Bomb())),
    "objects": zip_of(HEADER, stream=saved_by_numpy(np.array([Bomb()]), allow_pickle=True)),
    "deflated stream": zip_of(HEADER, stream=_npy(np.zeros(99, np.uint8))),
    "fortran order": zip_of(HEADER, a=saved_by_numpy(np.zeros((3, 4)).T)),
    "bytes": zip_of(HEADER, a=saved_by_numpy(np.array(b"abc"))),
    "structured dtype": zip_of(HEADER, a=saved_by_numpy(np.zeros(3, dtype=[("x", "i4"), ("y", "f4")]))),
    "dates": zip_of(HEADER, a=saved_by_numpy(np.zeros(3, dtype="M8[s]"))),
    "npy version 2": zip_of(HEADER, a=b"\x93NUMPY\x02\x00" + saved_by_numpy(np.zeros(3))[8:]),
    "shorter than its shape": zip_of(HEADER, a=saved_by_numpy(np.zeros(3))[:-1]),
    "longer than its shape": zip_of(HEADER, a=saved_by_numpy(np.zeros(3)) + b"\0"),
    "no array": zip_of(HEADER, a=b""),
    "array header that is code": zip_of(HEADER, a=b"\x93NUMPY\x01\x00\x12\x00__import__('os')()"),
    "array header that is cut": zip_of(HEADER, a=b"\x93NUMPY\x01\x00\xff\x00{'descr"),
    "many members": zip_of(HEADER, **{f"a{i}": _npy(np.zeros(1)) for i in range(40)}),
}


def shape_of(text):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {text}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)


SHAPES = ("(1000000000000,)", "(-8,)", "(4294967296, 4294967296)", "(-2, -4)", "(8.0,)", "(" + "1," * 80 + "8)", "8", "(True, 8)")
for text in SHAPES:
    HOSTILE[f"shape {text[:20]}"] = zip_of(HEADER, a=shape_of(text))


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_in_a_sentence(kind):
    with pytest.raises(AecliError, match=r"^evil\.npz ") as caught:
        read_container(HOSTILE[kind], "evil.npz")
    assert len(str(caught.value)) < 400
    assert not Bomb.loaded


def test_a_newer_version_says_to_upgrade():
    with pytest.raises(AecliError, match="has format version 2, this aecli reads 1: upgrade aecli"):
        read_container(HOSTILE["newer version"], "a.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for size in (1, 2):
            archive.writestr("stream.npy", _npy(np.arange(size)))
        archive.comment = HEADER
    with pytest.raises(AecliError, match="2 members"):
        read_container(stream.getvalue(), "a.npz")


def zeros_deflated(mebibytes):
    """A raw deflate stream of so many MiB of zeros, made from one MiB."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return block * mebibytes + compressor.flush()


def zip_bomb(mebibytes, claimed=None):
    """A file whose member `latents` unpacks to so many MiB of zeros."""
    size = claimed or mebibytes << 20
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.comment = HEADER
        archive.writestr("latents.npy", data := zeros_deflated(mebibytes))
    data_crc, zip_bytes = zlib.crc32(data), stored.getvalue()
    for signature, offset in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):  # local header, then that of the directory
        start = zip_bytes.rindex(signature, 0, len(zip_bytes))
        fields = bytearray(zip_bytes[start : start + 46])
        fields[8 + offset : 10 + offset] = (8).to_bytes(2, "little")  # deflated
        assert int.from_bytes(fields[14 + offset : 18 + offset], "little") == data_crc
        fields[22 + offset : 26 + offset] = size.to_bytes(4, "little")
        zip_bytes = zip_bytes[:start] + bytes(fields) + zip_bytes[start + 46 :]
    return zip_bytes


def test_zip_bombs_are_refused_without_unpacking_them():
    bomb = zip_bomb(2048)
    assert len(bomb) < 4 << 20
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive:
        assert archive.getinfo("latents.npy").file_size == 2 << 30
        assert archive.open("latents.npy").read(1 << 20) == bytes(1 << 20)
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(AecliError, match=r"^bomb\.npz claims to hold 2,147,\d{3},\d{3} bytes in a file of 2,.*: it is not read"):
        read_container(bomb, "bomb.npz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
    assert time.perf_counter() - start < 1


def test_a_member_larger_than_it_claims_is_refused_without_unpacking_it():
    bomb = zip_bomb(256, claimed=1000)
    tracemalloc.start()
    with pytest.raises(AecliError, match=r"^a\.npz is damaged"):
        read_container(bomb, "a.npz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
