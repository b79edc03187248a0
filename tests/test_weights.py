"""Weights files: what is saved is what is loaded, and nothing hostile gets further than a sentence."""

import hashlib
import json
import pickle
import re
import struct
import subprocess
import sys
import time
import tracemalloc

import pytest
import torch
from conftest import FEATURES, saved, tiny_codec, tiny_denoiser, tiny_dense
from safetensors.torch import save as save_tensors

from aecli import weights
from aecli.errors import AecliError
from aecli.models import build
from aecli.weights import FORMAT_VERSION, card_of, find_weights, load_weights, read_card, save_weights, shipped_weights

CARD = {"task": "features", "training_data": "nothing", "steps": 7}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tiny.safetensors"


def metadata_of(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])["__metadata__"]


def rewritten(path, tensors=None, **metadata):
    """The file again with other tensors or metadata; None takes an entry out."""
    tensors = {**load_weights(path).model.state_dict(), **(tensors or {})}
    values = {k: v for k, v in {**metadata_of(path), **metadata}.items() if v is not None}
    path.write_bytes(save_tensors({k: v.contiguous() for k, v in tensors.items()}, metadata=values))


def file_of(header, data=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + data


def dense_header(config=None, tensors=None, **metadata):
    """The header of a dense model's file, without the tensors themselves."""
    card = {"arch": "dense", "config": json.dumps(config or {}), "task": "features", "training_data": "", "steps": "1"}
    return {"__metadata__": {"format_version": str(FORMAT_VERSION), **card, **metadata}, **(tensors or {})}


# -------------------------------------------------------------------------------------------------------------- good files


def test_weights_of_every_kind_load_quickly_and_import_neither_sympy_nor_a_compiler():
    """Each of which takes a second, and comes with arithmetic on the meta device."""
    code = f"""
import sys, time, torch
from aecli.models import build
from aecli.weights import load_weights, shipped_weights
with torch.device("meta"):
    for arch, config in {list(FEATURES.values())}:
        build(arch, {{"height": 8, "width": 8, **config}})
    build("denoiser", {{"local_mean": True}})
    build("codec", {{}})
for path in shipped_weights():
    start = time.process_time()
    load_weights(path)
    print(path.stem, time.process_time() - start)
print(*({{"sympy", "torch._dynamo"}} & {{*sys.modules}}))
"""
    *times, heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    assert heavy == ""
    assert len(times) >= 9
    assert {name: seconds for name, seconds in map(str.split, times) if float(seconds) > 0.3} == {}


@pytest.mark.parametrize(("arch", "make"), [("dense", tiny_dense), ("denoiser", tiny_denoiser), ("codec", tiny_codec)])
def test_a_model_and_its_card_come_back_as_they_were(path, arch, make):
    model = make(seed=3)
    card = card_of(model, arch, **CARD, scores={"psnr": 31.5}, error_quantiles={"0.5": 0.01}, noise="gaussian:0.5", command="«x»")
    save_weights(path, model, card, half=False)
    loaded = load_weights(path)
    assert loaded.model.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    assert type(loaded.model) is type(model)
    assert loaded.model.config == model.config
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert (loaded.name, loaded.digest) == ("tiny", hashlib.sha256(path.read_bytes()).hexdigest())
    assert read_card(path) == loaded.card
    assert loaded.card.scores == {"psnr": 31.5}
    assert (loaded.card.steps, loaded.card.noise, loaded.card.command) == (7, "gaussian:0.5", "«x»")
    assert build(loaded.card.arch, loaded.card.config).config == model.config


def test_half_storage_halves_the_file_and_rounds_each_number_to_16_bits(tmp_path):
    for arch, model in (("denoiser", tiny_denoiser()), ("codec", tiny_codec())):
        full, half = (saved(tmp_path / f"{arch}{h}.safetensors", model, arch, half=h) for h in (False, True))
        for name, value in full.model.state_dict().items():
            stored = half.model.state_dict()[name]
            assert stored.dtype == value.dtype
            assert torch.equal(stored, value.half().float() if value.is_floating_point() else value)
    sizes = [(tmp_path / f"denoiser{h}.safetensors").stat().st_size for h in (False, True)]
    assert sizes[1] < 0.6 * sizes[0]


def test_nothing_is_overwritten_unasked(path):
    saved(path, tiny_dense(), "dense")
    before = path.read_bytes()
    with pytest.raises(AecliError, match="exists"):
        save_weights(path, tiny_dense(1), card_of(tiny_dense(1), "dense", **CARD), half=False)
    assert path.read_bytes() == before


def test_a_card_may_hold_fields_of_a_later_version(path):
    saved(path, tiny_dense(), "dense")
    rewritten(path, mood="cheerful")
    assert load_weights(path).card.arch == "dense"


# ------------------------------------------------------------------------------------------------------------- finding them


def test_weights_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    for name in ("photo-b", "photo-a"):
        saved(shipped / f"{name}.safetensors", tiny_dense(), "dense")
    monkeypatch.setattr(weights, "SHIPPED_FOLDERS", (tmp_path / "nowhere", shipped))
    monkeypatch.chdir(tmp_path)
    assert [p.stem for p in shipped_weights()] == ["photo-a", "photo-b"]
    assert find_weights("photo-a") == shipped / "photo-a.safetensors"
    assert load_weights("photo-a").name == "photo-a"
    for given in (shipped / "photo-b.safetensors", str(shipped / "photo-b.safetensors"), "shipped/photo-b.safetensors"):
        assert load_weights(given).name == "photo-b"


def test_an_unknown_name_lists_the_known_ones(tmp_path, monkeypatch):
    saved(tmp_path / "photo-a.safetensors", tiny_dense(), "dense")
    monkeypatch.setattr(weights, "SHIPPED_FOLDERS", (tmp_path,))
    with pytest.raises(AecliError, match=re.escape("no weights named photo-c: there are photo-a; or pass the path")):
        load_weights("photo-c")
    with pytest.raises(AecliError, match="no weights named"):
        load_weights("../photo-a")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AecliError, match=r"gone\.safetensors cannot be read \(No such file or directory\)"):
        load_weights(tmp_path / "gone.safetensors")


# ------------------------------------------------------------------------------------------------- damaged and hostile files


def test_a_file_cut_anywhere_is_refused(path):
    saved(path, tiny_dense(), "dense")
    data = path.read_bytes()
    for length in [*range(0, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(AecliError, match=r"tiny\.safetensors"):
            load_weights(path)


def test_no_changed_byte_of_the_header_raises_anything_but_a_sentence(path):
    saved(path, tiny_dense(), "dense")
    data = path.read_bytes()
    refused = 0
    for position in range(8 + struct.unpack("<Q", data[:8])[0]):
        changed = bytearray(data)
        changed[position] ^= 0x15
        path.write_bytes(changed)
        try:
            load_weights(path)
        except AecliError as error:
            refused += 1
            assert str(path) in str(error) or "architecture" in str(error)
    assert refused > 300


def test_a_file_of_another_program_is_refused(path):
    path.write_bytes(save_tensors(tiny_dense().state_dict()))
    with pytest.raises(AecliError, match=r"was not written by aecli \(its header has no format_version\)"):
        load_weights(path)


def test_a_newer_version_says_to_upgrade(path):
    saved(path, tiny_dense(), "dense")
    rewritten(path, format_version="2")
    with pytest.raises(AecliError, match="has format version 2, this aecli reads 1: upgrade aecli"):
        load_weights(path)


class Bomb:
    loaded = False

    def __reduce__(self):
        return (setattr, (Bomb, "loaded", True))


def test_a_renamed_pickle_is_refused_and_never_unpickled(path):
    for write in (lambda: path.write_bytes(pickle.dumps(Bomb())), lambda: torch.save({"a": Bomb()}, path)):
        write()
        with pytest.raises(AecliError, match="is not a safetensors file, or is cut off"):
            load_weights(path)
    assert not Bomb.loaded


def test_tensors_that_do_not_fit_are_named(path):
    saved(path, tiny_dense(), "dense")
    good = path.read_bytes()
    rewritten(path, tensors={"encoder.bias": torch.zeros(5)})
    with pytest.raises(AecliError, match=r"does not fit its architecture: encoder\.bias is \[5\] where \[4\] belongs"):
        load_weights(path)
    path.write_bytes(good)
    rewritten(path, tensors={"extra": torch.zeros(5)})
    with pytest.raises(AecliError, match=r"extra is \[5\] where None belongs"):
        load_weights(path)
    path.write_bytes(good)
    rewritten(path, arch="deep")
    with pytest.raises(AecliError, match="does not fit architecture deep"):
        load_weights(path)


HOSTILE = {
    "empty": b"",
    "short": b"\x02\0\0",
    "length beyond the file": struct.pack("<Q", 1 << 60) + b"{}",
    "header that is no JSON": file_of(b"{" * 50),
    "header that is a list": file_of([1]),
    "header nested deep": file_of(b"[" * 200_000),
    "metadata that is a list": file_of({"__metadata__": [1]}),
    "metadata that is null": file_of({"__metadata__": None}),
    "no card": file_of({"__metadata__": {"format_version": "1"}}),
    "steps that are no JSON": file_of(dense_header(steps="{")),
    "arch that is a list": file_of(dense_header(arch=["dense"])),
    "arch that is a mapping": file_of(dense_header(arch={})),
    "unknown arch": file_of(dense_header(arch="transformer")),
    "config that is a list": file_of(dense_header(config=[1, 2])),
    "config that is a number": file_of(dense_header(config=5)),
    "config that is null": file_of({"__metadata__": dense_header()["__metadata__"] | {"config": "null"}}),
    "scores that are a list": file_of(dense_header(scores="[1]")),
    "steps that are words": file_of(dense_header(steps='"many"')),
    "no tensors": file_of(dense_header()),
    "tensor that is a number": file_of(dense_header(tensors={"encoder.weight": 5})),
    "huge code": file_of(dense_header({"latent_dim": 10**9})),
    "huge beyond 64 bits": file_of(dense_header({"latent_dim": 10**30})),
    "huge picture": file_of(dense_header({"height": 10**9, "width": 10**9})),
    "negative": file_of(dense_header({"latent_dim": -3})),
    "no pixels": file_of(dense_header({"height": 0})),
    "fractions": file_of(dense_header({"latent_dim": 3.5})),
    "words": file_of(dense_header({"latent_dim": "x" * 1000})),
    "huge widths": file_of(dense_header({"widths": [10**9, 10**9, 10**9]}, arch="conv")),
    "huge widths of a denoiser": file_of(dense_header({"widths": [10**9] * 3}, arch="denoiser")),
    "huge widths of a codec": file_of(dense_header({"widths": [10**9] * 3}, arch="codec")),
    "huge latent of a codec": file_of(dense_header({"latent": 10**9, "hyper": 10**9}, arch="codec")),
    "many blocks": file_of(dense_header({"blocks": 10**9}, arch="denoiser")),
    "many blocks of a conv": file_of(dense_header({"blocks": 10**9}, arch="conv")),
    "many blocks of a codec": file_of(dense_header({"blocks_down": [1, 10**9, 1]}, arch="codec")),
    "many widths": file_of(dense_header({"widths": [1] * 200_000}, arch="conv")),
    "many hidden layers": file_of(dense_header({"hidden": [1] * 200_000}, arch="deep")),
    "no widths": file_of(dense_header({"widths": []}, arch="denoiser")),
    "no lambdas": file_of(dense_header({"lambdas": []}, arch="codec")),
    "lambdas that are words": file_of(dense_header({"lambdas": ["a"]}, arch="codec")),
    "bad sparsity": file_of(dense_header({"sparsity": "l3:1"}, arch="sparse")),
    "sparsity that is a list": file_of(dense_header({"sparsity": [1]}, arch="sparse")),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_hostile_files_are_refused_at_once_and_in_little_memory(path, kind):
    path.write_bytes(HOSTILE[kind])
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(AecliError) as caught:
            load_weights(path)
        assert time.perf_counter() - start < 3
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("dtype", ["F99", "BOOL", "I64", "F8_E4M3", "C64"])
def test_a_tensor_of_another_type_than_it_should_have_loads_or_is_refused(path, dtype):
    size = {"F8_E4M3": 1, "BOOL": 1}.get(dtype, 8)
    model = tiny_dense()
    start, header = 0, dense_header({"height": 8, "width": 8, "latent_dim": 4})
    for name, value in model.state_dict().items():
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [start, start := start + size * value.numel()]}
    path.write_bytes(file_of(header, bytes(start)))
    try:
        assert load_weights(path).model(torch.rand(1, 1, 8, 8)).dtype == torch.float32
    except AecliError as error:
        assert "tiny.safetensors" in str(error)


@pytest.mark.parametrize("name", ["mnist-conv", "mnist-30d", "mnist-denoise"])
def test_weights_of_before_keep_their_residual_blocks_though_new_ones_have_none(name):
    assert load_weights(name).card.config["blocks"] == 1
    assert build("conv", {}).config.blocks == 0
