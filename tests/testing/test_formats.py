"""Reports for other programs, read back as those programs read them."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from policyengine.testing.report import RunReport
from policyengine.testing.report_formats import render_github, render_junit, render_tap
from tests.testing.running import report

TEXT = """package shop
anyone { may GET /a }
guard "small" on GET /a { deny when request.size > 9 message "too <large> & %0A: # much" }
test "sizes, <all> of 100%" {
  GET /a { request.size: 5 }  => allow
  GET /a { request.size: 10 } => allow
}
test "later" { skip "not # now" GET /a => deny }
entity user { tenant: string }
test "odd" { GET /a { user.tenant: "" } => allow }
"""


@pytest.fixture(scope="module")
def found() -> RunReport:
    return report(TEXT)


def test_junit_has_a_suite_for_each_test_and_a_case_for_each_request(found: RunReport) -> None:
    root = ElementTree.fromstring(render_junit(found))
    suites = [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in root]
    assert suites == [("shop: sizes, <all> of 100%", "2", "1"), ("shop: later", "1", "0"), ("shop: odd", "1", "0")]
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == ("4", "1", "1", "1")


def test_junit_reports_the_place_and_reason_of_each_failure(found: RunReport) -> None:
    root = ElementTree.fromstring(render_junit(found))
    case = root[0][1]
    assert (case.get("name"), case.get("file"), case.get("line")) == (
        "2 GET /a { request.size: 10 } => allow", "0.policy", "6",
    )  # fmt: skip
    [failure] = case
    assert failure.get("message") == 'expected allow, but it resulted in deny by guard "small"'
    assert failure.text == found.results[1].render()
    assert [(one.tag, one.get("message")) for one in (root[1][0][0], root[2][0][0])] == [
        ("skipped", "not # now"),
        ("error", "`user.tenant` is given, but there is no user"),
    ]


def test_junit_takes_times_from_the_run(found: RunReport) -> None:
    root = ElementTree.fromstring(render_junit(found))
    assert all(float(case.get("time") or 0) > 0 for case in root.iter("testcase") if case.find("skipped") is None)
    assert float(root.get("time") or 0) == pytest.approx(sum(one.seconds for one in found.results), abs=1e-5)


def test_junit_escapes_characters_that_xml_forbids(found: RunReport) -> None:
    first = found.results[0]
    odd = replace(first, case=replace(first.case, test="a\x01b\ufffe\ud800\U0001f600"))
    root = ElementTree.fromstring(render_junit(RunReport((odd,))).encode())
    assert root[0].get("name") == "shop: a\\x01b\\ufffe\\ud800\U0001f600"


def test_tap_numbers_all_cases_and_marks_failed_and_skipped_ones(found: RunReport) -> None:
    lines = render_tap(found).splitlines()
    assert lines[:2] == ["TAP version 14", "1..4"]
    numbered = [line for line in lines if re.match(r"(not )?ok \d", line)]
    assert numbered == [
        "ok 1 - shop: sizes, <all> of 100%: 1 GET /a { request.size: 5 } => allow",
        "not ok 2 - shop: sizes, <all> of 100%: 2 GET /a { request.size: 10 } => allow",
        "ok 3 - shop: later: 1 GET /a => deny # SKIP not \\# now",
        'not ok 4 - shop: odd: 1 GET /a { user.tenant: "" } => allow',
    ]
    assert lines[4:7] == ["  ---", "  at: 0.policy:6", "  message: |"]


def test_github_annotates_the_lines_of_failed_cases(found: RunReport) -> None:
    first, second, summary = render_github(found).splitlines()
    assert first.startswith(
        "::error file=0.policy,line=6,col=3,title=test sizes%2C <all> of 100%25::0.policy:6:3: failed"
    )
    assert "too <large> & %250A: # much" in first
    assert "%0A    GET /a { request.size: 10 } => allow%0A" in first
    assert second.startswith("::error file=0.policy,line=10,")
    assert summary == "1 passed, 1 failed, 1 errored, 1 skipped"
