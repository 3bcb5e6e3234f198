"""The page in a real browser: whole at every width, in light and dark, without a complaint."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from policyengine.simulation import html
from tests.simulation.playing import MAIL, POLICY, SEARCH, flow, plan, played

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=5000"
)
WIDTHS = (1280, 400)
LONG = "a_rate_whose_name_is_longer_than_a_phone_is_wide_and_then_some_more_of_it_" * 2
# A page around the page, in a frame of each width: only it runs something, to measure what is in the frames.
MEASURE = """<!doctype html><body>{frames}<pre id="out"></pre><script>
onload = () => {{
  const seen = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, style = one => frame.contentWindow.getComputedStyle(page.querySelector(one));
    const wide = [...page.querySelectorAll("body *:not(svg *)")]
      .filter(one => one.getBoundingClientRect().right > frame.clientWidth).map(one => one.outerHTML.slice(0, 80));
    const boxes = [...page.querySelectorAll("figure")].map(figure => [...figure.querySelectorAll("text")]
      .map(one => one.getBoundingClientRect()).filter(box => box.width));
    const over = boxes.flatMap(several => several.flatMap((a, i) => several.slice(i + 1).filter(
      b => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)));
    const cut = [...page.querySelectorAll("figure")].flatMap(figure => [...figure.querySelectorAll("text")]
      .filter(one => one.getBoundingClientRect().width)
      .filter(one => one.getBoundingClientRect().left < figure.getBoundingClientRect().left - 1)
      .map(one => one.textContent));
    return {{cut, width: frame.clientWidth, scroll: page.documentElement.scrollWidth, wide, over: over.length,
      paper: style("body").backgroundColor, ink: style("body").color, letters: style(".title").fill,
      figures: page.querySelectorAll("figure svg").length, rows: page.querySelectorAll("details tbody tr").length}};
  }});
  document.getElementById("out").textContent = JSON.stringify(seen);
}};</script></body>"""


def measured(page: str, folder: Path, dark: bool) -> tuple[list[dict[str, Any]], str]:
    """What a browser makes of the page at all widths, and what it complains of."""
    if BROWSER is None:
        pytest.skip("no browser here to look with: apt install chromium")
    frames = "".join(
        f'<iframe srcdoc="{escape(page)}" style="width:{width}px;height:900px;border:0"></iframe>' for width in WIDTHS
    )
    around = folder / "around.html"
    around.write_text(MEASURE.format(frames=frames), encoding="utf-8")
    options = [*QUIET.split(), f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1400,1000"]
    command = [BROWSER, *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", around.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    return json.loads(unescape(found[1])), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_is_whole_at_every_width(dark: bool, tmp_path: Path) -> None:
    found = played(
        flow("runaway", plan(rate=4, seconds=600), SEARCH, MAIL),
        POLICY.replace('"searches"', f'"{LONG}"').replace("60/1m burst 5", "600000/1d burst 5000"),
    )
    seen, complaints = measured(html.render(found), tmp_path, dark)
    assert complaints == ""
    assert [one["width"] for one in seen] == list(WIDTHS)
    for one in seen:
        assert one["wide"] == []
        assert one["over"] == 0
        assert one["cut"] == []
        assert one["scroll"] <= one["width"]
        assert (brightness(one["paper"]) < brightness(one["ink"])) == dark
        assert (brightness(one["paper"]) < brightness(one["letters"])) == dark
        assert one["figures"] == 1 + len(found.limits)
        assert one["rows"] == len(found.slots)
