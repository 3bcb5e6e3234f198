"""The pages of coverage in a real browser: whole at every width, in light and dark, without a complaint."""

from dataclasses import replace
from pathlib import Path

import pytest

from policyengine.source import Source, Span
from policyengine.testing.coverage import Coverage
from policyengine.testing.coverage.html import render_html
from tests.browser import assert_whole, measured
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


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "file.html"])
def test_a_page_is_whole_at_every_width(name: str, dark: bool, tmp_path: Path) -> None:
    found = coverage(guarded("body.n > 5 and body.urgent" + ' and body.note != "x"' * 20), written(n="9"))
    render_html(renamed(found), tmp_path / "pages")
    [page] = (tmp_path / "pages").glob("index.html" if name == "index.html" else "*policy.html")
    seen, complaints = measured(page.read_text(encoding="utf-8"), LOOK, tmp_path, dark)
    assert_whole(seen, complaints, dark)
    for one in seen:
        assert one["list"] == len(found.missing)
        assert one["notes"] == (0 if name == "index.html" else len(found.missing))
    if name != "index.html":
        assert [one["beside"] for one in seen] == [True, False]
        assert all(one["marks"] for one in seen)
