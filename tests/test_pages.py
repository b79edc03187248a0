"""The page of a run: every file is there with its figures, and a slider uncovers what was done to it."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import found_in, needs_browser
from PIL import Image

from aecli.images import from_array
from aecli.pages import MOST_PICTURES, Report, Row, preview


def picture_in(url: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")))) as image:
        return np.array(image)


def rows_of(page: str) -> list[dict[str, object]]:
    return list(json.loads(page.split('type="application/json">')[1].split("</script>")[0])["rows"])


def test_a_preview_is_the_middle_of_a_picture_pixel_for_pixel() -> None:
    pixels = np.zeros((1000, 1640, 1), np.uint8)
    pixels[260:740, 500:1140] = 200
    assert picture_in(preview(from_array(pixels))).shape == (480, 640, 3)
    assert abs(picture_in(preview(from_array(pixels))).astype(int) - 200).max() <= 1
    small = np.full((3, 5, 3), 7, np.uint8)
    assert picture_in(preview(from_array(small))).shape == (3, 5, 3)


def test_beyond_two_hundred_files_only_figures_are_kept() -> None:
    report = Report("many")
    for index in range(MOST_PICTURES + 5):
        report.add(Row(f"{index}.png", "done", [], "b", "a"))
    rows = rows_of(report.page())
    assert len(rows) == MOST_PICTURES + 5
    assert [bool(row["after"]) for row in rows] == [True] * MOST_PICTURES + [False] * 5


@needs_browser
def test_in_a_browser_the_slider_uncovers_the_result_and_names_do_no_harm(tmp_path: Path) -> None:
    dark, bright = (preview(from_array(np.full((40, 60, 3), shade, np.uint8))) for shade in (0, 255))
    report = Report("two files")
    hostile = "</script><img src=x onerror=document.title='broken'>.png"
    report.add(Row(hostile, "done", [("sigma", "25")], dark, bright))
    report.add(Row("bad.png", "failed", [("failed", "bad.png is empty")]))
    (tmp_path / "r.html").write_text(report.page(), encoding="utf-8")
    found = found_in(
        tmp_path / "r.html",
        """
        const box = document.querySelector(".compare"), slider = box.querySelector("input"), after = box.querySelector(".after");
        const clip = () => getComputedStyle(after).clipPath, loaded = [...box.querySelectorAll("img")].map(i => i.naturalWidth);
        const before = clip();
        slider.value = 20; slider.dispatchEvent(new Event("input"));
        return { loaded, before, later: clip(), names: [...document.querySelectorAll("h2")].map(e => e.textContent),
                 title: document.title, failed: document.querySelector(".failed dd").textContent,
                 summary: document.getElementById("summary").textContent };
        """,
    )
    assert found == {
        "loaded": [60, 60],
        "before": "inset(0px 0px 0px 50%)",
        "later": "inset(0px 0px 0px 20%)",
        "names": [hostile, "bad.png"],
        "title": "two files",
        "failed": "bad.png is empty",
        "summary": "1 done, 1 failed",
    }


def aecli(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "aecli", *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(("command", "weights"), [("denoise", "tiny-denoiser"), ("encode", "tiny-codec")])
def test_a_run_leaves_its_page_and_the_previews_stay_out_of_the_json(
    command, weights, weights_folder, photo_folder, tmp_path
) -> None:
    (photo_folder / "empty.png").touch()
    path = weights_folder / f"{weights}.safetensors"
    done = aecli(command, photo_folder, "-o", "out/", "-w", path, "--report", "r.html", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "preview" not in done.stdout
    rows = rows_of((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert [row["status"] for row in rows] == ["done", "done", "failed", "done"]
    before = picture_in(str(rows[0]["before"]))
    with Image.open(photo_folder / "arches.png") as image:
        assert abs(before.astype(int) - np.array(image)).mean() < 3
    assert picture_in(str(rows[0]["after"])).shape == before.shape
    again = aecli(command, photo_folder, "-o", "out2/", "-w", path, "--report", "r.html", cwd=tmp_path)
    assert (again.returncode, "r.html exists: pass --overwrite" in again.stderr) == (2, True)
    assert not (tmp_path / "out2").exists()
