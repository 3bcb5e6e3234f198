"""The pages of coverage in a real browser: whole at every width, in light and dark, without a complaint."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from policyengine.source import Source, Span
from policyengine.testing.coverage import Coverage
from policyengine.testing.coverage.html import render_html
from tests.browser import Seen, assert_whole, measured_together
from tests.testing.coverage.seeing import coverage, guarded, written

PAGES = ("index.html", "file.html")
LOOK = """{
  marks: all("mark").length, notes: all(".note").length, list: all("ul.missing a").length,
  beside: page.querySelector("aside") && box(page.querySelector("aside")).left > 400,
}"""


def renamed(found: Coverage) -> Coverage:
    """In a file with a long name, which has to break somewhere."""
    text = found.points[0].span.source.text
    source = Source("policies/with_a_name_that_is_longer_than_a_phone_is_wide_and_then_some/0.policy", text)
    moved = [replace(point, span=Span(source, point.span.start, point.span.end)) for point in found.points]
    return replace(found, points=tuple(moved))


@cache
def measured(dark: bool) -> tuple[Coverage, dict[str, Seen], str]:
    """What is covered, what a browser, started once, finds in each page of it, and what it complains of."""
    found = coverage(guarded("body.n > 5 and body.urgent" + ' and body.note != "x"' * 20), written(n="9"))
    with TemporaryDirectory() as name:
        folder = Path(name)
        render_html(renamed(found), folder / "pages")
        [file] = (folder / "pages").glob("*policy.html")
        pages = [page.read_text(encoding="utf-8") for page in (folder / "pages" / "index.html", file)]
        seen, complaints = measured_together(pages, LOOK, folder, dark)
    return found, dict(zip(PAGES, seen, strict=True)), complaints


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_renders_without_overflow_or_errors_at_every_width(name: str, dark: bool) -> None:
    found, pages, complaints = measured(dark)
    seen = pages[name]
    assert_whole(seen, complaints, dark)
    for one in seen:
        assert one["list"] == len(found.missing)
        assert one["notes"] == (0 if name == "index.html" else len(found.missing))
    if name != "index.html":
        assert [one["beside"] for one in seen] == [True, False]
        assert all(one["marks"] for one in seen)
