"""A headless Chromium, driven over the DevTools protocol: what a page does, seen by opening it.

    @needs_browser
    def test_…(browser):  # the fixture of conftest.py
        browser.open(path)
        assert browser.run("document.title") == "digits"
        browser.move(120, 80)  # the mouse, as a hand moves it

The protocol is spoken over two pipes (--remote-debugging-pipe), so nothing but Chromium itself is needed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PATIENCE = 60.0  # seconds: the machine may be busy
# Chromium reads its commands from descriptor 3 and answers on 4; dash cannot renumber descriptors above 9, so Python does.
LAUNCH = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One tab. `requests`: the addresses that pages asked for; `errors`: what went wrong in their scripts."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._last = 0
        self._received = b""
        self._session: str | None = None
        self._loaded = False
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol and its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._last:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            assert select.select([self._answers], [], [], PATIENCE)[0], "Chromium does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, "Chromium has ended"
            self._received += part
        line, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        parameters = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            case "Page.javascriptDialogOpening":
                self.errors.append(f"the page opened a dialog: {parameters['message']}")
        return message

    def open(self, page: Path, *, width: int = 1000, height: int = 700, dark: bool = False) -> None:
        """Load a file, in a window of this size, and wait until it is there."""
        self.requests, self.errors, self._loaded = [], [], False
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.absolute().as_uri())
        while not self._loaded:
            self._receive()

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it comes to."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"it never came to {condition}"
            time.sleep(0.02)

    def drawn(self) -> None:
        """Wait until what was asked to be drawn has been."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")

    def move(self, x: float, y: float, *, held: bool = False) -> None:
        """Move the mouse there, with its left button down or not."""
        self._mouse("mouseMoved", x, y, buttons=int(held), button="left" if held else "none")

    def press(self, x: float, y: float, *, clicks: int = 1) -> None:
        """Put the left button down."""
        self._mouse("mousePressed", x, y, button="left", buttons=1, clickCount=clicks)

    def release(self, x: float, y: float, *, clicks: int = 1) -> None:
        """Let it go."""
        self._mouse("mouseReleased", x, y, button="left", clickCount=clicks)

    def click(self, x: float, y: float, *, times: int = 1) -> None:
        """Click there, once or twice."""
        for click in range(1, times + 1):
            self.press(x, y, clicks=click)
            self.release(x, y, clicks=click)
        self.drawn()

    def wheel(self, x: float, y: float, by: float) -> None:
        """Turn the wheel there, by so many pixels, downwards if positive."""
        self._mouse("mouseWheel", x, y, deltaX=0, deltaY=by)

    def _mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
        self.drawn()

    def key(self, key: str) -> None:
        """Press a key and let it go: `Tab`, `Enter`, `+`."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = {"Tab": 9, "Enter": 13}.get(key, ord(key[0]))
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.drawn()

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def running(profile: Path) -> Iterator[Browser]:
    """Start Chromium, with a profile of its own in an empty folder, and end it."""
    (their_read, commands), (answers, their_write) = os.pipe(), os.pipe()
    options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run", "--disable-gpu"]
    options += ["--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars", "--force-color-profile=srgb"]
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(their_read), str(their_write), str(CHROMIUM), *options],
        pass_fds=(their_read, their_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_read)
    os.close(their_write)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)  # Chromium ends when nobody can command it any more
        os.close(answers)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def found_in(page: Path, script: str) -> Any:
    """What the body of a JavaScript function, run when the page has loaded, returns (or throws, as {"error": …})."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, running(Path(profile)) as browser:
        browser.open(page)
        browser.run("new Promise(done => setTimeout(done, 500))")  # pictures come after the page
        return browser.run(f"(() => {{ try {{ {script} }} catch (error) {{ return {{ error: String(error) }} }} }})()")
