"""What was played, as text, SVG, HTML and data: the same numbers, and nothing that a policy says is more than text."""

import json
import re
from xml.etree import ElementTree

import pytest

from policyengine.simulation import html, svg, text
from tests.simulation.playing import MAIL, POLICY, SEARCH, SECOND, flow, plan, played

ODD = POLICY.replace('rate "searches"', 'rate "<script>alert(1)</script> & ]]>"')


@pytest.fixture
def found():
    return played(flow("steady", plan(rate=10, seconds=120), SEARCH, MAIL), width=10 * SECOND)


def test_the_text_has_a_line_for_each_outcome_and_each_limit(found):
    told = text.render_text(found, 60)
    whole = found.total
    assert f"  {whole.allow:,}\n" in told
    assert f"  {whole.throttle:,}\n" in told
    assert 'rate "searches": 60/1m burst 5  (policy.policy:10)' in told
    assert 'budget "mail": count <= 3 within 1h  (policy.policy:11)' in told
    assert "at least 0 of 3" in told
    assert "agent worker" in told


def test_ascii_output_is_ascii(found):
    assert text.render_text(found, 60, ascii=True).isascii()


@pytest.mark.parametrize("columns", [1, 5, 7, 60])
def test_no_chart_line_is_wider_than_its_columns(found, columns):
    wide = {len(row.blocks) for row in text.chart_rows(found, columns) if row.blocks}
    assert wide == {text.column_count(found, columns)}
    assert max(wide) <= columns


def test_a_bar_shows_even_a_single_request(found):
    assert text.bars([0, 1, 1_000], 1_000, text.BLOCKS) == " ▁█"


def test_remaining_levels_are_drawn_empty_full_or_blank():
    assert text.levels([0, 1, None], text.BLOCKS) == "▁█ "


def test_the_report_notes_a_policy_without_limits():
    bare = "\n".join(line for line in POLICY.splitlines() if not line.startswith(("rate", "budget")))
    assert "note: the policy has no rates and no budgets" in text.render_text(played(flow("steady", plan()), bare), 60)


def test_the_report_notes_limits_that_apply_to_no_request():
    bare = "\n".join(line for line in POLICY.splitlines() if not line.startswith("rate"))
    told = text.render_text(played(flow("steady", plan()), bare), 60)
    assert "note: no rate and no budget applies to any of these requests" in told


def test_the_svg_has_a_title_and_a_text_description(found):
    root = ElementTree.fromstring(svg.render_svg(found))
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title").text == found.title
    assert "at least 0 of 3 left" in root.find(f"{space}desc").text
    assert {one.get("class") for one in root.iter(f"{space}path")} >= {"admitted", "throttled", "left"}


@pytest.mark.parametrize("render", [svg.render_svg, html.render_html])
def test_rule_names_are_escaped_in_svg_and_html(render):
    drawn = render(played(flow("steady", plan(rate=10)), ODD))
    assert "<script" not in drawn
    assert "&lt;script&gt;" in drawn


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0"), (9_999, "9,999"), (10_000, "10k"), (123_456, "123k"), (23_456_789, "23M")]
)
def test_a_large_number_is_shortened_for_the_chart(count, told):
    assert svg.short_count(count) == told


def test_the_page_loads_no_external_resources(found):
    drawn = html.render_html(found)
    assert "default-src 'none'" in drawn
    assert not re.search(r"(?:src|href)=", drawn)


def test_the_page_has_all_numbers_in_tables(found):
    drawn = html.render_html(found)
    assert drawn.count('<th scope="row">2027-01-01T00:') == len(found.slots)
    assert '<td class="number">0 of 3</td>' in drawn


def test_the_json_data_has_the_documented_members(found):
    data = json.loads(json.dumps(found.to_dict()))
    assert list(data) == [
        *["revision", "played", "start", "every_ms", "events", "failures", "outcomes", "limits", "callers", "series"]
    ]
    assert (data["start"], data["every_ms"], data["events"]) == ("2027-01-01T00:00:00Z", 10_000, 1_200)
    assert sum(data["outcomes"].values()) == data["events"]
    assert [one["at"] for one in data["series"]][:2] == ["2027-01-01T00:00:00Z", "2027-01-01T00:00:10Z"]
    mail = next(one for one in data["limits"] if one["rule"] == "mail")
    assert (mail["kind"], mail["admitted"], mail["remaining"], mail["limit"]) == ("budget", 3, 0, 3)
    assert sum(one["limits"]["mail"]["throttled"] for one in data["series"]) == mail["throttled"]
