"""The pictures of docs/ are well-formed, fetch nothing, have colors for dark pages, and hold their text."""

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import pytest

from tests import browser

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


@cache
def measured(dark: bool) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """What a browser, started once for all pictures, finds in each of them; and what it complains of."""
    pages = [f"<!doctype html><body>{picture_of(name)}</body>" for name in NAMES]
    with TemporaryDirectory() as folder:
        found, complaints = browser.measured_together(pages, STICKS_OUT, Path(folder), dark)
    return dict(zip(NAMES, found, strict=True)), complaints


def test_a_picture_is_well_formed_and_has_a_title(picture: str) -> None:
    title = ElementTree.fromstring(picture).find(f"{SVG}title")
    assert title is not None
    assert title.text


def test_a_picture_has_colors_for_dark_pages_and_fetches_nothing(picture: str) -> None:
    assert "prefers-color-scheme: dark" in picture
    assert not re.search(r"href|url\(", picture)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_of_a_picture_fits_its_box(name: str, dark: bool) -> None:
    found, complaints = measured(dark)
    assert [frame["out"] for frame in found[name]] == [[], []]
    assert complaints == ""


def test_every_picture_is_on_a_page() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md")]
    assert [name for name in NAMES if not any(f"{name}.svg)" in page for page in pages)] == []
