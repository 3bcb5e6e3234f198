"""Two policies that differ in a rate or budget are never the same, and what lets more through widens."""

import pytest

from policyengine.analysis import compare
from policyengine.analysis.diff.render import render_markdown, render_text
from tests.spec.deciding import kernel

BASE = """
language 1
package shop
facts on /pay { body.amount: number  body.tokens: number }
anyone { may POST /pay, GET /pay }
"""
RATE = 'rate "calls" per request.ip on /pay {{ {} }}'
BUDGET = 'budget "spent" per request.ip on /pay {{ {} }}'


def diff(old: str, new: str, *, reasons: bool = False):
    return compare(kernel(BASE + old), kernel(BASE + new), reasons=reasons)


def told(old: str, new: str) -> str:
    (one,) = diff(old, new).limits
    return f"{one.direction}: {one.verb}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("per (request.ip, request.host) on /pay { 10/1m }", "per (request.host, request.ip) on /pay { 10/1m }"),
        ("per request.ip on /pay, TOOL x { 10/1m }", "per request.ip on TOOL x, /pay { 10/1m }"),
        (
            "per request.ip on /pay except /pay/a, /pay/b { 10/1m }",
            "per request.ip on /pay except /pay/b, /pay/a { 10/1m }",
        ),
        (
            "per request.ip on /pay { 10/1m clamp 1/1m when request.size > 9 clamp 2/1m when request.size > 5 }",
            "per request.ip on /pay { 10/1m clamp 2/1m when request.size > 5 clamp 1/1m when request.size > 9 }",
        ),
    ],
)
def test_reordered_parts_of_a_limit_make_no_difference(old: str, new: str) -> None:
    assert not diff(f'rate "calls" {old}', f'rate "calls" {new}').limits


@pytest.mark.parametrize(
    ("old", "new", "told_as"),
    [
        ("10/1m", "5/1m", "narrowing: tighter"),
        ("10/1m", "20/1m", "widening: looser"),
        ("10/1m", "10/2m", "narrowing: tighter"),
        ("10/1m burst 5", "10/1m burst 3", "narrowing: tighter"),
        ("10/1m burst 5", "20/1m burst 3", "changed: changed"),
        ("10/1m", "20/2m", "widening: looser"),
        ("10/1m", "10/1m counting denials", "narrowing: tighter"),
        ("10/1m", "10/1m on store failure allow", "widening: looser"),
        ("10/1m on store failure allow", "10/1m on store failure local", "narrowing: tighter"),
        ("10/1m", "10/1m clamp 1/1m when request.size > 9", "narrowing: tighter"),
        ("10/1m clamp 1/1m when request.size > 9", "10/1m clamp 1/1m when request.size > 8", "changed: changed"),
        ("10/1m", "10/1m raise x2 at most 20/1m when request.size > 9", "widening: looser"),
        ("10/1m", "10/1m cost body.tokens", "changed: changed"),
        ("10/1m", "10/1m at most 3 at once", "narrowing: tighter"),
        ("at most 3 at once", "at most 4 at once", "widening: looser"),
        ("at most 3 at once for 5m", "at most 3 at once for 1m", "widening: looser"),
    ],
)
def test_a_changed_rate_is_reported_as_looser_or_tighter(old, new, told_as):
    assert told(RATE.format(old), RATE.format(new)) == told_as


@pytest.mark.parametrize(
    ("old", "new", "told_as"),
    [
        ("count <= 5 within 1h", "count <= 4 within 1h", "narrowing: tighter"),
        ("count <= 5 within 1h", "count <= 5 within 30m", "widening: looser"),
        ("count <= 5 within 1h", "count <= 4 within 30m", "changed: changed"),
        ("count <= 5 within 1h", "count <= 5 within 1h sum body.amount <= 9 within 1h", "narrowing: tighter"),
        ("sum body.amount <= 9 within 1h", "sum body.amount <= 9.5 within 1h", "widening: looser"),
        ("sum body.amount <= 9 within 1h", "count <= 9 within 1h", "changed: changed"),
    ],
)
def test_a_changed_budget_is_reported_as_looser_or_tighter(old, new, told_as):
    assert told(BUDGET.format(old), BUDGET.format(new)) == told_as


@pytest.mark.parametrize(
    ("old", "new", "told_as"),
    [
        ("per request.ip on /pay", "per request.ip", "narrowing: tighter"),
        ("per request.ip", "per request.ip on /pay", "widening: looser"),
        ("per request.ip on GET /pay", "per request.ip on POST /pay", "changed: changed"),
        ("per request.ip", "per request.host", "changed: changed"),
        ("per request.ip", "per request.ip when request.size > 9", "widening: looser"),
        ("per request.ip when request.size > 9", "per request.ip", "narrowing: tighter"),
        ("per request.ip when request.size > 9", "per request.ip when request.size > 8", "changed: changed"),
    ],
)
def test_a_limit_with_changed_endpoints_is_reported_as_looser_or_tighter(old, new, told_as):
    assert told(f'rate "calls" {old} {{ 5/1m }}', f'rate "calls" {new} {{ 5/1m }}') == told_as


def test_a_removed_limit_widens_and_an_added_limit_narrows():
    limit = RATE.format("5/1m")
    assert (told(limit, ""), told("", limit)) == ("widening: removed", "narrowing: added")
    assert (diff(limit, "").widens, diff("", limit).widens) == (True, False)


def test_a_rate_that_becomes_a_budget_is_removed_and_added():
    found = diff(RATE.format("5/1m"), BUDGET.format("count <= 5 within 1m"))
    assert [one.verb for one in found.limits] == ["removed", "added"]
    assert found.widens


def test_an_uncertain_limit_change_counts_as_widening():
    assert diff(RATE.format("10/1m"), RATE.format("10/1m cost body.tokens")).widens


def test_equal_limits_in_another_notation_are_the_same():
    found = diff(
        BUDGET.format("sum body.amount <= 5_000 within 60m"), BUDGET.format("sum body.amount\n<= 5000 within 1h")
    )
    assert not found.differs
    assert not found.limits


def test_a_renamed_limit_is_reported_only_when_comparing_reasons():
    old, new = RATE.format("5/1m"), RATE.format("5/1m").replace("calls", "requests")
    assert not diff(old, new).limits
    (one,) = diff(old, new, reasons=True).limits
    assert (one.verb, one.old.name, one.new.name) == ("renamed", 'rate "calls"', 'rate "requests"')


def test_the_text_report_shows_the_old_and_the_new_limit():
    shown = render_text(diff(RATE.format("10/1m burst 4"), RATE.format("20/1m burst 4")))
    assert shown.splitlines() == [
        'widening: rate "calls" is looser',
        '  - 0.policy:6: rate "calls": per request.ip on /pay: 10/1m burst 4',
        '  + 0.policy:6: rate "calls": per request.ip on /pay: 20/1m burst 4',
        "",
        "1 changed limit; everything else is proved equal",
    ]


def test_a_limit_name_cannot_break_out_of_the_markdown_block():
    shown = render_markdown(diff("", 'rate "a </details> `b`" per request.ip { 5/1m }'))
    assert "narrowing: rate" in shown
    assert "</details>" not in shown.split("```diff")[0]
    assert "```diff\n+ 0.policy:6: rate" in shown


def test_the_json_report_contains_each_changed_limit():
    found = diff(RATE.format("5/1m"), "").to_dict()
    assert (found["same"], found["widens"]) == (False, True)
    assert found["limits"] == [
        {
            "direction": "widening",
            "change": "removed",
            "old": {"rule": 'rate "calls"', "at": "0.policy:6", "text": "per request.ip on /pay: 5/1m"},
            "new": None,
        }
    ]
