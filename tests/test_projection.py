"""Maps: every picture has its place, the page shows the right one under the mouse, and odd data make a map or a sentence."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, needs_browser
from conftest import saved, tiny_dense
from PIL import Image
from typer.testing import CliRunner, Result

from aecli import project_page
from aecli.cli import app
from aecli.errors import AecliError, UsageError
from aecli.plots import THUMBNAIL, class_colour, projection_figure
from aecli.project_page import projection_page, sprites, thumbnail_side
from aecli.projection import Projection, check_methods, in_unit_square, map_with
from aecli.training.arrays import Collection, folder_patches, thumbnails
from aecli.weights import load_weights

HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>.png"


def images(count: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------------- places


def test_two_dimensional_codes_are_the_map_and_longer_ones_are_reduced() -> None:
    x, two, four = images(), tiny_dense(latent_dim=2), tiny_dense(latent_dim=4, activation="linear")
    assert np.allclose(map_with(two, "two", x, [], 0)["two"], two.encode(x).numpy())
    reduced = map_with(four, "four", x, [], 0)["four, 4 dimensions reduced by PCA"]
    codes = four.encode(x).numpy()
    _, scales, _ = np.linalg.svd(codes - codes.mean(axis=0))
    assert np.allclose(np.linalg.norm(reduced, axis=0), scales[:2], rtol=1e-4)
    assert np.all(map_with(tiny_dense(latent_dim=1), "one", x, [], 0)["one"][:, 1] == 0)


def test_pca_and_tsne_stand_beside_it_and_a_seed_repeats_them() -> None:
    first, second = (map_with(tiny_dense(latent_dim=2), "two", images(), ["pca", "tsne"], 3) for _ in range(2))
    assert [*first] == ["two", "PCA", "t-SNE"]
    assert all(places.shape == (40, 2) for places in first.values())
    assert all(np.array_equal(first[title], second[title]) for title in first)


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_two_kinds_of_pictures_lie_apart(method: str) -> None:
    try:
        check_methods([method])
    except UsageError as error:
        pytest.skip(str(error))
    x = torch.cat([images(20) * 0.2, 1 - images(20, seed=1) * 0.2])
    *_, places = map_with(tiny_dense(latent_dim=2), "two", x, [method], 0).values()
    apart = np.linalg.norm(places[:20].mean(axis=0) - places[20:].mean(axis=0))
    assert apart > 3 * max(places[:20].std(axis=0).max(), places[20:].std(axis=0).max())


@pytest.mark.parametrize("x", [torch.full((5, 1, 8, 8), 0.5), images(3), images(2)], ids=["constant", "three", "two"])
def test_odd_sets_of_pictures_have_maps_too(x: torch.Tensor) -> None:
    for places in map_with(tiny_dense(latent_dim=2), "two", x, ["pca", "tsne"], 0).values():
        assert in_unit_square(places).shape == (len(x), 2)
        assert np.isfinite(in_unit_square(places)).all()


def test_what_makes_no_map_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AecliError, match=r"^a map takes 2 pictures or more and this is 1: add some"):
        map_with(tiny_dense(), "x", images(1), [], 0)
    broken = tiny_dense(latent_dim=2)
    broken.encoder.bias.fill_(torch.nan)
    with pytest.raises(AecliError, match=r"^x gives codes that are no finite numbers: train it again"):
        map_with(broken, "x", images(), [], 0)
    with pytest.raises(UsageError, match=r"^--with isomap is not known: give some of pca, umap, tsne"):
        check_methods(["pca", "isomap"])
    for absent in (None, ModuleSpec("umap", None)):  # not there at all, or as a folder that only has its name
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=absent: found)
        with pytest.raises(UsageError, match=r"^--with umap needs a library that is not installed: pip install umap-learn"):
            check_methods(["umap"])


def test_places_are_fitted_into_the_unit_square_with_their_proportions() -> None:
    square = in_unit_square(np.array([[0.0, 0.0], [4.0, 2.0], [2.0, 1.0]]))
    assert np.allclose(square, [[0, 0.25], [1, 0.75], [0.5, 0.5]])


# -------------------------------------------------------------------------------------------------------------- pictures


def test_a_collection_is_thinned_evenly_with_its_names_and_classes() -> None:
    whole = Collection("x", images(10), torch.arange(10), tuple("abcdefghij"), tuple("ABCDEFGHIJ"))
    thin = whole.at_most(4)
    assert thin.names == ("A", "D", "G", "J")
    assert thin.rows == [0, 3, 6, 9]
    assert thin.classes is not None
    assert thin.classes.tolist() == [0, 3, 6, 9]
    assert torch.equal(thin.unit_images(), whole.images[[0, 3, 6, 9]])


def test_patches_of_a_folder_are_where_their_names_say(photo_folder: Path) -> None:
    found = folder_patches(str(photo_folder), 32, 12, seed=0, tell=print)
    assert len(found.images) == len(set(found.names)) == 12
    for name, patch in zip(found.names, found.images, strict=True):
        file, left, top = re.fullmatch(r"(.*), (\d+) across, (\d+) down", name).groups()
        with Image.open(photo_folder / file) as whole:
            part = whole.convert("RGB").crop((int(left), int(top), int(left) + 32, int(top) + 32))
        assert np.array_equal(np.asarray(part), patch.permute(1, 2, 0))
    with pytest.raises(AecliError, match="is as large as 999×999: add larger ones, or reduce --patch-size"):
        folder_patches(str(photo_folder), 999, 12, seed=0, tell=print)


def test_thumbnails_are_those_of_the_names_and_the_more_the_smaller(photo_folder: Path) -> None:
    shown = thumbnails(str(photo_folder), ["skyline.png", "arches.png"], 16)
    assert torch.equal(shown[1], thumbnails(str(photo_folder), ["arches.png"], 16)[0])
    assert not torch.equal(shown[0], shown[1])
    assert [thumbnail_side(count) for count in (1, 2000, 1_000_000)] == [128, 77, 48]


def opened(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))))


@pytest.mark.parametrize("channels", [1, 3])
def test_sprites_hold_every_picture_at_its_place_over_several_sheets(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_page, "LARGEST_SHEET", 40)
    shades = torch.linspace(0, 1, 30).view(30, 1, 1, 1).expand(30, channels, 8, 10)
    found = sprites(shades)
    assert (found.width, found.height, found.columns, found.rows, len(found.sheets)) == (10, 8, 4, 5, 2)
    for i, shade in enumerate(shades):
        sheet, (row, column) = opened(found.sheets[i // 20]), divmod(i % 20, 4)
        tile = sheet[row * 8 : row * 8 + 8, column * 10 : column * 10 + 10]
        assert np.abs(tile[2:-2, 2:-2] / 255 - shade[0, 0, 0].item()).max() < (0.005 if channels == 1 else 0.05)


def test_large_pictures_and_rows_of_numbers_become_small_sprites() -> None:
    assert (sprites(torch.rand(3, 3, 200, 400)).width, sprites(torch.rand(3, 3, 200, 400)).height) == (128, 64)
    assert (sprites(torch.rand(3, 1, 1, 5000)).width, sprites(torch.rand(3, 1, 1, 5000)).height) == (128, 1)


# -------------------------------------------------------------------------------------------------- the figure, the page


def projection(**values) -> Projection:
    places = np.stack([np.linspace(0, 1, 6), np.linspace(0, 1, 6) ** 2], axis=1)
    shades = torch.linspace(0, 1, 6).view(6, 1, 1, 1).expand(6, 1, 8, 8).contiguous()
    return Projection("shades", shades, {"one": places, "other": places[:, ::-1]}, **values)


def test_pictures_with_names_are_drawn_at_their_places_and_never_upon_each_other() -> None:
    figure = projection_figure(projection(names=[f"{i}.png" for i in range(6)]))
    for axes in figure.axes:
        boxes = [a for a in axes.artists if type(a).__name__ == "AnnotationBbox"]
        assert 2 <= len(boxes) <= 6
        places = axes.transData.transform([box.xy for box in boxes])
        gaps = np.abs(places[:, None] - places[None]).max(axis=2)
        assert gaps[~np.eye(len(boxes), dtype=bool)].min() >= THUMBNAIL * figure.dpi - 1e-6


@pytest.mark.parametrize("classes", [[0, 0, 0, 1, 1, 1], [0] * 6], ids=["two classes", "one class only"])
def test_classes_have_colours_a_legend_and_their_names_on_the_map(classes: list[int]) -> None:
    figure = projection_figure(projection(classes=np.array(classes), class_names=("cost $5", "bright")))
    names = [r"cost \$5", "bright"][: len(set(classes))]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    assert [text.get_text() for text in figure.axes[0].texts] == names
    figure.savefig(io.BytesIO())


def test_a_class_in_two_parts_is_named_where_most_of_it_lies() -> None:
    x = np.concatenate([np.linspace(0, 0.1, 30), np.linspace(5, 5.1, 10)])
    places = np.stack([x, np.zeros(40)], axis=1)
    figure = projection_figure(Projection("x", images(40), {"one": places}, np.zeros(40, dtype=int), ("a",)))
    assert figure.axes[0].texts[0].get_position()[0] == pytest.approx(0.05)


def test_the_page_needs_nothing_else_and_no_name_ends_its_script() -> None:
    page = projection_page(projection(names=[HOSTILE] * 6))
    assert not re.search(r"(src|href)=[\"']|https?://|@import", page)
    assert page.count("</script>") == 2
    embedded = page.split('type="application/json">')[1].split("</script>")[0]
    assert not set("<>&") & set(embedded)
    data = json.loads(embedded)
    assert data["names"][0] == HOSTILE
    assert len(data["maps"][1]["places"]) == 12


def test_names_that_are_no_text_and_rows_stand_in_the_page_too() -> None:
    assert "\\udcff.png" in projection_page(projection(names=["\udcff.png"] * 6)).encode().decode()  # a byte that is no UTF-8
    assert '"row 50"' in projection_page(projection(rows=range(0, 60, 10)))


def test_a_page_of_as_many_digits_as_a_map_has_is_a_few_megabytes() -> None:
    from aecli.training.data import load_dataset

    digits = load_dataset("mnist").test.images[:1000].float() / 255
    assert len(projection_page(Projection("digits", digits, {"one": np.random.default_rng(0).random((1000, 2))}))) < 400_000


# ----------------------------------------------------------------------------------------------------------- the browser

FILLED = """(panel => {
  const c = document.querySelectorAll('figure canvas')[panel];
  const pixels = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let n = 0; for (let i = 3; i < pixels.length; i += 4) n += pixels[i] > 0; return n; })"""
TIP = """(() => {
  const tip = document.getElementById('tip'), c = tip.querySelector('canvas');
  const shade = c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data[0];
  return tip.hidden ? null : [tip.innerText.trim().split(/\\n+/), shade]; })()"""


def shown(browser: Browser, tmp_path: Path, **values) -> None:
    (tmp_path / "map.html").write_text(projection_page(projection(**values)))
    browser.open(tmp_path / "map.html")
    browser.wait("document.body.dataset.ready")
    browser.drawn()


@needs_browser
def test_in_a_browser_the_mouse_shows_the_picture_its_name_and_its_class(browser: Browser, tmp_path: Path) -> None:
    names = [*(f"{i}.png" for i in range(5)), HOSTILE]
    shown(browser, tmp_path, names=names, classes=np.array([0, 0, 0, 1, 1, 1]), class_names=("dark", "light"))
    assert browser.run("aecli.count") == 6
    assert browser.run(f"{FILLED}(0)") > 6 * 40 * 40
    for panel, i in ((0, 2), (1, 5)):
        browser.move(*browser.run(f"aecli.where({panel}, {i})"))
        text, shade = browser.run(TIP)
        assert text == [names[i], "light" if i > 2 else "dark"]
        assert shade == pytest.approx(255 * i / 5, abs=1)
    browser.move(5, 5)
    assert browser.run(TIP) is None
    assert (browser.run("document.title"), browser.errors) == ("shades", [])
    assert [url[:5] for url in browser.requests] == ["file:", "data:"]  # itself and its sheet


@needs_browser
def test_in_a_browser_hovering_marks_the_picture_on_all_maps(browser: Browser, tmp_path: Path) -> None:
    shown(browser, tmp_path, classes=np.zeros(6, dtype=int))
    before = browser.run(f"{FILLED}(1)")
    browser.move(*browser.run("aecli.where(0, 3)"))
    assert browser.run(TIP)[0] == ["row 3", "0"]
    assert browser.run(f"{FILLED}(1)") > before + 50  # a ring


@needs_browser
def test_in_a_browser_the_wheel_zooms_about_the_mouse_dragging_moves_and_a_double_click_resets(
    browser: Browser, tmp_path: Path
) -> None:
    shown(browser, tmp_path, classes=np.zeros(6, dtype=int))
    home, other = (np.array(browser.run(f"aecli.where({panel}, 4)")) for panel in (0, 1))
    mouse = np.array([200, 300])
    browser.wheel(*mouse.tolist(), by=-400)
    zoomed = mouse + np.e * (home - mouse)
    assert browser.run("aecli.where(0, 4)") == pytest.approx(zoomed, abs=0.5)
    browser.press(200, 300)
    browser.move(230, 310, held=True)
    browser.release(230, 310)
    assert browser.run("aecli.where(0, 4)") == pytest.approx(zoomed + np.array([30, 10]), abs=0.5)
    assert browser.run("aecli.where(1, 4)") == pytest.approx(other)  # each map has a zoom of its own
    browser.click(200, 300, times=2)
    assert browser.run("aecli.where(0, 4)") == pytest.approx(home)


@needs_browser
def test_in_a_browser_classes_go_and_come_back_and_keys_do_what_the_mouse_does(browser: Browser, tmp_path: Path) -> None:
    shown(browser, tmp_path, names=list("abcdef"), classes=np.array([0, 0, 0, 1, 1, 1]))
    before, home = browser.run(f"{FILLED}(0)"), browser.run("aecli.where(0, 1)")
    browser.run("document.querySelector('#legend button').focus()")
    browser.key("Enter")
    assert browser.run(f"{FILLED}(0)") < 0.7 * before
    browser.move(*home)
    assert browser.run(TIP) is None
    browser.key("Enter")
    assert browser.run(f"{FILLED}(0)") >= before
    browser.run("document.querySelector('figure canvas').focus()")
    browser.key("+")
    assert browser.run("aecli.where(0, 1)") != pytest.approx(home)
    browser.run("document.getElementById('reset').focus()")
    browser.key("Enter")
    assert browser.run("aecli.where(0, 1)") == pytest.approx(home)
    assert browser.run("aecli.thumbnails(0)") > 0
    browser.click(*browser.run("(r => [r.x + 5, r.y + 5])(document.getElementById('pictures').getBoundingClientRect())"))
    assert browser.run("aecli.thumbnails(0)") == 0


@needs_browser
def test_in_a_browser_the_page_is_dark_where_the_desktop_is(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "map.html").write_text(projection_page(projection(names=list("abcdef"))))
    corners = []
    for dark in (False, True):
        browser.open(tmp_path / "map.html", dark=dark)
        with Image.open(io.BytesIO(browser.screenshot())) as seen:
            corners.append(sum(seen.convert("RGB").getpixel((2, seen.height - 3))))
    assert corners[0] > 600 > 150 > corners[1]


# ------------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def aecli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `aecli project` in tmp_path."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["project", *map(str, arguments), "--threads", "1"])


def test_a_folder_of_a_few_pictures_trains_its_own_autoencoder_and_names_its_files(aecli, photo_folder, tmp_path) -> None:
    done = aecli(photo_folder, "--epochs", 2, "--resize", 8, "--json", "-o", "photos.png")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["points"], told["files"]) == (3, ["photos.png", "photos.html", "photos.safetensors"])
    page = (tmp_path / "photos.html").read_text()
    assert all(f"{name}.png" in page for name in ("arches", "colosseum", "skyline"))
    assert load_weights("photos.safetensors").card.resize == 8
    with Image.open("photos.png") as drawn:
        assert drawn.width > 800
    Path("photos.png").unlink()
    Path("photos.html").unlink()
    done = aecli(photo_folder, "-o", "photos.png")
    assert (done.exit_code, done.stderr) == (2, "aecli: photos.safetensors exists: pass --overwrite or another --output\n")


def test_patches_of_a_folder_have_a_map_as_well(aecli, photo_folder) -> None:
    saved(Path("w.safetensors"), tiny_dense(latent_dim=2, channels=3, height=16, width=16), "dense")
    done = aecli(photo_folder, "--patch-size", 16, "-w", "w.safetensors", "--points", 20, "--json")
    assert done.exit_code == 0, done.stderr
    assert (json.loads(done.stdout)["points"], "down" in Path("map.html").read_text()) == (20, True)


def test_wrong_usage_and_odd_data_are_a_sentence(aecli) -> None:
    np.save("x.npy", np.random.default_rng(0).random((20, 8, 8)))
    np.save("nan.npy", np.full((20, 8, 8), np.nan))
    np.save("one.npy", np.zeros((1, 8, 8)))
    saved(Path("w.safetensors"), tiny_dense(latent_dim=2), "dense")
    assert aecli("x.npy", "-w", "w.safetensors").exit_code == 0
    for arguments, status, sentence in (
        (("x.npy", "-w", "w.safetensors"), 2, "map.png exists: pass --overwrite"),
        (("x.npy", "-w", "w.safetensors", "-o", "map.svg"), 2, "map.html exists: pass --overwrite"),
        (("x.npy", "-w", "w.safetensors", "-o", "y.png", "--with", "isomap"), 2, "--with isomap is not known"),
        (("x.npy", "-w", "w.safetensors", "-o", "y.png", "--epochs", 1), 2, "--weights are trained already"),
        (("x.npy", "-w", "w.safetensors", "-o", "y.png", "--resize", 8), 2, "--resize is of use with a folder of pictures"),
        (("x.npy", "-o", "y.png", "--epochs", 1, "--minutes", 1), 2, "give one of --minutes and --epochs"),
        (("", "-o", "y.png"), 2, "--data is empty"),
        (("x.npy", "-w", "w.safetensors", "-o", "y.txt"), 2, "y.txt: a figure must end in .png"),
        (("-w", "w.safetensors", "-o", "y.png"), 2, "do not take the pictures of mnist"),
        (("nan.npy", "-w", "w.safetensors", "-o", "y.png"), 2, "holds NaN"),
        (("one.npy", "-w", "w.safetensors", "-o", "y.png"), 1, "a map takes 2 pictures or more"),
        (("one.npy", "-o", "y.png", "--quiet"), 1, "a map takes 2 pictures or more"),
        (("nowhere", "-w", "w.safetensors", "-o", "y.png"), 2, "nowhere is neither a data set"),
    ):
        done = aecli(*arguments)
        assert (done.exit_code, sentence in done.stderr, done.stderr.count("\n")) == (status, True, 1), done.stderr
        assert not Path("y.png").exists()


def test_as_a_process_it_says_what_it_has_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).random((20, 8, 8)), labels=["a"] * 20)
    saved(tmp_path / "w.safetensors", tiny_dense(latent_dim=2), "dense")
    command = [sys.executable, "-m", "aecli", "project", "x.npz", "-w", "w.safetensors", "--with", "pca", "--threads", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "20 pictures; written: map.png, map.html\n")


def test_the_first_classes_have_ten_colours_of_their_own() -> None:
    assert len({class_colour(index) for index in range(10)}) == 10
