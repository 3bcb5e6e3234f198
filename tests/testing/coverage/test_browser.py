"""The pages of coverage in a real browser: whole at every width, in light and dark, without a complaint."""

from dataclasses import replace
from pathlib import Path

from policyengine.source import Source, Span
from policyengine.testing.coverage import Coverage
from policyengine.testing.coverage.html import render_html
from tests.browser import Measurements, assert_whole, measured_together
from tests.chromium import Chromium
from tests.testing.coverage.seeing import coverage, guarded, written

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


def measurements(browser: Chromium, folder: Path) -> tuple[Coverage, list[Measurements]]:
    """What is covered, and what a browser finds in each page of it."""
    found = coverage(guarded("body.n > 5 and body.urgent" + ' and body.note != "x"' * 20), written(n="9"))
    render_html(renamed(found), folder / "pages")
    [file] = (folder / "pages").glob("*policy.html")
    pages = [page.read_text(encoding="utf-8") for page in (folder / "pages" / "index.html", file)]
    return found, measured_together(browser, pages, LOOK, folder)


def test_the_pages_render_without_overflow_or_errors_at_every_width(browser: Chromium, tmp_path: Path) -> None:
    found, [index, file] = measurements(browser, tmp_path)
    for page, notes in ((index, 0), (file, len(found.missing))):
        assert_whole(page)
        for one in (*page.light, *page.dark):
            assert one["list"] == len(found.missing)
            assert one["notes"] == notes
    assert [one["beside"] for one in (*file.light, *file.dark)] == [True, False, True, False]
    assert all(one["marks"] for one in (*file.light, *file.dark))
