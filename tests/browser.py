"""Opens a page in a real browser without a window, and tells what a script found there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def found_in(page: Path, script: str) -> Any:
    """What the body of a JavaScript function, run when the page has loaded, returns (or throws, as {"error": …})."""
    probe = f"""<script>addEventListener("load", () => setTimeout(() => {{
        let found; try {{ found = (() => {{ {script} }})() }} catch (error) {{ found = {{error: String(error)}} }}
        const pre = document.createElement("pre");
        pre.id = "found"; pre.textContent = JSON.stringify(found);
        document.body.append(pre);
    }}, 500))</script>"""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(page.read_text(encoding="utf-8").replace("</body>", probe + "</body>"), encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,700", "--virtual-time-budget=4000"]
        command = [str(CHROMIUM), *options, f"--user-data-dir={folder}/profile", "--dump-dom", copy.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    answer = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert answer, done.stderr[-2000:]
    return json.loads(unescape(answer[1]))
