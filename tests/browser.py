"""A page in a real browser, in light and dark mode, in frames of several widths: its content and its errors."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=5000"
)
WIDTHS = (1280, 400)
# An outer page with the page in a frame of each width: only its script runs, to measure the frames.
MEASURE = """<!doctype html><body>FRAMES<pre id="out"></pre><script>
onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, style = one => frame.contentWindow.getComputedStyle(page.querySelector(one));
    const all = one => [...page.querySelectorAll(one)], box = one => one.getBoundingClientRect();
    const wide = all("body *:not(.skip):not(svg *)")
      .filter(one => box(one).right > frame.clientWidth).map(one => one.outerHTML.slice(0, 80));
    return {width: frame.clientWidth, scroll: page.documentElement.scrollWidth, wide,
      paper: style("body").backgroundColor, ink: style("body").color, ...(LOOK)};
  });
  document.getElementById("out").textContent = JSON.stringify(seen);
};</script></body>"""
Seen = list[dict[str, Any]]


def shown(url: str, folder: Path, *options: str) -> str:
    """Return the page as HTML, after its scripts have run and its requests were answered, and the browser's errors from
    stderr."""
    if BROWSER is None:
        pytest.skip("chromium is missing: apt install chromium")
    command = [BROWSER, *QUIET.split(), *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False).stdout


def measured(page: str, look: str, folder: Path, dark: bool) -> tuple[Seen, str]:
    """Return measurements of a page at all widths, and its errors. `look` is a JavaScript object of further
    measurements; it may use `page`, `style`, `all` and `box`."""
    [seen], complaints = measured_together([page], look, folder, dark)
    return seen, complaints


def measured_together(pages: Sequence[str], look: str, folder: Path, dark: bool) -> tuple[list[Seen], str]:
    """Return the same for several pages, for which the browser starts once: that takes longer than a page."""
    if BROWSER is None:
        pytest.skip("chromium is missing: apt install chromium")
    frames = "".join(
        f'<iframe srcdoc="{escape(page)}" style="width:{width}px;height:900px;border:0"></iframe>'
        for page in pages
        for width in WIDTHS
    )
    around = folder / "around.html"
    around.write_text(MEASURE.replace("LOOK", look).replace("FRAMES", frames), encoding="utf-8")
    options = [*QUIET.split(), f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1400,1000"]
    command = [BROWSER, *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", around.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    seen: Seen = json.loads(unescape(found[1]))
    assert len(seen) == len(pages) * len(WIDTHS)
    by_page = [seen[start : start + len(WIDTHS)] for start in range(0, len(seen), len(WIDTHS))]
    return by_page, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def assert_whole(seen: Seen, complaints: str, dark: bool) -> None:
    """Assert that nothing overflows at any width, that the requested colors are used, and that there are no errors."""
    assert complaints == ""
    assert [one["width"] for one in seen] == list(WIDTHS)
    for one in seen:
        assert one["wide"] == []
        assert one["scroll"] <= one["width"]
        assert (brightness(one["paper"]) < brightness(one["ink"])) == dark


def brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))
