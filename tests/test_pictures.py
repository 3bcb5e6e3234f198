"""The pictures of docs/ are well-formed, fetch nothing, have colors for dark pages, and hold their text."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.browser import measured_together
from tests.chromium import Chromium

DOCS = Path(__file__).parents[1] / "docs"
NAMES = ("pipeline", "gates", "chain", "doors", "decide", "kinds", "program")
SVG = "{http://www.w3.org/2000/svg}"
# Each text that leaves the picture, or lies partly inside and partly outside of a rectangle.
STICKS_OUT = """{out: all("text").map(text => [text.textContent, text.getBBox()]).filter(([, t]) =>
  t.x < 0 || t.x + t.width > page.querySelector("svg").viewBox.baseVal.width ||
  all("rect").map(rect => rect.getBBox()).some(r => {
    const apart = t.x >= r.x + r.width || t.x + t.width <= r.x || t.y >= r.y + r.height || t.y + t.height <= r.y;
    const across = t.x >= r.x + 3 && t.x + t.width <= r.x + r.width - 3;
    const inside = across && t.y >= r.y && t.y + t.height <= r.y + r.height;
    return !apart && !inside;
  })).map(([text]) => text)}"""


def picture_of(name: str) -> str:
    return (DOCS / f"{name}.svg").read_text(encoding="utf-8")


@pytest.fixture(params=NAMES)
def picture(request: pytest.FixtureRequest) -> str:
    return picture_of(request.param)


def test_a_picture_is_well_formed_and_has_a_title(picture: str) -> None:
    title = ElementTree.fromstring(picture).find(f"{SVG}title")
    assert title is not None
    assert title.text


def test_a_picture_has_colors_for_dark_pages_and_fetches_nothing(picture: str) -> None:
    assert "prefers-color-scheme: dark" in picture
    assert not re.search(r"href|url\(", picture)


def test_every_text_of_a_picture_fits_its_box(browser: Chromium, tmp_path: Path) -> None:
    pages = [f"<!doctype html><body>{picture_of(name)}</body>" for name in NAMES]
    found = measured_together(browser, pages, STICKS_OUT, tmp_path)
    outside = {name: [one["out"] for one in (*page.light, *page.dark)] for name, page in zip(NAMES, found, strict=True)}
    assert outside == {name: [[], [], [], []] for name in NAMES}
    assert browser.remarks == []


def test_every_picture_is_on_a_page() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md")]
    assert [name for name in NAMES if not any(f"{name}.svg)" in page for page in pages)] == []
