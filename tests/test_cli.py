"""The commands, called in this process: what they write, what they print where, and how they fail."""

import io
import json
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from aecli.cli import app
from aecli.coding.container import read_container, write_container
from aecli.images import from_array, read_picture, write_picture
from aecli.training.data import load_dataset
from aecli.weights import load_weights, shipped_weights


@pytest.fixture
def aecli(weights_folder, tmp_path, monkeypatch):
    """Runs a command line in an empty folder; `{tiny-…}` stands for the weights of that name, `{}` for an empty word."""
    monkeypatch.chdir(tmp_path)

    def run(line, stdin=None):
        names = {"": ""} | {path.stem: str(path) for path in weights_folder.glob("*.safetensors")}
        arguments = [names.get(word.strip("{}"), word) if word.startswith("{") else word for word in line.split()]
        return CliRunner().invoke(app, [*arguments], input=stdin, catch_exceptions=False)

    return run


@pytest.fixture
def photo(tmp_path, photograph):
    """photo.png, 64×48, in the folder that commands run in."""
    path = tmp_path / "photo.png"
    Image.fromarray(photograph.pixels[:48, :64]).save(path)
    return path


def opened(source):
    """A picture, read to its end."""
    with Image.open(source) as image:
        image.load()
        return image


def assert_one_sentence(result, status, *words):
    assert result.exit_code == status
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.output


# ---------------------------------------------------------------------------------------------------------- all commands


def test_help_has_examples(aecli):
    for command in ("denoise", "encode", "decode", "train", "compare-pca"):
        result = aecli(f"{command} --help")
        assert result.exit_code == 0
        assert f"aecli {command}" in result.stdout


def test_help_tells_of_every_command_what_that_tells_of_itself(aecli):
    from aecli.cli import COMMANDS

    top = " ".join(aecli("--help").stdout.split())
    for command, text in COMMANDS.items():
        assert f"{command} {text}" in top
        own = " ".join(aecli(f"{command} --help").stdout.split())
        assert text in own.partition("Options:")[0]
    assert "\n  aecli denoise scans/ -o clean/ --recursive --skip-existing\n" in aecli("denoise --help").stdout
    assert "Files:\n  -r, --recursive " in aecli("denoise --help").stdout
    assert "[bold]" not in aecli("encode --help").stdout and "[dim]" not in aecli("encode --help").stdout


def test_a_command_that_is_mistyped_gets_a_proposal(aecli):
    result = aecli("denois x.png")
    assert result.exit_code == 2 and "Did you mean 'denoise'?" in result.stderr


def test_version_is_that_of_the_package(aecli):
    import aecli as package

    assert aecli("--version").stdout == f"aecli {package.__version__}\n"


def test_unknown_option_is_wrong_usage(aecli):
    assert aecli("denoise --nonsense").exit_code == 2


@pytest.mark.parametrize("command", ["denoise --weights {tiny-denoiser}", "encode --weights {tiny-codec}"])
def test_bad_files_are_reported_and_the_others_done(aecli, photo, tmp_path, command):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:500])
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}

    result = aecli(f"{command} empty.png text.png cut.png missing.png photo.png -o out")

    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("aecli: ")]
    for name, line in zip(("empty.png", "text.png", "cut.png", "missing.png"), errors, strict=True):
        assert name in line
    assert [path.stem for path in (tmp_path / "out").iterdir()] == ["photo"]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.png")} == before


@pytest.mark.parametrize(
    ("command", "result"),
    [("denoise --weights {tiny-denoiser}", "photo.denoised.png"), ("encode --weights {tiny-codec}", "photo.npz")],
)
def test_an_existing_result_is_not_overwritten_unless_asked(aecli, photo, tmp_path, command, result):
    (tmp_path / result).write_text("precious")
    assert_one_sentence(aecli(f"{command} photo.png"), 1, result, "--overwrite")
    assert (tmp_path / result).read_text() == "precious"
    assert aecli(f"{command} photo.png --skip-existing").exit_code == 0
    assert (tmp_path / result).read_text() == "precious"
    assert aecli(f"{command} photo.png --overwrite").exit_code == 0
    assert (tmp_path / result).read_bytes() != b"precious"


@pytest.mark.parametrize(
    ("command", "result"), [("denoise --weights {tiny-denoiser}", "out.png"), ("encode --weights {tiny-codec}", "out.npz")]
)
def test_a_folder_that_cannot_be_written(aecli, photo, tmp_path, command, result):
    (tmp_path / "file").write_text("")
    assert_one_sentence(aecli(f"{command} photo.png -o file/{result}"), 1, "file")
    assert (tmp_path / "file").read_text() == ""


def test_no_input_is_wrong_usage(aecli):
    assert_one_sentence(aecli("denoise"), 2)


def test_wrong_and_damaged_weights(aecli, photo, tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{nonsense")
    assert_one_sentence(aecli("denoise photo.png --weights nothing"), 1, "nothing")
    assert_one_sentence(aecli("denoise photo.png --weights damaged.safetensors"), 1, "damaged.safetensors")
    assert_one_sentence(aecli("denoise photo.png --weights {tiny-codec}"), 2, "tiny-codec", "compress")
    assert_one_sentence(aecli("encode photo.png --weights {tiny-denoiser}"), 2, "tiny-denoiser", "denoise")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.safetensors", "photo.png"]


def test_trees_lists_and_null_separated_names(aecli, photo, tmp_path):
    tree = tmp_path / "in" / "deep"
    tree.mkdir(parents=True)
    for name in ("a b.png", "ü.png", "new\nline.png"):
        (tree / name).write_bytes(photo.read_bytes())
    names = "\0".join(str(path) for path in sorted(tree.iterdir()))

    assert aecli("encode in -r -o out --weights {tiny-codec}").exit_code == 0
    assert aecli("encode --files-from - -0 -o flat --weights {tiny-codec}", stdin=names).exit_code == 0

    expected = ["a b.npz", "new\nline.npz", "ü.npz"]
    assert sorted(path.name for path in (tmp_path / "out" / "deep").iterdir()) == expected
    assert sorted(path.name for path in (tmp_path / "flat").iterdir()) == expected


def test_a_list_keeps_the_tree(aecli, photo, tmp_path):
    for folder in ("scans/x", "scans/y/z"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(photo.read_bytes())
    names = f"scans/x/a.png\n./scans/y/z/a.png\n{tmp_path}/scans/y/z/a.png\n"
    assert aecli("denoise --files-from - -o out --weights {tiny-denoiser}", stdin=names).exit_code == 0
    made = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert made == ["x/a.png", "y/z/a.png"]


def test_several_results_do_not_make_a_folder_that_is_called_as_a_file(aecli, photo, tmp_path):
    (tmp_path / "b.png").write_bytes(photo.read_bytes())
    for line in ("denoise photo.png b.png -o x.png", "denoise . -o x.JPG", "encode photo.png b.png -o x.npz"):
        assert_one_sentence(aecli(line), 2, "is the name of a file, but the results need a folder")
    assert not list(tmp_path.glob("x.*"))
    assert aecli("denoise photo.png b.png -o x.png/ --weights {tiny-denoiser}").exit_code == 0
    assert len(list((tmp_path / "x.png").iterdir())) == 2


def test_json_is_one_object_a_file_on_stdout(aecli, photo, tmp_path):
    (tmp_path / "bad.png").write_text("no")
    result = aecli("denoise photo.png bad.png -o out --json --sigma 10 --weights {tiny-denoiser}")
    done, failed = (json.loads(line) for line in result.stdout.splitlines())
    assert done["status"] == "done" and done["sigma"] == 10 and done["sigma_estimated"] is False
    assert failed["status"] == "failed" and "bad.png" in failed["message"]


def test_a_table_at_the_end_counts_the_files_and_repeats_what_failed(aecli, photo, tmp_path):
    for name in ("bad.png", "worse.png"):
        (tmp_path / name).write_text("no")
    result = aecli("encode photo.png bad.png worse.png -o out --weights {tiny-codec}")
    assert (result.exit_code, result.stdout) == (1, "")
    _, failures = result.stderr.rsplit("  failed  ", 1)
    assert re.search(r"\n +3 +1 +0 +2 +\d+\.\d\d +\d+\.\d\d +\d+\.\d ", result.stderr)
    assert failures.count("bad.png is not a picture") == failures.count("worse.png is not a picture") == 1
    alone = aecli("encode photo.png -o alone.npz --weights {tiny-codec}")
    assert " files/s " not in alone.stderr


def test_quiet_prints_errors_only(aecli, photo):
    assert aecli("denoise photo.png --quiet --weights {tiny-denoiser}").output == ""
    assert "missing.png" in aecli("denoise missing.png --quiet --weights {tiny-denoiser}").stderr


def test_verbose_shows_where_an_error_arose(aecli):
    assert "Traceback" in aecli("denoise missing.png --verbose --weights {tiny-denoiser}").output


# --------------------------------------------------------------------------------------------------------------- denoise


def test_sigma_and_strength_zero_give_the_input_back(aecli, photo):
    for option in ("--sigma 0", "--strength 0"):
        assert aecli(f"denoise photo.png {option} --overwrite --weights {{tiny-denoiser}}").exit_code == 0
        np.testing.assert_array_equal(opened(photo), opened(photo.with_name("photo.denoised.png")))


def test_16_bit_colour_is_denoised_at_its_depth_and_comes_back_bit_for_bit_at_strength_zero(aecli, tmp_path):
    deep = from_array(np.random.default_rng(0).integers(20_000, 40_000, (24, 32, 4), dtype=np.uint16))
    for suffix, format in ((".png", "PNG"), (".tif", "TIFF")):
        with (tmp_path / f"deep{suffix}").open("wb") as stream:
            write_picture(deep, stream, format)
        for option in ("--sigma 0", "--strength 0", "--sigma 25"):
            result = aecli(f"denoise deep{suffix} {option} --overwrite --json --weights {{tiny-denoiser}}")
            assert json.loads(result.stdout)["notes"] == []
            again = read_picture(tmp_path / f"deep.denoised{suffix}")
            assert again.pixels.dtype == np.uint16
            np.testing.assert_array_equal(again.alpha, deep.alpha)
            assert (again.pixels == deep.pixels).all() == ("25" not in option)
        encoded = aecli(f"encode deep{suffix} --overwrite --weights {{tiny-codec}}")
        assert "16 bits a channel were rounded to 8" in encoded.output


@pytest.mark.parametrize("options", ["--sigma -1", "--sigma 300", "--strength 3", "--sigma nan"])
def test_options_out_of_range_are_wrong_usage(aecli, photo, options):
    assert_one_sentence(aecli(f"denoise photo.png {options} --weights {{tiny-denoiser}}"), 2, options.split()[0])


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGB", "RGBA"])
def test_a_page_in_black_and_white_is_left_as_it_is_and_said(aecli, tmp_path, mode):
    page = Image.new("1", (90, 70), 1)
    page.paste(0, (10, 10, 40, 12))
    page.convert(mode).save(tmp_path / "fax.png")
    result = aecli("denoise fax.png --json --weights {tiny-denoiser}")
    told = json.loads(result.stdout)
    assert (told["sigma"], told["unlike_training_data"]) == (0, True)
    assert told["notes"] == ["left as it is, as it has only 2 colours: pass --sigma to denoise it"]
    np.testing.assert_array_equal(opened(tmp_path / "fax.denoised.png").convert("RGB"), page.convert("RGB"))
    assert "2 colours" in aecli("denoise fax.png --overwrite --weights {tiny-denoiser}").stderr


def test_a_photograph_is_not_unlike_the_training_data(aecli, photo):
    assert json.loads(aecli("denoise photo.png --json --weights {tiny-denoiser}").stdout)["unlike_training_data"] is False


def test_sigma_that_is_no_number_is_wrong_usage(aecli, photo):
    assert aecli("denoise photo.png --sigma much").exit_code == 2


def test_reference_prints_scores_before_and_after(aecli, photo, tmp_path):
    noisy = np.clip(np.asarray(opened(photo)) + np.random.default_rng(0).normal(0, 20, (48, 64, 3)), 0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / "noisy.png")
    result = aecli("denoise noisy.png --reference photo.png --json --weights {tiny-denoiser}")
    scores = json.loads(result.stdout)
    assert scores["before"]["psnr"] == pytest.approx(22.1, abs=1)
    assert set(scores["after"]) == {"psnr", "ssim"}


def test_reference_of_another_size_is_one_sentence(aecli, photo, tmp_path):
    Image.new("RGB", (10, 10)).save(tmp_path / "other.png")
    assert_one_sentence(aecli("denoise photo.png --reference other.png --weights {tiny-denoiser}"), 1, "10×10")
    assert not (tmp_path / "photo.denoised.png").exists()


def test_denoise_in_a_pipe(aecli, photo):
    result = aecli("denoise - --weights {tiny-denoiser}", stdin=photo.read_bytes())
    picture = opened(io.BytesIO(result.stdout_bytes))
    assert (picture.format, picture.size) == ("PNG", (64, 48))


@pytest.mark.parametrize("command", ["denoise photo.png --sigma 5 -w {tiny-denoiser}", "decode photo.npz -w {tiny-codec}"])
def test_the_format_can_be_asked_for(aecli, photo, tmp_path, command):
    aecli("encode photo.png -w {tiny-codec}")
    ending = "denoised" if "denoise" in command else "decoded"
    for name, format in (("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF"), ("tif", "TIFF")):
        assert aecli(f"{command} --format {name}").exit_code == 0
        assert opened(tmp_path / f"photo.{ending}.{name}").format == format
    assert aecli(f"{command} --format webp -o nameless").exit_code == 0
    assert opened(tmp_path / "nameless").format == "WEBP"
    piped = aecli(f"{command} --format webp --output-quality 40 -o -").stdout_bytes
    assert abs(read_picture(piped).lossy.quality - 40) <= 3
    assert_one_sentence(aecli(f"{command} --format gif"), 2, "--format gif is not known: give one of png, jpg, webp, avif, tif")
    assert_one_sentence(aecli(f"{command} --format tif --output-quality 3"), 2, "--output-quality is of no use")
    assert_one_sentence(aecli(f"{command} --format jpg -o a.png"), 2, "a.png is no name for --format jpg")
    assert "PNG loses nothing, whatever --output-quality says" in aecli(f"{command} -o b.png --output-quality 3").stderr


def test_a_result_is_compressed_about_as_hard_as_its_input_unless_told_otherwise(aecli, photo, tmp_path):
    for name, options in {"a.jpg": {"quality": 70}, "b.webp": {"quality": 70}, "c.webp": {"lossless": True}}.items():
        opened(photo).save(tmp_path / name, **options)
    inputs = {name: read_picture(tmp_path / name).lossy for name in ("a.jpg", "b.webp")}
    assert aecli("denoise a.jpg b.webp c.webp --strength 0 -o same/ -w {tiny-denoiser}").exit_code == 0
    assert read_picture(tmp_path / "same/a.jpg").lossy == inputs["a.jpg"]
    assert abs(read_picture(tmp_path / "same/b.webp").lossy.quality - inputs["b.webp"].quality) <= 3
    np.testing.assert_array_equal(opened("same/c.webp"), opened(photo))
    assert aecli("denoise a.jpg b.webp c.webp --strength 0 -o told/ --output-quality 92 -w {tiny-denoiser}").exit_code == 0
    assert [read_picture(tmp_path / f"told/{name}").lossy.quality for name in ("a.jpg", "b.webp", "c.webp")] == pytest.approx(
        [92, 92, 92], abs=3
    )
    assert aecli("denoise a.jpg --strength 0 --format webp -w {tiny-denoiser}").exit_code == 0
    assert abs(read_picture(tmp_path / "a.denoised.webp").lossy.quality - 70) <= 6


def glass(photo):
    """The photograph, half of it transparent."""
    image = opened(photo).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def test_a_picture_that_its_name_cannot_hold_fails_before_the_network_runs_where_the_name_was_given(aecli, photo, monkeypatch):
    glass(photo).save(photo.with_name("glass.webp"))
    aecli("encode glass.webp -w {tiny-codec}")
    monkeypatch.setattr("aecli.models.denoiser.Denoiser.forward", None)
    monkeypatch.setattr("aecli.compression.StreamCoder.decode", None)
    transparency = "cannot hold the transparency of glass"
    assert_one_sentence(
        aecli("denoise glass.webp --sigma 5 -o a.jpg -w {tiny-denoiser}"), 1, f"JPEG {transparency}.webp: choose .png"
    )
    assert_one_sentence(aecli("decode glass.npz -o a.bmp -w {tiny-codec}"), 1, f"BMP {transparency}.npz: choose .png")
    piped = aecli("denoise glass.webp --sigma 5 --format jpg -o - -w {tiny-denoiser}")
    assert_one_sentence(piped, 1, f"JPEG {transparency}.webp: choose .png")
    Image.new("RGB", (16384, 1)).save(photo.with_name("wide.png"))
    line = "denoise wide.png --sigma 5 -o wide.webp -w {tiny-denoiser}"
    assert_one_sentence(aecli(line), 1, "wide.png (16384 x 1 pixels) cannot be written as WEBP", "choose .png")


def test_a_picture_that_its_name_cannot_hold_becomes_a_png_where_the_name_was_ours(aecli, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):  # which hold WebP all the same
        glass(photo).save(folder / name, "WEBP", lossless=True)
    opened(photo).save(folder / "b.png")
    done = aecli("denoise in --sigma 5 -o out --json -w {tiny-denoiser}")
    assert done.exit_code == 0
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [values["output"] for values in told] == ["out/a.png", "out/b.jpg.png", "out/b.png"]
    assert told[0]["notes"] == ["written as PNG, as JPEG cannot hold the transparency of the picture"] and told[2]["notes"] == []
    assert opened("out/a.png").mode == opened("out/b.jpg.png").mode == "RGBA"
    again = aecli("denoise in --sigma 5 -o out --skip-existing --json -w {tiny-denoiser}")
    assert [json.loads(line)["status"] for line in again.stdout.splitlines()] == ["skipped"] * 3
    assert aecli("encode in -o codes -w {tiny-codec}").exit_code == 0
    assert aecli("decode codes -o back --format jpg -w {tiny-codec}").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["a.png", "b.jpg.png", "b.png.jpg"]
    piped = aecli("denoise - --sigma 5 -w {tiny-denoiser}", stdin=encoded_bmp(glass(photo)))
    assert opened(io.BytesIO(piped.stdout_bytes)).format == "PNG" and "as BMP cannot hold the transparency" in piped.stderr


def encoded_bmp(image):
    """32 bits a pixel, with a header that says where alpha is, which Pillow reads but does not write."""
    header = struct.pack("<IiiHHIIiiII5I", 56, *image.size, 1, 32, 3, 0, 0, 0, 0, 0, 0xFF, 0xFF00, 0xFF0000, 0xFF000000, 0)
    pixels = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes()
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


def test_equal_names_and_unread_kinds_do_not_end_a_folder(aecli, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "a.gif"):
        opened(photo).save(folder / name)
    for name in ("b.HEIC", "c.dng"):
        (folder / name).write_bytes(b"something")
    done = aecli("denoise in --sigma 5 -w {tiny-denoiser}")
    assert done.exit_code == 0
    assert {path.name for path in folder.glob("*.denoised.*")} == {"a.denoised.png", "a.gif.denoised.png"}
    assert "; named apart from the result of a.png" in done.stderr
    assert "in/b.HEIC skipped: HEIC is not read: convert it" in done.stderr
    assert "in/c.dng skipped: a camera's raw file is not read: develop it" in done.stderr
    assert re.search(r"\n +4 +2 +2 +0 ", done.stderr)
    encoded = aecli("encode in -o codes --json -w {tiny-codec}")
    assert [json.loads(line)["status"] for line in encoded.stdout.splitlines()].count("skipped") == 2
    assert {"a.png.npz", "a.gif.npz"} <= {path.name for path in (tmp_path / "codes").iterdir()}


@pytest.mark.parametrize("name", ["-x.png", "-r.png", "--sigma.png", "-o.png"])
def test_a_name_that_begins_with_a_dash_is_explained(aecli, photo, name):
    photo.rename(photo.with_name(name))
    line = f"denoise {name} --sigma 5 -w {{tiny-denoiser}}"
    if name != "-o.png":  # which means --output .png
        assert_one_sentence(aecli(line), 2, f"{name} is taken for an option: write ./{name}, or -- before the names of files")
    assert aecli(f"denoise --sigma 5 -w {{tiny-denoiser}} -- {name}").exit_code == 0
    assert aecli(f"denoise ./{name} -o ./-y.png --sigma 5 -w {{tiny-denoiser}}").exit_code == 0
    assert "No such option" in aecli("denoise -z.png").stderr


def test_results_go_into_standard_output_and_pipes_by_name(aecli, photo, tmp_path):
    piped = aecli("denoise photo.png --sigma 5 -o /dev/stdout -w {tiny-denoiser}").stdout_bytes
    assert opened(io.BytesIO(piped)).format == "PNG"
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as reader:
        for line in ("denoise photo.png --sigma 5 -o pipe -w {tiny-denoiser}", "encode photo.png -o pipe -w {tiny-codec}"):
            received = reader.submit((tmp_path / "pipe").read_bytes)
            assert aecli(line).exit_code == 0
            assert received.result()[:4] == (b"\x89PNG" if "denoise" in line else b"PK\3\4")


def test_a_feature_autoencoder_denoises_in_patches(aecli, photo):
    assert aecli("denoise photo.png --weights {tiny-dense-denoiser}").exit_code == 0
    assert opened(photo.with_name("photo.denoised.png")).size == (64, 48)
    assert_one_sentence(aecli("denoise photo.png --overwrite --sigma 5 --weights {tiny-dense-denoiser}"), 2, "leave --sigma out")


def test_a_denoiser_of_digits_says_that_a_colour_photograph_is_none(aecli, photo_folder, tmp_path):
    digit = load_dataset("mnist").test.images[0, 0]
    noisy = digit.numpy() / 255 + np.random.default_rng(0).normal(0, 0.5, (28, 28))
    Image.fromarray((noisy.clip(0, 1) * 255).astype(np.uint8)).save(tmp_path / "digit.png")
    done = aecli("denoise photos/arches.png digit.png --weights mnist-denoise --json")
    assert done.exit_code == 0
    photograph, known = (json.loads(line) for line in done.stdout.splitlines())
    assert photograph["unlike_training_data"]
    assert "unlike what mnist-denoise was trained on" in photograph["notes"][-1]
    assert "pass other --weights" in photograph["notes"][-1]
    assert (known["unlike_training_data"], known["notes"]) == (False, [])


def test_a_picture_too_small_for_the_model(aecli, tmp_path):
    Image.new("L", (5, 5)).save(tmp_path / "small.png")
    assert_one_sentence(aecli("denoise small.png --weights {tiny-dense-denoiser}"), 1, "5×5", "too small", "8×8")
    assert_one_sentence(aecli("encode small.png --weights {tiny-dense}"), 1, "5×5", "too small", "8×8")


# ------------------------------------------------------------------------------------------------------ encode and decode


@pytest.mark.parametrize("weights", ["{tiny-codec}", "{tiny-dense}"])
def test_there_and_back_again_twice_the_same(aecli, photo, weights):
    for name in ("a", "b"):
        assert aecli(f"encode photo.png -o {name}.npz --weights {weights}").exit_code == 0
        assert aecli(f"decode {name}.npz -o {name}.png --weights {weights}").exit_code == 0
    folder = photo.parent
    assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    assert opened(folder / "a.png").size == (64, 48)


@pytest.mark.parametrize(
    ("command", "suffix"), [("encode --weights {tiny-dense}", ".npz"), ("denoise --weights {tiny-dense-denoiser}", ".png")]
)
def test_a_folder_of_small_pictures_gives_the_very_files_that_each_gives_alone(aecli, photograph, tmp_path, command, suffix):
    (tmp_path / "digits").mkdir()
    for number in range(20):
        place = slice(4 * number, 4 * number + 8)
        Image.fromarray(photograph.pixels[place, place, 0]).save(tmp_path / f"digits/{number:02}.png")
    assert aecli(f"{command} digits -o together").exit_code == 0
    files = sorted((tmp_path / "together").iterdir())
    assert [path.name for path in files] == [f"{number:02}{suffix}" for number in range(20)]
    for path in files:
        assert aecli(f"{command} digits/{path.stem}.png -o alone/{path.name}").exit_code == 0
        assert path.read_bytes() == (tmp_path / "alone" / path.name).read_bytes()


def test_a_folder_of_small_files_decodes_to_the_very_pictures_that_each_gives_alone_but_for_a_damaged_one(
    aecli, photograph, tmp_path
):
    (tmp_path / "digits").mkdir()
    for number in range(12):
        place = slice(4 * number, 4 * number + 8)
        Image.fromarray(photograph.pixels[place, place, 0]).save(tmp_path / f"digits/{number:02}.png")
    assert aecli("encode digits -o codes --weights {tiny-dense}").exit_code == 0
    damaged = tmp_path / "codes/05.npz"
    damaged.write_bytes(with_latents(damaged.read_bytes(), np.zeros((3, 3), dtype=np.int8)))  # others' size, but not their codes
    result = aecli("decode codes -o together --weights {tiny-dense}")
    assert result.exit_code == 1
    assert "05.npz is damaged (its latents do not fit its size): encode the picture again" in result.stderr
    files = sorted((tmp_path / "together").iterdir())
    assert [path.name for path in files] == [f"{number:02}.png" for number in range(12) if number != 5]
    for path in files:
        assert aecli(f"decode codes/{path.stem}.npz -o alone/{path.name} --weights {{tiny-dense}}").exit_code == 0
        assert path.read_bytes() == (tmp_path / "alone" / path.name).read_bytes()


def with_latents(data, latents):
    """The same .npz with another table of codes."""
    header, arrays = read_container(data, "a")
    return write_container(header, {**arrays, "latents": latents})


def test_encode_reports_the_bytes_of_the_file(aecli, photo):
    result = json.loads(aecli("encode photo.png --score --json --weights {tiny-codec}").stdout)
    size = photo.with_name("photo.npz").stat().st_size
    assert result["bytes"] == size
    assert result["bits_per_pixel"] == pytest.approx(8 * size / (64 * 48), abs=1e-4)
    assert result["ratio"] == pytest.approx(photo.stat().st_size / size, abs=1e-3)
    assert result["psnr"] > 0


def test_encode_says_that_a_file_is_larger_than_its_input_and_can_skip_it(aecli, photo, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "black.png")
    done = aecli("encode black.png photo.png -o out -w {tiny-codec}")
    sizes = {path.stem: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    times = sizes["black"] / (tmp_path / "black.png").stat().st_size
    assert times > 2 and sizes["photo"] < photo.stat().st_size
    assert f"{times:.1f} times as large as the input" in done.stderr and "1/0." not in done.stderr
    assert f"1/{photo.stat().st_size / sizes['photo']:.1f} of the input" in done.stderr
    line = "encode black.png photo.png -o again --skip-larger --json -w {tiny-codec}"
    skipped, told = map(json.loads, aecli(line).stdout.splitlines())
    assert (skipped["status"], told["status"]) == ("skipped", "done")
    assert skipped["message"] == f"the .npz would be {times:.1f} times as large as the input, which is kept"
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["photo.npz"]


def test_encode_of_several_files_ends_with_the_total(aecli, photo, tmp_path):
    (tmp_path / "b.png").write_bytes(photo.read_bytes())
    done = aecli("encode photo.png b.png -o out --weights {tiny-codec}")
    sizes = [2 * photo.stat().st_size, sum(path.stat().st_size for path in (tmp_path / "out").iterdir())]
    assert f"{sizes[0] / 1e6:,.2f} MB → {sizes[1] / 1e6:,.2f} MB ({sizes[1] / sizes[0]:.1%})" in done.stderr


def test_max_bytes_below_what_the_metadata_takes_names_strip(aecli, photo):
    with Image.open(photo) as image:
        exif = Image.Exif()
        exif[0x927C] = np.random.default_rng(0).bytes(3000)
        image.save(photo, exif=exif)
    said = aecli("encode photo.png --max-bytes 2k")
    takes = "metadata (EXIF, colour profile, texts) takes 3,"
    assert_one_sentence(said, 1, "no quality comes to 2,000 bytes", takes, "pass --strip")
    smallest = int(re.search(r"the smallest file has (\d+)\n", said.stderr)[1])
    assert json.loads(aecli("encode photo.png -q 0 --strip --json -o a.npz").stdout)["bytes"] == smallest
    assert "pass --strip" in aecli("encode photo.png --bpp 5").stderr
    assert aecli("encode photo.png --max-bytes 2k --strip").exit_code == 0
    assert_one_sentence(aecli("encode photo.png --max-bytes 100 --overwrite"), 1, "pass --strip, and the smallest file has")
    assert "--strip" not in aecli("encode photo.png --max-bytes 100 --strip --overwrite").stderr


@pytest.mark.parametrize("option", ["--max-bytes 0.0007M", "--max-bytes .7k", "--max-bytes 700"])
def test_encode_finds_the_quality_that_fits(aecli, photo, option):
    low, high = (json.loads(aecli(f"encode photo.png -q {q} --overwrite --json").stdout)["bytes"] for q in (0, 100))
    assert low < 700 < high
    line = json.loads(aecli(f"encode photo.png {option} --overwrite --json").stdout)
    assert 0.95 * 700 <= line["bytes"] <= 700
    assert 0 < line["quality"] < 100
    assert f"quality {line['quality']:g}" in aecli(f"encode photo.png {option} --overwrite").stderr


def test_encode_with_effort_takes_fewer_bytes_for_the_same_quality(aecli, photo):
    line = "encode photo.png --effort {} --overwrite --score --json --precision fp32"
    plain, refined = (json.loads(aecli(line.replace("{}", n)).stdout) for n in ("0", "8"))
    gain = refined["psnr"] - plain["psnr"]
    assert refined["bytes"] < 0.99 * plain["bytes"] * 2 ** (gain / 3)  # 3 dB cost about twice the bytes
    assert aecli("decode photo.npz").exit_code == 0
    assert_one_sentence(aecli("encode photo.png --effort -1 --overwrite"), 2, "--effort -1 is below zero")
    assert_one_sentence(aecli("encode photo.png --effort 1 --overwrite --weights {tiny-dense}"), 2, "have no use for --effort")


def test_encode_refuses_two_sizes_and_says_what_can_be_had(aecli, photo):
    assert_one_sentence(aecli("encode photo.png -q 50 --bpp 1"), 2, "give one of --quality, --bpp, --psnr and --max-bytes")
    assert_one_sentence(aecli("encode photo.png --max-bytes 3x"), 2, "--max-bytes 3x is not a number of bytes")
    assert_one_sentence(aecli("encode photo.png --psnr -3"), 2, "--psnr -3 is out of range")
    assert_one_sentence(aecli("encode photo.png --psnr 90"), 1, "photo.png: no quality comes to 90 dB", "they reach from")
    assert_one_sentence(
        aecli("encode photo.png --weights {tiny-dense} --bpp 1"),
        2,
        "have one quality only: leave --quality, --bpp, --psnr and --max-bytes out",
    )


def test_encode_strips_what_is_not_the_picture(aecli, photo):
    with Image.open(photo) as image:
        exif = Image.Exif()
        exif[0x010E] = "where it was taken"
        image.save(photo, exif=exif, dpi=(300, 300))
    for option, kept in (("", True), ("--strip", False)):
        aecli(f"encode photo.png {option} --overwrite")
        aecli("decode photo.npz -o back.png --overwrite")
        assert ("exif" in opened("back.png").info) is kept
        assert ("dpi" in opened("back.png").info) is kept


@pytest.mark.parametrize(("suffix", "format"), [(".mpo", "MPO"), (".jfif", "JPEG"), (".dib", "DIB"), (".j2k", "JPEG2000")])
def test_denoise_keeps_the_container_in_a_pipe_and_beside_the_input(aecli, photo, suffix, format):
    more = {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]} if format == "MPO" else {}
    source = photo.with_suffix(suffix)
    opened(photo).save(source, format, **more, **({"no_jp2": True} if suffix == ".j2k" else {}))
    aecli(f"denoise {source.name} --weights {{tiny-denoiser}}")
    beside = source.with_name(f"photo.denoised{suffix}").read_bytes()
    piped = aecli("denoise - --weights {tiny-denoiser}", stdin=source.read_bytes()).stdout_bytes
    assert piped[:4] == beside[:4] == source.read_bytes()[:4]


def test_encode_and_decode_in_a_pipe(aecli, photo):
    encoded = aecli("encode - --weights {tiny-codec}", stdin=photo.read_bytes()).stdout_bytes
    decoded = aecli("decode - --weights {tiny-codec}", stdin=encoded).stdout_bytes
    assert opened(io.BytesIO(decoded)).size == (64, 48)


def test_decode_writes_the_format_of_the_name(aecli, photo):
    aecli("encode photo.png --weights {tiny-codec}")
    assert aecli("decode photo.npz -o photo.jpg --weights {tiny-codec}").exit_code == 0
    assert opened(photo.with_name("photo.jpg")).format == "JPEG"


def test_decode_stands_beside_by_default(aecli, photo):
    aecli("encode photo.png --weights {tiny-codec}")
    assert aecli("decode photo.npz --weights {tiny-codec}").exit_code == 0
    assert photo.with_name("photo.decoded.png").exists()


def test_info_tells_without_decoding(aecli, photo):
    aecli("encode photo.png -q 30 --weights {tiny-codec}")
    result = aecli("decode --info photo.npz")
    assert result.exit_code == 0
    assert "64×48 RGB" in result.stdout and "quality 30" in result.stdout and "tiny-codec" in result.stdout
    assert json.loads(aecli("decode --info photo.npz --json").stdout)["width"] == 64


def test_quality_out_of_range_is_wrong_usage(aecli, photo):
    assert_one_sentence(aecli("encode photo.png -q 101 --weights {tiny-codec}"), 2, "--quality")


def test_files_made_with_other_weights_or_damaged(aecli, photo, tmp_path):
    aecli("encode photo.png --weights {tiny-codec}")
    data = photo.with_name("photo.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:-40])
    (tmp_path / "text.npz").write_text("nothing")
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    assert_one_sentence(aecli("decode photo.npz"), 1, "photo.npz", "tiny-codec", "--weights")
    assert_one_sentence(aecli("decode photo.npz --weights {tiny-dense}"), 1, "photo.npz", "tiny-codec")
    for name in ("cut.npz", "text.npz", "foreign.npz"):
        assert_one_sentence(aecli(f"decode {name} --weights {{tiny-codec}}"), 1, name)
    assert not list(tmp_path.glob("*.decoded.png"))


# ----------------------------------------------------------------------------------- what would be lost, or left unread


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("denoise noisy.png -o photo.png --reference photo.png --overwrite", ["photo.png is used besides"]),
        ("denoise noisy.png -o w.safetensors --weights w.safetensors --overwrite", ["w.safetensors is used besides"]),
        ("denoise noisy.png -o r.html --report r.html --overwrite", ["r.html is used besides"]),
        ("denoise page.html -o out.png --report page.html --overwrite", ["--report page.html is an input"]),
        ("denoise noisy.png -o out.png --report folder.html --overwrite", ["folder.html is a folder"]),
        ("denoise noisy.png -o out.gif", ["the suffix .gif, which cannot be written"]),
        ("encode noisy.png -o photo.png --overwrite", ["photo.png: compressed pictures must end in .npz", ".npz"]),
        ("decode photo.npz -o out.gif", ["the suffix .gif, which cannot be written"]),
        ("anomalies noisy.png -o noisy.png --overwrite", ["--output noisy.png is an input"]),
        ("denoise noisy.png -o out.png --reference nowhere.png", ["--reference: nowhere.png does not exist"]),
        ("denoise noisy.png -o", ["--output is empty"]),
        ("encode", ["one of the names is empty"]),
        ("denoise file:///a%00b.png -o out.png", ["has a NUL in it"]),
        ("decode photo.npz --info -o out.png", ["--info writes nothing"]),
        ("decode photo.npz --info --engine ray", ["--info writes nothing"]),
    ],
)
def test_files_in_use_and_impossible_names_are_refused_before_any_work(aecli, photo, tmp_path, line, words):
    for name in ("noisy.png", "page.html"):
        photo.with_name(name).write_bytes(photo.read_bytes())
    for name in ("photo.npz", "w.safetensors", "r.html"):
        (tmp_path / name).write_text("precious")
    (tmp_path / "folder.html").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    line = f"{line} {{}}" if line.endswith(("-o", "encode")) else line
    assert_one_sentence(aecli(line), 2, *words)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_what_is_left_out_as_an_earlier_result_is_counted(aecli, photo, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.png").write_bytes(photo.read_bytes())
    done = aecli("denoise . -r -o out --skip-existing --weights {tiny-denoiser}")
    assert done.exit_code == 0
    assert "skipped 1 earlier result" in done.stderr


def test_results_beside_their_sources_are_left_out_wherever_the_next_ones_go(aecli, photo, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.denoised.png", "a.decoded.png", "a.png.denoised.png", "only.denoised.png"):
        (tmp_path / "in" / name).write_bytes(photo.read_bytes())
    for line in ("denoise in -o cc --weights {tiny-denoiser}", "encode in -o dd --weights {tiny-codec}"):
        done = aecli(line)
        assert done.exit_code == 0
        assert "skipped 3 earlier results (*.decoded.*, *.denoised.*)" in done.stderr
    assert sorted(path.name for path in (tmp_path / "cc").iterdir()) == ["a.png", "only.denoised.png"]
    (tmp_path / "dd" / "a.denoised.npz").write_bytes((tmp_path / "dd" / "a.npz").read_bytes())
    assert aecli("decode dd -o back --weights {tiny-codec}").exit_code == 0
    assert len(list((tmp_path / "back").iterdir())) == 3  # what was encoded is to be had again
    assert aecli("denoise in/a.denoised.png -o twice.png --weights {tiny-denoiser}").exit_code == 0


def test_a_report_says_what_made_it_and_where_it_shows_a_part(aecli, photo, tmp_path, monkeypatch):
    Image.fromarray(np.zeros((8, 700), np.uint8)).save(tmp_path / "wide.png")
    monkeypatch.setattr("sys.argv", ["aecli", "encode", "photo.png", "s3://key:secret@bucket/x.png", "--output=memory://u:pw@x/"])
    assert aecli("encode photo.png wide.png -o out --report page.html --weights {tiny-codec}").exit_code == 0
    page = (tmp_path / "page.html").read_text()
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert data["origin"].startswith("aecli encode photo.png ")
    assert " · aecli 0." in data["origin"]
    assert "secret" not in page and "pw" not in data["origin"]
    whole, part = (dict(row["figures"]) for row in data["rows"])
    assert "shown" not in whole and part["shown"] == "the middle, at most 640 × 480 pixels"
    assert whole["size"] == "64 × 48 pixels" and whole["time"].endswith(" s")
    assert "" not in whole


def test_subfolders_that_are_not_walked_are_counted(aecli, photo, tmp_path):
    for name in ("one", "two", ".hidden"):
        (tmp_path / name).mkdir()
    done = aecli("denoise . -o out --weights {tiny-denoiser}")
    assert done.exit_code == 0
    assert "2 subfolders left out (" in done.stderr
    assert "--recursive" in done.stderr
    assert "subfolder" not in aecli("denoise . -r -o again --weights {tiny-denoiser}").stderr


def test_info_tells_of_every_file_and_takes_standard_input(aecli, photo, tmp_path):
    aecli("encode photo.png --weights {tiny-codec}")
    (tmp_path / "bad.npz").write_text("bad")
    done = aecli("decode --info --json bad.npz photo.npz")
    assert done.exit_code == 1
    failed, told = map(json.loads, done.stdout.splitlines())
    assert (failed["input"], failed["status"]) == ("bad.npz", "failed")
    assert failed["message"].startswith("bad.npz is damaged")
    assert (told["input"], told["status"], told["width"]) == ("photo.npz", "done", 64)
    piped = aecli("decode - --info --json", stdin=(tmp_path / "photo.npz").read_bytes())
    assert json.loads(piped.stdout) == {**told, "input": "standard input"}


def test_a_picture_too_small_to_be_judged_is_not_taken_for_a_familiar_one(aecli, photo):
    done = aecli("encode photo.png --fail-on-anomaly --json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["unlike_training_data"] is None
    assert told["notes"] == ["too small to be compared with what photo-codec was trained on"]
    assert_one_sentence(aecli("encode photo.png --overwrite --fail-on-anomaly -w {tiny-dense}"), 2, "cannot tell what is unlike")


def test_weights_of_one_quality_take_no_other(aecli, photo):
    assert_one_sentence(aecli("encode photo.png --weights {tiny-dense} -q 90"), 2, "have one quality only: leave --quality")


# ----------------------------------------------------------------------------------------------------- train, compare-pca


def test_train_writes_weights_a_picture_and_scores(aecli, tmp_path):
    result = aecli("train --arch dense --steps 3 --latent-dim 5 -o dense.safetensors")
    assert result.exit_code == 0
    assert result.stdout == "dense.safetensors\n"
    assert "squared_error" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("next: aecli compare-pca --data mnist --weights ")
    assert load_weights(tmp_path / "dense.safetensors").card.config["latent_dim"] == 5
    assert opened(tmp_path / "dense.png").size[0] > 200


def test_train_with_noise_makes_a_denoiser(aecli, tmp_path):
    assert aecli("train --arch dense --steps 2 --noise gaussian:0.5 -o d.safetensors").exit_code == 0
    Image.new("L", (28, 28), 100).save(tmp_path / "digit.png")
    assert aecli("denoise digit.png --weights d.safetensors").exit_code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--arch nothing", ["nothing", "codec"]),
        ("--arch denoiser", ["--data FOLDER"]),
        ("--arch codec --data mnist", ["--data FOLDER"]),
        ("--arch dense --noise salt:1", ["gaussian:0.5"]),
        ("--arch dense --sparsity l1:0.1", ["--sparsity"]),
        ("--arch sparse --sparsity l3:0.1", ["l1:WEIGHT"]),
        ("--arch dense --steps 3 --minutes 1", ["one of"]),
        ("--arch dense --steps 0", ["positive"]),
        ("--arch dense --lr -1", ["positive"]),
        ("--arch dense --data nowhere", ["nowhere"]),
        ("--arch conv --data fashion-mnist --data-root nowhere", ["--data-root", "--download"]),
        ("--arch denoiser --data . --latent-dim 4", ["--latent-dim"]),
        ("--arch dense --steps 1 -o w.png", ["w.png", ".safetensors"]),
        ("--arch dense --steps 1 --lr 0", ["positive"]),
        ("--arch dense --steps 1 --lr 1e38", ["at most 1,000"]),
        ("--arch dense --epochs 0", ["positive"]),
        ("--arch dense --epochs=-3", ["positive"]),
        ("--arch dense --steps 1 --valid .", ["--valid is of use with a folder of pictures, and mnist is none"]),
        ("--arch dense --steps 1 --patch-size 8", ["--patch-size is of use with a folder"]),
        ("--arch dense --steps 1 --data . --data-root .", ["--data-root is of use with a data set, and . is none"]),
        ("--arch dense --steps 1 --data . --resize 8 --patch-size 8", ["--resize whole ones: give one"]),
    ],
)
def test_train_refuses_what_does_not_go_together(aecli, tmp_path, options, words):
    assert_one_sentence(aecli(f"train {options}"), 2, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train --arch dense --steps 1", "compare-pca", "project"])
@pytest.mark.parametrize("output", ["{}", ".", "/", ".."])
def test_a_folder_is_no_name_of_a_result(aecli, tmp_path, command, output):
    assert_one_sentence(aecli(f"{command} -o {output}"), 2, "is no name of a file: give one")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["w.safetensors", "w.png"])
def test_train_does_not_overwrite(aecli, tmp_path, name):
    (tmp_path / name).write_text("precious")
    assert_one_sentence(aecli("train --arch dense --steps 1 -o w.safetensors"), 2, name, "--overwrite")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "precious")]


def test_train_says_before_it_trains_that_it_cannot_write(aecli, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_sentence(aecli("train --arch dense --steps 1 -o file/w.safetensors"), 2, "file/w.safetensors", "--output")


def test_train_resume_without_a_checkpoint(aecli):
    assert_one_sentence(aecli("train --arch dense --steps 1 --resume"), 1, "checkpoint")


def test_train_goes_on_with_a_run_or_begins_it_anew_but_only_when_told(aecli, tmp_path):
    line = "train --arch dense --steps 2 --latent-dim 5 -o w.safetensors"
    (tmp_path / "w.checkpoint.pt").write_text("of a run")
    assert_one_sentence(aecli(line), 2, "w.checkpoint.pt", "--resume", "--restart")
    assert_one_sentence(aecli(f"{line} --resume"), 1, "w.checkpoint.pt is damaged", "--restart")
    assert (tmp_path / "w.checkpoint.pt").read_text() == "of a run"
    assert aecli(f"{line} --restart").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.png", "w.safetensors"]


def test_training_needs_no_folder_but_that_of_its_result(aecli, tmp_path):
    (tmp_path / "runs").write_text("a file")
    assert aecli("train --arch dense --steps 1 -o w.safetensors").exit_code == 0
    assert aecli("compare-pca --arch dense --dims 2 --epochs 0.01").exit_code == 0
    assert (tmp_path / "runs").read_text() == "a file"
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(
    ("command", "small"),
    [
        ("train --arch dense --steps 1 --data photos --patch-size 40 -o w.safetensors", True),
        ("compare-pca --data photos --patch-size 40 --arch dense --dims 2 --epochs 0.01", True),
        ("compare-pca --data photos --resize 8 --arch dense --dims 2 --epochs 1", False),
        ("project photos --epochs 0.01 --patch-size 40", True),
        ("project photos --epochs 0.01", False),
    ],
)
def test_pictures_of_no_use_for_training_are_left_out_and_named_once(aecli, photo_folder, monkeypatch, command, small):
    """Whichever would be held out: every one before the last is."""
    monkeypatch.setattr("aecli.training.data.FOLDER_SAMPLE", 100)
    for index in range(5):
        (photo_folder / f"{index}.png").write_bytes((photo_folder / "arches.png").read_bytes())
    (photo_folder / "b.png").write_bytes((photo_folder / "arches.png").read_bytes()[:900])
    (photo_folder / "y.png").write_text("notes")
    Image.new("RGB", (300, 9)).save(photo_folder / "z.png")
    result = aecli(f"{command} --threads 1")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("left out") == 1 + small
    assert "2 of 11 pictures left out, as they cannot be read: photos/b.png, photos/y.png\n" in result.stderr
    assert ("1 of 11 pictures left out, as they are smaller than 40×40: photos/z.png\n" in result.stderr) is small


def test_compare_pca_prints_a_table_and_writes_a_figure(aecli, tmp_path):
    result = aecli("compare-pca --arch dense --dims 2,4 --epochs 0.01 --json --threads 2")
    assert result.exit_code == 0
    two, four = json.loads(result.stdout)["rows"]
    assert (two["dim"], four["dim"]) == (2, 4)
    # Of all linear maps PCA's error is the smallest; the values are those of the official test set.
    assert two["pca_error"] == pytest.approx(43.6, abs=0.5) and four["pca_error"] < two["pca_error"]
    assert two["ratio"] == pytest.approx(two["error"] / two["pca_error"])
    assert 0.3 < two["pca_accuracy"] < 0.6
    assert opened(tmp_path / "compare-pca.png").size[0] > 1000


@pytest.mark.parametrize("dims", ["0", "1000", "a", ""])
def test_compare_pca_refuses_impossible_dims(aecli, dims):
    result = aecli(f"compare-pca --dims={dims}")
    assert_one_sentence(result, 2, "--dims")


def test_compare_pca_refuses_weights_for_other_pictures(aecli):
    assert_one_sentence(aecli("compare-pca --weights {tiny-dense}"), 2, "1×28×28")


@pytest.mark.parametrize("name", ["compare-pca-dense-4.safetensors", "compare-pca.csv"])
def test_compare_pca_looks_for_all_its_results_before_it_trains(aecli, tmp_path, name):
    (tmp_path / name).mkdir()
    line = "compare-pca --arch dense --dims 2,4 --epochs 0.01 --overwrite"
    assert_one_sentence(aecli(line), 2, f"{name} is a folder: pass another --output")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("option", ["--arch conv", "--dims 2", "--minutes 1", "--epochs 1"])
def test_compare_pca_does_not_train_what_is_trained(aecli, option):
    assert_one_sentence(aecli(f"compare-pca --weights mnist-2d {option}"), 2, "trained already: leave out --arch, --dims")


# ---------------------------------------------------------------------------------------------------------------- models


def test_models_lists_all_that_come_along(aecli):
    result = aecli("models")
    assert result.exit_code == 0
    names = {path.stem for path in shipped_weights()}
    assert names >= {"mnist-dense", "mnist-conv", "mnist-sparse", "mnist-denoise", "photo-denoise", "photo-codec"}
    for name in names:
        assert name in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    cards = [json.loads(line) for line in aecli("models --json").stdout.splitlines()]
    assert {card["name"] for card in cards} == names
    assert all(card["arch"] and card["bytes"] > 1000 for card in cards)


def test_short_options_and_plain_help(aecli, photo):
    assert aecli("-V").stdout == aecli("--version").stdout
    for command in (
        "denoise",
        "encode",
        "decode",
        "train",
        "compare-pca",
        "anomalies",
        "project",
        "traverse",
        "models",
        "models show",
    ):
        text = aecli(f"{command} --help").stdout
        assert "<bool>" not in text, command
        assert "-v" in text
    assert aecli("denoise photo.png -j 1 --weights {tiny-denoiser}").exit_code == 0
    assert aecli("denoise photo.png -f --jobs 1 --weights {tiny-denoiser}").exit_code == 0
    assert "Traceback" in aecli("decode missing.npz -v").stderr


def test_a_dry_run_tells_what_would_happen_and_writes_nothing(aecli, photo, tmp_path):
    (tmp_path / "b.png").write_bytes(photo.read_bytes())
    (tmp_path / "b.npz").write_text("precious")
    done = aecli("encode photo.png b.png gone.png -n --json")
    assert done.exit_code == 1
    status = {line["input"]: line["status"] for line in map(json.loads, done.stdout.splitlines())}
    assert status == {"photo.png": "planned", "b.png": "failed", "gone.png": "failed"}
    assert aecli("encode photo.png b.png --dry-run --skip-existing").stdout.splitlines() == [
        "photo.png → photo.npz",
        "b.png would be skipped: b.npz exists",
    ]
    assert aecli("encode . -nf").stdout.splitlines() == ["b.png → b.npz  (replaced)", "photo.png → photo.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.npz", "b.png", "photo.png"]
    assert_one_sentence(aecli("denoise . -n --watch"), 2, "--dry-run")


def test_models_show_prints_the_card(aecli):
    assert "conv" in aecli("models show mnist-conv").stdout
    assert json.loads(aecli("models show mnist-conv --json").stdout)["arch"] == "conv"
    assert_one_sentence(aecli("models show nothing"), 1, "nothing", "mnist-conv")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder(aecli, photo, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    assert_one_sentence(aecli("encode photo.png -o out/ --weights {tiny-codec}"), 1, "out")
