"""The page in a real browser: whole at every width, in light and dark, without a complaint."""

from pathlib import Path

import pytest

from policyengine.simulation import html
from tests.browser import WIDTHS, assert_whole, brightness, measured
from tests.chromium import Chromium
from tests.simulation.playing import MAIL, POLICY, SEARCH, flow, plan, played

LONG = "a_rate_whose_name_is_longer_than_a_phone_is_wide_and_then_some_more_of_it_" * 2
LOOK = """(() => {
  const boxes = all("figure").map(figure => [...figure.querySelectorAll("text")].map(box).filter(one => one.width));
  const over = boxes.flatMap(several => several.flatMap((a, i) => several.slice(i + 1).filter(
    b => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)));
  const cut = all("figure").flatMap(figure => [...figure.querySelectorAll("text")]
    .filter(one => box(one).width && box(one).left < box(figure).left - 1).map(one => one.textContent));
  return {cut, over: over.length, letters: style(".title").fill,
    figures: all("figure svg").length, rows: all("details tbody tr").length};
})()"""


def test_the_page_renders_without_overflow_or_errors_at_every_width(browser: Chromium, tmp_path: Path) -> None:
    found = played(
        flow("runaway", plan(rate=4, seconds=150), SEARCH, MAIL),
        POLICY.replace('"searches"', f'"{LONG}"').replace("60/1m burst 5", "600000/1d burst 5000"),
    )
    page = measured(browser, html.render_html(found), LOOK, tmp_path)
    assert_whole(page)
    assert all(brightness(one["paper"]) > brightness(one["letters"]) for one in page.light)
    assert all(brightness(one["paper"]) < brightness(one["letters"]) for one in page.dark)
    for one in (*page.light, *page.dark):
        assert one["over"] == 0
        assert one["cut"] == []
        assert one["figures"] == 1 + len(found.limits)
        assert one["rows"] == len(found.slots)


@pytest.mark.parametrize(
    ("part", "remark"),
    [
        ("<p>a", None),
        ("<script>undefined_function()</script>", "undefined_function is not defined"),
        ("<script>console.log('a note')</script>", "a note"),
        ("""<meta http-equiv="content-security-policy" content="img-src 'none'"><img src="data:,">""", "img-src"),
    ],
)
def test_what_a_page_writes_to_the_console_is_found(
    browser: Chromium, tmp_path: Path, part: str, remark: str | None
) -> None:
    found = measured(browser, f"<!doctype html>{part}", "{}", tmp_path)
    assert [remark in one for one in found.complaints] == [True] * (remark is not None) * len(WIDTHS)


def test_what_is_too_wide_is_found(browser: Chromium, tmp_path: Path) -> None:
    found = measured(browser, '<!doctype html><p style="width:600px">a', "{}", tmp_path)
    assert [len(one["wide"]) for one in (*found.light, *found.dark)] == [0, 1, 0, 1]
