"""Coverage as text, and as data for programs."""

import json

import pytest

from policyengine.source import Source, Span
from policyengine.testing.coverage import Coverage, CoverageCount, Point, PointKind, merge_coverage
from policyengine.testing.coverage.text import render_text
from tests.testing.coverage.seeing import BASE, DOORS, coverage, coverage_of, guarded, written
from tests.testing.running import checked

FOUND = coverage(guarded("body.n > 5 and body.urgent"), written(n="9"))


def test_the_text_report_shows_totals_and_annotates_lines() -> None:
    lines = render_text(FOUND).split("\n")
    assert lines[:11] == [
        "coverage 47.6 %: 10 of 21 covered, 11 missing",
        "",
        "  rules                 2/3   66.6 %",
        "  conditions            3/9   33.3 %",
        "  guards                1/2   50.0 %",
        "  requirements          2/4   50.0 %",
        "  endpoints             2/3   66.6 %",
        "",
        "  0.policy            10/21   47.6 %",
        "",
        "0.policy: 11 missing",
    ]
    line = lines.index('  17 | guard "g" on write { deny when body.n > 5 and body.urgent }')
    assert lines[line + 1 : line + 4] == [
        "     | ^^^^^^^^^",
        "     |   guard `g` never stopped a request",
        "     |                      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
    ]


def test_a_fully_covered_line_is_not_shown() -> None:
    assert "issuer acme" not in render_text(FOUND)


def test_the_text_report_of_full_coverage_shows_no_lines() -> None:
    found = coverage("anyone { may GET /health }", "GET /health => allow")
    assert render_text(found).startswith("coverage 100 %: 2 of 2 covered\n")
    assert "|" not in render_text(found)
    assert render_text(merge_coverage([])) == "coverage 100 %: 0 of 0 covered\n\n"


def test_coloured_text_adds_only_colours() -> None:
    coloured = render_text(FOUND, colour=True)
    assert "\x1b[" in coloured
    bare = coloured
    for style in ("[1m", "[31m", "[32m", "[33m", "[2m", "[0m"):
        bare = bare.replace(f"\x1b{style}", "")
    assert bare == render_text(FOUND)


def test_the_text_report_escapes_terminal_control_characters() -> None:
    span = Span(Source("a\x1b[31m\u202e.policy", "x\u202e\x1b[2J y"), 0, 6)
    shown = render_text(Coverage((Point(PointKind.RULES, "x", "acted", span, "`x\x1b[2J` never acted"),), {}))
    assert all(char.isprintable() or char == "\n" for char in shown)


@pytest.mark.parametrize(
    ("seen", "total_", "percent"),
    [(0, 0, "100 %"), (0, 3, "0.0 %"), (2, 3, "66.6 %"), (9999, 10000, "99.9 %"), (3, 3, "100 %")],
)
def test_a_share_is_never_rounded_up(seen: int, total_: int, percent: str) -> None:
    assert CoverageCount(seen, total_).percent == percent


def test_the_json_report_has_counts_and_the_place_of_every_missing_point() -> None:
    data = json.loads(json.dumps(FOUND.to_dict()))
    assert (data["seen"], data["total"]) == (FOUND.count.seen, FOUND.count.total)
    assert data["fraction"] == FOUND.fraction
    assert sum(kind["total"] for kind in data["kinds"].values()) == data["total"]
    assert data["files"]["0.policy"]["seen"] == data["seen"]
    assert len(data["missing"]) == data["total"] - data["seen"]
    assert {
        "kind": "conditions", "seen": "true", "words": "`body.urgent` was never true",
        "file": "0.policy", "line": 17, "column": 47, "end_line": 17, "end_column": 58,
    } in data["missing"]  # fmt: skip


def test_a_file_with_only_tests_has_no_coverage_points() -> None:
    found = coverage_of(checked(BASE + DOORS, 'test "u" { use office GET /docs/1 => allow }'))
    assert [source.name for source in found.files] == ["0.policy"]
