"""A page in a real browser, in light and dark mode, in frames of several widths: its content and its errors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from tests.chromium import Chromium

WIDTHS = (1280, 400)
# In a page with the measured pages in frames of each width.
MEASURE = """[...document.querySelectorAll("iframe")].map(frame => {
  const page = frame.contentDocument, style = one => frame.contentWindow.getComputedStyle(page.querySelector(one));
  const all = one => [...page.querySelectorAll(one)], box = one => one.getBoundingClientRect();
  const wide = all("body *:not(.skip):not(svg *)")
    .filter(one => box(one).right > frame.clientWidth).map(one => one.outerHTML.slice(0, 80));
  return {width: frame.clientWidth, scroll: page.documentElement.scrollWidth, wide,
    paper: style("body").backgroundColor, ink: style("body").color, ...(LOOK)};
})"""
Seen = list[dict[str, Any]]


@dataclass
class Measurements:
    """What the browser finds in a page, at each width, and what it writes to its console."""

    light: Seen
    dark: Seen
    complaints: list[str]

    def of(self, dark: bool) -> Seen:
        return self.dark if dark else self.light


def measured(browser: Chromium, page: str, look: str, folder: Path) -> Measurements:
    """Return measurements of a page at all widths, and its errors. `look` is a JavaScript object of further
    measurements; it may use `page`, `style`, `all` and `box`."""
    [found] = measured_together(browser, [page], look, folder)
    return found


def measured_together(browser: Chromium, pages: Sequence[str], look: str, folder: Path) -> list[Measurements]:
    """Return the same for several pages, which the browser loads together."""
    frames = "".join(
        f'<iframe srcdoc="{escape(page)}" style="width:{width}px;height:900px;border:0"></iframe>'
        for page in pages
        for width in WIDTHS
    )
    around = folder / "around.html"
    around.write_text(f"<!doctype html><meta charset=utf-8><body>{frames}</body>", encoding="utf-8")
    browser.look(1400, height=1000)
    browser.open(around.as_uri())
    light = by_page(browser.js(MEASURE.replace("LOOK", look)), len(pages))
    browser.look(1400, dark=True, height=1000)
    dark = by_page(browser.js(MEASURE.replace("LOOK", look)), len(pages))
    return [Measurements(*both, browser.remarks) for both in zip(light, dark, strict=True)]


def by_page(seen: Seen, pages: int) -> list[Seen]:
    assert len(seen) == pages * len(WIDTHS)
    return [seen[start : start + len(WIDTHS)] for start in range(0, len(seen), len(WIDTHS))]


def assert_whole(found: Measurements) -> None:
    """Assert that nothing overflows at any width, that each scheme has its colors, and that there are no errors."""
    assert found.complaints == []
    for dark in (False, True):
        assert [one["width"] for one in found.of(dark)] == list(WIDTHS)
        for one in found.of(dark):
            assert one["wide"] == []
            assert one["scroll"] <= one["width"]
            assert (brightness(one["paper"]) < brightness(one["ink"])) == dark


def brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))
