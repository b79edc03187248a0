"""Maps: every picture has its place, the page shows the right one under the mouse, and odd data make a map or a sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import found_in, needs_browser
from conftest import saved, tiny_dense
from PIL import Image

from aecli.errors import AecliError, UsageError
from aecli.plots import projection_figure, projection_page
from aecli.projection import Projection, check_methods, in_unit_square, map_with
from aecli.training.arrays import Collection

HOSTILE = "</script><script>document.title='broken'</script>.png"


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


@pytest.mark.parametrize("x", [torch.full((5, 1, 8, 8), 0.5), images(3)], ids=["constant", "three"])
def test_odd_sets_of_pictures_have_maps_too(x) -> None:
    for places in map_with(tiny_dense(latent_dim=2), "two", x, ["pca", "tsne"], 0).values():
        assert in_unit_square(places).shape == (len(x), 2)
        assert np.isfinite(in_unit_square(places)).all()


def test_what_makes_no_map_is_a_sentence() -> None:
    with pytest.raises(AecliError, match=r"^2 pictures make no map: give 3 or more"):
        map_with(tiny_dense(), "x", images(2), [], 0)
    with pytest.raises(UsageError, match=r"^--with isomap is not known: give some of pca, tsne, umap"):
        check_methods(["pca", "isomap"])


def test_places_are_fitted_into_the_unit_square_with_their_proportions() -> None:
    square = in_unit_square(np.array([[0.0, 0.0], [4.0, 2.0], [2.0, 1.0]]))
    assert np.allclose(square, [[0, 0.25], [1, 0.75], [0.5, 0.5]])


def test_a_collection_is_thinned_evenly_with_its_names_and_classes() -> None:
    whole = Collection("x", images(10), torch.arange(10), tuple("abcdefghij"), tuple("ABCDEFGHIJ"))
    thin = whole.at_most(4)
    assert thin.names == ("A", "D", "G", "J")
    assert thin.classes is not None
    assert thin.classes.tolist() == [0, 3, 6, 9]
    assert torch.equal(thin.unit_images(), whole.images[[0, 3, 6, 9]])


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
        assert gaps[~np.eye(len(boxes), dtype=bool)].min() >= 0.36 * figure.dpi - 1e-6


def test_the_page_needs_nothing_else_and_no_name_ends_its_script() -> None:
    page = projection_page(projection(names=[HOSTILE] * 6))
    assert not re.search(r"(src|href)=|https?://|@import", page)
    assert page.count("</script>") == 2
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert data["names"][0] == HOSTILE
    assert len(data["maps"][1]["places"]) == 6


@needs_browser
def test_in_a_browser_the_points_are_there_and_the_mouse_shows_the_picture_and_its_name(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(5)] + [HOSTILE]
    classes = np.array([0, 0, 0, 1, 1, 1])
    (tmp_path / "map.html").write_text(projection_page(projection(names=names, classes=classes, class_names=("dark", "light"))))
    found = found_in(
        tmp_path / "map.html",
        """
        const filled = panel => {
          const c = panel.canvas, pixels = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
          let n = 0; for (let i = 3; i < pixels.length; i += 4) n += pixels[i] > 0; return n;
        };
        const hover = (panel, i) => {
          const box = panel.canvas.getBoundingClientRect(), [x, y] = toScreen(panel, panel.places[i]);
          const at = { clientX: box.left + x, clientY: box.top + y, bubbles: true };
          panel.canvas.dispatchEvent(new PointerEvent("pointermove", at));
          const shade = tip.querySelector("canvas").getContext("2d").getImageData(70, 70, 1, 1).data[0];
          return { shown: getComputedStyle(tip).display, text: tip.querySelector("span").textContent, shade };
        };
        const before = filled(panels[0]), first = hover(panels[0], 2), last = hover(panels[1], 5);
        panels[0].canvas.dispatchEvent(new PointerEvent("pointerleave", { bubbles: true }));
        const away = getComputedStyle(tip).display;
        document.querySelector("#legend button").click();
        const without = filled(panels[0]), hiddenOne = hover(panels[0], 2).shown, box = panels[0].canvas.getBoundingClientRect();
        panels[0].canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -400, clientX: box.left + 5, clientY: box.top + 5 }));
        const zoomed = panels[0].zoom; document.getElementById("reset").click();
        return { panels: panels.length, before, first, last, away, without, hiddenOne, zoomed, reset: panels[0].zoom,
                 title: document.title };
        """,
    )
    assert "error" not in found, found
    assert (found["panels"], found["title"]) == (2, "shades")
    assert found["before"] > 6 * 40 * 40
    assert found["first"] == {"shown": "block", "text": "2.png · dark", "shade": pytest.approx(102, abs=2)}
    assert found["last"] == {"shown": "block", "text": f"{HOSTILE} · light", "shade": pytest.approx(255, abs=2)}
    assert (found["away"], found["hiddenOne"]) == ("none", "none")
    assert found["without"] < 0.7 * found["before"]
    assert found["zoomed"] == pytest.approx(np.e)
    assert found["reset"] == 1


# ------------------------------------------------------------------------------------------------------------- the command


def aecli(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aecli", "project", *map(str, arguments), "--threads", "1"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_a_folder_of_a_few_pictures_trains_its_own_autoencoder_and_names_its_files(photo_folder: Path, tmp_path: Path) -> None:
    done = aecli(photo_folder, "--minutes", 0.02, "--resize", 8, "--json", "-o", "photos.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["points"] == 3
    page = (tmp_path / "photos.html").read_text()
    assert all(f"{name}.png" in page for name in ("arches", "colosseum", "skyline"))
    assert (tmp_path / "photos.safetensors").exists()
    with Image.open(tmp_path / "photos.png") as drawn:
        assert drawn.width > 800


def test_wrong_usage_and_odd_data_are_a_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 8, 8)))
    np.save(tmp_path / "nan.npy", np.full((20, 8, 8), np.nan))
    saved(tmp_path / "w.safetensors", tiny_dense(latent_dim=2), "dense")
    assert aecli("x.npy", "-w", "w.safetensors", cwd=tmp_path).returncode == 0
    for arguments, status, sentence in (
        (("x.npy", "-w", "w.safetensors"), 2, "map.png exists: pass --overwrite"),
        (("x.npy", "-w", "w.safetensors", "-o", "y.png", "--with", "isomap"), 2, "--with isomap is not known"),
        (("-w", "w.safetensors", "-o", "y.png"), 2, "do not take the pictures of mnist"),
        (("nan.npy", "-w", "w.safetensors", "-o", "y.png"), 2, "holds NaN"),
        (("nowhere", "-w", "w.safetensors", "-o", "y.png"), 2, "nowhere is neither a data set"),
    ):
        done = aecli(*arguments, cwd=tmp_path)
        assert (done.returncode, sentence in done.stderr) == (status, True), done.stderr
        assert "Traceback" not in done.stderr
