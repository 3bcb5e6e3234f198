"""What is wrong with rates and budgets, or could be safer: conditions, places, keys, and the store."""

import pytest

from policyengine.semantics.check import check_text, lint_text

BASE = "anyone { may GET /a }\n"
HINTED = 'rate "calls" per {} {{ 100/1m }}\n'


def told(text, find=check_text):
    return [(one.code, one.message, one.span.text) for one in find(BASE + text)]


@pytest.mark.parametrize("word", ["rate", "budget"])
def test_a_limit_that_can_never_act_is_an_error(word):
    items = "5/1m" if word == "rate" else "count <= 5 within 1m"
    (found,) = told(f'{word} "calls" per request.ip when 1 == 2 {{ {items} }}')
    assert found == ("E702", f"this `{word}` never acts: its condition is always false", "1 == 2")


def test_a_raise_that_can_never_act_is_an_error():
    found = told(
        'rate "calls" per request.ip { 5/1m  raise x2 at most 9/1m when request.size > 5 and request.size < 3 }'
    )
    assert [one[:2] for one in found] == [("E701", "this `raise` never acts: its condition is never true")]


def test_a_clamp_that_can_never_act_is_an_error():
    found = told('rate "calls" per request.ip { 5/1m  clamp 1/1m when 1 == 2 }')
    assert [one[:2] for one in found] == [("E702", "this `clamp` never acts: its condition is always false")]


def test_a_clamp_that_acts_on_unknown_facts_alone_is_told():
    found = told('rate "calls" per request.ip { 5/1m  clamp 1/1m when request.size > 5 and request.size < 3 }')
    assert [one[0] for one in found] == ["W702"]


def test_a_limit_that_always_acts_needs_no_condition():
    assert [one[0] for one in told('rate "calls" per request.ip when 1 == 1 { 5/1m }')] == ["W703"]


def test_conditions_that_decide_are_not_told():
    text = 'rate "calls" per request.ip when request.size > 5 { 5/1m  clamp 1/1m when request.size > 9 }'
    assert told(text) == []


@pytest.mark.parametrize(
    "limit",
    ['rate "calls" per request.ip on {} {{ 5/1m }}', 'budget "calls" per request.ip on {} {{ count <= 5 within 1m }}'],
)
def test_a_limit_where_no_door_opens_is_told(limit):
    assert told(limit.format("/b")) == [("W521", "no door opens anything at `/b`", "/b")]
    assert told(limit.format("/a")) == []


KEYS = {
    "request.host": True,
    "request.ip": False,
    "agent.id": False,
    "(agent.id, request.host)": False,
    "(request.host, request.path)": True,
}


@pytest.mark.parametrize(("key", "found"), KEYS.items())
def test_a_count_that_the_caller_chooses_is_told(key, found):
    assert [one[0] for one in told(HINTED.format(key), lint_text)] == ["W555"] * found


def test_a_count_by_a_fact_of_the_body_is_told():
    text = 'facts on /a { body.card: string }\nrate "calls" per body.card on /a { 5/1m }'
    assert [one[::2] for one in told(text, lint_text)] == [("W555", "body.card")]


def test_a_limit_that_opens_while_the_store_is_down_is_told():
    text = 'rate "calls" per request.ip {{ 5/1m  on store failure {} }}'
    assert [one[0] for one in told(text.format("allow"), lint_text)] == ["W556"]
    assert told(text.format("local"), lint_text) == []


def test_a_name_that_only_a_limit_uses_is_used():
    text = (
        "let most = 5\ndefine busy = request.size > 9\n"
        'budget "calls" per request.ip { count <= most within 1m }\n'
        'rate "slow" per request.ip { 5/1m  clamp 1/1m when busy }\n'
    )
    assert told(text) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('guard "a" { deny when cluster.size > 3 }', "E515"),
        ('guard "a" { require cluster.id == "x" }', "E515"),
        ("anyone { may GET /b when cluster.size < 3 }", "E415"),
        ("anyone { may GET /b when behavior.trust > 0.9 }", "E415"),
    ],
)
def test_learned_facts_are_refused_where_the_language_forbids_them(text, code):
    assert any(one[0].startswith(code) for one in told(text)), told(text)
