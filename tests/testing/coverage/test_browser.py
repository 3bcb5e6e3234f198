"""The pages of coverage in a real browser: whole at every width, in light and dark, without a complaint."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from policyengine.source import Source, Span
from policyengine.testing.coverage import Coverage
from policyengine.testing.coverage.html import render_html
from tests.testing.coverage.seeing import coverage, guarded, written

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=5000"
)
WIDTHS = (1280, 400)
# A page around the pages, each in a frame of some width: only it runs something, to measure what is in the frames.
MEASURE = """<!doctype html><body>{frames}<pre id="out"></pre><script>
onload = () => {{
  const seen = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, style = one => frame.contentWindow.getComputedStyle(page.querySelector(one));
    const wide = [...page.querySelectorAll("body *:not(.skip)")]
      .filter(one => one.getBoundingClientRect().right > frame.clientWidth).map(one => one.outerHTML.slice(0, 80));
    return {{width: frame.clientWidth, scroll: page.documentElement.scrollWidth, wide,
      paper: style("body").backgroundColor, ink: style("body").color, marks: page.querySelectorAll("mark").length,
      notes: page.querySelectorAll(".note").length, list: page.querySelectorAll("ul.missing a").length,
      beside: page.querySelector("aside") && page.querySelector("aside").getBoundingClientRect().left > 400}};
  }});
  document.getElementById("out").textContent = JSON.stringify(seen);
}};</script></body>"""


def measured(page: Path, folder: Path, dark: bool) -> tuple[list[dict[str, Any]], str]:
    """What a browser makes of a page in frames of all widths, and what it complains of."""
    if BROWSER is None:
        pytest.skip("no browser here to look with: apt install chromium")
    text = escape(page.read_text(encoding="utf-8"))
    frames = "".join(
        f'<iframe srcdoc="{text}" style="width:{width}px;height:900px;border:0"></iframe>' for width in WIDTHS
    )
    around = folder / "around.html"
    around.write_text(MEASURE.format(frames=frames), encoding="utf-8")
    options = [*QUIET.split(), f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1400,1000"]
    command = [BROWSER, *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", around.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    return json.loads(unescape(found[1])), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def renamed(found: Coverage) -> Coverage:
    """In a file with a long name, which has to break somewhere."""
    text = found.points[0].span.source.text
    source = Source("policies/with_a_name_that_is_longer_than_a_phone_is_wide_and_then_some/0.policy", text)
    moved = [replace(point, span=Span(source, point.span.start, point.span.end)) for point in found.points]
    return replace(found, points=tuple(moved))


def brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "file.html"])
def test_a_page_is_whole_at_every_width(name: str, dark: bool, tmp_path: Path) -> None:
    found = coverage(guarded("body.n > 5 and body.urgent" + ' and body.note != "x"' * 20), written(n="9"))
    render_html(renamed(found), tmp_path / "pages")
    [page] = (tmp_path / "pages").glob("index.html" if name == "index.html" else "*policy.html")
    seen, complaints = measured(page, tmp_path, dark)
    assert complaints == ""
    assert [one["width"] for one in seen] == list(WIDTHS)
    for one in seen:
        assert one["wide"] == []
        assert one["scroll"] <= one["width"]
        assert (brightness(one["paper"]) < brightness(one["ink"])) == dark
        assert one["list"] == len(found.missing)
        assert one["notes"] == (0 if name == "index.html" else len(found.missing))
    if name != "index.html":
        assert [one["beside"] for one in seen] == [True, False]
        assert all(one["marks"] for one in seen)
