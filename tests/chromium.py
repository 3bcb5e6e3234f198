"""A real browser that tests drive over a pipe: pages, forms, keys, and every complaint of the browser. All tests of a
worker share it (the fixtures `open_browser` and `browser`): its start takes longer than a page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
REBOUND = "rebound.example"  # leads to this machine, as if an attacker had changed the address of the name
OPTIONS = (
    *QUIET.split(),
    "--remote-debugging-pipe",
    "--no-proxy-server",
    f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1",
)
PATIENCE = 60


class Chromium:
    """One page of a browser. `complaints` are errors of scripts, refused resources and violations of the policy;
    `remarks` are all lines of the console, with the complaints."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._number, self._buffer = read, write, 0, b""
        self.complaints: list[str] = []
        self.remarks: list[str] = []
        self.loaded = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    # ── Messages ──────────────────────────────────────────────────────────────────────────────

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._read, 1 << 20)
            assert data, "the browser ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        match message.get("method"):
            case "Page.loadEventFired":
                self.loaded += 1
            case "Log.entryAdded":
                entry = message["params"]["entry"]
                self._note(f"{entry['text']} {entry.get('url', '')}", is_error=entry["level"] == "error")
            case "Runtime.consoleAPICalled":
                self._note(json.dumps(message["params"]["args"]), is_error=False)
            case "Runtime.exceptionThrown":
                self._note(json.dumps(message["params"]["exceptionDetails"]), is_error=True)
        return message

    def _note(self, text: str, *, is_error: bool) -> None:
        self.remarks.append(text)
        if is_error:
            self.complaints.append(text)

    # ── Pages ─────────────────────────────────────────────────────────────────────────────────

    def forget(self) -> None:
        """Forget all sites, and open an empty page in the usual window."""
        self.call("Network.clearBrowserCookies")
        self.call("Network.clearBrowserCache")
        self.open("about:blank")
        self.look()
        self.complaints.clear()
        self.remarks.clear()

    def open(self, url: str) -> None:
        """Open a page, and wait until it is loaded."""
        before = self.loaded
        failed = self.call("Page.navigate", url=url).get("errorText")
        if not failed:
            self.wait(before)

    def wait(self, before: int) -> None:
        until = time.monotonic() + PATIENCE
        while self.loaded == before:
            assert time.monotonic() < until, "the page was not loaded"
            self._receive()

    def js(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """Click something that leads to another page, and wait until that is loaded."""
        before = self.loaded
        self.js(f"document.querySelector({json.dumps(selector)}).click()")
        self.wait(before)

    def fill(self, selector: str, text: str) -> None:
        self.js(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(text)}")

    def key(self, name: str, code: int = 0, text: str = "") -> None:
        key = {"key": name, "windowsVirtualKeyCode": code, "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, windowsVirtualKeyCode=code)

    def until(self, condition: str) -> Any:
        """Wait until an expression is true."""
        poll = (
            "new Promise((yes, no) => { const end = Date.now() + 30000, look = () => { "
            f"const found = {condition}; "
            "if (found) yes(found); else if (Date.now() > end) no('never'); else setTimeout(look, 20); }; look(); })"
        )
        return self.js(poll)

    @property
    def url(self) -> str:
        return str(self.js("location.href"))

    @property
    def text(self) -> str:
        return str(self.js("document.body.innerText"))

    def look(self, width: int = 1280, dark: bool = False, height: int = 900) -> None:
        """Set the width of the window, and whether the page is dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def picture(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(b64decode(data))


@contextmanager
def chromium(folder: Path) -> Iterator[Chromium]:
    if BROWSER is None:
        pytest.skip("chromium is missing: apt install chromium")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    def give() -> None:
        """Give the pipes the numbers 3 and 4, which the browser uses. First, each gets a free number above them."""
        first, second = fcntl(theirs_in, F_DUPFD_CLOEXEC, 10), fcntl(theirs_out, F_DUPFD_CLOEXEC, 10)
        os.dup2(first, 3, inheritable=True)
        os.dup2(second, 4, inheritable=True)

    command = [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        command, preexec_fn=give, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Chromium(ours_in, ours_out)
    finally:
        os.close(ours_out)
        process.kill()
        process.wait()
        os.close(ours_in)
